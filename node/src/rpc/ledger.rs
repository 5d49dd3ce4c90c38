//! The Ledger service: each method's doorway.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::ledger_server::Ledger;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::append::{append, create_journal};
use super::{Caller, answer, read};
use crate::node::Node;

/// Appends of one stream that are worked on at once.
const APPENDS_AT_ONCE: usize = 64;

/// The service; one at the client address, one at the peer address.
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
        let Ok(zero) = self.node.group_zero() else { return result.map(Response::new) };
        let mapped = zero.state().ledger().mapped_group(journal);
        let mapped = mapped.and_then(|group| self.node.group(group).ok());
        answer(&self.node, &mapped.unwrap_or(zero), result)
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
        use v1::append_stream_response::Result as Ended;
        let caller = Caller::of(&request, self.from_peers);
        let mut requests = request.into_inner();
        let (answers, stream) = mpsc::channel(APPENDS_AT_ONCE);
        let node = self.node.clone();
        tokio::spawn(async move {
            let mut in_work = FuturesOrdered::new();
            let mut ended = false;
            loop {
                tokio::select! {
                    biased;
                    Some(result) = in_work.next(), if !in_work.is_empty() => {
                        let result: Result<v1::AppendResponse, Status> = result;
                        let result = match result {
                            Ok(appended) => Ended::Appended(appended),
                            Err(status) => Ended::Refused(as_message(&status)),
                        };
                        if answers.send(Ok(v1::AppendStreamResponse { result: Some(result) })).await.is_err() {
                            return;
                        }
                    }
                    message = requests.message(), if !ended && in_work.len() < APPENDS_AT_ONCE => match message {
                        Ok(Some(request)) => {
                            let node = node.clone();
                            in_work.push_back(async move { append(&node, caller, request).await });
                        }
                        Ok(None) => ended = true,
                        Err(_) => return,
                    },
                    else => return,
                }
            }
        });
        self.answer("", Ok(Box::pin(ReceiverStream::new(stream)) as Self::AppendStreamStream))
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
