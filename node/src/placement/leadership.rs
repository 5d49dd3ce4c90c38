//! Who should lead: the most preferred zone that has a node fit for it.
//!
//! Invariant: leadership moves only to a strictly more preferred zone, so that nothing moves back and forth between equals.

/// A voter as a possible leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its node id.
    pub node_id: u64,
    /// Its zone's `leader_preference`; 1 is the most preferred.
    pub preference: u32,
    /// It is up, caught up, and has been so for a while.
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
