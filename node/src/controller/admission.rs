//! Whether a node with an empty log may take part: its id must not be another data directory's. Pure: no clock, no I/O.
//!
//! The registry that knows is replicated in group 0, so it is enough to hear voters of group 0 that meet every majority which
//! may have registered the id, and that even if this node was itself a part of that majority and has forgotten it. Who votes is
//! asked along with it: `role` in the topology only says how the cluster began. One of them has the registration in its log, but
//! may not have applied it yet: so somebody must have applied as much as any of them held when they were heard together.
//!
//! While nobody who answers knows the cluster's id, nothing has been registered that any of them has heard of, and the cluster is
//! being formed: that takes a majority of the first voters, this node included, and must not wait for more.

use std::collections::BTreeMap;

use tercet_proto::v1;

use crate::placement::Electorate;
use crate::raft::electorate;

/// What another node said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// The cluster is formed, by what it has applied.
    pub knows_cluster: bool,
    /// The incarnation that it knows for the asker; 0: none.
    pub registered: u64,
    /// Who votes in group 0, as far as it knows.
    pub members: Electorate,
    /// How far it has applied group 0.
    pub applied: u64,
    /// Where its log of group 0 ends.
    pub last: u64,
}

impl From<&v1::HelloResponse> for Said {
    fn from(answer: &v1::HelloResponse) -> Self {
        Self {
            knows_cluster: answer.header.as_ref().is_some_and(|header| !header.cluster_id.is_empty()),
            registered: answer.registered_incarnation,
            members: electorate::from_wire(answer.members.as_ref()),
            applied: answer.applied_index,
            last: answer.last_index,
        }
    }
}

/// What follows for the asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Its id is free, or its own.
    Granted,
    /// Too few have answered.
    NotYet,
    /// Its id is another directory's.
    Wiped {
        /// That one's number.
        registered: u64,
    },
}

/// See the module; `first` are the voters that the cluster begins with. `goal` is kept from one hearing to the next: the index that
/// somebody must have applied, once enough have been heard.
pub(super) fn may_take_part(
    own: u64,
    incarnation: u64,
    first: &Electorate,
    said: &BTreeMap<u64, Said>,
    goal: &mut Option<u64>,
) -> Admission {
    if let Some(registered) = registered_by(said.values()).filter(|known| *known != incarnation) {
        return Admission::Wiped { registered };
    }
    let members = said.values().map(|said| said.members.clone()).fold(first.clone(), Electorate::newest);
    let is_heard = |node| said.contains_key(&node);
    if said.values().all(|said| !said.knows_cluster) {
        let enough = members.majority(|node| node == own || is_heard(node));
        return if enough { Admission::Granted } else { Admission::NotYet };
    }
    if goal.is_none() && members.meets_every_majority_without(own, is_heard) {
        *goal = said.values().map(|said| said.last).max();
    }
    let is_known = goal.is_some_and(|goal| said.values().any(|said| said.applied >= goal));
    if is_known { Admission::Granted } else { Admission::NotYet }
}

/// Whose id it is by whoever knows best; none: nobody's. A node that is behind may not have heard yet that a lost directory's id
/// was loosed.
pub(super) fn registered_by<'s>(said: impl Iterator<Item = &'s Said>) -> Option<u64> {
    said.max_by_key(|said| said.applied).map(|said| said.registered).filter(|known| *known != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN_INCARNATION: u64 = 77;

    fn formed(halves: &[&[u64]]) -> Electorate {
        let halves = halves.iter().map(|half| half.iter().copied().collect()).collect();
        Electorate { at: (2, 9), halves }
    }

    fn says(registered: u64, members: &Electorate) -> Said {
        Said { knows_cluster: members.at.1 > 1, registered, members: members.clone(), applied: 9, last: 9 }
    }

    #[test]
    fn who_is_behind_does_not_know_that_an_id_was_loosed() {
        let said = |applied, registered| Said { applied, ..says(registered, &formed(&[&[1, 2, 4]])) };
        let of = |said: &[Said]| registered_by(said.iter());
        assert_eq!(of(&[said(7, 5), said(9, 0), said(8, 5)]), None);
        assert_eq!(of(&[said(7, 5), said(9, 6)]), Some(6), "and given away again");
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn those_who_must_know_are_heard_first() {
        let (nobody, first) = (Electorate::default(), Electorate::first(1..=5));
        let (as_begun, moved) = (formed(&[&[1, 2, 3, 4, 5]]), formed(&[&[1, 2, 6, 7, 8]]));
        let forming = Electorate { at: (0, 0), ..first.clone() };
        let joint = formed(&[&[1, 2, 3], &[1, 2, 3, 6]]);
        let wiped = Admission::Wiped { registered: 5 };
        let (yes, wait) = (Admission::Granted, Admission::NotYet);
        type Row<'r> = (&'r str, u64, &'r [u64], &'r Electorate, u64, Admission);
        let rows: [Row<'_>; 12] = [
            ("the cluster is formed by three", 3, &[1, 2], &nobody, 0, yes),
            ("two form none", 3, &[1], &nobody, 0, wait),
            ("it is being formed, and nothing is committed", 3, &[1, 2], &forming, 0, yes),
            (
                "a formed cluster: two others may not know what 3 and two more once did",
                3,
                &[1, 2],
                &as_begun,
                0,
                wait,
            ),
            ("three others must", 3, &[1, 2, 4], &as_begun, 0, yes),
            ("its own directory", 3, &[1, 2, 4], &as_begun, OWN_INCARNATION, yes),
            ("another directory", 3, &[1], &as_begun, 5, wiped),
            ("most first voters have left since: they are no majority", 3, &[1, 2, 4, 5], &moved, 0, wait),
            ("those who vote now", 3, &[1, 2, 6], &moved, 0, yes),
            ("a voter of now needs three others, too", 6, &[1, 2, 3, 4, 5], &moved, 0, wait),
            ("members change: the new half counts", 6, &[1, 2], &joint, 0, yes),
            ("members change: and so does the old one", 6, &[1, 9], &joint, 0, wait),
        ];
        for (what, own, heard, members, registered, expected) in rows {
            let said = heard.iter().map(|node| (*node, says(registered, members))).collect();
            assert_eq!(may_take_part(own, OWN_INCARNATION, &first, &said, &mut None), expected, "{what}");
        }
    }

    #[test]
    fn what_is_in_a_log_is_waited_for_until_somebody_has_applied_it() {
        let as_begun = formed(&[&[1, 2, 3, 4, 5]]);
        let mut goal = None;
        let mut ask = |heard: &[(u64, u64, u64, u64)]| {
            let said = heard.iter().map(|&(node, applied, last, registered)| {
                (node, Said { applied, last, ..says(registered, &as_begun) })
            });
            may_take_part(3, OWN_INCARNATION, &Electorate::first(1..=5), &said.collect(), &mut goal)
        };
        assert_eq!(ask(&[(1, 9, 9, 0), (2, 9, 9, 0)]), Admission::NotYet, "too few, whatever they know");
        assert_eq!(ask(&[(1, 9, 9, 0), (2, 9, 12, 0), (4, 8, 10, 0)]), Admission::NotYet, "12 may be ours");
        assert_eq!(ask(&[(1, 11, 15, 0)]), Admission::NotYet);
        assert_eq!(ask(&[(1, 13, 19, 5)]), Admission::Wiped { registered: 5 });
        assert_eq!(ask(&[(1, 12, 19, 0)]), Admission::Granted, "what came later cannot be of the lost one");
    }
}
