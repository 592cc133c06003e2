//! Lost answers: the last conditional PUT or DELETE of a resource, when it comes again.
//!
//! A client whose answer was lost sends its write again, and its tag is stale by then: by its own write. RFC 9110 §13.1.1
//! lets a server that can tell so answer as if the condition held. Here it can be told: the resource's last write that
//! was committed had the same method, target, preconditions, caller and body, and nothing has changed the resource since. The
//! answer is that of the first time, and the backend sees nothing.
//!
//! A change by another way shows in what the tracker knows, so that has to say in the turn what the write left ([`Left`]).
//! Where its answer showed no tag, any read that shows something ends it ([`seen`]).
//!
//! Only what is known to have been applied is answered so. A write in doubt is not, nor PATCH and POST, which need not mean
//! the same twice. A body of more than `buffer` bytes can't be compared before it would have to be sent, so such a write is
//! only compared where it is refused anyhow.

use std::time::Duration;

use http::{
    Method,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE, CONTENT_TYPE, ETAG},
};

use super::{
    Exchange,
    answer::{self, Failure},
    body::{Ahead, Answer, Inbound},
    browsers,
    forward::{self, Tagged},
    repeats::{Body, Keeping, Notes, is_for_one_of_many, memory},
};
use crate::{
    core::{
        etag::EntityTag,
        fingerprint::Fingerprint,
        message::Response,
        policy::Verify,
        precondition::{self, Demands, Tags},
        record::{Outcome, Seen, State, View},
        resource::Key,
    },
    memory::{Identity, Kept, Kind, Look, Memo, Memory, Waiting},
    telemetry::metrics::Verdict,
    tracker::{Busy, Turn},
};

/// A write that may come again, or that has.
pub(super) struct Candidate {
    name: Fingerprint,
    head: Fingerprint,
    time: Duration,
    is_deletion: bool,
    /// It holds for any state, so only a tag can tell that the state is still the one that it left.
    is_for_any: bool,
}

/// What is known of a resource, as far as a write may have left it so.
pub(super) enum Left {
    /// It has this tag, and no other.
    Tag(EntityTag),
    Absent,
    /// Nothing is known, however old it may be.
    Unknown,
}

impl Left {
    /// What the holder of the turn may take to be so. `None`: no single write has left that.
    pub(super) async fn in_turn(exchange: &Exchange, turn: &Turn) -> Option<Self> {
        let max_age = exchange.policy().max_age;
        let left = |view: View<'_>| match view.state {
            State::Absent => Some(Self::Absent),
            State::Unknown => max_age.is_none().then_some(Self::Unknown),
            State::Current(set) => match set.as_slice() {
                [only] => Some(Self::Tag(only.tag.clone())),
                _ => None,
            },
        };
        turn.known(max_age, left).await
    }
}

/// The same write before this one.
pub(super) enum Known {
    /// It was answered so.
    Answered(Kept),
    /// Its answer is still on its way.
    OnItsWay(Waiting, Left),
}

/// Under which name the last write of a resource is known.
pub(super) fn name(memory: &Memory, key: Key) -> Fingerprint {
    memory.prints().of([&b"replay"[..], &key.cell[0].to_be_bytes(), &key.cell[1].to_be_bytes()])
}

impl Candidate {
    pub(super) fn of(exchange: &Exchange, demands: &Demands) -> Option<Self> {
        let time = exchange.policy().repeats.replay?;
        let head = &exchange.head;
        // Where every write is to be probed, none is answered without.
        if exchange.policy().verify == Verify::Always
            || demands.is_empty()
            || ![Method::PUT, Method::DELETE].contains(&head.method)
        {
            return None;
        }
        let memory = memory(exchange);
        let describing = [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_RANGE];
        let mut printing = memory.prints().begin();
        printing.part(head.method.as_str().as_bytes());
        printing.part(exchange.target.as_path_and_query().as_str().as_bytes());
        printing.part(exchange.host.as_bytes());
        printing.part(&exchange.caller.to_be_bytes());
        let tag_header = browsers::tag_header(exchange);
        for name in describing.iter().chain(&precondition::FIELDS).chain([&precondition::IF]).chain(&tag_header) {
            printing.part(name.as_str().as_bytes());
            head.headers.get_all(name).for_each(|value| printing.part(value.as_bytes()));
        }
        Some(Self {
            name: name(memory, exchange.key),
            head: printing.finish(),
            time,
            is_deletion: head.method == Method::DELETE,
            is_for_any: [&demands.if_match, &demands.if_none_match].contains(&&Some(Tags::Any))
                || demands.if_dav.is_some(),
        })
    }

    /// Whether the last write of the resource had a head like this one's.
    pub(super) fn may_be_known(&self, exchange: &Exchange) -> bool {
        match memory(exchange).look(self.name) {
            Look::Known(Memo::Answer(identity, _)) | Look::UnderWay(Some(identity), _) => identity.head == self.head,
            Look::Known(Memo::Value(_)) | Look::UnderWay(None, _) | Look::Nothing => false,
        }
    }

