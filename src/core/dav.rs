//! WebDAV's `If` (RFC 4918 §10.4): lists of conditions, of which one list must hold.
//!
//! Only entity tags can be judged here. Whether a lock's token holds is known to the backend alone, which gets the field
//! as it came; so is what another resource's state is. Both *may hold*. A field of which some list may hold without a tag
//! of the target therefore demands nothing ([`If::demand`]); otherwise what its lists say of the target's tags is left, and
//! [`verdict`](super::verdict) judges that. Nothing is refused that the backend could grant.
//!
//! Absent: what is done with `Destination`'s own state. A list about it is another resource's.

use super::{
    etag::{EntityTag, TagError},
    precondition::Tags,
};

/// The token that no lock ever has (RFC 4918 §10.4.8 names it; §6.5 keeps it from being one).
const NO_LOCK: &[u8] = b"DAV:no-lock";
/// So many conditions may a field have. Clients send two or three; what is read of many would take far more room than they
/// themselves, for as long as the write waits.
const CONDITIONS: usize = 256;

/// The field as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct If {
    /// At least one.
    groups: Vec<Group>,
}

/// The lists that follow one reference, or all of them where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    /// The resource that they are about, as it is written; `None`: the target.
    resource: Option<Box<[u8]>>,
    /// At least one.
    lists: Vec<List>,
}

/// At least one condition; all of them must hold.
type List = Vec<Condition>;

#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    /// Whether `Not` stands before it.
    is_negated: bool,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Tag(EntityTag),
    /// A state token, such as a lock's, without its brackets.
    Token(Box<[u8]>),
}

/// What a field demands of its target's tags: one of these must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// At least one.
    alternatives: Vec<Alternative>,
}

/// What one list demands of the target's tags; together not nothing, unless it can never hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alternative {
    /// Each must be current.
    pub current: Vec<Tags>,
    /// None of these may be.
    pub not_current: Vec<Tags>,
    /// Whether it fails whatever the tags are.
    pub never: bool,
}

/// Why an `If` can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IfError {
    /// It names no list.
    #[error("it has no list")]
    Empty,
    /// Something stands where a list or a resource should begin.
    #[error("a list of conditions in parentheses is missing")]
    NoList,
    /// A list has no condition.
    #[error("a list has no condition")]
    EmptyList,
    /// Neither `Not`, nor a token in angle brackets, nor a tag in square ones.
    #[error("a condition is neither a token in <> nor a tag in []")]
    Condition,
    /// A closing bracket is missing.
    #[error("a closing bracket is missing")]
    Unclosed,
    /// What stands in angle brackets is empty, or holds what no reference holds.
    #[error("what stands in <> is not a reference")]
    Reference,
    /// Some lists name their resource, and some do not.
    #[error("some of the lists name a resource and some do not")]
    Mixed,
    /// It has more conditions than anybody has a use for.
    #[error("it has more than {CONDITIONS} conditions")]
    TooMany,
    /// There are several fields.
    #[error("it came more than once")]
    Repeated,
    /// A tag can't be read.
    #[error("{0}")]
    Tag(#[from] TagError),
}

impl If {
    /// Reads a field's value.
    ///
    /// # Errors
    ///
    /// Whatever is not of the grammar of RFC 4918 §10.4.2, with white space between its parts.
    pub fn parse(value: &[u8]) -> Result<Self, IfError> {
        let mut rest = value.trim_ascii();
        if rest.is_empty() {
            return Err(IfError::Empty);
        }
        let is_tagged = rest[0] == b'<';
        let mut groups: Vec<Group> = Vec::new();
        let mut left = CONDITIONS;
        while !rest.is_empty() {
            if rest[0] == b'<' {
                if !is_tagged {
                    return Err(IfError::Mixed);
                }
                let (reference, after) = in_angles(rest)?;
                groups.push(Group { resource: Some(reference.into()), lists: Vec::new() });
                rest = after;
            } else if groups.is_empty() {
                groups.push(Group { resource: None, lists: Vec::new() });
            }
            let (list, after) = list(rest, &mut left)?;
            groups.last_mut().expect("the first list begins one").lists.push(list);
            rest = after;
        }
        Ok(Self { groups })
    }

    /// What is demanded of the target's tags; `None`: nothing, as far as can be told here. `is_target` says whether a
    /// reference names the target, and is asked once for each.
    pub fn demand(self, mut is_target: impl FnMut(&[u8]) -> bool) -> Option<Demand> {
        let mut alternatives = Vec::new();
        for group in self.groups {
            if group.resource.is_some_and(|resource| !is_target(&resource)) {
                return None;
            }
            for list in group.lists {
                let alternative = Alternative::of(list);
                if !alternative.demands() {
                    return None;
                }
                alternatives.push(alternative);
            }
        }
        // A lock's token that no lock has says nothing of tags: then the backend may as well say so itself.
        let names_a_tag = alternatives.iter().any(|one| !one.current.is_empty() || !one.not_current.is_empty());
        names_a_tag.then_some(Demand { alternatives })
    }
}

