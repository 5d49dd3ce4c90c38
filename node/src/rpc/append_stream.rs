//! One stream of appends: its requests are worked on side by side and answered in their order.
//!
//! Invariants: a refusal is an answer like any other and stops nothing; at most [`APPENDS_AT_ONCE`] requests are in work, and no more are
//! read meanwhile. No task and no channel of its own: whoever writes the answers drives it, and a client that takes no answers is worked
//! for no more.

use std::future::Future;

use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tercet_proto::v1;
use tercet_proto::v1::append_stream_response::Result as Ended;
use tonic::{Status, Streaming};

/// Appends of one stream that are worked on at once.
const APPENDS_AT_ONCE: usize = 64;

struct Appends<W, F: Future> {
    /// None when the client will send no more.
    requests: Option<Streaming<v1::AppendRequest>>,
    in_work: FuturesOrdered<F>,
    work: W,
}

/// The answers to `requests`, each of which `work` carries out.
pub(super) fn answers<W, F>(
    requests: Streaming<v1::AppendRequest>,
    work: W,
) -> impl Stream<Item = Result<v1::AppendStreamResponse, Status>> + Send
where
    W: Fn(v1::AppendRequest) -> F + Send,
    F: Future<Output = v1::AppendStreamResponse> + Send,
{
    let appends = Appends { requests: Some(requests), in_work: FuturesOrdered::new(), work };
    futures::stream::unfold(appends, |mut appends| async move {
        appends.next().await.map(|answer| (Ok(answer), appends))
    })
}

impl<W, F> Appends<W, F>
where
    W: Fn(v1::AppendRequest) -> F,
    F: Future<Output = v1::AppendStreamResponse>,
{
    /// The next answer; `None` when all are given and no more requests come, or the client is gone.
    async fn next(&mut self) -> Option<v1::AppendStreamResponse> {
        loop {
            let takes_more = self.in_work.len() < APPENDS_AT_ONCE;
            tokio::select! {
                biased;
                Some(answer) = self.in_work.next(), if !self.in_work.is_empty() => return Some(answer),
                message = next_of(&mut self.requests), if takes_more && self.requests.is_some() => match message {
                    Ok(Some(request)) => self.in_work.push_back((self.work)(request)),
                    Ok(None) => self.requests = None,
                    // Nobody is left to be answered.
                    Err(_) => return None,
                },
                else => return None,
            }
        }
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
