//! A node's way into the simulated network, in the place of gRPC.
//!
//! Invariant: the peer's side is the group's own handlers, with what they say shown to the witness before it leaves.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tercet_node::raft::network::transport::{CarriedAnswers, Carrier};
use tercet_node::repair::answer;
use tercet_proto::v1;
use tokio::sync::mpsc;

use super::net::Net;
use crate::invariants::Witness;

/// One node's end of the network.
pub struct SimCarrier {
    /// The node.
    pub node: u64,
    /// What its messages travel over.
    pub net: Net,
    /// Who watches.
    pub witness: Arc<Witness>,
    /// For how long an append stream may leave a request unanswered.
    pub silence: Duration,
}

fn flat<T>(answer: Result<Result<T, String>, String>) -> Result<T, String> {
    answer.and_then(|answer| answer)
}

impl Carrier for SimCarrier {
    fn header(&self, to_node: u64, group: u32) -> v1::Header {
        v1::Header { from_node: self.node, to_node, group, ..v1::Header::default() }
    }

    fn vote(
        &self,
        to_node: u64,
        request: v1::PeerVoteRequest,
        pre_vote: bool,
    ) -> BoxFuture<'static, Result<v1::PeerVoteResponse, String>> {
        let witness = self.witness.clone();
        let what = if pre_vote { "asks for a pre-vote" } else { "asks for a vote" };
        let asked = self.net.ask(self.node, to_node, what, move |target| {
            let (request, witness) = (request.clone(), witness.clone());
            async move {
                let wanted = request.vote;
                let answer = target.group.handle_vote(request, pre_vote).await;
                if let (Ok(answer), Some(wanted), false) = (&answer, wanted, pre_vote)
                    && answer.granted
                {
                    witness.granted(to_node, &wanted);
                }
                answer
            }
        });
        asked.map(flat).boxed()
    }

    fn transfer_leader(
        &self,
        to_node: u64,
        request: v1::PeerTransferRequest,
    ) -> BoxFuture<'static, Result<v1::PeerTransferResponse, String>> {
        let asked = self.net.ask(self.node, to_node, "asks to take over", move |target| {
            let request = request.clone();
            async move {
                let refused = target.group.handle_transfer(request).await?;
                Ok(v1::PeerTransferResponse { header: None, refused })
            }
        });
        asked.map(flat).boxed()
    }

    fn hello(&self, to_node: u64) -> BoxFuture<'static, Result<(), String>> {
        let asked = self.net.ask(self.node, to_node, "is asked whether it is there", |_| async { Ok(()) });
        asked.map(flat).boxed()
    }

    fn fetch_records(
        &self,
        to_node: u64,
        request: v1::FetchRecordsRequest,
    ) -> BoxFuture<'static, Result<v1::FetchRecordsResponse, String>> {
        let asked = self.net.ask_host(self.node, to_node, "asks for records", move |host| {
            let request = request.clone();
            async move { answer(&*host, &request).map_err(|refusal| refusal.to_string()) }
        });
        asked.map(flat).boxed()
    }

    fn install_snapshot(
        &self,
        to_node: u64,
        chunks: Vec<v1::PeerSnapshotChunk>,
    ) -> BoxFuture<'static, Result<v1::PeerSnapshotResponse, String>> {
        let asked = self.net.ask(self.node, to_node, "sends a snapshot", move |target| {
            let first = chunks.first().cloned().unwrap_or_default();
            let data: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.data.iter().copied()).collect();
            async move { target.group.handle_snapshot(first.vote, &first.meta, data.into()).await }
        });
        asked.map(flat).boxed()
    }

    fn append_entries(
        &self,
        to_node: u64,
        requests: mpsc::UnboundedReceiver<v1::PeerAppendRequest>,
    ) -> BoxFuture<'static, Result<CarriedAnswers, String>> {
        self.net.open_stream(self.node, to_node, requests, self.witness.clone())
    }

    fn accept_answer(&self, _from_node: u64, _header: Option<&v1::Header>) -> Result<(), String> {
        // A simulated link leads to the node that it names, and a simulated directory is never copied.
        Ok(())
    }

    fn silence(&self) -> Duration {
        self.silence
    }
}
