//! One session of append requests to a follower, and their answers.
//!
//! Invariants: answers come in the order of the requests; to a near follower one request is under way, to a far one at most
//! [`REQUESTS_IN_FLIGHT_MAX`], and what piles up meanwhile travels together in the next one; every acknowledgement is shown to
//! the gate with the term that it was given in; after an error the session ends.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use tercet_proto::v1;
use tokio::time::Instant;

use super::hold::hold_commits;
use super::{Network, broken, codec_error, link_error};
use crate::raft::codec::{log_id_from_wire, vote_from_wire};
use crate::raft::gate::Gate;
use crate::raft::types::TypeConfig;

/// Append requests on their way to one follower at most.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;
/// A request that is unanswered for so long does not hold the next one back: the follower is far away. Before, what arrives
/// waits and travels together.
const NEAR: Duration = Duration::from_millis(2);

type Request = AppendEntriesRequest<TypeConfig>;
type Outcome = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Sends `input` over the network's link and gives the outcomes, until the input has ended and all is answered.
pub(super) fn exchange<'s, S>(network: &'s mut Network, input: S) -> BoxStream<'s, Outcome>
where
    S: Stream<Item = Request> + Send + Unpin + 'static,
{
    network.link.begin();
    let session = Exchange {
        network,
        input: Some(hold_commits(input).boxed()),
        term: 0,
        has_failed: false,
        sent: VecDeque::new(),
    };
    futures::stream::unfold(session, |mut session| async move {
        let outcome = session.next().await?;
        session.has_failed = outcome.is_err();
        Some((outcome, session))
    })
    .boxed()
}

struct Exchange<'s> {
    network: &'s mut Network,
    /// None when it has ended.
    input: Option<BoxStream<'static, Request>>,
    /// The leader's term, the same in all requests of a session.
    term: u64,
    has_failed: bool,
    /// When the unanswered requests were sent.
    sent: VecDeque<Instant>,
}

impl Exchange<'_> {
    async fn next(&mut self) -> Option<Outcome> {
        while !self.has_failed {
            let unanswered = self.network.link.unanswered();
            let takes_more = unanswered < REQUESTS_IN_FLIGHT_MAX;
            let not_before = self.sent.front().map(|sent| *sent + NEAR);
            if self.input.is_none() && unanswered == 0 {
                return None;
            }
            tokio::select! {
                biased;
                answer = self.network.link.answer() => {
                    self.sent.pop_front();
                    return Some(answer.map_err(link_error).and_then(|answer| self.outcome(answer)));
                }
                request = next_of(&mut self.input, not_before), if takes_more && self.input.is_some() => match request {
                    Some(request) => if let Err(error) = self.send(request).await {
                        return Some(Err(error));
                    },
                    None => self.input = None,
                }
            }
        }
        None
    }

    async fn send(&mut self, request: Request) -> Result<(), RPCError<TypeConfig>> {
        self.term = request.vote.leader_id.term;
        self.sent.push_back(Instant::now());
        let message = self.network.append_message(request).map_err(codec_error)?;
        self.network.link.send(message).await.map_err(link_error)
    }

    fn outcome(&self, answer: v1::PeerAppendResponse) -> Outcome {
        append_result(answer, &self.network.gate, self.term, self.network.target)
    }
}

async fn next_of(
    input: &mut Option<BoxStream<'static, Request>>,
    not_before: Option<Instant>,
) -> Option<Request> {
    if let Some(at) = not_before {
        tokio::time::sleep_until(at).await;
    }
    input.as_mut()?.next().await
}

/// What a follower's answer means to openraft, and to the gate.
fn append_result(response: v1::PeerAppendResponse, gate: &Gate, term: u64, target: u64) -> Outcome {
    use v1::peer_append_response::Result as Answer;
    match response.result {
        Some(Answer::Matched(matched)) => {
            let log_id = log_id_from_wire(matched.log_id);
            gate.acknowledged(term, target, matched.incarnation, log_id.map(|id| id.index));
            Ok(Ok(log_id))
        }
        Some(Answer::Conflict(at)) => match log_id_from_wire(Some(at)) {
            Some(log_id) => Ok(Err(StreamAppendError::Conflict(log_id))),
            None => Err(broken("a conflict without a log id")),
        },
        Some(Answer::HigherVote(vote)) => {
            let vote = vote_from_wire(Some(vote)).map_err(codec_error)?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        Some(Answer::Fatal(why)) => Err(super::unreachable(why)),
        None => Err(broken("an append answer without a result")),
    }
}
