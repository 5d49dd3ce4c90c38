//! Merges what has arrived meanwhile into one proposal, and hands the outcomes to the gate.
//!
//! Invariants: nothing waits while the leader is idle; a proposal is bounded in bytes; at most a few are on their way, so that a
//! busy leader's proposals grow; a request that was not proposed is answered definitely, one that was is answered by the gate
//! or as unknown.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError};
use openraft::impls::ProgressResponder;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_storage::SegmentLog;
use tokio::sync::{mpsc, oneshot};

use super::gate::{Gate, Release};
use super::group::GroupParams;
use super::state_machine::GroupState;
use super::times::Times;
use super::types::{Applied, Proposal, Raft, TypeConfig, term_of};
use crate::ledger::{Outcome, PreparedCommand, ProposalBuilder, ProposalHeader};
use crate::placement::Class;
use crate::room::DiskRoom;

/// A proposal is closed when it holds this many bytes.
const PROPOSAL_BYTES_MAX: usize = 1 << 20;
/// Proposals on their way: one is being flushed and replicated, the next one is being carried, the others queue in the log.
const PROPOSALS_IN_FLIGHT_MAX: usize = 4;
/// Right after an election a leader refuses writes until a quorum has answered: ask again.
pub(super) const LEASE_RETRY: Duration = Duration::from_millis(2);
const LEASE_RETRIES_MAX: u32 = 1_000;

/// The leader's UTC clock, microseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How a request ended.
#[derive(Debug)]
pub enum Proposed {
    /// Applied and placed.
    Done {
        /// What applying returned.
        outcome: Outcome,
        /// Where it is held.
        attestation: v1::Attestation,
    },
    /// Not proposed: this node does not lead; perhaps that one does.
    NotLeader(Option<u64>),
    /// Not proposed: this node's disk did not take it any more when its turn came.
    Refused(Refusal),
    /// Proposed, but whether it took effect is not known here.
    Unknown(String),
}

struct Request {
    command: Arc<PreparedCommand>,
    reply: oneshot::Sender<Proposed>,
}

/// A handle to a group's proposer.
#[derive(Clone)]
pub struct Proposer {
    requests: mpsc::UnboundedSender<Request>,
    load: Arc<Load>,
}

/// What the proposer does just now.
#[derive(Default)]
struct Load {
    /// Proposals that are not applied yet.
    in_flight: AtomicUsize,
    /// Who wants that nothing is proposed.
    pauses: AtomicUsize,
}

/// Nothing is proposed while it lives: requests are answered as by a node that does not lead.
pub struct Pause(Arc<Load>);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.pauses.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A proposal that is not applied yet.
struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Proposer {
    /// Starts the proposer of a group; its task ends with the last handle.
    #[must_use]
    pub fn start(
        params: &GroupParams,
        raft: Raft,
        state: Arc<GroupState>,
        gate: Arc<Gate>,
        times: Arc<Times>,
    ) -> Self {
        let (requests, queue) = mpsc::unbounded_channel();
        let node_id = params.node_id;
        let (log, room) = (params.log.clone(), params.room.clone());
        let load = Arc::<Load>::default();
        let task = Task { node_id, raft, state, gate, times, log, room, load: load.clone() };
        super::runtime::spawn(task.run(queue));
        Self { requests, load }
    }

    /// Nothing is proposed from now on, until what is returned is dropped.
    #[must_use]
    pub fn pause(&self) -> Pause {
        self.load.pauses.fetch_add(1, Ordering::AcqRel);
        Pause(self.load.clone())
    }

    /// Proposals that are not applied yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.load.in_flight.load(Ordering::Acquire)
    }

    /// Proposes a command and waits for its end. Admission bounds how many wait here.
    pub async fn propose(&self, command: Arc<PreparedCommand>) -> Proposed {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Request { command, reply }).is_err() {
            return Proposed::NotLeader(None);
        }
        answer.await.unwrap_or_else(|_| Proposed::Unknown("the node is stopping".into()))
    }
}

struct Task {
    node_id: u64,
    raft: Raft,
    state: Arc<GroupState>,
    gate: Arc<Gate>,
    times: Arc<Times>,
    load: Arc<Load>,
    log: SegmentLog,
    room: Arc<DiskRoom>,
}

