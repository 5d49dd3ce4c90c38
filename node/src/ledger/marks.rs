//! Where a journal's entries are: one [`Mark`] per proposal that added entries to it, and the way back from a mark and its
//! proposal's bytes to the entries. The entries themselves are kept by the log alone.
//!
//! Invariants: a journal's marks are consecutive in seq (`first_seq + count` of one is `first_seq` of the next) and ascending
//! in log index; a mark never changes once its proposal has been applied.

use std::sync::Arc;

use tercet_proto::canonical::{EntryView, Hash, chain, store_part};
use tercet_proto::v1;

use super::command::{CommandView, Commands, Entries, ProposalView};
use super::store::{self, KeyIndex, LedgerError};

/// In place of an entry's number: the whole command added nothing.
pub(super) const WHOLE_COMMAND: u32 = u32::MAX;

/// What one proposal added to one journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Seq of the first entry.
    pub first_seq: u64,
    /// How many entries.
    pub count: u32,
    /// The proposal's index in the group's log.
    pub log_index: u64,
    /// When the proposal was recorded, microseconds since 1970.
    pub recorded_at_us: i64,
    /// The journal's chain hash before the first entry.
    pub chain_before: Hash,
    /// (command, entry) numbers of the proposal's appends to this journal that added nothing, ascending: replays, and refused
    /// requests as a whole (`u32::MAX` in place of the entry). Nearly always none.
    pub skipped: Option<Box<[(u32, u32)]>>,
}

impl Mark {
    /// Seq of the last entry.
    #[must_use]
    pub const fn last_seq(&self) -> u64 {
        self.first_seq + self.count as u64 - 1
    }

    fn skips(&self, command: u32, entry: u32) -> bool {
        self.skipped.as_ref().is_some_and(|skipped| skipped.binary_search(&(command, entry)).is_ok())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let skipped = self.skipped.as_deref().unwrap_or_default();
        let mut value = Vec::with_capacity(56 + skipped.len() * 8);
        value.extend_from_slice(&self.count.to_le_bytes());
        value.extend_from_slice(&self.log_index.to_le_bytes());
        value.extend_from_slice(&self.recorded_at_us.to_le_bytes());
        value.extend_from_slice(&self.chain_before);
        value.extend_from_slice(&u32::try_from(skipped.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (command, entry) in skipped {
            value.extend_from_slice(&command.to_le_bytes());
            value.extend_from_slice(&entry.to_le_bytes());
        }
        value
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, LedgerError> {
        let first_seq =
            key.last_chunk().map(|seq| u64::from_be_bytes(*seq)).ok_or(LedgerError::Corrupt("mark"))?;
        let mark = store::read_all(value, "mark", |reader| {
            let (count, log_index, recorded_at_us) = (reader.u32("")?, reader.u64("")?, reader.i64("")?);
            let chain_before = reader.array("")?;
            let skipped = (0..reader.u32("")?)
                .map(|_| Ok((reader.u32("")?, reader.u32("")?)))
                .collect::<Result<Box<[_]>, _>>()?;
            let skipped = (!skipped.is_empty()).then_some(skipped);
            Ok(Self { first_seq, count, log_index, recorded_at_us, chain_before, skipped })
        })?;
        if mark.first_seq == 0
            || mark.count == 0
            || mark.first_seq.checked_add(u64::from(mark.count)).is_none()
        {
            return Err(LedgerError::Corrupt("mark"));
        }
        Ok(mark)
    }
}

/// The marks of one journal that are not in the index yet.
#[derive(Default)]
pub(super) struct Marks {
    hot: Vec<Mark>,
    frozen: Option<Arc<Vec<Mark>>>,
}

impl Marks {
    pub(super) fn push(&mut self, mark: Mark) {
        self.hot.push(mark);
    }

    /// Hands the hot marks to a checkpoint; they stay findable. None if there are none.
    pub(super) fn freeze(&mut self) -> Option<Arc<Vec<Mark>>> {
        if self.hot.is_empty() {
            return None;
        }
        let frozen = Arc::new(std::mem::take(&mut self.hot));
        self.frozen = Some(frozen.clone());
        Some(frozen)
    }

    pub(super) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Older first.
    pub(super) fn in_memory(&self) -> impl Iterator<Item = &Mark> {
        self.parts().into_iter().flatten()
    }

    fn parts(&self) -> [&[Mark]; 2] {
        [self.frozen.as_ref().map_or(&[], |frozen| frozen.as_slice()), &self.hot]
    }

    /// The newest mark in memory for which `reached` holds; it must hold for a prefix of the marks.
    fn newest(&self, reached: impl Fn(&Mark) -> bool) -> Option<&Mark> {
        self.parts().into_iter().rev().find_map(|part| {
            let count = part.partition_point(&reached);
            part.get(count.checked_sub(1)?)
        })
    }
}

/// The marks of one journal, wherever they are.
pub(super) struct MarkReader<'a> {
    pub(super) marks: &'a Marks,
    pub(super) index: &'a dyn KeyIndex,
    /// Index keys of this journal's marks begin with this.
    pub(super) prefix: Vec<u8>,
    pub(super) head_seq: u64,
}

impl MarkReader<'_> {
    /// The mark that holds `seq`.
    pub(super) fn locate(&self, seq: u64) -> Result<Option<Mark>, LedgerError> {
        if seq == 0 || seq > self.head_seq {
            return Ok(None);
        }
        let found = match self.marks.newest(|mark| mark.first_seq <= seq) {
            Some(mark) => Some(mark.clone()),
            None => self.stored(seq)?,
        };
        match found {
            Some(mark) if mark.last_seq() >= seq => Ok(Some(mark)),
            // seq is dense, so a journal with this head has a mark for it.
            _ => Err(LedgerError::Corrupt("a mark is missing")),
        }
    }

    /// The newest mark at or below a log index.
    pub(super) fn newest_at(&self, log_index: u64) -> Result<Option<Mark>, LedgerError> {
        if let Some(mark) = self.marks.newest(|mark| mark.log_index <= log_index) {
            return Ok(Some(mark.clone()));
        }
        // Marks in the index ascend in seq and log index together: halve the range of seqs.
        let oldest_in_memory = self.marks.in_memory().next().map_or(self.head_seq + 1, |mark| mark.first_seq);
        let (mut below, mut above, mut best) = (1, oldest_in_memory, None);
        while below < above {
            let middle = below + (above - below) / 2;
            let Some(mark) = self.stored(middle)?.filter(|mark| mark.last_seq() >= middle) else {
                return Err(LedgerError::Corrupt("a mark is missing"));
            };
            if mark.log_index <= log_index {
                below = mark.last_seq() + 1;
                best = Some(mark);
            } else {
                above = mark.first_seq;
            }
        }
        Ok(best)
    }

    fn stored(&self, seq: u64) -> Result<Option<Mark>, LedgerError> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(&seq.to_be_bytes());
        let found = self.index.floor(&self.prefix, &key)?;
        found.map(|(key, value)| Mark::decode(&key, &value)).transpose()
    }
}

