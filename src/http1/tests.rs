//! HTTP/1 as bytes: rows, and this server beside hyper's.
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use proptest::prelude::*;

use super::{
    chunked::{Chunked, Piece},
    request::{Bounds, Framing, Head, Refusal, may_be_whole, parse},
};
use crate::{
    core::{
        message::{self, Response},
        value::FieldValue,
    },
    http1,
};

mod compared;

use compared::{Answer, BOUNDS, Handled, Outcome, compare, hypers, nothing, ours};

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime").block_on(future)
}

fn head(text: &str) -> Head {
    parse(text.as_bytes(), &BOUNDS).expect("a head").expect("all of it").0
}

fn refusal(text: &str) -> Option<Refusal> {
    parse(text.as_bytes(), &BOUNDS).err()
}

#[test]
fn what_the_fields_of_a_request_say_of_its_connection() {
    let (none, five) = (Framing::Length(0), Framing::Length(5));
    let rows = [
        ("1.1", "", none, true),
        ("1.0", "", none, false),
        ("1.0", "Connection: Keep-Alive", none, true),
        ("1.0", "Connection: keep-alive\r\nConnection: close", none, false),
        ("1.1", "Connection: x, close ,y", none, false),
        ("1.1", "Connection: close\r\nConnection: keep-alive", none, false),
        ("1.1", "Connection: closed", none, true),
        ("1.1", "Content-Length: 5", five, true),
        ("1.1", "Content-Length: 5\r\nContent-Length: 05", five, true),
        ("1.1", "Transfer-Encoding: gzip, Chunked", Framing::Chunked, true),
        ("1.1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", Framing::Chunked, true),
        ("1.1", "Content-Length: 5\r\nTransfer-Encoding: chunked", Framing::Chunked, false),
        ("1.1", "Transfer-Encoding: chunked\r\nContent-Length: x", Framing::Chunked, false),
    ];
    for (version, fields, framing, keeps_alive) in rows {
        let head =
            head(&format!("PUT / HTTP/{version}\r\n{fields}{}\r\n", if fields.is_empty() { "" } else { "\r\n" }));
        assert_eq!((head.framing, head.keeps_alive), (framing, keeps_alive), "{version} {fields}");
        let coded = head.framing == Framing::Chunked;
        assert!(!coded || !head.request.headers.contains_key("content-length"), "only one of them: {fields}");
    }
    for (fields, awaits) in [
        ("Expect: 100-Continue\r\nContent-Length: 1\r\n", true),
        ("Expect: 100-continue\r\n", false),
        ("Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("Expect: other\r\nContent-Length: 1\r\n", false),
    ] {
        assert_eq!(head(&format!("PUT / HTTP/1.1\r\n{fields}\r\n")).awaits_continue, awaits, "{fields}");
    }
    assert!(!head("PUT / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").awaits_continue);
    assert!(head("GET / HTTP/1.1\r\nUpgrade: a\r\n\r\n").asks_to_switch);
    assert!(head("CONNECT a:1 HTTP/1.1\r\n\r\n").asks_to_switch);
    assert!(!head("GET / HTTP/1.0\r\nUpgrade: a\r\n\r\n").asks_to_switch);
    assert!(head("GET / HTTP/1.1\r\nTE: gzip, Trailers\r\n\r\n").takes_trailers);
}

#[test]
fn what_is_no_head_is_refused() {
    let with = |field: &str| format!("PUT / HTTP/1.1\r\n{field}\r\n\r\n");
    for field in [
        "Content-Length: +5",
        "Content-Length: 5, 5",
        "Content-Length:",
        "Content-Length: 5\r\nContent-Length: 6",
        "Content-Length: 18446744073709551616",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: chunked, gzip",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: \u{b}chunked",
        "X : y",
        "X: a\r\n b",
        "X: a\rb",
        "X: a\0",
        "X\u{1}: a",
        ": a",
    ] {
        assert_eq!(refusal(&with(field)), Some(Refusal::Malformed), "{field}");
    }
    assert_eq!(refusal("PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Some(Refusal::Malformed));
    for line in ["GET /", "GET / HTTP/0.9", "GET / HTTP/2.0", "PRI * HTTP/2.0", "G@T / HTTP/1.1", "GET  / HTTP/1.1"] {
        assert_eq!(refusal(&format!("{line}\r\n\r\n")), Some(Refusal::Malformed), "{line}");
    }
    assert_eq!(refusal(&with("Content-Length: 18446744073709551615")), Some(Refusal::TooLarge));
    assert_eq!(refusal(&with(&["X: y"; 11].join("\r\n"))), Some(Refusal::TooLarge));
    assert_eq!(refusal(&with(&format!("X: {}", "y".repeat(8192)))), Some(Refusal::TooLarge));
    assert_eq!(refusal(&"x".repeat(8192)), Some(Refusal::TooLarge));
    let bounds = Bounds { bytes: 1024 * 1024, fields: 10_000 };
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(65_534));
    assert_eq!(parse(long.as_bytes(), &bounds).err(), Some(Refusal::TargetTooLong));
    let many = with(&["X: y"; 9_000].join("\r\n"));
    let (head, length) = parse(many.as_bytes(), &bounds).expect("a head").expect("all of it");
    assert_eq!((head.request.headers.len(), length), (9_000, many.len()));
}

proptest! {
    /// That there may be a whole head is said no later than that there is one.
    #[test]
    fn a_head_is_found_however_it_comes(text in "[GX/: \r\n]{0,20}(\r\n\r\n|\n\n|\n\r\n)?", cuts in prop::collection::vec(0..24usize, 0..6)) {
        let text = format!("GET / HTTP/1.1\r\n{text}");
        let bytes = text.as_bytes();
        let mut seen = 0;
        for end in cuts.into_iter().scan(0, |end, cut| { *end += cut; Some(*end) }).filter(|end| *end <= bytes.len()) {
            if matches!(parse(&bytes[..end], &BOUNDS), Ok(Some(_))) && !matches!(parse(&bytes[..seen], &BOUNDS), Ok(Some(_))) {
                prop_assert!(may_be_whole(&bytes[..end], seen));
            }
            seen = end;
        }
    }

    #[test]
    fn chunks_are_read_however_they_come(body in CHUNKS, cuts in prop::collection::vec(1..9usize, 1..9)) {
        let whole = unchunk(&[body.as_bytes()]);
        let mut pieces = Vec::new();
        let (mut rest, mut cut) = (body.as_bytes(), cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cut.next().expect("a cycle")).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(unchunk(&pieces), whole);
    }
}

const CHUNKS: &str =
    "([0-3]?[0-3](;[a\"]{0,3})?(\r\n|\n|)[0-9a-f]{0,4}(\r\n|\r|)){0,3}0\r\n(X: [yz]{0,3}(\r\n|\n)){0,2}(\r\n)?";

/// What can be read of a body in chunks: its content, its trailers, and whether it ended, broke off or goes on.
fn unchunk(pieces: &[&[u8]]) -> (Vec<u8>, Option<HeaderMap>, Option<bool>) {
    let mut chunked = Chunked::new(BOUNDS);
    let (mut data, mut trailers, mut ahead) = (Vec::new(), None, BytesMut::new());
    for piece in pieces {
        ahead.extend_from_slice(piece);
        loop {
            match chunked.decode(&mut ahead) {
                Ok(Some(Piece::Data(came))) => data.extend_from_slice(&came),
                Ok(Some(Piece::Trailers(came))) => trailers = Some(came),
                Ok(Some(Piece::End)) => return (data, trailers, Some(true)),
                Ok(None) => break,
                Err(_) => return (data, trailers, Some(false)),
            }
        }
    }
    (data, trailers, None)
}

#[test]
fn bodies_in_chunks() {
    for (body, content, ended) in [
        ("5\r\nhello\r\n0\r\n\r\n", "hello", Some(true)),
        ("2 \t;a=\"b;c\"\r\nhe\r\n03;\r\nllo\r\n000\r\n\r\n", "hello", Some(true)),
        ("0\r\nX: y\r\n\r\n", "", Some(true)),
        ("5\r\nhel", "hel", None),
        ("5\r\nhello\r\n0\r\n", "hello", None),
        ("5\nhello", "", Some(false)),
        ("5\r\nhello0\r\n\r\n", "hello", Some(false)),
        ("+5\r\nhello", "", Some(false)),
        ("5 5\r\nhello", "", Some(false)),
        (" 5\r\nhello", "", Some(false)),
        ("\r\n", "", Some(false)),
        (";\r\n", "", Some(false)),
        ("10000000000000000\r\n", "", Some(false)),
        ("0\r\nX\r\n\r\n", "", Some(false)),
        ("0\r\nX: y\n\r\nY: z\r\n\r\n", "", Some(false)),
        ("0\r\nX: a\rb\r\n\r\n", "", Some(false)),
    ] {
        let (data, _, how) = unchunk(&[body.as_bytes()]);
        assert_eq!((String::from_utf8_lossy(&data).as_ref(), how), (content, ended), "{body:?}");
    }
    let (_, trailers, _) = unchunk(&[b"1\r\nx\r\n0\r\nX: y\r\nZ:  a \r\n\r\n"]);
    let trailers = trailers.expect("trailers");
    assert_eq!((&trailers["x"], &trailers["z"]), (&HeaderValue::from_static("y"), &HeaderValue::from_static("a")));
    let many = |count: usize| format!("0\r\n{}\r\n", "X: y\r\n".repeat(count));
    assert_eq!(unchunk(&[many(10).as_bytes()]).2, Some(true));
    assert_eq!(unchunk(&[many(11).as_bytes()]).2, Some(false));
    assert_eq!(unchunk(&[format!("0\r\nX: {}", "y".repeat(9000)).as_bytes()]).2, Some(false));
    assert_eq!(unchunk(&[format!("0;{}", "y".repeat(17_000)).as_bytes()]).2, Some(false));
    assert_eq!(unchunk(&["0".repeat(300).as_bytes()]).2, Some(false));
    assert_eq!(unchunk(&[format!("{}5\r\nhello\r\n0\r\n\r\n", "0".repeat(200)).as_bytes()]).2, Some(true));
}

/// Parts of connections, some of them wrong.
const PARTS: [&str; 40] = [
    "GET / HTTP/1.1\r\n",
    "PUT /a?b HTTP/1.1\r\n",
    "HEAD http://a/ HTTP/1.1\r\n",
    "GET / HTTP/1.0\r\n",
    "POST /\u{e9} HTTP/1.1\n",
    "OPTIONS * HTTP/1.1\r\n",
    "CONNECT a:1 HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n",
    "GET  / HTTP/1.1\r\n",
    "Host: a\r\n",
    "X: y\n",
    "X:\r\n",
    "X: a\r\n b\r\n",
    "X : y\r\n",
    "x-y: \u{e9}\r\n",
    "Content-Length: 5\r\n",
    "Content-Length: 0\r\n",
    "Content-Length: 5, 5\r\n",
    "Content-Length: 18446744073709551615\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: identity\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: a\r\n",
    "TE: trailers\r\n",
    "\r\n",
    "\r\n",
    "\r\n",
    "\n",
    "hello",
    "5\r\nhello\r\n",
    "5;a=b\r\nhello\r\n",
    "0\r\n\r\n",
    "0\r\nX: y\r\n\r\n",
    "a\r\n0123456789\r\n",
    "5\nhello\r\n",
    "\r",
    "\0",
];

/// Whole messages, of which a connection mostly is made.
const MESSAGES: [&str; 8] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    "PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "\r\n\r\nDELETE /b HTTP/1.1\r\nConnection: x, close\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
];

/// The next of a sequence that is the same in every run (xorshift).
fn next(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    usize::try_from(*state >> 33).expect("31 bits")
}

fn connection(state: &mut u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..1 + next(state) % 6 {
        if !next(state).is_multiple_of(3) {
            bytes.extend_from_slice(MESSAGES[next(state) % MESSAGES.len()].as_bytes());
        } else {
            for _ in 0..next(state) % 8 {
                bytes.extend_from_slice(PARTS[next(state) % PARTS.len()].as_bytes());
            }
        }
    }
    for _ in 0..next(state) % 3 {
        let place = next(state) % bytes.len().max(1);
        match next(state) % 4 {
            _ if bytes.is_empty() => {}
            0 => drop(bytes.remove(place)),
            1 => bytes.insert(place, b"\r\n \t:;,0aZ\0\x80"[next(state) % 12]),
            2 => bytes[place] = u8::try_from(next(state) % 256).expect("a byte"),
            _ => bytes.truncate(place),
        }
    }
    bytes
}

#[test]
fn nothing_is_read_that_hyper_does_not_read_nor_otherwise() {
    let mut state = 0x1F_3C_9A_77;
    for round in 0..4_000 {
        let bytes = connection(&mut state);
        let cuts: Vec<_> =
            (0..next(&mut state) % 4).map(|_| 1 + u8::try_from(next(&mut state) % 40).expect("few")).collect();
        let compared = std::panic::AssertUnwindSafe(|| run(compare(&bytes, &cuts)));
        if std::panic::catch_unwind(compared).is_err() {
            panic!("round {round}: \"{}\" in {cuts:?}", bytes.escape_ascii());
        }
    }
}

/// An answer as the target asks for it: status, how its length is told, fields.
fn asked(request: &Handled) -> Answer {
    let mut parts = request.target.trim_start_matches('/').split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (status, kind, wanted) = (part(), part(), part());
    let data = |text: &'static str| Frame::data(Bytes::from_static(text.as_bytes()));
    let stream = |frames: Vec<_>| BoxBody::new(Frames(frames));
    let body = match kind {
        "full" => Full::new(Bytes::from_static(b"hello")).boxed(),
        "stream" => stream(vec![data("hel"), data(""), data("lo")]),
        "trailers" => {
            let trailers = [("x-sum", "1"), ("x-other", "2"), ("content-length", "3")];
            let trailer = |(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
            stream(vec![data("hello"), Frame::trailers(trailers.into_iter().map(trailer).collect())])
        }
        _ => BoxBody::default(),
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = status.parse().expect("a status");
    for field in wanted.split(',').filter(|field| !field.is_empty()) {
        let (name, value) = match field {
            "length" => ("content-length", if kind == "empty" { "0" } else { "5" }),
            "close" => ("connection", "close"),
            "keep" => ("connection", "keep-alive"),
            "foo" => ("connection", "foo"),
            "date" => ("date", "then"),
            "trailer" => ("trailer", "X-Sum, content-length"),
            other => ("x-field", if other == "other" { "1" } else { "2" }),
        };
        answer.headers_mut().append(HeaderName::from_static(name), FieldValue::from_static(value));
    }
    answer
}

/// A body that does not say how long it is.
struct Frames(Vec<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready((!self.0.is_empty()).then(|| Ok(self.0.remove(0))))
    }
}

/// What was written, but for the date and the order in which the fields of a head stand.
fn without_date(outcome: &Outcome) -> String {
    let text = String::from_utf8(outcome.written.clone()).expect("ASCII");
    let is_field = |line: &&str| line.contains(": ");
    let is_now = |line: &&str| line.starts_with("date: ") && !line.contains("then");
    let mut lines: Vec<_> = text.split_inclusive("\r\n").filter(|line| !is_now(line)).collect();
    lines
        .chunk_by_mut(|one, next| is_field(one) == is_field(next))
        .filter(|run| is_field(&run[0]))
        .for_each(<[_]>::sort);
    lines.concat()
}

/// But for what is said differently on purpose: no `keep-alive` where the answer ends with the connection, and no length
/// of what has none.
#[test]
fn answers_are_written_as_hyper_writes_them() {
    let fields = [
        "",
        "length",
        "close",
        "keep",
        "foo",
        "foo,close",
        "foo,keep",
        "date",
        "other,more",
        "trailer",
        "length,trailer",
    ];
    for head in [
        "GET {} HTTP/1.1\r\n\r\n",
        "GET {} HTTP/1.1\r\nTE: trailers\r\n\r\n",
        "GET {} HTTP/1.1\r\nConnection: close\r\n\r\n",
        "HEAD {} HTTP/1.1\r\n\r\n",
        "GET {} HTTP/1.0\r\n\r\n",
        "GET {} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "PUT {} HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi",
    ] {
        for status in ["200", "204", "304", "404", "599"] {
            for kind in ["empty", "full", "stream", "trailers"] {
                for fields in fields {
                    let is_bodiless = head.starts_with("HEAD") || status == "204" || status == "304";
                    if status == "204" && fields.contains("length") || kind == "empty" && fields.contains("length") {
                        continue;
                    }
                    // hyper takes such a body away before it looks.
                    if is_bodiless && matches!(kind, "stream" | "trailers") && !fields.contains("length") {
                        continue;
                    }
                    let request = head.replace("{}", &format!("/{status}/{kind}/{fields}")).repeat(2);
                    let (ours, hypers) = run(async {
                        (ours(request.as_bytes(), &[], asked).await, hypers(request.as_bytes(), asked).await)
                    });
                    let is_open = matches!(kind, "stream" | "trailers") && !is_bodiless && !fields.contains("length");
                    let ends_with_it = head.contains("keep-alive") && (is_open || fields.contains("close"));
                    if !ends_with_it {
                        assert_eq!(without_date(&ours), without_date(&hypers), "{request}");
                    }
                    assert_eq!(ours.handled, hypers.handled, "{request}");
                }
            }
        }
    }
}

#[test]
fn an_answer_that_is_shorter_than_it_says_is_not_ended() {
    let short = |_: &Handled| {
        let mut answer = Response::new(BoxBody::new(Frames(vec![Frame::data("hel".into())])));
        answer.headers_mut().insert("content-length", FieldValue::from_static("5"));
        answer
    };
    let request = "GET / HTTP/1.1\r\n\r\n".repeat(2);
    let outcome = run(ours(request.as_bytes(), &[], short));
    assert_eq!((outcome.handled.len(), outcome.statuses()), (1, vec![]));
    assert_eq!(run(ours(request.as_bytes(), &[], nothing)).handled.len(), 2);
}
