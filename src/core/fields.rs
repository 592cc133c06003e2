//! The fields of a message, in the order in which they came.
//!
//! They lie as they are written, line behind line in one piece of text, and beside it where each line begins: a head that
//! was read is taken over in one copy, and what is passed on of it goes out in runs of lines. Names are in lower case. A
//! message is asked for far more fields than it has, so a mark of one bit for each name that may be there makes it cost
//! next to nothing to look for one that is not. Where a name stands several times, its values keep their order. How many
//! there may be, and of how many bytes, is bounded by whoever reads them from outside.

use std::{fmt, slice};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::value::{IsValue, Value};

/// Room for what is mostly added to fields that were read.
const ADDED: usize = 3;
const BYTES_ADDED: usize = 112;
/// So many letters are made small at once.
const WIDTH: usize = 16;
/// What stands between a name and its value, and behind it.
const COLON: &[u8; 2] = b": ";
const END: &[u8; 2] = b"\r\n";

/// The fields of a message.
#[derive(Clone, Default)]
pub struct Fields {
    /// Lines, each as [`Line`] has it. What no line covers, since it was taken away or not written as it should be, means
    /// nothing.
    text: Vec<u8>,
    lines: Vec<Line>,
    /// Of all names that are or were there.
    marks: Marks,
    /// Whether in one of those that came from outside there may be a `_`.
    underscored: bool,
}

/// Where a field stands: its name, [`COLON`], its value, [`END`].
#[derive(Debug, Clone, Copy)]
struct Line {
    from: u32,
    value: u32,
    name: u16,
    /// The place of its name's mark.
    mark: u8,
}

impl Line {
    fn name<'a>(&self, text: &'a [u8]) -> Name<'a> {
        let from = self.from as usize;
        Name { text: &text[from..from + usize::from(self.name)], mark: self.mark }
    }

    fn value<'a>(&self, text: &'a [u8]) -> Value<'a> {
        let end = self.end() - END.len();
        Value::in_field(&text[end - self.value as usize..end])
    }

    /// Where the next line may begin.
    fn end(&self) -> usize {
        self.from as usize + usize::from(self.name) + COLON.len() + self.value as usize + END.len()
    }
}

/// The marks of some names: whether one is among them is told by one bit, which a few others share with it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Marks(u64);

impl Marks {
    /// Those of these names.
    #[must_use]
    pub const fn of(names: &[&str]) -> Self {
        let (mut marks, mut at) = (0, 0);
        while at < names.len() {
            marks |= 1 << mark(names[at].as_bytes());
            at += 1;
        }
        Self(marks)
    }

    /// Those of one or the other.
    #[must_use]
    pub const fn and(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// Whether this name may be among them, in whatever case. Where it is not it mostly may not.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(self, name: &str) -> bool {
        self.0 >> mark(name.as_bytes()) & 1 != 0
    }
}

/// The place of a name's mark, by its length, its first byte and its last, in whatever case.
#[inline(always)]
const fn mark(name: &[u8]) -> u8 {
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 0 };
    // Without the bit that tells cases apart.
    let (first, last) = ((*first | 0x20) as usize, (*last | 0x20) as usize);
    ((name.len() + 15 * first + 9 * last) % 64) as u8
}

/// The name of a field that is there.
#[derive(Debug, Clone, Copy)]
pub struct Name<'a> {
    text: &'a [u8],
    mark: u8,
}

impl<'a> Name<'a> {
    /// Its letters, all of them small.
    #[inline]
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.text
    }

    /// The same as text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        std::str::from_utf8(self.text).unwrap_or_default()
    }

    /// Whether it may be among the names with these marks. Where it is not it mostly may not.
    #[inline(always)]
    #[must_use]
    pub const fn may_be(self, marks: Marks) -> bool {
        marks.0 >> self.mark & 1 != 0
    }
}

impl AsRef<[u8]> for Name<'_> {
    fn as_ref(&self) -> &[u8] {
        self.text
    }
}

impl From<Name<'_>> for HeaderName {
    fn from(name: Name<'_>) -> Self {
        Self::from_lowercase(name.text).expect("a name is one")
    }
}

/// What names a field, in small letters.
pub trait Named {
    /// The name.
    fn name(&self) -> &[u8];
}

