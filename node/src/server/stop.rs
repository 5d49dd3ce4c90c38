//! Takes a node down again, in order and in bounded time (decision 0039).
//!
//! Invariants: whatever it leads is given away while everything is still served; nobody's open connection is waited for longer than
//! [`DRAIN_MAX`]; the log is closed last.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;

use super::Server;
use crate::node::Node;
use crate::raft::group::Group;

/// Giving leadership away takes at most so long; it is a round trip or two and a flush.
const GIVE_AWAY_MAX: Duration = Duration::from_millis(500);
/// Whatever callers keep open at a stop is waited for so long.
const DRAIN_MAX: Duration = Duration::from_millis(1_000);

impl Server {
    /// Hands over what it leads, stops serving, stops Raft, writes the last checkpoint and closes the log; then waits until its
    /// directory is free.
    pub async fn stop(self) {
        let stopped = self.shut_down(std::future::pending()).await;
        stopped.let_go().await;
    }

    /// As [`Server::stop`], when the whole cluster stops: nothing is handed over.
    pub async fn stop_with_all(self) {
        let stopped = self.shut_down(std::future::ready(())).await;
        stopped.let_go().await;
    }

    /// Stops in this order, each part bounded but for the disk's: leadership is given away, while everything is still served;
    /// nothing new comes in, and what is under way is answered or cut off; Raft, the last checkpoint, the log. When `hasten`
    /// completes it gives nothing away and waits for no caller.
    pub async fn shut_down(mut self, hasten: impl Future<Output = ()>) -> Stopped {
        let mut hasten = std::pin::pin!(hasten);
        self.node.leaving.send_replace(true);
        let groups = self.node.groups.running();
        groups.iter().for_each(|group| group.leave());
        let is_hasty = tokio::select! {
            biased;
            () = hasten.as_mut() => true,
            () = self.give_away(&groups) => false,
        };
        self.stopping.send_replace(true);
        if !is_hasty {
            let tasks = &mut self.tasks;
            let drained = async { while tasks.join_next().await.is_some() {} };
            tokio::select! {
                biased;
                () = hasten.as_mut() => {}
                _ = tokio::time::timeout(DRAIN_MAX, drained) => {}
            }
        }
        self.tasks.abort_all();
        join_all(groups.iter().map(|group| group.shutdown())).await;
        drop(groups);
        let log = self.node.log.clone();
        let identity = self.node.identity.clone();
        let closing = tokio::task::spawn_blocking(move || {
            log.close();
            identity.note_batch(log.durable_batch())
        });
        match closing.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "NODE does not say how far the log has come"),
            Err(_) => tracing::error!("the log did not close"),
        }
        Stopped { node: self.node }
    }

    /// Lets other nodes lead what this one leads.
    async fn give_away(&self, groups: &[Arc<Group>]) {
        let node = &self.node;
        let given = groups.iter().filter(|group| group.is_leader()).map(|group| async move {
            let rank = |id| {
                let zone = node.topology.node_by_id(id).map_or("", |entry| entry.zone.as_str());
                node.topology.leader_rank(group.id(), zone)
            };
            let is_given = group.give_away(rank, GIVE_AWAY_MAX).await;
            tracing::info!(node = node.name, group = group.id(), is_given, "leadership before the stop");
        });
        join_all(given).await;
    }
}

/// A node that has stopped: its log is closed.
pub struct Stopped {
    node: Arc<Node>,
}

impl Stopped {
    /// Waits until no task uses the node any more, so that its directory is free when `stop` returns.
    pub async fn let_go(self) {
        let Self { node, .. } = self;
        let deadline = Instant::now() + Duration::from_secs(3);
        while Arc::strong_count(&node) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let users = Arc::strong_count(&node) - 1;
        if users > 0 {
            tracing::warn!(node = node.name, users, "something still uses the stopped node");
        }
        let index = node.group_params.index.clone();
        drop(node);
        while Arc::strong_count(&index) > 1 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
