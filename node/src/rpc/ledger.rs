//! The Ledger service: each method's doorway.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::ledger_server::Ledger;
use tonic::{Request, Response, Status, Streaming};

use super::append::{append, create_journal};
use super::{Caller, answer, append_stream, read};
use crate::node::Node;
use crate::raft::group::Group;

/// The service; one at the client address, one at the peer address.
#[derive(Clone)]
pub struct LedgerService {
    node: Arc<Node>,
    from_peers: bool,
}

impl LedgerService {
    /// The Ledger service of `node`; `from_peers` believes the hop count.
    #[must_use]
    pub fn new(node: Arc<Node>, from_peers: bool) -> Self {
        Self { node, from_peers }
    }

    /// An answer about `journal`, with the leader of its group on it.
    fn answer<T>(&self, journal: &str, result: Result<T, Status>) -> Result<Response<T>, Status> {
        match self.group_of(journal) {
            Some(group) => answer(&self.node, &group, result),
            None => result.map(Response::new),
        }
    }

    /// The journal's group; the first one, if it is not known where the journal is.
    fn group_of(&self, journal: &str) -> Option<Arc<Group>> {
        let zero = self.node.group_zero().ok()?;
        let mapped = zero.state().ledger().mapped_group(journal);
        Some(mapped.and_then(|group| self.node.group(group).ok()).unwrap_or(zero))
    }

    /// The node that leads a journal's group; 0: none known.
    fn leader_of(&self, journal: &str) -> u64 {
        self.group_of(journal).and_then(|group| group.leader()).unwrap_or_default()
    }
}

fn as_message(status: &Status) -> v1::Refusal {
    match Refusal::from_status(status) {
        Some(refusal) => refusal.into_message(),
        None => {
            v1::Refusal { code: status.code().into(), message: status.message().into(), ..Default::default() }
        }
    }
}

#[tonic::async_trait]
impl Ledger for LedgerService {
    async fn create_journal(
        &self,
        request: Request<v1::CreateJournalRequest>,
    ) -> Result<Response<v1::Journal>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.name.clone();
        self.answer(&journal, create_journal(&self.node, caller, request).await)
    }

    async fn get_journal(
        &self,
        request: Request<v1::GetJournalRequest>,
    ) -> Result<Response<v1::Journal>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.name.clone();
        self.answer(&journal, read::get_journal(&self.node, caller, request).await)
    }

    async fn list_journals(
        &self,
        request: Request<v1::ListJournalsRequest>,
    ) -> Result<Response<v1::ListJournalsResponse>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        self.answer("", read::list_journals(&self.node, caller, request.into_inner()).await)
    }

    async fn append(
        &self,
        request: Request<v1::AppendRequest>,
    ) -> Result<Response<v1::AppendResponse>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.journal.clone();
        self.answer(&journal, append(&self.node, caller, request).await)
    }

    type AppendStreamStream = Pin<Box<dyn Stream<Item = Result<v1::AppendStreamResponse, Status>> + Send>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::AppendRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let service = self.clone();
        let work = move |request: v1::AppendRequest| {
            let service = service.clone();
            async move {
                let journal = request.journal.clone();
                let result = append(&service.node, caller, request).await;
                let leader_id = service.leader_of(&journal);
                append_stream::message(result, leader_id, as_message)
            }
        };
        let answers = append_stream::answers(request.into_inner(), self.node.stopping.clone(), work);
        self.answer("", Ok(Box::pin(answers) as Self::AppendStreamStream))
    }

    type ReadStream = read::Entries;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<read::Entries>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.journal.clone();
        self.answer(&journal, read::read(self.node.clone(), caller, request).await)
    }

    async fn get_entry(
        &self,
        request: Request<v1::GetEntryRequest>,
    ) -> Result<Response<v1::StoredEntry>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.journal.clone();
        self.answer(&journal, read::get_entry(&self.node, caller, request).await)
    }

    type TailStream = read::Entries;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<read::Entries>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.journal.clone();
        self.answer(&journal, read::tail(self.node.clone(), caller, request).await)
    }

    async fn get_balances(
        &self,
        request: Request<v1::GetBalancesRequest>,
    ) -> Result<Response<v1::GetBalancesResponse>, Status> {
        let caller = Caller::of(&request, self.from_peers);
        let request = request.into_inner();
        let journal = request.journal.clone();
        self.answer(&journal, read::get_balances(&self.node, caller, request).await)
    }
}
