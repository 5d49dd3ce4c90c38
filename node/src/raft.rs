//! One Raft group on one node: openraft over the segment log, Tercet's own wire messages and the ledger.
//!
//! Invariants of this room: no `openraft` name leaves it; what is stored or sent is encoded by `codec`, never by a library's
//! serde; a callback of openraft is called only when the bytes are on stable media; a restarted leader never restores its
//! leadership without an election.

pub mod codec;
pub mod electorate;
pub mod gate;
pub mod group;
pub mod log_store;
pub mod network;
pub mod proposer;
pub mod runtime;
pub mod snapshot;
pub mod state_machine;
pub mod times;
pub mod types;

pub use codec::vote_after_loss;
