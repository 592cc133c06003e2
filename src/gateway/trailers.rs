//! Trailers on their way through: which fields may stand behind a body.
//!
//! What comes behind a body comes after everybody has made up their mind, and some recipients merge it into the head all
//! the same. So a trailer that would frame, route, authenticate, condition or describe the message is left behind
//! (RFC 9110 §6.5.1), and of an HTTP/1.1 message everything that its `Trailer` field did not announce. HTTP/2 needs no
//! announcement: gRPC makes none. An HTTP/1.1 recipient does: what an HTTP/2 client did not announce reaches such a
//! backend only behind a body that was read ahead.

use http::{
    HeaderMap, HeaderName, Version,
    header::{TE, TRAILER},
};

use super::headers::{is_hop_by_hop, is_protected, is_set_here};
use crate::core::{fields::Fields, value::FieldValue};

/// A message's trailers are dropped where there are more than so many of them,
const MAX_FIELDS: usize = 64;
/// or more bytes: half of them could mean something else.
const MAX_BYTES: usize = 16 * 1024;
/// What a trailer's name may not begin with, beside what is protected anyhow.
const DECIDING: [&str; 15] = [
    "accept",
    "access-control-",
    "age",
    "allow",
    "authentication-control",
    "content-disposition",
    "content-security-policy",
    "destination",
    "expires",
    "max-forwards",
    "pragma",
    "proxy-",
    "sec-",
    "x-original-",
    "x-rewrite-",
];

/// Which trailers of a message pass.
#[derive(Debug, Clone, Default)]
pub(super) struct Trailers {
    announced: Vec<HeaderName>,
    /// Whether others may come, too.
    others: bool,
    /// What tells resources apart, or carries a tag.
    partition: Vec<HeaderName>,
}

impl Trailers {
    /// Those of the message with this head.
    pub(super) fn of(headers: &Fields, version: Version, partition: &[HeaderName]) -> Self {
        let others = version == Version::HTTP_2;
        let mut trailers = Self { announced: Vec::new(), others, partition: partition.to_vec() };
        let lines = headers.get_all(TRAILER).filter_map(|line| line.to_str().ok());
        let names = lines.flat_map(|line| line.split(',')).filter_map(|name| name.trim().parse().ok());
        let announced = names.filter(|name| trailers.may_pass(name)).take(MAX_FIELDS).collect();
        trailers.announced = announced;
        trailers
    }

    /// Without this one.
    pub(super) fn without(mut self, name: Option<HeaderName>) -> Self {
        if let Some(name) = name {
            self.partition.push(name);
            let announced = std::mem::take(&mut self.announced);
            self.announced = announced.into_iter().filter(|name| self.may_pass(name)).collect();
        }
        self
    }

    /// Those that these are.
    pub(super) fn known(trailers: &HeaderMap) -> Self {
        Self { announced: trailers.keys().cloned().collect(), ..Self::default() }
    }

    /// Whether any may come that pass.
    pub(super) fn may_let_through(&self) -> bool {
        self.others || self.are_announced()
    }

    /// Whether any were announced that may pass.
    pub(super) fn are_announced(&self) -> bool {
        !self.announced.is_empty()
    }

    /// Announces them.
    pub(super) fn announce(&self, fields: &mut Fields) {
        let names: Vec<_> = self.announced.iter().map(HeaderName::as_str).collect();
        if !names.is_empty() {
            fields.insert(TRAILER, FieldValue::try_from(names.join(", ")).expect("names may stand in a field"));
        }
    }

