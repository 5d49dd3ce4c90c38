//! The simulation: six nodes in one thread on a clock that jumps, and everything that can go wrong drawn from a seed.
//!
//! ```text
//! real: openraft, state machine, ledger, gate, proposer, codecs, log and its recovery     simulated: network, disk, clocks, index
//! ```
//!
//! A run forms the group, lets clients work while the plan's faults happen (safety), heals a core of the nodes and demands that
//! writes succeed there within a bound (liveness), heals the rest, and compares all replicas. The [invariants](crate::invariants)
//! are checked all along, and the [checker](crate::checker) judges the clients' history at the end. What is not simulated:
//! decision 0010 (`node/decisions`).
//!
//! Invariants: the plan decides everything; equal plans give equal traces, in any process under any load.

pub mod carrier;
pub mod client;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod faults;
pub mod geo;
pub mod host;
mod members;
pub mod net;
pub mod node;
pub mod plan;
mod preference;
pub mod proofs;
pub mod rot;
pub mod standing;
pub mod trace;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use self::cluster::{Cluster, JOURNAL};
use self::plan::{NODES, Plan, node_id};
use self::trace::Trace;
use crate::checker::{Judgement, check};
use crate::history::{FORMAT, Header, History, Line, Place, Places, Recorder};
use crate::scenario::{Span, WorkloadPlan};
use crate::workload::Workload;

/// How long a client waits for an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(2);
/// A healed core must acknowledge a write within this.
const LIVENESS: Duration = Duration::from_secs(15);
/// What rot has taken must be back so soon after everything is healed; latent rot is found within two rounds of the scrubber.
const MENDED: Duration = Duration::from_secs(60);
/// All replicas must be equal so soon after everything is healed.
const SETTLE: Duration = Duration::from_secs(60);

/// What came of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// The hash of everything that happened.
    pub trace: String,
    /// How many events that was.
    pub events: u64,
    /// How long it took in the simulation.
    pub simulated_seconds: f64,
    /// The time from healing the core to the next acknowledgement.
    pub liveness_ms: Option<u64>,
    /// The checker's judgement; none if the replicas could not be compared.
    pub judgement: Option<Judgement>,
    /// What was broken; empty if everything held.
    pub violations: Vec<String>,
}

/// Runs a plan. Its events also go to `trace_file`.
///
/// # Errors
/// The runtime or the file cannot be made.
pub fn run(plan: &Plan, trace_file: Option<&Path>) -> anyhow::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?;
    let (outcome, trace) = runtime.block_on(async {
        let trace = Arc::new(Trace::new(trace_file)?);
        let outcome = run_here(plan, trace_file, &trace).await?;
        anyhow::Ok((outcome, Arc::downgrade(&trace)))
    })?;
    // Ends every task that is left. Disks, networks and nodes know the trace: what outlives this is a cycle and never ends.
    drop(runtime);
    anyhow::ensure!(trace.strong_count() == 0, "{} parts of the simulation outlive it", trace.strong_count());
    Ok(outcome)
}

fn write_history(lines: &[Line], file: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&serde_json::to_string(line)?);
        text.push('\n');
    }
    std::fs::write(file, text).with_context(|| file.display().to_string())
}

async fn run_here(plan: &Plan, trace_file: Option<&Path>, trace: &Arc<Trace>) -> anyhow::Result<Outcome> {
    let header = Header {
        format: FORMAT,
        journal: JOURNAL.into(),
        scenario: "simulation".into(),
        seed: plan.seed,
        places: places(plan),
    };
    let recorder = Recorder::in_memory(header);
    let cluster = Arc::new(Cluster::new(plan, recorder.clone(), trace.clone())?);
    let witness = cluster.common.witness.clone();
    let happened = tokio::select! {
        biased;
        () = witness.broken() => None,
        happened = happen(&cluster, plan) => Some(happened),
    };
    let mut violations = witness.violations();
    let (mut liveness_ms, mut judgement) = (None, None);
    match happened {
        None => {}
        Some(Err(why)) => violations.push(why),
        Some(Ok(Happened { finals, liveness })) => {
            liveness_ms = Some(u64::try_from(liveness.as_millis()).unwrap_or(u64::MAX));
            let lines = recorder.take();
            if let Some(file) = trace_file {
                write_history(&lines, &file.with_extension("history.jsonl"))?;
            }
            let history = History::from_lines(lines)?;
            let judged = check(&history, &finals);
            violations.extend(judged.violations.iter().map(ToString::to_string));
            judgement = Some(judged);
        }
    }
    let entries = judgement.as_ref().map_or(0, |judgement| judgement.final_entries);
    trace.event(format_args!("the end: {entries} entries, {} violations", violations.len()));
    Ok(Outcome {
        seed: plan.seed,
        trace: trace.hash(),
        events: trace.events(),
        simulated_seconds: trace.elapsed().as_secs_f64(),
        liveness_ms,
        judgement,
        violations,
    })
}

