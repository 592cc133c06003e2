//! What backends have said of callers from other origins: bounded, and forgetting is safe, since they can be asked again.
//!
//! A refusal must not be easier to read than the backend's own answer would be, so what is kept is the backend's last word
//! to one origin about one method of one resource, and no rule is made of it.
//!
//! There are two halves. What is noted goes into the younger one; once that is full it is the older one, and what the older
//! one held is forgotten unless somebody has looked for it meanwhile. No clock and no order of single entries is needed.

use std::{
    collections::HashMap,
    hash::BuildHasherDefault,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::store::{Name, NameHasher};
use crate::core::{
    browsers::Allowed,
    fingerprint::{Fingerprint, Fingerprints},
};

/// What a backend has said to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It may read the answers.
    Allowed(Allowed),
    /// It may not.
    Refused,
}

type Half = HashMap<Name, Word, BuildHasherDefault<NameHasher>>;

/// What backends have said to origins.
#[derive(Debug)]
pub struct Origins {
    prints: Fingerprints,
    /// So many words are in each half at most.
    half: usize,
    words: Mutex<Words>,
}

#[derive(Debug, Default)]
struct Words {
    younger: Half,
    older: Half,
}

impl Default for Origins {
    fn default() -> Self {
        Self::new(0, [0; 2])
    }
}

impl Origins {
    /// Nothing, with room for so many words (two at least). Names in it are made under this seed.
    #[must_use]
    pub fn new(capacity: usize, seed: [u64; 2]) -> Self {
        Self { prints: Fingerprints::new(seed), half: (capacity / 2).max(1), words: Mutex::default() }
    }

    /// What takes fingerprints of names.
    #[must_use]
    pub fn prints(&self) -> Fingerprints {
        self.prints
    }

    /// The last word under this name.
    #[must_use]
    pub fn look(&self, name: Fingerprint) -> Option<Word> {
        let mut words = self.words();
        if let Some(word) = words.younger.get(&Name(name)) {
            return Some(*word);
        }
        let word = words.older.remove(&Name(name))?;
        words.note(Name(name), word, self.half);
        Some(word)
    }

    /// The last word from now on; `None`: it is not known.
    pub fn note(&self, name: Fingerprint, word: Option<Word>) {
        let mut words = self.words();
        words.older.remove(&Name(name));
        match word {
            Some(word) => words.note(Name(name), word, self.half),
            None => drop(words.younger.remove(&Name(name))),
        }
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Words {
    fn note(&mut self, name: Name, word: Word, half: usize) {
        if self.younger.len() >= half && !self.younger.contains_key(&name) {
            self.older = mem::take(&mut self.younger);
        }
        self.younger.insert(name, word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALLOWED: Word = Word::Allowed(Allowed { any: true, credentials: false });

    fn name(number: u64) -> Fingerprint {
        Fingerprint([number, number])
    }

    #[test]
    fn the_last_word_counts() {
        let origins = Origins::new(10, [1, 2]);
        assert_eq!(origins.look(name(1)), None);
        for word in [Some(ALLOWED), Some(Word::Refused), None, Some(Word::Refused), Some(ALLOWED)] {
            origins.note(name(1), word);
            assert_eq!(origins.look(name(1)), word);
            assert_eq!(origins.look(name(2)), None);
        }
    }

    #[test]
    fn a_word_that_grew_old_is_replaced_and_forgotten_too() {
        for word in [Some(Word::Refused), None] {
            let origins = Origins::new(4, [1, 2]);
            (1..=3).for_each(|number| origins.note(name(number), Some(ALLOWED)));
            origins.note(name(1), word);
            assert_eq!(origins.look(name(1)), word);
        }
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        for capacity in [2, 3, 10, 64] {
            let origins = Origins::new(capacity, [1, 2]);
            for number in 0..1000 {
                origins.note(name(number), Some(ALLOWED));
                let _ = origins.look(name(number / 2));
                let words = origins.words();
                assert!(words.younger.len() + words.older.len() <= capacity, "{capacity}");
            }
            assert_eq!(origins.look(name(999)), Some(ALLOWED));
            assert_eq!(origins.look(name(1)), None);
        }
    }

    #[test]
    fn what_is_looked_for_stays() {
        let origins = Origins::new(8, [1, 2]);
        for number in 0..1000 {
            origins.note(name(number), Some(ALLOWED));
            assert_eq!(origins.look(name(0)), Some(ALLOWED), "{number}");
        }
    }
}
