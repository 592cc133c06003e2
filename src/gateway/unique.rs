//! No duplicates: a POST whose body has a value that must be new in its collection.
//!
//! Whoever creates holds a claim on each of its values, from before its turn until the outcome is known, so there is one
//! creator at a time for each. The claims are taken in the order of their names: two that have several in common never wait
//! for each other. A value that was created is remembered with its `Location`, and ends with that resource. Before each
//! creation the backend is asked (`unique_lookup`), in the turn, so that nobody who wrote under an older configuration or
//! in another process is overlooked.
//!
//! Where the outcome of a creation is in doubt, its values are claimed for `settle` more, and then the backend is asked.
//! Where it can't be asked, the values count as taken: a false conflict costs less than a duplicate.

use bytes::Bytes;
use http::{
    Method, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION},
};
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout};

use super::{
    Exchange,
    answer::{Failure, Repeat, Unexaminable},
    body::Ahead,
    forward::Received,
    probe,
    repeats::memory,
    route,
};
use crate::{
    core::{
        fields::Fields,
        fingerprint::Fingerprint,
        message::Response,
        pointer::{Pointer, Template},
        policy::QueryRule,
        record::Outcome,
        repeats::Found,
        resource::{Key, Target},
        value::FieldValue,
    },
    memory::{Begun, Claim, InDoubt, Kind, Memo, Memory, Value},
    tracker::Busy,
};

mod document;

/// More of an answer to a lookup is not read.
const LOOKUP_BYTES: usize = 1024 * 1024;

/// The values of a write that must be new.
#[derive(Default)]
pub(super) struct Values {
    /// One for each place that has a value, in the order of their names.
    taken: Vec<Taken>,
    /// The values by their places, as text.
    found: Vec<(Pointer, String)>,
}

struct Taken {
    claim: Claim,
    /// Whether the backend is asked for it.
    is_asked_for: bool,
}

/// The name by which a value ends with a resource.
pub(super) fn owner(memory: &Memory, key: Key) -> Fingerprint {
    memory.prints().of([&b"owner"[..], &key.cell[0].to_be_bytes(), &key.cell[1].to_be_bytes()])
}

impl Values {
    /// Claims the values of this body, one after the other.
    pub(super) async fn claim(&mut self, exchange: &Exchange, ahead: &Ahead, is_whole: bool) -> Result<(), Failure> {
        let policy = exchange.policy();
        self.found = values(exchange, ahead, is_whole).map_err(Repeat::Unexaminable)?;
        let collection = collection(exchange);
        let prints = memory(exchange).prints();
        let name = |place: &Pointer, value: &str| {
            prints.of([&b"value"[..], &collection, place.as_str().as_bytes(), value.as_bytes()])
        };
        let mut names: Vec<_> = self.found.iter().map(|(place, value)| (name(place, value), place.clone())).collect();
        names.sort();
        // A place that the file names twice is claimed once: nobody waits for itself.
        names.dedup();
        let until = Instant::now() + policy.wait;
        for (name, place) in names {
            let claim = self.claim_one(exchange, name, &place, until).await?;
            let asked = policy.repeats.unique_lookup.iter();
            let is_asked_for = asked
                .filter(|template| template.pointers().any(|pointer| *pointer == place))
                .any(|template| self.target(template).is_some());
            self.taken.push(Taken { claim, is_asked_for });
        }
        Ok(())
    }

    async fn claim_one(
        &self,
        exchange: &Exchange,
        name: Fingerprint,
        place: &Pointer,
        until: Instant,
    ) -> Result<Claim, Failure> {
        loop {
            let waiting = match memory(exchange).begin(Kind::Value, name) {
                Begun::Free(claim) => return Ok(claim),
                Begun::Known(Memo::Value(value)) => return Err(self.duplicate(exchange, place, &value)),
                // Names of answers are never those of values.
                Begun::Known(Memo::Answer(..)) => return Err(Failure::Busy(Busy::TimedOut)),
                Begun::UnderWay(waiting) => waiting,
            };
            if waiting.others >= exchange.policy().line {
                return Err(Failure::Busy(Busy::LineFull));
            }
            let is_over = tokio::select! {
                biased;
                is_over = waiting.until_over(until.saturating_duration_since(Instant::now())) => is_over,
                () = exchange.client().gone() => false,
            };
            if !is_over {
                return Err(Failure::Busy(Busy::TimedOut));
            }
        }
    }

