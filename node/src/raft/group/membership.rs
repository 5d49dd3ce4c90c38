//! Who belongs to the group: followed for the gate, and changed one node at a time.
//!
//! openraft's `change_membership` goes through a joint configuration, in which a commit needs a majority of the old and of the
//! new voters, and collapses one that a lost leader has left behind. The gate counts the newest voters from the moment that
//! they stand in the log, on top of what is committed, so that no acknowledgement ever rests on a node that is leaving.
//!
//! Invariants: one change at a time, and the former is finished first; a node becomes a voter only when it is caught up; a voter
//! leaves, unless forced, only when the rest of its site holds what it may have made `geo`; what leaves is forgotten as a whole,
//! so that a node that comes back under its id begins from nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;

use super::{ENTRIES_PER_REQUEST_MAX, Group};
use crate::placement::{Electorate, Voter, Weaker, keeps_placement};
use crate::raft::electorate::of_membership;
use crate::raft::gate::Lacking;
use crate::raft::proposer::{LEASE_RETRY, lease_expired};
use crate::raft::runtime;
use crate::raft::types::{Raft, TypeConfig};

/// How long a change may take before its outcome is unknown.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A change of one node's part in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// It receives the log, and does not vote.
    Add(u64),
    /// It votes from now on.
    Promote(u64),
    /// It is no member any more.
    Remove(u64),
}

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// Those that vote.
    pub voters: BTreeSet<u64>,
    /// Those that do not.
    pub learners: BTreeSet<u64>,
}

fn refused(why: impl Into<String>) -> Refusal {
    Refusal::new(Reason::MemberRefused, "node", why)
}

