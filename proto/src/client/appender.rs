//! Appends over one stream, one after the other: what a call of its own costs (headers, routing) is paid once.
//!
//! Invariants: a stream carries one request at a time, and one whose answer was not awaited to its end is dropped, so no answer
//! is ever taken for another request's; a request is repeated like any other, and never on the stream where it failed.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Mutex, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::attempt::{Failure, classify, may_change};
use super::router::Prefer;
use super::run::Call;
use super::{Client, ClientError, LEADER_ID_METADATA, ledger};
use crate::reason::Reason;
use crate::refusal::Refusal;
use crate::v1;
use crate::v1::append_stream_response::Result as Ended;

/// A writer with a stream of its own to the leader of the journal that it last appended to. Made by [`Client::appender`].
#[derive(Debug)]
pub struct Appender {
    client: Client,
    /// The endpoint that the stream was opened to.
    endpoint: String,
    stream: Arc<Mutex<Option<AppendStream>>>,
}

#[derive(Debug)]
struct AppendStream {
    requests: mpsc::Sender<v1::AppendRequest>,
    answers: Streaming<v1::AppendStreamResponse>,
}

impl Client {
    /// A writer that appends one request after the other over one stream: for a caller with many to send.
    pub fn appender(&self) -> Appender {
        Appender { client: self.clone(), endpoint: String::new(), stream: Arc::default() }
    }
}

impl Appender {
    /// Like [`Client::append`], with the same repetitions and the same errors.
    pub async fn append(&mut self, request: v1::AppendRequest) -> Result<v1::AppendResponse, ClientError> {
        let journal = request.journal.clone();
        let endpoint = self.client.shared.router.choose(Some(&journal), Prefer::Leader, Instant::now());
        if endpoint != self.endpoint {
            *self.stream.lock().await = None;
            self.endpoint = endpoint;
        }
        let send = |channel, request: tonic::Request<v1::AppendRequest>| {
            append_over(self.stream.clone(), channel, request.into_inner())
        };
        self.client.run(Call::write(Some(&journal)), request, send).await
    }
}

/// Sends over the stream, or over a new one, and awaits the answer. The stream is taken out meanwhile: given up halfway, it is
/// gone.
async fn append_over(
    stream: Arc<Mutex<Option<AppendStream>>>,
    channel: Channel,
    request: v1::AppendRequest,
) -> Result<Response<v1::AppendResponse>, Status> {
    let mut slot = stream.lock().await;
    let mut open = match slot.take() {
        Some(open) => open,
        None => AppendStream::open(channel).await?,
    };
    let answer = response(open.ask(request).await?);
    // What another node may do better is sent to another node.
    let stays = match &answer {
        Ok(_) => true,
        Err(status) => {
            matches!(classify(status), Failure::Refused(refusal, _) if !ends_the_stream(refusal.reason))
        }
    };
    *slot = stays.then_some(open);
    answer
}

/// Whether nothing more is sent over a stream after this refusal: another node may do better, or the request was one behind
/// which the node reads no more, and what it ends the stream with would be taken for the next request's answer.
fn ends_the_stream(reason: Reason) -> bool {
    may_change(reason) || matches!(reason, Reason::RequestMalformed | Reason::RequestTooLarge)
}

impl AppendStream {
    async fn open(channel: Channel) -> Result<Self, Status> {
        let (requests, receiver) = mpsc::channel(1);
        let answers = ledger(channel).append_stream(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { requests, answers })
    }

    async fn ask(&mut self, request: v1::AppendRequest) -> Result<v1::AppendStreamResponse, Status> {
        let ended = || Status::unavailable("the stream of appends has ended");
        self.requests.send(request).await.map_err(|_| ended())?;
        self.answers.message().await?.ok_or_else(ended)
    }
}

/// What `Append` would have answered.
fn response(answer: v1::AppendStreamResponse) -> Result<Response<v1::AppendResponse>, Status> {
    let mut result = match answer.result {
        Some(Ended::Appended(appended)) => Ok(Response::new(appended)),
        Some(Ended::Refused(refused)) => Err(match Refusal::from_message(&refused) {
            Some(refusal) => refusal.into_status(),
            None => Status::new(Code::from_i32(refused.code), refused.message),
        }),
        None => return Err(Status::internal("an answer without a result")),
    };
    if answer.leader_id != 0 {
        let metadata = match &mut result {
            Ok(response) => response.metadata_mut(),
            Err(status) => status.metadata_mut(),
        };
        metadata.insert(LEADER_ID_METADATA, MetadataValue::from(answer.leader_id));
    }
    result
}
