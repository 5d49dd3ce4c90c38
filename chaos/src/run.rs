//! One run of a scenario: start the cluster, let clients work while faults happen, heal, read every replica, judge.
//!
//! Invariants: the verdict rests on the files that were written, read back, so `tercet-chaos check` gives the same one; a
//! run that the harness could not carry out is an error and never a pass.

mod provenance;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tercet_proto::client::{Client, ClientError, ClientOptions};
use tokio::task::AbortHandle;

use crate::checker::check;
use crate::cluster::process::{ClusterError, ClusterOptions, ProcessCluster};
use crate::cluster::{Member, Members};
use crate::faults::{Driven, drive};
use crate::history::{FORMAT, FinalLog, Header, History, Observation, Place, Places, Recorder};
use crate::report::{Acknowledgements, FaultReport, LinkReport, Report, Verdict, leaders, page, terms_led};
use crate::scenario::{Scenario, Writes};
use crate::workload::{Remote, Seat, Workload, create_journal};

/// The workload's journal.
const JOURNAL: &str = "chaos";
/// How often nodes are asked for their term and role.
const OBSERVE_EVERY: Duration = Duration::from_millis(200);
/// How often the state is said.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How long clients may take beyond their time-out to finish.
const FINISH_PATIENCE: Duration = Duration::from_secs(5);

/// What was acknowledged before a fault has reached its client by then.
const UNDER_WAY: Duration = Duration::from_secs(1);

/// Where things are and go.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The `tercet` executable.
    pub tercet: PathBuf,
    /// The `tercet-chaos` executable.
    pub launcher: PathBuf,
    /// Where history, final log, report, topologies and the nodes' output go.
    pub out: PathBuf,
    /// Where the nodes keep their data.
    pub data: PathBuf,
    /// What random choices are drawn from.
    pub seed: u64,
}

/// What happened before anything is judged.
#[derive(Default)]
struct Happened {
    driven: Driven,
    /// Empty if the replicas could not be read.
    finals: Vec<FinalLog>,
    unmet: Vec<String>,
    packets_dropped: Option<u64>,
}

/// Runs a scenario and writes `history.jsonl`, `final.jsonl`, `report.json` and `report.html`.
///
/// # Errors
/// The harness could not carry it out.
pub async fn run(scenario: &Scenario, options: &RunOptions) -> Result<Report> {
    std::fs::create_dir_all(&options.out).with_context(|| options.out.display().to_string())?;
    let cluster_options = ClusterOptions {
        tercet: options.tercet.clone(),
        launcher: options.launcher.clone(),
        data_dir: options.data.clone(),
        log_dir: options.out.join("nodes"),
        seed: options.seed,
    };
    let cluster =
        ProcessCluster::start(&scenario.cluster, cluster_options).await.context("starting the cluster")?;
    let cluster = Arc::new(cluster);
    let leader = cluster.leader().await?.clone();
    let status = cluster.status(&leader).await.context("asking the leader for its status")?;
    tracing::info!(leader = leader.name, disk = status.disk, "five nodes serve");

    let history_file = options.out.join("history.jsonl");
    let header = Header {
        format: FORMAT,
        journal: JOURNAL.into(),
        scenario: scenario.name.clone(),
        seed: options.seed,
        places: places(cluster.members()),
    };
    let recorder = Recorder::create(&history_file, header)?;
    let happened = match happen(scenario, options.seed, &cluster, &recorder).await {
        Ok(happened) => happened,
        Err(error) => match error.downcast_ref::<ClusterError>() {
            Some(broken) if broken.is_violation() => {
                Happened { unmet: vec![broken.to_string()], ..Happened::default() }
            }
            _ => return Err(error),
        },
    };
    recorder.finish()?;
    let finals = save_and_load(&options.out, &happened.finals)?;
    let history = History::load(&history_file)?;
    let report = Report {
        commit: provenance::commit(),
        executable: provenance::executable(&options.tercet)?,
        version: status.version,
        // Behind the comma stands one node's directory.
        disk: status.disk.split(',').next().unwrap_or_default().to_owned(),
        links: link_reports(&cluster),
        ..judge(scenario, options.seed, &history, &finals, happened)
    };
    let report_file = options.out.join("report.json");
    let json = serde_json::to_string_pretty(&report)?;
    std::fs::write(&report_file, json + "\n").with_context(|| report_file.display().to_string())?;
    let page_file = options.out.join("report.html");
    std::fs::write(&page_file, page::render(&report, &history))
        .with_context(|| page_file.display().to_string())?;
    Ok(report)
}

