//! openraft's network over gRPC: one channel per peer, an append stream per peer and group, and one for its heartbeats.
//!
//! Invariants: pre-vote, leader transfer and the append stream are all real (openraft's defaults grant, refuse and serialise);
//! answers come in the order of the requests; every acknowledgement is shown to the gate with the term that it was given in.
//!
//! | file | about |
//! |---|---|
//! | `exchange` | one session of append requests to a follower |
//! | `seeding` | how hard the leader works for a node without a vote |
//! | `hold` | commits that ride with the entries that follow |
//! | `voted` | where a voter's log ends, so that a new leader need not search |
//! | `link`, `peers`, `transport` | streams and channels, over gRPC or carried by a simulation |

mod exchange;
mod hold;
pub mod link;
pub mod peers;
mod seeding;
pub mod transport;
mod voted;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use openraft::base::BoxFuture;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory};
use tercet_proto::v1;
use tercet_storage::SegmentLog;

use self::exchange::exchange;
pub use self::exchange::payload_bytes;
use self::link::{AppendLink, LinkError};
use self::transport::Transport;
use self::voted::Votes;
use super::codec::{
    CodecError, entry_to_wire, log_id_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use super::gate::Gate;
use super::snapshot::{Snapshot, SnapshotData, snapshot_chunks};
use super::types::{TypeConfig, Vote};

/// A unary question to a peer is given up after this, whatever openraft allows.
const UNARY_TIMEOUT_MIN: Duration = Duration::from_millis(100);

type AppendResults<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>;

/// Makes the networks of one group.
#[derive(Clone)]
pub struct NetworkFactory {
    peers: Transport,
    group: u32,
    gate: Arc<Gate>,
    log: SegmentLog,
    votes: Votes,
}

impl NetworkFactory {
    /// Networks of `group`, whose log is `log`, to the nodes that `peers` knows.
    #[must_use]
    pub fn new(peers: Transport, group: u32, gate: Arc<Gate>, log: SegmentLog) -> Self {
        Self { peers, group, gate, log, votes: Votes::default() }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, (): &()) -> Network {
        Network {
            link: self.peers.link(target),
            peers: self.peers.clone(),
            target,
            group: self.group,
            gate: self.gate.clone(),
            log: self.log.clone(),
            votes: self.votes.clone(),
        }
    }
}

/// One group's way to one peer.
pub struct Network {
    peers: Transport,
    link: AppendLink,
    target: u64,
    group: u32,
    gate: Arc<Gate>,
    log: SegmentLog,
    votes: Votes,
}

fn unreachable(why: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::from_string(why.to_string()))
}

fn broken(why: impl std::fmt::Display) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::from_string(why.to_string()))
}

fn link_error(error: LinkError) -> RPCError<TypeConfig> {
    match error {
        LinkError::Unreachable(why) => unreachable(why),
        LinkError::Broken(why) => broken(why),
    }
}

fn codec_error(error: CodecError) -> RPCError<TypeConfig> {
    unreachable(error)
}

impl Network {
    fn append_message(
        &self,
        rpc: AppendEntriesRequest<TypeConfig>,
    ) -> Result<v1::PeerAppendRequest, CodecError> {
        let entries: Result<Vec<_>, _> = rpc.entries.into_iter().map(entry_to_wire).collect();
        let placed = self.gate.placed().known;
        let without_quorum = self.gate.without_quorum().unwrap_or_default();
        let (acknowledged_incarnation, acknowledged) =
            self.gate.acknowledged_by(rpc.vote.leader_id.term, self.target);
        Ok(v1::PeerAppendRequest {
            header: Some(self.peers.header(self.target, self.group)),
            vote: Some(vote_to_wire(&rpc.vote)),
            prev: log_id_to_wire(rpc.prev_log_id.as_ref()),
            entries: entries?,
            committed: log_id_to_wire(rpc.leader_commit.as_ref()),
            city_watermark: placed.city,
            geo_watermark: placed.geo,
            proof: self.proof(),
            answer_when_applied: false,
            without_quorum_ms: u64::try_from(without_quorum.as_millis()).unwrap_or(u64::MAX),
            acknowledged,
            acknowledged_incarnation,
        })
    }

