//! What the log costs in CPU time and memory: records of 256 bytes in appends of 1,000.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use tercet_storage::LogOptions;
use tercet_storage::disk::DiskChoice;

use super::appends::Appends;
use super::figures::Cost;
use crate::nodes::Usage;

const RECORD_BYTES: usize = 256;
const RECORDS: u64 = 1_000;
/// Appends under way at once.
const DEPTH: u64 = 2;

/// Measures in a new directory. CPU time is that of the whole process: appender, committer, housekeeper, kernel.
pub(super) fn measure(dir: &Path, choice: DiskChoice, counted: Duration) -> Result<Cost> {
    let mut appends = Appends::open(dir, choice)?;
    let payload = Bytes::from(vec![0x5a; RECORD_BYTES]);
    for _ in 0..DEPTH {
        appends.append(&payload, RECORDS)?;
    }
    // Past the first segment: the buffers are there, and segments are being recycled.
    let past = Instant::now() + counted / 4;
    while Instant::now() < past {
        appends.take()?;
        appends.append(&payload, RECORDS)?;
    }
    let before = Usage::of(std::process::id())?;
    let begin = Instant::now();
    let mut answered = 0;
    let mut queued_bytes = 0;
    while begin.elapsed() < counted {
        appends.take()?;
        answered += 1;
        appends.append(&payload, RECORDS)?;
        queued_bytes = queued_bytes.max(appends.log().stats().queued_bytes);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = Usage::of(std::process::id())?;
    let stats = appends.log().stats();
    for _ in 0..DEPTH {
        appends.take()?;
    }
    appends.close();
    let options = LogOptions::default();
    Ok(Cost::new(
        answered * RECORDS,
        seconds,
        after.cpu_seconds_since(&before),
        stats.cached_bytes,
        queued_bytes,
        after.resident_bytes,
        options.memory_bound_bytes() as u64 + DEPTH * RECORDS * RECORD_BYTES as u64,
    ))
}
