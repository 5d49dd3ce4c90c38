//! Replaying records into the memory of the groups, with an eye on what is missing.
//!
//! Invariants: an entry that is known to be damaged keeps its place and its identity and is never served; where a batch
//! was lost together with its table, an entry's previous term, a checkpoint or a truncation must vouch for what is held,
//! and until one does, the end of every group's log counts as unknown. What a checkpoint *states* to be unknown stays so
//! until a later one states otherwise: entries that were written after the loss had been found prove nothing. A group that
//! a record names for the first time while it is in doubt which groups there were may have lost whatever came before.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use bytes::Bytes;

use super::LostRecord;
use crate::format::{BatchHeader, CheckpointState, Kind, NO_TERM, NUMBER_LIMIT, Row, RowState, Tag, flags};
use crate::log::group::{GroupLog, Place, Restored, Slot, Vote};
use crate::types::{GroupId, LogPoint};

/// Holes up to this size are kept entry by entry.
const HOLE_ENTRIES: u64 = 65_536;

#[derive(Default)]
pub(super) struct Replay {
    pub(super) groups: BTreeMap<GroupId, GroupLog>,
    evidence: BTreeMap<GroupId, Evidence>,
    /// The segment of the last batch.
    segment: Option<u32>,
    run: LostRun,
    /// Batches lost with their tables since every group was last named: others may have been in them.
    doubt: u64,
    /// Whether the log itself states that.
    doubt_is_stated: bool,
    /// Two of them, or more, may have followed each other: both copies of a vote of which nothing else is known.
    doubts_votes: bool,
}

/// Lost batches that follow each other.
#[derive(Default)]
struct LostRun {
    /// The number after the last one, and how many there are.
    next: u64,
    batches: u64,
}

#[derive(Default)]
struct Evidence {
    /// Intact copies of the newest vote in the last segment: older ones may go.
    intact_votes: u32,
    /// The newest vote of which anything was found.
    newest_vote_named: u64,
    /// Nothing has vouched for the end of the log since a batch was lost.
    tail_is_suspect: bool,
    /// What was known to be committed when that began: nothing up to there can have been replaced in what is lost. What is
    /// reported later may speak of the replacements.
    committed_at_loss: Option<LogPoint>,
}

/// What a replay ends with, beside the groups.
pub(super) struct Outcome {
    pub(super) quarantined: Vec<(GroupId, Vec<LostRecord>)>,
    /// Groups whose newest vote stands less than twice in the last segment, and how often it does.
    pub(super) thin_votes: Vec<(GroupId, u32)>,
    pub(super) doubt: u64,
    /// Groups whose end is unknown while the log does not state it yet; and whether it does not state the doubt.
    pub(super) unstated: (Vec<GroupId>, bool),
}

impl Replay {
    /// Takes in the records of a batch.
    pub(super) fn apply(&mut self, header: &BatchHeader, rows: &[(Row, RowState)], bytes: &[u8]) {
        if self.segment != Some(header.segment) {
            self.segment = Some(header.segment);
            self.evidence.values_mut().for_each(|evidence| evidence.intact_votes = 0);
        }
        if header.flags & flags::FIRST != 0 {
            // It names every group that there has been; a doubt that goes on is stated in it.
            self.state_doubt(0);
        }
        for (row, state) in rows {
            let intact = *state == RowState::Intact;
            let payload = bytes.get(row.offset as usize..row.offset as usize + row.length as usize);
            let payload = payload.filter(|_| intact);
            match row.kind {
                Kind::Entry => self.entry(row, slot(header, row, intact)),
                Kind::Repair => self.repair(row, slot(header, row, intact)),
                Kind::Vote => self.vote(row.group, row.index, payload),
                Kind::Truncate => {
                    let kept = (row.tag == Tag::KEEPS_POINT).then(|| row.point());
                    let log = self.follow(row.group, kept);
                    log.truncation = Some(kept);
                }
                Kind::Purge => {
                    self.group(row.group).purge(row.point());
                }
                Kind::Committed => self.group(row.group).committed = Some(row.point()),
                Kind::Checkpoint => match payload.and_then(CheckpointState::decode) {
                    Some(state) => self.checkpoint(row.group, &state),
                    None => self.damaged_checkpoint(header, row),
                },
                Kind::Doubt => self.state_doubt(row.index),
                Kind::Cut => {}
            }
        }
    }

