//! Throughput with one node down, beside that with all five, in turns.
//!
//! ```text
//! all | b2 down | all | c1 down | all | b2 down | all | c1 down | all      two rounds
//! ```
//!
//! Invariants: a node is killed, and is back and caught up, before the load of a turn begins; a turn with a node down is judged by
//! the mean of the turns with all five right before and after it, so that a drift of the machine shows and does not count.

use anyhow::{Result, bail};
use serde::Serialize;
use tercet_proto::topology::Topology;

use super::cluster::{Cluster, followers_to_lose};
use super::pressure::Loads;
use super::start::start;
use crate::bed::note;
use crate::load::Case;
use crate::report::{Latency, median};
use crate::work::{name_of, watched};

/// One load in one turn.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Load {
    /// In words.
    pub(crate) name: String,
    /// Entries acknowledged each second.
    pub(crate) entries_per_second: f64,
    /// Of its requests.
    pub(crate) latency: Latency,
    /// Requests without an answer.
    pub(crate) failed: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
}

/// One turn: the same loads, one after the other.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    /// Who is down; none: all five run.
    pub(crate) down: Option<String>,
    /// Entries of the ledger when it began.
    pub(crate) entries: u64,
    /// With one entry a request, then in batches.
    pub(crate) loads: Vec<Load>,
}

/// What becomes of one load's throughput while one node is down.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Fall {
    /// The node.
    pub(crate) down: String,
    /// The load.
    pub(crate) load: String,
    /// Of each turn: throughput with the node down over the mean of before and after.
    pub(crate) ratios: Vec<f64>,
    /// Their median.
    pub(crate) median: f64,
}

/// All turns.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Down {
    /// In their order.
    pub(crate) turns: Vec<Turn>,
    /// What follows from them.
    pub(crate) falls: Vec<Fall>,
}

/// Measures all turns, with each of `told` down, or with one follower of each other zone where nobody is told; the cluster is whole
/// again afterwards.
pub(super) async fn measure(
    cluster: &mut Cluster,
    loads: &Loads<'_>,
    told: &[String],
    rounds: usize,
) -> Result<Down> {
    let (leader, _) = cluster.settled().await?;
    let nodes = match told {
        [] => followers_to_lose(cluster.topology(), &leader),
        told => followers(cluster.topology(), &leader, told)?,
    };
    let mut turns = Vec::new();
    for down in order(&nodes, rounds) {
        turns.push(turn(cluster, loads, down).await?);
    }
    Ok(Down { falls: falls(&turns), turns })
}

async fn turn(cluster: &mut Cluster, loads: &Loads<'_>, down: Option<String>) -> Result<Turn> {
    if let Some(node) = &down {
        cluster.settled().await?;
        cluster.kill(node)?;
    }
    let (_, point) = cluster.settled().await?;
    let mut done = Vec::new();
    for case in [loads.singles(), loads.batches()] {
        let load = run(cluster, &case).await?;
        let who = down.as_ref().map_or("all five".to_owned(), |node| format!("{node} down"));
        note(&format!("{who}, {}: {:.0} entries/s", load.name, load.entries_per_second));
        done.push(load);
        // What one load has left to do is not the next one's.
        cluster.settled().await?;
    }
    if let Some(node) = &down {
        let (_, now) = cluster.settled().await?;
        start(cluster, node, now).await?;
    }
    Ok(Turn { down, entries: point.entries, loads: done })
}

async fn run(cluster: &Cluster, case: &Case) -> Result<Load> {
    let outcome = watched(case, cluster.channels()).await?;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let entries_per_second = outcome.in_time.1 as f64 / case.measured.as_secs_f64();
    Ok(Load {
        name: name_of(case),
        entries_per_second,
        latency: Latency::of(&outcome.appends),
        failed: outcome.failed,
        first_error: outcome.first_error,
    })
}

/// Those that are told, if all of them are followers.
fn followers(topology: &Topology, leader: &str, told: &[String]) -> Result<Vec<String>> {
    let is_follower = |name: &String| name != leader && topology.voters().any(|node| node.name == *name);
    match told.iter().find(|name| !is_follower(name)) {
        Some(name) => bail!("--down {name}: it is no voter, or it leads ({leader})"),
        None => Ok(told.to_vec()),
    }
}

