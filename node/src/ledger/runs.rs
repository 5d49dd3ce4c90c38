//! The keys in the index: one *run* a checkpoint, sorted, cut into blocks of a few KiB, never changed afterwards.
//!
//! A key of its own in the index for every key of the ledger would be dear: keys are as random as their clients make them, so
//! that a checkpoint touches every leaf of the tree, and more of them with every million. A run is written behind all earlier ones,
//! which costs the same for the first million and for the hundredth. What it costs instead is the search: a key that may be
//! there is looked for in every run whose range and whose filter may hold it. That is one, nearly always: the one that does.
//!
//! Invariants: a key is in one run at most; within a run records ascend by key, and no block is empty; runs count from 1 in
//! the order of their checkpoints, and none is ever taken back; a run's filter holds all its keys.
//!
//! ```text
//! block: record*, at least one; the first shares nothing
//! record: how many first bytes it shares with the key before u8 | length of the rest u8 | the rest of (journal id u32 big-endian,
//!         key) | how many bytes seq takes u8 | seq, little-endian, without leading zeros | content hash's first 16 bytes
//! ```

use std::sync::Arc;

use tercet_proto::canonical::{CanonicalError, Reader};

use super::filter::Filter;
use super::keys::KeyRecord;
use super::store::{self, KeyIndex, LedgerError, Pair, TAG_KEY};

/// A block is closed when it is at least so long.
const BLOCK_BYTES: usize = 4096;

/// Of a run's filter: of the new keys that the filter in front of all runs lets through, one in four hundred is looked for here.
const FILTER_BITS_PER_KEY: usize = 14;

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

/// What is known of a run without reading it.
#[derive(Debug)]
pub(super) struct Run {
    range: Range,
    filter: Filter,
}

impl Run {
    /// A run with keys in this range, of these hashes.
    pub(super) fn new(range: Range, hashes: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut filter = Filter::new(hashes.len(), FILTER_BITS_PER_KEY);
        hashes.for_each(|hash| filter.insert(hash));
        Self { range, filter }
    }

    fn may_hold(&self, hash: u64, key: &[u8]) -> bool {
        self.filter.may_contain(hash) && self.range.holds(key)
    }
}

/// The runs of a group, by number: the first has number 1.
#[derive(Debug, Default)]
pub(super) struct Runs {
    known: Vec<Arc<Run>>,
}

impl Runs {
    /// The number that the next run will have.
    pub(super) fn next_number(&self) -> u64 {
        self.known.len() as u64 + 1
    }

    /// A run with the next number is in the index.
    pub(super) fn push(&mut self, run: Arc<Run>) {
        self.known.push(run);
    }

    /// Looks for a key with this hash, in the newest run first.
    pub(super) fn find(
        &self,
        group: u32,
        index: &dyn KeyIndex,
        (hash, key): (u64, &[u8]),
    ) -> Result<Option<KeyRecord>, LedgerError> {
        for (number, known) in (1..self.next_number()).rev().zip(self.known.iter().rev()) {
            if !known.may_hold(hash, key) {
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

    /// Reads the runs of a group from the index; `hash_of` is how its keys are hashed.
    pub(super) fn restore(
        group: u32,
        index: &dyn KeyIndex,
        hash_of: &mut dyn FnMut(&[u8]) -> u64,
    ) -> Result<Self, LedgerError> {
        let mut runs = Self::default();
        let (mut range, mut hashes) = (Range::default(), Vec::new());
        scan(group, index, &mut |number, key, _| {
            if number > runs.next_number() {
                runs.push(Arc::new(Run::new(std::mem::take(&mut range), hashes.drain(..))));
            }
            range.extend(key);
            hashes.push(hash_of(key));
        })?;
        if !hashes.is_empty() {
            runs.push(Arc::new(Run::new(range, hashes.drain(..))));
        }
        Ok(runs)
    }
}

/// Shows every key of a group's runs: its run's number, the key, and what is kept under it.
pub(super) fn scan(
    group: u32,
    index: &dyn KeyIndex,
    each: &mut dyn FnMut(u64, &[u8], KeyRecord),
) -> Result<(), LedgerError> {
    let mut newest = 0;
    let mut read = Ok(());
    let prefix = store::prefix(group, TAG_KEY);
    index.scan_prefix(&prefix, &mut |key, block| {
        let number = key.get(prefix.len()..).and_then(|rest| rest.first_chunk()).copied();
        read = match number.map(u64::from_be_bytes) {
            Some(number) if number == newest.max(1) || number == newest + 1 => {
                newest = number;
                for_each_record(block, &mut |key, record| each(number, key, record))
            }
            _ => Err(CORRUPT),
        };
        read.is_ok()
    })?;
    read
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
    let mut before: &[u8] = &[];
    for (key, record) in sorted {
        if pairs.last().is_none_or(|(_, block)| block.len() >= BLOCK_BYTES) {
            pairs.push(([&prefix, key].concat(), Vec::with_capacity(BLOCK_BYTES + 128)));
            before = &[];
        }
        if let Some((_, block)) = pairs.last_mut() {
            let shared = key.iter().zip(before).take_while(|(one, other)| one == other).count();
            let seq = record.seq.to_le_bytes();
            let seq = &seq[..seq.len() - record.seq.leading_zeros() as usize / 8];
            // Four bytes and a key of 64 at most.
            block.extend([shared, key.len() - shared].map(|count| u8::try_from(count).unwrap_or(u8::MAX)));
            block.extend_from_slice(&key[shared..]);
            block.push(u8::try_from(seq.len()).unwrap_or(u8::MAX));
            block.extend_from_slice(seq);
            block.extend_from_slice(&record.content);
            before = key;
        }
    }
    pairs
}

fn for_each_record(block: &[u8], each: &mut dyn FnMut(&[u8], KeyRecord)) -> Result<(), LedgerError> {
    if block.is_empty() {
        return Err(CORRUPT);
    }
    let mut key = Vec::new();
    store::read_all(block, "run of keys", |reader: &mut Reader<'_>| {
        while !reader.is_empty() {
            let (shared, rest) = (reader.u8("")?, reader.u8("")?);
            let invalid = CanonicalError::Invalid { what: "run of keys" };
            if usize::from(shared) > key.len() {
                return Err(invalid);
            }
            key.truncate(shared.into());
            key.extend_from_slice(reader.bytes(rest.into(), "")?);
            let len = usize::from(reader.u8("")?);
            let mut seq = [0; 8];
            seq.get_mut(..len).ok_or(invalid)?.copy_from_slice(reader.bytes(len, "")?);
            each(&key, KeyRecord { seq: u64::from_le_bytes(seq), content: reader.array("")? });
        }
        Ok(())
    })
}
