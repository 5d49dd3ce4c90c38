//! A final log that is not what was acknowledged, refused or sent.

use super::*;

#[test]
fn a_lost_acknowledgement_is_caught_and_counted() {
    let mut forge = truth();
    // The newest entry vanishes from every replica.
    forge.log.entries.pop();
    assert_caught(&forge, "acknowledged");
    assert_eq!(forge.judge().lost, 1);
}

#[test]
fn a_receipt_with_another_seq_is_caught() {
    let mut forge = truth();
    let Outcome::Appended { receipts } = forge.outcome(2) else { panic!() };
    receipts[0].seq = 2;
    assert_caught(&forge, "acknowledged");
}

#[test]
fn a_receipt_with_another_hash_or_time_is_caught() {
    let tamper: [fn(&mut crate::history::ReceiptSeen); 3] = [
        |receipt| receipt.entry_hash.0[0] ^= 1,
        |receipt| receipt.chain_hash.0[31] ^= 1,
        |receipt| receipt.recorded_at_us += 1,
    ];
    for tamper in tamper {
        let mut forge = truth();
        let Outcome::Appended { receipts } = forge.outcome(3) else { panic!() };
        tamper(&mut receipts[0]);
        assert_eq!(violated(&forge), ["acknowledged"]);
    }
}

#[test]
fn a_duplicate_is_caught() {
    let mut forge = truth();
    forge.commit("k1", 1);
    assert_eq!(violated(&forge), ["exactly once"]);
}

#[test]
fn two_makers_of_one_key_are_caught() {
    let mut forge = truth();
    forge.replay(20, 120, 130, "k1");
    assert!(forge.judge().pass);
    let Outcome::Appended { receipts } = forge.outcome(20) else { panic!() };
    receipts[0].replayed = false;
    assert_caught(&forge, "exactly once");
}

#[test]
fn a_phantom_is_caught() {
    let mut forge = truth();
    forge.commit("nobody", 1);
    assert_eq!(violated(&forge), ["phantom"]);
}

#[test]
fn a_known_key_with_content_that_nobody_sent_is_caught() {
    let mut forge = Forge::new();
    forge.invoke_append(1, 0, "k");
    forge.commit("k", 2);
    assert_eq!(violated(&forge), ["phantom"]);
}

#[test]
fn a_refused_entry_in_the_log_is_caught() {
    let mut forge = truth();
    forge.commit("refused", 1);
    assert_eq!(violated(&forge), ["refused"]);
}

#[test]
fn a_conflict_that_replaced_the_original_is_caught() {
    let mut forge = Forge::new();
    forge.append(1, 0, 10, "k");
    forge.invoke(2, 20, Call::Append { entries: vec![sent("k", 2)], class: None });
    let refusal = Outcome::Refused { reason: "KEY_CONFLICT".into(), message: String::new() };
    forge.returns(2, 30, refusal);
    assert!(forge.judge().pass);
    forge.log.entries.clear();
    forge.commit("k", 2);
    let names = violated(&forge);
    assert!(names.contains(&"acknowledged") && names.contains(&"refused"), "{names:?}");
}

#[test]
fn half_a_request_is_caught() {
    let mut forge = Forge::new();
    forge.invoke(1, 0, Call::Append { entries: vec![sent("x", 1), sent("y", 1)], class: None });
    assert!(forge.judge().pass, "none of it");
    forge.commit("x", 1);
    assert_eq!(violated(&forge), ["atomic"]);
    forge.commit("y", 1);
    assert!(forge.judge().pass, "all of it");
}

#[test]
fn a_hole_and_a_falling_clock_are_caught() {
    let mut hole = truth();
    hole.log.entries.remove(3);
    assert_caught(&hole, "dense");
    let mut clock = truth();
    clock.log.entries[2].recorded_at_us = 0;
    assert_caught(&clock, "dense");
}

#[test]
fn a_broken_chain_is_caught() {
    let mut record = truth();
    let last = record.log.creation_record.0.len() - 1;
    record.log.creation_record.0[last] ^= 1;
    assert_caught(&record, "chain");

    let mut payload = truth();
    let part = &mut payload.log.entries[0].client_part.0;
    let last = part.len() - 1;
    part[last] ^= 1;
    assert_caught(&payload, "chain");

    let mut garbage = truth();
    garbage.log.entries[0].client_part.0.truncate(9);
    assert_caught(&garbage, "chain");
}

#[test]
fn wrong_balances_are_caught() {
    let row = |account: &str, debits: u64, credits: u64| BalanceRow {
        account: account.into(),
        currency: "CZK".into(),
        debits: debits.to_string(),
        credits: credits.to_string(),
        balance: (i128::from(credits) - i128::from(debits)).to_string(),
    };
    let mut forge = truth();
    forge.log.balances = Some(vec![row("payee", 0, 6), row("payer", 6, 0)]);
    assert!(forge.judge().pass);
    for wrong in [
        vec![row("payee", 0, 6), row("payer", 5, 0)],
        vec![row("payee", 0, 6)],
        vec![row("payee", 0, 6), row("payer", 6, 0), row("payer", 6, 0)],
        vec![row("payee", 0, 6), row("payer", 6, 0), row("third", 1, 1)],
    ] {
        forge.log.balances = Some(wrong);
        assert_eq!(violated(&forge), ["balances"]);
    }
}

#[test]
fn differing_replicas_are_caught() {
    let forge = truth();
    let change: [fn(&mut FinalLog); 4] = [
        |log| drop(log.entries.pop()),
        |log| log.entries[1].recorded_at_us += 1,
        |log| log.balances = Some(Vec::new()),
        |log| log.creation_record.0.clear(),
    ];
    for change in change {
        let mut other = forge.log.clone();
        change(&mut other);
        let judgement = check(&forge.history(), &[forge.log.clone(), other]);
        assert_eq!(judgement.violations.len(), 1);
        assert_eq!(judgement.violations[0].invariant, "replicas");
    }
    assert!(check(&forge.history(), &[forge.log.clone(), forge.log.clone()]).pass);
    assert!(!check(&forge.history(), &[]).pass);
    let mut elsewhere = forge.log.clone();
    elsewhere.journal = "other".into();
    assert!(!check(&forge.history(), &[elsewhere]).pass);
}