    /// Who may know of the resource that has the value is told where it is: who created it. Others are told where to look
    /// for it themselves (rule 9).
    fn duplicate(&self, exchange: &Exchange, place: &Pointer, value: &Value) -> Failure {
        memory(exchange).answered(Kind::Value);
        let field = place.to_string();
        let own = value.location.as_ref().filter(|_| value.caller == exchange.caller).map(ToString::to_string);
        if value.in_doubt {
            return Repeat::DuplicateInDoubt { field }.into();
        }
        Repeat::Duplicate { field, existing: own.or_else(|| self.lookup_of(exchange, place)) }.into()
    }

    fn lookup_of(&self, exchange: &Exchange, place: &Pointer) -> Option<String> {
        let lookups = &exchange.policy().repeats.unique_lookup;
        lookups
            .iter()
            .find(|template| template.pointers().any(|p| p == place))
            .and_then(|template| self.target(template))
    }

    /// What the backend is asked for; `None`: a value is missing.
    fn target(&self, template: &Template) -> Option<String> {
        template.expand(|place| self.found.iter().find(|(other, _)| other == place).map(|(_, value)| value.as_str()))
    }

    /// Asks the backend for each value.
    pub(super) async fn look_up(&self, exchange: &Exchange) -> Result<(), Failure> {
        for template in &exchange.policy().repeats.unique_lookup {
            let Some(target) = self.target(template) else { continue };
            let Some(place) = template.pointers().next() else { continue };
            let received = Box::pin(ask(exchange, &target)).await?;
            let status = received.status();
            match is_found(exchange, received).await {
                Some(false) => {}
                Some(true) => {
                    memory(exchange).answered(Kind::Value);
                    return Err(Repeat::Duplicate { field: place.to_string(), existing: Some(target) }.into());
                }
                None => {
                    let trace = exchange.seen.trace_id();
                    tracing::warn!(%trace, lookup = %template, status = status.as_u16(), "an answer to a lookup says nothing");
                    return Err(Repeat::LookupFailed(status).into());
                }
            }
        }
        Ok(())
    }

    /// From here on there may be a resource with these values.
    pub(super) fn confirm(&mut self, exchange: &Exchange) {
        let (settle, time) = (exchange.policy().settle, exchange.policy().repeats.memory_of_values(false));
        for Taken { claim, is_asked_for } in &mut self.taken {
            claim.confirm(if *is_asked_for {
                InDoubt::Held(settle)
            } else {
                // It ends with the collection: an operator who has it forgotten makes the values free again.
                let owner = owner(memory(exchange), exchange.key);
                let value =
                    Value { location: None, caller: exchange.caller, owner, is_asked_for: false, in_doubt: true };
                InDoubt::Remembered(Memo::Value(value), time)
            });
        }
    }

    /// Nothing was created.
    pub(super) fn release(self) {
        self.taken.into_iter().for_each(|taken| taken.claim.release());
    }

    /// The backend has answered.
    pub(super) fn settle(self, exchange: &Exchange, outcome: Option<&Outcome>, status: StatusCode, fields: &Fields) {
        match outcome {
            Some(Outcome::NotApplied | Outcome::Contradicted) => self.release(),
            // It is to be sent elsewhere.
            Some(Outcome::Committed(_) | Outcome::Deleted) if !is_created(exchange, status, fields) => self.release(),
            Some(Outcome::Committed(_) | Outcome::Deleted) => self.remember(exchange, fields),
            None if status == StatusCode::ACCEPTED => self.remember_accepted(exchange),
            Some(Outcome::InDoubt) | None => drop(self),
        }
    }

    /// It will be there, nobody knows when. Where the backend is asked, it may not know of it for as long as of what was
    /// created; where it is not, it counts as in doubt.
    fn remember_accepted(self, exchange: &Exchange) {
        let (memory, settle) = (memory(exchange), exchange.policy().settle);
        for Taken { claim, is_asked_for } in self.taken {
            if is_asked_for {
                let time = exchange.policy().repeats.memory_of_values(true).map(|time| time.max(settle));
                let owner = owner(memory, exchange.key);
                let value = Value { location: None, caller: exchange.caller, owner, is_asked_for, in_doubt: false };
                claim.remember(Memo::Value(value), time);
            }
        }
    }

    fn remember(self, exchange: &Exchange, fields: &Fields) {
        let memory = memory(exchange);
        let location = fields.get(LOCATION);
        let target = location.and_then(|location| route::same_origin(exchange, location));
        let key = target.as_ref().and_then(|target| {
            let route = route::find(&exchange.gateway.config.routes, &exchange.asked, target)?;
            Some(exchange.gateway.key(&exchange.head.headers, &exchange.host, target, route))
        });
        let elsewhere = || location.and_then(|location| location.to_str().ok()).map(Box::from);
        let link = target.map(|target| Box::from(target.as_path_and_query().as_str())).or_else(elsewhere);
        // Where nobody says what was created, it ends with the collection, for an operator to have it forgotten.
        let owner = owner(memory, key.unwrap_or(exchange.key));
        for Taken { claim, is_asked_for } in self.taken {
            let time = exchange.policy().repeats.memory_of_values(is_asked_for);
            let value = Value { location: link.clone(), caller: exchange.caller, owner, is_asked_for, in_doubt: false };
            claim.remember(Memo::Value(value), time);
        }
    }
}

