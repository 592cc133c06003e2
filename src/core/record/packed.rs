//! A record in 56 bytes, for those that say what most say: one tag that somebody's read showed, and nothing else.
//!
//! Nothing is decided here. A record that fits comes out again just as it went in, and for all that may happen to it, it
//! is taken out first; but for the one event that is most frequent by far and changes least, another read that shows the
//! same ([`Packed::sees_again`]). What does not fit stays as it is.

use super::{Known, Record, Source, Stamp, State, UnderWay};
use crate::core::etag::EntityTag;

/// So many bytes of a tag have room here; more of them, elsewhere.
const SHORT: usize = 21;
/// Beside the length of a short tag: it is weak.
const WEAK: u8 = 0x80;

/// A record that takes little room.
#[derive(Debug, PartialEq, Eq)]
pub enum Packed {
    /// With a tag of at most 21 bytes, without its quotes.
    Short(Rest, u8, [u8; SHORT]),
    /// With a longer one.
    Long(Rest, bool, Box<[u8]>),
}

/// All but the tag. Numbers are kept in as many bytes as they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    spelling: [u8; 7],
    caller: [u8; 7],
    changed: [u8; 7],
    /// How much later than `changed` the newest read began that was recorded.
    observed: [u8; 4],
    seen: [u8; 4],
    /// Zeros: none.
    variant: [u8; 4],
}

impl Packed {
    /// Packs a record; `None` where it does not fit.
    #[must_use]
    pub fn of(record: &Record) -> Option<Self> {
        let State::Current(set) = &record.state else { return None };
        let [known] = set.as_slice() else { return None };
        let is_plain = record.superseded.is_empty()
            && record.absent_for.is_none()
            && record.under_way == UnderWay::Nothing
            && record.turnless.is_nothing()
            && known.variant != Some(0);
        if !is_plain {
            return None;
        }
        let rest = Rest {
            spelling: narrow(record.spelling)?,
            caller: narrow(known.caller)?,
            changed: narrow(record.changed.0)?,
            observed: narrow(record.observed.0.checked_sub(record.changed.0)?)?,
            seen: narrow(known.seen)?,
            variant: narrow(known.variant.unwrap_or(0))?,
        };
        Some(Self::with(rest, &known.tag))
    }

    fn with(rest: Rest, tag: &EntityTag) -> Self {
        let (opaque, weak) = (tag.opaque(), tag.is_weak());
        match u8::try_from(opaque.len()) {
            Ok(len) if opaque.len() <= SHORT => {
                let mut short = [0; SHORT];
                short[..opaque.len()].copy_from_slice(opaque);
                Self::Short(rest, len | if weak { WEAK } else { 0 }, short)
            }
            Ok(_) | Err(_) => Self::Long(rest, weak, opaque.into()),
        }
    }

    /// The record that was packed.
    #[must_use]
    pub fn unpack(&self) -> Record {
        let (rest, weak, opaque) = self.parts();
        let variant = Some(wide(rest.variant)).filter(|variant| *variant != 0);
        let tag = EntityTag::from_parts(weak, opaque);
        let known = Known { tag, variant, caller: wide(rest.caller), seen: wide(rest.seen) };
        let changed = wide(rest.changed);
        Record {
            state: State::Current(vec![known]),
            spelling: wide(rest.spelling),
            changed: Stamp(changed),
            observed: Stamp(changed + wide(rest.observed)),
            ..Record::default()
        }
    }

    /// As [`Record::observe`], where a read that began no earlier than any before it shows what is known already. Returns
    /// false, and changes nothing, where it is not so.
    pub fn sees_again(&mut self, tag: &EntityTag, variant: Option<u64>, began: Stamp, source: Source) -> bool {
        let (rest, weak, opaque) = self.parts();
        let is_known = weak == tag.is_weak()
            && opaque == tag.opaque()
            && wide(rest.spelling) == source.spelling
            && Some(wide(rest.variant)).filter(|variant| *variant != 0) == variant;
        let changed = wide(rest.changed);
        let after = began.0.checked_sub(changed).filter(|after| *after > 0 && *after >= wide(rest.observed));
        let (Some(observed), Some(caller), Some(seen)) =
            (after.and_then(narrow), narrow(source.caller), narrow(source.now))
        else {
            return false;
        };
        let (Self::Short(rest, ..) | Self::Long(rest, ..)) = self;
        if is_known {
            (rest.observed, rest.caller, rest.seen) = (observed, caller, seen);
        }
        is_known
    }

