//! One Raft group on this node: starts it, proposes to it, stops it. `peer` answers the other nodes, `read` says up to where
//! it may be read, `leadership` follows and moves who leads, `standing` asks for votes when nobody does.
//!
//! Invariant: nothing is proposed where there is no room for it or its placement cannot be reached.

mod leadership;
mod membership;
mod peer;
mod placed;
mod proof;
mod quorum;
mod reach;
mod read;
mod regime;
mod standing;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::RaftError;
use openraft::{Config, ServerState, SnapshotPolicy};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::topology::Timing;
use tercet_proto::v1;
use tercet_storage::index::Index;
use tercet_storage::{LogError, LogPoint, SegmentLog, mutants};

pub use leadership::Leadership;
pub use membership::{MemberChange, Members};
pub use quorum::QUORUM_LOST_AFTER;
pub use read::NoReadPoint;
pub use regime::RegimeNote;
use standing::Contact;

use super::codec::{decode_vote, from_point};
use super::gate::{Gate, GateParams};
use super::log_store::LogStore;
use super::network::NetworkFactory;
use super::network::transport::Transport;
use super::proposer::{Clock, Proposed, Proposer};
use super::runtime::{self, watch};
use super::state_machine::{GroupState, StateMachine};
use super::times::Times;
use super::types::{LogId, Raft};
use crate::keys::SledKeys;
use crate::ledger::{Ledger, LedgerError, PreparedCommand};
use crate::placement::{Lag, Policy, Rival, Voter, Watermarks};
use crate::proof::{Proof, ProofGate, ProofSink};
use crate::room::DiskRoom;

/// Entries in one append request at most; bytes are bounded by the log store.
const ENTRIES_PER_REQUEST_MAX: u64 = 256;
/// openraft appends at most this many entries in one call.
const ENTRIES_PER_APPEND_MAX: u64 = 1_024;
/// How often a group that recovers is looked at.
const RECOVERY_LOOK: Duration = Duration::from_secs(5);
/// A snapshot may take this long.
const SNAPSHOT_TIMEOUT_MS: u64 = 600_000;

/// What a group is started with.
#[derive(Clone)]
pub struct GroupParams {
    /// The group's number.
    pub group: u32,
    /// This node.
    pub node_id: u64,
    /// Its name, for what it says of itself.
    pub name: String,
    /// The number of its data directory.
    pub incarnation: u64,
    /// The node's log.
    pub log: SegmentLog,
    /// The group's index.
    pub index: Arc<Index>,
    /// The other nodes.
    pub peers: Transport,
    /// Voters and where they stand.
    pub voters: Vec<Voter>,
    /// Every node of the topology and where it stands: whoever may become a voter.
    pub known: Vec<Voter>,
    /// This node's zone's rank for leading the group, from 1.
    pub rank: u32,
    /// The other nodes, as rivals for leadership when they vote.
    pub rivals: Vec<Rival>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// What class `geo` does without the remote site.
    pub geo_policy: Policy,
    /// The leader's clock for `recorded_at`.
    pub clock: Clock,
    /// The cluster's name.
    pub cluster_name: String,
    /// Whether the disk has room for entries.
    pub room: Arc<DiskRoom>,
    /// Where tuples of leaders in other sites are kept.
    pub proofs: Arc<dyn ProofSink>,
}

/// Why a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The checkpointed state.
    #[error("group {group}: {source}")]
    State {
        /// The group.
        group: u32,
        /// What is wrong.
        source: LedgerError,
    },
    /// openraft.
    #[error("group {group}: {why}")]
    Raft {
        /// The group.
        group: u32,
        /// What it said.
        why: String,
    },
}

/// How an index stands to its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexFit {
    /// The log holds what was applied last: up to this index.
    Fits(u64),
    /// It is not: the index was applied up to here, from a log that had flushed it.
    Ahead(u64),
    /// The index cannot be read.
    Unreadable,
}

