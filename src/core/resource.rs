//! The canonical target and its key: which resource a request is about.
//!
//! Two spellings of one resource that had two records would be a way around the gateway: each could hold a tag that is
//! long gone. So the path is brought into one form (RFC 3986 §6.2.2) and only that form is routed, tracked and forwarded.
//!
//! What RFC 3986 leaves apart, many backends do not: `/Notes//7/`, `/notes/7` and `/notes/%37;v=1` are one resource to
//! some and several to others, and so are `www.example.com` and `example.com`; nothing here can know. A [`Key`] therefore
//! has two parts. Its `cell` is folded coarsely, so that all these spellings share one record and one turn; its
//! `spelling` is exact, and what was learned through one spelling counts as unknown to the others. Whichever way the
//! backend sees it, nothing is lost; at worst the backend is asked once more. Where a backend does serve many hosts apart,
//! a partition by `Host` keeps their turns apart, too.

use std::{borrow::Cow, hash::Hasher, string::FromUtf8Error};

use http::{
    HeaderName,
    header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, COOKIE, HOST, VARY},
    uri::PathAndQuery,
};
use siphasher::sip128::{Hasher128, SipHasher13};

use super::{
    fields::{Fields, Marks},
    policy::QueryRule,
    value::Value,
};

mod authority;
mod segments;

pub use self::{authority::names_host, segments::lenient_segments};

/// The fields by which a request says on whose behalf it comes: the standard ones, and those that API keys and tokens are
/// commonly sent in.
pub static CREDENTIALS: [HeaderName; 6] = [
    HeaderName::from_static(NAMES_OF_CREDENTIALS[0]),
    HeaderName::from_static(NAMES_OF_CREDENTIALS[1]),
    HeaderName::from_static(NAMES_OF_CREDENTIALS[2]),
    HeaderName::from_static(NAMES_OF_CREDENTIALS[3]),
    HeaderName::from_static(NAMES_OF_CREDENTIALS[4]),
    HeaderName::from_static(NAMES_OF_CREDENTIALS[5]),
];
const NAMES_OF_CREDENTIALS: [&str; 6] =
    ["authorization", "cookie", "api-key", "x-access-token", "x-api-key", "x-auth-token"];
const MARKS_OF_CREDENTIALS: Marks = Marks::of(&NAMES_OF_CREDENTIALS);

/// Whether a field is one of [`CREDENTIALS`].
#[must_use]
pub fn is_credential(name: &HeaderName) -> bool {
    NAMES_OF_CREDENTIALS.contains(&name.as_str())
}

/// Hashes are no longer than they have to be, so that a record takes little room. Nobody can try enough of them to meet
/// another's spelling or caller in these;
const BITS_56: u64 = u64::MAX >> 8;
/// and two representations that are taken for one only make for a conflict more.
const BITS_32: u64 = u64::MAX >> 32;

/// A request target in canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(PathAndQuery);

/// Why a path can't be made canonical.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It does not begin with `/`.
    #[error("the path does not begin with /")]
    NotAbsolute,
    /// A `%` is not followed by two hexadecimal digits.
    #[error("a % in the path is not followed by two hexadecimal digits")]
    Escape,
    /// A NUL, plain or escaped.
    #[error("the path holds a NUL")]
    Nul,
    /// A byte that may not stand in a path, and that backends read in several ways.
    #[error("the path holds the byte 0x{0:02X}")]
    Byte(u8),
    /// UTF-8 that spells a character in more bytes than it needs.
    #[error("the path holds overlong UTF-8")]
    Overlong,
    /// A dot segment that only some backends see: `..%2F`, `..;x`.
    #[error("the path hides a dot segment")]
    HiddenDots,
    /// A `Destination` that is not one, or not a target.
    #[error("Destination is there more than once, or can't be read as a URL or path")]
    Destination,
    /// Nothing that `http` takes for a path and query.
    #[error("the target is not a path and query")]
    Invalid,
}

impl Target {
    /// Brings a path into canonical form. The query is left as it is.
    ///
    /// # Errors
    ///
    /// A path that different backends would read differently.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, TargetError> {
        let path = canonical_path(path)?;
        let whole = match query {
            Some(query) => format!("{path}?{query}"),
            None => path.into_owned(),
        };
        PathAndQuery::try_from(whole).map(Self).map_err(|_| TargetError::Invalid)
    }

    /// As [`Target::parse`], without a copy where nothing is to be changed.
    ///
    /// # Errors
    ///
    /// As [`Target::parse`].
    pub fn from_path_and_query(target: &PathAndQuery) -> Result<Self, TargetError> {
        let path = canonical_path(target.path())?;
        // `http` shows an empty path as `/`, and keeps it empty.
        let is_as_it_was = matches!(path, Cow::Borrowed(path) if path.len() > 1);
        if is_as_it_was { Ok(Self(target.clone())) } else { Self::parse(&path, target.query()) }
    }

    /// The canonical path; begins with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The query as the client sent it, without the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.0.query()
    }

    /// Path and query, as they are forwarded.
    #[must_use]
    pub fn as_path_and_query(&self) -> &PathAndQuery {
        &self.0
    }
}

