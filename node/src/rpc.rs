//! The gRPC services, and the one place where refusals become statuses and a caller's identity enters.
//!
//! Invariants: a status always carries google.rpc.ErrorInfo; every answer of the Ledger service names the leader in its metadata;
//! nothing below this module knows tonic (but for the Raft network).

pub mod admin;
pub mod append;
mod append_stream;
pub mod bodies;
mod health;
pub mod ledger;
mod named;
mod page;
pub mod peer;
pub mod read;
pub mod route;
pub mod serve;
mod size;

use tercet_proto::refusal::Refusal;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Request, Response, Status};

use crate::node::Node;
use crate::raft::group::Group;

/// Metadata: id of the leader of the group that answered.
pub const LEADER_ID: &str = "tercet-leader-id";
/// Metadata: the leader's client address.
pub const LEADER: &str = "tercet-leader";
/// Metadata of a forwarded request: how many nodes it has passed.
pub const HOPS: &str = "tercet-hops";

/// Who calls. Without TLS everybody is anonymous; roles will enter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Nodes that have forwarded the request so far. Only the peer address believes it.
    pub hops: u32,
}

impl Caller {
    /// Reads the caller of a request that came in on the client address or, if `from_peer`, on the peer address.
    #[must_use]
    pub fn of<T>(request: &Request<T>, from_peer: bool) -> Self {
        let hops = request.metadata().get(HOPS).and_then(|value| value.to_str().ok()?.parse().ok());
        Self { hops: if from_peer { hops.unwrap_or(1) } else { 0 } }
    }
}

fn leader_metadata(metadata: &mut MetadataMap, node: &Node, group: &Group) {
    let Some(leader) = group.leader() else { return };
    metadata.insert(LEADER_ID, MetadataValue::from(leader));
    let address = node.topology.node_by_id(leader).map(|entry| entry.client.parse());
    if let Some(Ok(address)) = address {
        metadata.insert(LEADER, address);
    }
}

/// An answer with the leader's name on it.
pub fn answer<T>(node: &Node, group: &Group, result: Result<T, Status>) -> Result<Response<T>, Status> {
    match result {
        Ok(message) => {
            let mut response = Response::new(message);
            leader_metadata(response.metadata_mut(), node, group);
            Ok(response)
        }
        Err(mut status) => {
            leader_metadata(status.metadata_mut(), node, group);
            Err(status)
        }
    }
}

/// A refusal as a status.
#[must_use]
pub fn refuse(refusal: Refusal) -> Status {
    tracing::debug!(reason = refusal.reason.as_str(), %refusal, "refused");
    refusal.into_status()
}
