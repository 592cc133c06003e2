//! Which resource a request names, and which route it takes.

use http::{
    HeaderMap, HeaderValue, Uri, Version,
    header::{CONTENT_LOCATION, HOST, LOCATION},
    request::Parts,
    uri::Authority,
};

use super::{Exchange, answer::Failure};
use crate::{
    config::Route,
    core::resource::{Key, Target, TargetError},
};

/// The host that the client asked: the target's own where it has one (RFC 9112 §3.2.2, RFC 9113 §8.3.1), else `Host`.
/// Empty where an HTTP/1.0 client names none.
pub(super) fn asked_host(head: &Parts) -> Result<HeaderValue, Failure> {
    let mut lines = head.headers.get_all(HOST).iter();
    let field = match (lines.next(), lines.next()) {
        (None, _) => None,
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => return Err(Failure::Host),
    };
    if let Some(authority) = head.uri.authority() {
        return checked(authority.as_str().as_bytes());
    }
    match field {
        Some(field) => checked(field.as_bytes()),
        None if head.version <= Version::HTTP_10 => Ok(HeaderValue::from_static("")),
        None => Err(Failure::Host),
    }
}

/// A host and perhaps a port; no user information.
fn checked(host: &[u8]) -> Result<HeaderValue, Failure> {
    let valid = Authority::try_from(host).is_ok_and(|a| !a.as_str().contains('@') && !a.host().is_empty());
    if valid { HeaderValue::from_bytes(host).map_err(|_| Failure::Host) } else { Err(Failure::Host) }
}

/// The canonical target. `*`, which only OPTIONS may ask (RFC 9110 §9.3.7), names no resource and is not passed on.
pub(super) fn target(head: &Parts) -> Result<Target, Failure> {
    let target = head.uri.path_and_query().ok_or(TargetError::NotAbsolute);
    target.and_then(Target::from_path_and_query).map_err(Failure::Target)
}

/// The first route that matches.
pub(super) fn find(routes: &[Route], asked: &HeaderValue, target: &Target) -> Option<usize> {
    let host = without_port(asked.to_str().unwrap_or_default());
    routes.iter().position(|route| {
        route.host.as_ref().is_none_or(|h| h.eq_ignore_ascii_case(host)) && route.path.matches(target.path())
    })
}

fn without_port(host: &str) -> &str {
    let end = match host.rfind(']') {
        Some(bracket) => bracket + 1,
        None => host.find(':').unwrap_or(host.len()),
    };
    let host = &host[..end];
    host.strip_suffix('.').unwrap_or(host)
}

/// The keys of the resources on the same origin that an answer names in `Location` and `Content-Location`, and of the one
/// that a WebDAV request writes to (`Destination`, RFC 4918 §10.3).
pub(super) fn related(exchange: &Exchange, fields: &HeaderMap) -> Vec<Key> {
    let named = fields.get_all(LOCATION).iter().chain(fields.get_all(CONTENT_LOCATION));
    named
        .chain(exchange.head.headers.get_all("destination"))
        .filter_map(|reference| {
            let target = same_origin(exchange, reference)?;
            let route = find(&exchange.gateway.config.routes, &exchange.asked, &target)?;
            Some(exchange.gateway.key(&exchange.head, &exchange.host, &target, route))
        })
        .collect()
}

/// The target that a reference names (RFC 3986 §5.2), if it lies on the origin that the client asked or that the backend
/// was told.
pub(super) fn same_origin(exchange: &Exchange, reference: &HeaderValue) -> Option<Target> {
    let reference = reference.to_str().ok()?;
    let reference = reference.split('#').next().unwrap_or_default();
    let (path, query) = match reference.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (reference, None),
    };
    let base = exchange.target.path();
    if reference.contains("://") || reference.starts_with("//") {
        let absolute = reference.split_once("//").map(|(_, rest)| format!("http://{rest}"))?;
        let uri: Uri = absolute.parse().ok()?;
        let authority = uri.authority()?.as_str();
        let is_ours = [&exchange.asked, &exchange.host]
            .iter()
            .any(|host| host.to_str().is_ok_and(|host| host.eq_ignore_ascii_case(authority)));
        return if is_ours { Target::parse(uri.path(), uri.query()).ok() } else { None };
    }
    match path {
        "" => Target::parse(base, query.or(exchange.target.query())).ok(),
        _ if path.starts_with('/') => Target::parse(path, query).ok(),
        _ => {
            let folder = &base[..=base.rfind('/')?];
            Target::parse(&format!("{folder}{path}"), query).ok()
        }
    }
}
