//! How a follower comes back at a given size: killed, stopped cleanly, without its index, and after it has missed something.
//!
//! Invariants: nothing is appended while a node starts, so what it has to reach does not move; a start is over when the node is a
//! follower, knows its leader, and has applied everything that the leader had when the process was started. Memory is the
//! process's peak until then.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tercet_proto::v1;

use super::cluster::{Cluster, Point};
use super::pressure::{Loads, answered, beside, fill, progress_bar};
use crate::bed::note;
use crate::load::recorder;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(10);

/// What a node comes back from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum After {
    /// SIGTERM, which lets it write a last checkpoint.
    CleanStop,
    /// SIGKILL.
    Kill,
    /// SIGKILL, and the index is gone.
    KillWithoutIndex,
    /// SIGKILL, and the others went on.
    Away,
}

impl After {
    /// In words.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::CleanStop => "clean stop",
            Self::Kill => "kill -9",
            Self::KillWithoutIndex => "kill -9, no index",
            Self::Away => "kill -9, away",
        }
    }
}

/// One start.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Start {
    /// What came before.
    pub(crate) after: After,
    /// Entries that the ledger holds.
    pub(crate) entries: u64,
    /// Of these, appended while it was away.
    pub(crate) missed: u64,
    /// How long the clean stop took.
    pub(crate) stop_seconds: Option<f64>,
    /// From the process's start until status answers.
    pub(crate) answers_seconds: f64,
    /// From the process's start until it has applied everything as a follower.
    pub(crate) serves_seconds: f64,
    /// CPU time until then.
    pub(crate) cpu_seconds: f64,
    /// Its highest resident memory until then.
    pub(crate) peak_bytes: u64,
}

/// One size of the ledger.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Size {
    /// The node that was started again and again.
    pub(crate) node: String,
    /// Entries when that began.
    pub(crate) entries: u64,
    /// Its log then.
    pub(crate) log_bytes: u64,
    /// Its index then.
    pub(crate) index_bytes: u64,
    /// In the order in which they were made.
    pub(crate) starts: Vec<Start>,
}

/// Fills the cluster up to `goal` entries and measures every kind of start of `node` there.
pub(super) async fn measure_at(
    cluster: &mut Cluster,
    loads: &Loads<'_>,
    node: &str,
    goal: u64,
    away: Duration,
) -> Result<Size> {
    let point = fill(cluster, loads, goal).await?;
    let data_dir = cluster.data_dir(node);
    let bytes_in = |part: &str| bytes_below(&data_dir.join(part));
    let (log_bytes, index_bytes) = (bytes_in("log")?, bytes_in("index")?);
    let mut starts = Vec::new();
    // Killed first: what was appended since its last checkpoint is then to be applied again, as it would be in earnest.
    for after in [After::Kill, After::CleanStop, After::KillWithoutIndex, After::Away] {
        let start = measure(cluster, loads, node, after, away).await?;
        note(&format!(
            "{} entries, {node} after {}: {:.2} s",
            start.entries,
            after.as_str(),
            start.serves_seconds
        ));
        starts.push(start);
    }
    Ok(Size { node: node.to_owned(), entries: point.entries, log_bytes, index_bytes, starts })
}

async fn measure(
    cluster: &mut Cluster,
    loads: &Loads<'_>,
    node: &str,
    after: After,
    away: Duration,
) -> Result<Start> {
    let (_, before) = cluster.settled().await?;
    let mut stop_seconds = None;
    match after {
        After::CleanStop => stop_seconds = Some(cluster.stop_node(node).await?.as_secs_f64()),
        After::Kill => cluster.kill(node)?,
        After::KillWithoutIndex => {
            cluster.kill(node)?;
            let index = cluster.data_dir(node).join("index");
            std::fs::remove_dir_all(&index).with_context(|| index.display().to_string())?;
        }
        After::Away => {
            cluster.kill(node)?;
            append_for(cluster, loads, away).await?;
        }
    }
    let (_, now) = cluster.settled().await?;
    let begin = Instant::now();
    let answers = start(cluster, node, now).await?;
    let serves = begin.elapsed();
    let usage = cluster.usage(node)?;
    Ok(Start {
        after,
        entries: now.entries,
        missed: now.entries - before.entries,
        stop_seconds,
        answers_seconds: answers.as_secs_f64(),
        serves_seconds: serves.as_secs_f64(),
        cpu_seconds: usage.user_seconds + usage.system_seconds,
        peak_bytes: usage.peak_bytes,
    })
}

/// Lets the rest of the cluster append batches for a while.
async fn append_for(cluster: &Cluster, loads: &Loads<'_>, time: Duration) -> Result<()> {
    let recorder = recorder()?;
    let waiting = async {
        tokio::time::sleep(time).await;
        anyhow::Ok(())
    };
    beside(cluster.channels(), loads.batches(), &recorder, waiting).await?;
    answered(&recorder.outcome())
}

/// Starts a node and waits until it serves everything up to `goal`; returns how long it took until its status answered.
pub(super) async fn start(cluster: &mut Cluster, node: &str, goal: Point) -> Result<Duration> {
    let bar = progress_bar(&format!("{node} starts"), goal.entries);
    let begin = Instant::now();
    cluster.start_node(node)?;
    let mut answers = None;
    loop {
        cluster.check()?;
        let status = cluster.group_of(node).await;
        if let Some(status) = &status {
            let answers = *answers.get_or_insert_with(|| begin.elapsed());
            bar.set_position(status.entries);
            if serves(status, goal) {
                bar.finish_and_clear();
                return Ok(answers);
            }
        }
        if begin.elapsed() >= PATIENCE {
            bail!("{node} does not serve after {PATIENCE:?}; it should reach {goal:?} and says {status:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a node that says this follows a leader and has applied everything up to `goal`.
fn serves(status: &v1::GroupStatus, goal: Point) -> bool {
    status.role == "follower"
        && !status.leader.is_empty()
        && status.applied_index >= goal.last_index
        && status.entries >= goal.entries
}

/// What the files of a directory and of those below it hold together.
fn bytes_below(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let path = entry?.path();
        // A running node replaces files of its index now and then.
        let Ok(metadata) = path.symlink_metadata() else { continue };
        sum += if metadata.is_dir() { bytes_below(&path)? } else { metadata.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_serves_when_it_follows_and_has_applied_everything() {
        let goal = Point { entries: 1_000, last_index: 7 };
        let whole = v1::GroupStatus {
            role: "follower".into(),
            leader: "a1".into(),
            applied_index: 7,
            entries: 1_000,
            ..v1::GroupStatus::default()
        };
        assert!(serves(&whole, goal));
        let but = |change: fn(&mut v1::GroupStatus)| {
            let mut status = whole.clone();
            change(&mut status);
            serves(&status, goal)
        };
        assert!(but(|status| status.entries = 1_001));
        assert!(!but(|status| status.entries = 999));
        assert!(!but(|status| status.applied_index = 6));
        assert!(!but(|status| status.leader.clear()));
        assert!(!but(|status| status.role = "candidate".into()));
    }

    #[test]
    fn files_are_counted_at_every_depth() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("deep")).unwrap();
        std::fs::write(dir.path().join("one"), [0; 10]).unwrap();
        std::fs::write(dir.path().join("deep/two"), [0; 5]).unwrap();
        assert_eq!(bytes_below(dir.path()).unwrap(), 15);
    }
}
