//! The Peer service: Raft's messages from the other nodes.
//!
//! Invariants: every message's header is checked; a node that may not take part yet answers nothing but Hello; answers on an
//! append stream come in the order of the requests, several are worked on at once.

use std::pin::Pin;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::peer_server::Peer;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use crate::controller;
use crate::node::Node;
use crate::raft::electorate;
use crate::raft::group::Group;
use crate::repair;

/// Append requests of one stream that are worked on at once.
const APPENDS_AT_ONCE: usize = 64;
/// A snapshot larger than this is not taken into memory.
const SNAPSHOT_BYTES_MAX: usize = 4 << 30;

/// The service.
pub struct PeerService {
    node: Arc<Node>,
}

impl PeerService {
    /// The Peer service of `node`.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn accept(&self, header: Option<&v1::Header>) -> Result<(), Status> {
        let wrong = |why| refuse(Refusal::new(Reason::WrongCluster, "header", why));
        self.node.identity.accept(header).map_err(wrong)
    }

    /// The group of a message that may be answered.
    fn group(&self, header: Option<&v1::Header>) -> Result<Arc<Group>, Status> {
        self.accept(header)?;
        if !*self.node.admitted.borrow() {
            return Err(refuse(Refusal::new(Reason::Recovering, "", "this node does not take part yet")));
        }
        let number = header.map_or(0, |header| header.group);
        self.node.group(number).map_err(refuse)
    }

    /// Whether a node belongs to the groups that run here.
    fn belongs(&self, node: u64) -> Vec<v1::PeerBelongs> {
        let running = self.node.groups.running().into_iter();
        let said = running.filter_map(|group| Some((group.id(), group.belongs(node)?)));
        said.map(|(group, ((term, index), belongs))| v1::PeerBelongs {
            group,
            at: Some(v1::PeerLogId { term, index }),
            belongs,
        })
        .collect()
    }

    fn header(&self, to: Option<&v1::Header>) -> Option<v1::Header> {
        to.map(|header| self.node.identity.header(header.from_node, header.group))
    }
}

/// Completes when the node stops.
async fn stopped(stopping: &mut tokio::sync::watch::Receiver<bool>) {
    // The sender goes only with the node.
    drop(stopping.wait_for(|stop| *stop).await.map(|_| ()));
}

fn internal(why: impl std::fmt::Display) -> Status {
    refuse(Refusal::new(Reason::Internal, "", why.to_string()))
}

type AppendAnswer = Result<v1::PeerAppendResponse, Status>;

/// One append stream: what is being worked on, and where more comes from. No task of its own: whoever writes the answers
/// drives it.
struct Appends {
    service: PeerService,
    /// None when the leader will send no more, or has sent what cannot be answered.
    requests: Option<Streaming<v1::PeerAppendRequest>>,
    /// Who sent the last one, and for which group.
    from: Option<(u64, Arc<Group>)>,
    in_work: FuturesOrdered<BoxFuture<'static, AppendAnswer>>,
    stopping: tokio::sync::watch::Receiver<bool>,
}

impl Appends {
    /// The next answer in the order of the requests; `None` when all are answered and no more come, or the node stops.
    async fn next(&mut self) -> Option<AppendAnswer> {
        loop {
            if self.requests.is_none() && self.in_work.is_empty() {
                return None;
            }
            let takes_more = self.in_work.len() < APPENDS_AT_ONCE;
            tokio::select! {
                biased;
                Some(answer) = self.in_work.next(), if !self.in_work.is_empty() => return Some(answer),
                request = next_of(&mut self.requests), if takes_more && self.requests.is_some() => match request {
                    Some(request) => self.begin(request),
                    None => self.requests = None,
                },
                () = stopped(&mut self.stopping) => return None,
            }
        }
    }

    /// Works are polled in the order of arrival, so Raft sees the requests in that order.
    fn begin(&mut self, request: v1::PeerAppendRequest) {
        let work: BoxFuture<'static, AppendAnswer> = match self.service.group(request.header.as_ref()) {
            Ok(group) => {
                self.from = request.header.as_ref().map(|header| (header.from_node, group.clone()));
                Box::pin(async move { group.handle_append(request).await.map_err(internal) })
            }
            Err(status) => {
                self.requests = None;
                Box::pin(std::future::ready(Err(status)))
            }
        };
        self.in_work.push_back(work);
    }
}

