//! Repair: what is lost of a group, what a peer may be told of it, and how it is made whole again.
//!
//! ```text
//!            recovery, a read or the scrubber finds rot
//!                              |
//!   lost(group) = [Entry, Entries, Tail, Vote]      the group is not started, or stops
//!        |            |          |       |
//!     restore     truncate,   tail_    save_vote    each durable; what is not, a crash undoes, and it is lost again
//!        |         purge     settled     |
//!                              |
//!                     lost(group) = []
//! ```
//!
//! Who may restore or discard what is the caller's to know: an entry of which the term survives is the entry of that index
//! and term, wherever it is found intact; where the term is lost, only a committed log can vouch for it.
//!
//! Invariants: a restored entry can be read only when it is durable; an entry that cannot be the lost one is refused; a
//! group that is damaged and one that is not take appends, votes, truncations and purges alike.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::SegmentLog;
use super::group::GroupLog;
use super::reading;
use super::recover::LostRecord;
use super::shared::{QueuedEntry, State, Work};
use crate::error::LogError;
use crate::format::NO_TERM;
use crate::types::{Done, GroupId, LogRecord};

/// What a log says of one entry, to a peer that has lost it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The entry, with the bytes that were once appended.
    Intact(LogRecord),
    /// The log is known not to hold it: it ends before, begins behind, or holds another term there.
    Absent,
    /// It is damaged here too, or what is lost here may have been it: this log cannot say.
    Faulty,
    /// It has been purged: whatever was there was committed, and a snapshot holds its effect.
    Purged,
}

impl SegmentLog {
    /// What is lost of a group now; empty = nothing. It grows when rot is found and shrinks by repair.
    pub fn lost(&self, group: GroupId) -> Vec<LostRecord> {
        self.0.shared.lock().groups.get(&group).map(GroupLog::lost).unwrap_or_default()
    }

    /// Whether anything is lost of a group.
    pub fn is_damaged(&self, group: GroupId) -> bool {
        self.0.shared.lock().groups.get(&group).is_some_and(GroupLog::is_damaged)
    }

    /// The groups of which something is lost.
    pub fn damaged_groups(&self) -> Vec<GroupId> {
        let state = self.0.shared.lock();
        state.groups.iter().filter(|(_, log)| log.is_damaged()).map(|(group, _)| *group).collect()
    }

