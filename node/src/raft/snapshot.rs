//! Snapshots: the checkpointed state of a group as bytes, and their way over the network.
//!
//! `serve` keeps the whole log, so no snapshot is sent in operation; purge and snapshots are exercised by the conformance suite.
//!
//! Invariants: the encoding is Tercet's own and versioned; decoding never panics; a snapshot is installed only when complete.
//!
//! ```text
//! meta   version=1 u8 | has_last u8, term u64, index u64 | has_membership_id u8, term u64, index u64 | membership (codec.rs)
//! data   per pair: key length u32 | key | value length u32 | value
//! ```

use bytes::Bytes;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use tercet_proto::v1;

use super::codec::{CodecError, decode_membership, encode_membership, vote_to_wire};
use super::types::{LogId, StoredMembership, TypeConfig, Vote, log_id, term_of};

/// A key and its value in the index.
pub type Pair = (Vec<u8>, Vec<u8>);
/// A snapshot's content: the group's pairs of the index.
pub type SnapshotData = Bytes;
/// What a snapshot says of itself.
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
/// A snapshot.
pub type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

const CHUNK_BYTES: usize = 1 << 20;
const VERSION: u8 = 1;
const ID_BYTES: usize = 17;

/// Bytes that are no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The membership.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// Anything else.
    #[error("snapshot: {0}")]
    Malformed(&'static str),
}

fn put_id(out: &mut Vec<u8>, id: Option<&LogId>) {
    out.push(u8::from(id.is_some()));
    out.extend_from_slice(&id.map_or(0, term_of).to_le_bytes());
    out.extend_from_slice(&id.map_or(0, |id| id.index).to_le_bytes());
}

/// One encoding for each: no id is all zeros.
fn get_id(bytes: &[u8; ID_BYTES]) -> Result<Option<LogId>, SnapshotError> {
    let (mut term, mut index) = ([0; 8], [0; 8]);
    term.copy_from_slice(&bytes[1..9]);
    index.copy_from_slice(&bytes[9..17]);
    match bytes[0] {
        0 if bytes.iter().all(|byte| *byte == 0) => Ok(None),
        1 => Ok(Some(log_id(u64::from_le_bytes(term), u64::from_le_bytes(index)))),
        _ => Err(SnapshotError::Malformed("a log id is neither there nor absent")),
    }
}

/// A membership and its place in the log, as checkpoints and snapshots keep it.
///
/// # Errors
/// A membership too large for the format.
pub fn encode_stored_membership(stored: &StoredMembership) -> Result<Vec<u8>, CodecError> {
    let mut out = Vec::new();
    put_id(&mut out, stored.log_id().as_ref());
    out.extend_from_slice(&encode_membership(stored.membership())?);
    Ok(out)
}

/// Reads a stored membership.
///
/// # Errors
/// Malformed bytes.
pub fn decode_stored_membership(bytes: &[u8]) -> Result<StoredMembership, SnapshotError> {
    let (id, membership) =
        bytes.split_first_chunk::<ID_BYTES>().ok_or(SnapshotError::Malformed("membership is cut"))?;
    Ok(StoredMembership::new(get_id(id)?, decode_membership(membership)?))
}

/// A snapshot's meta record.
///
/// # Errors
/// A membership too large for the format.
pub fn encode_meta(meta: &SnapshotMeta) -> Result<Bytes, CodecError> {
    let mut out = vec![VERSION];
    put_id(&mut out, meta.last_log_id.as_ref());
    out.extend_from_slice(&encode_stored_membership(&meta.last_membership)?);
    Ok(Bytes::from(out))
}

/// Reads a snapshot's meta record.
///
/// # Errors
/// Malformed bytes.
pub fn decode_meta(bytes: &[u8]) -> Result<SnapshotMeta, SnapshotError> {
    let Some((&VERSION, rest)) = bytes.split_first() else {
        return Err(SnapshotError::Malformed("meta has an unknown version"));
    };
    let (id, membership) =
        rest.split_first_chunk::<ID_BYTES>().ok_or(SnapshotError::Malformed("meta is cut"))?;
    Ok(SnapshotMeta { last_log_id: get_id(id)?, last_membership: decode_stored_membership(membership)? })
}