/// A connection that breaks is not polled to its end: it is dropped with its streams.
impl Drop for Appends {
    fn drop(&mut self) {
        if let Some((leader, group)) = self.from.take() {
            group.stream_closed(leader);
        }
    }
}

/// A stream that breaks has ended: the leader will open another one.
async fn next_of(requests: &mut Option<Streaming<v1::PeerAppendRequest>>) -> Option<v1::PeerAppendRequest> {
    requests.as_mut()?.message().await.ok().flatten()
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let request = request.into_inner();
        self.accept(request.header.as_ref())?;
        let from = request.header.as_ref().map_or(0, |header| header.from_node);
        let zero = self.node.group_zero().ok();
        let (registered, applied_index) = zero.map_or((None, 0), |zero| {
            let ledger = zero.state().ledger();
            (ledger.registered_incarnation(from), ledger.applied().map_or(0, |(_, index)| index))
        });
        // A quarantined group has records.
        let running = self.node.groups.running();
        let mut fresh = running.len() == self.node.groups.count() as usize;
        for group in running {
            fresh &= !group.is_initialized().await;
        }
        Ok(Response::new(v1::HelloResponse {
            header: self.header(request.header.as_ref()),
            fresh,
            registered_incarnation: registered.unwrap_or(0),
            in_reach: if request.look_around { controller::in_reach(&self.node).await } else { Vec::new() },
            members: electorate::to_wire(&repair::Host::electorate(&*self.node, 0)),
            applied_index,
            last_index: self.node.log.state(0).last.map_or(0, |last| last.index),
            belongs: self.belongs(from),
        }))
    }

    type AppendEntriesStream = Answers<v1::PeerAppendResponse>;

    async fn append_entries(
        &self,
        request: Request<Streaming<v1::PeerAppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let appends = Appends {
            service: Self::new(self.node.clone()),
            requests: Some(request.into_inner()),
            from: None,
            in_work: FuturesOrdered::new(),
            stopping: self.node.stopping.clone(),
        };
        let answers = futures::stream::unfold(appends, |mut appends| async move {
            appends.next().await.map(|answer| (answer, appends))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn vote(
        &self,
        request: Request<v1::PeerVoteRequest>,
    ) -> Result<Response<v1::PeerVoteResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.header.as_ref())?;
        group.handle_vote(request, false).await.map(Response::new).map_err(internal)
    }

    async fn pre_vote(
        &self,
        request: Request<v1::PeerVoteRequest>,
    ) -> Result<Response<v1::PeerVoteResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.header.as_ref())?;
        group.handle_vote(request, true).await.map(Response::new).map_err(internal)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::PeerTransferRequest>,
    ) -> Result<Response<v1::PeerTransferResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.header.as_ref())?;
        let header = self.header(request.header.as_ref());
        let refused = group.handle_transfer(request).await.map_err(internal)?;
        Ok(Response::new(v1::PeerTransferResponse { header, refused }))
    }

    async fn fetch_records(
        &self,
        request: Request<v1::FetchRecordsRequest>,
    ) -> Result<Response<v1::FetchRecordsResponse>, Status> {
        let request = request.into_inner();
        self.accept(request.header.as_ref())?;
        let node = self.node.clone();
        // It may read the disk.
        let answered = tokio::task::spawn_blocking(move || repair::answer(&*node, &request));
        answered.await.map_err(internal)?.map(Response::new).map_err(refuse)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::PeerSnapshotChunk>>,
    ) -> Result<Response<v1::PeerSnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let mut first: Option<v1::PeerSnapshotChunk> = None;
        let mut data = Vec::new();
        while let Some(chunk) = chunks.message().await? {
            if data.len().saturating_add(chunk.data.len()) > SNAPSHOT_BYTES_MAX {
                return Err(internal("the snapshot is too large"));
            }
            data.extend_from_slice(&chunk.data);
            let last = chunk.last;
            let kept = first.get_or_insert(chunk);
            if last {
                let group = self.group(kept.header.as_ref())?;
                let answer =
                    group.handle_snapshot(kept.vote, &kept.meta, data.into()).await.map_err(internal)?;
                return Ok(Response::new(answer));
            }
        }
        Err(internal("the snapshot ended before its last chunk"))
    }
}
