//! The scrubber: reads sealed segments again, whole, so that rot is found while peers can still mend it.
//!
//! It has neither thread nor clock: somebody calls [`Scrubber::step`] as often as the disk can bear. Every batch is checked
//! as recovery would: header, table, each payload, padding, the chain of numbers, and the zeros at a segment's end.
//!
//! | what is damaged | what is done |
//! |---|---|
//! | an entry that is still in memory | written anew from there: nothing is lost |
//! | an entry, its table intact | lost from now on, [`SegmentLog::on_rot`] tells |
//! | the header or table of a batch | its entries, while they can still be read by place, are written anew, and with them those before it that were not known to be committed: without the table, a recovery could not tell whether they had been replaced |
//! | a copy of the newest vote | the vote is written anew, twice |
//! | anything that later records have replaced | reported, nothing else |
//!
//! Invariants: no lock is held while the disk is read, and a segment that is given up meanwhile is not reported; one damage
//! is reported once, unless it has done more harm since; the present segment is left alone.

mod damage;

use std::collections::BTreeMap;
use std::sync::Arc;

use super::SegmentLog;
use super::recover::scan::{Place, PlacedBatch, Reader, file_blocks};
use super::recover::{Finding, RotReason, Verdict};
use super::shared::Shared;
use crate::disk::{DiskError, SegmentFile};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, BatchHeader, CheckpointState, Kind, RowState, is_zero};
use crate::types::GroupId;
use damage::Harm;

/// Reads the sealed segments of a log, round by round.
pub struct Scrubber {
    shared: Arc<Shared>,
    cursor: Option<Cursor>,
    known: BTreeMap<(u32, u32), Finding>,
    /// What each group had reported as committed, up to the cursor.
    committed: BTreeMap<GroupId, u64>,
    rounds: u64,
}

/// What one step has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubProgress {
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Where it goes on: segment and block; `None` = with the next round.
    pub next: Option<(u32, u32)>,
    /// Whether the last sealed segment has been finished.
    pub is_round_over: bool,
    /// Damage that has not been reported before, or has done more harm.
    pub findings: Vec<ScrubFinding>,
}

/// Damage that the scrubber has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubFinding {
    /// Where and what.
    pub finding: Finding,
    /// Entries that are lost by it: group and index.
    pub lost: Vec<(GroupId, u64)>,
    /// Entries that are being written anew.
    pub rewritten: Vec<(GroupId, u64)>,
    /// Groups whose vote is being written anew.
    pub votes: Vec<GroupId>,
}

/// Where the scrubber is.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    file: SegmentFile,
    block: u32,
    /// Blocks to look at: up to the end, or to where the segment has been cut.
    end: u32,
    chain: Chain,
    /// Only zeros may follow in this segment.
    is_behind_last: bool,
}

/// What the next batch must say of the one before it; `None` = anything.
#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    number: Option<u64>,
    previous_crc: Option<u32>,
}

impl SegmentLog {
    /// A scrubber of this log. It starts with the oldest segment. Keep one: it remembers what it has reported.
    pub fn scrubber(&self) -> Scrubber {
        Scrubber {
            shared: Arc::clone(&self.0.shared),
            cursor: None,
            known: BTreeMap::new(),
            committed: BTreeMap::new(),
            rounds: 0,
        }
    }
}

impl Scrubber {
    /// Looks at about so many bytes, at least at one batch if there is one. Ends early at the end of a round.
    pub fn step(&mut self, budget_bytes: u64) -> Result<ScrubProgress, LogError> {
        let shared = Arc::clone(&self.shared);
        let ahead = u32::try_from(budget_bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX);
        let mut reader = Reader::with_ahead(&*shared.disk, ahead);
        let mut progress = ScrubProgress::default();
        loop {
            shared.lock().accepts()?;
            let Some(cursor) = self.place(&mut progress)? else { break };
            match self.look(&mut reader, cursor, &mut progress) {
                Ok(next) => self.cursor = Some(next),
                // Given up while it was being read; otherwise its file is gone.
                Err(LogError::Disk(DiskError::NoSegment { segment })) => {
                    let all = cursor.block..u32::MAX;
                    let harm =
                        Harm::region(segment, cursor.block, all, Verdict::Unreadable, "the file is gone");
                    self.report(harm, &mut progress)?;
                    self.cursor = Some(Cursor { block: cursor.end, chain: Chain::default(), ..cursor });
                }
                Err(error) => return Err(error),
            }
            if progress.bytes >= budget_bytes {
                break;
            }
        }
        progress.next = self.cursor.map(|cursor| (cursor.file.number, cursor.block));
        Ok(progress)
    }

