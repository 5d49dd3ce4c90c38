//! Checkpoints: what changed since the last one, as sorted writes for the index, and the way back.
//!
//! Invariants: a checkpoint lies between two log entries; restoring it and applying the log behind its `applied` gives the
//! state that never stopped (the digest says so); while it is being written, everything in it stays readable in memory;
//! there is one at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tercet_proto::canonical::Hash;

use super::balances::Totals;
use super::catalog::{Catalog, each};
use super::journal::Journal;
use super::keys::{Frozen, Keys};
use super::marks::Mark;
use super::regime::RegimeState;
use super::store::{self, KeyIndex, LedgerError, VALUE_VERSION};
use super::{
    Ledger, store::TAG_BALANCE, store::TAG_JOURNAL, store::TAG_KEY, store::TAG_MARK, store::TAG_META,
    store::TAG_REGIME,
};

/// What a checkpoint says of the number of keys is believed up to here; the filter grows for those beyond.
const EXPECTED_KEYS_MAX: usize = 1 << 22;
/// A checkpoint is due when so many entries have been applied since the last, or, in a large ledger, a part of all of them ...
const CHECKPOINT_ENTRIES_MIN: u64 = 50_000;
const RUNS_WANTED: u64 = 64;
/// ... but never more than these: they are kept in memory meanwhile, and applied anew after a crash.
const CHECKPOINT_ENTRIES_MAX: u64 = 400_000;

/// What one checkpoint writes. Making it is cheap; [`Checkpoint::to_writes`] does the work and belongs into the background.
pub struct Checkpoint {
    /// (term, index) of the last log entry in it.
    pub applied: (u64, u64),
    group: u32,
    /// Everything but keys and marks.
    writes: Vec<(Vec<u8>, Vec<u8>)>,
    keys: Arc<Frozen>,
    marks: Vec<(u32, Arc<Vec<Mark>>)>,
}

impl Checkpoint {
    /// The index writes, sorted by key, to be committed as one.
    #[must_use]
    pub fn to_writes(&self) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let mut writes: Vec<(Vec<u8>, Option<Vec<u8>>)> =
            self.writes.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
        writes.extend(self.keys.encode(self.group).into_iter().map(|(key, block)| (key, Some(block))));
        for (journal, marks) in &self.marks {
            for mark in marks.iter() {
                let key = store::journal_key(self.group, TAG_MARK, *journal, &mark.first_seq.to_be_bytes());
                writes.push((key, Some(mark.encode())));
            }
        }
        writes.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        writes
    }
}

impl Ledger {
    /// Takes what changed since the last checkpoint; none if nothing did, or if one is still being written. The caller writes
    /// it (never beyond what its log has flushed), again and again until that succeeds, then calls
    /// [`Ledger::finish_checkpoint`]. Nobody else has what is in it: the next one holds only what changes from here on.
    pub fn begin_checkpoint(&mut self) -> Option<Checkpoint> {
        let applied = self.applied?;
        if self.checkpointing || self.failed || self.checkpointed == self.applied {
            return None;
        }
        self.checkpointing = true;
        self.checkpointed = self.applied;
        let mut writes = self.catalog.take_changed();
        writes.push((store::prefix(self.group, TAG_META), self.encode_meta(applied)));
        if let Some(regime) = self.regime.take_changed() {
            writes.push((store::prefix(self.group, TAG_REGIME), regime));
        }
        let mut marks = Vec::new();
        for journal in &mut self.journals {
            if std::mem::take(&mut journal.dirty) {
                let key = store::journal_key(self.group, TAG_JOURNAL, journal.id, &[]);
                writes.push((key, journal.encode()));
            }
            for (balance, totals) in journal.balances.take_dirty() {
                let key = store::journal_key(self.group, TAG_BALANCE, journal.id, &balance);
                writes.push((key, encode_totals(totals)));
            }
            if let Some(frozen) = journal.marks.freeze() {
                marks.push((journal.id, frozen));
            }
        }
        Some(Checkpoint { applied, group: self.group, writes, keys: self.keys.freeze(), marks })
    }

    /// The checkpoint that was begun is in the index: it is read from there from now on.
    pub fn finish_checkpoint(&mut self) {
        self.checkpointing = false;
        self.keys.thaw();
        self.journals.iter_mut().for_each(|journal| journal.marks.thaw());
    }

    /// Whether enough has been applied since the last checkpoint to write the next one: the larger the ledger, the more, so
    /// that its runs of keys stay few.
    #[must_use]
    pub fn is_checkpoint_due(&self) -> bool {
        let waiting = self.entries_since_checkpoint();
        // The count of all entries looks at every journal: only when it matters.
        waiting >= CHECKPOINT_ENTRIES_MIN
            && waiting >= (self.entry_count() / RUNS_WANTED).min(CHECKPOINT_ENTRIES_MAX)
    }

    /// How many entries the next checkpoint would cover.
    #[must_use]
    pub fn entries_since_checkpoint(&self) -> u64 {
        self.keys.hot_len() as u64
    }

    fn encode_meta(&self, (term, index): (u64, u64)) -> Vec<u8> {
        let mut value = vec![VALUE_VERSION];
        value.extend_from_slice(&term.to_le_bytes());
        value.extend_from_slice(&index.to_le_bytes());
        value.extend_from_slice(&self.recorded_at_us.to_le_bytes());
        value.extend_from_slice(&self.city_watermark.to_le_bytes());
        value.extend_from_slice(&self.geo_watermark.to_le_bytes());
        value
    }