/// Who is down in each turn: each of `nodes` in every round, and all five before and after each.
fn order(nodes: &[String], rounds: usize) -> Vec<Option<String>> {
    let each = (0..rounds).flat_map(|_| nodes.iter().flat_map(|node| [Some(node.clone()), None]));
    std::iter::once(None).chain(each).collect()
}

/// Per node and load, in the order in which they first come.
fn falls(turns: &[Turn]) -> Vec<Fall> {
    let mut falls: Vec<Fall> = Vec::new();
    let neighbours = turns.iter().zip(turns.iter().skip(1)).zip(turns.iter().skip(2));
    for ((before, turn), after) in neighbours {
        let Some(down) = &turn.down else { continue };
        for ((whole, load), again) in before.loads.iter().zip(&turn.loads).zip(&after.loads) {
            let ratio = load.entries_per_second * 2.0 / (whole.entries_per_second + again.entries_per_second);
            let known = falls.iter_mut().find(|fall| fall.down == *down && fall.load == load.name);
            match known {
                Some(fall) => fall.ratios.push(ratio),
                None => falls.push(Fall {
                    down: down.clone(),
                    load: load.name.clone(),
                    ratios: vec![ratio],
                    median: ratio,
                }),
            }
        }
    }
    for fall in &mut falls {
        fall.median = median(fall.ratios.clone());
    }
    falls
}

#[cfg(test)]
mod tests {
    use tercet_proto::topology::DiskSetting;

    use super::*;
    use crate::nodes::topology;

    fn turn(down: Option<&str>, singles: f64, batches: f64) -> Turn {
        let load = |name: &str, entries_per_second| Load {
            name: name.to_owned(),
            entries_per_second,
            latency: Latency { count: 1, p50_us: 1.0, p99_us: 1.0, p999_us: 1.0, max_us: 1.0 },
            failed: 0,
            first_error: None,
        };
        Turn {
            down: down.map(str::to_owned),
            entries: 0,
            loads: vec![load("singles", singles), load("batches", batches)],
        }
    }

    #[test]
    fn every_turn_with_a_node_down_lies_between_two_without() {
        let nodes = ["b2".to_owned(), "c1".to_owned()];
        let turns: Vec<String> =
            order(&nodes, 2).into_iter().map(|down| down.unwrap_or("-".into())).collect();
        assert_eq!(turns.join(" "), "- b2 - c1 - b2 - c1 -");
        assert_eq!(order(&nodes, 0), [None]);
    }

    #[test]
    fn only_followers_can_be_told_to_be_down() {
        let topology = topology(DiskSetting::Portable).unwrap();
        let told = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            followers(&topology, "a1", &names).map_err(|error| error.to_string())
        };
        assert_eq!(told(&["c1", "b1"]).unwrap(), ["c1", "b1"]);
        assert!(told(&["b1", "a1"]).unwrap_err().contains("--down a1"));
        assert!(told(&["z9"]).unwrap_err().contains("--down z9"));
    }

    #[test]
    fn a_fall_is_measured_against_both_neighbours() {
        // The machine becomes slower by a tenth each turn; who is down takes nothing, or half.
        let turns = [
            turn(None, 1_000.0, 100.0),
            turn(Some("b2"), 900.0, 45.0),
            turn(None, 800.0, 80.0),
            turn(Some("c1"), 700.0, 70.0),
            turn(None, 600.0, 60.0),
            turn(Some("b2"), 250.0, 50.0),
            turn(None, 400.0, 40.0),
        ];
        let falls = falls(&turns);
        let of = |down: &str, load: &str| {
            let fall = falls.iter().find(|fall| fall.down == down && fall.load == load).unwrap();
            (fall.ratios.iter().map(|ratio| (ratio * 100.0).round()).collect::<Vec<_>>(), fall.median)
        };
        assert_eq!(of("b2", "singles"), (vec![100.0, 50.0], 0.75));
        assert_eq!(of("b2", "batches"), (vec![50.0, 100.0], 0.75));
        assert_eq!(of("c1", "singles"), (vec![100.0], 1.0));
        assert_eq!(falls.len(), 4);
    }
}
