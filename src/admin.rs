//! What an operator asks, on a listener of its own: `/livez`, `/readyz`, `/metrics`, `/report`, `/records`.
//!
//! It is the operator's: whoever reaches it sees every tag and can have a resource forgotten, so its address is a loopback
//! one unless the configuration says otherwise, and there is nothing here to log in with. It runs beside the workers, on a
//! thread that serves no client. A connection carries one request and lives for `LONGEST`; there are at most
//! `CONNECTIONS` of them, and the oldest makes room for one more.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    server::Control,
    telemetry::metrics::{self, Now},
    tracker::Taken,
};

mod records;

/// How many connections there may be at once.
const CONNECTIONS: usize = 64;
/// How long a connection may last.
const LONGEST: Duration = Duration::from_secs(5);
/// The bytes of a request's head; what hyper asks for at least.
const HEAD: usize = 16 * 1024;
/// A pause after an error that concerns no single connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the answers are taken from.
#[derive(Debug, Clone)]
pub struct Admin {
    control: Control,
    /// Whether the process has been told to stop.
    stop: watch::Receiver<bool>,
}

type Reply = Response<Full<Bytes>>;

/// Answers for as long as the task runs, also while the workers drain.
pub async fn serve(listener: std::net::TcpListener, admin: Admin) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the admin listener can't be used"),
    };
    // The oldest first. Were new ones to wait instead, some who say nothing would have the process look dead.
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() >= CONNECTIONS
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                // One that takes longer is cut.
                let conversation = timeout(LONGEST, admin.clone().converse(stream));
                open.push_back(tokio::spawn(async move { drop(conversation.await) }).abort_handle());
            }
            Err(error) => {
                tracing::debug!(%error, "no admin connection can be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Admin {
    /// Of the gateway with this control, which stops when `stop` says so.
    #[must_use]
    pub fn new(control: Control, stop: watch::Receiver<bool>) -> Self {
        Self { control, stop }
    }

    async fn converse(self, stream: TcpStream) {
        let service = service_fn(|request| {
            let admin = &self;
            async move { Ok::<_, Infallible>(admin.answer(&request).await) }
        });
        let mut protocol = http1::Builder::new();
        protocol.timer(TokioTimer::new()).header_read_timeout(LONGEST).keep_alive(false).max_buf_size(HEAD);
        if let Err(error) = protocol.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "an admin connection ended");
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Reply {
        let uri = request.uri();
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match uri.path() {
            "/livez" if is_read => text(StatusCode::OK, "live\n"),
            "/readyz" if is_read => self.readiness(),
            "/metrics" if is_read => self.metrics(),
            "/report" if is_read => self.report(),
            "/records" if is_read => self.show(uri.query()).await,
            "/records" if *request.method() == Method::DELETE => self.forget(uri.query()).await,
            "/records" => not_allowed("GET, HEAD, DELETE"),
            "/livez" | "/readyz" | "/metrics" | "/report" => not_allowed("GET, HEAD"),
            _ => text(StatusCode::NOT_FOUND, "There are /livez, /readyz, /metrics, /report and /records.\n"),
        }
    }

    fn readiness(&self) -> Reply {
        readiness(*self.stop.borrow() || self.stop.has_changed().is_err(), self.control.has_healthy_server())
    }

    fn metrics(&self) -> Reply {
        let shared = self.control.shared();
        let (records, capacity) = (shared.tracker.len(), shared.tracker.capacity());
        let memory = &shared.memory;
        let memory =
            metrics::Remembered { usage: memory.usage(), capacity: memory.capacity(), under_way: memory.under_way() };
        let servers = self.control.servers();
        let metrics = shared.telemetry.scrape(Now { records, capacity, servers, memory: Some(memory) });
        reply(StatusCode::OK, metrics::MEDIA_TYPE, metrics)
    }

    fn report(&self) -> Reply {
        let gateway = self.control.gateway();
        let report = self.control.shared().telemetry.report.describe(&gateway.config().routes);
        reply(StatusCode::OK, JSON, report)
    }

    async fn show(&self, query: Option<&str>) -> Reply {
        match records::named(&self.control.gateway(), query) {
            Ok(named) => {
                let known = self.control.shared().tracker.inspect(named.key).await;
                reply(StatusCode::OK, JSON, pretty(&records::describe(&named, known)))
            }
            Err((status, why)) => problem(status, why),
        }
    }

    async fn forget(&self, query: Option<&str>) -> Reply {
        let named = match records::named(&self.control.gateway(), query) {
            Ok(named) => named,
            Err((status, why)) => return problem(status, why),
        };
        match self.control.shared().tracker.forget(named.key).await {
            Ok(forgotten) => {
                self.control.gateway().forget_repeats(named.key);
                reply(StatusCode::OK, JSON, pretty(&json!({ "forgotten": forgotten })))
            }
            Err(taken @ Taken) => problem(StatusCode::CONFLICT, format!("{taken}; it may be forgotten after that")),
        }
    }
}

/// Whether clients should be sent here. A service without a single server that is well can't answer them.
fn readiness(stops: bool, has_healthy_server: bool) -> Reply {
    if stops {
        text(StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else if !has_healthy_server {
        text(StatusCode::SERVICE_UNAVAILABLE, "no upstream has a healthy server\n")
    } else {
        text(StatusCode::OK, "ready\n")
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

fn reply(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

fn text(status: StatusCode, text: &'static str) -> Reply {
    reply(status, TEXT, text)
}

fn problem(status: StatusCode, why: String) -> Reply {
    reply(status, JSON, pretty(&json!({ "error": why })))
}

fn not_allowed(methods: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "This can't be done here.\n");
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    reply
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;
    use crate::telemetry::metrics::ServerState;

    fn server(server: &str, healthy: bool) -> ServerState {
        let failures = vec![("connect", 7)];
        ServerState { upstream: "a".into(), server: server.into(), open: 3, idle: 2, healthy, failures }
    }

    #[test]
    fn readiness_needs_one_server_that_is_well_and_no_stop() {
        for (stops, has_healthy_server, status) in
            [(false, true, 200), (false, false, 503), (true, true, 503), (true, false, 503)]
        {
            assert_eq!(readiness(stops, has_healthy_server).status().as_u16(), status);
        }
    }

    #[test]
    fn servers_are_scraped_as_they_are_now() {
        let telemetry = Telemetry::default();
        let scrape = |servers| telemetry.scrape(Now { servers, ..Now::default() });
        let both = scrape(vec![server("h:1", true), server("h:2", false)]);
        for line in [
            "ifmatch_upstream_connections{upstream=\"a\",server=\"h:1\",state=\"open\"} 3\n",
            "ifmatch_upstream_connections{upstream=\"a\",server=\"h:2\",state=\"idle\"} 2\n",
            "ifmatch_upstream_healthy{upstream=\"a\",server=\"h:1\"} 1\n",
            "ifmatch_upstream_healthy{upstream=\"a\",server=\"h:2\"} 0\n",
            "ifmatch_upstream_failures_total{upstream=\"a\",server=\"h:2\",kind=\"connect\"} 7\n",
        ] {
            assert!(both.contains(line), "{line}{both}");
        }
        assert!(both.contains("ifmatch_reloads_total{result=\"refused\"} 0\n"), "{both}");
        telemetry.metrics.reloaded(false);
        let one = scrape(vec![server("h:2", true)]);
        assert!(one.contains("ifmatch_reloads_total{result=\"refused\"} 1\n"), "{one}");
        assert!(!one.contains("h:1") && one.contains("server=\"h:2\"} 1\n"), "{one}");
    }
}
