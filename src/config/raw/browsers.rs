//! The keys of a guard that are about pages in browsers, and tags that intermediaries rewrite.

use http::HeaderName;
use toml::de::DeValue;

use super::{
    form::{NOT_PASSED_ON, choice, header_name, is_forwarding, text},
    section::Section,
};
use crate::core::{
    browsers::{Browsers, Cors},
    policy::Policy,
    resource::is_credential,
    version::Source,
};

/// Fields that mean something else, in a request or in an answer,
const TAKEN: [&str; 46] = [
    "age",
    "allow",
    "alt-svc",
    "cache-control",
    "clear-site-data",
    "connection",
    "cookie",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "date",
    "depth",
    "destination",
    "dnt",
    "etag",
    "expires",
    "forwarded",
    "from",
    "host",
    "idempotency-key",
    "keep-alive",
    "last-modified",
    "link",
    "location",
    "lock-token",
    "max-forwards",
    "origin",
    "overwrite",
    "permissions-policy",
    "pragma",
    "prefer",
    "preference-applied",
    "priority",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "server-timing",
    "set-cookie",
    "strict-transport-security",
    "timeout",
    "user-agent",
    "vary",
    "via",
    "warning",
];
/// and how the names of others begin.
const TAKEN_PREFIXES: [&str; 12] = [
    "accept",
    "access-control-",
    "authentication-",
    "content-",
    "if-",
    "proxy-",
    "referrer-",
    "sec-",
    "upgrade",
    "www-",
    "x-content-",
    "x-frame-",
];

pub(super) fn browsers(s: &mut Section, defaults: Browsers) -> Browsers {
    let tag_header = s.given("tag_header", tag_header);
    Browsers {
        cors: s.value("cors", defaults.cors, choice(&[("off", Cors::Off), ("follow", Cors::Follow)])),
        tag_header: tag_header.unwrap_or(defaults.tag_header),
    }
}

/// An empty text: none.
fn tag_header(value: &DeValue) -> Result<Option<HeaderName>, String> {
    if text(value)?.is_empty() {
        return Ok(None);
    }
    let name = header_name(value)?;
    if name.as_str().contains('_') {
        return Err(format!("{name} has a _ in it, which many servers drop; write -"));
    }
    let word = name.as_str();
    let is_taken = NOT_PASSED_ON.contains(&word)
        || TAKEN.contains(&word)
        || TAKEN_PREFIXES.iter().any(|prefix| word.starts_with(prefix))
        || is_forwarding(&name)
        || is_credential(&name);
    if is_taken { Err(format!("{name} means something else; write a name of your own")) } else { Ok(Some(name)) }
}

/// What the field means may not be two things.
pub(super) fn check(s: &Section, policy: &Policy) {
    if let Some(name) = policy.browsers.tag_header.as_ref().filter(|name| policy.partition.contains(name)) {
        s.error_at("tag_header", &format!("is {name}, which is in partition, too: the backend would not get it"));
    }
    if let (Some(name), Source::Header(source)) = (&policy.browsers.tag_header, &policy.versions.source)
        && name == source
    {
        s.error_at("tag_header", &format!("is {name}, which version reads: a copy of the tag would take its place"));
    }
}