impl Named for HeaderName {
    #[inline(always)]
    fn name(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

/// What the program itself has written.
impl Named for str {
    #[inline(always)]
    fn name(&self) -> &[u8] {
        debug_assert!(HeaderName::from_lowercase(self.as_bytes()).is_ok(), "{self:?} is no name in small letters");
        self.as_bytes()
    }
}

impl Named for Name<'_> {
    #[inline(always)]
    fn name(&self) -> &[u8] {
        self.text
    }
}

impl<N: Named + ?Sized> Named for &N {
    #[inline(always)]
    fn name(&self) -> &[u8] {
        (**self).name()
    }
}

impl<N: Named> PartialEq<N> for Name<'_> {
    #[inline(always)]
    fn eq(&self, other: &N) -> bool {
        self.mark == mark(other.name()) && self.text == other.name()
    }
}

impl Fields {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { text: Vec::new(), lines: Vec::new(), marks: Marks(0), underscored: false }
    }

    /// None, with room for so many, which have so many bytes.
    #[must_use]
    pub fn with_capacity(fields: usize, bytes: usize) -> Self {
        Self { text: Vec::with_capacity(bytes), lines: Vec::with_capacity(fields), ..Self::new() }
    }

    /// How many there are; one that stands twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// No fewer bytes than they have when they are written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Takes all away, and keeps the room.
    pub fn clear(&mut self) {
        self.text.clear();
        self.lines.clear();
        (self.marks, self.underscored) = (Marks(0), false);
    }

    /// Whether there may be one of those with these marks.
    #[inline(always)]
    #[must_use]
    pub const fn may_have(&self, marks: Marks) -> bool {
        self.marks.0 & marks.0 != 0
    }

    /// Whether one of those that were read, or taken over from such, may have a `_` in its name.
    #[must_use]
    pub const fn may_be_underscored(&self) -> bool {
        self.underscored
    }

    /// Those from the first with this name on. Where it is asked for by a constant, its mark is one, too.
    #[inline(always)]
    fn beginning_with(&self, name: &impl Named) -> &[Line] {
        let name = name.name();
        let mark = mark(name);
        if self.marks.0 >> mark & 1 == 0 { &[] } else { self.look_for(name, mark) }
    }

    #[inline(never)]
    fn look_for(&self, name: &[u8], mark: u8) -> &[Line] {
        let is_it = |line: &Line| line.mark == mark && line.name(&self.text).text == name;
        self.lines.iter().position(is_it).map_or(&[], |first| &self.lines[first..])
    }

    /// The first value of a field.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, name: impl Named) -> Option<Value<'_>> {
        self.beginning_with(&name).first().map(|line| line.value(&self.text))
    }

    /// All values of a field.
    #[inline(always)]
    #[must_use]
    pub fn get_all(&self, name: impl Named) -> Values<'_> {
        Values { text: &self.text, lines: self.beginning_with(&name) }
    }

    /// Whether there is such a field.
    #[inline(always)]
    #[must_use]
    pub fn contains_key(&self, name: impl Named) -> bool {
        !self.beginning_with(&name).is_empty()
    }

    /// Puts a field behind all others.
    #[inline(always)]
    pub fn append(&mut self, name: impl Named, value: impl IsValue) {
        let name = name.name();
        let line = self.write_line(name, mark(name), value.as_value().as_bytes());
        self.lines.push(line);
    }

    /// The same, with a value of several parts.
    pub fn append_parts<const N: usize>(&mut self, name: impl Named, parts: [Value<'_>; N]) {
        let name = name.name();
        let length = parts.iter().map(|part| part.len()).sum();
        let line = self.begin_line(name, mark(name), length);
        for part in parts {
            self.text.extend_from_slice(part.as_bytes());
        }
        self.text.extend_from_slice(END);
        self.lines.push(line);
    }

    /// Puts a line behind the text.
    fn write_line(&mut self, name: &[u8], mark: u8, value: &[u8]) -> Line {
        let line = self.begin_line(name, mark, value.len());
        self.text.extend_from_slice(value);
        self.text.extend_from_slice(END);
        line
    }

    /// The same up to its value, which has so many bytes.
    #[inline]
    fn begin_line(&mut self, name: &[u8], mark: u8, value: usize) -> Line {
        let line = Line::at(self.text.len(), name.len(), mark, value).expect("what is read has bounds");
        self.text.reserve(name.len() + COLON.len() + value + END.len());
        self.text.extend_from_slice(name);
        self.text.extend_from_slice(COLON);
        self.marks.0 |= 1 << mark;
        line
    }

    /// Puts a field in the place of all with its name, the first of which gives it its place.
    pub fn insert(&mut self, name: impl Named, value: impl IsValue) {
        let place = self.lines.len() - self.beginning_with(&name).len();
        let name = name.name();
        let line = self.write_line(name, mark(name), value.as_value().as_bytes());
        if place == self.lines.len() {
            return self.lines.push(line);
        }
        self.lines[place] = line;
        let (text, mut at) = (&self.text, 0);
        self.lines.retain(|other| {
            at += 1;
            at <= place + 1 || other.name(text).text != name
        });
    }

    /// Puts a field behind all others, where there is none with its name.
    pub fn add_missing<V: IsValue>(&mut self, name: impl Named, value: impl FnOnce() -> V) {
        if !self.contains_key(&name) {
            self.append(name, value());
        }
    }

    /// Takes a field away, however often it stands there.
    #[inline]
    pub fn remove(&mut self, name: impl Named) {
        if self.contains_key(&name) {
            self.retain(|other, _| other != name);
        }
    }

    /// Keeps those of which this is true.
    pub fn retain(&mut self, mut stays: impl FnMut(Name<'_>, Value<'_>) -> bool) {
        let text = &self.text;
        self.lines.retain(|line| stays(line.name(text), line.value(text)));
    }

    /// Puts those of others of which this is true behind all that are there.
    pub fn append_from<'a>(&mut self, others: &'a Self, mut passes: impl FnMut(Name<'a>, Value<'a>) -> bool) {
        let mut end = self.text.len();
        self.lines.reserve(others.lines.len());
        let lines = &mut self.lines;
        let marks = &mut self.marks;
        others.runs(&mut self.text, |line| {
            let is_passed = passes(line.name(&others.text), line.value(&others.text));
            if is_passed {
                lines.push(Line { from: u32::try_from(end).expect("what is read has bounds"), ..*line });
                end += line.end() - line.from as usize;
                marks.0 |= 1 << line.mark;
            }
            is_passed
        });
        self.underscored |= others.underscored;
    }

    /// Writes those of which this is true, line by line.
    pub fn write(&self, out: &mut Vec<u8>, mut goes_out: impl FnMut(Name<'_>) -> bool) {
        self.runs(out, |line| goes_out(line.name(&self.text)));
    }

    /// Copies lines, and those that lie one behind the other at once.
    #[inline(always)]
    fn runs(&self, out: &mut Vec<u8>, mut is_copied: impl FnMut(&Line) -> bool) {
        let mut run = 0..0;
        for line in &self.lines {
            if !is_copied(line) {
                continue;
            }
            if line.from as usize != run.end {
                out.extend_from_slice(&self.text[run]);
                run = line.from as usize..0;
            }
            run.end = line.end();
        }
        out.extend_from_slice(&self.text[run]);
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_> {
        Iter { text: &self.text, lines: self.lines.iter() }
    }

    /// Their names, one for each value.
    pub fn keys(&self) -> impl Iterator<Item = Name<'_>> {
        self.lines.iter().map(|line| line.name(&self.text))
    }
}