    /// What passes of them; `None`: nothing.
    pub(super) fn filter(&self, trailers: &HeaderMap) -> Option<HeaderMap> {
        let passes = |name: &HeaderName| self.announced.contains(name) || self.others && self.may_pass(name);
        let passing: HeaderMap = trailers
            .iter()
            .filter(|(name, _)| passes(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let bytes: usize = passing.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        (!passing.is_empty() && passing.len() <= MAX_FIELDS && bytes <= MAX_BYTES).then_some(passing)
    }

    /// Backends that read `_` as `-` must not find a field that decides something, either.
    fn may_pass(&self, name: &HeaderName) -> bool {
        let Ok(name) = HeaderName::try_from(name.as_str().replace('_', "-")) else { return false };
        !is_hop_by_hop(&name)
            && !is_set_here(&name)
            && !is_protected(name.as_str())
            && !self.partition.contains(&name)
            && !DECIDING.iter().any(|prefix| name.as_str().starts_with(prefix))
    }
}

/// Whether the sender of a message with this head keeps what comes behind a body (RFC 9110 §10.1.4).
pub(super) fn are_accepted(headers: &Fields) -> bool {
    let lines = headers.get_all(TE).filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(fields: &[(&'static str, &str)]) -> Fields {
        (&map(fields)).into()
    }

    fn map(fields: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(*name, value.parse().expect("a value"));
        }
        map
    }

    #[test]
    fn what_decides_something_is_no_trailer() {
        let any = Trailers::of(&Fields::new(), Version::HTTP_2, &[HeaderName::from_static("x-tenant")]);
        for name in [
            "content-length",
            "transfer-encoding",
            "host",
            "authorization",
            "cookie",
            "set-cookie",
            "if-match",
            "if_match",
            "x-forwarded-for",
            "x_forwarded_for",
            "forwarded",
            "x-http-method-override",
            "x-tenant",
            "x_tenant",
            "etag",
            "location",
            "content-type",
            "te",
            "trailer",
            "connection",
            "proxy-authorization",
            "range",
            "expect",
            "via",
            "destination",
            "accept-encoding",
        ] {
            assert_eq!(any.filter(&map(&[(name, "1")])), None, "{name}");
        }
        let passing = map(&[("grpc-status", "0"), ("grpc-status-details-bin", "a"), ("x-sum", "1"), ("x-sum", "2")]);
        assert_eq!(any.filter(&passing), Some(passing));
    }

    #[test]
    fn over_http1_only_what_was_announced_passes() {
        let head = fields(&[("trailer", "X-Sum, Host,, "), ("trailer", "x-other, if-match")]);
        let announced = Trailers::of(&head, Version::HTTP_11, &[]);
        let mut announcement = Fields::new();
        announced.announce(&mut announcement);
        assert_eq!(announcement, fields(&[("trailer", "x-sum, x-other")]));
        let came = map(&[("x-sum", "1"), ("x-unannounced", "2"), ("if-match", "3")]);
        assert_eq!(announced.filter(&came), Some(map(&[("x-sum", "1")])));
    }

    #[test]
    fn what_carries_a_tag_is_no_trailer() {
        let head = fields(&[("trailer", "x-version, x_version, x-sum")]);
        let came = map(&[("x-sum", "1"), ("x-version", "2"), ("x_version", "3")]);
        for version in [Version::HTTP_11, Version::HTTP_2] {
            let trailers = Trailers::of(&head, version, &[]);
            assert_eq!(trailers.clone().without(None).filter(&came), Some(came.clone()));
            let without = trailers.without(Some(HeaderName::from_static("x-version")));
            assert_eq!(without.filter(&came), Some(map(&[("x-sum", "1")])), "{version:?}");
        }
    }

    #[test]
    fn too_many_or_too_long_are_none() {
        let any = Trailers::of(&Fields::new(), Version::HTTP_2, &[]);
        let value = "x".repeat(MAX_BYTES - 1);
        assert!(any.filter(&map(&[("a", &value)])).is_some());
        assert_eq!(any.filter(&map(&[("a", &value), ("b", "")])), None);
        let many = |count| map(&vec![("a", "1"); count]);
        assert!(any.filter(&many(MAX_FIELDS)).is_some());
        assert_eq!(any.filter(&many(MAX_FIELDS + 1)), None);
    }

    #[test]
    fn te_says_whether_trailers_are_kept() {
        for (te, accepted) in [("trailers", true), ("deflate, Trailers", true), ("gzip", false), ("trailers2", false)] {
            assert_eq!(are_accepted(&fields(&[("te", te)])), accepted, "{te}");
        }
        assert!(!are_accepted(&Fields::new()));
    }
}
