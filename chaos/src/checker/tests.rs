//! Forged histories that must be rejected, each by the invariant that is meant to catch it, and true ones that must pass.

mod log;
mod order;
mod placement;
mod raft;
mod sweep;

use super::forge::{Forge, sent};
use super::*;
use crate::history::{BalanceRow, Hash32, Line};

/// A true history with everything in it: overlaps, unknowns in F and not, a refusal, a retry, reads.
fn truth() -> Forge {
    let mut forge = Forge::new();
    forge.read(1, 0, 5, 0);
    forge.append(2, 10, 20, "k1");
    forge.append(3, 12, 40, "k2");
    forge.unknown(4, 15, Some(60), "lost", false);
    forge.unknown(5, 25, Some(70), "found", true);
    forge.read(6, 30, 35, 2);
    forge.refused(7, 36, 38, "refused");
    forge.append(8, 41, 50, "k4");
    forge.read_from(9, 55, 58, 2, 4);
    forge.replay(10, 80, 85, "found");
    forge.unknown(11, 90, None, "never answered", true);
    forge.read(12, 95, 99, 5);
    forge.refused(13, 100, 101, "k6");
    forge.append(14, 102, 110, "k6");
    for (t, term) in [(1, 1), (50, 2), (100, 2)] {
        forge.observe(t, "a1", term, "leader");
        forge.observe(t, "b1", term, "follower");
    }
    forge
}

/// Every violated invariant's name.
fn violated(forge: &Forge) -> Vec<&'static str> {
    forge.judge().violations.iter().map(|violation| violation.invariant).collect()
}

fn assert_caught(forge: &Forge, invariant: &str) {
    let judgement = forge.judge();
    assert!(!judgement.pass);
    assert!(
        judgement.violations.iter().any(|violation| violation.invariant == invariant),
        "{invariant} missed it; found: {:#?}",
        judgement.violations
    );
}

#[test]
fn a_true_history_with_unknowns_passes() {
    let judgement = truth().judge();
    assert!(judgement.pass, "{:#?}", judgement.violations);
    assert_eq!(judgement.final_entries, 6);
    assert_eq!(judgement.acknowledged_keys, 5);
    assert_eq!((judgement.unknown_present, judgement.unknown_absent, judgement.lost), (1, 1, 0));
    assert_eq!(judgement.appends, Counts { invoked: 10, ok: 5, refused: 2, unknown: 3 });
    assert_eq!(judgement.reads, Counts { invoked: 4, ok: 4, refused: 0, unknown: 0 });
}

#[test]
fn an_empty_history_passes() {
    assert!(Forge::new().judge().pass);
}

#[test]
fn messages_are_bounded_and_counts_are_not() {
    let mut forge = Forge::new();
    for at in 0..100 {
        forge.commit(&format!("phantom {at}"), 1);
    }
    let judgement = forge.judge();
    assert_eq!(judgement.violations[0].count, 100);
    assert_eq!(judgement.violations[0].messages.len(), MAX_MESSAGES);
}
