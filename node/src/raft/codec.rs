//! Encodings between openraft's types, the segment log's records and the peer messages.
//!
//! Invariants: nothing here depends on a library's serde output; every stored form starts with a version byte; decoding never
//! panics, whatever the bytes.
//!
//! ```text
//! vote        version=1 u8 | term u64 | node u64 | committed u8                              18 bytes, little-endian
//! membership  version=1 u8 | configs u8 | per config: voters u16, ids u64.. | nodes u16, ids u64..     ids ascending
//! ```

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::vote::RaftLeaderId;
use tercet_proto::v1;
use tercet_storage::{LogPoint, LogRecord};

use super::types::{Entry, EntryPayload, LeaderId, LogId, Membership, Proposal, Vote, log_id, term_of};

/// The payload is empty: a new leader's first entry.
pub const TAG_BLANK: u8 = 0;
/// The payload is a proposal (WIRE.md).
pub const TAG_PROPOSAL: u8 = 1;
/// The payload is a membership.
pub const TAG_MEMBERSHIP: u8 = 2;

const VERSION: u8 = 1;

/// Bytes that are none of ours.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {why}")]
pub struct CodecError {
    what: &'static str,
    why: String,
}

impl CodecError {
    fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

impl From<CodecError> for std::io::Error {
    fn from(error: CodecError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// A vote as the log keeps it.
#[must_use]
pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = Vec::with_capacity(18);
    out.push(VERSION);
    out.extend_from_slice(&vote.leader_id.term.to_le_bytes());
    out.extend_from_slice(&vote.leader_id.voted_for.to_le_bytes());
    out.push(u8::from(vote.committed));
    Bytes::from(out)
}

/// Reads a vote.
///
/// # Errors
/// Another length, version or flag.
pub fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    let mut cursor = Cursor::new("vote", bytes);
    cursor.version()?;
    let (term, node) = (cursor.u64()?, cursor.u64()?);
    let committed = match cursor.u8()? {
        0 => false,
        1 => true,
        other => return Err(CodecError::new("vote", format!("committed flag is {other}"))),
    };
    cursor.end()?;
    Ok(Vote { leader_id: LeaderId::new(term, node), committed })
}

/// The vote, as it is stored, of a node that has forgotten in which terms up to `highest` it has voted: for the established
/// leader of that term, which no other candidate can become any more, or else for itself in the next one.
#[must_use]
pub fn vote_after_loss(highest: u64, leader: Option<u64>, own: u64) -> Bytes {
    encode_vote(&match leader {
        Some(leader) => Vote::new_committed(highest, leader),
        None => Vote::new(highest.saturating_add(1), own),
    })
}

/// A membership as the log keeps it.
///
/// # Errors
/// More configs or nodes than the format counts.
pub fn encode_membership(membership: &Membership) -> Result<Bytes, CodecError> {
    let too_many = |_| CodecError::new("membership", "too many members");
    let mut out = vec![VERSION];
    let configs = membership.get_joint_config();
    out.push(u8::try_from(configs.len()).map_err(too_many)?);
    for config in configs {
        out.extend_from_slice(&u16::try_from(config.len()).map_err(too_many)?.to_le_bytes());
        config.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    }
    let nodes: Vec<u64> = membership.nodes().map(|(id, ())| *id).collect();
    out.extend_from_slice(&u16::try_from(nodes.len()).map_err(too_many)?.to_le_bytes());
    nodes.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    Ok(Bytes::from(out))
}

/// Reads a membership.
///
/// # Errors
/// Malformed bytes, or a membership that openraft refuses (a voter that is not among the nodes).
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, CodecError> {
    let mut cursor = Cursor::new("membership", bytes);
    cursor.version()?;
    let mut configs = Vec::new();
    for _ in 0..cursor.u8()? {
        configs.push(cursor.ids()?);
    }
    let nodes: BTreeMap<u64, ()> = cursor.ids()?.into_iter().map(|id| (id, ())).collect();
    cursor.end()?;
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| CodecError::new("membership", error.to_string()))
}

/// An entry as the log keeps it; `leader` is the node that led the entry's term, 0 when unknown.
///
/// # Errors
/// A membership too large for the format.
pub fn to_record(entry: Entry, leader: u64) -> Result<LogRecord, CodecError> {
    let (tag, payload) = split_payload(entry.payload)?;
    Ok(LogRecord { index: entry.log_id.index, term: term_of(&entry.log_id), leader, tag, payload })
}

/// Reads an entry from the log.
///
/// # Errors
/// An unknown tag, or a malformed membership.
pub fn from_record(record: LogRecord) -> Result<Entry, CodecError> {
    Ok(Entry {
        log_id: log_id(record.term, record.index),
        payload: join_payload(record.tag, record.payload)?,
    })
}

fn split_payload(payload: EntryPayload) -> Result<(u8, Bytes), CodecError> {
    Ok(match payload {
        EntryPayload::Blank => (TAG_BLANK, Bytes::new()),
        EntryPayload::Normal(Proposal(bytes)) => (TAG_PROPOSAL, bytes),
        EntryPayload::Membership(membership) => (TAG_MEMBERSHIP, encode_membership(&membership)?),
    })
}

