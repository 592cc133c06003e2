//! The table: what a client may send on one connection, byte for byte, and exactly what the backend then receives.
//!
//! A row for each case of framing, smuggling and fields of one hop. The backend is a listening socket that writes down what
//! comes and answers each whole request with 200 and the tag `"1"`. Nothing that differs between two runs is left out,
//! since nothing does.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{Gateway, Script, outside, raw_put, within};

mod http2;

/// What the gateway adds to every request by which it says for whom it forwards it.
const ADDED: &str = "via: 1.1 ifmatch\r\ntraceparent: begun here\r\nx-forwarded-for: 127.0.0.1\r\n\
                     x-forwarded-proto: http\r\nx-forwarded-host: a\r\n\
                     forwarded: for=127.0.0.1;proto=http;host=\"a\"\r\n";
/// A request that must not run where it stands in a body.
const VICTIM: &str = "DELETE /victim HTTP/1.1\r\nHost: a\r\n\r\n";
/// What comes next on the connection, and must not be harmed.
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: a\r\n\r\n";
/// The body `hello` in chunks.
const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";

/// A backend that writes down all that comes to it.
struct Ear {
    address: SocketAddr,
    listening: JoinHandle<Vec<u8>>,
}

impl Ear {
    async fn start() -> Self {
        let listener = outside().spawn(TcpListener::bind("127.0.0.1:0")).await.expect("a task").expect("a port");
        let address = listener.local_addr().expect("an address");
        let listening = outside().spawn(async move {
            let mut connections = Vec::new();
            loop {
                let (stream, peer) = listener.accept().await.expect("a connection");
                // The last one, made by `heard`.
                if peer.ip() == "127.0.0.2".parse::<std::net::IpAddr>().expect("an address") {
                    break;
                }
                connections.push(tokio::spawn(listen(stream)));
            }
            let mut all = Vec::new();
            for connection in connections {
                all.extend(connection.await.expect("a task"));
            }
            all
        });
        Self { address, listening }
    }

    /// All that has come, connection after connection, without the digits of traces that begin here. The gateway must have
    /// stopped.
    async fn heard(self) -> Vec<u8> {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.2:0".parse().expect("an address")).expect("a port");
        let _last = socket.connect(self.address).await.expect("a connection");
        let mut came = within("the backend's connections to end", self.listening).await.expect("a task");
        let (begin, digits) = (b"traceparent: ", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".len());
        let mut from = 0;
        while let Some(found) = find(&came[from..], begin) {
            from += found + begin.len();
            assert_eq!(&came[from + digits..from + digits + 2], b"\r\n");
            came.splice(from..from + digits, *b"begun here");
        }
        came
    }
}

async fn listen(mut stream: TcpStream) -> Vec<u8> {
    let (mut came, mut answered) = (Vec::new(), 0);
    while let Ok(1..) = stream.read_buf(&mut came).await {
        while let Some(length) = request_length(&came[answered..]) {
            answered += length;
            let answer = b"HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 0\r\n\r\n";
            // Who does not take it has hung up, which the next read will show.
            let _ = stream.write_all(answer).await;
        }
    }
    came
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// How long the first request is, if all of it is there.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let fields = String::from_utf8_lossy(&bytes[..head]).to_lowercase();
    let field = |name: &str| fields.split_once(name)?.1.split("\r\n").next().map(str::to_owned);
    if field("\r\ntransfer-encoding: ").is_some() {
        let mut at = head;
        loop {
            let line = find(&bytes[at..], b"\r\n")?;
            let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).expect("a size");
            at += line + 2;
            if size == 0 {
                return Some(at + find(&bytes[at - 2..], b"\r\n\r\n")? + 2);
            }
            at += size + 2;
            if at > bytes.len() {
                return None;
            }
        }
    }
    let whole = head + field("\r\ncontent-length: ").map_or(0, |length| length.parse().expect("a length"));
    (whole <= bytes.len()).then_some(whole)
}

