//! Canonical paths, keys, variants and callers.

use std::sync::LazyLock;

use http::header::{ACCEPT, ACCEPT_LANGUAGE};
use proptest::prelude::*;

use http::header::AUTHORIZATION;

use super::*;
use crate::core::value::FieldValue;

static NAMER: LazyLock<Namer> = LazyLock::new(|| Namer::new([1, 2]));

fn key_of(host: &str, target: &str, rule: &QueryRule) -> Key {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let target = Target::parse(path, query).expect(target);
    NAMER.key("u", host, &target, rule, &[], &Fields::new())
}

#[test]
fn brings_paths_into_one_form() {
    let rows = [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/%61", "/a"),
        ("/%7euser/%2D%5f", "/~user/-_"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%3ab", "/a%3Ab"),
        ("/%c3%a9", "/%C3%A9"),
        ("/é", "/%C3%A9"),
        ("/a|b{c}", "/a%7Cb%7Bc%7D"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/a/..b/.c", "/a/..b/.c"),
        ("/a/...", "/a/..."),
        ("//evil/a", "//evil/a"),
        ("/a//../b", "/a/b"),
        ("/a;x=1", "/a;x=1"),
        ("/a%20b", "/a%20b"),
        ("/%252e%252e/", "/%252e%252e/"),
        ("/%E9", "/%E9"),
        ("/a'b(c)!*$&+,=:@", "/a'b(c)!*$&+,=:@"),
    ];
    for (path, canonical) in rows {
        assert_eq!(Target::parse(path, None).expect(path).path(), canonical, "{path}");
    }
}

#[test]
fn refuses_paths_that_backends_read_differently() {
    let rows = [
        ("", TargetError::NotAbsolute),
        ("*", TargetError::NotAbsolute),
        ("foo", TargetError::NotAbsolute),
        ("/%", TargetError::Escape),
        ("/%4", TargetError::Escape),
        ("/%zz", TargetError::Escape),
        ("/%+1", TargetError::Escape),
        ("/%00", TargetError::Nul),
        ("/a\\b", TargetError::Byte(b'\\')),
        ("/a b", TargetError::Byte(b' ')),
        ("/a\tb", TargetError::Byte(b'\t')),
        ("/%c0%af", TargetError::Overlong),
        ("/%c0%ae%c0%ae/", TargetError::Overlong),
        ("/%e0%80%af", TargetError::Overlong),
        ("/%f0%80%80%af", TargetError::Overlong),
        ("/a/..%2fb", TargetError::HiddenDots),
        ("/a%2f..", TargetError::HiddenDots),
        ("/a/..%5cb", TargetError::HiddenDots),
        ("/a/..;/b", TargetError::HiddenDots),
        ("/a/.;x/b", TargetError::HiddenDots),
        ("/a/%2e%2e%2f", TargetError::HiddenDots),
        ("/.%2fa", TargetError::HiddenDots),
        ("/a/..%3Bx/b", TargetError::HiddenDots),
        ("/a/%2e%2e%3bx/b", TargetError::HiddenDots),
    ];
    for (path, error) in rows {
        assert_eq!(Target::parse(path, None), Err(error), "{path}");
    }
}

#[test]
fn the_query_is_left_as_it_is() {
    let target = Target::parse("/a/../b", Some("q=%7e&x=..")).expect("valid");
    assert_eq!(target.as_path_and_query().as_str(), "/b?q=%7e&x=..");
    assert_eq!(Target::parse("/b", None).expect("valid").query(), None);
}

#[test]
fn a_whole_target_is_read_like_its_parts() {
    for text in ["?q", "/?q", "/", "/a", "/a?q", "/a/../b?q", "*"] {
        let whole = PathAndQuery::try_from(text).expect(text);
        assert_eq!(Target::from_path_and_query(&whole), Target::parse(whole.path(), whole.query()), "{text:?}");
    }
}

/// Spellings that some backend takes for the same resource share a record; only equal ones share knowledge.
#[test]
fn spellings_share_a_cell_but_not_what_is_known() {
    let include = &QueryRule::Include;
    let same_cell = [
        ("/notes/7", "/Notes/7"),
        ("/notes/7", "/notes/7/"),
        ("/notes/7", "/notes//7"),
        ("/notes/7", "//notes/7"),
        ("/notes/7", "/notes%2F7"),
        ("/notes/7", "/notes%5C7"),
        ("/notes/7", "/notes/7;v=1"),
        ("/notes/7", "/notes;s=a/7"),
        ("/notes/7", "/notes/%2537"),
        ("/notes/7", "/notes/7."),
        ("/notes/7", "/notes/7%20"),
        ("/a%20b", "/a+b"),
        ("/%C3%89t%C3%A9", "/%C3%A9t%C3%A9"),
        ("/a@b", "/a%40b"),
        ("/('a')", "/(%27a%27)"),
        ("/n?a=1&b=2", "/n?b=2&a=1"),
        ("/n?a=b+c", "/n?a=b%20c"),
        ("/n?a=1", "/n?&a=1&"),
    ];
    for (a, b) in same_cell {
        let (ka, kb) = (key_of("h", a, include), key_of("h", b, include));
        assert_eq!(ka.cell, kb.cell, "{a} {b}");
        assert!(ka.spelling != kb.spelling || a == "/n?a=1", "{a} {b}");
    }
    let other_cell = [("/a", "/b"), ("/a/b", "/ab"), ("/n?a=1", "/n?a=2"), ("/n", "/n?a=1"), ("/n?a=1", "/n?a=1&a=1")];
    for (a, b) in other_cell {
        assert_ne!(key_of("h", a, include).cell, key_of("h", b, include).cell, "{a} {b}");
    }
}

#[test]
fn escapes_that_mean_the_same_are_one_resource() {
    let include = &QueryRule::Include;
    for (a, b) in [("/%61", "/a"), ("/a/../b", "/b"), ("/%c3%a9", "/%C3%A9")] {
        assert_eq!(key_of("h", a, include), key_of("h", b, include), "{a} {b}");
    }
}

#[test]
fn the_query_counts_as_the_policy_says() {
    let only = QueryRule::Only(vec!["id".into(), "a b".into()]);
    // policy, one target, another, the same resource
    let rows = [
        (&QueryRule::Include, "/a?id=1", "/a?id=1&x=2", false),
        (&QueryRule::Ignore, "/a?id=1", "/a?id=2", true),
        (&QueryRule::Ignore, "/a", "/a?id=2", true),
        (&only, "/a?id=1&_=7", "/a?_=8&id=1", true),
        (&only, "/a?id=1", "/a?id=2", false),
        (&only, "/a?%69d=1", "/a?x=1", false),
        (&only, "/a?a+b=1", "/a?x=1", false),
    ];
    for (rule, a, b, same) in rows {
        assert_eq!(key_of("h", a, rule) == key_of("h", b, rule), same, "{rule:?} {a} {b}");
    }
}

#[test]
fn upstream_host_partition_and_seed_count() {
    let target = Target::parse("/a", None).expect("valid");
    let auth = [AUTHORIZATION];
    let mut alice = Fields::new();
    alice.insert(AUTHORIZATION, FieldValue::from_static("alice"));
    let key = |namer: &Namer, upstream, host, partition: &[HeaderName], headers| {
        namer.key(upstream, host, &target, &QueryRule::Include, partition, headers)
    };
    let none = Fields::new();
    let base = key(&NAMER, "u", "h", &[], &none);
    assert_ne!(base, key(&NAMER, "v", "h", &[], &none));
    assert_ne!(base.spelling, key(&NAMER, "u", "i", &[], &none).spelling);
    assert_eq!(base.cell, key(&NAMER, "u", "i", &[], &none).cell);
    let by_host = [HOST];
    assert_ne!(key(&NAMER, "u", "h", &by_host, &none).cell, key(&NAMER, "u", "i", &by_host, &none).cell);
    assert_ne!(base, key(&Namer::new([3, 4]), "u", "h", &[], &none));
    assert_eq!(base, key(&NAMER, "u", "h", &[], &alice));
    assert_ne!(key(&NAMER, "u", "h", &auth, &none), key(&NAMER, "u", "h", &auth, &alice));
    assert_eq!(base, key(&NAMER, "u", "H.:80", &[], &none));
    assert_ne!(base, key(&NAMER, "u", "h:8080", &[], &none));
}

#[test]
fn variants_and_callers_are_told_apart() {
    let map = |fields: &[(HeaderName, &'static str)]| -> Fields {
        fields.iter().map(|(n, v)| (n.clone(), FieldValue::from_static(v))).collect()
    };
    let json = map(&[(CONTENT_TYPE, "application/json"), (VARY, "Accept, accept-language")]);
    let html = map(&[(CONTENT_TYPE, "text/html"), (VARY, "Accept, accept-language")]);
    let german = map(&[(ACCEPT_LANGUAGE, "de")]);
    let plain = map(&[]);
    assert_ne!(NAMER.variant(&plain, &json), NAMER.variant(&plain, &html));
    assert_ne!(NAMER.variant(&plain, &json), NAMER.variant(&german, &json));
    assert_eq!(NAMER.variant(&map(&[(COOKIE, "a")]), &json), NAMER.variant(&plain, &json));
    assert_ne!(NAMER.variant(&map(&[(ACCEPT, "a")]), &json), NAMER.variant(&plain, &json));
    assert_eq!(NAMER.variant(&plain, &map(&[(VARY, "*")])), None);
    assert_eq!(NAMER.variant(&plain, &map(&[(VARY, "accept, *")])), None);
    let (alice, bob) = (map(&[(AUTHORIZATION, "a")]), map(&[(AUTHORIZATION, "b")]));
    assert_ne!(NAMER.caller(&alice), NAMER.caller(&bob));
    assert_ne!(NAMER.caller(&alice), NAMER.caller(&map(&[(COOKIE, "a")])));
    assert_eq!(NAMER.caller(&plain), NAMER.caller(&german));
}

#[test]
fn every_credential_is_one() {
    assert!(CREDENTIALS.iter().all(is_credential));
    assert!(![HOST, CONTENT_TYPE].iter().any(is_credential));
}

proptest! {
    #[test]
    fn nested_escapes_are_decoded_in_one_go_as_in_many(path in "[%%%2534fab/]{0,40}") {
        let mut passes = path.clone().into_bytes();
        while percent_decoded(&passes) != passes {
            passes = percent_decoded(&passes);
        }
        prop_assert_eq!(wholly_decoded(path.as_bytes()), passes);
    }

    #[test]
    fn canonicalising_is_idempotent(path in "/([a-zA-Z0-9./;~%é{-]|%[0-9a-fA-F]{2}|\\.\\.?/|%2[eEfF]){0,24}") {
        if let Ok(once) = Target::parse(&path, None) {
            let twice = Target::parse(once.path(), None);
            prop_assert_eq!(twice.as_ref().map(Target::path), Ok(once.path()));
            prop_assert!(!once.path().split('/').any(|s| s == "." || s == ".."));
        }
    }

    #[test]
    fn what_needs_no_folding_folds_into_itself(path in "(/|/[a-z.;%+ \\\\A]{0,3}|/[a-z]{1,3}){0,4}") {
        if is_folded(path.as_bytes()) {
            prop_assert_eq!(fold(&path), path.as_bytes());
        }
        if is_plain(path.as_bytes()) && path.starts_with('/') {
            prop_assert_eq!(without_dot_segments(&normal_escapes(path.as_bytes()).expect("no escapes")), Ok(path));
        }
    }

    #[test]
    fn nothing_is_lost_or_let_through(path in "[\\x00-\\x7fé]{0,20}") {
        if let Ok(target) = Target::parse(&path, None) {
            prop_assert!(target.path().starts_with('/'));
            prop_assert!(target.path().bytes().all(|b| is_unreserved(b) || is_kept(b) || b == b'%'));
        }
    }
}