impl Group {
    /// The members as this node knows them; of a change that is under way, what it leads to.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let membership = seen.membership_config.membership();
        let voters = membership.get_joint_config().last().cloned().unwrap_or_default();
        let learners = membership.nodes().map(|(id, ())| *id).filter(|id| !voters.contains(id)).collect();
        Members { voters, learners }
    }

    /// Whose majorities count, as this node knows it.
    #[must_use]
    pub fn electorate(&self) -> Electorate {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        of_membership(&seen.membership_config)
    }

    /// Tells the gate who votes, when that changes.
    pub(super) fn follow_members(&self, told: &mut Electorate) {
        let now = self.electorate();
        // Before the group is formed the topology's voters are meant.
        if let Some((newest, before)) = now.halves.split_last().filter(|_| told.halves != now.halves) {
            self.gate.set_voters(
                self.places(newest),
                before.first().map(|half| self.places(half)).unwrap_or_default(),
            );
            *told = now;
        }
    }

    /// Whose majorities count and where they stand, the newest half last; before the group is formed, the topology's voters.
    #[must_use]
    pub fn voting(&self) -> Vec<Vec<Voter>> {
        let now = self.electorate();
        if now.halves.is_empty() {
            return vec![self.params.voters.clone()];
        }
        now.halves.iter().map(|half| self.places(half)).collect()
    }

    fn places(&self, nodes: &BTreeSet<u64>) -> Vec<Voter> {
        let known = self.params.known.iter();
        known.filter(|voter| nodes.contains(&voter.node_id)).cloned().collect()
    }

    /// How far each learner's log is equal to this leader's; empty where it does not lead.
    pub(super) fn learners(&self) -> Vec<v1::ReplicaStatus> {
        let learners = self.members().learners;
        let metrics = self.raft.metrics();
        let seen = metrics.borrow_watched();
        let matched: BTreeMap<u64, u64> = seen
            .replication
            .iter()
            .flatten()
            .filter(|(node, _)| learners.contains(node))
            .map(|(node, matched)| (*node, matched.as_ref().map_or(0, |id| id.index)))
            .collect();
        let heard = |node| {
            let at = seen.heartbeat.as_ref().and_then(|heard| heard.get(node)).and_then(Option::as_ref);
            at.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
        };
        matched
            .iter()
            .map(|(node, matched)| v1::ReplicaStatus {
                node_id: *node,
                matched_index: *matched,
                last_contact_ms: heard(node),
                ..Default::default()
            })
            .collect()
    }

    /// Changes the members, on the leader. `force` allows a weaker placement, but never the loss of the quorum.
    ///
    /// # Errors
    /// MEMBER_REFUSED with the reason; OUTCOME_UNKNOWN when it was not committed in time or leadership was lost meanwhile.
    pub async fn change_member(&self, change: MemberChange, force: bool) -> Result<Members, Refusal> {
        let _one_at_a_time = self.changing.lock().await;
        if self.is_changing() {
            // A lost leader's change that was left half-way: what this node knows of it could still be replaced.
            self.commit_members(ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        }
        let now = self.members();
        let changes = match change {
            MemberChange::Add(node) if now.voters.contains(&node) => {
                return Err(refused("it is a voter already"));
            }
            MemberChange::Add(node) if now.learners.contains(&node) => return Ok(now),
            MemberChange::Add(node) => ChangeMembers::AddNodes(BTreeMap::from([(node, ())])),
            MemberChange::Promote(node) if now.voters.contains(&node) => return Ok(now),
            MemberChange::Promote(node) => {
                self.ensure_caught_up(node)?;
                let next = now.voters.iter().copied().chain([node]).collect();
                self.ensure_placement(&now.voters, &next, Some(node), force)?;
                ChangeMembers::AddVoterIds(BTreeSet::from([node]))
            }
            MemberChange::Remove(node) if now.learners.contains(&node) => {
                ChangeMembers::RemoveNodes(BTreeSet::from([node]))
            }
            MemberChange::Remove(node) if !now.voters.contains(&node) => return Ok(now),
            MemberChange::Remove(node) if node == self.params.node_id => {
                return Err(refused("it leads; transfer leadership to another node first"));
            }
            MemberChange::Remove(node) => {
                let next = now.voters.iter().copied().filter(|voter| *voter != node).collect();
                self.ensure_placement(&now.voters, &next, None, force)?;
                self.ensure_held_without(node, force)?;
                ChangeMembers::RemoveVoters(BTreeSet::from([node]))
            }
        };
        self.commit_members(changes).await?;
        Ok(self.members())
    }

    /// What a voter that leaves holds of class `geo`, the others in its site hold; from here on the gate does not count on it.
    fn ensure_held_without(&self, node: u64, force: bool) -> Result<(), Refusal> {
        let Err(Lacking { held, needed }) = self.gate.leave(node, force) else { return Ok(()) };
        let why = format!(
            "the other voters in its site hold the log up to {held}, and up to {needed} it may have made entries class geo"
        );
        if !force {
            return Err(refused(format!("{why}; ask again when one has caught up, or force it")));
        }
        tracing::warn!(group = self.params.group, why, "a voter is removed on demand");
        Ok(())
    }

    /// Whether the newest membership is a joint one, or not known to be committed.
    fn is_changing(&self) -> bool {
        let metrics = self.raft.metrics();
        let seen = metrics.borrow_watched();
        let newest = &seen.membership_config;
        newest.membership().get_joint_config().len() > 1 || *newest.log_id() > seen.local_committed
    }

    fn ensure_caught_up(&self, node: u64) -> Result<(), Refusal> {
        let learners = self.learners();
        let Some(learner) = learners.iter().find(|learner| learner.node_id == node) else {
            return Err(refused("it is no member; add it first"));
        };
        let behind = self.last_index().saturating_sub(learner.matched_index);
        if behind > ENTRIES_PER_REQUEST_MAX {
            return Err(refused(format!("it is {behind} entries behind; status shows its progress")));
        }
        let limit = self.params.timing.election_max_ms.saturating_mul(3);
        match learner.last_contact_ms {
            Some(ms) if ms <= limit => Ok(()),
            _ => Err(refused("it does not answer")),
        }
    }

    fn ensure_placement(
        &self,
        now: &BTreeSet<u64>,
        next: &BTreeSet<u64>,
        joins: Option<u64>,
        force: bool,
    ) -> Result<(), Refusal> {
        let there = self.in_contact().into_iter().chain(joins).collect();
        match keeps_placement(&self.places(now), &self.places(next), &there) {
            Ok(()) => Ok(()),
            Err(Weaker::Placement(why)) if force => {
                tracing::warn!(group = self.params.group, why, "the placement is weakened on demand");
                Ok(())
            }
            Err(Weaker::Placement(why)) => Err(refused(format!("{why}; it can be forced"))),
            Err(Weaker::Quorum(why)) => Err(refused(why)),
        }
    }

    /// The voters that have answered this leader lately, itself included.
    #[must_use]
    pub fn in_contact(&self) -> BTreeSet<u64> {
        let limit = Duration::from_millis(self.params.timing.election_max_ms.saturating_mul(3));
        let replicas = self.gate.replicas().into_iter();
        replicas
            .filter(|(.., contact)| contact.is_some_and(|age| age <= limit))
            .map(|(node, ..)| node)
            .collect()
    }

    async fn commit_members(&self, changes: ChangeMembers<u64, ()>) -> Result<(), Refusal> {
        let unknown = |why: &str| {
            let why =
                format!("{why}; it may have been made or still be: look at the members, then ask again");
            Err(Refusal::new(Reason::OutcomeUnknown, "", why))
        };
        // A task of its own, so that whoever asked may hang up: the second half of a change follows the first all the same.
        let (raft, gate) = (self.raft.clone(), self.gate.clone());
        let written = runtime::spawn(async move {
            let written = write_members(raft, changes).await;
            if written.is_err() {
                gate.stay();
            }
            written
        });
        match tokio::time::timeout(CHANGE_TIMEOUT, written).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))))) => {
                unknown("leadership was lost during the change")
            }
            Ok(Ok(Err(RaftError::Fatal(fatal)))) => unknown(&fatal.to_string()),
            Ok(Ok(Err(error))) => Err(refused(error.to_string())),
            Ok(Err(stopped)) => unknown(&stopped.to_string()),
            Err(_) => unknown("the change has not been committed in time"),
        }
    }

    /// What status says while the old voters count as well as the new ones: for a moment, or until somebody finishes the change.
    pub(super) fn half_way(&self) -> Option<String> {
        let now = self.electorate();
        (now.halves.len() > 1).then(|| {
            "the members change, and a commit needs a majority of the old and of the new voters; if that stays, the next \
             `tercet member` command finishes it"
                .to_owned()
        })
    }
}

/// Right after an election a leader refuses writes until a quorum has answered: it is asked again.
async fn write_members(
    raft: Raft,
    changes: ChangeMembers<u64, ()>,
) -> Result<(), RaftError<TypeConfig, ClientWriteError<TypeConfig>>> {
    loop {
        match raft.change_membership(changes.clone(), false).await {
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                if lease_expired(&forward) =>
            {
                tokio::time::sleep(LEASE_RETRY).await;
            }
            done => return done.map(|_| ()),
        }
    }
}
