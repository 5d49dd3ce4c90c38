//! A simulated node as its repair, its supervision and its scrubber see it: what `Node` is in production.
//!
//! Invariant: it decides nothing; what a group of it does, the real code decides.

use std::sync::Arc;
use std::time::Duration;

use tercet_node::groups::Groups;
use tercet_node::raft::group::GroupParams;
use tercet_node::repair::Host;
use tercet_node::scrub::Scrubbed;
use tercet_proto::topology::Topology;
use tokio::sync::watch;
use tokio::time::Instant;

use super::trace::Trace;
use crate::invariants::Witness;

/// See the module.
pub struct SimHost {
    /// Its name.
    pub name: String,
    /// What its group is started with.
    pub params: GroupParams,
    /// The topology.
    pub topology: Arc<Topology>,
    /// Its group.
    pub groups: Groups,
    /// When it was started.
    pub began: Instant,
    /// Changes when rot is found. One task waits on it, so tokio's does.
    pub damaged: watch::Sender<u64>,
    /// What its scrubber has done. Nobody waits on it.
    pub scrubbed: watch::Sender<Scrubbed>,
    /// Where events go.
    pub trace: Arc<Trace>,
    /// Who hears that it cannot go on.
    pub witness: Arc<Witness>,
}

impl Host for SimHost {
    fn params(&self) -> &GroupParams {
        &self.params
    }

    fn params_of(&self, group: u32) -> GroupParams {
        self.params.of_group(group, &self.topology)
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn name_of(&self, id: u64) -> String {
        self.topology.node_by_id(id).map_or_else(|| format!("#{id}"), |node| node.name.clone())
    }

    fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    fn damaged(&self) -> watch::Receiver<u64> {
        self.damaged.subscribe()
    }

    fn scrubbed(&self) -> &watch::Sender<Scrubbed> {
        &self.scrubbed
    }

    fn event(&self, _group: u32, kind: &str, message: String) {
        self.trace.event(format_args!("{kind}: {message}"));
    }

    fn fail(&self, why: String) {
        self.witness.violated(format!("stopped: {}: {why}", self.name));
    }
}
