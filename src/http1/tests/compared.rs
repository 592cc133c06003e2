//! What this server and hyper's make of the same bytes: the requests that are handled, their bodies, and what is written.
//! Used by the tests, and by the fuzz target `request`.
use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    http1::{Body as Incoming, Connection, End, Handler, Times, request::Bounds},
    message::{Request, Response, request::Parts},
};

pub(crate) const BOUNDS: Bounds = Bounds { bytes: 8 * 1024, fields: 10 };

/// What an answer is made of.
pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;
/// What answers a request whose body came whole.
pub(crate) type Service = fn(&Handled) -> Answer;

/// A request as it was handled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handled {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) version: Version,
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// Whether its body came to its end.
    pub(crate) is_whole: bool,
}

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) handled: Vec<Handled>,
    pub(crate) written: Vec<u8>,
    /// What the client is told last, where what it sent can't be read.
    pub(crate) refused: Option<StatusCode>,
}

impl Outcome {
    /// The statuses of all answers, without those that only ask for a body.
    pub(crate) fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.written);
        let status = |answer: &str| answer.get(2..5).and_then(|status| status.parse().ok());
        let answers = text.split("HTTP/1.").skip(1).filter_map(status).filter(|status| *status != 100);
        answers.chain(self.refused.map(|status| status.as_u16())).collect()
    }
}