impl If {
    /// What is left of a field whose lists are all about the target, once what they say of its tags has been found to hold:
    /// every token that a list which can hold says something of. `None`: nothing. Which of several lists holds is not told
    /// here, so that the backend is asked for the tokens of all, which is never less than the client asked for.
    #[must_use]
    pub fn without_tags(&self) -> Option<Vec<u8>> {
        let lists = self.groups.iter().flat_map(|group| &group.lists);
        let tokens = lists.filter(|list| !list.iter().any(Condition::is_never)).flatten().filter_map(Condition::token);
        let tokens: Vec<Vec<u8>> = tokens.collect();
        if tokens.is_empty() {
            return None;
        }
        let resource = self.groups.first().and_then(|group| group.resource.as_deref());
        let resource = resource.map_or_else(Vec::new, |resource| [b"<", resource, b"> "].concat());
        Some([resource, b"(".to_vec(), tokens.join(&b' '), b")".to_vec()].concat())
    }
}

impl Condition {
    /// Whether it is that a lock has the token that none has.
    fn is_never(&self) -> bool {
        !self.is_negated && matches!(&self.what, What::Token(token) if **token == *NO_LOCK)
    }

    /// As it is written, if it is about a state token.
    fn token(&self) -> Option<Vec<u8>> {
        let not: &[u8] = if self.is_negated { b"Not " } else { b"" };
        match &self.what {
            What::Tag(_) => None,
            What::Token(token) => Some([not, b"<", token, b">"].concat()),
        }
    }
}

impl Demand {
    /// One of these must hold; there is at least one.
    #[must_use]
    pub fn alternatives(&self) -> &[Alternative] {
        &self.alternatives
    }
}

impl Alternative {
    fn of(list: List) -> Self {
        let mut alternative = Self::default();
        for condition in list {
            alternative.never |= condition.is_never();
            let Condition { is_negated, what } = condition;
            match what {
                What::Tag(tag) if is_negated => alternative.not_current.push(Tags::OneOf(vec![tag])),
                What::Tag(tag) => alternative.current.push(Tags::OneOf(vec![tag])),
                What::Token(_) => {}
            }
        }
        alternative
    }

    fn demands(&self) -> bool {
        self.never || !self.current.is_empty() || !self.not_current.is_empty()
    }
}

/// A list, and what follows it. So many conditions may be `left`.
fn list<'a>(bytes: &'a [u8], left: &mut usize) -> Result<(List, &'a [u8]), IfError> {
    let mut rest = bytes.strip_prefix(b"(").ok_or(IfError::NoList)?.trim_ascii_start();
    let mut conditions = Vec::new();
    loop {
        if let Some(after) = rest.strip_prefix(b")") {
            return if conditions.is_empty() {
                Err(IfError::EmptyList)
            } else {
                Ok((conditions, after.trim_ascii_start()))
            };
        }
        *left = left.checked_sub(1).ok_or(IfError::TooMany)?;
        let (condition, after) = condition(rest)?;
        conditions.push(condition);
        rest = after;
    }
}

fn condition(bytes: &[u8]) -> Result<(Condition, &[u8]), IfError> {
    let negated = bytes.get(..3).filter(|word| word.eq_ignore_ascii_case(b"not"));
    let is_negated = negated.is_some();
    let rest = if is_negated { bytes[3..].trim_ascii_start() } else { bytes };
    let (what, rest) = match rest.first() {
        Some(b'<') => {
            let (token, rest) = in_angles(rest)?;
            // An absolute URI: it begins with a scheme (RFC 3986 §4.3).
            let is_absolute = token[0].is_ascii_alphabetic() && token.contains(&b':');
            (What::Token(is_absolute.then_some(token).ok_or(IfError::Reference)?.into()), rest)
        }
        Some(b'[') => {
            let (tag, rest) = EntityTag::parse_prefix(rest[1..].trim_ascii_start())?;
            let rest = rest.trim_ascii_start().strip_prefix(b"]").ok_or(IfError::Unclosed)?;
            (What::Tag(tag), rest.trim_ascii_start())
        }
        Some(_) => return Err(IfError::Condition),
        None => return Err(IfError::Unclosed),
    };
    Ok((Condition { is_negated, what }, rest))
}

/// What stands between `<` and `>`, and what follows.
fn in_angles(bytes: &[u8]) -> Result<(&[u8], &[u8]), IfError> {
    let inner = &bytes[1..];
    let end = inner.iter().position(|byte| *byte == b'>').ok_or(IfError::Unclosed)?;
    let (reference, rest) = (&inner[..end], &inner[end + 1..]);
    let is_graphic = |byte: &u8| !matches!(byte, 0..=0x20 | 0x7F | b'<' | b'"');
    if reference.is_empty() || !reference.iter().all(is_graphic) {
        return Err(IfError::Reference);
    }
    Ok((reference, rest.trim_ascii_start()))
}

#[cfg(test)]
mod tests;
