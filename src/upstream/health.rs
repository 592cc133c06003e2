//! Asking servers for their health: one task a server, wherever in the process [`Fleet::start_checks`] was called.
//!
//! A check goes by a connection of its own, made as every other one is, TLS and protocol included, but not counted among
//! those that the server may have: a server that is full is not ill.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::{
    StatusCode, Version,
    header::{ACCEPT, CONNECTION, HOST, USER_AGENT},
};
use http_body_util::Empty;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::{
    Broken, Fault,
    connect::{asks, connect},
    fleet::{Fleet, Server},
    http1, http2,
    wire::{Watch, Wire},
};
use crate::{
    config::{Health, Protocol},
    core::{message::Request, value::FieldValue},
    telemetry::Causes,
};

impl Fleet {
    /// Begins to ask the servers for their health, if the configuration says so and nobody does yet. Within a runtime that
    /// goes on; it ends with the fleet.
    pub fn start_checks(self: &Arc<Self>) {
        let Some(health) = &self.config().health else { return };
        if !self.begin_checks() {
            return;
        }
        for at in 0..self.servers().len() {
            tokio::spawn(watch(Arc::downgrade(self), at, health.clone()));
        }
    }
}

async fn watch(fleet: Weak<Fleet>, at: usize, health: Health) {
    let mut every = interval(health.interval);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        // Not held while nothing is asked.
        let Some(fleet) = fleet.upgrade() else { return };
        let server = &fleet.servers()[at];
        let deadline = Instant::now() + health.timeout;
        let asked = timeout_at(deadline, ask(server, fleet.config().protocol, &health, deadline)).await;
        let is_good = match &asked {
            Ok(Ok(status)) => status.is_success() || status.is_redirection(),
            Ok(Err(_)) | Err(_) => false,
        };
        if let Some(is_healthy) = server.condition.checked(&health, is_good) {
            let (upstream, server) = (&fleet.config().name, server.origin());
            if is_healthy {
                tracing::info!(upstream, %server, "a server is healthy again");
            } else {
                let said = match &asked {
                    Ok(Ok(status)) => status.to_string(),
                    Ok(Err(fault)) => Causes(fault).to_string(),
                    Err(_) => "no answer in time".to_owned(),
                };
                tracing::warn!(upstream, %server, said, "a server is not healthy; it gets no requests");
            }
        }
    }
}

async fn ask(server: &Server, protocol: Protocol, health: &Health, deadline: Instant) -> Result<StatusCode, Fault> {
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = health.path.clone().into();
    *request.version_mut() = Version::HTTP_11;
    let fields = request.headers_mut();
    let authority = FieldValue::try_from(server.origin.authority.as_str());
    fields.insert(HOST, authority.expect("an authority may stand in a field"));
    fields.insert(USER_AGENT, FieldValue::from_static("ifmatch"));
    fields.insert(ACCEPT, FieldValue::from_static("*/*"));
    let connected = connect(server, asks(protocol), deadline).await?;
    if connected.is_http2 {
        let (mut sender, _, task) = http2::handshake(connected, None).await?;
        let _ends = http2::Unkept::of(task);
        let (head, _) = request.into_parts();
        let broken = |error| Fault::Connection(Broken::Http2(error));
        let (answer, _) = sender.send_request(http2::translated(&head, &server.origin), true).map_err(broken)?;
        return Ok(answer.await.map_err(broken)?.status());
    }
    request.headers_mut().insert(CONNECTION, FieldValue::from_static("close"));
    let wire = Wire { stream: connected.stream, watch: Watch::Nobody, _place: None };
    let (progress, patience) = (Arc::default(), deadline.saturating_duration_since(Instant::now()));
    let answered =
        http1::Connection::new(wire, connected.peer, Weak::new()).send(Box::new(request), &progress, patience).await;
    let answered = answered.map_err(|failed| failed.fault)?;
    Ok(answered.head.status)
}