/// What was read.
impl Fields {
    /// Takes this part of a message over, in which so many fields are to be found, of which [`Fields::read`] is told.
    pub(crate) fn copy(&mut self, part: &[u8], fields: usize) {
        self.clear();
        self.lines.reserve(fields + ADDED);
        self.text.reserve(part.len() + WIDTH + BYTES_ADDED);
        self.text.extend_from_slice(part);
        // So that the last name, too, has as much behind it.
        self.text.extend_from_slice(&[0; WIDTH]);
    }

    /// Puts a field behind all others that a parser of HTTP has found in the part of a message that was taken over. Nothing
    /// else may come in here, since it is written as it is. `None`: its name is too long.
    pub(crate) fn read(&mut self, part: &[u8], name: &str, value: &[u8]) -> Option<()> {
        debug_assert!(Value::new(value).is_ok(), "a parser has let through what may not stand in a field");
        let offset = |piece: &[u8]| piece.as_ptr().addr().wrapping_sub(part.as_ptr().addr());
        let stands = |at: usize, these: &[u8; 2]| part.get(at..).and_then(<[u8]>::first_chunk) == Some(these);
        let mark = mark(name.as_bytes());
        let mut line = Line::at(offset(name.as_bytes()), name.len(), mark, value.len())?;
        let begin = line.from as usize + name.len();
        if offset(value) == begin + COLON.len() && stands(begin, COLON) && stands(line.end() - END.len(), END) {
            self.marks.0 |= 1 << mark;
        } else {
            line = self.write_line(name.as_bytes(), mark, value);
        }
        self.underscored |= to_lowercase(&mut self.text[line.from as usize..], name.len());
        self.lines.push(line);
        Some(())
    }
}

