//! Versions that the gateway makes where the backend has no tags: reads that get one, and the conditions that name one.
//!
//! What names such a tag does not travel on, since the backend knows nothing of it ([`adapt`]). An answer that shows the
//! version gets it as its `ETag`, in place of the backend's own ([`show`]); from there on it is the same to all else as if it
//! had come so. A body that has to be looked at is read before the head goes out, up to a limit; what is longer passes as it
//! comes, without a tag.
//!
//! A write's answer shows no version, whatever stands in it: a field or a date may still be that of the state before. With
//! `after_write = "probe"` the resource is read in the same turn ([`mod@after_write`]).

use std::time::Duration;

use bytes::Bytes;
use http::{
    HeaderName, Method, StatusCode,
    header::{
        ACCEPT_ENCODING, AGE, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
        IF_RANGE, IF_UNMODIFIED_SINCE, ORIGIN, RANGE, VARY,
    },
};
use http_body::Body;
use http_body_util::BodyExt;
use httpdate::HttpDate;
use tokio::time::timeout;

use super::{
    Exchange,
    answer::{self, Failure, Sent},
    body::{Answer, Inbound},
    forward::{self, Received, Tagged},
    probe, write,
};
use crate::{
    core::{
        etag::EntityTag,
        fields::Fields,
        message::Response,
        policy::{Mode, Verify},
        precondition::{Malformed, Tags},
        record::{Seen, State, View},
        value::{FieldValue, Value},
        version::{Source, Versions, is_made},
    },
    telemetry::metrics::Untagged,
    upstream::{AnswerError, Extent, Fault, SendError},
};

mod after_write;

pub(super) use after_write::{Kind, after_write};

const IDENTITY: FieldValue = FieldValue::from_static("identity");
/// So much of an answer is read for no other reason than that its connection can be used again.
const SHORT_ANSWER: usize = 16 * 1024;

