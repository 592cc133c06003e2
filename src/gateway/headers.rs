//! Header fields on their way through: what is left behind, what is added.
//!
//! Fields are filtered while they are copied. A client can't use `Connection` to take away a field that the gateway or
//! the backend decides by ([`is_protected`]), nor pass one in by writing `_` for `-`, as CGI-like backends fold them.

use http::{
    HeaderName, Method, Version,
    header::{
        ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, ORIGIN, TRANSFER_ENCODING,
        USER_AGENT, VIA,
    },
};
use http_body::Body;

use super::{Exchange, body::Outgoing, browsers, forwarded, versions};
use crate::core::{
    fields::{Fields, Marks, Name},
    policy::Mode,
    resource::CREDENTIALS,
    value::{Digits, FieldValue, Value},
};

/// Accept-like fields that decide which representation a probe is shown, beside those named in `http`.
const ACCEPT_CHARSET: HeaderName = http::header::ACCEPT_CHARSET;
/// So many fields are added at most times, of so many bytes, one of which may take the place of another.
const ADDED: usize = 8;
const BYTES_ADDED: usize = 512;
/// The fields by which a POST says that it means another method.
pub(super) static METHOD_OVERRIDES: [HeaderName; 3] = [
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-method-override"),
];

/// The fields of a request as the backend gets them, but for those that describe its body.
pub(super) fn for_backend(exchange: &Exchange, headers: &Fields, keep_preconditions: bool) -> Fields {
    let partition = &exchange.policy().partition;
    let takes_overrides = match exchange.policy().mode {
        Mode::Enforce => true,
        // Where the method is safe and nobody takes it for a write (`rollout::may_write`).
        Mode::Observe | Mode::Warn | Mode::Off => exchange.is_read() && exchange.wish.is_some(),
    };
    let browsers = browsers::rules(exchange);
    let named = Named::by(headers.get_all(CONNECTION));
    let mut out = Fields::with_capacity(headers.len() + ADDED, headers.bytes() + BYTES_ADDED);
    out.append(HOST, &exchange.host);
    let mut cookies = Vec::new();
    let underscored = headers.may_be_underscored();
    out.append_from(headers, |name, value| {
        let is_named = named.contains(name) && !partition.iter().any(|field| name == field);
        if is_named || underscored && folds_into_protected(name, partition) {
            return false;
        }
        if browsers.is_some_and(|browsers| browsers.is_tag_header(name)) {
            return false;
        }
        match Meaning::of_field(name) {
            Meaning::OfThisHop | Meaning::SetHere => false,
            Meaning::Precondition => keep_preconditions,
            // Nobody has judged what it would mean on another method.
            Meaning::Override => exchange.head.method == Method::POST || !takes_overrides,
            Meaning::Cookies => {
                cookies.push(value);
                false
            }
            Meaning::Other => true,
        }
    });
    match cookies.as_slice() {
        [] => {}
        [only] => out.append(COOKIE, only),
        // HTTP/2 may send one field a cookie; HTTP/1 backends know one field (RFC 9113 §8.2.3).
        several => {
            let parts: Vec<_> = several.iter().map(|part| part.as_bytes()).collect();
            out.extend(FieldValue::try_from(parts.join(&b"; "[..])).ok().map(|all| (COOKIE, all)));
        }
    }
    out.append(VIA, via(exchange.head.version));
    exchange.seen.trace().write(&mut out);
    forwarded::add(&mut out, exchange);
    out
}

