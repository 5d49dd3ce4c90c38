//! What the ledger keeps in the index: keys, values, and the narrow trait that it reads them through.
//!
//! Invariants: every key begins with the group's number; everything here can be rebuilt from the log; decoding never panics;
//! numbers in keys are big-endian, so that keys sort as the numbers do, and little-endian in values.
//!
//! ```text
//! key: group u32, tag, then                        value
//! M  -                                             version=2 u8, applied term u64, index u64, recorded_at_us i64,
//!                                                  city watermark u64, geo watermark u64
//! J  journal id u32                                version=2 u8, created index u64, head seq u64, chain hash 32,
//!                                                  business date u32, creation record
//! B  journal id u32, account, 0, currency 3        debits u128, credits u128
//! K  run u64, its block's first journal id and key  a block of keys (runs.rs)
//! P  journal id u32, first seq u64                 count u32, log index u64, recorded_at_us i64, chain before 32,
//!                                                  skipped u32 count, each: command u32, entry u32
//! C  -                                             cluster id 16, groups u32                    (group 0)
//! N  journal name                                  group u32                                    (group 0)
//! R  node id u64                                   incarnation u64                              (group 0)
//! G  -                                             the regime of the remote site (regime.rs); none: normal, nothing waits
//! ```

use tercet_proto::canonical::{CanonicalError, Reader};

pub(super) const TAG_META: u8 = b'M';
pub(super) const TAG_JOURNAL: u8 = b'J';
pub(super) const TAG_BALANCE: u8 = b'B';
pub(super) const TAG_KEY: u8 = b'K';
pub(super) const TAG_MARK: u8 = b'P';
pub(super) const TAG_CLUSTER: u8 = b'C';
pub(super) const TAG_NAME: u8 = b'N';
pub(super) const TAG_NODE: u8 = b'R';
pub(super) const TAG_REGIME: u8 = b'G';

/// Version byte of the values that have one.
pub(super) const VALUE_VERSION: u8 = 3;

/// The index could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("index: {0}")]
pub struct IndexFault(pub String);

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Where checkpoints end up, as the ledger reads them.
pub trait KeyIndex: Send + Sync {
    /// The value under a key.
    ///
    /// # Errors
    /// The index cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexFault>;

    /// The greatest pair whose key begins with `prefix` and is not above `key`.
    ///
    /// # Errors
    /// The index cannot be read.
    fn floor(&self, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>, IndexFault>;

    /// Shows every pair whose key begins with `prefix`, in the order of the keys, until `each` returns false.
    ///
    /// # Errors
    /// The index cannot be read.
    fn scan_prefix(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexFault>;
}

/// Why the ledger cannot go on. None of these is a client's fault, and none is survived by the group on this node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// A log entry came out of order.
    #[error("log entry {got} cannot be applied after {applied:?}")]
    NotNext {
        /// The last applied index.
        applied: Option<u64>,
        /// The index that came.
        got: u64,
    },
    /// A committed proposal cannot be read.
    #[error("proposal: {0}")]
    Malformed(#[from] CanonicalError),
    /// The index cannot be read.
    #[error("index: {0}")]
    Index(String),
    /// The index holds what no checkpoint writes.
    #[error("checkpoint: {0}")]
    Corrupt(&'static str),
    /// A mark does not fit the proposal that it is said to be of.
    #[error("the proposal does not hold the entries that its mark names")]
    MarkMismatch,
    /// An earlier error left the state half-applied.
    #[error("the ledger has failed earlier and takes nothing more")]
    Failed,
}

impl From<IndexFault> for LedgerError {
    fn from(fault: IndexFault) -> Self {
        Self::Index(fault.0)
    }
}

/// A key's beginning: group and tag.
pub(super) fn prefix(group: u32, tag: u8) -> Vec<u8> {
    let mut key = Vec::with_capacity(96);
    key.extend_from_slice(&group.to_be_bytes());
    key.push(tag);
    key
}

/// A key below one journal.
pub(super) fn journal_key(group: u32, tag: u8, journal: u32, rest: &[u8]) -> Vec<u8> {
    let mut key = prefix(group, tag);
    key.extend_from_slice(&journal.to_be_bytes());
    key.extend_from_slice(rest);
    key
}

/// Reads a value that must be used up; `what` names it when it is not what a checkpoint writes.
pub(super) fn read_all<'a, T>(
    value: &'a [u8],
    what: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, CanonicalError>,
) -> Result<T, LedgerError> {
    let mut reader = Reader::new(value);
    match read(&mut reader) {
        Ok(read) if reader.is_empty() => Ok(read),
        _ => Err(LedgerError::Corrupt(what)),
    }
}
