//! Watches over one group: takes it out of service when rot is found in it, has it repaired, and starts it anew.
//!
//! Invariants: a leader hands its leadership over before it stops, if anybody can take it; a group that Raft has given up for
//! another reason than rot stops the node, so that it is never silently without a replica.

use std::sync::Arc;
use std::time::Duration;

use super::host::{Host, is_held_back};
use crate::groups::Standing;
use crate::raft::group::{Group, IndexFit};

/// How long a leader with rot may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// Watches over a group until the node stops.
pub async fn supervise<H: Host>(node: Arc<H>, group: u32) {
    let log = node.params().log.clone();
    loop {
        if let Ok(running) = node.groups().get(group) {
            let mut damaged = node.damaged();
            tokio::select! {
                biased;
                _ = damaged.wait_for(|_| is_held_back(&log, group)) => {}
                why = running.given_up() => {
                    if !log.is_damaged(group) {
                        node.fail(format!("Raft gave group {group} up: {why}"));
                        return;
                    }
                }
            }
            take_out(&*node, &running).await;
        }
        while node.groups().get(group).is_err() {
            if !log.is_damaged(group) || !bring_back(&node, group).await {
                return;
            }
        }
    }
}

/// Hands leadership over and stops the group's Raft.
async fn take_out(node: &impl Host, running: &Arc<Group>) {
    let group = running.id();
    let lost = super::describe(&node.params().log.lost(group));
    node.event(group, "rot_found", format!("node {}: group {group}: rot took {lost}", node.name()));
    if running.is_leader() {
        match running.hand_over(HAND_OVER).await {
            Ok(to) => {
                node.event(group, "handed_over", format!("leadership handed to {}", node.name_of(to)));
            }
            Err(refusal) => tracing::warn!(group, %refusal, "leadership could not be handed over"),
        }
    }
    node.groups().set(group, Standing::Quarantined(Default::default()));
    running.shutdown().await;
}

/// Repairs and starts a group. False: the node cannot go on.
async fn bring_back<H: Host>(node: &Arc<H>, group: u32) -> bool {
    let lost = super::describe(&node.params().log.lost(group));
    node.event(group, "quarantined", format!("node {}: group {group} is quarantined: {lost}", node.name()));
    let restored = match super::repair(node, group).await {
        Ok(restored) => restored,
        Err(error) => {
            node.fail(error.to_string());
            return false;
        }
    };
    let log = &node.params().log;
    match Group::index_fit(group, &node.params().index, log) {
        IndexFit::Fits(_) => {}
        IndexFit::Unreadable => {
            let why = format!("the index of group {group} cannot be read; it is rebuilt at the next start");
            node.fail(why);
            return false;
        }
        IndexFit::Ahead(applied) => {
            let name = node.name();
            node.fail(format!(
                "the repaired log of group {group} has lost entries: the index was applied through entry {applied}; let the \
                 others take the node for lost with `tercet member replace {name}`"
            ));
            return false;
        }
    }
    match Group::start(node.params_of(group)).await {
        Ok(running) => {
            node.groups().set(group, Standing::Running(running));
            let what =
                format!("node {}: group {group} is repaired ({restored} records) and runs", node.name());
            node.groups().remember_repair(
                group,
                format!(
                    "repaired {} s after the start of the node, {restored} records restored from peers; rot had taken {lost}",
                    node.uptime().as_secs()
                ),
            );
            node.event(group, "repaired", what);
            true
        }
        // A start reads the log, too: what has rotted meanwhile is repaired like the rest.
        Err(error) if log.is_damaged(group) => {
            tracing::warn!(group, %error, "more has rotted: the repair goes on");
            true
        }
        Err(error) => {
            node.fail(error.to_string());
            false
        }
    }
}
