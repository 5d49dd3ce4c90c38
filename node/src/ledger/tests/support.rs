//! An index in memory, a replica with its log, and short ways to make requests.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tercet_proto::canonical::{BusinessDate, CurrencySpec, JournalSettings};
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;
use tercet_proto::v1::{AppendRequest, DurabilityClass, Entry, Posting};

use crate::ledger::{
    Command, IndexFault, KeyIndex, Ledger, LedgerError, Outcome, Pair, PreparedCommand, ProposalBuilder,
    ProposalHeader,
};

/// The index of the tests.
#[derive(Default)]
pub(super) struct MapIndex {
    pairs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    pub(super) gets: AtomicUsize,
    pub(super) broken: std::sync::atomic::AtomicBool,
}

impl MapIndex {
    pub(super) fn commit(&self, writes: Vec<(Vec<u8>, Option<Vec<u8>>)>) {
        assert!(writes.is_sorted_by(|a, b| a.0 < b.0), "writes are sorted, no key twice");
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in writes {
            match value {
                Some(value) => pairs.insert(key, value),
                None => pairs.remove(&key),
            };
        }
    }

    pub(super) fn pairs(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn check(&self) -> Result<(), IndexFault> {
        if self.broken.load(Ordering::Relaxed) { Err(IndexFault("no".into())) } else { Ok(()) }
    }
}

impl KeyIndex for MapIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexFault> {
        self.check()?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        Ok(self.pairs.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn floor(&self, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>, IndexFault> {
        self.check()?;
        self.gets.fetch_add(1, Ordering::Relaxed);
        let pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let range = (Bound::Included(prefix), Bound::Included(key));
        Ok(pairs.range::<[u8], _>(range).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexFault> {
        self.check()?;
        for (key, value) in self.pairs() {
            if key.starts_with(prefix) && !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}

/// A ledger with its index and the log that it has applied.
pub(super) struct Replica {
    pub(super) ledger: Ledger,
    pub(super) index: Arc<MapIndex>,
    /// Payloads by log index; none for blank entries.
    pub(super) log: Vec<Option<Bytes>>,
    pub(super) clock_us: i64,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self::of_group(0)
    }

    pub(super) fn of_group(group: u32) -> Self {
        let index = Arc::new(MapIndex::default());
        Self { ledger: Ledger::new(group, index.clone()), index, log: Vec::new(), clock_us: 1_000_000 }
    }

    /// A replica with journal `j` (CZK, EUR; 2026-03-02).
    pub(super) fn with_journal() -> Self {
        let mut replica = Self::new();
        let outcome = replica.command(&Command::CreateJournal(settings("j")));
        assert!(matches!(outcome, Outcome::JournalCreated { .. }), "{outcome:?}");
        replica
    }

    pub(super) fn builder(&self) -> ProposalBuilder {
        ProposalBuilder::new(ProposalHeader {
            leader: 1,
            leader_clock_us: self.clock_us,
            ..Default::default()
        })
    }

    pub(super) fn apply(&mut self, payload: Option<Bytes>) -> Vec<Outcome> {
        self.try_apply(payload).unwrap()
    }

    pub(super) fn try_apply(&mut self, payload: Option<Bytes>) -> Result<Vec<Outcome>, LedgerError> {
        let index = self.log.len() as u64;
        self.log.push(payload.clone());
        match payload {
            Some(payload) => self.ledger.apply(1, index, &payload),
            None => self.ledger.apply_other(1, index).map(|()| Vec::new()),
        }
    }

    pub(super) fn command(&mut self, command: &Command) -> Outcome {
        let mut builder = self.builder();
        builder.push(command).unwrap();
        self.apply(Some(builder.finish())).pop().unwrap()
    }

    /// One proposal with these appends to journal `j`.
    pub(super) fn append_all(&mut self, requests: &[Vec<Entry>]) -> Vec<Outcome> {
        let mut builder = self.builder();
        for entries in requests {
            builder.push_prepared(&PreparedCommand::append(&request("j", entries.clone())).unwrap());
        }
        self.apply(Some(builder.finish()))
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) -> Outcome {
        self.append_all(&[entries]).pop().unwrap()
    }

    /// Writes a whole checkpoint.
    pub(super) fn checkpoint(&mut self) {
        if let Some(checkpoint) = self.ledger.begin_checkpoint() {
            self.index.commit(checkpoint.to_writes());
            self.ledger.finish_checkpoint();
        }
    }

    /// Forgets everything but index and log, restores, and applies the log behind the checkpoint.
    pub(super) fn restart(&mut self) {
        self.ledger = Ledger::restore(self.ledger.group(), self.index.clone()).unwrap();
        let from = self.ledger.applied().map_or(0, |(_, index)| usize::try_from(index).unwrap() + 1);
        for (index, payload) in self.log.iter().enumerate().skip(from) {
            match payload {
                Some(payload) => drop(self.ledger.apply(1, index as u64, payload).unwrap()),
                None => self.ledger.apply_other(1, index as u64).unwrap(),
            }
        }
    }
}

pub(super) fn settings(name: &str) -> JournalSettings {
    JournalSettings {
        name: name.into(),
        currencies: vec![
            CurrencySpec { code: *b"CZK", digits: 2 },
            CurrencySpec { code: *b"EUR", digits: 2 },
        ],
        class: DurabilityClass::City,
        business_date: BusinessDate::parse("2026-03-02").unwrap(),
    }
}

pub(super) fn request(journal: &str, entries: Vec<Entry>) -> AppendRequest {
    AppendRequest { journal: journal.into(), entries, durability_class: 0 }
}

/// A payment of `amount` CZK from `SENDER` to `account`.
pub(super) fn payment(key: &str, account: &str, amount: i64) -> Entry {
    let posting = |account: &str, side: Side| Posting {
        account: account.into(),
        side: side.into(),
        amount,
        currency: "CZK".into(),
    };
    Entry {
        key: key.into(),
        kind: Kind::Payment.into(),
        business_date: "2026-03-02".into(),
        postings: vec![posting("SENDER", Side::Debit), posting(account, Side::Credit)],
        references: None,
        payload: Bytes::new(),
    }
}
