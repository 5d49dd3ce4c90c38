//! Random logs with checkpoints and restarts at random moments, against a naive model that keeps whole entries.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use tercet_proto::canonical::{chain, encode_entry, sha256};
use tercet_proto::reason::Reason;
use tercet_proto::v1::Entry;

use super::support::{Replica, payment, request, settings};
use crate::ledger::{
    Command, EntryOutcome, Outcome, PreparedCommand, ProposalBuilder, ProposalHeader, entries_of,
};

const JOURNALS: [&str; 3] = ["alpha", "beta", "gamma"];

/// One entry of a random request: few keys and few contents, so that replays and conflicts are common.
#[derive(Debug, Clone)]
struct Draft {
    key: u8,
    amount: i64,
    fault: u8,
}

#[derive(Debug, Clone)]
enum Step {
    Append { journal: usize, drafts: Vec<Draft> },
    Create { journal: usize, other_settings: bool },
    Map { journal: usize },
    Form { groups: u32 },
    Register { node: u64, incarnation: u64 },
}

#[derive(Debug, Clone)]
enum Event {
    Proposal { clock_us: i64, steps: Vec<Step> },
    Blank,
    BeginCheckpoint,
    FinishCheckpoint,
    Restart,
}

fn draft() -> impl Strategy<Value = Draft> {
    (0..24_u8, 1..3_i64, 0..60_u8).prop_map(|(key, amount, fault)| Draft { key, amount, fault })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..3_usize, prop::collection::vec(draft(), 1..6))
            .prop_map(|(journal, drafts)| Step::Append { journal, drafts }),
        2 => (0..3_usize, prop::bool::weighted(0.2))
            .prop_map(|(journal, other_settings)| Step::Create { journal, other_settings }),
        1 => (0..3_usize).prop_map(|journal| Step::Map { journal }),
        1 => (1..4_u32).prop_map(|groups| Step::Form { groups }),
        1 => (1..4_u64, 1..4_u64).prop_map(|(node, incarnation)| Step::Register { node, incarnation }),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        10 => (0..1_000_i64, prop::collection::vec(step(), 1..5))
            .prop_map(|(clock_us, steps)| Event::Proposal { clock_us, steps }),
        1 => Just(Event::Blank),
        2 => Just(Event::BeginCheckpoint),
        2 => Just(Event::FinishCheckpoint),
        1 => Just(Event::Restart),
    ]
}

fn entry(draft: &Draft) -> Entry {
    let account = format!("ACC{}", draft.key % 5);
    let mut entry = payment(&format!("key-{}", draft.key), &account, draft.amount);
    match draft.fault {
        0 => entry.business_date = "2026-03-01".into(),
        1 => entry.postings.iter_mut().for_each(|posting| posting.currency = "USD".into()),
        _ => {}
    }
    entry
}

fn client_part(entry: &Entry) -> Vec<u8> {
    let mut client = Vec::new();
    encode_entry(entry, &mut client).unwrap();
    client
}

/// What a journal should be: its entries in order, with the log index and the time of each.
#[derive(Default)]
struct ModelJournal {
    entries: Vec<(Entry, u64, i64)>,
}

#[derive(Default)]
struct Model {
    journals: HashMap<&'static str, ModelJournal>,
    recorded_at_us: i64,
}

/// What an append should come to.
#[derive(Debug, PartialEq)]
enum Expected {
    Seqs(Vec<(u64, bool)>),
    Refused(Reason),
}

