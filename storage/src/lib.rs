//! Tercet's storage: bytes in, bytes out.
//!
//! Three things live here: the **segment log** ([`SegmentLog`]), which keeps the entries and votes of every group of a
//! node; the **disks** under it ([`disk`]); and the **index** ([`index`]), which holds only what can be rebuilt from
//! the log. Nothing here knows what a journal, a payment or a vote means. The bytes on disk are described in
//! `storage/FORMAT.md`.
//!
//! Invariants of the crate: nothing is called durable before a write *and* an fdatasync of it have completed; a failed
//! write or fsync ends the log for good; a byte whose checksum is wrong is never handed out.

pub mod disk;
mod error;
pub mod format;
pub mod index;
pub mod inspect;
pub mod log;
pub mod mutants;
mod types;

pub use error::LogError;
pub use log::recover::{Cut, Finding, LostRecord, RecoveryReport, RotReason, Verdict, Vet};
pub use log::{Held, LogDriver, LogOptions, LogStats, ScrubFinding, ScrubProgress, Scrubber, SegmentLog};
pub use types::{Done, GroupId, GroupState, LogPoint, LogRecord, StoreId};
