//! A small JSON store that overwrites blindly: the backend of `ifmatch demo` and of tests that need a careless one.
//!
//! It shows what the gateway is for, so it lacks what the gateway adds: **there are no preconditions here at all**.
//! Every document has a strong entity tag (`"1"`, `"2"`, … one more with each write), and `If-Match`, `If-None-Match`
//! and the rest of RFC 9110 §13 are never looked at: the last writer wins and the first one's work is gone. That is no
//! bug to be mended. Also absent, because nobody needs them to lose an update: persistence, authentication, TLS,
//! HTTP/2, `POST`, and a bound on the number of connections. It is meant for a loopback address.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | 200: the documents and their tags |
//! | `GET`, `HEAD` | 200: the document, with its `ETag`; 404 |
//! | `PUT`, any JSON | 200, or 201 where it is new: the document as stored, with its `ETag` |
//! | `PATCH`, a JSON object | 200: its members put in place of those of the same name, the others kept; 404 |
//! | `DELETE` | 204; 404 |
//!
//! A document's name is the whole request target, query included, byte for byte, so two targets are never one document.
//! A tag is not used twice for one name, not even where a document was deleted and made again.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, ETAG},
};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Map, Value, json};
use tokio::net::{TcpListener, TcpStream};

/// The largest document, in bytes.
const MAX_DOCUMENT: usize = 1024 * 1024;
/// How much of a body that is too large is still read, in bytes: closing on unread bytes would destroy the 413.
const MAX_BODY_READ: usize = 16 * MAX_DOCUMENT;
/// The most documents, and the longest name of one in bytes: together with `MAX_DOCUMENT` they bound the memory.
const MAX_DOCUMENTS: usize = 1_000;
const MAX_NAME: usize = 1_024;
/// How long a client may take to send a request's head, and then its body.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long the accept loop rests after a failure, so that a lack of descriptors does not become a busy loop.
const REST: Duration = Duration::from_millis(100);

/// Serves a fresh store, which holds `/notes/1` and `/notes/2` at version `"1"`, to whoever connects.
///
/// # Errors
///
/// Returns only when the listener itself is broken. A connection that fails to be accepted, and a lack of descriptors
/// or memory, are waited out.
///
/// # Cancel safety
///
/// Dropping the future closes the listener. Connections that were already accepted live on in tasks of their own, and
/// with them the store.
pub async fn serve(listener: TcpListener) -> io::Result<()> {
    let store = Arc::new(Store::with_notes());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(serve_connection(stream, Arc::clone(&store)));
            }
            Err(error) if is_fatal(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the demo store could not accept a connection");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// What `ifmatch demo` prints: where the two listen, and four commands that lose an update and then refuse to.
///
/// The commands rely on the two notes that a fresh store holds, and are for a POSIX shell.
#[must_use]
pub fn transcript(store: SocketAddr, gateway: SocketAddr) -> String {
    format!(
        r#"A store that overwrites blindly listens on  http://{store}
The ifmatch gateway before it listens on    http://{gateway}

Ann and Ben have both read a note at version "1", and each sends back a new text with If-Match: "1".
Paste these into another terminal.

1. Straight to the store. Both are answered 200 OK, and Ann's text is gone:

curl -i -X PUT 'http://{store}/notes/1' -H 'If-Match: "1"' -d '{{"text": "written by Ann"}}'
curl -i -X PUT 'http://{store}/notes/1' -H 'If-Match: "1"' -d '{{"text": "written by Ben"}}'

2. Through the gateway. Ann is answered 200 OK, Ben 409 Conflict, and Ann's text is kept:

curl -i -X PUT 'http://{gateway}/notes/2' -H 'If-Match: "1"' -d '{{"text": "written by Ann"}}'
curl -i -X PUT 'http://{gateway}/notes/2' -H 'If-Match: "1"' -d '{{"text": "written by Ben"}}'

What is left is at http://{store}/notes/1 and http://{store}/notes/2
To write after a conflict, fetch the note again, and send the ETag that came with it.
Ctrl-C ends the demo; the next one starts afresh.
"#
    )
}

/// Whether `accept` will never succeed again. Linux reports a socket that does not listen (any more) as EINVAL; all
/// else that it reports concerns one connection, or a shortage that may pass.
fn is_fatal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::InvalidInput
}

