//! The Peer service: Raft's messages from the other nodes.
//!
//! Invariants: every message's header is checked; a node that may not take part yet answers nothing but Hello; answers on an
//! append stream come in the order of the requests, several are worked on at once.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::peer_server::Peer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use crate::node::Node;
use crate::raft::group::Group;

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
        self.node.group(number).cloned().map_err(refuse)
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

async fn answer_append(
    group: Arc<Group>,
    request: v1::PeerAppendRequest,
) -> Result<v1::PeerAppendResponse, Status> {
    group.handle_append(request).await.map_err(internal)
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Peer for PeerService {
    async fn hello(&self, request: Request<v1::HelloRequest>) -> Result<Response<v1::HelloResponse>, Status> {
        let request = request.into_inner();
        self.accept(request.header.as_ref())?;
        let from = request.header.as_ref().map_or(0, |header| header.from_node);
        let registered = self.node.group_zero().state().ledger().registered_incarnation(from);
        let mut fresh = true;
        for group in &self.node.groups {
            fresh &= !group.is_initialized().await;
        }
        Ok(Response::new(v1::HelloResponse {
            header: self.header(request.header.as_ref()),
            fresh,
            registered_incarnation: registered.unwrap_or(0),
        }))
    }

    type AppendEntriesStream = Answers<v1::PeerAppendResponse>;

    async fn append_entries(
        &self,
        request: Request<Streaming<v1::PeerAppendRequest>>,
    ) -> Result<Response<Self::AppendEntriesStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(APPENDS_AT_ONCE);
        let service = Self::new(self.node.clone());
        let mut stopping = self.node.stopping.clone();
        tokio::spawn(async move {
            let mut in_work = FuturesOrdered::new();
            loop {
                tokio::select! {
                    biased;
                    Some(answer) = in_work.next(), if !in_work.is_empty() => {
                        if answers.send(answer).await.is_err() {
                            return;
                        }
                    }
                    message = requests.message(), if in_work.len() < APPENDS_AT_ONCE => match message {
                        Ok(Some(request)) => match service.group(request.header.as_ref()) {
                            // Polled in the order of arrival, so Raft sees the requests in that order.
                            Ok(group) => in_work.push_back(answer_append(group, request)),
                            Err(status) => {
                                let _ = answers.send(Err(status)).await;
                                return;
                            }
                        },
                        Ok(None) | Err(_) => return,
                    },
                    () = stopped(&mut stopping) => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
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
