//! Applying: refusals, replays, marks, the catalog, listings.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use tercet_proto::canonical::{BusinessDate, chain, entry_hash, sha256, store_part};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1::{DurabilityClass, Entry};

use super::support::{Replica, payment, request, settings};
use crate::ledger::{
    BalanceRow, Command, EntryOutcome, Head, LedgerError, Outcome, PreparedCommand, ProposalBuilder,
    ProposalHeader, Totals, entries_of,
};

fn refused(outcome: Outcome) -> Refusal {
    match outcome {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

fn appended(outcome: &Outcome) -> &[EntryOutcome] {
    match outcome {
        Outcome::Appended { entries, .. } => entries,
        other => panic!("{other:?}"),
    }
}

fn seqs(outcome: &Outcome) -> Vec<u64> {
    appended(outcome).iter().map(EntryOutcome::seq).collect()
}

#[test]
fn an_append_returns_what_an_auditor_computes() {
    let mut replica = Replica::with_journal();
    let outcome = replica.append(vec![payment("k1", "AB", 5), payment("k2", "CD", 7)]);
    let journal = replica.ledger.journal("j").unwrap();
    let mut previous = sha256(journal.creation_bytes());
    assert_eq!(previous, journal.creation_hash());
    for (at, entry) in appended(&outcome).iter().enumerate() {
        let mut client = Vec::new();
        let sent = if at == 0 { payment("k1", "AB", 5) } else { payment("k2", "CD", 7) };
        tercet_proto::canonical::encode_entry(&sent, &mut client).unwrap();
        let seq = at as u64 + 1;
        let entry_hash = entry_hash(&client, &store_part(seq, 1_000_000));
        previous = chain(&previous, &entry_hash);
        let expected = EntryOutcome::New { seq, entry_hash, chain_hash: previous, recorded_at_us: 1_000_000 };
        assert_eq!(entry, &expected);
    }
    assert_eq!(journal.head(), Head { seq: 2, chain_hash: previous });
}

#[test]
fn recorded_time_never_decreases_within_the_group() {
    let mut replica = Replica::with_journal();
    for (clock_us, expected) in
        [(5_000_000, 5_000_000), (3_000_000, 5_000_000), (i64::MIN, 5_000_000), (9_000_000, 9_000_000)]
    {
        replica.clock_us = clock_us;
        let outcome = replica.append(vec![payment(&clock_us.to_string(), "AB", 1)]);
        let EntryOutcome::New { recorded_at_us, .. } = appended(&outcome)[0] else { panic!("{outcome:?}") };
        assert_eq!(recorded_at_us, expected);
    }
}

#[test]
fn refusals_that_need_the_state() {
    let eur = |key: &str, currency: &str| {
        let mut entry = payment(key, "AB", 5);
        entry.postings.iter_mut().for_each(|posting| posting.currency = currency.into());
        entry
    };
    let old = |key: &str, date: &str| Entry { business_date: date.into(), ..payment(key, "AB", 5) };
    let cases: Vec<(Vec<Entry>, Reason, &str)> = vec![
        (vec![eur("a", "USD")], Reason::CurrencyUnknown, "entries[0].postings[0].currency"),
        (vec![eur("a", "EUR"), eur("b", "JPY")], Reason::CurrencyUnknown, "entries[1].postings[0].currency"),
        (
            vec![payment("a", "AB", 5), old("b", "2026-03-01")],
            Reason::BusinessDateClosed,
            "entries[1].business_date",
        ),
        (vec![payment("a", "AB", 5), payment("a", "AB", 6)], Reason::KeyRepeated, "entries[1].key"),
        (vec![payment("a", "AB", 5), payment("known", "AB", 6)], Reason::KeyConflict, "entries[1].key"),
        // A conflict outweighs everything else, wherever it stands.
        (vec![eur("a", "USD"), payment("known", "AB", 6)], Reason::KeyConflict, "entries[1].key"),
        // Otherwise the first fault is named.
        (
            vec![old("a", "2020-01-01"), eur("b", "USD")],
            Reason::BusinessDateClosed,
            "entries[0].business_date",
        ),
    ];
    let mut replica = Replica::with_journal();
    replica.append(vec![payment("known", "AB", 5)]);
    for (entries, reason, field) in cases {
        let before = replica.ledger.journal("j").unwrap().head();
        let refusal = refused(replica.append(entries));
        assert_eq!((refusal.reason, refusal.field.as_str()), (reason, field), "{refusal}");
        assert_eq!(replica.ledger.journal("j").unwrap().head(), before);
        assert_eq!(replica.ledger.locate_key("j", "a").unwrap(), None, "nothing is half-applied");
    }
    // The keys of refused requests are free.
    assert_eq!(seqs(&replica.append(vec![payment("a", "AB", 9), payment("b", "AB", 9)])), [2, 3]);
    assert_eq!(seqs(&replica.append(vec![old("later", "2026-03-03"), eur("e", "EUR")])), [4, 5]);
}

#[test]
fn an_unknown_journal_is_refused() {
    let mut replica = Replica::with_journal();
    let mut builder = replica.builder();
    builder.push_prepared(&PreparedCommand::append(&request("other", vec![payment("k", "AB", 5)])).unwrap());
    let refusal = refused(replica.apply(Some(builder.finish())).remove(0));
    assert_eq!((refusal.reason, refusal.field.as_str()), (Reason::JournalNotFound, "journal"));
}

#[test]
fn a_conflict_names_every_key_with_its_original() {
    let mut replica = Replica::with_journal();
    let keys: Vec<String> = (1..=40).map(|at| format!("k{at}")).collect();
    replica.append(keys.iter().map(|key| payment(key, "AB", 5)).collect());
    // k1..k12 and k40 conflict, k20 is a replay, n is new.
    let mut entries: Vec<Entry> = (1..=12).map(|at| payment(&format!("k{at}"), "AB", 6)).collect();
    entries.extend([payment("k20", "AB", 5), payment("n", "AB", 5), payment("k40", "AB", 6)]);
    let refusal = refused(replica.append(entries));
    assert_eq!((refusal.reason, refusal.field.as_str()), (Reason::KeyConflict, "entries[0].key"));
    assert_eq!((refusal.metadata["key"].as_str(), refusal.metadata["seq"].as_str()), ("k1", "1"));
    assert_eq!(refusal.metadata["conflict_count"], "13");
    assert_eq!(refusal.metadata["conflicts"], "0..11=1..12,14=40");
    assert!(refusal.message.contains("\"k8\" (entries[7]) is seq 8, and 5 more"), "{refusal}");
}

/// 8,192 conflicts made a refusal of some 90 KB, which no client took: it saw RESOURCE_EXHAUSTED and no reason.
#[test]
fn a_refusal_of_very_many_conflicts_names_the_first_ones_and_their_number() {
    let mut replica = Replica::with_journal();
    let key = |at: usize| format!("{}{at:04}", "键".repeat(20));
    replica.append((0..2_000).map(|at| payment(&key(at), "AB", 5)).collect());
    // Every second one, so that no two are a run.
    let entries = (0..2_000).step_by(2).map(|at| payment(&key(at), "AB", 6)).collect();
    let refusal = refused(replica.append(entries));
    assert_eq!((refusal.reason, refusal.field.as_str()), (Reason::KeyConflict, "entries[0].key"));
    assert_eq!((&refusal.metadata["key"], refusal.metadata["seq"].as_str()), (&key(0), "1"));
    assert_eq!(refusal.metadata["conflict_count"], "1000");
    let listed = &refusal.metadata["conflicts"];
    assert!(listed.starts_with("0=1,1=3,2=5,") && listed.ends_with(",..."), "{listed}");
    let received = Refusal::from_status(&refusal.clone().into_status()).expect("a refusal");
    assert_eq!(received.metadata, refusal.metadata, "none of it is cut on the way");
    assert!(received.message.contains("and 99"), "{received}");
}

#[test]
fn replays_return_the_original_and_add_nothing() {
    let mut replica = Replica::with_journal();
    replica.append(vec![payment("a", "AB", 5), payment("b", "AB", 6)]);
    let head = replica.ledger.journal("j").unwrap().head();
    let outcome = replica.append(vec![payment("b", "AB", 6), payment("a", "AB", 5)]);
    let expected = [EntryOutcome::Replayed { seq: 2 }, EntryOutcome::Replayed { seq: 1 }];
    assert_eq!(appended(&outcome), expected);
    assert_eq!(replica.ledger.journal("j").unwrap().head(), head);
    // Mixed, and a key twice in one request.
    let outcome = replica.append(vec![payment("c", "AB", 1), payment("a", "AB", 5), payment("c", "AB", 1)]);
    assert_eq!(seqs(&outcome), [3, 1, 3]);
    assert!(matches!(appended(&outcome)[2], EntryOutcome::Replayed { seq: 3 }));
}

#[test]
fn marks_lead_back_to_the_entries() {
    let mut replica = Replica::with_journal();
    // In one proposal: an append before the journal exists, a refused one, a replay, new ones, another journal.
    let mut builder = replica.builder();
    for (journal, entries) in [
        ("k", vec![payment("x", "AB", 1)]),
        ("j", vec![payment("a", "AB", 1), payment("b", "AB", 2)]),
        ("j", vec![payment("a", "AB", 9)]),
        ("j", vec![payment("b", "AB", 2), payment("c", "AB", 3)]),
    ] {
        builder.push_prepared(&PreparedCommand::append(&request(journal, entries)).unwrap());
    }
    builder.push(&Command::CreateJournal(settings("k"))).unwrap();
    builder.push_prepared(&PreparedCommand::append(&request("k", vec![payment("y", "AB", 1)])).unwrap());
    let payload = builder.finish();
    let outcomes = replica.apply(Some(payload.clone()));
    assert!(matches!(&outcomes[0], Outcome::Refused(r) if r.reason == Reason::JournalNotFound));
    assert!(matches!(&outcomes[2], Outcome::Refused(r) if r.reason == Reason::KeyConflict));
    let mark = replica.ledger.locate("j", 3).unwrap().unwrap();
    assert_eq!((mark.first_seq, mark.count, mark.log_index, mark.last_seq()), (1, 3, 1, 3));
    assert_eq!(mark.skipped.as_deref(), Some([(2, u32::MAX), (3, 0)].as_slice()));
    let entries: Vec<_> = entries_of(&mark, &payload, "j").unwrap().map(Result::unwrap).collect();
    let found: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.entry.key())).collect();
    assert_eq!(found, [(1, "a"), (2, "b"), (3, "c")]);
    assert_eq!(entries[2].chain_hash, replica.ledger.journal("j").unwrap().head().chain_hash);
    assert_eq!(entries[2].to_proto().entry.unwrap(), payment("c", "AB", 3));
    let mark = replica.ledger.locate("k", 1).unwrap().unwrap();
    assert_eq!(mark.skipped.as_deref(), Some([(0, u32::MAX)].as_slice()));
    let entries: Vec<_> = entries_of(&mark, &payload, "k").unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].entry.key(), "y");
    // A mark of another proposal is noticed, once.
    let wrong = Replica::new().builder().finish();
    let found: Vec<_> = entries_of(&mark, &wrong, "k").unwrap().collect();
    assert!(matches!(found.as_slice(), [Err(LedgerError::MarkMismatch)]));
    assert_eq!(replica.ledger.locate("j", 0).unwrap(), None);
    assert_eq!(replica.ledger.locate("j", 4).unwrap(), None);
    assert_eq!(replica.ledger.locate("nobody", 1).unwrap(), None);
}

