//! Cases by hand.

use std::collections::{BTreeMap, BTreeSet};

use super::{parse_voters, voters_221};
use crate::placement::{
    Acks, Candidate, Class, Placed, ReplyQueue, Watermarks, better_leader, city_watermark, describe,
    geo_watermark, holders, is_spare, reachable, stands_for_its_site,
};
use tercet_proto::v1::DurabilityClass;

fn acked(pairs: &[(u64, u64)]) -> BTreeMap<u64, u64> {
    pairs.iter().copied().collect()
}

#[test]
fn watermarks_in_2_2_1() {
    let voters = voters_221();
    /// Acknowledged, city, geo.
    type Case<'a> = (&'a [(u64, u64)], u64, u64);
    let cases: &[Case<'_>] = &[
        (&[], 0, 0),
        (&[(1, 10)], 0, 0),
        (&[(1, 10), (2, 10)], 0, 0),
        (&[(1, 10), (2, 10), (3, 4)], 4, 0),
        (&[(1, 10), (2, 10), (3, 4), (4, 9)], 9, 0),
        (&[(1, 10), (2, 10), (5, 7)], 7, 7),
        (&[(1, 10), (2, 10), (3, 10), (5, 2)], 10, 2),
        (&[(1, 10), (2, 10), (3, 10), (4, 10), (5, 10)], 10, 10),
        // Zone b and the remote without zone a.
        (&[(3, 6), (4, 6), (5, 5)], 5, 5),
        // The leader's own log behind its followers.
        (&[(1, 0), (2, 8), (3, 8), (5, 8)], 8, 8),
        // No majority: two zones are not enough.
        (&[(1, 10), (3, 10)], 0, 0),
        // Nodes that are no voters count for nothing.
        (&[(1, 10), (2, 10), (77, 10)], 0, 0),
    ];
    for (pairs, city, geo) in cases {
        let acked = acked(pairs);
        assert_eq!(
            (city_watermark(&voters, &acked), geo_watermark(&voters, &acked)),
            (*city, *geo),
            "{pairs:?}"
        );
    }
}

#[test]
fn watermarks_in_other_topologies() {
    // One zone only, as after forced removals: nothing is in two.
    let one = parse_voters("1:a:east 2:a:east 3:a:east");
    assert_eq!(city_watermark(&one, &acked(&[(1, 5), (2, 4), (3, 4)])), 0);
    assert_eq!(geo_watermark(&one, &acked(&[(1, 5), (2, 4), (3, 4)])), 0);
    // 3-1-1: a majority in one zone is not enough for city.
    let heavy = parse_voters("1:a:east 2:a:east 3:a:east 4:b:east 5:c:west");
    assert_eq!(city_watermark(&heavy, &acked(&[(1, 9), (2, 9), (3, 9)])), 0);
    assert_eq!(city_watermark(&heavy, &acked(&[(1, 9), (2, 9), (3, 9), (4, 3)])), 3);
    assert_eq!(geo_watermark(&heavy, &acked(&[(1, 9), (2, 9), (3, 9), (4, 3)])), 0);
    // 2-2-2: four of six.
    let even = parse_voters("1:a:east 2:a:east 3:b:east 4:b:east 5:c:west 6:c:west");
    assert_eq!(city_watermark(&even, &acked(&[(1, 9), (2, 9), (3, 9)])), 0);
    assert_eq!(city_watermark(&even, &acked(&[(1, 9), (2, 9), (3, 9), (4, 9)])), 9);
    assert_eq!(geo_watermark(&even, &acked(&[(1, 9), (2, 9), (3, 9), (4, 9), (6, 2)])), 2);
    assert_eq!(city_watermark(&[], &acked(&[(1, 9)])), 0);
}

