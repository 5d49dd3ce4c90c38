//! Replaying records into the memory of the groups, with an eye on what is missing.
//!
//! Invariants: an entry that is known to be damaged keeps its place and its identity and is never served; where a batch
//! was lost together with its table, an entry's previous term, a checkpoint or a truncation must vouch for what is held,
//! and until one does, the end of every group's log counts as unknown.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::LostRecord;
use crate::format::{BatchHeader, CheckpointState, Kind, NO_TERM, Row, RowState, Tag, flags};
use crate::log::group::{GroupLog, Place, Slot, Vote};
use crate::types::{GroupId, LogPoint};

/// Holes up to this size are kept entry by entry.
const HOLE_ENTRIES: u64 = 65_536;

/// Groups whose newest vote stands less than twice in the last segment, and how often it does.
pub(crate) type ThinVotes = Vec<(GroupId, u32)>;

#[derive(Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, GroupLog>,
    votes: BTreeMap<GroupId, VoteCopies>,
    /// The segment of the last batch.
    segment: Option<u32>,
    lost: Lost,
    /// What each group had committed when batches were lost; until something vouches for the group again.
    trusted: BTreeMap<GroupId, Option<LogPoint>>,
}

/// Batches that have been lost together with their tables.
#[derive(Default)]
struct Lost {
    any: bool,
    /// Two in a row, somewhere.
    pair: bool,
    /// The number after the last one, and how many in a row ended there.
    next: u64,
    run: u64,
}

#[derive(Default)]
struct VoteCopies {
    /// Intact copies of the newest vote in the last segment: older ones may go.
    intact: u32,
    /// The newest vote of which anything was found.
    newest_named: u64,
}

impl Replay {
    /// Takes in the records of a batch.
    pub(super) fn apply(&mut self, header: &BatchHeader, rows: &[(Row, RowState)], bytes: &[u8]) {
        if self.segment != Some(header.segment) {
            self.segment = Some(header.segment);
            self.votes.values_mut().for_each(|copies| copies.intact = 0);
        }
        for (row, state) in rows {
            let intact = *state == RowState::Intact;
            let payload = bytes.get(row.offset as usize..row.offset as usize + row.length as usize);
            let payload = payload.filter(|_| intact);
            match row.kind {
                Kind::Entry => self.entry(row, slot(header, row, intact)),
                Kind::Repair => {
                    if let Some(log) = self.groups.get_mut(&row.group)
                        && intact
                        && log.term_and_leader(row.index).map(|(term, _)| term) == Some(row.term)
                    {
                        log.place(row.index, slot(header, row, true));
                    }
                }
                Kind::Vote => self.vote(row.group, row.index, payload),
                Kind::Truncate => {
                    let kept = (row.tag == Tag::KEEPS_POINT).then(|| row.point());
                    self.group(row.group).truncate(kept);
                    if let Some(kept) = kept {
                        self.follow(row.group, kept.index, kept.term);
                    }
                    self.vouched(row.group);
                }
                Kind::Purge => {
                    self.group(row.group).purge(row.point());
                }
                Kind::Committed => self.group(row.group).committed = Some(row.point()),
                Kind::Checkpoint => {
                    if let Some(state) = payload.and_then(CheckpointState::decode) {
                        self.checkpoint(row.group, &state);
                    }
                }
                Kind::Cut => {}
            }
        }
        if header.flags & flags::FIRST != 0 && rows.iter().all(|(_, state)| *state == RowState::Intact) {
            // Every group that there was has been named.
            self.lost.any = false;
            self.lost.pair = false;
        }
    }

    fn entry(&mut self, row: &Row, slot: Slot) {
        match row.index.checked_sub(1) {
            Some(before) => self.follow(row.group, before, row.previous_term),
            None => self.follow(row.group, 0, NO_TERM),
        }
        self.vouched(row.group);
        self.group(row.group).push(row.index, row.term, row.leader, slot);
    }

    fn vote(&mut self, group: GroupId, sequence: u64, payload: Option<&[u8]>) {
        let log = self.group(group);
        let is_newer = payload.is_some() && sequence > log.vote.sequence;
        if let Some(payload) = payload.filter(|_| is_newer) {
            log.vote = Vote { sequence, bytes: Some(Bytes::copy_from_slice(payload)) };
            log.vote_lost = false;
        }
        let is_newest = payload.is_some() && sequence == log.vote.sequence;
        let copies = self.votes.entry(group).or_default();
        copies.newest_named = copies.newest_named.max(sequence);
        if is_newer {
            copies.intact = 0;
        }
        copies.intact += u32::from(is_newest);
    }