#[test]
fn head_at_shows_only_what_a_log_index_covers() {
    let mut replica = Replica::new();
    replica.apply(None);
    replica.command(&Command::CreateJournal(settings("j")));
    let mut heads = vec![None, replica.ledger.journal("j").map(|journal| journal.head())];
    for round in 0..30 {
        if round % 3 == 0 {
            replica.apply(None);
        } else {
            replica
                .append(vec![payment(&format!("a{round}"), "AB", 1), payment(&format!("b{round}"), "AB", 1)]);
        }
        heads.push(replica.ledger.journal("j").map(|journal| journal.head()));
        if round % 7 == 0 {
            replica.checkpoint();
        }
    }
    for checkpointed in [false, true] {
        for (index, head) in heads.iter().enumerate() {
            assert_eq!(replica.ledger.head_at("j", index as u64).unwrap(), *head, "{index} {checkpointed}");
        }
        assert_eq!(replica.ledger.head_at("j", u64::MAX).unwrap(), *heads.last().unwrap());
        replica.checkpoint();
        replica.restart();
    }
    assert_eq!(replica.ledger.head_at("nobody", 9).unwrap(), None);
}

#[test]
fn creating_a_journal_is_idempotent_and_settings_are_compared() {
    let mut replica = Replica::with_journal();
    let again = replica.command(&Command::CreateJournal(settings("j")));
    assert_eq!(again, Outcome::JournalExisted { journal: "j".into() });
    let mut other = settings("j");
    other.currencies.pop();
    assert_eq!(refused(replica.command(&Command::CreateJournal(other))).field, "currencies");
    let other = tercet_proto::canonical::JournalSettings { class: DurabilityClass::Geo, ..settings("j") };
    assert_eq!(refused(replica.command(&Command::CreateJournal(other))).field, "default_class");
    let business_date = BusinessDate::parse("2026-03-03").unwrap();
    let other = tercet_proto::canonical::JournalSettings { business_date, ..settings("j") };
    let refusal = refused(replica.command(&Command::CreateJournal(other)));
    assert_eq!((refusal.reason, refusal.field.as_str()), (Reason::JournalExists, "business_date"));
    for name in ["b", "a", "z"] {
        replica.command(&Command::CreateJournal(settings(name)));
    }
    let names = |after: Option<&str>| -> Vec<String> {
        replica.ledger.journals(after).map(|journal| journal.name().to_string()).collect()
    };
    assert_eq!(names(None), ["a", "b", "j", "z"]);
    assert_eq!(names(Some("b")), ["j", "z"]);
    assert_eq!(replica.ledger.journal_count(), 4);
    let message = replica.ledger.journal("j").map(|journal| journal.to_proto(journal.head())).unwrap();
    assert_eq!(
        (message.name.as_str(), message.business_date.as_str(), message.created_at_us),
        ("j", "2026-03-02", 1_000_000)
    );
    assert_eq!(sha256(&message.creation_record).as_slice(), &message.head.unwrap().chain_hash[..]);
}