impl Model {
    fn append(&mut self, name: &'static str, entries: &[Entry], log_index: u64) -> Expected {
        let recorded_at_us = self.recorded_at_us;
        let Some(journal) = self.journals.get_mut(name) else {
            return Expected::Refused(Reason::JournalNotFound);
        };
        let before = journal.entries.len();
        let (mut seqs, mut conflict, mut other) = (Vec::new(), false, None);
        for entry in entries {
            let known = journal.entries.iter().position(|(known, ..)| known.key == entry.key);
            match known {
                Some(at) if journal.entries[at].0 == *entry => seqs.push((at as u64 + 1, true)),
                Some(at) if at >= before => other = other.or(Some(Reason::KeyRepeated)),
                Some(_) => conflict = true,
                None => {
                    if entry.business_date.as_str() < "2026-03-02" {
                        other = other.or(Some(Reason::BusinessDateClosed));
                    } else if entry.postings[0].currency == "USD" {
                        other = other.or(Some(Reason::CurrencyUnknown));
                    }
                    journal.entries.push((entry.clone(), log_index, recorded_at_us));
                    seqs.push((journal.entries.len() as u64, false));
                }
            }
        }
        match (conflict, other) {
            (false, None) => return Expected::Seqs(seqs),
            (true, _) => other = Some(Reason::KeyConflict),
            _ => {}
        }
        journal.entries.truncate(before);
        Expected::Refused(other.unwrap())
    }
}

fn seen(outcome: &Outcome) -> Expected {
    match outcome {
        Outcome::Refused(refusal) => Expected::Refused(refusal.reason),
        Outcome::Appended { entries, .. } => Expected::Seqs(
            entries
                .iter()
                .map(|entry| (entry.seq(), matches!(entry, EntryOutcome::Replayed { .. })))
                .collect(),
        ),
        other => panic!("{other:?}"),
    }
}

fn build(clock_us: i64, steps: &[Step]) -> bytes::Bytes {
    let mut builder =
        ProposalBuilder::new(ProposalHeader { leader_clock_us: clock_us, ..Default::default() });
    for step in steps {
        match step {
            Step::Append { journal, drafts } => {
                let entries = drafts.iter().map(entry).collect();
                builder
                    .push_prepared(&PreparedCommand::append(&request(JOURNALS[*journal], entries)).unwrap());
            }
            Step::Create { journal, other_settings } => {
                let mut settings = settings(JOURNALS[*journal]);
                settings.currencies.truncate(if *other_settings { 1 } else { 2 });
                builder.push(&Command::CreateJournal(settings)).unwrap();
            }
            Step::Map { journal } => {
                builder.push(&Command::MapJournal { name: JOURNALS[*journal].into() }).unwrap()
            }
            Step::Form { groups } => {
                builder.push(&Command::FormCluster { cluster_id: [1; 16], groups: *groups }).unwrap();
            }
            Step::Register { node, incarnation } => {
                builder
                    .push(&Command::RegisterNode {
                        node_id: *node,
                        incarnation: *incarnation,
                        start: 0,
                        nonce: 0,
                    })
                    .unwrap();
            }
        }
    }
    builder.finish()
}

/// Applies a proposal to replica and model and compares the outcomes.
fn apply(replica: &mut Replica, model: &mut Model, clock_us: i64, steps: &[Step]) {
    let log_index = replica.log.len() as u64;
    model.recorded_at_us = model.recorded_at_us.max(clock_us);
    let outcomes = replica.apply(Some(build(clock_us, steps)));
    assert_eq!(outcomes.len(), steps.len());
    for (step, outcome) in steps.iter().zip(&outcomes) {
        match step {
            Step::Append { journal, drafts } => {
                let entries: Vec<Entry> = drafts.iter().map(entry).collect();
                assert_eq!(seen(outcome), model.append(JOURNALS[*journal], &entries, log_index));
            }
            Step::Create { journal, .. } => {
                let known = model.journals.contains_key(JOURNALS[*journal]);
                assert_eq!(matches!(outcome, Outcome::JournalCreated { .. }), !known, "{outcome:?}");
                model.journals.entry(JOURNALS[*journal]).or_default();
            }
            _ => {}
        }
    }
}