    /// Calls `hook` each time a read or the scrubber has found that something more is lost of a group, on the thread that
    /// found it. What recovery found is not told again. The hook may call the log.
    pub fn on_rot(&self, hook: Box<dyn Fn(GroupId) + Send + Sync>) {
        self.0.shared.rot_hooks.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::from(hook));
    }

    /// What this log has at an index: the entry of a term or, with no term, whatever is there. Works for damaged groups
    /// too: then it never says [`Held::Absent`] of something that may have been lost.
    pub fn held(&self, group: GroupId, index: u64, term: Option<u64>) -> Result<Held, LogError> {
        let answer = classify(&self.0.shared.lock(), group, index, term);
        if let Some(answer) = answer {
            return Ok(answer);
        }
        Ok(match reading::read_one(&self.0.shared, group, index)? {
            // Between the look and the reading it may have been replaced.
            Some(record) if term.is_none_or(|term| term == record.term) => Held::Intact(record),
            Some(_) => Held::Absent,
            None => classify(&self.0.shared.lock(), group, index, term).unwrap_or(Held::Faulty),
        })
    }

    /// Writes a lost entry anew. When `done` says so, it is durable, can be read, and is not lost any more. Term and
    /// payload must be those of the lost entry as far as they are known; where they are not, the caller vouches.
    pub fn restore(&self, group: GroupId, record: LogRecord, done: Done) -> Result<(), LogError> {
        let shared = &self.0.shared;
        let limit_bytes = shared.options.record_limit_bytes();
        if record.payload.len() > limit_bytes {
            let bytes = record.payload.len();
            return Err(LogError::RecordTooLarge { group, bytes, limit_bytes });
        }
        let crc = crc32fast::hash(&record.payload);
        {
            let mut state = shared.lock();
            state.accepts()?;
            check_restored(&state, group, &record, crc)?;
            state.admits_repair(record.payload.len(), &shared.options)?;
            state.push_repair(group, record, crc, Some(done));
        }
        shared.kick();
        Ok(())
    }

    /// Declares, after truncating and appending as needed, that the group's log ends where it should: what may have
    /// followed its last entry is not lost any more. `done` when that is durable.
    pub fn tail_settled(&self, group: GroupId, done: Done) -> Result<(), LogError> {
        {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            state.admits_truncation()?;
            let log = state.groups.get_mut(&group).ok_or(LogError::NoSuchGroup { group })?;
            log.tail_unknown = false;
            let work = Work::State { group, tail_unknown: false, suspects_vote: false, done: Some(done) };
            state.queue.push_back(work);
        }
        self.0.shared.kick();
        Ok(())
    }

    /// How many batches have been lost of which not even the groups are known. While it is not zero, a group that is not
    /// in [`SegmentLog::groups`] may have been in them; [`SegmentLog::settle_groups`] ends that.
    pub fn unsettled_batches(&self) -> u64 {
        self.0.shared.lock().doubt
    }

    /// Names all groups that this node can have had. Those that the log does not know count as damaged from now on, with
    /// both tail and vote lost, and are settled like others. `done` when that is durable and no doubt is left.
    pub fn settle_groups(&self, groups: &[GroupId], done: Done) -> Result<(), LogError> {
        {
            let mut state = self.0.shared.lock();
            state.accepts()?;
            let is_in_doubt = state.doubt > 0;
            for group in groups.iter().copied().filter(|_| is_in_doubt) {
                if state.groups.contains_key(&group) {
                    continue;
                }
                let log = state.groups.entry(group).or_default();
                (log.tail_unknown, log.vote_lost) = (true, true);
                state.queue.push_back(Work::State {
                    group,
                    tail_unknown: true,
                    suspects_vote: true,
                    done: None,
                });
            }
            state.doubt = 0;
            state.queue.push_back(Work::Doubt { batches: 0, done: Some(done) });
        }
        self.0.shared.kick();
        Ok(())
    }
}

impl State {
    /// Queues the bytes of an entry to be written as a repair.
    pub(super) fn push_repair(&mut self, group: GroupId, record: LogRecord, crc: u32, done: Option<Done>) {
        let entry = QueuedEntry { record, crc, previous_term: 0 };
        self.queue.push_back(Work::Repair { group, entry, done });
    }
}

/// What can be said without reading; `None` = the entry must be read.
fn classify(state: &State, group: GroupId, index: u64, term: Option<u64>) -> Option<Held> {
    let Some(log) = state.groups.get(&group) else {
        return Some(if state.doubt > 0 { Held::Faulty } else { Held::Absent });
    };
    if log.purged.is_some_and(|purged| index <= purged.index) {
        return Some(Held::Purged);
    }
    // A term that is certain may be another one, damaged or not.
    let certain = log.point(index).map(|point| point.term);
    if certain.is_some_and(|certain| term.is_some_and(|term| term != certain)) {
        return Some(Held::Absent);
    }
    if log.lost_entry(index).is_some() {
        return Some(Held::Faulty);
    }
    if log.slot(index).is_some() {
        return None;
    }
    let is_behind = log.last().is_none_or(|last| last.index < index);
    Some(if is_behind && log.tail_unknown { Held::Faulty } else { Held::Absent })
}

/// Whether this may be the entry that is lost.
fn check_restored(state: &State, group: GroupId, record: &LogRecord, crc: u32) -> Result<(), LogError> {
    let index = record.index;
    let log = state.groups.get(&group).ok_or(LogError::NoSuchGroup { group })?;
    let lost = log.lost_entry(index).ok_or(LogError::NotLost { group, index })?;
    let other = |field| Err(LogError::NotTheLostEntry { group, index, field });
    if record.term == NO_TERM || lost.term.is_some_and(|term| term != record.term) {
        return other("term");
    }
    if !log.fits_between(record.point()) {
        return other("term");
    }
    let same = |(known, length): (u32, u32)| known == crc && length as usize == Bytes::len(&record.payload);
    if !lost.payload.is_none_or(same) {
        return other("payload");
    }
    Ok(())
}
