//! The forms of values: what is written -> what it means, or what would be right.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    time::Duration,
};

use http::{
    HeaderName, Method, StatusCode, Uri,
    uri::{Authority, PathAndQuery},
};
use ipnet::IpNet;
use toml::de::DeValue;
use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::{config::Origin, core::policy::QueryRule};

pub(super) const KIB: u64 = 1024;
pub(super) const MIB: u64 = 1024 * KIB;
pub(super) const GIB: u64 = 1024 * MIB;
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The units of a duration, in milliseconds.
pub(super) const DURATION_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
/// The units of a size, in bytes.
pub(super) const SIZE_UNITS: [(&str, u64); 4] = [("B", 1), ("KiB", KIB), ("MiB", MIB), ("GiB", GIB)];

/// The times that may be nothing at all.
pub(super) const PAUSE: RangeInclusive<Duration> = Duration::ZERO..=DAY;
/// The times within which something has to happen.
pub(super) const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=DAY;
/// Bounded so that no arithmetic on a clock can overflow.
pub(super) const AGE: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3650 * 24 * 60 * 60);

pub(super) fn text<'v>(value: &'v DeValue) -> Result<&'v str, String> {
    value.as_str().ok_or_else(|| expected("a string", value))
}

pub(super) fn flag(value: &DeValue) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| expected("true or false", value))
}

pub(super) fn integer(value: &DeValue) -> Result<u64, String> {
    let integer = value.as_integer().ok_or_else(|| expected("an integer", value))?;
    let text = integer.as_str();
    // The parser leaves this to whoever converts the digits.
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(integer.radix())) {
        return Err(format!("{text:?} is not an integer"));
    }
    u64::from_str_radix(text, integer.radix()).map_err(|_| format!("{text} is out of range"))
}

pub(super) fn count(range: RangeInclusive<usize>) -> impl Fn(&DeValue) -> Result<usize, String> {
    move |value| {
        let count = usize::try_from(integer(value)?).ok().filter(|count| range.contains(count));
        count.ok_or_else(|| format!("must be from {} to {}", range.start(), range.end()))
    }
}

pub(super) fn choice<T: Copy>(choices: &[(&str, T)]) -> impl Fn(&DeValue) -> Result<T, String> {
    move |value| {
        let text = text(value)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        let known = || quoted(choices.iter().map(|(name, _)| *name), " or ");
        found.map(|(_, choice)| *choice).ok_or_else(|| format!("{text:?} is not known; write {}", known()))
    }
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue) -> Result<Duration, String> {
    move |value| {
        if value.as_integer().is_some() {
            let number = integer(value)?;
            return Err(format!("{number} has no unit; write it like \"{number}s\""));
        }
        let text = text(value)?;
        let duration = quantity(text, &DURATION_UNITS).map(Duration::from_millis);
        let duration = duration.ok_or_else(|| format!("{text:?} is not a duration; write it like \"10s\""))?;
        if range.contains(&duration) {
            return Ok(duration);
        }
        let (least, most) = (duration_text(*range.start()), duration_text(*range.end()));
        Err(format!("{text:?} is out of range; at least {least} and at most {most}"))
    }
}

/// A number of bytes. The range keeps it within `T`.
pub(super) fn size<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&DeValue) -> Result<T, String> {
    move |value| {
        let bytes = match value.as_str() {
            Some(text) => quantity(text, &SIZE_UNITS)
                .ok_or_else(|| format!("{text:?} is not a size; write it like \"64KiB\", or a number of bytes"))?,
            None => integer(value).map_err(|_| expected("a size such as \"64KiB\" or a number of bytes", value))?,
        };
        let size = Some(bytes).filter(|bytes| range.contains(bytes)).and_then(|bytes| T::try_from(bytes).ok());
        size.ok_or_else(|| format!("must be from {} to {}", size_text(*range.start()), size_text(*range.end())))
    }
}

pub(super) fn address(value: &DeValue) -> Result<SocketAddr, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("{text:?} is not an address and port; write it like \"0.0.0.0:8080\""))
}

/// A network such as `10.0.0.0/8`, or a single address.
pub(super) fn network(value: &DeValue) -> Result<IpNet, String> {
    let text = text(value)?;
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("{text:?} is neither an address nor a network; write it like \"10.0.0.0/8\""))
}

pub(super) fn health_path(value: &DeValue) -> Result<PathAndQuery, String> {
    let text = text(value)?;
    let path = text.parse::<PathAndQuery>().ok().filter(|_| text.starts_with('/') && !text.contains('#'));
    path.ok_or_else(|| format!("{text:?} is not a path; write it like \"/healthz\""))
}

/// `http://host[:port]` or `https://host[:port]` and nothing else.
pub(in crate::config) fn server(text: &str) -> Result<Origin, String> {
    if text.contains('@') {
        // Not repeated here: it may hold a password, and errors are logged.
        return Err("a server's address can't have user information (what stands before the @)".to_owned());
    }
    let form = |why: &str| format!("{text:?} {why}; write it like \"http://10.0.0.1:3000\"");
    // `Uri` drops a fragment without a word.
    let uri = text.parse::<Uri>().ok().filter(|_| !text.contains('#'));
    let uri = uri.ok_or_else(|| form("is not a server's address"))?;
    let https = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        Some(_) | None => return Err(form("does not begin with http:// or https://")),
    };
    if uri.path() != "/" || uri.query().is_some() {
        return Err(form("has a path or a query, which a server can't have"));
    }
    let authority = uri.authority().ok_or_else(|| form("has no host"))?;
    let authority = with_port(authority, if https { 443 } else { 80 });
    authority.map(|authority| Origin { https, authority }).ok_or_else(|| form("has a host or a port that can't be"))
}