struct Happened {
    finals: Vec<crate::history::FinalLog>,
    liveness: Duration,
}

async fn happen(cluster: &Arc<Cluster>, plan: &Plan) -> Result<Happened, String> {
    cluster.form().await?;
    let workload = Workload::start(
        &workload_plan(plan),
        JOURNAL,
        cluster.ledgers(plan.clients, CLIENT_PATIENCE),
        &cluster.recorder,
        plan.seed,
    );
    faults::drive(cluster, plan).await;
    // What a replica has lost may be on the others only, so all of them help before some are cut off again.
    if !cluster.is_whole() {
        sleep(Duration::from_millis(50)).await;
        cluster.heal(&cluster.ids().collect::<Vec<u64>>()).await;
        cluster.mended(MENDED).await?;
    }
    let core: Vec<u64> = match plan.changes_members() {
        // Who votes now is not known here.
        true => cluster.ids().collect(),
        false => plan.core.iter().filter_map(|name| node_id(name)).collect(),
    };
    let others: Vec<u64> = (1..=NODES.len() as u64).filter(|id| !core.contains(id)).collect();
    cluster.trace().event(format_args!("the core {core:?} is healed"));
    cluster.part(&core, &others, 1);
    cluster.part(&others, &others, 1);
    // A fault that is over a moment later undoes its own part.
    sleep(Duration::from_millis(50)).await;
    cluster.heal(&core).await;
    cluster.clients_ask(&core);
    let liveness = acknowledgement(cluster, &workload).await?;
    cluster.trace().event(format_args!("everything is healed"));
    cluster.part(&core, &others, -1);
    cluster.part(&others, &others, -1);
    cluster.heal(&others).await;
    if plan.changes_members() {
        members::mend(cluster, &cluster.first_voters()).await?;
    }
    sleep(Duration::from_secs(2)).await;
    workload.stop(CLIENT_PATIENCE * 2).await;
    if let Some(why) = cluster.stopped() {
        return Err(format!("stopped: {why}"));
    }
    let finals = cluster.settled(SETTLE).await?;
    Ok(Happened { finals, liveness })
}

fn places(plan: &Plan) -> Places {
    let place = |(name, zone): &(&str, &str)| {
        let site = if *zone == "c" { "west" } else { "east" };
        ((*name).to_owned(), Place { zone: (*zone).to_owned(), site: site.to_owned() })
    };
    plan.geo.voters().iter().map(place).collect()
}

/// Waits for the next acknowledgement of a write.
async fn acknowledgement(cluster: &Cluster, workload: &Workload) -> Result<Duration, String> {
    let (begin, before) = (Instant::now(), workload.progress().acknowledged());
    while workload.progress().acknowledged() == before {
        if begin.elapsed() > LIVENESS {
            let leader = cluster.leader();
            return Err(format!(
                "liveness: in {LIVENESS:?} no write is acknowledged on the healed core; leader {leader:?}"
            ));
        }
        sleep(Duration::from_millis(10)).await;
    }
    Ok(begin.elapsed())
}

fn workload_plan(plan: &Plan) -> WorkloadPlan {
    WorkloadPlan {
        clients: plan.clients,
        think: Span::from_millis(plan.think_ms),
        payload_bytes: 32,
        batch_percent: 20,
        batch_entries: 4,
        retry_percent: 80,
        geo_percent: plan.geo_percent,
        ..WorkloadPlan::default()
    }
}
