//! The disk under the segment log: one trait, three implementations.
//!
//! [`Disk`] is shaped so that the committer can be a state machine: [`Disk::submit`] hands in one write that is linked to
//! one fdatasync and returns at once, [`Disk::completions`] hands back what has finished, [`Disk::wake`] ends a wait from
//! another thread. Everything else (making, removing and reading segments) is synchronous and happens off the append
//! path. [`open_directory`] gives the disk of a directory, through io_uring or through plain system calls;
//! [`SimDisk`] is a disk in memory that can tear, lose and damage what was written.
//!
//! Invariants that every implementation keeps:
//! - A completion without an error means that the write *and* an fdatasync which began after it have succeeded, or one synchronous
//!   write: these bytes are durable. It says nothing of other writes.
//! - A segment appears under its number whole: at full length, all zero, durable, together with its directory entry.
//! - A buffer that has been submitted is not touched before its completion hands it back.

mod alone;
mod buffer;
mod directory;
mod portable;
mod sim;
mod uring;

use std::path::Path;

pub use buffer::AlignedBuffer;
pub use portable::PortableDisk;
pub use sim::{PowerLoss, SimDisk};
pub use uring::{UringDisk, uring_available};

/// Every write begins at a multiple of this and is a multiple of it long.
pub const BLOCK_BYTES: usize = 4096;

/// File descriptors that the disk of one log holds open at most, whatever the log's length: the directory and the ring's two, four
/// segments with one for writing and one for reading, sixteen of older segments that are read, and some for a moment.
pub const LOG_DESCRIPTORS: u64 = 3 + 4 * 2 + 16 + 5;

/// A segment file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentFile {
    /// The segment's number.
    pub number: u32,
    /// The file's length.
    pub bytes: u64,
}

/// One write, to be made durable.
#[derive(Debug)]
pub struct SegmentWrite {
    /// Comes back with the completion.
    pub token: u64,
    /// The segment to write to.
    pub segment: u32,
    /// Where in the segment: a multiple of [`BLOCK_BYTES`].
    pub offset: u64,
    /// What to write: a multiple of [`BLOCK_BYTES`] long.
    pub buffer: AlignedBuffer,
}

/// The end of one [`SegmentWrite`].
#[derive(Debug)]
pub struct Completion {
    /// The write's token.
    pub token: u64,
    /// The write's buffer, free again.
    pub buffer: AlignedBuffer,
    /// Whether it is durable.
    pub result: Result<(), DiskError>,
}

/// How long [`Disk::completions`] may wait when nothing has finished yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// At most this many microseconds.
    AtMostUs(u64),
    /// Until something finishes or [`Disk::wake`] is called.
    Forever,
}

/// The number under which a reserve is kept: a file that is made and recycled like a segment but is none, so that there is
/// room for one small segment even when the disk is full. [`Disk::segments`] does not list it.
pub const RESERVE: u32 = u32::MAX;

/// Where segments are kept. See the module's text for what an implementation owes.
pub trait Disk: Send + Sync {
    /// What this disk is, for a human: the strategy and the reason for it.
    fn description(&self) -> String;
    /// The segment files, in ascending order of their numbers, without [`RESERVE`].
    fn segments(&self) -> Result<Vec<SegmentFile>, DiskError>;
    /// Makes a segment: all zero, durable, together with its directory entry. An existing one is replaced.
    fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError>;
    /// Makes segment `new` out of the file of `old`, zeroed again. At no moment does a half-zeroed file bear a number.
    fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError>;
    /// Removes a segment, durably. Removing one that is not there is not an error.
    fn remove(&self, segment: u32) -> Result<(), DiskError>;
    /// Makes everything in the segment durable that was ever written to it.
    fn sync(&self, segment: u32) -> Result<(), DiskError>;
    /// How much room there is for more segments; `None` = nobody knows.
    fn free_bytes(&self) -> Option<u64> {
        None
    }
    /// Fills `into` from the segment; an end of file before that is an error.
    fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError>;
    /// A small file beside the segments, or `None` when it does not exist.
    fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError>;
    /// Replaces a small file beside the segments, atomically and durably.
    fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError>;
    /// Copies bytes to where they are to be written from. They are of equal length.
    fn fill(&self, target: &mut [u8], bytes: &[u8]) {
        target.copy_from_slice(bytes);
    }
    /// Hands in one write. It may begin only with the next call of [`Disk::completions`]. Called by one thread.
    fn submit(&self, write: SegmentWrite) -> Result<(), DiskError>;
    /// Appends what has finished to `into`. Returns early and empty-handed after a [`Disk::wake`]. Called by the thread
    /// that submits. With [`Wait::Forever`] a write that has the disk for itself may be done on that thread; a wake then
    /// ends the wait only with the write.
    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError>;
    /// Ends the present or the next wait of [`Disk::completions`].
    fn wake(&self);
}

