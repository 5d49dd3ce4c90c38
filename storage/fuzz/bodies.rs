//! What each fuzz target does with its bytes.
//!
//! Shared by the targets in `fuzz_targets/`, which libFuzzer drives on a nightly toolchain, and by the ordinary tests
//! (`tests/storage/fuzz.rs`), which drive them over a corpus made from seeds. Invariant: whatever the bytes are, nothing
//! panics and nothing runs on for ever; what decodes encodes to the same bytes; a log that opens opens again as the same.

use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::{
    BLOCK_BYTES, BatchHeader, CheckpointState, CutRecord, HEADER_BYTES, MAGIC, ROW_BYTES, decode_table,
    read_batch,
};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{LogError, LogOptions, LogRecord, SegmentLog, StoreId};

/// Longer inputs are cut: more teaches nothing.
const LIMIT_BYTES: usize = 512 << 10;

/// Decodes a batch header.
pub(crate) fn header(bytes: &[u8]) {
    if let Ok(header) = BatchHeader::decode(bytes) {
        assert_eq!(header.encode(), bytes[..HEADER_BYTES]);
    }
}

/// Decodes a record table; the first four bytes say how many payload bytes there are.
pub(crate) fn table(bytes: &[u8]) {
    let Some((length, table)) = bytes.split_first_chunk::<4>() else { return };
    let Ok(rows) = decode_table(table, u32::from_le_bytes(*length)) else { return };
    let mut again = vec![0; table.len()];
    for (row, bytes) in rows.iter().zip(again.chunks_exact_mut(ROW_BYTES)) {
        row.encode(bytes);
    }
    assert_eq!(again, table);
}

/// Decodes a whole batch: a header, and whatever follows it.
pub(crate) fn batch(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LIMIT_BYTES)];
    let Ok(header) = BatchHeader::decode(bytes) else { return };
    let body = read_batch(&header, bytes);
    assert!(body.rows.is_none_or(|rows| rows.len() == header.records as usize));
}

/// Decodes a group's checkpoint.
pub(crate) fn checkpoint(bytes: &[u8]) {
    if let Some(state) = CheckpointState::decode(bytes) {
        assert_eq!(state.encode(), bytes);
    }
}

/// Decodes a cut.
pub(crate) fn cut(bytes: &[u8]) {
    if let Some(cut) = CutRecord::decode(bytes) {
        assert_eq!(cut.encode(), bytes);
    }
}

/// Opens a store whose note has this content: it says the id, or is as good as none.
pub(crate) fn note(bytes: &[u8]) {
    let disk = SimDisk::new(1);
    disk.damage_note("STORE", Some(bytes.to_vec()));
    disk.damage(1, |segment| segment.resize(64 << 10, 0));
    let said = std::str::from_utf8(bytes).ok().and_then(|text| StoreId::parse(text.trim()));
    let (_, _, report) = SegmentLog::open_stepped(Box::new(disk), options()).expect("a note refuses nothing");
    assert_eq!(report.store, said.unwrap_or(StoreId([1; 16])));
}

/// Recovers a log whose segments are these bytes. The first byte says how many segments, the second whether there is a
/// note.
pub(crate) fn segments(bytes: &[u8]) {
    if let Some(disk) = disk_of(bytes) {
        recover(&disk);
    }
}

/// The same with every checksum put right first, so that what the bytes say is believed.
pub(crate) fn segments_with_right_sums(bytes: &[u8]) {
    let mut bytes = bytes[..bytes.len().min(LIMIT_BYTES)].to_vec();
    if let Some(content) = bytes.get_mut(2..) {
        for block in (0..content.len()).step_by(BLOCK_BYTES) {
            put_sums_right(&mut content[block..]);
        }
    }
    segments(&bytes);
}

fn options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        batch_limit_bytes: 8 << 10,
        in_flight_batches: 2,
        cache_bytes: 4 << 10,
        store: Some(StoreId([1; 16])),
        ..LogOptions::default()
    }
}

fn disk_of(bytes: &[u8]) -> Option<SimDisk> {
    let ([count, with_note], content) = bytes.split_first_chunk::<2>()?;
    let content = &content[..content.len().min(LIMIT_BYTES)];
    let disk = SimDisk::new(1);
    let count = usize::from(count % 4) + 1;
    let each = content.len().div_ceil(count).next_multiple_of(BLOCK_BYTES).max(BLOCK_BYTES);
    for (number, piece) in (1..).zip(content.chunks(each)) {
        disk.damage(number, |segment| segment.extend_from_slice(piece));
    }
    if with_note % 2 == 1 {
        disk.damage_note("STORE", Some(format!("{}\n", StoreId([1; 16])).into_bytes()));
    }
    Some(disk)
}

fn recover(disk: &SimDisk) {
    let listed = inspect_disk(disk);
    let (log, driver, report) = match SegmentLog::open_stepped(Box::new(disk.clone()), options()) {
        Ok(opened) => opened,
        Err(error) => {
            // Whatever refuses says so with a type; only what a full segment or number space explains refuses late.
            assert!(!matches!(error, LogError::Closed | LogError::InvalidOption { .. }), "{error}");
            return;
        }
    };
    assert!(listed.is_ok(), "what opens can be inspected: {:?}", listed.err());
    let held = contents(&log);
    drop((log, driver));
    let again = disk.power_loss(1, PowerLoss::LosesAll);
    let (log, _driver, second) = SegmentLog::open_stepped(Box::new(again), options())
        .unwrap_or_else(|error| panic!("opens once, then not: {error}\n{report:?}"));
    // Entries behind a place that cannot be trusted may be suspected anew, but none is served in another form.
    for (group, index, entry) in contents(&log) {
        let before = held.iter().find(|(one, at, _)| (*one, *at) == (group, index));
        if let (Some(entry), Some((_, _, Some(before)))) = (&entry, before) {
            assert_eq!(entry, before, "group {group}\n{report:?}\n{second:?}");
        }
    }
}

/// Up to a hundred entries of each group: the entry, or `None` where it is damaged.
fn contents(log: &SegmentLog) -> Vec<(u32, u64, Option<LogRecord>)> {
    let mut found = Vec::new();
    for group in log.groups() {
        let Some(last) = log.state(group).last else { continue };
        for index in last.index.saturating_sub(100)..=last.index {
            match log.read(group, index..index.saturating_add(1), usize::MAX) {
                Ok(records) => {
                    found.extend(records.into_iter().map(|record| (group, record.index, Some(record))));
                }
                Err(LogError::Rot { index, .. }) => found.push((group, index, None)),
                Err(error) => panic!("group {group}, entry {index}: {error}"),
            }
        }
    }
    found
}

/// If a batch begins here: payload sums, table sum, header sum.
fn put_sums_right(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES || bytes[..8] != MAGIC {
        return;
    }
    let u32_at = |bytes: &[u8], at: usize| {
        bytes[at..at + 4].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    };
    let end = HEADER_BYTES.saturating_add(u32_at(bytes, 60).saturating_mul(ROW_BYTES));
    if end <= bytes.len() {
        for row in (HEADER_BYTES..end).step_by(ROW_BYTES) {
            let (from, length) = (u32_at(bytes, row + 40), u32_at(bytes, row + 44));
            if let Some(payload) = bytes.get(from..from.saturating_add(length)) {
                let sum = crc32fast::hash(payload);
                bytes[row + 48..row + 52].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let sum = crc32fast::hash(&bytes[HEADER_BYTES..end]);
        bytes[68..72].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc32fast::hash(&bytes[12..HEADER_BYTES]);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
}
