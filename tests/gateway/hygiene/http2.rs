//! The same over HTTP/2, by hand: frames with fields that a client of the h2 crate would not send. The fields are literals
//! that the server does not index (RFC 7541 §6.2.2).

use super::{ADDED, Ear};
use crate::support::{Gateway, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Status(u16),
    /// The stream was reset, or the connection was given up.
    Refused,
}

const OK: End = End::Status(200);
const BAD: End = End::Status(400);

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A request on a connection of its own.
fn request(fields: &[(&str, &str)], data: Option<&str>) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let end_of_stream = u8::from(data.is_none());
    let mut all = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    all.extend(frame(4, 0, 0, b""));
    all.extend(frame(1, 4 | end_of_stream, 1, &block));
    all.extend(data.map(|data| frame(0, 1, 1, data.as_bytes())).unwrap_or_default());
    all
}

/// Reads frames until the request has ended.
async fn end(stream: &mut TcpStream) -> End {
    let mut status = None;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return End::Refused;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.expect("a whole frame");
        let (kind, flags) = (head[3], head[4]);
        match kind {
            // The static table's indices of the two statuses.
            1 if payload[0] == 0x88 => status = Some(OK),
            1 if payload[0] == 0x8C => status = Some(BAD),
            1 => panic!("an answer that no row expects: {}", payload.escape_ascii()),
            3 | 7 => return End::Refused,
            _ => {}
        }
        if matches!(kind, 0 | 1) && flags & 1 == 1 {
            return status.expect("a status");
        }
    }
}

async fn row(fields: &[(&str, &str)], data: Option<&str>, told: End, heard: impl AsRef<[u8]>) {
    let ear = Ear::start().await;
    let gateway = Gateway::before(ear.address).one_worker().start();
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    stream.write_all(&request(fields, data)).await.expect("the gateway reads");
    let ended = within("the end of a request over HTTP/2", end(&mut stream)).await;
    drop(stream);
    gateway.stop();
    gateway.stopped().await;
    let got = ear.heard().await.escape_ascii().to_string();
    assert_eq!(got, heard.as_ref().escape_ascii().to_string(), "{fields:?}");
    assert_eq!(ended, told, "{fields:?}");
}

/// The pseudo-header fields of a request for `/note` at `a`.
fn head<'a>(method: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/note")];
    fields.extend(more);
    fields
}

fn changed<'a>(name: &str, values: &[&'a str]) -> Vec<(&'a str, &'a str)> {
    let mut fields = head("GET", &[]);
    let at = fields.iter().position(|field| field.0 == name).expect("a field");
    let name = fields.remove(at).0;
    for value in values.iter().rev() {
        fields.insert(at, (name, value));
    }
    fields
}

fn heard(first: &str, fields: &str, rest: &str) -> String {
    let added = ADDED.replace("1.1 ifmatch", "2.0 ifmatch");
    format!("{first} HTTP/1.1\r\nhost: a\r\n{fields}{added}{rest}")
}

#[tokio::test]
async fn targets() {
    let read = heard("GET /note", "", "\r\n");
    row(&head("GET", &[]), None, OK, &read).await;
    row(&head("GET", &[("host", "a")]), None, OK, &read).await;
    row(&head("GET", &[("host", "A:80")]), None, OK, &read).await;
    row(&changed(":scheme", &["https"]), None, OK, &read).await;
    let mut by_host = changed(":authority", &[]);
    by_host.push(("host", "a"));
    row(&by_host, None, OK, &read).await;
    for fields in [
        head("GET", &[("host", "b")]),
        head("GET", &[("host", "a"), ("host", "a")]),
        head("GET", &[("host", "a b")]),
        changed(":authority", &[]),
        changed(":authority", &["u@a"]),
        changed(":authority", &["u:p@a"]),
        changed(":authority", &["a,b"]),
        changed(":path", &["*"]),
        changed(":path", &["/a%00"]),
        changed(":path", &["/a\\b"]),
        changed(":scheme", &["ftp"]),
    ] {
        row(&fields, None, BAD, "").await;
    }
    let mut options = changed(":path", &["*"]);
    options[0].1 = "OPTIONS";
    row(&options, None, BAD, "").await;
    for fields in [
        changed(":authority", &["a", "b"]),
        changed(":authority", &["a/b"]),
        changed(":path", &[]),
        changed(":path", &[""]),
        changed(":path", &["foo"]),
        changed(":path", &["http://a/note"]),
        changed(":path", &["/note", "/victim"]),
        changed(":path", &["/no te"]),
        changed(":scheme", &[]),
        changed(":method", &["GET", "PUT"]),
    ] {
        row(&fields, None, End::Refused, "").await;
    }
}

#[tokio::test]
async fn fields() {
    for field in [
        ("connection", "close"),
        ("connection", "if-match"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("te", "gzip"),
        ("X-Upper", "1"),
        ("x y", "1"),
        ("x:y", "1"),
        ("", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\nb"),
        ("x", "a\0b"),
        (":path", "/victim"),
        (":status", "200"),
        ("content-length", "+5"),
        ("content-length", "5, 5"),
    ] {
        row(&head("GET", &[field]), None, End::Refused, "").await;
    }
    for field in
        [("if_match", "\"0\""), ("x_forwarded_for", "1"), ("forwarded", "for=1"), ("http2-settings", "AAMAAABk")]
    {
        row(&head("GET", &[field]), None, OK, heard("GET /note", "", "\r\n")).await;
    }
    let cookies = [("cookie", "a"), ("x", "1"), ("cookie", "b"), ("cookie", "c")];
    row(&head("GET", &cookies), None, OK, heard("GET /note", "x: 1\r\ncookie: a; b; c\r\n", "\r\n")).await;
}

#[tokio::test]
async fn lengths() {
    let whole = heard("PUT /note", "", "content-length: 5\r\n\r\nhello");
    row(&head("PUT", &[]), Some("hello"), OK, &whole).await;
    row(&head("PUT", &[("content-length", "5")]), Some("hello"), OK, &whole).await;
    for length in ["4", "6", "0"] {
        row(&head("PUT", &[("content-length", length)]), Some("hello"), End::Refused, "").await;
    }
    for fields in
        [[("content-length", "5"), ("content-length", "6")], [("content-length", "5"), ("content-length", "x")]]
    {
        row(&head("PUT", &fields), Some("hello"), End::Refused, "").await;
    }
}
