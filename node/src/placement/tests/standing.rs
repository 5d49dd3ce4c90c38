//! Who stands when, in the default topology: rank by zone, 0.5 ms between a and b, 15 ms to c.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use crate::placement::{Rival, Situation, StandingPolicy, Step};

const LEASE: Duration = Duration::from_millis(200);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The policy of each node, 1 to 5.
fn policy(own: u64) -> StandingPolicy {
    let rank_of = |node: u64| [1_u32, 1, 2, 2, 3][usize::try_from(node - 1).unwrap()];
    let rivals: Vec<Rival> = (1..=5)
        .filter(|node| *node != own)
        .map(|node_id| {
            let one_way = match (rank_of(node_id), rank_of(own)) {
                (3, _) | (_, 3) => ms(15),
                (one, other) if one != other => Duration::from_micros(500),
                _ => Duration::ZERO,
            };
            Rival { node_id, rank: rank_of(node_id), one_way }
        })
        .collect();
    StandingPolicy::new(LEASE, own, rank_of(own), &rivals)
}

/// When a node stands after it last heard of leader 1, in microseconds.
fn stands_at(own: u64, closed: bool, silent: &[u64]) -> u128 {
    let silent: BTreeSet<u64> = silent.iter().copied().collect();
    let mut silence = Duration::ZERO;
    loop {
        match policy(own).step(Situation { silence, closed, election: None, elections: 0 }, Some(1), &silent)
        {
            Step::Wait(pause) => silence += pause,
            Step::Stand(_) => return silence.as_micros(),
        }
    }
}

#[test]
fn the_preferred_stand_first_and_the_dead_are_not_waited_for() {
    let all = |closed, silent: &[u64]| [2, 3, 4, 5].map(|node| stands_at(node, closed, silent));
    // Only node 1 has died, and the rest knows it.
    assert_eq!(all(true, &[]), [200_000, 212_500, 224_500, 251_000]);
    // The whole zone has.
    assert_eq!(all(true, &[1, 2])[1..], [200_000, 212_000, 239_000]);
    // Nobody knows: half a lease later.
    assert_eq!(all(false, &[1, 2])[1..], [300_000, 312_000, 339_000]);
    // The remote alone is left of those that could win.
    assert_eq!(stands_at(5, true, &[1, 2, 3, 4]), 200_000);
}

#[test]
fn an_election_under_way_gets_its_time() {
    let policy = policy(3);
    let silent = BTreeSet::from([1, 2]);
    let step = |silence, election, elections| {
        policy.step(Situation { silence: ms(silence), closed: true, election, elections }, Some(1), &silent)
    };
    assert_eq!(step(210, None, 0), Step::Stand(ms(8)));
    assert_eq!(step(210, Some(ms(5)), 1), Step::Wait(ms(95)));
    assert_eq!(step(310, Some(ms(105)), 1), Step::Stand(ms(8)));
    // Elections that come to nothing get more and more time.
    assert_eq!(step(310, Some(ms(5)), 2), Step::Wait(ms(195)));
    assert_eq!(step(310, Some(ms(5)), 20), Step::Wait(ms(795)));
    assert_eq!(step(9_000, None, 0), Step::Stand(ms(150)), "no quorum, no hurry");
}

proptest! {
    #[test]
    fn everybody_stands_in_the_end_and_nobody_within_the_lease(
        own in 1_u64..=5,
        lost in proptest::option::of(1_u64..=5),
        silent in proptest::collection::btree_set(1_u64..=5, 0..5),
        silence_ms in 0_u64..2_000,
        closed: bool,
    ) {
        let now = Situation { silence: ms(silence_ms), closed, election: None, elections: 0 };
        match policy(own).step(now, lost, &silent) {
            Step::Stand(_) => prop_assert!(now.silence >= LEASE),
            Step::Wait(pause) => {
                prop_assert!(now.silence < LEASE * 2, "{now:?}");
                let then = Situation { silence: now.silence + pause, ..now };
                prop_assert!(matches!(policy(own).step(then, lost, &silent), Step::Stand(_)));
            }
        }
    }
}
