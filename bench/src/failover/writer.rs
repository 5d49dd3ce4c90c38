//! The client: one entry after the other, each sent when the one before is acknowledged.
//!
//! Invariants: the next entry is sent only after an answer to the last one; every acknowledgement is kept until it has been
//! looked for.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tercet_proto::client::Client;
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::load::{BUSINESS_DATE, CURRENCY};

const JOURNAL: &str = "failover";
const PAYLOAD_BYTES: usize = 256;

/// One acknowledged entry.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    /// Its number.
    pub(crate) seq: u64,
    /// Its hash, as the receipt said.
    pub(crate) entry_hash: Bytes,
    /// When the receipt arrived.
    pub(crate) at: Instant,
}

#[derive(Debug, Default)]
struct State {
    acks: Vec<Ack>,
    failed: u64,
}

/// The running client.
pub(crate) struct Writer {
    state: Arc<Mutex<State>>,
    /// When the last acknowledged request had been sent.
    answered: watch::Receiver<Option<Instant>>,
    task: JoinHandle<()>,
}

impl Writer {
    /// Makes the journal and begins to write.
    pub(crate) async fn start(client: Client) -> Result<Self> {
        let request = v1::CreateJournalRequest {
            name: JOURNAL.to_owned(),
            currencies: vec![v1::Currency { code: CURRENCY.to_owned(), digits: 2 }],
            default_class: v1::DurabilityClass::City.into(),
            business_date: BUSINESS_DATE.to_owned(),
        };
        client.create_journal(request).await.context("making the journal")?;
        let state = Arc::<Mutex<State>>::default();
        let (told, answered) = watch::channel(None);
        let task = tokio::spawn(write(client, state.clone(), told));
        Ok(Self { state, answered, task })
    }

    /// Waits until a request that was sent after `since` has been acknowledged.
    pub(crate) async fn answered_since(&mut self, since: Instant, patience: Duration) -> Result<()> {
        let answered = self.answered.wait_for(|sent| sent.is_some_and(|sent| sent >= since));
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the writing client has ended"),
            Err(_) => bail!("the client has not been answered for {patience:?}"),
        }
    }

    /// What has been acknowledged since the last call, and the last one before it.
    pub(crate) fn take(&self) -> Vec<Ack> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let last = state.acks.last().cloned();
        std::mem::replace(&mut state.acks, last.into_iter().collect())
    }

    /// Stops; returns how many requests ended without a receipt.
    pub(crate) fn stop(self) -> u64 {
        self.task.abort();
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed
    }
}

async fn write(client: Client, state: Arc<Mutex<State>>, told: watch::Sender<Option<Instant>>) {
    let payload = Bytes::from(vec![0x5a; PAYLOAD_BYTES]);
    for number in 1_u64.. {
        let request = v1::AppendRequest {
            journal: JOURNAL.to_owned(),
            entries: vec![entry(number, payload.clone())],
            durability_class: v1::DurabilityClass::City.into(),
        };
        let sent = Instant::now();
        let answer = client.append(request).await;
        let at = Instant::now();
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match answer.ok().and_then(|response| response.receipts.into_iter().next()) {
            Some(receipt) => {
                state.acks.push(Ack { seq: receipt.seq, entry_hash: receipt.entry_hash, at });
                drop(state);
                told.send_replace(Some(sent));
            }
            None => state.failed += 1,
        }
    }
}

fn entry(number: u64, payload: Bytes) -> v1::Entry {
    let posting = |account: &str, side: Side| v1::Posting {
        account: account.to_owned(),
        side: side.into(),
        amount: 100,
        currency: CURRENCY.to_owned(),
    };
    v1::Entry {
        key: number.to_string(),
        kind: Kind::Payment.into(),
        business_date: BUSINESS_DATE.to_owned(),
        postings: vec![posting("PAYER", Side::Debit), posting("PAYEE", Side::Credit)],
        references: None,
        payload,
    }
}

/// How many of `acks` a linearizable read does not find as they were acknowledged.
pub(crate) async fn missing(observer: &Client, acks: &[Ack]) -> Result<usize> {
    let (Some(first), Some(last)) =
        (acks.iter().map(|ack| ack.seq).min(), acks.iter().map(|ack| ack.seq).max())
    else {
        return Ok(0);
    };
    let request = v1::ReadRequest {
        journal: JOURNAL.to_owned(),
        from_seq: first,
        to_seq: last,
        consistency: v1::Consistency::Linearizable.into(),
    };
    let mut found = std::collections::HashMap::new();
    let mut entries = observer.read(request);
    while let Some(entry) = std::future::poll_fn(|cx| entries.as_mut().poll_next(cx)).await {
        let entry = entry.context("reading back what was acknowledged")?;
        found.insert(entry.seq, entry.entry_hash);
    }
    Ok(acks.iter().filter(|ack| found.get(&ack.seq) != Some(&ack.entry_hash)).count())
}
