//! A group's answers to the other nodes.
//!
//! Invariants: a message is decoded whole before openraft sees it; "matched" is said only of what openraft and the log say is
//! flushed here.

use std::time::Duration;

use openraft::LogIdOptionExt;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, TransferLeaderRequest, VoteRequest};
use tercet_proto::v1;

use super::Group;
use crate::ledger::Ledger;
use crate::placement::Watermarks;
use crate::raft::codec::{
    CodecError, entry_from_wire, log_id_from_wire, log_id_to_wire, to_point, vote_from_wire, vote_to_wire,
};
use crate::raft::network::payload_bytes;
use crate::raft::snapshot::{Snapshot, decode_meta, ensure_within};
use crate::raft::types::{LogId, term_of};

impl Group {
    /// Answers an append request of a leader.
    ///
    /// # Errors
    /// The message cannot be decoded.
    pub async fn handle_append(
        &self,
        request: v1::PeerAppendRequest,
    ) -> Result<v1::PeerAppendResponse, CodecError> {
        let answer = self.answer_append(request).await?;
        let why = self.params.room.why_not(&self.params.log);
        let takes_no_entries = why.map(|why| format!("{} takes no entries: {why}", self.params.name));
        Ok(v1::PeerAppendResponse {
            result: Some(answer),
            takes_no_entries: takes_no_entries.unwrap_or_default(),
            clock_us: (self.params.clock)(),
            ..Default::default()
        })
    }

    async fn answer_append(
        &self,
        request: v1::PeerAppendRequest,
    ) -> Result<v1::peer_append_response::Result, CodecError> {
        use v1::peer_append_response::Result as Answer;
        let vote = vote_from_wire(request.vote)?;
        let leader = vote.leader_id.voted_for;
        self.gate.led_by_another(vote.leader_id.term);
        self.led_elsewhere(vote.leader_id.term, leader);
        let prev = log_id_from_wire(request.prev);
        let entries: Result<Vec<_>, _> = request.entries.into_iter().map(entry_from_wire).collect();
        let entries = entries?;
        let bytes = entries.iter().map(payload_bytes).sum();
        if !entries.is_empty()
            && let Some(why) = self.params.room.why_refused(&self.params.log, entries.len(), bytes)
        {
            // The log would keep them in memory until there is room; the leader tries again.
            return Ok(Answer::Fatal(why));
        }
        let last = entries.last().map(|entry| entry.log_id).or(prev);
        let committed = log_id_from_wire(request.committed);
        let applied_first = request.answer_when_applied.then(|| last.index().min(committed.index()));
        let rpc = AppendEntriesRequest { vote, prev_log_id: prev, entries, leader_commit: committed };
        let answer = match self.raft.append_entries(rpc).await {
            Ok(response) => match response.into_stream_result(prev, last) {
                Ok(matched) => {
                    self.contact.heard(leader, Duration::from_millis(request.without_quorum_ms));
                    if let Some(id) = &matched
                        && !self.store.is_durable(id, self.flush_limit()).await
                    {
                        let why = format!("entry {id} is not on this node's disk yet");
                        return Ok(Answer::Fatal(why));
                    }
                    let (city, geo) = (request.city_watermark, request.geo_watermark);
                    self.gate.learn(Watermarks { city, geo });
                    let flushed = matched.as_ref().map_or(0, |id| id.index);
                    self.offer_proof(vote.leader_id.term, vote.leader_id.voted_for, request.proof, flushed);
                    self.has_applied(applied_first.flatten()).await;
                    Answer::Matched(v1::PeerMatched {
                        log_id: log_id_to_wire(matched.as_ref()),
                        incarnation: self.params.incarnation,
                    })
                }
                Err(StreamAppendError::Conflict(at)) => {
                    Answer::Conflict(v1::PeerLogId { term: term_of(&at), index: at.index })
                }
                Err(StreamAppendError::HigherVote(vote)) => Answer::HigherVote(vote_to_wire(&vote)),
            },
            Err(error) => Answer::Fatal(error.to_string()),
        };
        Ok(answer)
    }

    /// Waits until what a request has brought is applied, but not for so long that the leader takes this node for lost.
    async fn has_applied(&self, index: Option<u64>) {
        let Some(index) = index else { return };
        let mut applied = self.state.applied();
        let limit = Duration::from_millis(self.params.timing.election_max_ms);
        // Either way the entries are flushed, and the answer is true.
        drop(tokio::time::timeout(limit, applied.wait_for(|applied| *applied >= index)).await);
    }