#[test]
fn balances_are_listed_by_account_then_currency_in_pages() {
    let mut replica = Replica::with_journal();
    let mut euro = payment("e", "AB", 9);
    euro.postings.iter_mut().for_each(|posting| posting.currency = "EUR".into());
    replica.append(vec![payment("1", "AB", 5), payment("2", "ABC", 6), payment("3", "A", 7), euro]);
    replica.append(vec![payment("4", "AB", 1)]);
    let journal = replica.ledger.journal("j").unwrap();
    let row = |account: &str, currency: &str, debits: u128, credits: u128| BalanceRow {
        account: account.into(),
        currency: currency.into(),
        totals: Totals { debits, credits },
    };
    let all = [
        row("A", "CZK", 0, 7),
        row("AB", "CZK", 0, 6),
        row("AB", "EUR", 0, 9),
        row("ABC", "CZK", 0, 6),
        row("SENDER", "CZK", 19, 0),
        row("SENDER", "EUR", 9, 0),
    ];
    assert_eq!(journal.balances(None, None, 100), all);
    assert_eq!(journal.balance_count(), 6);
    assert_eq!(journal.balances(None, None, 2), all[..2]);
    assert_eq!(journal.balances(None, Some(("AB", "CZK")), 2), all[2..4]);
    assert_eq!(journal.balances(Some("AB"), None, 100), all[1..3]);
    assert_eq!(journal.balances(Some("AB"), Some(("AB", "CZK")), 100), all[2..3]);
    assert_eq!(journal.balances(Some("B"), None, 100), []);
    assert_eq!(journal.balances(None, Some(("ZZ", "ZZZ")), 100), []);
}

