//! The way from watching to refusing: writes that are only observed, what is counted by client, what a client is told.
//!
//! An observed write ([`observed`]) waits for nobody, is not read ahead and not judged. The record is told that it is under
//! way and how it ended all the same, in the task that carries it out, so that what other routes know stays true. What
//! would have become of it is foreseen by what is known on its arrival; nobody is asked for it.
//!
//! Nothing here decides anything about a write.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{Method, StatusCode, header::USER_AGENT};

use super::{Demand, Exchange, METHOD_OVERRIDES, forward_in_turn, take_place, usable};
use crate::{
    core::{
        etag::EntityTag,
        message::Response,
        policy::{Missing, Mode},
        record::{Access, Outcome, Stamp, State, View},
        rollout::{Foreseen, foresee},
        verdict::{self, Refusal},
    },
    gateway::{
        answer::{self, Failure},
        body::{Ahead, Answer, Inbound},
        forward::{self, Received, Tagged},
        related, versions,
    },
    telemetry::{
        metrics,
        report::{Count, Since},
    },
    tracker::{Ask, Turn},
};

/// Whether a request with a safe method may be a write: a route that does not enforce takes nothing from it, and some
/// backends take an override of the method on whatever it comes.
pub(in crate::gateway) fn may_write(exchange: &Exchange) -> bool {
    exchange.policy().mode != Mode::Enforce
        && exchange.wish.is_none()
        && METHOD_OVERRIDES.iter().any(|name| exchange.head.headers.contains_key(name))
}

/// Answers a write of which nothing is enforced.
pub(super) async fn observed(exchange: &Arc<Exchange>, body: &mut Inbound) -> Result<Response<Answer>, Failure> {
    let told = report(exchange).await;
    let place = take_place(exchange).await?;
    let turn = announce(exchange).await?;
    let answer = forward_in_turn(exchange, turn, None, Ahead::default(), body, place).await?;
    Ok(match told.filter(|_| exchange.policy().mode == Mode::Warn) {
        Some(told) => answer::tell(answer, told),
        None => answer,
    })
}

/// Has the records of what it changes know of the write. It waits for nobody, at the gate neither.
async fn announce(exchange: &Exchange) -> Result<Turn, Failure> {
    let pass = exchange.gateway.enter_at_once().await.map_err(Failure::Busy)?;
    let ask = Ask {
        key: exchange.key,
        access: Access::Observed,
        caller: exchange.caller,
        wait: Duration::ZERO,
        line: 0,
        hold: exchange.policy().settle,
    };
    let related = related::keys(exchange);
    let mut turn = exchange.gateway.tracker.begin_write_beside(ask, &related).await.map_err(Failure::Busy)?;
    turn.keep(pass);
    Ok(turn)
}

/// Reports what would have become of a write, had the route been enforced: counted, logged, and returned as what its client
/// is told. Nobody is asked, and nobody waits.
async fn report(exchange: &Exchange) -> Option<&'static str> {
    let demand = Demand::of(exchange);
    let mut counts = arrival(exchange, demand.as_ref());
    let refusal = match &demand {
        Err(failure) => Some(failure.kind()),
        Ok(demand) if demand.is_guarded() => match foreseen(exchange, demand).await {
            Some(Foreseen::Refuse(why)) => {
                counts.push(why.into());
                Some(Failure::from(demand.refused(exchange, why, View::NOTHING, None)).kind())
            }
            Some(Foreseen::Unsure) => {
                counts.push(Count::Unsure);
                None
            }
            Some(Foreseen::Forward) => None,
            None => {
                counts.push(Count::Overlapping);
                None
            }
        },
        Ok(_) => return None,
    };
    counts.extend(demand.as_ref().err().and_then(counted));
    let is_first = exchange.seen.is_counted_first();
    if is_first {
        count(exchange, &counts);
        let verdict = if refusal.is_some() { metrics::Verdict::WouldRefuse } else { metrics::Verdict::Forward };
        exchange.seen.verdict(verdict);
    }
    if let Some(why) = refusal.filter(|_| is_first) {
        let (trace, method, path) = (exchange.seen.trace_id(), &exchange.head.method, exchange.target.path());
        tracing::info!(%trace, %method, path, why, "would be refused");
    }
    match demand {
        Ok(demand) if lacks(exchange, &demand) => Some(MISSING),
        Ok(_) | Err(_) => None,
    }
    .or(refusal.map(would_be_refused))
}

