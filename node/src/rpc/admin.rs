//! The Admin service.
//!
//! Invariants: status asks nobody else, so it answers in a partition, too; what only a leader can do is done by it, whichever node is
//! asked: one hop.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use tercet_proto::client::never_sent;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::text::quote;
use tercet_proto::topology;
use tercet_proto::v1;
use tercet_proto::v1::admin_client::AdminClient;
use tercet_proto::v1::admin_server::Admin;
use tokio_stream::wrappers::BroadcastStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::route::forwarded;
use super::{Caller, answer, refuse};
use crate::controller;
use crate::node::Node;
use crate::raft::group::{Group, MemberChange, Members};

const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a leader may take for what was passed on to it: a replacement is three changes of the members.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(30);

/// The service.
pub struct AdminService {
    node: Arc<Node>,
    from_peers: bool,
}

impl AdminService {
    /// The Admin service of `node`; `from_peers` believes the hop count.
    #[must_use]
    pub fn new(node: Arc<Node>, from_peers: bool) -> Self {
        Self { node, from_peers }
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
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let group = self.node.group(request.group).map_err(refuse)?;
        let target = self.named(&request.to, "to")?;
        if !group.is_leader() {
            let send = |mut leader: AdminClient<Channel>, request| async move {
                leader.transfer_leader(request).await
            };
            return self.at_leader(&group, caller, request, send).await;
        }
        let term = group.transfer_leader(target.id, TRANSFER_TIMEOUT).await.map_err(refuse)?;
        Ok(Response::new(v1::TransferLeaderResponse { leader: target.name.clone(), term }))
    }

    async fn change_member(
        &self,
        request: Request<v1::ChangeMemberRequest>,
    ) -> Result<Response<v1::ChangeMemberResponse>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let group = self.node.group(request.group).map_err(refuse)?;
        let target = self.named(&request.node, "node")?;
        if !group.is_leader() {
            let send = |mut leader: AdminClient<Channel>, request| async move {
                leader.change_member(request).await
            };
            return self.at_leader(&group, caller, request, send).await;
        }
        let members =
            self.change(&group, target.id, request.change(), request.force).await.map_err(refuse)?;
        let what = format!("{} {}", request.change().as_str_name(), target.name);
        self.node.event(group.id(), "members_changed", what);
        let names = |ids: &BTreeSet<u64>| ids.iter().map(|id| self.node.name_of(*id)).collect();
        Ok(Response::new(v1::ChangeMemberResponse {
            voters: names(&members.voters),
            learners: names(&members.learners),
        }))
    }
}

fn unanswered(why: &str) -> Refusal {
    let why = format!("the leader has not answered ({why}); it may have been done: look at the status");
    Refusal::new(Reason::OutcomeUnknown, "", why)
}

impl AdminService {
    fn named(&self, name: &str, field: &str) -> Result<&topology::Node, Status> {
        let missing =
            || refuse(Refusal::new(Reason::NodeNotFound, field, format!("there is no node {}", quote(name))));
        self.node.topology.node(name).ok_or_else(missing)
    }

    /// Has the leader do what this node cannot, for it does not lead.
    async fn at_leader<M, T, FF>(
        &self,
        group: &Group,
        caller: Caller,
        request: M,
        send: impl FnOnce(AdminClient<Channel>, Request<M>) -> FF,
    ) -> Result<Response<T>, Status>
    where
        FF: Future<Output = Result<Response<T>, Status>>,
    {
        let no_leader = |why: &str| {
            let why = format!("this node does not lead group {}, and {why}; nothing was done", group.id());
            Err(refuse(Refusal::new(Reason::NoLeader, "", why)))
        };
        let Some(leader) = group.leader() else {
            return answer(&self.node, group, no_leader("nobody leads now"));
        };
        if caller.hops > 0 {
            // Who passed it on knows better by now.
            return answer(&self.node, group, no_leader("leadership is moving"));
        }
        let client = self.node.peers.admin(leader);
        let client =
            client.map_err(|unknown| refuse(Refusal::new(Reason::Internal, "", unknown.to_string())))?;
        let result = match tokio::time::timeout(FORWARD_TIMEOUT, send(client, forwarded(request, 0))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) if Refusal::from_status(&status).is_some() => Err(status),
            Ok(Err(status)) if never_sent(&status) => no_leader("the one that led cannot be reached"),
            Ok(Err(status)) => Err(refuse(unanswered(status.message()))),
            Err(_) => Err(refuse(unanswered("it takes too long"))),
        };
        answer(&self.node, group, result)
    }

    async fn change(
        &self,
        group: &Group,
        node: u64,
        change: v1::change_member_request::Change,
        force: bool,
    ) -> Result<Members, Refusal> {
        use v1::change_member_request::Change;
        match change {
            Change::Unspecified => Err(Refusal::new(Reason::RequestMalformed, "change", "is not given")),
            Change::Add => group.change_member(MemberChange::Add(node), force).await,
            Change::Promote => group.change_member(MemberChange::Promote(node), force).await,
            Change::Remove => group.change_member(MemberChange::Remove(node), force).await,
            Change::Replace => self.replace(group, node, force).await,
        }
    }

    /// Takes a node for lost with its disk. Its id is loosed last, when it is a voter nowhere any more.
    async fn replace(&self, group: &Group, node: u64, force: bool) -> Result<Members, Refusal> {
        let refused = |why: String| Err(Refusal::new(Reason::MemberRefused, "node", why));
        if group.in_contact().contains(&node) {
            return refused("it answers; stop it first".into());
        }
        if group.id() == 0 {
            let votes = |other: &Arc<Group>| other.id() != 0 && other.members().voters.contains(&node);
            if let Some(other) = self.node.groups.running().into_iter().find(votes) {
                return refused(format!("it votes in group {}: replace it there first", other.id()));
            }
        }
        group.change_member(MemberChange::Remove(node), force).await?;
        if group.id() == 0 {
            controller::forget_incarnation(&self.node, node).await?;
        }
        group.change_member(MemberChange::Add(node), force).await
    }
}
