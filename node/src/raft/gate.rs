//! The placement gate of one group: it stands behind commit and holds replies and reads until their entries are placed.
//!
//! Invariants: nothing is released before the watermark of its class covers its index (`geo`: or that of `city`, while a regime
//! record says so); on demotion every held reply is released as unknown, and what comes to be held for a term that is over is
//! unknown at once, so that no receipt rests on what a later leader knows; acknowledgements of another term, and those of a
//! node's former data directory, count for nothing; a watermark never goes back, for what is placed stays committed; replies
//! of class `geo` never hold those of class `city` back.
//!
//! | file | about |
//! |---|---|
//! | `contact` | who has answered and when: what can be reached, what the remote can prove |
//! | `remembered` | what others have acknowledged and voted, and who has forgotten some of it |

mod contact;
mod remembered;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_proto::v1;
use tercet_storage::{SegmentLog, mutants};
use tokio::time::Instant;

use self::contact::Contacts;
use super::proposer::Clock;
use super::runtime::watch;
use crate::placement::{
    Acks, Class, Placed, Policy, Readings, ReplyQueue, Voter, Watermarks, held_in_its_site_without, holders,
    watermark,
};

pub use self::contact::ProofPart;
pub use self::remembered::{GoneBack, LogEnd, Remembered};

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

/// A reply and since when it waits.
struct Waiting {
    held: Held,
    since: Instant,
    /// The same by the UTC clock.
    since_us: i64,
}

/// What this node knows as the leader of one term.
struct Leading {
    term: u64,
    acks: Acks,
    contacts: Contacts,
    /// The last index of the log when this node began to lead: whatever former leaders have acknowledged is at or below it.
    inherited: u64,
    /// An entry of this term is known to be placed: from now on replies go out.
    is_placing: bool,
    /// The voter that is about to be removed: nothing more becomes placed by what it alone holds.
    leaving: Option<u64>,
    /// The process of each node that has answered.
    processes: BTreeMap<u64, u64>,
}

impl Leading {
    /// How far the log is placed, by the voters with and without whoever leaves.
    fn watermark(&mut self, class: Class, voters: &[Voter], is_own_term: impl Fn(u64) -> bool) -> u64 {
        let stays = |voter: &&Voter| Some(voter.node_id) != self.leaving;
        match self.leaving {
            None => self.acks.watermark(class, voters, is_own_term),
            Some(_) => {
                let rest: Vec<Voter> = voters.iter().filter(stays).cloned().collect();
                self.acks.watermark_of_both(class, [voters, &rest], is_own_term)
            }
        }
    }
}

struct Inner {
    leading: Option<Leading>,
    queue: ReplyQueue<Waiting>,
    voters: Vec<Voter>,
    /// The old half while the members change: a commit needs its majority, too. Else empty.
    before: Vec<Voter>,
    /// Sites of the topology's voters in which nobody votes now: nothing more becomes `geo` while there is one.
    unheld_sites: Vec<String>,
    /// The highest index that was acknowledged as class `geo` without being degraded.
    geo_acked: u64,
    /// Of all terms of this run.
    remembered: BTreeMap<u64, Remembered>,
    /// Nodes that have forgotten something, by the number of their directory.
    gone_back: BTreeMap<u64, GoneBack>,
    /// What the others' clocks showed: kept from term to term.
    clocks: Readings,
}

/// What a gate is made with.
pub struct GateParams {
    /// This node.
    pub node_id: u64,
    /// The group.
    pub group: u32,
    /// The group's log.
    pub log: SegmentLog,
    /// Voters and where they stand.
    pub voters: Vec<Voter>,
    /// What is known to be placed.
    pub floor: Watermarks,
    /// A follower that has not answered for so long is out of contact.
    pub contact_lost_after: Duration,
    /// This node's UTC clock.
    pub clock: Clock,
    /// What class `geo` does without the remote site.
    pub policy: Policy,
}

/// The gate of one group on one node.
pub struct Gate {
    node_id: u64,
    group: u32,
    log: SegmentLog,
    contact_lost_after: Duration,
    clock: Clock,
    origin: Instant,
    policy: Policy,
    /// Where class `geo` has to be: the sites of the topology's voters, whoever has left since.
    sites: BTreeSet<String>,
    inner: Mutex<Inner>,
    placed: watch::Sender<Placed>,
    /// Terms below this one are over for this node: whoever led them leads no more.
    newest_term: AtomicU64,
    /// Whether a reply of class `geo` waits; read without the lock.
    waits_for_geo: AtomicBool,
    /// Proposals with something of class `geo` that have not been handed over yet.
    geo_under_way: AtomicUsize,
    /// Whether a follower has said that it takes no entries; read without the lock.
    any_refusing: AtomicBool,
}

