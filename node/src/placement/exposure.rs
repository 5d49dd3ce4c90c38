//! "If this were lost now": who would lead, what would be missing, and whether the rest could go on, as the leader knows it.
//!
//! Invariants: what counts as acknowledged is what the gate has let through; what counts as kept is what a voter that is left has
//! acknowledged to this leader; voters out of contact keep what they have, and neither vote nor take anything.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Outlook, Ranked, Watermarks, outlook};

/// What the leader knows now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Now {
    /// The index through which each voter has acknowledged.
    pub acked: BTreeMap<u64, u64>,
    /// The voters in contact, the leader included.
    pub in_contact: BTreeSet<u64>,
    /// What has been acknowledged to clients of each class, at most.
    pub acknowledged: Watermarks,
}

/// What would be lost of one class: indexes above the first, through the second. Empty: nothing.
pub type Missing = Option<(u64, u64)>;

/// After one loss.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exposure {
    /// The zone that would lead, and its voters; none: nobody, before lost nodes are back.
    pub leader: Option<(String, Vec<u64>)>,
    /// Acknowledged as `city`, and on no voter that is left.
    pub city_missing: Missing,
    /// The same for `geo`.
    pub geo_missing: Missing,
    /// `city` could be acknowledged.
    pub city_writable: bool,
    /// `geo` could be acknowledged, and not degraded.
    pub geo_writable: bool,
}

impl Exposure {
    /// Of a class.
    #[must_use]
    pub const fn missing(&self, class: Class) -> Missing {
        match class {
            Class::City => self.city_missing,
            Class::Geo => self.geo_missing,
        }
    }
}

/// What the loss of `lost` would mean now. The voters come as one set, or, while members change, as the old half and the new one:
/// then both must have what a quorum or a class needs, and the new half leads.
#[must_use]
pub fn exposure(halves: &[Vec<Ranked>], now: &Now, lost: &BTreeSet<u64>) -> Exposure {
    let everybody = || halves.iter().flatten();
    let node = |ranked: &Ranked| ranked.voter.node_id;
    let gone: BTreeSet<u64> =
        everybody().map(node).filter(|node| lost.contains(node) || !now.in_contact.contains(node)).collect();
    let after: Vec<Outlook> = halves.iter().map(|half| outlook(half, &gone, |_, _| None)).collect();
    let kept = |ranked: &Ranked| now.acked.get(&node(ranked)).copied().unwrap_or(0);
    let best = everybody().filter(|ranked| !lost.contains(&node(ranked))).map(kept).max().unwrap_or(0);
    let missing = |class| {
        let acknowledged = now.acknowledged.of(class);
        (acknowledged > best).then_some((best, acknowledged))
    };
    let newest = halves.last().map_or(&[][..], Vec::as_slice);
    // Whoever lacks something that was committed cannot win the first election, and leads only when it has caught up.
    let fit =
        newest.iter().filter(|ranked| !gone.contains(&node(ranked)) && kept(ranked) >= now.acknowledged.city);
    let fit: Vec<Ranked> = fit.cloned().collect();
    let any = after.last().and_then(|newest| newest.leader.clone());
    let leader = any.filter(|_| after.iter().all(|half| half.quorum));
    Exposure {
        leader: leader.map(|any| most_preferred(&fit).unwrap_or(any)),
        city_missing: missing(Class::City),
        geo_missing: missing(Class::Geo),
        city_writable: after.iter().all(|half| half.city.reachable),
        geo_writable: after.iter().all(|half| half.geo.reachable),
    }
}

