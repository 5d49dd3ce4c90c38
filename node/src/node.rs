//! One running node: what its services share.
//!
//! Invariant: everything here is set once at start; what changes lives in the groups, the identity and the log.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tercet_proto::refusal::Refusal;
use tercet_proto::topology::Topology;
use tercet_proto::v1;
use tercet_storage::SegmentLog;
use tokio::sync::{broadcast, watch};

use crate::admission::Admission;
use crate::controller::alone;
use crate::descriptors::Descriptors;
use crate::doors::Doors;
use crate::groups::{Groups, Standing};
use crate::identity::Identity;
use crate::raft::codec::decode_vote;
use crate::raft::group::{Group, GroupParams};
use crate::raft::network::peers::Peers;
use crate::room::DiskRoom;
use crate::scrub::Scrubbed;
use crate::telemetry::{Metrics, resident_bytes};

/// A node's shared parts.
pub struct Node {
    /// Who it is.
    pub identity: Arc<Identity>,
    /// What it was started with.
    pub topology: Topology,
    /// Its name.
    pub name: String,
    /// Its Raft groups.
    pub groups: Groups,
    /// The other nodes.
    pub peers: Arc<Peers>,
    /// Its log.
    pub log: SegmentLog,
    /// Its disk in words.
    pub disk: String,
    /// How many files may be open: bounds callers' connections.
    pub descriptors: Descriptors,
    /// Bounds of what callers make it hold.
    pub doors: Doors,
    /// Bounds of what it works on.
    pub admission: Admission,
    /// Its metrics.
    pub metrics: Metrics,
    /// Events for WatchEvents.
    pub events: broadcast::Sender<v1::Event>,
    /// When it started.
    pub started: Instant,
    /// Whether peers may be answered: a node with an empty log first asks whether it may take part.
    pub admitted: watch::Sender<bool>,
    /// Whether the log was empty when the node started.
    pub fresh: bool,
    /// Set first when the node is about to stop: it still serves, but sends no more callers for.
    pub leaving: watch::Sender<bool>,
    /// Set when the node is stopping.
    pub stopping: watch::Receiver<bool>,
    /// What its groups are started with; the number is each group's own.
    pub group_params: GroupParams,
    /// Whether its disk has room for entries.
    pub room: Arc<DiskRoom>,
    /// What the scrubber has done.
    pub scrubbed: watch::Sender<Scrubbed>,
    /// Changes when rot is found while the node runs.
    pub damaged: watch::Sender<u64>,
    /// Said once, when the node has to stop by itself.
    pub failure: watch::Sender<Option<String>>,
}

/// Names an environment variable for tests: by how many milliseconds this process takes the wall clock for wrong. Nothing
/// but recorded times and events knows the wall clock, so a skew is never unsafe (decision 0016).
const TEST_CLOCK_SKEW: &str = "TERCET_TEST_CLOCK_SKEW_MS";

/// Microseconds since 1970, UTC.
#[must_use]
pub fn now_us() -> i64 {
    static SKEW_US: LazyLock<i64> = LazyLock::new(test_clock_skew_us);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX).saturating_add(*SKEW_US)
}

fn test_clock_skew_us() -> i64 {
    let Ok(text) = std::env::var(TEST_CLOCK_SKEW) else { return 0 };
    let skew_us = text.parse::<i64>().ok().and_then(|ms| ms.checked_mul(1_000));
    tracing::warn!(TEST_CLOCK_SKEW, text, applied = skew_us.is_some(), "the wall clock is skewed for a test");
    skew_us.unwrap_or(0)
}

impl Node {
    /// A group by its number.
    ///
    /// # Errors
    /// GROUP_NOT_FOUND; RECOVERING while it is quarantined here.
    pub fn group(&self, group: u32) -> Result<Arc<Group>, Refusal> {
        self.groups.get(group)
    }

    /// The group that keeps the truth of the cluster.
    ///
    /// # Errors
    /// RECOVERING while it is quarantined here.
    pub fn group_zero(&self) -> Result<Arc<Group>, Refusal> {
        self.groups.get(0)
    }

    /// Publishes an event and logs it.
    pub fn event(&self, group: u32, kind: &str, message: String) {
        tracing::info!(group, kind, message, "event");
        let event = v1::Event { at_us: now_us(), node: self.name.clone(), group, kind: kind.into(), message };
        // Nobody may be watching.
        let _ = self.events.send(event);
    }

    /// The name of a node; its number where the topology has none.
    #[must_use]
    pub fn name_of(&self, id: u64) -> String {
        if id == 0 {
            return String::new();
        }
        self.topology.node_by_id(id).map_or_else(|| format!("#{id}"), |node| node.name.clone())
    }

