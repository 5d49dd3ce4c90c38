//! `tercet topology check`: what a topology file survives, who would lead then, and what each class would cost and lose;
//! `tercet topology template`: topologies to begin with.
//!
//! Invariant: what would happen is found by trying every loss on the topology itself, never by a formula.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tercet_proto::topology::{GeoRegime, Loss, LossKind, TEMPLATES, Topology};

use super::exit::Failure;
use super::output::{Column, print, table};
use crate::exposure::ranked;
use crate::placement::{Class, ClassOutlook, Outlook, outlook};

/// Verbs of `tercet topology`.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    /// Validates a topology file and says what it survives
    Check(CheckArgs),
    /// Prints a topology to begin with
    Template(TemplateArgs),
}

/// Arguments of `tercet topology check`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet topology check topology.toml
  tercet topology check topology.toml --json | jq '.losses[] | select(.loss == \"zone\")'

For each loss of a node, a zone, a site and a pair of nodes: who would lead, and for each class the RPO and the round trip
that an acknowledgement waits for (from the declared round-trip times; a durable append comes on top). A topology that a
cluster cannot run with, or in which the loss of a single zone would lose the quorum, is refused with exit code 2 and the
reason.")]
pub(crate) struct CheckArgs {
    /// The topology file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `tercet topology template`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet topology template 2-2-1
  tercet topology template 3-3-2 > topology.toml && tercet topology check topology.toml

2-2-1, 3-3-1, 2-2-2 or 3-3-2: voters in zones a and b of site east and zone c of site west. Addresses, round-trip times and
names are to be replaced by your own.")]
pub(crate) struct TemplateArgs {
    /// Voters per zone
    #[arg(value_name = "NAME", value_parser = TEMPLATES.map(|(name, _)| name))]
    name: String,
    /// Nodes listen on this port + 100, + 200 and + 300, + their id
    #[arg(long, default_value_t = 7_000)]
    base_port: u16,
}

/// Runs a verb of `tercet topology`.
///
/// # Errors
/// Exit code 2 and the field at fault for a refused topology.
pub(crate) fn topology(command: &TopologyCommand) -> Result<(), Failure> {
    match command {
        TopologyCommand::Check(args) => {
            let topology = Topology::load(&args.file)?;
            if args.json {
                return print(&to_json(&topology).to_string());
            }
            print(&format!("{topology}\n\n{}", outlook_table(&topology)))
        }
        TopologyCommand::Template(args) => print(&template(args)?),
    }
}

fn template(args: &TemplateArgs) -> Result<String, Failure> {
    let topology = Topology::template(&args.name, args.base_port)?;
    let text = topology.to_toml()?;
    Ok(format!(
        "# Template {}: replace names, addresses and round-trip times by your own.\n\n{}",
        args.name,
        text.trim_end()
    ))
}

fn outlook_after(topology: &Topology, lost: &[u64]) -> Outlook {
    let lost: BTreeSet<u64> = lost.iter().copied().collect();
    outlook(&ranked(topology), &lost, |zone, other| topology.rtt_ms(zone, other))
}

fn outlook_table(topology: &Topology) -> String {
    let mut rows = vec![row(topology, "nothing", &outlook_after(topology, &[]))];
    for loss in topology.survives() {
        rows.push(row(topology, &loss.to_string(), &outlook_after(topology, &loss.lost)));
    }
    let columns = [
        Column::Text("loss of"),
        Column::Number("voters"),
        Column::Text("leader"),
        Column::Text("city RPO"),
        Column::Number("city ms"),
        Column::Text("geo RPO"),
        Column::Number("geo ms"),
    ];
    table(&columns, &rows)
}

fn row(topology: &Topology, name: &str, outlook: &Outlook) -> Vec<String> {
    let mut row = vec![
        name.to_owned(),
        format!("{} of {}", outlook.voters_left, outlook.voters),
        leader_text(topology, outlook),
    ];
    for class in Class::ALL {
        let ClassOutlook { kept, .. } = outlook.of(class);
        row.push(if *kept { "0" } else { "unbounded" }.to_owned());
        let does_without = class == Class::Geo
            && outlook.city.reachable
            && topology.durability.geo_regime == GeoRegime::Adaptive;
        let latency = latency_text(outlook.of(class));
        row.push(if does_without && latency == "refused" { "as city".to_owned() } else { latency });
    }
    row
}

fn leader_text(topology: &Topology, outlook: &Outlook) -> String {
    match &outlook.leader {
        Some((zone, nodes)) => format!("zone {zone} ({})", names(topology, nodes).join(" or ")),
        None => "none: no quorum".to_owned(),
    }
}

fn names<'a>(topology: &'a Topology, ids: &[u64]) -> Vec<&'a str> {
    ids.iter().filter_map(|id| topology.node_by_id(*id)).map(|node| node.name.as_str()).collect()
}

fn latency_text(class: &ClassOutlook) -> String {
    match class.round_trip_ms {
        Some(ms) if class.reachable => format!("{ms}"),
        _ => "refused".to_owned(),
    }
}

fn to_json(topology: &Topology) -> Value {
    let timing = topology.timing();
    let losses: Vec<Value> = topology.survives().iter().map(|loss| loss_json(topology, loss)).collect();
    let none = outlook_after(topology, &[]);
    json!({
        "cluster": topology.cluster.name,
        "groups": topology.cluster.groups,
        "quorum": topology.quorum(),
        "leader": leader_json(topology, &none),
        "city": class_json(&none.city),
        "geo": class_json(&none.geo),
        "geo_regime": topology.durability.geo_regime.as_str(),
        "losses": losses,
        "timing": {
            "heartbeat_ms": timing.heartbeat_ms,
            "election_min_ms": timing.election_min_ms,
            "election_max_ms": timing.election_max_ms,
        },
    })
}

