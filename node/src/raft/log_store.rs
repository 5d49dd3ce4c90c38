//! openraft's log storage over the segment log: one group's view of it.
//!
//! Invariants: `save_vote` and `truncate_after` return only when durable; an append's callback runs only after its bytes are
//! durable; a read is bounded in bytes but never empty where there is an entry; a full disk is no error to openraft, which
//! would give the group up: appends wait in memory (they can be read, truncated and replicated, and votes pass them), and a
//! vote or a truncation that finds not even the log's reserve is tried again until there is room or the group stops.
//!
//! A vote that passes appends makes openraft believe that those are flushed too: its marks of what is flushed are ordered by
//! term. So whoever acknowledges entries to a leader asks [`LogStore::is_durable`] first.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use tercet_storage::{Done, GroupId, LogError, LogPoint, SegmentLog, mutants};
use tokio::sync::oneshot;

use super::codec::{decode_vote, encode_vote, from_point, from_record, to_point, to_record};
use super::runtime::watch;
use super::types::{Entry, LogId, TypeConfig, Vote};

/// At most this many payload bytes in one replication message or one read-back.
const READ_BYTES_MAX: usize = 1 << 20;
/// A full disk is asked again after so long.
const FULL_RETRY: Duration = Duration::from_millis(50);

/// Told of every flushed index of the group, on the committer's thread.
pub type FlushObserver = Arc<dyn Fn(u64) + Send + Sync>;

/// One group's log.
#[derive(Clone)]
pub struct LogStore {
    log: SegmentLog,
    group: GroupId,
    on_flush: FlushObserver,
    progress: Arc<Progress>,
}

/// What the clones of a store tell each other.
struct Progress {
    /// How many appends the log has answered.
    answered: watch::Sender<u64>,
    stopping: watch::Sender<bool>,
}

impl LogStore {
    /// The log of `group`; `on_flush` hears the highest flushed index of what is still in the log.
    #[must_use]
    pub fn new(log: SegmentLog, group: GroupId, on_flush: FlushObserver) -> Self {
        let progress = Progress { answered: watch::Sender::new(0), stopping: watch::Sender::new(false) };
        Self { log, group, on_flush, progress: Arc::new(progress) }
    }

    /// Nothing waits for a full disk any more: whatever does fails. To be called before Raft is shut down.
    pub fn stop_waiting(&self) {
        self.progress.stopping.send_replace(true);
    }

    /// Whether an entry of the present log is durable, or has become so within this time.
    pub async fn is_durable(&self, id: &LogId, within: Duration) -> bool {
        let durable = || self.log.is_durable(self.group, to_point(id));
        if durable() {
            return true;
        }
        let mut answered = self.progress.answered.subscribe();
        tokio::time::timeout(within, answered.wait_for(|_| durable())).await.is_ok_and(|seen| seen.is_ok())
    }

    /// The underlying log.
    #[must_use]
    pub fn segment_log(&self) -> &SegmentLog {
        &self.log
    }

    fn read_range(&self, range: std::ops::Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let records = self.log.read(self.group, range, max_bytes).map_err(io_error)?;
        records.into_iter().map(|record| from_record(record).map_err(io::Error::from)).collect()
    }

    /// Hands something to the log and waits until it is durable. Where a full disk has no room even for that, tries again.
    async fn durable(&self, submit: impl Fn(Done) -> Result<(), LogError>) -> io::Result<()> {
        let mut stopping = self.progress.stopping.subscribe();
        loop {
            let (tx, rx) = oneshot::channel();
            // The waiter is gone only when its task was cancelled; nobody is left to tell.
            let submitted = submit(Box::new(move |result| drop(tx.send(result))));
            let answer = async {
                match submitted {
                    Err(LogError::DiskFull) => {
                        tokio::time::sleep(FULL_RETRY).await;
                        Ok(false)
                    }
                    Err(error) => Err(io_error(error)),
                    Ok(()) => {
                        let answered = rx.await;
                        answered
                            .map_err(|_| io::Error::other("the log's committer has stopped"))?
                            .map_err(io_error)?;
                        Ok(true)
                    }
                }
            };
            tokio::select! {
                biased;
                answer = answer => if answer? { return Ok(()) },
                // The sender is this one's own.
                _ = stopping.wait_for(|stopping| *stopping) => {
                    return Err(io::Error::other("the group stops while its log waits for room on the disk"));
                }
            }
        }
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        let vote = self.log.state(self.group).vote;
        vote.map(|bytes| decode_vote(&bytes)).transpose().map_err(io::Error::from)
    }
}

