//! openraft's state machine: the ledger of one group, checkpointed into the index.
//!
//! Invariants: `apply` is the only writer of the ledger; a checkpoint never covers an entry that this node has not flushed
//! (openraft may apply before the local flush); what the index holds can always be rebuilt from the log; what a checkpoint has
//! taken is kept until the index has it, and goes there before anything newer.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tercet_storage::SegmentLog;
use tercet_storage::index::Index;
use tokio::sync::watch as flush_watch;
use tokio::time::Instant;

use super::runtime::watch;
use super::snapshot::{
    Snapshot, SnapshotData, SnapshotMeta, decode_pairs, decode_stored_membership, encode_pairs,
    encode_stored_membership, ensure_within,
};
use super::types::{Applied, LogId, Proposal, StoredMembership, TypeConfig, log_id, term_of};
use crate::keys::SledKeys;
use crate::ledger::{Checkpoint, Ledger, LedgerError};

/// A checkpoint that has failed is tried again after so long, doubled each time, no later than the second.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);

/// The ledger of one group and what reads it.
pub struct GroupState {
    group: u32,
    ledger: RwLock<Ledger>,
    index: Arc<Index>,
    log: SegmentLog,
    membership: Mutex<StoredMembership>,
    applied: watch::Sender<u64>,
    flushed: flush_watch::Receiver<u64>,
    /// Held while a checkpoint is written: one at a time. What is in it could not be written yet.
    checkpointing: Mutex<Option<Taken>>,
    failing: Mutex<Failing>,
    current: Mutex<Option<Snapshot>>,
    /// Sees the ledger after each proposal that was applied, before anybody is answered.
    on_applied: OnceLock<OnApplied>,
}

/// What a checkpoint has taken: the membership belongs to its last entry.
struct Taken {
    checkpoint: Checkpoint,
    membership: StoredMembership,
}

/// Whether checkpoints fail at present.
#[derive(Default)]
struct Failing {
    /// So many in a row.
    failures: u32,
    next_try: Option<Instant>,
}

type OnApplied = Box<dyn Fn(&Ledger) + Send + Sync>;

