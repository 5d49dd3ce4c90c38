//! What can go wrong with the segment log.

use crate::disk::DiskError;
use crate::types::{GroupId, LogPoint, StoreId};

/// Why the segment log refused something or stopped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk refused while the log was being opened or read.
    #[error("disk: {0}")]
    Disk(#[from] DiskError),
    /// A write or an fsync failed. The log accepts nothing any more and must not be restarted blindly (G9).
    #[error("a write or fsync failed, the log has stopped for good: {0}")]
    Failed(DiskError),
    /// There is no room for another segment. Votes and reads go on; appends are accepted again when there is room.
    #[error("the disk is full: no room for another segment")]
    DiskFull,
    /// Whoever opened the log has seen what is in it and does not go on with it; nothing has been changed.
    #[error("{0}")]
    Refused(String),
    /// The log has been closed.
    #[error("the log is closed")]
    Closed,
    /// The index does not follow the group's last one.
    #[error("group {group}: index {got} does not follow, index {expected} is next")]
    NotConsecutive {
        /// The group.
        group: GroupId,
        /// The index that would follow.
        expected: u64,
        /// The index that came.
        got: u64,
    },
    /// An index of 2^63 or more.
    #[error("group {group}: index {index} is out of range")]
    IndexOutOfRange {
        /// The group.
        group: GroupId,
        /// The index.
        index: u64,
    },
    /// The group's log does not hold this point.
    #[error("group {group}: the log does not hold {point}")]
    NoSuchPoint {
        /// The group.
        group: GroupId,
        /// The point that was named.
        point: LogPoint,
    },
    /// Nothing is known of the group.
    #[error("group {group}: the log does not know it")]
    NoSuchGroup {
        /// The group.
        group: GroupId,
    },
    /// The entry is not lost, so that there is nothing to restore.
    #[error("group {group}: index {index} is not lost")]
    NotLost {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
    },
    /// What should be restored is not the entry that is lost.
    #[error("group {group}: the {field} of index {index} is not that of the lost entry")]
    NotTheLostEntry {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
        /// What differs.
        field: &'static str,
    },
    /// Rot has taken the term of the last entry, and without it nothing can be appended. Restore it or drop it first.
    #[error("group {group}: the term of index {index} is lost, nothing can follow it")]
    TermLost {
        /// The group.
        group: GroupId,
        /// The last entry's index.
        index: u64,
    },
    /// One record is larger than a segment can take.
    #[error("group {group}: a record of {bytes} bytes, the most is {limit_bytes}")]
    RecordTooLarge {
        /// The group.
        group: GroupId,
        /// Its size.
        bytes: usize,
        /// The most that is taken.
        limit_bytes: usize,
    },
    /// The stored bytes of an entry are damaged; they are not handed out.
    #[error("group {group}: the stored bytes of index {index} are damaged")]
    Rot {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
    },
    /// The directory holds the segments of another store.
    #[error("the segments belong to store {found}, not to {expected}")]
    ForeignStore {
        /// The id in the STORE file.
        expected: StoreId,
        /// The id in the segments.
        found: StoreId,
    },
    /// A newer version of the format than this program knows.
    #[error("segment {segment}: format version {version} is newer than this program knows")]
    NewerFormat {
        /// The segment's number.
        segment: u32,
        /// The version found.
        version: u16,
    },
    /// A setting makes no sense.
    #[error("{field}: {message}")]
    InvalidOption {
        /// The setting's name.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
}