/// A storage error as openraft wants it; every one is fatal to the group.
fn io_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let start = match range.start_bound() {
            Bound::Included(&n) => n,
            Bound::Excluded(&n) => n.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&n) => n.saturating_add(1),
            Bound::Excluded(&n) => n,
            Bound::Unbounded => u64::MAX,
        };
        if start >= end {
            return Ok(Vec::new());
        }
        self.read_range(start..end, usize::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.vote()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read_range(start..end, READ_BYTES_MAX)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let mut state = self.log.state(self.group);
        if let Some(last) = state.last.filter(|last| last.index > 1 && mutants::is("committed-truncated")) {
            let kept = self.log.point(self.group, last.index - 1);
            self.durable(|done| self.log.truncate_after(self.group, kept, done)).await?;
            state = self.log.state(self.group);
        }
        let purged = state.purged.map(from_point);
        Ok(LogState { last_purged_log_id: purged, last_log_id: state.last.map(from_point).or(purged) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let bytes = encode_vote(vote);
        self.durable(|done| self.log.save_vote(self.group, bytes.clone(), done)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        match committed {
            Some(id) => self.log.save_committed(self.group, to_point(&id)).map_err(io_error),
            None => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let state = self.log.state(self.group);
        // The committed index rides with later batches and is not truncated with the tail: never name more than the log has.
        let last = state.last.or(state.purged).map(from_point);
        Ok(state.committed.map(from_point).filter(|id| Some(id.index) <= last.index()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let leader = self.vote()?.map(|vote| (vote.leader_id.term, vote.leader_id.voted_for));
        let mut records = Vec::new();
        for entry in entries {
            let term = super::types::term_of(&entry.log_id);
            let led_by = leader.filter(|(led, _)| *led == term).map_or(0, |(_, node)| node);
            records.push(to_record(entry, led_by)?);
        }
        let Some(last) = records.last().map(|r| LogPoint { term: r.term, index: r.index }) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        if mutants::is("append-flushed-early") {
            callback.io_completed(Ok(()));
            return self.log.append_or_wait(self.group, records, Box::new(|_| ())).map_err(io_error);
        }
        let (log, group, on_flush) = (self.log.clone(), self.group, self.on_flush.clone());
        let progress = self.progress.clone();
        let done: Done = Box::new(move |result| {
            // An entry that has been truncated meanwhile says nothing of what replaced it.
            if result.is_ok() && log.point(group, last.index) == Some(last) {
                on_flush(last.index);
            }
            callback.io_completed(result.map_err(io_error));
            progress.answered.send_modify(|answered| *answered += 1);
        });
        self.log.append_or_wait(self.group, records, done).map_err(io_error)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let kept = last_log_id.as_ref().map(to_point);
        let last = self.log.state(self.group).last;
        if last.is_none_or(|last| kept.is_some_and(|kept| kept.index >= last.index)) {
            return Ok(());
        }
        self.durable(|done| self.log.truncate_after(self.group, kept, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let upto = to_point(&log_id);
        self.durable(|done| self.log.purge(self.group, upto, done)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::Poll;

    use bytes::Bytes;
    use openraft::EntryPayload;
    use tercet_storage::disk::SimDisk;
    use tercet_storage::{LogDriver, LogOptions};

    use super::*;
    use crate::raft::types::{Proposal, log_id};

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(Proposal(Bytes::from(vec![7; bytes]))),
        }
    }

    /// A store over a simulated disk, and its log, which is driven while something of the store is waited for.
    struct Bed {
        disk: SimDisk,
        store: LogStore,
        driver: LogDriver,
        flushed: Arc<Mutex<Vec<u64>>>,
        now_us: u64,
    }

    const SMALL: u64 = 64 << 10;
    const LARGE: u64 = 256 << 10;

    impl Bed {
        fn new(segment_bytes: u64, capacity_bytes: Option<u64>) -> Self {
            let options = LogOptions { segment_bytes, batch_limit_bytes: 48 << 10, ..LogOptions::default() };
            let disk = SimDisk::new(1);
            disk.set_capacity_bytes(capacity_bytes);
            let (log, driver, _) = SegmentLog::open_stepped(Box::new(disk.clone()), options).unwrap();
            let flushed = Arc::new(Mutex::new(Vec::new()));
            let heard = flushed.clone();
            let store = LogStore::new(log, 0, Arc::new(move |index| heard.lock().unwrap().push(index)));
            Self { disk, store, driver, flushed, now_us: 0 }
        }

        fn has_flushed(&self, index: u64) -> bool {
            self.flushed.lock().unwrap().contains(&index)
        }

        fn step(&mut self) {
            self.now_us += 1;
            self.driver.step(self.now_us);
        }

        async fn append(&mut self, index: u64, bytes: usize) {
            self.store.append([entry(index, bytes)], IOFlushed::noop()).await.unwrap();
        }

        /// Drives the log until the store has done it; gives up after a while.
        async fn finishes<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
            let mut work = Box::pin(work);
            for _ in 0..1_000 {
                if let Poll::Ready(result) = futures::poll!(work.as_mut()) {
                    return Some(result);
                }
                self.step();
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            None
        }
    }

    async fn is_durable(store: &LogStore, index: u64) -> bool {
        store.is_durable(&log_id(1, index), Duration::ZERO).await
    }

    /// A segment has 16 blocks. Ten small entries take a block each; a large one has to wait for the next segment, which begins
    /// only when nothing is in flight; votes still fit into this one.
    #[tokio::test(start_paused = true)]
    async fn entries_that_a_vote_has_passed_are_not_called_durable() {
        let mut bed = Bed::new(SMALL, None);
        for index in 1..=10 {
            bed.append(index, 100).await;
            while !bed.has_flushed(index) {
                bed.step();
            }
        }
        bed.append(11, 100).await;
        bed.step();
        bed.append(12, 30 << 10).await;
        let mut store = bed.store.clone();
        bed.finishes(store.save_vote(&Vote::new(2, 1))).await.expect("the vote is saved").unwrap();
        assert!(is_durable(&bed.store, 10).await);
        assert_eq!(
            is_durable(&bed.store, 12).await,
            bed.has_flushed(12),
            "acknowledged before it is flushed"
        );
        let (store, twelfth) = (bed.store.clone(), log_id(1, 12));
        let waited = store.is_durable(&twelfth, Duration::from_secs(1));
        assert_eq!(bed.finishes(waited).await, Some(true));
        assert!(bed.has_flushed(12));
        assert!(
            !store.is_durable(&log_id(2, 12), Duration::ZERO).await,
            "an entry that the log does not hold"
        );
    }

    /// Room for one segment. What it has no place for waits, everything else goes on, and with room what waits is written.
    #[tokio::test(start_paused = true)]
    async fn a_full_disk_keeps_entries_waiting_and_nothing_else() {
        let mut bed = Bed::new(LARGE, Some(LARGE));
        for index in 1..=80 {
            bed.append(index, 4_000).await;
            bed.step();
        }
        for _ in 0..100 {
            bed.step();
        }
        assert!(bed.store.segment_log().stats().disk_full && !bed.has_flushed(80));
        let mut store = bed.store.clone();
        let read = store.try_get_log_entries(1..81).await.unwrap();
        assert_eq!(read.len(), 80, "replication reads them");
        bed.finishes(store.save_vote(&Vote::new(2, 2))).await.expect("a vote passes them").unwrap();
        assert!(is_durable(&store, 1).await && !is_durable(&store, 80).await);
        bed.finishes(store.truncate_after(Some(log_id(1, 70)))).await.expect("so does a truncation").unwrap();
        assert_eq!(store.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 70)));
        assert!(!is_durable(&store, 70).await, "what the truncation keeps still waits");
        bed.disk.set_capacity_bytes(None);
        bed.append(71, 10).await;
        for id in [log_id(1, 70), log_id(1, 71)] {
            assert_eq!(bed.finishes(store.is_durable(&id, Duration::from_secs(5))).await, Some(true));
        }
    }

    /// Votes until not even the reserve has room: the next one waits, and is saved when there is room or fails when the group
    /// stops.
    #[tokio::test(start_paused = true)]
    async fn a_vote_that_finds_no_room_waits_for_it_or_for_the_end() {
        for stops in [false, true] {
            let mut bed = Bed::new(SMALL, Some(SMALL));
            let mut store = bed.store.clone();
            let mut saved = 0;
            while let Some(result) = bed.finishes(store.save_vote(&Vote::new(saved + 1, 1))).await {
                result.unwrap();
                saved += 1;
                assert!(saved < 100, "the reserve never ends");
            }
            assert!(saved > 2, "{saved}");
            let other = bed.store.clone();
            let disk = bed.disk.clone();
            let ends = async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                if stops { other.stop_waiting() } else { disk.set_capacity_bytes(None) }
            };
            let vote = Vote::new(saved + 1, 1);
            let (result, ()) =
                bed.finishes(async { tokio::join!(store.save_vote(&vote), ends) }).await.expect("an end");
            assert_eq!(result.is_err(), stops);
        }
    }
}