#[test]
fn the_catalog_spreads_journals_and_keeps_the_first() {
    let mut replica = Replica::new();
    let id = [7; 16];
    let formed = replica.command(&Command::FormCluster { cluster_id: id, groups: 3 });
    assert_eq!(formed, Outcome::ClusterFormed { cluster_id: id, groups: 3, new: true });
    let again = replica.command(&Command::FormCluster { cluster_id: [8; 16], groups: 5 });
    assert_eq!(again, Outcome::ClusterFormed { cluster_id: id, groups: 3, new: false });
    assert_eq!((replica.ledger.cluster_id(), replica.ledger.cluster_groups()), (Some(id), Some(3)));
    for (name, group) in [("a", 0), ("b", 1), ("c", 2), ("d", 0), ("e", 1)] {
        let mapped = replica.command(&Command::MapJournal { name: name.into() });
        assert_eq!(mapped, Outcome::JournalMapped { name: name.into(), group, new: true });
    }
    replica.checkpoint();
    replica.restart();
    let again = replica.command(&Command::MapJournal { name: "c".into() });
    assert_eq!(again, Outcome::JournalMapped { name: "c".into(), group: 2, new: false });
    let next = replica.command(&Command::MapJournal { name: "f".into() });
    assert_eq!(next, Outcome::JournalMapped { name: "f".into(), group: 2, new: true });
    assert_eq!(replica.ledger.mapped_group("d"), Some(0));
    assert_eq!(replica.ledger.mapped_journals(Some("d")).collect::<Vec<_>>(), [("e", 1), ("f", 2)]);
    let bound = replica.command(&Command::RegisterNode { node_id: 5, incarnation: 11, start: 0, nonce: 0 });
    assert_eq!(bound, Outcome::NodeRegistered { node_id: 5, incarnation: 11, new: true });
    let other = replica.command(&Command::RegisterNode { node_id: 5, incarnation: 99, start: 0, nonce: 0 });
    assert_eq!(other, Outcome::NodeRegistered { node_id: 5, incarnation: 11, new: false });
    assert_eq!(replica.ledger.registered_incarnation(5), Some(11));
    assert_eq!(replica.ledger.registered_incarnation(6), None);
    replica.command(&Command::RegisterNode { node_id: 5, incarnation: 0, start: 0, nonce: 0 });
    assert_eq!(replica.ledger.registered_incarnation(5), None, "loosed");
    replica.command(&Command::RegisterNode { node_id: 5, incarnation: 12, start: 0, nonce: 0 });
    assert_eq!(replica.ledger.registered_incarnation(5), Some(12));
    // Of one directory the last start counts, whatever comes late.
    for (start, nonce, kept) in [(2, 70, (2, 70)), (2, 71, (2, 70)), (1, 72, (2, 70)), (5, 73, (5, 73))] {
        replica.command(&Command::RegisterNode { node_id: 5, incarnation: 12, start, nonce });
        let known = replica.ledger.registered(5).expect("registered");
        assert_eq!((known.incarnation, known.start, known.nonce), (12, kept.0, kept.1));
    }
}

