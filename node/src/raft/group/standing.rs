//! Asks for votes when nobody leads: [`StandingPolicy`]'s clock and hands.
//!
//! openraft's own election timer stays on behind this one; it knows neither preferences nor closed connections.
//!
//! Invariants: votes are only ever asked for through pre-votes, which change nothing while a majority still hears the leader; what
//! is remembered of a leader's silence ends with its next message; while a request for a vote is being answered (a vote has to be
//! flushed) this node does not stand against it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tercet_proto::topology::Topology;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Group, GroupParams};
use crate::placement::{Rival, Situation, StandingPolicy, Step};
use crate::raft::runtime;

/// When a leader was last heard of, and what has happened since.
pub(super) struct Contact {
    state: Mutex<State>,
    /// Requests for votes that are being answered.
    voting: AtomicUsize,
    changed: Notify,
}

/// Says, while it lives, that a request for a vote is being answered.
pub(super) struct Voting<'a>(&'a Contact);

impl Drop for Voting<'_> {
    fn drop(&mut self) {
        self.0.voting.fetch_sub(1, Ordering::AcqRel);
        self.0.changed.notify_one();
    }
}

#[derive(Clone, Copy)]
struct State {
    heard: Instant,
    /// Who was heard.
    leader: Option<u64>,
    /// Its connection has closed since.
    closed: bool,
    /// For how long the leader had heard of no majority, as it said then.
    without_quorum: Duration,
    /// When this node last voted, or began to stand.
    voted: Option<Instant>,
    votes: u32,
}

impl State {
    fn heard(leader: Option<u64>, without_quorum: Duration) -> Self {
        Self { heard: Instant::now(), leader, closed: false, without_quorum, voted: None, votes: 0 }
    }
}

impl Contact {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State::heard(None, Duration::ZERO));
        Self { state, voting: AtomicUsize::new(0), changed: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A leader's message has been accepted; it has heard of no majority for so long.
    pub(super) fn heard(&self, leader: u64, without_quorum: Duration) {
        *self.lock() = State::heard(Some(leader), without_quorum);
    }

    /// From now on it is waited for a leader: this node has ceased to lead.
    pub(super) fn begin(&self) {
        *self.lock() = State::heard(None, Duration::ZERO);
    }

    /// A request for a vote has come; keep this until it is known whether it is granted.
    pub(super) fn voting(&self) -> Voting<'_> {
        self.voting.fetch_add(1, Ordering::AcqRel);
        Voting(self)
    }

    /// This node has voted.
    pub(super) fn voted(&self) {
        let mut state = self.lock();
        state.voted = Some(Instant::now());
        state.votes = state.votes.saturating_add(1);
    }

    fn closed(&self, leader: u64) {
        let mut state = self.lock();
        if state.leader == Some(leader) {
            if !state.closed {
                tracing::info!(leader, "the leader's connection has closed");
            }
            state.closed = true;
            self.changed.notify_one();
        }
    }

    /// Since when nothing has been heard.
    pub(super) fn silence(&self) -> Duration {
        self.lock().heard.elapsed()
    }

    /// For how long nothing has been heard of a leader that has a majority.
    pub(super) fn without_quorum(&self) -> Duration {
        let state = *self.lock();
        state.heard.elapsed().saturating_add(state.without_quorum)
    }

    fn situation(&self) -> (Situation, Option<u64>) {
        let state = *self.lock();
        let is_voting = self.voting.load(Ordering::Acquire) > 0;
        let voted = state.voted.map(|at| at.elapsed());
        let situation = Situation {
            silence: state.heard.elapsed(),
            closed: state.closed,
            election: if is_voting { Some(Duration::ZERO) } else { voted },
            elections: state.votes,
        };
        (situation, state.leader)
    }
}

impl GroupParams {
    /// These parameters for one group of the topology.
    #[must_use]
    pub fn of_group(&self, group: u32, topology: &Topology) -> Self {
        let zone_of = |id| topology.node_by_id(id).map_or("", |node| node.zone.as_str());
        let own_zone = zone_of(self.node_id);
        let one_way = |zone| {
            let round_trip_ms = topology.rtt_ms(zone, own_zone).unwrap_or_else(|| topology.largest_rtt_ms());
            Duration::from_secs_f64(round_trip_ms / 2e3)
        };
        let others = self.known.iter().filter(|voter| voter.node_id != self.node_id);
        let rivals = others.map(|voter| Rival {
            node_id: voter.node_id,
            rank: topology.leader_rank(group, &voter.zone),
            one_way: one_way(&voter.zone),
        });
        Self { group, rank: topology.leader_rank(group, own_zone), rivals: rivals.collect(), ..self.clone() }
    }
}

