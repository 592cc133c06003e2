//! The responses that the backend did not send: every refusal and every error, as the design's section 6 has them.
//!
//! A refusal is a problem detail (RFC 9457) with a sentence that a person can act on. `Proxy-Status` (RFC 9209) tells it
//! from an answer of the backend's own.

use std::{borrow::Cow, error::Error, io};

use http::{
    HeaderName, StatusCode, Version,
    header::{
        ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, EXPECT, IF_MATCH,
        LINK, RETRY_AFTER,
    },
};

use super::{
    body::{Answer, BodyError},
    forward::Received,
    headers,
};
use crate::{
    core::{
        etag::EntityTag,
        fields::Fields,
        message::{Response, request::Parts},
        policy::Policy,
        precondition::Malformed,
        profile::ConflictBody,
        resource::TargetError,
        value::{Digits, FieldValue, Value},
        verdict::Refusal,
    },
    memory::Recorded,
    tracker::Busy,
    upstream::{Broken, Fault, SendError},
};

mod detail;
mod document;
mod repeat;
mod unchanged;

pub(super) use detail::Because;
use document::Object;
pub use repeat::{Repeat, Unexaminable};
pub(super) use unchanged::not_modified;

const JSON: &str = "application/json";
const PROBLEM_JSON: &str = "application/problem+json";
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request gets an answer of the gateway's own.
#[derive(Debug)]
pub enum Failure {
    /// A verdict.
    Refused(Box<Refused>),
    /// No turn was to be had.
    Busy(Busy),
    /// A precondition can't be read.
    Malformed(Malformed),
    /// The path can't be made canonical.
    Target(TargetError),
    /// The target is longer than so many bytes.
    TargetLength(usize),
    /// There is no `Host`, there are several, or it names no host.
    Host,
    /// An `Expect` that the gateway does not know.
    Expectation,
    /// CONNECT, which the gateway does not do.
    Method,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// An HTTP/1.0 request that stores something and does not say how long it is.
    Length,
    /// A method override that the route refuses, or several that differ.
    MethodOverride,
    /// The client's body can't be read.
    Body(BodyError),
    /// No route matches.
    NoRoute,
    /// The backend gave no answer.
    Upstream(SendError, Sent),
    /// The backend does not let the caller see the resource.
    Relayed(Box<Received>),
    /// A conflict's answer carries the current representation, as the client preferred.
    Represented(Box<Received>, Box<Refused>),
    /// It took longer than `request_timeout` until the backend's answer.
    RequestTimeout(Sent),
    /// It came before, or creates what is there already.
    Repeat(Repeat),
    /// A read asks for a version that is not the current one, which is this, if there is one.
    OtherVersion(Option<EntityTag>),
    /// The task that carried the write out is gone; nobody knows what became of the write.
    Lost,
}

/// What the backend gave no answer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// The client's read.
    Read,
    /// A question of the gateway's own, or nothing yet; the client's write was not sent.
    Probe,
    /// The client's write.
    Write,
}

impl From<Box<Refused>> for Failure {
    fn from(refused: Box<Refused>) -> Self {
        Self::Refused(refused)
    }
}

impl From<Repeat> for Failure {
    fn from(repeat: Repeat) -> Self {
        Self::Repeat(repeat)
    }
}

/// A verdict against a write.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// The tags that are current, as far as the caller may be told.
    pub current: Vec<EntityTag>,
    /// The route's status for conflicts.
    pub conflict_status: StatusCode,
    /// The field that means what `If-Match` does.
    pub tag_header: Option<HeaderName>,
    /// What the route's settings or the service have to do with it.
    pub because: Option<Because>,
}

/// What an answer needs to know of the request it answers.
pub(super) struct About<'a> {
    head: &'a Parts,
    policy: &'a Policy,
}

impl<'a> About<'a> {
    /// `policy` is the route's, or the default where there is none.
    pub(super) fn new(head: &'a Parts, policy: &'a Policy) -> Self {
        Self { head, policy }
    }

    fn path(&self) -> Cow<'a, str> {
        self.head.uri.path_and_query().map_or(Cow::Borrowed(""), |target| reference(target.as_str()))
    }

    /// The lines that demand a tag.
    fn if_match(&self) -> impl Iterator<Item = Value<'a>> {
        let names = [&IF_MATCH].into_iter().chain(&self.policy.browsers.tag_header);
        names.flat_map(|name| self.head.headers.get_all(name))
    }

    /// The client's choice between the two media types (RFC 9110 §12.5.1); the second only where it rules out the first.
    fn media_type(&self) -> &'static str {
        let accepts = |media_type: &str| {
            let is_there = |line: &[u8]| {
                line.windows(media_type.len()).any(|part| part.eq_ignore_ascii_case(media_type.as_bytes()))
            };
            self.head.headers.get_all(ACCEPT).any(|line| line.to_str().is_ok_and(|line| is_there(line.as_bytes())))
        };
        let only_json = accepts(JSON) && ![PROBLEM_JSON, "application/*", "*/*"].iter().any(|other| accepts(other));
        if only_json { JSON } else { PROBLEM_JSON }
    }
}

