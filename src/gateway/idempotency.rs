//! `Idempotency-Key`: the first request with a key runs, and whoever comes with the same key and payload gets its answer.
//!
//! A key belongs to who sent it (its credentials), the host, the target and the method. From the first byte on its way to the
//! backend it never runs again, whatever becomes of that: an answer, good or bad, is given again; where there was none, who
//! asks again is told that the outcome is unknown. What was refused before, or was answered that it did not run
//! ([`did_not_run`]), leaves the key free.

use std::time::Duration;

use http::{
    Method, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
};

use super::{
    Exchange,
    answer::{self, Failure, Repeat},
    body::{Answer, Inbound},
    browsers,
    headers::METHOD_OVERRIDES,
    repeats::{Body, Keeping, memory, record},
};
use crate::{
    core::{fingerprint::Fingerprint, idempotency, message::Response},
    memory::{self, Claim, Identity, InDoubt, Kept, Kind, Memo, Recorded},
    telemetry::metrics::Verdict,
};

/// The first request with its key.
pub(super) struct First {
    pub(super) claim: Claim,
    head: Fingerprint,
    time: Duration,
}

/// What a key means.
pub(super) enum Begun {
    /// This is the first request with it, or there is none.
    First(Option<First>),
    /// It was answered before.
    Again(Box<Response<Answer>>),
}

pub(super) async fn begin(exchange: &Exchange, body: &mut Inbound) -> Result<Begun, Failure> {
    let head = &exchange.head;
    let Some(time) = exchange.policy().repeats.idempotency else { return Ok(Begun::First(None)) };
    let method = head.method.as_str();
    if ![Method::POST, Method::PATCH].iter().any(|known| known.as_str().eq_ignore_ascii_case(method)) {
        return Ok(Begun::First(None));
    }
    let Some(key) = idempotency::parse(&head.headers).map_err(Repeat::MalformedKey)? else {
        return Ok(Begun::First(None));
    };
    let print = print_of_head(exchange);
    match memory(exchange).begin(Kind::Key, name(exchange, &key)) {
        memory::Begun::Free(claim) => Ok(Begun::First(Some(First { claim, head: print, time }))),
        memory::Begun::Known(Memo::Answer(identity, kept)) => {
            let is_same = identity.head == print && has_body(exchange, identity, body).await?;
            if !is_same {
                return Err(Repeat::OtherPayload.into());
            }
            again(exchange, identity, &kept).map(|response| Begun::Again(Box::new(response)))
        }
        // Names of values are never those of keys.
        memory::Begun::UnderWay(_) | memory::Begun::Known(Memo::Value(_)) => Err(Repeat::Running.into()),
    }
}

/// Whether the request has the body that it had the first time, as far as that was seen.
async fn has_body(exchange: &Exchange, identity: Identity, body: &mut Inbound) -> Result<bool, Failure> {
    let Some(first) = identity.body else { return Ok(true) };
    let print = body.fingerprint(memory(exchange).prints().begin()).await.map_err(Failure::Body)?;
    Ok(print == first)
}

fn again(exchange: &Exchange, identity: Identity, kept: &Kept) -> Result<Response<Answer>, Failure> {
    memory(exchange).answered(Kind::Key);
    match kept {
        // An answer that came before the body had its end may be that to another payload.
        Kept::Whole(recorded) if identity.body.is_some() => {
            exchange.seen.verdict(Verdict::Replayed);
            Ok(browsers::given_again(exchange, answer::again(recorded, true)))
        }
        Kept::Whole(recorded) | Kept::Head(recorded) => {
            Err(Repeat::NotKept { status: recorded.status(), location: location(recorded) }.into())
        }
        Kept::InDoubt => Err(Repeat::InDoubt.into()),
    }
}

fn location(recorded: &Recorded) -> Option<String> {
    recorded.fields().get(LOCATION).and_then(|location| location.to_str().ok()).map(str::to_owned)
}

/// Under which name a key is known. Nothing in it changes with the configuration but for the partition.
fn name(exchange: &Exchange, key: &[u8]) -> Fingerprint {
    let head = &exchange.head;
    let asked = exchange.asked.as_bytes().to_ascii_lowercase();
    let caller = exchange.caller.to_be_bytes();
    let target = exchange.target.as_path_and_query().as_str().as_bytes();
    // Some backends take `post` for `POST`.
    let method = head.method.as_str().to_ascii_uppercase();
    let parts = [&b"key"[..], key, &caller, &asked, method.as_bytes(), target];
    let partition = exchange.policy().partition.iter();
    let values = partition.flat_map(|name| head.headers.get_all(name).map(|value| value.as_bytes()));
    memory(exchange).prints().of(parts.into_iter().chain(values))
}

/// What counts of a head beside the name: how the body is to be read, and as what.
fn print_of_head(exchange: &Exchange) -> Fingerprint {
    let mut printing = memory(exchange).prints().begin();
    for name in [CONTENT_TYPE, CONTENT_ENCODING].iter().chain(&METHOD_OVERRIDES) {
        printing.part(name.as_str().as_bytes());
        exchange.head.headers.get_all(name).for_each(|value| printing.part(value.as_bytes()));
    }
    printing.finish()
}

impl First {
    pub(super) fn confirm(&mut self, body: Option<Fingerprint>) {
        let identity = Identity { head: self.head, body };
        self.claim.confirm(InDoubt::Remembered(Memo::Answer(identity, Kept::InDoubt), Some(self.time)));
    }

    /// There is an answer: it is the key's from now on, unless it says that nothing was done.
    pub(super) fn settle(self, exchange: &Exchange, body: Body, response: Response<Answer>) -> Response<Answer> {
        if did_not_run(response.status()) {
            self.claim.release();
            return response;
        }
        let keeping = Keeping::new(self.claim, self.head, body, self.time, &response);
        record(exchange, keeping, response)
    }
}

/// The statuses that say that the request was not even looked at, and is to come again just as it is.
fn did_not_run(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::UNAUTHORIZED
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::MISDIRECTED_REQUEST
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    )
}
