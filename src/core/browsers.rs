//! A route's rules for pages in browsers, and what the answers of a backend say of them.
//!
//! CORS (<https://fetch.spec.whatwg.org/#http-cors-protocol>) is the backend's to decide. What is here reads its decision and
//! adds names to it; an answer that does not let an origin in is left as it is. Nothing here makes a decision anew.

use http::{
    HeaderName, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_ORIGIN,
        ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
    },
};

use super::{
    fields::{Fields, Name},
    value::{FieldValue, Value},
};

/// What a page of another origin must be able to read in order to write, to learn of a conflict and to recover.
const READ: [&str; 3] = ["ETag", "Retry-After", "Link"];
/// What it must be able to send.
const SENT: [&str; 2] = ["If-Match", "If-None-Match"];

/// What is done for pages in browsers, and for clients behind intermediaries that rewrite tags. All of it is off by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Browsers {
    /// What becomes of pages of other origins.
    pub cors: Cors,
    /// A field that carries a copy of each tag, and in which one is taken back as in `If-Match`. No `_` is in its name.
    pub tag_header: Option<HeaderName>,
}

/// What becomes of pages of other origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cors {
    /// What the backend says passes as it is, and refusals say nothing.
    Off,
    /// Where the backend lets an origin in, it can work with tags there, and read refusals.
    Follow,
}

impl Default for Browsers {
    fn default() -> Self {
        Self { cors: Cors::Off, tag_header: None }
    }
}

impl Browsers {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn are_off(&self) -> bool {
        self.cors == Cors::Off && self.tag_header.is_none()
    }

    /// Lets a page read what it needs, in an answer that lets it in.
    pub fn expose(&self, by: Allowed, answer: &mut Fields) {
        by.add(answer, ACCESS_CONTROL_EXPOSE_HEADERS, self.names(&READ));
    }

    /// Lets a page send preconditions, in an answer to a preflight that lets it in.
    pub fn allow(&self, by: Allowed, answer: &mut Fields) {
        by.add(answer, ACCESS_CONTROL_ALLOW_HEADERS, self.names(&SENT));
    }

    /// Takes out of a preflight what the gateway answers for: a backend that knows no preconditions may refuse all of a
    /// preflight that names one.
    pub fn spare(&self, preflight: &mut Fields) {
        let asked = list(preflight, &ACCESS_CONTROL_REQUEST_HEADERS);
        let is_ours = |name: &[u8]| self.names(&SENT).any(|ours| is_same(ours, name));
        let others: Vec<_> = asked.iter().copied().filter(|name| !is_ours(name)).collect();
        if others.len() == asked.len() {
            return;
        }
        match FieldValue::try_from(others.join(&b","[..])) {
            Ok(others) if !others.is_empty() => preflight.insert(ACCESS_CONTROL_REQUEST_HEADERS, others),
            Ok(_) | Err(_) => preflight.remove(ACCESS_CONTROL_REQUEST_HEADERS),
        }
    }

    /// Puts the copy of an answer's tag beside it. Whatever else stands there would be taken for one.
    pub fn copy_tag(&self, answer: &mut Fields) {
        let Some(field) = &self.tag_header else { return };
        answer.remove(field);
        let mut lines = answer.get_all(http::header::ETAG);
        if let (Some(only), None) = (lines.next(), lines.next()) {
            let copy = FieldValue::from(only);
            answer.insert(field, copy);
        }
    }

    /// Whether somebody might read this field as the one with the tag, be it with `_` for `-`.
    #[must_use]
    pub fn is_tag_header(&self, name: Name<'_>) -> bool {
        let is_folded =
            |field: &HeaderName| name.as_str().contains('_') && name.as_str().replace('_', "-") == field.as_str();
        self.tag_header.as_ref().is_some_and(|field| name == field || is_folded(field))
    }

    fn names<'a>(&'a self, standard: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
        standard.iter().copied().chain(self.tag_header.iter().map(HeaderName::as_str))
    }
}

/// The origin of the page that a request comes from; `None` where there is none, or several. One that asks for several methods
/// comes from no page: nobody knows by which of them the backend judges.
#[must_use]
pub fn origin(request: &Fields) -> Option<Value<'_>> {
    let may_ask = request.get_all(ACCESS_CONTROL_REQUEST_METHOD).nth(1).is_none();
    line(request, &ORIGIN).filter(|_| may_ask)
}

/// The method that a preflight asks for; `None`: it is no preflight.
#[must_use]
pub fn preflight<'a>(method: &Method, request: &'a Fields) -> Option<Value<'a>> {
    let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD);
    asked.filter(|_| asks_for_leave(method, request) && origin(request).is_some())
}

/// Whether a request asks for leave to send another, be it of no page.
#[must_use]
pub fn asks_for_leave(method: &Method, request: &Fields) -> bool {
    *method == Method::OPTIONS && request.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Takes out of an answer what it says to pages of other origins.
pub fn silence(answer: &mut Fields) {
    for name in [ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_EXPOSE_HEADERS] {
        answer.remove(name);
    }
}

/// That an origin is let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// By `*`, which is for requests without credentials.
    pub any: bool,
    /// With credentials.
    pub credentials: bool,
}