/// The workload under the scenario's faults, then the final logs, then an orderly stop.
async fn happen(
    scenario: &Scenario,
    seed: u64,
    cluster: &Arc<ProcessCluster>,
    recorder: &Recorder,
) -> Result<Happened> {
    let seats: Vec<Seat> = cluster
        .client_addresses()
        .map(|(member, address)| Seat {
            id: member.id,
            node: member.name.clone(),
            address: address.to_owned(),
        })
        .collect();
    make_journal(&seats).await.context("making the journal")?;
    let _observing = observe(cluster, recorder);
    let ledgers = ledgers(scenario, &seats).context("the clients' addresses")?;
    let workload = Workload::start(&scenario.workload, JOURNAL, ledgers, recorder, seed);
    let within = Duration::from(scenario.expect.recovery_within);
    let begun = Instant::now();
    let driven = {
        let driving = async {
            let driven = drive(cluster, recorder, scenario.steps(), within).await?;
            let length = Duration::from(scenario.workload.duration);
            tokio::time::sleep_until((begun + length).into()).await;
            tokio::time::sleep(scenario.workload.tail.into()).await;
            Ok::<Driven, ClusterError>(driven)
        };
        tokio::select! {
            driven = driving => driven,
            never = say(workload.progress()) => match never {},
        }
    };
    workload.stop(Duration::from(scenario.workload.timeout) * 2 + FINISH_PATIENCE).await;
    let driven = driven?;
    tracing::info!("healed; reading every replica");
    let finals = cluster.final_logs(JOURNAL, within).await?;
    let packets_dropped = cluster.packets_dropped()?;
    let incarnations = cluster.incarnations().await?;
    cluster.stop().await?;
    for vote in cluster.stored_votes(&incarnations)? {
        recorder.vote(vote);
    }
    Ok(Happened { driven, finals, unmet: Vec::new(), packets_dropped })
}

fn places(members: &Members) -> Places {
    let place = |member: &Member| Place { zone: member.zone.clone(), site: member.site.clone() };
    members.iter().map(|member| (member.name.clone(), place(member))).collect()
}

async fn make_journal(seats: &[Seat]) -> Result<(), ClientError> {
    let addresses = seats.iter().map(|seat| seat.address.clone()).collect();
    let options = ClientOptions { follow_leader: false, ..ClientOptions::default() };
    create_journal(&Client::connect(addresses, options)?, JOURNAL).await.map(drop)
}

fn ledgers(scenario: &Scenario, seats: &[Seat]) -> Result<Vec<Remote>, ClientError> {
    let timeout = Duration::from(scenario.workload.timeout);
    (0..scenario.workload.clients as usize)
        .map(|client| {
            // Pairs of neighbours start on the same node, so that every node has both kinds.
            let first = client / 2;
            if client.is_multiple_of(2) {
                Remote::pinned(seats, first, timeout)
            } else {
                Remote::following(seats, first, timeout)
            }
        })
        .collect()
}

async fn say(progress: &crate::workload::Progress) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(SAY_EVERY).await;
        tracing::info!(
            acknowledged = progress.acknowledged(),
            unsuccessful = progress.unsuccessful(),
            "the workload goes on"
        );
    }
}

/// Tasks that end when this is dropped.
struct Observing(Vec<AbortHandle>);

