//! What a walk through the log comes to: the groups, where the log goes on, and what is told of it.
//!
//! Invariant: where something is damaged, no file is thrown away; where the last write was only interrupted, what is behind
//! it is.

use std::collections::BTreeMap;

use super::judge::Walk;
use super::scan::file_blocks;
use super::{Cut, Finding, LostRecord, RecoveryReport, RotReason, Verdict};
use crate::disk::{DiskError, SegmentFile};
use crate::error::LogError;
use crate::format::{CutRecord, flags};
use crate::log::group::GroupLog;
use crate::log::window::Window;
use crate::types::{GroupId, StoreId};

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
    /// Groups whose newest vote stands less than twice in the last segment, and how often it does.
    pub(crate) thin_votes: Vec<(GroupId, u32)>,
    /// Batches lost since every group was last named.
    pub(crate) doubt: u64,
    /// Groups whose end is unknown while the log does not state it; and whether it does not state the doubt.
    pub(crate) unstated: (Vec<GroupId>, bool),
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

impl Walked {
    /// What is found where there is nothing.
    pub(super) fn nothing() -> Walked {
        Walked {
            groups: BTreeMap::new(),
            quarantined: Vec::new(),
            thin_votes: Vec::new(),
            doubt: 0,
            unstated: (Vec::new(), false),
            findings: Vec::new(),
            lost_batches: 0,
            cut: None,
            cuts: Vec::new(),
            cuts_repeated_in: None,
            resume: Resume::NewSegment { segment: 1 },
            spare: None,
            discard: Vec::new(),
            kept: Vec::new(),
            sync: Vec::new(),
            last_number: 0,
            last_crc: 0,
            last_is_idle: false,
            stated_mark: 0,
            durable_mark: 0,
            window: None,
            oldest: None,
            segments: 0,
            batches: 0,
            records: 0,
        }
    }

    /// Whether the log has been cut because of rot.
    pub(super) fn ends_in_rot(&self) -> bool {
        self.findings.last().is_some_and(|finding| finding.verdict.is_rot())
    }

    /// The part that is told.
    pub(crate) fn report(&self, store: StoreId) -> RecoveryReport {
        RecoveryReport {
            store,
            is_new: false,
            segments: self.segments,
            batches: self.batches,
            records: self.records,
            last_batch: self.last_number,
            durable_mark: self.durable_mark,
            findings: self.findings.clone(),
            cut: self.cut,
            lost_batches: self.lost_batches,
            unsettled_batches: self.doubt,
            quarantined: self.quarantined.clone(),
        }
    }
}

impl Walk<'_> {
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
        let replayed = self.replay.finish();
        let mut sync: Vec<u32> = self.last_segment.into_iter().chain(cut.map(|cut| cut.segment)).collect();
        sync.dedup();
        let last = self.last.as_ref();
        Ok(Walked {
            groups: self.replay.groups,
            quarantined: replayed.quarantined,
            thin_votes: replayed.thin_votes,
            doubt: replayed.doubt,
            unstated: replayed.unstated,
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

    /// Segments that the last batch still needed must be there.
    fn check_oldest(&mut self) {
        let (Some(last), Some(first)) = (&self.last, self.files.first()) else { return };
        if last.oldest_segment < first.number {
            let detail = format!("segments {} to {} are missing", last.oldest_segment, first.number - 1);
            self.find((0, 0), Verdict::ConfirmedRot(RotReason::SealedSegment), Vec::new(), 0, &detail);
        }
    }
}

/// Whether a file list has an error that only the opener can deal with.
fn too_many_segments() -> DiskError {
    DiskError::Io {
        operation: "number",
        subject: "a new segment".to_owned(),
        errno: None,
        message: "segment numbers are used up".to_owned(),
    }
}

/// The files that lie behind a place in the list.
fn files_after(files: &[SegmentFile], position: usize) -> &[SegmentFile] {
    files.get(position + 1..).unwrap_or(&[])
}