    /// What the same write, with this body, came to, if the resource is as it left it.
    pub(super) fn known(&self, exchange: &Exchange, body: Fingerprint, left: Left) -> Option<Known> {
        let this = Identity { head: self.head, body: Some(body) };
        match memory(exchange).look(self.name) {
            Look::Known(Memo::Answer(identity, kept)) if identity == this => {
                self.has_left(&kept, &left).then_some(Known::Answered(kept))
            }
            Look::UnderWay(Some(identity), waiting) if identity == this => Some(Known::OnItsWay(waiting, left)),
            Look::Known(_) | Look::UnderWay(..) | Look::Nothing => None,
        }
    }

    /// Whether the write that was answered so has left this.
    fn has_left(&self, kept: &Kept, left: &Left) -> bool {
        let (Kept::Whole(recorded) | Kept::Head(recorded)) = kept else { return false };
        match (left, forward::tag(&recorded.fields())) {
            (Left::Absent, _) => self.is_deletion,
            (Left::Tag(current), Tagged::With(shown)) => !self.is_deletion && shown == *current,
            (Left::Unknown, Tagged::Without) => !self.is_deletion && !self.is_for_any,
            (Left::Tag(_), Tagged::Without | Tagged::Unreadable)
            | (Left::Unknown, Tagged::With(_) | Tagged::Unreadable) => false,
        }
    }

    /// The write is over. If it was committed, whoever comes with the same one hears of this.
    pub(super) fn begin(
        self,
        exchange: &Exchange,
        outcome: Option<&Outcome>,
        is_whole: bool,
        body: &Body,
        response: &Response<Answer>,
    ) -> Option<Keeping> {
        let is_committed = matches!(outcome, Some(Outcome::Committed(_) | Outcome::Deleted));
        let may_be_given = response.status().is_success() && !is_for_one_of_many(exchange, response.headers());
        let body = body.fingerprint().filter(|_| is_committed && is_whole && may_be_given)?;
        let identity = Identity { head: self.head, body: Some(body) };
        let claim = memory(exchange).supersede(Kind::Replay, self.name, identity);
        Some(Keeping::new(claim, self.head, Body::Whole(body), self.time, response))
    }
}

/// A read has shown this. Where the last write's answer has no tag to compare it with, it may be another's state.
pub(super) fn seen(exchange: &Exchange, seen: &Seen) {
    let memory = memory(exchange);
    if *seen == Seen::Untagged || !memory.is_used() {
        return;
    }
    let name = name(memory, exchange.key);
    let may_stay = match memory.look(name) {
        Look::Nothing => true,
        Look::Known(Memo::Answer(_, Kept::Whole(recorded) | Kept::Head(recorded))) => {
            recorded.fields().contains_key(ETAG)
        }
        Look::Known(Memo::Answer(_, Kept::InDoubt) | Memo::Value(_)) | Look::UnderWay(..) => false,
    };
    if !may_stay {
        memory.forget(name);
    }
}

/// The first answer, once it is there. Without a turn: what is answered has happened.
pub(super) async fn answer(exchange: &Exchange, notes: &Notes, known: Known) -> Result<Response<Answer>, Failure> {
    let kept = match known {
        Known::Answered(kept) => kept,
        Known::OnItsWay(waiting, left) => {
            waiting.until_over(exchange.policy().wait).await;
            let candidate = notes.replay.as_ref().zip(notes.body.fingerprint());
            match candidate.and_then(|(candidate, body)| candidate.known(exchange, body, left)) {
                Some(Known::Answered(kept)) => kept,
                Some(Known::OnItsWay(..)) | None => return Err(Failure::Busy(Busy::TimedOut)),
            }
        }
    };
    match kept {
        Kept::Whole(recorded) => Ok(given_again(exchange, answer::again(&recorded, true))),
        Kept::Head(recorded) => Ok(given_again(exchange, answer::again(&recorded, false))),
        // Never remembered of these.
        Kept::InDoubt => Err(Failure::Busy(Busy::TimedOut)),
    }
}

/// A write with a large body is refused. All that is left to do with the body is to see whether it is the same.
pub(super) async fn answer_refused(
    exchange: &Exchange,
    mut notes: Box<Notes>,
    ahead: Ahead,
    body: &mut Inbound,
    refused: Failure,
    left: Option<Left>,
) -> Result<Response<Answer>, Failure> {
    let is_large = matches!(refused, Failure::Refused(_)) && matches!(notes.body, Body::Passing(_));
    if !is_large || !notes.replay.as_ref().is_some_and(|candidate| candidate.may_be_known(exchange)) {
        return Err(refused);
    }
    let Some(left) = left else { return Err(refused) };
    body.put_back(ahead);
    let print = body.fingerprint(memory(exchange).prints().begin()).await.map_err(Failure::Body)?;
    notes.body = Body::Whole(print);
    match notes.replay.as_ref().and_then(|candidate| candidate.known(exchange, print, left)) {
        Some(known) => answer(exchange, &notes, known).await,
        None => Err(refused),
    }
}

fn given_again(exchange: &Exchange, response: Response<Answer>) -> Response<Answer> {
    memory(exchange).answered(Kind::Replay);
    exchange.seen.verdict(Verdict::Replayed);
    browsers::given_again(exchange, response)
}