/// Sends bytes, says that there are no more, and reads until the gateway closes. What the client and the backend got.
async fn spoken(sent: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let ear = Ear::start().await;
    let gateway = Gateway::before(ear.address).one_worker().guard("settle = \"0s\"").start();
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    let mut answers = Vec::new();
    let exchange = async {
        let (mut from, mut to) = stream.split();
        let send = async {
            // A gateway that has seen enough may close before it has all.
            if to.write_all(sent).await.is_ok() {
                let _ = to.shutdown().await;
            }
        };
        let read = async { while let Ok(1..) = from.read_buf(&mut answers).await {} };
        tokio::join!(send, read);
    };
    within("the gateway to close the connection", exchange).await;
    drop(stream);
    gateway.stop();
    gateway.stopped().await;
    (answers, ear.heard().await)
}

/// The statuses of all answers.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    let status = |answer: &str| answer.get(2..5).and_then(|status| status.parse().ok());
    text.split("HTTP/1.").skip(1).filter_map(status).collect()
}

/// A row: what is sent, what the client is told, what the backend gets.
async fn row(sent: impl AsRef<[u8]>, told: &[u16], heard: impl AsRef<[u8]>) {
    let sent = sent.as_ref();
    let (answers, got) = spoken(sent).await;
    let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
    assert_eq!(shown(&got), shown(heard.as_ref()), "{}", shown(sent));
    assert_eq!(statuses(&answers), told, "{}", shown(sent));
}

/// A row of what does not reach the backend.
async fn refused(sent: impl AsRef<[u8]>) {
    row(sent, &[400], "").await;
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// A GET with these fields, of which the last has no line end.
fn get_with(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET /note HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n\r\n"].concat()
}

/// The same of a PUT, with its body.
fn put(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"PUT /note HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n\r\n", body.as_ref()].concat()
}

/// What the backend gets of a read. The fields have their line ends.
fn got(target: &str, fields: impl AsRef<[u8]>) -> Vec<u8> {
    let head = format!("GET {target} HTTP/1.1\r\nhost: a\r\n");
    [head.as_bytes(), fields.as_ref(), ADDED.as_bytes(), b"\r\n"].concat()
}

/// What it gets of a write.
fn got_put(fields: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("PUT /note HTTP/1.1\r\nhost: a\r\n{fields}{ADDED}content-length: {length}\r\n\r\n{body}").into_bytes()
}

/// What it gets of a probe.
fn got_probe(fields: &str) -> Vec<u8> {
    format!("HEAD /note HTTP/1.1\r\nhost: a\r\n{fields}{ADDED}cache-control: no-cache\r\n\r\n").into_bytes()
}

#[tokio::test]
async fn one_host() {
    for host in [
        "",
        "Host: a\r\nHost: a\r\n",
        "Host: a\r\nHost: b\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: a,b\r\n",
        "Host: a, b\r\n",
        "Host: u@a\r\n",
        "Host: a:99999\r\n",
        "Host: a:x\r\n",
        "Host: a:1:2\r\n",
        "Host: :80\r\n",
        "Host: a%2eb\r\n",
        "Host: a'b\r\n",
        "Host: [::1\r\n",
        "Host: \u{e9}\r\n",
        "Host: a#b\r\n",
    ] {
        refused(format!("GET /note HTTP/1.1\r\n{host}\r\n")).await;
    }
    for host in ["a", "A.example", "a:80", "a:", "a.", "[::1]", "[::1]:80", "10.0.0.1", "a_b"] {
        let heard = ADDED.replace("host: a\r\n", &format!("host: {host}\r\n"));
        let heard = heard.replace("\"a\"", &format!("\"{host}\""));
        let heard = format!("GET /note HTTP/1.1\r\nhost: {host}\r\n{heard}\r\n");
        row(format!("GET /note HTTP/1.1\r\nHost: {host}\r\n\r\n"), &[200], heard).await;
    }
}

/// The target's host goes before `Host` (RFC 9112 §3.2.2), and only one of them reaches the backend.
#[tokio::test]
async fn targets_with_a_host() {
    row("GET http://a/note HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/note", "")).await;
    row("GET http://a/note HTTP/1.1\r\nHost: b\r\n\r\n", &[200], got("/note", "")).await;
    row("GET HTTP://a/note HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/note", "")).await;
    row("GET https://a/note HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/note", "")).await;
    row("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/", "")).await;
    row("GET http://a?q HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/?q", "")).await;
    for target in [
        "http://u@a/note",
        "http://u:p@a/note",
        "http:///note",
        "http://a:x/note",
        "ftp://a/note",
        "file:///note",
        "a",
        "a:80",
        "u@a:80",
        "foo",
        "?q",
        "*",
        "note",
        "",
    ] {
        refused(get(target)).await;
    }
    // Without a Host, with two, with a bad one.
    for host in ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n"] {
        refused(format!("GET http://a/note HTTP/1.1\r\n{host}\r\n")).await;
    }
    refused("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
    row("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", &[501], "").await;
}