/// A target as a reference to itself: one that begins with `//` would name a host, quotes and brackets would end the field
/// that it stands in, and a `\` would keep its own quote from ending it.
fn reference(target: &str) -> Cow<'_, str> {
    if !target.starts_with("//") && !target.bytes().any(|byte| matches!(byte, b'"' | b'<' | b'>' | b'\\')) {
        return Cow::Borrowed(target);
    }
    let escaped = target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('\\', "%5C");
    Cow::Owned(if escaped.starts_with("//") { format!("/.{escaped}") } else { escaped })
}

/// Only `100-continue` is known (RFC 9110 §10.1.1), and only as the whole field.
pub(super) fn check_expectation(head: &Parts) -> Result<(), Failure> {
    let mut lines = head.headers.get_all(EXPECT);
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        (Some(_), _) => Err(Failure::Expectation),
    }
}

/// What is said of a failure.
struct Problem {
    status: StatusCode,
    kind: &'static str,
    title: &'static str,
    /// What to do about it, for a person.
    error: Cow<'static, str>,
    /// The error of RFC 9209 §2.3.
    proxy_error: &'static str,
}

impl Failure {
    /// Whether where the next request begins is in doubt, so that there must be none.
    pub(super) fn ends_connection(&self) -> bool {
        matches!(self, Self::TransferCoding | Self::Length)
            || matches!(self, Self::Upstream(error, _) if body_error(error).is_some_and(BodyError::leaves_a_rest))
    }

    /// Whether the client has had its time: what it still sends is not waited for before it gets its answer.
    pub(super) fn is_late(&self) -> bool {
        matches!(self, Self::RequestTimeout(_) | Self::Body(BodyError::Idle | BodyError::Slow))
    }

    /// The last part of its problem type.
    pub(super) fn kind(&self) -> &'static str {
        self.problem().kind
    }

    fn problem(&self) -> Problem {
        let wrong = |status, kind, title, error: Cow<'static, str>| Problem {
            status,
            kind,
            title,
            error,
            proxy_error: "http_request_error",
        };
        let bad = |kind, title, error| wrong(StatusCode::BAD_REQUEST, kind, title, error);
        match self {
            Self::Refused(refused) | Self::Represented(_, refused) => refused.problem(),
            Self::Busy(busy) => Problem {
                status: StatusCode::CONFLICT,
                kind: "busy",
                title: "Another write is under way",
                error: format!("Conflict: {busy}. Try again in a moment.").into(),
                proxy_error: "http_request_denied",
            },
            Self::Malformed(malformed) => bad(
                "malformed-precondition",
                "A precondition can't be read",
                format!("{malformed}. Send the tag just as it came in ETag, quotes included.").into(),
            ),
            Self::Target(error) => bad("bad-target", "The path can't be used", format!("{error}.").into()),
            Self::TargetLength(limit) => wrong(
                StatusCode::URI_TOO_LONG,
                "uri-too-long",
                "The target is too long",
                format!("The path and the query may have {limit} bytes together. Shorten them.").into(),
            ),
            Self::Host => {
                bad("bad-host", "The host can't be read", "A request must name one host, and in one Host field.".into())
            }
            Self::MethodOverride => bad(
                "method-override",
                "The method is overridden",
                "This route does not take a POST that means another method. Send that method.".into(),
            ),
            Self::Expectation => wrong(
                StatusCode::EXPECTATION_FAILED,
                "expectation",
                "The expectation can't be met",
                "Only Expect: 100-continue is understood.".into(),
            ),
            Self::Method => wrong(
                StatusCode::NOT_IMPLEMENTED,
                "method",
                "CONNECT is not offered",
                "This is a gateway to a service, not a proxy to others.".into(),
            ),
            Self::TransferCoding => bad(
                "transfer-coding",
                "The transfer coding is not known",
                "Only Transfer-Encoding: chunked is understood, and only once.".into(),
            ),
            Self::Length => wrong(
                StatusCode::LENGTH_REQUIRED,
                "length-required",
                "A length is required",
                "With HTTP/1.0 a body needs a Content-Length.".into(),
            ),
            Self::Body(error) => body_problem(error, "Nothing was changed."),
            Self::NoRoute => no_route_problem(),
            Self::Upstream(error, sent) => upstream_problem(error, *sent),
            Self::RequestTimeout(sent) => late_problem(*sent),
            Self::Repeat(repeat) => repeat.problem(),
            Self::OtherVersion(_) => other_version_problem(),
            Self::Relayed(_) | Self::Lost => Problem {
                status: StatusCode::BAD_GATEWAY,
                kind: "in-doubt",
                title: "The outcome is unknown",
                error: "Whether the write was applied is unknown. Fetch the latest version before you try again."
                    .into(),
                proxy_error: "proxy_internal_error",
            },
        }
    }
}