/// Which disk [`open_directory`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskChoice {
    /// io_uring, or an error that says why not.
    Uring,
    /// The same, but whatever goes through the ring is a write linked to an fdatasync, also where one synchronous write would do: to be
    /// measured beside it.
    UringLinked,
    /// Plain system calls on a thread of their own.
    Portable,
    /// io_uring where the system has it, else plain system calls.
    UringOrPortable,
}

/// Opens the disk of a directory, which is made if it does not exist (its parent must).
pub fn open_directory(dir: &Path, choice: DiskChoice) -> Result<Box<dyn Disk>, DiskError> {
    match choice {
        DiskChoice::Uring => Ok(Box::new(UringDisk::open(dir)?)),
        DiskChoice::UringLinked => Ok(Box::new(UringDisk::open_linked(dir)?)),
        DiskChoice::Portable => Ok(Box::new(PortableDisk::open(dir)?)),
        DiskChoice::UringOrPortable => match uring_available() {
            Ok(()) => Ok(Box::new(UringDisk::open(dir)?)),
            Err(reason) => {
                tracing::warn!(%reason, "no io_uring: falling back to pwrite and fdatasync");
                Ok(Box::new(PortableDisk::open(dir)?))
            }
        },
    }
}

/// Opens the disk of an existing directory for reading only: nothing in it is changed, everything that would is refused.
pub fn open_read_only(dir: &Path) -> Result<Box<dyn Disk>, DiskError> {
    Ok(Box::new(PortableDisk::open_read_only(dir)?))
}

/// Why a disk refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    /// The system refused.
    #[error("{operation} {subject}: {message}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        subject: String,
        /// The system's error number, where there is one.
        errno: Option<i32>,
        /// The system's words for it.
        message: String,
    },
    /// There is no room.
    #[error("{operation} {subject}: no space left")]
    Full {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        subject: String,
    },
    /// There is no such segment.
    #[error("segment {segment} does not exist")]
    NoSegment {
        /// The segment's number.
        segment: u32,
    },
    /// This system offers no io_uring, or not enough of it.
    #[error("io_uring is not available: {reason}")]
    UringUnavailable {
        /// Why, and what to do.
        reason: String,
    },
    /// The disk was opened for reading only.
    #[error("the disk was opened for reading only")]
    ReadOnly,
    /// The simulated disk has been stopped.
    #[error("the simulated disk has stopped")]
    Stopped,
}

impl DiskError {
    /// Wraps a system error, telling a full disk from the rest.
    pub(crate) fn io(
        operation: &'static str,
        subject: impl Into<String>,
        error: &std::io::Error,
    ) -> DiskError {
        let errno = error.raw_os_error();
        if errno == Some(rustix::io::Errno::NOSPC.raw_os_error())
            || errno == Some(rustix::io::Errno::DQUOT.raw_os_error())
        {
            return DiskError::Full { operation, subject: subject.into() };
        }
        DiskError::Io { operation, subject: subject.into(), errno, message: error.to_string() }
    }

    /// Whether there is nothing to read: the segment is not there, or ends before.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, DiskError::NoSegment { .. } | DiskError::Io { operation: "read", errno: None, .. })
    }

    /// Whether the medium could not be read (EIO).
    pub fn is_unreadable(&self) -> bool {
        matches!(self, DiskError::Io { errno, .. } if *errno == Some(rustix::io::Errno::IO.raw_os_error()))
    }
}