    /// How often all sealed segments have been gone through.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Damage that is known and still there.
    pub fn known(&self) -> impl Iterator<Item = &Finding> {
        self.known.values()
    }

    /// The place to look at: where the last look ended, or the start of the next segment that is sealed. `None` = the round
    /// is over.
    fn place(&mut self, progress: &mut ScrubProgress) -> Result<Option<Cursor>, LogError> {
        let (next, chain) = {
            let state = self.shared.lock();
            let live = &state.segments.live;
            let present = live.last_key_value().map_or(0, |(segment, _)| *segment);
            let (from, chain) = match self.cursor {
                Some(cursor) if live.contains_key(&cursor.file.number) => {
                    if cursor.block < cursor.end {
                        return Ok(Some(cursor));
                    }
                    (cursor.file.number + 1, cursor.chain)
                }
                Some(cursor) => (cursor.file.number, Chain::default()),
                None => (0, Chain::default()),
            };
            let next = live.range(from..present).next().map(|(segment, _)| *segment);
            let next = next.map(|segment| (segment, state.segments.void.get(&segment).copied()));
            // After a segment that is gone the chain says nothing.
            (next, if next.is_some_and(|(segment, _)| segment == from) { chain } else { Chain::default() })
        };
        let Some((number, void)) = next else {
            self.end_round(progress);
            return Ok(None);
        };
        let file = self.shared.disk.segments()?.into_iter().find(|file| file.number == number);
        let file = file.unwrap_or(SegmentFile { number, bytes: 0 });
        let end = file_blocks(&file).max(1).min(void.unwrap_or(u32::MAX));
        let cursor = Cursor { file, block: 0, end, chain, is_behind_last: false };
        self.cursor = Some(cursor);
        // A segment that is void from its start on has nothing to look at.
        if end == 0 { self.place(progress) } else { Ok(Some(cursor)) }
    }

    fn end_round(&mut self, progress: &mut ScrubProgress) {
        progress.is_round_over = true;
        self.rounds += 1;
        self.cursor = None;
        self.committed.clear();
        let state = self.shared.lock();
        self.known.retain(|(segment, _), _| state.segments.live.contains_key(segment));
    }

    /// Looks at one batch, or at a run of the zeros behind the last one.
    fn look(
        &mut self,
        reader: &mut Reader<'_>,
        mut cursor: Cursor,
        progress: &mut ScrubProgress,
    ) -> Result<Cursor, LogError> {
        if cursor.is_behind_last {
            return self.look_at_zeros(reader, cursor, progress);
        }
        let place = reader.examine(&cursor.file, cursor.block, self.shared.store)?;
        let Place::Batch(batch) = place else {
            progress.bytes += BLOCK_BYTES as u64;
            if matches!(place, Place::Zero) && self.is_behind_last(reader, &cursor)? {
                cursor.is_behind_last = true;
                return Ok(cursor);
            }
            let (verdict, detail) = match place {
                Place::Misplaced(_) | Place::Foreign(_) => {
                    (Verdict::Misdirected, "a batch that belongs elsewhere")
                }
                Place::Unreadable => (Verdict::Unreadable, "the blocks cannot be read"),
                _ => (Verdict::ConfirmedRot(RotReason::SealedSegment), "no header where one was"),
            };
            return self.pass_over(reader, cursor, verdict, detail, progress);
        };
        let header = &batch.header;
        progress.bytes += u64::from(header.blocks) * BLOCK_BYTES as u64;
        let is_next = cursor.chain.number.is_none_or(|number| number == header.number)
            && cursor.chain.previous_crc.is_none_or(|crc| crc == header.previous_crc);
        if !is_next {
            if cursor.chain.number.is_none_or(|number| header.number <= number) {
                let detail = "a batch that belongs elsewhere";
                return self.pass_over(reader, cursor, Verdict::Misdirected, detail, progress);
            }
            let verdict = Verdict::ConfirmedRot(RotReason::NumberGap);
            let nothing = cursor.block..cursor.block;
            let mut harm =
                Harm::region(cursor.file.number, cursor.block, nothing, verdict, "batches are missing");
            harm.finding.batch = cursor.chain.number.unwrap_or(0);
            harm.finding.lost_batches = header.number - harm.finding.batch;
            self.report(harm, progress)?;
        }
        if !batch.body.is_intact() || batch.has_bad_blocks {
            self.report(Harm::batch(&batch), progress)?;
        }
        self.note_committed(&batch);
        cursor.chain = after(&batch);
        // A declared length that the file does not have is found as blocks that cannot be read.
        cursor.end = match self.shared.lock().segments.void.get(&cursor.file.number) {
            Some(void) => (*void).min(header.segment_blocks),
            None => header.segment_blocks,
        };
        cursor.block += header.blocks;
        Ok(cursor)
    }

