//! The keys in the index: one *run* a checkpoint, sorted, cut into blocks of a few KiB, never changed afterwards.
//!
//! A key of its own in the index for every key of the ledger would be dear: keys are as random as their clients make them, so
//! that a checkpoint touches every leaf of the tree, and more of them with every million. A run is written behind all earlier ones,
//! which costs the same for the first million and for the hundredth. What it costs instead is the search: a key that may be
//! there is looked for in every run whose range holds it. Few are: the filter in front answers for new keys.
//!
//! Invariants: a key is in one run at most; within a run records ascend by key, and no block is empty; runs count from 1 in
//! the order of their checkpoints, and none is ever taken back.
//!
//! ```text
//! block: record*, at least one           record: length of the next field u8 | journal id u32 big-endian, key |
//!                                                seq u64 | content hash's first 16 bytes
//! ```

use tercet_proto::canonical::Reader;

use super::keys::KeyRecord;
use super::store::{self, KeyIndex, LedgerError, Pair, TAG_KEY};

/// A block is closed when it is at least so long.
const BLOCK_BYTES: usize = 4096;

const CORRUPT: LedgerError = LedgerError::Corrupt("run of keys");

/// The first and the last key of a run, or of a table on its way to be one. Both empty: no key yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Range {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Range {
    /// Widens the range; a key is never empty.
    pub(super) fn extend(&mut self, key: &[u8]) {
        if self.first.is_empty() || key < self.first.as_slice() {
            key.clone_into(&mut self.first);
        }
        if key > self.last.as_slice() {
            key.clone_into(&mut self.last);
        }
    }

    fn holds(&self, key: &[u8]) -> bool {
        self.first.as_slice() <= key && key <= self.last.as_slice()
    }
}

/// The runs of a group, by number: the first has number 1.
#[derive(Debug, Clone, Default)]
pub(super) struct Runs {
    ranges: Vec<Range>,
}

impl Runs {
    /// The number that the next run will have.
    pub(super) fn next_number(&self) -> u64 {
        self.ranges.len() as u64 + 1
    }

    /// A run with the next number is in the index.
    pub(super) fn push(&mut self, range: Range) {
        self.ranges.push(range);
    }

    /// Looks for a key, in the newest run first.
    pub(super) fn find(
        &self,
        group: u32,
        index: &dyn KeyIndex,
        key: &[u8],
    ) -> Result<Option<KeyRecord>, LedgerError> {
        for (number, range) in (1..self.next_number()).rev().zip(self.ranges.iter().rev()) {
            if !range.holds(key) {
                continue;
            }
            let run = run_prefix(group, number);
            let Some((_, block)) = index.floor(&run, &[&run, key].concat())? else { continue };
            let mut found = None;
            for_each_record(&block, &mut |held, record| {
                if held == key {
                    found = Some(record);
                }
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Reads the runs of a group from the index, showing every key and what is kept under it.
    pub(super) fn restore(
        group: u32,
        index: &dyn KeyIndex,
        each: &mut dyn FnMut(&[u8], KeyRecord),
    ) -> Result<Self, LedgerError> {
        let mut runs = Self::default();
        let mut range = Range::default();
        let mut fault = None;
        let prefix = store::prefix(group, TAG_KEY);
        index.scan_prefix(&prefix, &mut |key, block| {
            let number = key.get(prefix.len()..).and_then(|rest| rest.first_chunk()).copied();
            let seen = match number.map(u64::from_be_bytes) {
                Some(number) if number == runs.next_number() => Ok(()),
                Some(number) if number == runs.next_number() + 1 => {
                    runs.push(std::mem::take(&mut range));
                    Ok(())
                }
                _ => Err(CORRUPT),
            };
            let read = seen.and_then(|()| {
                for_each_record(block, &mut |key, record| {
                    range.extend(key);
                    each(key, record);
                })
            });
            fault = read.err();
            fault.is_none()
        })?;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if range != Range::default() {
            runs.push(range);
        }
        Ok(runs)
    }
}

fn run_prefix(group: u32, number: u64) -> Vec<u8> {
    let mut key = store::prefix(group, TAG_KEY);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// The index pairs of a run, ascending. `records` in any order, with no key twice.
pub(super) fn encode<'a>(
    group: u32,
    number: u64,
    records: impl Iterator<Item = (&'a [u8], &'a KeyRecord)>,
) -> Vec<Pair> {
    let mut sorted: Vec<_> = records.collect();
    sorted.sort_unstable_by_key(|(key, _)| *key);
    let prefix = run_prefix(group, number);
    let mut pairs: Vec<Pair> = Vec::new();
    for (key, record) in sorted {
        if pairs.last().is_none_or(|(_, block)| block.len() >= BLOCK_BYTES) {
            pairs.push(([&prefix, key].concat(), Vec::with_capacity(BLOCK_BYTES + 128)));
        }
        if let Some((_, block)) = pairs.last_mut() {
            // Four bytes and a key of 64 at most.
            block.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
            block.extend_from_slice(key);
            block.extend_from_slice(&record.seq.to_le_bytes());
            block.extend_from_slice(&record.content);
        }
    }
    pairs
}

fn for_each_record(block: &[u8], each: &mut dyn FnMut(&[u8], KeyRecord)) -> Result<(), LedgerError> {
    if block.is_empty() {
        return Err(CORRUPT);
    }
    store::read_all(block, "run of keys", |reader: &mut Reader<'_>| {
        while !reader.is_empty() {
            let len = reader.u8("")?;
            let key = reader.bytes(usize::from(len), "")?;
            each(key, KeyRecord { seq: reader.u64("")?, content: reader.array("")? });
        }
        Ok(())
    })
}
