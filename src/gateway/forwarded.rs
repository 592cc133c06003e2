//! Who the client is behind proxies that are trusted, and what the backend is told of it.
//!
//! Anybody can write `X-Forwarded-For`. So what a request says of its own way is believed only with `forwarded = "append"`,
//! only where it comes from a trusted proxy, and only as far back as trusted proxies reach: the chain of addresses is walked
//! from the right, and the first that is not trusted is the client. `X-Forwarded-For` goes before `Forwarded` (RFC 7239),
//! since a proxy that knows one of them knows that one; where the two disagree the other begins anew, so that the backend is
//! never told of two clients.

use std::net::IpAddr;

use http::{HeaderName, header::FORWARDED};

use super::{Exchange, client::Client};
use crate::{
    config::{ForwardedRule, Forwarding},
    core::{fields::Fields, value::FieldValue},
};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HTTP: FieldValue = FieldValue::from_static("http");
const HTTPS: FieldValue = FieldValue::from_static("https");
/// Of a longer chain only its end is looked at and passed on.
const MAX_HOPS: usize = 32;
/// The same in bytes.
const MAX_CHAIN_BYTES: usize = 4096;

/// Where a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// The client's address; without trusted proxies that of whoever is at the other end of the connection.
    pub(super) address: IpAddr,
    /// Whether the client's own connection is secured, as far as is known.
    pub(super) https: bool,
}

/// Whether a field says by which way a request came.
pub(super) fn is_forwarding(name: &[u8]) -> bool {
    name == b"forwarded" || name.starts_with(b"x-forwarded-")
}

/// Where a request with these fields comes from.
pub(super) fn origin(forwarding: &Forwarding, client: &Client, headers: &Fields) -> Origin {
    if believes(forwarding, client) {
        Chains::of(forwarding, client, headers).origin
    } else {
        Origin { address: client.ip, https: client.https }
    }
}

/// Says for whom the request is forwarded.
pub(super) fn add(out: &mut Fields, exchange: &Exchange) {
    let (Exchange { gateway, head, asked, .. }, client) = (exchange, exchange.client());
    let forwarding = &gateway.config.forwarding;
    let believes = believes(forwarding, client);
    if believes || forwarding.rule == ForwardedRule::Off {
        out.append_from(&head.headers, |name, _| is_forwarding(name.as_bytes()));
    }
    if forwarding.rule == ForwardedRule::Off {
        return;
    }
    let proto = if exchange.origin.https { HTTPS } else { HTTP };
    let element = || own_element(client, asked);
    if believes {
        let said = Chains::of(forwarding, client, &head.headers);
        put(out, X_FORWARDED_FOR, joined(&said.addresses, client.address.as_bytes()));
        out.add_missing(X_FORWARDED_PROTO, || proto);
        if !asked.is_empty() {
            out.add_missing(X_FORWARDED_HOST, || asked);
        }
        put(out, FORWARDED, joined(&said.elements, element().as_bytes()));
    } else {
        // Nothing that the client says of its way has come this far.
        client.tell(out, asked, || {
            let mut own = Fields::new();
            own.append(X_FORWARDED_FOR, &client.address);
            own.append(X_FORWARDED_PROTO, &proto);
            if !asked.is_empty() {
                own.append(X_FORWARDED_HOST, asked);
            }
            own.append(FORWARDED, element());
            own
        });
    }
}

fn believes(forwarding: &Forwarding, client: &Client) -> bool {
    forwarding.rule == ForwardedRule::Append && forwarding.trusts(client.ip)
}

/// This hop, as `Forwarded` has it.
fn own_element(client: &Client, asked: &FieldValue) -> FieldValue {
    let mut element = Vec::with_capacity(client.forwarded.len() + asked.len() + ";host=\"\"".len());
    element.extend_from_slice(client.forwarded.as_bytes());
    if !asked.is_empty() {
        element.extend_from_slice(b";host=\"");
        element.extend_from_slice(asked.as_bytes());
        element.push(b'"');
    }
    FieldValue::try_from(element).expect("it is made of what stands in fields")
}

fn put(out: &mut Fields, name: HeaderName, value: Vec<u8>) {
    match FieldValue::try_from(value) {
        Ok(value) => out.insert(name, value),
        Err(_) => out.remove(name),
    }
}

