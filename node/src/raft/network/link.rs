//! The append stream to one follower: a queue in front of one long-lived bidirectional gRPC stream.
//!
//! Invariants: requests leave in the order of `call`; the n-th answer belongs to the n-th request of the stream; when the stream
//! breaks or falls silent, every waiting request fails and the next one opens a new stream.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use tercet_proto::v1;
use tercet_proto::v1::peer_client::PeerClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Channel;

/// Why a request was not answered; it may have been carried out.
#[derive(Debug, Clone)]
pub enum LinkError {
    /// No stream could be opened.
    Unreachable(String),
    /// The stream ended or fell silent under the request.
    Broken(String),
}

struct Call {
    request: v1::PeerAppendRequest,
    answer: oneshot::Sender<Result<v1::PeerAppendResponse, LinkError>>,
}

/// A handle; clones share the stream.
#[derive(Clone)]
pub struct AppendLink {
    calls: mpsc::UnboundedSender<Call>,
}

impl AppendLink {
    /// A link over `channel`; a stream that answers nothing for `silence` is given up. The task ends with the last handle.
    #[must_use]
    pub fn new(client: PeerClient<Channel>, silence: Duration) -> Self {
        let (calls, queue) = mpsc::unbounded_channel();
        tokio::spawn(run(client, queue, silence));
        Self { calls }
    }

    /// Queues a request now and returns its answer. The caller bounds how many are under way.
    pub fn call(
        &self,
        request: v1::PeerAppendRequest,
    ) -> impl Future<Output = Result<v1::PeerAppendResponse, LinkError>> + Send + 'static {
        let (answer, waiting) = oneshot::channel();
        let queued = self.calls.send(Call { request, answer }).is_ok();
        async move {
            if !queued {
                return Err(LinkError::Unreachable("the node is stopping".into()));
            }
            waiting.await.unwrap_or_else(|_| Err(LinkError::Broken("the link was closed".into())))
        }
    }
}

async fn run(mut client: PeerClient<Channel>, mut queue: mpsc::UnboundedReceiver<Call>, silence: Duration) {
    while let Some(first) = queue.recv().await {
        session(&mut client, first, &mut queue, silence).await;
    }
}

/// One stream, from its first request to its end.
async fn session(
    client: &mut PeerClient<Channel>,
    first: Call,
    queue: &mut mpsc::UnboundedReceiver<Call>,
    silence: Duration,
) {
    let (requests, outgoing) = mpsc::unbounded_channel();
    let mut waiting = VecDeque::new();
    send(&requests, &mut waiting, first);
    let opened = tokio::time::timeout(silence, client.append_entries(UnboundedReceiverStream::new(outgoing)));
    let mut answers = match opened.await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => return fail(waiting, queue, LinkError::Unreachable(status.to_string())),
        Err(_) => return fail(waiting, queue, LinkError::Unreachable("no answer to a new stream".into())),
    };
    loop {
        // Silence counts only while something is waiting for an answer.
        let quiet = async {
            if waiting.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(silence).await;
        };
        tokio::select! {
            biased;
            answer = answers.message() => match answer {
                Ok(Some(response)) => {
                    if let Some(call) = waiting.pop_front() {
                        // openraft may have dropped the request; its answer is then nobody's.
                        let _ = call.send(Ok(response));
                    }
                }
                Ok(None) => return fail(waiting, queue, LinkError::Broken("the peer closed the stream".into())),
                Err(status) => return fail(waiting, queue, LinkError::Broken(status.to_string())),
            },
            call = queue.recv() => match call {
                Some(call) => send(&requests, &mut waiting, call),
                None => return,
            },
            () = quiet => {
                return fail(waiting, queue, LinkError::Broken(format!("silent for {} ms", silence.as_millis())));
            }
        }
    }
}

type Waiting = VecDeque<oneshot::Sender<Result<v1::PeerAppendResponse, LinkError>>>;

fn send(requests: &mpsc::UnboundedSender<v1::PeerAppendRequest>, waiting: &mut Waiting, call: Call) {
    waiting.push_back(call.answer);
    // A closed stream shows itself as the end of the answers, which fails everything that waits.
    let _ = requests.send(call.request);
}

/// Fails everything that waits, and what was queued behind it.
fn fail(waiting: Waiting, queue: &mut mpsc::UnboundedReceiver<Call>, error: LinkError) {
    for answer in waiting {
        let _ = answer.send(Err(error.clone()));
    }
    while let Ok(call) = queue.try_recv() {
        let _ = call.answer.send(Err(error.clone()));
    }
}
