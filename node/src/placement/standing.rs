//! When a node asks for votes: as soon as nobody has led it for the lease, and the preferred nodes first.
//!
//! A voter refuses (pre-)votes until the lease, `election_max`, has run out since it last heard of the leader. Asking earlier is
//! useless and asking again is cheap, so who knows that the leader is gone (its connection has closed) asks from the end of the
//! lease on, every few milliseconds; who has only not heard of it waits half a lease longer, for a leader may just be slow.
//!
//! Preference: each better placed node that answers gets a head start of [`HEAD_START`] and the way of its request for votes to
//! here, for once that has arrived, this node's own round of pre-votes ends. A node that does not answer gets none.
//!
//! Invariants: every voter stands in the end, whoever is before it, because a better placed one may lack what is committed; a
//! node that has just voted, or stands already, leaves that election its time. Time comes in as an argument.

use core::time::Duration;
use std::collections::BTreeSet;

/// What a better placed node gets beside the way of its request: its pre-votes and its own disk's flush of the vote.
const HEAD_START: Duration = Duration::from_millis(12);
/// Between two attempts while the loss is fresh.
const RETRY: Duration = Duration::from_millis(8);
/// Between two attempts later: most likely there is no quorum.
const RETRY_LATER: Duration = Duration::from_millis(150);
/// How long a loss is fresh, beyond the lease.
const FRESH: Duration = Duration::from_secs(2);

/// Another voter, as a rival for leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rival {
    /// Its node id.
    pub node_id: u64,
    /// Its zone's rank in this group; 1 is the most preferred.
    pub rank: u32,
    /// What a message takes from it to this node, as declared.
    pub one_way: Duration,
}

/// When this node stands for election.
#[derive(Debug, Clone)]
pub struct StandingPolicy {
    lease: Duration,
    /// Voters that are to lead rather than this one.
    better: Vec<Rival>,
}

/// What a node knows of its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Situation {
    /// Since it last heard of a leader.
    pub silence: Duration,
    /// The leader's connection has closed since.
    pub closed: bool,
    /// Since it last voted for somebody, or began to stand itself; none if that was before it last heard of a leader.
    pub election: Option<Duration>,
    /// How many times it has voted since it last heard of a leader.
    pub elections: u32,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing for so long, or until something happens.
    Wait(Duration),
    /// Ask for pre-votes, and look again after so long.
    Stand(Duration),
}

impl StandingPolicy {
    /// The policy of a node among `rivals`, with its own id and rank. Among equals the lower id stands first.
    #[must_use]
    pub fn new(lease: Duration, node_id: u64, rank: u32, rivals: &[Rival]) -> Self {
        let before = |rival: &&Rival| (rival.rank, rival.node_id) < (rank, node_id);
        Self { lease, better: rivals.iter().filter(before).copied().collect() }
    }

    /// The better placed voters besides the lost leader: whether they are there decides when this node stands.
    pub fn better(&self, lost: Option<u64>) -> impl Iterator<Item = u64> + '_ {
        self.better.iter().map(|rival| rival.node_id).filter(move |node| Some(*node) != lost)
    }

    /// How long this node lets those go first.
    #[must_use]
    pub fn head_start(&self, lost: Option<u64>, silent: &BTreeSet<u64>) -> Duration {
        let first = self
            .better
            .iter()
            .filter(|rival| Some(rival.node_id) != lost && !silent.contains(&rival.node_id));
        let (mut each, mut way) = (Duration::ZERO, Duration::ZERO);
        for rival in first {
            each += HEAD_START;
            way = way.max(rival.one_way);
        }
        each + way
    }

    /// How much silence makes this node ask whether the better placed ones are there.
    #[must_use]
    pub fn ask_after(&self, closed: bool) -> Duration {
        if closed { Duration::ZERO } else { self.lease }
    }

    /// What to do now; `lost` is the leader that was last heard of, `silent` are those that do not answer.
    #[must_use]
    pub fn step(&self, now: Situation, lost: Option<u64>, silent: &BTreeSet<u64>) -> Step {
        let patience = if now.closed { self.lease } else { self.lease * 3 / 2 };
        let due = patience + self.head_start(lost, silent);
        if now.silence < due {
            return Step::Wait(due - now.silence);
        }
        // Votes travel, and are flushed; the election that is under way is better than the next one. If several have come to
        // nothing everything is slow, and they need more time, and more distance from each other.
        let unhindered =
            (self.lease / 2 + self.head_start(lost, silent)) * (1 << now.elections.saturating_sub(1).min(3));
        if let Some(since) = now.election.filter(|since| *since < unhindered) {
            return Step::Wait(unhindered - since);
        }
        Step::Stand(if now.silence < due + FRESH { RETRY } else { RETRY_LATER })
    }
}
