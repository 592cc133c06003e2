//! What stands in a refusal's `detail`: for whoever runs the service, which setting to look at. `error` is for the person in
//! front of the client, and where there is nothing else to say `detail` says the same.
//!
//! It speaks of the request and of the route as a whole, and names no tag but those that the caller was shown itself
//! (rule 9).

use std::time::Duration;

use super::{
    super::{Exchange, habits},
    BodyError, Failure, Refused, Repeat, Unexaminable, body_error,
};
use crate::{
    core::{
        policy::{Comparison, MethodOverride, Policy},
        precondition::{Demands, Tags},
        record::Probed,
        verdict::{Probe, Refusal},
    },
    tracker::Busy,
    upstream::{Fault, SendError},
};

/// Why a verdict came out as it did, where the route's settings or the service have a part in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// Nothing is known, and the service may not be asked.
    NotAsked,
    /// The service shows no tag.
    NoTag,
    /// The service's tag is longer than so many bytes.
    LongTag(usize),
    /// The service shows no date.
    NoDate,
    /// The service's answer to the question for its tag says nothing.
    NothingSaid,
    /// Another resource's write changed this one while the service was asked.
    Overtaken,
    /// The client's tags are weak, and are compared strongly.
    WeakSent,
    /// The route has only ever shown weak tags, and compares strongly.
    WeakShown,
    /// The route seems to show other tags to other callers.
    Callers,
}

impl Because {
    /// Of a verdict by what is known, or by what a probe showed.
    pub(in crate::gateway) fn of(
        exchange: &Exchange,
        demands: &Demands,
        why: Refusal,
        probe: Option<Probe>,
    ) -> Option<Self> {
        match (why, probe) {
            (Refusal::Unverifiable, None) => Some(Self::NotAsked),
            (Refusal::Unverifiable, Some(_)) if demands.names_no_tag() => Some(Self::NoDate),
            (Refusal::Unverifiable, Some(_)) => Some(Self::NoTag),
            (Refusal::Stale, _) if sends_only_weak(exchange.policy(), demands) => Some(Self::WeakSent),
            (Refusal::Stale, _) if !demands.names_no_tag() && habits::are_weak(exchange) => Some(Self::WeakShown),
            (Refusal::Stale | Refusal::Exists, _) if habits::differ_by_caller(exchange) => Some(Self::Callers),
            (Refusal::Stale | Refusal::Exists | Refusal::MissingPrecondition, _) => None,
        }
    }

    /// What is recorded of a tag that is too long is that there is none.
    pub(in crate::gateway) fn long_tag(exchange: &Exchange, probed: &Probed) -> Option<Self> {
        let limit = exchange.gateway.config.tracker.tag_bytes;
        match probed {
            Probed::Tag(tag) if tag.opaque_len() > limit => Some(Self::LongTag(limit)),
            Probed::Tag(_) | Probed::Untagged | Probed::Absent => None,
        }
    }

    fn detail(self, policy: &Policy) -> String {
        match self {
            Self::NotAsked => {
                "Nothing is known of the resource's version, and the service is not asked for it: see verify in the \
                               route's guard, and max_age."
                    .to_owned()
            }
            Self::NoTag => {
                "The service sends no ETag for this resource: see version in the route's guard, which says where \
                            else a version may come from, and after_write."
                    .to_owned()
            }
            Self::LongTag(limit) => {
                format!("The service's ETag has more than {limit} bytes and is not kept: see tag_bytes in [tracker].")
            }
            Self::NoDate => {
                "The service sends no Last-Modified for this resource, and If-Unmodified-Since asks for one: let \
                             the client send If-Match instead."
                    .to_owned()
            }
            Self::NothingSaid => {
                "The service's answers to HEAD and GET of this resource say neither what its version is nor \
                                  that it is not there: its own log may say why."
                    .to_owned()
            }
            Self::Overtaken => {
                "Another resource's write changed this one while the service was asked for its version: try \
                                again."
                    .to_owned()
            }
            Self::WeakSent => {
                "If-Match has nothing but weak tags, which never match by the strong comparison of this route: \
                               see profile and comparison in its guard."
                    .to_owned()
            }
            Self::WeakShown => "The service has only shown weak tags by this route, which never match by its strong \
                                comparison: see profile and comparison in its guard."
                .to_owned(),
            Self::Callers => format!(
                "This route seems to show other tags to other callers, so that each makes the others' stale: see partition \
                 in its guard{}, or let the service send Vary.",
                if policy.partition.is_empty() { "" } else { ", which does not name all that counts" }
            ),
        }
    }
}

