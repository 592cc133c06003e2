//! A write: judged, forwarded, settled.
//!
//! In order: judged by what is known, where a sure conflict needs neither turn nor body; the body read ahead, so that a
//! slow sender of a small one holds up nobody; the turn taken; judged again, bindingly, with a probe where need be;
//! forwarded and settled.
//!
//! Until the write is sent, a connection that breaks ends all of it: the turn goes to the next in line. From then on it
//! ([`carry_out`]) owns the turn and comes to its end, whoever goes away: what waits for its answer drives it, and where that
//! is dropped it goes on in a task of its own ([`carried`]).

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderName, Method, StatusCode, header::CONTENT_LOCATION};
use tokio::{
    sync::{
        OwnedSemaphorePermit,
        oneshot::{self, error::TryRecvError},
    },
    time::timeout,
};

use super::{
    Exchange,
    answer::{Because, Failure, Refused, Sent},
    body::{Ahead, Answer, Inbound},
    browsers, dav,
    forward::{self, Received, Tagged},
    headers::METHOD_OVERRIDES,
    probe::{self, Said},
    related,
    repeats::{self, Begun, Notes},
    replay, route, versions,
};
use crate::{
    clock,
    core::{
        fields::Fields,
        message::Response,
        policy::{MethodOverride, Mode, Policy, QueryRule},
        precondition::Demands,
        record::{Access, Outcome, View},
        verdict::{self, Probe, Refusal, Verdict},
    },
    telemetry::{Causes, metrics},
    tracker::{Ask, Busy, Turn, TurnLost},
    upstream::{self, Progress},
};

mod carried;
pub(super) mod rollout;

use carried::{Answered, Carried};

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Answers a write.
pub(super) async fn write(exchange: &Arc<Exchange>, body: &mut Inbound) -> Result<Response<Answer>, Failure> {
    let answer = match exchange.policy().mode {
        Mode::Off => forward_unguarded(exchange, None, body).await,
        Mode::Observe | Mode::Warn => rollout::observed(exchange, body).await,
        Mode::Enforce => {
            let demand = Demand::of(exchange);
            let is_told = rollout::arrives(exchange, demand.as_ref());
            let demand = demand?;
            rollout::answered(exchange, is_told, enforced(exchange, &demand, body).await)
        }
    };
    match answer {
        Err(Failure::Refused(refused)) if refused.is_conflict() && prefers_representation(exchange) => {
            Box::pin(represent(exchange, refused)).await
        }
        answer => answer,
    }
}

async fn enforced(exchange: &Arc<Exchange>, demand: &Demand, body: &mut Inbound) -> Result<Response<Answer>, Failure> {
    match repeats::begin(exchange, &demand.preconditions, body).await? {
        Begun::Answered(response) => Ok(*response),
        Begun::Runs(notes) if demand.is_guarded() => guarded(exchange, demand, notes, body).await,
        Begun::Runs(notes) => forward_unguarded(exchange, notes, body).await,
    }
}