/// The most preferred zone among these, and its voters.
fn most_preferred(ranked: &[Ranked]) -> Option<(String, Vec<u64>)> {
    let zone = &ranked.iter().min_by_key(|ranked| ranked.preference)?.voter.zone;
    let of_zone = ranked.iter().filter(|ranked| ranked.voter.zone == *zone);
    Some((zone.clone(), of_zone.map(|ranked| ranked.voter.node_id).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Voter;

    /// The default topology: 1 and 2 in zone a, 3 and 4 in b (site east), 5 in c (site west).
    fn ranked() -> Vec<Ranked> {
        [
            (1, "a", "east", 1),
            (2, "a", "east", 1),
            (3, "b", "east", 2),
            (4, "b", "east", 2),
            (5, "c", "west", 3),
        ]
        .map(|(id, zone, site, preference)| Ranked { voter: Voter::new(id, zone, site), preference })
        .to_vec()
    }

    fn now(acked: [u64; 5], in_contact: &[u64], city: u64, geo: u64) -> Now {
        Now {
            acked: (1..).zip(acked).collect(),
            in_contact: in_contact.iter().copied().collect(),
            acknowledged: Watermarks { city, geo },
        }
    }

    fn after(now: &Now, lost: &[u64]) -> Exposure {
        exposure(&[ranked()], now, &lost.iter().copied().collect())
    }

    #[test]
    fn a_zone_is_lost_without_loss_and_the_next_one_leads() {
        let now = now([90, 90, 90, 80, 70], &[1, 2, 3, 4, 5], 90, 70);
        let zone_a = after(&now, &[1, 2]);
        assert_eq!(zone_a.leader, Some(("b".into(), vec![3])), "4 lags");
        assert_eq!((zone_a.city_missing, zone_a.geo_missing), (None, None));
        assert!(zone_a.city_writable && zone_a.geo_writable);
        let zone_c = after(&now, &[5]);
        assert_eq!(zone_c.leader, Some(("a".into(), vec![1, 2])));
        assert!(zone_c.city_writable && !zone_c.geo_writable);
    }

    #[test]
    fn a_city_is_lost_with_what_only_it_has() {
        let now = now([90, 90, 90, 80, 70], &[1, 2, 3, 4, 5], 90, 70);
        let east = after(&now, &[1, 2, 3, 4]);
        assert_eq!((east.leader, east.city_missing, east.geo_missing), (None, Some((70, 90)), None));
        assert!(!east.city_writable && !east.geo_writable);
    }

    #[test]
    fn degraded_entries_are_missing_with_the_city() {
        // The remote node is cut off at 70, and geo is acknowledged as city.
        let now = now([90, 90, 90, 90, 70], &[1, 2, 3, 4], 90, 90);
        let east = after(&now, &[1, 2, 3, 4]);
        assert_eq!(east.geo_missing, Some((70, 90)));
        let zone_a = after(&now, &[1, 2]);
        assert_eq!((zone_a.leader, zone_a.city_writable), (None, false), "the remote node is not in contact");
        assert_eq!((zone_a.city_missing, zone_a.geo_missing), (None, None), "the disks of b have everything");
    }

    #[test]
    fn only_the_remote_node_has_what_the_lost_zone_had() {
        // Committed on a1, a2 and c1 alone: c1 stands in, then b can lead when it has caught up.
        let now = now([90, 90, 50, 50, 90], &[1, 2, 3, 4, 5], 90, 90);
        let zone_a = after(&now, &[1, 2]);
        assert_eq!(zone_a.leader, Some(("c".into(), vec![5])));
        assert_eq!((zone_a.city_missing, zone_a.geo_missing), (None, None));
    }

    /// The default topology's voters with `more`, as (node, zone, site, rank), and without the nodes of `left`.
    fn changed(more: &[(u64, &str, &str, u32)], left: &[u64]) -> Vec<Ranked> {
        let more = more.iter().map(|(id, zone, site, preference)| Ranked {
            voter: Voter::new(*id, *zone, *site),
            preference: *preference,
        });
        ranked().into_iter().chain(more).filter(|ranked| !left.contains(&ranked.voter.node_id)).collect()
    }

    #[test]
    fn losses_are_reckoned_with_those_who_vote_now() {
        let second_remote = changed(&[(6, "c", "west", 3)], &[]);
        let removed = changed(&[(6, "c", "west", 3)], &[4]);
        let another_zone = changed(&[(6, "d", "east", 1)], &[2]);
        let everybody = [1, 2, 3, 4, 5, 6];
        let seen = |acked: [u64; 6]| Now {
            acked: (1..).zip(acked).collect(),
            in_contact: everybody.into_iter().collect(),
            acknowledged: Watermarks { city: 90, geo: 90 },
        };
        let all = || seen([90; 6]);
        type Halves = Vec<Vec<Ranked>>;
        let of = |zone: &str, nodes: &[u64]| Some((zone.to_owned(), nodes.to_vec()));
        // who votes, what the leader knows, who is lost, who leads then, city and geo writable
        type Row<'r> = (&'r str, Halves, Now, &'r [u64], Option<(String, Vec<u64>)>, bool, bool);
        let rows: Vec<Row<'_>> = vec![
            (
                "one remote node goes, the other stays",
                vec![second_remote.clone()],
                all(),
                &[5],
                of("a", &[1, 2]),
                true,
                true,
            ),
            (
                "a zone of two of six",
                vec![second_remote.clone()],
                all(),
                &[1, 2],
                of("b", &[3, 4]),
                true,
                true,
            ),
            ("b2 does not vote any more", vec![removed.clone()], all(), &[1, 2], of("b", &[3]), true, true),
            (
                "the new zone is preferred as much as a",
                vec![another_zone.clone()],
                all(),
                &[1],
                of("d", &[6]),
                true,
                true,
            ),
            (
                "two of zone c are two of five",
                vec![removed.clone()],
                all(),
                &[5, 6],
                of("a", &[1, 2]),
                true,
                false,
            ),
            // 1, 2, 3, 5, 6 vote when the change is committed; until then 1 to 6 do, and three of those are no majority.
            (
                "both halves",
                vec![second_remote.clone(), removed.clone()],
                all(),
                &[1, 2, 4],
                None,
                false,
                false,
            ),
            ("the new half alone", vec![removed.clone()], all(), &[1, 2], of("b", &[3]), true, true),
            (
                "a promoted node that lags",
                vec![another_zone.clone()],
                seen([90, 90, 90, 90, 90, 50]),
                &[1],
                of("b", &[3, 4]),
                true,
                true,
            ),
        ];
        for (what, halves, now, lost, leader, city, geo) in rows {
            let after = exposure(&halves, &now, &lost.iter().copied().collect());
            assert_eq!(
                (after.leader, after.city_writable, after.geo_writable),
                (leader, city, geo),
                "{what}"
            );
        }
        // What only a node has that does not vote any more is on nobody's disk who could lead.
        let only_on_4 = Now { acked: BTreeMap::from([(1, 90), (4, 90), (5, 70)]), ..all() };
        assert_eq!(exposure(&[removed], &only_on_4, &BTreeSet::from([1])).city_missing, Some((70, 90)));
        assert_eq!(exposure(&[second_remote], &only_on_4, &BTreeSet::from([1])).city_missing, None);
    }
}