/// What the others in the site of a voter that shall leave lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// Up to where they have acknowledged the log to this leader.
    pub held: u64,
    /// Up to where something may have been acknowledged as class `geo` by what the leaving voter holds.
    pub needed: u64,
}

/// Says, while it lives, that a proposal with something of class `geo` is under way.
pub struct GeoUnderWay(Arc<Gate>);

impl Drop for GeoUnderWay {
    fn drop(&mut self) {
        self.0.geo_under_way.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Gate {
    /// A gate with `floor` known to be placed.
    #[must_use]
    pub fn new(params: GateParams) -> Self {
        let GateParams { node_id, group, log, voters, floor, contact_lost_after, clock, policy } = params;
        let sites = voters.iter().map(|voter| voter.site.clone()).collect();
        let inner = Inner {
            leading: None,
            queue: ReplyQueue::new(),
            voters,
            before: Vec::new(),
            unheld_sites: Vec::new(),
            geo_acked: 0,
            remembered: BTreeMap::new(),
            gone_back: BTreeMap::new(),
            clocks: Readings::default(),
        };
        Self {
            node_id,
            group,
            log,
            contact_lost_after,
            clock,
            origin: Instant::now(),
            policy,
            sites,
            inner: Mutex::new(inner),
            placed: watch::Sender::new(Placed::from_floor(floor)),
            newest_term: AtomicU64::new(0),
            waits_for_geo: AtomicBool::new(false),
            geo_under_way: AtomicUsize::new(0),
            any_refusing: AtomicBool::new(false),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node knows to be placed.
    #[must_use]
    pub fn placed(&self) -> Placed {
        *self.placed.borrow()
    }

    /// What is placed, followed.
    pub fn watch(&self) -> watch::Receiver<Placed> {
        self.placed.subscribe()
    }

    /// Whether somebody waits for class `geo` now: a reply that is held, or a proposal whose replies will be.
    #[must_use]
    pub fn waits_for_geo(&self) -> bool {
        self.waits_for_geo.load(Ordering::Acquire) || self.geo_under_way.load(Ordering::Acquire) > 0
    }

    /// Something of class `geo` is about to be proposed; keep the answer until its replies are held.
    #[must_use]
    pub fn geo_under_way(self: &Arc<Self>) -> GeoUnderWay {
        self.geo_under_way.fetch_add(1, Ordering::AcqRel);
        GeoUnderWay(self.clone())
    }

    /// The voters are others from now on; `before` are those of the old half while that is not committed. Whoever begins to vote has
    /// acknowledged nothing as yet: what is remembered of it may be of a data directory that it has lost since, while it was a
    /// learner or no member. Its next answer says what it holds.
    pub fn set_voters(&self, voters: Vec<Voter>, before: Vec<Voter>) {
        let is_unheld = |site: &&String| !voters.iter().any(|voter| voter.site == **site);
        let unheld_sites = self.sites.iter().filter(is_unheld).cloned().collect();
        {
            let mut inner = self.inner();
            let Inner { leading, voters: known, before: known_before, .. } = &mut *inner;
            if let Some(leading) = leading {
                let known = known.iter().chain(known_before.iter()).map(|voter| voter.node_id);
                let known: Vec<u64> = known.chain([self.node_id]).collect();
                let joining = voters.iter().map(|voter| voter.node_id);
                joining.filter(|node| !known.contains(node)).for_each(|node| leading.acks.forget(node));
                // From here on it is the voters that leave it out.
                leading.leaving =
                    leading.leaving.filter(|node| voters.iter().any(|voter| voter.node_id == *node));
            }
            (inner.voters, inner.before, inner.unheld_sites) = (voters, before, unheld_sites);
        }
        self.advance();
    }

    /// Whether a node votes, or did before the change of members that is under way.
    #[must_use]
    pub fn is_voter(&self, node: u64) -> bool {
        let inner = self.inner();
        inner.voters.iter().chain(&inner.before).any(|voter| voter.node_id == node)
    }

    /// A voter is about to be removed. From now on, until the voters are others, nothing becomes placed by what it alone holds in its
    /// site; what may have been before, this leader's and former ones' acknowledgements, the others there must hold.
    ///
    /// # Errors
    /// They do not: up to where they do, and where that must be. Nothing has changed then, unless it is forced.
    pub fn leave(&self, node: u64, force: bool) -> Result<(), Lacking> {
        let mut inner = self.inner();
        let known = self.placed().known.geo;
        let Inner { leading, voters, .. } = &mut *inner;
        let Some(leading) = leading.as_mut() else { return Ok(()) };
        let needed = known.max(leading.inherited);
        let lacking = held_in_its_site_without(node, voters, leading.acks.by_node())
            .filter(|held| *held < needed)
            .map(|held| Lacking { held, needed });
        if force || lacking.is_none() {
            leading.leaving = Some(node);
        }
        lacking.map_or(Ok(()), Err)
    }

    /// Nobody is about to be removed any more, and nobody was.
    pub fn stay(&self) {
        if let Some(leading) = self.inner().leading.as_mut() {
            leading.leaving = None;
        }
        self.advance();
    }

    /// This node leads `term`: acknowledgements start anew, from the floor that is known.
    pub fn lead(&self, term: u64) {
        let mut inner = self.inner();
        let drained = self.lead_locked(&mut inner, term);
        drop(inner);
        release_unknown(drained);
        self.local_flushed(self.durable());
    }

    fn durable(&self) -> u64 {
        self.log.state(self.group).durable_last.map_or(0, |point| point.index)
    }

    fn lead_locked(&self, inner: &mut Inner, term: u64) -> Vec<Waiting> {
        let is_over = term < self.newest_term.load(Ordering::Acquire);
        if is_over || inner.leading.as_ref().is_some_and(|leading| leading.term >= term) {
            return Vec::new();
        }
        let floor = self.placed().known;
        let mut acks = Acks::new(term, floor.city, floor.geo);
        // Its own disk holds what it holds, whatever others have yet to tell.
        acks.acknowledge(term, self.node_id, self.durable());
        inner.leading = Some(Leading {
            term,
            acks,
            contacts: Contacts::new(Instant::now()),
            inherited: self.log.state(self.group).last.map_or(0, |point| point.index),
            is_placing: false,
            leaving: None,
            processes: BTreeMap::new(),
        });
        self.drain(inner)
    }

    /// This node does not lead, nor will it ever again lead a term below `newest`.
    pub fn demote(&self, newest: u64) {
        self.newest_term.fetch_max(newest, Ordering::AcqRel);
        let drained = {
            let mut inner = self.inner();
            inner.leading = None;
            self.drain(&mut inner)
        };
        release_unknown(drained);
    }

    /// Another node leads `term`. Told before anything of its message is believed: the watermarks that it brings would let
    /// replies of this node's former term go, with a receipt that names no zones.
    pub fn led_by_another(&self, term: u64) {
        // Every message of a leader says so; the first one is news.
        if self.newest_term.load(Ordering::Acquire) >= term {
            return;
        }
        self.newest_term.fetch_max(term, Ordering::AcqRel);
        let mut inner = self.inner();
        if inner.leading.as_ref().is_none_or(|leading| leading.term >= term) {
            return;
        }
        inner.leading = None;
        let drained = self.drain(&mut inner);
        drop(inner);
        release_unknown(drained);
    }

    fn drain(&self, inner: &mut Inner) -> Vec<Waiting> {
        let drained = inner.queue.drain();
        self.note_waiting(inner);
        drained
    }

    fn note_waiting(&self, inner: &Inner) {
        self.waits_for_geo.store(inner.queue.waiting(Class::Geo) > 0, Ordering::Release);
    }

    /// A follower has flushed everything up to `index` (nothing yet: `None`), matched in `term`, in the data directory of this
    /// `incarnation` (0: it does not say).
    pub fn acknowledged(&self, term: u64, node: u64, incarnation: u64, index: Option<u64>) {
        {
            let mut inner = self.inner();
            let Inner { leading, remembered, gone_back, .. } = &mut *inner;
            let Some(leading) = leading.as_mut().filter(|leading| leading.term == term) else { return };
            if incarnation != 0 {
                leading.acks.meet(node, incarnation);
            }
            if gone_back.get(&node).is_some_and(|back| back.incarnation == incarnation) {
                return;
            }
            leading.contacts.answered(node, Instant::now(), (self.clock)(), index);
            let Some(index) = index else { return };
            leading.acks.acknowledge(term, node, index);
            remembered.entry(node).or_default().acknowledged(incarnation, term, index);
        }
        self.advance();
    }

    /// No connection to a follower can be had in `term`: it is out of contact until it answers again.
    pub fn lost(&self, term: u64, node: u64) {
        let mut inner = self.inner();
        if let Some(leading) = inner.leading.as_mut().filter(|leading| leading.term == term) {
            leading.contacts.lost(node);
        }
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

    /// A leader, or a proposal of one, says that everything up to these is placed.
    pub fn learn(&self, floor: Watermarks) {
        self.placed.send_if_modified(|placed| placed.learn(floor));
    }

    /// The log, applied up to this index, says that `geo` is acknowledged as `city` since a record; none: that it is not.
    pub fn follow_regime(&self, degraded_since: Option<u64>, applied: u64) {
        if self.placed.send_if_modified(|placed| placed.follow_regime(degraded_since, applied)) {
            self.advance();
        }
    }

    fn advance(&self) {
        let released = {
            let mut inner = self.inner();
            let Inner { leading, queue, voters, unheld_sites, geo_acked, .. } = &mut *inner;
            let Some(leading) = leading.as_mut() else { return };
            let term = leading.term;
            let own_term = |index| self.log.point(self.group, index).is_some_and(|point| point.term == term);
            let geo = match unheld_sites.is_empty() {
                true => leading.watermark(Class::Geo, voters, own_term),
                false => 0,
            };
            self.learn(Watermarks { city: leading.watermark(Class::City, voters, own_term), geo });
            let placed = self.placed();
            if !leading.is_placing && own_term(placed.known.city) {
                leading.is_placing = true;
                tracing::info!(
                    group = self.group,
                    term,
                    index = placed.known.city,
                    "the first entry of the term is placed"
                );
            }
            let mut released = Vec::new();
            for class in Class::ALL {
                for (index, waiting) in queue.release(class, placed.shown.of(class)) {
                    let attestation = attest(voters, &leading.acks, placed, class, index);
                    if class == Class::Geo && !attestation.degraded {
                        *geo_acked = index.max(*geo_acked);
                    }
                    released.push((attestation, waiting));
                }
            }
            if !released.is_empty() {
                self.note_waiting(&inner);
            }
            released
        };
        released.into_iter().for_each(|(attestation, waiting)| (waiting.held)(Release::Placed(attestation)));
    }

    /// Holds a reply until `index`, proposed or read in `term`, is placed as `class` demands.
    pub fn hold(&self, term: u64, index: u64, class: Class, held: Held) {
        if mutants::is("gate-ignored") {
            let durability_class = v1::DurabilityClass::from(class).into();
            return held(Release::Placed(v1::Attestation { durability_class, ..Default::default() }));
        }
        let waiting = Waiting { held, since: Instant::now(), since_us: (self.clock)() };
        let mut inner = self.inner();
        // The group's watcher may not have told the gate of a new term yet; whoever applied its own proposal leads it.
        let drained = self.lead_locked(&mut inner, term);
        let ours = inner.leading.as_ref().is_some_and(|leading| leading.term == term);
        let now = if ours {
            inner.queue.push(index, class, waiting);
            self.note_waiting(&inner);
            None
        } else {
            Some(waiting)
        };
        drop(inner);
        release_unknown(drained.into_iter().chain(now));
        self.advance();
    }

    /// For how long the oldest reply of class `geo` has waited.
    #[must_use]
    pub fn oldest_geo_wait(&self) -> Option<Duration> {
        self.inner().queue.first(Class::Geo).map(|waiting| waiting.since.elapsed())
    }

    /// Whatever former leaders have acknowledged is at or below this index. None on a follower.
    #[must_use]
    pub fn inherited(&self) -> Option<u64> {
        self.inner().leading.as_ref().map(|leading| leading.inherited)
    }

    /// What class `geo` does without the remote site.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Replies of a class that wait now.
    #[must_use]
    pub fn held(&self, class: Class) -> usize {
        self.inner().queue.waiting(class)
    }
}

fn release_unknown(drained: impl IntoIterator<Item = Waiting>) {
    drained.into_iter().for_each(|waiting| (waiting.held)(Release::Demoted));
}

/// What is known of an index' placement when a reply of `asked` is released. The class may be known from a watermark that travelled
/// here, with a proposal or from another leader; the zones are those that have told this leader.
fn attest(voters: &[Voter], acks: &Acks, placed: Placed, asked: Class, index: u64) -> v1::Attestation {
    let reached = if index <= placed.known.geo { Class::Geo } else { Class::City };
    v1::Attestation {
        zones: holders(voters, acks.by_node(), index),
        durability_class: v1::DurabilityClass::from(reached).into(),
        degraded: reached < asked,
        inherited: index > watermark(reached, voters, acks.by_node()),
    }
}