/// Makes so many of the first letters small ones. Returns whether there may be a `_` among them.
#[inline(always)]
fn to_lowercase(text: &mut [u8], length: usize) -> bool {
    let (mut underscored, mut at) = (false, 0);
    while at < length {
        let Some(letters) = text.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
            text[at..length].make_ascii_lowercase();
            return true;
        };
        underscored |= to_lowercase_at_once(letters, length - at);
        at += WIDTH;
    }
    underscored
}

/// The same of as many as there are; in a function of its own, which compilers make one of a few steps of.
#[inline(never)]
fn to_lowercase_at_once(letters: &mut [u8; WIDTH], length: usize) -> bool {
    const COUNTS: [u8; 2 * WIDTH] = {
        let mut counts = [0; 2 * WIDTH];
        counts.split_at_mut(WIDTH).0.copy_from_slice(&[u8::MAX; WIDTH]);
        counts
    };
    let counts: &[u8; WIDTH] = COUNTS[WIDTH - length.min(WIDTH)..].first_chunk().expect("it is as wide");
    let mut underscored = 0;
    for (letter, counts) in letters.iter_mut().zip(counts) {
        underscored |= counts & u8::from(*letter == b'_');
        *letter |= counts & (u8::from(letter.wrapping_sub(b'A') < 26) << 5);
    }
    underscored != 0
}

impl Line {
    /// `None`: it is longer or farther away than any may be.
    fn at(from: usize, name: usize, mark: u8, value: usize) -> Option<Self> {
        let (from, value) = (u32::try_from(from).ok()?, u32::try_from(value).ok()?);
        Some(Self { from, value, name: u16::try_from(name).ok()?, mark })
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other)
    }
}

impl Eq for Fields {}

impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(name, value)| (name.as_str(), value))).finish()
    }
}

/// All values of one field, in order.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    text: &'a [u8],
    /// From the next one on.
    lines: &'a [Line],
}

impl<'a> Values<'a> {
    fn following(&mut self) -> Option<Value<'a>> {
        let (line, behind) = self.lines.split_first()?;
        let name = line.name(self.text);
        let next = behind.iter().position(|there| there.mark == line.mark && there.name(self.text) == name);
        self.lines = next.map_or(&[], |next| &behind[next..]);
        Some(line.value(self.text))
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Value<'a>> {
        // Most fields that are asked for are not there.
        if self.lines.is_empty() { None } else { self.following() }
    }
}

/// All fields, in order.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    text: &'a [u8],
    lines: slice::Iter<'a, Line>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (Name<'a>, Value<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.lines.next().map(|line| (line.name(self.text), line.value(self.text)))
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (Name<'a>, Value<'a>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl<N: Named, V: IsValue> Extend<(N, V)> for Fields {
    fn extend<I: IntoIterator<Item = (N, V)>>(&mut self, fields: I) {
        for (name, value) in fields {
            self.append(name, value);
        }
    }
}

impl<N: Named, V: IsValue> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let mut all = Self::new();
        all.extend(fields);
        all
    }
}

/// What HTTP/2 came with.
impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        let bytes = map.iter().map(|(name, value)| name.as_str().len() + value.len() + COLON.len() + END.len()).sum();
        let mut fields = Self::with_capacity(map.len(), bytes);
        for (name, value) in map {
            fields.underscored |= name.as_str().contains('_');
            fields.append(name, Value::in_field(value.as_bytes()));
        }
        fields
    }
}

