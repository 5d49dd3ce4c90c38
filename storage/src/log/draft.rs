//! A batch being put together: rows and payloads, and who waits for it.
//!
//! Invariant: offsets are given when the draft is closed, since they depend on the number of rows.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::group::Released;
use super::options::blocks_of;
use super::shared::{QueuedEntry, Repaired, VoteWork};
use crate::format::{CutRecord, Kind, NO_TERM, Row, Tag, payload_start};
use crate::types::{Done, GroupId, LogPoint};

#[derive(Default)]
pub(crate) struct Draft {
    pub(crate) rows: Vec<Row>,
    pub(crate) payloads: Vec<Bytes>,
    pub(crate) payload_bytes: usize,
    pub(crate) dones: Vec<Done>,
    pub(crate) released: Vec<Released>,
    /// Groups with rows in this batch.
    pub(crate) groups: BTreeSet<GroupId>,
    /// Votes whose first copy is in this batch: the next one takes the second.
    pub(crate) second_copies: Vec<VoteWork>,
    /// Entries restored by this batch.
    pub(crate) repairs: Vec<Repaired>,
    /// Whether anything would be missed if the batch were lost: committed points alone would not.
    pub(crate) is_real: bool,
}

impl Draft {
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Blocks of the batch if so many rows and bytes came on top.
    pub(crate) fn blocks_with(&self, rows: usize, payload_bytes: usize) -> u32 {
        blocks_of(self.rows.len() + rows, self.payload_bytes + payload_bytes)
    }

    pub(crate) fn push(&mut self, row: Row, payload: Bytes) {
        self.is_real |= row.kind != Kind::Committed;
        if !matches!(row.kind, Kind::Cut | Kind::Doubt) {
            self.groups.insert(row.group);
        }
        self.payload_bytes += payload.len();
        self.rows.push(row);
        self.payloads.push(payload);
    }

    pub(crate) fn push_vote(&mut self, vote: &VoteWork, tag: u8) {
        let row = Row { tag, index: vote.sequence, ..row(vote.group, Kind::Vote, None, &vote.bytes) };
        self.push(row, vote.bytes.clone());
    }

    pub(crate) fn push_point(&mut self, group: GroupId, kind: Kind, point: LogPoint) {
        self.push(row(group, kind, Some(point), &Bytes::new()), Bytes::new());
    }

    pub(crate) fn push_truncation(&mut self, group: GroupId, kept: Option<LogPoint>) {
        let tag = if kept.is_some() { Tag::KEEPS_POINT } else { Tag::KEEPS_NOTHING };
        let row = Row { tag, ..row(group, Kind::Truncate, kept, &Bytes::new()) };
        self.push(row, Bytes::new());
    }

    pub(crate) fn push_checkpoint(&mut self, group: GroupId, payload: Vec<u8>) {
        let payload = Bytes::from(payload);
        self.push(row(group, Kind::Checkpoint, None, &payload), payload);
    }

    /// An entry, or a repair of one.
    pub(crate) fn push_entry(&mut self, group: GroupId, kind: Kind, entry: QueuedEntry) {
        let record = entry.record;
        let row = Row {
            group,
            kind,
            tag: record.tag,
            index: record.index,
            term: record.term,
            leader: record.leader,
            previous_term: entry.previous_term,
            offset: 0,
            length: 0,
            crc: entry.crc,
            zero_sectors: 0,
        };
        self.push(row, record.payload);
    }

    pub(crate) fn push_doubt(&mut self, batches: u64) {
        self.push(Row { index: batches, ..row(0, Kind::Doubt, None, &Bytes::new()) }, Bytes::new());
    }

    pub(crate) fn push_cut(&mut self, cut: &CutRecord) {
        let payload = Bytes::from(cut.encode());
        let row = Row { index: cut.last_batch, ..row(0, Kind::Cut, None, &payload) };
        self.push(row, payload);
    }

    /// Gives every row its payload's place in the batch.
    pub(crate) fn close(&mut self) {
        let mut at = payload_start(self.rows.len());
        for (row, payload) in self.rows.iter_mut().zip(&self.payloads) {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "a batch fits in a segment, which is below 4 GiB"
            )]
            {
                row.offset = at as u32;
                row.length = payload.len() as u32;
            }
            at += payload.len();
        }
    }
}

/// A row with everything but its place.
fn row(group: GroupId, kind: Kind, point: Option<LogPoint>, payload: &Bytes) -> Row {
    Row {
        group,
        kind,
        tag: 0,
        index: point.map_or(0, |point| point.index),
        term: point.map_or(0, |point| point.term),
        leader: 0,
        previous_term: if kind == Kind::Entry { NO_TERM } else { 0 },
        offset: 0,
        length: 0,
        crc: crc32fast::hash(payload),
        zero_sectors: 0,
    }
}