/// Where the index keeps a group's membership as of its checkpoint.
pub(super) fn membership_key(group: u32) -> Vec<u8> {
    [b"raft-membership/".as_slice(), &group.to_be_bytes()].concat()
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl GroupState {
    /// Restores a group's state from the index. `flushed` is the highest flushed index of the group's log.
    ///
    /// # Errors
    /// The index cannot be read, or holds what cannot be decoded.
    pub fn restore(
        group: u32,
        index: Arc<Index>,
        log: SegmentLog,
        flushed: flush_watch::Receiver<u64>,
    ) -> Result<Arc<Self>, LedgerError> {
        let ledger = Ledger::restore(group, Arc::new(SledKeys(index.clone())))?;
        let stored = index.get(&membership_key(group)).map_err(|e| LedgerError::Index(e.to_string()))?;
        let membership = match stored {
            Some(bytes) => decode_stored_membership(&bytes).map_err(|e| LedgerError::Index(e.to_string()))?,
            None => StoredMembership::default(),
        };
        let applied = ledger.applied().map_or(0, |(_, index)| index);
        Ok(Arc::new(Self {
            group,
            ledger: RwLock::new(ledger),
            index,
            log,
            membership: Mutex::new(membership),
            applied: watch::Sender::new(applied),
            flushed,
            checkpointing: Mutex::default(),
            failing: Mutex::default(),
            current: Mutex::new(None),
            on_applied: OnceLock::new(),
        }))
    }

    /// Shows the ledger to `observe`: now, and after each proposal that is applied, before anybody is answered. Once only.
    pub fn observe(&self, observe: impl Fn(&Ledger) + Send + Sync + 'static) {
        observe(&self.ledger());
        // A second observer is a mistake of ours; it would see nothing.
        drop(self.on_applied.set(Box::new(observe)));
    }

    fn show(&self, ledger: &Ledger) {
        if let Some(observe) = self.on_applied.get() {
            observe(ledger);
        }
    }

    /// The ledger, to read. Never hold it across an await.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn ledger_mut(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn membership(&self) -> MutexGuard<'_, StoredMembership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The index, to see whether anything still uses it.
    #[must_use]
    pub fn index_handle(&self) -> Arc<Index> {
        self.index.clone()
    }

    /// The applied index, followed.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Writes a checkpoint now, if anything changed; blocks until it is on disk. What could not be written before goes first.
    ///
    /// # Errors
    /// The index cannot be written. Nothing is lost by that: it is tried again when it is next due, or with the next call.
    pub fn checkpoint(&self) -> io::Result<()> {
        let mut unfinished = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let result = self.checkpoint_from(&mut unfinished);
        let mut failing = self.failing();
        match &result {
            Ok(()) if failing.failures > 0 => {
                tracing::info!(
                    group = self.group,
                    failures = failing.failures,
                    "checkpoints are written again"
                );
                *failing = Failing::default();
            }
            Ok(()) => {}
            Err(error) => {
                if failing.failures == 0 {
                    let group = self.group;
                    tracing::error!(group, %error, "checkpoint failed: the log keeps everything, and it is tried again");
                }
                let delay = RETRY_FIRST.saturating_mul(1 << failing.failures.min(6)).min(RETRY_LAST);
                failing.failures = failing.failures.saturating_add(1);
                failing.next_try = Some(Instant::now() + delay);
            }
        }
        result
    }

    fn checkpoint_from(&self, unfinished: &mut Option<Taken>) -> io::Result<()> {
        if let Some(taken) = unfinished {
            self.write_checkpoint(taken)?;
            *unfinished = None;
        }
        let taken = {
            // Both under the ledger's lock, so that the membership is not newer than the applied index.
            let mut ledger = self.ledger_mut();
            ledger
                .begin_checkpoint()
                .map(|checkpoint| Taken { checkpoint, membership: self.membership().clone() })
        };
        let Some(taken) = taken else { return Ok(()) };
        // Whatever happens from here on, it is not forgotten.
        self.write_checkpoint(unfinished.insert(taken))?;
        *unfinished = None;
        Ok(())
    }

    fn write_checkpoint(&self, taken: &Taken) -> io::Result<()> {
        let (_, applied) = taken.checkpoint.applied;
        self.wait_flushed(applied)?;
        let bytes = encode_stored_membership(&taken.membership).map_err(invalid)?;
        let mut writes = taken.checkpoint.to_writes();
        // Group numbers are four bytes; this key sorts by its letters, wherever that is.
        let key = membership_key(self.group);
        let place = writes.partition_point(|(other, _)| *other < key);
        writes.insert(place, (key, Some(bytes)));
        self.index.commit(writes).map_err(io::Error::other)?;
        self.ledger_mut().finish_checkpoint();
        tracing::debug!(group = self.group, applied, "checkpoint written");
        Ok(())
    }

    fn failing(&self) -> MutexGuard<'_, Failing> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many checkpoints in a row have failed: 0 as long as all is well.
    #[must_use]
    pub fn failed_checkpoints(&self) -> u32 {
        self.failing().failures
    }

    /// Whether a checkpoint is to be tried at this moment: enough has been applied or, after a failure, enough time has gone
    /// by. Whoever hears so after a failure is to try; others are not told meanwhile.
    fn claim_checkpoint(&self, now: Instant) -> bool {
        let mut failing = self.failing();
        match failing.next_try {
            Some(at) if now < at => false,
            Some(_) => {
                failing.next_try = Some(now + RETRY_LAST);
                true
            }
            None => {
                drop(failing);
                self.ledger().is_checkpoint_due()
            }
        }
    }

    /// Whether the log holds an entry at `index` that is not flushed yet. What it does not hold (a snapshot's state) has no
    /// flush to wait for.
    fn is_unflushed(&self, index: u64) -> bool {
        let state = self.log.state(self.group);
        state.last.is_some_and(|last| last.index >= index)
            && state.durable_last.is_none_or(|durable| durable.index < index)
    }

    /// Waits until what is applied is flushed, or the log has failed or stopped: from then on a checkpoint does not block.
    pub async fn flushed(&self) {
        let (mut flushed, applied) = (self.flushed.clone(), *self.applied.borrow());
        while self.is_unflushed(applied) && self.log.failure().is_none() && flushed.changed().await.is_ok() {}
    }

    /// Blocks until the log is flushed through `index`, or has failed or stopped.
    fn wait_flushed(&self, index: u64) -> io::Result<()> {
        let mut flushed = self.flushed.clone();
        while self.is_unflushed(index) {
            if let Some(error) = self.log.failure() {
                return Err(io::Error::other(error));
            }
            futures::executor::block_on(flushed.changed())
                .map_err(|_| io::Error::other("the log stopped before the checkpoint"))?;
        }
        Ok(())
    }

    fn snapshot(&self) -> io::Result<Snapshot> {
        self.checkpoint()?;
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pairs = Vec::new();
        self.index
            .scan_prefix(&Ledger::key_prefix(self.group), &mut |key, value| {
                pairs.push((key.to_vec(), value.to_vec()));
                true
            })
            .map_err(io::Error::other)?;
        // What the index holds is what was applied at the checkpoint, not what is applied by now.
        let stored = Ledger::restore(self.group, Arc::new(SledKeys(self.index.clone()))).map_err(invalid)?;
        let bytes = self.index.get(&membership_key(self.group)).map_err(io::Error::other)?;
        let last_membership = match bytes {
            Some(bytes) => decode_stored_membership(&bytes).map_err(invalid)?,
            None => StoredMembership::default(),
        };
        let meta = SnapshotMeta {
            last_log_id: stored.applied().map(|(term, index)| log_id(term, index)),
            last_membership,
        };
        let snapshot = Snapshot { meta, snapshot: encode_pairs(&pairs).map_err(invalid)? };
        self.keep(snapshot.clone());
        Ok(snapshot)
    }

    fn keep(&self, snapshot: Snapshot) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(snapshot);
    }

    fn install(&self, meta: &SnapshotMeta, data: &SnapshotData) -> io::Result<()> {
        ensure_within(data, &Ledger::key_prefix(self.group)).map_err(invalid)?;
        let mut unfinished = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writes: std::collections::BTreeMap<Vec<u8>, Option<Vec<u8>>> =
            std::collections::BTreeMap::new();
        self.index
            .scan_prefix(&Ledger::key_prefix(self.group), &mut |key, _| {
                writes.insert(key.to_vec(), None);
                true
            })
            .map_err(io::Error::other)?;
        for (key, value) in decode_pairs(data).map_err(invalid)? {
            writes.insert(key, Some(value));
        }
        let membership = encode_stored_membership(&meta.last_membership).map_err(invalid)?;
        writes.insert(membership_key(self.group), Some(membership));
        self.index.commit(writes.into_iter().collect()).map_err(io::Error::other)?;
        // Older than what the index holds now.
        *unfinished = None;
        *self.failing() = Failing::default();
        let restored =
            Ledger::restore(self.group, Arc::new(SledKeys(self.index.clone()))).map_err(invalid)?;
        let applied = restored.applied().map_or(0, |(_, index)| index);
        self.show(&restored);
        *self.ledger_mut() = restored;
        *self.membership() = meta.last_membership.clone();
        self.applied.send_replace(applied);
        self.keep(Snapshot { meta: meta.clone(), snapshot: data.clone() });
        Ok(())
    }

    /// Applies one entry.
    fn apply_entry(&self, id: &LogId, payload: EntryPayload<Proposal, u64, ()>) -> io::Result<Applied> {
        let (term, index) = (term_of(id), id.index);
        match payload {
            EntryPayload::Normal(Proposal(bytes)) => {
                let mut ledger = self.ledger_mut();
                let outcomes = ledger.apply(term, index, &bytes).map_err(invalid)?;
                self.show(&ledger);
                Ok(Applied { outcomes })
            }
            EntryPayload::Blank => {
                self.ledger_mut().apply_other(term, index).map_err(invalid)?;
                Ok(Applied::default())
            }
            EntryPayload::Membership(membership) => {
                let mut ledger = self.ledger_mut();
                ledger.apply_other(term, index).map_err(invalid)?;
                *self.membership() = StoredMembership::new(Some(*id), membership);
                Ok(Applied::default())
            }
        }
    }
}

