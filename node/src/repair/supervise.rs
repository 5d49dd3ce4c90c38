//! Watches over one group: takes it out of service when rot is found in it, has it repaired, and starts it anew.
//!
//! Invariants: a leader hands its leadership over before it stops, if anybody can take it; a group that Raft has given up for
//! another reason than rot stops the node, so that it is never silently without a replica.

use std::sync::Arc;
use std::time::Duration;

use crate::groups::Standing;
use crate::node::Node;
use crate::raft::group::Group;

/// How long a leader with rot may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Watches over a group until the node stops.
pub async fn supervise(node: Arc<Node>, group: u32) {
    loop {
        if node.log.is_damaged(group) {
            if let Ok(running) = node.group(group) {
                take_out(&node, &running).await;
            }
            if !bring_back(&node, group).await {
                return;
            }
        }
        let Ok(running) = node.group(group) else { return };
        let mut damaged = node.damaged.subscribe();
        tokio::select! {
            _ = damaged.wait_for(|_| node.log.is_damaged(group)) => {}
            why = running.given_up() => {
                if !node.log.is_damaged(group) {
                    node.failure.send_replace(Some(format!("Raft gave group {group} up: {why}")));
                    return;
                }
            }
        }
    }
}

/// Hands leadership over and stops the group's Raft.
async fn take_out(node: &Node, running: &Arc<Group>) {
    let group = running.id();
    let lost = super::describe(&node.log.lost(group));
    node.event(group, "rot_found", format!("node {}: group {group}: rot took {lost}", node.name));
    if running.is_leader() {
        match running.hand_over(HAND_OVER).await {
            Ok(to) => {
                node.event(group, "handed_over", format!("leadership handed to {}", node.name_of(to)));
            }
            Err(refusal) => tracing::warn!(group, %refusal, "leadership could not be handed over"),
        }
    }
    node.groups.set(group, Standing::Quarantined(Default::default()));
    running.shutdown().await;
}

/// Repairs and starts a group. False: the node cannot go on.
async fn bring_back(node: &Arc<Node>, group: u32) -> bool {
    let lost = super::describe(&node.log.lost(group));
    node.event(group, "quarantined", format!("node {}: group {group} is quarantined: {lost}", node.name));
    let restored = match super::repair(node, group).await {
        Ok(restored) => restored,
        Err(error) => {
            node.failure.send_replace(Some(error.to_string()));
            return false;
        }
    };
    if !Group::index_fits(group, &node.group_params.index, &node.log) {
        let why = format!(
            "the index of group {group} does not fit the repaired log; it is rebuilt at the next start"
        );
        node.failure.send_replace(Some(why));
        return false;
    }
    match Group::start(node.group_params.of_group(group, &node.topology)).await {
        Ok(running) => {
            node.groups.set(group, Standing::Running(running));
            let what = format!("node {}: group {group} is repaired ({restored} records) and runs", node.name);
            node.groups.remember_repair(
                group,
                format!(
                    "repaired {} s after the start of the node, {restored} records restored from peers; rot had taken {lost}",
                    node.started.elapsed().as_secs()
                ),
            );
            node.event(group, "repaired", what);
            true
        }
        Err(error) => {
            node.failure.send_replace(Some(error.to_string()));
            false
        }
    }
}