impl Refused {
    fn problem(&self) -> Problem {
        let (status, kind, title, error) = match self.why {
            Refusal::Stale => (
                self.conflict_status,
                "stale",
                "The resource has changed",
                "Conflict: the version of the resource you are trying to update has been modified. Fetch the latest version \
                 and try again.",
            ),
            Refusal::Exists => (
                self.conflict_status,
                "exists",
                "The resource exists",
                "Conflict: the resource exists already, in the state in which you do not want to write it. Fetch the latest \
                 version and decide anew.",
            ),
            Refusal::Unverifiable => (
                self.conflict_status,
                "unverifiable",
                "The resource's version can't be learned",
                "Conflict: the current version of the resource can't be learned, so your change can't be matched with it. \
                 Fetch the latest version and try again.",
            ),
            Refusal::MissingPrecondition => (
                StatusCode::PRECONDITION_REQUIRED,
                "precondition-required",
                "A precondition is required",
                "This resource is only written with a precondition. Fetch the latest version, and send its ETag in If-Match \
                 with your change; to create a resource, send If-None-Match: *.",
            ),
        };
        let error = match &self.tag_header {
            Some(name) => error.replace("its ETag in If-Match", &format!("its ETag in If-Match or {name}")).into(),
            None => error.into(),
        };
        Problem { status, kind, title, error, proxy_error: "http_request_denied" }
    }

    /// The same for this reason, if there is one.
    pub(super) fn but_rather(mut self: Box<Self>, because: Option<Because>) -> Box<Self> {
        self.because = because.filter(|_| self.why == Refusal::Unverifiable).or(self.because);
        self
    }

    /// Whether the resource is in another state than the client wants to write in, which the current one tells it best.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.why, Refusal::Stale | Refusal::Exists)
    }

    /// The current tags, where the client is told that there are others than it thinks.
    fn told(&self) -> Option<&Vec<EntityTag>> {
        self.is_conflict().then_some(&self.current)
    }
}

impl Sent {
    /// What to do now. `sent`: whether a byte of it may have reached the backend.
    fn advice(self, sent: bool) -> &'static str {
        match self {
            Self::Read => "Try again later.",
            Self::Write if sent => "Whether it was applied is unknown; fetch the latest version before you try again.",
            Self::Write | Self::Probe => "Nothing was changed; try again later.",
        }
    }
}

fn no_route_problem() -> Problem {
    Problem {
        status: StatusCode::NOT_FOUND,
        kind: "no-route",
        title: "No route",
        error: "No route leads from this host and path to a service.".into(),
        proxy_error: "destination_not_found",
    }
}

fn other_version_problem() -> Problem {
    Problem {
        status: StatusCode::PRECONDITION_FAILED,
        kind: "other-version",
        title: "The resource has changed",
        error: "The resource is not in the version that you ask for. Fetch the latest version.".into(),
        proxy_error: "http_request_denied",
    }
}

fn late_problem(sent: Sent) -> Problem {
    Problem {
        status: StatusCode::GATEWAY_TIMEOUT,
        kind: "request-timeout",
        title: "The request took too long",
        error: format!("The request could not be completed in time. {}", sent.advice(sent == Sent::Write)).into(),
        proxy_error: "http_response_timeout",
    }
}

/// `advice` says whether anything was changed.
fn body_problem(error: &BodyError, advice: &str) -> Problem {
    let (kind, title) = match error {
        BodyError::TooLong(_) => ("body-too-large", "The request's body is too large"),
        BodyError::Idle | BodyError::Slow => ("body", "The request's body came too slowly"),
        BodyError::Broken(_) | BodyError::Gone | BodyError::Short => ("body", "The request's body can't be read"),
    };
    let (status, error) = (error.status(), format!("The request could not be completed: {error}. {advice}").into());
    Problem { status, kind, title, error, proxy_error: "http_request_error" }
}

