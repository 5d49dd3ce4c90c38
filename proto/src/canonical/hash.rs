//! The hashes over canonical bytes (G4).
//!
//! Invariant: the client part is hashed once; content hash and entry hash come from that one running state.

use sha2::{Digest, Sha256};

use super::STORE_PART_BYTES;

/// Length of every hash, in bytes.
pub const HASH_BYTES: usize = 32;

/// A SHA-256 value.
pub type Hash = [u8; HASH_BYTES];

/// SHA-256 of any bytes; of a creation record it is chain(0).
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// What the store adds to the client part before hashing: seq u64, recorded_at_us i64, little-endian.
#[must_use]
pub fn store_part(seq: u64, recorded_at_us: i64) -> [u8; STORE_PART_BYTES] {
    let mut part = [0; STORE_PART_BYTES];
    part[..8].copy_from_slice(&seq.to_le_bytes());
    part[8..].copy_from_slice(&recorded_at_us.to_le_bytes());
    part
}

/// The state after the client part: gives both hashes of an entry.
#[derive(Debug, Clone)]
pub struct EntryHasher(Sha256);

impl EntryHasher {
    /// Hashes the client part.
    #[must_use]
    pub fn new(client: &[u8]) -> Self {
        Self(Sha256::new_with_prefix(client))
    }

    /// SHA-256(client part).
    #[must_use]
    pub fn content_hash(&self) -> Hash {
        self.0.clone().finalize().into()
    }

    /// SHA-256(client part || store part).
    #[must_use]
    pub fn entry_hash(mut self, store: &[u8; STORE_PART_BYTES]) -> Hash {
        self.0.update(store);
        self.0.finalize().into()
    }
}

/// SHA-256(client part): decides whether two entries have the same content.
#[must_use]
pub fn content_hash(client: &[u8]) -> Hash {
    sha256(client)
}

/// SHA-256(client part || store part).
#[must_use]
pub fn entry_hash(client: &[u8], store: &[u8; STORE_PART_BYTES]) -> Hash {
    EntryHasher::new(client).entry_hash(store)
}

/// SHA-256(previous chain hash || entry hash): the chain hash of the entry.
#[must_use]
pub fn chain(previous: &Hash, entry_hash: &Hash) -> Hash {
    let mut both = [0; 2 * HASH_BYTES];
    both[..HASH_BYTES].copy_from_slice(previous);
    both[HASH_BYTES..].copy_from_slice(entry_hash);
    sha256(&both)
}
