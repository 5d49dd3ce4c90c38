//! The walk through the log, and the judgement of each place by the table of [`super`].
//!
//! The walk goes from batch to batch. Where the next batch is not simply there, everything behind is surveyed once; the
//! survey says what a later batch knows (durable mark, numbers) and how far the damage reaches. Invariant: the rows are
//! tried in the table's order, in one function ([`Walk::judge`]).

use super::replay::{Replay, ThinVotes};
use super::scan::{Place, PlacedBatch, Reader, Survey, file_blocks};
use super::{Cut, Finding, LostRecord, NamedRecord, Observer, RotReason, Verdict};
use crate::disk::{Disk, SegmentFile};
use crate::error::LogError;
use crate::format::{BatchHeader, CutRecord, Kind, RowState, is_zero};
use crate::log::committer::Window;
use crate::log::group::GroupLog;
use crate::log::options::LogOptions;
use crate::types::{GroupId, StoreId};
use std::collections::BTreeMap;

/// Where the log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resume {
    InPlace { segment: u32, block: u32, segment_blocks: u32 },
    NewSegment { segment: u32 },
}

/// The outcome of a walk.
pub(crate) struct Walked {
    pub(crate) groups: BTreeMap<GroupId, GroupLog>,
    pub(crate) quarantined: Vec<(GroupId, Vec<LostRecord>)>,
    pub(crate) thin_votes: ThinVotes,
    pub(crate) findings: Vec<Finding>,
    pub(crate) lost_batches: u64,
    pub(crate) cut: Option<Cut>,
    pub(crate) cuts: Vec<CutRecord>,
    /// The last segment that names its cuts a second time.
    pub(crate) cuts_repeated_in: Option<u32>,
    pub(crate) resume: Resume,
    pub(crate) spare: Option<u32>,
    /// Segments that hold nothing of the log.
    pub(crate) discard: Vec<u32>,
    /// Segments that stay.
    pub(crate) kept: Vec<u32>,
    /// The segments that may be in a cache only: of the last batches and, so that it does not look empty beside the segment
    /// that comes after it, the one that is cut.
    pub(crate) sync: Vec<u32>,
    pub(crate) last_number: u64,
    pub(crate) last_crc: u32,
    pub(crate) last_is_idle: bool,
    pub(crate) stated_mark: u64,
    pub(crate) durable_mark: u64,
    pub(crate) window: Option<Window>,
    pub(crate) oldest: Option<u32>,
    pub(crate) segments: u64,
    pub(crate) batches: u64,
    pub(crate) records: u64,
}

/// What to do after a judgement.
pub(super) enum Step {
    /// Go on at this place of the list and this block.
    Go(usize, u32),
    /// The log ends here, and what is behind is all zero.
    End,
    /// The log ends here; what is behind is void.
    Cut,
}

pub(super) struct Walk<'a> {
    pub(super) reader: Reader<'a>,
    pub(super) files: &'a [SegmentFile],
    pub(super) store: StoreId,
    pub(super) segment_blocks: u32,
    pub(super) observe: Observer<'a>,
    pub(super) replay: Replay,
    pub(super) survey: Option<Survey>,
    pub(super) cuts: Vec<CutRecord>,
    pub(super) cuts_repeated_in: Option<u32>,
    pub(super) findings: Vec<Finding>,
    pub(super) lost_batches: u64,
    /// The last batch accepted, or passed over as lost.
    pub(super) last: Option<BatchHeader>,
    /// The number that comes next; `None` = the first batch found says.
    pub(super) expected: Option<u64>,
    pub(super) last_crc: Option<u32>,
    pub(super) durable_mark: u64,
    pub(super) last_segment: Option<u32>,
    pub(super) batches: u64,
    pub(super) records: u64,
}

/// The store of the first valid header in the files.
pub(super) fn first_store(disk: &dyn Disk, files: &[SegmentFile]) -> Result<Option<StoreId>, LogError> {
    let mut reader = Reader::new(disk);
    for file in files {
        for block in 0..file_blocks(file) {
            match reader.header(file, block, StoreId([0; 16]))? {
                Ok(header) => return Ok(Some(header.store)),
                Err(Place::Foreign(header) | Place::Misplaced(header)) => return Ok(Some(header.store)),
                Err(_) => {}
            }
        }
    }
    Ok(None)
}