fn join_payload(tag: u8, payload: Bytes) -> Result<EntryPayload, CodecError> {
    match tag {
        TAG_BLANK => Ok(EntryPayload::Blank),
        TAG_PROPOSAL => Ok(EntryPayload::Normal(Proposal(payload))),
        TAG_MEMBERSHIP => Ok(EntryPayload::Membership(decode_membership(&payload)?)),
        other => Err(CodecError::new("log entry", format!("unknown tag {other}"))),
    }
}

/// A log id as the log names it.
#[must_use]
pub fn to_point(id: &LogId) -> LogPoint {
    LogPoint { term: term_of(id), index: id.index }
}

/// A point of the log as openraft names it.
#[must_use]
pub fn from_point(point: LogPoint) -> LogId {
    log_id(point.term, point.index)
}

/// A vote as peers send it.
#[must_use]
pub fn vote_to_wire(vote: &Vote) -> v1::PeerVote {
    v1::PeerVote {
        term: vote.leader_id.term,
        voted_for: Some(vote.leader_id.voted_for),
        committed: vote.committed,
    }
}

/// Reads a peer's vote.
///
/// # Errors
/// The vote or its node is missing.
pub fn vote_from_wire(vote: Option<v1::PeerVote>) -> Result<Vote, CodecError> {
    let vote = vote.ok_or_else(|| CodecError::new("peer message", "vote is missing"))?;
    let node = vote.voted_for.ok_or_else(|| CodecError::new("peer message", "vote.voted_for is missing"))?;
    Ok(Vote { leader_id: LeaderId::new(vote.term, node), committed: vote.committed })
}

/// A log id as peers send it.
#[must_use]
pub fn log_id_to_wire(id: Option<&LogId>) -> Option<v1::PeerLogId> {
    id.map(|id| v1::PeerLogId { term: term_of(id), index: id.index })
}

/// Reads a peer's log id.
#[must_use]
pub fn log_id_from_wire(id: Option<v1::PeerLogId>) -> Option<LogId> {
    id.map(|id| log_id(id.term, id.index))
}

/// An entry as peers send it; the payload is shared, not copied.
///
/// # Errors
/// A membership too large for the format.
pub fn entry_to_wire(entry: Entry) -> Result<v1::PeerLogEntry, CodecError> {
    let (tag, payload) = split_payload(entry.payload)?;
    Ok(v1::PeerLogEntry {
        term: term_of(&entry.log_id),
        index: entry.log_id.index,
        tag: u32::from(tag),
        payload,
    })
}

/// Reads a peer's entry.
///
/// # Errors
/// An unknown tag, or a malformed membership.
pub fn entry_from_wire(entry: v1::PeerLogEntry) -> Result<Entry, CodecError> {
    let tag = u8::try_from(entry.tag)
        .map_err(|_| CodecError::new("peer message", format!("entries.tag is {}", entry.tag)))?;
    Ok(Entry { log_id: log_id(entry.term, entry.index), payload: join_payload(tag, entry.payload)? })
}

/// Reads little-endian fields and never past the end.
struct Cursor<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn new(what: &'static str, rest: &'a [u8]) -> Self {
        Self { what, rest }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (head, tail) =
            self.rest.split_first_chunk::<N>().ok_or_else(|| CodecError::new(self.what, "too short"))?;
        self.rest = tail;
        Ok(*head)
    }

    fn version(&mut self) -> Result<(), CodecError> {
        match self.u8()? {
            VERSION => Ok(()),
            other => Err(CodecError::new(self.what, format!("version {other} is not known"))),
        }
    }

    fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.take::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, CodecError> {
        Ok(u16::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A count and so many ids, in ascending order: a set has one encoding.
    fn ids(&mut self) -> Result<BTreeSet<u64>, CodecError> {
        let mut ids = BTreeSet::new();
        for _ in 0..self.u16()? {
            let id = self.u64()?;
            if ids.last().is_some_and(|last| *last >= id) {
                return Err(CodecError::new(self.what, format!("id {id} is out of order")));
            }
            ids.insert(id);
        }
        Ok(ids)
    }

    fn end(&self) -> Result<(), CodecError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CodecError::new(self.what, "bytes left over")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vote_has_these_bytes() {
        let vote = Vote { leader_id: LeaderId::new(3, 5), committed: true };
        let bytes = encode_vote(&vote);
        assert_eq!(&bytes[..], &[1, 3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(decode_vote(&bytes).unwrap(), vote);
        for cut in 0..bytes.len() {
            assert!(decode_vote(&bytes[..cut]).is_err());
        }
        assert!(decode_vote(&[bytes.to_vec(), vec![0]].concat()).is_err());
    }

    #[test]
    fn a_membership_round_trips_and_refuses_what_is_cut() {
        let membership = Membership::new(
            vec![BTreeSet::from([1, 2, 3]), BTreeSet::from([3, 4])],
            BTreeMap::from([(1, ()), (2, ()), (3, ()), (4, ()), (9, ())]),
        )
        .unwrap();
        let bytes = encode_membership(&membership).unwrap();
        assert_eq!(decode_membership(&bytes).unwrap(), membership);
        for cut in 0..bytes.len() {
            assert!(decode_membership(&bytes[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn an_unknown_tag_is_an_error() {
        let record = LogRecord { index: 1, term: 1, leader: 0, tag: 77, payload: Bytes::new() };
        assert!(from_record(record).unwrap_err().to_string().contains("77"));
    }
}