#[test]
fn other_groups_refuse_the_catalogs_commands() {
    let mut replica = Replica::of_group(3);
    let refusal = refused(replica.command(&Command::MapJournal { name: "a".into() }));
    assert_eq!(refusal.reason, Reason::RequestMalformed);
    let created = replica.command(&Command::CreateJournal(settings("a")));
    assert_eq!(created, Outcome::JournalCreated { journal: "a".into() });
    assert_eq!(replica.ledger.journal("a").unwrap().creation().group, 3);
}

#[test]
fn watermarks_are_adopted_as_a_floor() {
    let mut replica = Replica::new();
    for (city, geo, expected) in [(5, 2, (5, 2)), (3, 4, (5, 4)), (9, 0, (9, 4))] {
        let header = ProposalHeader { city_watermark: city, geo_watermark: geo, ..Default::default() };
        replica.apply(Some(ProposalBuilder::new(header).finish()));
        assert_eq!((replica.ledger.city_watermark(), replica.ledger.geo_watermark()), expected);
    }
    replica.checkpoint();
    replica.restart();
    assert_eq!((replica.ledger.city_watermark(), replica.ledger.geo_watermark()), (9, 4));
}

#[test]
fn entries_out_of_order_are_errors_that_change_nothing() {
    let mut replica = Replica::with_journal();
    let payload = replica.builder().finish();
    for index in [0, 2, 7] {
        let error = replica.ledger.apply(1, index, &payload).unwrap_err();
        assert_eq!(error, LedgerError::NotNext { applied: Some(0), got: index });
    }
    assert_eq!(replica.ledger.apply_other(1, 0), Err(LedgerError::NotNext { applied: Some(0), got: 0 }));
    replica.append(vec![payment("k", "AB", 1)]);
    assert_eq!(replica.ledger.applied(), Some((1, 1)));
}

