//! How messages reach the other nodes: gRPC, or whatever a simulation puts in its place.
//!
//! Invariants: both ways carry the same wire messages, so that a simulation encodes and decodes what production does; gRPC
//! pays one branch for it, no allocation and no dynamic call.

use std::sync::Arc;

use futures::future::BoxFuture;
use tercet_proto::v1;
use tercet_proto::v1::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::link::AppendLink;
use super::peers::Peers;

/// The answers on a carried append stream, in the order of the requests.
pub type CarriedAnswers = mpsc::UnboundedReceiver<Result<v1::PeerAppendResponse, String>>;

/// A network that is not gRPC's. Errors are words; a message that fails may have arrived.
pub trait Carrier: Send + Sync {
    /// The header of a message.
    fn header(&self, to_node: u64, group: u32) -> v1::Header;
    /// Asks for a vote, or whether one would be given.
    fn vote(
        &self,
        to_node: u64,
        request: v1::PeerVoteRequest,
        pre_vote: bool,
    ) -> BoxFuture<'static, Result<v1::PeerVoteResponse, String>>;
    /// Asks a node to take over.
    fn transfer_leader(
        &self,
        to_node: u64,
        request: v1::PeerTransferRequest,
    ) -> BoxFuture<'static, Result<v1::PeerTransferResponse, String>>;
    /// Asks a node whether it is there.
    fn hello(&self, to_node: u64) -> BoxFuture<'static, Result<(), String>>;
    /// Asks what a node's log holds.
    fn fetch_records(
        &self,
        to_node: u64,
        request: v1::FetchRecordsRequest,
    ) -> BoxFuture<'static, Result<v1::FetchRecordsResponse, String>>;
    /// Sends a snapshot.
    fn install_snapshot(
        &self,
        to_node: u64,
        chunks: Vec<v1::PeerSnapshotChunk>,
    ) -> BoxFuture<'static, Result<v1::PeerSnapshotResponse, String>>;
    /// Opens an append stream.
    fn append_entries(
        &self,
        to_node: u64,
        requests: mpsc::UnboundedReceiver<v1::PeerAppendRequest>,
    ) -> BoxFuture<'static, Result<CarriedAnswers, String>>;
    /// Whether an answer is one of the node that was asked.
    ///
    /// # Errors
    /// What does not fit.
    fn accept_answer(&self, from_node: u64, header: Option<&v1::Header>) -> Result<(), String>;
    /// For how long an append stream may leave a request unanswered.
    fn silence(&self) -> std::time::Duration;
}

