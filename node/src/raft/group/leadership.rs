//! Who leads a group: followed for the gate and for others, and moved on purpose.
//!
//! Invariants: the gate hears of every change of leadership, and nothing else makes it work; leadership is only moved to a
//! voter that is in contact and caught up; nobody is named as the leader who has not been heard of lately.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tokio::time::Instant;

use crate::raft::runtime::{self, watch};

use super::{ENTRIES_PER_REQUEST_MAX, Group};
use crate::placement::{Candidate, Class, Electorate};

/// While leadership moves nothing new is proposed, for so long at most: a transfer that takes longer may fail.
const QUIET: Duration = Duration::from_millis(200);
/// Between two looks whether all that was proposed is answered.
const ANSWERED_LOOK: Duration = Duration::from_millis(1);

/// Without word of a leader for so long, and for so many longest waits for an election, there will be none soon: a majority is gone.
const LEADERLESS_AFTER: Duration = Duration::from_secs(3);
const LEADERLESS_ELECTIONS: u32 = 6;
/// How long a node that has not been heard of may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_millis(500);

/// Who leads, as this node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term of this node's vote.
    pub term: u64,
    /// The leader of that term, when known.
    pub leader: Option<u64>,
    /// Whether it is this node.
    pub leads: bool,
}

impl Group {
    /// Tells the gate when this node begins and ceases to lead.
    pub(super) fn follow_leadership(self: Arc<Self>) {
        runtime::spawn(async move {
            let mut metrics = self.raft.server_metrics();
            let (mut told, mut voters) = (None, Electorate::default());
            loop {
                let now = {
                    let seen = metrics.borrow_and_update();
                    Leadership {
                        term: seen.vote.leader_id.term,
                        leader: seen.current_leader,
                        leads: seen.state == ServerState::Leader,
                    }
                };
                // The metrics change with every entry; leadership does not.
                self.follow_members(&mut voters);
                let before = told.replace(now);
                if before != Some(now) {
                    if before.is_some_and(|before| before.leads) && !now.leads {
                        self.contact.begin();
                    }
                    if now.leads {
                        self.gate.lead(now.term);
                    } else {
                        let led = before.filter(|before| before.leads).map_or(0, |before| before.term + 1);
                        self.gate.demote(now.term.max(led));
                    }
                    self.leadership.send_replace(now);
                }
                if metrics.changed().await.is_err() {
                    break;
                }
            }
            self.gate.demote(u64::MAX);
            let why = match &self.raft.metrics().borrow_watched().running_state {
                Ok(()) => "it was stopped".to_owned(),
                Err(fatal) => fatal.to_string(),
            };
            self.stopped.send_replace(Some(why));
        });
    }

