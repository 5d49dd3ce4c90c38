//! What must hold at every moment of a simulation, one promise a file. The checker judges what clients saw; this judges what
//! nodes said to each other, against what is durable on their disks.
//!
//! Invariants: an observation never changes how the run goes on; what is durable is taken from the bytes on the simulated
//! disks, never from what a node says of itself.
//!
//! | file | promises |
//! |---|---|
//! | [`leaders`] | a term has one leader |
//! | [`votes`] | a vote is durable before it is given, given once a term, and not forgotten |
//! | [`matched`] | what a follower acknowledges is durable on it |
//! | [`acknowledged`] | what a client is told is durable where its class demands, at that instant |
//! | [`attested`] | what a receipt attests is true at that instant |
//! | [`watermarks`] | what a leader takes for placed is durable where the class demands |
//! | [`budget`] | what is acknowledged degraded stays within the budget |
//! | [`tuple`] | a remote node's tuple claims no more than its disk holds, and excludes no degraded acknowledgement that there is |
//! | [`committed`] | applied logs are equal, and nothing that was applied is taken back |
//! | [`quarantine`] | what rot takes is named, and whoever lacks something is silent |
//! | [`balances`] | every currency sums to zero, on every replica at every moment |

mod acknowledged;
mod attested;
mod balances;
mod budget;
mod committed;
mod electorates;
mod leaders;
mod matched;
mod quarantine;
mod tuple;
mod votes;
mod watermarks;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tercet_node::ledger::Ledger;
use tercet_node::placement::{Class, Voter};
use tercet_node::proof::Proof;
use tercet_node::raft::group::Group;
use tercet_node::raft::runtime::watch;
use tercet_proto::v1;
use tercet_storage::{LogPoint, LostRecord, SegmentLog};
use tokio::time::Instant;

use crate::sim::disk::{Durable, PacedDisk};
use crate::sim::node::EPOCH_US;
use crate::sim::trace::Trace;

/// Most violations that are kept.
const MAX_KEPT: usize = 20;

pub use watermarks::LOOK_MAX;

/// Watches a simulation.
pub struct Witness {
    trace: Arc<Trace>,
    inner: Mutex<Inner>,
    /// No node's wall clock is ever skewed.
    clocks_agree: bool,
    /// Set with the first violation.
    broken: watch::Sender<bool>,
}

struct Inner {
    disks: electorates::Disks,
    electorates: electorates::Electorates,
    watermarks: watermarks::Looked,
    spent: budget::Spent,
    tuples: tuple::Kept,
    leaders: leaders::Leaders,
    votes: votes::Votes,
    committed: committed::Committed,
    quarantine: quarantine::Quarantine,
    violations: Vec<String>,
}

