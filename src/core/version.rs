//! Where a resource's version comes from, and how a tag is made of it.
//!
//! A service without entity tags has versions all the same: in its bodies, in a field, in a date. A tag that is made of
//! one here names the same state before and after a restart, so it is made without any seed; and by its beginning it is
//! told from a backend's own tags and from those of another source.
//!
//! What can't be told for certain gives no tag, which costs a conflict and no more: a value that is there twice, one that is
//! no scalar, a date of which nobody knows whether the resource changed again within its second.

use http::{
    HeaderName,
    header::{CONTENT_LANGUAGE, CONTENT_TYPE, DATE, LAST_MODIFIED},
};
use httpdate::HttpDate;

use super::{etag::EntityTag, fields::Fields, pointer::Pointer, policy::Comparison, value::Value};

mod json;

/// A tag of a value is no longer than so many bytes; a longer value is hashed.
pub const LONGEST: usize = 64;

/// How a route's versions are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versions {
    /// Where they come from.
    pub source: Source,
    /// The members of a JSON body that are left out of its hash.
    pub ignore: Vec<Pointer>,
    /// Bodies of at most so many bytes are looked at.
    pub body_limit: usize,
    /// Whether the resource is read again after a write whose answer shows no tag, within its turn.
    pub reads_after_write: bool,
}

impl Default for Versions {
    fn default() -> Self {
        Self { source: Source::Etag, ignore: Vec::new(), body_limit: 1024 * 1024, reads_after_write: false }
    }
}

/// Where versions come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The backend's own tags.
    Etag,
    /// A hash of the body.
    Body,
    /// A field of the answer's head.
    Header(HeaderName),
    /// A value in a JSON body.
    Json(Pointer),
    /// The date of the last modification.
    LastModified,
}

impl Source {
    /// Whether tags are made here, and the backend knows nothing of them.
    #[must_use]
    pub fn is_made(&self) -> bool {
        !matches!(self, Self::Etag)
    }

    /// How the tag that a client has is compared with the current one, to tell it that nothing has changed. A weak date is
    /// none that says so: the resource may have changed within its second, and the client would take what it has for what
    /// has the strong tag later on.
    #[must_use]
    pub fn comparison_of_reads(&self) -> Comparison {
        match self {
            Self::LastModified => Comparison::Strong,
            Self::Etag | Self::Body | Self::Header(_) | Self::Json(_) => Comparison::Weak,
        }
    }

    /// Whether a body has to be read for it.
    #[must_use]
    pub fn is_in_body(&self) -> bool {
        match self {
            Self::Body | Self::Json(_) => true,
            Self::Etag | Self::Header(_) | Self::LastModified => false,
        }
    }
}

impl Versions {
    /// The tag that the head of an answer shows; `None`: none, or it is not in the head.
    #[must_use]
    pub fn of_head(&self, fields: &Fields) -> Option<EntityTag> {
        match &self.source {
            Source::Etag | Source::Body | Source::Json(_) => None,
            Source::Header(name) => of_value(*b"hx", name.as_str(), only(fields, name)?.as_bytes().trim_ascii()),
            Source::LastModified => of_dates(fields),
        }
    }

    /// The tag of a whole body in the identity coding, under a head with these fields; `None`: none, or it is not in the
    /// body.
    #[must_use]
    pub fn of_body(&self, fields: &Fields, body: &[u8]) -> Option<EntityTag> {
        match &self.source {
            Source::Etag | Source::Header(_) | Source::LastModified => None,
            Source::Body => Some(tag(false, b"b", &hash(fields, &self.pieces(body)))),
            Source::Json(place) => of_json(place, body),
        }
    }

    /// The parts of a body that count.
    fn pieces<'a>(&self, body: &'a [u8]) -> Vec<&'a [u8]> {
        let found = if self.ignore.is_empty() { None } else { json::find(body, &self.ignore) };
        let mut pieces = Vec::new();
        let mut from = 0;
        for left_out in found.into_iter().flat_map(|found| found.members) {
            pieces.push(&body[from..left_out.start]);
            from = left_out.end;
        }
        pieces.push(&body[from..]);
        pieces
    }
}