#[tokio::test]
async fn http_1_0() {
    let added = ADDED.replace("1.1 ifmatch", "1.0 ifmatch");
    let heard = format!("GET /note HTTP/1.1\r\nhost: a\r\n{added}\r\n");
    row("GET /note HTTP/1.0\r\nHost: a\r\n\r\n", &[200], &heard).await;
    row("GET http://a/note HTTP/1.0\r\n\r\n", &[200], &heard).await;
    let put = |fields: &str, body: &str| format!("PUT /note HTTP/1.0\r\nHost: a\r\n{fields}\r\n{body}");
    let heard = format!("PUT /note HTTP/1.1\r\nhost: a\r\n{added}content-length: 5\r\n\r\nhello");
    row(put("Content-Length: 5\r\n", "hello"), &[200], &heard).await;
    row(put("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), &[200], &heard).await;
    refused(put("Content-Length: 5\r\nContent-Length: 6\r\n", "hello")).await;
    row(put("", "hello"), &[411], "").await;
    for fields in [
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    ] {
        refused(put(fields, CHUNKS)).await;
    }
}

#[tokio::test]
async fn request_lines() {
    for line in [
        "GET /note HTTP/1.2",
        "GET /note HTTP/2.0",
        "GET /note HTTP/0.9",
        "GET /note http/1.1",
        "GET /note",
        "GET /note HTTP/1.1 x",
        "GET  /note HTTP/1.1",
        "GET /note  HTTP/1.1",
        "GET\t/note\tHTTP/1.1",
        " GET /note HTTP/1.1",
        "GET /no te HTTP/1.1",
        "G@T /note HTTP/1.1",
        "GET /note HTTP/1.1\r",
        "GET\r\n/note HTTP/1.1",
    ] {
        refused(format!("{line}\r\nHost: a\r\n\r\n")).await;
    }
    row("\r\n\r\nGET /note HTTP/1.1\r\nHost: a\r\n\r\n", &[200], got("/note", "")).await;
    // Not the safe method that is written in capitals.
    let heard = format!("get /note HTTP/1.1\r\nhost: a\r\n{ADDED}content-length: 0\r\n\r\n");
    row("get /note HTTP/1.1\r\nHost: a\r\n\r\n", &[200], heard).await;
}

/// Refused, or forwarded as they were judged.
#[tokio::test]
async fn paths() {
    for (sent, heard) in [
        ("/a#b", "/a"),
        ("/a?b#c", "/a?b"),
        ("//evil/a", "//evil/a"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/../..", "/"),
        ("/a%2fb", "/a%2Fb"),
        ("/a;x=1", "/a;x=1"),
        ("/%41%7e", "/A~"),
        ("/\u{e9}", "/%C3%A9"),
        ("/%c3%a9", "/%C3%A9"),
        ("/a\"|^{}", "/a%22%7C%5E%7B%7D"),
        ("/a//b/./c/", "/a//b/c/"),
        ("/a?%00%zz/../\\", "/a?%00%zz/../\\"),
        ("/%25%32%65", "/%252e"),
    ] {
        row(get(sent), &[200], got(heard, "")).await;
    }
    for target in [
        "/a\\..\\b",
        "/a%00",
        "/%c0%af",
        "/%e0%80%af",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a/..;x/b",
        "/a/..%2fb",
        "/%2e%2e%2fetc",
        "/a/..%5cb",
        "/a/.%3bx/b",
        "/a\u{1}",
        "/a\u{7f}",
        "/a\0b",
        "/a<b>",
        "/a`b",
    ] {
        refused(get(target)).await;
    }
    let not_utf8 = b"GET /\xFF\xFE HTTP/1.1\r\nHost: a\r\n\r\n";
    refused(not_utf8).await;
}

#[tokio::test]
async fn lengths() {
    for value in ["5", " 5", "  5", "5 ", "\t5\t", "05", "0000000000000000000005"] {
        row(put(format!("Content-Length:{value}"), "hello"), &[200], got_put("", "hello")).await;
    }
    for value in [
        "+5",
        "-5",
        "0x5",
        "5, 5",
        "5,5",
        "5,6",
        "",
        " ",
        "\"5\"",
        "5\t5",
        "5 5",
        "5;a",
        "5.0",
        "1_0",
        "5e0",
        "five",
        "\u{ff15}",
        "5\0",
        "18446744073709551616",
        "18446744073709551621",
        "99999999999999999999999999",
    ] {
        refused(put(format!("Content-Length: {value}"), "hello")).await;
    }
    // The largest that hyper can count.
    row(put("Content-Length: 18446744073709551615", "hello"), &[431], "").await;
    row(put("Content-Length: 5\r\nContent-Length: 5", "hello"), &[200], got_put("", "hello")).await;
    refused(put("Content-Length: 5\r\nContent-Length: 6", "hello!")).await;
    refused(put("Content-Length: 5\r\nContent-Length: 05x", "hello")).await;
    row(put("X: y", ""), &[200], got_put("x: y\r\n", "")).await;
    // Shorter than it says.
    refused(put("Content-Length: 6", "hello")).await;
    // Longer: the rest is the next request, to the backend as well.
    let heard = [got_put("", "hello"), got("/next", "")].concat();
    row(put("Content-Length: 5", format!("hello{NEXT}")), &[200, 200], heard).await;
    let with_length = format!("GET /note HTTP/1.1\r\nhost: a\r\n{ADDED}content-length: 5\r\n\r\nhello");
    row(b"GET /note HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", &[200], with_length).await;
}

#[tokio::test]
async fn transfer_codings() {
    for value in [
        "chunked",
        "  chunked",
        "Chunked",
        "CHUNKED",
        "\tchunked",
        "chunked\t ",
        "chunked\r\nConnection: Transfer-Encoding",
    ] {
        row(put(format!("Transfer-Encoding:{value}"), CHUNKS), &[200], got_put("", "hello")).await;
    }
    for value in [
        "identity",
        "gzip",
        "identity, chunked",
        "gzip, chunked",
        "chunked, chunked",
        "chunked, identity",
        "chunked, gzip",
        "xchunked",
        "chunkedx",
        "x chunked",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "chunked,",
        ",chunked",
        "",
        ",",
        "\u{b}chunked",
        "\u{c}chunked",
        "chunked\0",
        "chunked\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
        "identity\r\nTransfer-Encoding: chunked",
        "\r\nTransfer-Encoding: chunked",
        "\r\n chunked",
    ] {
        refused(put(format!("Transfer-Encoding: {value}"), CHUNKS)).await;
    }
    for value in [&b"\xA0chunked"[..], b"chunked\x85", b"\xC3\xA7hunked"] {
        refused(put([b"Transfer-Encoding: ", value].concat(), CHUNKS)).await;
    }
    let heard = format!("GET /note HTTP/1.1\r\nhost: a\r\n{ADDED}transfer-encoding: chunked\r\n\r\n{CHUNKS}");
    row(format!("GET /note HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"), &[200], heard).await;
}

/// The coding counts, the length is gone, and nothing that follows on the connection is a request.
#[tokio::test]
async fn a_length_and_a_coding() {
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: chunked\r\nContent-Length: +5",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\nContent-Length: 6",
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\nContent-Length: 6",
        "Content-Length: 0\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked",
    ] {
        row(put(fields, format!("{CHUNKS}{VICTIM}")), &[200], got_put("", "hello")).await;
        row(put(fields, format!("0\r\n\r\n{VICTIM}")), &[200], got_put("", "")).await;
    }
    for fields in [
        "Content-Length: x\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: gzip, chunked",
        "Content-Length: 5\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5",
    ] {
        refused(put(fields, format!("0\r\n\r\n{VICTIM}"))).await;
    }
    // By names that some backends take for the same.
    let body = format!("{CHUNKS}{VICTIM}");
    let length = format!("Content-Length: {}", body.len());
    row(put(format!("{length}\r\nTransfer_Encoding: chunked"), &body), &[200], got_put("", &body)).await;
    row(put(format!("{length}\r\nContent_Length: 3"), &body), &[200], got_put("", &body)).await;
    row(put("Content_Length: 5", ""), &[200], got_put("", "")).await;
    refused(put("Transfer-Encoding : chunked", CHUNKS)).await;
    refused(put("Content-Length : 5", "hello")).await;
}

#[tokio::test]
async fn lines_and_bytes() {
    for fields in [
        "X: a\r\n b",
        "X: a\r\n\tb",
        "X: a\rb",
        "X: a\r",
        "X : a",
        "X\t: a",
        ": a",
        " : a",
        "X",
        "X Y: a",
        "X;: a",
        "X(: a",
        "\"X\": a",
        "X\u{e9}: a",
        "\r X: a",
        "If-Match: \"0\"\r\n , \"1\"",
        "X: a\r\r",
    ] {
        refused(get_with(fields)).await;
    }
    refused("GET /note HTTP/1.1\r\n Host: a\r\n\r\n").await;
    refused("GET /note HTTP/1.1\r\n X: y\r\nHost: a\r\n\r\n").await;
    refused("GET /note HTTP/1.1\rHost: a\r\r").await;
    for byte in (0..=0x08).chain(0x0A..=0x1F).chain([0x7F]).filter(|byte| *byte != b'\n') {
        refused(get_with([b"X: a", &[byte][..], b"b"].concat())).await;
        refused(get_with([b"X", &[byte][..], b": ab"].concat())).await;
    }
    // Bytes over 0x7F may stand in values (RFC 9110 §5.5), never in names.
    for byte in [0x80, 0x85, 0xA0, 0xFF] {
        let field = [b"x: ", &[byte][..], b"b", &[byte][..], b"\r\n"].concat();
        row(get_with([b"X: ", &[byte][..], b"b", &[byte][..]].concat()), &[200], got("/note", field)).await;
        refused(get_with([b"X", &[byte][..], b": ab"].concat())).await;
    }
    row(get_with("X: "), &[200], got("/note", "x: \r\n")).await;
    row(get_with("X:\ta\tb \t"), &[200], got("/note", "x: a\tb\r\n")).await;
}

/// hyper takes a bare LF for the end of a line (RFC 9112 §2.2 allows it); the backend sees lines as they should be.
#[tokio::test]
async fn bare_line_feeds() {
    row("GET /note HTTP/1.1\nHost: a\n\n", &[200], got("/note", "")).await;
    row(get_with("X: a\nY: b"), &[200], got("/note", "x: a\r\ny: b\r\n")).await;
    row(get_with("X: a\n"), &[200], got("/note", "x: a\r\n")).await;
    row("PUT /note HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello", &[200], got_put("", "hello")).await;
    row(put("X: a\nTransfer-Encoding: chunked", CHUNKS), &[200], got_put("x: a\r\n", "hello")).await;
    refused(put("X: a\n b", "")).await;
    refused(put("Content-Length: 5\nTransfer-Encoding: identity", CHUNKS)).await;
}

/// Those that can be read, and what makes others unreadable.
const GOOD_CHUNKS: [&str; 9] = [
    CHUNKS,
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "0000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "2\r\nhe\r\n3\r\nllo\r\n000\r\n\r\n",
    "5;a=b\r\nhello\r\n0\r\n\r\n",
    "5;a=\"b;\\\"c\"\r\nhello\r\n0;x\r\n\r\n",
    "5 ; \0\u{1}\u{e9}\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\nHost: b\r\nIf-Match: \"9\"\r\n\r\n",
];
const BAD_CHUNKS: [&str; 35] = [
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 5\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    "g\r\nhello\r\n0\r\n\r\n",
    "5,\r\nhello\r\n0\r\n\r\n",
    "5\0\r\nhello\r\n0\r\n\r\n",
    "5\u{b}\r\nhello\r\n0\r\n\r\n",
    "\u{ff15}\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5\r\rhello\r\n0\r\n\r\n",
    "5;a\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\n",
    "5\r\nhello\r\n0",
    "5\r\nhello\r\n",
    "5\r\nhel",
    "5\r\nhello\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: a\r\n b\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : a\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: a\nY: b\r\n\r\n",
    "5\r\nhello\r\n0\r\nGET /victim HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[tokio::test]
async fn chunks() {
    for body in GOOD_CHUNKS {
        row(put("Transfer-Encoding: chunked", body), &[200], got_put("", "hello")).await;
    }
    for body in BAD_CHUNKS {
        refused(put("Transfer-Encoding: chunked", body)).await;
    }
    let extended = |length: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(length));
    row(put("Transfer-Encoding: chunked", extended(10_000)), &[200], got_put("", "hello")).await;
    refused(put("Transfer-Encoding: chunked", extended(17_000))).await;
    refused(put("Transfer-Encoding: chunked", format!("{}{CHUNKS}", "1;x\r\nx\r\n".repeat(17_000)))).await;
    let trailers = "X: y\r\n".repeat(5_000);
    refused(put("Transfer-Encoding: chunked", format!("5\r\nhello\r\n0\r\n{trailers}\r\n"))).await;
}

/// A guarded write whose body goes wrong while it is passed on: the backend gets a part of it and never its end.
#[tokio::test]
async fn chunks_in_the_midst_of_a_write() {
    let large = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    let chunked = BAD_CHUNKS.iter().map(|bad| ("Transfer-Encoding: chunked", large.clone(), *bad));
    for (framing, begin, bad) in chunked.chain([("Content-Length: 200000", "x".repeat(100_000), "hello")]) {
        let mut backend = Script::start().await;
        let gateway = Gateway::before(backend.address).guard("settle = \"0s\"").start();
        let mut raw = raw_put(&gateway, &format!("If-Match: \"1\"\r\n{framing}\r\n"), begin).await;
        backend.expect("HEAD", "/note").await.answer(200, &[("ETag", "\"1\"")], "").await;
        let mut under_way = backend.expect("PUT", "/note").await;
        raw.send(bad).await;
        raw.finish().await;
        under_way.body().await.expect_err("not a whole body");
        assert_eq!(raw.answer("PUT").await.status, 400, "{bad:?}");
        backend.assert_quiet();
    }
}

/// A client can't strip its own precondition, or anything else that decides, by naming it.
#[tokio::test]
async fn connection_names_what_decides() {
    let fields = "authorization: me\r\ncontent-type: t\r\nx-private: p\r\ncookie: c\r\n";
    for name in [
        "Host",
        "Content-Length",
        "If-Match",
        "if-match",
        "If-None-Match",
        "If-Unmodified-Since",
        "If-Range",
        "Authorization",
        "Cookie",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "Forwarded",
        "Via",
        "Transfer-Encoding",
        "Content-Type",
        "Expect",
        "ETag",
        "If_Match",
        "\"If-Match\"",
        "If-Match;x",
        "close",
        "close, If-Match",
        ",,If-Match ,, close",
        "close\r\nConnection: If-Match",
    ] {
        let named = |tag: &str| format!("If-Match: {tag}\r\n{fields}Connection: {name}\r\nContent-Length: 5");
        row(put(named("\"0\""), "hello"), &[409], got_probe("authorization: me\r\ncookie: c\r\n")).await;
        let heard = got_put(&format!("if-match: \"1\"\r\n{fields}"), "hello");
        let heard = [got_probe("authorization: me\r\ncookie: c\r\n"), heard].concat();
        row(put(named("\"1\""), "hello"), &[200], heard).await;
    }
    for fields in ["If-None-Match: *", "If-None-Match: \"1\""] {
        let name = fields.split(':').next().expect("a name");
        row(put(format!("{fields}\r\nConnection: {name}"), ""), &[409], got_probe("")).await;
    }
}

/// Backends that take `_` for `-` must not see by one name what was judged by another.
#[tokio::test]
async fn names_with_underscores() {
    for name in [
        "If_Match",
        "If-Match_",
        "IF_NONE_MATCH",
        "If_Unmodified-Since",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "X_Forwarded_Proto",
        "Content_Length",
        "Transfer_Encoding",
        "Content_Type",
        "X_HTTP_Method_Override",
        "Proxy_Authorization",
        "Keep_Alive",
        "HTTP2_Settings",
        "X_API_Key",
        "Cache_Control",
        "Access_Control_Request_Method",
    ] {
        row(put(format!("{name}: 3\r\nContent-Length: 5"), "hello"), &[200], got_put("", "hello")).await;
    }
    row(put("X_Y: 3\r\nContent-Length: 5", "hello"), &[200], got_put("x_y: 3\r\n", "hello")).await;
}

#[tokio::test]
async fn fields_of_one_hop() {
    for fields in [
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "TE: gzip\r\nConnection: TE",
        "Trailer: X-Sum",
        "Upgrade: h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "HTTP2-Settings: AAMAAABk",
        "Proxy-Authorization: Basic eA==",
        "Proxy-Authenticate: Basic",
        "Connection: X-Private\r\nX-Private: 1",
        "X-Private: 1\r\nConnection: x-private",
        "Connection: ,, X ,,\r\nX: 1",
        "Connection: close, X\r\nX: 1",
        "Connection:",
        "Connection: keep-alive\r\nConnection: X\r\nX: 1",
        "Content-Length: 0",
        "Expect: 100-continue",
        "Forwarded: for=1\r\nX-Forwarded-For: 1\r\nX-Forwarded-Host: b\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Port: 1",
        "X-Forwarded-For: 1\r\nConnection: X-Forwarded-For",
    ] {
        row(get_with(fields), &[200], got("/note", "")).await;
    }
    for (sent, heard) in [
        ("Connection: X\r\nX-Y: 1", "x-y: 1\r\n"),
        ("Cookie: a\r\nX: 1\r\nCookie: b", "x: 1\r\ncookie: a; b\r\n"),
        ("Via: 1.0 x", "via: 1.0 x\r\n"),
    ] {
        row(get_with(sent), &[200], got("/note", heard)).await;
    }
}

#[tokio::test]
async fn expectations() {
    let put = |fields: &str| put(format!("{fields}Content-Length: 5"), format!("hello{NEXT}"));
    let next = got("/next", "");
    for value in ["100-continue", "100-Continue", " 100-continue\t"] {
        let fields = format!("Expect: {value}\r\n");
        row(put(&fields), &[100, 200, 200], [got_put("", "hello"), next.clone()].concat()).await;
        let stale = format!("If-Match: \"0\"\r\n{fields}");
        row(put(&stale), &[409, 200], [got_probe(""), next.clone()].concat()).await;
    }
    for value in [
        "y 100-continue",
        "100-continue, y",
        "",
        "200-ok",
        "100-continue;q=1",
        "\"100-continue\"",
        "100-continue\r\nExpect: 100-continue",
    ] {
        row(put(&format!("Expect: {value}\r\n")), &[417, 200], &next).await;
    }
    refused(put("Expect:\r\n 100-continue\r\n")).await;
}

#[tokio::test]
async fn requests_in_bodies_and_behind_each_other() {
    let stale = format!("If-Match: \"0\"\r\nContent-Length: {}", VICTIM.len());
    let heard = [got_probe(""), got("/next", "")].concat();
    row(put(stale, format!("{VICTIM}{NEXT}")), &[409, 200], &heard).await;
    let chunked = format!("{:x}\r\n{VICTIM}\r\n0\r\n\r\n{NEXT}", VICTIM.len());
    row(put("If-Match: \"0\"\r\nTransfer-Encoding: chunked", chunked), &[409, 200], &heard).await;
    let bad = format!("If-Match: 0\r\nContent-Length: {}", VICTIM.len());
    row(put(bad, format!("{VICTIM}{NEXT}")), &[400, 200], got("/next", "")).await;
    row(put(format!("Content-Length: {}", VICTIM.len()), VICTIM), &[200], got_put("", VICTIM)).await;
    // After what can't be read there is no next request.
    for fields in ["Transfer-Encoding: gzip, chunked", "Content-Length: 5, 5", "Content-Length: 0\r\nX : y", "X\0: y"] {
        refused(put(fields, format!("0\r\n\r\n{VICTIM}"))).await;
    }
    let heard = [got_put("", "hello"), got("/next", ""), got_put("", "there"), got("/next", "")].concat();
    let put = |body: &str| put("Content-Length: 5", body);
    let sent = [put("hello"), NEXT.into(), put("there"), NEXT.into()].concat();
    row(sent, &[200, 200, 200, 200], heard).await;
}
