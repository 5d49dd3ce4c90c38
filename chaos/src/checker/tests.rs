//! Forged histories that must be rejected, each by the invariant that is meant to catch it, and true ones that must pass.

use proptest::prelude::*;

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
fn a_lost_acknowledgement_is_caught_and_counted() {
    let mut forge = truth();
    // The newest entry vanishes from every replica.
    forge.log.entries.pop();
    assert_caught(&forge, "acknowledged");
    assert_eq!(forge.judge().lost, 1);
}

#[test]
fn swapped_seqs_are_caught() {
    // k4 was invoked after k1 had returned, yet F has it first; all hashes recompute.
    let mut forge = Forge::new();
    forge.append(2, 30, 40, "later");
    forge.append(1, 10, 20, "earlier");
    assert_eq!(violated(&forge), ["order"]);
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

#[test]
fn two_leaders_and_falling_terms_are_caught() {
    let mut two = truth();
    two.observe(110, "b1", 2, "leader");
    assert_eq!(violated(&two), ["leaders"]);
    let mut falls = truth();
    falls.observe(110, "b1", 1, "follower");
    assert_eq!(violated(&falls), ["leaders"]);
}

#[test]
fn what_falls_between_starts_is_caught_and_what_a_restart_forgets_is_not() {
    let with = |start: u64, committed: u64, applied: u64| {
        move |forge: &mut Forge| {
            forge.observe(start * 1_000 + committed, "b1", 2, "follower");
            let Some(Line::Observe(seen)) = forge.lines.last_mut() else { panic!() };
            (seen.start, seen.committed, seen.applied) = (start, committed, applied);
        }
    };
    let mut forge = truth();
    with(1, 10, 9)(&mut forge);
    with(2, 4, 9)(&mut forge);
    with(2, 12, 12)(&mut forge);
    assert!(forge.judge().pass, "a start begins with what is known to be committed then");
    for (committed, applied) in [(11, 12), (12, 11)] {
        let mut falls = truth();
        falls.lines.clone_from(&forge.lines);
        with(2, committed, applied)(&mut falls);
        assert_eq!(violated(&falls), ["leaders"]);
    }
}

#[test]
fn votes_that_go_back_are_caught() {
    let mut forge = truth();
    for (term, for_node, committed) in
        [(1, 1, false), (1, 1, true), (3, 2, false), (3, 2, true), (4, 3, false)]
    {
        forge.vote("a1", term, for_node, committed);
        forge.vote("b1", term, for_node, false);
    }
    assert!(forge.judge().pass, "{:#?}", forge.judge().violations);
    for (node, term, for_node, committed, why) in [
        ("a1", 3, 2, true, "after one of"),
        ("a1", 4, 5, false, "then for node 5"),
        ("a1", 4, 5, true, ""),
        ("b1", 4, 3, false, ""),
        ("b1", 5, 1, true, ""),
    ] {
        let mut other = truth();
        other.lines.clone_from(&forge.lines);
        other.vote(node, term, for_node, committed);
        if why.is_empty() {
            assert!(other.judge().pass);
        } else {
            assert_eq!(violated(&other), ["votes"]);
            assert!(other.judge().violations[0].messages[0].contains(why), "{why}");
        }
    }
    forge.vote("b1", 5, 1, true);
    forge.vote("b1", 5, 1, false);
    forge.vote("a1", 5, 2, true);
    let judgement = forge.judge();
    assert_eq!(judgement.violations[0].count, 2, "forgot who had won; two winners: {judgement:#?}");
}

#[test]
fn a_receipt_that_names_a_zone_without_the_entry_is_caught() {
    let mut forge = truth();
    forge.place();
    for (zones, good) in [(&[] as &[&str], true), (&["a", "b", "c"], true), (&["a", "moon"], false)] {
        forge.attest(14, Class::City, false, zones);
        assert_eq!(violated(&forge), if good { vec![] } else { vec!["placement"] }, "{zones:?}");
    }
    forge.attest(14, Class::City, false, &["a", "b", "c"]);
    let mut remote = forge.log.clone();
    remote.entries.pop();
    remote.replicas = vec!["c1".into()];
    forge.log.replicas.retain(|replica| replica != "c1");
    let judgement = check(&forge.history(), &[forge.log.clone(), remote]);
    let placement = judgement.violations.iter().find(|violation| violation.invariant == "placement");
    assert!(placement.unwrap().messages[0].contains("zone \"c\""), "{judgement:#?}");
    forge.log.gone = vec!["c1".into()];
    assert!(forge.judge().pass, "of zone c no replica is left");
}

#[test]
fn a_receipt_that_is_weaker_than_asked_and_not_marked_is_caught() {
    let mut forge = Forge::new();
    forge.place();
    let receipt = forge.commit("k", 1);
    forge.invoke(1, 0, Call::Append { entries: vec![sent("k", 1)], class: Some(Class::Geo) });
    forge.returns(1, 10, Outcome::Appended { receipts: vec![receipt] });
    for (class, degraded, good) in
        [(Class::Geo, false, true), (Class::City, true, true), (Class::City, false, false)]
    {
        forge.attest(1, class, degraded, &["a", "b", "c"]);
        assert_eq!(violated(&forge), if good { vec![] } else { vec!["placement"] }, "{class:?}");
    }
}

#[test]
fn an_entry_that_is_in_too_few_places_is_caught() {
    let mut forge = truth();
    forge.place();
    forge.attest(14, Class::Geo, false, &["a", "b", "c"]);
    let mut remote = forge.log.clone();
    remote.entries.pop();
    remote.replicas = vec!["c1".into()];
    forge.log.replicas.retain(|replica| replica != "c1");
    let names = |forge: &Forge, remote: &FinalLog| -> Vec<&'static str> {
        let judgement = check(&forge.history(), &[forge.log.clone(), remote.clone()]);
        judgement.violations.iter().map(|violation| violation.invariant).collect()
    };
    assert_eq!(names(&forge, &remote), ["replicas", "placement"], "the remote lacks what it acknowledged");
    forge.attest(14, Class::Geo, true, &["a", "b"]);
    assert_eq!(names(&forge, &remote), ["replicas"], "degraded, it was promised to the city only");
    forge.log.replicas.retain(|replica| replica.starts_with('a'));
    remote.replicas = vec!["b1".into(), "b2".into(), "c1".into()];
    assert_eq!(names(&forge, &remote), ["replicas", "placement"], "one zone is not enough for class city");
}

