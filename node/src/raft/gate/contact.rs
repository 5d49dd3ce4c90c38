//! Who has answered the leader, and when.
//!
//! Invariants: contact is counted per term; a new leader has heard of nobody yet, which is not the same as having lost them;
//! a class is only said to be out of reach when contact is known to be lost, or a follower says that it takes no entries: one
//! that answers and takes nothing is as far away as one that does not answer.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Gate;
use crate::placement::{
    Class, Clocks, Offset, Reading, Voter, is_reachable, is_spare, reachable, stands_for_its_site,
};

/// A follower that has answered within this time, or has nothing to answer, is prompt.
const PROMPT: Duration = Duration::from_millis(10);
/// So much of what a follower says of itself is kept.
const REFUSAL_CHARS_MAX: usize = 256;

/// The newest answer of one node.
#[derive(Clone, Copy)]
struct Contact {
    at: Instant,
    at_us: i64,
    /// The highest index that it has acknowledged in this term, and when that was counted.
    acked: u64,
    acked_us: i64,
    /// No connection could be had since.
    is_lost: bool,
}

/// Answers in one term.
pub(super) struct Contacts {
    since: Instant,
    by_node: BTreeMap<u64, Contact>,
    /// Nodes whose last answer said that they take no entries, and why.
    refusing: BTreeMap<u64, String>,
}

impl Contacts {
    pub(super) fn new(since: Instant) -> Self {
        Self { since, by_node: BTreeMap::new(), refusing: BTreeMap::new() }
    }

    pub(super) fn answered(&mut self, node: u64, at: Instant, at_us: i64, index: Option<u64>) {
        let known = self.by_node.entry(node).or_insert(Contact {
            at,
            at_us,
            acked: 0,
            acked_us: at_us,
            is_lost: false,
        });
        (known.at, known.at_us, known.is_lost) = (at, at_us, false);
        // An answer to a heartbeat says again that it holds everything up to there.
        if index.is_some_and(|index| index >= known.acked) {
            (known.acked, known.acked_us) = (index.unwrap_or(0), at_us);
        }
    }

    pub(super) fn lost(&mut self, node: u64) {
        if let Some(known) = self.by_node.get_mut(&node) {
            known.is_lost = true;
        }
    }

    /// Notes whether a node takes entries. True if that is news.
    fn takes(&mut self, node: u64, why_not: &str) -> bool {
        if why_not.is_empty() {
            return self.refusing.remove(&node).is_some();
        }
        self.refusing.insert(node, why_not.chars().take(REFUSAL_CHARS_MAX).collect()).is_none()
    }

    /// What is proposed now may count on the node: it has answered lately, or it is early in the term, and it takes entries.
    fn may_count(&self, node: u64, lost_after: Duration, now: Instant) -> bool {
        !self.refusing.contains_key(&node) && self.may_be_there(node, lost_after, now)
    }

    /// It has answered lately, or it is early in the term: a new leader has heard of nobody yet.
    fn may_be_there(&self, node: u64, lost_after: Duration, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < lost_after;
        match self.by_node.get(&node) {
            Some(contact) => !contact.is_lost && is_recent(contact.at),
            None => is_recent(self.since),
        }
    }

    fn last(&self, node: u64) -> Option<Instant> {
        self.by_node.get(&node).map(|contact| contact.at)
    }
}

/// What a leader tells a remote node, so that it can prove something after its city's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProofPart {
    /// The leader's time of its last acknowledgement by a quorum; 0: none in this term.
    pub quorum_us: i64,
    /// The newest acknowledgement of the addressed node that the leader has counted, and when; or, if earlier, since when the
    /// oldest reply of class `geo` waits: what degrades the regime is its age, and a node that answers can still lag.
    pub echoed: (u64, i64),
    /// The highest index that was acknowledged as `geo`.
    pub geo_acked: u64,
    /// Whether the leader may acknowledge `geo` as `city` by itself, and after how long.
    pub adaptive: bool,
    /// See `adaptive`.
    pub degrade_after_ms: u64,
    /// The regime record under which it does.
    pub degraded_since: Option<u64>,
}

