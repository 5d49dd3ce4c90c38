//! Counters of the log.

use hdrhistogram::Histogram;

/// What the log has done since it was opened, and how it stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Batches that are durable, idle ones included.
    pub batches: u64,
    /// Batches written only to confirm or to announce.
    pub idle_batches: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their payloads.
    pub payload_bytes: u64,
    /// Bytes written, headers, tables and padding included.
    pub written_bytes: u64,
    /// fdatasyncs of batches.
    pub fsyncs: u64,
    /// Segments that hold something, the present one included.
    pub segments: u64,
    /// Segments made since the log was opened.
    pub segments_made: u64,
    /// Segments removed or recycled since then.
    pub segments_removed: u64,
    /// Payload bytes held in memory.
    pub cached_bytes: u64,
    /// Payload bytes that wait for a batch.
    pub queued_bytes: u64,
    /// Payload bytes that have been handed in and are not durable: those that wait, and those in batches in flight.
    pub unfinished_bytes: u64,
    /// Whether something waits for the disk to finish its work. With [`LogStats::batches`] standing still meanwhile, the disk
    /// stands still. What waits for room on a full disk is not meant.
    pub waits_for_disk: bool,
    /// Whether an append would be refused now with [`crate::LogError::DiskFull`].
    pub disk_full: bool,
    /// Room for entries beyond those that wait, where the present segment is the last, because the disk had none for another
    /// when it was last tried; it is tried again all the time. `None` = there is no such bound.
    pub last_segment_room_bytes: Option<u64>,
    /// Median time from handing a batch to the disk until it was durable, in microseconds.
    pub write_p50_us: u64,
    /// The same, 99th percentile.
    pub write_p99_us: u64,
    /// The longest.
    pub write_max_us: u64,
}

/// The counters as they are kept.
pub(crate) struct Counters {
    pub(crate) batches: u64,
    pub(crate) idle_batches: u64,
    pub(crate) records: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) segments_made: u64,
    pub(crate) segments_removed: u64,
    write_us: Option<Histogram<u64>>,
}

impl Counters {
    pub(crate) fn new() -> Counters {
        Counters {
            batches: 0,
            idle_batches: 0,
            records: 0,
            payload_bytes: 0,
            written_bytes: 0,
            segments_made: 0,
            segments_removed: 0,
            // Two significant digits up to a minute: a few kilobytes.
            write_us: Histogram::new_with_bounds(1, 60_000_000, 2).ok(),
        }
    }

    /// Counts the time that one batch took.
    pub(crate) fn wrote(&mut self, us: u64) {
        if let Some(histogram) = &mut self.write_us {
            histogram.saturating_record(us.max(1));
        }
    }

    /// Fills in what the counters know.
    pub(crate) fn stats(&self) -> LogStats {
        let percentile = |quantile| self.write_us.as_ref().map_or(0, |all| all.value_at_quantile(quantile));
        LogStats {
            batches: self.batches,
            idle_batches: self.idle_batches,
            records: self.records,
            payload_bytes: self.payload_bytes,
            written_bytes: self.written_bytes,
            fsyncs: self.batches,
            segments_made: self.segments_made,
            segments_removed: self.segments_removed,
            write_p50_us: percentile(0.5),
            write_p99_us: percentile(0.99),
            write_max_us: percentile(1.0),
            ..LogStats::default()
        }
    }
}
