//! A new node is seeded while the cluster works: throughput before, meanwhile and after, and how it gets on.
//!
//! ```text
//! load      |--- warm-up ---|--- before ---|------ meanwhile ------|--- warm-up ---|--- after ---|
//! newcomer                                 started, added ... caught up, removed, stopped
//! ```
//!
//! Invariants: one load runs through all of it, so nothing but the newcomer changes; it has caught up when its log, by the
//! leader's word, and what it has applied, by its own, lag by fewer than [`LAG_MAX`] proposals behind the leader's log.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

use super::cluster::{Cluster, NEWCOMER, Point};
use super::pressure::{Loads, beside, progress_bar};
use crate::bed::note;
use crate::load::{Recorder, Second, recorder};
use crate::report::median;
use crate::work::name_of;

/// A node that lags by fewer proposals has caught up.
const LAG_MAX: u64 = 64;
/// How long seeding may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// How long the newcomer may take until its status answers.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// The newcomer's progress is kept so often.
const NOTED_EVERY_SECONDS: f64 = 0.5;

/// How far the newcomer was, as status showed it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Progress {
    /// Since its process was started.
    pub(crate) seconds: f64,
    /// Ledger entries that it had applied.
    pub(crate) entries: u64,
    /// Proposals that it had applied.
    pub(crate) applied_index: u64,
    /// Proposals that it held, by the leader's word.
    pub(crate) matched_index: u64,
    /// Where the leader's log ended.
    pub(crate) leader_index: u64,
}

/// The load during one phase.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Phase {
    /// How long it lasted.
    pub(crate) seconds: f64,
    /// Entries acknowledged each second.
    pub(crate) entries_per_second: f64,
    /// The median of its seconds' p99; none: it has no whole second.
    pub(crate) p99_us: Option<f64>,
}

/// What seeding came to.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Seeding {
    /// The load in words.
    pub(crate) load: String,
    /// Entries when the load began.
    pub(crate) entries: u64,
    /// Before the newcomer was started.
    pub(crate) before: Phase,
    /// From then until it had caught up.
    pub(crate) meanwhile: Phase,
    /// When it was gone again.
    pub(crate) after: Phase,
    /// Throughput meanwhile over the mean of before and after.
    pub(crate) ratio: f64,
    /// From its start until it had caught up.
    pub(crate) took_seconds: f64,
    /// Entries that it had applied then.
    pub(crate) seeded_entries: u64,
    /// Its highest resident memory until then.
    pub(crate) peak_bytes: u64,
    /// Every half second, and the end.
    pub(crate) progress: Vec<Progress>,
    /// Requests without an answer.
    pub(crate) failed: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
}

/// Moments of the load, with the entries acknowledged so far.
#[derive(Debug, Clone, Copy)]
struct Moment {
    at: Instant,
    entries: u64,
}

impl Moment {
    fn now(recorder: &Recorder) -> Self {
        Self { at: Instant::now(), entries: recorder.entries_so_far() }
    }
}

/// Seeds the newcomer under load, and takes it out again.
pub(super) async fn measure(cluster: &mut Cluster, loads: &Loads<'_>) -> Result<Seeding> {
    let (_, point) = cluster.settled().await?;
    let case = loads.singles();
    let recorder = recorder()?;
    let (warm_up, measured) = (case.warm_up, case.measured);
    // The load borrows the cluster while nodes come and go: it gets handles of its own.
    let channels = cluster.channels().to_vec();
    let load_began = Instant::now();
    let work_done = async {
        tokio::time::sleep(warm_up).await;
        let began = Moment::now(&recorder);
        tokio::time::sleep(measured).await;
        let started = Moment::now(&recorder);
        let (progress, peak_bytes) = seed(cluster, point).await?;
        let caught_up = Moment::now(&recorder);
        cluster.change_newcomer(Change::Remove).await?;
        cluster.stop_node(NEWCOMER).await?;
        tokio::time::sleep(warm_up).await;
        let alone = Moment::now(&recorder);
        tokio::time::sleep(measured).await;
        anyhow::Ok(([began, started, caught_up, alone, Moment::now(&recorder)], progress, peak_bytes))
    };
    let name = name_of(&case);
    let (moments, progress, peak_bytes) = beside(&channels, case, &recorder, work_done).await?;
    let outcome = recorder.outcome();
    let window_began = load_began + warm_up;
    let phase = |from: Moment, to: Moment| phase(&outcome.series, window_began, from, to);
    let [began, started, caught_up, alone, end] = moments;
    let (before, meanwhile, after) = (phase(began, started), phase(started, caught_up), phase(alone, end));
    Ok(Seeding {
        load: name,
        entries: point.entries,
        before,
        meanwhile,
        after,
        ratio: meanwhile.entries_per_second * 2.0 / (before.entries_per_second + after.entries_per_second),
        took_seconds: meanwhile.seconds,
        seeded_entries: progress.last().map_or(0, |last| last.entries),
        peak_bytes,
        progress,
        failed: outcome.failed,
        first_error: outcome.first_error,
    })
}

