//! Writes that may come again: what is remembered of one, from its arrival to its answer.
//!
//! The steps of a write call in here at the points where it matters: on arrival ([`begin`]), once the body was read ahead
//! ([`read`]), in its turn ([`known`], [`look_up`]), before the first byte is sent ([`Notes::confirm`]), and when the
//! outcome is known ([`settle`], [`release`], [`changed`]). What each kind does there is in `replay`, `idempotency` and
//! `unique`. A write of which nothing is to be remembered has no notes, and pays for no more than a look at its route.
//!
//! Notes go with the write into the task that carries it out, so that nothing that must not happen twice depends on a client
//! that can hang up. Dropped before that, they leave no trace.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::{Method, StatusCode, header::SET_COOKIE};

use super::{
    Exchange, Gateway,
    answer::Failure,
    body::{Ahead, Answer, Inbound, Keep, Outgoing},
    idempotency, related, replay, unique,
};
use crate::{
    core::{
        fields::Fields,
        fingerprint::Fingerprint,
        message::Response,
        precondition::Demands,
        record::Outcome,
        repeats::Repeats,
        resource::{CREDENTIALS, Key},
    },
    memory::{Claim, Identity, Kept, Memo, Memory, Recorded},
    tracker::Turn,
};

/// What is to be remembered of a write.
pub(super) struct Notes {
    /// It may be the last conditional write of its resource.
    pub(super) replay: Option<replay::Candidate>,
    /// It is the first with its key.
    pub(super) first: Option<idempotency::First>,
    /// Whether its values must be new; those that were found.
    pub(super) unique: Option<unique::Values>,
    /// Its body.
    pub(super) body: Body,
}

/// What is known of a body.
#[derive(Default)]
pub(super) enum Body {
    /// It was not looked at.
    #[default]
    Unread,
    /// All of it was read ahead.
    Whole(Fingerprint),
    /// It is looked at while it passes.
    Passing(Arc<OnceLock<Fingerprint>>),
}

impl Body {
    /// Its fingerprint, if it has been seen to its end.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Unread => None,
            Self::Whole(print) => Some(*print),
            Self::Passing(print) => print.get().copied(),
        }
    }
}

/// How a write goes on.
pub(super) enum Begun {
    /// It was answered before.
    Answered(Box<Response<Answer>>),
    /// It runs, with what is to be remembered of it.
    Runs(Option<Box<Notes>>),
}

/// A write arrives.
pub(super) async fn begin(exchange: &Exchange, demands: &Demands, body: &mut Inbound) -> Result<Begun, Failure> {
    let rules = &exchange.policy().repeats;
    if rules.are_off() {
        return Ok(Begun::Runs(None));
    }
    // In a box, as all here: the other writes would have room for it.
    Box::pin(begin_noted(exchange, rules, demands, body)).await
}

async fn begin_noted(
    exchange: &Exchange,
    rules: &Repeats,
    demands: &Demands,
    body: &mut Inbound,
) -> Result<Begun, Failure> {
    let first = match idempotency::begin(exchange, body).await? {
        idempotency::Begun::Again(response) => return Ok(Begun::Answered(response)),
        idempotency::Begun::First(first) => first,
    };
    let replay = replay::Candidate::of(exchange, demands);
    let is_unique = is_post(exchange) && !rules.unique.is_empty();
    let unique = is_unique.then(unique::Values::default);
    let has_any = first.is_some() || replay.is_some() || unique.is_some();
    let notes = || Box::new(Notes { replay, first, unique, body: Body::default() });
    Ok(Begun::Runs(has_any.then(notes)))
}

/// Whether the write may be one whose answer was lost, so that nothing is decided before its body is there.
pub(super) fn may_be_known(exchange: &Exchange, notes: Option<&Notes>) -> bool {
    notes.and_then(|notes| notes.replay.as_ref()).is_some_and(|candidate| candidate.may_be_known(exchange))
}

/// So much of its body was read ahead, or `is_whole`: all of it. Returns once its values are claimed, if they have to be new.
pub(super) async fn read(
    exchange: &Exchange,
    notes: Option<&mut Box<Notes>>,
    ahead: &Ahead,
    is_whole: bool,
) -> Result<(), Failure> {
    let Some(notes) = notes else { return Ok(()) };
    let prints = memory(exchange).prints();
    notes.body = if is_whole {
        let mut printing = prints.begin();
        printing.piece(&ahead.bytes);
        Body::Whole(printing.finish())
    } else {
        Body::Passing(Arc::default())
    };
    match &mut notes.unique {
        Some(values) => Box::pin(values.claim(exchange, ahead, is_whole)).await,
        None => Ok(()),
    }
}

/// The answer that the same write had before, once it has the turn. `None`: it is judged.
pub(super) async fn known(exchange: &Exchange, notes: &Notes, turn: &Turn) -> Option<replay::Known> {
    let (candidate, body) = (notes.replay.as_ref()?, notes.body.fingerprint()?);
    candidate.known(exchange, body, replay::Left::in_turn(exchange, turn).await?)
}

/// Asks the backend for the values of a write that has its turn.
pub(super) async fn look_up(exchange: &Exchange, notes: Option<&Notes>) -> Result<(), Failure> {
    match notes.and_then(|notes| notes.unique.as_ref()) {
        Some(values) => Box::pin(values.look_up(exchange)).await,
        None => Ok(()),
    }
}