/// What HTTP/2 is given.
impl From<Fields> for HeaderMap {
    fn from(fields: Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        // As long as it is: it stays until the last of them is sent.
        let text = Bytes::copy_from_slice(&fields.text);
        for line in fields.lines {
            let end = line.end() - END.len();
            let value = HeaderValue::from_maybe_shared(text.slice(end - line.value as usize..end));
            map.append(HeaderName::from(line.name(&text)), value.expect("the same bytes may stand in a field"));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::value::FieldValue;

    /// Two of them have the same mark.
    const NAMES: [&str; 5] = ["etag", "x-a", "x_long-name", "content-length", "ea-g"];

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize, u16),
        Insert(usize, u16),
        AddMissing(usize, u16),
        Remove(usize),
        /// The fields are put behind a copy of those with this name.
        Double(usize),
        /// What is written is read.
        Read,
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let field = || (0..NAMES.len(), any::<u16>());
        prop_oneof![
            4 => field().prop_map(|(name, value)| Step::Append(name, value)),
            2 => field().prop_map(|(name, value)| Step::Insert(name, value)),
            2 => field().prop_map(|(name, value)| Step::AddMissing(name, value)),
            2 => (0..NAMES.len()).prop_map(Step::Remove),
            1 => (0..NAMES.len()).prop_map(Step::Double),
            1 => Just(Step::Read),
            1 => Just(Step::Clear),
        ]
    }

    fn told(fields: &Fields) -> Vec<(&str, &[u8])> {
        fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
    }

