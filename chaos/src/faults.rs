//! What can go wrong, and the driver that does it and undoes it.
//!
//! Invariants: every fault is written to the history before it begins and after it has been undone; every fault is undone,
//! in whatever order they overlap; nothing survives the harness, because links end with its proxies and processes with
//! [`crate::cluster::child`].

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::task::JoinSet;

use crate::cluster::process::{ClusterError, ProcessCluster};
use crate::cluster::{Member, Members};
use crate::history::Recorder;
use crate::proxy::{Endpoint, LinkFault};
use crate::scenario::{Step, When};

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
}

/// Whom the target is cut off from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// Everybody who is not hit too.
    Everything,
    /// All clients.
    Clients,
    /// The nodes of a zone.
    Zone(String),
    /// A node.
    Node(String),
}

/// Which way bytes are hit, seen from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To it and from it.
    Both,
    /// To it.
    In,
    /// From it.
    Out,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL; undone by starting the node again on its data.
    Kill,
    /// SIGSTOP; undone by SIGCONT.
    Pause,
    /// The file systems fail in the same instant, then the processes are killed; undone by mounting what was on the disks
    /// and starting the nodes again.
    PowerLoss,
    /// The file systems are filled to the last byte; undone by freeing that again.
    Fill,
    /// Nothing arrives.
    Blackhole {
        /// The other ends.
        from: Vec<Party>,
        /// Which way.
        direction: Direction,
    },
    /// Connections are reset.
    Reset {
        /// The other ends.
        from: Vec<Party>,
        /// Which way.
        direction: Direction,
    },
    /// Everything takes longer.
    Slow {
        /// The other ends.
        from: Vec<Party>,
        /// Which way.
        direction: Direction,
        /// Added to the delay.
        delay: Duration,
        /// Added to the jitter.
        jitter: Duration,
        /// Most bytes a second on each link.
        bytes_per_second: Option<u64>,
    },
}

impl Blow {
    /// What it does to links, to whom and which way; none if it hits processes.
    fn on_links(&self) -> Option<(&[Party], Direction, LinkFault)> {
        match self {
            Self::Kill | Self::Pause | Self::PowerLoss | Self::Fill => None,
            Self::Blackhole { from, direction } => Some((from, *direction, LinkFault::Blackhole)),
            Self::Reset { from, direction } => Some((from, *direction, LinkFault::Reset)),
            Self::Slow { from, direction, delay, jitter, bytes_per_second } => {
                let fault =
                    LinkFault::Slow { delay: *delay, jitter: *jitter, bytes_per_second: *bytes_per_second };
                Some((from, *direction, fault))
            }
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everything => f.write_str("everything"),
            Self::Clients => f.write_str("clients"),
            Self::Zone(zone) => write!(f, "zone {zone}"),
            Self::Node(node) => f.write_str(node),
        }
    }
}

/// A sentence for people: `blackhole a1, a2 from everything`.
fn describe(blow: &Blow, hit: &[&Member]) -> String {
    let verb = match blow {
        Blow::Kill => "kill",
        Blow::Pause => "pause",
        Blow::PowerLoss => "cut the power of",
        Blow::Fill => "fill the disk of",
        Blow::Blackhole { .. } => "blackhole",
        Blow::Reset { .. } => "reset",
        Blow::Slow { .. } => "slow",
    };
    let names: Vec<&str> = hit.iter().map(|member| member.name.as_str()).collect();
    let mut text = format!("{verb} {}", names.join(", "));
    if let Some((from, direction, _)) = blow.on_links() {
        let from: Vec<String> = from.iter().map(Party::to_string).collect();
        let way = match direction {
            Direction::Both => "",
            Direction::In => ", inbound only",
            Direction::Out => ", outbound only",
        };
        text.push_str(&format!(" from {}{way}", from.join(", ")));
    }
    text
}

/// The ordered pairs of ends whose links are hit.
fn pairs(
    members: &Members,
    hit: &[&Member],
    from: &[Party],
    direction: Direction,
) -> Vec<(Endpoint, Endpoint)> {
    let is_hit = |end: Endpoint| hit.iter().any(|member| member.endpoint() == end);
    let is_party = |end: Endpoint| {
        let member = match end {
            Endpoint::Clients => None,
            Endpoint::Node(id) => members.by_id(id),
        };
        from.iter().any(|party| match party {
            Party::Everything => true,
            Party::Clients => end == Endpoint::Clients,
            Party::Zone(zone) => member.is_some_and(|member| member.zone == *zone),
            Party::Node(node) => member.is_some_and(|member| member.name == *node),
        })
    };
    let others: Vec<Endpoint> =
        members.endpoints().into_iter().filter(|end| !is_hit(*end) && is_party(*end)).collect();
    let mut pairs = Vec::new();
    for inside in hit.iter().map(|member| member.endpoint()) {
        for &outside in &others {
            if direction != Direction::Out {
                pairs.push((outside, inside));
            }
            if direction != Direction::In {
                pairs.push((inside, outside));
            }
        }
    }
    pairs
}

/// What the driver did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Driven {
    /// Faults begun and undone.
    pub faults: u64,
    /// Processes killed.
    pub kills: u64,
}

