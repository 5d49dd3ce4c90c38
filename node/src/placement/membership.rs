//! Whether a change of the voters keeps the placement.
//!
//! Invariants: a change is allowed only if every zone and every node whose loss could be borne before can be borne after it, counting
//! at every moment only the voters that are there; and never, forced or not, if it leaves no quorum among them; a voter leaves its site
//! only when the others there hold what it alone may have made `geo`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Voter, majority, reachable};

/// Why a change of the voters is not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Weaker {
    /// It would weaken the placement; it can be forced.
    Placement(String),
    /// Nothing could be committed afterwards.
    Quorum(String),
}

/// Whether the voters that are there, without those that are `lost`, elect a leader and reach class `city`.
fn bear(voters: &[Voter], there: &BTreeSet<u64>, lost: impl Fn(&Voter) -> bool) -> bool {
    let left = voters.iter().filter(|voter| there.contains(&voter.node_id) && !lost(voter));
    reachable(Class::City, voters, &left.map(|voter| voter.node_id).collect()).is_ok()
}

/// Zones whose loss the voters that are there bear.
fn borne<'v>(voters: &'v [Voter], there: &BTreeSet<u64>) -> BTreeSet<&'v str> {
    let zones: BTreeSet<&str> = voters.iter().map(|voter| voter.zone.as_str()).collect();
    zones.into_iter().filter(|zone| bear(voters, there, |voter| voter.zone == *zone)).collect()
}

/// Whether the voters may become `next`; `there` are the nodes in contact, of both.
///
/// # Errors
/// What would be weaker, in words.
pub fn keeps_placement(now: &[Voter], next: &[Voter], there: &BTreeSet<u64>) -> Result<(), Weaker> {
    let present = next.iter().filter(|voter| there.contains(&voter.node_id)).count();
    if present < majority(next) {
        let why =
            format!("{present} of {} voters would be in contact, {} are needed", next.len(), majority(next));
        return Err(Weaker::Quorum(why));
    }
    if reachable(Class::City, now, there).is_err() {
        // Nothing can be acknowledged as it is.
        return Ok(());
    }
    reachable(Class::City, next, there).map_err(Weaker::Placement)?;
    let after = borne(next, there);
    // A zone that has no voter afterwards can be lost.
    let has_voter = |zone: &&str| next.iter().any(|voter| voter.zone == *zone);
    let lost: Vec<&str> =
        borne(now, there).into_iter().filter(|zone| !after.contains(zone)).filter(has_voter).collect();
    // And one that has its first voters must not be one that everything hangs on.
    let new: Vec<&str> = next
        .iter()
        .map(|voter| voter.zone.as_str())
        .filter(|zone| !now.iter().any(|voter| voter.zone == *zone) && !after.contains(zone))
        .collect();
    let mut fatal = lost;
    fatal.extend(new);
    fatal.dedup();
    if !fatal.is_empty() {
        let names = fatal.join(" or of zone ");
        return Err(Weaker::Placement(format!("the loss of zone {names} could not be borne any more")));
    }
    let alone = |voters: &[Voter], node: u64| bear(voters, there, |voter| voter.node_id == node);
    let mut stay = next.iter().filter(|voter| now.contains(voter) && there.contains(&voter.node_id));
    match stay.find(|voter| alone(now, voter.node_id) && !alone(next, voter.node_id)) {
        None => Ok(()),
        Some(Voter { node_id, zone, .. }) => {
            let why = format!("the loss of node {node_id}, of zone {zone}, could not be borne any more");
            Err(Weaker::Placement(why))
        }
    }
}