    fn all<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
        fields.get_all(name).map(Value::as_bytes).collect()
    }

    fn written(fields: &Fields) -> Vec<u8> {
        let mut out = Vec::new();
        fields.write(&mut out, |_| true);
        out
    }

    /// As a parser finds them.
    fn read(part: &[u8]) -> Fields {
        let mut room = [httparse::EMPTY_HEADER; 256];
        let (_, headers) = httparse::parse_headers(part, &mut room).unwrap().unwrap();
        let mut fields = Fields::from_iter([("left-over", Value::in_field(b"1"))]);
        fields.copy(part, headers.len());
        for header in headers {
            fields.read(part, header.name, header.value).unwrap();
        }
        fields
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_map_would_find(steps in prop::collection::vec(step(), 0..30)) {
            let (mut fields, mut map) = (Fields::new(), HeaderMap::new());
            for step in steps {
                match step {
                    Step::Append(name, value) => {
                        let value = value.to_string();
                        let (first, last) = value.as_bytes().split_at(value.len() / 2);
                        fields.append_parts(NAMES[name], [first, b"", last].map(Value::in_field));
                        map.append(NAMES[name], HeaderValue::try_from(value).unwrap());
                    }
                    Step::Insert(name, value) => {
                        fields.insert(NAMES[name], FieldValue::from(u64::from(value)));
                        map.insert(NAMES[name], value.into());
                    }
                    Step::AddMissing(name, value) => {
                        fields.add_missing(NAMES[name], || FieldValue::from(u64::from(value)));
                        map.entry(NAMES[name]).or_insert_with(|| value.into());
                    }
                    Step::Remove(name) => {
                        fields.remove(NAMES[name]);
                        map.remove(NAMES[name]);
                    }
                    Step::Double(name) => {
                        let mut double = Fields::new();
                        double.append_from(&fields, |other, _| other == NAMES[name]);
                        double.append_from(&fields, |_, _| true);
                        fields = double;
                        let values: Vec<_> = map.get_all(NAMES[name]).iter().cloned().collect();
                        for value in values {
                            map.append(NAMES[name], value);
                        }
                    }
                    Step::Read => fields = read(&[&written(&fields)[..], b"\r\n"].concat()),
                    Step::Clear => {
                        fields.clear();
                        map.clear();
                    }
                }
                prop_assert_eq!((fields.len(), fields.is_empty()), (map.len(), map.is_empty()));
                for name in NAMES {
                    let values: Vec<_> = map.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                    prop_assert_eq!(fields.get(name).map(Value::as_bytes), values.first().copied());
                    prop_assert_eq!(fields.contains_key(HeaderName::from_static(name)), map.contains_key(name));
                    prop_assert!(fields.may_have(Marks::of(&[name])) || values.is_empty());
                    prop_assert_eq!(all(&fields, name), values);
                }
                prop_assert_eq!(&HeaderMap::from(fields.clone()), &map);
                let lines = |(name, value): (&str, &[u8])| [name.as_bytes(), b": ", value, b"\r\n"].concat();
                prop_assert_eq!(written(&fields), told(&fields).into_iter().flat_map(lines).collect::<Vec<_>>());
            }
            let again = Fields::from(&map);
            prop_assert_eq!(again.may_be_underscored(), map.contains_key(NAMES[2]));
            prop_assert!(NAMES.iter().all(|name| all(&fields, name) == all(&again, name)));
        }

        #[test]
        fn what_is_read_is_what_the_parser_found(
            lines in prop::collection::vec(("[A-Za-z_-]{1,20}", " {0,2}", "[ -~]{0,40}", " ?", "\r?\n"), 0..8)
        ) {
            let part: String =
                lines.iter().map(|(name, before, value, behind, end)| [name, ":", before, value, behind, end].concat()).collect();
            let fields = read([&part, "\r\n"].concat().as_bytes());
            let expected: Vec<_> =
                lines.iter().map(|(name, _, value, _, _)| (name.to_ascii_lowercase(), value.trim().as_bytes())).collect();
            prop_assert_eq!(told(&fields), expected.iter().map(|(name, value)| (name.as_str(), *value)).collect::<Vec<_>>());
            prop_assert!(fields.may_be_underscored() || !lines.iter().any(|(name, ..)| name.contains('_')));
        }
    }

    #[test]
    fn fields_keep_their_order_and_their_place() {
        let lines = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")];
        let mut fields: Fields = lines.iter().map(|(name, value)| (*name, FieldValue::from_static(value))).collect();
        assert_eq!(told(&fields), [("b", &b"1"[..]), ("a", b"2"), ("b", b"3"), ("c", b"4")]);
        fields.insert("b", FieldValue::from_static("5"));
        assert_eq!(told(&fields), [("b", &b"5"[..]), ("a", b"2"), ("c", b"4")]);
        assert_eq!(written(&fields), b"b: 5\r\na: 2\r\nc: 4\r\n");
        fields.retain(|name, _| name != "a");
        assert_eq!(told(&fields), [("b", &b"5"[..]), ("c", b"4")]);
        assert_eq!(fields, Fields::from_iter([("b", Value::in_field(b"5")), ("c", Value::in_field(b"4"))]));
    }

    #[test]
    fn a_mark_is_the_same_in_whatever_case() {
        for name in ["ETag", "Content-Length", "X-Ünlike", ""] {
            assert_eq!(mark(name.as_bytes()), mark(name.to_ascii_lowercase().as_bytes()), "{name}");
        }
        assert_eq!(mark(NAMES[0].as_bytes()), mark(NAMES[4].as_bytes()));
    }

    /// So that what is read can be given to HTTP/2.
    #[test]
    fn what_a_parser_lets_through_is_a_name_and_a_value() {
        for byte in 0..=u8::MAX {
            for line in [[b"a", &[byte][..], b"b: 1\r\n\r\n"].concat(), [b"a: 1", &[byte][..], b"2\r\n\r\n"].concat()] {
                let mut room = [httparse::EMPTY_HEADER; 2];
                let Ok(httparse::Status::Complete((_, [found]))) = httparse::parse_headers(&line, &mut room) else {
                    continue;
                };
                let mut fields = Fields::new();
                fields.copy(&line, 1);
                fields.read(&line, found.name, found.value).unwrap();
                let map = HeaderMap::from(fields);
                assert_eq!(map.get(found.name).map(HeaderValue::as_bytes), Some(found.value), "{byte:#x}");
            }
        }
        let longest = ["a".repeat(usize::from(u16::MAX)), "b".repeat(usize::from(u16::MAX) + 1)];
        let [fits, does_not] = longest.map(|name| {
            let line = format!("{name}: 1\r\n\r\n");
            let mut fields = Fields::new();
            fields.copy(line.as_bytes(), 1);
            fields.read(line.as_bytes(), &line[..name.len()], &line.as_bytes()[name.len() + 2..][..1]).map(|()| fields)
        });
        assert_eq!(fits.map(HeaderMap::from).unwrap().len(), 1);
        assert!(does_not.is_none());
    }

    #[test]
    fn letters_are_made_small_and_no_others() {
        let all: Vec<u8> = (0..=u8::MAX).collect();
        for (from, length) in [(0, 256), (0, 128), (3, 91), (60, 5), (64, 8), (65, 9), (251, 5), (0, 0)] {
            let mut text = all[from..].to_vec();
            let underscored = to_lowercase(&mut text, length);
            let expected = [&all[from..from + length].to_ascii_lowercase()[..], &all[from + length..]].concat();
            assert_eq!(text, expected, "{from} {length}");
            assert!(underscored || !all[from..from + length].contains(&b'_'));
        }
        assert!(!to_lowercase(&mut b"Content-Length: 5".to_vec(), 14));
        assert!(to_lowercase(&mut b"Content_Length: 5".to_vec(), 14));
    }
}
