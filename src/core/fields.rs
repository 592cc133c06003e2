//! The fields of a message, in the order in which they came.
//!
//! A message has few fields, and is asked for far more of them than it has. So they lie in one row, and what of them a name
//! could be is told by one bit of a mark for each: to look for one that is not there costs next to nothing. Where a name
//! stands several times, its values keep their order. How many there may be is bounded by whoever reads them from outside.

use std::{ops::Index, slice};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::value::FieldValue;

/// The fields of a message.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    row: Vec<(HeaderName, FieldValue)>,
    /// The marks of all names that are or were there.
    marks: u64,
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.row == other.row
    }
}

impl Eq for Fields {}

/// What names a field that is looked for.
pub trait Names {
    /// Whether it is this one.
    fn is(&self, name: &HeaderName) -> bool;
    /// A bit that is the same for the same name.
    fn mark(&self) -> u64;
}

impl Names for HeaderName {
    fn is(&self, name: &HeaderName) -> bool {
        self == name
    }

    #[inline(always)]
    fn mark(&self) -> u64 {
        mark(self.as_str())
    }
}

impl Names for str {
    fn is(&self, name: &HeaderName) -> bool {
        name == self
    }

    #[inline(always)]
    fn mark(&self) -> u64 {
        mark(self)
    }
}

impl<N: Names + ?Sized> Names for &N {
    fn is(&self, name: &HeaderName) -> bool {
        (**self).is(name)
    }

    #[inline(always)]
    fn mark(&self) -> u64 {
        (**self).mark()
    }
}

/// What gives a field its name.
pub trait Name {
    /// The name.
    fn into_name(self) -> HeaderName;
}

impl Name for HeaderName {
    #[inline]
    fn into_name(self) -> HeaderName {
        self
    }
}

impl Name for &HeaderName {
    #[inline]
    fn into_name(self) -> HeaderName {
        self.clone()
    }
}

impl Name for &'static str {
    fn into_name(self) -> HeaderName {
        HeaderName::from_static(self)
    }
}

/// One bit by a name's length, its first byte and its last, in whatever case.
#[inline(always)]
const fn mark(name: &str) -> u64 {
    let name = name.as_bytes();
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return 1 };
    // Without the bit that tells cases apart.
    let (first, last) = ((*first | 0x20) as usize, (*last | 0x20) as usize);
    1 << ((name.len() + 15 * first + 9 * last) % 64)
}

impl Fields {
    /// None.
    #[must_use]
    pub const fn new() -> Self {
        Self { row: Vec::new(), marks: 0 }
    }