impl Task {
    async fn run(self, mut queue: mpsc::UnboundedReceiver<Request>) {
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                first = queue.recv(), if in_flight.len() < PROPOSALS_IN_FLIGHT_MAX => {
                    let Some(first) = first else { break };
                    if self.load.pauses.load(Ordering::Acquire) > 0 {
                        // Whoever has gone does not hear of it.
                        drop(first.reply.send(Proposed::NotLeader(None)));
                        continue;
                    }
                    in_flight.push(self.send(first, &mut queue));
                }
            }
        }
        while in_flight.next().await.is_some() {}
    }

    /// Takes what is waiting and proposes it. The gathering is done now, the rest in the returned future.
    fn send(
        &self,
        first: Request,
        queue: &mut mpsc::UnboundedReceiver<Request>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let placed = self.gate.placed().known;
        let mut builder = ProposalBuilder::new(ProposalHeader {
            leader: self.node_id,
            leader_clock_us: self.times.recorded_at_us(),
            city_watermark: placed.city,
            geo_watermark: placed.geo,
        });
        let of_regime = self.times.of_regime();
        of_regime.iter().for_each(|command| builder.push_prepared(command));
        let own_commands = of_regime.iter().count();
        let mut requests = Vec::new();
        let mut next = Some(first);
        // More may wait here than the last of the disk has room for. The cluster's own records live from what clients leave.
        let refusal = self.room.ensure(&self.log).err();
        while let Some(request) = next {
            match &refusal {
                // A client that has gone does not hear of it.
                Some(why) if request.command.journal().is_some() => {
                    drop(request.reply.send(Proposed::Refused(why.clone())));
                }
                _ => {
                    builder.push_prepared(&request.command);
                    requests.push(request);
                }
            }
            next = if builder.len_bytes() < PROPOSAL_BYTES_MAX { queue.try_recv().ok() } else { None };
        }
        let proposal = Proposal(builder.finish());
        let is_geo = {
            let ledger = self.state.ledger();
            requests.iter().any(|request| ledger.class_of(&request.command) == Class::Geo)
        };
        // The remote site must not hear of it later than it has to, so this is said before it is proposed.
        let geo_under_way = is_geo.then(|| self.gate.geo_under_way());
        let (raft, state, gate) = (self.raft.clone(), self.state.clone(), self.gate.clone());
        let times = self.times.clone();
        self.load.in_flight.fetch_add(1, Ordering::AcqRel);
        let in_flight = InFlight(self.load.clone());
        async move {
            let _in_flight = in_flight;
            if requests.is_empty() {
                return;
            }
            let answer_all = |requests: Vec<Request>, with: &dyn Fn() -> Proposed| {
                // A client that has gone does not hear of it.
                requests.into_iter().for_each(|request| drop(request.reply.send(with())));
            };
            match write(&raft, proposal, &times).await {
                Ok((term, index, mut applied)) => {
                    applied.outcomes.drain(..own_commands.min(applied.outcomes.len()));
                    hand_over(&state, &gate, (term, index), applied, requests);
                }
                Err(NotDone::NotLeader(leader)) => answer_all(requests, &|| Proposed::NotLeader(leader)),
                Err(NotDone::Unknown(why)) => answer_all(requests, &|| Proposed::Unknown(why.clone())),
            }
            drop(geo_under_way);
        }
    }
}

enum NotDone {
    NotLeader(Option<u64>),
    Unknown(String),
}

/// Writes one proposal and waits until it is applied.
async fn write(raft: &Raft, mut proposal: Proposal, times: &Times) -> Result<(u64, u64, Applied), NotDone> {
    for _ in 0..LEASE_RETRIES_MAX {
        let (responder, answer) = ProgressResponder::<TypeConfig, _>::complete_only();
        let sent = raft.client_write_ff(proposal.clone(), Some(responder)).await;
        if sent.is_err() {
            return Err(NotDone::NotLeader(None));
        }
        match answer.await {
            Ok(Ok(done)) => return Ok((term_of(&done.log_id), done.log_id.index, done.data)),
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) if lease_expired(&forward) => {
                tokio::time::sleep(LEASE_RETRY).await;
                // What a new leader hears from a majority first is how late it is.
                proposal = Proposal(ProposalBuilder::with_clock(&proposal.0, times.recorded_at_us()));
            }
            Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
                return Err(NotDone::NotLeader(forward.leader_id));
            }
            Ok(Err(error)) => return Err(NotDone::Unknown(error.to_string())),
            // openraft drops a responder unsent when it stops.
            Err(_) => return Err(NotDone::Unknown("Raft stopped under the proposal".into())),
        }
    }
    Err(NotDone::NotLeader(None))
}

pub(super) fn lease_expired(forward: &ForwardToLeader<TypeConfig>) -> bool {
    forward.reason == ForwardReason::LeaseExpired
}

/// Gives each request's outcome to the gate, under the class that its journal and the request demand.
fn hand_over(
    state: &GroupState,
    gate: &Gate,
    (term, index): (u64, u64),
    applied: Applied,
    requests: Vec<Request>,
) {
    let (mut city, mut geo) = (Vec::new(), Vec::new());
    {
        let ledger = state.ledger();
        for (outcome, request) in applied.outcomes.into_iter().zip(requests) {
            match ledger.class_of(&request.command) {
                Class::City => city.push((outcome, request.reply)),
                Class::Geo => geo.push((outcome, request.reply)),
            }
        }
    }
    for (class, pairs) in [(Class::City, city), (Class::Geo, geo)] {
        if !pairs.is_empty() {
            gate.hold(term, index, class, Box::new(move |release| answer(pairs, &release)));
        }
    }
}

fn answer(pairs: Vec<(Outcome, oneshot::Sender<Proposed>)>, release: &Release) {
    for (outcome, reply) in pairs {
        let proposed = match release {
            Release::Placed(attestation) => Proposed::Done { outcome, attestation: attestation.clone() },
            Release::Demoted => {
                Proposed::Unknown("leadership was lost before the entry was known to be placed".into())
            }
        };
        // A client that has gone does not hear of it; its key finds the entry.
        drop(reply.send(proposed));
    }
}

/// Whether a read-index error names another leader, and which.
pub(super) fn forward_of<E>(error: &RaftError<TypeConfig, E>) -> Option<u64>
where
    E: openraft::TryAsRef<ForwardToLeader<TypeConfig>>,
{
    match error {
        RaftError::APIError(api) => api.try_as_ref().and_then(|forward| forward.leader_id),
        RaftError::Fatal(_) => None,
    }
}
