//! What the backend is told of the client, by `forwarded` and `trusted_proxies`. The client of these tests is 127.0.0.1.

use std::fmt::Write;

use http::HeaderMap;

use crate::support::{Gateway, Script};

const NAMES: [&str; 5] = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"];

/// The lines of a field, each after a `|`.
fn lines(fields: &HeaderMap, name: &str) -> String {
    let lines = fields.get_all(name).iter().map(|line| line.to_str().expect("ASCII"));
    lines.fold(String::new(), |all, line| all + "|" + line)
}

/// What the backend gets of these fields, as `name: value` lines in the order of [`NAMES`].
async fn told(top: &str, sent: &[(&str, &str)]) -> String {
    let mut backend = Script::start().await;
    let gateway = Gateway::before(backend.address).top(top).start();
    let mut raw = gateway.raw().await;
    let fields = sent.iter().fold(String::new(), |all, (name, value)| all + name + ": " + value + "\r\n");
    raw.send(format!("GET /note HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
    let get = backend.expect("GET", "/note").await;
    let mut told = String::new();
    for name in NAMES.iter().filter(|name| get.fields.contains_key(**name)) {
        writeln!(told, "{name}: {}", &lines(&get.fields, name)[1..]).expect("a string grows");
    }
    get.answer(200, &[], "").await;
    raw.answer("GET").await;
    told
}

const ALONE: &str = "forwarded: for=127.0.0.1;proto=http;host=\"a\"\nx-forwarded-for: 127.0.0.1\n\
                     x-forwarded-host: a\nx-forwarded-proto: http\n";

const FORGED: [(&str, &str); 5] = [
    ("Forwarded", "for=6.6.6.6;proto=https"),
    ("X-Forwarded-For", "6.6.6.6"),
    ("X-Forwarded-Host", "evil"),
    ("X-Forwarded-Port", "6"),
    ("X-Forwarded-Proto", "https"),
];

#[tokio::test]
async fn what_a_stranger_says_is_replaced() {
    let trusting = |rule: &str| format!("forwarded = \"{rule}\"\ntrusted_proxies = [\"10.0.0.0/8\", \"::1\"]");
    for top in ["", "forwarded = \"append\"", &trusting("append"), &trusting("replace")] {
        assert_eq!(told(top, &FORGED).await, ALONE, "{top}");
        assert_eq!(told(top, &[]).await, ALONE, "{top}");
    }
    // Not even a trusted proxy's word counts where all is replaced.
    assert_eq!(told("forwarded = \"replace\"\ntrusted_proxies = [\"127.0.0.1\"]", &FORGED).await, ALONE);
}

#[tokio::test]
async fn all_passes_and_nothing_is_added_where_it_is_off() {
    let top = "forwarded = \"off\"\ntrusted_proxies = [\"127.0.0.1\"]";
    let untouched = "forwarded: for=6.6.6.6;proto=https\nx-forwarded-for: 6.6.6.6\nx-forwarded-host: evil\n\
                     x-forwarded-port: 6\nx-forwarded-proto: https\n";
    assert_eq!(told(top, &FORGED).await, untouched);
    assert_eq!(told(top, &[]).await, "");
    // Neither folded names nor `Connection` change that.
    assert_eq!(told(top, &[("X_Forwarded_For", "6.6.6.6"), ("X-Forwarded_Proto", "https")]).await, "");
    let named = [("X-Forwarded-For", "6.6.6.6"), ("Connection", "X-Forwarded-For")];
    assert_eq!(told(top, &named).await, "x-forwarded-for: 6.6.6.6\n");
}

#[tokio::test]
async fn a_probe_tells_what_the_request_tells() {
    for (top, expected) in [("forwarded = \"off\"", "6.6.6.6"), ("", "127.0.0.1")] {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).top(top).start();
        let call = gateway.put("/note", "x").if_match("\"1\"").with("x-forwarded-for", "6.6.6.6");
        let writer = crate::support::begin(call);
        let probe = backend.expect("HEAD", "/note").await;
        assert_eq!(probe.field("x-forwarded-for"), Some(expected));
        probe.answer(200, &[("ETag", "\"2\"")], "").await;
        assert_eq!(writer.answer().await.status, 409);
    }
}

/// What a trusted proxy says, and what becomes of it: `X-Forwarded-For`, `Forwarded`.
#[tokio::test]
async fn a_trusted_proxys_chain_goes_on() {
    const OWN: &str = "for=127.0.0.1;proto=http;host=\"a\"";
    let top = "forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\", \"2001:db8::/32\"]";
    let chain = |first: &str| format!("{first}, 127.0.0.1");
    let element = |first: &str| format!("{first}, {OWN}");
    for (sent, addresses, elements) in [
        (&[][..], "127.0.0.1".into(), OWN.into()),
        (&[("X-Forwarded-For", "1.2.3.4")], chain("1.2.3.4"), element("for=1.2.3.4")),
        // The client's own claim stays in the chain, and is not taken for the client.
        (&[("X-Forwarded-For", "6.6.6.6, 1.2.3.4")], chain("6.6.6.6, 1.2.3.4"), element("for=1.2.3.4")),
        (&[("X-Forwarded-For", "1.2.3.4,10.0.0.1")], chain("1.2.3.4, 10.0.0.1"), element("for=1.2.3.4")),
        (
            &[("X-Forwarded-For", "1.2.3.4"), ("X-Forwarded-For", "10.0.0.1")],
            chain("1.2.3.4, 10.0.0.1"),
            element("for=1.2.3.4"),
        ),
        (&[("X-Forwarded-For", " , 1.2.3.4:567, ")], chain("1.2.3.4:567"), element("for=1.2.3.4")),
        (&[("X-Forwarded-For", "::ffff:1.2.3.4")], chain("::ffff:1.2.3.4"), element("for=1.2.3.4")),
        (&[("X-Forwarded-For", "[2001:db9::1]:80")], chain("[2001:db9::1]:80"), element("for=\"[2001:db9::1]\"")),
        (
            &[("X-Forwarded-For", "2001:db9::1, 2001:db8::1")],
            chain("2001:db9::1, 2001:db8::1"),
            element("for=\"[2001:db9::1]\""),
        ),
        (&[("X-Forwarded-For", "unknown")], chain("unknown"), OWN.into()),
        (
            &[("X-Forwarded-For", "1.2.3.4, nonsense, 10.0.0.1")],
            chain("1.2.3.4, nonsense, 10.0.0.1"),
            element("for=10.0.0.1"),
        ),
        (&[("Forwarded", "for=1.2.3.4;proto=https")], chain("1.2.3.4"), element("for=1.2.3.4;proto=https")),
        (
            &[("Forwarded", "For=\"[2001:db9::1]:4711\" ; by=_x")],
            chain("2001:db9::1"),
            element("For=\"[2001:db9::1]:4711\" ; by=_x"),
        ),
        (
            &[("Forwarded", "for=6.6.6.6,for=1.2.3.4"), ("Forwarded", "for=10.0.0.1")],
            chain("1.2.3.4"),
            element("for=6.6.6.6, for=1.2.3.4, for=10.0.0.1"),
        ),
        (
            &[("Forwarded", "for=\"_a,b;for=6.6.6.6\", for=1.2.3.4")],
            chain("1.2.3.4"),
            element("for=\"_a,b;for=6.6.6.6\", for=1.2.3.4"),
        ),
        // A quote that is not closed would swallow what follows.
        (&[("Forwarded", "for=\"6.6.6.6")], "127.0.0.1".into(), OWN.into()),
        (&[("Forwarded", "for=\"6.6.6.6\\\"")], "127.0.0.1".into(), OWN.into()),
        // Both, of one client and of two.
        (&[("Forwarded", "for=1.2.3.4"), ("X-Forwarded-For", "1.2.3.4")], chain("1.2.3.4"), element("for=1.2.3.4")),
        (
            &[("Forwarded", "for=6.6.6.6;proto=https"), ("X-Forwarded-For", "1.2.3.4")],
            chain("1.2.3.4"),
            element("for=1.2.3.4"),
        ),
        (&[("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "unknown")], chain("unknown"), OWN.into()),
    ] {
        let expected = format!(
            "forwarded: {elements}\nx-forwarded-for: {addresses}\nx-forwarded-host: a\nx-forwarded-proto: {}\n",
            if elements.starts_with("for=1.2.3.4;proto=https") { "https" } else { "http" }
        );
        assert_eq!(told(top, sent).await, expected, "{sent:?}");
    }
}

#[tokio::test]
async fn a_trusted_proxy_says_what_the_client_asked() {
    let top = "forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1\"]";
    for (proto, kept) in [("https", "https"), ("HTTPS", "HTTPS"), ("http", "http"), ("wss", "wss")] {
        let sent = [
            ("X-Forwarded-For", "1.2.3.4"),
            ("X-Forwarded-Host", "www.example"),
            ("X-Forwarded-Port", "8443"),
            ("X-Forwarded-Proto", proto),
        ];
        let expected = format!(
            "forwarded: for=1.2.3.4, for=127.0.0.1;proto=http;host=\"a\"\nx-forwarded-for: 1.2.3.4, 127.0.0.1\n\
             x-forwarded-host: www.example\nx-forwarded-port: 8443\nx-forwarded-proto: {kept}\n"
        );
        assert_eq!(told(top, &sent).await, expected);
    }
}

/// Of a long chain the end counts, and it does not grow without bound.
#[tokio::test]
async fn a_chain_has_an_end() {
    let top = "forwarded = \"append\"\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let many = format!("1.2.3.4{}", ", 10.0.0.1".repeat(1000));
    let wide = format!("1.2.3.4{}", format!(", {}", "x".repeat(3000)).repeat(3));
    for (sent, members) in [(many, 33), (wide, 2)] {
        let told = told(top, &[("X-Forwarded-For", &sent)]).await;
        let chain = told.lines().find_map(|line| line.strip_prefix("x-forwarded-for: ")).expect("a chain");
        assert_eq!(chain.split(", ").count(), members, "{chain}");
        assert!(chain.ends_with(", 127.0.0.1") && !chain.contains("1.2.3.4"), "{chain}");
    }
}