    /// None, with room for so many.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { row: Vec::with_capacity(capacity), marks: 0 }
    }

    /// How many there are; one that stands twice counts twice.
    #[must_use]
    pub fn len(&self) -> usize {
        self.row.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.row.is_empty()
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, additional: usize) {
        self.row.reserve(additional);
    }

    /// Takes all away, and keeps the room.
    pub fn clear(&mut self) {
        self.row.clear();
        self.marks = 0;
    }

    /// Those from the first with this name on. Where it is asked for by a constant, its mark is one, too.
    #[inline(always)]
    fn beginning_with(&self, name: &impl Names) -> &[(HeaderName, FieldValue)] {
        if self.marks & name.mark() == 0 { &[] } else { self.look_for(name) }
    }

    #[inline(never)]
    fn look_for(&self, name: &impl Names) -> &[(HeaderName, FieldValue)] {
        let first = self.row.iter().position(|(there, _)| name.is(there));
        first.map_or(&[], |first| &self.row[first..])
    }

    /// The first value of a field.
    #[inline(always)]
    #[must_use]
    pub fn get(&self, name: impl Names) -> Option<&FieldValue> {
        self.beginning_with(&name).first().map(|(_, value)| value)
    }

    /// All values of a field.
    #[inline(always)]
    #[must_use]
    pub fn get_all(&self, name: impl Names) -> Values<'_> {
        Values { row: self.beginning_with(&name) }
    }

    /// Whether there is such a field.
    #[inline(always)]
    #[must_use]
    pub fn contains_key(&self, name: impl Names) -> bool {
        !self.beginning_with(&name).is_empty()
    }

    /// Puts a field behind all others.
    #[inline]
    pub fn append(&mut self, name: impl Name, value: FieldValue) {
        let name = name.into_name();
        self.marks |= name.mark();
        self.row.push((name, value));
    }

    /// Puts a field in the place of all with its name, the first of which gives it its place.
    #[inline]
    pub fn insert(&mut self, name: impl Name, value: FieldValue) {
        let name = name.into_name();
        if self.marks & name.mark() == 0 {
            self.append(name, value);
        } else {
            self.replace(name, value);
        }
    }

    #[inline(never)]
    fn replace(&mut self, name: HeaderName, value: FieldValue) {
        let mut value = Some(value);
        self.row.retain_mut(|(there, old)| {
            if *there != name {
                return true;
            }
            value.take().is_some_and(|new| {
                *old = new;
                true
            })
        });
        if let Some(value) = value {
            self.append(name, value);
        }
    }

    /// Puts a field behind all others, where there is none with its name.
    pub fn add_missing(&mut self, name: impl Name, value: impl FnOnce() -> FieldValue) {
        let name = name.into_name();
        if !self.contains_key(&name) {
            self.append(name, value());
        }
    }

    /// Takes a field away, however often it stands there. Returns its first value.
    pub fn remove(&mut self, name: impl Names) -> Option<FieldValue> {
        let mut first = None;
        if self.marks & name.mark() != 0 {
            self.row.retain_mut(|(there, value)| {
                let stays = !name.is(there);
                if !stays && first.is_none() {
                    first = Some(value.clone());
                }
                stays
            });
        }
        first
    }

    /// Keeps those of which this is true.
    pub fn retain(&mut self, mut stays: impl FnMut(&HeaderName, &FieldValue) -> bool) {
        self.row.retain(|(name, value)| stays(name, value));
    }

    /// All of them.
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.row.iter())
    }

    /// Their names, one for each value.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.row.iter().map(|(name, _)| name)
    }
}

/// All values of one field, in order.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// From the next one on.
    row: &'a [(HeaderName, FieldValue)],
}

impl<'a> Values<'a> {
    /// The same, to go through.
    #[must_use]
    pub fn iter(&self) -> Self {
        *self
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a FieldValue;

    fn next(&mut self) -> Option<&'a FieldValue> {
        let ((name, value), behind) = self.row.split_first()?;
        let next = behind.iter().position(|(there, _)| there == name);
        self.row = next.map_or(&[], |next| &behind[next..]);
        Some(value)
    }
}

/// All fields, in order.
#[derive(Debug, Clone)]
pub struct Iter<'a>(slice::Iter<'a, (HeaderName, FieldValue)>);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a HeaderName, &'a FieldValue);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|(name, value)| (name, value))
    }
}

impl<'a> IntoIterator for &'a Fields {
    type Item = (&'a HeaderName, &'a FieldValue);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl IntoIterator for Fields {
    type Item = (HeaderName, FieldValue);
    type IntoIter = std::vec::IntoIter<(HeaderName, FieldValue)>;

    fn into_iter(self) -> Self::IntoIter {
        self.row.into_iter()
    }
}

impl<N: Names> Index<N> for Fields {
    type Output = FieldValue;