impl Group {
    /// An append stream of `leader` has ended.
    pub fn stream_closed(&self, leader: u64) {
        self.contact.closed(leader);
    }

    /// Stands for election whenever the policy says so, until Raft stops.
    pub(super) fn stand_when_needed(self: Arc<Self>) {
        let lease = Duration::from_millis(self.params.timing.election_max_ms);
        let params = &self.params;
        let waiting = StandingPolicy::new(lease, params.node_id, params.rank, &[]);
        runtime::spawn(async move {
            tokio::select! {
                biased;
                _ = self.given_up() => {}
                () = self.stand(&waiting, lease) => {}
            }
        });
    }

    /// The policy among those who vote now.
    fn standing_policy(&self, lease: Duration) -> StandingPolicy {
        let params = &self.params;
        let voters: BTreeSet<u64> = self.voting().into_iter().flatten().map(|voter| voter.node_id).collect();
        let rivals: Vec<Rival> =
            params.rivals.iter().filter(|rival| voters.contains(&rival.node_id)).copied().collect();
        StandingPolicy::new(lease, params.node_id, params.rank, &rivals)
    }

    async fn stand(&self, waiting: &StandingPolicy, lease: Duration) {
        let mut own_term = 0;
        loop {
            self.until_suspicious(waiting, lease).await;
            let policy = &self.standing_policy(lease);
            let (_, lost) = self.contact.situation();
            // Who does not answer is not waited for; the lease has to run out in any case.
            let asking = self.silent_among(policy.better(lost).collect(), lease / 2);
            let mut asking = std::pin::pin!(asking);
            let mut silent = None;
            let mut has_stood = false;
            while self.is_suspicious(policy) {
                let (now, _) = self.contact.situation();
                let pause = match policy.step(now, lost, silent.as_ref().unwrap_or(&BTreeSet::new())) {
                    Step::Wait(pause) => pause,
                    Step::Stand(pause) => {
                        if !std::mem::replace(&mut has_stood, true) {
                            let silence_ms = u64::try_from(now.silence.as_millis()).unwrap_or(u64::MAX);
                            tracing::info!(
                                group = self.params.group,
                                silence_ms,
                                now.closed,
                                "asks for pre-votes"
                            );
                        }
                        if self.raft.trigger().elect(true).await.is_err() {
                            return std::future::pending().await;
                        }
                        pause
                    }
                };
                tokio::select! {
                    biased;
                    answered = &mut asking, if silent.is_none() => silent = Some(answered),
                    () = tokio::time::sleep(pause) => {}
                    () = self.contact.changed.notified() => {}
                }
                self.notice_own_election(&mut own_term);
            }
        }
    }

    /// openraft goes from granted pre-votes to an election by itself: that one is left its time, too.
    fn notice_own_election(&self, last: &mut u64) {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let term = seen.vote.leader_id.term;
        if seen.state == ServerState::Candidate && *last != term {
            *last = term;
            self.contact.voted();
        }
    }

    fn is_suspicious(&self, policy: &StandingPolicy) -> bool {
        let (now, _) = self.contact.situation();
        !self.is_leader() && !self.is_leaving() && now.silence >= policy.ask_after(now.closed)
    }

    /// Waits until the leader's connection has closed or nothing has been heard for a while.
    async fn until_suspicious(&self, policy: &StandingPolicy, lease: Duration) {
        while !self.is_suspicious(policy) {
            let (now, _) = self.contact.situation();
            let pause = if self.is_leader() || self.is_leaving() {
                lease
            } else {
                policy.ask_after(now.closed).saturating_sub(now.silence)
            };
            tokio::select! {
                biased;
                () = tokio::time::sleep(pause.max(Duration::from_millis(1))) => {}
                () = self.contact.changed.notified() => {}
            }
        }
    }

    /// Those of `nodes` that do not answer within `limit`.
    async fn silent_among(&self, nodes: Vec<u64>, limit: Duration) -> BTreeSet<u64> {
        let asked = nodes.into_iter().map(|node| async move {
            let answered =
                tokio::time::timeout(limit, self.params.peers.answers(node)).await.unwrap_or(false);
            (!answered).then_some(node)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}