pub(super) fn with_port(authority: &Authority, default: u16) -> Option<Authority> {
    let host = authority.host();
    let port: u16 = match authority.as_str().strip_prefix(host)? {
        "" => default,
        port => port.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
    };
    is_host(host).then(|| format!("{}:{port}", host.to_ascii_lowercase()).parse().ok())?
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
pub(super) fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    }
}

pub(super) fn host(value: &DeValue) -> Result<String, String> {
    let text = text(value)?;
    // A request's host is compared without its final dot.
    let host = text.strip_suffix('.').unwrap_or(text);
    if is_host(host) {
        return Ok(host.to_ascii_lowercase());
    }
    Err(format!("{text:?} is not a host; write it like \"api.example.com\", without a port or a wildcard"))
}

pub(super) fn method(value: &DeValue) -> Result<Method, String> {
    let text = text(value)?;
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("{text:?} is not a method"))?;
    if method.is_safe() {
        return Err(format!("{text} only reads; there is nothing to guard"));
    }
    if method == Method::CONNECT {
        return Err("CONNECT opens a tunnel; it writes no resource that could be guarded".to_owned());
    }
    let upper = text.to_ascii_uppercase();
    if ["PUT", "PATCH", "DELETE", "POST"].contains(&upper.as_str()) && upper != text {
        return Err(format!("{text:?} is not {upper}: the case of a method counts"));
    }
    Ok(method)
}

pub(super) fn header_name(value: &DeValue) -> Result<HeaderName, String> {
    let text = text(value)?;
    text.parse().map_err(|_| format!("{text:?} is not the name of a header field"))
}

/// Requests' fields that the backend does not get as the client sent them: to it, what they keep apart would be one
/// resource. Where the gateway says by which way a request came, `forwarded` decides that, too.
pub(super) const NOT_PASSED_ON: [&str; 19] = [
    "connection",
    "content-length",
    "expect",
    "http2-settings",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

/// A field that tells resources apart.
pub(super) fn partition_field(value: &DeValue) -> Result<HeaderName, String> {
    let name = header_name(value)?;
    if NOT_PASSED_ON.contains(&name.as_str()) {
        return Err(format!(
            "{name} does not reach the backend as the client sends it, and so keeps nothing apart there"
        ));
    }
    Ok(name)
}

/// Whether the gateway writes the field itself unless `forwarded` is off.
pub(super) fn is_forwarding(name: &HeaderName) -> bool {
    name == http::header::FORWARDED || name.as_str().starts_with("x-forwarded-")
}

pub(super) fn conflict_status(value: &DeValue) -> Result<StatusCode, String> {
    match integer(value)? {
        409 => Ok(StatusCode::CONFLICT),
        412 => Ok(StatusCode::PRECONDITION_FAILED),
        other => Err(format!("{other} is not one of 409 and 412")),
    }
}

pub(super) fn query_rule(value: &DeValue) -> Result<QueryRule, String> {
    let known = "\"include\", \"ignore\" or an array of parameter names";
    if let Some(names) = value.as_array() {
        let names = names.iter().map(|name| Ok(text(name.get_ref())?.to_owned()));
        return names.collect::<Result<_, String>>().map(QueryRule::Only);
    }
    match value.as_str() {
        Some("include") => Ok(QueryRule::Include),
        Some("ignore") => Ok(QueryRule::Ignore),
        Some(other) => Err(format!("{other:?} is not known; write {known}")),
        None => Err(expected(known, value)),
    }
}

pub(super) fn level(value: &DeValue) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];
    let text = text(value)?;
    // A filter may also be a bare word, which names a module: a misspelt level would silence everything else.
    let is_filter = text.contains(['=', '[', ',']) && log_filter(text).is_ok();
    if LEVELS.contains(&text) || is_filter {
        return Ok(text.to_owned());
    }
    let known = quoted(LEVELS.iter().copied(), ", ");
    Err(format!("{text:?} is neither a level ({known}) nor a filter such as \"info,ifmatch=debug\""))
}

/// Reads a filter. Values of fields in it are compared as they are: as regular expressions, which is the default, a
/// short one can take gigabytes.
pub(crate) fn log_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().with_regex(false).parse(text)
}

pub(super) fn expected(what: &str, found: &DeValue) -> String {
    format!("must be {what}; here it is of the type {}", found.type_str())
}

pub(in crate::config) fn quoted<'a>(names: impl Iterator<Item = &'a str>, between: &str) -> String {
    names.map(|name| format!("{name:?}")).collect::<Vec<_>>().join(between)
}

/// A number and a unit without anything between: `10s`.
pub(super) fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, unit) = text.split_at(text.find(|letter: char| !letter.is_ascii_digit())?);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The number in the largest unit that leaves no fraction.
pub(super) fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    let largest = units.iter().rev().find(|(_, factor)| number >= *factor && number.is_multiple_of(*factor));
    largest.map_or_else(|| "0".to_owned(), |(unit, factor)| format!("{}{unit}", number / factor))
}

/// A duration as the file writes it.
pub(in crate::config) fn duration_text(duration: Duration) -> String {
    in_units(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS)
}

/// A size as the file writes it.
pub(in crate::config) fn size_text(bytes: u64) -> String {
    in_units(bytes, &SIZE_UNITS)
}