    /// The first value of a field that is there.
    fn index(&self, name: N) -> &FieldValue {
        self.get(name).expect("the field is there")
    }
}

impl Extend<(HeaderName, FieldValue)> for Fields {
    fn extend<I: IntoIterator<Item = (HeaderName, FieldValue)>>(&mut self, fields: I) {
        for (name, value) in fields {
            self.append(name, value);
        }
    }
}

impl FromIterator<(HeaderName, FieldValue)> for Fields {
    fn from_iter<I: IntoIterator<Item = (HeaderName, FieldValue)>>(fields: I) -> Self {
        let mut all = Self::new();
        all.extend(fields);
        all
    }
}

/// What HTTP/2 came with.
impl From<HeaderMap> for Fields {
    fn from(map: HeaderMap) -> Self {
        let mut fields = Self::with_capacity(map.len());
        let mut last = None;
        for (name, value) in map {
            // A name is told only once for all its values.
            last = name.or(last);
            if let Some(name) = &last {
                fields.append(name.clone(), value.into());
            }
        }
        fields
    }
}

/// What HTTP/2 is given.
impl From<Fields> for HeaderMap {
    fn from(fields: Fields) -> Self {
        let mut map = Self::with_capacity(fields.len());
        for (name, value) in fields {
            map.append(name, HeaderValue::from(value));
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two of them have the same mark.
    const NAMES: [&str; 5] = ["etag", "x-a", "x-b", "content-length", "ea-g"];

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize, u16),
        Insert(usize, u16),
        AddMissing(usize, u16),
        Remove(usize),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let field = || (0..NAMES.len(), any::<u16>());
        prop_oneof![
            4 => field().prop_map(|(name, value)| Step::Append(name, value)),
            2 => field().prop_map(|(name, value)| Step::Insert(name, value)),
            2 => field().prop_map(|(name, value)| Step::AddMissing(name, value)),
            2 => (0..NAMES.len()).prop_map(Step::Remove),
            1 => Just(Step::Clear),
        ]
    }

    fn all(fields: &Fields, name: &str) -> Vec<FieldValue> {
        fields.get_all(name).cloned().collect()
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_map_would_find(steps in prop::collection::vec(step(), 0..30)) {
            let (mut fields, mut map) = (Fields::new(), HeaderMap::new());
            for step in steps {
                match step {
                    Step::Append(name, value) => {
                        fields.append(NAMES[name], u64::from(value).into());
                        map.append(NAMES[name], HeaderValue::from(value));
                    }
                    Step::Insert(name, value) => {
                        fields.insert(NAMES[name], u64::from(value).into());
                        map.insert(NAMES[name], value.into());
                    }
                    Step::AddMissing(name, value) => {
                        fields.add_missing(NAMES[name], || u64::from(value).into());
                        map.entry(NAMES[name]).or_insert_with(|| value.into());
                    }
                    Step::Remove(name) => prop_assert_eq!(fields.remove(NAMES[name]), map.remove(NAMES[name]).map(FieldValue::from)),
                    Step::Clear => {
                        fields.clear();
                        map.clear();
                    }
                }
                prop_assert_eq!((fields.len(), fields.is_empty()), (map.len(), map.is_empty()));
                for name in NAMES {
                    prop_assert_eq!(fields.get(name).cloned(), map.get(name).cloned().map(FieldValue::from));
                    prop_assert_eq!(fields.contains_key(HeaderName::from_static(name)), map.contains_key(name));
                    prop_assert_eq!(all(&fields, name), map.get_all(name).iter().cloned().map(FieldValue::from).collect::<Vec<_>>());
                }
                prop_assert_eq!(&HeaderMap::from(fields.clone()), &map);
            }
            let again = Fields::from(map);
            prop_assert!(NAMES.iter().all(|name| all(&fields, name) == all(&again, name)));
        }
    }

    #[test]
    fn fields_keep_their_order_and_their_place() {
        let lines = [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4")];
        let mut fields: Fields =
            lines.iter().map(|(name, value)| (HeaderName::from_static(name), FieldValue::from_static(value))).collect();
        let told = |fields: &Fields| {
            fields.iter().map(|(name, value)| format!("{name}{}", value.to_str().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(told(&fields), ["b1", "a2", "b3", "c4"]);
        fields.insert("b", FieldValue::from_static("5"));
        assert_eq!(told(&fields), ["b5", "a2", "c4"]);
        fields.retain(|name, _| name != "a");
        assert_eq!(told(&fields), ["b5", "c4"]);
    }

    #[test]
    fn a_mark_is_the_same_in_whatever_case() {
        for name in ["ETag", "Content-Length", "X-Ünlike", ""] {
            assert_eq!(name.mark(), name.to_ascii_lowercase().mark(), "{name}");
            assert_eq!(name.mark().count_ones(), 1, "{name}");
        }
        assert_eq!(NAMES[0].mark(), NAMES[4].mark());
    }
}
