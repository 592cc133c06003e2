//! A request on its way to the backend and its answer on the way back; and reads, which are nothing more than that.

use std::sync::Arc;

use http::{
    Method, StatusCode, Version,
    header::{AGE, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPECT, TE},
};
use http_body::Body;
use tokio::sync::oneshot;

use super::{
    Exchange,
    answer::{Failure, Sent},
    body::{Ahead, Answer, Inbound, Outgoing},
    browsers, dav, habits, headers,
    informational::{self, UntilAsked},
    replay,
    trailers::{self, Trailers},
    tunnel, versions, write,
};
use crate::{
    config::Protocol,
    core::{
        etag::EntityTag,
        fields::Fields,
        message::{Request, Response, request::Parts},
        policy::Mode,
        record::{Seen, Stamp},
        value::FieldValue,
    },
    upstream::{Avoid, FromUpstream, Progress},
};

/// The backend's answer.
pub(super) type Received = Response<Box<FromUpstream>>;

/// Passes a read on and records the tag that its answer shows.
pub(super) async fn read(exchange: &Exchange, body: &mut Inbound) -> Result<Response<Answer>, Failure> {
    if let Some(versions) = versions::made(exchange) {
        // In a box, so that other routes have no room for it.
        return Box::pin(versions::read(exchange, versions, body)).await;
    }
    let tracker = &exchange.gateway.tracker;
    // Before the request is forwarded: whatever happens to the resource from here on makes the answer old news.
    let began = if exchange.policy().mode == Mode::Off { None } else { Some(tracker.stamp().await) };
    let (received, wanted_body) = send_read(exchange, body).await?;
    write::rollout::read(exchange, &received).await;
    if let Some(began) = began {
        observe(exchange, &exchange.head.method, &exchange.head.headers, began, &received).await;
    }
    deliver(exchange, received, wanted_body)
}

/// The answer to a read as the client gets it. `wanted_body`: the backend asked for the read's own body.
pub(super) fn deliver(exchange: &Exchange, received: Received, wanted_body: bool) -> Result<Response<Answer>, Failure> {
    match &exchange.wish {
        Some(wish) => tunnel::pass_on(exchange, wish, received),
        None if wanted_body => Ok(pass_on(exchange, received)),
        None => Ok(pass_on_without_body(exchange, received)),
    }
}

/// Sends a read. One that goes by a connection that the backend was just closing goes once more, by another, and where there
/// are several servers to another of them: a read may reach the backend twice (rule 5 is about writes). With it comes
/// whether the backend asked for the body.
pub(super) async fn send_read(exchange: &Exchange, body: &mut Inbound) -> Result<(Received, bool), Failure> {
    let method = &exchange.head.method;
    let rest = body.take();
    let mut attempts = if rest.is_some() { 1 } else { 3 };
    let (mut outgoing, progress, _ended) = outgoing(exchange, Ahead::default(), rest);
    let held = outgoing.held();
    let mut avoid = None;
    loop {
        attempts -= 1;
        let mut request = request(exchange, method.clone(), outgoing);
        if let Some(server) = avoid {
            request.extensions_mut().insert(Avoid(server));
        }
        match exchange.send(request, &progress).await {
            Ok(received) => return Ok((received, !held.is_some_and(|held| held.give_up()))),
            Err(error) if attempts > 0 && error.may_repeat_read(exchange.upstream().config().servers.len()) => {
                outgoing = Outgoing::Empty;
                avoid = error.server;
            }
            Err(error) => return Err(Failure::Upstream(error, Sent::Read)),
        }
    }
}

/// The request as the backend gets it.
pub(super) fn request(exchange: &Exchange, method: Method, body: Outgoing) -> Box<Request<Outgoing>> {
    let policy = exchange.policy();
    let keep = policy.forward_preconditions || exchange.is_read() || policy.mode.only_observes();
    let mut fields = headers::for_backend(exchange, &exchange.head.headers, keep);
    browsers::spare(exchange, &mut fields);
    versions::adapt(exchange, &method, &mut fields);
    if !keep && policy.mode == Mode::Enforce || versions::made(exchange).is_some() {
        dav::leave_tags_behind(exchange, &mut fields);
    }
    headers::describe_body(&mut fields, &method, &body);
    body.trailers().announce(&mut fields);
    if trailers::are_accepted(&exchange.head.headers) {
        fields.insert(TE, FieldValue::from_static("trailers"));
        if speaks_http1(exchange) {
            fields.append(CONNECTION, FieldValue::from_static("te"));
        }
    }
    if let Some(wish) = &exchange.wish {
        wish.ask(&mut fields);
    }
    if body.held().is_some() {
        fields.insert(EXPECT, FieldValue::from_static("100-continue"));
    }
    assemble(exchange, method, fields, body)
}

/// Whether the backend is sure to be spoken to in HTTP/1.1. What hyper does not tell of other connections is not asked for.
fn speaks_http1(exchange: &Exchange) -> bool {
    let upstream = exchange.upstream().config();
    match upstream.protocol {
        Protocol::Http1 => true,
        Protocol::Http2 => false,
        Protocol::Auto => upstream.servers.iter().all(|server| !server.https),
    }
}

/// A request for the exchange's target with these fields.
pub(super) fn assemble(exchange: &Exchange, method: Method, fields: Fields, body: Outgoing) -> Box<Request<Outgoing>> {
    let uri = exchange.target.as_path_and_query().clone().into();
    let head = Parts { method, uri, version: Version::HTTP_11, headers: fields, ..Parts::default() };
    Box::new(Request::from_parts(head, body))
}

