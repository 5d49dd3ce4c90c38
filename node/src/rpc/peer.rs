//! The Peer service: Raft's messages from the other nodes.
//!
//! Invariants: every message's header is checked, that of a snapshot before anything of it is gathered; a node that may not take part
//! yet answers nothing but Hello; answers on an append stream come in the order of the requests, several are worked on at once.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::peer_server::Peer;
use tonic::{Request, Response, Status, Streaming};

use super::refuse;
use crate::controller::alone::{self, advice};
use crate::identity::judge_term;
use crate::identity::processes::Process;
use crate::node::Node;
use crate::raft::electorate;
use crate::raft::gate::{GoneBack, LogEnd, Remembered};
use crate::raft::group::Group;
use crate::repair;

/// Append requests of one stream that are worked on at once.
const APPENDS_AT_ONCE: usize = 64;
/// A snapshot larger than this is not taken into memory; one is taken at a time.
const SNAPSHOT_BYTES_MAX: usize = 256 << 20;
/// A snapshot's meta record is a membership.
const SNAPSHOT_META_BYTES_MAX: usize = 64 << 10;

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
        self.knows(header)?;
        self.node.identity.accept(header).map_err(wrong_header)
    }

    /// As `accept`, of whoever may not take part yet.
    fn accept_greeting(&self, header: Option<&v1::Header>) -> Result<(), Status> {
        self.knows(header)?;
        self.node.identity.accept_greeting(header).map_err(wrong_header)
    }

    /// The sender is a node of the topology.
    fn knows(&self, header: Option<&v1::Header>) -> Result<(), Status> {
        match header {
            Some(header)
                if !self.node.peers.knows(header.from_node)
                    && header.from_node != self.node.identity.node_id() =>
            {
                Err(wrong_header(format!("node {} is not in the topology", header.from_node)))
            }
            _ => Ok(()),
        }
    }

    /// What the node remembers of a directory, and notices of where its logs end.
    fn remembered(&self, request: &v1::HelloRequest) -> Vec<v1::PeerRemembered> {
        let Some(header) = &request.header else { return Vec::new() };
        let (from, incarnation) = (header.from_node, header.incarnation);
        let of_end = |end: &v1::PeerLogEnd| {
            let group = self.node.groups.get(end.group).ok()?;
            let known = group.gate().remembered(from, incarnation)?;
            let said = LogEnd { vote_term: end.vote_term, last: end.last_index };
            match known.contradicted_by(said) {
                Some(_) => group.gate().gone_back(from, GoneBack { incarnation, had: known.index }),
                None => group.gate().came_back(from),
            }
            let Remembered { term, index, vote_term, .. } = known;
            Some(v1::PeerRemembered { group: end.group, term, index, vote_term })
        };
        request.logs.iter().filter_map(of_end).collect()
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

    /// The nodes that answer this one. One look at a time, and whoever has waited for it shares it: a small request makes four
    /// calls of its own.
    async fn look_around(&self) -> Vec<u64> {
        let asked = std::time::Instant::now();
        let mut seen = self.node.doors.seen.lock().await;
        match &*seen {
            Some((began, nodes)) if *began >= asked => nodes.clone(),
            _ => {
                let began = std::time::Instant::now();
                let nodes = crate::controller::in_reach(&self.node).await;
                *seen = Some((began, nodes.clone()));
                nodes
            }
        }
    }

    /// Repair shows what is not placed yet, so only to a node of the cluster, from the directory that the cluster knows. Where the
    /// registry cannot be read (this node's group 0 is damaged, too), the topology has to do: a power cut of all must not lock up.
    fn ensure_member(&self, header: Option<&v1::Header>) -> Result<(), Status> {
        let header = header.cloned().unwrap_or_default();
        let known = self.node.topology.node_by_id(header.from_node).is_some();
        let registered = self.node.group_zero().ok().and_then(|zero| {
            let ledger = zero.state().ledger();
            ledger.registered_incarnation(header.from_node)
        });
        if known && registered.is_none_or(|registered| registered == header.incarnation) {
            return Ok(());
        }
        let why = format!("node {} with this directory is none of this cluster's", header.from_node);
        Err(refuse(Refusal::new(Reason::WrongCluster, "header", why)))
    }

    fn header(&self, to: Option<&v1::Header>) -> Option<v1::Header> {
        to.map(|header| self.node.identity.answer_header(header.from_node, header.group))
    }

    /// Whether this is a term that can be: one near the end of the numbers would end all elections.
    fn judge_term(group: &Group, vote: Option<&v1::PeerVote>) -> Result<(), Status> {
        judge_term(group.term(), vote.map_or(0, |vote| vote.term))
            .map_err(|why| refuse(Refusal::new(Reason::WrongCluster, "vote.term", why)))
    }
}

fn wrong_header(why: String) -> Status {
    refuse(Refusal::new(Reason::WrongCluster, "header", why))
}

/// Answers an append request, and notices when this node has forgotten what it acknowledged to that leader.
async fn appended(node: Arc<Node>, group: Arc<Group>, request: v1::PeerAppendRequest) -> AppendAnswer {
    use v1::peer_append_response::Result as Answer;
    let header =
        request.header.as_ref().map(|header| node.identity.answer_header(header.from_node, header.group));
    let counted =
        (request.acknowledged_incarnation == node.identity.incarnation()).then_some(request.acknowledged);
    let mut answer = group.handle_append(request).await.map_err(internal)?;
    if let (Some(Answer::Conflict(at)), Some(counted)) = (&answer.result, counted)
        && at.index <= counted
    {
        node.failure.send_replace(Some(format!(
            "node {}: its data directory was put back to an earlier state: it acknowledged entry {counted} of group {}, and does not hold \
             entry {}; {}",
            node.name,
            group.id(),
            at.index,
            advice(&node)
        )));
    }
    answer.header = header;
    Ok(answer)
}

