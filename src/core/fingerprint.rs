//! Fingerprints: what stands for a body, a caller or a name that is compared and not kept.
//!
//! SipHash-2-4 with 128 bits, under a random seed for each process. A fingerprint decides whether one request *is* another, so
//! nobody may be able to make two alike: whoever does not know the seed can't search for a pair, and by chance one is found
//! among 2^64. A hash without a key would need twice the length and several times the time for the same.

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher24};

/// What stands for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u64; 2]);

/// Takes fingerprints, all under one seed.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprints {
    seed: [u64; 2],
}

impl Fingerprints {
    /// Under this seed.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        Self { seed }
    }

    /// Begins one.
    #[must_use]
    pub fn begin(&self) -> Printing {
        Printing(SipHasher24::new_with_keys(self.seed[0], self.seed[1]))
    }

    /// That of a list of parts.
    #[must_use]
    pub fn of<'a>(&self, parts: impl IntoIterator<Item = &'a [u8]>) -> Fingerprint {
        let mut printing = self.begin();
        parts.into_iter().for_each(|part| printing.part(part));
        printing.finish()
    }
}

/// A fingerprint that is being taken.
#[derive(Clone)]
pub struct Printing(SipHasher24);

impl Printing {
    /// A part of a list, preceded by its length: no two lists run together alike.
    pub fn part(&mut self, bytes: &[u8]) {
        self.0.write_u64(bytes.len() as u64);
        self.0.write(bytes);
    }

    /// A piece of something that comes in pieces, wherever it is cut.
    pub fn piece(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// What it is so far.
    #[must_use]
    pub fn finish(&self) -> Fingerprint {
        let hash = self.0.finish128();
        Fingerprint([hash.h1, hash.h2])
    }
}

impl std::fmt::Debug for Printing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Printing")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_more_than_its_bytes() {
        let prints = Fingerprints::new([1, 2]);
        let of = |parts: &[&str]| prints.of(parts.iter().map(|part| part.as_bytes()));
        assert_eq!(of(&["a", "b"]), of(&["a", "b"]));
        assert_ne!(of(&["a", "b"]), of(&["ab"]));
        assert_ne!(of(&["a", "b"]), of(&["a", "b", ""]));
        assert_ne!(of(&["a"]), Fingerprints::new([1, 3]).of([&b"a"[..]]));
    }

    #[test]
    fn a_body_is_the_same_wherever_it_is_cut() {
        let whole: Vec<u8> = (0..=255).cycle().take(1000).collect();
        let in_pieces = |size: usize| {
            let mut printing = Fingerprints::new([1, 2]).begin();
            whole.chunks(size).for_each(|piece| printing.piece(piece));
            printing.finish()
        };
        for size in [1, 3, 7, 8, 9, 64, 999] {
            assert_eq!(in_pieces(size), in_pieces(1000), "{size}");
        }
    }
}