/// A hash of a body, and of what says how to read it: the same bytes under another type are another state.
fn hash(fields: &Fields, pieces: &[&[u8]]) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    for name in [CONTENT_TYPE, CONTENT_LANGUAGE] {
        for value in fields.get_all(name) {
            put(&mut hasher, value.as_bytes());
        }
        hasher.update(&[0; 8]);
    }
    for piece in pieces {
        hasher.update(piece);
    }
    digits(&hasher)
}

/// One part among others: preceded by its length and a byte more, so that no two lists of parts run together alike.
fn put(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64 + 1).to_be_bytes());
    hasher.update(bytes);
}

/// 128 bits: whoever chooses both bodies would have to try 2^64 of them.
fn digits(hasher: &blake3::Hasher) -> Vec<u8> {
    hasher.finalize().to_hex().as_bytes()[..32].to_vec()
}

/// A tag of a kind. The kinds begin apart, since none has a dash.
fn tag(weak: bool, kind: &[u8], rest: &[u8]) -> EntityTag {
    EntityTag::from_parts(weak, &[b"ifm-", kind, b"-", rest].concat())
}

/// Whether a tag begins as those do that are made here.
#[must_use]
pub fn is_made(tag: &EntityTag) -> bool {
    let bytes = tag.to_bytes();
    let strong = bytes.strip_prefix(b"W/").unwrap_or(&bytes);
    strong.starts_with(b"\"ifm-")
}

/// The value at a place as it is, where it can stand in a tag and means only itself there; else its hash, which is of
/// another kind. Equal values of two places are two versions: a route may get another place while clients hold tags.
fn of_value(kinds: [u8; 2], place: &str, value: &[u8]) -> Option<EntityTag> {
    if value.is_empty() {
        return None;
    }
    let place = &blake3::hash(place.as_bytes()).to_hex()[..6];
    let of_place = |kind: &[u8]| [kind, b"-", place.as_bytes()].concat();
    let plain = tag(false, &of_place(&kinds[..1]), value);
    let can_stand = EntityTag::parse(&plain.to_bytes()).is_ok();
    if can_stand && plain.opaque_len() <= LONGEST && !plain.is_marked() {
        return Some(plain);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(value);
    Some(tag(false, &of_place(&kinds), &digits(&hasher)))
}

/// A number or a word as it is written, so that no digit is lost, and a string without its quotes, which is of another kind.
fn of_json(place: &Pointer, body: &[u8]) -> Option<EntityTag> {
    let found = json::find(body, std::slice::from_ref(place)).filter(|found| !found.is_ambiguous)?;
    let value = &body[found.values.into_iter().next()?];
    match value {
        [b'{' | b'[', ..] | b"null" => None,
        [b'"', text @ .., b'"'] => of_value(*b"sx", place.as_str(), text),
        literal => of_value(*b"jx", place.as_str(), literal),
    }
}

/// The date of the last modification. It is a strong tag only where the answer is at least a second younger (RFC 9110
/// §8.8.2.2): within its second the resource may have changed again.
fn of_dates(fields: &Fields) -> Option<EntityTag> {
    let modified = date(fields, &LAST_MODIFIED)?;
    let is_sure = date(fields, &DATE).is_some_and(|sent| sent > modified);
    Some(tag(!is_sure, b"m", modified.to_string().replace(' ', "").as_bytes()))
}

fn date(fields: &Fields, name: &HeaderName) -> Option<HttpDate> {
    only(fields, name)?.to_str().ok()?.trim().parse().ok()
}

/// A field's only line.
fn only<'a>(fields: &'a Fields, name: &HeaderName) -> Option<Value<'a>> {
    let mut lines = fields.get_all(name);
    lines.next().filter(|_| lines.next().is_none())
}

#[cfg(test)]
mod tests;
