//! The services of one in-process node. Only journal `j` exists.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{Stream, StreamExt};
use tercet_proto::client::{LEADER_ID_METADATA, LEADER_METADATA};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::{NONE, Script, World};

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) world: Arc<World>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Node {
    fn name_leader(&self, metadata: &mut MetadataMap) {
        let leader = self.world.leader.load(Ordering::SeqCst);
        if leader != NONE {
            metadata.insert(LEADER_ID_METADATA, (leader + 1).to_string().parse().unwrap());
            metadata.insert(LEADER_METADATA, self.world.advertised[leader].parse().unwrap());
        }
    }

    fn refuse(&self, refusal: Refusal) -> Status {
        let mut status = refusal.into_status();
        self.name_leader(status.metadata_mut());
        status
    }

    fn answer<T>(&self, message: T) -> Response<T> {
        let mut response = Response::new(message);
        self.name_leader(response.metadata_mut());
        response
    }

    fn check_journal(&self, journal: &str) -> Result<(), Status> {
        if journal == "j" {
            return Ok(());
        }
        Err(self.refuse(Refusal::new(Reason::JournalNotFound, "journal", format!("no journal {journal:?}"))))
    }

    /// Appends all or nothing, known keys included.
    fn commit(&self, request: &v1::AppendRequest) -> Result<v1::AppendResponse, Status> {
        let mut outcome = Ok(v1::AppendResponse::default());
        self.world.entries.send_modify(|entries| {
            let mut appended = entries.clone();
            let mut receipts = Vec::new();
            for (at, entry) in request.entries.iter().enumerate() {
                let known = appended.iter().position(|other| other.key == entry.key);
                if let Some(position) = known.filter(|&position| appended[position] != *entry) {
                    let refusal = Refusal::new(Reason::KeyConflict, "key", "other content")
                        .within(&format!("entries[{at}]"))
                        .with("seq", (position + 1).to_string());
                    outcome = Err(self.refuse(refusal));
                    return;
                }
                let seq = known.unwrap_or(appended.len()) as u64 + 1;
                if known.is_none() {
                    appended.push(entry.clone());
                }
                receipts.push(v1::Receipt {
                    journal: request.journal.clone(),
                    seq,
                    key: entry.key.clone(),
                    replayed: known.is_some(),
                    ..v1::Receipt::default()
                });
            }
            *entries = appended;
            outcome = Ok(v1::AppendResponse { receipts });
        });
        outcome
    }

    fn next_script(&self) -> Option<Script> {
        let mut scripts = self.world.nodes[self.index].scripts.lock().unwrap();
        let script = scripts.pop_front();
        if script == Some(Script::NoLeaderForEver) {
            scripts.push_front(Script::NoLeaderForEver);
        }
        script
    }

    fn no_leader(&self) -> Status {
        self.world.refusals.fetch_add(1, Ordering::SeqCst);
        self.refuse(Refusal::new(Reason::NoLeader, "", "this node does not lead"))
    }

    /// Entries from `from` on, one a message; up to `to`, or for ever.
    fn entries(&self, from: u64, to: Option<u64>) -> Answers<v1::ReadResponse> {
        let (sender, receiver) = mpsc::channel(1);
        let node = self.clone();
        tokio::spawn(async move {
            let mut entries = node.world.entries.subscribe();
            let break_after = node.world.nodes[node.index].break_after.load(Ordering::SeqCst);
            let mut sent = 0;
            let mut seq = from;
            loop {
                if to.is_some_and(|to| seq > to) {
                    return;
                }
                let (head_seq, entry) = {
                    let known = entries.borrow_and_update();
                    let at = usize::try_from(seq).unwrap() - 1;
                    (known.len() as u64, known.get(at).cloned())
                };
                let Some(entry) = entry else {
                    // A client that has gone ends the waiting.
                    tokio::select! {
                        changed = entries.changed() => if changed.is_err() { return },
                        () = sender.closed() => return,
                    }
                    continue;
                };
                if break_after != 0 && sent == break_after {
                    node.world.broken_reads.fetch_add(1, Ordering::SeqCst);
                    let _ = sender.send(Err(Status::unavailable("broken on purpose"))).await;
                    return;
                }
                if seq != node.world.skip_seq.load(Ordering::SeqCst) {
                    let entries = vec![v1::StoredEntry { seq, entry: Some(entry), ..Default::default() }];
                    if sender.send(Ok(v1::ReadResponse { entries, head_seq })).await.is_err() {
                        return;
                    }
                    sent += 1;
                }
                seq += 1;
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }
}

#[tonic::async_trait]
impl v1::ledger_server::Ledger for Node {
    type AppendStreamStream = Answers<v1::AppendStreamResponse>;
    type ReadStream = Answers<v1::ReadResponse>;
    type TailStream = Answers<v1::ReadResponse>;

    async fn create_journal(
        &self,
        _: Request<v1::CreateJournalRequest>,
    ) -> Result<Response<v1::Journal>, Status> {
        Err(self.refuse(Refusal::new(Reason::JournalExists, "name", "only j exists here")))
    }

    async fn get_journal(
        &self,
        request: Request<v1::GetJournalRequest>,
    ) -> Result<Response<v1::Journal>, Status> {
        let name = request.into_inner().name;
        self.check_journal(&name)?;
        let seq = self.world.entries.borrow().len() as u64;
        let head = Some(v1::Head { seq, ..v1::Head::default() });
        Ok(self.answer(v1::Journal { name, head, ..v1::Journal::default() }))
    }

    async fn list_journals(
        &self,
        _: Request<v1::ListJournalsRequest>,
    ) -> Result<Response<v1::ListJournalsResponse>, Status> {
        Ok(self.answer(v1::ListJournalsResponse::default()))
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let request = request.into_inner();
        self.world.nodes[self.index].appends.fetch_add(1, Ordering::SeqCst);
        self.check_journal(&request.journal)?;
        if self.world.leader.load(Ordering::SeqCst) != self.index {
            return Err(self.no_leader());
        }
        match self.next_script() {
            None => self.commit(&request).map(|response| self.answer(response)),
            Some(Script::CommitThenUnknown) => {
                self.commit(&request)?;
                Err(self.refuse(Refusal::new(Reason::OutcomeUnknown, "", "the leader changed")))
            }
            Some(Script::CommitThenUnavailable) => {
                self.commit(&request)?;
                Err(Status::unavailable("connection reset"))
            }
            Some(Script::CommitThenHang) => {
                self.commit(&request)?;
                std::future::pending().await
            }
            Some(Script::HangOnce) => std::future::pending().await,
            Some(Script::JournalNotFound) => {
                self.check_journal("gone").map(|()| self.answer(v1::AppendResponse::default()))
            }
            Some(Script::NoLeaderForEver) => Err(self.no_leader()),
        }
    }

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        use v1::append_stream_response::Result as Ended;
        let node = self.clone();
        let answers = request.into_inner().then(move |request| {
            let node = node.clone();
            async move {
                let result = match node.append(Request::new(request?)).await {
                    Ok(appended) => Ended::Appended(appended.into_inner()),
                    Err(status) => match Refusal::from_status(&status) {
                        Some(refusal) => Ended::Refused(refusal.into_message()),
                        // As when the connection breaks.
                        None => return Err(status),
                    },
                };
                let leader = node.world.leader.load(Ordering::SeqCst);
                let leader_id = if leader < node.world.nodes.len() { leader as u64 + 1 } else { 0 };
                Ok(v1::AppendStreamResponse { result: Some(result), leader_id })
            }
        });
        Ok(self.answer(Box::pin(answers) as Self::AppendStreamStream))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        self.check_journal(&request.journal)?;
        let head = self.world.entries.borrow().len() as u64;
        let to = if request.to_seq == 0 { head } else { request.to_seq.min(head) };
        Ok(self.answer(self.entries(request.from_seq.max(1), Some(to))))
    }

    async fn get_entry(&self, _: Request<v1::GetEntryRequest>) -> Result<Response<v1::StoredEntry>, Status> {
        Err(Status::unimplemented("not used here"))
    }

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let request = request.into_inner();
        self.check_journal(&request.journal)?;
        assert_ne!(request.from_seq, 0, "the client settles the first seq itself");
        self.world.tails.fetch_add(1, Ordering::SeqCst);
        Ok(self.answer(self.entries(request.from_seq, None)))
    }

    /// Three balances a page; the token is where to go on.
    async fn get_balances(
        &self,
        request: Request<v1::GetBalancesRequest>,
    ) -> Result<Response<v1::GetBalancesResponse>, Status> {
        let request = request.into_inner();
        self.check_journal(&request.journal)?;
        let entries = self.world.entries.borrow().clone();
        let postings = entries.iter().flat_map(|entry| &entry.postings);
        let balances: Vec<v1::Balance> = postings
            .filter(|posting| request.account.is_empty() || posting.account == request.account)
            .map(|posting| v1::Balance { account: posting.account.clone(), ..v1::Balance::default() })
            .collect();
        let from: usize = request.page_token.parse().unwrap_or(0);
        let to = (from + 3).min(balances.len());
        let next_page_token = if to < balances.len() { to.to_string() } else { String::new() };
        let balances = balances[from..to].to_vec();
        Ok(self.answer(v1::GetBalancesResponse { balances, next_page_token, ..Default::default() }))
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Node {
    type WatchEventsStream = Answers<v1::Event>;

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::NodeStatus>, Status> {
        let leads = self.world.leader.load(Ordering::SeqCst) == self.index;
        let role = if leads { "leader" } else { "follower" };
        let group = v1::GroupStatus { term: 1, role: role.to_owned(), ..v1::GroupStatus::default() };
        Ok(Response::new(v1::NodeStatus {
            node_id: self.index as u64 + 1,
            groups: vec![group],
            ..v1::NodeStatus::default()
        }))
    }

    async fn get_topology(
        &self,
        _: Request<v1::GetTopologyRequest>,
    ) -> Result<Response<v1::TopologyInfo>, Status> {
        let node = |(index, client): (usize, &String)| v1::NodeInfo {
            id: index as u64 + 1,
            client: client.clone(),
            ..v1::NodeInfo::default()
        };
        let nodes = self.world.advertised.iter().enumerate().map(node).collect();
        Ok(Response::new(v1::TopologyInfo { nodes, ..v1::TopologyInfo::default() }))
    }

    async fn watch_events(
        &self,
        _: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Err(Status::unimplemented("not used here"))
    }

    async fn transfer_leader(
        &self,
        _: Request<v1::TransferLeaderRequest>,
    ) -> Result<Response<v1::TransferLeaderResponse>, Status> {
        Err(Status::unimplemented("not used here"))
    }

    async fn change_member(
        &self,
        _: Request<v1::ChangeMemberRequest>,
    ) -> Result<Response<v1::ChangeMemberResponse>, Status> {
        Err(Status::unimplemented("not used here"))
    }
}
