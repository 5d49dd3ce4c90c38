//! The load. Closed loop: each client sends its next request when it has the answer to the last. Open loop: requests are due at
//! a rate, whatever became of earlier ones, and a latency begins when its request was due.
//!
//! Invariants: what is counted was due after the warm-up and before the end (in a closed loop it was answered before the end,
//! too); a failed request counts as failed and never as a latency; every entry has a key of its own.

mod pace;
mod recorder;
mod requests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tercet_proto::client::{Appender, Client, ClientError};
use tercet_proto::v1;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub(crate) use recorder::{Outcome, Recorder, Second};
pub(crate) use requests::{BUSINESS_DATE, CURRENCY, Work};

use pace::pace;
use requests::{Request, Requests};

/// Longest latency that is told apart.
const HIGHEST_NS: u64 = 120_000_000_000;
/// Requests under way at once in an open loop; above, they wait, and their latency grows.
const OUTSTANDING_MAX: usize = 8_192;
/// How long the last requests of an open loop may take.
const DRAIN: Duration = Duration::from_secs(30);

/// A histogram of nanoseconds, three digits.
pub(crate) fn new_histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, HIGHEST_NS, 3).context("making a histogram")
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// By so many clients, one after the other.
    Closed {
        /// Concurrent clients.
        clients: usize,
    },
    /// So many a second, evenly spaced.
    Open {
        /// Requests a second.
        per_second: f64,
    },
}

/// One case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// When requests are sent.
    pub(crate) pace: Pace,
    /// Entries of each append.
    pub(crate) entries: usize,
    /// What requests are like.
    pub(crate) work: Work,
    /// Not counted.
    pub(crate) warm_up: Duration,
    /// Counted.
    pub(crate) measured: Duration,
    /// Makes keys unique among cases.
    pub(crate) number: usize,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    /// The warm-up's end.
    pub(crate) from: Instant,
    /// The end.
    pub(crate) to: Instant,
}

/// Runs a case over `channels`; clients share them evenly. `recorder` can be watched meanwhile.
pub(crate) async fn run(case: &Case, channels: &[Client], recorder: &Arc<Recorder>) -> Result<()> {
    let begin = Instant::now();
    let window = Window { from: begin + case.warm_up, to: begin + case.warm_up + case.measured };
    recorder.start(window);
    match case.pace {
        Pace::Closed { clients } => closed(case, clients, channels, window, recorder).await,
        Pace::Open { per_second } => open(case, per_second, channels, window, recorder).await,
    }
}

/// A recorder for one case.
pub(crate) fn recorder() -> Result<Arc<Recorder>> {
    Ok(Arc::new(Recorder::new()?))
}

async fn closed(
    case: &Case,
    clients: usize,
    channels: &[Client],
    window: Window,
    recorder: &Arc<Recorder>,
) -> Result<()> {
    let mut running = JoinSet::new();
    for (number, channel) in channels.iter().cycle().take(clients).enumerate() {
        let mut requests = Requests::new(case, number);
        let (channel, recorder) = (channel.clone(), recorder.clone());
        let mut appender = (!case.work.unary).then(|| channel.appender());
        running.spawn(async move {
            loop {
                let begin = Instant::now();
                if begin >= window.to {
                    return;
                }
                let request = requests.next(&recorder);
                let (is_read, entries) = (request.is_read(), request.entries());
                let failure = send(&channel, appender.as_mut(), request, &recorder).await.err();
                let end = Instant::now();
                match failure {
                    Some(error) => recorder.fail(&error),
                    None if end <= window.to => recorder.answered(is_read, entries, begin, end),
                    None => {}
                }
            }
        });
    }
    while let Some(done) = running.join_next().await {
        done.context("a client of the load")?;
    }
    Ok(())
}

async fn open(
    case: &Case,
    per_second: f64,
    channels: &[Client],
    window: Window,
    recorder: &Arc<Recorder>,
) -> Result<()> {
    let mut due = pace(window.from - case.warm_up, window.to, per_second)?;
    let mut requests = Requests::new(case, 0);
    let permits = Arc::new(Semaphore::new(OUTSTANDING_MAX));
    let mut running = JoinSet::new();
    let mut channels = channels.iter().cycle();
    while let Some(at) = due.recv().await {
        let permit = permits.clone().acquire_owned().await?;
        let channel = channels.next().context("no channel")?.clone();
        let (request, recorder) = (requests.next(recorder), recorder.clone());
        running.spawn(async move {
            let (is_read, entries) = (request.is_read(), request.entries());
            match send(&channel, None, request, &recorder).await {
                Ok(()) => recorder.answered(is_read, entries, at, Instant::now()),
                Err(error) => recorder.fail(&error),
            }
            drop(permit);
        });
        while running.try_join_next().is_some() {}
    }
    let drained = async { while running.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        recorder.abandon(running.len() as u64);
    }
    Ok(())
}

async fn send(
    channel: &Client,
    appender: Option<&mut Appender>,
    request: Request,
    recorder: &Recorder,
) -> Result<(), ClientError> {
    match request {
        Request::Append(request) => {
            let answer = match appender {
                Some(appender) => appender.append(request).await?,
                None => channel.append(request).await?,
            };
            if let Some(last) = answer.receipts.last() {
                recorder.learn_seq(&last.journal, last.seq);
            }
            Ok(())
        }
        Request::Read(request) => channel.get_entry(request).await.map(|_: v1::StoredEntry| ()),
    }
}