/// A connection on which these pieces come, and then the end.
#[derive(Debug)]
struct Pieces {
    pieces: Vec<Bytes>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pieces {
    /// These bytes, cut at these places. Each place is how much further the next is.
    fn new(bytes: &[u8], cuts: &[u8]) -> (Self, Arc<Mutex<Vec<u8>>>) {
        let (mut rest, mut pieces) = (Bytes::copy_from_slice(bytes), Vec::new());
        for &cut in cuts.iter().cycle().take(if cuts.is_empty() { 0 } else { bytes.len() }) {
            let piece = rest.split_to(usize::from(cut).clamp(1, rest.len().max(1)).min(rest.len()));
            pieces.push(piece);
        }
        pieces.push(rest);
        pieces.retain(|piece| !piece.is_empty());
        pieces.reverse();
        let written = Arc::default();
        (Self { pieces, written: Arc::clone(&written) }, written)
    }
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(piece) = self.pieces.last_mut() {
            let length = piece.len().min(buf.remaining());
            buf.put_slice(&piece.split_to(length));
            if piece.is_empty() {
                self.pieces.pop();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written.lock().expect("no panic").extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// By their names: hyper keeps those that are called the same together.
fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(all: impl IntoIterator<Item = (N, V)>) -> Vec<(String, Vec<u8>)> {
    let lines = all
        .into_iter()
        .map(|(name, value)| (String::from_utf8_lossy(name.as_ref()).into_owned(), value.as_ref().to_vec()));
    let mut fields: Vec<_> = lines.collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// Reads a request to its end, notes it, and answers it.
async fn handle<B>(request: Request<B>, seen: Arc<Mutex<Vec<Handled>>>, service: Service) -> Answer
where
    B: Body<Data = Bytes> + Unpin,
{
    let (head, mut body) = request.into_parts();
    let mut handled = Handled {
        method: head.method.to_string(),
        target: head.uri.to_string(),
        version: head.version,
        fields: fields(&head.headers),
        body: Vec::new(),
        trailers: Vec::new(),
        is_whole: true,
    };
    while let Some(frame) = body.frame().await {
        match frame.map(http_body::Frame::into_data) {
            Ok(Ok(data)) => handled.body.extend_from_slice(&data),
            Ok(Err(frame)) => handled.trailers = frame.trailers_ref().map(fields).unwrap_or_default(),
            Err(_) => handled.is_whole = false,
        }
        if !handled.is_whole {
            break;
        }
    }
    let answer = if handled.is_whole { service(&handled) } else { refusal() };
    seen.lock().expect("no panic").push(handled);
    answer
}

fn refusal() -> Answer {
    let mut answer = Response::new(BoxBody::default());
    *answer.status_mut() = StatusCode::BAD_REQUEST;
    answer
}

/// Answers each request with nothing.
pub(crate) fn nothing(_: &Handled) -> Answer {
    Response::new(BoxBody::default())
}

struct Ours {
    seen: Arc<Mutex<Vec<Handled>>>,
    service: Service,
}

impl Handler for Ours {
    type Io = Pieces;
    type Body = BoxBody<Bytes, Infallible>;

    fn handle(&self, head: Box<Parts>, body: Incoming<Pieces>, _: bool) -> impl Future<Output = Response<Self::Body>> {
        handle(Request::from_parts(*head, body), Arc::clone(&self.seen), self.service)
    }

    fn is_last(&self) -> bool {
        false
    }

    fn has_informational(&self) -> bool {
        false
    }

    fn next_informational(&self, _: &Waker) -> Option<Bytes> {
        None
    }

    fn client_has_ended(&self) {}
}

/// What this server makes of these bytes, cut into pieces.
pub(crate) async fn ours(bytes: &[u8], cuts: &[u8], service: Service) -> Outcome {
    let (io, written) = Pieces::new(bytes, cuts);
    let seen = Arc::default();
    let handler = Ours { seen: Arc::clone(&seen), service };
    let second = Duration::from_secs(1);
    let times = Times { head: second, idle: second, half_closed: second };
    let (end, io) = Connection::new(io, handler, BOUNDS, times, Instant::now()).serve(|_| false).await;
    drop(io);
    let refused = match end {
        End::Refused(refusal) => Some(refusal.status()),
        End::Quiet | End::Answered { .. } | End::Switched(_) | End::CutShort(_) | End::Broken(_) => None,
        End::Idle | End::Late => panic!("nothing was waited for"),
    };
    outcome(&seen, &written, refused)
}

/// What hyper's server makes of them.
pub(crate) async fn hypers(bytes: &[u8], service: Service) -> Outcome {
    let (io, written) = Pieces::new(bytes, &[]);
    let seen: Arc<Mutex<Vec<Handled>>> = Arc::default();
    let handler = hyper::service::service_fn(|request| {
        let seen = Arc::clone(&seen);
        async move { Ok::<_, Infallible>(http::Response::from(handle(Request::from(request), seen, service).await)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_headers(BOUNDS.fields)
        .max_header_size(BOUNDS.bytes)
        .serve_connection(TokioIo::new(io), handler);
    // How it ends shows in what was written.
    let _ = connection.await;
    outcome(&seen, &written, None)
}

fn outcome(seen: &Mutex<Vec<Handled>>, written: &Mutex<Vec<u8>>, refused: Option<StatusCode>) -> Outcome {
    let handled = std::mem::take(&mut *seen.lock().expect("no panic"));
    Outcome { handled, written: std::mem::take(&mut *written.lock().expect("no panic")), refused }
}

/// Panics where this server reads something that hyper's does not read or reads otherwise, and where what it says
/// depends on how the bytes come.
pub(crate) async fn compare(bytes: &[u8], cuts: &[u8]) {
    let ours = ours(bytes, cuts, nothing).await;
    let whole = self::ours(bytes, &[], nothing).await;
    assert_eq!(ours.handled, whole.handled, "the same, however it comes");
    assert_eq!(ours.statuses(), whole.statuses(), "the same, however it comes");
    let hypers = hypers(bytes, nothing).await;
    for (place, handled) in ours.handled.iter().enumerate() {
        let theirs = hypers.handled.get(place).expect("hyper reads it, too");
        if handled.is_whole {
            assert_eq!(handled, theirs, "hyper reads it so");
        } else {
            // Known: where it ends differs, since hyper's bodies are handed on in other pieces.
            assert_eq!((&handled.fields, place + 1), (&theirs.fields, ours.handled.len()), "nothing follows");
        }
    }
    let breaks_off = ours.handled.last().is_some_and(|last| !last.is_whole);
    // Known: a size that hardly ends, and bare line feeds that end trailers before their end, are errors only here; and to
    // the beginning of HTTP/2 hyper says nothing.
    if !breaks_off && !bytes.windows(PREFACE.len()).any(|window| window == PREFACE) {
        assert_eq!(ours.handled.len(), hypers.handled.len(), "not stricter than hyper without a reason");
        assert_eq!(ours.statuses(), hypers.statuses());
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