/// The fields of a probe: those of the caller that decide what it may see and which representation it is shown.
pub(super) fn for_probe(exchange: &Exchange) -> Fields {
    let headers = &exchange.head.headers;
    let mut only = Fields::with_capacity(12, headers.bytes());
    let carried = [ACCEPT, ACCEPT_CHARSET, ACCEPT_ENCODING, ACCEPT_LANGUAGE, USER_AGENT, VIA];
    // What it shows may go out to the page, which must be one that may see it.
    let origin = browsers::page(exchange).map(|_| ORIGIN);
    for name in carried.iter().chain(&CREDENTIALS).chain(&exchange.policy().partition).chain(&origin) {
        if headers.contains_key(name) && !only.contains_key(name) {
            only.append_from(headers, |there, _| there == name);
        }
    }
    let mut out = for_backend(exchange, &only, false);
    versions::adapt(exchange, &Method::GET, &mut out);
    // A cache behind the gateway must not answer for the backend.
    out.insert(http::header::CACHE_CONTROL, FieldValue::from_static("no-cache"));
    out
}

/// Describes the body that is sent. Whatever framing the client used stays with the client.
pub(super) fn describe_body(headers: &mut Fields, method: &Method, body: &Outgoing) {
    match body.size_hint().exact() {
        // GET and the like do not even say that they have none (RFC 9110 §8.6).
        Some(0) if method.is_safe() || method == Method::DELETE => {}
        Some(length) => {
            headers.insert(CONTENT_LENGTH, Digits::of(length));
        }
        // hyper would send a GET's without framing, which is not at all.
        None => {
            headers.insert(TRANSFER_ENCODING, FieldValue::from_static("chunked"));
        }
    }
}

/// The fields of a response as the client gets them.
pub(super) fn for_client(mut headers: Fields, version: Version) -> Fields {
    let named = Named::by(headers.get_all(CONNECTION));
    let chunked = headers.contains_key(TRANSFER_ENCODING);
    if headers.may_have(MAY_BE_OF_THIS_HOP) {
        headers.retain(|name, _| {
            let is_of_this_hop = Meaning::of_field(name) == Meaning::OfThisHop;
            !(is_of_this_hop || named.contains(name) || chunked && name == CONTENT_LENGTH)
        });
    }
    headers.append(VIA, via(version));
    headers
}

fn via(version: Version) -> FieldValue {
    const BY_2: FieldValue = FieldValue::from_static("2.0 ifmatch");
    const BY_10: FieldValue = FieldValue::from_static("1.0 ifmatch");
    const BY_11: FieldValue = FieldValue::from_static("1.1 ifmatch");
    match version {
        Version::HTTP_2 => BY_2,
        Version::HTTP_10 => BY_10,
        _ => BY_11,
    }
}

/// What a field is to who passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// It is of one hop (RFC 9110 §7.6.1), or the gateway answers it itself.
    OfThisHop,
    /// The gateway writes it itself into a request.
    SetHere,
    Precondition,
    /// One of [`METHOD_OVERRIDES`].
    Override,
    Cookies,
    Other,
}

const OF_THIS_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "http2-settings",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "proxy-authenticate",
    "proxy-authorization",
];
/// And all that begins with `x-forwarded-`.
const SET_HERE: [&str; 4] = ["host", "content-length", "expect", "forwarded"];
const PRECONDITIONS: [&str; 3] = ["if-match", "if-none-match", "if-unmodified-since"];
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
const COOKIES: [&str; 1] = ["cookie"];
/// Where none of what is of one hop is there, nothing has to stay behind with it.
const MAY_BE_OF_THIS_HOP: Marks = Marks::of(&OF_THIS_HOP);
const MAY_MEAN_SOMETHING: Marks = MAY_BE_OF_THIS_HOP
    .and(Marks::of(&SET_HERE))
    .and(Marks::of(&PRECONDITIONS))
    .and(Marks::of(&OVERRIDES))
    .and(Marks::of(&COOKIES));

impl Meaning {
    /// That of one that is there: most have none, which their mark tells.
    #[inline]
    fn of_field(name: Name<'_>) -> Self {
        if name.may_be(MAY_MEAN_SOMETHING) || forwarded::is_forwarding(name.as_bytes()) {
            Self::of(name.as_bytes())
        } else {
            Self::Other
        }
    }

