//! The same bytes read by hyper's client and by ours: what is accepted here is what hyper accepts there, and means the same.
//!
//! Ours may be stricter, in what [`may_differ`] lists. It may not be more lenient. The fuzz target `answer` includes this
//! file, too.

use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::yield_now,
};

use super::{
    framing::{Decoder, Part},
    head::{MOST_BYTES, MOST_FIELDS, Malformed, Reader},
};

type Fields = Vec<(String, Vec<u8>)>;

/// What a client makes of the bytes that come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    informational: Vec<(u16, Fields)>,
    /// `None`: there was no head.
    head: Option<(u16, String, Fields)>,
    body: Vec<u8>,
    trailers: Fields,
    /// Why it is not whole.
    broken: Option<Broken>,
    /// Whether another request could be sent by the same connection.
    reusable: bool,
}

/// Why an answer is not whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// It is malformed.
    Malformed(Malformed),
    /// The connection ended, or hyper said so.
    Ended,
}

/// By their names: hyper keeps those that are called the same together.
fn fields<N: AsRef<[u8]>, V: AsRef<[u8]>>(all: impl IntoIterator<Item = (N, V)>) -> Fields {
    let lines = all
        .into_iter()
        .map(|(name, value)| (String::from_utf8_lossy(name.as_ref()).into_owned(), value.as_ref().to_vec()));
    let mut fields: Fields = lines.collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields
}

/// What ours makes of these pieces, behind which the connection ends.
pub(super) fn ours(method: &Method, pieces: &[&[u8]]) -> Answer {
    let (mut answer, mut pieces) = (Answer::nothing(), pieces.iter());
    if let Err(broken) = answer.read(method, &mut || pieces.next().copied()) {
        (answer.broken, answer.reusable) = (Some(broken), false);
    }
    answer
}

impl Answer {
    fn nothing() -> Self {
        let (informational, body, trailers) = Default::default();
        Self { informational, head: None, body, trailers, broken: None, reusable: false }
    }

    /// The same, as far as it does not depend on when a head is found to be malformed: at once, or at its end.
    #[cfg(test)]
    pub(super) fn settled(mut self) -> Self {
        if self.head.is_none() {
            self.broken = Some(Broken::Ended);
        }
        self
    }

    fn read<'a>(&mut self, method: &Method, next: &mut impl FnMut() -> Option<&'a [u8]>) -> Result<(), Broken> {
        let (mut reader, mut coming) = (Reader::default(), BytesMut::new());
        let head = loop {
            match reader.read(&coming).map_err(Broken::Malformed)? {
                Some((head, length)) => {
                    coming.advance(length);
                    if !head.is_informational() {
                        break head;
                    }
                    self.informational.push((head.status.as_u16(), fields(&head.fields)));
                }
                None => coming.extend_from_slice(next().ok_or(Broken::Ended)?),
            }
        };
        let is_upgrade = head.status == StatusCode::SWITCHING_PROTOCOLS;
        let decoder = if is_upgrade { Ok(Decoder::length(0)) } else { head.body(method) };
        let mut decoder = decoder.map_err(Broken::Malformed)?;
        self.head = Some((head.status.as_u16(), format!("{:?}", head.version), fields(&head.fields)));
        let mut ahead = coming.freeze();
        loop {
            match decoder.decode(&mut ahead).map_err(Broken::Malformed)? {
                Part::Data(data) => self.body.extend_from_slice(&data),
                Part::Trailers(trailers) => self.trailers = fields(&trailers),
                Part::End => break,
                Part::More => match next() {
                    Some(piece) => ahead = Bytes::copy_from_slice(piece),
                    None if decoder.ends_with_connection() => return Ok(()),
                    None => return Err(Broken::Ended),
                },
            }
        }
        let is_quiet = ahead.is_empty() && next().is_none_or(<[u8]>::is_empty);
        self.reusable = head.persists() && is_quiet && !is_upgrade;
        Ok(())
    }
}

