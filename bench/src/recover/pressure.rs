//! Load that lasts for as long as something else takes, and what it came to meanwhile.
//!
//! Invariants: keys are unique among all loads of a run; a load ends with what it was to last for, and requests that are then
//! under way are given up: they may have been carried out, so whoever needs the exact size asks the nodes.

use std::cell::Cell;
use std::future::Future;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tercet_proto::client::Client;

use super::cluster::{Cluster, Point};
use crate::load::{Case, Outcome, Pace, Recorder, recorder, run as run_load};
use crate::work::WorkArgs;

/// Longer than anything lasts.
const ENDLESS: Duration = Duration::from_secs(86_400);
/// A load that has been answered nothing for so long will not be.
const STALLED: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The loads of a run.
pub(super) struct Loads<'a> {
    work: &'a WorkArgs,
    /// Clients with one entry a request.
    singles: usize,
    /// Clients with batches.
    batch_clients: usize,
    /// Entries of a batch.
    batch: usize,
    made: Cell<usize>,
}

impl<'a> Loads<'a> {
    /// None yet.
    pub(super) fn new(work: &'a WorkArgs, singles: usize, batch_clients: usize, batch: usize) -> Self {
        Self { work, singles, batch_clients, batch, made: Cell::new(0) }
    }

    /// The next case with one entry a request.
    pub(super) fn singles(&self) -> Case {
        self.case(self.singles, 1)
    }

    /// The next case of batches.
    pub(super) fn batches(&self) -> Case {
        self.case(self.batch_clients, self.batch)
    }

    fn case(&self, clients: usize, entries: usize) -> Case {
        let number = self.made.replace(self.made.get() + 1);
        self.work.case(number, Pace::Closed { clients }, entries)
    }
}

/// Runs the load for as long as `work` takes. Its window has no end, and begins after the warm-up.
pub(super) async fn beside<T, F>(
    channels: &[Client],
    mut case: Case,
    recorder: &Arc<Recorder>,
    work: F,
) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    case.measured = ENDLESS;
    tokio::select! {
        done = run_load(&case, channels, recorder) => {
            done?;
            bail!("the load has ended by itself")
        }
        done = work => done,
    }
}

/// Appends batches until the ledger holds `goal` entries, or somewhat more; returns where it is then.
pub(super) async fn fill(cluster: &mut Cluster, loads: &Loads<'_>, goal: u64) -> Result<Point> {
    let (_, before) = cluster.settled().await?;
    if before.entries >= goal {
        return Ok(before);
    }
    let recorder = recorder()?;
    let bar = progress_bar(&format!("filling up to {goal} entries"), goal);
    let filling = async {
        let (mut seen, mut seen_at) = (0, Instant::now());
        loop {
            let appended = recorder.entries_so_far();
            bar.set_position(before.entries + appended);
            if before.entries + appended >= goal {
                return anyhow::Ok(());
            }
            if appended > seen {
                (seen, seen_at) = (appended, Instant::now());
            }
            if seen_at.elapsed() > STALLED {
                bail!("nothing was appended for {STALLED:?}: {:?}", recorder.outcome().first_error);
            }
            tokio::time::sleep(POLL).await;
        }
    };
    beside(cluster.channels(), loads.batches(), &recorder, filling).await?;
    bar.finish_and_clear();
    answered(&recorder.outcome())?;
    Ok(cluster.settled().await?.1)
}

/// An error if a request was not answered.
pub(super) fn answered(outcome: &Outcome) -> Result<()> {
    match &outcome.first_error {
        Some(error) => bail!("{} requests failed, the first: {error}", outcome.failed),
        None => Ok(()),
    }
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress_bar(what: &str, length: u64) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(length) } else { ProgressBar::hidden() };
    // The template is a literal that is known to parse; the default style will do otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg:40} [{wide_bar}] {human_pos}/{human_len} {elapsed}")
    {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}