/// Whether an answer that is no refusal says that something was created, or may have been. 303 and what legacy services
/// answer for it point to what was; where they point elsewhere, it is to whom one has to be known first.
fn is_created(exchange: &Exchange, status: StatusCode, fields: &Fields) -> bool {
    let is_here = || fields.get(LOCATION).is_some_and(|location| route::same_origin(exchange, location).is_some());
    status.is_success() || matches!(status, StatusCode::SEE_OTHER | StatusCode::FOUND) && is_here()
}

/// The values of a body by their places.
fn values(exchange: &Exchange, ahead: &Ahead, is_whole: bool) -> Result<Vec<(Pointer, String)>, Unexaminable> {
    let policy = exchange.policy();
    if !is_json(&exchange.head.headers) {
        return Err(Unexaminable::MediaType);
    }
    if !is_whole {
        return Err(Unexaminable::TooLong(policy.buffer));
    }
    let document = document::parse(&ahead.bytes)?;
    let mut values = Vec::new();
    for place in &policy.repeats.unique {
        if let Some(value) = document::find(&document, place)? {
            values.push((place.clone(), document::text(value)?));
        }
    }
    Ok(values)
}

/// Whether a body is JSON in UTF-8 that nobody has encoded.
fn is_json(fields: &Fields) -> bool {
    let mut types = fields.get_all(CONTENT_TYPE);
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let Ok(media_type) = only.to_str().map(str::to_ascii_lowercase) else { return false };
    let mut parts = media_type.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default();
    let is_utf8 = |parameter: &str| match parameter.split_once('=') {
        Some(("charset", charset)) => matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"),
        Some(_) | None => true,
    };
    let is_json = matches!(essence, "application/json" | "text/json")
        || essence.starts_with("application/") && essence.ends_with("+json");
    is_json && parts.all(is_utf8) && !fields.contains_key(CONTENT_ENCODING)
}

/// The collection, by whichever spelling and under whichever configuration. A query does not make it another one: else it
/// would be a way around.
fn collection(exchange: &Exchange) -> Vec<u8> {
    let host = exchange.host.to_str().unwrap_or_default();
    let policy = exchange.policy();
    let upstream = &exchange.upstream().config().name;
    let namer = exchange.gateway.namer;
    let headers = &exchange.head.headers;
    let key = namer.key(upstream, host, &exchange.target, &QueryRule::Ignore, &policy.partition, headers);
    [key.cell[0].to_be_bytes(), key.cell[1].to_be_bytes()].concat()
}

/// Asks the backend as the caller would.
async fn ask(exchange: &Exchange, target: &str) -> Result<Received, Failure> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let target = Target::parse(path, query).map_err(Failure::Target)?;
    probe::send_to(exchange, Method::GET, &target, |fields| {
        fields.insert(ACCEPT, FieldValue::from_static("application/json, */*;q=0.1"));
        fields.insert(ACCEPT_ENCODING, FieldValue::from_static("identity"));
    })
    .await
}

/// Whether the answer to a lookup says that the value is there; `None`: it does not say.
async fn is_found(exchange: &Exchange, received: Received) -> Option<bool> {
    let status = received.status();
    if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
        return Some(false);
    }
    match &exchange.policy().repeats.unique_found {
        Found::Status => status.is_success().then_some(true),
        Found::Json | Found::At(_) if status != StatusCode::OK => None,
        Found::Json => {
            let document = document::parse(&content(exchange, received).await?).ok()?;
            (document.is_array() || document.is_object()).then(|| document::is_something(&document))
        }
        Found::At(place) => {
            let document = document::parse(&content(exchange, received).await?).ok()?;
            let found = document::find(&document, place).ok()?;
            Some(found.is_some_and(document::is_something))
        }
    }
}

async fn content(exchange: &Exchange, received: Received) -> Option<Bytes> {
    if received.headers().contains_key(CONTENT_ENCODING) {
        return None;
    }
    let patience = exchange.upstream().config().response_timeout;
    let whole = timeout(patience, Limited::new(Response::into_body(received), LOOKUP_BYTES).collect()).await;
    Some(whole.ok()?.ok()?.to_bytes())
}
