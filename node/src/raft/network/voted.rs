//! What a voter's log held when it granted this leader's vote, and what of openraft's search that answers.
//!
//! A new leader finds out by halving where each follower's log matches its own, one round trip a step: a dozen of them to a
//! remote site before anything is committed. But whoever votes says where its log ends, and by Raft's log matching a log that
//! ends with an entry of the leader's equals the leader's up to there. So the steps of the search are answered here, without
//! asking, until openraft streams entries from a point that the voter holds. The first message that really travels then brings
//! the voter everything that it lacks.
//!
//! Why this is safe:
//! - A voter answers only when its vote is durable, and says that its log's end is so only if it looked (`last_is_flushed`). A
//!   durable vote for this term lets nobody but this leader change the log while the term lasts.
//! - Only entries at or before that end are said to match, and only if the leader's own log holds the end. All of them are of
//!   earlier terms, so they commit nothing by themselves; the gate does not hear of them.
//! - openraft takes an answer for a sign of life at the time of its request: for the lease, and for reads. These answers are
//!   none, so they are such that it counts nothing: a match of exactly the request's `prev`, or a conflict that lies before it
//!   in openraft's order (the term 0 is nobody's). The real answer comes with the first message.
//!
//! A conflict ends the search from above; openraft then sends what follows a point that matches. It may name an entry that the
//! voter does hold: then that entry is sent again, which changes nothing.
//!
//! Invariants: what is known of a voter is of one term, and is forgotten as soon as a request that carries entries is sent to it
//! in that term; every answer narrows the search, so it ends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::raft::types::{LogId, log_id, term_of};

/// What becomes of a request with entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It travels.
    Send,
    /// The follower holds everything up to here.
    Matches(LogId),
    /// The search goes on below this index.
    Conflicts(LogId),
}

/// One voter.
#[derive(Debug, Clone, Copy)]
struct Voted {
    /// The term that it voted for.
    term: u64,
    /// Where its log ended, durably; none once that is of no use any more.
    end: Option<LogId>,
    /// The highest index that openraft has been told to match.
    told: u64,
}

/// What the voters of one group have said.
#[derive(Clone, Default)]
pub(super) struct Votes(Arc<Mutex<BTreeMap<u64, Voted>>>);

impl Votes {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Voted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `node` has voted for this one in `term`; its log ends durably at `end`. Too late once entries were sent to it.
    pub(super) fn granted(&self, node: u64, term: u64, end: LogId) {
        let mut votes = self.lock();
        if votes.get(&node).is_none_or(|known| known.term < term) {
            votes.insert(node, Voted { term, end: Some(end), told: 0 });
        }
    }

    /// What to do with a request of `term` for `node` that carries entries after `prev`; `holds` says whether this node's log
    /// holds an entry.
    pub(super) fn step(
        &self,
        node: u64,
        term: u64,
        prev: Option<LogId>,
        holds: impl FnOnce(LogId) -> bool,
    ) -> Step {
        let mut votes = self.lock();
        let known = votes.entry(node).or_insert(Voted { term, end: None, told: 0 });
        if known.term != term {
            *known = Voted { term, end: None, told: 0 };
        }
        match (known.end, prev) {
            (Some(end), Some(prev)) if term_of(&end) < term && holds(end) => {
                if prev.index > end.index {
                    Step::Conflicts(log_id(0, end.index.saturating_add(1)))
                } else if prev.index > known.told {
                    known.told = prev.index;
                    Step::Matches(prev)
                } else {
                    known.end = None;
                    Step::Conflicts(log_id(0, prev.index.saturating_add(1)))
                }
            }
            _ => {
                known.end = None;
                Step::Send
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: u64 = 5;
    const TERM: u64 = 7;

    /// openraft's search over a leader's log 1..=last of term 3, as `ProgressEntry` does it, up to the first request that
    /// travels: returns its `prev`, and how many were answered here.
    fn search(votes: &Votes, last: u64, holds: bool) -> (u64, usize) {
        let (mut matching, mut end) = (0_u64, last + 1);
        for steps in 0..1_000 {
            let prev = matching + (end - (matching + 1)) / 16 * 8;
            let at = (prev > 0).then(|| log_id(3, prev));
            match votes.step(NODE, TERM, at, |_| holds) {
                Step::Send => return (prev, steps),
                Step::Matches(upto) => {
                    assert_eq!(
                        Some(upto),
                        at,
                        "only `prev` itself, which openraft takes for no sign of life"
                    );
                    assert!(upto.index > matching, "no progress at {upto:?}");
                    matching = upto.index;
                }
                Step::Conflicts(below) => {
                    assert!(below.index > matching, "below what matches: {below:?}");
                    assert!(Some(below) < at, "openraft would take it for a sign of life: {below:?}");
                    end = end.min(below.index);
                }
            }
        }
        panic!("the search does not end");
    }

    #[test]
    fn the_first_message_begins_close_to_the_end_of_the_voters_log() {
        for last in [20_u64, 1_000, 4_321, 1_000_000] {
            for voters_end in [1, 2, 17, last / 3, last.saturating_sub(40).max(1), last - 1, last] {
                let votes = Votes::default();
                votes.granted(NODE, TERM, log_id(3, voters_end));
                let (prev, steps) = search(&votes, last, true);
                assert!(prev <= voters_end && voters_end - prev < 16, "{prev} for {voters_end} of {last}");
                assert!(steps < 64, "{steps} steps for {voters_end} of {last}");
            }
        }
    }

    #[test]
    fn nothing_is_answered_for_who_has_not_voted_or_holds_something_else() {
        let votes = Votes::default();
        assert_eq!(search(&votes, 1_000, true), (496, 0), "not heard of");
        let votes = Votes::default();
        votes.granted(NODE, TERM, log_id(3, 900));
        assert_eq!(search(&votes, 1_000, false), (496, 0), "the leader's log does not hold the voter's end");
        let votes = Votes::default();
        votes.granted(NODE, TERM - 1, log_id(3, 900));
        assert_eq!(search(&votes, 1_000, true), (496, 0), "a vote for an earlier term");
        let votes = Votes::default();
        votes.granted(NODE, TERM, log_id(TERM, 900));
        assert_eq!(search(&votes, 1_000, true), (496, 0), "nobody has an entry of a term before its leader");
    }

    #[test]
    fn what_has_been_sent_ends_it() {
        let votes = Votes::default();
        assert_eq!(votes.step(NODE, TERM, Some(log_id(3, 5)), |_| true), Step::Send);
        votes.granted(NODE, TERM, log_id(3, 9));
        assert_eq!(
            votes.step(NODE, TERM, Some(log_id(3, 7)), |_| true),
            Step::Send,
            "the vote came too late"
        );
        votes.granted(NODE, TERM + 1, log_id(3, 9));
        assert_eq!(votes.step(NODE, TERM + 1, Some(log_id(3, 7)), |_| true), Step::Matches(log_id(3, 7)));
        assert_eq!(
            votes.step(NODE, TERM + 1, Some(log_id(3, 7)), |_| true),
            Step::Conflicts(log_id(0, 8)),
            "openraft is to send what follows"
        );
        assert_eq!(votes.step(NODE, TERM + 1, Some(log_id(3, 7)), |_| true), Step::Send);
        assert_eq!(votes.step(NODE, TERM + 1, Some(log_id(3, 12)), |_| true), Step::Send);
    }
}
