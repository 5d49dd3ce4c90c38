//! What can go wrong, and the driver that does it and undoes it.
//!
//! Invariants: every fault is written to the history before it begins and after it has been undone; every fault but a
//! wiped disk is undone, in whatever order they overlap; a blackhole is proven to be one while it lasts; nothing survives
//! the harness, because links end with its proxies, processes with [`crate::cluster::child`], and rules and mounts with
//! its namespaces.

mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::cluster::process::{ClusterError, ProcessCluster};
use crate::cluster::{Member, Members};
use crate::history::Recorder;
use crate::probe::{BlackholeProof, prove};
use crate::proxy::{Endpoint, LinkFault};
use crate::scenario::{Step, When};

pub use wire::{Party, Wire};

/// How long a step waits for the acknowledgement in whose instant it is taken.
const ACKNOWLEDGEMENT_PATIENCE: Duration = Duration::from_secs(30);

/// Who is hit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// One node.
    Node(String),
    /// All nodes of a zone.
    Zone(String),
    /// The node that leads group 0 when the fault begins.
    Leader,
    /// All nodes of that node's zone.
    LeaderZone,
    /// Every node.
    All,
    /// Links.
    Wires(Vec<Wire>),
}

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL; undone by starting the node again on its data.
    Kill,
    /// SIGKILL, and the data directory is deleted; not undone, the node is gone for the rest of the run.
    Wipe,
    /// SIGKILL, and the data directory is deleted; undone as an operator does it: the others take the node for lost (`member
    /// replace`), it starts with an empty directory, and votes again when it has caught up (`member promote`).
    Replace,
    /// SIGSTOP; undone by SIGCONT.
    Pause,
    /// The file systems fail in the same instant, then the processes are killed; undone by mounting what was on the disks
    /// and starting the nodes again.
    PowerLoss,
    /// The file systems are filled to the last byte; undone by freeing that again.
    Fill,
    /// The file systems answer no write, then all at once.
    Stall {
        /// For so long each, with a pause of the same length between.
        flap: Duration,
    },
    /// Something is wrong with links.
    Link {
        /// What.
        fault: LinkFault,
        /// Alternately so long there and so long not; none: there without a break.
        flap: Option<Duration>,
    },
}

impl Blow {
    fn verb(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Wipe => "kill and wipe the disk of",
            Self::Replace => "kill, wipe and replace",
            Self::Pause => "pause",
            Self::PowerLoss => "cut the power of",
            Self::Fill => "fill the disk of",
            Self::Stall { .. } => "stall the disk of",
            Self::Link { fault, .. } => match fault {
                LinkFault::Blackhole => "blackhole",
                LinkFault::Reset => "reset",
                LinkFault::HalfOpen => "half-open",
                LinkFault::Slow { .. } => "slow",
            },
        }
    }

    fn flap(self) -> Option<Duration> {
        match self {
            Self::Link { flap, .. } => flap,
            Self::Stall { flap } => Some(flap),
            _ => None,
        }
    }
}

/// A fault with everything that it hits, as it was found when it began.
#[derive(Debug, Clone)]
struct Blowing {
    number: u64,
    blow: Blow,
    hit: Vec<Member>,
    pairs: Vec<(Endpoint, Endpoint)>,
    what: String,
}

/// What the driver did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Driven {
    /// Faults begun, and undone if they can be.
    pub faults: u64,
    /// Processes killed.
    pub kills: u64,
    /// What the harness saw of its own blackholes.
    pub proofs: Vec<BlackholeProof>,
}

type Undoing = JoinSet<Result<Vec<BlackholeProof>, ClusterError>>;