/// Pairs as a snapshot's content.
///
/// # Errors
/// A pair longer than 4 GiB.
pub fn encode_pairs(pairs: &[Pair]) -> Result<SnapshotData, SnapshotError> {
    let mut out = Vec::new();
    for part in pairs.iter().flat_map(|(key, value)| [key, value]) {
        let length = u32::try_from(part.len()).map_err(|_| SnapshotError::Malformed("a pair is too long"))?;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(part);
    }
    Ok(Bytes::from(out))
}

/// Reads a snapshot's content.
///
/// # Errors
/// Malformed bytes.
pub fn decode_pairs(data: &[u8]) -> Result<Vec<Pair>, SnapshotError> {
    let mut rest = data;
    let mut part = || -> Result<Option<Vec<u8>>, SnapshotError> {
        if rest.is_empty() {
            return Ok(None);
        }
        let cut = SnapshotError::Malformed("data is cut");
        let Some((length, tail)) = rest.split_first_chunk::<4>() else { return Err(cut) };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((value, tail)) = tail.split_at_checked(length) else { return Err(cut) };
        rest = tail;
        Ok(Some(value.to_vec()))
    };
    let mut pairs = Vec::new();
    while let Some(key) = part()? {
        let value = part()?.ok_or(SnapshotError::Malformed("a key without a value"))?;
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Whether all keys of a snapshot's content begin with `prefix`: what a group may write of the index that all groups share.
///
/// # Errors
/// A key that does not, or malformed bytes.
pub fn ensure_within(data: &[u8], prefix: &[u8]) -> Result<(), SnapshotError> {
    let strays = |(key, _): &Pair| !key.starts_with(prefix);
    if decode_pairs(data)?.iter().any(strays) {
        return Err(SnapshotError::Malformed("a key of another group"));
    }
    Ok(())
}

/// A snapshot as the chunks of an InstallSnapshot call.
///
/// # Errors
/// A membership too large for the format.
pub fn snapshot_chunks(
    header: &v1::Header,
    vote: &Vote,
    meta: &SnapshotMeta,
    data: SnapshotData,
) -> Result<Vec<v1::PeerSnapshotChunk>, CodecError> {
    let mut meta = encode_meta(meta)?;
    let mut rest = data;
    let mut chunks = Vec::new();
    loop {
        let data = rest.split_to(rest.len().min(CHUNK_BYTES));
        let last = rest.is_empty();
        chunks.push(v1::PeerSnapshotChunk {
            header: Some(header.clone()),
            vote: Some(vote_to_wire(vote)),
            meta: std::mem::take(&mut meta),
            data,
            last,
        });
        if last {
            return Ok(chunks);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_round_trip_and_refuse_what_is_cut() {
        let pairs = vec![(b"k1".to_vec(), vec![1, 2, 3]), (b"k2".to_vec(), vec![])];
        let data = encode_pairs(&pairs).unwrap();
        assert_eq!(decode_pairs(&data).unwrap(), pairs);
        let whole = [0, 9, data.len()];
        for cut in (0..data.len()).filter(|cut| !whole.contains(cut)) {
            let short = decode_pairs(&data[..cut]);
            assert!(short.is_err() || short.unwrap().len() < pairs.len(), "cut at {cut}");
        }
    }

    /// The fault: a snapshot of one group wrote keys of all others.
    #[test]
    fn a_snapshot_stays_within_its_group() {
        let of = |keys: &[&[u8]]| {
            let pairs: Vec<Pair> = keys.iter().map(|key| (key.to_vec(), vec![1])).collect();
            ensure_within(&encode_pairs(&pairs).unwrap(), &1u32.to_be_bytes())
        };
        assert!(of(&[&[0, 0, 0, 1, 7], &[0, 0, 0, 1]]).is_ok());
        assert!(of(&[&[0, 0, 0, 1, 7], &[0, 0, 0, 2, 7]]).is_err(), "another group's");
        assert!(of(&[b"raft-membership/"]).is_err());
        assert!(of(&[&[0, 0, 0]]).is_err());
        assert!(ensure_within(&[1], &[0]).is_err());
    }

    #[test]
    fn meta_round_trips() {
        let meta =
            SnapshotMeta { last_log_id: Some(log_id(3, 7)), last_membership: StoredMembership::default() };
        let bytes = encode_meta(&meta).unwrap();
        assert_eq!(decode_meta(&bytes).unwrap(), meta);
        assert!(decode_meta(&bytes[..9]).is_err());
    }
}
