//! Regime records and the budget, as the log tells them.

use super::support::{Replica, payment};
use crate::ledger::{Command, Outcome, PreparedCommand, ProposalBuilder, ProposalHeader};
use crate::placement::{Budget, Class};
use tercet_proto::v1::{AppendRequest, DurabilityClass, Entry};

fn degrade(entries: u64, seconds: u64, czk: u128) -> Command {
    let budget = Budget { entries, seconds, amounts: [(*b"CZK", czk)].into() };
    Command::SetRegime { reason: "site west is lost".into(), degraded: Some(budget) }
}

fn restore() -> Command {
    Command::SetRegime { reason: "it is back".into(), degraded: None }
}

/// Appends to journal `j` as `geo`; the leader knows `placed` to be placed.
fn geo(replica: &mut Replica, placed: u64, entries: Vec<Entry>) -> Outcome {
    let request =
        AppendRequest { journal: "j".into(), entries, durability_class: DurabilityClass::Geo.into() };
    let mut builder = ProposalBuilder::new(ProposalHeader {
        leader: 1,
        leader_clock_us: replica.clock_us,
        city_watermark: placed,
        geo_watermark: placed,
    });
    builder.push_prepared(&PreparedCommand::append(&request).unwrap());
    replica.apply(Some(builder.finish())).pop().unwrap()
}

/// A leader tells that the regime has lasted for so long.
fn lasted(replica: &mut Replica, elapsed_ms: u64) {
    let since_index = replica.ledger.regime().degraded().expect("degraded").since_index;
    replica.command(&Command::DegradedFor { since_index, elapsed_ms });
}

fn is_taken(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Appended { class, .. } => *class == Class::Geo,
        Outcome::Refused(refusal) => {
            assert_eq!(refusal.reason.as_str(), "PLACEMENT_UNREACHABLE", "{refusal}");
            false
        }
        other => panic!("{other:?}"),
    }
}

fn spent(replica: &Replica) -> (u64, u128) {
    let degraded = replica.ledger.regime().degraded().expect("degraded");
    (degraded.spent.entries, degraded.spent.amounts.get(b"CZK").copied().unwrap_or(0))
}

#[test]
fn what_waits_at_the_regime_record_counts_and_what_is_placed_does_not() {
    let mut replica = Replica::with_journal();
    geo(&mut replica, 0, vec![payment("a", "AB", 100)]);
    geo(&mut replica, 0, vec![payment("b", "AB", 10), payment("c", "AB", 1)]);
    replica.append(vec![payment("city", "AB", 1_000)]);
    // The entry at index 1 is placed by now.
    geo(&mut replica, 1, vec![payment("d", "AB", 5)]);
    assert_eq!(replica.ledger.regime().waiting().entries, 3);
    assert_eq!(replica.command(&degrade(10, 60, 1_000)), Outcome::RegimeSet { new: true });
    assert_eq!(spent(&replica), (3, 16));
    assert_eq!(replica.command(&degrade(99, 60, 9_999)), Outcome::RegimeSet { new: false });
    assert_eq!(replica.ledger.regime().degraded().unwrap().budget.entries, 10, "the first record stands");
}

#[test]
fn a_budget_is_never_overdrawn_and_then_it_is_spent() {
    let cases: [(Command, &str, u64); 3] = [
        (degrade(3, 60, 1_000), "4 entries of 3", 0),
        (degrade(9, 60, 12), "15 minor units of 12 CZK", 0),
        (degrade(9, 60, 1_000), "60 seconds of 60", 60_000),
    ];
    for (record, what, later_ms) in cases {
        let mut replica = Replica::with_journal();
        replica.command(&record);
        assert!(is_taken(&geo(&mut replica, 0, vec![payment("a", "AB", 5), payment("b", "AB", 5)])));
        lasted(&mut replica, later_ms);
        let before = replica.ledger.journal("j").unwrap().head();
        assert!(!is_taken(&geo(&mut replica, 0, vec![payment("c", "AB", 4), payment("d", "AB", 1)])));
        assert_eq!(replica.ledger.journal("j").unwrap().head(), before);
        assert_eq!(replica.ledger.locate_key("j", "c").unwrap(), None, "nothing is half-applied");
        let degraded = replica.ledger.regime().degraded().unwrap();
        assert_eq!((degraded.exhausted.as_deref(), degraded.spent.entries), (Some(what), 2));
        assert!(!is_taken(&geo(&mut replica, 0, vec![payment("e", "AB", 1)])), "nothing more, however small");
        assert!(is_taken(&geo(&mut replica, 0, vec![payment("a", "AB", 5)])), "a replay costs nothing");
        assert!(
            matches!(replica.append(vec![payment("f", "AB", 1)]), Outcome::Appended { .. }),
            "city goes on"
        );
        assert_eq!(replica.command(&restore()), Outcome::RegimeSet { new: true });
        assert!(is_taken(&geo(&mut replica, 0, vec![payment("c", "AB", 4)])));
    }
}