/// Unreserved percent-escapes decoded, the others in upper case, bytes that must be escaped escaped, dot segments removed.
fn canonical_path(path: &str) -> Result<Cow<'_, str>, TargetError> {
    if !path.starts_with('/') {
        return Err(TargetError::NotAbsolute);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let escaped = normal_escapes(path.as_bytes())?;
    let decoded = percent_decoded(escaped.as_bytes());
    if decoded.contains(&0) {
        return Err(TargetError::Nul);
    }
    if decoded.windows(2).any(is_overlong) {
        return Err(TargetError::Overlong);
    }
    let canonical = without_dot_segments(&escaped)?;
    Ok(if canonical == path { Cow::Borrowed(path) } else { Cow::Owned(canonical) })
}

/// Whether a path holds nothing that has to be looked at: no escapes, dot segments or parameters.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|&byte| {
        let is_plain = PLAIN[usize::from(byte)] & !((before == b'/') & (byte == b'.'));
        before = byte;
        is_plain
    })
}

/// The bytes of a plain path.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = (is_unreserved(byte as u8) || is_kept(byte as u8)) && byte as u8 != b';';
        byte += 1;
    }
    plain
};

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The bytes that stand in a path as they are: `/`, `:`, `@` and the sub-delims of RFC 3986 §2.2.
const fn is_kept(byte: u8) -> bool {
    matches!(byte, b'/' | b':' | b'@' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=')
}

fn normal_escapes(path: &[u8]) -> Result<String, TargetError> {
    let mut out = String::with_capacity(path.len() + 8);
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        rest = after;
        match *byte {
            b'%' => {
                let (value, after) = escape(after).ok_or(TargetError::Escape)?;
                push_escaped(&mut out, value, is_unreserved(value));
                rest = after;
            }
            0 => return Err(TargetError::Nul),
            b'\\' | 0x01..=0x20 | 0x7F => return Err(TargetError::Byte(*byte)),
            byte => push_escaped(&mut out, byte, is_unreserved(byte) || is_kept(byte)),
        }
    }
    Ok(out)
}

