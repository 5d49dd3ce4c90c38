//! Which keys a group knows (G3): exactly once for as long as the journal lives, without reading the index for new keys.
//!
//! Where a key may be: in the hot table (since the last checkpoint), in the frozen table (being written by a checkpoint), in
//! a run of the index (older, `runs.rs`). The filter holds every key of all three; what it denies is new.
//!
//! Invariants: a key is in the filter before it leaves the hot table; a lookup answers from the newest place that has the
//! key; outcomes never depend on the hash seed or on the filter's false positives, which only cost a lookup.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};

use super::filter::GrowingFilter;
use super::runs::{self, Range, Run, Runs};
use super::store::{KeyIndex, LedgerError, Pair};
use super::table::ByteTable;

/// Bytes of the content hash that are kept per key.
pub(super) const CONTENT_BYTES: usize = 16;

/// What is kept of an entry under its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRecord {
    pub(super) seq: u64,
    pub(super) content: [u8; CONTENT_BYTES],
}

/// A key of a journal in the form that tables and the index use: journal id (big-endian), key.
pub(super) struct JournalKey {
    bytes: [u8; Self::MAX_BYTES],
    len: usize,
    hash: u64,
}

impl JournalKey {
    const MAX_BYTES: usize = 4 + tercet_proto::limits::MAX_KEY_BYTES;

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The keys of a group.
pub(super) struct Keys {
    group: u32,
    index: Arc<dyn KeyIndex>,
    // A random seed, so that nobody can prepare keys that collide. It touches speed only, never an outcome.
    seed: RandomState,
    hot: ByteTable<KeyRecord>,
    /// Holds every key of the hot table.
    hot_range: Range,
    frozen: Option<Arc<Frozen>>,
    runs: Runs,
    filter: GrowingFilter,
}

/// The keys that a checkpoint writes as one run.
pub(super) struct Frozen {
    number: u64,
    range: Range,
    table: ByteTable<KeyRecord>,
    /// Made by whoever writes the checkpoint, beside the appends.
    run: OnceLock<Arc<Run>>,
}

impl Frozen {
    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The index pairs of the run, ascending.
    pub(super) fn encode(&self, group: u32) -> Vec<Pair> {
        self.known();
        runs::encode(group, self.number, self.table.iter())
    }

    /// What is known of the run without reading it.
    fn known(&self) -> &Arc<Run> {
        self.run.get_or_init(|| Arc::new(Run::new(self.range.clone(), self.table.hashes_from(0))))
    }
}

impl Keys {
    pub(super) fn new(group: u32, index: Arc<dyn KeyIndex>, expected_keys: usize) -> Self {
        Self {
            group,
            index,
            seed: RandomState::new(),
            hot: ByteTable::default(),
            hot_range: Range::default(),
            frozen: None,
            runs: Runs::default(),
            filter: GrowingFilter::new(expected_keys),
        }
    }

    pub(super) fn index(&self) -> &dyn KeyIndex {
        self.index.as_ref()
    }

    /// The table form of a key; none for a key longer than any that is ever stored.
    pub(super) fn journal_key(&self, journal: u32, key: &str) -> Option<JournalKey> {
        let len = 4 + key.len();
        let mut bytes = [0; JournalKey::MAX_BYTES];
        bytes[..4].copy_from_slice(&journal.to_be_bytes());
        bytes.get_mut(4..len)?.copy_from_slice(key.as_bytes());
        let hash = self.seed.hash_one(&bytes[..len]);
        Some(JournalKey { bytes, len, hash })
    }

    /// What is kept under a key.
    pub(super) fn find(&self, key: &JournalKey) -> Result<Option<KeyRecord>, LedgerError> {
        if let Some(number) = self.hot.find(key.hash, key.as_bytes()) {
            return Ok(Some(*self.hot.value(number)));
        }
        if !self.filter.may_contain(key.hash) {
            return Ok(None);
        }
        if let Some(frozen) = &self.frozen
            && let Some(number) = frozen.table.find(key.hash, key.as_bytes())
        {
            return Ok(Some(*frozen.table.value(number)));
        }
        self.runs.find(self.group, self.index.as_ref(), (key.hash, key.as_bytes()))
    }

    /// Remembers a new key, to be kept by [`Keys::keep`] or forgotten by [`Keys::forget`].
    pub(super) fn insert(&mut self, key: &JournalKey, record: KeyRecord) {
        self.hot.insert(key.hash, key.as_bytes(), record);
        self.hot_range.extend(key.as_bytes());
    }

    /// Where the hot table stands, for [`Keys::keep`] and [`Keys::forget`].
    pub(super) fn mark(&self) -> usize {
        self.hot.len()
    }

    /// The keys inserted since `mark` stay.
    pub(super) fn keep(&mut self, mark: usize) {
        for hash in self.hot.hashes_from(mark) {
            self.filter.insert(hash);
        }
    }

    /// The keys inserted since `mark` were never there.
    pub(super) fn forget(&mut self, mark: usize) {
        self.hot.truncate(mark);
    }

    /// How many keys the next checkpoint would write.
    pub(super) fn hot_len(&self) -> usize {
        self.hot.len()
    }

    /// Hands the hot keys to a checkpoint; they stay findable.
    pub(super) fn freeze(&mut self) -> Arc<Frozen> {
        let frozen = Arc::new(Frozen {
            number: self.runs.next_number(),
            range: std::mem::take(&mut self.hot_range),
            table: std::mem::take(&mut self.hot),
            run: OnceLock::new(),
        });
        self.frozen = Some(frozen.clone());
        frozen
    }

    /// The checkpoint's keys are in the index now.
    pub(super) fn thaw(&mut self) {
        // A checkpoint without keys writes no run.
        if let Some(frozen) = self.frozen.take()
            && frozen.len() > 0
        {
            self.runs.push(frozen.known().clone());
        }
    }

    /// Reads the runs of the index, and takes their keys into the filter.
    pub(super) fn load(&mut self) -> Result<(), LedgerError> {
        let (seed, filter) = (&self.seed, &mut self.filter);
        self.runs = Runs::restore(self.group, self.index.as_ref(), &mut |key| {
            let hash = seed.hash_one(key);
            filter.insert(hash);
            hash
        })?;
        Ok(())
    }

    /// Everything that is known, from all places, by key: for the digest.
    pub(super) fn for_each(&self, each: &mut dyn FnMut(&[u8], KeyRecord)) -> Result<(), LedgerError> {
        runs::scan(self.group, self.index.as_ref(), &mut |_, key, record| each(key, record))?;
        let frozen = self.frozen.iter().map(|frozen| &frozen.table);
        for table in frozen.chain([&self.hot]) {
            table.iter().for_each(|(key, record)| each(key, *record));
        }
        Ok(())
    }
}
