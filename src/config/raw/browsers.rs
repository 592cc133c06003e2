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
const TAKEN: [&str; 114] = [
    "a-im",
    "age",
    "allow",
    "alt-svc",
    "alternates",
    "apply-to-redirect-ref",
    "b3",
    "baggage",
    "cache-control",
    "cache-status",
    "clear-site-data",
    "client-ip",
    "connection",
    "cookie",
    "cookie2",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "dasl",
    "date",
    "dav",
    "delta-base",
    "deprecation",
    "depth",
    "destination",
    "digest",
    "dnt",
    "document-policy",
    "dpop",
    "dpop-nonce",
    "early-data",
    "etag",
    "expect-ct",
    "expires",
    "forwarded",
    "from",
    "host",
    "idempotency-key",
    "if",
    "im",
    "keep-alive",
    "label",
    "last-event-id",
    "last-modified",
    "link",
    "location",
    "lock-token",
    "max-forwards",
    "mime-version",
    "ms-author-via",
    "negotiate",
    "nel",
    "ordering-type",
    "origin",
    "origin-agent-cluster",
    "overwrite",
    "permissions-policy",
    "position",
    "pragma",
    "prefer",
    "preference-applied",
    "priority",
    "public-key-pins",
    "range",
    "redirect-ref",
    "referer",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "repr-digest",
    "retry-after",
    "save-data",
    "server",
    "server-timing",
    "service-worker",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "signature",
    "signature-input",
    "slug",
    "soapaction",
    "sourcemap",
    "status",
    "strict-transport-security",
    "sunset",
    "tcn",
    "timeout",
    "tk",
    "translate",
    "true-client-ip",
    "user-agent",
    "variant-vary",
    "vary",
    "via",
    "warning",
    "x-cache",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-correlation-id",
    "x-csrf-token",
    "x-dns-prefetch-control",
    "x-download-options",
    "x-host",
    "x-permitted-cross-domain-policies",
    "x-powered-by",
    "x-real-ip",
    "x-request-id",
    "x-requested-with",
    "x-robots-tag",
    "x-sendfile",
    "x-ua-compatible",
    "x-xsrf-token",
    "x-xss-protection",
];
/// and how the names of others begin.
const TAKEN_PREFIXES: [&str; 26] = [
    "accept",
    "access-control-",
    "authentication-",
    "cal-",
    "cdn-",
    "content-",
    "grpc-",
    "if-",
    "odata-",
    "proxy-",
    "referrer-",
    "schedule-",
    "sec-",
    "surrogate-",
    "upgrade",
    "want-",
    "www-",
    "x-accel-",
    "x-b3-",
    "x-content-",
    "x-envoy-",
    "x-frame-",
    "x-http-",
    "x-method-",
    "x-original-",
    "x-rewrite-",
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