/// Whether the files are those of a store of which only the first segment has been made.
pub(super) fn is_unbegun(disk: &dyn Disk, files: &[SegmentFile]) -> Result<bool, LogError> {
    let [file] = files else { return Ok(false) };
    let mut reader = Reader::new(disk);
    for block in 0..file_blocks(file) {
        let found = reader.blocks(file, block, 1)?;
        if found.bad[0] || !is_zero(found.bytes) {
            return Ok(false);
        }
    }
    Ok(file.number == 1 && LogOptions::is_segment_length(file.bytes))
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        disk: &'a dyn Disk,
        files: &'a [SegmentFile],
        store: StoreId,
        options: &LogOptions,
        observe: Observer<'a>,
    ) -> Result<Walk<'a>, LogError> {
        let is_beginning = files.first().is_none_or(|file| file.number == 1);
        let mut walk = Walk {
            reader: Reader::new(disk),
            files,
            store,
            segment_blocks: options.segment_blocks(),
            observe,
            replay: Replay::default(),
            survey: None,
            cuts: Vec::new(),
            cuts_repeated_in: None,
            findings: Vec::new(),
            lost_batches: 0,
            last: None,
            expected: is_beginning.then_some(1),
            last_crc: is_beginning.then_some(0),
            durable_mark: 0,
            last_segment: None,
            batches: 0,
            records: 0,
        };
        walk.collect_cuts()?;
        Ok(walk)
    }

    fn void_from(&self, segment: u32) -> Option<u32> {
        self.cuts.iter().filter(|cut| cut.segment == segment).map(|cut| cut.block).min()
    }

    pub(super) fn run(mut self) -> Result<Walked, LogError> {
        let (mut position, mut block) = (0, 0);
        if self.files.is_empty() {
            // A store has a segment before it has a note.
            let rot = Verdict::ConfirmedRot(RotReason::SealedSegment);
            self.find((0, 0), rot, Vec::new(), 2, "all segments are missing");
        }
        loop {
            let Some(file) = self.files.get(position).copied() else {
                return self.finish(position, 0, false);
            };
            if self.void_from(file.number).is_some_and(|void| block >= void)
                && position + 1 < self.files.len()
            {
                (position, block) = (position + 1, 0);
                continue;
            }
            if block > 0 && block >= self.declared_blocks(&file) {
                (position, block) = (position + 1, 0);
                continue;
            }
            let place = self.place(&file, block)?;
            let step = match place {
                Place::Batch(batch) if self.is_next(&batch) => {
                    let after = block + batch.header.blocks;
                    self.accept(*batch, Verdict::Accepted);
                    Step::Go(position, after)
                }
                Place::Zero if self.is_sealed_here(position, block)? => Step::Go(position + 1, 0),
                place => self.judge(position, block, place)?,
            };
            match step {
                Step::Go(next, at) => (position, block) = (next, at),
                Step::End => return self.finish(position, block, false),
                Step::Cut => {
                    self.save_votes()?;
                    return self.finish(position, block, true);
                }
            }
        }
    }

    /// What lies at a block; beyond the end of a file that is too short: unreadable.
    fn place(&mut self, file: &SegmentFile, block: u32) -> Result<Place, LogError> {
        if block >= file_blocks(file) {
            return Ok(Place::Unreadable);
        }
        self.reader.examine(file, block, self.store)
    }

    /// How long a segment should be: as its batches say, else as the file is.
    pub(super) fn declared_blocks(&self, file: &SegmentFile) -> u32 {
        match &self.last {
            Some(last) if last.segment == file.number => last.segment_blocks,
            _ => file_blocks(file),
        }
    }

    fn is_next(&self, batch: &PlacedBatch) -> bool {
        let header = &batch.header;
        self.expected.is_none_or(|expected| expected == header.number)
            && self.last_crc.is_none_or(|crc| crc == header.previous_crc)
            && batch.body.is_intact()
            && !batch.has_bad_blocks
    }

    /// Whether the zeros here are the unused end of a segment that has been left for the next one.
    fn is_sealed_here(&mut self, position: usize, block: u32) -> Result<bool, LogError> {
        let (Some(file), Some(next)) = (self.files.get(position), self.files.get(position + 1)) else {
            return Ok(false);
        };
        let goes_on = match self.reader.header(next, 0, self.store)? {
            Ok(header) => Some(header.number) == self.expected && Some(header.previous_crc) == self.last_crc,
            Err(_) => false,
        };
        if !goes_on || file_blocks(file) != self.declared_blocks(file) {
            return Ok(false);
        }
        for rest in block..file_blocks(file) {
            let blocks = self.reader.blocks(file, rest, 1)?;
            if blocks.bad[0] || !is_zero(blocks.bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes a batch in; with damage, as far as its table goes.
    fn accept(&mut self, batch: PlacedBatch, verdict: Verdict) {
        (self.observe)(&batch.header, &batch.body, verdict);
        match &batch.body.rows {
            Some(rows) => {
                let intact = |kind, state| kind == Kind::Cut && state == RowState::Intact;
                if batch.header.block > 0 && rows.iter().any(|(row, state)| intact(row.kind, *state)) {
                    self.cuts_repeated_in = Some(batch.header.segment);
                }
                self.replay.apply(&batch.header, rows, &batch.bytes);
                self.records += rows.len() as u64;
            }
            None => self.lose(batch.header.number, 1),
        }
        self.batches += 1;
        self.durable_mark = self.durable_mark.max(batch.header.durable_mark);
        self.expected = Some(batch.header.number.saturating_add(1));
        self.last_crc = Some(batch.header.crc());
        self.last_segment = Some(batch.header.segment);
        self.last = Some(batch.header);
    }

    fn lose(&mut self, first: u64, batches: u64) {
        self.lost_batches += batches;
        self.replay.lost_batches(first, batches);
    }

    /// The table: decides about a place where the next batch is not simply there.
    fn judge(&mut self, position: usize, block: u32, place: Place) -> Result<Step, LogError> {
        if self.survey.is_none() {
            let cuts = self.cuts.clone();
            let void = move |segment: u32| {
                cuts.iter().filter(|cut| cut.segment == segment).map(|cut| cut.block).min()
            };
            let survey = Survey::take(&mut self.reader, self.files, (position, block), self.store, &void)?;
            self.durable_mark = self.durable_mark.max(survey.durable_mark);
            self.survey = Some(survey);
        }
        if let Some(survey) = &mut self.survey {
            survey.advance((position, block));
        }
        let expected = self.expected.unwrap_or(1);
        let here = (position, block);
        let own = matches!(&place, Place::Batch(batch) if self.expected.is_none_or(|next| next == batch.header.number));
        let next = self.next_valid(here, expected.saturating_add(u64::from(own)));
        let confirmed = self.confirmed(here, expected);
        let chained =
            |batch: &PlacedBatch, crc: Option<u32>| crc.is_none_or(|crc| crc == batch.header.previous_crc);
        match place {
            Place::Misplaced(header) => Ok(self.misdirected(here, &header, next)),
            Place::Foreign(header) if confirmed.is_some() => Ok(self.misdirected(here, &header, next)),
            Place::Foreign(_) => {
                self.find(here, Verdict::NotOurs, Vec::new(), 0, "a batch of another store");
                Ok(Step::Cut)
            }
            Place::Batch(batch) if own && !chained(&batch, self.last_crc) => {
                Ok(self.misdirected(here, &batch.header.clone(), next))
            }
            Place::Batch(batch) if own => Ok(self.damaged_batch(here, *batch, confirmed)),
            Place::Batch(batch) if batch.header.number > expected => {
                let lost = batch.header.number - expected;
                self.find(
                    here,
                    Verdict::ConfirmedRot(RotReason::NumberGap),
                    Vec::new(),
                    lost,
                    "batches are missing",
                );
                self.skip_to(&batch.header);
                Ok(Step::Go(position, block))
            }
            Place::Batch(batch) => Ok(self.misdirected(here, &batch.header.clone(), next)),
            Place::Unreadable => {
                Ok(self.lost_here(here, Verdict::Unreadable, next, "the blocks cannot be read"))
            }
            place => match confirmed {
                Some(reason) => {
                    Ok(self.lost_here(here, Verdict::ConfirmedRot(reason), next, "no header where one was"))
                }
                None => Ok(self.tail(here, &place, next)),
            },
        }
    }

    fn next_valid(&self, here: (usize, u32), number: u64) -> Option<(usize, u32, BatchHeader)> {
        let survey = self.survey.as_ref()?;
        survey.next_from(here, number).filter(|(position, block, _)| (*position, *block) != here).cloned()
    }

    /// Whether the batch that should be here is known to have been durable.
    fn confirmed(&self, here: (usize, u32), expected: u64) -> Option<RotReason> {
        let survey = self.survey.as_ref()?;
        if expected <= self.durable_mark {
            return Some(RotReason::DurableMark);
        }
        // A segment begins only when everything before it is durable. A batch at block b of a later segment has at most
        // b batches before it in there, so the segment begins with this number or a later one.
        let sealed = survey.headers.iter().any(|(position, block, header)| {
            *position > here.0 && header.number.saturating_sub(u64::from(*block)) > expected
        });
        sealed.then_some(RotReason::SealedSegment)
    }

    /// A header that belongs where it is and is next in number, but its batch is damaged.
    fn damaged_batch(
        &mut self,
        here: (usize, u32),
        batch: PlacedBatch,
        confirmed: Option<RotReason>,
    ) -> Step {
        let verdict = match confirmed {
            Some(reason) => Verdict::ConfirmedRot(reason),
            None if batch.has_bad_blocks => Verdict::Unreadable,
            None if batch.body.has_unwritten_sectors => Verdict::TornTail,
            None if batch.body.rows.is_some() => Verdict::RotInWindow,
            None => Verdict::UnconfirmedTail,
        };
        let named = named(&batch);
        if !verdict.is_rot() {
            self.find(here, verdict, named, 0, "the last write was interrupted");
            (self.observe)(&batch.header, &batch.body, verdict);
            return Step::Cut;
        }
        let lost = u64::from(batch.body.rows.is_none());
        let detail = match (lost, named.is_empty()) {
            (0, true) => "padding that is not zero",
            (0, false) => "records are damaged",
            _ => "the record table is damaged",
        };
        let after = here.1 + batch.header.blocks;
        self.find(here, verdict, named, 0, detail);
        if let Some(finding) = self.findings.last_mut() {
            finding.lost_batches = lost;
        }
        self.accept(batch, verdict);
        Step::Go(here.0, after)
    }

    fn misdirected(
        &mut self,
        here: (usize, u32),
        header: &BatchHeader,
        next: Option<(usize, u32, BatchHeader)>,
    ) -> Step {
        let detail = format!("batch {} of segment {}, block {}", header.number, header.segment, header.block);
        self.lost_here(here, Verdict::Misdirected, next, &detail)
    }

    /// What should be here is lost; goes on at the next valid batch, or ends the log with an unknown end.
    pub(super) fn lost_here(
        &mut self,
        here: (usize, u32),
        verdict: Verdict,
        next: Option<(usize, u32, BatchHeader)>,
        detail: &str,
    ) -> Step {
        let expected = self.expected.unwrap_or(1);
        match next {
            Some((position, block, header)) => {
                // A batch that names another predecessor says that the one held here was not of this history.
                let stranger = self.last_crc.is_some_and(|crc| crc != header.previous_crc);
                let lost = match self.expected.map(|expected| header.number - expected) {
                    Some(0) if stranger => 1,
                    Some(lost) => lost,
                    // Nothing known of what came before the first batch: as many as there were blocks, at the most.
                    None if position == here.0 => u64::from(block - here.1).max(1),
                    None => 2,
                };
                self.find(here, verdict, Vec::new(), lost, detail);
                self.skip_to(&header);
                Step::Go(position, block)
            }
            None => {
                // Whatever followed is lost, and both copies of a vote may have been in it.
                let lost = self.durable_mark.saturating_sub(expected).saturating_add(1).max(2);
                self.find(here, verdict, Vec::new(), lost, detail);
                Step::Cut
            }
        }
    }

    /// The numbers up to a batch that was found are lost; it is the next.
    fn skip_to(&mut self, header: &BatchHeader) {
        self.expected = Some(header.number);
        self.last_crc = Some(header.previous_crc);
    }

    pub(super) fn find(
        &mut self,
        here: (usize, u32),
        verdict: Verdict,
        records: Vec<NamedRecord>,
        lost: u64,
        detail: &str,
    ) {
        let segment = self.files.get(here.0).map_or(0, |file| file.number);
        if lost > 0 {
            self.lose(self.expected.unwrap_or(0), lost);
        }
        self.findings.push(Finding {
            segment,
            block: here.1,
            batch: self.expected.unwrap_or(0),
            verdict,
            records,
            lost_batches: lost,
            detail: detail.to_owned(),
        });
    }

    /// Segments that the last batch still needed must be there.
    pub(super) fn check_oldest(&mut self) {
        let (Some(last), Some(first)) = (&self.last, self.files.first()) else { return };
        if last.oldest_segment < first.number {
            let detail = format!("segments {} to {} are missing", last.oldest_segment, first.number - 1);
            self.find((0, 0), Verdict::ConfirmedRot(RotReason::SealedSegment), Vec::new(), 0, &detail);
        }
    }
}

fn named(batch: &PlacedBatch) -> Vec<NamedRecord> {
    let rows = batch.body.rows.iter().flatten();
    rows.filter(|(_, state)| *state != RowState::Intact)
        .map(|(row, _)| NamedRecord { group: row.group, kind: row.kind, index: row.index, term: row.term })
        .collect()
}