async fn serve_connection(stream: TcpStream, store: Arc<Store>) {
    let service = service_fn(move |request| {
        let store = Arc::clone(&store);
        async move { Ok::<_, Infallible>(answer(request, &store).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to the demo store ended early");
    }
}

type Answer = Response<Full<Bytes>>;

/// Reads the body before the store is locked: a slow sender holds up nobody else.
async fn answer(request: Request<Incoming>, store: &Store) -> Answer {
    let (head, body) = request.into_parts();
    let name = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let answer = match read(body).await {
        Ok(_) if head.uri.path() == "/" => store.list(&head.method),
        Ok(body) => store.apply(&head.method, name, &body),
        Err(refusal) => Err(refusal),
    };
    answer.unwrap_or_else(Refusal::into_answer)
}

async fn read(body: Incoming) -> Result<Vec<u8>, Refusal> {
    tokio::time::timeout(PATIENCE, read_all(body)).await.unwrap_or(Err(Refusal::BodyTooSlow))
}

async fn read_all(mut body: Incoming) -> Result<Vec<u8>, Refusal> {
    let mut kept = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Refusal::BodyBroken)?.into_data() else { continue };
        length += data.len();
        if length <= MAX_DOCUMENT {
            kept.extend_from_slice(&data);
        } else if length > MAX_BODY_READ {
            break;
        }
    }
    if length > MAX_DOCUMENT { Err(Refusal::DocumentTooLarge) } else { Ok(kept) }
}

/// All documents. One lock for all of them, held for one request's change and never over an await.
struct Store {
    documents: Mutex<Documents>,
}

#[derive(Default)]
struct Documents {
    by_name: BTreeMap<String, Document>,
    /// The highest version of any document that was deleted. A new one starts above it, which keeps a tag from coming
    /// back without a memory of every name there ever was.
    retired: u64,
}

/// The document as it was sent, for that is the compact form. It was parsed once, so it will parse again.
struct Document {
    json: Bytes,
    version: u64,
}

impl Store {
    fn with_notes() -> Self {
        let mut documents = Documents::default();
        for name in ["/notes/1", "/notes/2"] {
            let json = Bytes::from_static(br#"{"text": "as it was"}"#);
            documents.by_name.insert(name.to_owned(), Document { json, version: 1 });
        }
        Self { documents: Mutex::new(documents) }
    }

    fn list(&self, method: &Method) -> Result<Answer, Refusal> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            return Err(Refusal::MethodNotAllowed { allow: "GET, HEAD" });
        }
        let documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        let list: Vec<Value> = documents
            .by_name
            .iter()
            .map(|(name, document)| json!({ "document": name, "etag": tag(document.version) }))
            .collect();
        Ok(json_answer(StatusCode::OK, Value::from(list).to_string()))
    }

    fn apply(&self, method: &Method, name: &str, body: &[u8]) -> Result<Answer, Refusal> {
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        match *method {
            Method::GET | Method::HEAD => documents.get(name),
            Method::PUT => documents.put(name, body),
            Method::PATCH => documents.patch(name, body),
            Method::DELETE => documents.delete(name),
            _ => Err(Refusal::MethodNotAllowed { allow: "GET, HEAD, PUT, PATCH, DELETE" }),
        }
    }
}

impl Documents {
    fn get(&self, name: &str) -> Result<Answer, Refusal> {
        self.by_name.get(name).map(|document| document.to_answer(StatusCode::OK)).ok_or(Refusal::NotFound)
    }

    fn put(&mut self, name: &str, body: &[u8]) -> Result<Answer, Refusal> {
        serde_json::from_slice::<Value>(body).map_err(Refusal::NotJson)?;
        let json = Bytes::copy_from_slice(body);
        if let Some(document) = self.by_name.get_mut(name) {
            document.overwrite(json);
            return Ok(document.to_answer(StatusCode::OK));
        }
        if name.len() > MAX_NAME {
            return Err(Refusal::NameTooLong);
        }
        if self.by_name.len() >= MAX_DOCUMENTS {
            return Err(Refusal::Full);
        }
        let document = Document { json, version: self.retired + 1 };
        let answer = document.to_answer(StatusCode::CREATED);
        self.by_name.insert(name.to_owned(), document);
        Ok(answer)
    }