/// Up to which index the other voters in the site of `leaving` have acknowledged the log. None: nobody else votes there, or it is
/// no voter.
///
/// A majority of those who stay holds what is committed before the change is; that one of them is in this site it does not say.
#[must_use]
pub fn held_in_its_site_without(leaving: u64, voters: &[Voter], acked: &BTreeMap<u64, u64>) -> Option<u64> {
    let site = &voters.iter().find(|voter| voter.node_id == leaving)?.site;
    let others = voters.iter().filter(|voter| voter.node_id != leaving && voter.site == *site);
    others.map(|voter| acked.get(&voter.node_id).copied().unwrap_or(0)).max()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `id:zone`, separated by spaces; zone c is in another site.
    fn voters(text: &str) -> Vec<Voter> {
        text.split_whitespace()
            .map(|voter| {
                let (id, zone) = voter.split_once(':').unwrap();
                Voter::new(id.parse::<u64>().unwrap(), zone, if zone == "c" { "west" } else { "east" })
            })
            .collect()
    }

    const DEFAULT: &str = "1:a 2:a 3:b 4:b 5:c";

    #[test]
    fn changes_that_keep_the_placement_are_allowed_and_others_named() {
        // voters now, voters next, nodes that are not there, what the refusal says
        let rows = [
            // A second remote voter: six need four, and a zone of two can still go.
            (DEFAULT, "1:a 2:a 3:b 4:b 5:c 6:c", &[][..], None),
            // One of two goes: then the other zone of two must not.
            (DEFAULT, "1:a 3:b 4:b 5:c", &[][..], Some("zone b")),
            // It is lost already, and nothing becomes worse.
            (DEFAULT, "1:a 3:b 4:b 5:c", &[2][..], None),
            // The third zone goes altogether.
            (DEFAULT, "1:a 2:a 3:b 4:b", &[][..], Some("zone a or of zone b")),
            // A third voter in one zone: six need four, and three are left without it.
            (DEFAULT, "1:a 2:a 3:b 4:b 5:c 6:a", &[][..], Some("zone a")),
            // A replacement comes first, the old one goes then.
            ("1:a 2:a 3:b 4:b 5:c 6:c", "1:a 2:a 3:b 4:b 6:c", &[][..], None),
            ("1:a 2:b 3:c", "1:a 2:b 3:c 4:d", &[][..], None),
            // All that is left is in one zone, as before it was in contact; a second zone helps, although all hangs on it.
            ("1:a 2:a 3:b", "1:a 2:a", &[3][..], None),
            ("1:a 2:a", "1:a 2:a 3:b", &[][..], None),
            // No zone can be lost before or after, but a node can before.
            ("1:a 3:b 4:b", "1:a 4:b", &[][..], Some("node 4, of zone b")),
            ("1:a 3:b 4:b", "1:a 4:b", &[3][..], None),
            ("1:a 2:a 3:b", "1:a 2:a", &[][..], Some("a second zone besides a")),
        ];
        for (now, next, away, expected) in rows {
            let (now, next) = (voters(now), voters(next));
            let there = (1..=6).filter(|node| !away.contains(node)).collect();
            match (keeps_placement(&now, &next, &there), expected) {
                (Ok(()), None) => {}
                (Err(Weaker::Placement(why)), Some(part)) => assert!(why.contains(part), "{why}"),
                (other, _) => panic!("{now:?} -> {next:?} without {away:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_change_without_a_quorum_cannot_even_be_forced() {
        let there = BTreeSet::from([1, 3]);
        let refused = keeps_placement(&voters("1:a 2:a 3:b"), &voters("1:a 2:a 3:b 5:c"), &there);
        assert!(matches!(refused, Err(Weaker::Quorum(_))), "{refused:?}");
    }

    #[test]
    fn what_the_rest_of_a_site_holds_is_its_best_voters() {
        let voters = voters("1:a 2:a 3:b 4:b 5:c 6:c");
        let acked = BTreeMap::from([(1, 9), (2, 8), (6, 9), (5, 7)]);
        // who leaves, what the others of its site hold
        for (leaving, held) in [(6, Some(7)), (5, Some(9)), (1, Some(8)), (2, Some(9)), (7, None)] {
            assert_eq!(held_in_its_site_without(leaving, &voters, &acked), held, "{leaving}");
        }
        assert_eq!(held_in_its_site_without(6, &voters, &BTreeMap::new()), Some(0), "nobody was heard");
        assert_eq!(held_in_its_site_without(5, &voters[..5], &acked), None, "the only one");
    }

    proptest! {
        #[test]
        fn what_is_allowed_bears_the_loss_of_every_zone_that_it_bore(
            zones in proptest::collection::vec(0_usize..4, 3..8),
            leaves in proptest::option::of(0_usize..8),
            joins in proptest::option::of(0_usize..4),
            away in proptest::collection::btree_set(1_u64..10, 0..3),
        ) {
            let voter = |(id, zone): (u64, usize)| Voter::new(id, ["a", "b", "c", "d"][zone], "x");
            let now: Vec<Voter> = (1..).zip(zones).map(voter).collect();
            let mut next = now.clone();
            if let Some(at) = leaves.filter(|at| *at < next.len()) {
                next.remove(at);
            }
            next.extend(joins.map(|zone| voter((9, zone))));
            let there: BTreeSet<u64> = (1..10).filter(|node| !away.contains(node)).collect();
            if keeps_placement(&now, &next, &there).is_ok() {
                for zone in ["a", "b", "c", "d"] {
                    let left = |all: &[Voter]| -> BTreeSet<u64> {
                        let stays = all.iter().filter(|v| v.zone != zone && there.contains(&v.node_id));
                        stays.map(|v| v.node_id).collect()
                    };
                    let had = now.iter().any(|v| v.zone == zone);
                    if had && reachable(Class::City, &now, &left(&now)).is_ok() {
                        prop_assert!(
                            reachable(Class::City, &next, &left(&next)).is_ok()
                                || !next.iter().any(|v| v.zone == zone),
                            "zone {zone}: {now:?} -> {next:?}"
                        );
                    }
                }
            }
        }
    }
}
