//! What the payload of a log entry or a vote says, in words.
//!
//! Invariant: bytes that do not decode are said to be so; nothing here fails because of them.

use std::collections::BTreeMap;

use crate::ctl::output::{counted, hex};
use crate::ledger::{Command, CommandView, ProposalView};
use crate::raft::codec::{TAG_BLANK, TAG_MEMBERSHIP, TAG_PROPOSAL, decode_vote};

/// The meaning of an entry with this tag and payload.
pub(super) fn meaning(tag: u8, payload: &[u8]) -> String {
    match tag {
        TAG_BLANK => "blank: a new leader's first entry".to_owned(),
        TAG_MEMBERSHIP => "membership".to_owned(),
        TAG_PROPOSAL => proposal(payload),
        other => format!("tag {other} is not known"),
    }
}

/// What a vote says.
pub(super) fn vote_meaning(payload: &[u8]) -> String {
    match decode_vote(payload) {
        Ok(vote) => {
            let won = if vote.committed { ", which has won" } else { "" };
            format!("term {} for node {}{won}", vote.leader_id.term, vote.leader_id.voted_for)
        }
        Err(error) => format!("a vote that does not decode: {error}"),
    }
}

fn proposal(payload: &[u8]) -> String {
    let view = match ProposalView::parse(payload) {
        Ok(view) => view,
        Err(error) => return format!("proposal that does not decode: {error}"),
    };
    // Requests of one journal are merged: what matters is how many entries went where.
    let mut appends: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    let mut others = Vec::new();
    for command in view.commands() {
        match command {
            Ok(CommandView::Append(append)) => {
                let (requests, entries) = appends.entry(append.journal()).or_default();
                *requests += 1;
                *entries += u64::from(append.entry_count());
            }
            Ok(CommandView::Other(command)) => others.push(other(&command)),
            Err(error) => others.push(format!("a command that does not decode: {error}")),
        }
    }
    let appends = appends.into_iter().map(|(journal, (requests, entries))| {
        let entries = counted(entries, "entry", "entries");
        format!("{entries} in {} for {journal}", counted(requests, "request", "requests"))
    });
    let parts: Vec<String> = appends.chain(others).collect();
    let leader = view.header().leader;
    format!(
        "proposal of node {leader}: {}",
        if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
    )
}

fn other(command: &Command) -> String {
    match command {
        Command::CreateJournal(settings) => format!("make journal {}", settings.name),
        Command::MapJournal { name } => format!("map journal {name} to a group"),
        Command::FormCluster { cluster_id, groups } => {
            format!("form cluster {} of {}", hex(cluster_id), counted((*groups).into(), "group", "groups"))
        }
        Command::RegisterNode { node_id, incarnation, start, .. } => {
            format!("register node {node_id} with incarnation {incarnation}, start {start}")
        }
        Command::DegradedFor { since_index, elapsed_ms } => {
            format!("degraded since index {since_index}, for {elapsed_ms} ms")
        }
        Command::SetRegime { degraded: Some(_), reason } => {
            format!("acknowledge geo as city from now on: {reason}")
        }
        Command::SetRegime { degraded: None, reason } => {
            format!("wait for every site again in class geo: {reason}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctl::dev::sample_entries;
    use crate::ledger::{PreparedCommand, ProposalBuilder, ProposalHeader};
    use tercet_proto::v1;

    fn append(journal: &str, count: usize) -> PreparedCommand {
        let request = v1::AppendRequest {
            journal: journal.to_owned(),
            entries: sample_entries(count),
            durability_class: 0,
        };
        PreparedCommand::append(&request).expect("valid")
    }

    #[test]
    fn a_proposal_says_what_it_appends_where() {
        let mut builder = ProposalBuilder::new(ProposalHeader { leader: 3, ..ProposalHeader::default() });
        builder.push_prepared(&append("interbank", 5));
        builder.push_prepared(&append("other", 1));
        builder.push_prepared(&append("interbank", 2));
        builder
            .push(&Command::RegisterNode { node_id: 4, incarnation: 9, start: 2, nonce: 7 })
            .expect("valid");
        assert_eq!(
            meaning(TAG_PROPOSAL, &builder.finish()),
            "proposal of node 3: 7 entries in 2 requests for interbank, 1 entry in 1 request for other, \
             register node 4 with incarnation 9, start 2"
        );
    }

    #[test]
    fn damaged_and_unknown_payloads_are_said_to_be_so() {
        assert!(meaning(TAG_PROPOSAL, &[]).starts_with("proposal that does not decode: "));
        assert!(meaning(TAG_PROPOSAL, &[99; 40]).starts_with("proposal that does not decode: "));
        assert_eq!(meaning(77, &[]), "tag 77 is not known");
        assert_eq!(meaning(TAG_MEMBERSHIP, &[]), "membership");
    }
}
