//! Whether the disk takes more entries: it has room for them, and it moves.
//!
//! The log refuses entries before its last segment is full, but Raft cannot be refused: what it hands in then waits in memory.
//! So room is looked at before anything is proposed or taken from a leader, with a margin for what is under way. In the same way
//! entries pile up in memory behind a disk that finishes no write (frozen, suspended, a controller that resets): it fails
//! nothing, and others commit without it, so only the clock tells (decision 0042).
//!
//! Invariants: only entries are refused; votes, truncations, reads and heartbeats go on; when there is room again, or the disk
//! moves, appends are taken again without a restart; a node that was stopped itself does not take its disk for one that was.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_storage::{LogStats, SegmentLog};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::ballast;
use crate::node::Node;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// At most so much of the time between two looks is held against the disk: the rest is this process' own delay.
const LOOK_MAX: Duration = Duration::from_millis(300);
/// Room in the last segment that clients leave: to what leaders have under way to a follower and a proposer to its log, and then to
/// the cluster's own entries (decision 0041 has the account).
const MARGIN_BYTES: u64 = 24 << 20;
/// A disk that has work and has finished none of it for so long stands still.
pub const STILL_AFTER: Duration = Duration::from_secs(2);
/// A leader proposes nothing for clients while so many bytes are handed to its log and not durable.
pub const UNFLUSHED_BYTES_MAX: u64 = 64 << 20;

/// What is known of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskState {
    /// Why there is no room for entries; none: there is.
    pub tight: Option<String>,
    /// For how long the disk has finished nothing although it has work, where that is too long.
    pub still: Option<Duration>,
}

impl DiskState {
    fn why_still(&self) -> Option<String> {
        let still = self.still?;
        Some(format!("its disk stands still: no write has finished for {} ms", still.as_millis()))
    }

    /// Why entries that others propose now must not count on this disk; none: they may.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        let tight = || self.tight.as_deref().map(its_disk_is_full);
        self.why_still().or_else(tight)
    }

    /// What has changed since, in words: the kind of an event and its message.
    fn news(&self, before: &Self) -> Vec<(&'static str, String)> {
        let mut news = Vec::new();
        match (&before.still, self.why_still()) {
            (None, Some(why)) => {
                news.push((
                    "disk_stalled",
                    format!("{why}; it takes no entries, and leads no longer than it must"),
                ));
            }
            (Some(_), None) => news.push(("disk_moves", "the disk finishes writes again".to_owned())),
            _ => {}
        }
        match (&before.tight, &self.tight) {
            (None, Some(why)) => news.push(("disk_full", format!("appends are refused: {why}"))),
            (Some(_), None) => news.push(("disk_has_room", "appends are taken again".to_owned())),
            _ => {}
        }
        news
    }
}

/// Follows whether the disk finishes what it is given.
#[derive(Debug, Default)]
struct Progress {
    /// Durable batches at the last look, and when that was.
    last: Option<(u64, Instant)>,
    still: Duration,
}

impl Progress {
    /// For how long the disk has had work and finished none of it.
    fn look(&mut self, stats: &LogStats, now: Instant) -> Duration {
        let before = self.last.replace((stats.batches, now));
        self.still = match before {
            Some((batches, at)) if stats.waits_for_disk && batches == stats.batches => {
                self.still + now.saturating_duration_since(at).min(LOOK_MAX)
            }
            _ => Duration::ZERO,
        };
        self.still
    }
}

/// What a test takes for true of the disk, whatever the system says.
#[derive(Debug, Default)]
struct Assumed {
    free_bytes: Option<u64>,
    still: Option<Duration>,
}

/// What is known of the disk, followed.
#[derive(Default)]
pub struct DiskRoom {
    state: watch::Sender<DiskState>,
    progress: Mutex<Progress>,
    assumed: Mutex<Assumed>,
}

impl DiskRoom {
    /// What is known now.
    #[must_use]
    pub fn state(&self) -> DiskState {
        self.state.borrow().clone()
    }

