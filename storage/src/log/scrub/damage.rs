//! What damage means for what the log holds, and what can be done about it at once.
//!
//! Invariant: an entry is given up only if its bytes, read by place, do not have its CRC.

use std::collections::BTreeSet;
use std::ops::Range;

use super::{ScrubFinding, ScrubProgress, Scrubber};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, Kind, Row, RowState};
use crate::log::reading;
use crate::log::recover::scan::PlacedBatch;
use crate::log::recover::{Finding, NamedRecord, RotReason, Verdict};
use crate::log::shared::{VoteWork, Work};
use crate::types::GroupId;

/// So many entries of a group are written anew because they would be doubted; if there are more, peers must help some day.
const DOUBTFUL_ENTRIES: usize = 1_024;

/// Damage, and what of the segment it makes useless.
pub(super) struct Harm {
    pub(super) finding: Finding,
    /// Damaged records that the table names.
    rows: Vec<Row>,
    /// Blocks whose records have lost their names.
    pub(super) blocks: Range<u32>,
}

impl Harm {
    /// Blocks of which no table survives.
    pub(super) fn region(
        segment: u32,
        block: u32,
        blocks: Range<u32>,
        verdict: Verdict,
        detail: &str,
    ) -> Harm {
        let finding = Finding {
            segment,
            block,
            batch: 0,
            verdict,
            records: Vec::new(),
            lost_batches: 0,
            detail: detail.to_owned(),
        };
        Harm { finding, rows: Vec::new(), blocks }
    }

    /// A batch that lies where it should and is damaged.
    pub(super) fn batch(batch: &PlacedBatch) -> Harm {
        let header = &batch.header;
        let verdict = if batch.has_bad_blocks {
            Verdict::Unreadable
        } else {
            Verdict::ConfirmedRot(RotReason::SealedSegment)
        };
        let bad = batch.body.rows.iter().flatten().filter(|(_, state)| *state != RowState::Intact);
        let rows: Vec<Row> = bad.map(|(row, _)| *row).collect();
        let (blocks, detail) = match (&batch.body.rows, rows.is_empty()) {
            (None, _) => (header.block..header.block + header.blocks, "the record table is damaged"),
            (Some(_), false) => (0..0, "records are damaged"),
            (Some(_), true) => (0..0, "padding that is not zero"),
        };
        let mut harm = Harm::region(header.segment, header.block, blocks, verdict, detail);
        harm.finding.batch = header.number;
        harm.finding.lost_batches = u64::from(batch.body.rows.is_none());
        harm.finding.records = rows
            .iter()
            .map(|row| NamedRecord { group: row.group, kind: row.kind, index: row.index, term: row.term })
            .collect();
        harm.rows = rows;
        harm
    }
}

impl Scrubber {
    /// Does what can be done about damage, and reports it if that is news.
    pub(super) fn report(&mut self, harm: Harm, progress: &mut ScrubProgress) -> Result<(), LogError> {
        let place = (harm.finding.segment, harm.finding.block);
        let is_new = self.known.get(&place) != Some(&harm.finding);
        let entries = match self.harmed_entries(&harm) {
            Some(entries) => entries,
            // The segment has been given up while it was being read.
            None => return Ok(()),
        };
        let mut found = ScrubFinding {
            finding: harm.finding.clone(),
            lost: Vec::new(),
            rewritten: Vec::new(),
            votes: if is_new { self.rewrite_votes(&harm) } else { Vec::new() },
        };
        for (group, index) in entries {
            match reading::read_one(&self.shared, group, index)? {
                Some(record) => {
                    let mut state = self.shared.lock();
                    // With no room it can still be read; the next round tries again.
                    if state.admits_repair(record.payload.len(), &self.shared.options).is_ok() {
                        let crc = crc32fast::hash(&record.payload);
                        state.push_repair(group, record, crc, None);
                        found.rewritten.push((group, index));
                    }
                }
                None => found.lost.push((group, index)),
            }
        }
        self.shared.kick();
        if is_new || !found.lost.is_empty() || !found.rewritten.is_empty() {
            self.known.insert(place, harm.finding);
            progress.findings.push(found);
        }
        Ok(())
    }

    /// The entries that nothing but the damaged place holds. `None` = the segment is not the log's any more.
    fn harmed_entries(&self, harm: &Harm) -> Option<Vec<(GroupId, u64)>> {
        let segment = harm.finding.segment;
        let state = self.shared.lock();
        if !state.segments.live.contains_key(&segment) {
            return None;
        }
        let mut entries = BTreeSet::new();
        let at = |block: u32| u64::from(block) * BLOCK_BYTES as u64;
        for row in harm.rows.iter().filter(|row| matches!(row.kind, Kind::Entry | Kind::Repair)) {
            let offset = at(harm.finding.block) + u64::from(row.offset);
            let Some(log) = state.groups.get(&row.group) else { continue };
            let is_held = log.slot(row.index).is_some_and(|slot| {
                slot.is_on_disk() && slot.segment == segment && u64::from(slot.offset) == offset
            });
            if is_held {
                entries.insert((row.group, row.index));
            }
        }
        if !harm.blocks.is_empty() {
            let bytes = at(harm.blocks.start)..at(harm.blocks.end);
            for (group, log) in &state.groups {
                let committed = self.committed.get(group).copied();
                let doubtful = log.uncommitted_before((segment, bytes.start), committed);
                entries.extend(doubtful.into_iter().take(DOUBTFUL_ENTRIES).map(|index| (*group, index)));
                entries
                    .extend(log.entries_in(segment, bytes.clone()).into_iter().map(|index| (*group, index)));
            }
        }
        // An earlier round may have seen to them already.
        for work in &state.queue {
            if let Work::Repair { group, entry, .. } = work {
                entries.remove(&(*group, entry.record.index));
            }
        }
        Some(entries.into_iter().collect())
    }

    /// Has the newest votes written again of which a copy is damaged, or may be where no table says.
    fn rewrite_votes(&self, harm: &Harm) -> Vec<GroupId> {
        let mut state = self.shared.lock();
        let mut votes = Vec::new();
        for (group, log) in &state.groups {
            let is_named = harm
                .rows
                .iter()
                .any(|row| row.kind == Kind::Vote && row.group == *group && row.index == log.vote.sequence);
            if (is_named || !harm.blocks.is_empty())
                && !log.vote_lost
                && let Some(bytes) = log.vote.bytes.clone()
            {
                votes.push(VoteWork { group: *group, sequence: log.vote.sequence, bytes, done: None });
            }
        }
        let groups = votes.iter().map(|vote| vote.group).collect();
        state.votes.extend(votes);
        groups
    }
}
