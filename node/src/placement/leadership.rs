//! Who should lead: the most preferred zone that has a node fit for it, and when leadership may move there.
//!
//! A move is worth a pause of every writer, so it is made once for each real change of the network and not for each tremor:
//! a node must have been fit without a break for a while, and that while grows with what has happened lately. Each pair of
//! leader changes within [`MEMORY`] (a failover and the return from it) doubles it, up to [`DOUBLINGS_MAX`] times; a transfer
//! that failed counts for such a pair, and forbids the next one for the while that follows. Every node counts the changes,
//! so that the next leader knows of them, too.
//!
//! Invariants: leadership moves only to a strictly more preferred zone, so that nothing moves back and forth between equals;
//! only to a node that the leader has seen fit at every look for the whole while; a leader that has just begun knows nobody.
//! Time comes in as an argument: the time since some fixed moment of this node.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

/// Leader changes longer ago than this are forgotten.
const MEMORY: Duration = Duration::from_secs(600);
/// The while grows to 2^6 times its usual length at most.
const DOUBLINGS_MAX: u32 = 6;

/// A voter as a possible leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its node id.
    pub node_id: u64,
    /// Its zone's rank in this group; 1 is the most preferred.
    pub preference: u32,
    /// It is up, caught up, and takes entries.
    pub fit: bool,
}

/// The node that leadership should move to; none if it is best where it is. Among equals the lowest id is taken.
#[must_use]
pub fn better_leader(leader: u64, candidates: &[Candidate]) -> Option<u64> {
    let now = candidates.iter().find(|candidate| candidate.node_id == leader)?;
    candidates
        .iter()
        .filter(|candidate| candidate.fit && candidate.preference < now.preference)
        .min_by_key(|candidate| (candidate.preference, candidate.node_id))
        .map(|candidate| candidate.node_id)
}

/// Whom a leader that has to go gives leadership to: the most preferred voter that is fit, itself left out.
#[must_use]
pub fn refuge(leader: u64, candidates: &[Candidate]) -> Option<u64> {
    candidates
        .iter()
        .filter(|candidate| candidate.fit && candidate.node_id != leader)
        .min_by_key(|candidate| (candidate.preference, candidate.node_id))
        .map(|candidate| candidate.node_id)
}

/// What a node remembers of a group's leadership, to decide about it when it leads.
#[derive(Debug)]
pub struct LeadershipPolicy {
    steady: Duration,
    /// When the leader changed, oldest first; a failed transfer stands here twice.
    changes: VecDeque<Duration>,
    /// Since when each fit voter has been fit, as far as this node has led and looked.
    fit_since: BTreeMap<u64, Duration>,
    not_before: Duration,
}

impl LeadershipPolicy {
    /// A policy under which a node must have been fit for `steady` in quiet times.
    #[must_use]
    pub fn new(steady: Duration) -> Self {
        Self { steady, changes: VecDeque::new(), fit_since: BTreeMap::new(), not_before: Duration::ZERO }
    }

    /// Another node leads, or the same one anew; told on every node.
    pub fn leader_changed(&mut self, now: Duration) {
        self.forget_before(now);
        self.changes.push_back(now);
        self.fit_since.clear();
    }

    /// A transfer that this leader began did not happen.
    pub fn transfer_failed(&mut self, now: Duration) {
        self.changes.extend([now, now]);
        self.not_before = now.saturating_add(self.wait(now));
    }

    /// `node` is not what it seemed: it has to be fit for the whole while again.
    pub fn doubt(&mut self, node: u64) {
        self.fit_since.remove(&node);
    }

    /// How long a node must have been fit as things are now.
    #[must_use]
    pub fn wait(&self, now: Duration) -> Duration {
        let recent = self.changes.iter().filter(|at| now.saturating_sub(**at) < MEMORY).count();
        // The first two are free: the first leader ever, or a failover, and the return from it.
        let doublings = u32::try_from(recent.saturating_sub(1) / 2).unwrap_or(u32::MAX);
        self.steady.saturating_mul(1 << doublings.min(DOUBLINGS_MAX))
    }

    /// What the leader sees now; returns whom to move leadership to, if anybody.
    pub fn look(&mut self, now: Duration, leader: u64, candidates: &[Candidate]) -> Option<u64> {
        self.forget_before(now);
        self.fit_since
            .retain(|node, _| candidates.iter().any(|candidate| candidate.node_id == *node && candidate.fit));
        for candidate in candidates.iter().filter(|candidate| candidate.fit) {
            self.fit_since.entry(candidate.node_id).or_insert(now);
        }
        if now < self.not_before {
            return None;
        }
        let wait = self.wait(now);
        let steady = |node: &u64| self.fit_since.get(node).is_some_and(|since| *since + wait <= now);
        let steady: Vec<Candidate> = candidates
            .iter()
            .map(|candidate| Candidate { fit: candidate.fit && steady(&candidate.node_id), ..*candidate })
            .collect();
        better_leader(leader, &steady)
    }

    fn forget_before(&mut self, now: Duration) {
        while self.changes.front().is_some_and(|at| now.saturating_sub(*at) >= MEMORY) {
            self.changes.pop_front();
        }
    }
}