impl Allowed {
    /// Whether an answer lets this origin in: in one field, by its very bytes, or by `*`.
    #[must_use]
    pub fn by(answer: &Fields, origin: Value<'_>) -> Option<Self> {
        let said = only(answer, &ACCESS_CONTROL_ALLOW_ORIGIN)?;
        let any = said == b"*";
        let credentials = only(answer, &ACCESS_CONTROL_ALLOW_CREDENTIALS) == Some(b"true");
        (any || said == origin.as_bytes()).then_some(Self { any, credentials })
    }

    /// Whether it lets every origin in.
    #[must_use]
    pub fn anybody(answer: &Fields) -> Option<Self> {
        Self::by(answer, Value::in_field(b"*"))
    }

    /// Says the same in another answer.
    pub fn tell(self, answer: &mut Fields, origin: Value<'_>) {
        if self.credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, FieldValue::from_static("true"));
        }
        if self.any {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, FieldValue::from_static("*"));
            return;
        }
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if !list(answer, &VARY).iter().any(|name| *name == b"*" || is_same("Origin", name)) {
            answer.append(VARY, FieldValue::from_static("Origin"));
        }
    }

    /// Adds to a list what is not in it. With credentials `*` stands for nothing but itself.
    fn add<'a>(self, answer: &mut Fields, field: HeaderName, names: impl Iterator<Item = &'a str>) {
        let there = list(answer, &field);
        if there.contains(&&b"*"[..]) && (self.any || !self.credentials) {
            return;
        }
        let missing: Vec<_> = names.filter(|name| !there.iter().any(|there| is_same(name, there))).collect();
        if missing.is_empty() {
            return;
        }
        let all: Vec<_> = there.into_iter().chain(missing.iter().map(|name| name.as_bytes())).collect();
        if let Ok(all) = FieldValue::try_from(all.join(&b", "[..])) {
            answer.insert(field, all);
        }
    }
}

fn line<'a>(fields: &'a Fields, name: &HeaderName) -> Option<Value<'a>> {
    let mut lines = fields.get_all(name);
    lines.next().filter(|_| lines.next().is_none())
}

fn only<'a>(fields: &'a Fields, name: &HeaderName) -> Option<&'a [u8]> {
    line(fields, name).map(|line| line.as_bytes().trim_ascii())
}

fn list<'a>(fields: &'a Fields, name: &HeaderName) -> Vec<&'a [u8]> {
    let lines = fields.get_all(name);
    let members = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    members.filter(|member| !member.is_empty()).collect()
}