#[test]
fn reachable_says_what_is_missing() {
    let voters = voters_221();
    let cases: &[(Class, &[u64], Option<&str>)] = &[
        (Class::City, &[1, 2, 3, 4, 5], None),
        (Class::City, &[1, 2, 5], None),
        (Class::City, &[1, 2, 3], None),
        (
            Class::City,
            &[1, 2],
            Some(
                "class city cannot be reached: 2 of 5 voters in contact, 3 needed; no contact with a second zone besides a",
            ),
        ),
        (Class::City, &[1, 3], Some("class city cannot be reached: 2 of 5 voters in contact, 3 needed")),
        (
            Class::City,
            &[],
            Some(
                "class city cannot be reached: 0 of 5 voters in contact, 3 needed; no contact with two zones",
            ),
        ),
        (Class::Geo, &[1, 2, 5], None),
        (
            Class::Geo,
            &[1, 2, 3, 4],
            Some("class geo cannot be reached: no contact with a voter in site west"),
        ),
        (
            Class::Geo,
            &[5],
            Some(
                "class geo cannot be reached: 1 of 5 voters in contact, 3 needed; no contact with a voter in site east",
            ),
        ),
    ];
    for (class, contact, expected) in cases {
        let contact: BTreeSet<u64> = contact.iter().copied().collect();
        let missing = reachable(*class, &voters, &contact).err();
        assert_eq!(missing.as_deref(), *expected, "{class} {contact:?}");
    }
}

#[test]
fn holders_come_in_the_order_of_the_topology() {
    let voters = voters_221();
    let acked = acked(&[(5, 9), (3, 4), (4, 9), (1, 3)]);
    assert_eq!(holders(&voters, &acked, 3), ["a", "b", "c"]);
    assert_eq!(holders(&voters, &acked, 4), ["b", "c"]);
    assert_eq!(holders(&voters, &acked, 10), [""; 0]);
}

#[test]
fn acknowledgements_count_in_their_term_only_and_never_go_back() {
    let voters = voters_221();
    let own = |_| true;
    let mut acks = Acks::new(7, 5, 0);
    assert_eq!((acks.term(), acks.watermark(Class::City, &voters, own)), (7, 5));
    assert!(!acks.acknowledge(6, 1, 100), "an older term");
    assert!(!acks.acknowledge(8, 1, 100), "a newer term");
    for node in 1..=3 {
        assert!(acks.acknowledge(7, node, 9));
    }
    assert!(!acks.acknowledge(7, 1, 4), "older news");
    assert_eq!(acks.by_node().get(&1), Some(&9));
    assert_eq!(acks.watermark(Class::City, &voters, own), 9);
    acks.forget(3);
    assert_eq!(acks.watermark(Class::City, &voters, own), 9, "what is placed stays placed");
    acks.acknowledge(7, 3, 2);
    assert_eq!(acks.watermark(Class::City, &voters, own), 9);
    assert_eq!(acks.watermark(Class::Geo, &voters, own), 0);
}

#[test]
fn entries_of_older_terms_are_placed_only_with_one_of_the_own_term() {
    let voters = voters_221();
    // Entries 1-10 are of older terms, the leader's own begin at 11.
    let own = |index| index >= 11;
    let mut acks = Acks::new(3, 4, 4);
    for node in 1..=5 {
        acks.acknowledge(3, node, 10);
    }
    assert_eq!(
        acks.watermark(Class::City, &voters, own),
        4,
        "a majority holds 10, yet it can still be replaced"
    );
    for node in [1, 2, 5] {
        acks.acknowledge(3, node, 11);
    }
    assert_eq!(acks.watermark(Class::City, &voters, own), 11);
    assert_eq!(acks.watermark(Class::Geo, &voters, own), 11);
}

