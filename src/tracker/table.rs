//! Where the records are: shards, each behind a lock, with an index from cells to places and the places in order of age.
//!
//! A map of records was measured at 340 bytes for each of ten million: a table is between half full and full, so that each
//! byte of what stands in it counts nearly twice, and another structure has to keep the order of eviction. Here only four bytes
//! of each record stand in a table, the places are filled one by one, and the order of eviction is theirs: a hand goes
//! round. What it finds used it leaves for once; what it finds unused may go, and its place is the newest.
//!
//! Which record may go, and what it leaves behind, is not decided here. No guard leaves the tracker.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hashbrown::HashTable;

use super::Slot;
use crate::core::record::{Packed, Seen, Source, Stamp};

/// How many places are made at once, each with a bit of `used`. So many fill 4 KiB, which no allocator rounds up by much.
const CHUNK: usize = 56;

/// A key's cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(pub(super) [u64; 2]);

/// All records.
#[derive(Debug)]
pub(super) struct Table {
    shards: Box<[Mutex<Shard>]>,
}

/// The records of some of the cells.
#[derive(Debug, Default)]
pub(super) struct Shard {
    index: HashTable<u32>,
    chunks: Vec<Chunk>,
    /// Places that were given up.
    vacant: Vec<Place>,
    /// The place to be looked at next for one that may go.
    hand: usize,
}

/// Where a record is, for as long as its shard is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place(u32);

#[derive(Debug, Default)]
struct Chunk {
    places: Vec<(Cell, Held)>,
    /// Which of them were used since the hand last passed.
    used: u64,
}

#[derive(Debug)]
enum Held {
    Packed(Packed),
    Whole(Box<Slot>),
    Nothing,
}

impl Table {
    pub(super) fn new(shards: usize) -> Self {
        Self { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    /// The shard of a cell.
    pub(super) fn lock(&self, cell: Cell) -> MutexGuard<'_, Shard> {
        let shard = usize::try_from(cell.0[1] >> 32).unwrap_or(0) % self.shards.len();
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Shows all records.
    #[cfg(test)]
    pub(super) fn each(&self, mut look: impl FnMut(&Slot)) {
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for place in &shard.index {
                shard.look(Place(*place), &mut look);
            }
        }
    }
}

impl Shard {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn find(&self, cell: Cell) -> Option<Place> {
        self.index.find(cell.hash(), |place| self.at(Place(*place)).0 == cell).map(|place| Place(*place))
    }

    /// Puts a record in the place that was given up last, which the hand has just left behind, or in a new one. There is
    /// none for this cell yet.
    pub(super) fn insert(&mut self, cell: Cell, slot: Slot) {
        let place = self.vacant.pop().unwrap_or_else(|| self.grow());
        *self.at_mut(place) = (cell, Held::of(slot));
        self.set_used(place, false);
        let Self { index, chunks, .. } = self;
        index.insert_unique(cell.hash(), place.0, |place| {
            let (chunk, at) = Place(*place).parts();
            chunks[chunk].places[at].0.hash()
        });
    }

    /// Takes a record away.
    pub(super) fn remove(&mut self, place: Place) {
        let cell = self.at(place).0;
        if let Ok(found) = self.index.find_entry(cell.hash(), |other| *other == place.0) {
            found.remove();
            self.at_mut(place).1 = Held::Nothing;
            self.vacant.push(place);
        }
    }

    /// Shows a record.
    pub(super) fn look<R>(&self, place: Place, look: impl FnOnce(&Slot) -> R) -> R {
        match &self.at(place).1 {
            Held::Packed(packed) => look(&Slot::new(packed.unpack())),
            Held::Whole(slot) => look(slot),
            Held::Nothing => unreachable!("what is in the index is held"),
        }
    }

    /// Changes a record.
    pub(super) fn change<R>(&mut self, place: Place, change: impl FnOnce(&mut Slot) -> R) -> R {
        let held = &mut self.at_mut(place).1;
        let mut slot = match std::mem::replace(held, Held::Nothing) {
            Held::Packed(packed) => Box::new(Slot::new(packed.unpack())),
            Held::Whole(slot) => slot,
            Held::Nothing => unreachable!("what is in the index is held"),
        };
        let done = change(&mut slot);
        *held = Held::of_boxed(slot);
        done
    }

    /// As a change by [`Record::observe`](crate::core::record::Record::observe), where that changes next to nothing.
    /// Returns whether it did.
    pub(super) fn sees_again(&mut self, place: Place, seen: &Seen, began: Stamp, source: Source) -> bool {
        match (&mut self.at_mut(place).1, seen) {
            (Held::Packed(packed), Seen::Tag(tag, variant)) => packed.sees_again(tag, *variant, began, source),
            (Held::Packed(_) | Held::Whole(_) | Held::Nothing, _) => false,
        }
    }

    pub(super) fn set_used(&mut self, place: Place, used: bool) {
        let (chunk, at) = place.parts();
        let bits = &mut self.chunks[chunk].used;
        *bits = *bits & !(1 << at) | u64::from(used) << at;
    }

    pub(super) fn is_used(&self, place: Place) -> bool {
        let (chunk, at) = place.parts();
        self.chunks[chunk].used >> at & 1 == 1
    }

    /// Moves the hand on. Returns the record that it was at, if there is one.
    pub(super) fn pass(&mut self) -> Option<(Cell, Place)> {
        let places = self.places();
        if self.hand >= places {
            self.hand = 0;
        }
        let place = Place(u32::try_from(self.hand).ok().filter(|_| places > 0)?);
        self.hand += 1;
        let (cell, held) = self.at(place);
        (!matches!(held, Held::Nothing)).then_some((*cell, place))
    }

    fn places(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.places.len())
    }

    fn grow(&mut self) -> Place {
        let place = self.places();
        if place.is_multiple_of(CHUNK) {
            self.chunks.push(Chunk { places: Vec::with_capacity(CHUNK), used: 0 });
        }
        self.chunks[place / CHUNK].places.push((Cell([0; 2]), Held::Nothing));
        Place(u32::try_from(place).expect("a shard has no room for so many records"))
    }

    fn at(&self, place: Place) -> &(Cell, Held) {
        let (chunk, at) = place.parts();
        &self.chunks[chunk].places[at]
    }

    fn at_mut(&mut self, place: Place) -> &mut (Cell, Held) {
        let (chunk, at) = place.parts();
        &mut self.chunks[chunk].places[at]
    }
}

impl Place {
    fn parts(self) -> (usize, usize) {
        let place = self.0 as usize;
        (place / CHUNK, place % CHUNK)
    }
}

impl Held {
    fn of(slot: Slot) -> Self {
        slot.packed().map_or_else(|| Self::Whole(Box::new(slot)), Self::Packed)
    }

    fn of_boxed(slot: Box<Slot>) -> Self {
        slot.packed().map_or(Self::Whole(slot), Self::Packed)
    }
}

impl Cell {
    /// Cells are keyed hashes already.
    fn hash(self) -> u64 {
        self.0[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_takes_little_room() {
        assert_eq!(size_of::<(Cell, Held)>(), 72);
    }
}