fn joined(chain: &[Vec<u8>], last: &[u8]) -> Vec<u8> {
    let mut all = chain.join(&b", "[..]);
    if !all.is_empty() {
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(last);
    all
}

/// What a trusted proxy says of the hops before it.
struct Chains {
    origin: Origin,
    /// The members of `X-Forwarded-For`.
    addresses: Vec<Vec<u8>>,
    /// Those of `Forwarded`.
    elements: Vec<Vec<u8>>,
}

/// One hop.
#[derive(Clone, Copy)]
struct Hop {
    address: Option<IpAddr>,
    https: Option<bool>,
}

impl Chains {
    fn of(forwarding: &Forwarding, client: &Client, headers: &Fields) -> Self {
        let named = split(headers, &X_FORWARDED_FOR, b"").unwrap_or_default();
        let elements = split(headers, &FORWARDED, b"\"").unwrap_or_default();
        let peer = Hop { address: Some(client.ip), https: None };
        let by_name = walk(forwarding, peer, named.iter().map(|name| Hop { address: address(name), https: None }));
        let by_element = walk(forwarding, peer, elements.iter().map(|element| hop(element)));
        let from = if named.is_empty() { by_element } else { by_name };
        let address = from.address.unwrap_or(client.ip);
        let agrees = by_element.address == from.address;
        let https = said_proto(headers).or(by_element.https.filter(|_| agrees));
        let anew = |text: String| if address == client.ip { Vec::new() } else { vec![text.into_bytes()] };
        Self {
            origin: Origin { address, https: https.unwrap_or(client.https) },
            addresses: if named.is_empty() { anew(address.to_string()) } else { named },
            elements: if agrees && !elements.is_empty() { elements } else { anew(node(address)) },
        }
    }
}

/// The first hop from the right that is not trusted, or the last one that is named.
fn walk(forwarding: &Forwarding, peer: Hop, hops: impl DoubleEndedIterator<Item = Hop>) -> Hop {
    let mut client = peer;
    for hop in hops.rev() {
        if hop.address.is_none() || !client.address.is_some_and(|address| forwarding.trusts(address)) {
            break;
        }
        client = hop;
    }
    client
}

/// The protocol that a trusted proxy names, where it names one: a list may have begun with the client.
fn said_proto(headers: &Fields) -> Option<bool> {
    let mut lines = headers.get_all(X_FORWARDED_PROTO);
    let only = lines.next().filter(|_| lines.next().is_none())?;
    is_https(only.as_bytes())
}

fn is_https(proto: &[u8]) -> Option<bool> {
    match proto.trim_ascii().to_ascii_lowercase().as_slice() {
        b"https" | b"wss" => Some(true),
        b"http" | b"ws" => Some(false),
        _ => None,
    }
}

/// The end of a list, over all its lines. A comma between two `quote`s parts nothing; `None` where one is not closed.
fn split(headers: &Fields, name: &HeaderName, quote: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut members = Vec::new();
    for line in headers.get_all(name) {
        let parts = parts(line.as_bytes(), b',', quote)?;
        members.extend(parts.into_iter().map(<[u8]>::trim_ascii).filter(|part| !part.is_empty()).map(<[u8]>::to_vec));
    }
    let mut bytes = 0;
    let fits = |member: &&Vec<u8>| {
        bytes += member.len() + 2;
        bytes <= MAX_CHAIN_BYTES
    };
    let kept = members.iter().rev().take(MAX_HOPS).take_while(fits).count();
    Some(members.split_off(members.len() - kept))
}

fn parts<'a>(bytes: &'a [u8], separator: u8, quote: &[u8]) -> Option<Vec<&'a [u8]>> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = bytes.split(|byte| {
        if escaped {
            escaped = false;
        } else if quoted && *byte == b'\\' {
            escaped = true;
        } else if quote.contains(byte) {
            quoted = !quoted;
        }
        *byte == separator && !quoted
    });
    let parts = parts.collect();
    (!quoted).then_some(parts)
}

/// An element of `Forwarded`.
fn hop(element: &[u8]) -> Hop {
    let mut hop = Hop { address: None, https: None };
    for pair in parts(element, b';', b"\"").unwrap_or_default() {
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"for") {
            hop.address = address(value);
        } else if name.eq_ignore_ascii_case(b"proto") {
            hop.https = is_https(unquoted(value));
        }
    }
    hop
}

fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// An address, perhaps with a port, perhaps in quotes or brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(unquoted(text)).ok()?;
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next()?,
        None if text.matches(':').count() == 1 => text.split(':').next()?,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// An address as an element of `Forwarded`.
fn node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    }
}