/// Takes the steps of a scenario. `recovery_within` bounds each wait for the cluster to recover.
///
/// # Errors
/// The cluster cannot be handled, or does not recover in time.
pub async fn drive(
    cluster: &Arc<ProcessCluster>,
    recorder: &Recorder,
    steps: &[Step],
    recovery_within: Duration,
) -> Result<Driven, ClusterError> {
    let start = Instant::now();
    let mut driven = Driven::default();
    let mut undoing: JoinSet<Result<(), ClusterError>> = JoinSet::new();
    for (number, step) in (1_u64..).zip(steps) {
        match step.when {
            When::At(at) => tokio::time::sleep_until((start + at).into()).await,
            When::AfterRecovery(pause) => {
                all_undone(&mut undoing).await?;
                cluster.recovered(recovery_within).await?;
                tokio::time::sleep(pause).await;
            }
        }
        let members = cluster.members();
        let hit: Vec<Member> = targets(cluster, &step.target).await?.into_iter().cloned().collect();
        let hit_refs: Vec<&Member> = hit.iter().collect();
        let what = describe(&step.blow, &hit_refs);
        tracing::info!(fault = number, "{what} for {:?}", step.lasts);
        recorder.fault_begins(number, &what);
        driven.faults += 1;
        let links = step
            .blow
            .on_links()
            .map(|(from, direction, fault)| (pairs(members, &hit_refs, from, direction), fault));
        match (&step.blow, &links) {
            (_, Some((pairs, fault))) => cluster.impose(number, pairs, *fault),
            (Blow::Kill, None) => {
                driven.kills += hit.len() as u64;
                cluster.kill(&hit)?;
            }
            (Blow::PowerLoss, None) => {
                driven.kills += hit.len() as u64;
                cluster.cut_power(&hit)?;
            }
            (Blow::Fill, None) => cluster.fill(&hit)?,
            (_, None) => cluster.pause(&hit)?,
        }
        let (cluster, recorder, lasts) = (Arc::clone(cluster), recorder.clone(), step.lasts);
        let blow = step.blow.clone();
        undoing.spawn(async move {
            tokio::time::sleep(lasts).await;
            match (links, blow) {
                (Some((pairs, _)), _) => cluster.lift(number, &pairs),
                (None, Blow::Kill) => cluster.restart(&hit).await?,
                (None, Blow::PowerLoss) => {
                    cluster.restore_power(&hit)?;
                    cluster.restart(&hit).await?;
                }
                (None, Blow::Fill) => cluster.free(&hit)?,
                (None, _) => cluster.resume(&hit)?,
            }
            tracing::info!(fault = number, "undone: {what}");
            recorder.fault_ended(number);
            Ok(())
        });
    }
    all_undone(&mut undoing).await?;
    cluster.recovered(recovery_within).await?;
    Ok(driven)
}

async fn all_undone(undoing: &mut JoinSet<Result<(), ClusterError>>) -> Result<(), ClusterError> {
    while let Some(undone) = undoing.join_next().await {
        undone.map_err(|error| ClusterError::Harness(format!("undoing a fault: {error}")))??;
    }
    Ok(())
}

async fn targets<'a>(cluster: &'a ProcessCluster, target: &Target) -> Result<Vec<&'a Member>, ClusterError> {
    let members = cluster.members();
    let leader = match target {
        Target::Leader | Target::LeaderZone => Some(cluster.leader().await?),
        Target::Node(_) | Target::Zone(_) | Target::All => None,
    };
    Ok(members
        .iter()
        .filter(|member| match target {
            Target::Node(node) => member.name == *node,
            Target::Zone(zone) => member.zone == *zone,
            Target::All => true,
            Target::Leader => leader == Some(*member),
            Target::LeaderZone => leader.is_some_and(|leader| leader.zone == member.zone),
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(zone: &str, from: &[Party], direction: Direction) -> Vec<(Endpoint, Endpoint)> {
        let members = Members::default_five();
        let hit: Vec<&Member> = members.of_zone(zone).collect();
        pairs(&members, &hit, from, direction)
    }

    #[test]
    fn a_zone_is_cut_from_everything_but_itself() {
        let pairs = cut("a", &[Party::Everything], Direction::Both);
        assert_eq!(pairs.len(), 2 * 4 * 2, "two nodes, four others each, both ways");
        assert!(!pairs.contains(&(Endpoint::Node(1), Endpoint::Node(2))));
        assert!(pairs.contains(&(Endpoint::Clients, Endpoint::Node(2))));
        assert!(pairs.contains(&(Endpoint::Node(1), Endpoint::Node(5))));
        assert!(!pairs.contains(&(Endpoint::Node(3), Endpoint::Node(4))));
    }

    #[test]
    fn one_way_cuts_and_parties_are_exact() {
        let out = cut("c", &[Party::Clients, Party::Node("b2".into())], Direction::Out);
        assert_eq!(out, [(Endpoint::Node(5), Endpoint::Clients), (Endpoint::Node(5), Endpoint::Node(4))]);
        let inbound = cut("c", &[Party::Zone("a".into())], Direction::In);
        assert_eq!(inbound, [(Endpoint::Node(1), Endpoint::Node(5)), (Endpoint::Node(2), Endpoint::Node(5))]);
    }

    #[test]
    fn faults_are_said_in_words() {
        let members = Members::default_five();
        let hit: Vec<&Member> = members.of_zone("a").collect();
        assert_eq!(describe(&Blow::Kill, &hit), "kill a1, a2");
        assert_eq!(describe(&Blow::PowerLoss, &hit), "cut the power of a1, a2");
        let blow = Blow::Blackhole {
            from: vec![Party::Clients, Party::Zone("b".into())],
            direction: Direction::Out,
        };
        assert_eq!(describe(&blow, &hit[..1]), "blackhole a1 from clients, zone b, outbound only");
    }
}