/// The route's rules, where it makes tags.
pub(super) fn made(exchange: &Exchange) -> Option<&Versions> {
    let policy = exchange.policy();
    (policy.versions.source.is_made() && policy.mode != Mode::Off).then_some(&policy.versions)
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

/// Takes from a request to the backend what it can't know: conditions that name tags, and those that others would make
/// apply in their place. `*` and dates stay. Of a body that is to be hashed, no part and no coding is asked for.
pub(super) fn adapt(exchange: &Exchange, method: &Method, fields: &mut Fields) {
    let Some(versions) = made(exchange) else { return };
    let mut is_conditional = false;
    for (condition, overridden) in [(IF_MATCH, IF_UNMODIFIED_SINCE), (IF_NONE_MATCH, IF_MODIFIED_SINCE)] {
        let named = Tags::parse(fields, condition.clone());
        if matches!(named, Ok(None | Some(Tags::Any))) {
            continue;
        }
        if exchange.policy().mode.only_observes() && !is_read(method) {
            leave_own(fields, condition, overridden, named);
            continue;
        }
        fields.remove(condition);
        fields.remove(overridden);
        is_conditional = true;
    }
    if !is_read(method) {
        return;
    }
    let is_date = |value: Value<'_>| value.to_str().is_ok_and(|text| text.trim().parse::<HttpDate>().is_ok());
    let names_tag = fields.get_all(IF_RANGE).any(|value| !is_date(value));
    if names_tag || is_conditional && versions.source.is_in_body() {
        fields.remove(IF_RANGE);
        fields.remove(RANGE);
    }
    if versions.source.is_in_body() {
        fields.insert(ACCEPT_ENCODING, IDENTITY);
    }
}

/// Who only observes takes nothing from a service that checks tags of its own: its tags stay, and what can't be read.
fn leave_own(
    fields: &mut Fields,
    condition: HeaderName,
    overridden: HeaderName,
    named: Result<Option<Tags>, Malformed>,
) {
    let Ok(Some(Tags::OneOf(tags))) = named else { return };
    let own: Vec<_> = tags.iter().filter(|tag| !is_made(tag)).map(EntityTag::to_bytes).collect();
    if own.len() == tags.len() {
        return;
    }
    fields.remove(&condition);
    match FieldValue::try_from(own.join(&b", "[..])) {
        Ok(own) if !own.is_empty() => fields.insert(condition, own),
        Ok(_) | Err(_) => fields.remove(overridden),
    }
}

/// A client's read, on a route that makes tags.
pub(super) async fn read(
    exchange: &Exchange,
    versions: &Versions,
    body: &mut Inbound,
) -> Result<Response<Answer>, Failure> {
    let method = &exchange.head.method;
    let conditions = Conditions::of(&exchange.head.headers, exchange.policy().mode)?;
    let began = exchange.gateway.tracker.stamp().await;
    let known = if *method == Method::HEAD { known(exchange, versions).await } else { Vec::new() };
    let (mut received, wanted_body) = forward::send_read(exchange, body).await?;
    let patience = exchange.upstream().config().response_idle_timeout;
    show(exchange, method, &mut received, patience).await.map_err(|error| failed(error, Sent::Read))?;
    write::rollout::read(exchange, &received).await;
    forward::observe(exchange, method, &exchange.head.headers, began, &received).await;
    if !known.is_empty() {
        show_known(exchange, versions, &known, &mut received).await;
    }
    // What is remembered is not what this answer is of: nothing is judged by it.
    let shows_version = *method == Method::GET || *method == Method::HEAD && !versions.source.is_in_body();
    let meets = if shows_version { conditions.judge(exchange, &received)? } else { Meets::Demands };
    let response = forward::deliver(exchange, received, wanted_body)?;
    Ok(match meets {
        Meets::Demands => response,
        Meets::WhatIsThere => {
            let (head, content) = response.into_parts();
            tokio::spawn(timeout(exchange.policy().drain_time, pass_over(content)));
            answer::not_modified(head)
        }
    })
}

/// Reads content that nobody takes, as far as that costs less than another connection to the backend.
async fn pass_over(mut content: Answer) {
    let mut left = SHORT_ANSWER as u64;
    while left > 0
        && content.size_hint().lower() <= left
        && let Some(Ok(frame)) = content.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
    }
}

/// Has an answer to a GET or HEAD show its version in `ETag`, and nothing else there. A body that is read for it is read for
/// about `time` at most.
pub(super) async fn show(
    exchange: &Exchange,
    method: &Method,
    received: &mut Received,
    time: Duration,
) -> Result<(), AnswerError> {
    let Some(versions) = made(exchange) else { return Ok(()) };
    received.headers_mut().remove(ETAG);
    let in_body = versions.source.is_in_body();
    let has_version = match received.status() {
        StatusCode::OK if in_body => *method == Method::GET,
        StatusCode::OK => is_read(method),
        StatusCode::PARTIAL_CONTENT => !in_body && *method == Method::GET,
        _ => false,
    };
    if !has_version {
        return Ok(());
    }
    let tag = if in_body {
        of_body(versions, received, time).await?
    } else {
        versions.of_head(received.headers()).ok_or(Untagged::NoVersion)
    };
    match tag {
        Ok(tag) => received.headers_mut().insert(ETAG, tag.to_header_value()),
        Err(why) => exchange.seen.untagged(why),
    }
    Ok(())
}

async fn of_body(
    versions: &Versions,
    received: &mut Received,
    time: Duration,
) -> Result<Result<EntityTag, Untagged>, AnswerError> {
    if !is_plain(received.headers()) {
        return Ok(Err(Untagged::Encoded));
    }
    if is_endless(received.headers()) {
        return Ok(Err(Untagged::TooSlow));
    }
    let body = received.body_mut();
    match body.read_ahead(versions.body_limit, time).await {
        Extent::Whole => {
            let tag = versions.of_body(received.headers(), received.body().ahead());
            Ok(tag.ok_or(Untagged::NoVersion))
        }
        Extent::TooLong => Ok(Err(Untagged::TooLong)),
        Extent::TooSlow => Ok(Err(Untagged::TooSlow)),
        // Nothing of it was sent, so that the client can be told.
        Extent::Broken => Err(body.broken().unwrap_or(AnswerError::Idle)),
    }
}