    fn evidence(&mut self, group: GroupId) -> &mut Evidence {
        self.evidence.entry(group).or_default()
    }

    /// The log states how many lost batches leave it in doubt which groups there were.
    fn state_doubt(&mut self, batches: u64) {
        (self.doubt, self.doubt_is_stated, self.doubts_votes) = (batches, true, batches >= 2);
    }

    /// A group that a record names. What came before its first record may have been lost.
    fn group(&mut self, group: GroupId) -> &mut GroupLog {
        self.known(group).1
    }

    fn known(&mut self, group: GroupId) -> (&mut Evidence, &mut GroupLog) {
        let evidence = self.evidence.entry(group).or_default();
        let log = self.groups.entry(group).or_insert_with(|| {
            evidence.tail_is_suspect = self.doubt > 0;
            let mut log = GroupLog::default();
            log.vote_lost = self.doubt > 0 && self.doubts_votes;
            log
        });
        (evidence, log)
    }

    /// Something vouches for the end of a group's log: it is at this point.
    fn follow(&mut self, group: GroupId, before: Option<LogPoint>) -> &mut GroupLog {
        let (evidence, log) = self.known(group);
        let was_suspect = std::mem::replace(&mut evidence.tail_is_suspect, false);
        let committed = if was_suspect { evidence.committed_at_loss } else { log.committed };
        let uncommitted = committed.map_or(0, |committed| committed.index.saturating_add(1));
        follow(log, before, uncommitted);
        log
    }

    fn entry(&mut self, row: &Row, slot: Slot) {
        let before = row.index.checked_sub(1).filter(|_| row.previous_term != NO_TERM);
        let before = before.map(|index| LogPoint { term: row.previous_term, index });
        let log = self.follow(row.group, before);
        log.push(row.index, row.term, row.leader, slot);
    }

    /// A repair was written when its entry belonged to the log; whatever rot has taken since, it does so still.
    fn repair(&mut self, row: &Row, slot: Slot) {
        let last = self.groups.get(&row.group).and_then(GroupLog::last);
        if last.is_none_or(|last| last.index < row.index) {
            let was_suspect = self.known(row.group).0.tail_is_suspect;
            self.follow(row.group, Some(row.point()));
            // It says that its entry was there, not that it was the last.
            self.evidence(row.group).tail_is_suspect = was_suspect;
        }
        let log = self.group(row.group);
        let is_needed = log.lost_entry(row.index).is_some();
        if slot.place == Place::Disk || is_needed {
            log.put_restored(row.index, Restored { term: row.term, leader: row.leader, slot });
        }
    }

