//! The requests of a load: payments over many accounts, and reads of what was appended before.
//!
//! Invariants: every entry is balanced and has a key of its own; the choice of accounts, journals and reads follows from the
//! number of the request, with no random generator in the loop.

use bytes::Bytes;
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::get_entry_request::By;
use tercet_proto::v1::posting::Side;

use super::Case;
use super::recorder::Recorder;

/// The journals' business date.
pub(crate) const BUSINESS_DATE: &str = "2026-01-05";
/// The journals' currency.
pub(crate) const CURRENCY: &str = "CNY";

/// What requests are like.
#[derive(Debug, Clone)]
pub(crate) struct Work {
    /// The journals, in turn.
    pub(crate) journals: Vec<String>,
    /// Payload of each entry.
    pub(crate) payload_bytes: usize,
    /// Durability.
    pub(crate) class: v1::DurabilityClass,
    /// Payers and as many payees.
    pub(crate) accounts: u64,
    /// Of 100 entries, those between the first payer and the first payee.
    pub(crate) hot_percent: u64,
    /// Of 100 requests, those that read one earlier entry.
    pub(crate) read_percent: u64,
    /// What reads ask for.
    pub(crate) consistency: v1::Consistency,
    /// A closed loop's appends are a call each, not messages of a client's stream.
    pub(crate) unary: bool,
}

/// One request.
pub(super) enum Request {
    Append(v1::AppendRequest),
    Read(v1::GetEntryRequest),
}

impl Request {
    pub(super) fn is_read(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// Entries that it appends.
    pub(super) fn entries(&self) -> u64 {
        match self {
            Self::Append(request) => request.entries.len() as u64,
            Self::Read(_) => 0,
        }
    }
}

/// The requests of one client.
pub(super) struct Requests {
    work: Work,
    entries: usize,
    payload: Bytes,
    prefix: String,
    made: u64,
    sent: u64,
}

/// Spreads numbers over 32 bits (Fibonacci hashing).
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

impl Requests {
    pub(super) fn new(case: &Case, client: usize) -> Self {
        Self {
            work: case.work.clone(),
            entries: case.entries,
            payload: Bytes::from(vec![0xa5; case.work.payload_bytes]),
            prefix: format!("{}-{client}", case.number),
            // Clients begin at different journals.
            made: client as u64,
            sent: 0,
        }
    }

    pub(super) fn next(&mut self, recorder: &Recorder) -> Request {
        self.made += 1;
        let choice = spread(self.made);
        let journals = self.work.journals.len().max(1) as u64;
        #[expect(clippy::cast_possible_truncation, reason = "below the number of journals")]
        let journal = self.work.journals[(self.made % journals) as usize].clone();
        let highest = recorder.highest_seq(&journal);
        if choice % 100 < self.work.read_percent && highest > 0 {
            return Request::Read(v1::GetEntryRequest {
                journal,
                by: Some(By::Seq(1 + spread(choice) % highest)),
                consistency: self.work.consistency.into(),
            });
        }
        let entries = (0..self.entries).map(|_| self.entry()).collect();
        Request::Append(v1::AppendRequest { journal, entries, durability_class: self.work.class.into() })
    }

    fn entry(&mut self) -> v1::Entry {
        self.sent += 1;
        let spread = spread(self.sent);
        let accounts = self.work.accounts;
        let is_hot = spread % 100 < self.work.hot_percent;
        let account = |choice: u64| if is_hot { 0 } else { choice % accounts };
        let posting = |account: String, side: Side| v1::Posting {
            account,
            side: side.into(),
            amount: 100,
            currency: CURRENCY.to_owned(),
        };
        v1::Entry {
            key: format!("{}-{}", self.prefix, self.sent),
            kind: Kind::Payment.into(),
            business_date: BUSINESS_DATE.to_owned(),
            postings: vec![
                posting(format!("payer-{}", account(spread)), Side::Debit),
                posting(format!("payee-{}", account(spread / accounts)), Side::Credit),
            ],
            references: None,
            payload: self.payload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use tercet_proto::canonical::encode_entry;

    use super::*;
    use crate::load::Pace;

    fn case(read_percent: u64, hot_percent: u64) -> Case {
        Case {
            pace: Pace::Closed { clients: 2 },
            entries: 100,
            work: Work {
                journals: vec!["bench".into(), "other".into()],
                payload_bytes: 256,
                class: v1::DurabilityClass::City,
                accounts: 1_000,
                hot_percent,
                read_percent,
                consistency: v1::Consistency::Linearizable,
                unary: false,
            },
            warm_up: Duration::ZERO,
            measured: Duration::ZERO,
            number: 3,
        }
    }

    #[test]
    fn appends_are_valid_and_keys_are_unique() {
        let recorder = Recorder::new().unwrap();
        let (mut keys, mut accounts, mut journals) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for mut client in [Requests::new(&case(0, 0), 0), Requests::new(&case(0, 0), 1)] {
            for _ in 0..3 {
                let Request::Append(request) = client.next(&recorder) else { panic!("an append") };
                journals.insert(request.journal);
                for entry in request.entries {
                    encode_entry(&entry, &mut Vec::new()).unwrap();
                    keys.insert(entry.key);
                    accounts.extend(entry.postings.into_iter().map(|posting| posting.account));
                }
            }
        }
        assert_eq!((keys.len(), journals.len()), (600, 2));
        assert!(accounts.len() > 200, "{} accounts", accounts.len());
    }

    #[test]
    fn reads_and_hot_accounts_have_their_share() {
        let recorder = Recorder::new().unwrap();
        let mut client = Requests::new(&case(30, 50), 0);
        assert!(!client.next(&recorder).is_read(), "there is nothing to read yet");
        recorder.learn_seq("bench", 1_000);
        recorder.learn_seq("other", 1_000);
        let (mut reads, mut hot, mut entries) = (0, 0, 0);
        for _ in 0..1_000 {
            match client.next(&recorder) {
                Request::Read(request) => {
                    assert!(matches!(request.by, Some(By::Seq(1..=1_000))));
                    reads += 1;
                }
                Request::Append(request) => {
                    entries += request.entries.len();
                    hot += request.entries.iter().filter(|e| e.postings[0].account == "payer-0").count();
                }
            }
        }
        assert!((250..350).contains(&reads), "{reads} of 1000 requests read");
        assert!((45..56).contains(&(hot * 100 / entries)), "{hot} of {entries} entries are hot");
    }
}