    /// Not RFC 7396: only the top level is merged, and a null is a value like another. A document that is no object is
    /// replaced by one.
    fn patch(&mut self, name: &str, body: &[u8]) -> Result<Answer, Refusal> {
        let changes: Map<String, Value> = serde_json::from_slice(body).map_err(Refusal::NotJson)?;
        let document = self.by_name.get_mut(name).ok_or(Refusal::NotFound)?;
        let mut members: Map<String, Value> = serde_json::from_slice(&document.json).unwrap_or_default();
        members.extend(changes);
        let merged = Value::Object(members).to_string();
        if merged.len() > MAX_DOCUMENT {
            return Err(Refusal::DocumentTooLarge);
        }
        document.overwrite(Bytes::from(merged));
        Ok(document.to_answer(StatusCode::OK))
    }

    fn delete(&mut self, name: &str) -> Result<Answer, Refusal> {
        let document = self.by_name.remove(name).ok_or(Refusal::NotFound)?;
        self.retired = self.retired.max(document.version);
        let mut answer = Answer::default();
        *answer.status_mut() = StatusCode::NO_CONTENT;
        Ok(answer)
    }
}

impl Document {
    fn overwrite(&mut self, json: Bytes) {
        self.json = json;
        self.version += 1;
    }

    fn to_answer(&self, status: StatusCode) -> Answer {
        let mut answer = json_answer(status, self.json.clone());
        let tag = HeaderValue::try_from(tag(self.version)).expect("digits in quotes are a valid field value");
        answer.headers_mut().insert(ETAG, tag);
        answer
    }
}

fn tag(version: u64) -> String {
    format!("\"{version}\"")
}