    fn vote(&mut self, group: GroupId, sequence: u64, payload: Option<&[u8]>) {
        let (evidence, log) = self.known(group);
        evidence.newest_vote_named = evidence.newest_vote_named.max(sequence);
        let Some(payload) = payload else { return };
        if sequence > log.vote.sequence {
            log.vote = Vote { sequence, bytes: Some(Bytes::copy_from_slice(payload)) };
            log.vote_lost = false;
            evidence.intact_votes = 0;
        }
        if sequence == log.vote.sequence {
            evidence.intact_votes += 1;
        }
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
        if let Entry::Vacant(vacant) = self.groups.entry(group) {
            vacant.insert(GroupLog::from_checkpoint(state));
            let evidence = self.evidence(group);
            evidence.tail_is_suspect = false;
            if state.vote.is_some() {
                evidence.intact_votes = 1;
                evidence.newest_vote_named = state.vote_sequence;
            }
            return;
        }
        let log = self.follow(group, state.last);
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

    /// Whatever a checkpoint said is lost, but for what came before it and is held.
    fn damaged_checkpoint(&mut self, header: &BatchHeader, row: &Row) {
        let begins_segment = header.flags & flags::FIRST != 0;
        if !self.groups.contains_key(&row.group) {
            self.evidence(row.group).tail_is_suspect = true;
            // A vote that it named stands once more in the next batch.
            let names_vote = row.length as usize > CheckpointState::FIXED_BYTES;
            self.groups.entry(row.group).or_default().vote_lost = names_vote || !begins_segment;
        }
        if !begins_segment {
            // It had something new to say: that the end is unknown, if not the contrary.
            self.group(row.group).tail_unknown = true;
        }
    }

    /// Batches have been lost together with their tables: so many, from this number on.
    pub(super) fn lost_batches(&mut self, first: u64, count: u64) {
        let before = if self.run.next == first { self.run.batches } else { 0 };
        self.run = LostRun { next: first.saturating_add(count), batches: before.saturating_add(count) };
        // The copies of a vote are in two batches that follow each other: one lost batch cannot hold both.
        let pair = self.run.batches >= 2;
        (self.doubt, self.doubt_is_stated) = (self.doubt.saturating_add(count).min(NUMBER_LIMIT - 1), false);
        self.doubts_votes |= pair;
        for (group, log) in &mut self.groups {
            let evidence = self.evidence.entry(*group).or_default();
            if !std::mem::replace(&mut evidence.tail_is_suspect, true) {
                evidence.committed_at_loss = log.committed;
            }
            log.vote_lost |= pair;
        }
    }

    /// Ends the replay: what is lost of each group, and what the log has to be told about itself.
    pub(super) fn finish(&mut self) -> Outcome {
        let mut outcome = Outcome {
            quarantined: Vec::new(),
            thin_votes: Vec::new(),
            doubt: self.doubt,
            unstated: (Vec::new(), !self.doubt_is_stated && self.doubt > 0),
        };
        for (group, log) in &mut self.groups {
            if let Some(evidence) = self.evidence.get(group) {
                log.vote_lost |= evidence.newest_vote_named > log.vote.sequence;
                log.newest_vote_named = evidence.newest_vote_named;
                if evidence.intact_votes < 2 && log.vote.bytes.is_some() && !log.vote_lost {
                    outcome.thin_votes.push((*group, evidence.intact_votes));
                }
                if evidence.tail_is_suspect {
                    log.tail_unknown = true;
                    outcome.unstated.0.push(*group);
                }
            }
            log.all_is_durable();
            let lost = log.lost();
            if !lost.is_empty() {
                outcome.quarantined.push((*group, lost));
            }
        }
        outcome
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

/// Makes the log end at a point (`None`: it must be empty), whatever that takes: what it holds beyond was truncated, perhaps
/// in a batch that is lost, what it lacks is missing, and where the terms differ, entries from `uncommitted` on have been
/// replaced. A point of `NO_TERM` says only that there was an entry.
fn follow(log: &mut GroupLog, before: Option<LogPoint>, uncommitted: u64) {
    let Some(expected) = before else {
        if log.last().is_some() {
            log.truncate(None);
        }
        return;
    };
    match log.last() {
        None => log.begin_after(expected),
        Some(last) if last.index >= expected.index => {
            if last.index > expected.index {
                let kept = log.point(expected.index);
                log.truncate(Some(kept.unwrap_or(LogPoint { term: NO_TERM, ..expected })));
            }
            replace_last(log, expected, uncommitted);
        }
        Some(last) => {
            log.suspect_from(uncommitted);
            if expected.index - last.index > HOLE_ENTRIES {
                return log.begin_after(expected);
            }
            for index in last.index + 1..expected.index {
                log.push(index, NO_TERM, 0, Slot::MISSING);
            }
            log.push(expected.index, expected.term, 0, Slot::MISSING);
        }
    }
}

/// The log ends at the right index, but perhaps not with the right entry.
fn replace_last(log: &mut GroupLog, expected: LogPoint, uncommitted: u64) {
    let Some(last) = log.last() else { return };
    if expected.term == NO_TERM {
        return;
    }
    // A term that is unknown or doubtful already tells nothing new of the entries before it.
    if last != expected && last.term != NO_TERM && !log.is_doubtful(last.index) {
        log.suspect_from(uncommitted);
    }
    if last == expected || last.term == NO_TERM || log.slot(expected.index).is_some() {
        log.vouch(expected);
    } else {
        log.begin_after(expected);
    }
}
