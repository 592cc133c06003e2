//! A connection that speaks HTTP/1: its requests one after another, and its end.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{HeaderValue, StatusCode, header::CONNECTION};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, sync::watch, time::timeout};

use super::{
    Live,
    connection::{FAREWELL, Open, read_and_drop, received, say, too_slow},
    last_call,
    patient::{Clock, HeadTimer, Patient},
};
use crate::config::Limits;

/// How much of an answer may wait to be sent to a client that does not read.
const UNSENT: usize = 64 * 1024;
/// hyper's buffer for a connection has room for a head, and for this beside it.
const BESIDE_HEAD: usize = 16 * 1024;

/// Serves a connection that speaks HTTP/1.
pub(super) async fn serve(
    open: Open,
    live: &Live,
    limits: &Limits,
    stop: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let Open { stream, client, began, .. } = open;
    let requests = AtomicUsize::new(0);
    let service = service_fn(|request| {
        let is_last = requests.fetch_add(1, Ordering::Relaxed) + 1 >= limits.requests_per_connection;
        // In a box of its own: hyper keeps room for a request for as long as the connection lives.
        let answer = Box::pin(live.gateway().handle(Arc::clone(&client), received(request), None));
        let stop = stop.clone();
        async move {
            let mut answer = answer.await;
            let closes = is_last || *stop.borrow();
            if closes && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut stop = stop.clone();
    let clock = Clock::new(limits, began);
    let tunnel = stream.tunnel();
    let patient = Patient::new(stream, Arc::clone(&client), limits, Arc::clone(&clock));
    let mut connection = http1::Builder::new()
        .timer(HeadTimer(Arc::clone(&clock)))
        .header_read_timeout(limits.header_read_timeout)
        .max_headers(limits.headers)
        .max_header_size(limits.header_bytes)
        .max_buf_size(limits.header_bytes.max(UNSENT) + BESIDE_HEAD)
        .serve_connection(TokioIo::new(patient), service)
        .with_upgrades();
    // A request may be here already that hyper has not read; it gets its answer, with which the connection closes.
    let ended = tokio::select! {
        biased;
        ended = &mut connection => Some(ended),
        () = last_call(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    let Some(parts) = connection.into_parts() else {
        tunnel.begins();
        return ended;
    };
    let mut stream = parts.io.into_inner().into_stream();
    if clock.is_late() {
        say(&mut stream, &too_slow()).await;
    } else if ended.as_ref().is_err_and(hyper::Error::is_timeout) {
        // Idle. Whether the client hears of it in time does not matter.
        let _ = timeout(FAREWELL, stream.shutdown()).await;
    } else if ended.as_ref().is_err_and(hyper::Error::is_parse)
        || requests.load(Ordering::Relaxed) >= limits.requests_per_connection
    {
        // It has its answer, and may be sending still.
        let _ = timeout(FAREWELL, read_and_drop(&mut stream)).await;
    }
    ended
}