    /// This node's status.
    #[must_use]
    pub fn status(&self) -> v1::NodeStatus {
        let own = self.topology.node_by_id(self.identity.node_id());
        let zone = own.map(|node| node.zone.clone()).unwrap_or_default();
        let mut warnings = Vec::new();
        let mut groups = Vec::new();
        for (group, standing) in self.groups.standings() {
            match standing {
                Standing::Running(running) => {
                    let losses = self.losses(&running);
                    warnings.extend(self.missing(&running));
                    warnings.extend(running.gate().clocks().wrong().map(|(id, ahead_us)| {
                        format!("group {group}: {}", describe_clock(&self.name_of(id), ahead_us))
                    }));
                    let mut status = self.named(v1::GroupStatus { losses, ..running.status() });
                    if status.message.is_empty() {
                        status.message = self.groups.last_repair(group).unwrap_or_default();
                    }
                    groups.push(status);
                }
                Standing::Quarantined(quarantine) => {
                    warnings.push(format!("group {group}: {}", quarantine.describe()));
                    groups.push(quarantined_status(&self.log, group, quarantine.describe()));
                }
            }
        }
        if let Some(failure) = &*self.failure.borrow() {
            warnings.push(failure.clone());
        }
        let disk = self.room.state();
        if let Some(why) = &disk.tight {
            warnings.push(format!("appends are refused (DISK_FULL): {why}"));
        }
        if let Some(still) = disk.still {
            warnings.push(format!(
                "its disk stands still: no write has finished for {} ms; it takes no entries and hands leadership over",
                still.as_millis()
            ));
        }
        let scrubbed = self.scrubbed.borrow().clone();
        if let Some(last) = &scrubbed.last_finding {
            warnings
                .push(format!("the scrubber has found damage in {} places, last {last}", scrubbed.findings));
        }
        let dropped = crate::stderr::dropped();
        if dropped > 0 {
            warnings.push(format!(
                "{dropped} messages of the log were dropped: standard error does not take them in time"
            ));
        }
        if self.is_unregistered() {
            warnings.push(
                "its data directory is not registered yet: were it lost now, nobody would notice".into(),
            );
        }
        if !*self.admitted.borrow() {
            let with = if self.fresh { " with an empty log" } else { "" };
            warnings.push(format!("waiting for a majority of the voters before taking part{with}"));
        }
        warnings.extend(self.warn_of_others());
        v1::NodeStatus {
            node: self.name.clone(),
            node_id: self.identity.node_id(),
            site: self.topology.site_of(self.identity.node_id()).unwrap_or_default().to_owned(),
            zone,
            cluster_id: self.identity.cluster_id(),
            incarnation: self.identity.incarnation(),
            start: self.identity.process().start,
            version: env!("CARGO_PKG_VERSION").into(),
            disk: self.disk.clone(),
            groups,
            uptime_seconds: self.started.elapsed().as_secs(),
            resident_bytes: resident_bytes(),
            data_dir: self.identity.dir().display().to_string(),
            warnings,
            disk_stalled_ms: disk
                .still
                .map_or(0, |still| u64::try_from(still.as_millis()).unwrap_or(u64::MAX)),
            unflushed_bytes: self.log.unfinished_bytes(),
        }
    }

    /// Whether the cluster does not know this node's data directory, as far as this node has applied. So it is, too, while the
    /// cluster is being formed: entries are acknowledged before the registry knows who holds them.
    fn is_unregistered(&self) -> bool {
        let Ok(zero) = self.group_zero() else { return false };
        zero.state().ledger().registered_incarnation(self.identity.node_id()).is_none()
    }

    /// What a group lacks on this node, in words.
    fn missing(&self, group: &Group) -> Option<String> {
        let id = group.id();
        if group.is_removed() {
            return Some(format!("group {id}: this node was removed from it, and serves nothing of it"));
        }
        let lost = group.quorum_lost()?;
        let who = if group.is_leader() {
            "no majority of the voters answers this leader"
        } else {
            "nothing is heard of a leader that has a majority"
        };
        Some(format!("group {id}: no quorum since {} s: {who}", lost.as_secs()))
    }

    /// Nodes that have forgotten something, or run twice.
    fn warn_of_others(&self) -> Vec<String> {
        let running = self.groups.running();
        let gone_back = running.iter().filter(|group| group.is_leader()).flat_map(|group| {
            let all = group.gate().all_gone_back().into_iter();
            all.map(|(other, back)| alone::went_back(self, group.id(), other, back.had))
        });
        let twins = self.identity.processes().twins().into_iter().map(|other| alone::twins(self, other));
        gone_back.chain(twins).collect()
    }

    fn named(&self, mut status: v1::GroupStatus) -> v1::GroupStatus {
        status.leader = self.name_of(status.leader_id);
        for replica in &mut status.replicas {
            replica.node = self.name_of(replica.node_id);
            replica.zone =
                self.topology.node_by_id(replica.node_id).map(|node| node.zone.clone()).unwrap_or_default();
        }
        status
    }
}

/// A clock that differs from the majority's, in words.
#[must_use]
pub fn describe_clock(name: &str, ahead_us: i64) -> String {
    let seconds = Duration::from_micros(ahead_us.unsigned_abs()).as_secs_f64();
    let way = if ahead_us > 0 { "ahead of" } else { "behind" };
    format!("the clock of {name} is {seconds:.1} s {way} those of a majority")
}

/// What is known of a group that does not run: only what its log says.
fn quarantined_status(log: &SegmentLog, group: u32, message: String) -> v1::GroupStatus {
    let state = log.state(group);
    let index = |point: Option<tercet_storage::LogPoint>| point.map_or(0, |point| point.index);
    v1::GroupStatus {
        group,
        role: "quarantined".into(),
        term: state
            .vote
            .as_ref()
            .and_then(|bytes| decode_vote(bytes).ok())
            .map_or(0, |vote| vote.leader_id.term),
        last_index: index(state.last),
        flushed_index: index(state.durable_last),
        committed_index: index(state.committed),
        message,
        ..Default::default()
    }
}