/// An entry with what the store added, over its proposal's bytes.
#[derive(Debug, Clone, Copy)]
pub struct StoredView<'p> {
    /// Its number.
    pub seq: u64,
    /// What the client supplied.
    pub entry: EntryView<'p>,
    /// The class that its request asked for.
    pub asked: v1::DurabilityClass,
    /// The leader's clock when it was recorded, microseconds since 1970.
    pub recorded_at_us: i64,
    /// SHA-256(client part || store part).
    pub entry_hash: Hash,
    /// SHA-256(previous chain hash || entry hash).
    pub chain_hash: Hash,
}

impl StoredView<'_> {
    /// As a message.
    #[must_use]
    pub fn to_proto(&self) -> v1::StoredEntry {
        v1::StoredEntry {
            seq: self.seq,
            entry: Some(self.entry.to_proto()),
            recorded_at_us: self.recorded_at_us,
            entry_hash: bytes::Bytes::copy_from_slice(&self.entry_hash),
            chain_hash: bytes::Bytes::copy_from_slice(&self.chain_hash),
        }
    }
}

/// Rebuilds the entries that a proposal added to a journal, in order, with their hashes.
///
/// # Errors
/// The payload is no proposal.
pub fn entries_of<'p>(mark: &Mark, payload: &'p [u8], journal: &str) -> Result<MarkEntries<'p>, LedgerError> {
    Ok(MarkEntries {
        mark: mark.clone(),
        journal: journal.to_owned(),
        commands: ProposalView::parse(payload)?.commands(),
        command: 0,
        entries: None,
        asked: v1::DurabilityClass::Unspecified,
        entry: 0,
        done: 0,
        chain: mark.chain_before,
    })
}

/// See [`entries_of`]. After an error it ends.
pub struct MarkEntries<'p> {
    mark: Mark,
    journal: String,
    commands: Commands<'p>,
    /// Number of the next command.
    command: u32,
    /// Of the command before it.
    entries: Option<Entries<'p>>,
    /// The class that it asked for.
    asked: v1::DurabilityClass,
    /// Number of the next entry of `entries`.
    entry: u32,
    done: u32,
    chain: Hash,
}

impl<'p> MarkEntries<'p> {
    /// The next entry that was added.
    fn advance(&mut self) -> Result<EntryView<'p>, LedgerError> {
        loop {
            if let Some(entries) = &mut self.entries {
                for view in entries {
                    let number = self.entry;
                    self.entry += 1;
                    if !self.mark.skips(self.command - 1, number) {
                        return Ok(view?);
                    }
                }
            }
            let command = self.commands.next().ok_or(LedgerError::MarkMismatch)??;
            self.entries = match command {
                CommandView::Append(append)
                    if append.journal() == self.journal && !self.mark.skips(self.command, WHOLE_COMMAND) =>
                {
                    self.asked = append.class();
                    Some(append.entries())
                }
                _ => None,
            };
            self.command += 1;
            self.entry = 0;
        }
    }
}

impl<'p> Iterator for MarkEntries<'p> {
    type Item = Result<StoredView<'p>, LedgerError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done >= self.mark.count {
            return None;
        }
        let entry = match self.advance() {
            Ok(entry) => entry,
            Err(error) => {
                self.done = self.mark.count;
                return Some(Err(error));
            }
        };
        let seq = self.mark.first_seq + u64::from(self.done);
        let recorded_at_us = self.mark.recorded_at_us;
        let entry_hash = entry.hasher().entry_hash(&store_part(seq, recorded_at_us));
        self.chain = chain(&self.chain, &entry_hash);
        self.done += 1;
        let (asked, chain_hash) = (self.asked, self.chain);
        Some(Ok(StoredView { seq, entry, asked, recorded_at_us, entry_hash, chain_hash }))
    }
}