/// Whether the write can't go on without having its body read.
pub(super) fn needs_body(notes: Option<&Notes>) -> bool {
    notes.is_some_and(|notes| notes.unique.is_some())
}

/// No byte of it was sent.
pub(super) fn release(notes: Option<Box<Notes>>) {
    let Some(notes) = notes else { return };
    if let Some(first) = notes.first {
        first.claim.release();
    }
    if let Some(values) = notes.unique {
        values.release();
    }
}

/// The backend has answered, and this is what it means for the resource. To be called before the turn ends. `is_whole`:
/// the backend had all of the body.
pub(super) fn settle(
    notes: Option<Box<Notes>>,
    exchange: &Exchange,
    outcome: Option<&Outcome>,
    is_whole: bool,
    response: Response<Answer>,
) -> Response<Answer> {
    changed(exchange, outcome);
    let Some(notes) = notes else { return response };
    if let Some(values) = notes.unique {
        values.settle(exchange, outcome, response.status(), response.headers());
    }
    if let Some(first) = notes.first {
        return first.settle(exchange, notes.body, response);
    }
    match notes.replay.and_then(|candidate| candidate.begin(exchange, outcome, is_whole, &notes.body, &response)) {
        Some(keeping) => record(exchange, keeping, response),
        None => response,
    }
}

impl Notes {
    /// From here on it may happen, and its body passes.
    pub(super) fn confirm(&mut self, exchange: &Exchange, outgoing: &mut Outgoing) {
        if let Body::Passing(printed) = &self.body {
            outgoing.print(memory(exchange).prints().begin(), printed);
        }
        if let Some(first) = &mut self.first {
            first.confirm(self.body.fingerprint());
        }
        if let Some(values) = &mut self.unique {
            values.confirm(exchange);
        }
    }
}

/// The answer is remembered, with its body as far as that goes, however the client takes it.
pub(super) fn record(exchange: &Exchange, keeping: Keeping, response: Response<Answer>) -> Response<Answer> {
    let (limit, linger_time) = (exchange.policy().repeats.answer_bytes, exchange.policy().linger_time);
    response.map(|body| body.recorded(limit, linger_time, Box::new(keeping)))
}

/// An answer that is about to be remembered. Dropped, its head is.
pub(super) struct Keeping {
    /// `None` once it is remembered.
    claim: Option<Claim>,
    head: Fingerprint,
    body: Body,
    time: Duration,
    status: StatusCode,
    fields: Fields,
}

impl Keeping {
    /// The answer to the request of which this is known, for so long.
    pub(super) fn new(claim: Claim, head: Fingerprint, body: Body, time: Duration, answer: &Response<Answer>) -> Self {
        Self { claim: Some(claim), head, body, time, status: answer.status(), fields: answer.headers().clone() }
    }

    fn end(&mut self, content: Option<&[u8]>) {
        let Some(claim) = self.claim.take() else { return };
        let content = content.filter(|_| Recorded::takes(&self.fields));
        let recorded = Recorded::new(self.status, &self.fields, content.unwrap_or_default());
        let kept = if content.is_some() { Kept::Whole(recorded) } else { Kept::Head(recorded) };
        let identity = Identity { head: self.head, body: self.body.fingerprint() };
        claim.remember(Memo::Answer(identity, kept), Some(self.time));
    }
}

impl Keep for Keeping {
    fn keep(mut self: Box<Self>, content: Option<&[u8]>) {
        self.end(content);
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// A write has ended so, and its turn is about to. What was remembered of its resource may hold no longer.
pub(super) fn changed(exchange: &Exchange, outcome: Option<&Outcome>) {
    let memory = memory(exchange);
    if !memory.is_used() {
        return;
    }
    let is_gone = match outcome {
        Some(Outcome::NotApplied | Outcome::Contradicted) => return,
        Some(Outcome::Deleted) => true,
        Some(Outcome::Committed(_) | Outcome::InDoubt) | None => false,
    };
    memory.forget(replay::name(memory, exchange.key));
    related::keys(exchange).into_iter().for_each(|key| changed_elsewhere(&exchange.gateway, key));
    // What a POST does, it does to others.
    if !is_post(exchange) {
        memory.forget_owned(unique::owner(memory, exchange.key), is_gone);
    }
}

/// A resource was changed by a write to another.
pub(super) fn changed_elsewhere(gateway: &Gateway, key: Key) {
    let memory = &gateway.shared.memory;
    if memory.is_used() {
        memory.forget(replay::name(memory, key));
        memory.forget_owned(unique::owner(memory, key), false);
    }
}

impl Gateway {
    /// Forgets what is remembered of requests to a resource, and the values that end with it, because an operator knows
    /// better.
    pub fn forget_repeats(&self, key: Key) {
        let memory = &self.shared.memory;
        memory.forget(replay::name(memory, key));
        memory.forget_owned(unique::owner(memory, key), true);
    }
}

/// Whether it is a POST, in whichever case: some backends take `post` for `POST`.
pub(super) fn is_post(exchange: &Exchange) -> bool {
    exchange.head.method.as_str().eq_ignore_ascii_case(Method::POST.as_str())
}

/// Whether an answer is for one caller who can't be told from others.
pub(super) fn is_for_one_of_many(exchange: &Exchange, fields: &Fields) -> bool {
    fields.contains_key(SET_COOKIE) && !CREDENTIALS.iter().any(|name| exchange.head.headers.contains_key(name))
}

pub(super) fn memory(exchange: &Exchange) -> &Arc<Memory> {
    &exchange.gateway.shared.memory
}
