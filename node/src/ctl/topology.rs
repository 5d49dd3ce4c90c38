//! `tercet topology check`: what a topology file survives, and who would lead then.
//!
//! Invariant: what would happen is found by trying every loss on the topology itself, never by a formula.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tercet_proto::topology::{Loss, LossKind, Node, Role, Topology};

use super::exit::Failure;
use super::output::{Column, print, table};

/// Verbs of `tercet topology`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Validates a topology file and says what it survives
    Check(CheckArgs),
}

/// Arguments of `tercet topology check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet topology check topology.toml

A topology that a cluster cannot run with, or in which the loss of a single zone would lose the quorum, is refused with
exit code 2 and the reason.")]
pub(crate) struct CheckArgs {
    /// The topology file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs a verb of `tercet topology`.
///
/// # Errors
/// Exit code 2 and the field at fault for a refused topology.
pub(crate) fn topology(command: &TopologyCommand) -> Result<(), Failure> {
    let TopologyCommand::Check(args) = command;
    let topology = Topology::load(&args.file)?;
    if args.json {
        return print(&to_json(&topology).to_string());
    }
    print(&format!("{topology}\n\nwho would lead after a loss\n{}", leaders_table(&topology)))
}

fn leaders_table(topology: &Topology) -> String {
    let mut rows = vec![vec!["nothing".to_owned(), leader_text(topology, &[])]];
    let losses = topology.survives();
    let single = losses.iter().filter(|loss| loss.kind != LossKind::Pair);
    rows.extend(single.map(|loss| vec![loss.to_string(), after_text(topology, loss)]));
    table(&[Column::Text("loss of"), Column::Text("leader")], &rows)
}

fn after_text(topology: &Topology, loss: &Loss) -> String {
    if loss.quorum {
        leader_text(topology, &lost_nodes(topology, loss))
    } else {
        "none: no quorum; it waits for the lost nodes".to_owned()
    }
}

fn leader_text(topology: &Topology, lost: &[&str]) -> String {
    match leaders(topology, lost) {
        Some((zone, nodes)) => format!("zone {zone} ({})", nodes.join(" or ")),
        None => "none".to_owned(),
    }
}

/// The most preferred zone with a voter that is left, and those voters.
fn leaders<'a>(topology: &'a Topology, lost: &[&str]) -> Option<(&'a str, Vec<&'a str>)> {
    topology.zones_by_preference().into_iter().find_map(|zone| {
        let standing = |node: &&Node| {
            node.zone == zone.name && node.role == Role::Voter && !lost.contains(&node.name.as_str())
        };
        let nodes: Vec<&str> =
            topology.nodes.iter().filter(standing).map(|node| node.name.as_str()).collect();
        if nodes.is_empty() { None } else { Some((zone.name.as_str(), nodes)) }
    })
}

fn lost_nodes<'a>(topology: &'a Topology, loss: &Loss) -> Vec<&'a str> {
    let named = |name: &str| loss.names.iter().any(|lost| lost == name);
    let is_lost = |node: &&Node| match loss.kind {
        LossKind::Node | LossKind::Pair => named(&node.name),
        LossKind::Zone => named(&node.zone),
        LossKind::Site => topology.site_of(node.id).is_some_and(named),
    };
    topology.nodes.iter().filter(is_lost).map(|node| node.name.as_str()).collect()
}

fn to_json(topology: &Topology) -> Value {
    let timing = topology.timing();
    let leader = |lost: &[&str]| {
        leaders(topology, lost).map_or(Value::Null, |(zone, nodes)| json!({ "zone": zone, "nodes": nodes }))
    };
    let losses: Vec<Value> = topology
        .survives()
        .iter()
        .map(|loss| {
            let kind = match loss.kind {
                LossKind::Node => "node",
                LossKind::Zone => "zone",
                LossKind::Site => "site",
                LossKind::Pair => "pair",
            };
            json!({
                "loss": kind,
                "names": loss.names,
                "voters_left": loss.voters_left,
                "voters": loss.voters,
                "quorum": loss.quorum,
                "city": loss.city,
                "geo": loss.geo,
                "leader": if loss.quorum { leader(&lost_nodes(topology, loss)) } else { Value::Null },
            })
        })
        .collect();
    json!({
        "cluster": topology.cluster.name,
        "groups": topology.cluster.groups,
        "quorum": topology.quorum(),
        "leader": leader(&[]),
        "losses": losses,
        "timing": {
            "heartbeat_ms": timing.heartbeat_ms,
            "election_min_ms": timing.election_min_ms,
            "election_max_ms": timing.election_max_ms,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> Topology {
        Topology::default_on(7_000).expect("the default")
    }

    #[test]
    fn the_most_preferred_zone_that_is_left_leads() {
        let topology = default();
        assert_eq!(leaders(&topology, &[]), Some(("a", vec!["a1", "a2"])));
        assert_eq!(leaders(&topology, &["a1"]), Some(("a", vec!["a2"])));
        assert_eq!(leaders(&topology, &["a1", "a2"]), Some(("b", vec!["b1", "b2"])));
        assert_eq!(leaders(&topology, &["a1", "a2", "b1", "b2"]), Some(("c", vec!["c1"])));
        assert_eq!(leaders(&topology, &["a1", "a2", "b1", "b2", "c1"]), None);
    }

    #[test]
    fn the_default_is_shown_loss_by_loss() {
        let text = leaders_table(&default());
        let lines: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            lines,
            [
                "loss of leader",
                "nothing zone a (a1 or a2)",
                "node a1 zone a (a2)",
                "node a2 zone a (a1)",
                "node b1 zone a (a1 or a2)",
                "node b2 zone a (a1 or a2)",
                "node c1 zone a (a1 or a2)",
                "zone a zone b (b1 or b2)",
                "zone b zone a (a1 or a2)",
                "zone c zone a (a1 or a2)",
                "site east none: no quorum; it waits for the lost nodes",
                "site west zone a (a1 or a2)",
            ]
        );
    }

    #[test]
    fn the_json_has_every_loss() {
        let value = to_json(&default());
        let losses = value["losses"].as_array().expect("a list");
        assert_eq!(losses.len(), 5 + 3 + 2 + 10);
        let east = losses.iter().find(|loss| loss["names"] == json!(["east"])).expect("site east");
        assert_eq!((&east["quorum"], &east["leader"]), (&json!(false), &Value::Null));
    }
}
