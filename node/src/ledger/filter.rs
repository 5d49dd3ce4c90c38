//! Which keys have never been seen: a Bloom filter over hashes that costs one line of the processor's cache a key.
//!
//! A plain Bloom filter sets its bits all over its memory, and with millions of keys each of them is a miss of the cache. Here a
//! hash chooses a block of 32 bytes, and one bit in each of its eight words: the split block filter of Putze, Sanders and Singler
//! ("Cache-, Hash- and Space-Efficient Bloom Filters", 2007) with the multipliers of the Parquet specification. The price is a few
//! more false positives for the same memory.
//!
//! Invariants: what was inserted may be contained, always; nothing is ever taken out.

/// Odd numbers that spread 32 bits of the hash to a bit of each word.
const SALT: [u32; 8] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// First part's capacity; each further one holds four times as many, since a new key is looked for in all of them.
const FIRST_KEYS: usize = 1 << 20;
/// Of a growing filter: it lets one other key of a thousand through. Each of them is looked for in the filters of all runs, and of
/// those there are more with every million.
const GROWING_BITS_PER_KEY: usize = 16;

#[derive(Debug, Clone, Copy, Default)]
#[repr(align(32))]
struct Block([u32; SALT.len()]);

const BLOCK_BITS: usize = Block::mask(0).0.len() * 32;

impl Block {
    /// One bit in each word.
    const fn mask(hash: u32) -> Self {
        let mut mask = [0; SALT.len()];
        let mut word = 0;
        while word < SALT.len() {
            mask[word] = 1 << (hash.wrapping_mul(SALT[word]) >> 27);
            word += 1;
        }
        Self(mask)
    }
}

/// For a number of keys that is known beforehand.
#[derive(Debug)]
pub(super) struct Filter {
    blocks: Vec<Block>,
}

impl Filter {
    /// For `keys` keys. Of all other keys one of 10 bits a key lets about 1.3 % through, one of 16 bits 0.1 %.
    pub(super) fn new(keys: usize, bits_per_key: usize) -> Self {
        let blocks = keys.saturating_mul(bits_per_key).div_ceil(BLOCK_BITS).max(1);
        Self { blocks: vec![Block::default(); blocks] }
    }

    /// The block by the upper half of the hash, the bits by the lower one.
    fn place(&self, hash: u64) -> (usize, Block) {
        let at = (u128::from(hash) * self.blocks.len() as u128) >> 64;
        #[expect(clippy::cast_possible_truncation, reason = "the lower half; and below the number of blocks")]
        let place = (at as usize, Block::mask(hash as u32));
        place
    }

    pub(super) fn insert(&mut self, hash: u64) {
        let (at, mask) = self.place(hash);
        for (word, bit) in self.blocks[at].0.iter_mut().zip(mask.0) {
            *word |= bit;
        }
    }

    /// False: a key with this hash was never inserted.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        let (at, mask) = self.place(hash);
        self.blocks[at].0.iter().zip(mask.0).fold(0, |missing, (word, bit)| missing | (bit & !word)) == 0
    }
}

/// For any number of keys.
#[derive(Debug)]
pub(super) struct GrowingFilter {
    parts: Vec<Filter>,
    /// In the newest part.
    keys: usize,
    /// Of the newest part.
    capacity: usize,
}

impl GrowingFilter {
    pub(super) fn new(expected_keys: usize) -> Self {
        let capacity = expected_keys.max(FIRST_KEYS);
        Self { parts: vec![Filter::new(capacity, GROWING_BITS_PER_KEY)], keys: 0, capacity }
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if self.keys >= self.capacity {
            self.capacity = self.capacity.saturating_mul(4);
            self.keys = 0;
            self.parts.push(Filter::new(self.capacity, GROWING_BITS_PER_KEY));
        }
        if let Some(part) = self.parts.last_mut() {
            part.insert(hash);
            self.keys += 1;
        }
    }

    /// False: a key with this hash was never inserted.
    pub(super) fn may_contain(&self, hash: u64) -> bool {
        self.parts.iter().any(|part| part.may_contain(hash))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

    use super::*;

    fn hash(key: usize) -> u64 {
        BuildHasherDefault::<DefaultHasher>::default().hash_one(key)
    }

    /// Of 100,000 keys that were never inserted.
    fn false_positives(may_contain: impl Fn(u64) -> bool) -> usize {
        (0..100_000).filter(|key| may_contain(hash(usize::MAX - key))).count()
    }

    #[test]
    fn it_denies_nothing_that_it_holds_and_nearly_all_else() {
        for (bits_per_key, at_most) in [(10, 1_600), (16, 160)] {
            let mut filter = Filter::new(200_000, bits_per_key);
            (0..200_000).for_each(|key| filter.insert(hash(key)));
            assert!((0..200_000).all(|key| filter.may_contain(hash(key))));
            let passed = false_positives(|hash| filter.may_contain(hash));
            assert!(passed <= at_most, "{passed} of 100,000 at {bits_per_key} bits a key");
        }
        assert!(!Filter::new(0, 16).may_contain(hash(1)), "no key");
    }

    #[test]
    fn it_grows_without_forgetting() {
        let mut filter = GrowingFilter::new(0);
        let keys = FIRST_KEYS + 1_000;
        (0..keys).for_each(|key| filter.insert(hash(key)));
        assert_eq!(filter.parts.len(), 2);
        assert!((0..keys).all(|key| filter.may_contain(hash(key))));
        let passed = false_positives(|hash| filter.may_contain(hash));
        assert!(passed <= 160, "{passed} of 100,000");
    }
}