impl PeerService {
    async fn voted(
        &self,
        request: v1::PeerVoteRequest,
        pre_vote: bool,
    ) -> Result<Response<v1::PeerVoteResponse>, Status> {
        let group = self.group(request.header.as_ref())?;
        Self::judge_term(&group, request.vote.as_ref())?;
        let header = self.header(request.header.as_ref());
        let answer = group.handle_vote(request, pre_vote).await.map_err(internal)?;
        Ok(Response::new(v1::PeerVoteResponse { header, ..answer }))
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
        let group = self.service.group(request.header.as_ref()).and_then(|group| {
            PeerService::judge_term(&group, request.vote.as_ref())?;
            Ok(group)
        });
        let work: BoxFuture<'static, AppendAnswer> = match group {
            Ok(group) => {
                self.from = request.header.as_ref().map(|header| (header.from_node, group.clone()));
                Box::pin(appended(self.service.node.clone(), group, request))
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
        let asker = request.header.as_ref().map(Process::of).unwrap_or_default();
        self.accept_greeting(request.header.as_ref())?;
        let from = request.header.as_ref().map_or(0, |header| header.from_node);
        let other = self.node.identity.processes().other_than(from, asker);
        let zero = self.node.group_zero().ok();
        let lease = self.node.identity.processes().lease();
        let leader =
            zero.as_ref().filter(|zero| zero.out_of_contact() <= lease).and_then(|zero| zero.leader());
        let (registered, applied_index) = zero.map_or((None, 0), |zero| {
            let ledger = zero.state().ledger();
            (ledger.registered(from), ledger.applied().map_or(0, |(_, index)| index))
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
            registered_incarnation: registered.map_or(0, |known| known.incarnation),
            registered: registered.map(|known| alone::to_wire(alone::registered(known), Duration::ZERO)),
            other: other.map(|(process, silent)| alone::to_wire(process, silent)),
            leader: leader.unwrap_or(0),
            remembered: self.remembered(&request),
            in_reach: if request.look_around { self.look_around().await } else { Vec::new() },
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
        self.voted(request, false).await
    }

    async fn pre_vote(
        &self,
        request: Request<v1::PeerVoteRequest>,
    ) -> Result<Response<v1::PeerVoteResponse>, Status> {
        let request = request.into_inner();
        self.voted(request, true).await
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::PeerTransferRequest>,
    ) -> Result<Response<v1::PeerTransferResponse>, Status> {
        let request = request.into_inner();
        let group = self.group(request.header.as_ref())?;
        let header = self.header(request.header.as_ref());
        Self::judge_term(&group, request.from_leader.as_ref())?;
        let refused = group.handle_transfer(request).await.map_err(internal)?;
        Ok(Response::new(v1::PeerTransferResponse { header, refused }))
    }

    async fn fetch_records(
        &self,
        request: Request<v1::FetchRecordsRequest>,
    ) -> Result<Response<v1::FetchRecordsResponse>, Status> {
        let request = request.into_inner();
        // A node that is being repaired does not take part.
        self.accept_greeting(request.header.as_ref())?;
        self.ensure_member(request.header.as_ref())?;
        let (node, header) = (self.node.clone(), self.header(request.header.as_ref()));
        // It may read the disk.
        let answered = tokio::task::spawn_blocking(move || repair::answer(&*node, &request));
        let answer = answered.await.map_err(internal)?.map_err(refuse)?;
        Ok(Response::new(v1::FetchRecordsResponse { header, ..answer }))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::PeerSnapshotChunk>>,
    ) -> Result<Response<v1::PeerSnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let cut = || internal("the snapshot ended before its last chunk");
        // Who sends it, for which group and what it says of itself is looked at before anything is gathered.
        let first = chunks.message().await?.ok_or_else(cut)?;
        let group = self.group(first.header.as_ref())?;
        Self::judge_term(&group, first.vote.as_ref())?;
        let header = self.header(first.header.as_ref());
        if first.meta.len() > SNAPSHOT_META_BYTES_MAX {
            return Err(internal("the snapshot's meta record is too large"));
        }
        group.ensure_snapshot_fits(first.vote, &first.meta).map_err(internal)?;
        let _one = self.node.doors.snapshots.try_acquire().map_err(|_| {
            refuse(Refusal::new(
                Reason::Overloaded,
                "",
                "another snapshot is being received; try again shortly",
            ))
        })?;
        let mut data = Vec::new();
        let mut next = Some(first.data);
        let mut last = first.last;
        while let Some(bytes) = next.take() {
            if data.len().saturating_add(bytes.len()) > SNAPSHOT_BYTES_MAX {
                return Err(internal(format!("the snapshot is larger than {SNAPSHOT_BYTES_MAX} bytes")));
            }
            data.extend_from_slice(&bytes);
            if last {
                let answer =
                    group.handle_snapshot(first.vote, &first.meta, data.into()).await.map_err(internal)?;
                return Ok(Response::new(v1::PeerSnapshotResponse { header, ..answer }));
            }
            let chunk = chunks.message().await?.ok_or_else(cut)?;
            (next, last) = (Some(chunk.data), chunk.last);
        }
        Err(cut())
    }
}
