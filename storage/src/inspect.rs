//! Looking into a log without opening it: offline, read-only, tolerant of every damage.
//!
//! Takes the `log` directory of a node. Invariant: nothing in it is changed, and the verdicts are those that recovery
//! would give, because recovery gives them.

use std::fmt;
use std::path::Path;

use crate::disk::{Disk, open_read_only};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, BatchHeader, Kind, Row, RowState, flags};
use crate::log::LogOptions;
use crate::log::recover::{self, Finding, RecoveryReport, Verdict};
use crate::types::{GroupId, GroupState, StoreId};

/// What a log directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InspectReport {
    /// The store's id; `None` = there is no store.
    pub store: Option<StoreId>,
    /// The segment files.
    pub segments: Vec<SegmentInfo>,
    /// The batches, in order of place.
    pub batches: Vec<BatchInfo>,
    /// What recovery would not simply accept.
    pub findings: Vec<Finding>,
    /// Everything else that recovery would report; `None` = there is no store.
    pub recovery: Option<RecoveryReport>,
    /// The groups and their state.
    pub groups: Vec<(GroupId, GroupState)>,
}

/// A segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub number: u32,
    /// Its length.
    pub bytes: u64,
    /// Batches in it.
    pub batches: u64,
    /// Bytes that they take.
    pub used_bytes: u64,
}

/// A batch whose header can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchInfo {
    /// The header, field by field.
    pub header: BatchHeader,
    /// What recovery says of it.
    pub verdict: Verdict,
    /// Its records; `None` = its table is damaged.
    pub records: Option<Vec<RecordInfo>>,
}

/// A record of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordInfo {
    /// The row of the record table.
    pub row: Row,
    /// Whether the payload is as it was written.
    pub is_intact: bool,
}

/// Lists what is in a log directory.
pub fn inspect(dir: &Path) -> Result<InspectReport, LogError> {
    let disk = open_read_only(dir)?;
    inspect_disk(&*disk)
}

/// Lists what is on a disk.
pub fn inspect_disk(disk: &dyn Disk) -> Result<InspectReport, LogError> {
    let files = disk.segments()?;
    let mut options = LogOptions::default();
    if let Some(first) = files.first().filter(|file| file.bytes.is_multiple_of(BLOCK_BYTES as u64)) {
        options.segment_bytes = first.bytes;
    }
    let mut batches = Vec::new();
    let found = recover::read(disk, &options, &mut |header, body, verdict| {
        let records = body.rows.as_ref().map(|rows| {
            rows.iter()
                .map(|(row, state)| RecordInfo { row: *row, is_intact: *state == RowState::Intact })
                .collect()
        });
        batches.push(BatchInfo { header: header.clone(), verdict, records });
    })?;
    let segments = files
        .iter()
        .map(|file| {
            let own = || batches.iter().filter(|batch| batch.header.segment == file.number);
            let used: u64 = own().map(|batch| u64::from(batch.header.blocks) * BLOCK_BYTES as u64).sum();
            SegmentInfo {
                number: file.number,
                bytes: file.bytes,
                batches: own().count() as u64,
                used_bytes: used,
            }
        })
        .collect();
    let (store, recovery, groups) = match &found {
        Some((store, walked)) => {
            let groups = walked.groups.iter().map(|(group, log)| (*group, log.state())).collect();
            (Some(*store), Some(walked.report(*store)), groups)
        }
        None => (None, None, Vec::new()),
    };
    let findings = recovery.as_ref().map(|report| report.findings.clone()).unwrap_or_default();
    Ok(InspectReport { store, segments, batches, findings, recovery, groups })
}

impl fmt::Display for SegmentInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "segment {}: {} batches, {} of {} bytes used",
            self.number, self.batches, self.used_bytes, self.bytes
        )
    }
}

impl fmt::Display for BatchInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        let kind = match header.flags {
            bits if bits & flags::FIRST != 0 => "first",
            bits if bits & flags::IDLE != 0 => "idle",
            _ => "batch",
        };
        write!(
            out,
            "{kind} {}: segment {}, block {}, {} blocks, {} records, {} payload bytes, durable mark {}: {}",
            header.number,
            header.segment,
            header.block,
            header.blocks,
            header.records,
            header.payload_bytes,
            header.durable_mark,
            self.verdict
        )
    }
}

impl fmt::Display for RecordInfo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = &self.row;
        write!(out, "{} of group {}", row.kind.name(), row.group)?;
        match row.kind {
            Kind::Entry | Kind::Repair => {
                write!(
                    out,
                    ", index {}, term {}, leader {}, tag {}",
                    row.index, row.term, row.leader, row.tag
                )?;
            }
            Kind::Vote => write!(out, ", number {}, copy {}", row.index, row.tag)?,
            Kind::Truncate if row.tag == 0 => write!(out, ", keeps nothing")?,
            Kind::Truncate => write!(out, ", keeps up to index {}, term {}", row.index, row.term)?,
            Kind::Purge | Kind::Committed => write!(out, ", up to index {}, term {}", row.index, row.term)?,
            Kind::Cut => write!(out, " after batch {}", row.index)?,
            Kind::Doubt => write!(out, ", {} lost batches may have named other groups", row.index)?,
            Kind::Checkpoint => {}
        }
        write!(out, ", {} bytes", row.length)?;
        if !self.is_intact {
            write!(out, ", DAMAGED")?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "segment {}, block {}: {}", self.segment, self.block, self.verdict)?;
        write!(out, " (batch {}: {}", self.batch, self.detail)?;
        if self.lost_batches > 0 {
            write!(out, "; {} batches lost without a trace of their records", self.lost_batches)?;
        }
        write!(out, ")")?;
        for record in &self.records {
            let kind = record.kind.name();
            write!(
                out,
                "\n  {kind} of group {}, index {}, term {}",
                record.group, record.index, record.term
            )?;
        }
        Ok(())
    }
}