fn push_escaped(out: &mut String, byte: u8, plain: bool) {
    const HEX: [char; 16] = ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    if plain {
        out.push(char::from(byte));
    } else {
        out.extend(['%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
}

/// The byte that the two digits at the beginning of `bytes` spell, and what follows them.
fn escape(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [high, low, rest @ ..] = bytes else { return None };
    let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some((digit(*high)? << 4 | digit(*low)?, rest))
}

pub(super) fn percent_decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [byte, after @ ..] = rest {
        let (byte, after) = unescaped(*byte, after);
        out.push(byte);
        rest = after;
    }
    out
}

/// The byte that `byte` and what follows it spell, and what is left. An escape that can't be read stands for itself.
fn unescaped(byte: u8, after: &[u8]) -> (u8, &[u8]) {
    match escape(after) {
        Some(spelled) if byte == b'%' => spelled,
        Some(_) | None => (byte, after),
    }
}

/// Whether two bytes begin an overlong UTF-8 sequence, such as 0xC0 0xAF for `/`.
fn is_overlong(pair: &[u8]) -> bool {
    matches!(pair, [0xC0 | 0xC1, 0x80..=0xBF] | [0xE0, 0x80..=0x9F] | [0xF0, 0x80..=0x8F])
}

/// RFC 3986 §5.2.4, for a path that begins with `/`.
fn without_dot_segments(path: &str) -> Result<String, TargetError> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            _ if hides_dots(segment) => return Err(TargetError::HiddenDots),
            _ => kept.push(segment),
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

/// Whether a backend that decodes `%2F` or `%5C`, or that cuts off parameters, sees a dot segment here.
fn hides_dots(segment: &str) -> bool {
    segment.contains([';', '%'])
        && segment
            .split("%2F")
            .flat_map(|part| part.split("%5C"))
            .filter_map(|part| part.split(';').next()?.split("%3B").next())
            .any(|part| matches!(part, "." | ".."))
}

/// The name under which a resource is tracked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// Which record and which turn: 128 bits that all spellings of a resource share.
    pub cell: [u64; 2],
    /// Which spelling of it.
    pub spelling: u64,
}

/// Gives names: every hash that the gateway keeps, under one random seed for each process, so that no one outside can
/// choose two things that get the same name.
#[derive(Debug, Clone, Copy)]
pub struct Namer {
    seed: [u64; 2],
    /// What stands for a caller without credentials.
    nobody: u64,
}

impl Namer {
    /// A namer with this seed.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        let mut namer = Self { seed, nobody: 0 };
        namer.nobody = namer.credentials(&Fields::new());
        namer
    }

    /// The key of the resource that a request is about.
    ///
    /// `host` is the `Host` that is forwarded; `headers` are the request's, of which the fields in `partition` count.
    #[must_use]
    pub fn key(
        &self,
        upstream: &str,
        host: &str,
        target: &Target,
        query: &QueryRule,
        partition: &[HeaderName],
        headers: &Fields,
    ) -> Key {
        let mut cell = self.hasher();
        let mut spelling = self.hasher();
        let host = folded_host(host);
        put(&mut cell, upstream.as_bytes());
        put(&mut cell, &folded_path(target.path()));
        put(&mut spelling, host.as_bytes());
        put(&mut spelling, target.path().as_bytes());
        let mut parameters = [0u64; 2];
        for parameter in target.query().unwrap_or_default().split('&').filter(|p| counts(p, query)) {
            put(&mut spelling, parameter.as_bytes());
            let hash = self.parameter(parameter);
            parameters = [parameters[0].wrapping_add(hash[0]), parameters[1].wrapping_add(hash[1])];
        }
        cell.write_u64(parameters[0]);
        cell.write_u64(parameters[1]);
        for name in partition {
            if name == HOST {
                put(&mut cell, host.as_bytes());
            } else {
                put_values(&mut cell, name, headers);
            }
        }
        Key { cell: finish(&cell), spelling: finish(&spelling)[0] & BITS_56 }
    }

    /// A stand-in for the credentials of a request: equal only where all of [`CREDENTIALS`] are.
    #[must_use]
    pub fn caller(&self, headers: &Fields) -> u64 {
        let has_some =
            headers.may_have(MARKS_OF_CREDENTIALS) && CREDENTIALS.iter().any(|name| headers.contains_key(name));
        if has_some { self.credentials(headers) } else { self.nobody }
    }

    /// A stand-in for who sends a request, as far as it can be told: whoever has these credentials, by the first of
    /// [`CREDENTIALS`] that is there, since a session's cookies change more often than the others; else whoever is at this
    /// address. Nothing may be decided by it.
    #[must_use]
    pub fn client(&self, headers: &Fields, address: u128) -> u64 {
        let mut hasher = self.hasher();
        match CREDENTIALS.iter().find(|name| headers.contains_key(*name)) {
            Some(name) => {
                put(&mut hasher, name.as_str().as_bytes());
                put_values(&mut hasher, name, headers);
            }
            None => hasher.write_u128(address),
        }
        finish(&hasher)[0]
    }

    fn credentials(&self, headers: &Fields) -> u64 {
        let mut hasher = self.hasher();
        for name in &CREDENTIALS {
            put_values(&mut hasher, name, headers);
        }
        finish(&hasher)[0] & BITS_56
    }

    /// Which representation a response carries: its type, coding and language, and the values of the request fields that
    /// its `Vary` names. `None` where `Vary: *` says that it can't be told.
    #[must_use]
    pub fn variant(&self, request: &Fields, response: &Fields) -> Option<u64> {
        let mut hasher = self.hasher();
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
            put_values(&mut hasher, &name, response);
        }
        for line in response.get_all(VARY) {
            for name in line.as_bytes().split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|n| !n.is_empty()) {
                put_values(&mut hasher, &HeaderName::from_bytes(name).ok().filter(|n| n != "*")?, request);
            }
        }
        Some((finish(&hasher)[0] & BITS_32).max(1))
    }

    /// One parameter, however its bytes are escaped. Their hashes are added up, so that their order does not count.
    fn parameter(&self, parameter: &str) -> [u64; 2] {
        let mut hasher = self.hasher();
        hasher.write(&decoded_parameter(parameter));
        finish(&hasher)
    }

    fn hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.seed[0], self.seed[1])
    }
}

/// Each part is preceded by its length, so that no two lists of parts run together alike.
fn put(hasher: &mut SipHasher13, bytes: &[u8]) {
    hasher.write_usize(bytes.len());
    hasher.write(bytes);
}

