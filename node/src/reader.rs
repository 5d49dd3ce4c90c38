//! Entries by position: from a journal's marks to the proposal in the log and back to entries.
//!
//! Invariants: this is the one place that reads entries; nothing above the given head is returned; hashes are recomputed from
//! the stored bytes, never cached.

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;

use crate::ledger::{Mark, entries_of};
use crate::raft::group::Group;

/// An entry, and how it came here.
pub struct Original {
    /// The entry.
    pub stored: v1::StoredEntry,
    /// Its proposal's index in the group's log.
    pub log_index: u64,
    /// The class that its request asked for.
    pub asked: v1::DurabilityClass,
}

/// Reads entries of one journal of one group.
pub struct Reader<'a> {
    group: &'a Group,
    journal: &'a str,
}

fn internal(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Internal, "", why.to_string())
}

/// JOURNAL_NOT_FOUND.
#[must_use]
pub fn journal_not_found(journal: &str) -> Refusal {
    Refusal::new(Reason::JournalNotFound, "journal", format!("there is no journal {journal:?}"))
}

impl<'a> Reader<'a> {
    /// A reader of `journal`.
    #[must_use]
    pub fn new(group: &'a Group, journal: &'a str) -> Self {
        Self { group, journal }
    }

    /// The proposal that holds the entry `seq`.
    fn proposal(&self, seq: u64) -> Result<(Mark, bytes::Bytes), Refusal> {
        let mark = self.group.state().ledger().locate(self.journal, seq).map_err(internal)?;
        let mark = mark.ok_or_else(|| {
            let why = format!("journal {:?} has no entry {seq}", self.journal);
            Refusal::new(Reason::EntryNotFound, "seq", why)
        })?;
        let bytes = self.group.proposal_bytes(mark.log_index).map_err(internal)?;
        let bytes = bytes.ok_or_else(|| internal(format!("the log lacks index {}", mark.log_index)))?;
        Ok((mark, bytes))
    }

    /// The entries `from..=to` that one proposal holds: at least the entry `from`, if there is one.
    ///
    /// # Errors
    /// ENTRY_NOT_FOUND, or INTERNAL when the log or the index cannot be read.
    pub fn chunk(&self, from: u64, to: u64) -> Result<Vec<v1::StoredEntry>, Refusal> {
        let (mark, bytes) = self.proposal(from)?;
        let mut entries = Vec::new();
        for stored in entries_of(&mark, &bytes, self.journal).map_err(internal)? {
            let stored = stored.map_err(internal)?;
            if stored.seq > to {
                break;
            }
            if stored.seq >= from {
                entries.push(stored.to_proto());
            }
        }
        if entries.is_empty() {
            return Err(internal(format!("the proposal at index {} lacks entry {from}", mark.log_index)));
        }
        Ok(entries)
    }

    /// One entry, and how it came here.
    ///
    /// # Errors
    /// As [`Reader::chunk`].
    pub fn original(&self, seq: u64) -> Result<Original, Refusal> {
        let (mark, bytes) = self.proposal(seq)?;
        for stored in entries_of(&mark, &bytes, self.journal).map_err(internal)? {
            let stored = stored.map_err(internal)?;
            if stored.seq == seq {
                let (log_index, asked) = (mark.log_index, stored.asked);
                return Ok(Original { stored: stored.to_proto(), log_index, asked });
            }
        }
        Err(internal(format!("the proposal at index {} lacks entry {seq}", mark.log_index)))
    }

    /// One entry.
    ///
    /// # Errors
    /// As [`Reader::chunk`].
    pub fn entry(&self, seq: u64) -> Result<v1::StoredEntry, Refusal> {
        self.chunk(seq, seq)?.pop().ok_or_else(|| internal("an empty chunk"))
    }
}