/// What hyper makes of these bytes, behind which the connection ends if `closes`.
async fn hypers(method: &Method, bytes: &[u8], closes: bool) -> Answer {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (mut sender, driver) = Builder::new()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_spaces_after_header_name_in_responses(true)
        .max_headers(MOST_FIELDS)
        .max_buf_size(MOST_BYTES)
        .handshake(TokioIo::new(near))
        .await
        .expect("nothing is sent yet");
    let driver = tokio::spawn(driver.with_upgrades());
    let mut answer = Answer::nothing();
    let informational = Arc::new(Mutex::new(Vec::new()));
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method.clone();
    let told = Arc::clone(&informational);
    hyper::ext::on_informational(&mut request, move |head| {
        told.lock().expect("nobody panics").push((head.status().as_u16(), fields(head.headers())));
    });
    let response = tokio::spawn(sender.send_request(request));
    let mut asked = Vec::new();
    while !asked.ends_with(b"\r\n\r\n") {
        far.read_buf(&mut asked).await.expect("hyper asks");
    }
    far.write_all(bytes).await.expect("it fits");
    let far = (!closes).then_some(far);
    let response = response.await.expect("no panic");
    answer.informational = std::mem::take(&mut *informational.lock().expect("nobody panics"));
    match response {
        Err(_) => answer.broken = Some(Broken::Ended),
        Ok(response) => {
            let (head, mut body) = response.into_parts();
            answer.head = Some((head.status.as_u16(), format!("{:?}", head.version), fields(&head.headers)));
            while let Some(frame) = body.frame().await {
                match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => answer.body.extend_from_slice(&data),
                    Ok(Err(frame)) => answer.trailers = frame.trailers_ref().map(fields).unwrap_or_default(),
                    Err(_) => answer.broken = Some(Broken::Ended),
                }
            }
            for _ in 0..10 {
                yield_now().await;
            }
            answer.reusable = sender.is_ready() && answer.broken.is_none();
        }
    }
    drop(far);
    driver.abort();
    answer
}

/// Whether ours refuses these bytes, which hyper takes, and is meant to: for transfer codings that hyper does not undo, lengths
/// that nothing has, sizes with more digits than a number or no end of spaces, trailers whose lines end in a bare LF.
fn may_differ(broken: &Broken, bytes: &[u8]) -> bool {
    let has_digits = |count| bytes.split(|byte| !byte.is_ascii_hexdigit()).any(|run| run.len() >= count);
    match broken {
        Broken::Malformed(Malformed::Coding | Malformed::Trailers) => true,
        Broken::Malformed(Malformed::Length) => has_digits(19),
        Broken::Malformed(Malformed::Size) => has_digits(17) || bytes.len() > 16 * 1024,
        Broken::Malformed(Malformed::Head(_) | Malformed::Meaning | Malformed::TooLong | Malformed::Chunk)
        | Broken::Ended => false,
    }
}

/// Reads these bytes in both ways, in ours cut into pieces of this size.
///
/// Returns whether ours takes them.
///
/// # Panics
///
/// Ours takes what hyper does not, or for something else.
pub(super) async fn assert_alike(method: &Method, bytes: &[u8], size: usize) -> bool {
    let pieces: Vec<_> = bytes.chunks(size.max(1)).collect();
    let mut ours = ours(method, &pieces);
    let mut hypers = hypers(method, bytes, true).await;
    let context = || format!("{method} {:?} in pieces of {size}", String::from_utf8_lossy(bytes));
    if let Some(broken) = &ours.broken {
        if hypers.broken.is_none() {
            assert!(may_differ(broken, bytes), "{broken:?} for {}\nhyper: {hypers:?}", context());
        }
        return false;
    }
    let reusable = std::mem::take(&mut ours.reusable);
    hypers.reusable = false;
    assert_eq!(ours, hypers, "{}", context());
    let is_upgrade = ours.head.as_ref().is_some_and(|head| head.0 == 101);
    if reusable && !is_upgrade {
        let open = self::hypers(method, bytes, false).await;
        assert!(open.reusable, "{} can't be followed by another", context());
    }
    true
}