    /// Keeps up with what the groups have committed.
    fn note_committed(&mut self, batch: &PlacedBatch) {
        for (row, state) in batch.body.rows.iter().flatten() {
            let point = match row.kind {
                Kind::Committed => Some(row.point()),
                Kind::Checkpoint if *state == RowState::Intact => {
                    let payload = batch.bytes.get(row.offset as usize..(row.offset + row.length) as usize);
                    payload.and_then(CheckpointState::decode).and_then(|state| state.committed)
                }
                _ => None,
            };
            if let Some(point) = point {
                self.committed.insert(row.group, point.index);
            }
        }
    }

    /// Whether the zeros at the cursor are a segment's unused end: the next segment goes on right behind them.
    fn is_behind_last(&self, reader: &mut Reader<'_>, cursor: &Cursor) -> Result<bool, LogError> {
        let Some(next) = cursor.file.number.checked_add(1) else { return Ok(true) };
        let file = SegmentFile { number: next, bytes: BLOCK_BYTES as u64 };
        Ok(match reader.header(&file, 0, self.shared.store) {
            Ok(Ok(header)) => cursor.chain.number.is_none_or(|number| number == header.number),
            // The next one is damaged itself, or has not begun: then nothing can be said.
            Ok(Err(_)) | Err(LogError::Disk(DiskError::NoSegment { .. })) => true,
            Err(error) => return Err(error),
        })
    }

    fn look_at_zeros(
        &mut self,
        reader: &mut Reader<'_>,
        mut cursor: Cursor,
        progress: &mut ScrubProgress,
    ) -> Result<Cursor, LogError> {
        const RUN_BLOCKS: u32 = 64;
        let count = (cursor.end - cursor.block).min(RUN_BLOCKS);
        let found = reader.blocks(&cursor.file, cursor.block, count)?;
        progress.bytes += u64::from(count) * BLOCK_BYTES as u64;
        let first = (0..count).zip(found.bad).zip(found.bytes.chunks(BLOCK_BYTES));
        let first = first.clone().find(|((_, bad), bytes)| **bad || !is_zero(bytes));
        if let Some(((offset, bad), _)) = first {
            let verdict =
                if *bad { Verdict::Unreadable } else { Verdict::ConfirmedRot(RotReason::SealedSegment) };
            let block = cursor.block + offset;
            let harm =
                Harm::region(cursor.file.number, block, block..block, verdict, "zeros that are not zero");
            self.report(harm, progress)?;
        }
        cursor.block += count;
        Ok(cursor)
    }

    /// Something is lost at the cursor: goes on at the next batch that lies where it says, or in the next segment.
    fn pass_over(
        &mut self,
        reader: &mut Reader<'_>,
        mut cursor: Cursor,
        verdict: Verdict,
        detail: &str,
        progress: &mut ScrubProgress,
    ) -> Result<Cursor, LogError> {
        let from = cursor.block;
        let least = cursor.chain.number.unwrap_or(0);
        let mut next: Option<BatchHeader> = None;
        for block in from + 1..cursor.end.min(file_blocks(&cursor.file)) {
            progress.bytes += BLOCK_BYTES as u64;
            match reader.header(&cursor.file, block, self.shared.store)? {
                Ok(header) if header.number >= least => {
                    next = Some(header);
                    break;
                }
                _ => {}
            }
        }
        let mut harm = Harm::region(cursor.file.number, from, from..u32::MAX, verdict, detail);
        harm.finding.batch = least;
        harm.finding.lost_batches = 1;
        cursor.block = cursor.end;
        let expected = cursor.chain.number;
        cursor.chain = Chain::default();
        if let Some(header) = next {
            harm.blocks.end = header.block;
            harm.finding.lost_batches = expected.map_or(1, |number| (header.number - number).max(1));
            cursor.block = header.block;
            cursor.chain.number = Some(header.number);
        }
        self.report(harm, progress)?;
        Ok(cursor)
    }
}

/// What the batch after this one must say.
fn after(batch: &PlacedBatch) -> Chain {
    Chain { number: batch.header.number.checked_add(1), previous_crc: Some(batch.header.crc()) }
}
