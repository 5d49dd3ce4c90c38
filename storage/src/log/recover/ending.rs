//! Cuts: finding those that earlier recoveries made, and ending a walk, with a new one where it must be.
//!
//! Invariants: a cut is believed wherever a good batch of this store names it; what is cut off as an interrupted write gives
//! up its votes first; what is cut off because of rot is not thrown away, but void.

use super::judge::{Resume, Walk, Walked};
use super::scan::{Place, PlacedBatch, file_blocks};
use super::{files_after, too_many_segments};
use crate::error::LogError;
use crate::format::{CutRecord, Kind, RowState, flags};
use crate::log::committer::Window;

impl Walk<'_> {
    /// The cuts that the first batches of the segments name, and where the first is damaged, the next ones. Refuses the
    /// segments of another store.
    pub(super) fn collect_cuts(&mut self) -> Result<(), LogError> {
        let (mut ours, mut foreign) = (false, None);
        for file in self.files {
            let mut block = 0;
            while block < file_blocks(file) {
                match self.reader.examine(file, block, self.store)? {
                    Place::Batch(batch) => {
                        ours = true;
                        if self.add_cuts(&batch) {
                            break;
                        }
                        block += batch.header.blocks;
                        continue;
                    }
                    Place::Foreign(header) if block == 0 => foreign = foreign.or(Some(header.store)),
                    // A cut is true wherever the batch lies that names it.
                    Place::Misplaced(header) => {
                        ours = true;
                        let batch = self.reader.whole(file, block, *header)?;
                        self.add_cuts(&batch);
                    }
                    _ => {}
                }
                block += 1;
            }
        }
        match foreign {
            Some(found) if !ours => Err(LogError::ForeignStore { expected: self.store, found }),
            _ => Ok(()),
        }
    }

    /// Notes the cuts that a batch names; says whether it is as it was written.
    fn add_cuts(&mut self, batch: &PlacedBatch) -> bool {
        for (row, state) in batch.body.rows.iter().flatten() {
            let from = row.offset as usize;
            let payload = batch.bytes.get(from..from + row.length as usize);
            if row.kind == Kind::Cut
                && *state == RowState::Intact
                && let Some(cut) = payload.and_then(CutRecord::decode)
                && !self.cuts.contains(&cut)
            {
                self.cuts.push(cut);
            }
        }
        batch.body.rows.as_ref().is_some_and(|rows| rows.iter().all(|(_, state)| *state == RowState::Intact))
    }

    /// What is about to be cut off may hold votes that were answered: damage to one batch that no later one confirms would
    /// otherwise take both copies, the second in a good batch behind it. Remembering a vote that was never answered does
    /// no harm.
    pub(super) fn save_votes(&mut self) -> Result<(), LogError> {
        let (Some(survey), Some(last)) = (&self.survey, &self.last) else { return Ok(()) };
        let in_flight = last.number + 1..=last.number.saturating_add(u64::from(last.window_batches));
        let found: Vec<(usize, u32)> = survey
            .headers
            .iter()
            .filter(|(_, _, header)| in_flight.contains(&header.number))
            .map(|(position, block, _)| (*position, *block))
            .collect();
        for (position, block) in found {
            let Some(file) = self.files.get(position) else { continue };
            if let Place::Batch(batch) = self.reader.examine(file, block, self.store)? {
                self.replay.save_votes(batch.body.rows.iter().flatten(), &batch.bytes);
            }
        }
        Ok(())
    }

    /// Puts the outcome together.
    pub(super) fn finish(mut self, position: usize, block: u32, is_cut: bool) -> Result<Walked, LogError> {
        self.check_oldest();
        let last_file = self.files.last().map_or(0, |file| file.number);
        let (mut discard, mut spare, mut cut) = (Vec::new(), None, None);
        let mut void = Vec::new();
        let mut kept: Vec<u32> = self.files.iter().map(|file| file.number).collect();
        let after = files_after(self.files, position);
        let resume = match (self.files.get(position), is_cut) {
            (Some(file), false) => {
                match after {
                    [next, rest @ ..]
                        if Some(next.number) == file.number.checked_add(1)
                            && file_blocks(next) == self.segment_blocks =>
                    {
                        spare = Some(next.number);
                        discard.extend(rest.iter().map(|file| file.number));
                    }
                    all => discard.extend(all.iter().map(|file| file.number)),
                }
                if block == 0 && file_blocks(file) != self.segment_blocks {
                    // Not begun, and made with other settings: made anew.
                    Resume::NewSegment { segment: file.number }
                } else {
                    Resume::InPlace {
                        segment: file.number,
                        block,
                        segment_blocks: self.declared_blocks(file),
                    }
                }
            }
            (Some(file), true) => {
                let next = if self.findings.last().is_some_and(|finding| finding.verdict.is_rot()) {
                    // Damaged, not interrupted: nothing is thrown away. The later segments stay, and are void.
                    void.extend(after.iter().map(|file| file.number));
                    last_file
                } else {
                    discard.extend(after.iter().map(|file| file.number));
                    file.number
                };
                cut = Some(CutRecord {
                    segment: file.number,
                    block,
                    last_batch: self.expected.unwrap_or(1).saturating_sub(1),
                    last_crc: self.last_crc.unwrap_or(0),
                });
                Resume::NewSegment { segment: next.checked_add(1).ok_or_else(too_many_segments)? }
            }
            (None, _) => {
                Resume::NewSegment { segment: last_file.checked_add(1).ok_or_else(too_many_segments)? }
            }
        };
        kept.retain(|number| !discard.contains(number) && Some(*number) != spare);
        self.cuts.retain(|old| cut.is_none_or(|cut| old.segment < cut.segment));
        self.cuts.extend(cut);
        self.cuts
            .extend(cut.iter().flat_map(|cut| {
                void.iter().map(|segment| CutRecord { segment: *segment, block: 0, ..*cut })
            }));
        let (quarantined, thin_votes) = self.replay.finish();
        let mut sync: Vec<u32> = self.last_segment.into_iter().chain(cut.map(|cut| cut.segment)).collect();
        sync.dedup();
        let last = self.last.as_ref();
        Ok(Walked {
            groups: self.replay.groups,
            quarantined,
            thin_votes,
            findings: self.findings,
            lost_batches: self.lost_batches,
            cut,
            cuts: self.cuts,
            cuts_repeated_in: self.cuts_repeated_in,
            resume,
            spare,
            discard,
            kept,
            sync,
            last_number: self.expected.unwrap_or(1).saturating_sub(1),
            last_crc: self.last_crc.unwrap_or(0),
            last_is_idle: last.is_some_and(|last| last.flags & flags::IDLE != 0),
            stated_mark: last.map_or(0, |last| last.durable_mark),
            durable_mark: self.durable_mark,
            window: last.map(|last| Window { batches: last.window_batches, blocks: last.window_blocks }),
            oldest: last.map(|last| last.oldest_segment),
            segments: self.files.len() as u64,
            batches: self.batches,
            records: self.records,
        })
    }
}