/// A node's way to all others.
#[derive(Clone)]
pub enum Transport {
    /// Production.
    Grpc(Arc<Peers>),
    /// A simulation.
    Carried(Arc<dyn Carrier>),
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Transport {
    pub(crate) fn header(&self, to_node: u64, group: u32) -> v1::Header {
        match self {
            Self::Grpc(peers) => peers.header(to_node, group),
            Self::Carried(carrier) => carrier.header(to_node, group),
        }
    }

    /// Whether an answer is one of the node that was asked, and of the process that speaks for it.
    pub(super) fn accept_answer(&self, from_node: u64, header: Option<&v1::Header>) -> Result<(), String> {
        match self {
            Self::Grpc(peers) => peers.accept_answer(from_node, header),
            Self::Carried(carrier) => carrier.accept_answer(from_node, header),
        }
    }

    pub(super) async fn vote(
        &self,
        to_node: u64,
        request: v1::PeerVoteRequest,
        pre_vote: bool,
    ) -> Result<v1::PeerVoteResponse, String> {
        let peers = match self {
            Self::Grpc(peers) => peers,
            Self::Carried(carrier) => return carrier.vote(to_node, request, pre_vote).await,
        };
        if !peers.takes_part() {
            return Err("this node does not take part yet".into());
        }
        let mut client = peers.client(to_node).map_err(words)?;
        let answer = if pre_vote { client.pre_vote(request).await } else { client.vote(request).await };
        let answer = answer.map(tonic::Response::into_inner).map_err(words)?;
        peers.accept_answer(to_node, answer.header.as_ref())?;
        Ok(answer)
    }

    pub(super) async fn transfer_leader(
        &self,
        to_node: u64,
        request: v1::PeerTransferRequest,
    ) -> Result<v1::PeerTransferResponse, String> {
        let peers = match self {
            Self::Grpc(peers) => peers,
            Self::Carried(carrier) => return carrier.transfer_leader(to_node, request).await,
        };
        let mut client = peers.client(to_node).map_err(words)?;
        let answer = client.transfer_leader(request).await.map(tonic::Response::into_inner).map_err(words)?;
        peers.accept_answer(to_node, answer.header.as_ref())?;
        Ok(answer)
    }

    /// Whether a node answers; whoever asks sets the time limit.
    pub(in crate::raft) async fn answers(&self, to_node: u64) -> bool {
        match self {
            Self::Grpc(peers) => {
                let request =
                    v1::HelloRequest { header: Some(peers.header(to_node, 0)), ..Default::default() };
                peers.hello(to_node, request).await.is_ok()
            }
            Self::Carried(carrier) => carrier.hello(to_node).await.is_ok(),
        }
    }

    pub(crate) async fn fetch_records(
        &self,
        to_node: u64,
        request: v1::FetchRecordsRequest,
    ) -> Result<v1::FetchRecordsResponse, String> {
        let peers = match self {
            Self::Grpc(peers) => peers,
            Self::Carried(carrier) => return carrier.fetch_records(to_node, request).await,
        };
        let mut client = peers.client(to_node).map_err(words)?;
        let answer = client.fetch_records(request).await.map(tonic::Response::into_inner).map_err(words)?;
        peers.accept_greeting_back(to_node, answer.header.as_ref())?;
        Ok(answer)
    }

    pub(super) async fn install_snapshot(
        &self,
        to_node: u64,
        chunks: Vec<v1::PeerSnapshotChunk>,
    ) -> Result<v1::PeerSnapshotResponse, String> {
        let peers = match self {
            Self::Grpc(peers) => peers,
            Self::Carried(carrier) => return carrier.install_snapshot(to_node, chunks).await,
        };
        let mut client = peers.client(to_node).map_err(words)?;
        let sent = client.install_snapshot(tokio_stream::iter(chunks)).await;
        let answer = sent.map(tonic::Response::into_inner).map_err(words)?;
        peers.accept_answer(to_node, answer.header.as_ref())?;
        Ok(answer)
    }

    /// A new append stream to a node.
    pub(super) fn link(&self, to_node: u64) -> AppendLink {
        match self {
            Self::Grpc(peers) => peers.link(to_node),
            Self::Carried(carrier) => {
                AppendLink::new(Way::Carried(carrier.clone(), to_node), carrier.silence())
            }
        }
    }
}

/// Where an append stream leads.
pub enum Way {
    /// Over this channel.
    Grpc(PeerClient<Channel>),
    /// To this node of a simulation.
    Carried(Arc<dyn Carrier>, u64),
}

impl Way {
    pub(super) async fn open(
        &mut self,
        requests: mpsc::UnboundedReceiver<v1::PeerAppendRequest>,
    ) -> Result<Answers, String> {
        match self {
            Self::Grpc(client) => {
                let opened = client.append_entries(UnboundedReceiverStream::new(requests)).await;
                opened.map(|answers| Answers::Grpc(answers.into_inner())).map_err(words)
            }
            Self::Carried(carrier, to_node) => {
                carrier.append_entries(*to_node, requests).await.map(Answers::Carried)
            }
        }
    }
}

/// The answers of an open append stream.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is production's, and lives as long as its stream"
)]
pub(super) enum Answers {
    Grpc(Streaming<v1::PeerAppendResponse>),
    Carried(CarriedAnswers),
}

impl Answers {
    /// The next answer; none: the peer has closed the stream. Dropping the future loses nothing.
    pub(super) async fn message(&mut self) -> Result<Option<v1::PeerAppendResponse>, String> {
        match self {
            Self::Grpc(answers) => answers.message().await.map_err(words),
            Self::Carried(answers) => answers.recv().await.transpose(),
        }
    }
}
