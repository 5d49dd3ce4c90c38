//! The floor: what the bare device does for the smallest durable append, on the same file system in the same run.
//!
//! Two figures, one operation at a time each: a 4 KiB write made durable by the disk under the log, in its ring, and one
//! append of one entry to a segment log (which adds a batch's header, table and checksums, and two thread switches).

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tercet_proto::topology::DiskSetting;
use tercet_storage::disk::{AlignedBuffer, BLOCK_BYTES, DiskChoice, SegmentWrite, Wait, open_directory};
use tercet_storage::{LogOptions, LogRecord, SegmentLog};

use crate::load::new_histogram;

/// Operations before the measured ones.
const WARM_UP: u64 = 200;
/// Longest that one operation may take.
const PATIENCE: Duration = Duration::from_secs(30);
const SEGMENT_BYTES: u64 = 64 << 20;

/// Latencies in nanoseconds.
#[derive(Debug)]
pub(crate) struct Floor {
    /// What the disk says of itself.
    pub(crate) disk: String,
    /// A durable 4 KiB write.
    pub(crate) write: Histogram<u64>,
    /// One append of one entry to a segment log.
    pub(crate) append: Histogram<u64>,
}

/// Measures both for `seconds` each, in new directories below `dir` that are gone afterwards.
pub(crate) fn measure(
    dir: &Path,
    setting: DiskSetting,
    seconds: Duration,
    entry_bytes: usize,
) -> Result<Floor> {
    let choice = match setting {
        DiskSetting::IoUring => DiskChoice::Uring,
        DiskSetting::Portable => DiskChoice::Portable,
        DiskSetting::Auto => DiskChoice::UringOrPortable,
    };
    let below = |name: &str| -> Result<tempfile::TempDir> {
        tempfile::Builder::new().prefix(name).tempdir_in(dir).with_context(|| dir.display().to_string())
    };
    let raw = below("floor-disk-")?;
    let (disk, write) = measure_write(raw.path(), choice, seconds)?;
    let log = below("floor-log-")?;
    let append = measure_append(log.path(), choice, seconds, entry_bytes)?;
    Ok(Floor { disk, write, append })
}

fn measure_write(dir: &Path, choice: DiskChoice, seconds: Duration) -> Result<(String, Histogram<u64>)> {
    let disk = open_directory(dir, choice)?;
    let mut segment = 1;
    disk.create(segment, SEGMENT_BYTES)?;
    let mut buffer = AlignedBuffer::with_capacity(BLOCK_BYTES);
    buffer.set_len(BLOCK_BYTES);
    buffer.as_mut_slice().fill(0x5a);
    let mut histogram = new_histogram()?;
    let mut done = Vec::new();
    let mut offset = 0;
    let mut warm = None;
    for token in 0_u64.. {
        if token == WARM_UP {
            warm = Some(Instant::now());
        }
        if warm.is_some_and(|warm| warm.elapsed() >= seconds) {
            break;
        }
        if offset == SEGMENT_BYTES {
            disk.remove(segment)?;
            segment += 1;
            disk.create(segment, SEGMENT_BYTES)?;
            offset = 0;
        }
        let begin = Instant::now();
        disk.submit(SegmentWrite { token, segment, offset, buffer })?;
        while done.is_empty() {
            disk.completions(Wait::Forever, &mut done)?;
        }
        let took = begin.elapsed();
        let Some(completion) = done.pop() else { bail!("the disk completed nothing") };
        completion.result?;
        buffer = completion.buffer;
        offset += BLOCK_BYTES as u64;
        if warm.is_some() {
            histogram.saturating_record(nanos(took));
        }
    }
    Ok((disk.description(), histogram))
}

fn measure_append(
    dir: &Path,
    choice: DiskChoice,
    seconds: Duration,
    entry_bytes: usize,
) -> Result<Histogram<u64>> {
    let (log, _) = SegmentLog::open(open_directory(&dir.join("log"), choice)?, LogOptions::default())?;
    let payload = Bytes::from(vec![0x5a; entry_bytes]);
    let mut histogram = new_histogram()?;
    let mut warm = None;
    for index in 1_u64.. {
        if index == WARM_UP + 1 {
            warm = Some(Instant::now());
        }
        if warm.is_some_and(|warm| warm.elapsed() >= seconds) {
            break;
        }
        let record = LogRecord { index, term: 1, leader: 1, tag: 1, payload: payload.clone() };
        let (sender, receiver) = mpsc::channel();
        let begin = Instant::now();
        log.append(
            0,
            vec![record],
            Box::new(move |result| {
                // The receiver waits below until it has the result.
                let _ = sender.send(result);
            }),
        )?;
        receiver.recv_timeout(PATIENCE).context("an append to the segment log")??;
        let took = begin.elapsed();
        if warm.is_some() {
            histogram.saturating_record(nanos(took));
        }
    }
    log.close();
    Ok(histogram)
}

/// Whole nanoseconds.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_measured_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let floor = measure(dir.path(), DiskSetting::Portable, Duration::from_millis(50), 340).unwrap();
        assert!(!floor.write.is_empty() && !floor.append.is_empty());
        assert!(!floor.disk.is_empty());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
