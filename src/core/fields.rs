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
mod tests;