#[test]
fn geo_replies_never_block_city_replies() {
    let mut queue = ReplyQueue::new();
    for (index, class, reply) in [
        (3, Class::Geo, "g3"),
        (5, Class::City, "c5"),
        (4, Class::City, "c4"),
        (4, Class::City, "c4 too"),
        (9, Class::Geo, "g9"),
    ] {
        queue.push(index, class, reply);
    }
    assert_eq!((queue.len(), queue.oldest(Class::City), queue.oldest(Class::Geo)), (5, Some(4), Some(3)));
    assert_eq!(queue.release(Class::City, 3), []);
    assert_eq!(queue.release(Class::City, 4), [(4, "c4"), (4, "c4 too")]);
    assert_eq!(queue.release(Class::City, u64::MAX), [(5, "c5")]);
    assert_eq!(queue.release(Class::Geo, 8), [(3, "g3")]);
    queue.push(1, Class::City, "c1");
    assert_eq!(queue.drain(), ["c1", "g9"]);
    assert!(queue.is_empty());
    assert_eq!(queue.release(Class::Geo, u64::MAX), []);
}

#[test]
fn leadership_moves_to_a_strictly_better_zone_only() {
    let candidate = |node_id, preference, fit| Candidate { node_id, preference, fit };
    let all = |fit: [bool; 5]| -> Vec<Candidate> {
        (1..=5)
            .zip([1, 1, 2, 2, 3])
            .zip(fit)
            .map(|((node, preference), fit)| candidate(node, preference, fit))
            .collect()
    };
    let cases = [
        (5, [true; 5], Some(1)),
        (5, [false, true, true, true, true], Some(2)),
        (5, [false, false, true, true, true], Some(3)),
        (5, [false, false, false, false, true], None),
        (3, [true; 5], Some(1)),
        (3, [false, false, true, true, true], None),
        (4, [false, false, true, true, true], None),
        (2, [true; 5], None),
        // A leader that is not fit itself is left to elections.
        (1, [false; 5], None),
        // A leader that the topology does not name moves nothing.
        (9, [true; 5], None),
    ];
    for (leader, fit, expected) in cases {
        assert_eq!(better_leader(leader, &all(fit)), expected, "{leader} {fit:?}");
    }
}

#[test]
fn classes_of_requests_are_never_weaker_than_the_journals() {
    use DurabilityClass::{City, Geo, Unspecified};
    for (asked, default, expected) in [
        (Unspecified, Class::City, Class::City),
        (Unspecified, Class::Geo, Class::Geo),
        (City, Class::Geo, Class::Geo),
        (Geo, Class::City, Class::Geo),
        (City, Class::City, Class::City),
    ] {
        assert_eq!(Class::of_request(asked, default), expected);
    }
    assert_eq!(Class::ALL.map(DurabilityClass::from), [City, Geo]);
}

#[test]
fn describe_draws_every_voter() {
    let text = describe(&voters_221(), &acked(&[(1, 10), (2, 10), (3, 5), (5, 0)]));
    let expected = "\
xxxxxxxxxxxxxxxxxxxx       10  node 1 zone a site east
xxxxxxxxxxxxxxxxxxxx       10  node 2 zone a site east
xxxxxxxxxx..........        5  node 3 zone b site east
....................        -  node 4 zone b site east
....................        0  node 5 zone c site west
city 5
geo 0
";
    assert_eq!(text, expected);
}

#[test]
fn a_new_data_directory_acknowledges_from_nothing() {
    let voters = voters_221();
    let mut acks = Acks::new(3, 0, 0);
    for node in [1, 3, 5] {
        acks.meet(node, 70);
        acks.acknowledge(3, node, 9);
    }
    assert_eq!(acks.watermark(Class::Geo, &voters, |_| true), 9);
    let mut acks = Acks::new(3, 0, 0);
    acks.meet(5, 70);
    acks.acknowledge(3, 5, 9);
    acks.meet(5, 71);
    acks.acknowledge(3, 5, 2);
    for node in [1, 2, 3] {
        acks.acknowledge(3, node, 9);
    }
    assert_eq!(acks.watermark(Class::Geo, &voters, |_| true), 2, "the old directory's 9 counts for nothing");
    acks.meet(5, 71);
    assert_eq!(acks.by_node().get(&5), Some(&2), "the same directory forgets nothing");
}