    fn parts(&self) -> (&Rest, bool, &[u8]) {
        match self {
            Self::Short(rest, len, short) => (rest, len & WEAK != 0, &short[..usize::from(len & !WEAK)]),
            Self::Long(rest, weak, opaque) => (rest, *weak, opaque),
        }
    }
}

/// A number in `N` bytes, if they suffice.
fn narrow<const N: usize>(number: u64) -> Option<[u8; N]> {
    let bytes = number.to_le_bytes();
    let (low, high) = bytes.split_at(N);
    low.try_into().ok().filter(|_| high.iter().all(|byte| *byte == 0))
}

fn wide<const N: usize>(bytes: [u8; N]) -> u64 {
    let mut all = [0; 8];
    all[..N].copy_from_slice(&bytes);
    u64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::core::record::Seen;

    fn tag() -> impl Strategy<Value = EntityTag> {
        (any::<bool>(), "[a-c]{0,2}|[a-c]{20,24}|[a-c]{200}")
            .prop_map(|(weak, text)| EntityTag::from_parts(weak, text.as_bytes()))
    }

    /// Few values, so that they meet, and some that do not fit.
    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, Just((1 << 32) - 1), Just(1 << 32), Just((1 << 56) - 1), Just(1 << 56), Just(u64::MAX)]
    }

    fn source() -> impl Strategy<Value = Source> {
        (number(), number(), number()).prop_map(|(spelling, caller, now)| Source { spelling, caller, now })
    }

    #[derive(Debug, Clone)]
    struct Read(EntityTag, Option<u64>, u64, Source);

    fn read() -> impl Strategy<Value = Read> {
        (tag(), proptest::option::of(number()), number(), source()).prop_map(|(t, v, b, s)| Read(t, v, b, s))
    }

    fn after(reads: &[Read]) -> Record {
        let mut record = Record::new(Stamp(0));
        for Read(tag, variant, began, source) in reads {
            record.observe(Seen::Tag(tag.clone(), *variant), Stamp(*began), Stamp(began.saturating_add(1)), *source);
        }
        record
    }

    #[test]
    fn it_takes_little_room() {
        assert_eq!(size_of::<Option<Packed>>(), 56);
        let read = Read(EntityTag::from_parts(true, b"abc"), Some(7), 3, Source { spelling: 1, caller: 2, now: 4 });
        assert!(Packed::of(&after(&[read])).is_some());
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_out_as_it_was(reads in proptest::collection::vec(read(), 0..4)) {
            let record = after(&reads);
            if let Some(packed) = Packed::of(&record) {
                prop_assert_eq!(format!("{:?}", packed.unpack()), format!("{record:?}"));
            }
        }

        #[test]
        fn what_is_seen_again_is_as_if_it_had_been_taken_out(
            first in read(), other in read(), fields in 0..16u8,
        ) {
            let Some(mut packed) = Packed::of(&after(std::slice::from_ref(&first))) else { return Ok(()) };
            let pick = |bit: u8| fields & bit == 0;
            let Read(tag, variant, began, source) = Read(
                if pick(1) { first.0.clone() } else { other.0 },
                if pick(2) { first.1 } else { other.1 },
                if pick(4) { first.2 } else { other.2 },
                Source { spelling: if pick(8) { first.3.spelling } else { other.3.spelling }, ..other.3 },
            );
            let mut record = packed.unpack();
            if packed.sees_again(&tag, variant, Stamp(began), source) {
                record.observe(Seen::Tag(tag, variant), Stamp(began), Stamp(u64::MAX), source);
            }
            prop_assert_eq!(format!("{:?}", packed.unpack()), format!("{record:?}"));
        }
    }
}
