//! Whose majorities count: one set of voters, or, while the members change, the old and the new one.
//!
//! Members change one at a time, through a joint configuration that needs a majority of both halves. So whoever hears a majority
//! of each half of some membership hears of the next one, if that has been committed: its entry is on a majority of the former.
//! That is why [`Electorate::newest`] of what a majority of it says is the one in force, or one that nothing newer has replaced.
//!
//! Invariant: what a majority is needed for needs one of every half.

use std::collections::BTreeSet;

/// The voters of a group by id.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Electorate {
    /// Where the membership stands in the log: term and index, in the order in which leaders wrote them.
    pub at: (u64, u64),
    /// The newest is the last one. Empty: nobody knows of a membership yet.
    pub halves: Vec<BTreeSet<u64>>,
}

impl Electorate {
    /// Voters that no log has named yet: a group's first ones.
    pub fn first(voters: impl IntoIterator<Item = u64>) -> Self {
        Self { at: (0, 0), halves: vec![voters.into_iter().collect()] }
    }

    /// Of two memberships the one that was written later; one that is known before one that is not.
    #[must_use]
    pub fn newest(self, other: Self) -> Self {
        let rank = |one: &Self| (!one.halves.is_empty(), one.at);
        if rank(&other) > rank(&self) { other } else { self }
    }

    /// Who votes when a change that is under way is finished.
    #[must_use]
    pub fn voters(&self) -> BTreeSet<u64> {
        self.halves.last().cloned().unwrap_or_default()
    }

    /// Who votes in any half.
    #[must_use]
    pub fn everybody(&self) -> BTreeSet<u64> {
        self.halves.iter().flatten().copied().collect()
    }

    /// Whether more than half of every half is `so`.
    pub fn majority(&self, so: impl Fn(u64) -> bool) -> bool {
        !self.halves.is_empty()
            && self.halves.iter().all(|half| half.iter().filter(|node| so(**node)).count() * 2 > half.len())
    }

    /// Whether the other voters that are `heard` meet every majority that `own` may once have been a part of, even if `own` has
    /// forgotten that.
    pub fn meets_every_majority_without(&self, own: u64, heard: impl Fn(u64) -> bool) -> bool {
        !self.halves.is_empty()
            && self.halves.iter().all(|half| {
                let others = half.iter().filter(|node| **node != own && heard(**node)).count();
                // A majority of m has m - 1 others at least; whoever is not heard must be fewer than those.
                let not_heard = half.iter().filter(|node| **node != own).count() - others;
                let others_needed = half.len() / 2 + 1 - usize::from(half.contains(&own));
                not_heard < others_needed
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(at: (u64, u64), halves: &[&[u64]]) -> Electorate {
        Electorate { at, halves: halves.iter().map(|half| half.iter().copied().collect()).collect() }
    }

    #[test]
    fn the_newest_is_taken_and_an_unknown_one_never() {
        let (first, unknown) = (Electorate::first([1, 2, 3]), Electorate::default());
        let (joint, after) = (of((2, 7), &[&[1, 2, 3], &[1, 2, 4]]), of((2, 8), &[&[1, 2, 4]]));
        assert_eq!(unknown.clone().newest(first.clone()), first);
        assert_eq!(first.clone().newest(unknown), first);
        assert_eq!(first.newest(joint.clone()).newest(after.clone()), after);
        assert_eq!(after.clone().newest(joint), after);
        // What a deposed leader wrote and nobody committed stands higher in its log, and is older all the same.
        assert_eq!(after.clone().newest(of((1, 9), &[&[1, 2, 3, 5]])), after);
    }

    #[test]
    fn a_majority_is_one_of_every_half() {
        let joint = of((2, 7), &[&[1, 2, 3], &[1, 2, 3, 4]]);
        // who is heard, whether they are a majority, whether they meet every majority that 3 was in
        let rows: [(&[u64], bool, bool); 6] = [
            (&[1, 2], false, true),
            (&[1, 4], false, false),
            (&[1, 2, 4], true, true),
            (&[3, 4], false, false),
            (&[1, 3], false, false),
            (&[1, 2, 3, 4], true, true),
        ];
        for (heard, majority, meets) in rows {
            assert_eq!(joint.majority(|node| heard.contains(&node)), majority, "{heard:?}");
            assert_eq!(
                joint.meets_every_majority_without(3, |node| heard.contains(&node)),
                meets,
                "{heard:?}"
            );
        }
        assert_eq!(joint.everybody(), BTreeSet::from([1, 2, 3, 4]));
        assert!(!Electorate::default().majority(|_| true));
    }

    #[test]
    fn what_three_of_five_know_is_heard_from_three_others() {
        let five = Electorate::first(1..=5);
        // 5 and two others may have committed something that 5 has forgotten.
        assert!(!five.meets_every_majority_without(5, |node| node <= 2));
        assert!(five.meets_every_majority_without(5, |node| node <= 3));
        // Without a vote of its own a majority of the others is enough.
        assert!(five.meets_every_majority_without(6, |node| node <= 3));
        assert!(!five.meets_every_majority_without(6, |node| node <= 2));
    }
}
