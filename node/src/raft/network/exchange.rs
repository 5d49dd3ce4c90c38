//! One session of append requests to a follower, and their answers.
//!
//! A follower that appends do not wait for (`placement::is_spare`) hears of them a little later and of several at once: with five
//! nodes two of the four followers decide when a writer is answered, and what the others cost is shared by the entries of
//! [`SPARE_HOLD`]. One without a vote that has much to learn is not served all the time (`seeding`).
//!
//! Invariants: answers come in the order of the requests; to a near follower one request is under way, to a far one at most
//! [`REQUESTS_IN_FLIGHT_MAX`], and what piles up meanwhile travels together in the next one; every acknowledgement is shown to
//! the gate with the term that it was given in; after an error the session ends; a request is answered here, unsent, only by
//! what the follower's vote has told (`voted`), and only while nothing is unanswered.

use std::collections::VecDeque;
use std::time::Duration;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::errors::RPCError;
use openraft::raft::{AppendEntriesRequest, StreamAppendError, StreamAppendResult};
use openraft::{EntryPayload, LogIdOptionExt};
use tercet_proto::v1;
use tokio::time::Instant;

use super::hold::hold_commits;
use super::link::LinkError;
use super::seeding::Seeding;
use super::voted::Step;
use super::{Network, broken, codec_error, link_error};
use crate::raft::codec::{log_id_from_wire, to_point, vote_from_wire};
use crate::raft::gate::Gate;
use crate::raft::types::{Entry, LogId, TypeConfig};

/// Append requests on their way to one follower at most.
const REQUESTS_IN_FLIGHT_MAX: usize = 8;
/// To one that is slowed down: what is on its way goes on during a rest.
const SEEDING_IN_FLIGHT_MAX: usize = 1;
/// A request that is unanswered for so long does not hold the next one back: the follower is far away. Before, what arrives
/// waits and travels together.
const NEAR: Duration = Duration::from_millis(2);
/// The least time between two requests to a follower that appends do not wait for. One that has become needed meanwhile hears
/// of them when it is over.
const SPARE_HOLD: Duration = Duration::from_millis(4);
/// After a request with so much the next one follows at once: there is more to send than messages to save.
const SPARE_BYTES_MAX: usize = 256 << 10;
const SPARE_ENTRIES_MAX: usize = 64;
/// Between two comparisons of clocks.
const MEASURE_PAUSE: Duration = Duration::from_millis(200);

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
        rests_until: None,
        seeding: None,
        nonce: 0,
        measured: None,
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
    /// No request before, if the follower is a spare one or has no vote.
    rests_until: Option<Instant>,
    /// While it has no vote.
    seeding: Option<Seeding>,
    /// The follower's process, as far as the gate has been told; 0: none.
    nonce: u64,
    /// When its clock was compared last.
    measured: Option<Instant>,
}

