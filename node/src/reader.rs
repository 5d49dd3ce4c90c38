//! Entries by position: from a journal's marks to the proposal in the log and back to entries.
//!
//! Invariants: this is the one place that reads entries; nothing above the given head is returned; hashes are recomputed from
//! the stored bytes, never cached.

use std::collections::BTreeSet;
use std::time::Duration;

use tercet_proto::canonical::Hash;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::text::quote;
use tercet_proto::v1;

use crate::ledger::{EntryOutcome, Mark, StoredView, entries_of};
use crate::placement::Class;
use crate::raft::group::Group;

/// What a receipt says of an entry, and how it came here.
pub struct Original {
    /// Its number.
    pub seq: u64,
    /// The leader's clock when it was recorded, microseconds since 1970.
    pub recorded_at_us: i64,
    /// See [`StoredView`](crate::ledger::StoredView).
    pub entry_hash: Hash,
    /// See [`StoredView`](crate::ledger::StoredView).
    pub chain_hash: Hash,
    /// Its proposal's index in the group's log.
    pub log_index: u64,
    /// The class that its request asked for.
    pub asked: v1::DurabilityClass,
}

/// The entries of a request that were there already, by number.
#[derive(Default)]
pub struct Originals(Vec<Original>);

impl Originals {
    /// One of them.
    ///
    /// # Errors
    /// INTERNAL: it is none of them.
    pub fn get(&self, seq: u64) -> Result<&Original, Refusal> {
        let at = self.0.binary_search_by_key(&seq, |original| original.seq);
        at.ok()
            .and_then(|at| self.0.get(at))
            .ok_or_else(|| internal(format!("entry {seq} was not looked up")))
    }
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
    Refusal::new(Reason::JournalNotFound, "journal", format!("there is no journal {}", quote(journal)))
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
            let why = format!("journal {} has no entry {seq}", quote(self.journal));
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

    /// The entries of a request that were there already. For each the stronger of its own class and the request's has to be reached;
    /// the request's, `reached`, has been, and the others are waited for.
    ///
    /// # Errors
    /// As [`Reader::chunk`]; OUTCOME_UNKNOWN when a class is not reached in time.
    pub async fn replayed(
        &self,
        outcomes: &[EntryOutcome],
        reached: Class,
        patience: Duration,
    ) -> Result<Originals, Refusal> {
        let old = outcomes.iter().filter_map(|outcome| match outcome {
            EntryOutcome::Replayed { seq } => Some(*seq),
            EntryOutcome::New { .. } => None,
        });
        let seqs: BTreeSet<u64> = old.collect();
        let originals = self.originals(&seqs.into_iter().collect::<Vec<u64>>())?;
        let default = self.group.class_of_journal(self.journal);
        for class in Class::ALL.into_iter().filter(|class| *class > reached) {
            let asked = originals.iter().filter(|one| Class::of_request(one.asked, default) == class);
            if let Some(last) = asked.map(|original| original.log_index).max() {
                let placed = self.group.wait_placed(class, last, patience).await;
                placed.map_err(|refusal| Refusal::new(Reason::OutcomeUnknown, "", refusal.message))?;
            }
        }
        Ok(Originals(originals))
    }

    /// Entries by number; `seqs` ascend. A proposal is read and hashed once, however many of its entries are asked for: a client
    /// that repeats a large request costs about what the request did.
    fn originals(&self, seqs: &[u64]) -> Result<Vec<Original>, Refusal> {
        let mut found = Vec::with_capacity(seqs.len());
        let mut rest = seqs;
        while let Some(first) = rest.first() {
            let (mark, bytes) = self.proposal(*first)?;
            let (here, behind) = rest.split_at(rest.partition_point(|seq| *seq <= mark.last_seq()));
            let mut wanted = here.iter().peekable();
            for stored in entries_of(&mark, &bytes, self.journal).map_err(internal)? {
                let StoredView { seq, recorded_at_us, entry_hash, chain_hash, asked, .. } =
                    stored.map_err(internal)?;
                if wanted.next_if_eq(&&seq).is_some() {
                    let log_index = mark.log_index;
                    found.push(Original { seq, recorded_at_us, entry_hash, chain_hash, log_index, asked });
                }
                if wanted.peek().is_none() {
                    break;
                }
            }
            if let Some(seq) = wanted.next() {
                return Err(internal(format!("the proposal at index {} lacks entry {seq}", mark.log_index)));
            }
            rest = behind;
        }
        Ok(found)
    }

    /// One entry.
    ///
    /// # Errors
    /// As [`Reader::chunk`].
    pub fn entry(&self, seq: u64) -> Result<v1::StoredEntry, Refusal> {
        self.chunk(seq, seq)?.pop().ok_or_else(|| internal("an empty chunk"))
    }
}