/// Starts the newcomer, adds it, and waits until it has caught up; returns its progress and its peak memory.
async fn seed(cluster: &mut Cluster, from: Point) -> Result<(Vec<Progress>, u64)> {
    let begin = Instant::now();
    cluster.start_node(NEWCOMER)?;
    while cluster.group_of(NEWCOMER).await.is_none() {
        cluster.check()?;
        if begin.elapsed() >= START_PATIENCE {
            bail!("{NEWCOMER} does not answer after {START_PATIENCE:?}");
        }
        tokio::time::sleep(POLL).await;
    }
    let members = cluster.change_newcomer(Change::Add).await?;
    if !members.learners.iter().any(|learner| learner == NEWCOMER) {
        bail!("{NEWCOMER} was added, and the learners are {:?}", members.learners);
    }
    let bar = progress_bar(&format!("{NEWCOMER} is seeded"), from.entries);
    let mut seen: Vec<Progress> = Vec::new();
    while begin.elapsed() < PATIENCE {
        cluster.check()?;
        if let Some(now) = look(cluster, begin).await {
            bar.set_length(from.entries.max(now.entries));
            bar.set_position(now.entries);
            if now.has_caught_up()
                || seen.last().is_none_or(|last| now.seconds >= last.seconds + NOTED_EVERY_SECONDS)
            {
                seen.push(now);
            }
            if now.has_caught_up() {
                bar.finish_and_clear();
                note(&format!("{NEWCOMER} has caught up after {:.1} s", now.seconds));
                return Ok((seen, cluster.usage(NEWCOMER)?.peak_bytes));
            }
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("{NEWCOMER} has not caught up after {PATIENCE:?}; status shows {:?}", seen.last())
}

/// The newcomer's progress; none while it or the leader does not answer, or the leader does not count it among its replicas.
async fn look(cluster: &Cluster, begin: Instant) -> Option<Progress> {
    // Itself first: what it has applied is then never ahead of what the leader says.
    let own = cluster.group_of(NEWCOMER).await?;
    let leads = cluster.group_of(&own.leader).await?;
    progress(&own, &leads, begin.elapsed())
}

fn progress(own: &v1::GroupStatus, leads: &v1::GroupStatus, since: Duration) -> Option<Progress> {
    let replica = leads.replicas.iter().find(|replica| replica.node == NEWCOMER)?;
    Some(Progress {
        seconds: since.as_secs_f64(),
        entries: own.entries,
        applied_index: own.applied_index,
        matched_index: replica.matched_index,
        leader_index: leads.last_index,
    })
}

impl Progress {
    fn has_caught_up(&self) -> bool {
        let lag = self.leader_index.saturating_sub(self.matched_index.min(self.applied_index));
        self.matched_index > 0 && lag < LAG_MAX
    }
}

/// The load between two moments; `series` begins at `window_began`.
fn phase(series: &[Second], window_began: Instant, from: Moment, to: Moment) -> Phase {
    let seconds = (to.at - from.at).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let entries = (to.entries - from.entries) as f64;
    let since = |moment: Moment| moment.at.saturating_duration_since(window_began).as_secs_f64();
    let (first, end) = (since(from).ceil(), since(to).floor());
    #[expect(clippy::cast_precision_loss, reason = "a number of seconds")]
    let whole: Vec<f64> = series
        .iter()
        .enumerate()
        .filter(|(number, _)| (*number as f64) >= first && (*number as f64) < end)
        .map(|(_, second)| second.p99_us)
        .collect();
    Phase {
        seconds,
        entries_per_second: entries / seconds,
        p99_us: (!whole.is_empty()).then(|| median(whole)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newcomer_has_caught_up_by_its_own_word_and_the_leaders() {
        let own = |applied_index| v1::GroupStatus { applied_index, entries: 5, ..v1::GroupStatus::default() };
        let leads = |matched_index| v1::GroupStatus {
            last_index: 1_000,
            replicas: vec![v1::ReplicaStatus {
                node: NEWCOMER.to_owned(),
                matched_index,
                ..v1::ReplicaStatus::default()
            }],
            ..v1::GroupStatus::default()
        };
        let caught_up = |applied, matched| {
            progress(&own(applied), &leads(matched), Duration::from_secs(2)).unwrap().has_caught_up()
        };
        assert!(caught_up(940, 1_000));
        assert!(!caught_up(936, 1_000) && !caught_up(1_000, 936) && !caught_up(0, 0));
        let unknown = v1::GroupStatus { last_index: 10, ..v1::GroupStatus::default() };
        assert_eq!(progress(&own(10), &unknown, Duration::ZERO), None);
    }

    #[test]
    fn a_phase_counts_what_lies_between_its_moments() {
        let begin = Instant::now();
        let at = |seconds: f64, entries| Moment { at: begin + Duration::from_secs_f64(seconds), entries };
        let second = |p99_us| Second { answered: 1, entries: 1, p99_us, max_us: p99_us };
        let series = [second(1.0), second(20.0), second(30.0), second(90.0)];
        let seen = phase(&series, begin, at(0.5, 100), at(3.0, 350));
        assert!((seen.entries_per_second - 100.0).abs() < 1e-9 && (seen.seconds - 2.5).abs() < 1e-9);
        assert_eq!(seen.p99_us, Some(25.0));
        assert_eq!(phase(&series, begin, at(1.2, 0), at(1.9, 7)).p99_us, None);
    }
}
