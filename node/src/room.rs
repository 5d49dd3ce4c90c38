//! Whether the disk has room for more entries.
//!
//! The log refuses entries before its last segment is full, but Raft cannot be refused: what it hands in then waits in memory.
//! So room is looked at before anything is proposed or taken from a leader, with a margin for what is under way.
//!
//! Invariants: only entries are refused; votes, truncations, reads and heartbeats go on; when there is room again, appends
//! are taken again without a restart.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_storage::SegmentLog;
use tokio::sync::watch;

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// What may still arrive between two looks: what leaders have under way to a follower, and a proposer to its log.
const MARGIN_BYTES: u64 = 24 << 20;

/// What is known of the disk's room.
#[derive(Default)]
pub struct DiskRoom {
    /// Why entries are refused; none: they are not.
    tight: watch::Sender<Option<String>>,
    /// What the file system is taken to have free, whatever it says itself.
    assumed_free: Mutex<Option<u64>>,
}

impl DiskRoom {
    /// Why entries are refused now.
    #[must_use]
    pub fn why_tight(&self) -> Option<String> {
        self.tight.borrow().clone()
    }

    /// Why entries that others propose now must not count on this node's disk; none: they may.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        self.why_tight().map(|why| format!("its disk is nearly full: {why}"))
    }

    /// From the next look on, so many bytes are taken to be free on the file system; none: what it says itself. A test fills a
    /// node's disk in this way, and only that one's.
    pub fn assume_free(&self, bytes: Option<u64>) {
        *self.assumed_free.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
    }

    fn free_bytes(&self, dir: &Path) -> Option<u64> {
        let assumed = *self.assumed_free.lock().unwrap_or_else(PoisonError::into_inner);
        assumed.or_else(|| free_bytes(dir))
    }

    /// Whether entries are refused now.
    #[must_use]
    pub fn is_tight(&self) -> bool {
        self.tight.borrow().is_some()
    }

    /// Refuses when there is no room.
    ///
    /// # Errors
    /// DISK_FULL.
    pub fn ensure(&self) -> Result<(), Refusal> {
        match self.why_tight() {
            None => Ok(()),
            Some(why) => Err(Refusal::new(Reason::DiskFull, "", why)),
        }
    }

    /// Judges the room anew: what the log says of it, and how many bytes are free where that is known.
    pub fn look(&self, log: &SegmentLog, free: Option<u64>, reserve_bytes: u64) {
        let stats = log.stats();
        let why = match (stats.last_segment_room_bytes, free) {
            _ if stats.disk_full => Some("the log's last segment is full".to_owned()),
            (Some(room), _) if room < MARGIN_BYTES => Some(format!(
                "the disk has no room for another segment, {} MiB are left in the last",
                room >> 20
            )),
            (_, Some(free)) if free < reserve_bytes => Some(format!(
                "{} MiB are free, below limits.disk_reserve_bytes, {} MiB",
                free >> 20,
                reserve_bytes >> 20
            )),
            _ => None,
        };
        self.tight.send_if_modified(|known| {
            let changed = known.is_some() != why.is_some();
            if changed {
                match &why {
                    Some(why) => tracing::warn!(why, "appends are refused: the disk is nearly full"),
                    None => tracing::info!("the disk has room again"),
                }
            }
            *known = why;
            changed
        });
    }
}

/// Bytes that this process may still write to the file system of `dir`; none where the system does not tell.
fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Looks at the disk until dropped.
pub async fn watch_disk(room: Arc<DiskRoom>, log: SegmentLog, dir: PathBuf, reserve_bytes: u64) {
    loop {
        room.look(&log, room.free_bytes(&dir), reserve_bytes);
        tokio::time::sleep(LOOK).await;
    }
}
