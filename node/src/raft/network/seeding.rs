//! How hard a leader works for a node that has no vote and much to learn.
//!
//! A new node takes the log as fast as it is sent, and on machines that are busy with appends that is at the appends' cost. So the leader
//! rests as long as it has worked, but only when the node has come nearer meanwhile: while appends outrun it, it is served like
//! anybody. Work is all that the node does for what it was sent: it answers when it has applied that, one request after the other.
//!
//! How near it is is told in bytes. An entry of a batch is a thousand times as much work as a lone append, and in a count of entries a
//! node that learns batches seems to fall behind.
//!
//! Invariant: between two rests what the node lacks has shrunk by a part of itself, so it catches up whatever is appended, if it can at all.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

/// A rest is due when what is lacking has shrunk by one part in so many.
const PART: u64 = 256;
/// Who lacks fewer bytes than these is served like anybody.
const LITTLE_BYTES: u64 = 64 << 10;
/// So many times as long as it has worked the leader rests.
const RESTS: u32 = 1;
/// The longest rest: the node hears of commits meanwhile only from heartbeats.
const REST_MAX: Duration = Duration::from_millis(250);

/// One node without a vote that is brought up to date.
#[derive(Debug)]
pub(super) struct Seeding {
    /// The last entry that it holds.
    matched: u64,
    /// The last entry of the log.
    last: u64,
    /// Bytes that it lacks of the log.
    lacks_bytes: u64,
    /// Bytes that it lacked when the last rest began.
    lacked_bytes: u64,
    /// When the work after that rest began.
    since: Instant,
}

impl Seeding {
    /// Of a node that has been heard for the first time.
    pub(super) const fn new(now: Instant) -> Self {
        Self { matched: 0, last: 0, lacks_bytes: 0, lacked_bytes: u64::MAX, since: now }
    }

    /// It holds the log up to entry `matched`, and the log ends with entry `last`. Says how long to rest before it is sent more.
    pub(super) fn holds(
        &mut self,
        (matched, last): (u64, u64),
        bytes_of: impl Fn(Range<u64>) -> u64,
        now: Instant,
    ) -> Option<Duration> {
        if last < self.last || matched < self.matched {
            (self.matched, self.last, self.lacks_bytes) = (0, 0, 0);
        }
        let appended = bytes_of(self.last + 1..last + 1);
        let learnt = bytes_of(self.matched + 1..matched + 1);
        self.lacks_bytes = (self.lacks_bytes + appended).saturating_sub(learnt);
        (self.matched, self.last) = (matched, last);
        let Some(worked) = now.checked_duration_since(self.since) else {
            // What was under way when the rest began.
            return None;
        };
        if self.lacks_bytes < LITTLE_BYTES {
            (self.lacked_bytes, self.since) = (self.lacks_bytes, now);
            return None;
        }
        if u128::from(self.lacks_bytes) * u128::from(PART)
            > u128::from(self.lacked_bytes) * u128::from(PART - 1)
        {
            return None;
        }
        let rest = worked.saturating_mul(RESTS).min(REST_MAX);
        (self.lacked_bytes, self.since) = (self.lacks_bytes, now + rest);
        Some(rest)
    }

    /// Whether it gains on the appends, and has far to go: then it is sent one request at a time, and answers when it has applied it.
    pub(super) const fn is_slowed(&self) -> bool {
        self.lacks_bytes >= LITTLE_BYTES && self.lacks_bytes <= self.lacked_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// Entries of a KiB each.
    fn kib_each(range: Range<u64>) -> u64 {
        range.end.saturating_sub(range.start) * KIB
    }

    #[test]
    fn it_rests_as_long_as_it_worked_when_the_node_has_come_nearer() {
        let begin = Instant::now();
        let ms = Duration::from_millis;
        let mut seeding = Seeding::new(begin);
        let mut at = |matched, ms_since| seeding.holds((matched, 6_400), kib_each, begin + ms(ms_since));
        assert_eq!(at(0, 0), Some(ms(0)));
        assert_eq!(at(20, 10), None, "not near enough yet");
        assert_eq!(at(30, 30), Some(ms(30)));
        assert_eq!(at(200, 31), None, "what was under way still arrives, and the rest goes on");
        assert_eq!(at(230, 70), Some(ms(10)), "it worked from 60 on");
        assert_eq!(at(1_000, 900), Some(REST_MAX));
        assert!(seeding.is_slowed());
        assert_eq!(seeding.holds((6_400 - 63, 6_400), kib_each, begin + ms(1_200)), None, "almost there");
        assert!(!seeding.is_slowed());
    }

    #[test]
    fn a_node_that_appends_outrun_is_served_like_anybody() {
        let begin = Instant::now();
        let mut seeding = Seeding::new(begin);
        seeding.holds((0, 1_000), kib_each, begin);
        for step in 1..50 {
            let now = begin + Duration::from_millis(step);
            assert_eq!(seeding.holds((step, 1_000 + 2 * step), kib_each, now), None);
            assert!(!seeding.is_slowed());
        }
        assert_eq!(
            seeding.holds((103, 1_100), kib_each, begin),
            None,
            "it must come nearer than at the last rest"
        );
        assert!(seeding.is_slowed(), "and does, so far");
    }

    #[test]
    fn one_large_entry_counts_for_more_than_many_small_ones() {
        let begin = Instant::now();
        let mut seeding = Seeding::new(begin);
        let bytes_of =
            |range: Range<u64>| range.map(|index| if index <= 100 { 400 * KIB } else { KIB }).sum();
        seeding.holds((0, 100), bytes_of, begin);
        let rest = seeding.holds((10, 1_000), bytes_of, begin + Duration::from_millis(8));
        assert_eq!(rest, Some(Duration::from_millis(8)));
    }

    #[test]
    fn a_log_that_begins_anew_is_counted_anew() {
        let begin = Instant::now();
        let mut seeding = Seeding::new(begin);
        seeding.holds((500, 1_000), kib_each, begin);
        seeding.holds((400, 900), kib_each, begin);
        assert_eq!(seeding.lacks_bytes, 500 * KIB);
    }
}