fn upstream_problem(error: &SendError, sent: Sent) -> Problem {
    let advice = sent.advice(error.sent);
    if let Some(cause) = body_error(error) {
        return body_problem(cause, advice);
    }
    let (status, kind, title, proxy_error) = match &error.fault {
        Fault::Resolve(..) => {
            (StatusCode::BAD_GATEWAY, "upstream-refused", "The service can't be reached", "dns_error")
        }
        Fault::Connect(..) => {
            (StatusCode::BAD_GATEWAY, "upstream-refused", "The service can't be reached", "connection_refused")
        }
        Fault::ConnectTimeout(_) => {
            (StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", "The service can't be reached", "connection_timeout")
        }
        Fault::Tls(_, cause) => {
            (StatusCode::BAD_GATEWAY, "upstream-refused", "The service can't be reached securely", tls_error(cause))
        }
        Fault::Full(_) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "no-upstream",
            "The service takes no more connections",
            "connection_limit_reached",
        ),
        Fault::NoServer => {
            (StatusCode::SERVICE_UNAVAILABLE, "no-upstream", "The service is not healthy", "destination_unavailable")
        }
        Fault::NoUpgrade => {
            (StatusCode::BAD_GATEWAY, "upgrade", "The service takes no such upgrade", "http_upgrade_failed")
        }
        Fault::RequestBody(_) => {
            (StatusCode::BAD_REQUEST, "body", "The request's body broke off", "http_request_error")
        }
        Fault::Connection(Broken::Malformed(_)) => {
            (StatusCode::BAD_GATEWAY, "upstream-failed", "The service's answer can't be used", "http_protocol_error")
        }
        Fault::Connection(_) => {
            (StatusCode::BAD_GATEWAY, "upstream-failed", "The service gave no answer", "connection_terminated")
        }
        Fault::BadAnswer => {
            (StatusCode::BAD_GATEWAY, "upstream-failed", "The service's answer can't be used", "http_protocol_error")
        }
        Fault::ResponseTimeout | Fault::ResponseIdleTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "upstream-timeout", "The service did not answer", "http_response_timeout")
        }
    };
    Problem { status, kind, title, error: format!("The request could not be completed. {advice}").into(), proxy_error }
}

/// The error of RFC 9209 §2.3 for a connection that could not be secured.
fn tls_error(error: &io::Error) -> &'static str {
    match error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(_)) => "tls_certificate_error",
        Some(rustls::Error::AlertReceived(_)) => "tls_alert_received",
        Some(_) | None => "tls_protocol_error",
    }
}

/// What was wrong with the client's body, where that is why there is no answer.
fn body_error(error: &SendError) -> Option<&BodyError> {
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

/// Builds the answer. `closes` says that more of the request's body was to come than is read.
pub(super) fn build(about: &About<'_>, failure: Failure, closes: bool) -> Response<Answer> {
    let mut response = if let Failure::Relayed(received) = failure {
        relay(*received)
    } else if let Failure::Represented(received, refused) = failure {
        represent(about, *received, &refused)
    } else {
        problem_details(about, &failure)
    };
    if closes && about.head.version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, FieldValue::from_static("close"));
    }
    response
}

fn problem_details(about: &About<'_>, failure: &Failure) -> Response<Answer> {
    let problem = failure.problem();
    let conflict = if let Failure::Refused(refused) = failure { refused.told() } else { None };
    let repeat = if let Failure::Repeat(repeat) = failure { Some(repeat) } else { None };
    let path = about.path();
    let mut fields = Fields::with_capacity(6, 256);
    if let Some([only]) = conflict.map(Vec::as_slice) {
        fields.append_parts(ETAG, only.parts());
    }
    if let Some(seconds) = detail::retry_after(failure, about.policy) {
        fields.append(RETRY_AFTER, Digits::of(seconds));
    }
    if let Failure::OtherVersion(Some(tag)) = failure {
        fields.append_parts(ETAG, tag.parts());
    }
    if let Failure::Refused(_) | Failure::Busy(_) | Failure::Malformed(_) = failure
        && let Ok(path) = Value::new(path.as_bytes())
    {
        let [begin, between, end] = ["<", ">; rel=\"latest-version\"; anchor=\"", "\""].map(Value::of_text);
        fields.append_parts(LINK, [begin, path, between, path, end]);
    }
    if let Some(repeat) = repeat {
        repeat.link(&path, &mut fields);
    }
    let is_simple = about.policy.service.conflict_body == ConflictBody::Simple;
    fields.append(CONTENT_TYPE, Value::of_text(if is_simple { JSON } else { about.media_type() }));
    fields.append(CACHE_CONTROL, Value::of_text("no-store"));
    fields.append_parts(PROXY_STATUS, proxy_status(problem.proxy_error, problem.kind));
    let mut body = Object::begin();
    if is_simple {
        // All of it where the route wants no more.
        problem.tell(&mut body, "error");
    } else {
        describe(&mut body, about, failure, &problem, &path);
        if let Some(current) = conflict {
            body.texts("current_etags", current.iter().map(EntityTag::to_bytes));
            body.texts("if_match", about.if_match());
            body.text("latest", &path);
        }
        if let Some(repeat) = repeat {
            repeat.members().write(&mut body);
        }
    }
    let mut response = Response::new(Answer::own(body.end()));
    *response.status_mut() = problem.status;
    *response.headers_mut() = fields;
    response
}

