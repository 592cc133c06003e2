//! Path patterns: which paths a route is for.

use std::fmt;

use crate::core::resource::{Target, same_path};

/// A path pattern: segments, each literal, `{name}` (one segment) or, at the end, `{*rest}` (all that remain).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    pub(super) segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    /// In the canonical form of request paths; empty before a trailing `/`.
    Literal(String),
    /// With its name, which only people read.
    One(String),
    Rest(String),
}

impl PathPattern {
    /// Reads a pattern such as `/users/{id}` or `/files/{*path}`. The literal segments become canonical, as the paths
    /// of requests do: in any other form they would never match.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let written = text.strip_prefix('/').ok_or_else(|| format!("{text:?} does not begin with /"))?;
        if text.contains(['?', '#']) {
            return Err(format!("{text:?} has a query or a fragment; a pattern is a path only"));
        }
        let written: Vec<Option<Segment>> = written.split('/').map(placeholder).collect::<Result<_, _>>()?;
        if written.iter().rev().skip(1).any(|segment| matches!(segment, Some(Segment::Rest(_)))) {
            return Err(format!("{text:?} goes on after {{*…}}, which takes all that remains"));
        }
        let canonical = canonical_segments(text, &written)?;
        let segments = written.into_iter().zip(canonical);
        Ok(Self { segments: segments.map(|(name, text)| name.unwrap_or(Segment::Literal(text))).collect() })
    }

    /// The pattern of all paths, also of what is not a path, such as the `*` of OPTIONS.
    pub(super) fn any() -> Self {
        Self { segments: vec![Segment::Rest("path".to_owned())] }
    }

    pub(super) fn is_any(&self) -> bool {
        matches!(self.segments.as_slice(), [Segment::Rest(_)])
    }

    /// Whether a canonical path is meant, in the same case. `/a/{*rest}` means `/a/` and all below it, but not `/a`.
    #[must_use]
    pub fn matches(&self, canonical_path: &str) -> bool {
        if self.is_any() {
            return true;
        }
        let Some(path) = canonical_path.strip_prefix('/') else {
            return false;
        };
        let mut written = path.split('/');
        for segment in &self.segments {
            let matches = match (segment, written.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::One(_), Some(text)) => !text.is_empty(),
                (Segment::Literal(literal), Some(text)) => literal == text,
                (_, None) => false,
            };
            if !matches {
                return false;
            }
        }
        written.next().is_none()
    }

    /// The path that a lenient backend may take this one for, if the pattern matches that: another case, an empty segment, a
    /// parameter, an escaped or a final `/` may make the difference. The path is given by its
    /// [segments](crate::core::resource::lenient_segments).
    pub(crate) fn resembled(&self, segments: &[&str]) -> Option<String> {
        let mut written = segments.iter().copied();
        let mut resembled = String::new();
        for segment in &self.segments {
            resembled.push('/');
            match segment {
                Segment::Literal(text) if text.is_empty() => {}
                Segment::Literal(text) => {
                    resembled.push_str(written.next().filter(|written| same_path(written, text)).and(Some(text))?)
                }
                Segment::One(_) => resembled.push_str(written.next()?),
                Segment::Rest(_) => resembled.push_str(&written.by_ref().collect::<Vec<_>>().join("/")),
            }
        }
        written.next().is_none().then_some(resembled)
    }

    /// Whether there may be a path that both match.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let (mut ours, mut others) = (self.segments.iter(), other.segments.iter());
        loop {
            match (ours.next(), others.next()) {
                (Some(Segment::Rest(_)), _) | (_, Some(Segment::Rest(_))) | (None, None) => return true,
                (Some(Segment::Literal(one)), Some(Segment::Literal(two))) if one != two => return false,
                (Some(_), Some(_)) => {}
                (Some(_), None) | (None, Some(_)) => return false,
            }
        }
    }

    /// Whether every path that the other matches is matched by this one too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let mut others = other.segments.iter();
        for segment in &self.segments {
            let covers = match (segment, others.next()) {
                (Segment::Rest(_), Some(_)) => return true,
                (Segment::One(_), Some(Segment::One(_))) => true,
                (Segment::One(_), Some(Segment::Literal(text))) => !text.is_empty(),
                (Segment::Literal(literal), Some(Segment::Literal(text))) => literal == text,
                (_, Some(_) | None) => false,
            };
            if !covers {
                return false;
            }
        }
        others.next().is_none()
    }
}

/// `{name}` or `{*name}`; `None` for a literal.
fn placeholder(segment: &str) -> Result<Option<Segment>, String> {
    let Some(inner) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
        let literal = !segment.contains(['{', '}']);
        return literal.then_some(None).ok_or_else(|| format!("{segment:?} is not a whole segment; write {{name}}"));
    };
    let name = inner.strip_prefix('*').unwrap_or(inner);
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(format!("{segment:?} has no name of letters, digits and _"));
    }
    let segment = if inner == name { Segment::One } else { Segment::Rest };
    Ok(Some(segment(name.to_owned())))
}

/// The canonical text of each segment, with a stand-in for each placeholder.
fn canonical_segments(text: &str, written: &[Option<Segment>]) -> Result<Vec<String>, String> {
    let path: String = text
        .split('/')
        .skip(1)
        .zip(written)
        .flat_map(|(text, placeholder)| ["/", if placeholder.is_some() { "x" } else { text }])
        .collect();
    let target = Target::parse(&path, None).map_err(|error| format!("{text:?}: {error}"))?;
    let segments: Vec<String> = target.path().split('/').skip(1).map(str::to_owned).collect();
    if segments.len() == written.len() {
        return Ok(segments);
    }
    Err(format!("{text:?} has dot segments; no request keeps them"))
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::One(name) => write!(f, "{{{name}}}"),
            Self::Rest(name) => write!(f, "{{*{name}}}"),
        }
    }
}