#[test]
fn geo_is_shown_as_city_only_while_a_placed_regime_record_says_so_and_never_goes_back() {
    let marks = |city, geo| Watermarks { city, geo };
    let mut placed = Placed::from_floor(marks(5, 4));
    assert_eq!((placed.shown, placed.is_degraded()), (marks(5, 4), false));
    assert!(placed.follow_regime(Some(7), 9), "news");
    assert_eq!(
        (placed.shown, placed.is_degraded()),
        (marks(5, 4), false),
        "the record itself is not placed yet"
    );
    assert!(placed.learn(marks(9, 4)));
    assert_eq!((placed.known, placed.shown, placed.is_degraded()), (marks(9, 4), marks(9, 9), true));
    assert!(placed.follow_regime(None, 10));
    assert!(placed.learn(marks(12, 5)));
    assert_eq!((placed.known, placed.shown), (marks(12, 5), marks(12, 9)), "what was shown stays shown");
    assert!(!placed.learn(marks(3, 3)), "no news");
    assert!(placed.learn(marks(12, 11)));
    assert_eq!(placed.shown, marks(12, 11));
}

/// The record that ends the regime may be in what this node has not applied yet, and entries behind it are no more shown as city.
#[test]
fn a_lagging_node_shows_geo_as_city_only_as_far_as_it_has_applied() {
    let marks = |city, geo| Watermarks { city, geo };
    let mut placed = Placed::default();
    placed.follow_regime(Some(3), 5);
    placed.learn(marks(20, 2));
    assert_eq!(placed.shown, marks(20, 5));
    assert!(placed.follow_regime(Some(3), 8));
    assert_eq!(placed.shown, marks(20, 8));
    placed.follow_regime(None, 9);
    assert_eq!(placed.shown, marks(20, 8), "index 9 is the record back; 10 to 20 wait for the remote site");
    assert!(!placed.follow_regime(None, 20), "no news");
}

#[test]
fn who_is_spare_in_2_2_1() {
    let voters = voters_221();
    /// Leader, prompt followers, the spare ones of all others.
    type Case<'a> = (u64, &'a [u64], &'a [u64]);
    let cases: &[Case<'_>] = &[
        // a2 makes two and b1 the second zone.
        (1, &[2, 3, 4, 5], &[4, 5]),
        (3, &[1, 2, 4, 5], &[4, 5]),
        // Who is not prompt is not relied on; itself it is not needed either.
        (1, &[3, 4, 5], &[2, 5]),
        (1, &[2, 4, 5], &[3, 5]),
        // Zone b is gone: the remote is the second zone.
        (1, &[2, 5], &[3, 4]),
        // No second zone, no majority: everybody is needed.
        (1, &[2], &[]),
        (1, &[5], &[]),
        (1, &[], &[]),
        // The remote leads: the order of the topology.
        (5, &[1, 2, 3, 4], &[3, 4]),
    ];
    for (leader, prompt, spare) in cases {
        let found: Vec<u64> = (1..=5)
            .filter(|node| node != leader)
            .filter(|node| is_spare(&voters, *leader, *node, |node| prompt.contains(&node)))
            .collect();
        assert_eq!(found, *spare, "leader {leader}, prompt {prompt:?}");
    }
}

#[test]
fn one_prompt_voter_of_each_other_site_is_needed_for_geo() {
    let voters = parse_voters("1:a:east 2:b:east 3:c:west 4:c:west");
    let needed = |leader, prompt: &[u64]| -> Vec<u64> {
        (1..=4)
            .filter(|node| stands_for_its_site(&voters, leader, *node, |node| prompt.contains(&node)))
            .collect()
    };
    assert_eq!(needed(1, &[2, 3, 4]), [3]);
    assert_eq!(needed(1, &[2, 4]), [3, 4], "who is not prompt is not relied on");
    assert_eq!(needed(1, &[2]), [3, 4]);
    assert_eq!(needed(4, &[1, 2, 3]), [1]);
}
