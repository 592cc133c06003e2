//! What is done for pages in browsers, and for clients behind intermediaries that rewrite tags: the last step over every
//! answer, and a little on the way there.
//!
//! A browser shows a page of another origin only what the backend lets it see (CORS), and of that neither `ETag` nor any
//! answer that the backend did not give. Where the backend lets an origin in, [`dress`] adds the names of the fields that tags
//! travel in, and gives refusals the backend's own word. That word is its last to this origin about this method of this
//! resource: [`learn`] takes it from answers that pass, preflights included. Where there is none, the backend is asked as the
//! browser would have asked, without credentials. Refusals do not wait for each other's question: there are no more of these
//! at once than refusals under way, and none after the first answer. What the backend does not say is not said here. A refusal
//! that is the backend's own answer to a read goes out with what that says: such a read carries the page's `Origin`.
//!
//! Routes that want none of it pay for no more than a look at the route, and requests without an `Origin` for a look at whether
//! everybody is let in.

use http::{HeaderName, Method, StatusCode, header};
use tokio::time::timeout;

use super::{Exchange, answer::Failure, body::Answer, forward::Received, forwarded::X_FORWARDED_HOST, headers, probe};
use crate::{
    core::{
        browsers::{self, Allowed, Browsers, Cors},
        fields::Fields,
        fingerprint::Fingerprint,
        message::Response,
        policy::Mode,
        precondition::{Demands, Malformed},
        value::{FieldValue, Value},
    },
    memory::Word,
};

/// The route's rules, where it has any.
pub(super) fn rules(exchange: &Exchange) -> Option<&Browsers> {
    let policy = exchange.policy();
    Some(&policy.browsers).filter(|browsers| !browsers.are_off() && policy.mode != Mode::Off)
}

/// The field that carries copies of tags.
pub(super) fn tag_header(exchange: &Exchange) -> Option<HeaderName> {
    rules(exchange)?.tag_header.clone()
}

/// What a write demands, wherever it says so.
pub(super) fn demands(exchange: &Exchange) -> Result<Demands, Malformed> {
    let fields = &exchange.head.headers;
    let demands = Demands::parse(fields)?;
    match rules(exchange).and_then(|rules| rules.tag_header.as_ref()) {
        Some(field) => demands.and_in(fields, field),
        None => Ok(demands),
    }
}

/// The rules and the page's origin, where the page is of another origin and that matters.
pub(super) fn page(exchange: &Exchange) -> Option<(&Browsers, Value<'_>)> {
    let rules = rules(exchange).filter(|rules| rules.cors == Cors::Follow)?;
    let origin = browsers::origin(&exchange.head.headers).filter(|origin| !is_same_origin(exchange, *origin))?;
    Some((rules, origin))
}

/// Whether the page is of the origin that it asks, as far as can be seen: browsers send `Origin` there, too. Whoever ends TLS
/// before the gateway makes the scheme another one.
fn is_same_origin(exchange: &Exchange, origin: Value<'_>) -> bool {
    let host = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host.as_bytes());
    host.is_some_and(|host| host.eq_ignore_ascii_case(exchange.asked.as_bytes()))
}

/// The method that the page asks for by a preflight.
fn preflight(exchange: &Exchange) -> Option<Value<'_>> {
    browsers::preflight(&exchange.head.method, &exchange.head.headers)
}

/// Takes out of a preflight on its way to the backend what is answered here.
pub(super) fn spare(exchange: &Exchange, fields: &mut Fields) {
    if let Some((rules, _)) = page(exchange)
        && preflight(exchange).is_some()
    {
        rules.spare(fields);
    }
}

/// The backend has answered so.
pub(super) fn learn(exchange: &Exchange, status: StatusCode, fields: &Fields) {
    let Some((_, origin)) = page(exchange) else { return };
    let asked = preflight(exchange);
    let method = asked.map_or(exchange.head.method.as_str().as_bytes(), Value::as_bytes);
    let word = word(origin, asked.is_some(), status, fields);
    // A 304 renews an answer that the page has, and need not say again who may read that.
    if word.is_some() || status != StatusCode::NOT_MODIFIED {
        note(exchange, name(exchange, origin, method), word);
    }
}

fn note(exchange: &Exchange, name: Fingerprint, word: Option<Word>) {
    exchange.gateway.shared.origins.note(name, word);
}

/// What an answer says to an origin. One that went wrong may have come from something before the service that knows nothing of
/// origins: it leaves the question open.
fn word(origin: Value<'_>, is_preflight: bool, status: StatusCode, fields: &Fields) -> Option<Word> {
    match Allowed::by(fields, origin) {
        // A preflight counts only if it is a success (Fetch, CORS-preflight fetch, step 7).
        Some(allowed) if !is_preflight || status.is_success() => Some(Word::Allowed(allowed)),
        Some(_) | None => {
            let leads_on = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
            (status.is_success() || leads_on).then_some(Word::Refused)
        }
    }
}

