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
//! | [`committed`] | applied logs are equal, and nothing that was applied is taken back |
//! | [`quarantine`] | what rot takes is named, and whoever lacks something is silent |
//! | [`balances`] | every currency sums to zero, on every replica at every moment |

mod acknowledged;
mod balances;
mod committed;
mod leaders;
mod matched;
mod quarantine;
mod votes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tercet_node::ledger::Ledger;
use tercet_node::placement::{Class, Voter};
use tercet_node::raft::runtime::watch;
use tercet_proto::v1;
use tercet_storage::{LogPoint, LostRecord, SegmentLog};

use crate::sim::disk::{Durable, PacedDisk};
use crate::sim::trace::Trace;

/// Most violations that are kept.
const MAX_KEPT: usize = 20;

/// Watches a simulation.
pub struct Witness {
    trace: Arc<Trace>,
    voters: Vec<Voter>,
    inner: Mutex<Inner>,
    /// Set with the first violation.
    broken: watch::Sender<bool>,
}

#[derive(Default)]
struct Inner {
    disks: BTreeMap<u64, PacedDisk>,
    leaders: leaders::Leaders,
    votes: votes::Votes,
    committed: committed::Committed,
    quarantine: quarantine::Quarantine,
    violations: Vec<String>,
}

impl Witness {
    /// Watches these voters.
    pub fn new(voters: Vec<Voter>, trace: Arc<Trace>) -> Self {
        Self { trace, voters, inner: Mutex::default(), broken: watch::Sender::new(false) }
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
    pub fn started(&self, node: u64, disk: PacedDisk, recovered: &Durable, lost: &[LostRecord]) {
        let mut inner = self.lock();
        let mut judgement = inner.quarantine.restarted(node, recovered, lost);
        if judgement.is_ok() && !lost.contains(&LostRecord::Vote) {
            judgement = inner.votes.restarted(node, recovered.vote);
        }
        inner.disks.insert(node, disk);
        self.judge(judgement, &mut inner);
    }

    /// A node's group begins to take part. `is_damaged`: although something of it is lost.
    pub fn runs(&self, node: u64, is_damaged: bool) {
        let mut inner = self.lock();
        inner.committed.restarted(node);
        let Some(disk) = inner.disks.get(&node).cloned() else { return };
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
        let Some(disk) = inner.disks.get(&node) else { return };
        let durable = disk.durable(|durable| durable.vote);
        let judgement = inner.quarantine.speaks(node, "votes");
        let granted = inner.votes.granted(node, vote.term, vote.voted_for.unwrap_or(0), durable);
        let judgement = judgement.and(granted);
        self.judge(judgement, &mut inner);
    }

    /// A node has answered an append request.
    pub fn answered(&self, node: u64, answer: &v1::PeerAppendResponse) {
        let mut inner = self.lock();
        let Some(disk) = inner.disks.get(&node) else { return };
        let said = matches!(answer.result, Some(v1::peer_append_response::Result::Matched(_)));
        let is_silent = if said { inner.quarantine.speaks(node, "acknowledges") } else { Ok(()) };
        let judgement = is_silent.and_then(|()| matched::check(node, answer, disk));
        self.judge(judgement, &mut inner);
    }

    /// A client is about to be told that the entry at this point is placed as the class demands.
    pub fn acknowledged(&self, point: LogPoint, class: Class) {
        let mut inner = self.lock();
        let judgement = acknowledged::check(point, class, &inner.disks, &self.voters);
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