impl Drop for Observing {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

/// Asks every node again and again for its term and role; records what has changed.
fn observe(cluster: &Arc<ProcessCluster>, recorder: &Recorder) -> Observing {
    let tasks = cluster.members().iter().cloned().map(|member| {
        let (cluster, recorder) = (Arc::clone(cluster), recorder.clone());
        let task = tokio::spawn(async move {
            let mut before: Vec<Observation> = Vec::new();
            loop {
                let start = cluster.starts(&member);
                if let Ok(status) = cluster.status(&member).await
                    && cluster.starts(&member) == start
                {
                    let now: Vec<Observation> = status
                        .groups
                        .iter()
                        .map(|group| Observation {
                            t: 0,
                            node: status.node.clone(),
                            incarnation: status.incarnation,
                            start,
                            group: group.group,
                            term: group.term,
                            role: group.role.clone(),
                            leader: group.leader.clone(),
                            committed: group.committed_index,
                            applied: group.applied_index,
                        })
                        .collect();
                    for seen in now.iter().filter(|seen| !before.contains(seen)) {
                        recorder.observe(seen.clone());
                    }
                    before = now;
                }
                tokio::time::sleep(OBSERVE_EVERY).await;
            }
        });
        task.abort_handle()
    });
    Observing(tasks.collect())
}

/// Writes the final logs and reads them back: what is judged is what is kept.
fn save_and_load(out: &Path, logs: &[FinalLog]) -> Result<Vec<FinalLog>> {
    let mut loaded = Vec::new();
    for (at, log) in logs.iter().enumerate() {
        let name = match at {
            0 => "final.jsonl".to_owned(),
            _ => format!("final-{}.jsonl", log.replicas.join("-")),
        };
        let path = out.join(name);
        log.save(&path)?;
        loaded.push(FinalLog::load(&path)?);
    }
    Ok(loaded)
}

fn link_reports(cluster: &ProcessCluster) -> Vec<LinkReport> {
    cluster.link_counts().into_iter().map(|(from, to, counts)| LinkReport { from, to, counts }).collect()
}

fn judge(
    scenario: &Scenario,
    seed: u64,
    history: &History,
    finals: &[FinalLog],
    happened: Happened,
) -> Report {
    let mut unmet = happened.unmet;
    let judgement = (!finals.is_empty()).then(|| check(history, finals));
    let acknowledgements = Acknowledgements::of(history);
    let faults = acknowledgements.around(&history.faults, &terms_led(history));
    if let Some(judgement) = &judgement {
        let wanted = scenario.expect.acknowledged_at_least;
        if judgement.appends.ok < wanted {
            unmet.push(format!(
                "{} appends were acknowledged; at least {wanted} were expected",
                judgement.appends.ok
            ));
        }
    }
    unmet.extend(writes_unmet(scenario, &acknowledgements, &faults));
    let pass = unmet.is_empty() && judgement.as_ref().is_some_and(|judgement| judgement.pass);
    Report {
        scenario: scenario.name.clone(),
        seed,
        commit: String::new(),
        executable: String::new(),
        version: String::new(),
        disk: String::new(),
        workload_seconds: acknowledgements.seconds(),
        kills: happened.driven.kills,
        proofs: happened.driven.proofs,
        packets_dropped: happened.packets_dropped,
        judgement,
        rto_ms: acknowledgements.rto_ms(),
        faults,
        leaders: leaders(history),
        links: Vec::new(),
        unmet,
        verdict: if pass { Verdict::Pass } else { Verdict::Violation },
    }
}

/// What was expected of appends around faults and is not so.
fn writes_unmet(
    scenario: &Scenario,
    acknowledgements: &Acknowledgements,
    faults: &[FaultReport],
) -> Vec<String> {
    let mut unmet = Vec::new();
    for (fault, step) in faults.iter().filter_map(|fault| {
        let at = usize::try_from(fault.span.fault.checked_sub(1)?).ok()?;
        Some((fault, scenario.steps().get(at)?))
    }) {
        let what = &fault.span.what;
        // Undoing it may take longer than it lasts: nodes start one by one.
        let lasted = step.lasts.map_or(u64::MAX, |lasts| fault.span.begin + nanos(lasts));
        let end = fault.span.end.unwrap_or(acknowledgements.end()).min(lasted);
        let settled = fault.span.begin + nanos(UNDER_WAY);
        let mut most = step.gap_at_most.or(scenario.expect.rto_at_most.map(Duration::from));
        match step.writes {
            Some(Writes::Stop) => {
                // Nothing is acknowledged while it lasts, as expected.
                most = most.map(|most| most + step.lasts.unwrap_or_default());
                match acknowledgements.between(settled, end) {
                    0 => {}
                    count => unmet.push(format!("{count} appends were acknowledged during {what:?}")),
                }
            }
            Some(Writes::GoOn)
                if acknowledgements.between(settled + (end - settled.min(end)) / 2, end) == 0 =>
            {
                unmet.push(format!("no append was acknowledged in the second half of {what:?}"));
            }
            _ => {}
        }
        if let Some(most) = step.leader_changes_at_most.filter(|most| fault.leader_changes > *most) {
            unmet.push(format!(
                "the leader changed {} times around {what:?}; at most {most} was expected",
                fault.leader_changes
            ));
        }
        if let Some(most) = most.filter(|most| fault.rto_ms > most.as_secs_f64() * 1e3) {
            unmet.push(format!(
                "RTO of {:.0} ms around {what:?}; at most {most:?} was expected",
                fault.rto_ms
            ));
        }
    }
    unmet
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