#[test]
fn a_lost_city_excuses_what_was_promised_to_it_alone() {
    let mut forge = truth();
    forge.place();
    forge.attest(14, Class::City, false, &["a", "b"]);
    forge.log.entries.pop();
    forge.log.replicas = vec!["c1".into()];
    assert_caught(&forge, "acknowledged");
    forge.log.gone = ["a1", "a2", "b1", "b2"].map(String::from).to_vec();
    let judgement = forge.judge();
    assert!(judgement.pass, "{:#?}", judgement.violations);
    assert_eq!(judgement.by_class[&Class::City], ByClass { acknowledged: 5, lost: 1 });
    forge.attest(14, Class::Geo, false, &["a", "b", "c"]);
    let judgement = forge.judge();
    assert_caught(&forge, "acknowledged");
    assert_eq!(judgement.by_class[&Class::Geo], ByClass { acknowledged: 1, lost: 1 });
    forge.attest(14, Class::Geo, true, &["a", "b"]);
    assert!(forge.judge().pass, "degraded");
    forge.log.gone.pop();
    assert_caught(&forge, "acknowledged");
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

/// What a generated operation is, with its place in the order of effects.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Append,
    /// Took effect, but was never answered.
    Unknown,
    Read,
}

#[derive(Debug, Clone)]
struct Planned {
    kind: Kind,
    invoked: u64,
    returned: u64,
}