/// Takes the steps of a scenario. `recovery_within` bounds each wait for the cluster to recover.
///
/// # Errors
/// The cluster cannot be handled, or does not recover in time; a blackhole let something through.
pub async fn drive(
    cluster: &Arc<ProcessCluster>,
    recorder: &Recorder,
    steps: &[Step],
    recovery_within: Duration,
) -> Result<Driven, ClusterError> {
    let start = Instant::now();
    let mut driven = Driven::default();
    let mut undoing = Undoing::new();
    for (number, step) in (1_u64..).zip(steps) {
        match step.when {
            When::At(at) => tokio::time::sleep_until((start + at).into()).await,
            When::AfterRecovery(pause) => {
                all_undone(&mut undoing, &mut driven).await?;
                cluster.recovered(recovery_within).await?;
                tokio::time::sleep(pause).await;
            }
        }
        let blowing = aim(cluster, number, step).await?;
        if step.on_acknowledgement {
            tokio::time::timeout(ACKNOWLEDGEMENT_PATIENCE, recorder.next_acknowledgement())
                .await
                .map_err(|_| ClusterError::Harness("no append was acknowledged to wait for".into()))?;
        }
        recorder.fault_begins(number, &blowing.what);
        begin(cluster, &blowing, &mut driven)?;
        let lasts = step.lasts;
        tracing::info!(fault = number, "{} for {lasts:?}", blowing.what);
        let (cluster, recorder) = (Arc::clone(cluster), recorder.clone());
        if let Some(lasts) = lasts {
            undoing.spawn(async move {
                let proofs = last(&cluster, &blowing, lasts).await?;
                undo(&cluster, &blowing).await?;
                tracing::info!(fault = number, "undone: {}", blowing.what);
                recorder.fault_ended(number);
                Ok(proofs)
            });
        }
    }
    all_undone(&mut undoing, &mut driven).await?;
    cluster.recovered(recovery_within).await?;
    Ok(driven)
}

async fn all_undone(undoing: &mut Undoing, driven: &mut Driven) -> Result<(), ClusterError> {
    while let Some(undone) = undoing.join_next().await {
        let proofs = undone.map_err(|error| ClusterError::Harness(format!("undoing a fault: {error}")))??;
        driven.proofs.extend(proofs);
    }
    Ok(())
}

/// Finds out who is hit.
async fn aim(cluster: &ProcessCluster, number: u64, step: &Step) -> Result<Blowing, ClusterError> {
    let members = cluster.members();
    let needs_leader = match &step.target {
        Target::Leader | Target::LeaderZone => true,
        Target::Wires(wires) => wires.iter().any(Wire::needs_leader),
        Target::Node(_) | Target::Zone(_) | Target::All => false,
    };
    let leader = if needs_leader { Some(cluster.leader().await?) } else { None };
    let is_hit = |member: &&Member| match &step.target {
        Target::Node(node) => member.name == *node,
        Target::Zone(zone) => member.zone == *zone,
        Target::All => true,
        Target::Leader => leader == Some(*member),
        Target::LeaderZone => leader.is_some_and(|leader| leader.zone == member.zone),
        Target::Wires(_) => false,
    };
    let hit: Vec<Member> = members.iter().filter(is_hit).cloned().collect();
    let mut pairs = match &step.target {
        Target::Wires(wires) => wires.iter().flat_map(|wire| wire.pairs(members, leader)).collect(),
        _ => Vec::new(),
    };
    pairs.sort_unstable();
    pairs.dedup();
    let what = describe(step, &hit, members, leader);
    Ok(Blowing { number, blow: step.blow, hit, pairs, what })
}

