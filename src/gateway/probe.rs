//! Asking the backend for the current tag, with the caller's own credentials.
//!
//! A HEAD first; where it is not conclusive a GET, whose body is dropped. A 404 to HEAD is not conclusive: there are
//! frameworks that answer so wherever only GET is routed, and to take that for *absent* would let `If-None-Match: *`
//! overwrite what is there.

use std::sync::Arc;

use http::{
    Method, StatusCode,
    header::{AGE, LAST_MODIFIED},
};
use httpdate::HttpDate;

use super::{
    Exchange,
    answer::{Failure, Sent},
    body::Outgoing,
    forward::{self, Received, Tagged},
    habits, headers,
    versions::{self, Kind},
};
use crate::{
    core::{fields::Fields, record::Probed, resource::Target, value::Value, verdict::Probe},
    upstream::{Avoid, Progress},
};

/// What the backend said.
pub(super) enum Said {
    /// What there is, to be recorded and judged by.
    Shown(Probed, Probe),
    /// Nothing that a verdict could rest on.
    Nothing,
}

/// Asks the backend. `by_date` says that the write is judged by the date of the last modification alone.
pub(super) async fn probe(exchange: &Exchange, by_date: bool) -> Result<Said, Failure> {
    noted(exchange, ask(exchange, by_date, &Kind::Any).await)
}

/// Asks it for the tag that a representation of this kind has after a write.
pub(super) async fn after_write(exchange: &Exchange, kind: &Kind) -> Result<Said, Failure> {
    noted(exchange, ask(exchange, false, kind).await)
}

fn noted(exchange: &Exchange, said: Result<Said, Failure>) -> Result<Said, Failure> {
    exchange.seen.probed(&said);
    if let Ok(Said::Shown(Probed::Tag(tag), _)) = &said {
        habits::shown(exchange, tag);
    }
    said
}

async fn ask(exchange: &Exchange, by_date: bool, kind: &Kind) -> Result<Said, Failure> {
    // A HEAD shows nothing of a body.
    let in_body = versions::made(exchange).is_some_and(|versions| versions.source.is_in_body());
    if !in_body || by_date {
        let received = versions::probed(exchange, &Method::HEAD, kind).await?;
        if let Reading::Said(said) = read(&Method::HEAD, received, by_date, kind)? {
            return Ok(said);
        }
    }
    match read(&Method::GET, versions::probed(exchange, &Method::GET, kind).await?, by_date, kind)? {
        Reading::Said(said) => Ok(said),
        Reading::AskAgain => Ok(Said::Nothing),
    }
}

/// Sends a HEAD or a GET of the gateway's own. It goes once more where a client's read would.
pub(super) async fn send(
    exchange: &Exchange,
    method: Method,
    change: impl FnOnce(&mut Fields),
) -> Result<Received, Failure> {
    send_to(exchange, method, &exchange.target, change).await
}

/// The same for another target of the backend, with other fields.
pub(super) async fn send_to(
    exchange: &Exchange,
    method: Method,
    target: &Target,
    change: impl FnOnce(&mut Fields),
) -> Result<Received, Failure> {
    let mut fields = headers::for_probe(exchange);
    change(&mut fields);
    let servers = exchange.upstream().config().servers.len();
    let (mut attempts, mut avoid) = (3, None);
    let received = loop {
        attempts -= 1;
        let mut request = forward::assemble(exchange, method.clone(), fields.clone(), Outgoing::Empty);
        *request.uri_mut() = target.as_path_and_query().clone().into();
        if let Some(server) = avoid {
            request.extensions_mut().insert(Avoid(server));
        }
        match exchange.send(request, &Arc::new(Progress::default())).await {
            Ok(received) => break received,
            Err(error) if attempts > 0 && error.may_repeat_read(servers) => avoid = error.server,
            Err(error) => return Err(Failure::Upstream(error, Sent::Probe)),
        }
    };
    let trace = exchange.seen.trace_id();
    tracing::debug!(%trace, path = target.path(), %method, status = received.status().as_u16(), "probed");
    Ok(received)
}

enum Reading {
    Said(Said),
    /// HEAD is not understood, or does not say enough.
    AskAgain,
}

fn read(method: &Method, received: Received, by_date: bool, kind: &Kind) -> Result<Reading, Failure> {
    let unless_head = |said| if *method == Method::HEAD { Reading::AskAgain } else { Reading::Said(said) };
    Ok(match received.status() {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(Failure::Relayed(Box::new(received))),
        _ if is_remembered(received.headers()) => unless_head(Said::Nothing),
        status if status.is_success() && !kind.is_in(received.headers()) => unless_head(Said::Nothing),
        status if status.is_success() => {
            let last_modified = last_modified(received.headers());
            let probe = Probe { exists: true, last_modified };
            let enough_by_date = !by_date || last_modified.is_some();
            match forward::tag(received.headers()) {
                Tagged::With(tag) if enough_by_date => Reading::Said(Said::Shown(Probed::Tag(tag), probe)),
                Tagged::With(tag) => unless_head(Said::Shown(Probed::Tag(tag), probe)),
                Tagged::Without | Tagged::Unreadable if by_date && last_modified.is_some() => {
                    Reading::Said(Said::Shown(Probed::Untagged, probe))
                }
                Tagged::Without | Tagged::Unreadable => unless_head(Said::Shown(Probed::Untagged, probe)),
            }
        }
        StatusCode::NOT_FOUND | StatusCode::GONE => {
            unless_head(Said::Shown(Probed::Absent, Probe { exists: false, last_modified: None }))
        }
        StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED => unless_head(Said::Nothing),
        _ => Reading::Said(Said::Nothing),
    })
}

/// Whether a cache behind the gateway says this from memory, although it was asked not to: it may be of any state.
fn is_remembered(fields: &Fields) -> bool {
    let is_zero = |age: Value<'_>| {
        let digits = age.as_bytes().trim_ascii();
        !digits.is_empty() && digits.iter().all(|digit| *digit == b'0')
    };
    fields.get_all(AGE).any(|age| !is_zero(age))
}

fn last_modified(fields: &Fields) -> Option<HttpDate> {
    fields.get(LAST_MODIFIED)?.to_str().ok()?.trim().parse().ok()
}
