//! The keys of a guard that say where a resource's version comes from.

use http::{
    HeaderName,
    header::{
        AGE, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, ETAG,
        EXPIRES, HOST, LAST_MODIFIED, PROXY_AUTHENTICATE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
        VIA,
    },
};
use toml::de::DeValue;

use super::{
    form::{MIB, choice, expected, size, text},
    repeats::pointer,
    section::Section,
};
use crate::core::{
    policy::Comparison,
    version::{Source, Versions},
};

const KNOWN: &str = "\"etag\", \"body\", \"last-modified\", { header = \"X-Version\" } or { json = \"/meta/version\" }";

/// So many members may be left out of a body's hash.
const PLACES: usize = 64;
/// Fields of one hop, of framing or of a cache: they say nothing of the resource, or do not reach whoever would look.
const OF_THE_MESSAGE: [HeaderName; 18] = [
    AGE,
    CACHE_CONTROL,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    EXPIRES,
    HOST,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    VARY,
    VIA,
];

/// `comparison` is the guard's.
pub(super) fn versions(s: &mut Section, defaults: Versions, comparison: Comparison) -> Versions {
    let source = s.value("version", defaults.source, source);
    let ignore = s.list("ignore", pointer).ok().flatten();
    let body_limit = s.value("version_body_limit", defaults.body_limit, size(1..=256 * MIB));
    let after_write = s.given("after_write", choice(&[("off", false), ("probe", true)]));
    if ignore.as_ref().is_some_and(|places| places.len() > PLACES) {
        s.error_at("ignore", &format!("can't have more than {PLACES} places: each is looked for in every body"));
    }
    let is_date = source == Source::LastModified;
    if source != Source::Body && ignore.as_ref().is_some_and(|places| !places.is_empty()) {
        s.error_at("ignore", "leaves members out of a body's hash: it goes with version = \"body\"");
    }
    if is_date && after_write == Some(true) {
        let message =
            "can't be \"probe\" where version = \"last-modified\": within its second a date is no version yet";
        s.error_at("after_write", message);
    }
    if is_date && comparison == Comparison::Weak {
        let message =
            "can't be \"weak\" where version = \"last-modified\": two writes within a second would be one version";
        s.error_at("comparison", message);
    }
    // What a route has of [guard] and can't use with its own source means nothing there.
    Versions {
        ignore: if source == Source::Body { ignore.unwrap_or(defaults.ignore) } else { Vec::new() },
        body_limit,
        reads_after_write: after_write.unwrap_or(defaults.reads_after_write) && !is_date,
        source,
    }
}

fn source(value: &DeValue) -> Result<Source, String> {
    if let Some(table) = value.as_table() {
        let mut entries = table.iter().map(|(name, value)| (name.get_ref().as_ref(), value.get_ref()));
        return match (entries.next(), entries.next()) {
            (Some(("header", name)), None) => header(text(name)?).map(Source::Header),
            (Some(("json", place)), None) => pointer(place).map(Source::Json),
            (_, _) => Err(format!("a table here has one key, header or json; write {KNOWN}")),
        };
    }
    match value.as_str() {
        Some("etag") => Ok(Source::Etag),
        Some("body") => Ok(Source::Body),
        Some("last-modified") => Ok(Source::LastModified),
        Some(other) => Err(format!("{other:?} is not known; write {KNOWN}")),
        None => Err(expected(KNOWN, value)),
    }
}

fn header(name: &str) -> Result<HeaderName, String> {
    let field: HeaderName = name.parse().map_err(|_| format!("{name:?} is no field name"))?;
    if field == ETAG {
        return Err("ETag is read by version = \"etag\"".to_owned());
    }
    if field == LAST_MODIFIED {
        return Err("Last-Modified is read by version = \"last-modified\"".to_owned());
    }
    if OF_THE_MESSAGE.contains(&field) {
        return Err(format!("{name} is about the message, not the resource; it is no version"));
    }
    if field == DATE || field == SET_COOKIE {
        return Err(format!("{name} is another in every answer; it is no version"));
    }
    Ok(field)
}