async fn guarded(
    exchange: &Arc<Exchange>,
    demand: &Demand,
    mut notes: Option<Box<Notes>>,
    body: &mut Inbound,
) -> Result<Response<Answer>, Failure> {
    let may_be_known = repeats::may_be_known(exchange, notes.as_deref());
    if !may_be_known {
        demand.judge_on_arrival(exchange).await?;
    }
    let place = take_place(exchange).await?;
    if body.awaits_continue() && !may_be_known {
        // Its body must not be asked for only to be refused, so this verdict has to be as good as the binding one.
        let mut turn = take_turn(exchange, Access::Guarded).await?;
        demand.judge_in_turn(exchange, &mut turn).await?;
    }
    let ahead = read_ahead(exchange.policy(), body).await?;
    repeats::read(exchange, notes.as_mut(), &ahead, body.is_read()).await?;
    let mut turn = take_turn_with(exchange, Access::Guarded, &ahead, body).await?;
    if let Some(notes) = &notes
        && let Some(known) = repeats::known(exchange, notes, &turn).await
    {
        drop(turn);
        return Box::pin(replay::answer(exchange, notes, known)).await;
    }
    if let Err(refused) = demand.judge_in_turn(exchange, &mut turn).await {
        let Some(notes) = notes else { return Err(refused) };
        let left = replay::Left::in_turn(exchange, &turn).await;
        drop(turn);
        return Box::pin(replay::answer_refused(exchange, notes, ahead, body, refused, left)).await;
    }
    repeats::look_up(exchange, notes.as_deref()).await?;
    if exchange.gateway.is_renamed() {
        // Writes under the new names tell those of what they change, and not the name that this one was judged by.
        body.put_back(ahead);
        return Err(Failure::Busy(Busy::Renamed));
    }
    exchange.seen.verdict(metrics::Verdict::Forward);
    forward_in_turn(exchange, turn, notes, ahead, body, place).await
}

/// A write that nobody judges still counts: it is under way, and its outcome is recorded (rules 3, 4 and 6), also on a
/// route that is off, since another route may lead to the same resource. Its body is read ahead only where its length says that it is small: one without a length may be half of a conversation.
async fn forward_unguarded(
    exchange: &Arc<Exchange>,
    mut notes: Option<Box<Notes>>,
    body: &mut Inbound,
) -> Result<Response<Answer>, Failure> {
    let place = take_place(exchange).await?;
    let policy = exchange.policy();
    let is_read = body.is_sized() || repeats::needs_body(notes.as_deref());
    let ahead = if is_read { read_ahead(policy, body).await? } else { Ahead::default() };
    repeats::read(exchange, notes.as_mut(), &ahead, body.is_read()).await?;
    let turn = take_turn_with(exchange, Access::Unguarded, &ahead, body).await?;
    repeats::look_up(exchange, notes.as_deref()).await?;
    forward_in_turn(exchange, turn, notes, ahead, body, place).await
}

async fn read_ahead(policy: &Policy, body: &mut Inbound) -> Result<Ahead, Failure> {
    body.read_ahead(policy.buffer).await.map_err(Failure::Body)
}

/// What a write demands of the resource's state.
struct Demand {
    preconditions: Demands,
    /// Whether the route guards its method.
    guarded_method: bool,
}

impl Demand {
    fn of(exchange: &Exchange) -> Result<Self, Failure> {
        let mut preconditions = browsers::demands(exchange).map_err(Failure::Malformed)?;
        preconditions.if_dav = dav::demand(exchange)?;
        let method = meant_method(exchange)?;
        related::check_destination(exchange)?;
        Ok(Self { preconditions, guarded_method: exchange.policy().methods.contains(&method) })
    }

    /// Whether its client is asked for a precondition.
    fn is_asked(&self, exchange: &Exchange) -> bool {
        self.guarded_method && !rollout::is_exempt(exchange)
    }

    fn is_guarded(&self) -> bool {
        self.guarded_method || !self.preconditions.is_empty()
    }

