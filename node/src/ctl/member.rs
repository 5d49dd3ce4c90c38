//! `tercet member`: which nodes belong to the groups.
//!
//! Every group changes by itself, group 0 last: it keeps the registry of nodes, and a node that was replaced may return only when
//! it votes nowhere any more.

use clap::{Args, Subcommand};
use serde_json::json;
use tercet_proto::client::Client;
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::output::print;

/// `tercet member VERB`.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Shows voters and learners of every group, and how far the learners are
    List(ListArgs),
    /// Adds a node as a learner: it receives the log and does not vote
    Add(ChangeArgs),
    /// Lets a learner vote that has caught up
    Promote(ChangeArgs),
    /// Takes a node out
    Remove(ChangeArgs),
    /// Takes a node for lost with its disk; it may come back with an empty directory, as a learner
    Replace(ChangeArgs),
}

/// Arguments of `tercet member list`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet member list

The leader of each group says how far every member's log is equal to its own.")]
pub(crate) struct ListArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Prints one JSON object a group
    #[arg(long)]
    json: bool,
}

/// Arguments of the changing verbs.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet member add d1        then, when `tercet member list` shows that it has caught up:
  tercet member promote d1
  tercet member remove b2
  tercet member replace a2    a2 has lost its disk; start it with an empty directory, then promote it

The topology file of every member must have the node (role = \"learner\" for one that joins later). A change that would make
the loss of a zone fatal is refused (exit code 3) unless --force is given; one that would leave no quorum always is.")]
pub(crate) struct ChangeArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The node
    #[arg(value_name = "NODE")]
    node: String,
    /// Also if the placement becomes weaker
    #[arg(long)]
    force: bool,
    /// Prints one JSON object a group
    #[arg(long)]
    json: bool,
}

/// Shows or changes members.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn member(command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List(args) => list(args).await,
        MemberCommand::Add(args) => change(args, Change::Add).await,
        MemberCommand::Promote(args) => change(args, Change::Promote).await,
        MemberCommand::Remove(args) => change(args, Change::Remove).await,
        MemberCommand::Replace(args) => change(args, Change::Replace).await,
    }
}

async fn change(args: ChangeArgs, change: Change) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let groups = client.topology().await?.groups;
    for group in (0..groups).rev() {
        let request = v1::ChangeMemberRequest {
            group,
            node: args.node.clone(),
            change: change.into(),
            force: args.force,
        };
        let members = client.change_member(request).await?;
        if args.json {
            let line = json!({ "group": group, "voters": members.voters, "learners": members.learners });
            print(&line.to_string())?;
        } else {
            let learners = if members.learners.is_empty() {
                String::new()
            } else {
                format!("; learners {}", members.learners.join(", "))
            };
            print(&format!("group {group}: voters {}{learners}", members.voters.join(", ")))?;
        }
    }
    Ok(())
}

async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let topology = client.topology().await?;
    for group in 0..topology.groups {
        let status = leaders_status(&client, &topology, group).await;
        let Some(status) = status else {
            return Err(Failure::failed(format!("no leader of group {group} answers")));
        };
        for replica in &status.replicas {
            let votes = status.voter_ids.contains(&replica.node_id);
            let behind = status.last_index.saturating_sub(replica.matched_index);
            let role = if votes { "voter" } else { "learner" };
            if args.json {
                let line = json!({
                    "group": group, "node": replica.node, "zone": replica.zone, "role": role,
                    "matched_index": replica.matched_index, "last_index": status.last_index,
                    "last_contact_ms": replica.last_contact_ms,
                });
                print(&line.to_string())?;
            } else {
                let contact = replica
                    .last_contact_ms
                    .map_or("never heard".to_owned(), |ms| format!("heard {ms} ms ago"));
                print(&format!(
                    "group {group}: {} (zone {}) {role}, at {} of {}, {behind} behind, {contact}",
                    replica.node, replica.zone, replica.matched_index, status.last_index
                ))?;
            }
        }
    }
    Ok(())
}

async fn leaders_status(client: &Client, topology: &v1::TopologyInfo, group: u32) -> Option<v1::GroupStatus> {
    for node in &topology.nodes {
        let Ok(status) = client.status(&client.endpoint_of(node)).await else { continue };
        let mut groups = status.groups.into_iter();
        if let Some(leads) = groups.find(|seen| seen.group == group && seen.role == "leader") {
            return Some(leads);
        }
    }
    None
}
