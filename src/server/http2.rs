//! A connection that speaks HTTP/2: its streams, and its end. Floods of frames that carry nothing are cut by `chatter`.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::watch;

use super::{
    LAST_CALL, Live,
    chatter::Quiet,
    connection::{Open, received},
    stopped,
    streams::{Over, Streams},
};
use crate::config::Limits;

/// How often a client that speaks HTTP/2 is asked whether it is still there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);
/// How many streams a client may reset before they were looked at ("rapid reset"), and how many may be reset because of
/// its errors, before the connection is closed. Header lists, and with them CONTINUATION frames, are bounded by
/// `header_bytes`.
const PENDING_RESETS: usize = 20;
const ERROR_RESETS: usize = 256;
/// How much of an answer may wait to be sent to a client that does not read: of each stream, where it opens a window.
const UNSENT: usize = 64 * 1024;

/// Serves a connection that speaks HTTP/2.
pub(super) async fn serve(
    open: Open,
    live: &Arc<Live>,
    limits: &Limits,
    mut stop: watch::Receiver<bool>,
) -> Result<(), hyper::Error> {
    let Open { stream, client, .. } = open;
    let streams = Streams::new(limits.send_timeout);
    let service = service_fn(|request| {
        let unanswered = streams.begin();
        let has_room = request.headers().len() <= limits.headers;
        let answer = has_room.then(|| live.gateway().handle(Arc::clone(&client), received(request)));
        async move {
            Ok::<_, Infallible>(match answer {
                Some(answer) => answer.await.map(|answer| unanswered.answered(answer)),
                None => unanswered.too_many_fields(),
            })
        }
    });
    let mut protocol = http2::Builder::new(streams.clone());
    protocol
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(u32::try_from(limits.streams_per_connection).unwrap_or(u32::MAX))
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .max_local_error_reset_streams(ERROR_RESETS)
        .max_send_buf_size(UNSENT)
        .enable_connect_protocol();
    let mut connection = pin!(protocol.serve_connection(TokioIo::new(Quiet::new(stream)), service));
    let (over, patience) = tokio::select! {
        ended = connection.as_mut() => return ended,
        over = streams.over(limits.requests_per_connection, limits.idle_timeout) => (Some(over), limits.send_timeout),
        () = stopped(&mut stop) => (None, LAST_CALL),
    };
    if over == Some(Over::GivenUp) {
        tracing::debug!("a client gives up more requests than it lets be answered");
        return Ok(());
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => ended,
        // It takes not even that.
        _ = streams.over(usize::MAX, patience) => Ok(()),
    }
}
