//! The votes that nodes have stored, read from their logs with `tercet inspect` after the nodes have stopped: what they did
//! across restarts, and not only what they said when they were asked.
//!
//! Invariant: a node's votes come in the order in which they were stored.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{ClusterError, Node, ProcessCluster};
use crate::history::StoredVote;

/// By node: the number of its data directory.
pub(crate) type Incarnations = BTreeMap<String, u64>;

impl ProcessCluster {
    /// The incarnation of every node that is left.
    ///
    /// # Errors
    /// A process has ended unasked.
    pub async fn incarnations(&self) -> Result<Incarnations, ClusterError> {
        let statuses = self.statuses().await?;
        Ok(statuses.into_iter().flatten().map(|status| (status.node, status.incarnation)).collect())
    }

    /// Every vote in the logs of the nodes that are left; they must have stopped.
    ///
    /// # Errors
    /// A log cannot be listed.
    pub fn stored_votes(&self, incarnations: &Incarnations) -> Result<Vec<StoredVote>, ClusterError> {
        let mut votes = Vec::new();
        for node in self.nodes.iter().filter(|node| !node.is_gone()) {
            let incarnation = incarnations.get(&node.member.name).copied().unwrap_or_default();
            votes.extend(tokio::task::block_in_place(|| self.votes_of(node, incarnation))?);
        }
        Ok(votes)
    }

    fn votes_of(&self, node: &Node, incarnation: u64) -> Result<Vec<StoredVote>, ClusterError> {
        let harness =
            |why: String| ClusterError::Harness(format!("the votes of node {}: {why}", node.member.name));
        let output = Command::new(&self.tercet)
            .args(["inspect", "--json"])
            .arg(&node.data_dir)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| harness(error.to_string()))?;
        if !output.status.success() {
            return Err(harness(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let mut votes = Vec::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let batch: Value = serde_json::from_str(line).map_err(|error| harness(error.to_string()))?;
            let records = batch["records"].as_array().into_iter().flatten();
            votes.extend(records.filter_map(|record| {
                let vote = &record["vote"];
                Some(StoredVote {
                    node: node.member.name.clone(),
                    incarnation,
                    group: u32::try_from(record["group"].as_u64()?).ok()?,
                    term: vote["term"].as_u64()?,
                    for_node: vote["node"].as_u64()?,
                    committed: vote["won"].as_bool()?,
                })
            }));
        }
        if votes.is_empty() {
            return Err(harness("there is none in its log".into()));
        }
        Ok(votes)
    }
}
