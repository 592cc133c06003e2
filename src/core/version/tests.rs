use http::header::{CONTENT_ENCODING, VARY};
use proptest::prelude::*;

use super::*;
use crate::core::{policy::Comparison, precondition::Demands, value::FieldValue};

fn versions(source: Source, ignore: &[&str]) -> Versions {
    let ignore = ignore.iter().map(|place| pointer(place)).collect();
    Versions { source, ignore, ..Versions::default() }
}

fn pointer(text: &str) -> Pointer {
    Pointer::parse(text).expect("a pointer")
}

fn fields(list: &[(&'static str, &str)]) -> Fields {
    let mut fields = Fields::new();
    for (name, value) in list {
        fields.append(*name, FieldValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    fields
}

fn of_body(ignore: &[&str], head: &[(&'static str, &str)], body: &[u8]) -> EntityTag {
    versions(Source::Body, ignore).of_body(&fields(head), body).expect("a tag")
}

fn of_header(lines: &[&str]) -> Option<String> {
    let lines: Vec<_> = lines.iter().map(|line| ("x-version", *line)).collect();
    let versions = versions(Source::Header(HeaderName::from_static("x-version")), &[]);
    versions.of_head(&fields(&lines)).map(|tag| tag.to_string())
}

fn of_json(place: &str, body: &str) -> Option<String> {
    let versions = versions(Source::Json(pointer(place)), &[]);
    versions.of_body(&Fields::new(), body.as_bytes()).map(|tag| tag.to_string())
}

fn of_dates(list: &[(&'static str, &str)]) -> Option<String> {
    versions(Source::LastModified, &[]).of_head(&fields(list)).map(|tag| tag.to_string())
}

/// Clients hold tags over restarts and upgrades of the gateway: they may never change.
#[test]
fn a_body_has_the_same_tag_for_ever() {
    assert_eq!(of_body(&[], &[], b"").to_string(), "\"ifm-b-e572dff82304700b856a555ac3a4558d\"");
    let head = [("content-type", "application/json"), ("content-language", "en")];
    assert_eq!(of_body(&["/t"], &head, b"{\"a\":1,\"t\":2}").to_string(), "\"ifm-b-1ba0e1c1d70876f5987d6015027354dc\"");
    assert_eq!(of_header(&["a b"]).as_deref(), Some("\"ifm-hx-5e2ef3-c95e5a48e784bd89e908893ff0a228fc\""));
}

#[test]
fn what_a_body_s_tag_depends_on() {
    const JSON: (&str, &str) = ("content-type", "application/json");
    let first = of_body(&[], &[JSON], b"one");
    assert!(!first.is_weak());
    let same = [JSON, ("date", "now"), ("etag", "\"x\""), ("last-modified", "then"), ("x-request-id", "7")];
    assert_eq!(first, of_body(&[], &same, b"one"));
    for (head, body) in [
        (&[JSON][..], &b"two"[..]),
        (&[JSON], b"one "),
        (&[JSON], b""),
        (&[], b"one"),
        (&[("content-type", "text/plain")], b"one"),
        (&[JSON, ("content-language", "de")], b"one"),
        (&[("content-language", "application/json")], b"one"),
        (&[JSON, JSON], b"one"),
    ] {
        assert_ne!(first, of_body(&[], head, body), "{head:?}");
    }
}

#[test]
fn ignored_members_make_no_other_version() {
    let tag = |body: &str| of_body(&["/at", "/meta/seen"], &[], body.as_bytes());
    let first = tag(r#"{"a":1,"at":"noon","meta":{"seen":3,"x":1}}"#);
    for same in [
        r#"{"a":1,"at":"now","meta":{"seen":4,"x":1}}"#,
        r#"{"a":1,"at":{"deep":[1,2]},"meta":{"seen":null,"x":1}}"#,
        r#"{"a":1,"meta":{"x":1}}"#,
    ] {
        assert_eq!(tag(same), first, "{same}");
    }
    for other in [
        r#"{"a":2,"at":"noon","meta":{"seen":3,"x":1}}"#,
        r#"{"a":1.0,"at":"noon","meta":{"seen":3,"x":1}}"#,
        r#"{"a":1,"at":"noon","meta":{"seen":3,"x":1},"y":0}"#,
        r#"{"a":1,"a":1,"at":"noon","meta":{"seen":3,"x":1}}"#,
        r#"{"a":1,"At":"noon","meta":{"seen":3,"x":1}}"#,
        r#"{"meta":{"seen":3,"x":1},"at":"noon","a":1}"#,
        r#"{"a":1,"at":"noon","meta":{"seen":3,"x":1}} x"#,
        r#"{"a":1,"at":"noon","meta":[{"seen":3,"x":1}]}"#,
    ] {
        assert_ne!(tag(other), first, "{other}");
    }
    // What is no JSON counts whole.
    assert_ne!(tag("{\"at\":1"), tag("{\"at\":2"));
    assert_ne!(tag("{\"at\":1}}"), tag("{\"at\":2}}"));
}

#[test]
fn a_field_s_tag_is_its_value_where_that_can_stand_in_one() {
    let long = "v".repeat(80);
    for (lines, tag) in [
        (&["7"][..], Some("\"ifm-h-5e2ef3-7\"")),
        (&[" v1.2:3/é "], Some("\"ifm-h-5e2ef3-v1.2:3/é\"")),
        (&["W/x"], Some("\"ifm-h-5e2ef3-W/x\"")),
        (&[""], None),
        (&["  "], None),
        (&[], None),
        (&["7", "7"], None),
        (&["7", "8"], None),
    ] {
        assert_eq!(of_header(lines).as_deref(), tag, "{lines:?}");
    }
    // Hashed: what can't stand in a tag, what is long, and what would be taken for the mark of a compressor.
    for value in ["a b", "\"7\"", "W/\"7\"", long.as_str(), "7-gzip", "7;gzip", "7-br"] {
        let tag = of_header(&[value]).expect("a tag");
        assert!(tag.starts_with("\"ifm-hx-5e2ef3-") && tag.len() == 48, "{value}: {tag}");
        assert_eq!(of_header(&[value]), Some(tag));
    }
}

#[test]
fn a_json_value_s_tag_is_the_value_as_it_is_written() {
    let document = |value: &str| format!("{{\"meta\":{{\"v\":{value}}},\"x\":1}}");
    for (value, tag) in [
        ("7", Some("\"ifm-j-ca9e03-7\"")),
        ("7.10", Some("\"ifm-j-ca9e03-7.10\"")),
        ("9007199254740993", Some("\"ifm-j-ca9e03-9007199254740993\"")),
        ("-1e400", Some("\"ifm-j-ca9e03--1e400\"")),
        ("true", Some("\"ifm-j-ca9e03-true\"")),
        ("\"7\"", Some("\"ifm-s-ca9e03-7\"")),
        ("\"ü\"", Some("\"ifm-s-ca9e03-ü\"")),
        ("\"\"", None),
        ("null", None),
        ("{}", None),
        ("[7]", None),
    ] {
        assert_eq!(of_json("/meta/v", &document(value)).as_deref(), tag, "{value}");
    }
    assert!(of_json("/meta/v", &document("\"a b\"")).expect("a tag").starts_with("\"ifm-sx-ca9e03-"));
    for (place, body) in [
        ("/v", "{\"x\":1}"),
        ("/v", "{\"v\":1,\"v\":1}"),
        ("/m/v", "{\"m\":{\"v\":1},\"m\":{}}"),
        ("/v", "{\"v\":1"),
        ("/v", "7"),
        ("/v", ""),
        ("/0", "[]"),
    ] {
        assert_eq!(of_json(place, body), None, "{body}");
    }
    assert_eq!(of_json("/0/v", "[{\"v\":3}]").as_deref(), Some("\"ifm-j-3d5af7-3\""));
}

/// RFC 9110 §8.8.2.2.
#[test]
fn a_date_is_a_strong_tag_only_a_second_later() {
    const MODIFIED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    const SAME: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    const LATER: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:38 GMT");
    const EARLIER: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:36 GMT");
    const STRONG: Option<&str> = Some("\"ifm-m-Sun,06Nov199408:49:37GMT\"");
    const WEAK: Option<&str> = Some("W/\"ifm-m-Sun,06Nov199408:49:37GMT\"");
    for (list, tag) in [
        (&[MODIFIED, LATER][..], STRONG),
        (&[("last-modified", "Sunday, 06-Nov-94 08:49:37 GMT"), LATER], STRONG),
        (&[MODIFIED, SAME], WEAK),
        (&[MODIFIED, EARLIER], WEAK),
        (&[MODIFIED], WEAK),
        (&[MODIFIED, ("date", "soon")], WEAK),
        (&[MODIFIED, LATER, LATER], WEAK),
        (&[LATER], None),
        (&[MODIFIED, MODIFIED, LATER], None),
        (&[("last-modified", "0"), LATER], None),
        (&[("last-modified", ""), LATER], None),
    ] {
        assert_eq!(of_dates(list).as_deref(), tag, "{list:?}");
    }
}

#[test]
fn a_source_looks_where_it_is_and_nowhere_else() {
    let head = fields(&[("x-version", "7"), ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"), ("etag", "\"own\"")]);
    for source in [Source::Etag, Source::Body, Source::Json(pointer("/v"))] {
        assert_eq!(versions(source, &[]).of_head(&head), None);
    }
    for source in [Source::Etag, Source::LastModified, Source::Header(HeaderName::from_static("x-version"))] {
        assert_eq!(versions(source, &[]).of_body(&head, b"{\"v\":7}"), None);
    }
    // What a coding or a choice of representations would say is not looked at here.
    assert!(!fields(&[("x-version", "7")]).contains_key(CONTENT_ENCODING) && !head.contains_key(VARY));
}

#[test]
fn equal_values_of_two_places_are_two_versions() {
    assert_ne!(of_json("/a", "{\"a\":7,\"b\":7}"), of_json("/b", "{\"a\":7,\"b\":7}"));
    let long = "v".repeat(80);
    for value in ["7", long.as_str()] {
        let of = |name: &'static str| {
            let versions = versions(Source::Header(HeaderName::from_static(name)), &[]);
            versions.of_head(&fields(&[("x-a", value), ("x-b", value)])).expect("a tag")
        };
        assert_ne!(of("x-a"), of("x-b"), "{value}");
        assert!(!of("x-a").matches(&of("x-b"), Comparison::Weak, true));
    }
}

proptest! {
    /// A tag comes back from a client as it was, and matches no other value's.
    #[test]
    fn values_have_tags_of_their_own(a in proptest::collection::vec(any::<u8>(), 0..70), b in proptest::collection::vec(any::<u8>(), 0..70)) {
        let (Some(left), Some(right)) = (of_value(*b"hx", "x", &a), of_value(*b"hx", "x", &b)) else { return Ok(()) };
        prop_assert_eq!(left == right, a == b);
        prop_assert_eq!(left.matches(&right, Comparison::Weak, true), a == b);
        prop_assert!(left.opaque_len() <= LONGEST);
        let mut head = Fields::new();
        head.insert(http::header::IF_MATCH, left.to_header_value());
        prop_assert!(Demands::parse(&head).is_ok());
        prop_assert!(of_value(*b"sx", "x", &a).is_some_and(|other| !other.matches(&left, Comparison::Weak, true)));
    }

    #[test]
    fn bodies_that_differ_have_other_tags(a in "[{}\"t:1,a]{0,12}", b in "[{}\"t:1,a]{0,12}") {
        let tag = |body: &str| of_body(&[], &[], body.as_bytes());
        prop_assert_eq!(tag(&a) == tag(&b), a == b);
    }
}
