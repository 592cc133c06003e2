//! Header fields -> what the client demands, or malformed.
//!
//! A malformed precondition is never an absent one: whoever sent it meant to be protected. The one exception is
//! `If-Unmodified-Since`, where RFC 9110 §13.1.4 asks that an invalid date be ignored.

use http::{
    HeaderName,
    header::{IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE},
};
use httpdate::HttpDate;

use super::{
    dav,
    etag::{EntityTag, TagError},
    fields::Fields,
};

/// The fields that carry a write's preconditions.
pub static FIELDS: [HeaderName; 3] = [IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];
/// WebDAV's own (RFC 4918 §10.4). It is a precondition where the route says so.
pub const IF: HeaderName = HeaderName::from_static("if");

/// What a client demands of the resource's state before its write may happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demands {
    /// `If-Match` (RFC 9110 §13.1.1).
    pub if_match: Option<Tags>,
    /// `If-None-Match` (RFC 9110 §13.1.2).
    pub if_none_match: Option<Tags>,
    /// `If-Unmodified-Since` (RFC 9110 §13.1.4). Absent where `If-Match` is present, which goes before it.
    pub if_unmodified_since: Option<HttpDate>,
    /// What has to match beside `If-Match`, since it stands in another field, too. Only where `if_match` is there.
    pub and_match: Option<Tags>,
    /// What `If` (RFC 4918 §10.4) says of the target's tags. [`Demands::parse`] does not read it: what it is about depends
    /// on the target, and whether it counts on the route.
    pub if_dav: Option<dav::Demand>,
}

/// The value of `If-Match` or `If-None-Match`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: any state, as long as there is one.
    Any,
    /// One of these; never empty.
    OneOf(Vec<EntityTag>),
}

/// A precondition that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Malformed {
    /// The field at fault.
    pub field: HeaderName,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a list of tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// A member is no tag.
    #[error("{0}")]
    Tag(#[from] TagError),
    /// There is no member at all.
    #[error("it names no tag")]
    Empty,
    /// `*` stands beside something else.
    #[error("* must stand alone")]
    StarInList,
    /// It is WebDAV's `If`, and not of its grammar.
    #[error("{0}")]
    If(#[from] dav::IfError),
}

impl Demands {
    /// Reads the preconditions of a write.
    ///
    /// # Errors
    ///
    /// A field that is present but can't be read.
    pub fn parse(headers: &Fields) -> Result<Self, Malformed> {
        let if_match = Tags::parse(headers, IF_MATCH)?;
        let if_none_match = Tags::parse(headers, IF_NONE_MATCH)?;
        let if_unmodified_since = match if_match {
            Some(_) => None,
            None => parse_date(headers),
        };
        Ok(Self { if_match, if_none_match, if_unmodified_since, and_match: None, if_dav: None })
    }

    /// Reads one more field, whose value means what that of `If-Match` does. Where both are there both must hold.
    ///
    /// # Errors
    ///
    /// The field is present but can't be read.
    pub fn and_in(mut self, headers: &Fields, field: &HeaderName) -> Result<Self, Malformed> {
        if let Some(tags) = Tags::parse(headers, field.clone())? {
            self.if_unmodified_since = None;
            match self.if_match {
                None => self.if_match = Some(tags),
                Some(_) => self.and_match = Some(tags),
            }
        }
        Ok(self)
    }

    /// Reads WebDAV's `If`, if it is there. `is_target` says whether a reference in it names the target.
    ///
    /// # Errors
    ///
    /// It is there and can't be read.
    pub fn parse_if(headers: &Fields, is_target: impl FnMut(&[u8]) -> bool) -> Result<Option<dav::Demand>, Malformed> {
        let malformed = |why: dav::IfError| Malformed { field: IF, why: why.into() };
        let mut lines = headers.get_all(IF);
        match (lines.next(), lines.next()) {
            (None, _) => Ok(None),
            (Some(only), None) => {
                dav::If::parse(only.as_bytes()).map(|field| field.demand(is_target)).map_err(malformed)
            }
            (Some(_), Some(_)) => Err(malformed(dav::IfError::Repeated)),
        }
    }

    /// Whether nothing is demanded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names_no_tag() && self.if_unmodified_since.is_none()
    }

    /// Whether nothing is demanded of the resource's tags, and so at most of its date.
    #[must_use]
    pub fn names_no_tag(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none() && self.if_dav.is_none()
    }
}

impl Tags {
    /// All lines of the field are one list (RFC 9110 §5.3); a tag can't span two of them, since the space of the
    /// joining ", " may not stand in a tag.
    ///
    /// # Errors
    ///
    /// A field that is present but can't be read.
    pub fn parse(headers: &Fields, field: HeaderName) -> Result<Option<Self>, Malformed> {
        let mut present = false;
        let mut star = false;
        let mut tags = Vec::new();
        for line in headers.get_all(&field) {
            present = true;
            if let Err(why) = parse_line(line.as_bytes(), &mut star, &mut tags) {
                return Err(Malformed { field, why });
            }
        }
        match (present, star, tags.is_empty()) {
            (false, ..) => Ok(None),
            (true, true, true) => Ok(Some(Self::Any)),
            (true, false, false) => Ok(Some(Self::OneOf(tags))),
            (true, true, false) => Err(Malformed { field, why: Why::StarInList }),
            (true, false, true) => Err(Malformed { field, why: Why::Empty }),
        }
    }
}

