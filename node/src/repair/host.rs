//! What supervision, repair and scrubbing need of the node around a group: little, so that a simulated node can be one.
//!
//! Invariant: nothing here knows gRPC, files or the wall clock; peers are reached by the group's own way to them.

use std::time::Duration;

use tercet_storage::{SegmentLog, mutants};
use tokio::sync::watch;

use crate::groups::Groups;
use crate::node::Node;
use crate::placement::Electorate;
use crate::raft::electorate;
use crate::raft::group::GroupParams;
use crate::scrub::Scrubbed;

/// See the module.
pub trait Host: Send + Sync + 'static {
    /// What its groups are started with; what is each group's own is [`Host::params_of`]'s.
    fn params(&self) -> &GroupParams;
    /// What one group is started with.
    fn params_of(&self, group: u32) -> GroupParams;
    /// Its groups.
    fn groups(&self) -> &Groups;
    /// Whose majorities count in a group, as far as this node knows; of one that does not run, by its last checkpoint.
    fn electorate(&self, group: u32) -> Electorate {
        let checkpointed = || electorate::checkpointed(&self.params().index, group);
        self.groups().get(group).map_or_else(|_| checkpointed(), |running| running.electorate())
    }
    /// Its name.
    fn name(&self) -> &str;
    /// A node's name.
    fn name_of(&self, id: u64) -> String;
    /// Since when it runs.
    fn uptime(&self) -> Duration;
    /// Changes when rot is found while it runs.
    fn damaged(&self) -> watch::Receiver<u64>;
    /// What its scrubber has done.
    fn scrubbed(&self) -> &watch::Sender<Scrubbed>;
    /// Tells whoever watches.
    fn event(&self, group: u32, kind: &str, message: String);
    /// It cannot go on, for this reason.
    fn fail(&self, why: String);
}

impl Host for Node {
    fn params(&self) -> &GroupParams {
        &self.group_params
    }

    fn params_of(&self, group: u32) -> GroupParams {
        self.group_params.of_group(group, &self.topology)
    }

    fn groups(&self) -> &Groups {
        &self.groups
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn name_of(&self, id: u64) -> String {
        Self::name_of(self, id)
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn damaged(&self) -> watch::Receiver<u64> {
        self.damaged.subscribe()
    }

    fn scrubbed(&self) -> &watch::Sender<Scrubbed> {
        &self.scrubbed
    }

    fn event(&self, group: u32, kind: &str, message: String) {
        Self::event(self, group, kind, message);
    }

    fn fail(&self, why: String) {
        self.failure.send_replace(Some(why));
    }
}

/// Whether a group must not take part: something of it is lost.
#[must_use]
pub fn is_held_back(log: &SegmentLog, group: u32) -> bool {
    log.is_damaged(group) && !mutants::is("quarantined-acknowledges")
}