/// A sentence for people: `blackhole a1, a2 <-> clients, b1`.
fn describe(step: &Step, hit: &[Member], members: &Members, leader: Option<&Member>) -> String {
    let objects: Vec<String> = match &step.target {
        Target::Wires(wires) => wires.iter().map(|wire| wire.describe(members, leader)).collect(),
        _ => vec![hit.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ")],
    };
    let mut text = format!("{} {}", step.blow.verb(), objects.join("; "));
    if let Some(flap) = step.blow.flap() {
        text.push_str(&format!(", every {flap:?}"));
    }
    text
}

fn begin(cluster: &Arc<ProcessCluster>, blowing: &Blowing, driven: &mut Driven) -> Result<(), ClusterError> {
    let Blowing { number, blow, hit, pairs, .. } = blowing;
    driven.faults += 1;
    if matches!(blow, Blow::Kill | Blow::Wipe | Blow::Replace | Blow::PowerLoss) {
        driven.kills += hit.len() as u64;
    }
    match blow {
        Blow::Kill => cluster.kill(hit),
        Blow::Wipe => cluster.wipe(hit),
        Blow::Replace => cluster.lose_disks(hit),
        Blow::Pause => cluster.pause(hit),
        Blow::PowerLoss => cluster.cut_power(hit),
        Blow::Fill => cluster.fill(hit),
        // It comes and goes: `last`.
        Blow::Stall { .. } => Ok(()),
        Blow::Link { fault, .. } => cluster.impose(*number, pairs, *fault),
    }
}

/// What happens from a fault's beginning to its undoing.
async fn last(
    cluster: &Arc<ProcessCluster>,
    blowing: &Blowing,
    lasts: Duration,
) -> Result<Vec<BlackholeProof>, ClusterError> {
    let end = Instant::now() + lasts;
    match blowing.blow {
        Blow::Link { fault, flap: Some(flap) } => {
            while end.saturating_duration_since(Instant::now()) > flap {
                tokio::time::sleep(flap).await;
                cluster.lift(blowing.number, &blowing.pairs)?;
                tokio::time::sleep(flap).await;
                cluster.impose(blowing.number, &blowing.pairs, fault)?;
            }
            tokio::time::sleep_until(end.into()).await;
            Ok(Vec::new())
        }
        Blow::Stall { flap } => {
            while Instant::now() < end {
                cluster.stall(&blowing.hit, flap).await?;
                tokio::time::sleep(flap).await;
            }
            Ok(Vec::new())
        }
        Blow::Link { fault: LinkFault::Blackhole, flap: None } => {
            let proofs =
                prove(cluster.network(), cluster.members(), blowing.number, &blowing.pairs, end).await?;
            tokio::time::sleep_until(end.into()).await;
            Ok(proofs)
        }
        _ => {
            tokio::time::sleep_until(end.into()).await;
            Ok(Vec::new())
        }
    }
}

async fn undo(cluster: &Arc<ProcessCluster>, blowing: &Blowing) -> Result<(), ClusterError> {
    let hit = &blowing.hit;
    match blowing.blow {
        Blow::Kill => cluster.restart(hit).await,
        Blow::Replace => cluster.replace(hit).await,
        Blow::PowerLoss => {
            cluster.restore_power(hit)?;
            cluster.restart(hit).await
        }
        Blow::Pause => cluster.resume(hit),
        Blow::Fill => cluster.free(hit),
        Blow::Wipe | Blow::Stall { .. } => Ok(()),
        Blow::Link { .. } => cluster.lift(blowing.number, &blowing.pairs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(blow: Blow, target: Target) -> String {
        let members = Members::default_five();
        let step = Step {
            when: When::At(Duration::ZERO),
            on_acknowledgement: false,
            blow,
            target,
            lasts: None,
            writes: None,
            gap_at_most: None,
            leader_changes_at_most: None,
        };
        let hit: Vec<Member> = members.of_zone("a").cloned().collect();
        describe(&step, &hit, &members, members.node("b1"))
    }

    #[test]
    fn faults_are_said_in_words() {
        let members = Members::default_five();
        assert_eq!(said(Blow::Kill, Target::Zone("a".into())), "kill a1, a2");
        assert_eq!(said(Blow::PowerLoss, Target::Zone("a".into())), "cut the power of a1, a2");
        let flap = Some(Duration::from_millis(200));
        let wires = ["leader -> c", "a1 <-> clients"].map(|text| Wire::parse(text, &members).unwrap());
        assert_eq!(
            said(Blow::Link { fault: LinkFault::Blackhole, flap }, Target::Wires(wires.to_vec())),
            "blackhole b1 -> c1; a1 <-> clients, every 200ms"
        );
    }
}
