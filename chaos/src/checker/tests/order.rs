//! Reads and appends in an order that no ledger has.

use super::*;

#[test]
fn swapped_seqs_are_caught() {
    // k4 was invoked after k1 had returned, yet F has it first; all hashes recompute.
    let mut forge = Forge::new();
    forge.append(2, 30, 40, "later");
    forge.append(1, 10, 20, "earlier");
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_stale_read_is_caught() {
    let mut forge = truth();
    forge.read(20, 120, 130, 5);
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_stale_read_from_a_paused_leader_is_caught() {
    let mut forge = truth();
    forge.read_from(20, 120, 130, 1, 4);
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_future_read_of_an_unknown_is_caught() {
    let mut forge = Forge::new();
    forge.append(1, 0, 10, "k1");
    forge.unknown(2, 40, None, "later", true);
    forge.read(3, 20, 30, 2);
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_read_of_an_unknown_in_flight_passes_and_binds_what_follows() {
    let mut forge = Forge::new();
    forge.append(1, 0, 10, "k1");
    forge.unknown(2, 15, None, "in flight", true);
    forge.read(3, 20, 30, 2);
    assert!(forge.judge().pass);
    forge.read(4, 31, 32, 1);
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_future_read_of_a_retry_is_caught_by_who_made_it() {
    let mut forge = Forge::new();
    forge.unknown(1, 0, Some(10), "k", false);
    forge.append(2, 40, 50, "k");
    forge.read(3, 20, 30, 1);
    assert_eq!(violated(&forge), ["order"], "the second attempt was told that it made the entry");
    let Outcome::Appended { receipts } = forge.outcome(2) else { panic!() };
    receipts[0].replayed = true;
    assert!(forge.judge().pass, "the first attempt made it");
}

#[test]
fn a_refused_attempt_does_not_explain_an_early_read() {
    let mut forge = Forge::new();
    forge.refused(1, 0, 10, "k");
    forge.unknown(2, 40, None, "k", true);
    forge.read(3, 20, 30, 1);
    assert_eq!(violated(&forge), ["order"]);
}

#[test]
fn a_non_prefix_read_is_caught() {
    let mut skips = truth();
    let Outcome::Entries { entries, .. } = skips.outcome(9) else { panic!() };
    entries.remove(1);
    assert_eq!(violated(&skips), ["reads"]);

    let mut swaps = truth();
    let Outcome::Entries { entries, .. } = swaps.outcome(9) else { panic!() };
    entries.swap(0, 1);
    assert_eq!(violated(&swaps), ["reads"]);

    let mut other = truth();
    let Outcome::Entries { entries, .. } = other.outcome(9) else { panic!() };
    entries[2].entry_hash = Hash32([9; 32]);
    assert_eq!(violated(&other), ["reads"]);

    let mut head = truth();
    let Outcome::Head { chain_hash, .. } = head.outcome(6) else { panic!() };
    chain_hash.0[5] ^= 4;
    assert_eq!(violated(&head), ["reads"]);
}

#[test]
fn a_read_beyond_the_final_log_is_caught() {
    let mut forge = truth();
    forge.read_from(20, 120, 130, 7, 6);
    assert!(forge.judge().pass);
    let Outcome::Entries { head, .. } = forge.outcome(20) else { panic!() };
    *head = 7;
    assert_caught(&forge, "reads");
}
