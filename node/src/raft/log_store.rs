//! openraft's log storage over the segment log: one group's view of it.
//!
//! Invariants: `save_vote` and `truncate_after` return only when durable; an append's callback runs only after its bytes are
//! durable; a read is bounded in bytes but never empty where there is an entry.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use tercet_storage::{Done, GroupId, LogError, LogPoint, SegmentLog, mutants};
use tokio::sync::oneshot;

use super::codec::{decode_vote, encode_vote, from_point, from_record, to_point, to_record};
use super::runtime::watch;
use super::types::{Entry, LogId, TypeConfig, Vote};

/// At most this many payload bytes in one replication message or one read-back.
const READ_BYTES_MAX: usize = 1 << 20;

/// Told of every flushed index of the group, on the committer's thread.
pub type FlushObserver = Arc<dyn Fn(u64) + Send + Sync>;

/// One group's log.
#[derive(Clone)]
pub struct LogStore {
    log: SegmentLog,
    group: GroupId,
    on_flush: FlushObserver,
    appends: Arc<Appends>,
}

/// How many appends have been handed to the log, and how many it has answered; they are answered in order.
struct Appends {
    submitted: AtomicU64,
    answered: watch::Sender<u64>,
}

impl Appends {
    /// Waits until every append that has been handed in by now is answered.
    async fn answered(&self) {
        let submitted = self.submitted.load(Ordering::Acquire);
        // The sender is this one.
        drop(self.answered.subscribe().wait_for(|answered| *answered >= submitted).await);
    }
}

impl LogStore {
    /// The log of `group`; `on_flush` hears the highest flushed index of what is still in the log.
    #[must_use]
    pub fn new(log: SegmentLog, group: GroupId, on_flush: FlushObserver) -> Self {
        let appends = Arc::new(Appends { submitted: AtomicU64::new(0), answered: watch::Sender::new(0) });
        Self { log, group, on_flush, appends }
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

    fn vote(&self) -> io::Result<Option<Vote>> {
        let vote = self.log.state(self.group).vote;
        vote.map(|bytes| decode_vote(&bytes)).transpose().map_err(io::Error::from)
    }
}

/// A storage error as openraft wants it; every one is fatal to the group.
fn io_error(error: LogError) -> io::Error {
    io::Error::other(error)
}

/// Waits until the log says that a record is durable.
async fn durable(submit: impl FnOnce(Done) -> Result<(), LogError>) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    submit(Box::new(move |result| {
        // The waiter is gone only when its task was cancelled; nobody is left to tell.
        let _ = tx.send(result);
    }))
    .map_err(io_error)?;
    rx.await.map_err(|_| io::Error::other("the log's committer has stopped"))?.map_err(io_error)
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
            durable(|done| self.log.truncate_after(self.group, kept, done)).await?;
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
        durable(|done| self.log.save_vote(self.group, bytes, done)).await?;
        // A vote may pass entries that wait for their segment. To openraft a vote that is flushed means that everything it
        // handed in before is, too: it would acknowledge those entries.
        if !mutants::is("vote-passes-entries") {
            self.appends.answered().await;
        }
        Ok(())
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
            return self.log.append(self.group, records, Box::new(|_| ())).map_err(io_error);
        }
        let (log, group, on_flush) = (self.log.clone(), self.group, self.on_flush.clone());
        let appends = self.appends.clone();
        let done: Done = Box::new(move |result| {
            // An entry that has been truncated meanwhile says nothing of what replaced it.
            if result.is_ok() && log.point(group, last.index) == Some(last) {
                on_flush(last.index);
            }
            callback.io_completed(result.map_err(io_error));
            appends.answered.send_modify(|answered| *answered += 1);
        });
        self.log.append(self.group, records, done).map_err(io_error)?;
        self.appends.submitted.fetch_add(1, Ordering::Release);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let kept = last_log_id.as_ref().map(to_point);
        let last = self.log.state(self.group).last;
        if last.is_none_or(|last| kept.is_some_and(|kept| kept.index >= last.index)) {
            return Ok(());
        }
        durable(|done| self.log.truncate_after(self.group, kept, done)).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let upto = to_point(&log_id);
        durable(|done| self.log.purge(self.group, upto, done)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use bytes::Bytes;
    use openraft::EntryPayload;
    use tercet_storage::LogOptions;
    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::raft::types::{Proposal, log_id};

    fn entry(index: u64, bytes: usize) -> Entry {
        Entry {
            log_id: log_id(1, index),
            payload: EntryPayload::Normal(Proposal(Bytes::from(vec![7; bytes]))),
        }
    }

    /// A segment has 16 blocks. Ten small entries take a block each; a large one has to wait for the next segment, which begins
    /// only when nothing is in flight; votes still fit into this one.
    #[tokio::test]
    async fn a_vote_does_not_pass_the_entries_before_it() {
        let options =
            LogOptions { segment_bytes: 64 << 10, batch_limit_bytes: 48 << 10, ..LogOptions::default() };
        let (log, mut driver, _) = SegmentLog::open_stepped(Box::new(SimDisk::new(1)), options).unwrap();
        let flushed = Arc::new(Mutex::new(Vec::new()));
        let heard = flushed.clone();
        let mut store = LogStore::new(log, 0, Arc::new(move |index| heard.lock().unwrap().push(index)));
        for index in 1..=10 {
            store.append([entry(index, 100)], IOFlushed::noop()).await.unwrap();
            while !flushed.lock().unwrap().contains(&index) {
                driver.step(index);
            }
        }
        store.append([entry(11, 100)], IOFlushed::noop()).await.unwrap();
        driver.step(11);
        store.append([entry(12, 30 << 10)], IOFlushed::noop()).await.unwrap();
        let vote = Vote::new(2, 1);
        let mut saved = Box::pin(store.save_vote(&vote));
        let mut steps = 0;
        while futures::poll!(saved.as_mut()).is_pending() {
            driver.step(12 + steps);
            steps += 1;
            assert!(steps < 1_000, "the vote is never durable");
            tokio::time::sleep(Duration::ZERO).await;
        }
        assert!(flushed.lock().unwrap().contains(&12), "the vote was said to be flushed before entry 12 was");
    }
}
