//! `tercet status`: every node's own view, side by side.
//!
//! Invariants: each node is asked itself and for a bounded time, so that a lost node costs a time-out and hides nothing; the
//! group's leader is the one that says so in the highest term.

mod placement;

use std::time::Duration;

use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};
use tercet_proto::client::Client;
use tercet_proto::json::to_json;
use tercet_proto::v1;

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::output::{Column, counted, print, printable, table};

/// Full name of [`v1::NodeStatus`].
const NODE_STATUS: &str = "tercet.v1.NodeStatus";
/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Arguments of `tercet status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet status
  tercet status --endpoint http://127.0.0.1:7201,http://127.0.0.1:7203 --json | jq '.nodes[].state'

Asks one endpoint for the topology, then every node of it for its own view. `lag` is the distance of a node's last index
from the leader's. Below, as the leader knows it: how far each class is placed, what is degraded and why, and for each zone
and site what its loss would mean now: who would lead, the RPO of each class in entries and milliseconds, and whether entries
would still be taken. Exit code 0 as long as one endpoint answers; unreachable nodes are shown as such.")]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// A node of the topology and what it answered.
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    /// The node.
    pub(crate) info: v1::NodeInfo,
    /// Its status, or why there is none.
    pub(crate) status: Result<v1::NodeStatus, String>,
}

/// Shows the status of every node.
///
/// # Errors
/// No endpoint answers.
pub(crate) async fn status(args: StatusArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let views = gather(&client).await?;
    if args.json { print(&to_value(&views)?.to_string()) } else { print(&describe(&views)) }
}

/// Asks the cluster for its topology and every node of it for its status.
///
/// # Errors
/// No endpoint answers.
pub(crate) async fn gather(client: &Client) -> Result<Vec<NodeView>, Failure> {
    let topology = client.topology().await?;
    let asked = topology.nodes.into_iter().map(|info| async {
        let status =
            match tokio::time::timeout(ANSWER_TIMEOUT, client.status(&client.endpoint_of(&info))).await {
                Ok(Ok(status)) => Ok(status),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
            };
        NodeView { info, status }
    });
    Ok(join_all(asked).await)
}

/// The table, a line for each group's leader, and what nodes warn of.
pub(crate) fn describe(views: &[NodeView]) -> String {
    let groups = groups(views);
    let mut text = status_table(views, &groups);
    for &group in &groups {
        let line = match leader_of(views, group) {
            Some((name, status)) => {
                let journals = counted(status.journals, "journal", "journals");
                let in_all = format!("{journals}, {}", counted(status.entries, "entry", "entries"));
                format!("group {group}: led by {name} in term {}; {in_all}", status.term)
            }
            None => format!("group {group}: no node says that it leads"),
        };
        text.push_str(&format!("\n{line}"));
        if let Some((_, status)) = leader_of(views, group) {
            text.push_str(&placement::describe(status));
        }
    }
    for warning in warnings(views) {
        text.push_str(&format!("\nwarning: {}", printable(&warning)));
    }
    text
}

fn status_table(views: &[NodeView], groups: &[u32]) -> String {
    let with_group = groups.len() > 1;
    let mut columns = vec![Column::Text("node"), Column::Text("zone")];
    if with_group {
        columns.push(Column::Number("group"));
    }
    columns.push(Column::Text("role"));
    columns.extend(["term", "last", "committed", "applied", "lag"].map(Column::Number));
    columns.push(Column::Text("state"));
    let mut rows = Vec::new();
    for view in views {
        for &group in groups {
            let mut row = vec![view.info.name.clone(), view.info.zone.clone()];
            if with_group {
                row.push(group.to_string());
            }
            row.extend(group_cells(
                view,
                group,
                leader_of(views, group).map(|(_, leader)| leader.last_index),
            ));
            rows.push(row);
        }
    }
    table(&columns, &rows)
}

/// Role, term, last, committed, applied, lag, state.
fn group_cells(view: &NodeView, group: u32, leader_last: Option<u64>) -> Vec<String> {
    let state = if view.status.is_ok() { "up" } else { "unreachable" };
    let mut cells = match group_of(view, group) {
        Some(status) => vec![
            status.role.clone(),
            status.term.to_string(),
            status.last_index.to_string(),
            status.committed_index.to_string(),
            status.applied_index.to_string(),
            leader_last
                .map_or_else(|| "-".to_owned(), |last| last.saturating_sub(status.last_index).to_string()),
        ],
        None => vec!["-".to_owned(); 6],
    };
    cells.push(state.to_owned());
    cells
}

fn group_of(view: &NodeView, group: u32) -> Option<&v1::GroupStatus> {
    view.status.as_ref().ok()?.groups.iter().find(|status| status.group == group)
}

/// Every group that a node knows; group 0 always.
fn groups(views: &[NodeView]) -> Vec<u32> {
    let known = views.iter().filter_map(|view| view.status.as_ref().ok()).flat_map(|status| &status.groups);
    let mut groups: Vec<u32> = known.map(|status| status.group).chain([0]).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// The node that says it leads, in the highest term.
fn leader_of(views: &[NodeView], group: u32) -> Option<(&str, &v1::GroupStatus)> {
    views
        .iter()
        .filter_map(|view| Some((view.info.name.as_str(), group_of(view, group)?)))
        .filter(|(_, status)| status.role == "leader")
        .max_by_key(|(_, status)| status.term)
}

fn warnings(views: &[NodeView]) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut cluster_ids = Vec::new();
    for NodeView { info, status } in views {
        match status {
            Err(why) => warnings.push(format!("{}: unreachable at {}: {why}", info.name, info.client)),
            Ok(status) => {
                if status.node != info.name {
                    warnings
                        .push(format!("{}: {} is served by node {}", info.name, info.client, status.node));
                }
                warnings.extend(status.warnings.iter().map(|warning| format!("{}: {warning}", info.name)));
                let messages = status.groups.iter().filter(|group| !group.message.is_empty());
                warnings.extend(
                    messages.map(|group| format!("{}: group {}: {}", info.name, group.group, group.message)),
                );
                if !status.cluster_id.is_empty() && !cluster_ids.contains(&status.cluster_id) {
                    cluster_ids.push(status.cluster_id.clone());
                }
            }
        }
    }
    if cluster_ids.len() > 1 {
        warnings.push(format!(
            "the nodes belong to {} clusters: {}",
            cluster_ids.len(),
            cluster_ids.join(", ")
        ));
    }
    warnings
}

fn to_value(views: &[NodeView]) -> Result<Value, Failure> {
    let failed = |error: &dyn std::fmt::Display| Failure::failed(error.to_string());
    let mut nodes = Vec::with_capacity(views.len());
    for NodeView { info, status } in views {
        let mut node = json!({
            "id": info.id, "name": info.name, "zone": info.zone, "site": info.site,
            "client": info.client, "peer": info.peer, "member_role": info.role,
        });
        match status {
            Ok(status) => {
                let text = to_json(status, NODE_STATUS).map_err(|error| failed(&error))?;
                node["state"] = json!("up");
                node["status"] = serde_json::from_str(&text).map_err(|error| failed(&error))?;
            }
            Err(why) => {
                node["state"] = json!("unreachable");
                node["error"] = json!(why);
            }
        }
        nodes.push(node);
    }
    let leaders: Vec<Value> = groups(views)
        .into_iter()
        .map(|group| match leader_of(views, group) {
            Some((name, status)) => json!({ "group": group, "leader": name, "term": status.term }),
            None => json!({ "group": group, "leader": Value::Null }),
        })
        .collect();
    Ok(json!({ "groups": leaders, "nodes": nodes, "warnings": warnings(views) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: &str, zone: &str, role: &str, term: u64, last: u64) -> NodeView {
        let group = v1::GroupStatus {
            role: role.to_owned(),
            term,
            last_index: last,
            committed_index: last,
            applied_index: last - 1,
            journals: 1,
            entries: 6_471,
            ..v1::GroupStatus::default()
        };
        let info = v1::NodeInfo {
            name: name.to_owned(),
            zone: zone.to_owned(),
            client: "127.0.0.1:7201".to_owned(),
            ..v1::NodeInfo::default()
        };
        let status =
            v1::NodeStatus { node: name.to_owned(), groups: vec![group], ..v1::NodeStatus::default() };
        NodeView { info, status: Ok(status) }
    }

    fn lost(name: &str, zone: &str) -> NodeView {
        NodeView { status: Err("connection refused".to_owned()), ..view(name, zone, "follower", 1, 1) }
    }

    #[test]
    fn the_table_shows_every_node_its_lag_and_the_leader() {
        let views = [view("a1", "a", "leader", 3, 20), view("b1", "b", "follower", 3, 17), lost("c1", "c")];
        assert_eq!(
            describe(&views),
            "node  zone  role      term  last  committed  applied  lag  state\n\
             a1    a     leader       3    20         20       19    0  up\n\
             b1    b     follower     3    17         17       16    3  up\n\
             c1    c     -            -     -          -        -    -  unreachable\n\
             group 0: led by a1 in term 3; 1 journal, 6,471 entries\n\
             warning: c1: unreachable at 127.0.0.1:7201: connection refused"
        );
    }

    #[test]
    fn a_deposed_leader_that_does_not_know_it_yet_is_not_the_leader() {
        let views = [view("a1", "a", "leader", 3, 20), view("b1", "b", "leader", 4, 21)];
        assert_eq!(leader_of(&views, 0).map(|(name, _)| name), Some("b1"));
    }

    #[test]
    fn without_an_answer_nobody_leads() {
        let text = describe(&[lost("a1", "a"), lost("b1", "b")]);
        assert!(text.contains("group 0: no node says that it leads"), "{text}");
    }

    #[test]
    fn nodes_of_other_clusters_and_at_wrong_addresses_are_warned_of() {
        let mut views = [view("a1", "a", "leader", 3, 20), view("b1", "b", "follower", 3, 20)];
        for (view, cluster) in views.iter_mut().zip(["aa", "bb"]) {
            let status = view.status.as_mut().expect("up");
            status.cluster_id = cluster.to_owned();
            status.node = "a1".to_owned();
        }
        let warnings = warnings(&views);
        assert_eq!(
            warnings,
            ["b1: 127.0.0.1:7201 is served by node a1", "the nodes belong to 2 clusters: aa, bb"]
        );
    }

    #[test]
    fn the_json_holds_leaders_states_and_statuses() {
        let value = to_value(&[view("a1", "a", "leader", 3, 20), lost("c1", "c")]).expect("json");
        assert_eq!(value["groups"], json!([{ "group": 0, "leader": "a1", "term": 3 }]));
        assert_eq!(value["nodes"][0]["state"], "up");
        assert_eq!(value["nodes"][0]["status"]["node"], "a1");
        assert_eq!(value["nodes"][1]["state"], "unreachable");
    }
}