    /// The state of the last checkpoint in `keys`; the state of an empty log if there is none.
    ///
    /// # Errors
    /// The index cannot be read, or holds what no checkpoint writes: rebuild it from the log.
    pub fn restore(group: u32, keys: Arc<dyn KeyIndex>) -> Result<Self, LedgerError> {
        let Some(meta) = keys.get(&store::prefix(group, TAG_META))? else {
            let mut empty = true;
            keys.scan_prefix(&Self::key_prefix(group), &mut |_, _| {
                empty = false;
                false
            })?;
            return if empty {
                Ok(Self::new(group, keys))
            } else {
                Err(LedgerError::Corrupt("the group's meta record is missing"))
            };
        };
        let mut ledger = Self::new(group, keys.clone());
        let version = store::read_all(&meta, "meta record", |reader| {
            let version = reader.u8("")?;
            ledger.applied = Some((reader.u64("")?, reader.u64("")?));
            ledger.recorded_at_us = reader.i64("")?;
            ledger.city_watermark = reader.u64("")?;
            ledger.geo_watermark = reader.u64("")?;
            Ok(version)
        })?;
        if version != VALUE_VERSION {
            return Err(LedgerError::Corrupt("meta record of another version"));
        }
        ledger.checkpointed = ledger.applied;
        ledger.catalog = Catalog::restore(group, keys.as_ref())?;
        if let Some(value) = keys.get(&store::prefix(group, TAG_REGIME))? {
            ledger.regime = RegimeState::decode(&value)?;
        }
        ledger.restore_journals(keys.as_ref())?;
        let expected = usize::try_from(ledger.entry_count()).unwrap_or(usize::MAX).min(EXPECTED_KEYS_MAX);
        ledger.keys = Keys::new(group, keys, expected + expected / 2);
        ledger.keys.load()?;
        Ok(ledger)
    }

    fn restore_journals(&mut self, index: &dyn KeyIndex) -> Result<(), LedgerError> {
        each(self.group, TAG_JOURNAL, index, &mut |key, value| {
            let id = key.try_into().map(u32::from_be_bytes).map_err(|_| LedgerError::Corrupt("journal"))?;
            // Ids count from 0 without a gap.
            if usize::try_from(id) != Ok(self.journals.len()) {
                return Err(LedgerError::Corrupt("a journal is missing"));
            }
            self.add_journal(Journal::decode(id, value)?);
            Ok(())
        })?;
        each(self.group, TAG_BALANCE, index, &mut |key, value| {
            let fault = LedgerError::Corrupt("balance");
            let (id, balance) = key.split_first_chunk::<4>().ok_or_else(|| fault.clone())?;
            let number = usize::try_from(u32::from_be_bytes(*id)).unwrap_or(usize::MAX);
            let journal = self.journals.get_mut(number).ok_or_else(|| fault.clone())?;
            let totals = store::read_all(value, "balance", |reader| {
                let (debits, credits) = (reader.array("")?, reader.array("")?);
                Ok(Totals { debits: u128::from_le_bytes(debits), credits: u128::from_le_bytes(credits) })
            })?;
            if journal.balances.load(balance, totals) { Ok(()) } else { Err(fault) }
        })
    }

    /// A hash over the whole logical state, equal on every replica that has applied the same log. Reads all keys and marks:
    /// for tests and checks, not for the append path.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn digest(&self) -> Result<Hash, LedgerError> {
        let mut pairs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let group = self.group;
        pairs.insert(store::prefix(group, TAG_REGIME), self.regime.encode());
        if let Some(applied) = self.applied {
            pairs.insert(store::prefix(group, TAG_META), self.encode_meta(applied));
        }
        for journal in &self.journals {
            pairs.insert(store::journal_key(group, TAG_JOURNAL, journal.id, &[]), journal.encode());
            for (key, totals) in journal.balances.iter() {
                pairs.insert(store::journal_key(group, TAG_BALANCE, journal.id, key), encode_totals(totals));
            }
            for mark in journal.marks.in_memory() {
                let key = store::journal_key(group, TAG_MARK, journal.id, &mark.first_seq.to_be_bytes());
                pairs.insert(key, mark.encode());
            }
        }
        let prefix = store::prefix(group, TAG_MARK);
        self.keys.index().scan_prefix(&prefix, &mut |key, value| {
            pairs.insert(key.to_vec(), value.to_vec());
            true
        })?;
        self.keys.for_each(&mut |key, record| {
            let key = [store::prefix(group, TAG_KEY).as_slice(), key].concat();
            pairs.insert(key, [record.seq.to_le_bytes().as_slice(), &record.content].concat());
        })?;
        let mut hasher = Sha256::new();
        for (key, value) in &pairs {
            hasher.update((key.len() as u64).to_le_bytes());
            hasher.update(key);
            hasher.update((value.len() as u64).to_le_bytes());
            hasher.update(value);
        }
        hasher.update(format!(
            "{:?} {:?} {:?}",
            self.catalog.cluster, self.catalog.journals, self.catalog.nodes
        ));
        Ok(hasher.finalize().into())
    }
}

fn encode_totals(totals: Totals) -> Vec<u8> {
    [totals.debits.to_le_bytes(), totals.credits.to_le_bytes()].concat()
}