/// `None`: another write is under way.
async fn foreseen(exchange: &Exchange, demand: &Demand) -> Option<Foreseen> {
    let policy = exchange.policy();
    let demands = &demand.preconditions;
    let judge =
        |view: View<'_>| foresee(verdict::judge(policy, demands, demand.is_asked(exchange), view, None), demands, view);
    if demands.is_empty() {
        return Some(judge(View::NOTHING));
    }
    let known = |view: View<'_>| {
        let view = versions::may_tell(exchange, usable(exchange, view));
        exchange.seen.known(view);
        judge(view)
    };
    exchange.gateway.tracker.known(exchange.key, exchange.caller, policy.max_age, known).await
}

const MISSING: &str = "precondition missing";

/// What a client is told of a write that would have been refused.
fn would_be_refused(kind: &'static str) -> &'static str {
    match kind {
        "stale" => "would be refused: stale",
        "exists" => "would be refused: exists",
        "unverifiable" => "would be refused: unverifiable",
        "precondition-required" => "would be refused: precondition-required",
        "malformed-precondition" => "would be refused: malformed-precondition",
        "method-override" => "would be refused: method-override",
        _ => "would be refused",
    }
}

impl From<Refusal> for Count {
    fn from(why: Refusal) -> Self {
        match why {
            Refusal::Stale => Self::Stale,
            Refusal::Exists => Self::Exists,
            Refusal::Unverifiable => Self::Unverifiable,
            Refusal::MissingPrecondition => Self::MissingPrecondition,
        }
    }
}

/// A write arrives at a route that enforces. Returns whether its client is to be told that there is no precondition.
pub(super) fn arrives(exchange: &Exchange, demand: Result<&Demand, &Failure>) -> bool {
    if exchange.policy().counts() && exchange.seen.is_counted_first() {
        let mut counts = arrival(exchange, demand);
        counts.extend(demand.err().and_then(counted));
        count(exchange, &counts);
    }
    demand.is_ok_and(|demand| lacks(exchange, demand))
}

/// A route that enforces has answered. `is_told`: what [`arrives`] said.
pub(super) fn answered(
    exchange: &Exchange,
    is_told: bool,
    answer: Result<Response<Answer>, Failure>,
) -> Result<Response<Answer>, Failure> {
    if let Err(failure) = &answer
        && exchange.policy().counts()
        && let Some(why) = counted(failure)
    {
        count(exchange, &[why]);
    }
    if is_told { answer.map(|answer| answer::tell(answer, MISSING)) } else { answer }
}

/// Whether a route only warns of a precondition that is not there.
fn lacks(exchange: &Exchange, demand: &Demand) -> bool {
    exchange.policy().missing == Missing::Warn && demand.preconditions.is_empty() && demand.is_asked(exchange)
}

/// What of the report a refusal is.
fn counted(failure: &Failure) -> Option<Count> {
    match failure {
        Failure::Refused(refused) => Some(refused.why.into()),
        Failure::Represented(..) => Some(Count::Stale),
        Failure::Malformed(_) => Some(Count::Malformed),
        Failure::MethodOverride => Some(Count::MethodOverride),
        Failure::Busy(_)
        | Failure::Target(_)
        | Failure::TargetLength(_)
        | Failure::Host
        | Failure::Expectation
        | Failure::Method
        | Failure::TransferCoding
        | Failure::Length
        | Failure::Body(_)
        | Failure::NoRoute
        | Failure::Upstream(..)
        | Failure::Relayed(_)
        | Failure::OtherVersion(_)
        | Failure::RequestTimeout(_)
        | Failure::Repeat(_)
        | Failure::Lost => None,
    }
}

/// With or without a precondition; nothing for a write that is not guarded. One that can't be read is one.
fn arrival(exchange: &Exchange, demand: Result<&Demand, &Failure>) -> Vec<Count> {
    match demand {
        Err(Failure::Malformed(_)) => vec![Count::Conditional],
        Ok(demand) if !demand.preconditions.is_empty() => vec![Count::Conditional],
        Ok(demand) if demand.is_asked(exchange) => vec![Count::Unconditional],
        Ok(demand) if demand.guarded_method => vec![Count::Exempt],
        Ok(_) | Err(_) => Vec::new(),
    }
}

fn count(exchange: &Exchange, what: &[Count]) {
    if exchange.policy().counts() {
        let agent = exchange.head.headers.get(USER_AGENT).map(|agent| agent.as_bytes());
        exchange.gateway.shared.telemetry.report.count(exchange.seen.route_label(), agent, what);
    }
}

/// Whether the client of a write is not asked for a precondition.
pub(super) fn is_exempt(exchange: &Exchange) -> bool {
    let rollout = &exchange.policy().rollout;
    !rollout.exempt.is_empty() && rollout.exempts(bits(exchange.origin.address), &exchange.head.headers)
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// A client's read was answered so: what it saw is noted, where blind overwrites are counted.
pub(in crate::gateway) async fn read(exchange: &Exchange, received: &Received) {
    if matches!(exchange.head.method, Method::GET | Method::HEAD) {
        shown(exchange, received).await;
    }
}

/// A client is shown the resource by this answer to a GET or HEAD, its own or the gateway's.
pub(super) async fn shown(exchange: &Exchange, received: &Received) {
    if !exchange.policy().counts() {
        return;
    }
    let status = received.status();
    let shows =
        status.is_success() || matches!(status, StatusCode::NOT_MODIFIED | StatusCode::NOT_FOUND | StatusCode::GONE);
    if shows {
        let tag = match forward::tag(received.headers()) {
            Tagged::With(tag) => Some(tag.fingerprint()),
            Tagged::Without | Tagged::Unreadable => None,
        };
        saw(exchange, tag).await;
    }
}

async fn saw(exchange: &Exchange, tag: Option<u64>) {
    let at = exchange.gateway.tracker.stamp().await;
    exchange.gateway.shared.telemetry.report.reads.saw(client(exchange), exchange.key, at, tag);
}

fn client(exchange: &Exchange) -> u64 {
    exchange.gateway.namer.client(&exchange.head.headers, bits(exchange.origin.address))
}

/// A write that is about to be sent by a route that counts.
pub(super) struct Sending {
    began: Stamp,
    /// What it is if it is applied.
    is: Option<Count>,
}

/// Looks at what its client has seen of the resource. The write is under way by now, so that whatever changes it from here
/// on began later, or is seen to overlap.
pub(super) async fn sending(exchange: &Exchange) -> Option<Sending> {
    if !exchange.policy().counts() {
        return None;
    }
    let began = exchange.gateway.tracker.stamp().await;
    let is_blind = Demand::of(exchange).is_ok_and(|demand| demand.guarded_method && demand.preconditions.is_empty());
    let is = if is_blind { seen_before(exchange).await } else { None };
    Some(Sending { began, is })
}

async fn seen_before(exchange: &Exchange) -> Option<Count> {
    match exchange.gateway.shared.telemetry.report.reads.since(client(exchange), exchange.key) {
        Since::Nothing => None,
        Since::Unseen => Some(Count::Unread),
        // The change was none: what the client saw is current.
        Since::Change(Some(tag)) if is_current(exchange, tag).await => None,
        Since::Change(_) => Some(Count::Blind),
    }
}

async fn is_current(exchange: &Exchange, tag: u64) -> bool {
    let Some(known) = exchange.gateway.tracker.inspect(exchange.key).await else { return false };
    match known.state {
        State::Current(set) => set.iter().any(|known| EntityTag::fingerprint(&known.tag) == tag),
        State::Unknown | State::Absent => false,
    }
}

/// The write has ended so; `None`: in doubt. To be called before its client hears of it.
pub(super) async fn sent(
    sending: Option<Sending>,
    exchange: &Exchange,
    outcome: Option<&Outcome>,
    status: Option<StatusCode>,
) {
    let Some(Sending { began, is }) = sending else { return };
    let (is_applied, tag) = match outcome {
        Some(Outcome::NotApplied | Outcome::Contradicted) => return,
        Some(Outcome::Committed(tag)) => (true, tag.as_ref().map(EntityTag::fingerprint)),
        Some(Outcome::Deleted) => (true, None),
        Some(Outcome::InDoubt) | None => (false, None),
    };
    if is_applied {
        count(exchange, is.as_slice());
        // What a POST changes, or a redirection stands for, is not known.
        let replaces = matches!(exchange.head.method, Method::PUT | Method::PATCH | Method::DELETE);
        if replaces && status.is_some_and(|status| status.is_success()) {
            exchange.gateway.shared.telemetry.report.reads.changed(exchange.key, began, tag);
        }
    }
    // Whatever became of it: a client's own write does not make its next one blind.
    saw(exchange, tag).await;
}
