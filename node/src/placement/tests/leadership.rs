//! When leadership moves: a table of looks, and a network that changes at random.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::placement::{Candidate, LeadershipPolicy, refuge};

const STEADY: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(250);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Nodes 1 and 2 in the first zone, 3 and 4 in the second, 5 in the third.
fn candidates(fit: [bool; 5]) -> Vec<Candidate> {
    [1, 1, 2, 2, 3]
        .into_iter()
        .zip(1..)
        .zip(fit)
        .map(|((preference, node_id), fit)| Candidate { node_id, preference, fit })
        .collect()
}

#[test]
fn leadership_moves_when_a_better_node_has_been_fit_long_enough() {
    let mut policy = LeadershipPolicy::new(STEADY);
    policy.leader_changed(seconds(0));
    // (second, who is fit, leader, expected)
    let looks = [
        (0, [false, false, true, true, true], 3, None),
        (1, [true, false, true, true, true], 3, None),
        (4, [true, true, true, true, true], 3, None),
        // Node 1 stumbles, node 2 does not.
        (5, [false, true, true, true, true], 3, None),
        (6, [true, true, true, true, true], 3, None),
        (8, [true, true, true, true, true], 3, None),
        (9, [true, true, true, true, true], 3, Some(2)),
        (11, [true, true, true, true, true], 3, Some(1)),
        // Nothing moves to an equal or a less preferred zone.
        (12, [true, true, true, true, true], 2, None),
    ];
    for (second, fit, leader, expected) in looks {
        assert_eq!(policy.look(seconds(second), leader, &candidates(fit)), expected, "second {second}");
    }
}

#[test]
fn a_leader_that_has_to_go_gives_leadership_to_the_best_that_is_fit() {
    let looks = [
        ([true, true, true, true, true], 1, Some(2)),
        ([true, true, true, true, true], 2, Some(1)),
        ([true, false, false, true, true], 1, Some(4)),
        ([false, false, false, false, true], 3, Some(5)),
        ([true, false, false, false, false], 1, None),
    ];
    for (fit, leader, expected) in looks {
        assert_eq!(refuge(leader, &candidates(fit)), expected, "{fit:?}, led by {leader}");
    }
}

#[test]
fn a_new_leader_knows_nobody() {
    let mut policy = LeadershipPolicy::new(STEADY);
    let all = candidates([true; 5]);
    assert_eq!(policy.look(seconds(0), 5, &all), None);
    policy.leader_changed(seconds(4));
    assert_eq!(policy.look(seconds(6), 3, &all), None, "what another term's leader saw does not count");
    assert_eq!(policy.look(seconds(10), 3, &all), None);
    assert_eq!(policy.look(seconds(11), 3, &all), Some(1));
}

#[test]
fn failures_and_unrest_make_it_wait_longer() {
    let mut policy = LeadershipPolicy::new(STEADY);
    let all = candidates([true; 5]);
    policy.look(seconds(0), 3, &all);
    assert_eq!(policy.look(seconds(5), 3, &all), Some(1));
    policy.transfer_failed(seconds(5));
    assert_eq!(policy.look(seconds(9), 3, &all), None);
    assert_eq!(policy.look(seconds(10), 3, &all), Some(1));
    policy.transfer_failed(seconds(10));
    assert_eq!(policy.look(seconds(19), 3, &all), None);
    assert_eq!(policy.look(seconds(20), 3, &all), Some(1));
    policy.doubt(1);
    assert_eq!(policy.look(seconds(21), 3, &all), Some(2), "the other one of that zone");

    let mut policy = LeadershipPolicy::new(STEADY);
    let waits: Vec<u64> = (1..=16)
        .map(|change| {
            policy.leader_changed(seconds(change));
            policy.wait(seconds(change)).as_secs()
        })
        .collect();
    assert_eq!(waits, [5, 5, 10, 10, 20, 20, 40, 40, 80, 80, 160, 160, 320, 320, 320, 320]);
    assert_eq!(policy.wait(seconds(16 + 600)).as_secs(), 5, "after ten quiet minutes all is forgotten");
}

/// A zone that goes (or comes) after a pause.
fn network_changes() -> impl Strategy<Value = Vec<(u64, usize)>> {
    proptest::collection::vec((50_u64..60_000, 0_usize..3), 1..60)
}

/// Who wins an election: the most preferred zone that is up.
fn elected(up: [bool; 3]) -> Option<u64> {
    [1, 3, 5].into_iter().zip(up).find(|(_, up)| *up).map(|(node, _)| node)
}

proptest! {
    #[test]
    fn at_most_one_leadership_change_for_each_change_of_the_network(changes in network_changes()) {
        let mut policies: BTreeMap<u64, LeadershipPolicy> =
            (1..=5).map(|node| (node, LeadershipPolicy::new(STEADY))).collect();
        let (mut now, mut up, mut leader) = (Duration::ZERO, [true; 3], 1_u64);
        let zone_of = |node: u64| [0_usize, 0, 1, 1, 2][usize::try_from(node - 1).unwrap()];
        let (mut moved, mut changed) = (0_usize, 0_usize);
        for (pause_ms, zone) in changes {
            let until = now + Duration::from_millis(pause_ms);
            while now < until {
                now += LOOK;
                if !up[zone_of(leader)] {
                    continue;
                }
                let fit = [up[0], up[0], up[1], up[1], up[2]];
                let to = policies.get_mut(&leader).unwrap().look(now, leader, &candidates(fit));
                if let Some(to) = to {
                    prop_assert!(up[zone_of(to)], "moved to a node that is not up");
                    prop_assert!(zone_of(to) < zone_of(leader), "moved to a zone that is not preferred");
                    leader = to;
                    moved += 1;
                    policies.values_mut().for_each(|policy| policy.leader_changed(now));
                }
            }
            up[zone] = !up[zone];
            changed += 1;
            if let Some(next) = elected(up).filter(|_| !up[zone_of(leader)]) {
                leader = next;
                moved += 1;
                policies.values_mut().for_each(|policy| policy.leader_changed(now));
            }
            prop_assert!(moved <= changed, "{moved} leadership changes for {changed} of the network");
        }
        // And in the end it is where it belongs.
        let end = now + Duration::from_secs(1_000);
        while now < end && up[zone_of(leader)] {
            now += LOOK;
            let fit = [up[0], up[0], up[1], up[1], up[2]];
            if let Some(to) = policies.get_mut(&leader).unwrap().look(now, leader, &candidates(fit)) {
                leader = to;
                policies.values_mut().for_each(|policy| policy.leader_changed(now));
            }
        }
        if let Some(best) = elected(up) {
            prop_assert_eq!(zone_of(leader), zone_of(best));
        }
    }
}

#[test]
fn a_zone_that_comes_and_goes_moves_leadership_ever_more_rarely() {
    let mut policy = LeadershipPolicy::new(STEADY);
    let (mut leader, mut moves, mut now) = (3_u64, 0, Duration::ZERO);
    // Up for 8 s, down for 2 s, for an hour: without memory it would move 720 times.
    while now < seconds(3_600) {
        now += LOOK;
        let up = now.as_millis() % 10_000 < 8_000;
        if leader == 1 && !up {
            (leader, moves) = (3, moves + 1);
            policy.leader_changed(now);
        }
        if leader == 3 && policy.look(now, 3, &candidates([up, up, true, true, true])) == Some(1) {
            (leader, moves) = (1, moves + 1);
            policy.leader_changed(now);
        }
    }
    assert!(moves <= 24, "{moves} moves in an hour");
}
