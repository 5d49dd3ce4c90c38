//! The types that openraft is instantiated with.
//!
//! Invariant: standard Raft leader ids, so that a term has one leader at most and a log id is (term, index).

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ledger::Outcome;

/// The payload of a proposal: bytes in the ledger's encoding (WIRE.md).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Proposal(pub Bytes);

impl std::fmt::Display for Proposal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "proposal of {} bytes", self.0.len())
    }
}

/// What applying a proposal returned, one outcome a command. Never serialised: openraft only asks that it could be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Applied {
    /// In the order of the commands.
    #[serde(skip)]
    pub outcomes: Vec<Outcome>,
}

openraft::declare_raft_types!(
    /// Tercet's openraft configuration.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = (),
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        Vote = openraft::impls::Vote<Self::LeaderId>,
        AsyncRuntime = super::runtime::Runtime,
);

/// A vote.
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
/// A log id: (term, index).
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
/// The leader part of a vote: (term, node).
pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
/// The leader part of a log id: the term.
pub type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
/// A log entry.
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
/// A log entry's payload.
pub type EntryPayload = openraft::alias::PayloadOf<TypeConfig>;
/// A membership.
pub type Membership = openraft::Membership<u64, ()>;
/// A membership and where it stands in the log.
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
/// Our Raft.
pub type Raft = openraft::Raft<TypeConfig, crate::raft::state_machine::StateMachine>;

/// (term, index) as openraft's log id.
#[must_use]
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of a log id.
#[must_use]
pub fn term_of(id: &LogId) -> u64 {
    id.committed_leader_id().term
}