impl Gate {
    /// Whether `class` can be reached with the nodes that are in contact: with the voters, and, while they change, with those of
    /// before as well, since nothing is committed without either.
    ///
    /// # Errors
    /// What is missing, for PLACEMENT_UNREACHABLE.
    pub fn reachable(&self, class: Class) -> Result<(), String> {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return Ok(()) };
        let (lost_after, now) = (self.contact_lost_after, Instant::now());
        let may_count = |node| node == self.node_id || leading.contacts.may_count(node, lost_after, now);
        let halves = [&inner.before, &inner.voters];
        halves.into_iter().filter(|half| !half.is_empty()).try_for_each(|half| {
            if is_reachable(class, half, may_count) {
                return Ok(());
            }
            let nodes = half.iter().map(|voter| voter.node_id);
            reachable(class, half, &nodes.filter(|node| may_count(*node)).collect()).map_err(|missing| {
                let refusing = half.iter().filter_map(|voter| leading.contacts.refusing.get(&voter.node_id));
                refusing.fold(missing, |missing, why| format!("{missing}; {why}"))
            })
        })?;
        match inner.unheld_sites.as_slice() {
            [site, ..] if class == Class::Geo => {
                Err(format!("class geo cannot be reached: nobody votes in site {site}"))
            }
            _ => Ok(()),
        }
    }

    /// A follower's answer in `term` says why it takes no entries; empty: it takes them.
    pub fn takes(&self, term: u64, node: u64, why_not: &str) {
        // Every answer says it, and hardly ever that it does not.
        if why_not.is_empty() && !self.any_refusing.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.inner();
        let Some(leading) = inner.leading.as_mut().filter(|leading| leading.term == term) else { return };
        if leading.contacts.takes(node, why_not) {
            tracing::warn!(group = self.group, node, why_not, "whether a follower takes entries has changed");
        }
        self.any_refusing.store(!leading.contacts.refusing.is_empty(), Ordering::Release);
    }

    /// The nodes whose last answer to this leader said that they take no entries, and why.
    #[must_use]
    pub fn refusals(&self) -> BTreeMap<u64, String> {
        self.inner().leading.as_ref().map(|leading| leading.contacts.refusing.clone()).unwrap_or_default()
    }

    /// What the leader knows of each voter: (node, matched index, time since the last answer). Empty on a follower.
    #[must_use]
    pub fn replicas(&self) -> Vec<(u64, u64, Option<Duration>)> {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return Vec::new() };
        inner
            .voters
            .iter()
            .map(|voter| {
                let node_id = voter.node_id;
                let matched = leading.acks.by_node().get(&node_id).copied().unwrap_or(0);
                let contact = leading.contacts.last(node_id).map(|at| at.elapsed());
                let own = (node_id == self.node_id).then_some(Duration::ZERO);
                (node_id, matched, contact.or(own))
            })
            .collect()
    }

    /// Whether what is under way reaches its classes without this follower's answer, by others that answer promptly.
    #[must_use]
    pub fn is_spare(&self, target: u64) -> bool {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return false };
        let acked = |node: u64| leading.acks.by_node().get(&node).copied().unwrap_or(0);
        let own = acked(self.node_id);
        let answered = |node: u64| leading.contacts.last(node).is_some_and(|at| at.elapsed() < PROMPT);
        let takes = |node: u64| !leading.contacts.refusing.contains_key(&node);
        let is_prompt = |node| acked(node) >= own || answered(node) && takes(node);
        let geo_needs_it =
            self.waits_for_geo() && stands_for_its_site(&inner.voters, self.node_id, target, is_prompt);
        !geo_needs_it && is_spare(&inner.voters, self.node_id, target, is_prompt)
    }

    /// A node has answered after `round_trip`, and its clock showed this in between.
    pub fn clock_of(&self, node: u64, theirs_us: i64, round_trip: Duration) {
        let reading = Reading::taken(theirs_us, round_trip);
        self.inner().clocks.add(self.origin.elapsed(), node, reading);
    }

    /// How far a node's clock is from this one's, as this node has measured it while it led.
    #[must_use]
    pub fn offset_of(&self, node: u64) -> Option<Offset> {
        self.inner().clocks.offset(self.origin.elapsed(), (self.clock)(), node)
    }

    /// What this leader knows of the voters' clocks; nothing but its own on a follower.
    #[must_use]
    pub fn clocks(&self) -> Clocks {
        let inner = self.inner();
        let own_us = (self.clock)();
        if inner.leading.is_none() {
            return Clocks::alone(own_us);
        }
        let voters = inner.voters.iter().map(|voter| voter.node_id);
        inner.clocks.clocks(self.origin.elapsed(), (self.node_id, own_us), voters)
    }

    /// For how long no majority of the voters has answered this leader, this node included where it votes. None: it does not lead.
    #[must_use]
    pub fn without_quorum(&self) -> Option<Duration> {
        let inner = self.inner();
        let leading = inner.leading.as_ref()?;
        let now = Instant::now();
        let halves = [&inner.before, &inner.voters].into_iter().filter(|half| !half.is_empty());
        halves
            .map(|half| now.saturating_duration_since(quorum_at(half, self.node_id, now, &leading.contacts)))
            .max()
    }

    /// What to tell `target` if it stands in another site than this node. None: it does not, or this node does not lead.
    #[must_use]
    pub fn proof_for(&self, target: u64) -> Option<ProofPart> {
        let inner = self.inner();
        let leading = inner.leading.as_ref()?;
        let site =
            |node: u64| inner.voters.iter().find(|voter| voter.node_id == node).map(|v| v.site.as_str());
        if site(target)? == site(self.node_id)? {
            return None;
        }
        let oldest_us = inner.queue.first(Class::Geo).map_or(i64::MAX, |waiting| waiting.since_us);
        let echoed = leading.contacts.by_node.get(&target);
        Some(ProofPart {
            quorum_us: quorum_us(&inner.voters, self.node_id, (self.clock)(), &leading.contacts),
            echoed: echoed.map_or((0, 0), |contact| (contact.acked, contact.acked_us.min(oldest_us))),
            geo_acked: inner.geo_acked,
            adaptive: self.policy.adaptive,
            degrade_after_ms: self.policy.degrade_after_ms,
            degraded_since: self.placed().degraded_since(),
        })
    }
}

/// The newest time since which a majority of the voters has answered; who never has, answered when the term began.
fn quorum_at(voters: &[Voter], own: u64, now: Instant, contacts: &Contacts) -> Instant {
    let answered = |node| if node == own { now } else { contacts.last(node).unwrap_or(contacts.since) };
    let mut newest_first: Vec<Instant> = voters.iter().map(|voter| answered(voter.node_id)).collect();
    newest_first.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
    newest_first.get(voters.len() / 2).copied().unwrap_or(now)
}

/// The newest time at which a majority of the voters, the leader among them, had all answered since.
fn quorum_us(voters: &[Voter], own: u64, now_us: i64, contacts: &Contacts) -> i64 {
    let mut newest_first: Vec<i64> = voters
        .iter()
        .map(|voter| {
            let last = contacts.by_node.get(&voter.node_id).map_or(0, |contact| contact.at_us);
            if voter.node_id == own { now_us } else { last }
        })
        .collect();
    newest_first.sort_unstable_by_key(|at| std::cmp::Reverse(*at));
    newest_first.get(voters.len() / 2).copied().unwrap_or(0)
}
