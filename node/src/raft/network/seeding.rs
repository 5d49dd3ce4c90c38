//! How hard a leader works for a node that has no vote and much to learn.
//!
//! A new node takes the log as fast as it is sent, and on machines that are busy with appends that is at the appends' cost. So the leader
//! rests twice as long as it has worked, but only when the node has come nearer meanwhile: while appends outrun it, it is served
//! without a rest.
//!
//! Invariant: between two rests what the node lacks has shrunk by a part of itself, so it catches up whatever is appended, if it can at all.

use std::time::Duration;

use tokio::time::Instant;

/// A rest is due when what is lacking has shrunk by one part in so many.
const PART: u64 = 256;
/// Who lacks fewer entries than these is served like anybody.
const LITTLE: u64 = 64;
/// So many times as long as it has worked the leader rests.
const RESTS: u32 = 2;
/// The longest rest: the node hears of commits meanwhile only from heartbeats.
const REST_MAX: Duration = Duration::from_millis(250);

/// One node without a vote that is brought up to date.
#[derive(Debug)]
pub(super) struct Seeding {
    /// Entries that it lacked when the last rest began.
    lacked: u64,
    /// When the work after that rest began.
    since: Instant,
}

impl Seeding {
    /// Of a node that lacks so many entries.
    pub(super) fn new(lacks: u64, now: Instant) -> Self {
        Self { lacked: lacks, since: now }
    }

    /// It lacks so many entries now. Says how long to rest before it is sent more.
    pub(super) fn lacks(&mut self, lacks: u64, now: Instant) -> Option<Duration> {
        if lacks < LITTLE {
            (self.lacked, self.since) = (lacks, now);
            return None;
        }
        if lacks.saturating_mul(PART) > self.lacked.saturating_mul(PART - 1) {
            return None;
        }
        let rest = now.saturating_duration_since(self.since).saturating_mul(RESTS).min(REST_MAX);
        (self.lacked, self.since) = (lacks, now + rest);
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_twice_as_long_as_it_worked_when_the_node_has_come_nearer() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut seeding = Seeding::new(6_400, begin);
        assert_eq!(seeding.lacks(6_380, at(10)), None, "not near enough yet");
        assert_eq!(seeding.lacks(6_370, at(30)), Some(Duration::from_millis(60)));
        assert_eq!(seeding.lacks(6_360, at(31)), None, "what was under way still arrives");
        assert_eq!(seeding.lacks(6_300, at(110)), Some(Duration::from_millis(40)), "it worked from 90 on");
        assert_eq!(seeding.lacks(5_000, at(900)), Some(REST_MAX));
        assert_eq!(seeding.lacks(63, at(1_200)), None, "almost there");
    }

    #[test]
    fn a_node_that_appends_outrun_is_served_without_a_rest() {
        let begin = Instant::now();
        let mut seeding = Seeding::new(1_000, begin);
        for step in 1..50 {
            assert_eq!(seeding.lacks(1_000 + step, begin + Duration::from_millis(step)), None);
        }
        assert_eq!(seeding.lacks(1_000, begin), None, "it must come nearer than it was at the last rest");
    }
}
