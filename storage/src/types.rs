//! The words that the segment log's interface is made of.

use std::fmt;

use bytes::Bytes;

use crate::error::LogError;

/// Number of a Raft group.
pub type GroupId = u32;

/// Position of an entry in a group's log. Ordered by term, then index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogPoint {
    /// Raft term of the entry.
    pub term: u64,
    /// Index of the entry.
    pub index: u64,
}

impl fmt::Display for LogPoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}@{}", self.index, self.term)
    }
}

/// One entry of a group's log. The log reads neither `tag` nor `payload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// Index of the entry in its group's log.
    pub index: u64,
    /// Raft term of the entry; `u64::MAX` is reserved.
    pub term: u64,
    /// The node that led `term` when that is known, else 0.
    pub leader: u64,
    /// What the caller says the payload is.
    pub tag: u8,
    /// The entry's bytes.
    pub payload: Bytes,
}

impl LogRecord {
    /// Where the entry stands in the log.
    pub fn point(&self) -> LogPoint {
        LogPoint { term: self.term, index: self.index }
    }
}

/// Called exactly once, on the committer's thread and in the order of the calls of one kind for one group, when what was
/// handed in is durable or never will be. It must not block. It is not called if the method returned an error.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send + 'static>;

/// What the log knows of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupState {
    /// The newest vote handed to the log.
    pub vote: Option<Bytes>,
    /// Everything up to here has been purged.
    pub purged: Option<LogPoint>,
    /// The last entry or, where the log holds none, the purge point: an empty log that goes on behind a purge. Its term is
    /// `u64::MAX` where rot has taken that.
    pub last: Option<LogPoint>,
    /// The newest committed point that the caller reported.
    pub committed: Option<LogPoint>,
    /// The last entry of the present log that is durable (or the purge point).
    pub durable_last: Option<LogPoint>,
}

/// The random number that every batch of one store carries, so that another store's segment is never taken for ours.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub [u8; 16]);

impl StoreId {
    /// Reads 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<StoreId> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        let value = u128::from_str_radix(text, 16).ok()?;
        Some(StoreId(value.to_be_bytes()))
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            write!(out, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "StoreId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_id_reads_back_what_it_prints() {
        let id = StoreId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(StoreId::parse(&id.to_string()), Some(id));
        assert_eq!(StoreId::parse("00"), None);
        assert_eq!(StoreId::parse("+000000000000000000000000000000f"), None);
    }
}
