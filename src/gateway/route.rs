//! Which resource a request names, and which route it takes.

use http::{
    Version,
    header::{CONTENT_LENGTH, CONTENT_LOCATION, HOST, LOCATION, TRANSFER_ENCODING},
    uri::Authority,
};

use super::{Exchange, answer::Failure};
use crate::{
    config::Route,
    core::{
        fields::Fields,
        message::request::Parts,
        resource::{Key, Target, TargetError, names_host, same_host},
        value::{FieldValue, Value},
    },
};

/// The host that the client asked: the target's own where it has one (RFC 9112 §3.2.2, RFC 9113 §8.3.1), else `Host`.
/// Empty where an HTTP/1.0 client names none. A `Host` that differs gives way in HTTP/1.1, where RFC 9112 says so; in HTTP/2
/// nobody has a reason to send one.
pub(super) fn asked_host(head: &Parts) -> Result<FieldValue, Failure> {
    let mut lines = head.headers.get_all(HOST);
    let field = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(only), None) if is_host(only.as_bytes()) => Some(FieldValue::from(only)),
        (Some(_), _) => return Err(Failure::Host),
    };
    let own = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let own = own.map(|own| FieldValue::from_bytes(own).ok().filter(|_| is_host(own)).ok_or(Failure::Host));
    let own = own.transpose()?;
    match (own, field) {
        (Some(own), Some(field)) if head.version >= Version::HTTP_2 => {
            let text = |host: &FieldValue| host.to_str().map(str::to_owned).map_err(|_| Failure::Host);
            if same_host(&text(&own)?, &text(&field)?) { Ok(own) } else { Err(Failure::Host) }
        }
        (Some(own), Some(_)) => Ok(own),
        (Some(own), None) if head.version != Version::HTTP_11 => Ok(own),
        (None, Some(field)) => Ok(field),
        (None, None) if head.version <= Version::HTTP_10 => Ok(FieldValue::from_static("")),
        (Some(_) | None, None) => Err(Failure::Host),
    }
}

/// Whether this is a host and perhaps a port; no user information, and nothing that only some backends take for a part of
/// a name.
fn is_host(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| !IN_A_NAME[usize::from(*byte)]);
    let (name, port) = text.split_at(end.unwrap_or(text.len()));
    match port {
        [] => !name.is_empty(),
        [b':', digits @ ..] if !name.is_empty() && digits.iter().all(u8::is_ascii_digit) => is_port(digits),
        _ => is_bracketed(text),
    }
}

/// The bytes of a host's name.
static IN_A_NAME: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let it = byte as u8;
        plain[byte] = it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    plain
};

/// Any number of zeros may stand before it, and it may be left out.
fn is_port(digits: &[u8]) -> bool {
    digits.is_empty() || std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
}

/// Whether this is an address in brackets, perhaps with a port.
fn is_bracketed(text: &[u8]) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte);
    let has_port = |authority: &Authority| {
        let after = &authority.as_str()[authority.host().len()..];
        after.is_empty() || after == ":" || authority.port_u16().is_some()
    };
    let is_host = |authority: &Authority| !authority.host().is_empty() && has_port(authority);
    text.iter().all(is_plain) && Authority::try_from(text).is_ok_and(|authority| is_host(&authority))
}

/// The target as it came must not be longer than `limit` bytes, and not one of another kind of service.
pub(super) fn check_target(head: &Parts, limit: usize) -> Result<(), Failure> {
    let path = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let scheme = head.uri.scheme_str();
    let own = if head.version >= Version::HTTP_2 {
        0
    } else {
        scheme.map_or(0, |scheme| scheme.len() + "://".len()) + head.uri.authority().map_or(0, |a| a.as_str().len())
    };
    if own + path > limit {
        Err(Failure::TargetLength(limit))
    } else if scheme.is_some_and(|scheme| scheme != "http" && scheme != "https") {
        Err(Failure::Target(TargetError::Invalid))
    } else {
        Ok(())
    }
}