/// A running group.
pub struct Group {
    params: GroupParams,
    raft: Raft,
    store: LogStore,
    state: Arc<GroupState>,
    gate: Arc<Gate>,
    proposer: Proposer,
    leadership: watch::Sender<Leadership>,
    contact: Contact,
    /// Of a membership without this node that others have told of.
    removal: Mutex<Option<quorum::Removal>>,
    /// The node stops: it does not lead any more.
    leaving: AtomicBool,
    /// Held while the members change.
    changing: tokio::sync::Mutex<()>,
    regime: Arc<watch::Sender<RegimeNote>>,
    /// When which index was in the log first, while this node leads.
    lag: Mutex<Lag>,
    began: tokio::time::Instant,
    proof_gate: Mutex<ProofGate>,
    /// The newest tuple that may be kept.
    proof: watch::Sender<Option<Proof>>,
    recovered: watch::Sender<bool>,
    /// Set once, when Raft has stopped.
    stopped: watch::Sender<Option<String>>,
}

fn config(params: &GroupParams) -> Config {
    let timing = params.timing;
    Config {
        cluster_name: params.cluster_name.clone(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TIMEOUT_MS,
        max_payload_entries: ENTRIES_PER_REQUEST_MAX,
        max_append_entries: Some(ENTRIES_PER_APPEND_MAX),
        // A follower that has just acknowledged entries needs no heartbeat.
        heartbeat_min_interval: Some(
            timing.heartbeat_ms.min(timing.election_min_ms.saturating_sub(timing.heartbeat_ms) / 2),
        ),
        // The whole log is kept (DESIGN: Retention).
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        enable_pre_vote: Some(true),
        // A restored leader could propose other content under log ids that followers already hold: openraft commits on
        // their acknowledgements while the leader's own flush is under way.
        enable_leader_restore: Some(mutants::is("leader-restored")),
        quorum_loss_probe_interval: Some(timing.election_max_ms.saturating_mul(2)),
        // Backoff must stay short: a follower that comes back should catch up at once.
        backoff: "50ms 100ms 200ms ..500ms".into(),
        ..Config::default()
    }
}

impl Group {
    /// Whether the log holds the entry that the index says was applied last. An index that cannot be read is rebuilt; one that
    /// is ahead of its log says that the log has lost something, since no checkpoint passes what is flushed.
    #[must_use]
    pub fn index_fit(group: u32, index: &Arc<Index>, log: &SegmentLog) -> IndexFit {
        let Ok(ledger) = Ledger::restore(group, Arc::new(SledKeys(index.clone()))) else {
            return IndexFit::Unreadable;
        };
        let Some((term, applied)) = ledger.applied() else { return IndexFit::Fits(0) };
        let is_held = log.state(group).purged.is_some_and(|purged| purged.index >= applied)
            || log.point(group, applied).is_some_and(|point| point.term == term);
        if is_held { IndexFit::Fits(applied) } else { IndexFit::Ahead(applied) }
    }

    /// Restores the group's state and starts Raft.
    ///
    /// # Errors
    /// The state cannot be restored, or openraft does not start.
    pub async fn start(params: GroupParams) -> Result<Arc<Self>, GroupError> {
        let group = params.group;
        let (flushed_tx, flushed) = tokio::sync::watch::channel(0);
        let (index, log) = (params.index.clone(), params.log.clone());
        // A large checkpoint takes a while to read; the runtime goes on meanwhile.
        let restored = runtime::run_blocking(move || GroupState::restore(group, index, log, flushed));
        let state = restored
            .await
            .map_err(|error| GroupError::Raft { group, why: error.to_string() })?
            .map_err(|source| GroupError::State { group, source })?;
        let held = params.log.state(group);
        // Nothing had been applied here that could be missed.
        let is_new = held.last.is_none() && held.vote.is_none();
        let lost_after = Duration::from_millis(params.timing.election_max_ms.saturating_mul(3));
        let gate = Arc::new(Gate::new(GateParams {
            node_id: params.node_id,
            group,
            log: params.log.clone(),
            voters: params.voters.clone(),
            floor: Watermarks::default(),
            contact_lost_after: lost_after,
            clock: params.clock.clone(),
            policy: params.geo_policy.clone(),
        }));
        let regime = Arc::new(watch::Sender::new(RegimeNote::default()));
        let (told, regime_told) = (gate.clone(), regime.clone());
        let times = Arc::new(Times::new(gate.clone()));
        let times_told = times.clone();
        state.observe(move |ledger| {
            told.learn(Watermarks { city: ledger.city_watermark(), geo: ledger.geo_watermark() });
            let degraded_since = ledger.regime().degraded().map(|degraded| degraded.since_index);
            told.follow_regime(degraded_since, ledger.applied().map_or(0, |(_, index)| index));
            times_told.follow_regime(
                ledger.regime().degraded().map(|degraded| (degraded.since_index, degraded.elapsed_ms)),
            );
            regime_told.send_if_modified(|known| known.follow(ledger));
        });
        let flush_gate = gate.clone();
        let on_flush = Arc::new(move |index| {
            flushed_tx.send_replace(index);
            flush_gate.local_flushed(index);
        });
        let store = LogStore::new(params.log.clone(), group, on_flush);
        let network = NetworkFactory::new(params.peers.clone(), group, gate.clone(), params.log.clone());
        let raft_error = |why: String| GroupError::Raft { group, why };
        let config = Arc::new(config(&params).validate().map_err(|error| raft_error(error.to_string()))?);
        let machine = StateMachine::new(state.clone());
        let raft = Raft::new(params.node_id, config, network, store.clone(), machine)
            .await
            .map_err(|error| raft_error(error.to_string()))?;
        let proposer = Proposer::start(&params, raft.clone(), state.clone(), gate.clone(), times);
        let leadership = watch::Sender::new(Leadership::default());
        let proofs = params.proofs.clone();
        let this = Arc::new(Self {
            params,
            raft,
            store,
            state,
            gate,
            proposer,
            leadership,
            contact: Contact::new(),
            removal: Mutex::default(),
            leaving: AtomicBool::new(false),
            changing: tokio::sync::Mutex::new(()),
            regime,
            lag: Mutex::default(),
            began: tokio::time::Instant::now(),
            proof_gate: Mutex::new(ProofGate::new(proofs.kept(group))),
            proof: watch::Sender::new(None),
            recovered: watch::Sender::new(is_new),
            stopped: watch::Sender::new(None),
        });
        this.clone().follow_leadership();
        this.clone().stand_when_needed();
        this.clone().follow_recovery();
        this.clone().follow_regime();
        this.clone().follow_proof(proofs);
        Ok(this)
    }

    /// The group's number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.params.group
    }

    /// The replicated state, to read.
    #[must_use]
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Proposes a command; the answer comes when it is applied and placed.
    pub async fn propose(&self, command: Arc<PreparedCommand>) -> Proposed {
        self.proposer.propose(command).await
    }

    /// Whether a command can be proposed: this node's disk takes it, and its class can be reached now.
    ///
    /// # Errors
    /// DISK_FULL, DISK_STALLED, OVERLOADED; PLACEMENT_UNREACHABLE, with what is missing.
    pub fn ensure_appendable(&self, command: &PreparedCommand) -> Result<(), Refusal> {
        self.params.room.ensure(&self.params.log)?;
        let class = self.state.ledger().class_of(command);
        self.ensure_reachable(class)
    }

    /// The payload of a proposal, from the log; none if the log does not hold it.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn proposal_bytes(&self, index: u64) -> Result<Option<bytes::Bytes>, LogError> {
        let mut records =
            self.params.log.read(self.params.group, index..index.saturating_add(1), usize::MAX)?;
        Ok(records.pop().filter(|record| record.index == index).map(|record| record.payload))
    }

    /// Where an entry of a journal lies in the log; none if it is not there.
    #[must_use]
    pub fn point_of(&self, journal: &str, seq: u64) -> Option<LogPoint> {
        let mark = self.state.ledger().locate(journal, seq).ok()??;
        self.params.log.point(self.params.group, mark.log_index)
    }

    /// Whether what had been applied before a restart is applied again: local reads wait for it.
    #[must_use]
    pub fn is_recovered(&self) -> bool {
        *self.recovered.borrow()
    }

    /// How far the state is rebuilt from the log after a restart: (applied, goal). None when it is.
    #[must_use]
    pub fn rebuilding(&self) -> Option<(u64, u64)> {
        let held = self.params.log.state(self.params.group);
        let goal = held.committed.map_or(0, |point| point.index);
        let applied = *self.state.applied().borrow();
        (!self.is_recovered() && applied < goal).then_some((applied, goal))
    }

    fn follow_recovery(self: Arc<Self>) {
        runtime::spawn(async move {
            while !self.is_recovered() {
                match self.raft.wait_for_recovery(Some(RECOVERY_LOOK)).await {
                    Ok(_) => drop(self.recovered.send_replace(true)),
                    Err(openraft::metrics::WaitError::Timeout(..)) => {}
                    Err(_) => return,
                }
            }
        });
    }

    /// Whether this group has ever had a membership here.
    pub async fn is_initialized(&self) -> bool {
        self.raft.is_initialized().await.unwrap_or(true)
    }

    /// Forms the group with its first voters; harmless if it is formed already.
    ///
    /// # Errors
    /// openraft refused.
    pub async fn initialize(&self, voters: &[u64]) -> Result<(), GroupError> {
        let members: BTreeMap<u64, ()> = voters.iter().map(|id| (*id, ())).collect();
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(openraft::errors::InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(GroupError::Raft { group: self.params.group, why: error.to_string() }),
        }
    }

    /// Checkpoints and stops.
    pub async fn shutdown(&self) {
        self.store.stop_waiting();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = self.params.group, %error, "Raft did not stop cleanly");
        }
        self.gate.demote(u64::MAX);
        self.state.flushed().await;
        let state = self.state.clone();
        match runtime::run_blocking(move || state.checkpoint()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(group = self.params.group, %error, "no last checkpoint"),
            Err(error) => tracing::warn!(group = self.params.group, %error, "no last checkpoint"),
        }
    }

    /// The group as this node sees it; node names are the caller's to fill in.
    #[must_use]
    pub fn status(&self) -> v1::GroupStatus {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let log = self.params.log.state(self.params.group);
        let index_of = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let (role, message) = match &metrics.running_state {
            Ok(()) => {
                let rebuilding = self.rebuilding();
                let progress = rebuilding.map(|(applied, goal)| {
                    format!("the state is rebuilt from the log: {applied} of {goal} proposals applied")
                });
                (role_name(metrics.state), progress.or_else(|| self.half_way()).unwrap_or_default())
            }
            Err(fatal) => ("stopped", fatal.to_string()),
        };
        // Right after the start openraft's metrics do not know the vote yet.
        let voted = log.vote.as_ref().and_then(|bytes| decode_vote(bytes).ok());
        let voted = voted.map_or(0, |vote| vote.leader_id.term);
        // And later they may lag behind it: a leader of the term that they know leads nothing in the term of its vote.
        let deposed = voted > metrics.current_term;
        let role = if deposed && role == "leader" { "follower" } else { role };
        let role = if self.is_removed() { "removed" } else { role };
        let without_quorum = self.without_quorum();
        // Who has been silent for long is not named as if it led.
        let is_led = role == "leader" || without_quorum < QUORUM_LOST_AFTER;
        let classes = self.class_statuses();
        let ledger = self.state.ledger();
        let placed = self.gate.placed().known;
        let refusals = self.gate.refusals();
        v1::GroupStatus {
            classes,
            losses: Vec::new(),
            geo_regime: self.gate.policy().as_str().into(),
            group: self.params.group,
            role: role.into(),
            term: metrics.current_term.max(voted),
            leader_id: metrics.current_leader.filter(|_| !deposed && is_led).unwrap_or(0),
            without_quorum_ms: u64::try_from(without_quorum.as_millis()).unwrap_or(u64::MAX),
            leader: String::new(),
            last_index: metrics.last_log_index.unwrap_or(0),
            flushed_index: log.durable_last.map_or(0, |point| point.index),
            committed_index: index_of(metrics.local_committed.max(log.committed.map(from_point))),
            applied_index: index_of(metrics.last_applied),
            city_watermark: placed.city,
            geo_watermark: placed.geo,
            replicas: self
                .gate
                .replicas()
                .into_iter()
                .map(|(node_id, matched_index, contact)| v1::ReplicaStatus {
                    node_id,
                    matched_index,
                    takes_no_entries: refusals.get(&node_id).cloned().unwrap_or_default(),
                    clock: self.clock_of(node_id),
                    last_contact_ms: contact.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
                    ..Default::default()
                })
                .chain(self.learners())
                .collect(),
            journals: ledger.journal_count(),
            entries: ledger.entry_count(),
            voter_ids: metrics.membership_config.membership().voter_ids().collect(),
            message,
        }
    }
}

fn recovering(why: &str) -> Refusal {
    Refusal::new(Reason::Recovering, "", why)
}

fn role_name(state: ServerState) -> &'static str {
    match state {
        ServerState::Leader => "leader",
        ServerState::Follower => "follower",
        ServerState::Candidate => "candidate",
        ServerState::Learner => "learner",
        _ => "stopped",
    }
}