/// Whether `If-Match` can't match by what the client sent, whatever is current.
fn sends_only_weak(policy: &Policy, demands: &Demands) -> bool {
    policy.comparison == Comparison::Strong
        && matches!(&demands.if_match, Some(Tags::OneOf(tags)) if tags.iter().all(|tag| tag.is_weak()))
}

/// `None`: nothing but the sentence for a person.
pub(super) fn of(failure: &Failure, policy: &Policy) -> Option<String> {
    match failure {
        Failure::Refused(refused) => refused_detail(refused, policy),
        Failure::Busy(busy) => Some(busy_detail(*busy, policy)),
        Failure::TargetLength(_) => Some("See request_line in [limits].".to_owned()),
        Failure::RequestTimeout(_) => Some("See request_timeout in [limits].".to_owned()),
        Failure::NoRoute => Some("None of [[routes]] has this host and path.".to_owned()),
        Failure::MethodOverride => Some(match policy.method_override {
            MethodOverride::Refuse => "See method_override in the route's guard.".to_owned(),
            MethodOverride::Honour => "The fields that override the method can't be read, or differ.".to_owned(),
        }),
        Failure::Body(error) => body_detail(error),
        Failure::Upstream(error, _) => upstream_detail(error),
        Failure::Repeat(repeat) => repeat_detail(repeat),
        Failure::Malformed(_)
        | Failure::Target(_)
        | Failure::Host
        | Failure::Expectation
        | Failure::Method
        | Failure::TransferCoding
        | Failure::Length
        | Failure::Relayed(_)
        | Failure::Represented(..)
        | Failure::OtherVersion(_)
        | Failure::Lost => None,
    }
}

fn refused_detail(refused: &Refused, policy: &Policy) -> Option<String> {
    match refused.why {
        Refusal::MissingPrecondition => {
            let usable = |weak: bool| !weak || policy.comparison == Comparison::Weak;
            let tags = refused.current.iter().filter(|tag| usable(tag.is_weak()));
            let tags: Vec<String> = tags.map(ToString::to_string).collect();
            (!tags.is_empty()).then(|| {
                format!(
                    "If your change is based on the version that you were shown last, send it again with If-Match: {}; \
                     if not, fetch the latest version first.",
                    tags.join(", ")
                )
            })
        }
        Refusal::Stale | Refusal::Exists | Refusal::Unverifiable => {
            refused.because.map(|because| because.detail(policy))
        }
    }
}

fn busy_detail(busy: Busy, policy: &Policy) -> String {
    let Policy { wait, line, settle, .. } = policy;
    match busy {
        Busy::LineFull => {
            format!("{line} writers wait for this resource already, which is as many as may: see line in the route's guard.")
        }
        Busy::TimedOut => format!(
            "The write has waited for {wait:?}, which is as long as it may: see wait in the route's guard. After a write in \
             doubt a resource is held for {settle:?}: see settle. Of one HTTP/2 connection, writes_per_connection in \
             [limits] may be under way."
        ),
        Busy::Closed | Busy::Renamed => {
            "The configuration is being replaced, or another process takes over, and writes from before are not over: see \
             wait in the route's guard."
                .to_owned()
        }
    }
}

fn body_detail(error: &BodyError) -> Option<String> {
    match error {
        BodyError::TooLong(_) => Some("See max_body in the route's guard.".to_owned()),
        BodyError::Idle => Some("See body_idle_timeout in the route's guard.".to_owned()),
        BodyError::Slow => Some("See body_rate in the route's guard.".to_owned()),
        BodyError::Broken(_) | BodyError::Gone | BodyError::Short => None,
    }
}

fn repeat_detail(repeat: &Repeat) -> Option<String> {
    match repeat {
        Repeat::LookupFailed(_) => Some("See unique_lookup and unique_found in the route's guard.".to_owned()),
        Repeat::NotKept { .. } => Some("See answer_bytes in the route's guard.".to_owned()),
        Repeat::Unexaminable(Unexaminable::TooLong(_)) => Some("See buffer in the route's guard.".to_owned()),
        Repeat::Unexaminable(_)
        | Repeat::MalformedKey(_)
        | Repeat::Running
        | Repeat::OtherPayload
        | Repeat::InDoubt
        | Repeat::Duplicate { .. }
        | Repeat::DuplicateInDoubt { .. } => None,
    }
}