fn planned() -> impl Strategy<Value = Planned> {
    let kind = prop_oneof![3 => Just(Kind::Append), 1 => Just(Kind::Unknown), 2 => Just(Kind::Read)];
    (kind, 0_u64..40, 0_u64..20).prop_map(|(kind, invoked, lasts)| Planned {
        kind,
        invoked,
        returned: invoked + lasts,
    })
}

/// Whether some order of the operations is a ledger's and never puts an operation before one that had returned before it
/// was invoked. Tries all orders: the definition, not the sweep.
fn linearizable(plan: &[Planned], places: &[u64]) -> bool {
    fn search(plan: &[Planned], places: &[u64], done: &mut Vec<usize>, length: u64) -> bool {
        if done.len() == plan.len() {
            return true;
        }
        for next in 0..plan.len() {
            if done.contains(&next) {
                continue;
            }
            let too_early = (0..plan.len()).any(|other| {
                let answered = !matches!(plan[other].kind, Kind::Unknown);
                other != next
                    && !done.contains(&other)
                    && answered
                    && plan[other].returned < plan[next].invoked
            });
            let fits = match plan[next].kind {
                Kind::Read => places[next] == length,
                Kind::Append | Kind::Unknown => places[next] == length + 1,
            };
            if too_early || !fits {
                continue;
            }
            done.push(next);
            let grown = if matches!(plan[next].kind, Kind::Read) { length } else { length + 1 };
            if search(plan, places, done, grown) {
                return true;
            }
            done.pop();
        }
        false
    }
    search(plan, places, &mut Vec::new(), 0)
}

fn forge_plan(plan: &[Planned], places: &[u64]) -> Forge {
    let mut forge = Forge::new();
    let mut appends: Vec<usize> =
        (0..plan.len()).filter(|at| !matches!(plan[*at].kind, Kind::Read)).collect();
    appends.sort_by_key(|at| places[*at]);
    for at in appends {
        let (op, key) = (at as u64 + 1, format!("k{at}"));
        match plan[at].kind {
            Kind::Append => forge.append(op, plan[at].invoked, plan[at].returned, &key),
            _ => forge.unknown(op, plan[at].invoked, Some(plan[at].returned), &key, true),
        }
    }
    for (at, planned) in plan.iter().enumerate() {
        if matches!(planned.kind, Kind::Read) {
            forge.read(at as u64 + 1, planned.invoked, planned.returned, places[at]);
        }
    }
    // The verdict must not depend on the order of the lines.
    forge.lines.sort_by_key(|line| match line {
        Line::Header(_) => (0, 0),
        Line::Invoke { t, .. } => (t + 1, 0),
        Line::Return { t, .. } => (t + 1, 1),
        _ => (u64::MAX, 0),
    });
    forge
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    /// Exact: the sweep accepts exactly the histories for which an order exists.
    #[test]
    fn the_sweep_agrees_with_the_definition(
        plan in proptest::collection::vec(planned(), 1..7),
        shuffle in proptest::collection::vec(0_usize..100, 8),
        reads in proptest::collection::vec(0_u64..100, 8),
    ) {
        let mut appends: Vec<usize> =
            (0..plan.len()).filter(|at| !matches!(plan[*at].kind, Kind::Read)).collect();
        // Mostly in the order of their invocations, so that many histories are valid.
        appends.sort_by_key(|at| (plan[*at].invoked + shuffle[*at] as u64 % 15, *at));
        let mut places = vec![0; plan.len()];
        for (seq, at) in (1..).zip(&appends) {
            places[*at] = seq;
        }
        for (at, planned) in plan.iter().enumerate() {
            if matches!(planned.kind, Kind::Read) {
                places[at] = reads[at] % (appends.len() as u64 + 1);
            }
        }
        let expected = linearizable(&plan, &places);
        let judgement = forge_plan(&plan, &places).judge();
        prop_assert_eq!(judgement.pass, expected, "{:#?} at {:?}: {:#?}", plan, places, judgement.violations);
    }
}