    fn of(name: &[u8]) -> Self {
        let is_one_of = |names: &[&str]| names.iter().any(|one| one.as_bytes() == name);
        if is_one_of(&SET_HERE) || forwarded::is_forwarding(name) {
            Self::SetHere
        } else if is_one_of(&OF_THIS_HOP) {
            Self::OfThisHop
        } else if is_one_of(&PRECONDITIONS) {
            Self::Precondition
        } else if is_one_of(&OVERRIDES) {
            Self::Override
        } else if is_one_of(&COOKIES) {
            Self::Cookies
        } else {
            Self::Other
        }
    }
}

/// Whether a field is of one hop, or one that the gateway answers itself.
pub(super) fn is_hop_by_hop(name: &HeaderName) -> bool {
    Meaning::of(name.as_str().as_bytes()) == Meaning::OfThisHop
}

/// Whether the gateway writes this field of a request itself.
pub(super) fn is_set_here(name: &HeaderName) -> bool {
    Meaning::of(name.as_str().as_bytes()) == Meaning::SetHere
}

/// The fields that decide what a message means or who sent it: no `Connection` takes one away.
pub(super) fn is_protected(name: &str) -> bool {
    matches!(
        name,
        "cache-control"
            | "content-encoding"
            | "content-language"
            | "content-length"
            | "content-location"
            | "content-range"
            | "content-type"
            | "date"
            | "etag"
            | "expect"
            | "forwarded"
            | "host"
            | "if"
            | "last-modified"
            | "location"
            | "origin"
            | "prefer"
            | "range"
            | "set-cookie"
            | "vary"
            | "via"
            | "www-authenticate"
    ) || CREDENTIALS.iter().any(|credential| credential == name)
        || ["access-control-", "if-", "x-forwarded-", "x-http-method", "x-method-override"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

/// Whether a backend that reads `_` as `-` would take this for a field that decides something.
fn folds_into_protected(name: Name<'_>, partition: &[HeaderName]) -> bool {
    name.as_bytes().contains(&b'_') && {
        let folded = name.as_str().replace('_', "-");
        is_protected(&folded)
            || HeaderName::try_from(folded).is_ok_and(|name| is_hop_by_hop(&name) || partition.contains(&name))
    }
}

/// The fields that a message's `Connection` names, to be left behind.
struct Named(Vec<Vec<u8>>);

impl Named {
    fn by<'a>(lines: impl Iterator<Item = Value<'a>>) -> Self {
        let tokens = lines.flat_map(|line| line.as_bytes().split(|&b| b == b',')).map(<[u8]>::trim_ascii);
        Self(
            tokens
                .filter(|t| {
                    !t.is_empty() && !t.eq_ignore_ascii_case(b"close") && !t.eq_ignore_ascii_case(b"keep-alive")
                })
                .map(<[u8]>::to_vec)
                .collect(),
        )
    }

    fn contains(&self, name: Name<'_>) -> bool {
        self.0.iter().any(|token| token.eq_ignore_ascii_case(name.as_bytes())) && !is_protected(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::precondition;

    #[test]
    fn what_is_judged_elsewhere_has_its_meaning_here() {
        let all =
            |names: &[HeaderName], meaning| names.iter().all(|name| Meaning::of(name.as_str().as_bytes()) == meaning);
        assert!(all(&precondition::FIELDS, Meaning::Precondition));
        assert!(all(&METHOD_OVERRIDES, Meaning::Override));
        assert!(all(&[HOST, CONTENT_LENGTH, http::header::FORWARDED, forwarded::X_FORWARDED_HOST], Meaning::SetHere));
        assert!(all(&[CONNECTION, TRANSFER_ENCODING, http::header::TE, http::header::UPGRADE], Meaning::OfThisHop));
        assert!(all(&[http::header::ETAG, http::header::IF_RANGE, ORIGIN], Meaning::Other));
    }
}
