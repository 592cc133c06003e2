//! Which resource a request names, and which route it takes.

use http::{
    HeaderMap, HeaderValue, Version,
    header::{CONTENT_LENGTH, CONTENT_LOCATION, HOST, LOCATION, TRANSFER_ENCODING},
    request::Parts,
    uri::Authority,
};

use super::{Exchange, answer::Failure};
use crate::{
    config::Route,
    core::resource::{Key, Target, TargetError, same_host},
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

/// A body's framing must be one that hyper undoes and that says where the body ends. With another transfer coding the
/// backend would get the coded bytes as if they were the content, and an HTTP/1.0 body without a length is never read: the
/// backend would be told to store nothing.
pub(super) fn check_framing(head: &Parts) -> Result<(), Failure> {
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let is_known = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(only), None) => only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let stores = ["PUT", "POST", "PATCH"].iter().any(|method| head.method.as_str().eq_ignore_ascii_case(method));
    if !is_known {
        Err(Failure::TransferCoding)
    } else if stores && head.version <= Version::HTTP_10 && !head.headers.contains_key(CONTENT_LENGTH) {
        Err(Failure::Length)
    } else {
        Ok(())
    }
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

/// The keys of the resources on the same origin that an answer names in `Location` and `Content-Location`.
pub(super) fn named(exchange: &Exchange, fields: &HeaderMap) -> Vec<Key> {
    keys(exchange, fields.get_all(LOCATION).iter().chain(fields.get_all(CONTENT_LOCATION)))
}

/// The keys of the resources that a WebDAV request writes to beside its target (`Destination`, RFC 4918 §10.3).
pub(super) fn destinations(exchange: &Exchange) -> Vec<Key> {
    keys(exchange, exchange.head.headers.get_all("destination").iter())
}

/// Without the target's own.
fn keys<'a>(exchange: &Exchange, references: impl Iterator<Item = &'a HeaderValue>) -> Vec<Key> {
    let key = |reference| {
        let target = same_origin(exchange, reference)?;
        let route = find(&exchange.gateway.config.routes, &exchange.asked, &target)?;
        Some(exchange.gateway.key(&exchange.head.headers, &exchange.host, &target, route))
    };
    references.filter_map(key).filter(|key| key.cell != exchange.key.cell).collect()
}

/// The target that a reference names (RFC 3986 §5.2), if it lies on the origin that the client asked or that the backend
/// was told. The scheme does not count: whoever ends TLS before the gateway makes it another one.
pub(super) fn same_origin(exchange: &Exchange, reference: &HeaderValue) -> Option<Target> {
    let reference = std::str::from_utf8(reference.as_bytes()).ok()?.split('#').next()?;
    let (scheme, after) = reference.split_once("//").unwrap_or(("/", reference));
    let is_absolute = scheme.is_empty() || scheme.ends_with(':') && !scheme.contains(['/', '?']);
    let (path, query) = if is_absolute {
        let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
        let ours = [&exchange.asked, &exchange.host];
        if !ours.iter().any(|host| host.to_str().is_ok_and(|host| same_host(host, authority))) {
            return None;
        }
        let (path, query) = split_query(rest);
        (if path.is_empty() { "/" } else { path }, query)
    } else {
        split_query(reference)
    };
    let base = exchange.target.path();
    match path {
        "" => Target::parse(base, query.or(exchange.target.query())).ok(),
        _ if path.starts_with('/') => Target::parse(path, query).ok(),
        _ => {
            let folder = &base[..=base.rfind('/')?];
            Target::parse(&format!("{folder}{path}"), query).ok()
        }
    }
}

fn split_query(reference: &str) -> (&str, Option<&str>) {
    reference.split_once('?').map_or((reference, None), |(path, query)| (path, Some(query)))
}