    /// How long an acknowledgement may wait for its entries to become durable once openraft takes them for flushed.
    fn flush_limit(&self) -> Duration {
        Duration::from_millis(self.params.timing.heartbeat_ms)
    }

    /// Answers a vote or pre-vote.
    ///
    /// # Errors
    /// The message cannot be decoded, or Raft has stopped.
    pub async fn handle_vote(
        &self,
        request: v1::PeerVoteRequest,
        pre_vote: bool,
    ) -> Result<v1::PeerVoteResponse, String> {
        let vote = vote_from_wire(request.vote).map_err(|error| error.to_string())?;
        let mut rpc = VoteRequest::new(vote, log_id_from_wire(request.last));
        rpc.leadership_transfer = request.leadership_transfer;
        let voting = (!pre_vote).then(|| self.contact.voting());
        let answered = if pre_vote { self.raft.pre_vote(rpc).await } else { self.raft.vote(rpc).await };
        let response = answered.map_err(|error| error.to_string())?;
        if response.vote_granted && !pre_vote {
            self.contact.voted();
        }
        drop(voting);
        let last_is_flushed = response.vote_granted
            && !pre_vote
            && response.last_log_id.as_ref().is_some_and(|last| self.is_flushed(last));
        Ok(v1::PeerVoteResponse {
            header: None,
            vote: Some(vote_to_wire(&response.vote)),
            granted: response.vote_granted,
            last: log_id_to_wire(response.last_log_id.as_ref()),
            last_is_flushed,
        })
    }

    /// Whether the log holds this entry, and it and all before it are durable.
    fn is_flushed(&self, id: &LogId) -> bool {
        let (group, point) = (self.params.group, to_point(id));
        let durable = self.params.log.state(group).durable_last;
        durable.is_some_and(|durable| durable.index >= point.index)
            && self.params.log.point(group, point.index) == Some(point)
    }

    /// Answers a leader transfer; an empty string means accepted.
    ///
    /// # Errors
    /// The message cannot be decoded, or Raft has stopped.
    pub async fn handle_transfer(&self, request: v1::PeerTransferRequest) -> Result<String, String> {
        let from = vote_from_wire(request.from_leader).map_err(|error| error.to_string())?;
        if self.is_leaving() && request.to_node == self.params.node_id {
            return Ok("the node is stopping".into());
        }
        let rpc = TransferLeaderRequest::new(from, request.to_node, log_id_from_wire(request.last));
        let answer = self.raft.handle_transfer_leader(rpc).await.map_err(|error| error.to_string())?;
        Ok(answer.err().map(|refused| refused.to_string()).unwrap_or_default())
    }

    /// Whether a snapshot that says this of itself could be taken, before any of it is gathered.
    ///
    /// # Errors
    /// A vote or a meta record that cannot be read.
    pub fn ensure_snapshot_fits(&self, vote: Option<v1::PeerVote>, meta: &[u8]) -> Result<(), String> {
        vote_from_wire(vote).map_err(|error| error.to_string())?;
        decode_meta(meta).map_err(|error| error.to_string())?;
        Ok(())
    }

    /// Installs a snapshot that has arrived whole.
    ///
    /// # Errors
    /// The message cannot be decoded, or Raft has stopped.
    pub async fn handle_snapshot(
        &self,
        vote: Option<v1::PeerVote>,
        meta: &[u8],
        data: bytes::Bytes,
    ) -> Result<v1::PeerSnapshotResponse, String> {
        let vote = vote_from_wire(vote).map_err(|error| error.to_string())?;
        let meta = decode_meta(meta).map_err(|error| error.to_string())?;
        // openraft takes an error of the state machine for the group's end.
        ensure_within(&data, &Ledger::key_prefix(self.params.group)).map_err(|error| error.to_string())?;
        let snapshot = Snapshot { meta, snapshot: data };
        let answer =
            self.raft.install_full_snapshot(vote, snapshot).await.map_err(|error| error.to_string())?;
        Ok(v1::PeerSnapshotResponse { header: None, vote: Some(vote_to_wire(&answer.vote)) })
    }
}