fn upstream_detail(error: &SendError) -> Option<String> {
    if let Some(cause) = body_error(error) {
        return body_detail(cause);
    }
    let setting = match &error.fault {
        Fault::Resolve(..) | Fault::Connect(..) => "servers",
        Fault::ConnectTimeout(_) => "connect_timeout",
        Fault::Tls(..) => "tls",
        Fault::Full(_) => "max_connections",
        Fault::NoServer => "health",
        Fault::ResponseTimeout => "response_timeout",
        Fault::ResponseIdleTimeout => "response_idle_timeout",
        Fault::NoUpgrade | Fault::RequestBody(_) | Fault::Connection(_) | Fault::BadAnswer => return None,
    };
    Some(format!("See {setting} of the route's upstream."))
}

/// When it may be worth while to try again, in seconds; `None`: that is not for the client to wait for. After a write in
/// doubt a resource is free in `settle` at the latest; a line moves on with each write.
pub(super) fn retry_after(failure: &Failure, policy: &Policy) -> Option<u64> {
    const LONGEST: Duration = Duration::from_secs(30);
    match failure {
        Failure::Busy(Busy::TimedOut) => Some(policy.settle.min(LONGEST).as_millis().div_ceil(1000).max(1) as u64),
        Failure::Busy(Busy::LineFull | Busy::Closed | Busy::Renamed) => Some(1),
        Failure::Repeat(repeat) => repeat.is_passing().then_some(1),
        Failure::Upstream(error, _) => matches!(error.fault, Fault::NoServer | Fault::Full(_)).then_some(1),
        Failure::Refused(_)
        | Failure::Malformed(_)
        | Failure::Target(_)
        | Failure::TargetLength(_)
        | Failure::Host
        | Failure::Expectation
        | Failure::Method
        | Failure::TransferCoding
        | Failure::Length
        | Failure::MethodOverride
        | Failure::Body(_)
        | Failure::NoRoute
        | Failure::Relayed(_)
        | Failure::Represented(..)
        | Failure::OtherVersion(_)
        | Failure::RequestTimeout(_)
        | Failure::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use http::StatusCode;

    use super::*;
    use crate::core::etag::EntityTag;

    fn policy() -> Policy {
        Policy { wait: Duration::from_millis(1500), line: 7, settle: Duration::from_secs(4), ..Policy::default() }
    }

    fn refused(why: Refusal, because: Option<Because>, tags: &[&str]) -> Failure {
        let current = tags.iter().map(|tag| EntityTag::parse(tag.as_bytes()).expect("a tag")).collect();
        let conflict_status = StatusCode::CONFLICT;
        Failure::from(Box::new(Refused { why, current, conflict_status, tag_header: None, because }))
    }

    fn upstream(fault: Fault) -> Failure {
        let error = SendError { fault, sent: false, reused: false, server: None };
        Failure::Upstream(error, super::super::Sent::Read)
    }

    fn assert_details(rows: Vec<(Failure, &str)>) {
        for (failure, part) in rows {
            let detail = of(&failure, &policy()).unwrap_or_else(|| panic!("{failure:?} says nothing: {part}"));
            assert!(detail.contains(part), "{failure:?}: {detail:?} lacks {part:?}");
        }
    }

    #[test]
    fn a_verdict_names_what_has_a_part_in_it() {
        let unverifiable = |because| refused(Refusal::Unverifiable, Some(because), &[]);
        let stale = |because| refused(Refusal::Stale, Some(because), &["\"2\""]);
        assert_details(vec![
            (unverifiable(Because::NotAsked), "verify"),
            (unverifiable(Because::NoTag), "version in the route's guard"),
            (unverifiable(Because::LongTag(9)), "more than 9 bytes and is not kept: see tag_bytes"),
            (unverifiable(Because::NoDate), "Last-Modified"),
            (unverifiable(Because::NothingSaid), "HEAD and GET"),
            (unverifiable(Because::Overtaken), "try again"),
            (stale(Because::WeakSent), "comparison"),
            (stale(Because::WeakShown), "comparison"),
            (stale(Because::Callers), "partition in its guard, or"),
            (refused(Refusal::MissingPrecondition, None, &["\"2\"", "W/\"3\""]), "with If-Match: \"2\"; if not"),
        ]);
        let apart = Policy { partition: vec![http::header::COOKIE], ..policy() };
        let told = of(&stale(Because::Callers), &apart);
        assert!(told.is_some_and(|detail| detail.contains("does not name all that counts")));
        for nothing in [
            refused(Refusal::Stale, None, &["\"2\""]),
            refused(Refusal::Exists, None, &["\"2\""]),
            refused(Refusal::MissingPrecondition, None, &[]),
            refused(Refusal::MissingPrecondition, None, &["W/\"3\""]),
        ] {
            assert_eq!(of(&nothing, &policy()), None, "{nothing:?}");
        }
    }

    #[test]
    fn whatever_has_a_limit_names_it() {
        let host = || "h:80".parse().expect("an authority");
        let broken = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let found = Failure::Repeat(Repeat::LookupFailed(StatusCode::INTERNAL_SERVER_ERROR));
        let not_kept = Failure::Repeat(Repeat::NotKept { status: StatusCode::OK, location: None });
        assert_details(vec![
            (
                Failure::Busy(Busy::LineFull),
                "7 writers wait for this resource already, which is as many as may: see line",
            ),
            (Failure::Busy(Busy::TimedOut), "waited for 1.5s, which is as long as it may: see wait"),
            (Failure::Busy(Busy::TimedOut), "held for 4s: see settle"),
            (Failure::Busy(Busy::TimedOut), "writes_per_connection"),
            (Failure::Busy(Busy::Closed), "another process takes over"),
            (Failure::Busy(Busy::Renamed), "being replaced"),
            (Failure::TargetLength(9), "request_line"),
            (Failure::RequestTimeout(super::super::Sent::Read), "request_timeout"),
            (Failure::NoRoute, "[[routes]]"),
            (Failure::MethodOverride, "differ"),
            (Failure::Body(BodyError::TooLong(3)), "max_body"),
            (Failure::Body(BodyError::Idle), "body_idle_timeout"),
            (Failure::Body(BodyError::Slow), "body_rate"),
            (found, "unique_lookup and unique_found"),
            (not_kept, "answer_bytes"),
            (Failure::Repeat(Repeat::Unexaminable(Unexaminable::TooLong(5))), "buffer"),
            (upstream(Fault::Resolve(host(), broken())), "See servers of"),
            (upstream(Fault::Connect(host(), broken())), "See servers of"),
            (upstream(Fault::ConnectTimeout(host())), "connect_timeout"),
            (upstream(Fault::Tls(host(), broken())), "See tls of"),
            (upstream(Fault::Full(host())), "max_connections"),
            (upstream(Fault::NoServer), "health"),
            (upstream(Fault::ResponseTimeout), "See response_timeout"),
            (upstream(Fault::ResponseIdleTimeout), "See response_idle_timeout"),
            (upstream(Fault::RequestBody(BodyError::Slow.into())), "body_rate"),
        ]);
        for nothing in [upstream(Fault::BadAnswer), Failure::Body(BodyError::Short), Failure::Repeat(Repeat::InDoubt)] {
            assert_eq!(of(&nothing, &policy()), None, "{nothing:?}");
        }
        let refuses = Policy { method_override: MethodOverride::Refuse, ..policy() };
        assert!(of(&Failure::MethodOverride, &refuses).is_some_and(|detail| detail.contains("See method_override")));
    }

    #[test]
    fn who_may_come_back_is_told_when() {
        let after = |settle| Policy { settle, ..policy() };
        for (settle, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (30_000, 30), (86_400_000, 30)] {
            let policy = after(Duration::from_millis(settle));
            assert_eq!(retry_after(&Failure::Busy(Busy::TimedOut), &policy), Some(seconds), "{settle}");
        }
        for passing in [
            Failure::Busy(Busy::LineFull),
            Failure::Busy(Busy::Closed),
            Failure::Repeat(Repeat::Running),
            upstream(Fault::NoServer),
        ] {
            assert_eq!(retry_after(&passing, &policy()), Some(1), "{passing:?}");
        }
        for lasting in [
            refused(Refusal::Stale, None, &[]),
            Failure::Repeat(Repeat::InDoubt),
            upstream(Fault::BadAnswer),
            Failure::NoRoute,
        ] {
            assert_eq!(retry_after(&lasting, &policy()), None, "{lasting:?}");
        }
    }
}