fn loss_json(topology: &Topology, loss: &Loss) -> Value {
    let kind = match loss.kind {
        LossKind::Node => "node",
        LossKind::Zone => "zone",
        LossKind::Site => "site",
        LossKind::Pair => "pair",
    };
    let outlook = outlook_after(topology, &loss.lost);
    json!({
        "loss": kind,
        "names": loss.names,
        "voters_left": outlook.voters_left,
        "voters": outlook.voters,
        "quorum": outlook.quorum,
        "leader": leader_json(topology, &outlook),
        "city": class_json(&outlook.city),
        "geo": class_json(&outlook.geo),
    })
}

fn leader_json(topology: &Topology, outlook: &Outlook) -> Value {
    outlook
        .leader
        .as_ref()
        .map_or(Value::Null, |(zone, nodes)| json!({ "zone": zone, "nodes": names(topology, nodes) }))
}

fn class_json(class: &ClassOutlook) -> Value {
    json!({
        "reachable": class.reachable,
        "rpo": if class.kept { json!(0) } else { json!("unbounded") },
        "round_trip_ms": class.round_trip_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(template: &str) -> Vec<String> {
        let topology = Topology::template(template, 7_000).expect("a template");
        outlook_table(&topology)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    fn line(template: &str, loss: &str) -> String {
        let found =
            lines(template).into_iter().find_map(|line| Some(line.strip_prefix(loss)?.trim().to_owned()));
        found.unwrap_or_else(|| panic!("{template} has no {loss}"))
    }

    #[test]
    fn the_default_is_shown_loss_by_loss() {
        let lines = lines("2-2-1");
        assert_eq!(
            lines[..12],
            [
                "loss of voters leader city RPO city ms geo RPO geo ms",
                "nothing 5 of 5 zone a (a1 or a2) 0 1 0 30",
                "node a1 4 of 5 zone a (a2) 0 1 0 30",
                "node a2 4 of 5 zone a (a1) 0 1 0 30",
                "node b1 4 of 5 zone a (a1 or a2) 0 1 0 30",
                "node b2 4 of 5 zone a (a1 or a2) 0 1 0 30",
                "node c1 4 of 5 zone a (a1 or a2) 0 1 0 refused",
                "zone a 3 of 5 zone b (b1 or b2) 0 30 0 30",
                "zone b 3 of 5 zone a (a1 or a2) 0 30 0 30",
                "zone c 4 of 5 zone a (a1 or a2) 0 1 0 refused",
                "site east 1 of 5 none: no quorum unbounded refused 0 refused",
                "site west 4 of 5 zone a (a1 or a2) 0 1 0 refused",
            ]
        );
        assert_eq!(lines.len(), 1 + 1 + 5 + 3 + 2 + 10);
    }

    /// Six voters need four: a zone's loss leaves exactly these, and each acknowledgement needs the remote ones.
    #[test]
    fn an_even_number_of_voters_pays_for_its_second_remote_replica() {
        assert_eq!(line("2-2-2", "nothing"), "6 of 6 zone a (a1 or a2) 0 1 0 30");
        assert_eq!(line("2-2-2", "zone a"), "4 of 6 zone b (b1 or b2) 0 30 0 30");
        assert_eq!(line("2-2-2", "node c1"), "5 of 6 zone a (a1 or a2) 0 1 0 30");
        assert_eq!(line("2-2-2", "zone c"), "4 of 6 zone a (a1 or a2) 0 1 0 refused");
        assert_eq!(line("3-3-2", "zone a"), "5 of 8 zone b (b1 or b2 or b3) 0 30 0 30");
        assert_eq!(line("3-3-1", "zone a"), "4 of 7 zone b (b1 or b2 or b3) 0 30 0 30");
        assert_eq!(line("3-3-1", "pair a1 b1"), "5 of 7 zone a (a2 or a3) 0 1 0 30");
    }

    #[test]
    fn under_adaptive_geo_goes_on_as_city() {
        let mut topology = Topology::default_on(7_000).expect("the default");
        topology.durability.geo_regime = GeoRegime::Adaptive;
        let text = outlook_table(&topology);
        let last = |loss: &str| {
            let line = text.lines().find(|line| line.starts_with(loss)).expect(loss);
            line.split_whitespace().last().expect("a word").to_owned()
        };
        assert_eq!([last("zone b"), last("zone c"), last("site east")], ["30", "city", "refused"]);
    }

    #[test]
    fn every_template_can_be_checked_as_it_is_printed() {
        for (name, _) in TEMPLATES {
            let text = template(&TemplateArgs { name: name.to_owned(), base_port: 9_000 }).expect(name);
            assert_eq!(Topology::parse(&text).expect(name), Topology::template(name, 9_000).expect(name));
            for zone in ["zone a", "zone b", "zone c"] {
                assert!(line(name, zone).contains(" zone "), "{name} has no leader without {zone}");
            }
        }
    }

    #[test]
    fn the_json_has_every_loss() {
        let value = to_json(&Topology::default_on(7_000).expect("the default"));
        let losses = value["losses"].as_array().expect("a list");
        assert_eq!(losses.len(), 5 + 3 + 2 + 10);
        let east = losses.iter().find(|loss| loss["names"] == json!(["east"])).expect("site east");
        assert_eq!((&east["quorum"], &east["leader"]), (&json!(false), &Value::Null));
        assert_eq!((&east["city"]["rpo"], &east["geo"]["rpo"]), (&json!("unbounded"), &json!(0)));
        assert_eq!(value["geo"]["round_trip_ms"], json!(30.0));
    }
}
