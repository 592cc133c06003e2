//! What a WebDAV `Destination` may mean (RFC 4918 §10.3).
//!
//! A service writes to it by its own reading, which nothing here can know: one takes the path whatever the host, one leaves
//! the query out, one takes `//b` for a path and not for a host. So the answer is all targets that it may be taken for. One
//! too many makes for a conflict that need not be; one too few loses an update. The host is never asked, for this reason:
//! a service that is known by several names does not ask it, either.

use std::fmt::Write;

use super::resource::{Target, TargetError, percent_decoded};

/// The targets that services may take a `Destination` for, in a request for the canonical path `base`.
///
/// # Errors
///
/// It can't be read as a target at all, or is one that services read in so many ways that they can't be listed.
pub fn readings(destination: &[u8], base: &str) -> Result<Vec<Target>, TargetError> {
    let stray = destination.iter().find(|byte| byte.is_ascii_control() || **byte == b'\\');
    if let Some(stray) = stray {
        return Err(TargetError::Byte(*stray));
    }
    let written = escaped(destination, b"");
    let whole = references(&written).flat_map(|reference| targets(&reference, base));
    let mut readings = whole.collect::<Result<Vec<_>, _>>()?;
    if written.contains('%') {
        // Some decode it first, and then see a query or a host.
        let decoded = escaped(&percent_decoded(written.as_bytes()), b"%");
        readings.extend(references(&decoded).flat_map(|reference| targets(&reference, base)).flatten());
    }
    let mut distinct: Vec<Target> = Vec::with_capacity(readings.len());
    for target in readings {
        if !distinct.contains(&target) {
            distinct.push(target);
        }
    }
    Ok(distinct)
}

/// What may be meant by the reference: all of it, or what stands before a `#`.
fn references(written: &str) -> impl Iterator<Item = String> {
    let before = written.split_once('#').map(|(before, _)| before.to_owned());
    before.into_iter().chain([written.replace('#', "%23")])
}

/// With its query, and without.
fn targets(reference: &str, base: &str) -> Vec<Result<Target, TargetError>> {
    let mut targets = Vec::new();
    for path in paths(reference, base) {
        let (path, query) = path.split_once('?').map_or((&*path, None), |(path, query)| (path, Some(query)));
        let path = if path.is_empty() { base } else { path };
        targets.push(Target::parse(path, None));
        targets.extend(query.map(|query| Target::parse(path, Some(query))));
    }
    targets
}

/// What may be the path and query.
fn paths(reference: &str, base: &str) -> Vec<String> {
    let folder = base.rfind('/').map_or("/", |slash| &base[..=slash]);
    let relative = |to: &str| [format!("{folder}{to}"), format!("/{to}")];
    let absolute = reference.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).map(|(_, after)| after);
    let after = absolute.unwrap_or(reference);
    let mut paths = Vec::new();
    if let Some(host) = after.strip_prefix("//") {
        paths.push(behind_host(host));
    } else if after.is_empty() || after.starts_with(['/', '?']) {
        paths.push(after.to_owned());
    } else {
        paths.extend(relative(after));
    }
    if absolute.is_some() || after.starts_with("//") {
        // Browsers take a host behind any number of slashes.
        paths.push(behind_host(after.trim_start_matches('/')));
    }
    if absolute.is_none() && after.starts_with("//") {
        paths.push(reference.to_owned());
    }
    if absolute.is_some() && !after.starts_with('/') {
        // A name with a colon in it.
        paths.extend(relative(reference));
    }
    paths
}

/// RFC 3986 §3.1.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn behind_host(text: &str) -> String {
    let rest = text.find(['/', '?']).map_or("", |end| &text[end..]);
    if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") }
}

/// What can't stand in a target as it is, and these bytes, as escapes.
fn escaped(text: &[u8], these: &[u8]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_graphic() && !b"\"<>\\".contains(byte) && !these.contains(byte) {
            escaped.push(char::from(*byte));
        } else {
            write!(escaped, "%{byte:02X}").expect("a string takes all");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(destination: &[u8]) -> Vec<String> {
        let readings = readings(destination, "/folder/note").expect("a destination");
        readings.iter().map(|target| target.as_path_and_query().to_string()).collect()
    }

    #[test]
    fn a_destination_means_whatever_a_service_may_take_it_for() {
        for (destination, expected) in [
            (&b"/b"[..], &["/b"][..]),
            (b"http://notes.example/b", &["/b"]),
            (b"HTTPS://u:p@other:9/x/../b", &["/b"]),
            (b"http://h", &["/"]),
            (b"http:///b/c", &["/b/c", "/c"]),
            (b"//b", &["/", "//b"]),
            (b"///b/c", &["/b/c", "/c", "///b/c"]),
            (b"//h/b", &["/b", "//h/b"]),
            (b"/b?x=1", &["/b", "/b?x=1"]),
            (b"http://h?x", &["/", "/?x"]),
            (b"/b?a b", &["/b", "/b?a%20b"]),
            (b"/b?\xE9", &["/b", "/b?%E9"]),
            (b"/caf\xE9b", &["/caf%E9b"]),
            ("/café".as_bytes(), &["/caf%C3%A9"]),
            (b"/a b", &["/a%20b"]),
            (b"/b#f", &["/b", "/b%23f"]),
            (b"/b%3Fx", &["/b%3Fx", "/b", "/b?x"]),
            (b"/100%25", &["/100%25"]),
            (b"http%3A%2F%2Fh%2Fb", &["/folder/http%3A%2F%2Fh%2Fb", "/http%3A%2F%2Fh%2Fb", "/b"]),
            (b"b", &["/folder/b", "/b"]),
            (b"../b", &["/b"]),
            (b"http:/b/c", &["/b/c", "/c"]),
            (b"a:b", &["/folder/b", "/b", "/", "/folder/a:b", "/a:b"]),
            (b"", &["/folder/note"]),
            (b"?x", &["/folder/note", "/folder/note?x"]),
        ] {
            assert_eq!(read(destination), expected, "{:?}", destination.escape_ascii().to_string());
        }
    }

    #[test]
    fn what_services_read_in_too_many_ways_is_no_destination() {
        for destination in
            [&b"/x\\..\\b"[..], b"http://h\\b", b"/b\tc", b"/b%zz", b"/b%00", b"/%C0%AFb", b"/x%2F..%2Fb"]
        {
            let error = readings(destination, "/note").is_err();
            assert!(error, "{:?}", destination.escape_ascii().to_string());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_too_odd_to_be_read(destination in prop::collection::vec(prop::sample::select(&b"/:?#%2Fhb.;@\\ \xE9"[..]), 0..16)) {
            if let Ok(readings) = readings(&destination, "/folder/note") {
                prop_assert!(!readings.is_empty() && readings.len() <= 40);
            }
        }
    }
}
