//! The Admin service.
//!
//! Invariant: status asks nobody else, so it answers in a partition, too.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::admin_server::Admin;
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::{answer, refuse};
use crate::node::Node;

const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
pub struct AdminService {
    node: Arc<Node>,
}

impl AdminService {
    /// The Admin service of `node`.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::NodeStatus>, Status> {
        Ok(Response::new(self.node.status()))
    }

    async fn get_topology(
        &self,
        _: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::TopologyInfo>, Status> {
        Ok(Response::new(self.node.topology.to_info()))
    }

    type WatchEventsStream = Pin<Box<dyn Stream<Item = Result<v1::Event, Status>> + Send>>;

    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        // A watcher that is too slow misses events; it is told by the gap in time, not by an error.
        let events = BroadcastStream::new(self.node.events.subscribe())
            .filter_map(|event| async { event.ok().map(Ok) });
        let mut stopping = self.node.stopping.clone();
        let stop = async move {
            let _ = stopping.wait_for(|stop| *stop).await;
        };
        Ok(Response::new(Box::pin(events.take_until(Box::pin(stop)))))
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let group = self.node.group(request.group).map_err(refuse)?;
        let target = self.node.topology.node(&request.to).ok_or_else(|| {
            refuse(Refusal::new(Reason::NodeNotFound, "to", format!("there is no node {:?}", request.to)))
        })?;
        if !group.is_leader() {
            let leader = self.node.name_of(group.leader().unwrap_or(0));
            let who = if leader.is_empty() {
                "nobody leads now".to_owned()
            } else {
                format!("ask the leader, {leader}")
            };
            let why = format!("this node does not lead group {}: {who}", request.group);
            let status = refuse(Refusal::new(Reason::NoLeader, "", why).with("leader", leader));
            return answer(&self.node, &group, Err(status));
        }
        let term = group.transfer_leader(target.id, TRANSFER_TIMEOUT).await.map_err(refuse)?;
        Ok(Response::new(v1::TransferLeaderResponse { leader: target.name.clone(), term }))
    }
}
