//! The placement gate of one group: it stands behind commit and holds replies and reads until their entries are placed.
//!
//! Invariants: nothing is released before the watermark covers its index; on demotion every held reply is released as unknown;
//! acknowledgements of another term count for nothing; the watermark never goes back, for what is placed stays committed.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tercet_proto::v1;
use tercet_storage::SegmentLog;
use tokio::sync::watch;

use crate::placement::{Acks, Class, ReplyQueue, Voter, holders, is_spare, reachable};

/// A follower that has answered within this time, or has nothing to answer, is prompt.
const PROMPT: Duration = Duration::from_millis(10);

/// What a held reply learns when it is released.
#[derive(Clone, Debug)]
pub enum Release {
    /// Placed as its class demands, at least in these zones.
    Placed(v1::Attestation),
    /// This node stopped leading first; the outcome is not known here.
    Demoted,
}

/// A reply that waits for its entries to be placed.
pub type Held = Box<dyn FnOnce(Release) + Send>;

struct Leading {
    term: u64,
    since: Instant,
    acks: Acks,
    contact: BTreeMap<u64, Instant>,
}

struct Inner {
    leading: Option<Leading>,
    queue: ReplyQueue<Held>,
}

/// The gate of one group on one node.
pub struct Gate {
    node_id: u64,
    group: u32,
    log: SegmentLog,
    voters: Vec<Voter>,
    contact_lost_after: Duration,
    inner: Mutex<Inner>,
    /// The highest index that this node knows to be placed as class `city` demands.
    placed: watch::Sender<u64>,
}

