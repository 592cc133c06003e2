//! Which client has seen which state of a resource: how blind overwrites are told. Bounded, and only for counting.
//!
//! Two things are remembered, each by a keyed hash: of a client and a resource, when the client last had the newest state of
//! it; of a resource, when the last write to it that is known to have been applied began. A state that a client saw is an
//! older one only where such a write began after it had seen it: whatever overlaps may have been seen, and what was
//! forgotten can't be compared. So what is counted is too little rather than too much.
//!
//! What is remembered lies in two halves. When the newer one is full, the older is dropped and it takes its place; what is
//! used moves to the newer.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::core::{record::Stamp, resource::Key};

/// How many locks there are, for workers that seldom meet at one. A power of two.
const SHARDS: usize = 16;

/// What is remembered.
#[derive(Debug)]
pub struct Reads {
    shards: Box<[Mutex<Shard>]>,
    half: usize,
}

#[derive(Debug, Default)]
struct Shard {
    newer: HashMap<u64, Entry>,
    older: HashMap<u64, Entry>,
}

/// 16 bytes, with its key 24; a table that is half full makes them 50.
#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Stamp,
    /// Of the tag that was seen, or that the write was answered with; 0: none.
    tag: u64,
}

/// What happened to a resource since a client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Nothing, as far as is known.
    Nothing,
    /// It was changed by somebody else; the client saw it with this tag, as a fingerprint, or with none.
    Change(Option<u64>),
    /// It is not known that the client ever saw it.
    Unseen,
}

impl Reads {
    /// Room for so many.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        let shards = if entries < 4096 { 1 } else { SHARDS };
        Self { shards: (0..shards).map(|_| Mutex::default()).collect(), half: (entries / shards / 2).max(1) }
    }

    /// A client has the newest state of a resource at this moment, which came with this tag.
    pub fn saw(&self, client: u64, key: Key, at: Stamp, tag: Option<u64>) {
        self.with(key, |shard, half| shard.put(of_client(client, key), Entry { at, tag: tag.unwrap_or(0) }, half));
    }

    /// A write that was applied began at this moment, and was answered with this tag.
    pub fn changed(&self, key: Key, began: Stamp, tag: Option<u64>) {
        self.with(key, |shard, half| {
            if shard.find(of_resource(key), half).is_none_or(|last| last.at < began) {
                shard.put(of_resource(key), Entry { at: began, tag: tag.unwrap_or(0) }, half);
            }
        });
    }

    /// What happened to a resource since this client saw it.
    #[must_use]
    pub fn since(&self, client: u64, key: Key) -> Since {
        self.with(key, |shard, half| {
            let Some(seen) = shard.find(of_client(client, key), half) else { return Since::Unseen };
            match shard.find(of_resource(key), half) {
                // It was no change, or was undone.
                Some(change) if change.tag == seen.tag && seen.tag != 0 => Since::Nothing,
                Some(change) if change.at > seen.at => Since::Change(Some(seen.tag).filter(|tag| *tag != 0)),
                Some(_) | None => Since::Nothing,
            }
        })
    }

    fn with<R>(&self, key: Key, f: impl FnOnce(&mut Shard, usize) -> R) -> R {
        let index = usize::try_from(key.cell[1] % self.shards.len() as u64).expect("less than SHARDS");
        f(&mut self.shards[index].lock().unwrap_or_else(PoisonError::into_inner), self.half)
    }
}

impl Shard {
    fn find(&mut self, name: u64, half: usize) -> Option<Entry> {
        if let Some(entry) = self.newer.get(&name) {
            return Some(*entry);
        }
        let entry = self.older.remove(&name)?;
        self.put(name, entry, half);
        Some(entry)
    }

    fn put(&mut self, name: u64, entry: Entry, half: usize) {
        self.older.remove(&name);
        if self.newer.len() >= half && !self.newer.contains_key(&name) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(name, entry);
    }
}

/// Both parts are hashes under a key that nobody knows, and so are their sums. A spelling is part of the resource here: what
/// may be another is not compared.
fn of_client(client: u64, key: Key) -> u64 {
    of_resource(key).wrapping_add(client.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1
}

fn of_resource(key: Key) -> u64 {
    key.cell[0].wrapping_add(key.spelling.rotate_left(8)) & !1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        Key { cell: [n << 8, n], spelling: n }
    }

    #[test]
    fn only_a_change_that_began_after_it_was_seen_makes_a_state_old() {
        let reads = Reads::new(100);
        assert_eq!(reads.since(1, key(1)), Since::Unseen);
        reads.saw(1, key(1), Stamp(10), Some(7));
        assert_eq!(reads.since(1, key(1)), Since::Nothing);
        // It overlapped: the read may have shown it.
        reads.changed(key(1), Stamp(9), None);
        assert_eq!(reads.since(1, key(1)), Since::Nothing);
        reads.changed(key(1), Stamp(11), Some(8));
        // One that began earlier and ended later does not hide it.
        reads.changed(key(1), Stamp(8), Some(7));
        assert_eq!(reads.since(1, key(1)), Since::Change(Some(7)));
        assert_eq!(reads.since(2, key(1)), Since::Unseen);
        assert_eq!(reads.since(1, key(2)), Since::Unseen);
        reads.saw(1, key(1), Stamp(12), None);
        assert_eq!(reads.since(1, key(1)), Since::Nothing);
        reads.changed(key(1), Stamp(13), None);
        assert_eq!(reads.since(1, key(1)), Since::Change(None));
        // What somebody put is what was there.
        reads.saw(1, key(1), Stamp(14), Some(7));
        reads.changed(key(1), Stamp(15), Some(7));
        assert_eq!(reads.since(1, key(1)), Since::Nothing);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
        for entries in [2, 100, 5000] {
            let reads = Reads::new(entries);
            reads.saw(1, key(0), Stamp(1), None);
            for n in 1..20_000 {
                reads.saw(1, key(n), Stamp(n), None);
                if entries > 2 {
                    assert_eq!(reads.since(1, key(0)), Since::Nothing);
                }
            }
            let count = |shard: &Mutex<Shard>| {
                let shard = shard.lock().expect("a shard");
                shard.newer.len() + shard.older.len()
            };
            let kept: usize = reads.shards.iter().map(count).sum();
            assert!(kept <= entries, "{kept} of {entries}");
        }
    }

    #[test]
    fn a_change_that_was_forgotten_is_none() {
        let reads = Reads::new(4);
        reads.saw(1, key(1), Stamp(1), None);
        reads.changed(key(1), Stamp(2), None);
        assert_eq!(reads.since(1, key(1)), Since::Change(None));
        for n in 2..10 {
            reads.saw(2, key(n), Stamp(n), None);
            let _ = reads.since(1, key(1));
        }
        assert_ne!(reads.since(1, key(1)), Since::Nothing);
    }
}