#[test]
fn a_proposal_that_cannot_be_read_stops_the_ledger() {
    let mut replica = Replica::with_journal();
    let mut builder = replica.builder();
    builder.push_prepared(
        &PreparedCommand::append(&request("j", vec![payment("k", "AB", 1), payment("l", "AB", 1)])).unwrap(),
    );
    let mut bytes = builder.finish().to_vec();
    let last = bytes.len() - 1;
    bytes[last] = 1;
    assert!(matches!(replica.try_apply(Some(Bytes::from(bytes))), Err(LedgerError::Malformed(_))));
    assert_eq!(replica.ledger.apply_other(1, 1), Err(LedgerError::Failed));
    assert_eq!(replica.ledger.applied(), Some((1, 0)));
    assert!(replica.ledger.begin_checkpoint().is_none(), "a half-applied state is never written");
}

#[test]
fn new_keys_do_not_touch_the_index_and_old_ones_search_its_runs() {
    let mut replica = Replica::with_journal();
    let keys: Vec<String> = (0..2_000).map(|at| format!("key-{at}")).collect();
    for chunk in keys.chunks(500) {
        replica.append(chunk.iter().map(|key| payment(key, "AB", 1)).collect());
        replica.checkpoint();
    }
    let gets = replica.index.gets.load(Ordering::Relaxed);
    assert!(gets <= 20, "2,000 new keys looked into the index {gets} times");
    let outcome = replica.append(keys[..500].iter().map(|key| payment(key, "AB", 1)).collect());
    assert!(appended(&outcome).iter().all(|entry| matches!(entry, EntryOutcome::Replayed { .. })));
    // Once in each of the four runs at most.
    let looked = replica.index.gets.load(Ordering::Relaxed) - gets;
    assert!((500..=2_000).contains(&looked), "{looked} searches for 500 old keys");
}

#[test]
fn a_failing_index_stops_the_ledger_instead_of_doubling_an_entry() {
    let mut replica = Replica::with_journal();
    replica.append(vec![payment("k", "AB", 1)]);
    replica.checkpoint();
    replica.index.broken.store(true, Ordering::Relaxed);
    let mut builder = replica.builder();
    builder.push_prepared(&PreparedCommand::append(&request("j", vec![payment("k", "AB", 1)])).unwrap());
    let error = replica.try_apply(Some(builder.finish())).unwrap_err();
    assert_eq!(error, LedgerError::Index("no".into()));
    assert_eq!(replica.ledger.apply_other(1, 2), Err(LedgerError::Failed));
}
