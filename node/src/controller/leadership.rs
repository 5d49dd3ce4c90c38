//! Follows who leads a group, and moves leadership to where it is preferred.
//!
//! What to do is [`LeadershipPolicy`]'s; here are its clock and its hands. Before leadership moves, the node that shall have it
//! is asked whom it reaches: one that sees less of the cluster than the leader does would lose leadership again at once.
//!
//! A leader whose disk stands still goes at once (decision 0042): nothing that it proposes can become durable here, and what waits
//! is bounded. As long as it does, it is fit for nothing (`Group::candidates` of whoever leads), and then it has to be steady anew.
//!
//! Invariant: only the leader moves leadership, and only to a node that has just answered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tercet_proto::v1;
use tokio::time::{Instant, MissedTickBehavior};

use crate::node::Node;
use crate::placement::{Candidate, LeadershipPolicy, refuge};
use crate::raft::group::Group;

/// Between two looks at the voters.
const LOOK: Duration = Duration::from_millis(250);
/// How long a node may take to say whom it reaches: it waits for those that do not answer.
const LOOK_AROUND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a transfer may take.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// Reports every change of a group's leader, and moves leadership while this node has it.
pub(super) async fn keep(node: Arc<Node>, group: u32) {
    let mut keeper = Keeper {
        policy: LeadershipPolicy::new(node.topology.leader_steady()),
        origin: Instant::now(),
        last: None,
        node,
    };
    loop {
        let running = keeper.node.groups.when_running(group).await;
        let node = keeper.node.clone();
        tokio::select! {
            () = keeper.follow(&running) => {}
            () = node.groups.until_replaced(&running) => {}
        }
    }
}

struct Keeper {
    node: Arc<Node>,
    policy: LeadershipPolicy,
    origin: Instant,
    /// Term and leader that were reported last.
    last: Option<(u64, Option<u64>)>,
}

impl Keeper {
    /// Never completes.
    async fn follow(&mut self, group: &Group) {
        let mut seen = group.leadership();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = *seen.borrow_and_update();
            self.report(group, now.term, now.leader);
            tokio::select! {
                changed = seen.changed() => if changed.is_err() {
                    return std::future::pending().await;
                },
                _ = looks.tick() => if now.leads {
                    self.look(group).await;
                }
            }
        }
    }

    fn report(&mut self, group: &Group, term: u64, leader: Option<u64>) {
        if self.last == Some((term, leader)) {
            return;
        }
        self.last = Some((term, leader));
        let who = leader.map_or("nobody".into(), |id| self.node.name_of(id));
        self.node.event(group.id(), "leader_changed", format!("leader is {who} in term {term}"));
        if leader.is_some() {
            self.policy.leader_changed(self.origin.elapsed());
        }
    }

    async fn look(&mut self, group: &Group) {
        if let Some(still) = self.node.room.stands_still() {
            return self.leave(group, still).await;
        }
        let node = self.node.clone();
        if *node.leaving.borrow() {
            // It gives leadership away as a whole.
            return;
        }
        let own = node.identity.node_id();
        let candidates = self.candidates(group);
        let Some(to) = self.policy.look(self.origin.elapsed(), own, &candidates) else { return };
        if let Err(refusal) = group.may_transfer(to) {
            tracing::debug!(to, %refusal, "leadership does not move yet");
            return;
        }
        if let Err(why) = self.reaches_as_much(to, &candidates).await {
            tracing::info!(group = group.id(), to = node.name_of(to), why, "leadership does not move yet");
            self.policy.doubt(to);
            return;
        }
        let name = node.name_of(to);
        node.event(
            group.id(),
            "leader_moving",
            format!("leadership goes to {name}, whose zone is preferred"),
        );
        if let Err(refusal) = group.transfer_leader(to, TRANSFER_TIMEOUT).await {
            self.policy.transfer_failed(self.origin.elapsed());
            node.event(group.id(), "leader_not_moved", format!("{name} does not lead: {refusal}"));
        }
    }

    fn candidates(&self, group: &Group) -> Vec<Candidate> {
        let topology = &self.node.topology;
        group.candidates(|id| {
            let zone = topology.node_by_id(id).map_or("", |entry| entry.zone.as_str());
            topology.leader_rank(group.id(), zone)
        })
    }

    /// This node's disk stands still: whoever is best fit leads from now on. It has to be nobody's choice for good: its disk may
    /// move again while all others are gone. Until somebody is fit this node goes on, with what it takes bounded.
    async fn leave(&mut self, group: &Group, still: Duration) {
        let Some(to) = refuge(self.node.identity.node_id(), &self.candidates(group)) else { return };
        let name = self.node.name_of(to);
        let why = format!("no write of this node's disk has finished for {} ms", still.as_millis());
        self.node.event(group.id(), "leader_moving", format!("leadership goes to {name}: {why}"));
        if let Err(refusal) = group.transfer_leader(to, TRANSFER_TIMEOUT).await {
            self.node.event(group.id(), "leader_not_moved", format!("{name} does not lead: {refusal}"));
        }
    }

    /// Whether `to` reaches every voter that this leader reaches.
    async fn reaches_as_much(&self, to: u64, candidates: &[Candidate]) -> Result<(), String> {
        let peers = &self.node.peers;
        let mut client = peers.client(to).map_err(|error| error.to_string())?;
        let request =
            v1::HelloRequest { header: Some(peers.header(to, 0)), look_around: true, ..Default::default() };
        let answer = tokio::time::timeout(LOOK_AROUND_TIMEOUT, client.hello(request)).await;
        let answer = answer.map_err(|_| "no answer".to_owned())?.map_err(|status| status.to_string())?;
        let reached: BTreeSet<u64> = answer.into_inner().in_reach.into_iter().collect();
        let missing: Vec<String> = candidates
            .iter()
            .filter(|candidate| candidate.fit && !reached.contains(&candidate.node_id))
            .map(|candidate| self.node.name_of(candidate.node_id))
            .collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("it does not reach {}", missing.join(", "))) }
    }
}
