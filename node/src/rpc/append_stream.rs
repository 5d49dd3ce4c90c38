//! One stream of appends: its requests are worked on side by side and answered in their order.
//!
//! Invariants: a refusal is an answer like any other and stops nothing; every request that was read is answered before the stream ends,
//! and the stream ends well only when the client has said that no more come; a message that cannot be decoded has its own answer, and the
//! stream ends behind it; at most [`APPENDS_AT_ONCE`] requests are in work, and no more are read meanwhile. No task and no channel of its
//! own: whoever writes the answers drives it, and a client that takes no answers is worked for no more.

use std::future::{Future, Ready, ready};

use futures::future::Either;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::append_stream_response::Result as Ended;
use tokio::sync::watch;
use tonic::{Status, Streaming};

use super::named::broken_stream;
use super::refuse;

/// Appends of one stream that are worked on at once.
const APPENDS_AT_ONCE: usize = 64;

struct Appends<W, F: Future> {
    /// None when the client will send no more, or nothing more is read.
    requests: Option<Streaming<v1::AppendRequest>>,
    in_work: FuturesOrdered<Either<F, Ready<F::Output>>>,
    /// What the stream ends with when all answers are given; none: well.
    end: Option<Refusal>,
    stopping: watch::Receiver<bool>,
    work: W,
}

/// The answers to `requests`, each of which `work` carries out; no more are read when `stopping` says so.
pub(super) fn answers<W, F>(
    requests: Streaming<v1::AppendRequest>,
    stopping: watch::Receiver<bool>,
    work: W,
) -> impl Stream<Item = Result<v1::AppendStreamResponse, Status>> + Send
where
    W: Fn(v1::AppendRequest) -> F + Send,
    F: Future<Output = v1::AppendStreamResponse> + Send,
{
    let appends =
        Appends { requests: Some(requests), in_work: FuturesOrdered::new(), end: None, stopping, work };
    futures::stream::unfold(appends, |mut appends| async move {
        appends.next().await.map(|answer| (answer, appends))
    })
}

impl<W, F> Appends<W, F>
where
    W: Fn(v1::AppendRequest) -> F,
    F: Future<Output = v1::AppendStreamResponse>,
{
    /// The next answer, then what the stream ends with, if not well.
    async fn next(&mut self) -> Option<Result<v1::AppendStreamResponse, Status>> {
        loop {
            let reads = self.requests.is_some();
            let takes_more = self.in_work.len() < APPENDS_AT_ONCE;
            tokio::select! {
                biased;
                Some(answer) = self.in_work.next(), if !self.in_work.is_empty() => return Some(Ok(answer)),
                message = next_of(&mut self.requests), if takes_more && reads => match message {
                    Ok(Some(request)) => self.in_work.push_back(Either::Left((self.work)(request))),
                    Ok(None) => self.requests = None,
                    Err(status) => self.cannot_read(&status),
                },
                () = stopped(&mut self.stopping), if reads => {
                    self.requests = None;
                    let why = "the node is stopping; requests without an answer were not looked at";
                    self.end = Some(Refusal::new(Reason::ShuttingDown, "", why));
                }
                else => return self.end.take().map(|refusal| Err(refuse(refusal))),
            }
        }
    }

    /// The message at hand cannot be decoded, and what comes behind it neither.
    fn cannot_read(&mut self, status: &Status) {
        self.requests = None;
        let refusal = broken_stream(status);
        let refused = Ended::Refused(refusal.clone().into_message());
        let answer = v1::AppendStreamResponse { result: Some(refused), leader_id: 0 };
        self.in_work.push_back(Either::Right(ready(answer)));
        self.end = Some(refusal);
    }
}

async fn next_of(
    requests: &mut Option<Streaming<v1::AppendRequest>>,
) -> Result<Option<v1::AppendRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => Ok(None),
    }
}

/// Completes when the node stops.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // The sender goes only with the node.
    drop(stopping.wait_for(|stop| *stop).await.map(|_| ()));
}

/// An append's end as a message of the stream.
pub(super) fn message(
    result: Result<v1::AppendResponse, Status>,
    leader_id: u64,
    as_refusal: impl Fn(&Status) -> v1::Refusal,
) -> v1::AppendStreamResponse {
    let result = match result {
        Ok(appended) => Ended::Appended(appended),
        Err(status) => Ended::Refused(as_refusal(&status)),
    };
    v1::AppendStreamResponse { result: Some(result), leader_id }
}
