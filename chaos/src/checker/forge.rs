//! Makes histories and final logs for tests: true ones by default, and by hand anything else.

use tercet_proto::canonical::{
    BusinessDate, CreationRecord, CurrencySpec, JournalSettings, chain, content_hash, encode_entry,
    entry_hash, sha256, store_part,
};
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;

use super::{Judgement, check};
use crate::history::{
    Attested, Call, Class, EntrySeen, FORMAT, FinalEntry, FinalLog, Hash32, Header, HexBytes, History, Line,
    Observation, Outcome, Place, ReceiptSeen, Sent, StoredVote,
};

pub(super) const JOURNAL: &str = "forged";

/// An entry of two postings; `amount` makes other content under the same key.
pub(super) fn entry(key: &str, amount: i64) -> v1::Entry {
    let posting = |account: &str, side: Side| v1::Posting {
        account: account.into(),
        side: side.into(),
        amount,
        currency: "CZK".into(),
    };
    v1::Entry {
        key: key.into(),
        kind: Kind::Payment.into(),
        business_date: "2026-01-05".into(),
        postings: vec![posting("payer", Side::Debit), posting("payee", Side::Credit)],
        references: None,
        payload: vec![7; 10].into(),
    }
}

fn client_part(key: &str, amount: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_entry(&entry(key, amount), &mut bytes).unwrap();
    bytes
}

pub(super) fn sent(key: &str, amount: i64) -> Sent {
    Sent { key: key.into(), content: Hash32(content_hash(&client_part(key, amount))) }
}

pub(super) struct Forge {
    pub(super) lines: Vec<Line>,
    pub(super) log: FinalLog,
}

impl Forge {
    pub(super) fn new() -> Self {
        let record = CreationRecord {
            settings: JournalSettings {
                name: JOURNAL.into(),
                currencies: vec![CurrencySpec { code: *b"CZK", digits: 2 }],
                class: v1::DurabilityClass::City,
                business_date: BusinessDate::parse("2026-01-05").unwrap(),
            },
            algorithm: v1::HashAlgorithm::Sha256,
            group: 0,
            created_at_us: 1,
        };
        let header = Header {
            format: FORMAT,
            journal: JOURNAL.into(),
            scenario: "forged".into(),
            ..Header::default()
        };
        Self {
            lines: vec![Line::Header(header)],
            log: FinalLog {
                journal: JOURNAL.into(),
                creation_record: HexBytes(record.to_bytes()),
                replicas: ["a1", "a2", "b1", "b2", "c1"].map(String::from).to_vec(),
                gone: Vec::new(),
                balances: None,
                entries: Vec::new(),
            },
        }
    }

    /// Puts an entry at the end of F.
    pub(super) fn commit(&mut self, key: &str, amount: i64) -> ReceiptSeen {
        let seq = self.log.entries.len() as u64 + 1;
        let recorded_at_us = 1_000 + i64::try_from(seq).unwrap();
        let client = client_part(key, amount);
        let hash = entry_hash(&client, &store_part(seq, recorded_at_us));
        let previous = match self.log.entries.last() {
            Some(entry) => entry.chain_hash.0,
            None => sha256(&self.log.creation_record.0),
        };
        let (entry_hash, chain_hash) = (Hash32(hash), Hash32(chain(&previous, &hash)));
        self.log.entries.push(FinalEntry {
            seq,
            recorded_at_us,
            client_part: HexBytes(client),
            entry_hash,
            chain_hash,
        });
        ReceiptSeen { key: key.into(), seq, entry_hash, chain_hash, recorded_at_us, ..ReceiptSeen::default() }
    }

    /// The receipt of what is in F already.
    pub(super) fn receipt(&self, key: &str) -> ReceiptSeen {
        let amount_free = |entry: &&FinalEntry| {
            let (view, _) = tercet_proto::canonical::EntryView::parse(&entry.client_part.0).unwrap();
            view.key() == key
        };
        let entry = self.log.entries.iter().find(amount_free).unwrap();
        ReceiptSeen {
            key: key.into(),
            seq: entry.seq,
            entry_hash: entry.entry_hash,
            chain_hash: entry.chain_hash,
            recorded_at_us: entry.recorded_at_us,
            ..ReceiptSeen::default()
        }
    }

    pub(super) fn invoke(&mut self, op: u64, t: u64, call: Call) {
        self.lines.push(Line::Invoke { t, client: u32::try_from(op).unwrap(), op, via: "a1".into(), call });
    }

    pub(super) fn invoke_append(&mut self, op: u64, t: u64, key: &str) {
        self.invoke(op, t, Call::Append { entries: vec![sent(key, 1)], class: None });
    }

    pub(super) fn returns(&mut self, op: u64, t: u64, outcome: Outcome) {
        self.lines.push(Line::Return { t, op, outcome });
    }