/// Reads one line: members parted by commas with optional white space around them; empty members pass (RFC 9110
/// §5.6.1.2).
fn parse_line(line: &[u8], star: &mut bool, tags: &mut Vec<EntityTag>) -> Result<(), Why> {
    let mut rest = line.trim_ascii();
    while !rest.is_empty() {
        if rest[0] == b'*' {
            if *star {
                return Err(Why::StarInList);
            }
            *star = true;
            rest = &rest[1..];
        } else if rest[0] != b',' {
            let (tag, after) = EntityTag::parse_prefix(rest)?;
            tags.push(tag);
            rest = after;
        }
        rest = match rest.trim_ascii_start() {
            [] => &[],
            [b',', after @ ..] => after.trim_ascii_start(),
            _ => return Err(TagError::Trailing.into()),
        };
    }
    Ok(())
}

/// A list of dates is not a date, and neither is anything else that can't be read: RFC 9110 §13.1.4 ignores them.
fn parse_date(headers: &Fields) -> Option<HttpDate> {
    let mut lines = headers.get_all(IF_UNMODIFIED_SINCE);
    let only = lines.next().filter(|_| lines.next().is_none())?;
    only.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {

    use proptest::prelude::*;

    use super::*;
    use crate::core::value::FieldValue;

    fn headers(field: &HeaderName, lines: &[&[u8]]) -> Fields {
        let mut map = Fields::new();
        for line in lines {
            map.append(field, FieldValue::from_bytes(line).expect("a field value"));
        }
        map
    }

    fn tags(list: &[&str]) -> Tags {
        Tags::OneOf(list.iter().map(|t| EntityTag::parse(t.as_bytes()).expect(t)).collect())
    }

    #[test]
    fn reads_lists_of_tags() {
        let rows: &[(&[&[u8]], Tags)] = &[
            (&[b"*"], Tags::Any),
            (&[b" * "], Tags::Any),
            (&[b",*,"], Tags::Any),
            (&[b"\"a\""], tags(&["\"a\""])),
            (&[b"W/\"a\""], tags(&["W/\"a\""])),
            (&[b"\"a\", \"b\""], tags(&["\"a\"", "\"b\""])),
            (&[b"\"a\",\"b\""], tags(&["\"a\"", "\"b\""])),
            (&[b"\"a\"\t,\t\"b\""], tags(&["\"a\"", "\"b\""])),
            (&[b",, \"a\",, ,W/\"b\","], tags(&["\"a\"", "W/\"b\""])),
            (&[b"\"a,b\""], tags(&["\"a,b\""])),
            (&[b"\"a\\\", \"b\""], tags(&["\"a\\\"", "\"b\""])),
            (&[b"\"a\"", b"\"b\", \"c\""], tags(&["\"a\"", "\"b\"", "\"c\""])),
            (&[b"", b"\"a\""], tags(&["\"a\""])),
        ];
        for (lines, expected) in rows {
            for field in [IF_MATCH, IF_NONE_MATCH] {
                let found = Tags::parse(&headers(&field, lines), field.clone());
                assert_eq!(found.as_ref(), Ok(&Some(expected.clone())), "{lines:?}");
            }
        }
    }

    #[test]
    fn a_malformed_precondition_is_never_an_absent_one() {
        let rows: &[(&[&[u8]], Why)] = &[
            (&[b""], Why::Empty),
            (&[b" , ,"], Why::Empty),
            (&[b"a"], Why::Tag(TagError::Unquoted)),
            (&[b"w/\"a\""], Why::Tag(TagError::Unquoted)),
            (&[b"\"a"], Why::Tag(TagError::Unterminated)),
            (&[b"\"a", b"b\""], Why::Tag(TagError::Unterminated)),
            (&[b"\"a\" \"b\""], Why::Tag(TagError::Trailing)),
            (&[b"\"a\"b"], Why::Tag(TagError::Trailing)),
            (&[b"\"a\"; \"b\""], Why::Tag(TagError::Trailing)),
            (&[b"\"a b\""], Why::Tag(TagError::Byte(b' '))),
            (&[b"**"], Why::Tag(TagError::Trailing)),
            (&[b"*, *"], Why::StarInList),
            (&[b"*", b"*"], Why::StarInList),
            (&[b"*, \"a\""], Why::StarInList),
            (&[b"\"a\"", b"*"], Why::StarInList),
            (&[b"\"a\", b"], Why::Tag(TagError::Unquoted)),
        ];
        for (lines, why) in rows {
            for field in [IF_MATCH, IF_NONE_MATCH] {
                let found = Demands::parse(&headers(&field, lines));
                assert_eq!(found, Err(Malformed { field, why: *why }), "{lines:?}");
            }
        }
    }

    #[test]
    fn if_unmodified_since_is_ignored_where_invalid_or_beside_if_match() {
        let read = |lines: &[&[u8]]| {
            Demands::parse(&headers(&IF_UNMODIFIED_SINCE, lines)).expect("never malformed").if_unmodified_since
        };
        let date = "Sat, 29 Oct 1994 19:43:31 GMT".parse::<HttpDate>().ok();
        assert!(date.is_some());
        assert_eq!(read(&[b"Sat, 29 Oct 1994 19:43:31 GMT"]), date);
        assert_eq!(read(&[b"Saturday, 29-Oct-94 19:43:31 GMT"]), date);
        assert_eq!(read(&[b"Sat Oct 29 19:43:31 1994"]), date);
        for invalid in ["", "yesterday", "0", "\"a\"", "Sat, 29 Oct 1994 19:43:31 GMT, Sun, 30 Oct 1994 19:43:31 GMT"] {
            assert_eq!(read(&[invalid.as_bytes()]), None, "{invalid}");
        }
        assert_eq!(read(&[b"Sat, 29 Oct 1994 19:43:31 GMT", b"Sat, 29 Oct 1994 19:43:31 GMT"]), None);

        let mut both = headers(&IF_UNMODIFIED_SINCE, &[b"Sat, 29 Oct 1994 19:43:31 GMT"]);
        both.insert(IF_MATCH, FieldValue::from_static("\"a\""));
        let demands = Demands::parse(&both).expect("well-formed");
        assert_eq!((demands.if_match, demands.if_unmodified_since), (Some(tags(&["\"a\""])), None));
    }

    #[test]
    fn another_field_may_say_what_if_match_does() {
        let field = HeaderName::from_static("x-version");
        let read = |fields: &[(&HeaderName, &'static str)]| {
            let mut map = Fields::new();
            for (name, value) in fields {
                map.append(*name, FieldValue::from_static(value));
            }
            Demands::parse(&map)?.and_in(&map, &field)
        };
        let matching =
            |if_match: Option<Tags>, and_match: Option<Tags>| Ok(Demands { if_match, and_match, ..Demands::default() });
        let (a, b) = (|| Some(tags(&["\"a\""])), || Some(tags(&["\"b\"", "W/\"c\""])));
        let date = (&IF_UNMODIFIED_SINCE, "Sat, 29 Oct 1994 19:43:31 GMT");
        assert_eq!(read(&[]), matching(None, None));
        assert_eq!(read(&[(&field, "\"a\"")]), matching(a(), None));
        assert_eq!(read(&[(&field, "\"b\""), (&field, "W/\"c\"")]), matching(b(), None));
        assert_eq!(read(&[(&field, "*")]), matching(Some(Tags::Any), None));
        assert_eq!(read(&[(&IF_MATCH, "\"a\""), (&field, "\"b\", W/\"c\"")]), matching(a(), b()));
        assert_eq!(read(&[(&IF_MATCH, "\"a\"")]), matching(a(), None));
        assert_eq!(read(&[(&field, "\"a\""), date]), matching(a(), None));
        assert!(read(&[date]).is_ok_and(|demands| demands.if_unmodified_since.is_some()));
        for (value, why) in [
            ("", Why::Empty),
            ("7", Why::Tag(TagError::Unquoted)),
            ("\"a\" \"b\"", Why::Tag(TagError::Trailing)),
            ("*, \"a\"", Why::StarInList),
        ] {
            let malformed = Err(Malformed { field: field.clone(), why });
            assert_eq!(read(&[(&field, value)]), malformed, "{value}");
            assert_eq!(read(&[(&IF_MATCH, "\"a\""), (&field, value)]), malformed, "{value}");
        }
        assert!(read(&[(&IF_MATCH, "a"), (&field, "\"a\"")]).is_err_and(|malformed| malformed.field == IF_MATCH));
    }

    proptest! {
        #[test]
        fn printing_a_list_and_reading_it_gives_the_list(opaques in proptest::collection::vec("(W/)?\"[!#-~\u{80}-\u{ff}]{0,6}\"", 1..6), split in 0usize..6) {
            let (first, second) = opaques.split_at(split.min(opaques.len()));
            let lines = [first.join(", "), second.join(" ,,")];
            let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
            let expected: Vec<EntityTag> = opaques.iter().map(|t| EntityTag::parse(t.as_bytes()).expect("legal")).collect();
            prop_assert_eq!(Tags::parse(&headers(&IF_MATCH, &lines), IF_MATCH), Ok(Some(Tags::OneOf(expected))));
        }

        #[test]
        fn a_field_that_is_present_is_never_read_as_absent(value in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Ok(value) = FieldValue::from_bytes(&value) {
                let mut map = Fields::new();
                map.insert(IF_MATCH, value);
                prop_assert!(!matches!(Demands::parse(&map), Ok(demands) if demands.if_match.is_none()));
            }
        }
    }
}
