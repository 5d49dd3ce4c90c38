//! Reading entries: from memory where they are recent, else from the segments, with their CRC checked.
//!
//! Invariant: no lock is held while the disk is read. A segment may be recycled meanwhile; bytes that do not match are
//! therefore called damaged only if the entry is still where it was. Then the entry is lost from that moment on.

use std::ops::Range;

use bytes::Bytes;

use super::group::{Place, Slot};
use super::shared::{Shared, State};
use crate::error::LogError;
use crate::types::{GroupId, LogRecord};

/// An entry that was found: its bytes, or where they lie.
enum Found {
    Here(LogRecord),
    There { index: u64, term: u64, leader: u64, slot: Slot },
}

/// Index, term, leader and place of an entry.
type Located = (u64, u64, u64, Slot);

/// Reads of neighbouring entries are merged up to this size.
const MERGE_BYTES: usize = 1 << 20;

/// See [`super::SegmentLog::read`].
pub(crate) fn read(
    shared: &Shared,
    group: GroupId,
    range: Range<u64>,
    max_bytes: usize,
) -> Result<Vec<LogRecord>, LogError> {
    let mut tries = 0;
    loop {
        let found = find(&shared.lock(), group, range.clone(), max_bytes)?;
        match load(shared, group, found) {
            Ok(records) => return Ok(records),
            Err(misread) => {
                tries += 1;
                if is_still_there(shared, group, &misread) || tries > 8 {
                    return Err(misread.error);
                }
            }
        }
    }
}

/// One entry, wherever it lies. `None` = it is lost, or not held.
pub(crate) fn read_one(shared: &Shared, group: GroupId, index: u64) -> Result<Option<LogRecord>, LogError> {
    let mut tries = 0;
    loop {
        let found = {
            let state = shared.lock();
            let Some(log) = state.groups.get(&group) else { return Ok(None) };
            match (log.recent(index), log.slot(index), log.term_and_leader(index)) {
                (Some(record), _, _) => Found::Here(record.clone()),
                (None, Some(slot), Some((term, leader))) if slot.place == Place::Disk => {
                    Found::There { index, term, leader, slot }
                }
                _ => return Ok(None),
            }
        };
        match load(shared, group, vec![found]) {
            Ok(records) => return Ok(records.into_iter().next()),
            Err(misread) => {
                tries += 1;
                if is_still_there(shared, group, &misread) || tries > 8 {
                    let is_rot = matches!(misread.error, LogError::Rot { .. });
                    return if is_rot { Ok(None) } else { Err(misread.error) };
                }
            }
        }
    }
}

/// Whether the entry that could not be read has its place still: then its bytes are damaged, and the group is.
fn is_still_there(shared: &Shared, group: GroupId, misread: &Misread) -> bool {
    let (is_there, is_news) = {
        let mut state = shared.lock();
        let Some(log) = state.groups.get_mut(&group) else { return false };
        let is_there = log.slot(misread.index) == Some(misread.slot);
        let is_rot = matches!(misread.error, LogError::Rot { .. });
        (is_there, is_there && is_rot && log.mark_faulty(misread.index, misread.slot))
    };
    if is_news {
        shared.tell_rot([group]);
    }
    is_there
}

fn find(state: &State, group: GroupId, range: Range<u64>, max_bytes: usize) -> Result<Vec<Found>, LogError> {
    let mut found = Vec::new();
    let Some(log) = state.groups.get(&group) else { return Ok(found) };
    let (first, end) = log.range();
    let mut bytes = 0_usize;
    for index in range.start.max(first)..range.end.min(end) {
        let Some(slot) = log.slot(index) else { break };
        if !found.is_empty() && bytes.saturating_add(slot.length as usize) > max_bytes {
            break;
        }
        bytes = bytes.saturating_add(slot.length as usize);
        match (log.recent(index), slot.place, log.term_and_leader(index)) {
            (Some(record), _, _) => found.push(Found::Here(record.clone())),
            (None, Place::Disk, Some((term, leader))) => {
                found.push(Found::There { index, term, leader, slot })
            }
            // What comes before the damaged entry can be had.
            _ if !found.is_empty() => break,
            _ => return Err(LogError::Rot { group, index }),
        }
    }
    Ok(found)
}

struct Misread {
    index: u64,
    slot: Slot,
    error: LogError,
}

fn load(shared: &Shared, group: GroupId, found: Vec<Found>) -> Result<Vec<LogRecord>, Misread> {
    let mut records = Vec::with_capacity(found.len());
    let mut rest = found.into_iter().peekable();
    while let Some(next) = rest.next() {
        let (index, term, leader, slot) = match next {
            Found::Here(record) => {
                records.push(record);
                continue;
            }
            Found::There { index, term, leader, slot } => (index, term, leader, slot),
        };
        let mut run = vec![(index, term, leader, slot)];
        let mut end = slot.offset as usize + slot.length as usize;
        while let Some(Found::There { index, term, leader, slot: after }) = rest.peek()
            && after.segment == slot.segment
            && after.offset as usize >= end
            && after.offset as usize + after.length as usize - slot.offset as usize <= MERGE_BYTES
        {
            end = after.offset as usize + after.length as usize;
            run.push((*index, *term, *leader, *after));
            rest.next();
        }
        load_run(shared, group, &run, end, &mut records)?;
    }
    Ok(records)
}

/// Reads neighbouring entries of one segment; `end` is where the last one ends.
fn load_run(
    shared: &Shared,
    group: GroupId,
    run: &[Located],
    end: usize,
    records: &mut Vec<LogRecord>,
) -> Result<(), Misread> {
    let Some((index, _, _, first)) = run.first().copied() else { return Ok(()) };
    let start = first.offset as usize;
    let mut bytes = vec![0; end - start];
    match shared.disk.read_at(first.segment, start as u64, &mut bytes) {
        Ok(()) => {}
        Err(error) if run.len() == 1 => {
            return Err(Misread { index, slot: first, error: unreadable(group, index, error) });
        }
        // What cannot be read may lie between two of them.
        Err(_) => {
            for one in run {
                let end = one.3.offset as usize + one.3.length as usize;
                load_run(shared, group, std::slice::from_ref(one), end, records)?;
            }
            return Ok(());
        }
    }
    let bytes = Bytes::from(bytes);
    for (index, term, leader, slot) in run.iter().copied() {
        let from = slot.offset as usize - start;
        let payload = bytes.slice(from..from + slot.length as usize);
        if crc32fast::hash(&payload) != slot.crc {
            return Err(Misread { index, slot, error: LogError::Rot { group, index } });
        }
        records.push(LogRecord { index, term, leader, tag: slot.tag, payload });
    }
    Ok(())
}

fn unreadable(group: GroupId, index: u64, error: crate::disk::DiskError) -> LogError {
    if error.is_unreadable() || error.is_gone() {
        LogError::Rot { group, index }
    } else {
        LogError::Disk(error)
    }
}
