//! Which other resources a write changes, as a route names them: paths made of parts of the written one's.
//!
//! What such a path means to the gateway, its route and its key, is not known here. It has no query, since the written
//! resource's says nothing of another's.

use std::fmt;

use super::pattern::{PathPattern, Segment};

/// The path of a resource that a write to another one changes: `/orders/{id}`, for writes to `/orders/{id}/lines/{line}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelatedPath {
    parts: Vec<Part>,
    /// As it was written, to be shown.
    pattern: PathPattern,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    /// The written path's segment at this place.
    Segment(usize),
    /// All of the written path from this place on.
    From(usize),
}

impl RelatedPath {
    /// Reads one for writes to the paths of a pattern, whose names it may use.
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn parse(text: &str, written: &PathPattern) -> Result<Self, String> {
        let pattern = PathPattern::parse(text)?;
        if pattern == *written {
            return Err(format!("{text:?} is the written resource itself"));
        }
        let is_twice = |segment: &&Segment| written.segments.iter().filter(|other| other == segment).count() > 1;
        let is_name = |segment: &&Segment| !matches!(segment, Segment::Literal(_));
        if let Some(name) = pattern.segments.iter().filter(is_name).find(is_twice) {
            return Err(format!("{text:?} has {name}, which the route's path {written} has more than once"));
        }
        let place = |segment: &Segment| written.segments.iter().position(|other| other == segment);
        let parts = pattern.segments.iter().map(|segment| match segment {
            Segment::Literal(text) => Ok(Part::Literal(text.clone())),
            Segment::One(_) => place(segment).map(Part::Segment).ok_or(segment),
            Segment::Rest(_) => place(segment).map(Part::From).ok_or(segment),
        });
        let parts = parts.collect::<Result<_, _>>();
        match parts {
            Ok(parts) => Ok(Self { parts, pattern }),
            Err(stray) => Err(format!("{text:?} has {stray}, which the route's path {written} has not")),
        }
    }

    /// Whether a route for these paths may be the related resource's.
    pub(super) fn may_be_by(&self, route: &PathPattern) -> bool {
        route.overlaps(&self.pattern)
    }

    /// The path that is meant where this canonical one, which matches the pattern, is written.
    #[must_use]
    pub fn beside(&self, written: &str) -> String {
        let written = written.strip_prefix('/').unwrap_or(written);
        let part = |part: &Part| match part {
            Part::Literal(text) => text.clone(),
            Part::Segment(place) => written.split('/').nth(*place).unwrap_or_default().to_owned(),
            Part::From(place) => written.splitn(place + 1, '/').nth(*place).unwrap_or_default().to_owned(),
        };
        let parts: Vec<String> = self.parts.iter().map(part).collect();
        format!("/{}", parts.join("/"))
    }
}

impl fmt::Display for RelatedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pattern.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn related(text: &str, written: &str) -> Result<RelatedPath, String> {
        RelatedPath::parse(text, &PathPattern::parse(written).expect("a pattern"))
    }

    #[test]
    fn what_a_write_changes_is_made_of_its_own_path() {
        for (text, pattern, written, expected) in [
            ("/orders/{id}", "/orders/{id}/lines/{line}", "/orders/7/lines/3", "/orders/7"),
            ("/orders", "/orders/{id}/lines/{line}", "/orders/7/lines/3", "/orders"),
            ("/orders/", "/orders/{id}", "/orders/7", "/orders/"),
            ("/", "/orders/{id}", "/orders/7", "/"),
            ("/lines/{line}/of/{id}", "/orders/{id}/lines/{line}", "/orders/7/lines/3", "/lines/3/of/7"),
            ("/orders/{id}", "/orders/{id}/lines/{line}", "/orders/a%2Fb/lines/3", "/orders/a%2Fb"),
            ("/index/{*path}", "/files/{*path}", "/files/a/b/c", "/index/a/b/c"),
            ("/index/{*path}", "/files/{*path}", "/files/", "/index/"),
            ("/index/{*path}", "/{*path}", "/a/b", "/index/a/b"),
            ("/caf%c3%a9/{id}", "/{id}", "/x", "/caf%C3%A9/x"),
        ] {
            let path = related(text, pattern).expect("a path");
            assert_eq!(path.beside(written), expected, "{text} beside {written}");
        }
    }

    #[test]
    fn a_name_that_the_written_path_has_not_is_an_error() {
        for (text, pattern, stray) in [
            ("/orders/{order}", "/orders/{id}/lines/{line}", "{order}"),
            ("/orders/{*id}", "/orders/{id}", "{*id}"),
            ("/index/{path}", "/files/{*path}", "{path}"),
        ] {
            let error = related(text, pattern).expect_err("no path");
            assert_eq!(error, format!("{text:?} has {stray}, which the route's path {pattern} has not"));
        }
        let error = related("/lines/{id}", "/orders/{id}/lines/{id}").expect_err("no path");
        assert_eq!(
            error,
            "\"/lines/{id}\" has {id}, which the route's path /orders/{id}/lines/{id} has more than once"
        );
        assert!(related("/lines/{line}", "/orders/{id}/lines/{line}/{id}").is_ok());
        let error = related("/orders/{id}", "/orders/{id}").expect_err("no path");
        assert_eq!(error, "\"/orders/{id}\" is the written resource itself");
        for wrong in ["orders", "/orders?page=1", "/orders/x{id}", "/{*path}/x"] {
            assert!(related(wrong, "/{id}/{*path}").is_err(), "{wrong}");
        }
    }
}