    /// Refuses what is sure to be refused, by what is known now and only if no write is under way.
    async fn judge_on_arrival(&self, exchange: &Exchange) -> Result<(), Failure> {
        let tracker = &exchange.gateway.tracker;
        let max_age = exchange.policy().max_age;
        let judge = |view: View<'_>| self.judge(exchange, view, None);
        match tracker.known(exchange.key, exchange.caller, max_age, judge).await {
            Some(Err(refused)) => Err(refused.into()),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// The binding verdict. An `Ok` holds for as long as the turn does.
    async fn judge_in_turn(&self, exchange: &Exchange, turn: &mut Turn) -> Result<(), Failure> {
        let by_memory = turn.known(exchange.policy().max_age, |view| self.judge(exchange, view, None)).await?;
        if by_memory == Go::Forward {
            return Ok(());
        }
        let by_date = self.preconditions.names_no_tag();
        // In a box, as all that few requests do: every request would have room for it.
        let Said::Shown(probed, probe) = Box::pin(probe::probe(exchange, by_date)).await? else {
            return Err(self.unverifiable(exchange, Because::NothingSaid));
        };
        let long_tag = Because::long_tag(exchange, &probed);
        replay::seen(exchange, &probed.as_seen());
        if !turn.learn(probed).await {
            return Err(self.unverifiable(exchange, Because::Overtaken));
        }
        match turn.known(None, |view| self.judge(exchange, view, Some(probe))).await {
            Ok(Go::Forward) => Ok(()),
            Ok(Go::Probe) => Err(self.unverifiable(exchange, Because::NothingSaid)),
            Err(refused) => Err(refused.but_rather(long_tag).into()),
        }
    }

    fn unverifiable(&self, exchange: &Exchange, because: Because) -> Failure {
        self.refused(exchange, Refusal::Unverifiable, View::NOTHING, Some(because)).into()
    }

    fn judge(&self, exchange: &Exchange, view: View<'_>, probe: Option<Probe>) -> Result<Go, Box<Refused>> {
        let view = if probe.is_none() { usable(exchange, view) } else { view };
        let view = versions::may_tell(exchange, view);
        exchange.seen.known(view);
        match verdict::judge(exchange.policy(), &self.preconditions, self.is_asked(exchange), view, probe) {
            Verdict::Forward => Ok(Go::Forward),
            Verdict::Probe => Ok(Go::Probe),
            Verdict::Refuse(why) => {
                let because = Because::of(exchange, &self.preconditions, why, probe);
                Err(self.refused(exchange, why, view, because))
            }
        }
    }

    fn refused(&self, exchange: &Exchange, why: Refusal, view: View<'_>, because: Option<Because>) -> Box<Refused> {
        let current = view.tags_for(exchange.caller);
        let tag_header = browsers::tag_header(exchange);
        let conflict_status = exchange.policy().conflict_status;
        Box::new(Refused { why, current, conflict_status, tag_header, because })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Go {
    Forward,
    Probe,
}

/// The method that the client means: a POST may override its own, and some backends take `put` for `PUT`.
fn meant_method(exchange: &Exchange) -> Result<Method, Failure> {
    let head = &exchange.head;
    let in_upper_case = |bytes: &[u8]| Method::from_bytes(&bytes.trim_ascii().to_ascii_uppercase());
    let mut meant = None;
    if repeats::is_post(exchange) {
        for value in METHOD_OVERRIDES.iter().flat_map(|name| head.headers.get_all(name)) {
            let named = in_upper_case(value.as_bytes()).map_err(|_| Failure::MethodOverride)?;
            let refuses = exchange.policy().method_override == MethodOverride::Refuse;
            if refuses || meant.as_ref().is_some_and(|meant| *meant != named) {
                return Err(Failure::MethodOverride);
            }
            meant = Some(named);
        }
    }
    let is_upper_case = || head.method.as_str().bytes().all(|byte| byte.is_ascii_uppercase());
    Ok(match meant {
        Some(meant) => meant,
        None if is_upper_case() => head.method.clone(),
        None => in_upper_case(head.method.as_str().as_bytes()).unwrap_or(Method::POST),
    })
}

async fn take_place(exchange: &Exchange) -> Result<OwnedSemaphorePermit, Failure> {
    let place = clock::timeout(exchange.policy().wait, exchange.client().write_place()).await;
    place.map_err(|_| Failure::Busy(Busy::TimedOut))
}

/// As [`take_turn`]; what was read ahead is put back where the write has to begin anew.
async fn take_turn_with(
    exchange: &Exchange,
    access: Access,
    ahead: &Ahead,
    body: &mut Inbound,
) -> Result<Turn, Failure> {
    let turn = take_turn(exchange, access).await;
    if matches!(turn, Err(Failure::Busy(Busy::Renamed))) {
        body.put_back(ahead.clone());
    }
    turn
}

async fn take_turn(exchange: &Exchange, access: Access) -> Result<Turn, Failure> {
    let policy = exchange.policy();
    let since = clock::now();
    let ask = Ask {
        key: exchange.key,
        access,
        caller: exchange.caller,
        wait: policy.wait,
        line: policy.line,
        hold: policy.settle,
    };
    let turn = tokio::select! {
        biased;
        turn = related::begin_write(exchange, ask) => turn.map_err(Failure::Busy),
        // Out of line with it, and an answer in case that it only has nothing more to say.
        () = exchange.client().gone() => Err(Failure::Busy(Busy::TimedOut)),
    };
    exchange.seen.waited(clock::since(since));
    turn
}

/// Carries the write out from here on, whether or not anybody waits for its answer.
async fn forward_in_turn(
    exchange: &Arc<Exchange>,
    turn: Turn,
    notes: Option<Box<Notes>>,
    ahead: Ahead,
    body: &mut Inbound,
    place: OwnedSemaphorePermit,
) -> Result<Response<Answer>, Failure> {
    let under_way = (exchange.gateway.write_begins(), place);
    exchange.goes_on.store(true, Ordering::Relaxed);
    let (exchange, rest) = (Arc::clone(exchange), body.take());
    Carried::begin(move || carry_out(exchange, turn, notes, ahead, rest, under_way)).await
}

/// What a stop waits for, and the client's place for a write. Kept until the turn is over.
type Kept = (super::UnderWay, OwnedSemaphorePermit);

/// Sends a write and settles its turn with what became of it, whether or not the client is still there. The turn is
/// settled before the client hears of it: the client's next write may follow at once.
async fn carry_out(
    exchange: Arc<Exchange>,
    mut turn: Turn,
    mut notes: Option<Box<Notes>>,
    ahead: Ahead,
    rest: Option<Box<Inbound>>,
    under_way: Kept,
) -> Answered {
    turn.confirm().await.map_err(|TurnLost| Failure::Busy(Busy::TimedOut))?;
    let sending = rollout::sending(&exchange).await;
    let (mut outgoing, progress, ended) = forward::outgoing(&exchange, ahead, rest);
    if let Some(notes) = &mut notes {
        notes.confirm(&exchange, &mut outgoing);
    }
    let held = outgoing.held();
    let request = forward::request(&exchange, exchange.head.method.clone(), outgoing);
    let mut sent = exchange.send(request, &progress).await;
    versions::strip(&exchange, sent.as_mut().ok());
    let mut received = match sent {
        Ok(received) => received,
        Err(error) => {
            let (trace, method, path) = (exchange.seen.trace_id(), &exchange.head.method, exchange.target.path());
            let upstream = &exchange.upstream().config().name;
            if error.sent {
                tracing::warn!(%trace, %method, path, upstream, error = %Causes(&error), "a write is in doubt");
                exchange.seen.in_doubt();
                rollout::sent(sending, &exchange, None, None).await;
                drop(notes);
                repeats::changed(&exchange, None);
                drop(turn);
            } else {
                tracing::debug!(%trace, %method, path, upstream, error = %Causes(&error), "a write was not sent");
                repeats::release(notes);
                turn.settle(Outcome::NotApplied).await;
            }
            return Err(Failure::Upstream(error, Sent::Write));
        }
    };
    note_changes(&exchange, &received).await;
    let mut outcome = outcome(&exchange, &received);
    if matches!(outcome, None | Some(Outcome::InDoubt)) {
        exchange.seen.in_doubt();
    }
    if held.is_some_and(|held| held.give_up()) {
        // Nothing of the body is under way, and nothing ever will be.
        let response = forward::pass_on_without_body(&exchange, received);
        let response = repeats::settle(notes, &exchange, outcome.as_ref(), false, response);
        rollout::sent(sending, &exchange, outcome.as_ref(), Some(response.status())).await;
        settle(turn, outcome).await;
        return Ok(response);
    }
    let connection = received.body().connection().clone();
    let mut body = Some(UnderWay { ended, broke_off: false, progress, connection });
    let still_under_way = body.take_if(|body| !body.is_over());
    let is_whole = still_under_way.is_none();
    if is_whole && exchange.policy().versions.reads_after_write {
        outcome = Box::pin(versions::after_write(&exchange, &turn, outcome, &mut received)).await;
    }
    let response = forward::pass_on(&exchange, received);
    let response = repeats::settle(notes, &exchange, outcome.as_ref(), is_whole, response);
    let certain = outcome.as_ref().filter(|_| is_whole);
    rollout::sent(sending, &exchange, certain, Some(response.status())).await;
    match still_under_way {
        // The backend answered before it had the whole body. The client may wait for that answer before it goes on, or
        // gives up, so it gets it now; the turn ends when the body does.
        Some(body) => drop(tokio::spawn(settle_after(exchange, turn, outcome, body, under_way))),
        None => settle(turn, outcome).await,
    }
    Ok(response)
}

/// Settles the turn of a write that was answered, once its body is over.
async fn settle_after(exchange: Arc<Exchange>, turn: Turn, outcome: Option<Outcome>, body: UnderWay, _under_way: Kept) {
    if outcome.as_ref().is_some_and(stands_without_body) {
        body.end_within(exchange.policy().drain_time).await;
        settle(turn, outcome).await;
    } else {
        let whole = body.end(exchange.upstream().config().response_timeout).await;
        settle(turn, outcome.filter(|_| whole)).await;
    }
}

/// `None`: in doubt, and the backend may still be at work.
async fn settle(turn: Turn, outcome: Option<Outcome>) {
    match outcome {
        Some(outcome) => turn.settle(outcome).await,
        None => drop(turn),
    }
}

/// Whether an answer that came before the end of the body holds although the body broke off: a refusal does.
fn stands_without_body(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::NotApplied | Outcome::Contradicted)
}

/// A request's body that may still be on its way.
struct UnderWay {
    /// Word of its end; `None` where all of it was there from the beginning.
    ended: Option<oneshot::Receiver<bool>>,
    /// Whether the body was dropped before its end.
    broke_off: bool,
    progress: Arc<Progress>,
    connection: upstream::Handle,
}

impl UnderWay {
    fn is_over(&mut self) -> bool {
        if let Some(ended) = &mut self.ended {
            match ended.try_recv() {
                Ok(_) => self.ended = None,
                Err(TryRecvError::Closed) => (self.ended, self.broke_off) = (None, true),
                Err(TryRecvError::Empty) => {}
            }
        }
        self.ended.is_none() && !self.broke_off && !self.connection.has_unsent()
    }

    /// Waits until nothing more of the body is sent, or makes it so where the backend takes no more. Returns whether all
    /// of it was sent.
    async fn end(mut self, patience: Duration) -> bool {
        while let Some(ended) = &mut self.ended {
            match timeout(patience, ended).await {
                Ok(ended) => (self.ended, self.broke_off) = (None, ended != Ok(true)),
                Err(_) if self.progress.is_stalled(patience) => return self.cut(),
                Err(_) => {}
            }
        }
        match timeout(patience, self.connection.all_sent()).await {
            Ok(all_sent) => all_sent && !self.broke_off,
            Err(_) => self.cut(),
        }
    }

    /// Gives it so long to end, and then makes it so.
    async fn end_within(self, time: Duration) {
        let connection = self.connection.clone();
        if timeout(time, self.end(time)).await.is_err() {
            connection.abort();
        }
    }

    fn cut(&self) -> bool {
        self.connection.abort();
        false
    }
}

/// What the backend's answer says of the write; `None`: nothing, and the backend may still be at work.
fn outcome(exchange: &Exchange, received: &Received) -> Option<Outcome> {
    let status = received.status();
    Some(match status {
        // 202: it will be applied, nobody knows when.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT | StatusCode::ACCEPTED => return None,
        StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => Outcome::Contradicted,
        _ if status.is_client_error() => Outcome::NotApplied,
        _ if status.is_redirection() => Outcome::Committed(None),
        // 207 to DELETE: a part of it is still there (RFC 4918 §9.6.1).
        StatusCode::MULTI_STATUS => Outcome::Committed(None),
        _ if status.is_success() => match exchange.head.method {
            Method::DELETE if names_a_part(exchange) => Outcome::Committed(None),
            Method::DELETE => Outcome::Deleted,
            Method::PUT | Method::PATCH
                if exchange.policy().service.trust_write_tags
                    && !may_be_a_search(exchange)
                    && is_of_target(exchange, received.headers()) =>
            {
                Outcome::Committed(match forward::tag(received.headers()) {
                    Tagged::With(tag) => Some(tag),
                    Tagged::Without | Tagged::Unreadable => None,
                })
            }
            _ => Outcome::Committed(None),
        },
        _ => Outcome::InDoubt,
    })
}

/// Whether the target has a query that does not count as a part of its name: it may say that not the resource is meant but
/// something of it, such as an upload to it that is given up.
fn names_a_part(exchange: &Exchange) -> bool {
    exchange.policy().query != QueryRule::Include && exchange.target.query().is_some()
}

/// Whether the target has a query, and none of it counts: it may say which resource is meant, such as *the patient with this
/// number*. What is known of one such target may be of another resource than the next, and what a write to it answers is of
/// one that has a name of its own.
fn may_be_a_search(exchange: &Exchange) -> bool {
    exchange.policy().query == QueryRule::Ignore && exchange.target.query().is_some_and(|query| !query.is_empty())
}

/// What a write may be judged by of what is known, before its own target has been asked for.
fn usable<'a>(exchange: &Exchange, view: View<'a>) -> View<'a> {
    if may_be_a_search(exchange) { View::NOTHING } else { view }
}

/// Whether the fields of a write's answer describe its target, and not a resource that `Content-Location` names.
pub(super) fn is_of_target(exchange: &Exchange, fields: &Fields) -> bool {
    fields
        .get_all(CONTENT_LOCATION)
        .all(|named| route::same_origin(exchange, named).is_some_and(|target| target == exchange.target))
}

/// A write that was applied changed the resources that its answer names, too (rule 6). Those that are known before have
/// turns of their own (`related`).
async fn note_changes(exchange: &Exchange, received: &Received) {
    if received.status().is_success() || received.status().is_redirection() {
        for key in route::named(exchange, received.headers()) {
            exchange.gateway.tracker.change(key).await;
            repeats::changed_elsewhere(&exchange.gateway, key);
        }
    }
}

fn prefers_representation(exchange: &Exchange) -> bool {
    exchange.head.headers.get_all(PREFER).filter_map(|line| line.to_str().ok()).any(|line| {
        line.split(',').filter_map(|preference| preference.split(';').next()?.split_once('=')).any(|(name, value)| {
            name.trim().eq_ignore_ascii_case("return")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("representation")
        })
    })
}

/// A conflict's answer with the current representation, where the caller may have it.
async fn represent(exchange: &Exchange, refused: Box<Refused>) -> Result<Response<Answer>, Failure> {
    let began = exchange.gateway.tracker.stamp().await;
    let Ok(received) = versions::probed(exchange, &Method::GET, &versions::Kind::Any).await else {
        return Err(Failure::Refused(refused));
    };
    forward::observe(exchange, &Method::GET, &exchange.head.headers, began, &received).await;
    if received.status() == StatusCode::OK {
        rollout::shown(exchange, &received).await;
        Err(Failure::Represented(Box::new(received), refused))
    } else {
        Err(Failure::Refused(refused))
    }
}