/// A body's framing must be one that hyper undoes and that says where the body ends. With another transfer coding the
/// backend would get the coded bytes as if they were the content, and an HTTP/1.0 body without a length is never read: the
/// backend would be told to store nothing.
pub(super) fn check_framing(head: &Parts) -> Result<(), Failure> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING);
    let is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let stores = ["PUT", "POST", "PATCH"].iter().any(|method| head.method.as_str().eq_ignore_ascii_case(method));
    if !is_known {
        Err(Failure::TransferCoding)
    } else if stores && head.version <= Version::HTTP_10 && !head.headers.contains_key(CONTENT_LENGTH) {
        Err(Failure::Length)
    } else {
        Ok(())
    }
}

/// The canonical target. `*`, which only OPTIONS may ask (RFC 9110 §9.3.7), names no resource and is not passed on.
pub(super) fn target(head: &Parts) -> Result<Target, Failure> {
    let target = head.uri.path_and_query().ok_or(TargetError::NotAbsolute);
    target.and_then(Target::from_path_and_query).map_err(Failure::Target)
}

/// The first route that matches.
pub(super) fn find(routes: &[Route], asked: &FieldValue, target: &Target) -> Option<usize> {
    let is_asked = |host: &String| host.eq_ignore_ascii_case(without_port(asked.to_str().unwrap_or_default()));
    routes.iter().position(|route| route.host.as_ref().is_none_or(is_asked) && route.path.matches(target.path()))
}

fn without_port(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix('.').unwrap_or(host)
}

/// The keys of the resources on the same origin that an answer names in `Location` and `Content-Location`, without the
/// target's own.
pub(super) fn named(exchange: &Exchange, fields: &Fields) -> Vec<Key> {
    let key = |reference| {
        let target = same_origin(exchange, reference)?;
        let (_, key) = exchange.gateway.resource(&exchange.asked, &target, &exchange.head.headers)?;
        Some(key)
    };
    let references = fields.get_all(LOCATION).chain(fields.get_all(CONTENT_LOCATION));
    references.filter_map(key).filter(|key| key.cell != exchange.key.cell).collect()
}

/// Whether a reference names the target, in whatever spelling.
pub(super) fn is_of_target(exchange: &Exchange, reference: Value<'_>) -> bool {
    let Some(target) = same_origin(exchange, reference) else { return false };
    let found = exchange.gateway.resource(&exchange.asked, &target, &exchange.head.headers);
    found.is_some_and(|(_, key)| key.cell == exchange.key.cell)
}

/// The target that a reference names (RFC 3986 §5.2), if it lies on the origin that the client asked or that the backend
/// was told. The scheme does not count: whoever ends TLS before the gateway makes it another one.
pub(super) fn same_origin(exchange: &Exchange, reference: Value<'_>) -> Option<Target> {
    let reference = std::str::from_utf8(reference.as_bytes()).ok()?.split('#').next()?;
    let reference = without_scheme(reference);
    let (path, query) = if let Some(after) = reference.strip_prefix("//") {
        let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
        let ours = [&exchange.asked, &exchange.host];
        if !ours.iter().any(|host| host.to_str().is_ok_and(|host| names_host(authority, host))) {
            return None;
        }
        let (path, query) = split_query(rest);
        (if path.is_empty() { "/" } else { path }, query)
    } else {
        split_query(reference)
    };
    let base = exchange.target.path();
    match path {
        "" => Target::parse(base, query.or(exchange.target.query())).ok(),
        _ if path.starts_with('/') => Target::parse(path, query).ok(),
        _ => {
            let folder = &base[..=base.rfind('/')?];
            Target::parse(&format!("{folder}{path}"), query).ok()
        }
    }
}

/// What follows a reference's scheme. `http:/path` names no host, and so not another: some take it for a path of their own.
fn without_scheme(reference: &str) -> &str {
    match reference.split_once(':') {
        Some((scheme, after)) if after.starts_with("//") && !scheme.contains(['/', '?']) => after,
        Some((scheme, after)) if ["http", "https"].iter().any(|web| scheme.eq_ignore_ascii_case(web)) => after,
        Some(_) | None => reference,
    }
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn hosts_are_told_at_a_glance_as_by_their_grammar(text in "([a.~_-]{0,2}|\\[(::1)?\\]?)(:{0,2}(0{0,5}80|65535|65536|[+a]1)?)[\\]@/ ]?") {
            prop_assert_eq!(is_host(text.as_bytes()), is_bracketed(text.as_bytes()), "{}", text);
        }
    }
}