/// The fault that was: seconds were counted in recorded time. A leader an hour ahead, once, let a budget of 15 s last for more than an
/// hour once its clock was right again (recorded time stood still), and a new leader an hour ahead ended it at once.
#[test]
fn seconds_are_what_leaders_have_counted_whatever_their_clocks_say() {
    const HOUR_US: i64 = 3_600_000_000;
    let mut replica = Replica::with_journal();
    replica.clock_us += HOUR_US;
    replica.command(&degrade(99, 15, 10_000));
    replica.clock_us -= HOUR_US;
    lasted(&mut replica, 14_999);
    assert!(is_taken(&geo(&mut replica, 0, vec![payment("a", "AB", 1)])));
    // Another leader, hours ahead; and one that has counted less.
    replica.clock_us += 9 * HOUR_US;
    assert!(is_taken(&geo(&mut replica, 0, vec![payment("b", "AB", 1)])));
    lasted(&mut replica, 3);
    assert_eq!(replica.ledger.regime().degraded().unwrap().elapsed_ms, 14_999);
    replica.clock_us -= 9 * HOUR_US;
    lasted(&mut replica, 15_000);
    assert!(!is_taken(&geo(&mut replica, 0, vec![payment("c", "AB", 1)])));
    // What was counted of one record means nothing for the next.
    let former = replica.ledger.regime().degraded().unwrap().since_index;
    replica.command(&restore());
    replica.command(&degrade(99, 15, 10_000));
    replica.command(&Command::DegradedFor { since_index: former, elapsed_ms: 99_000 });
    assert!(is_taken(&geo(&mut replica, 0, vec![payment("d", "AB", 1)])));
}

#[test]
fn a_queue_that_exceeds_the_budget_is_not_degraded() {
    let mut replica = Replica::with_journal();
    geo(&mut replica, 0, vec![payment("a", "AB", 100), payment("b", "AB", 1)]);
    assert!(!is_taken(&replica.command(&degrade(1, 60, 1_000))));
    assert!(!is_taken(&replica.command(&degrade(9, 60, 100))));
    assert!(replica.ledger.regime().degraded().is_none());
}

/// A new leader, or a node that was restarted, knows what was spent: from its checkpoint or from the log.
#[test]
fn the_budget_outlives_restarts() {
    for checkpoint_at in 0..4 {
        let mut replica = Replica::with_journal();
        let steps: [&dyn Fn(&mut Replica); 4] = [
            &|replica| drop(geo(replica, 0, vec![payment("a", "AB", 7)])),
            &|replica| drop(replica.command(&degrade(5, 60, 1_000))),
            &|replica| drop(geo(replica, 0, vec![payment("b", "AB", 2)])),
            &|replica| {
                lasted(replica, 7_000);
                drop(geo(replica, 0, vec![payment("c", "AB", 3)]));
            },
        ];
        for (at, step) in steps.into_iter().enumerate() {
            step(&mut replica);
            if at == checkpoint_at {
                replica.checkpoint();
            }
        }
        let (digest, regime) = (replica.ledger.digest().unwrap(), replica.ledger.regime().clone());
        replica.restart();
        assert_eq!(spent(&replica), (3, 12), "checkpoint after step {checkpoint_at}");
        assert_eq!(replica.ledger.regime().degraded(), regime.degraded());
        assert_eq!(replica.ledger.regime().degraded().unwrap().elapsed_ms, 7_000);
        assert_eq!(replica.ledger.regime().waiting(), regime.waiting());
        assert_eq!(replica.ledger.digest().unwrap(), digest);
    }
}