/// A body as the backend gets it, from what was read ahead of it and what is left; how far it has got; and word of its
/// end, where there is more to come.
pub(super) fn outgoing(
    exchange: &Exchange,
    ahead: Ahead,
    rest: Option<Box<Inbound>>,
) -> (Outgoing, Arc<Progress>, Option<oneshot::Receiver<bool>>) {
    let can_ask = rest.as_ref().is_some_and(|rest| rest.awaits_continue()) && speaks_http1(exchange);
    let until_asked = can_ask.then(UntilAsked::new);
    let held = until_asked.as_ref().map(|until| Arc::clone(until.held()));
    let progress =
        Arc::new(Progress::telling(informational::listener(exchange.preceding.as_ref(), &exchange.seen, held)));
    match rest {
        None => (Outgoing::whole(ahead), progress, None),
        Some(rest) => {
            let (outgoing, ended) = Outgoing::stream(ahead.bytes, rest, exchange.policy(), &progress, until_asked);
            (outgoing, progress, Some(ended))
        }
    }
}

/// The backend's answer as the client gets it.
pub(super) fn pass_on(exchange: &Exchange, received: Received) -> Response<Answer> {
    let (head, body) = received.into_parts();
    let is_http2 = exchange.head.version == Version::HTTP_2;
    let mut trailers = Trailers::default();
    if body.size_hint().exact().is_none() && (is_http2 || trailers::are_accepted(&exchange.head.headers)) {
        trailers = Trailers::of(&head.headers, head.version, &[]).without(browsers::tag_header(exchange));
    }
    browsers::learn(exchange, head.status, &head.headers);
    let mut fields = headers::for_client(head.headers, head.version);
    trailers.announce(&mut fields);
    let says_length = head.status == StatusCode::NOT_MODIFIED && !is_http2;
    let length = fields.get(CONTENT_LENGTH).filter(|_| says_length);
    let body = match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(length) => Answer::elsewhere(length),
        None => Answer::backend(body).let_through(trailers),
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = fields;
    tracing::debug!(
        trace = %exchange.seen.trace_id(),
        client = %exchange.origin.address,
        method = %exchange.head.method,
        path = exchange.target.path(),
        status = head.status.as_u16(),
        "answered"
    );
    response
}

/// The same for an answer that came before the body was asked for. Neither connection can carry another request: both
/// ends have been told that there is a body.
pub(super) fn pass_on_without_body(exchange: &Exchange, received: Received) -> Response<Answer> {
    let connection = received.body().connection().clone();
    let mut response = pass_on(exchange, received).map(|body| body.cutting(connection));
    if exchange.head.version != Version::HTTP_2 {
        response.headers_mut().insert(CONNECTION, FieldValue::from_static("close"));
    }
    response
}

/// Records what the answer to a read with these fields shows of the resource (the design's section 4).
pub(super) async fn observe(exchange: &Exchange, method: &Method, asked: &Fields, began: Stamp, received: &Received) {
    let seen = match versions::made(exchange) {
        None => seen(exchange, method, asked, received),
        Some(made) => seen(exchange, method, &versions::asked(made, asked), received)
            .map(|seen| versions::seen(method, received.status(), seen)),
    };
    if let Some(seen) = seen
        && exchange.gateway.may_record(exchange.route, began)
    {
        replay::seen(exchange, &seen);
        if let Seen::Tag(tag, _) = &seen {
            habits::shown(exchange, tag);
        }
        if exchange.gateway.tracker.observe(exchange.key, began, seen, exchange.caller).await {
            habits::flipped(exchange);
        }
    }
}

fn seen(exchange: &Exchange, method: &Method, asked: &Fields, received: &Received) -> Option<Seen> {
    let is_get = method == Method::GET;
    if !is_get && method != Method::HEAD {
        return None;
    }
    let fields = received.headers();
    // A cache behind the gateway answered, with what may be old.
    if fields.contains_key(AGE) {
        return None;
    }
    let with_variant = match received.status() {
        StatusCode::OK => true,
        StatusCode::NON_AUTHORITATIVE_INFORMATION if is_get => true,
        // The type of a part, or of several, is not the representation's.
        StatusCode::PARTIAL_CONTENT if is_get => is_one_part(fields),
        StatusCode::NOT_MODIFIED => false,
        StatusCode::NOT_FOUND | StatusCode::GONE => return Some(Seen::Missing),
        _ => return None,
    };
    Some(match tag(fields) {
        Tagged::With(tag) => {
            let variant = with_variant.then(|| exchange.gateway.namer.variant(asked, fields)).flatten();
            Seen::Tag(tag, variant)
        }
        Tagged::Without => Seen::Untagged,
        Tagged::Unreadable => Seen::Unreadable,
    })
}

fn is_one_part(fields: &Fields) -> bool {
    fields.get(CONTENT_TYPE).is_some_and(|t| !t.as_bytes().to_ascii_lowercase().starts_with(b"multipart/byteranges"))
}

/// Whether an answer shows a tag.
pub(super) enum Tagged {
    /// This one.
    With(EntityTag),
    /// None.
    Without,
    /// Several, or something that is no tag.
    Unreadable,
}

/// The tag that an answer shows.
pub(super) fn tag(fields: &Fields) -> Tagged {
    let mut lines = fields.get_all(ETAG);
    match (lines.next(), lines.next()) {
        (None, _) => Tagged::Without,
        (Some(only), None) => EntityTag::parse(only.as_bytes().trim_ascii()).map_or(Tagged::Unreadable, Tagged::With),
        (Some(_), Some(_)) => Tagged::Unreadable,
    }
}
