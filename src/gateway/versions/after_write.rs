//! Reading a resource again after a write whose answer shows no version, within its turn.
//!
//! What is read is of the kind of representation that the client has written ([`Kind`]). Another one, such as the page that
//! every path of an application shows, may be the same before and after: two writers would hold one tag for two states.

use std::time::Duration;

use http::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, ETAG, LOCATION},
};
use tokio::time::timeout;

use super::super::{
    Exchange,
    forward::Received,
    probe::{self, Said},
    route, write,
};
use crate::{
    core::{
        fields::Fields,
        policy::Comparison,
        precondition::Tags,
        record::{Outcome, Probed, View},
        value::FieldValue,
        version::Source,
    },
    tracker::Turn,
    upstream::Extent,
};

/// Which representations show a version that a client can go on with.
#[derive(Debug)]
pub(in crate::gateway) enum Kind {
    /// Any: a version that is a value is that of all of them.
    Any,
    /// Those of this media type, in lower case; `None`: those that name none.
    Only(Option<String>),
    /// Those in JSON, since what was written is a patch in JSON.
    Json,
}

impl Kind {
    /// What the client works with, told by what it has sent.
    fn of(exchange: &Exchange) -> Self {
        match exchange.policy().versions.source {
            Source::Header(_) | Source::Json(_) | Source::LastModified => return Self::Any,
            Source::Etag | Source::Body => {}
        }
        let sent = media_type(&exchange.head.headers);
        match &sent {
            Some(sent) if exchange.head.method == Method::PATCH && is_json(sent) => Self::Json,
            Some(_) | None => Self::Only(sent),
        }
    }

    /// Asks for one, unless the client has said what it would see.
    pub(in crate::gateway) fn ask(&self, fields: &mut Fields) {
        let wanted = match self {
            Self::Any | Self::Only(None) => return,
            Self::Only(Some(media_type)) => media_type,
            Self::Json => "application/json",
        };
        if fields.get_all(ACCEPT).all(|line| line.as_bytes().trim_ascii() == b"*/*")
            && let Ok(wanted) = FieldValue::try_from(wanted)
        {
            fields.insert(ACCEPT, wanted);
        }
    }

    /// Whether an answer with these fields has one.
    pub(in crate::gateway) fn is_in(&self, fields: &Fields) -> bool {
        let is_one = fields.get_all(CONTENT_TYPE).count() < 2;
        match self {
            Self::Any => true,
            Self::Only(wanted) => is_one && media_type(fields) == *wanted,
            Self::Json => is_one && media_type(fields).is_some_and(|shown| is_json(&shown)),
        }
    }
}

/// The media type of a body, without its parameters and in lower case.
fn media_type(fields: &Fields) -> Option<String> {
    let value = fields.get(CONTENT_TYPE)?.as_bytes();
    let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    Some(String::from_utf8_lossy(essence).to_ascii_lowercase())
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

/// What came of a write that this answer is to, once the resource was read again where it has to be. `turn` has been alone;
/// of its body nothing is under way. The answer gets the tag of the state that the write has left.
///
/// The write's outcome does not depend on it: whatever is not known for certain leaves all as it was. So does a tag that the
/// resource had before. Either the write has changed nothing, and then nothing is lost; or what was read is from before
/// the write, by a cache or a replica, and then to record it would be to lose the write.
pub(in crate::gateway) async fn after_write(
    exchange: &Exchange,
    turn: &Turn,
    outcome: Option<Outcome>,
    received: &mut Received,
) -> Option<Outcome> {
    let is_of_target = outcome == Some(Outcome::Committed(None))
        && [Method::PUT, Method::PATCH].contains(&exchange.head.method)
        && received.status().is_success()
        && write::is_of_target(exchange, received.headers());
    if is_of_target && !exchange.policy().service.trust_write_tags {
        // Nobody could write by it.
        received.headers_mut().remove(ETAG);
    }
    let is_read = is_of_target && is_done(exchange, received) && !received.headers().contains_key(ETAG);
    if !is_read || !turn.is_alone().await {
        return outcome;
    }
    let time = time_left(exchange);
    // Late or broken off, it is passed on as it is. While there is more of it, it has a connection: were that kept for a read
    // that waits for another, a few such writes would have all of them.
    let limit = exchange.policy().versions.body_limit;
    let Ok(Extent::Whole) = timeout(time / 4, received.body_mut().read_ahead(limit, time)).await else {
        return outcome;
    };
    let Ok(Ok(Said::Shown(Probed::Tag(tag), _))) =
        timeout(time, probe::after_write(exchange, &Kind::of(exchange))).await
    else {
        return outcome;
    };
    let tags = Tags::OneOf(vec![tag.clone()]);
    let suffixes = exchange.policy().encoding_suffixes;
    let was_there = |view: View<'_>| view.matches(&tags, Comparison::Weak, suffixes) || view.supersedes(&tags);
    if turn.known(None, was_there).await || !turn.is_alone().await {
        return outcome;
    }
    received.headers_mut().insert(ETAG, tag.to_header_value());
    Some(Outcome::Committed(Some(tag)))
}

/// Whether all of the write has been done, to the resource that the request names.
fn is_done(exchange: &Exchange, received: &Received) -> bool {
    match received.status() {
        StatusCode::OK | StatusCode::NO_CONTENT => true,
        StatusCode::CREATED => {
            let mut created = received.headers().get_all(LOCATION);
            created.all(|created| route::same_origin(exchange, created).is_some_and(|target| target == exchange.target))
        }
        _ => false,
    }
}

/// How long the client's answer may wait for a read. Half of what is left of `request_timeout`, so that a client is not told
/// that nobody knows what became of a write of which all is known; and so little of `drain_timeout` that a stop does not
/// lose the answer.
fn time_left(exchange: &Exchange) -> Duration {
    let config = &exchange.gateway.config;
    let time = exchange.upstream().config().response_timeout.min(config.drain_timeout / 4);
    config.limits.request_timeout.map_or(time, |limit| time.min(limit.saturating_sub(exchange.seen.elapsed()) / 2))
}
