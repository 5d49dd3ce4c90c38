//! The closed-loop append load: each client sends its next request when it has the answer to the last.
//!
//! Invariants: what is counted was sent and answered after the warm-up and answered before the end; a failed request counts
//! as failed and never as a latency; every entry has a key of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tercet_proto::client::Client;
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;
use tokio::task::JoinSet;

use crate::floor::nanos;

/// The journal's business date.
pub(crate) const BUSINESS_DATE: &str = "2026-01-05";
/// The journal's currency.
pub(crate) const CURRENCY: &str = "CNY";
/// Payers and payees.
const ACCOUNTS: u64 = 1_000;
/// Longest latency that is told apart.
const HIGHEST_NS: u64 = 120_000_000_000;

/// A histogram of nanoseconds, three digits.
pub(crate) fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, HIGHEST_NS, 3).context("making a histogram")
}

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// Concurrent clients.
    pub(crate) clients: usize,
    /// Entries of each request.
    pub(crate) entries: usize,
    /// Payload of each entry.
    pub(crate) payload_bytes: usize,
    /// Durability.
    pub(crate) class: v1::DurabilityClass,
    /// Not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) measured: Duration,
    /// Makes keys unique among cases.
    pub(crate) number: usize,
}

/// What a case came to.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of one request each, in nanoseconds.
    pub(crate) latency: Histogram<u64>,
    /// Requests that ended without a receipt, warm-up included.
    pub(crate) failed: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
    /// How long was counted.
    pub(crate) measured: Duration,
}

/// Requests answered so far, for whoever watches.
#[derive(Debug, Default, Clone)]
pub(crate) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Requests answered.
    pub(crate) fn answered(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a case over `channels`; clients share them evenly.
pub(crate) async fn run(
    case: &Case,
    journal: &str,
    channels: &[Client],
    progress: &Progress,
) -> Result<Outcome> {
    let begin = Instant::now();
    let window = Window { from: begin + case.warm_up, to: begin + case.warm_up + case.measured };
    let payload = Bytes::from(vec![0xa5; case.payload_bytes]);
    let mut clients = JoinSet::new();
    for (number, channel) in channels.iter().cycle().take(case.clients).enumerate() {
        let client = LoadClient {
            channel: channel.clone(),
            case: case.clone(),
            journal: journal.to_owned(),
            payload: payload.clone(),
            number,
            sent: 0,
        };
        clients.spawn(client.run(window, progress.clone()));
    }
    let mut outcome =
        Outcome { latency: new_histogram()?, failed: 0, first_error: None, measured: case.measured };
    while let Some(done) = clients.join_next().await {
        let theirs = done.context("a client of the load")??;
        outcome.latency.add(&theirs.latency).context("adding histograms")?;
        outcome.failed += theirs.failed;
        outcome.first_error = outcome.first_error.or(theirs.first_error);
    }
    Ok(outcome)
}

#[derive(Debug, Clone, Copy)]
struct Window {
    from: Instant,
    to: Instant,
}

struct LoadClient {
    channel: Client,
    case: Case,
    journal: String,
    payload: Bytes,
    number: usize,
    sent: u64,
}

impl LoadClient {
    async fn run(mut self, window: Window, progress: Progress) -> Result<Outcome> {
        let mut outcome =
            Outcome { latency: new_histogram()?, failed: 0, first_error: None, measured: self.case.measured };
        while Instant::now() < window.to {
            let request = self.request();
            let begin = Instant::now();
            let answer = self.channel.append(request).await;
            let end = Instant::now();
            match answer {
                Ok(_) => {
                    progress.0.fetch_add(1, Ordering::Relaxed);
                    if begin >= window.from && end <= window.to {
                        outcome.latency.saturating_record(nanos(end - begin));
                    }
                }
                Err(error) => {
                    outcome.failed += 1;
                    outcome.first_error.get_or_insert_with(|| error.to_string());
                }
            }
        }
        Ok(outcome)
    }

    fn request(&mut self) -> v1::AppendRequest {
        let entries = (0..self.case.entries).map(|_| self.entry()).collect();
        v1::AppendRequest { journal: self.journal.clone(), entries, durability_class: self.case.class.into() }
    }

    fn entry(&mut self) -> v1::Entry {
        self.sent += 1;
        // Spread over the accounts without a random generator in the loop.
        let spread = self.sent.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let posting = |account: String, side: Side| v1::Posting {
            account,
            side: side.into(),
            amount: 100,
            currency: CURRENCY.to_owned(),
        };
        v1::Entry {
            key: format!("{}-{}-{}", self.case.number, self.number, self.sent),
            kind: Kind::Payment.into(),
            business_date: BUSINESS_DATE.to_owned(),
            postings: vec![
                posting(format!("payer-{}", spread % ACCOUNTS), Side::Debit),
                posting(format!("payee-{}", spread / ACCOUNTS % ACCOUNTS), Side::Credit),
            ],
            references: None,
            payload: self.payload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tercet_proto::canonical::encode_entry;
    use tercet_proto::client::ClientOptions;

    use super::*;

    fn client(number: usize) -> LoadClient {
        let channel = Client::connect(vec!["127.0.0.1:1".into()], ClientOptions::default()).unwrap();
        let case = Case {
            clients: 2,
            entries: 100,
            payload_bytes: 256,
            class: v1::DurabilityClass::City,
            warm_up: Duration::ZERO,
            measured: Duration::ZERO,
            number: 3,
        };
        let payload = Bytes::from(vec![1; 256]);
        LoadClient { channel, case, journal: "bench".into(), payload, number, sent: 0 }
    }

    #[tokio::test]
    async fn requests_are_valid_and_keys_are_unique() {
        let mut keys = BTreeSet::new();
        let mut accounts = BTreeSet::new();
        for mut client in [client(0), client(1)] {
            for _ in 0..3 {
                for entry in client.request().entries {
                    encode_entry(&entry, &mut Vec::new()).unwrap();
                    keys.insert(entry.key);
                    accounts.extend(entry.postings.into_iter().map(|posting| posting.account));
                }
            }
        }
        assert_eq!(keys.len(), 600);
        assert!(accounts.len() > 200, "{} accounts", accounts.len());
    }
}