/// Everything that can be read equals the model: entries from the log, the chain, keys, balances, heads.
fn check(replica: &Replica, model: &Model) {
    for (name, expected) in &model.journals {
        let journal = replica.ledger.journal(name).unwrap();
        assert_eq!(journal.head().seq, expected.entries.len() as u64);
        let mut previous = sha256(journal.creation_bytes());
        let mut balances: BTreeMap<(String, String), (u128, u128)> = BTreeMap::new();
        for (at, (entry, log_index, recorded_at_us)) in expected.entries.iter().enumerate() {
            let seq = at as u64 + 1;
            let mark = replica.ledger.locate(name, seq).unwrap().unwrap();
            assert_eq!(mark.log_index, *log_index);
            let payload = replica.log[usize::try_from(*log_index).unwrap()].as_ref().unwrap();
            let stored: Vec<_> = entries_of(&mark, payload, name).unwrap().map(Result::unwrap).collect();
            assert_eq!(stored.len(), usize::try_from(mark.count).unwrap());
            let view = stored[usize::try_from(seq - mark.first_seq).unwrap()];
            assert_eq!((view.seq, view.recorded_at_us), (seq, *recorded_at_us));
            assert_eq!(view.entry.client_part(), client_part(entry));
            previous = chain(&previous, &view.entry_hash);
            assert_eq!(view.chain_hash, previous);
            assert_eq!(replica.ledger.locate_key(name, &entry.key).unwrap(), Some(seq));
            for posting in &entry.postings {
                let key = (posting.account.clone(), posting.currency.clone());
                let sums = balances.entry(key).or_default();
                let sum = if posting.side == 1 { &mut sums.0 } else { &mut sums.1 };
                *sum += u128::from(posting.amount.unsigned_abs());
            }
            let head = replica.ledger.head_at(name, *log_index).unwrap().unwrap();
            assert_eq!(head.seq, mark.last_seq());
            assert_eq!(head.chain_hash, stored.last().unwrap().chain_hash);
        }
        assert_eq!(journal.head().chain_hash, previous);
        let listed: BTreeMap<_, _> = journal
            .balances(None, None, usize::MAX)
            .into_iter()
            .map(|row| ((row.account, row.currency), (row.totals.debits, row.totals.credits)))
            .collect();
        assert_eq!(listed, balances);
        let sums = balances.values().fold((0, 0), |sums, row| (sums.0 + row.0, sums.1 + row.1));
        assert_eq!(sums.0, sums.1, "debits equal credits");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn random_logs_agree_with_the_model_and_restarts_change_nothing(
        events in prop::collection::vec(event(), 1..40)
    ) {
        let mut steady = Replica::new();
        let mut restarted = Replica::new();
        let (mut model, mut again) = (Model::default(), Model::default());
        let mut writing = None;
        for event in &events {
            match event {
                Event::Proposal { clock_us, steps } => {
                    apply(&mut steady, &mut model, *clock_us, steps);
                    apply(&mut restarted, &mut again, *clock_us, steps);
                }
                Event::Blank => {
                    steady.apply(None);
                    restarted.apply(None);
                }
                Event::BeginCheckpoint => {
                    if writing.is_none() {
                        writing = restarted.ledger.begin_checkpoint();
                    }
                }
                Event::FinishCheckpoint => {
                    if let Some(checkpoint) = writing.take() {
                        restarted.index.commit(checkpoint.to_writes());
                        restarted.ledger.finish_checkpoint();
                    }
                }
                Event::Restart => {
                    // What was being written is lost.
                    writing = None;
                    restarted.restart();
                }
            }
            prop_assert_eq!(steady.ledger.digest().unwrap(), restarted.ledger.digest().unwrap());
        }
        check(&steady, &model);
        check(&restarted, &model);
        restarted.restart();
        check(&restarted, &model);
        restarted.checkpoint();
        restarted.restart();
        prop_assert_eq!(steady.ledger.digest().unwrap(), restarted.ledger.digest().unwrap());
        check(&restarted, &model);
    }
}