impl Exchange<'_> {
    async fn next(&mut self) -> Option<Outcome> {
        while !self.has_failed {
            let unanswered = self.network.link.unanswered();
            let most = if self.is_slowed() { SEEDING_IN_FLIGHT_MAX } else { REQUESTS_IN_FLIGHT_MAX };
            let takes_more = unanswered < most;
            let not_before = self.sent.front().map(|sent| *sent + NEAR).max(self.rest());
            if self.input.is_none() && unanswered == 0 {
                return None;
            }
            tokio::select! {
                biased;
                answer = self.network.link.answer() => {
                    if let (Some(sent), Ok(answer)) = (self.sent.pop_front(), &answer) {
                        self.measure(sent, answer.clock_us);
                    }
                    let outcome = answer.map_err(link_error).and_then(|answer| self.outcome(&answer));
                    if let Ok(Ok(matched)) = &outcome {
                        self.answered(matched.index());
                    }
                    return Some(outcome);
                }
                request = next_of(&mut self.input, not_before), if takes_more && self.input.is_some() => match request {
                    Some(request) => {
                        if let Some(known) = self.known(&request) {
                            return Some(known);
                        }
                        if let Err(error) = self.send(request).await {
                            return Some(Err(error));
                        }
                    }
                    None => self.input = None,
                }
            }
        }
        None
    }

    /// Compares the follower's clock with this node's, now and then.
    fn measure(&mut self, sent: Instant, theirs_us: i64) {
        let now = Instant::now();
        if theirs_us == 0 || self.measured.is_some_and(|at| now.saturating_duration_since(at) < MEASURE_PAUSE)
        {
            return;
        }
        self.measured = Some(now);
        self.network.gate.clock_of(self.network.target, theirs_us, now.saturating_duration_since(sent));
    }

    /// Until when a follower that appends do not wait for is left alone.
    fn rest(&self) -> Option<Instant> {
        self.rests_until.filter(|_| self.seeding.is_some() || self.network.gate.is_spare(self.network.target))
    }

    /// The follower holds the log up to here.
    fn answered(&mut self, matched: Option<u64>) {
        let Network { gate, log, group, target, .. } = &*self.network;
        if gate.is_voter(*target) {
            self.seeding = None;
            return;
        }
        let ends = (matched.unwrap_or(0), log.state(*group).last.map_or(0, |point| point.index));
        let now = Instant::now();
        let seeding = self.seeding.get_or_insert_with(|| Seeding::new(now));
        if let Some(rest) = seeding.holds(ends, |range| log.payload_bytes(*group, range), now) {
            self.rests_until = Some(now + rest);
        }
    }

    fn is_slowed(&self) -> bool {
        self.seeding.as_ref().is_some_and(Seeding::is_slowed)
    }

    /// The answer to a step of openraft's search, if the follower's vote has given it.
    fn known(&self, request: &Request) -> Option<Outcome> {
        if request.entries.is_empty() {
            return None;
        }
        let Network { votes, log, group, target, .. } = &*self.network;
        let holds = |end: LogId| self.sent.is_empty() && log.point(*group, end.index) == Some(to_point(&end));
        match votes.step(*target, request.vote.leader_id.term, request.prev_log_id, holds) {
            Step::Send => None,
            Step::Matches(upto) => Some(Ok(Ok(Some(upto)))),
            Step::Conflicts(below) => Some(Ok(Err(StreamAppendError::Conflict(below)))),
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), RPCError<TypeConfig>> {
        self.term = request.vote.leader_id.term;
        let now = Instant::now();
        self.sent.push_back(now);
        let is_large = request.entries.len() > SPARE_ENTRIES_MAX
            || request.entries.iter().map(payload_bytes).sum::<usize>() > SPARE_BYTES_MAX;
        self.rests_until = (!is_large).then(|| now + SPARE_HOLD);
        let mut message = self.network.append_message(request).map_err(codec_error)?;
        message.answer_when_applied = self.is_slowed();
        self.network.link.send(message).await.map_err(|error| {
            if matches!(error, LinkError::Unreachable(_)) {
                self.network.gate.lost(self.term, self.network.target);
            }
            link_error(error)
        })
    }

    fn outcome(&mut self, answer: &v1::PeerAppendResponse) -> Outcome {
        let Network { gate, peers, target, .. } = &*self.network;
        peers.accept_answer(*target, answer.header.as_ref()).map_err(super::unreachable)?;
        if let Some(header) = answer.header.as_ref().filter(|header| header.nonce != self.nonce) {
            gate.met_process(self.term, *target, header.nonce);
            self.nonce = header.nonce;
        }
        append_result(answer, gate, self.term, *target)
    }
}

/// How many bytes an entry carries; a membership counts for nothing.
pub fn payload_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
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
fn append_result(response: &v1::PeerAppendResponse, gate: &Gate, term: u64, target: u64) -> Outcome {
    use v1::peer_append_response::Result as Answer;
    gate.takes(term, target, &response.takes_no_entries);
    match &response.result {
        Some(Answer::Matched(matched)) => {
            let log_id = log_id_from_wire(matched.log_id);
            gate.acknowledged(term, target, matched.incarnation, log_id.map(|id| id.index));
            Ok(Ok(log_id))
        }
        Some(Answer::Conflict(at)) => {
            let incarnation = response.header.as_ref().map_or(0, |header| header.incarnation);
            if gate.contradicts(term, target, incarnation, at.index) {
                // openraft takes it for granted that this cannot be, and would go on counting what the follower has forgotten.
                return Err(super::unreachable("its log has gone back behind what it had acknowledged"));
            }
            match log_id_from_wire(Some(*at)) {
                Some(log_id) => Ok(Err(StreamAppendError::Conflict(log_id))),
                None => Err(broken("a conflict without a log id")),
            }
        }
        Some(Answer::HigherVote(vote)) => {
            let vote = vote_from_wire(Some(*vote)).map_err(codec_error)?;
            Ok(Err(StreamAppendError::HigherVote(vote)))
        }
        Some(Answer::Fatal(why)) => Err(super::unreachable(why)),
        None => Err(broken("an append answer without a result")),
    }
}
