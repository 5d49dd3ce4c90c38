//! A vote is on stable media before it is given, is given to one candidate a term, and is not forgotten by a restart.

use std::collections::BTreeMap;

/// (number in the group, term, for whom)
type Vote = (u64, u64, u64);

/// Votes that were given.
#[derive(Default)]
pub(super) struct Votes {
    /// By node and term: for whom.
    given: BTreeMap<(u64, u64), u64>,
    /// The highest term that each node voted in.
    newest: BTreeMap<u64, u64>,
}

impl Votes {
    pub(super) fn granted(
        &mut self,
        node: u64,
        term: u64,
        candidate: u64,
        durable: Option<Vote>,
    ) -> Result<(), String> {
        let newest = self.newest.entry(node).or_default();
        *newest = term.max(*newest);
        let first = *self.given.entry((node, term)).or_insert(candidate);
        if first != candidate {
            return Err(format!("votes: node {node} voted for {first} and for {candidate} in term {term}"));
        }
        match durable {
            Some((_, durable, _)) if durable >= term => Ok(()),
            found => Err(format!(
                "votes: node {node} has granted a vote in term {term}; on its disk there is {found:?}"
            )),
        }
    }

    /// A node that has lost its data directory and its part in the group votes as another.
    pub(super) fn wiped(&mut self, node: u64) {
        self.given.retain(|(of, _), _| *of != node);
        self.newest.remove(&node);
    }

    pub(super) fn restarted(&self, node: u64, recovered: Option<Vote>) -> Result<(), String> {
        let given = self.newest.get(&node).copied().unwrap_or(0);
        let found = recovered.map_or(0, |(_, term, _)| term);
        if found >= given {
            return Ok(());
        }
        Err(format!("votes: node {node} voted in term {given} and comes back with a vote of term {found}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_is_given_once_and_from_the_disk() {
        let mut votes = Votes::default();
        assert!(votes.granted(1, 3, 2, Some((1, 3, 2))).is_ok());
        assert!(votes.granted(1, 3, 2, Some((1, 3, 2))).is_ok(), "said again");
        assert!(votes.granted(1, 3, 4, Some((1, 3, 2))).is_err(), "two candidates");
        assert!(votes.granted(1, 4, 2, Some((1, 3, 2))).is_err(), "not durable");
        assert!(votes.granted(2, 4, 2, None).is_err(), "nothing is durable");
        assert!(votes.restarted(1, Some((2, 4, 2))).is_ok());
        assert!(votes.restarted(1, Some((1, 3, 2))).is_err(), "forgotten");
        assert!(votes.restarted(3, None).is_ok(), "never voted");
    }
}