/// Under which name the word to an origin is kept. In it is every host that the request names, whichever the backend goes by.
fn name(exchange: &Exchange, origin: Value<'_>, method: &[u8]) -> Fingerprint {
    let gateway = &exchange.gateway;
    let scope = gateway.names.scope(gateway.config.routes[exchange.route].upstream);
    let target = exchange.target.as_path_and_query().as_str();
    let (host, asked) = (exchange.host.as_bytes(), exchange.asked.as_bytes());
    let parts = [scope.as_bytes(), host, asked, target.as_bytes(), method, origin.as_bytes()];
    let forwarded = exchange.head.headers.get_all(X_FORWARDED_HOST).map(Value::as_bytes);
    gateway.shared.origins.prints().of(parts.into_iter().chain(forwarded))
}

/// The last step over an answer.
pub(super) fn dress(exchange: &Exchange, mut response: Response<Answer>) -> Response<Answer> {
    let Some(rules) = rules(exchange) else { return response };
    rules.copy_tag(response.headers_mut());
    if rules.cors == Cors::Off {
        return response;
    }
    let page = page(exchange).map(|(_, origin)| origin);
    let is_success = response.status().is_success();
    let fields = response.headers_mut();
    // What everybody may read a cache may keep for pages, whoever asked for it: nothing in it needs to say `Vary: Origin`.
    let Some(allowed) = page.map_or_else(|| Allowed::anybody(fields), |origin| Allowed::by(fields, origin)) else {
        return response;
    };
    if !browsers::asks_for_leave(&exchange.head.method, &exchange.head.headers) {
        rules.expose(allowed, fields);
    } else if page.is_some() && is_success {
        rules.allow(allowed, fields);
    }
    response
}

/// The same for a refusal.
pub(super) async fn dress_refusal(
    exchange: &Exchange,
    mut response: Response<Answer>,
    voice: Voice,
) -> Response<Answer> {
    if let Some((_, origin)) = page(exchange)
        && preflight(exchange).is_none()
        && let Some(Word::Allowed(allowed)) = last_word(exchange, origin, voice).await
    {
        allowed.tell(response.headers_mut(), origin);
    }
    dress(exchange, response)
}

/// An answer that was given before, be it to another page: what was said to that one is not said to this one, which hears
/// the backend's last word to it.
pub(super) fn given_again(exchange: &Exchange, mut response: Response<Answer>) -> Response<Answer> {
    let sent = &exchange.head.headers;
    let is_said_to = |origin| Allowed::by(response.headers(), origin).is_some();
    if !sent.contains_key(header::ORIGIN) || browsers::origin(sent).is_some_and(is_said_to) {
        return response;
    }
    let fields = response.headers_mut();
    browsers::silence(fields);
    if let Some((_, origin)) = page(exchange)
        && let Some(Word::Allowed(allowed)) = known_word(exchange, origin)
    {
        allowed.tell(fields, origin);
    }
    response
}

/// Who says what a refusal says to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Voice {
    /// The backend in the refusal itself, which is an answer of its own to a read.
    Itself,
    /// The backend before. It has given no answer, and is not asked for another.
    Before,
    /// The backend before, or now.
    Now,
}

impl Voice {
    pub(super) fn of(failure: &Failure) -> Self {
        if matches!(failure, Failure::Relayed(_) | Failure::Represented(..)) {
            Self::Itself
        } else if failure.is_late() || matches!(failure, Failure::Upstream(..) | Failure::Lost) {
            Self::Before
        } else {
            Self::Now
        }
    }
}

/// The backend's last word about requests like this one.
fn known_word(exchange: &Exchange, origin: Value<'_>) -> Option<Word> {
    let name = name(exchange, origin, exchange.head.method.as_str().as_bytes());
    exchange.gateway.shared.origins.look(name)
}

async fn last_word(exchange: &Exchange, origin: Value<'_>, voice: Voice) -> Option<Word> {
    if voice == Voice::Itself {
        return None;
    }
    let known = known_word(exchange, origin);
    if known.is_some() || voice == Voice::Before {
        return known;
    }
    // In a box: every refusal would have room for it.
    let received = Box::pin(ask(exchange, origin)).await?;
    // Whatever was said meanwhile is newer.
    if let Some(newer) = known_word(exchange, origin) {
        return Some(newer);
    }
    let said = word(origin, true, received.status(), received.headers());
    let word = said.or((!is_for_now(received.status())).then_some(Word::Refused));
    note(exchange, name(exchange, origin, exchange.head.method.as_str().as_bytes()), word);
    word
}

/// Whether the same question may have another answer soon.
fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT
                | StatusCode::MISDIRECTED_REQUEST
                | StatusCode::TOO_EARLY
                | StatusCode::TOO_MANY_REQUESTS
        )
}

/// A preflight of the gateway's own.
async fn ask(exchange: &Exchange, origin: Value<'_>) -> Option<Received> {
    let mut only = Fields::with_capacity(4, 256);
    for name in [header::USER_AGENT, header::VIA] {
        for value in exchange.head.headers.get_all(&name) {
            only.append(&name, value);
        }
    }
    only.insert(header::ORIGIN, origin);
    let method = FieldValue::try_from(exchange.head.method.as_str()).expect("a method may stand in a field");
    only.insert(header::ACCESS_CONTROL_REQUEST_METHOD, method);
    let fields = headers::for_backend(exchange, &only, false);
    let asked = probe::send_to(exchange, Method::OPTIONS, &exchange.target, |all| *all = fields);
    match exchange.gateway.config.limits.request_timeout {
        None => asked.await.ok(),
        Some(limit) => timeout(limit, asked).await.ok()?.ok(),
    }
}