    /// Takes in the intact votes of a batch that is not accepted, and nothing else of it.
    pub(super) fn save_votes<'a>(&mut self, rows: impl Iterator<Item = &'a (Row, RowState)>, bytes: &[u8]) {
        for (row, state) in rows {
            let payload = bytes.get(row.offset as usize..row.offset as usize + row.length as usize);
            if row.kind == Kind::Vote && *state == RowState::Intact && payload.is_some() {
                self.vote(row.group, row.index, payload);
            }
        }
    }

    fn checkpoint(&mut self, group: GroupId, state: &CheckpointState) {
        match self.groups.get_mut(&group) {
            None => {
                self.groups.insert(group, GroupLog::from_checkpoint(state));
                if state.vote.is_some() {
                    self.votes.insert(group, VoteCopies { intact: 1, newest_named: state.vote_sequence });
                }
            }
            Some(_) => {
                match state.last {
                    Some(last) => self.follow(group, last.index, last.term),
                    None => self.follow(group, 0, NO_TERM),
                }
                self.vouched(group);
                let log = self.group(group);
                if let Some(purged) =
                    state.purged.filter(|purged| log.purged.is_none_or(|held| held.index < purged.index))
                {
                    log.purge(purged);
                }
                log.committed = state.committed.or(log.committed);
                log.truncation = state.truncation.or(log.truncation);
                log.tail_unknown = state.tail_unknown;
                log.vote_lost = state.vote_lost;
                if let Some(vote) = &state.vote {
                    self.vote(group, state.vote_sequence, Some(vote));
                }
            }
        }
    }

    /// Batches have been lost together with their tables: so many, from this number on.
    pub(super) fn lost_batches(&mut self, first: u64, count: u64) {
        self.lost.run = if self.lost.next == first { self.lost.run.saturating_add(count) } else { count };
        self.lost.next = first.saturating_add(count);
        // The copies of a vote are in two batches that follow each other: one lost batch cannot hold both.
        let pair = self.lost.run >= 2;
        self.lost.any = true;
        self.lost.pair |= pair;
        for (group, log) in &mut self.groups {
            self.trusted.entry(*group).or_insert(log.committed);
            log.tail_unknown = true;
            log.vote_lost |= pair;
        }
    }

    /// Something says how the group's log ends here.
    fn vouched(&mut self, group: GroupId) {
        self.trusted.remove(&group);
        self.group(group).tail_unknown = false;
    }

    /// Makes the log end at this index with this term. What was committed after a loss says nothing of what is held from
    /// before it.
    fn follow(&mut self, group: GroupId, before: u64, term: u64) {
        let trusted = self.trusted.get(&group).copied();
        let log = self.group(group);
        let trusted = trusted.unwrap_or(log.committed);
        follow(log, before, term, trusted);
    }

    /// A group that a record names. What came before its first record may have been lost.
    fn group(&mut self, group: GroupId) -> &mut GroupLog {
        let lost = &self.lost;
        if lost.any && !self.groups.contains_key(&group) {
            self.trusted.insert(group, None);
        }
        self.groups.entry(group).or_insert_with(|| {
            let mut log = GroupLog::default();
            log.tail_unknown = lost.any;
            log.vote_lost = lost.pair;
            log
        })
    }

    /// Ends the replay: what is lost of each group, and the votes of which the last segment holds less than two copies.
    pub(super) fn finish(&mut self) -> (Vec<(GroupId, Vec<LostRecord>)>, ThinVotes) {
        let mut quarantined = Vec::new();
        let mut thin = Vec::new();
        for (group, log) in &mut self.groups {
            if let Some(copies) = self.votes.get(group) {
                log.vote_lost |= copies.newest_named > log.vote.sequence;
                log.newest_vote_named = copies.newest_named;
                if copies.intact < 2 && !log.vote_lost {
                    thin.push((*group, copies.intact));
                }
            }
            log.all_is_durable();
            let mut lost = Vec::new();
            if let Some((first, last)) = log.missing_range() {
                lost.push(LostRecord::Entries { first, last });
            }
            for (index, term, payload_crc) in log.faulty() {
                lost.push(LostRecord::Entry { index, term, payload_crc });
            }
            if log.tail_unknown {
                lost.push(LostRecord::Tail { after: log.last() });
            }
            if log.vote_lost {
                lost.push(LostRecord::Vote);
            }
            if !lost.is_empty() {
                quarantined.push((*group, lost));
            }
        }
        (quarantined, thin)
    }
}

fn slot(header: &BatchHeader, row: &Row, intact: bool) -> Slot {
    let start = header.block.saturating_mul(u32::try_from(crate::format::BLOCK_BYTES).unwrap_or(0));
    Slot {
        segment: header.segment,
        offset: start.saturating_add(row.offset),
        length: row.length,
        crc: row.crc,
        tag: row.tag,
        place: if intact { Place::Disk } else { Place::Faulty },
    }
}

/// Makes the log end at `before`, of the given term (`NO_TERM`: it must be empty there), whatever that takes: what it
/// holds beyond was truncated in a batch that is lost, what it lacks is missing, and where the terms differ, entries have
/// been replaced.
fn follow(log: &mut GroupLog, before: u64, term: u64, trusted: Option<LogPoint>) {
    if term == NO_TERM {
        if log.last().is_some() {
            log.truncate(None);
        }
        return;
    }
    let expected = LogPoint { term, index: before };
    match log.last() {
        Some(last) if last == expected => {}
        None => log.begin_after(expected),
        Some(last) if last.index >= before => {
            if last.index > before {
                let kept = log.point(before);
                log.truncate(Some(kept.unwrap_or(expected)));
            }
            if log.last() != Some(expected) {
                log.suspect_after(trusted);
                replace_last(log, expected);
            }
        }
        Some(last) => {
            log.suspect_after(trusted);
            if before - last.index > HOLE_ENTRIES {
                return log.begin_after(expected);
            }
            for index in last.index + 1..before {
                log.push(index, NO_TERM, 0, Slot::MISSING);
            }
            log.push(before, term, 0, Slot::MISSING);
        }
    }
}

/// The last entry is not the one it should be.
fn replace_last(log: &mut GroupLog, expected: LogPoint) {
    let (first, end) = log.range();
    if end > first && end - 1 == expected.index {
        let kept = expected.index.checked_sub(1).filter(|index| *index >= first);
        match kept {
            Some(index) => log.truncate(Some(LogPoint { term: NO_TERM, index })),
            None => log.truncate(log.base()),
        };
        log.push(expected.index, expected.term, 0, Slot::MISSING);
    } else {
        log.begin_after(expected);
    }
}