/// Whether nothing is coded, although it was asked for so.
fn is_plain(fields: &Fields) -> bool {
    fields.get_all(CONTENT_ENCODING).all(|coding| coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// Server-sent events: who waits for their end keeps them from everybody.
fn is_endless(fields: &Fields) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let is_events =
        |value: Value<'_>| value.as_bytes().get(..EVENTS.len()).is_some_and(|start| start.eq_ignore_ascii_case(EVENTS));
    fields.get(CONTENT_TYPE).is_some_and(is_events)
}

/// What an answer to a read says of the resource, once it shows its version. A whole answer without one is in another state
/// than any that has had one: what is known may be wrong.
pub(super) fn seen(method: &Method, status: StatusCode, seen: Seen) -> Seen {
    match seen {
        Seen::Untagged if *method == Method::GET && status == StatusCode::OK => Seen::Unreadable,
        Seen::Tag(..) | Seen::Untagged | Seen::Unreadable | Seen::Missing => seen,
    }
}

/// The fields of a request, as far as they choose a representation.
pub(super) fn asked(versions: &Versions, fields: &Fields) -> Fields {
    let mut asked = fields.clone();
    if versions.source.is_in_body() {
        asked.insert(ACCEPT_ENCODING, IDENTITY);
    }
    asked
}

/// Why there is no answer, where its body broke off before any of it was sent.
fn failed(error: AnswerError, sent: Sent) -> Failure {
    unanswered(
        match error {
            AnswerError::Broken(broken) => Fault::Connection(broken),
            AnswerError::Idle => Fault::ResponseIdleTimeout,
        },
        sent,
    )
}

fn unanswered(fault: Fault, sent: Sent) -> Failure {
    Failure::Upstream(SendError { fault, sent: true, reused: false, server: None }, sent)
}

/// A HEAD or GET of the gateway's own, which shows the version. Others wait for it, so all of it has the time that an answer
/// may take to begin.
pub(super) async fn probed(exchange: &Exchange, method: &Method, kind: &Kind) -> Result<Received, Failure> {
    let mut received = probe::send(exchange, method.clone(), |fields| kind.ask(fields)).await?;
    if made(exchange).is_none() {
        return Ok(received);
    }
    let time = exchange.upstream().config().response_timeout;
    let shown = timeout(time, show(exchange, method, &mut received, time)).await;
    match shown {
        Ok(Ok(())) => Ok(received),
        Ok(Err(error)) => Err(failed(error, Sent::Probe)),
        Err(_) => Err(unanswered(Fault::ResponseTimeout, Sent::Probe)),
    }
}

/// The tags by their representations that this caller may be told now, where the body is not there to tell. None where
/// the backend is known to change by itself.
async fn known(exchange: &Exchange, versions: &Versions) -> Vec<(u64, EntityTag)> {
    let policy = exchange.policy();
    if !versions.source.is_in_body() || policy.verify == Verify::Always {
        return Vec::new();
    }
    let told = |view: View<'_>| match view.state {
        State::Unknown | State::Absent => Vec::new(),
        State::Current(set) => {
            let shown = set.iter().filter(|known| known.caller == exchange.caller);
            shown.filter_map(|known| Some((known.variant?, known.tag.clone()))).collect()
        }
    };
    let tracker = &exchange.gateway.tracker;
    tracker.known(exchange.key, exchange.caller, policy.max_age, told).await.unwrap_or_default()
}

/// A HEAD's answer shows what was known before it was asked for and still is, if that is of the same representation.
async fn show_known(exchange: &Exchange, versions: &Versions, before: &[(u64, EntityTag)], received: &mut Received) {
    if received.status() != StatusCode::OK || received.headers().contains_key(AGE) {
        return;
    }
    let asked = asked(versions, &exchange.head.headers);
    let Some(variant) = exchange.gateway.namer.variant(&asked, received.headers()) else { return };
    let after = known(exchange, versions).await;
    if let Some((_, tag)) = before.iter().find(|known| known.0 == variant && after.contains(known)) {
        received.headers_mut().insert(ETAG, tag.to_header_value());
    }
}

