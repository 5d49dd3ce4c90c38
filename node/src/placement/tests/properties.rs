//! The watermarks against their definition, and what must hold whatever happens.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::placement::{Acks, Class, ReplyQueue, Voter, holders, is_reachable, reachable, watermark};

fn topology() -> impl Strategy<Value = Vec<Voter>> {
    // Zones a-d; a and b are always in site east, c and d each in west or north.
    prop::collection::vec((0..4_u8, 0..2_u8), 1..8).prop_map(|places| {
        let voter = |(at, (zone, _)): (usize, &(u8, u8))| {
            let site = match zone {
                0 | 1 => "east",
                2 => "west",
                _ => "north",
            };
            Voter::new(at as u64 + 1, char::from(b'a' + *zone).to_string(), site)
        };
        places.iter().enumerate().map(voter).collect()
    })
}

/// The definition, word for word: flushed at `index` on a majority of voters and ...
fn placed(class: Class, voters: &[Voter], acked: &BTreeMap<u64, u64>, index: u64) -> bool {
    let holding: Vec<&Voter> = voters
        .iter()
        .filter(|voter| acked.get(&voter.node_id).is_some_and(|acked| *acked >= index))
        .collect();
    let zones = |voters: &[&Voter]| voters.iter().map(|v| v.zone.clone()).collect::<BTreeSet<_>>();
    let sites = |voters: &[&Voter]| voters.iter().map(|v| v.site.clone()).collect::<BTreeSet<_>>();
    let all: Vec<&Voter> = voters.iter().collect();
    holding.len() * 2 > voters.len()
        && match class {
            Class::City => zones(&holding).len() >= 2,
            Class::Geo => zones(&holding).len() >= 2 && sites(&holding) == sites(&all),
        }
}

fn acks() -> impl Strategy<Value = BTreeMap<u64, u64>> {
    prop::collection::btree_map(1..9_u64, 0..20_u64, 0..9)
}

proptest! {
    #[test]
    fn the_watermark_is_the_highest_placed_index(voters in topology(), acked in acks()) {
        for class in Class::ALL {
            let by_definition = (1..=25).rev().find(|index| placed(class, &voters, &acked, *index)).unwrap_or(0);
            prop_assert_eq!(watermark(class, &voters, &acked), by_definition);
        }
    }

    #[test]
    fn more_acknowledgements_never_lower_it(voters in topology(), acked in acks(), node in 1..9_u64, by in 0..9_u64) {
        let mut more = acked.clone();
        *more.entry(node).or_insert(0) += by;
        for class in Class::ALL {
            prop_assert!(watermark(class, &voters, &more) >= watermark(class, &voters, &acked));
        }
    }

    /// Losing any one zone leaves a holder of everything at or below the city watermark; any one site, the geo watermark.
    #[test]
    fn what_is_placed_survives_a_loss(voters in topology(), acked in acks()) {
        let left = |keeps: &dyn Fn(&Voter) -> bool, index: u64| {
            voters.iter().any(|v| keeps(v) && acked.get(&v.node_id).is_some_and(|acked| *acked >= index))
        };
        let zones: BTreeSet<_> = voters.iter().map(|v| &v.zone).collect();
        let sites: BTreeSet<_> = voters.iter().map(|v| &v.site).collect();
        let city = watermark(Class::City, &voters, &acked);
        if city > 0 && zones.len() > 1 {
            for lost in &zones {
                prop_assert!(left(&|v| v.zone != **lost, city));
            }
        }
        let geo = watermark(Class::Geo, &voters, &acked);
        if geo > 0 && sites.len() > 1 {
            for lost in &sites {
                prop_assert!(left(&|v| v.site != **lost, geo));
            }
            prop_assert_eq!(holders(&voters, &acked, geo).is_empty(), false);
        }
    }

    #[test]
    fn reachable_exactly_if_acknowledgements_of_all_in_contact_would_place_it(
        voters in topology(),
        contact in prop::collection::btree_set(1..9_u64, 0..9),
    ) {
        let acked: BTreeMap<u64, u64> = contact.iter().map(|node| (*node, 1)).collect();
        for class in Class::ALL {
            let by_definition = placed(class, &voters, &acked, 1);
            prop_assert_eq!(reachable(class, &voters, &contact).is_ok(), by_definition);
            prop_assert_eq!(is_reachable(class, &voters, |node| contact.contains(&node)), by_definition);
        }
    }

    #[test]
    fn watermarks_never_go_back_and_never_pass_an_entry_of_an_older_term_alone(
        voters in topology(),
        own_from in 1..15_u64,
        messages in prop::collection::vec((1..4_u64, 1..9_u64, 0..20_u64), 0..60),
        floor in 0..10_u64,
    ) {
        let mut acks = Acks::new(2, floor, floor);
        let mut before = floor;
        let mut counted: BTreeMap<u64, u64> = BTreeMap::new();
        for (term, node, index) in messages {
            acks.acknowledge(term, node, index);
            if term == 2 {
                let known = counted.entry(node).or_insert(0);
                *known = index.max(*known);
            }
            let now = acks.watermark(Class::City, &voters, |index| index >= own_from);
            prop_assert!(now >= before);
            if now > before {
                prop_assert!(now >= own_from);
                prop_assert!(placed(Class::City, &voters, &counted, now));
            }
            before = now;
        }
    }

    #[test]
    fn every_reply_leaves_once_and_in_order(
        events in prop::collection::vec(prop_oneof![
            4 => (0..30_u64, any::<bool>()).prop_map(|(index, geo)| (index, Some(geo))),
            1 => (0..40_u64).prop_map(|watermark| (watermark, None)),
        ], 0..80)
    ) {
        let mut queue = ReplyQueue::new();
        let mut waiting: Vec<(Class, u64, usize)> = Vec::new();
        for (ticket, (index, geo)) in events.into_iter().enumerate() {
            match geo {
                Some(geo) => {
                    let class = if geo { Class::Geo } else { Class::City };
                    queue.push(index, class, (class, index, ticket));
                    waiting.push((class, index, ticket));
                }
                None => {
                    let class = if index % 2 == 0 { Class::City } else { Class::Geo };
                    let released: Vec<_> = queue.release(class, index).into_iter().map(|(_, reply)| reply).collect();
                    let mut expected: Vec<_> =
                        waiting.iter().copied().filter(|w| w.0 == class && w.1 <= index).collect();
                    expected.sort_by_key(|w| (w.1, w.2));
                    prop_assert_eq!(&released, &expected);
                    waiting.retain(|w| !expected.contains(w));
                }
            }
            prop_assert_eq!(queue.len(), waiting.len());
        }
        let mut left = queue.drain();
        left.sort_unstable_by_key(|w| w.2);
        prop_assert_eq!(left, waiting);
    }
}
