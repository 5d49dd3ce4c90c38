//! A hash table from byte strings to values that only grows: the strings lie in one arena, so that an insertion allocates
//! nothing of its own, and dropping a table of any size frees three blocks.
//!
//! Invariants: every item has one slot; slots are probed linearly and hold item numbers; items keep the order of their
//! insertion, and only the newest can be taken back ([`ByteTable::truncate`]): with linear probing, clearing the newest
//! item's slot restores the slots as they were before it.

/// Slots are doubled when more than 5/8 are taken.
const LOAD_NUMERATOR: usize = 5;
const LOAD_DENOMINATOR: usize = 8;
const MIN_SLOTS: usize = 64;

/// The half of a slot that holds an item's number + 1.
const NUMBER_MASK: u64 = 0xffff_ffff;

#[derive(Debug, Clone)]
struct Item<V> {
    hash: u64,
    start: usize,
    len: u16,
    value: V,
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct ByteTable<V> {
    arena: Vec<u8>,
    items: Vec<Item<V>>,
    /// The upper half of the item's hash, so that most of a search stays in this array, and the item's number + 1; 0 is free.
    /// The count is 0 or a power of two; the lower half of a hash says where to begin.
    slots: Vec<u64>,
}

impl<V> Default for ByteTable<V> {
    fn default() -> Self {
        Self { arena: Vec::new(), items: Vec::new(), slots: Vec::new() }
    }
}

impl<V> ByteTable<V> {
    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    fn key_of(&self, item: &Item<V>) -> &[u8] {
        &self.arena[item.start..item.start + usize::from(item.len)]
    }

    /// First slot to look at.
    #[expect(clippy::cast_possible_truncation, reason = "masked to the count of slots right away")]
    fn home(&self, hash: u64) -> usize {
        hash as usize & (self.slots.len() - 1)
    }

    /// The number of the item with this key. `hash` must be the one that it was inserted with.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut at = self.home(hash);
        loop {
            let slot = self.slots[at];
            let number = number_in(slot)?;
            if (slot ^ hash) & !NUMBER_MASK == 0 {
                let item = &self.items[number];
                if item.hash == hash && self.key_of(item) == key {
                    return Some(number);
                }
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
    }

    /// The value of an item.
    pub(super) fn value(&self, number: usize) -> &V {
        &self.items[number].value
    }

    /// The value of an item, to change.
    pub(super) fn value_mut(&mut self, number: usize) -> &mut V {
        &mut self.items[number].value
    }

    /// The key of an item.
    pub(super) fn key(&self, number: usize) -> &[u8] {
        self.key_of(&self.items[number])
    }

    /// Adds an item that is not there yet and returns its number. Keys are shorter than 64 KiB, and memory ends long before
    /// 2^32 items.
    pub(super) fn insert(&mut self, hash: u64, key: &[u8], value: V) -> usize {
        debug_assert!(self.find(hash, key).is_none(), "inserted twice");
        if (self.items.len() + 1) * LOAD_DENOMINATOR > self.slots.len() * LOAD_NUMERATOR {
            self.grow();
        }
        let number = self.items.len();
        self.place(hash, number);
        let len = u16::try_from(key.len()).unwrap_or(u16::MAX);
        self.items.push(Item { hash, start: self.arena.len(), len, value });
        self.arena.extend_from_slice(key);
        number
    }

    fn place(&mut self, hash: u64, number: usize) {
        let mut at = self.home(hash);
        while self.slots[at] != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        self.slots[at] = hash & !NUMBER_MASK | (number as u64 + 1) & NUMBER_MASK;
    }

    fn grow(&mut self) {
        self.slots = vec![0; (self.slots.len() * 2).max(MIN_SLOTS)];
        for number in 0..self.items.len() {
            self.place(self.items[number].hash, number);
        }
    }

    /// Takes back everything but the first `len` items.
    pub(super) fn truncate(&mut self, len: usize) {
        while self.items.len() > len {
            let number = self.items.len() - 1;
            let mut at = self.home(self.items[number].hash);
            while number_in(self.slots[at]) != Some(number) {
                at = (at + 1) & (self.slots.len() - 1);
            }
            self.slots[at] = 0;
            self.arena.truncate(self.items[number].start);
            self.items.pop();
        }
    }

    /// The hashes of the items from number `from` on.
    pub(super) fn hashes_from(&self, from: usize) -> impl ExactSizeIterator<Item = u64> + '_ {
        self.items[from..].iter().map(|item| item.hash)
    }

    /// All items in the order of their insertion.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &V)> {
        self.items.iter().map(|item| (self.key_of(item), &item.value))
    }
}

/// The number of the item in a slot; none if the slot is free.
const fn number_in(slot: u64) -> Option<usize> {
    ((slot & NUMBER_MASK) as usize).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    /// A poor hash on purpose: many collisions.
    fn hash(key: &[u8]) -> u64 {
        key.iter().map(|byte| u64::from(*byte) % 7).sum()
    }

    proptest! {
        #[test]
        fn behaves_like_a_map_and_takes_back_the_newest(
            rounds in prop::collection::vec((prop::collection::vec("[a-d]{1,4}", 1..60), any::<bool>()), 1..6)
        ) {
            let mut table = ByteTable::default();
            let mut model: HashMap<String, usize> = HashMap::new();
            for (keys, keep) in rounds {
                let (before, saved) = (table.len(), model.clone());
                for key in keys {
                    let found = table.find(hash(key.as_bytes()), key.as_bytes()).map(|n| *table.value(n));
                    prop_assert_eq!(found, model.get(&key).copied());
                    if found.is_none() {
                        let value = table.len();
                        table.insert(hash(key.as_bytes()), key.as_bytes(), value);
                        model.insert(key, value);
                    }
                }
                if !keep {
                    table.truncate(before);
                    model = saved;
                }
                for (key, value) in &model {
                    let number = table.find(hash(key.as_bytes()), key.as_bytes());
                    prop_assert_eq!(number.map(|n| *table.value(n)), Some(*value));
                }
                prop_assert_eq!(table.iter().count(), model.len());
                prop_assert_eq!(table.len(), model.len());
            }
        }
    }
}