/// The members of a problem detail, in the order in which a person would read them.
fn describe(body: &mut Object, about: &About<'_>, failure: &Failure, problem: &Problem, path: &str) {
    body.words("type", &["urn:ifmatch:", problem.kind]);
    body.words("title", &[problem.title]);
    body.number("status", problem.status.as_str());
    problem.tell(body, "error");
    match detail::of(failure, about.policy) {
        Some(detail) => body.text("detail", &detail),
        None => problem.tell(body, "detail"),
    }
    // What was too long is not sent back.
    if !matches!(failure, Failure::TargetLength(_)) {
        body.text("instance", path);
    }
}

impl Problem {
    /// Says what to do about it. A sentence that was put together may have something of the client's in it.
    fn tell(&self, body: &mut Object, name: &'static str) {
        match &self.error {
            Cow::Borrowed(error) => body.words(name, &[error]),
            Cow::Owned(error) => body.text(name, error),
        }
    }
}

/// An answer that was given before. `Proxy-Status` says that the backend has not seen this request.
pub(super) fn again(recorded: &Recorded, with_content: bool) -> Response<Answer> {
    let mut fields = recorded.fields();
    if !with_content {
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
            fields.remove(name);
        }
    }
    let details = if with_content { "replayed" } else { "replayed without its content" };
    fields.append_parts(PROXY_STATUS, word(details));
    let mut response = Response::new(Answer::own(recorded.content()));
    *response.status_mut() = recorded.status();
    *response.headers_mut() = fields;
    response
}

/// The backend's own answer, with a word of the gateway's to the client. There is no `error` in it: there was none.
pub(super) fn tell(mut response: Response<Answer>, details: &'static str) -> Response<Answer> {
    response.headers_mut().append_parts(PROXY_STATUS, word(details));
    response
}

/// A `Proxy-Status` without an error.
fn word(details: &'static str) -> [Value<'static>; 3] {
    ["ifmatch; details=\"", details, "\""].map(Value::of_text)
}

fn proxy_status(error: &'static str, details: &'static str) -> [Value<'static>; 5] {
    ["ifmatch; error=", error, "; details=\"", details, "\""].map(Value::of_text)
}

/// The backend's own 401 or 403 to a probe, for the write that it was made for. A probe's HEAD has no body to relay.
fn relay(received: Received) -> Response<Answer> {
    let (head, body) = received.into_parts();
    let mut fields = headers::for_client(head.headers, head.version);
    for name in [http::header::CONTENT_LENGTH, ETAG, http::header::LAST_MODIFIED] {
        fields.remove(name);
    }
    let mut response = Response::new(Answer::backend(body));
    *response.status_mut() = head.status;
    *response.headers_mut() = fields;
    response
}

/// The current representation as the answer to a conflict (RFC 8144 §2.1 has it for 412).
fn represent(about: &About<'_>, received: Received, refused: &Refused) -> Response<Answer> {
    let problem = refused.problem();
    let (head, body) = received.into_parts();
    let mut fields = headers::for_client(head.headers, head.version);
    fields.insert(CACHE_CONTROL, FieldValue::from_static("no-store"));
    fields.insert("preference-applied", FieldValue::from_static("return=representation"));
    fields.remove(PROXY_STATUS);
    fields.append_parts(PROXY_STATUS, proxy_status(problem.proxy_error, problem.kind));
    if let Ok(path) = FieldValue::try_from(&*about.path()) {
        fields.insert(http::header::CONTENT_LOCATION, path);
    }
    let mut response = Response::new(Answer::backend(body));
    *response.status_mut() = problem.status;
    *response.headers_mut() = fields;
    response
}