impl Gate {
    /// A gate with `floor` known to be placed. A follower that has not answered for `contact_lost_after` is out of contact.
    #[must_use]
    pub fn new(
        node_id: u64,
        group: u32,
        log: SegmentLog,
        voters: Vec<Voter>,
        floor: u64,
        contact_lost_after: Duration,
    ) -> Self {
        Self {
            node_id,
            group,
            log,
            voters,
            contact_lost_after,
            inner: Mutex::new(Inner { leading: None, queue: ReplyQueue::new() }),
            placed: watch::Sender::new(floor),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The highest index known to be placed as class `city` demands.
    #[must_use]
    pub fn watermark(&self) -> u64 {
        *self.placed.borrow()
    }

    /// The watermark, followed.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.placed.subscribe()
    }

    /// This node leads `term`: acknowledgements start anew, from the floor that is known.
    pub fn lead(&self, term: u64) {
        let mut inner = self.inner();
        let drained = self.lead_locked(&mut inner, term);
        drop(inner);
        drained.into_iter().for_each(|held| held(Release::Demoted));
        self.local_flushed(self.log.state(self.group).durable_last.map_or(0, |point| point.index));
    }

    fn lead_locked(&self, inner: &mut Inner, term: u64) -> Vec<Held> {
        if inner.leading.as_ref().is_some_and(|leading| leading.term >= term) {
            return Vec::new();
        }
        inner.leading = Some(Leading {
            term,
            since: Instant::now(),
            acks: Acks::new(term, self.watermark(), 0),
            contact: BTreeMap::new(),
        });
        inner.queue.drain()
    }

    /// This node does not lead any more.
    pub fn demote(&self) {
        let drained = {
            let mut inner = self.inner();
            inner.leading = None;
            inner.queue.drain()
        };
        drained.into_iter().for_each(|held| held(Release::Demoted));
    }

    /// A follower has flushed everything up to `index` (nothing yet: `None`), matched in `term`.
    pub fn acknowledged(&self, term: u64, node: u64, index: Option<u64>) {
        {
            let mut inner = self.inner();
            let Some(leading) = inner.leading.as_mut().filter(|leading| leading.term == term) else { return };
            leading.contact.insert(node, Instant::now());
            let Some(index) = index else { return };
            leading.acks.acknowledge(term, node, index);
        }
        self.advance();
    }

    /// This node's own log has been flushed through `index`.
    pub fn local_flushed(&self, index: u64) {
        {
            let mut inner = self.inner();
            let Some(leading) = inner.leading.as_mut() else { return };
            let term = leading.term;
            leading.acks.acknowledge(term, self.node_id, index);
        }
        self.advance();
    }

    /// A leader says that everything up to `watermark` is placed.
    pub fn learn(&self, watermark: u64) {
        self.placed.send_if_modified(|placed| {
            let higher = watermark > *placed;
            *placed = watermark.max(*placed);
            higher
        });
    }

    fn advance(&self) {
        let released = {
            let mut inner = self.inner();
            let Inner { leading, queue } = &mut *inner;
            let Some(leading) = leading.as_mut() else { return };
            let term = leading.term;
            let own_term = |index| self.log.point(self.group, index).is_some_and(|point| point.term == term);
            let watermark = leading.acks.watermark(Class::City, &self.voters, own_term);
            self.learn(watermark);
            let released = queue.release(Class::City, watermark);
            released
                .into_iter()
                .map(|(index, held)| (self.attest(&leading.acks, index), held))
                .collect::<Vec<_>>()
        };
        released.into_iter().for_each(|(attestation, held)| held(Release::Placed(attestation)));
    }

    fn attest(&self, acks: &Acks, index: u64) -> v1::Attestation {
        v1::Attestation {
            zones: holders(&self.voters, acks.by_node(), index),
            durability_class: v1::DurabilityClass::City.into(),
            degraded: false,
        }
    }

    /// Holds a reply until `index`, proposed or read in `term`, is placed.
    pub fn hold(&self, term: u64, index: u64, held: Held) {
        let mut inner = self.inner();
        // The group's watcher may not have told the gate of a new term yet; whoever applied its own proposal leads it.
        let drained = self.lead_locked(&mut inner, term);
        let ours = inner.leading.as_ref().is_some_and(|leading| leading.term == term);
        let now = if ours {
            inner.queue.push(index, Class::City, held);
            None
        } else {
            Some(held)
        };
        drop(inner);
        drained.into_iter().chain(now).for_each(|held| held(Release::Demoted));
        self.advance();
    }

    /// Whether class `city` can be reached with the nodes that are in contact.
    ///
    /// # Errors
    /// What is missing, for PLACEMENT_UNREACHABLE.
    pub fn reachable(&self) -> Result<(), String> {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return Ok(()) };
        // A new leader has heard of nobody yet.
        if leading.since.elapsed() < self.contact_lost_after {
            return Ok(());
        }
        let fresh =
            |node: &u64| leading.contact.get(node).is_some_and(|at| at.elapsed() < self.contact_lost_after);
        let in_contact = self
            .voters
            .iter()
            .map(|voter| voter.node_id)
            .filter(|node| *node == self.node_id || fresh(node))
            .collect();
        reachable(Class::City, &self.voters, &in_contact)
    }

    /// Whether appends reach class `city` without this follower's answer, by others that answer promptly.
    #[must_use]
    pub fn is_spare(&self, target: u64) -> bool {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return false };
        let acked = |node: u64| leading.acks.by_node().get(&node).copied().unwrap_or(0);
        let own = acked(self.node_id);
        let answered = |node: u64| leading.contact.get(&node).is_some_and(|at| at.elapsed() < PROMPT);
        is_spare(&self.voters, self.node_id, target, |node| acked(node) >= own || answered(node))
    }

    /// What the leader knows of each voter: (node, matched index, time since the last answer). Empty on a follower.
    #[must_use]
    pub fn replicas(&self) -> Vec<(u64, u64, Option<Duration>)> {
        let inner = self.inner();
        let Some(leading) = &inner.leading else { return Vec::new() };
        self.voters
            .iter()
            .map(|voter| {
                let matched = leading.acks.by_node().get(&voter.node_id).copied().unwrap_or(0);
                let contact = leading.contact.get(&voter.node_id).map(Instant::elapsed);
                (
                    voter.node_id,
                    matched,
                    contact.or((voter.node_id == self.node_id).then_some(Duration::ZERO)),
                )
            })
            .collect()
    }

    /// Replies that wait now.
    #[must_use]
    pub fn held(&self) -> usize {
        self.inner().queue.len()
    }
}