/// openraft's handle of a group's state.
pub struct StateMachine {
    state: Arc<GroupState>,
}

impl StateMachine {
    /// The state machine over a restored state.
    #[must_use]
    pub fn new(state: Arc<GroupState>) -> Self {
        Self { state }
    }

    fn checkpoint_if_due(&self) {
        if !self.state.claim_checkpoint(Instant::now()) {
            return;
        }
        let state = self.state.clone();
        tokio::task::spawn_blocking(move || {
            // A second one that was started meanwhile finds the lock taken, waits, and then has little or nothing to do.
            if state.failed_checkpoints() > 0 || state.ledger().is_checkpoint_due() {
                // It has said so itself, once.
                drop(state.checkpoint());
            }
        });
    }
}

/// Builds a snapshot of the state when asked.
pub struct SnapshotBuilder(Arc<GroupState>);

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.0.snapshot()
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.state.ledger().applied();
        Ok((applied.map(|(term, index)| log_id(term, index)), self.state.membership().clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let applied = self.state.apply_entry(&entry.log_id, entry.payload)?;
            self.state.applied.send_replace(entry.log_id.index);
            if let Some(responder) = responder {
                responder.send(applied);
            }
        }
        self.checkpoint_if_due();
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder(self.state.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        self.state.install(meta, &snapshot)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        Ok(self.state.current.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

#[cfg(test)]
mod tests {
    use tercet_proto::canonical::{BusinessDate, CurrencySpec, JournalSettings};
    use tercet_proto::v1::DurabilityClass;
    use tercet_storage::LogOptions;
    use tercet_storage::disk::{DiskChoice, open_directory};

    use super::*;
    use crate::ledger::{Command, ProposalBuilder, ProposalHeader};

    fn journal(name: &str) -> EntryPayload<Proposal, u64, ()> {
        let mut builder = ProposalBuilder::new(ProposalHeader { leader: 1, ..ProposalHeader::default() });
        let settings = JournalSettings {
            name: name.into(),
            currencies: vec![CurrencySpec { code: *b"CZK", digits: 2 }],
            class: DurabilityClass::City,
            business_date: BusinessDate::parse("2026-03-02").unwrap(),
        };
        builder.push(&Command::CreateJournal(settings)).unwrap();
        EntryPayload::Normal(Proposal(builder.finish()))
    }

    #[test]
    fn a_checkpoint_that_fails_is_written_later_before_what_is_newer() {
        let dir = tempfile::tempdir().unwrap();
        let disk = open_directory(&dir.path().join("log"), DiskChoice::UringOrPortable).unwrap();
        let (log, _) = SegmentLog::open(disk, LogOptions::default()).unwrap();
        let index = Arc::new(Index::open(&dir.path().join("index")).unwrap());
        let restore = || {
            let (_, flushed) = flush_watch::channel(0);
            GroupState::restore(0, index.clone(), log.clone(), flushed).unwrap()
        };
        let state = restore();
        let apply = |state: &GroupState, at, payload| state.apply_entry(&log_id(1, at), payload).unwrap();
        apply(&state, 1, journal("written"));
        state.checkpoint().unwrap();

        index.leave_free(u64::MAX);
        apply(&state, 2, journal("taken"));
        for failures in 1..4 {
            let refused = state.checkpoint().unwrap_err();
            assert!(refused.to_string().contains("full"), "{refused}");
            assert_eq!(state.failed_checkpoints(), failures);
        }
        apply(&state, 3, journal("newer"));
        let found = |state: &GroupState| {
            ["written", "taken", "newer"].map(|name| state.ledger().journal(name).is_some())
        };
        assert_eq!(found(&state), [true; 3], "what is not written yet can be read");
        assert_eq!(restore().ledger().applied(), Some((1, 1)), "the index is as the last good one left it");

        let now = Instant::now();
        assert!(!state.claim_checkpoint(now), "not so soon");
        assert!(state.claim_checkpoint(now + RETRY_LAST));
        assert!(!state.claim_checkpoint(now + RETRY_LAST), "one tries, not all");

        index.leave_free(0);
        state.checkpoint().unwrap();
        assert_eq!(state.failed_checkpoints(), 0);
        assert_eq!(found(&state), [true; 3]);
        let restarted = restore();
        assert_eq!(restarted.ledger().applied(), Some((1, 3)));
        assert_eq!(found(&restarted), [true; 3]);
        assert_eq!(restarted.ledger().digest().unwrap(), state.ledger().digest().unwrap());
        log.close();
    }
}