    /// An append that was acknowledged, at the end of F.
    pub(super) fn append(&mut self, op: u64, invoked: u64, returned: u64, key: &str) {
        let receipt = self.commit(key, 1);
        self.invoke_append(op, invoked, key);
        self.returns(op, returned, Outcome::Appended { receipts: vec![receipt] });
    }

    /// An append without an answer, at the end of F or not in it.
    pub(super) fn unknown(&mut self, op: u64, invoked: u64, returned: Option<u64>, key: &str, in_log: bool) {
        self.invoke_append(op, invoked, key);
        if in_log {
            self.commit(key, 1);
        }
        if let Some(t) = returned {
            self.returns(op, t, Outcome::Unknown { message: "timeout".into() });
        }
    }

    pub(super) fn refused(&mut self, op: u64, invoked: u64, returned: u64, key: &str) {
        self.invoke_append(op, invoked, key);
        let outcome = Outcome::Refused { reason: "NO_LEADER".into(), message: String::new() };
        self.returns(op, returned, outcome);
    }

    /// A repetition that got the receipt of what is in F already.
    pub(super) fn replay(&mut self, op: u64, invoked: u64, returned: u64, key: &str) {
        let receipt = ReceiptSeen { replayed: true, ..self.receipt(key) };
        self.invoke_append(op, invoked, key);
        self.returns(op, returned, Outcome::Appended { receipts: vec![receipt] });
    }

    /// A read of the head that saw `seq` entries of F.
    pub(super) fn read(&mut self, op: u64, invoked: u64, returned: u64, seq: u64) {
        let chain_hash =
            match seq.checked_sub(1).and_then(|at| self.log.entries.get(usize::try_from(at).unwrap())) {
                Some(entry) => entry.chain_hash,
                None => Hash32(sha256(&self.log.creation_record.0)),
            };
        self.invoke(op, invoked, Call::ReadHead);
        self.returns(op, returned, Outcome::Head { seq, chain_hash });
    }

    /// A read of F's entries `from..=head`.
    pub(super) fn read_from(&mut self, op: u64, invoked: u64, returned: u64, from: u64, head: u64) {
        let entries = (from..=head)
            .map(|seq| EntrySeen {
                seq,
                entry_hash: self.log.entries[usize::try_from(seq - 1).unwrap()].entry_hash,
            })
            .collect();
        self.invoke(op, invoked, Call::ReadFrom { from });
        self.returns(op, returned, Outcome::Entries { head, entries });
    }

    /// Says where nodes stand: 2-2-1.
    pub(super) fn place(&mut self) {
        let Some(Line::Header(header)) = self.lines.first_mut() else { panic!("the header comes first") };
        header.places = [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c")]
            .map(|(node, zone)| {
                let site = if zone == "c" { "west" } else { "east" };
                (node.to_owned(), Place { zone: zone.into(), site: site.into() })
            })
            .into();
    }

    /// Lets the receipts of an operation attest this.
    pub(super) fn attest(&mut self, op: u64, class: Class, degraded: bool, zones: &[&str]) {
        let Outcome::Appended { receipts } = self.outcome(op) else { panic!("no receipts") };
        for receipt in receipts {
            let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
            receipt.attested = Some(Attested { class, degraded, inherited: false, zones });
        }
    }

    /// As `attest`, by a leader that knows the class from the log.
    pub(super) fn attest_inherited(&mut self, op: u64, class: Class, zones: &[&str]) {
        self.attest(op, class, false, zones);
        let Outcome::Appended { receipts } = self.outcome(op) else { panic!("no receipts") };
        receipts
            .iter_mut()
            .filter_map(|receipt| receipt.attested.as_mut())
            .for_each(|told| told.inherited = true);
    }

    pub(super) fn vote(&mut self, node: &str, term: u64, for_node: u64, committed: bool) {
        let vote = StoredVote { node: node.into(), incarnation: 1, group: 0, term, for_node, committed };
        self.lines.push(Line::Vote(vote));
    }

    pub(super) fn observe(&mut self, t: u64, node: &str, term: u64, role: &str) {
        self.lines.push(Line::Observe(Observation {
            t,
            node: node.into(),
            incarnation: 1,
            group: 0,
            term,
            role: role.into(),
            ..Observation::default()
        }));
    }

    /// The outcome of an operation, to be tampered with.
    pub(super) fn outcome(&mut self, wanted: u64) -> &mut Outcome {
        self.lines
            .iter_mut()
            .find_map(|line| match line {
                Line::Return { op, outcome, .. } if *op == wanted => Some(outcome),
                _ => None,
            })
            .unwrap()
    }

    pub(super) fn history(&self) -> History {
        History::from_lines(self.lines.clone()).unwrap()
    }

    pub(super) fn judge(&self) -> Judgement {
        check(&self.history(), std::slice::from_ref(&self.log))
    }
}