    /// Why entries that others propose now must not count on this node's disk; none: they may. The room is that of this moment, for
    /// a fast disk writes more than the margin between a few looks.
    #[must_use]
    pub fn why_not(&self, log: &SegmentLog) -> Option<String> {
        let state = self.state.borrow();
        state.why_not().or_else(|| nearly_full(log.last_room_bytes()).map(|why| its_disk_is_full(&why)))
    }

    /// Why entries of a leader, so many of so many bytes, cannot be taken. A disk that is nearly full takes them until it *is* full:
    /// clients have been refused long before, and what comes now was under way, or is the cluster's own.
    #[must_use]
    pub fn why_refused(&self, log: &SegmentLog, entries: usize, bytes: usize) -> Option<String> {
        let state = self.state.borrow();
        if let Some(why) = state.why_still() {
            return Some(why);
        }
        if log.last_room_bytes().is_none() || log.admits(entries, bytes) {
            return None;
        }
        let why = state.tight.clone().unwrap_or_else(|| "the log's last segment is full".to_owned());
        Some(its_disk_is_full(&why))
    }

    /// Whether there is no room for entries.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.state.borrow().tight.is_some()
    }

    /// For how long the disk has stood still; none: it moves.
    #[must_use]
    pub fn stands_still(&self) -> Option<Duration> {
        self.state.borrow().still
    }

    /// Refuses what clients would append when this leader's disk does not take it.
    ///
    /// # Errors
    /// DISK_STALLED, DISK_FULL; OVERLOADED when too much waits for the disk already.
    pub fn ensure(&self, log: &SegmentLog) -> Result<(), Refusal> {
        let state = self.state.borrow();
        if let Some(why) = state.why_still() {
            return Err(Refusal::new(Reason::DiskStalled, "", format!("of the leader: {why}")));
        }
        if let Some(why) = state.tight.clone().or_else(|| nearly_full(log.last_room_bytes())) {
            return Err(Refusal::new(Reason::DiskFull, "", why));
        }
        let unflushed = log.unfinished_bytes();
        if unflushed > UNFLUSHED_BYTES_MAX {
            let why = format!("{} MiB wait for the leader's disk; try again shortly", unflushed >> 20);
            return Err(Refusal::new(Reason::Overloaded, "", why));
        }
        Ok(())
    }

    /// Judges the disk anew: what the log says of it, and how many bytes are free where that is known.
    pub fn look(&self, log: &SegmentLog, free: Option<u64>, reserve_bytes: u64, now: Instant) {
        let stats = log.stats();
        let (free, still) = {
            let assumed = lock(&self.assumed);
            let seen = lock(&self.progress).look(&stats, now);
            (assumed.free_bytes.or(free), assumed.still.unwrap_or(seen))
        };
        let now = DiskState {
            tight: why_tight(&stats, free, reserve_bytes),
            still: Some(still).filter(|still| *still >= STILL_AFTER),
        };
        self.state.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
    }

    /// From the next look on, so many bytes are taken to be free on the file system; none: what it says itself. A test fills a
    /// node's disk in this way, and only that one's.
    pub fn assume_free(&self, bytes: Option<u64>) {
        lock(&self.assumed).free_bytes = bytes;
    }

    /// From the next look on, the disk is taken to have stood still for so long; none: what the log says. For tests, as above.
    pub fn assume_still(&self, still: Option<Duration>) {
        lock(&self.assumed).still = still;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn its_disk_is_full(why: &str) -> String {
    format!("its disk is nearly full: {why}")
}

/// Whether so little is left of the last segment that clients are refused.
fn nearly_full(last_room_bytes: Option<u64>) -> Option<String> {
    let room = last_room_bytes.filter(|room| *room < MARGIN_BYTES)?;
    Some(format!("the disk has no room for another segment, {} MiB are left in the last", room >> 20))
}

fn why_tight(stats: &LogStats, free: Option<u64>, reserve_bytes: u64) -> Option<String> {
    if stats.disk_full {
        return Some("the log's last segment is full".to_owned());
    }
    let below_reserve = || {
        let free = free.filter(|free| *free < reserve_bytes)?;
        let (free, reserve) = (free >> 20, reserve_bytes >> 20);
        Some(format!("{free} MiB are free, below limits.disk_reserve_bytes, {reserve} MiB"))
    };
    nearly_full(stats.last_segment_room_bytes).or_else(below_reserve)
}

/// Bytes that this process may still write to the file system of `dir`; none where the system does not tell.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Looks at the disk of a node until dropped, and tells operators of what changes.
pub async fn watch_disk(node: Arc<Node>) {
    let dir: PathBuf = node.identity.dir().to_path_buf();
    let reserve_bytes = node.topology.limits.disk_reserve_bytes;
    let mut before = DiskState::default();
    let mut has_ballast = ballast::is_kept(&dir);
    loop {
        let free = free_bytes(&dir);
        node.room.look(&node.log, free, reserve_bytes, Instant::now());
        if ballast::is_wanted(has_ballast, free, reserve_bytes) {
            has_ballast = make_ballast(dir.clone()).await;
        }
        let now = node.room.state();
        for (kind, message) in now.news(&before) {
            node.event(0, kind, message);
        }
        before = now;
        tokio::time::sleep(LOOK).await;
    }
}

/// Says whether it is there now, or need not be tried again: what stands in the way is hardly a matter of room.
async fn make_ballast(dir: PathBuf) -> bool {
    let made = tokio::task::spawn_blocking(move || ballast::make(&dir)).await;
    match made {
        Ok(Ok(())) => true,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::StorageFull => false,
        Ok(Err(error)) => {
            tracing::warn!(%error, "no ballast: a start on a full disk may fail");
            true
        }
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use tercet_storage::disk::SimDisk;
    use tercet_storage::{LogOptions, LogRecord};

    use super::*;

    fn stats(batches: u64, waits_for_disk: bool) -> LogStats {
        LogStats { batches, waits_for_disk, ..LogStats::default() }
    }

    #[test]
    fn a_disk_stands_still_when_it_has_work_and_finishes_none() {
        let (begun, mut progress) = (Instant::now(), Progress::default());
        let mut look = |at_ms, batches, waits| {
            progress.look(&stats(batches, waits), begun + Duration::from_millis(at_ms)).as_millis()
        };
        assert_eq!(look(0, 5, true), 0, "the first look knows no time");
        assert_eq!(look(100, 5, true), 100);
        assert_eq!(look(250, 5, true), 250);
        assert_eq!(look(300, 6, true), 0, "it has finished something");
        assert_eq!(look(400, 6, false), 0, "it has nothing to do");
        assert_eq!(look(500, 6, true), 100);
        assert_eq!(look(60_500, 6, true), 400, "this process was stopped, not its disk");
    }

    fn log() -> (SegmentLog, tercet_storage::LogDriver) {
        let disk = Box::new(SimDisk::new(1));
        let (log, driver, _) = SegmentLog::open_stepped(disk, LogOptions::default()).unwrap();
        (log, driver)
    }

    fn reason(room: &DiskRoom, log: &SegmentLog) -> Option<Reason> {
        room.ensure(log).err().map(|refusal| refusal.reason)
    }

    /// Issue 15, row 18: under a frozen disk the leader took 1.1 GB in 40 s, others committed it, and nobody was told.
    #[test]
    fn what_waits_for_a_disk_that_stands_still_is_bounded_by_bytes_and_by_age() {
        let (log, mut driver) = log();
        let room = DiskRoom::default();
        let begun = Instant::now();
        let mut taken = 0_u64;
        // Nobody drives the log: the disk finishes nothing.
        while reason(&room, &log).is_none() {
            taken += 1;
            let payload = bytes::Bytes::from(vec![7; 1 << 20]);
            let record = LogRecord { index: taken, term: 1, leader: 1, tag: 1, payload };
            log.append_or_wait(0, vec![record], Box::new(|_| ())).unwrap();
            room.look(&log, None, 0, begun);
            assert!(taken << 20 <= UNFLUSHED_BYTES_MAX + (1 << 20), "no bound on bytes");
        }
        assert_eq!(reason(&room, &log), Some(Reason::Overloaded));
        for look in 1..=20 {
            room.look(&log, None, 0, begun + look * LOOK);
        }
        assert_eq!(room.stands_still(), Some(STILL_AFTER));
        assert_eq!(reason(&room, &log), Some(Reason::DiskStalled));
        assert!(room.why_not(&log).unwrap().contains("stands still"));
        assert!(room.why_refused(&log, 1, 1).is_some());
        while log.unfinished_bytes() > 0 {
            driver.step(1);
        }
        room.look(&log, None, 0, begun + 21 * LOOK);
        assert_eq!((reason(&room, &log), room.why_not(&log)), (None, None), "it moves again");
    }

    /// Issue 15, row 16: with all disks nearly full, followers took nothing from any leader, so that a new one's first entry was
    /// never placed, and nothing could be read.
    #[test]
    fn clients_leave_the_rest_of_the_last_segment_to_leaders() {
        const SEGMENT: u64 = 64 << 20;
        let disk = SimDisk::new(1);
        disk.set_capacity_bytes(Some(SEGMENT));
        let options = LogOptions { segment_bytes: SEGMENT, ..LogOptions::default() };
        let (log, mut driver, _) = SegmentLog::open_stepped(Box::new(disk), options).unwrap();
        let room = DiskRoom::default();
        let begun = Instant::now();
        let mut index = 0;
        let mut append = |bytes: usize| {
            index += 1;
            let payload = bytes::Bytes::from(vec![7; bytes]);
            let record = LogRecord { index, term: 1, leader: 1, tag: 1, payload };
            log.append_or_wait(0, vec![record], Box::new(|_| ())).unwrap();
            (0..20).for_each(|_| _ = driver.step(1));
        };
        append(1);
        // Clients, up to the mark; nobody looks meanwhile.
        while reason(&room, &log).is_none() {
            append(1 << 20);
        }
        assert_eq!(reason(&room, &log), Some(Reason::DiskFull));
        assert!(room.why_not(&log).unwrap().contains("nearly full"), "new proposals must not count on it");
        // What was under way: a leader's proposals of five MiB at most, and followers take it.
        for _ in 0..4 {
            assert_eq!(room.why_refused(&log, 1, 5 << 20), None);
            append(5 << 20);
        }
        // Then hundreds of new leaders, each with an entry or two of its own in a batch of its own.
        for _ in 0..400 {
            assert_eq!(room.why_refused(&log, 1, 100), None);
            append(100);
        }
        while room.why_refused(&log, 1, 100).is_none() {
            append(100);
        }
        room.look(&log, Some(0), 1, begun);
        assert!(log.stats().disk_full && log.unfinished_bytes() == 0, "{:?}", log.stats());
        assert!(room.why_refused(&log, 1, 100).unwrap().contains("its disk is nearly full"));
    }

    #[test]
    fn every_change_is_told_once() {
        let state = |tight: Option<&str>, still_ms: Option<u64>| DiskState {
            tight: tight.map(str::to_owned),
            still: still_ms.map(Duration::from_millis),
        };
        let kinds = |before: &DiskState, now: &DiskState| {
            now.news(before).into_iter().map(|(kind, _)| kind).collect::<Vec<_>>()
        };
        let fine = state(None, None);
        assert_eq!(kinds(&fine, &state(Some("full"), Some(2_000))), ["disk_stalled", "disk_full"]);
        assert!(kinds(&state(Some("3 MiB"), Some(2_000)), &state(Some("2 MiB"), Some(2_100))).is_empty());
        assert_eq!(kinds(&state(Some("2 MiB"), Some(2_100)), &fine), ["disk_moves", "disk_has_room"]);
    }
}