impl Witness {
    /// Watches nodes that stand at `places`, of which these vote from the beginning.
    pub fn new(places: &[Voter], voters: BTreeSet<u64>, clocks_agree: bool, trace: Arc<Trace>) -> Self {
        let inner = Inner {
            disks: electorates::Disks::default(),
            electorates: electorates::Electorates::new(places, voters),
            watermarks: watermarks::Looked::default(),
            spent: budget::Spent::default(),
            tuples: tuple::Kept::default(),
            leaders: leaders::Leaders::default(),
            votes: votes::Votes::default(),
            quarantine: quarantine::Quarantine::default(),
            committed: committed::Committed::default(),
            violations: Vec::new(),
        };
        Self { trace, inner: Mutex::new(inner), clocks_agree, broken: watch::Sender::new(false) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, judgement: Result<(), String>, inner: &mut Inner) {
        if let Err(why) = judgement
            && inner.violations.len() < MAX_KEPT
        {
            self.trace.event(format_args!("VIOLATION {why}"));
            inner.violations.push(format!("at {:?}: {why}", self.trace.elapsed()));
            self.broken.send_replace(true);
        }
    }

    /// Notes a violation that something else has found.
    pub fn violated(&self, why: String) {
        self.judge(Err(why), &mut self.lock());
    }

    /// Completes with the first violation: what comes after it proves nothing.
    pub async fn broken(&self) {
        drop(self.broken.subscribe().wait_for(|broken| *broken).await);
    }

    /// What was found so far.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// A node has started on this disk; its log says that it holds so much, and what of it is lost.
    pub fn started(
        &self,
        node: u64,
        disk: PacedDisk,
        recovered: &Durable,
        lost: &[LostRecord],
        kept: Option<&Proof>,
    ) {
        let mut inner = self.lock();
        let mut judgement = inner.quarantine.restarted(node, recovered, lost);
        if judgement.is_ok() && !lost.contains(&LostRecord::Vote) {
            judgement = inner.votes.restarted(node, recovered.vote);
        }
        let judgement =
            judgement.and_then(|()| kept.map_or(Ok(()), |proof| tuple::check(node, proof, recovered)));
        inner.disks.now.insert(node, disk);
        self.judge(judgement, &mut inner);
    }

    /// A node that was wiped is about to come back, as another.
    pub fn wiped(&self, node: u64) {
        let mut inner = self.lock();
        inner.votes.wiped(node);
        inner.tuples.wiped(node);
        inner.quarantine.wiped(node);
        if let Some(disk) = inner.disks.now.remove(&node) {
            inner.disks.wiped.push((node, Instant::now(), disk));
        }
    }

    /// A remote node has put a tuple on stable media.
    pub fn kept(&self, node: u64, proof: &Proof) {
        let mut inner = self.lock();
        let Some(disk) = inner.disks.now.get(&node) else { return };
        let judgement = disk.durable(|durable| tuple::check(node, proof, durable));
        inner.tuples.keeps(node, proof);
        self.judge(judgement, &mut inner);
    }

    /// A node's group begins to take part. `is_damaged`: although something of it is lost.
    pub fn runs(&self, node: u64, is_damaged: bool) {
        let mut inner = self.lock();
        inner.committed.restarted(node);
        let Some(disk) = inner.disks.now.get(&node).cloned() else { return };
        let vote = disk.durable(|durable| durable.vote);
        let judgement = disk.durable(|durable| inner.quarantine.runs(node, is_damaged, durable));
        let judgement = judgement.and_then(|()| inner.votes.restarted(node, vote));
        disk.repaired();
        self.judge(judgement, &mut inner);
    }

    /// A node says that it leads.
    pub fn leads(&self, node: u64, term: u64) {
        let mut inner = self.lock();
        let judgement = inner.leaders.leads(node, term);
        self.judge(judgement, &mut inner);
    }

    /// A node has granted a vote.
    pub fn granted(&self, node: u64, vote: &v1::PeerVote) {
        let mut inner = self.lock();
        let Some(disk) = inner.disks.now.get(&node) else { return };
        let durable = disk.durable(|durable| durable.vote);
        let judgement = inner.quarantine.speaks(node, "votes");
        let granted = inner.votes.granted(node, vote.term, vote.voted_for.unwrap_or(0), durable);
        let judgement = judgement.and(granted);
        self.judge(judgement, &mut inner);
    }

    /// A node has answered an append request.
    pub fn answered(&self, node: u64, answer: &v1::PeerAppendResponse) {
        let mut inner = self.lock();
        let Some(disk) = inner.disks.now.get(&node) else { return };
        let said = matches!(answer.result, Some(v1::peer_append_response::Result::Matched(_)));
        let is_silent = if said { inner.quarantine.speaks(node, "acknowledges") } else { Ok(()) };
        let judgement = is_silent.and_then(|()| matched::check(node, answer, disk));
        self.judge(judgement, &mut inner);
    }

    /// A client whose request began then is about to be told by a node that the entry at this point is placed as the class
    /// demands, with this attestation.
    pub fn acknowledged(
        &self,
        by: &Group,
        point: LogPoint,
        class: Class,
        attestation: &v1::Attestation,
        begun: Instant,
    ) {
        let voters = by.members().voters;
        let mut inner = self.lock();
        inner.electorates.named(&voters);
        let Inner { disks, electorates, .. } = &*inner;
        let judgement = acknowledged::check(point, class, begun, disks, electorates)
            .and_then(|()| attested::check(point, attestation, begun, disks, electorates));
        self.judge(judgement, &mut inner);
    }

    /// So many new entries are about to be acknowledged degraded by a node.
    pub fn degraded(&self, by: &Group, entries: u64) {
        let since = by.regime().borrow().degraded_since;
        self.trace.event(format_args!("{entries} entries are acknowledged degraded since {since:?}"));
        let mut inner = self.lock();
        let now_us = EPOCH_US + i64::try_from(self.trace.elapsed().as_micros()).unwrap_or(i64::MAX);
        let holds = |record| {
            let disks = &inner.disks.now;
            move |node| disks.get(&node).is_some_and(|disk| disk.durable(|held| held.knows_of(record)))
        };
        let in_time = since
            .filter(|_| self.clocks_agree)
            .map_or(Ok(()), |record| inner.tuples.degraded(now_us, record, holds(record)));
        let within = inner.spent.acknowledged(since, entries, by.gate().policy().budget.entries);
        let judgement = within.and(in_time);
        self.judge(judgement, &mut inner);
    }

    /// A change of the members was made. Leaders are looked at now and then: two changes may lie between two looks.
    pub fn members(&self, voters: &BTreeSet<u64>) {
        self.lock().electorates.named(voters);
    }

    /// Looks at what a leader counts and takes for placed, not longer than [`LOOK_MAX`] after the last look.
    pub fn placed(&self, node: u64, group: &Group, log: &SegmentLog) {
        let Some(term) = group.leading_term() else { return };
        let (voters, known) = (group.members().voters, group.gate().placed().known);
        let mut inner = self.lock();
        inner.electorates.named(&voters);
        let Inner { disks, electorates, watermarks, .. } = &mut *inner;
        let point_of = |index| log.point(group.id(), index);
        let judgement = watermarks.says((node, term), known, point_of, disks, electorates);
        self.judge(judgement, &mut inner);
    }

    /// A node has applied its log through `applied`.
    pub fn applied(&self, node: u64, applied: u64, log: &SegmentLog) {
        let mut inner = self.lock();
        let judgement = inner.committed.applied(node, applied, log);
        self.judge(judgement, &mut inner);
    }

    /// A node's ledger at some moment.
    pub fn ledger(&self, node: u64, ledger: &Ledger) {
        let judgement = balances::check(node, ledger);
        self.judge(judgement, &mut self.lock());
    }
}
