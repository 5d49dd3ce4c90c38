//! The canonical bytes: what is stored, sent between nodes and hashed. `proto/WIRE.md` describes them for auditors.
//!
//! Invariants:
//! - One entry has one encoding: equal content (G3) is equal bytes, so the content hash decides it.
//! - What [`EntryView::parse`] accepts, [`encode_entry`] made, up to the balance of debits and credits, which only encoding
//!   checks; parsing never panics, whatever the bytes.
//! - A stored form never changes under its version byte.
//!
//! ```text
//! client part, little-endian                        store part                hashes
//!  0  version        u8   1                          0  seq             u64    content_hash = SHA-256(client part)
//!  1  total length   u32  of the client part         8  recorded_at_us  i64    entry_hash   = SHA-256(client part || store part)
//!  5  kind           u8   1 payment, 2 adjustment,                             chain(0)     = SHA-256(creation record)
//!                         3 note                                               chain(n)     = SHA-256(chain(n-1) || entry_hash(n))
//!  6  key            u16 length, UTF-8
//!     business date  u32  yyyymmdd
//!     postings       u8 count, each: side u8 (1 debit, 2 credit), currency 3 bytes, amount u64, account u8 length, UTF-8
//!     references     u8 count, each: tag u8 (ascending), u8 length, UTF-8
//!     payload        u32 length, bytes
//! ```

mod creation;
mod date;
mod encode;
mod hash;
mod reader;
mod rules;
#[cfg(test)]
mod tests;
mod view;

pub use creation::{
    CREATION_MAGIC, CREATION_VERSION, CreationRecord, CurrencySpec, JournalSettings, check_journal_name,
};
pub use date::BusinessDate;
pub use encode::encode_entry;
pub use hash::{EntryHasher, HASH_BYTES, Hash, chain, content_hash, entry_hash, sha256, store_part};
pub use reader::Reader;
pub use view::{EntryView, PostingView, Postings, ReferenceView, ReferencesIter};

/// Version of the client part.
pub const ENTRY_VERSION: u8 = 1;

/// Length of the store part, in bytes.
pub const STORE_PART_BYTES: usize = 16;

/// Bytes that are not a canonical encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// A version that this build does not read.
    #[error("{what}: version {found} is not known")]
    Version {
        /// What was being read.
        what: &'static str,
        /// The version byte.
        found: u8,
    },
    /// The bytes end too early.
    #[error("{what}: the bytes end too early")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// A field holds what no encoder writes.
    #[error("{what}: not a value that is ever written")]
    Invalid {
        /// What was being read.
        what: &'static str,
    },
}