fn json_answer(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Why a request changed nothing.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no such document")]
    NotFound,
    #[error("the method is not one of: {allow}")]
    MethodNotAllowed { allow: &'static str },
    #[error("the body is not the JSON that was expected: {0}")]
    NotJson(serde_json::Error),
    #[error("the body broke off")]
    BodyBroken,
    #[error("the body took longer than {} seconds", PATIENCE.as_secs())]
    BodyTooSlow,
    #[error("a document has at most {MAX_DOCUMENT} bytes")]
    DocumentTooLarge,
    #[error("a document's name has at most {MAX_NAME} bytes")]
    NameTooLong,
    #[error("the store holds at most {MAX_DOCUMENTS} documents")]
    Full,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::NotJson(_) | Self::BodyBroken => StatusCode::BAD_REQUEST,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::DocumentTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NameTooLong => StatusCode::URI_TOO_LONG,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    fn into_answer(self) -> Answer {
        let mut answer = json_answer(self.status(), json!({ "error": self.to_string() }).to_string());
        if let Self::MethodNotAllowed { allow } = self {
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn start() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener));
        address
    }

    /// An answer as it came over the wire.
    struct Seen {
        status: u16,
        head: String,
        body: String,
    }

    impl Seen {
        fn field(&self, name: &str) -> Option<&str> {
            self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        }

        fn etag(&self) -> Option<&str> {
            self.field("etag")
        }
    }

    /// Sends one request on a connection of its own; the writing side is shut after it, and all that comes is read.
    async fn send(address: SocketAddr, method: &str, target: &str, fields: &str, body: &str) -> Seen {
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: store\r\nconnection: close\r\ncontent-length: {length}\r\n{fields}\r\n"
        );
        exchange(address, (head + body).as_bytes()).await
    }

    async fn exchange(address: SocketAddr, bytes: &[u8]) -> Seen {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Seen { status, head: head.to_owned(), body: body.to_owned() }
    }

    async fn get(address: SocketAddr, target: &str) -> Seen {
        send(address, "GET", target, "", "").await
    }

    async fn put(address: SocketAddr, target: &str, body: &str) -> Seen {
        send(address, "PUT", target, "", body).await
    }

    #[tokio::test]
    async fn the_notes_are_there_at_version_one() {
        let store = start().await;
        for note in ["/notes/1", "/notes/2"] {
            let seen = get(store, note).await;
            assert_eq!((seen.status, seen.etag()), (200, Some("\"1\"")));
            assert_eq!(seen.field("content-type"), Some("application/json"));
            serde_json::from_str::<Map<String, Value>>(&seen.body).unwrap();
        }
        let list = get(store, "/").await;
        let expected = json!([{"document": "/notes/1", "etag": "\"1\""}, {"document": "/notes/2", "etag": "\"1\""}]);
        assert_eq!((list.status, serde_json::from_str::<Value>(&list.body).unwrap()), (200, expected));
    }

    #[tokio::test]
    async fn head_shows_what_get_would_without_the_document() {
        let store = start().await;
        let (head, get) = (send(store, "HEAD", "/notes/1", "", "").await, get(store, "/notes/1").await);
        assert_eq!((head.status, head.etag(), head.body.as_str()), (200, Some("\"1\""), ""));
        assert_eq!(head.field("content-length"), get.field("content-length"));
    }

    #[tokio::test]
    async fn no_precondition_is_ever_looked_at() {
        let store = start().await;
        let fields = [
            "if-match: \"no such tag\"\r\n",
            "if-match: not even a tag\r\n",
            "if-none-match: *\r\n",
            "if-unmodified-since: Thu, 01 Jan 1970 00:00:00 GMT\r\n",
        ];
        for (fields, version) in fields.into_iter().zip(2..) {
            let seen = send(store, "PUT", "/notes/1", fields, "1").await;
            assert_eq!((seen.status, seen.etag()), (200, Some(tag(version).as_str())), "{fields}");
        }
        assert_eq!(send(store, "GET", "/notes/2", "if-none-match: \"1\"\r\n", "").await.status, 200);
        assert_eq!(send(store, "DELETE", "/notes/2", "if-match: \"9\"\r\n", "").await.status, 204);
    }

    #[tokio::test]
    async fn a_put_makes_or_overwrites_a_document_byte_for_byte() {
        let store = start().await;
        let made = put(store, "/new?with=query", "{ \"b\": 1,  \"a\": 2 }").await;
        assert_eq!((made.status, made.etag()), (201, Some("\"1\"")));
        let overwritten = put(store, "/new?with=query", "[ null ]").await;
        assert_eq!(
            (overwritten.status, overwritten.etag(), overwritten.body.as_str()),
            (200, Some("\"2\""), "[ null ]")
        );
        assert_eq!(get(store, "/new?with=query").await.body, "[ null ]");
        assert_eq!(get(store, "/new").await.status, 404);
    }

    #[tokio::test]
    async fn a_patch_merges_the_top_level_only() {
        let store = start().await;
        put(store, "/d", r#"{"kept": 1, "changed": {"gone": 2}}"#).await;
        let seen = send(store, "PATCH", "/d", "", r#"{"changed": {"here": null}, "added": 3}"#).await;
        assert_eq!((seen.status, seen.etag()), (200, Some("\"2\"")));
        let expected = json!({"kept": 1, "changed": {"here": null}, "added": 3});
        assert_eq!(serde_json::from_str::<Value>(&seen.body).unwrap(), expected);

        assert_eq!(send(store, "PATCH", "/d", "", "[1]").await.status, 400);
        assert_eq!(send(store, "PATCH", "/nowhere", "", "{}").await.status, 404);
        put(store, "/d", "17").await;
        assert_eq!(send(store, "PATCH", "/d", "", r#"{"a":1}"#).await.body, r#"{"a":1}"#);
    }

    #[tokio::test]
    async fn a_tag_does_not_come_back_with_a_document_that_was_deleted() {
        let store = start().await;
        put(store, "/notes/1", "1").await;
        let deleted = send(store, "DELETE", "/notes/1", "", "").await;
        assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
        assert_eq!(get(store, "/notes/1").await.status, 404);
        assert_eq!(send(store, "DELETE", "/notes/1", "", "").await.status, 404);
        let again = put(store, "/notes/1", "1").await;
        assert_eq!((again.status, again.etag()), (201, Some("\"3\"")));
    }

    #[tokio::test]
    async fn what_is_no_json_is_refused_and_changes_nothing() {
        let store = start().await;
        let deep = "[".repeat(100_000);
        for body in ["", "{", "{} {}", "text=1", deep.as_str()] {
            assert_eq!(put(store, "/notes/1", body).await.status, 400);
        }
        assert_eq!(get(store, "/notes/1").await.etag(), Some("\"1\""));
    }

    #[tokio::test]
    async fn a_document_may_have_one_mebibyte_and_no_byte_more() {
        let store = start().await;
        let full = format!("\"{}\"", "x".repeat(MAX_DOCUMENT - 2));
        assert_eq!(put(store, "/full", &full).await.status, 201);
        assert_eq!(put(store, "/over", &format!("{full} ")).await.status, 413);
        assert_eq!(put(store, "/over", &" ".repeat(8 * MAX_DOCUMENT)).await.status, 413);

        let half = "x".repeat(MAX_DOCUMENT / 2);
        assert_eq!(put(store, "/grown", &json!({ "a": half }).to_string()).await.status, 201);
        let grown = send(store, "PATCH", "/grown", "", &json!({ "b": half }).to_string()).await;
        assert_eq!(grown.status, 413);
        assert_eq!(get(store, "/grown").await.etag(), Some("\"1\""));
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_changes_nothing() {
        let store = start().await;
        let seen = exchange(store, b"PUT /notes/1 HTTP/1.1\r\nhost: store\r\ncontent-length: 9\r\n\r\n12345678").await;
        assert_eq!(seen.status, 400);
        assert_eq!(get(store, "/notes/1").await.etag(), Some("\"1\""));
    }

    #[test]
    fn a_full_store_takes_no_new_document_but_still_overwrites() {
        let mut documents = Documents::default();
        for n in 0..MAX_DOCUMENTS {
            assert_eq!(documents.put(&format!("/{n}"), b"1").unwrap().status(), StatusCode::CREATED);
        }
        assert_eq!(documents.put("/more", b"1").unwrap_err().status(), StatusCode::INSUFFICIENT_STORAGE);
        assert_eq!(documents.put("/7", b"2").unwrap().status(), StatusCode::OK);
        documents.delete("/7").unwrap();
        assert_eq!(documents.put("/more", b"1").unwrap().status(), StatusCode::CREATED);
    }

    #[tokio::test]
    async fn other_methods_and_long_names_are_refused() {
        let store = start().await;
        let post = send(store, "POST", "/notes/1", "", "{}").await;
        assert_eq!((post.status, post.field("allow")), (405, Some("GET, HEAD, PUT, PATCH, DELETE")));
        let root = put(store, "/", "{}").await;
        assert_eq!((root.status, root.field("allow")), (405, Some("GET, HEAD")));
        assert_eq!(put(store, &format!("/{}", "x".repeat(MAX_NAME)), "{}").await.status, 414);
    }

    #[tokio::test]
    async fn a_listener_that_does_not_listen_ends_the_store() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(socket.into()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(5), serve(listener)).await;
        assert!(is_fatal(&ended.expect("it ends at once").unwrap_err()));
    }

    #[test]
    fn a_shortage_does_not_end_the_store() {
        let (emfile, enfile, econnaborted, enomem) = (24, 23, 103, 12);
        for errno in [emfile, enfile, econnaborted, enomem] {
            assert!(!is_fatal(&io::Error::from_raw_os_error(errno)), "{errno}");
        }
    }

    /// Takes the commands apart as a shell would: nothing in them but words and single quotes.
    fn commands(transcript: &str) -> Vec<Vec<&str>> {
        transcript.lines().filter(|line| line.starts_with("curl ")).map(|line| line.split('\'').collect()).collect()
    }

    #[tokio::test]
    async fn the_transcript_loses_an_update_just_as_it_says() {
        let store = start().await;
        let gateway: SocketAddr = "[::1]:8080".parse().unwrap();
        let transcript = transcript(store, gateway);
        let commands = commands(&transcript);
        assert_eq!(commands.len(), 4, "{transcript}");
        for (command, server) in commands.iter().zip([store, store, gateway, gateway]) {
            let ["curl -i -X PUT ", url, " -H ", field, " -d ", body, ""] = command[..] else { panic!("{command:?}") };
            let target = url.strip_prefix(&format!("http://{server}")).expect("the URL names the server");
            // The last two are sent to the store as well: that there is a gateway is tested elsewhere.
            let seen = send(store, "PUT", target, &format!("{field}\r\n"), body).await;
            assert_eq!((seen.status, seen.body.as_str()), (200, body));
        }
        assert!(get(store, "/notes/1").await.body.contains("Ben"));
    }
}
