//! The clients: append and read while things go wrong, and keep account of every attempt.
//!
//! Half of the clients each stay with one node, whatever it is, and go on to the next only after several failures in a
//! row; so followers forward, and nodes that are cut off are asked. The other half follow the leader, as applications do.
//!
//! Invariants: every attempt is one operation of the history, invoked before it is sent and returned after its answer; a
//! repetition has the same keys and the same content; what a client sends depends on the seed and on the answers only.

mod client;
mod entries;
mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tercet_proto::client::ClientError;
use tercet_proto::v1;
use tokio::task::JoinSet;

use crate::history::Recorder;
use crate::scenario::WorkloadPlan;
use client::WorkloadClient;
pub use entries::{BUSINESS_DATE, CURRENCIES};
pub(crate) use remote::attested;
pub use remote::{Remote, Seat};

/// The ledger as a client of the workload sees it: one attempt at a time, classified as the history wants it.
pub trait Ledger: Send + Sync + 'static {
    /// One attempt to append.
    fn append(&self, request: &v1::AppendRequest) -> impl Future<Output = crate::history::Outcome> + Send;
    /// The linearizable head.
    fn read_head(&self, journal: &str) -> impl Future<Output = crate::history::Outcome> + Send;
    /// The linearizable entries from a seq to the head.
    fn read_from(&self, journal: &str, from: u64) -> impl Future<Output = crate::history::Outcome> + Send;
    /// The node that is asked, for the history.
    fn via(&self) -> String;
    /// Goes on to another node after failures, if it stays with one.
    fn move_on(&self);
}

/// What the clients have come to so far.
#[derive(Debug, Default)]
pub struct Progress {
    acknowledged: AtomicU64,
    unsuccessful: AtomicU64,
}

impl Progress {
    /// Appends acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Operations refused or of unknown outcome.
    pub fn unsuccessful(&self) -> u64 {
        self.unsuccessful.load(Ordering::Relaxed)
    }
}

/// Running clients. Dropping it aborts them; their open operations are unknown then.
#[derive(Debug)]
pub struct Workload {
    clients: JoinSet<()>,
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Workload {
    /// Starts one client for each of `ledgers`.
    pub fn start<L: Ledger>(
        plan: &WorkloadPlan,
        journal: &str,
        ledgers: Vec<L>,
        recorder: &Recorder,
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let progress = Arc::new(Progress::default());
        let mut clients = JoinSet::new();
        for (number, ledger) in (0_u32..).zip(ledgers) {
            let client = WorkloadClient {
                number,
                journal: journal.to_owned(),
                plan: plan.clone(),
                ledger,
                recorder: recorder.clone(),
                random: SmallRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number))),
                stop: Arc::clone(&stop),
                progress: Arc::clone(&progress),
            };
            clients.spawn(client.run());
        }
        Self { clients, stop, progress }
    }

    /// What they have come to so far.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Lets every client finish its present operation; those that take longer than `patience` are cut off.
    pub async fn stop(mut self, patience: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let all_done = async { while self.clients.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, all_done).await.is_err() {
            tracing::warn!("clients did not finish in time; their last operations are unknown");
        }
    }
}

/// Makes the journal of the workload.
///
/// # Errors
/// The cluster does not make it within the client's deadline.
pub async fn create_journal(
    client: &tercet_proto::client::Client,
    name: &str,
) -> Result<v1::Journal, ClientError> {
    let currencies = CURRENCIES.map(|(code, digits)| v1::Currency { code: code.to_owned(), digits }).to_vec();
    client
        .create_journal(v1::CreateJournalRequest {
            name: name.to_owned(),
            currencies,
            default_class: v1::DurabilityClass::City.into(),
            business_date: BUSINESS_DATE.to_owned(),
        })
        .await
}