    /// What a node in another site needs to prove something after this one's loss.
    fn proof(&self) -> Option<v1::PeerProof> {
        let part = self.gate.proof_for(self.target)?;
        Some(v1::PeerProof {
            quorum_us: part.quorum_us,
            echoed_index: part.echoed.0,
            echoed_us: part.echoed.1,
            geo_acked: part.geo_acked,
            adaptive: part.adaptive,
            degrade_after_ms: part.degrade_after_ms,
            degraded_since: part.degraded_since.unwrap_or(0),
        })
    }

    fn unary_timeout(option: &RPCOption) -> Duration {
        option.soft_ttl().max(UNARY_TIMEOUT_MIN)
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let request = v1::PeerVoteRequest {
            header: Some(self.peers.header(self.target, self.group)),
            vote: Some(vote_to_wire(&rpc.vote)),
            last: log_id_to_wire(rpc.last_log_id.as_ref()),
            leadership_transfer: rpc.leadership_transfer,
        };
        let asked = self.peers.vote(self.target, request, pre_vote);
        let answer = tokio::time::timeout(Self::unary_timeout(&option), asked)
            .await
            .map_err(|_| unreachable("vote request timed out"))?
            .map_err(unreachable)?;
        let vote = vote_from_wire(answer.vote).map_err(codec_error)?;
        let last = log_id_from_wire(answer.last);
        if let Some(header) = &answer.header
            && answer.granted
            && !pre_vote
        {
            self.gate.voted_for_this(self.target, header.incarnation, rpc.vote.leader_id.term);
        }
        if let Some(last) = last
            && answer.granted
            && answer.last_is_flushed
            && !pre_vote
            && vote.leader_id == rpc.vote.leader_id
        {
            self.votes.granted(self.target, vote.leader_id.term, last);
        }
        Ok(VoteResponse::new(vote, last, answer.granted))
    }
}

impl openraft::network::NetBackoff<TypeConfig> for Network {
    fn backoff(&self) -> Option<openraft::network::Backoff> {
        None
    }
}

impl openraft::network::NetStreamAppend<TypeConfig> for Network {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<AppendResults<'s>, RPCError<TypeConfig>>>
    where
        S: futures::Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let results = exchange(self, input);
        Box::pin(async move { Ok(results) })
    }
}

impl openraft::network::NetVote<TypeConfig> for Network {
    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, option, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(rpc, option, true).await
    }
}

impl openraft::network::NetSnapshot<TypeConfig> for Network {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let fail = |why: String| StreamingError::Unreachable(Unreachable::from_string(why));
        let header = self.peers.header(self.target, self.group);
        let chunks = snapshot_chunks(&header, &vote, &snapshot.meta, snapshot.snapshot)
            .map_err(|error| fail(error.to_string()))?;
        let sent = self.peers.install_snapshot(self.target, chunks);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = sent => {
                let answer = answer.map_err(fail)?;
                let vote = vote_from_wire(answer.vote).map_err(|error| fail(error.to_string()))?;
                Ok(SnapshotResponse::new(vote))
            }
        }
    }
}

impl openraft::network::NetTransferLeader<TypeConfig> for Network {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<Result<(), TransferLeaderError<TypeConfig>>, RPCError<TypeConfig>> {
        let request = v1::PeerTransferRequest {
            header: Some(self.peers.header(self.target, self.group)),
            from_leader: Some(vote_to_wire(req.from_leader())),
            to_node: *req.to_node_id(),
            last: log_id_to_wire(req.last_log_id()),
        };
        let asked = self.peers.transfer_leader(self.target, request);
        let answer = tokio::time::timeout(Self::unary_timeout(&option), asked)
            .await
            .map_err(|_| unreachable("leader transfer timed out"))?
            .map_err(unreachable)?;
        if answer.refused.is_empty() {
            return Ok(Ok(()));
        }
        tracing::info!(target = self.target, why = answer.refused, "leader transfer refused");
        Ok(Err(TransferLeaderError::LogNotFlushed { expected: req.last_log_id().copied(), actual: None }))
    }
}