fn put_values(hasher: &mut SipHasher13, name: &HeaderName, headers: &Fields) {
    let values = || headers.get_all(name);
    if name == COOKIE && values().nth(1).is_some() {
        // HTTP/2 may send a field for each, and the backend gets one all the same (RFC 9113 §8.2.3).
        put(hasher, &values().map(Value::as_bytes).collect::<Vec<_>>().join(&b"; "[..]));
        hasher.write_usize(1);
        return;
    }
    let mut count = 0;
    for value in values() {
        put(hasher, value.as_bytes());
        count += 1;
    }
    hasher.write_usize(count);
}

fn finish(hasher: &SipHasher13) -> [u64; 2] {
    let hash = hasher.finish128();
    [hash.h1, hash.h2]
}

fn counts(parameter: &str, rule: &QueryRule) -> bool {
    match rule {
        QueryRule::Include => !parameter.is_empty(),
        QueryRule::Ignore => false,
        QueryRule::Only(names) => {
            let name = decoded_parameter(parameter.split('=').next().unwrap_or_default());
            names.iter().any(|n| n.as_bytes() == name)
        }
    }
}

/// Percent-escapes decoded, and `+` read as a space, as forms write it.
fn decoded_parameter(parameter: &str) -> Vec<u8> {
    percent_decoded(parameter.replace('+', " ").as_bytes())
}

/// Whether two hosts, each perhaps with a port, are written for the same one.
#[must_use]
pub fn same_host(one: &str, other: &str) -> bool {
    folded_host(one) == folded_host(other)
}

/// The host in lower case, without a final dot or a default port.
fn folded_host(host: &str) -> Cow<'_, str> {
    let host = [":80", ":443", ":"].iter().find_map(|port| host.strip_suffix(port)).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.bytes().any(|b| b.is_ascii_uppercase()) { host.to_ascii_lowercase().into() } else { host.into() }
}

/// Whether two paths, or two segments, are one to the most lenient backend.
#[must_use]
pub fn same_path(one: &str, other: &str) -> bool {
    folded_path(one) == folded_path(other)
}

/// The path as the most lenient backend reads it: escapes decoded as often as there are any, lower case, `\` as `/`, `+`
/// as a space, no parameters of segments, no dots or spaces at their ends, no empty segments and so no final `/`.
fn folded_path(path: &str) -> Cow<'_, [u8]> {
    if is_folded(path.as_bytes()) { path.as_bytes().into() } else { fold(path).into() }
}

fn fold(path: &str) -> Vec<u8> {
    let mut decoded = wholly_decoded(path.as_bytes());
    if !decoded.is_ascii() {
        decoded = String::from_utf8(decoded).map_or_else(FromUtf8Error::into_bytes, |path| path.to_lowercase().into());
    }
    let mut folded = Vec::with_capacity(decoded.len());
    for segment in decoded.split(|byte| matches!(byte, b'/' | b'\\')) {
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        let end = name.iter().rposition(|byte| !matches!(byte, b'.' | b' ' | b'+')).map_or(0, |last| last + 1);
        if end > 0 {
            folded.push(b'/');
            folded.extend(name[..end].iter().map(|&byte| if byte == b'+' { b' ' } else { byte.to_ascii_lowercase() }));
        }
    }
    folded
}

/// Percent-escapes decoded until there is none, in one go: of ten thousand that are nested each would be a pass over all.
fn wholly_decoded(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    for &byte in path {
        decoded.push(byte);
        // What an escape spells may be the end of another.
        while let [.., b'%', high, low] = decoded[..]
            && let Some((spelled, _)) = escape(&[high, low])
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(spelled);
        }
    }
    decoded
}

/// The bytes that folding leaves as they are, but for some ends of segments.
static FOLDED: [bool; 256] = {
    let mut folded = [false; 256];
    let mut byte: u8 = 0;
    while byte < 0x80 {
        folded[byte as usize] = !(matches!(byte, b'%' | b'\\' | b';' | b'+' | b' ') || byte.is_ascii_uppercase());
        byte += 1;
    }
    folded
};

/// Whether folding would leave a path as it is. Where this can't be told at a glance, it says no.
fn is_folded(path: &[u8]) -> bool {
    let mut before = b'/';
    let is_folded = |&byte: &u8| {
        let is_kept = FOLDED[usize::from(byte)] & !((byte == b'/') & ((before == b'/') | (before == b'.')));
        before = byte;
        is_kept
    };
    path.split_first().is_some_and(|(first, rest)| *first == b'/' && rest.iter().all(is_folded))
        && !matches!(path.last(), Some(b'/' | b'.'))
}

#[cfg(test)]
mod tests;
