//! "If this were lost now": who would lead, what would be missing, and whether the rest could go on, as the leader knows it.
//!
//! Invariants: what counts as acknowledged is what the gate has let through; what counts as kept is what a voter that is left has
//! acknowledged to this leader; voters out of contact keep what they have, and neither vote nor take anything.

use std::collections::{BTreeMap, BTreeSet};

use super::{Class, Ranked, Voter, Watermarks, outlook};

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

/// What the loss of `lost` would mean now.
#[must_use]
pub fn exposure(ranked: &[Ranked], now: &Now, lost: &BTreeSet<u64>) -> Exposure {
    let gone: BTreeSet<u64> = ranked
        .iter()
        .map(|ranked| ranked.voter.node_id)
        .filter(|node| lost.contains(node) || !now.in_contact.contains(node))
        .collect();
    let after = outlook(ranked, &gone, |_, _| None);
    let kept = |voter: &Voter| now.acked.get(&voter.node_id).copied().unwrap_or(0);
    let left = ranked.iter().map(|ranked| &ranked.voter).filter(|voter| !lost.contains(&voter.node_id));
    let best = left.map(kept).max().unwrap_or(0);
    let missing = |class| {
        let acknowledged = now.acknowledged.of(class);
        (acknowledged > best).then_some((best, acknowledged))
    };
    // Whoever lacks something that was committed cannot win the first election, and leads only when it has caught up.
    let caught_up: Vec<Ranked> = ranked
        .iter()
        .filter(|ranked| {
            !gone.contains(&ranked.voter.node_id) && kept(&ranked.voter) >= now.acknowledged.city
        })
        .cloned()
        .collect();
    let fit = caught_up.iter().min_by_key(|ranked| ranked.preference).map(|ranked| ranked.voter.zone.clone());
    let leader = match (after.leader, fit) {
        (None, _) => None,
        (Some(any), None) => Some(any),
        (Some(_), Some(zone)) => {
            let of_zone = caught_up.iter().filter(|ranked| ranked.voter.zone == zone);
            Some((zone.clone(), of_zone.map(|ranked| ranked.voter.node_id).collect()))
        }
    };
    Exposure {
        leader,
        city_missing: missing(Class::City),
        geo_missing: missing(Class::Geo),
        city_writable: after.city.reachable,
        geo_writable: after.geo.reachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        exposure(&ranked(), now, &lost.iter().copied().collect())
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
}