    /// Completes when Raft has stopped, with the reason.
    pub async fn given_up(&self) -> String {
        let mut stopped = self.stopped.subscribe();
        let why = stopped.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            None => std::future::pending().await,
        }
    }

    /// The term that this node leads now.
    #[must_use]
    pub fn leading_term(&self) -> Option<u64> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        (seen.state == ServerState::Leader).then_some(seen.vote.leader_id.term)
    }

    /// The term of this node's vote; right after the start it may not be known yet: 0.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raft.server_metrics().borrow_watched().vote.leader_id.term
    }

    /// Moves leadership to whoever is nearest to caught up among the voters in contact, and says to whom.
    ///
    /// # Errors
    /// TRANSFER_REFUSED when nobody takes over in time.
    pub async fn hand_over(&self, timeout: Duration) -> Result<u64, Refusal> {
        let limit = Duration::from_millis(self.params.timing.election_max_ms);
        let in_contact = self.gate.replicas().into_iter().filter(|(node, _, contact)| {
            *node != self.params.node_id && contact.is_some_and(|age| age <= limit)
        });
        let Some((node, ..)) = in_contact.max_by_key(|(_, matched, _)| *matched) else {
            return Err(Refusal::new(Reason::TransferRefused, "to", "no other voter is in contact"));
        };
        self.transfer_leader(node, timeout).await.map(|_| node)
    }

    /// This node is about to stop: from now on it does not stand for election, and nobody moves leadership to it.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
        self.raft.runtime_config().elect(false);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Gives leadership away before this node stops, to the best of `candidates` that takes it: caught up and in contact, of the most
    /// preferred zone, nearest to this leader's log. True: another node leads.
    pub async fn give_away(&self, rank: impl Fn(u64) -> u32, limit: Duration) -> bool {
        let own = self.params.node_id;
        let lost_after = Duration::from_millis(self.params.timing.election_max_ms.saturating_mul(3));
        if self.gate.without_quorum().is_none_or(|lost| lost >= lost_after) {
            // Nobody could be elected.
            return !self.is_leader();
        }
        let mut candidates: Vec<Candidate> = self.candidates(rank);
        candidates.retain(|candidate| candidate.fit && candidate.node_id != own);
        candidates.sort_by_key(|candidate| (candidate.preference, candidate.node_id));
        let Some(_quiet) = candidates.first().map(|_| self.proposer.pause()) else {
            return !self.is_leader();
        };
        let deadline = Instant::now() + limit;
        self.until_answered(limit / 4).await;
        for candidate in candidates {
            if !self.is_leader() || Instant::now() >= deadline {
                break;
            }
            if self.may_transfer(candidate.node_id).is_err()
                || self.raft.trigger().transfer_leader(candidate.node_id).await.is_err()
            {
                continue;
            }
            // From here on this leader neither proposes nor sends heartbeats: whoever is elected is right.
            let mut leadership = self.leadership.subscribe();
            let moved = leadership.wait_for(|now| now.leader.is_some_and(|leader| leader != own));
            return tokio::time::timeout_at(deadline, moved).await.is_ok_and(|moved| moved.is_ok());
        }
        !self.is_leader()
    }

    /// Waits, within reason, until everything that was proposed is answered: whoever loses leadership sooner answers it as unknown.
    async fn until_answered(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let is_idle =
            || self.proposer.in_flight() == 0 && Class::ALL.iter().all(|class| self.gate.held(*class) == 0);
        while !is_idle() && Instant::now() < deadline {
            tokio::time::sleep(ANSWERED_LOOK).await;
        }
    }

    /// Another node leads `term`. A leader whose disk stands still hears so before its Raft can say so: that waits until its vote
    /// for the other is durable. Meanwhile requests go where they are answered.
    pub(super) fn led_elsewhere(&self, term: u64, leader: u64) {
        let is_news = |known: &Leadership| {
            known.leads && known.term < term || known.term == term && known.leader.is_none()
        };
        // Every message of a leader says so; the first one is news.
        if !is_news(&self.leadership.borrow()) {
            return;
        }
        self.leadership.send_if_modified(|known| {
            let changed = is_news(known);
            if changed {
                *known = Leadership { term, leader: Some(leader), leads: false };
            }
            changed
        });
    }

    /// What Raft says, unless a later leader has been heard of.
    fn known(&self) -> Leadership {
        let heard = *self.leadership.borrow();
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let term = seen.vote.leader_id.term;
        let knows_less = seen.current_leader.is_none() && !heard.leads;
        if heard.term > term || heard.term == term && knows_less {
            return heard;
        }
        Leadership { term, leader: seen.current_leader, leads: seen.state == ServerState::Leader }
    }

    /// The leader that this node knows and has heard of lately. Raft goes on naming one that is dead until another is elected.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.last_leader().filter(|leader| self.is_heard(*leader))
    }

    /// The leader of this node's term, heard of or not: whom to ask.
    #[must_use]
    pub fn last_leader(&self) -> Option<u64> {
        self.known().leader
    }

    /// Whether this node is `leader`, or has heard of it lately.
    pub(super) fn is_heard(&self, leader: u64) -> bool {
        let lately = Duration::from_millis(self.params.timing.election_max_ms.saturating_mul(3));
        leader == self.params.node_id || self.contact.silence() < lately
    }

    /// Whether nothing has been heard of any leader for longer than an election takes: whoever waits for one waits in vain.
    #[must_use]
    pub fn is_leaderless(&self) -> bool {
        let election = Duration::from_millis(self.params.timing.election_max_ms);
        self.out_of_contact() >= LEADERLESS_AFTER.max(election.saturating_mul(LEADERLESS_ELECTIONS))
    }

    /// Whether a node answers now. A follower may be deaf: of a leader that is there, but cannot reach it, it hears nothing.
    pub async fn answers(&self, node: u64) -> bool {
        tokio::time::timeout(ANSWER_LIMIT, self.params.peers.answers(node)).await.unwrap_or(false)
    }

    /// For how long nothing has been heard of a leader; zero on the leader.
    #[must_use]
    pub fn out_of_contact(&self) -> Duration {
        if self.is_leader() {
            return Duration::ZERO;
        }
        self.contact.silence()
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.known().leads
    }

    /// Completes when somebody else than `leader` leads.
    pub async fn led_by_another(&self, leader: u64) {
        let mut leadership = self.leadership.subscribe();
        let another = leadership.wait_for(|now| now.leader.is_some_and(|now| now != leader));
        if another.await.is_err() {
            std::future::pending().await
        }
    }

    /// Who leads, followed.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    /// The voters as this leader sees them, and whether they are up, caught up and take entries; empty where it does not lead. `rank` is a
    /// node's rank in this group.
    #[must_use]
    pub fn candidates(&self, rank: impl Fn(u64) -> u32) -> Vec<Candidate> {
        let last = self.last_index();
        // A node that is late once is not gone.
        let limit = Duration::from_millis(self.params.timing.election_max_ms.saturating_mul(3));
        let (refusals, clocks) = (self.gate.refusals(), self.gate.clocks());
        let fit = |node, matched, contact: Option<Duration>| {
            node == self.params.node_id
                || contact.is_some_and(|age| age <= limit)
                    && last.saturating_sub(matched) <= ENTRIES_PER_REQUEST_MAX
                    && !refusals.contains_key(&node)
        };
        let replicas = self.gate.replicas().into_iter();
        replicas
            .map(|(node_id, matched, contact)| Candidate {
                node_id,
                // Whoever leads with a clock that is off is preferred to nobody.
                preference: if clocks.is_off(node_id) { u32::MAX } else { rank(node_id) },
                fit: fit(node_id, matched, contact)
                    && (node_id == self.params.node_id || !clocks.is_off(node_id)),
            })
            .collect()
    }

    pub(super) fn last_index(&self) -> u64 {
        self.params.log.state(self.params.group).last.map_or(0, |point| point.index)
    }

    /// Whether leadership can be moved to `to` now: it is a voter, in contact and caught up.
    ///
    /// # Errors
    /// TRANSFER_REFUSED with the reason.
    pub fn may_transfer(&self, to: u64) -> Result<(), Refusal> {
        let refuse = |why: String| Err(Refusal::new(Reason::TransferRefused, "to", why));
        match self.gate.replicas().into_iter().find(|(node, ..)| *node == to) {
            None => refuse("it is not a voter of this group".into()),
            Some((_, _, None)) => refuse("it has not answered in this term".into()),
            Some((_, matched, Some(contact))) => {
                let limit = Duration::from_millis(self.params.timing.election_max_ms);
                if contact > limit {
                    return refuse(format!("it has not answered for {} ms", contact.as_millis()));
                }
                let behind = self.last_index().saturating_sub(matched);
                if behind > ENTRIES_PER_REQUEST_MAX {
                    return refuse(format!("it is {behind} entries behind"));
                }
                Ok(())
            }
        }
    }

    /// Moves leadership to a voter that is in contact and caught up, and waits until it leads.
    ///
    /// # Errors
    /// TRANSFER_REFUSED with the reason.
    pub async fn transfer_leader(&self, to: u64, timeout: Duration) -> Result<u64, Refusal> {
        let refuse = |why: String| Refusal::new(Reason::TransferRefused, "to", why);
        if to == self.params.node_id && self.is_leader() {
            return Ok(self.raft.server_metrics().borrow_watched().vote.leader_id.term);
        }
        self.may_transfer(to)?;
        // What was proposed is answered first, and nothing new is: it waits for the next leader instead of ending as unknown.
        let quiet = self.proposer.pause();
        self.until_answered(QUIET / 2).await;
        self.raft.trigger().transfer_leader(to).await.map_err(|error| refuse(error.to_string()))?;
        let mut leadership = self.leadership.subscribe();
        let moved = async {
            let moved = leadership.wait_for(|now| now.leader == Some(to));
            moved.await.map(|now| now.term)
        };
        let mut moved = std::pin::pin!(tokio::time::timeout(timeout, moved));
        let soon = tokio::time::timeout(QUIET, moved.as_mut()).await;
        drop(quiet);
        let moved = match soon {
            Ok(moved) => moved,
            Err(_) => moved.await,
        };
        match moved {
            Ok(Ok(term)) => Ok(term),
            _ => Err(refuse("it did not take over in time".into())),
        }
    }
}