fn is_same(name: &str, other: &[u8]) -> bool {
    other.eq_ignore_ascii_case(name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Value<'_> = Value::in_field(b"https://page.example");

    fn map(fields: &[(&'static str, &'static str)]) -> Fields {
        let mut map = Fields::new();
        for (name, value) in fields {
            map.append(*name, FieldValue::from_static(value));
        }
        map
    }

    fn with_tag_header() -> Browsers {
        Browsers { cors: Cors::Follow, tag_header: Some(HeaderName::from_static("x-version")) }
    }

    #[test]
    fn who_is_let_in() {
        let origin = "access-control-allow-origin";
        let credentials = "access-control-allow-credentials";
        let allowed = |any, credentials| Some(Allowed { any, credentials });
        for (answer, expected) in [
            (&[][..], None),
            (&[(origin, "*")], allowed(true, false)),
            (&[(origin, "https://page.example")], allowed(false, false)),
            (&[(origin, "https://page.example"), (credentials, "true")], allowed(false, true)),
            (&[(origin, "https://page.example"), (credentials, "True")], allowed(false, false)),
            (&[(origin, "https://page.example"), (credentials, "true"), (credentials, "true")], allowed(false, false)),
            (&[(origin, "https://page.example/")], None),
            (&[(origin, "HTTPS://page.example")], None),
            (&[(origin, "https://other.example")], None),
            (&[(origin, "null")], None),
            (&[(origin, "https://*.example")], None),
            (&[(origin, "https://page.example, https://other.example")], None),
            (&[(origin, "https://page.example"), (origin, "https://page.example")], None),
            (&[(origin, "*"), (origin, "*")], None),
            (&[(credentials, "true")], None),
        ] {
            assert_eq!(Allowed::by(&map(answer), PAGE), expected, "{answer:?}");
        }
        assert_eq!(Allowed::anybody(&map(&[(origin, "*")])), allowed(true, false));
        assert_eq!(Allowed::anybody(&map(&[(origin, "https://page.example")])), None);
        assert_eq!(Allowed::by(&map(&[(origin, "null")]), Value::in_field(b"null")), allowed(false, false));
    }

    #[test]
    fn what_is_added_to_a_list() {
        let expose = "access-control-expose-headers";
        let (plain, trusted) = (Allowed { any: false, credentials: false }, Allowed { any: false, credentials: true });
        let any = Allowed { any: true, credentials: true };
        for (by, before, after) in [
            (plain, &[][..], "ETag, Retry-After, Link, x-version"),
            (plain, &["X-A"], "X-A, ETag, Retry-After, Link, x-version"),
            (plain, &["etag,X-A", "", "LINK,, x-b"], "etag, X-A, LINK, x-b, Retry-After, x-version"),
            (plain, &["link, retry-after, etag, X-Version"], "link, retry-after, etag, X-Version"),
            (plain, &["*"], "*"),
            (any, &["*"], "*"),
            (trusted, &["*"], "*, ETag, Retry-After, Link, x-version"),
        ] {
            let mut answer = Fields::new();
            for line in before {
                answer.append(expose, FieldValue::from_static(line));
            }
            with_tag_header().expose(by, &mut answer);
            let lines: Vec<_> = answer.get_all(expose).collect();
            assert_eq!(lines, [after], "{by:?} {before:?}");
        }
        let mut answer = Fields::new();
        Browsers::default().allow(plain, &mut answer);
        assert_eq!(answer, map(&[("access-control-allow-headers", "If-Match, If-None-Match")]));
    }

    #[test]
    fn what_a_backend_is_spared() {
        let asked = "access-control-request-headers";
        for (before, after) in [
            (&[][..], &[][..]),
            (&[(asked, "content-type,if-match")], &[(asked, "content-type")]),
            (&[(asked, "If-Match, X-Version"), (asked, "if-none-match")], &[]),
            (&[(asked, "content-type, x-a")], &[(asked, "content-type, x-a")]),
            (&[(asked, "x-a, x-version,x-b")], &[(asked, "x-a,x-b")]),
        ] {
            let mut fields = map(before);
            with_tag_header().spare(&mut fields);
            assert_eq!(fields, map(after), "{before:?}");
        }
    }

    #[test]
    fn the_same_is_said_again() {
        let mut answer = map(&[("vary", "Accept, ORIGIN")]);
        Allowed { any: false, credentials: true }.tell(&mut answer, PAGE);
        let expected = map(&[
            ("vary", "Accept, ORIGIN"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-origin", "https://page.example"),
        ]);
        assert_eq!(answer, expected);
        let mut answer = map(&[("vary", "Accept")]);
        Allowed { any: false, credentials: false }.tell(&mut answer, PAGE);
        assert_eq!(list(&answer, &VARY), [&b"Accept"[..], b"Origin"]);
        let mut answer = Fields::new();
        Allowed { any: true, credentials: false }.tell(&mut answer, PAGE);
        assert_eq!(answer, map(&[("access-control-allow-origin", "*")]));
    }

    #[test]
    fn what_is_a_preflight_and_of_whom() {
        let (origin_field, asked) = (("origin", "https://page.example"), ("access-control-request-method", "PUT"));
        let whole = map(&[origin_field, asked]);
        assert_eq!(preflight(&Method::OPTIONS, &whole), Some(Value::in_field(b"PUT")));
        assert_eq!(preflight(&Method::PUT, &whole), None);
        assert_eq!(preflight(&Method::OPTIONS, &map(&[origin_field])), None);
        assert_eq!(preflight(&Method::OPTIONS, &map(&[asked])), None);
        assert_eq!(origin(&whole), Some(PAGE));
        assert_eq!(origin(&map(&[origin_field, origin_field])), None);
        let two_methods = map(&[origin_field, asked, ("access-control-request-method", "GET")]);
        assert_eq!((preflight(&Method::OPTIONS, &two_methods), origin(&two_methods)), (None, None));
        assert_eq!(preflight(&Method::OPTIONS, &map(&[origin_field, origin_field, asked])), None);
    }

    #[test]
    fn a_tag_has_one_copy_and_the_backends_own_field_is_none() {
        for (before, after) in [
            (&[("etag", "\"a\"")][..], &[("etag", "\"a\""), ("x-version", "\"a\"")][..]),
            (
                &[("etag", "W/\"a\""), ("x-version", "7"), ("x-version", "8")],
                &[("etag", "W/\"a\""), ("x-version", "W/\"a\"")],
            ),
            (&[("x-version", "7")], &[]),
            (&[("etag", "\"a\""), ("etag", "\"b\"")], &[("etag", "\"a\""), ("etag", "\"b\"")]),
        ] {
            let mut answer = map(before);
            with_tag_header().copy_tag(&mut answer);
            assert_eq!(answer, map(after));
            let mut answer = map(before);
            Browsers::default().copy_tag(&mut answer);
            assert_eq!(answer, map(before));
        }
    }

    #[test]
    fn a_field_that_reads_like_the_one_with_the_tag_is_taken_for_it() {
        for (name, expected) in [("x-version", true), ("X_Version", true), ("x-versions", false), ("x-versiom", false)]
        {
            let fields = Fields::from_iter([(name.parse::<HeaderName>().expect("a field name"), PAGE)]);
            for field in fields.keys() {
                assert_eq!(with_tag_header().is_tag_header(field), expected, "{name}");
                assert!(!Browsers::default().is_tag_header(field));
            }
        }
    }
}