/// What a write of this caller may be judged by. A made tag is one that anybody can make of what they guess, so a refusal
/// tells a caller whether the guess was right (rule 9): what others have read is nothing, and the backend is asked whether
/// this one may read it.
pub(super) fn may_tell<'a>(exchange: &Exchange, view: View<'a>) -> View<'a> {
    match view.state {
        State::Current(set) if made(exchange).is_some() && set.iter().all(|known| known.caller != exchange.caller) => {
            View::NOTHING
        }
        State::Current(_) | State::Unknown | State::Absent => view,
    }
}

/// What a client asks of a read, as far as it names tags.
struct Conditions {
    if_match: Option<Vec<EntityTag>>,
    if_none_match: Option<Vec<EntityTag>>,
}

/// How an answer stands to the conditions.
enum Meets {
    /// It is what the client asks for.
    Demands,
    /// The client has it.
    WhatIsThere,
}

impl Conditions {
    /// A list for `If-None-Match` that can't be read names nothing that the client has, so it gets all of it. Who only
    /// observes refuses nothing.
    fn of(fields: &Fields, mode: Mode) -> Result<Self, Failure> {
        let named = |tags: Option<Tags>| match tags {
            Some(Tags::OneOf(tags)) => Some(tags),
            Some(Tags::Any) | None => None,
        };
        let if_match = Tags::parse(fields, IF_MATCH).map_err(Failure::Malformed);
        Ok(Self {
            if_match: if mode == Mode::Enforce { named(if_match?) } else { None },
            if_none_match: Tags::parse(fields, IF_NONE_MATCH).ok().and_then(named),
        })
    }

    /// RFC 9110 §13.2.2, for an answer that would be given without conditions.
    fn judge(&self, exchange: &Exchange, received: &Received) -> Result<Meets, Failure> {
        if !received.status().is_success() {
            return Ok(Meets::Demands);
        }
        let tag = match forward::tag(received.headers()) {
            Tagged::With(tag) => Some(tag),
            Tagged::Without | Tagged::Unreadable => None,
        };
        let is_among = |tags: &[EntityTag], comparison| {
            let suffixes = exchange.policy().encoding_suffixes;
            tag.as_ref().is_some_and(|tag| tags.iter().any(|other| tag.matches(other, comparison, suffixes)))
        };
        if self.if_match.as_ref().is_some_and(|tags| !is_among(tags, exchange.policy().comparison)) {
            return Err(Failure::OtherVersion(tag));
        }
        let source = &exchange.policy().versions.source;
        if *source != Source::Body && has_views(received.headers()) {
            return Ok(Meets::Demands);
        }
        let for_reads = source.comparison_of_reads();
        let has_it = self.if_none_match.as_ref().is_some_and(|tags| is_among(tags, for_reads));
        Ok(if has_it { Meets::WhatIsThere } else { Meets::Demands })
    }
}

/// Whether there are several representations, of which a version that is a value does not say which one the client has.
fn has_views(fields: &Fields) -> bool {
    let is_one = |name: &[u8]| {
        let name = name.trim_ascii();
        name.is_empty()
            || [ACCEPT_ENCODING, ORIGIN].iter().any(|one| name.eq_ignore_ascii_case(one.as_str().as_bytes()))
    };
    !fields.get_all(VARY).flat_map(|line| line.as_bytes().split(|&byte| byte == b',')).all(is_one)
}

/// Takes from a write's answer the tag that nobody can use.
pub(super) fn strip(exchange: &Exchange, received: Option<&mut Received>) {
    if let Some(received) = received
        && made(exchange).is_some()
    {
        received.headers_mut().remove(ETAG);
    }
}
