//! Entries in a bounded space: found by name, dropped by age.
//!
//! Each kind of entry has a queue of its own, oldest first. When there is too much, the kind that takes the most room gives
//! up its oldest: a flood of one kind does not push out the others. There is no clock here, no lock, and nobody waits.

use std::{
    collections::{BTreeSet, HashMap},
    hash::{BuildHasherDefault, Hash, Hasher},
};

use super::{Kind, Memo};
use crate::core::fingerprint::Fingerprint;

/// What an entry takes beside what it points to: its slot, its place in the map, and what the allocator adds. Measured by
/// `tests::a_million_keys_take_what_is_said_of_them_and_more_of_them_no_more`.
pub(super) const ENTRY_BYTES: usize = 208;
/// No slot.
const NONE: u32 = u32::MAX;

/// Milliseconds since the memory began.
pub(super) type Moment = u64;

/// All entries.
#[derive(Debug)]
pub(super) struct Store {
    names: HashMap<Name, u32, BuildHasherDefault<NameHasher>>,
    slots: Vec<Slot>,
    free: u32,
    queues: [Queue; Kind::ALL.len()],
    /// The entries that end with a resource, by its name, and whether any write to it ends them.
    owned: BTreeSet<(Fingerprint, bool, u32)>,
    most_entries: usize,
    most_bytes: usize,
}

/// What is there of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    oldest: u32,
    newest: u32,
    pub(super) entries: usize,
    pub(super) bytes: usize,
    pub(super) evictions: u64,
}

#[derive(Debug)]
struct Slot {
    name: Fingerprint,
    older: u32,
    newer: u32,
    kind: Kind,
    bytes: u32,
    expires: Option<Moment>,
    /// `None`: the slot is free, and `newer` the next such.
    memo: Option<Memo>,
}

impl Store {
    pub(super) fn new(most_entries: usize, most_bytes: usize) -> Self {
        Self {
            names: HashMap::default(),
            slots: Vec::new(),
            free: NONE,
            queues: [Queue { oldest: NONE, newest: NONE, entries: 0, bytes: 0, evictions: 0 }; Kind::ALL.len()],
            owned: BTreeSet::new(),
            most_entries: most_entries.min(NONE as usize),
            most_bytes,
        }
    }

    /// What is there under a name and has not expired.
    pub(super) fn find(&mut self, name: Fingerprint, now: Moment) -> Option<&Memo> {
        let at = *self.names.get(&Name(name))?;
        if self.slot(at).expires.is_some_and(|expires| expires <= now) {
            self.remove(at);
            return None;
        }
        self.slot(at).memo.as_ref()
    }

    /// Puts an entry in, in the place of one with this name if there is one, and drops what there is no room for.
    pub(super) fn insert(&mut self, kind: Kind, name: Fingerprint, memo: Memo, expires: Option<Moment>, now: Moment) {
        self.forget(name);
        self.drop_expired(now);
        let bytes = ENTRY_BYTES + memo.heap_bytes();
        let at = self.next_free();
        if let Some((owner, is_asked_for)) = memo.owner() {
            self.owned.insert((owner, is_asked_for, at));
        }
        let queue = &mut self.queues[kind as usize];
        let older = queue.newest;
        queue.newest = at;
        queue.entries += 1;
        queue.bytes += bytes;
        if older == NONE {
            queue.oldest = at;
        } else {
            self.slot_mut(older).newer = at;
        }
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let slot = Slot { name, older, newer: NONE, kind, bytes, expires, memo: Some(memo) };
        if self.free == NONE {
            self.slots.push(slot);
        } else {
            self.free = std::mem::replace(self.slot_mut(at), slot).newer;
        }
        self.names.insert(Name(name), at);
        self.make_room();
    }

    /// Drops what is there under a name.
    pub(super) fn forget(&mut self, name: Fingerprint) {
        if let Some(at) = self.names.get(&Name(name)).copied() {
            self.remove(at);
        }
    }

    /// Drops those of a resource's own: all of them where it is gone, else those that any write ends.
    pub(super) fn forget_owned(&mut self, owner: Fingerprint, is_gone: bool) {
        let of_all_writes = (owner, !is_gone, 0);
        let all: Vec<u32> = self.owned.range(of_all_writes..=(owner, true, NONE)).map(|(_, _, at)| *at).collect();
        all.into_iter().for_each(|at| self.remove(at));
    }

    pub(super) fn queue(&self, kind: Kind) -> Queue {
        self.queues[kind as usize]
    }

    fn next_free(&self) -> u32 {
        if self.free == NONE { u32::try_from(self.slots.len()).unwrap_or(NONE) } else { self.free }
    }

    /// The oldest of each kind: entries of one kind mostly expire in the order in which they came.
    fn drop_expired(&mut self, now: Moment) {
        for kind in Kind::ALL {
            for _ in 0..2 {
                let oldest = self.queue(kind).oldest;
                if oldest == NONE || self.slot(oldest).expires.is_none_or(|expires| expires > now) {
                    break;
                }
                self.remove(oldest);
            }
        }
    }

    fn make_room(&mut self) {
        loop {
            let entries: usize = self.queues.iter().map(|queue| queue.entries).sum();
            let bytes: usize = self.queues.iter().map(|queue| queue.bytes).sum();
            if entries <= self.most_entries && bytes <= self.most_bytes {
                return;
            }
            let Some(largest) = self.queues.iter_mut().max_by_key(|queue| queue.bytes) else { return };
            largest.evictions += 1;
            let oldest = largest.oldest;
            self.remove(oldest);
        }
    }

    fn remove(&mut self, at: u32) {
        let free = self.free;
        let slot = self.slot_mut(at);
        let Some(memo) = slot.memo.take() else { return };
        let (older, newer, kind, bytes, name) = (slot.older, slot.newer, slot.kind, slot.bytes as usize, slot.name);
        slot.newer = free;
        self.free = at;
        if older != NONE {
            self.slot_mut(older).newer = newer;
        }
        if newer != NONE {
            self.slot_mut(newer).older = older;
        }
        let queue = &mut self.queues[kind as usize];
        queue.entries -= 1;
        queue.bytes -= bytes;
        if queue.oldest == at {
            queue.oldest = newer;
        }
        if queue.newest == at {
            queue.newest = older;
        }
        self.names.remove(&Name(name));
        if let Some((owner, is_asked_for)) = memo.owner() {
            self.owned.remove(&(owner, is_asked_for, at));
        }
    }

    fn slot(&self, at: u32) -> &Slot {
        &self.slots[at as usize]
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot {
        &mut self.slots[at as usize]
    }
}

/// A fingerprint is a keyed hash already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(pub(super) Fingerprint);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.0[0]);
    }
}

#[derive(Debug, Default)]
pub(super) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty(), "only a name's first half is hashed");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}
