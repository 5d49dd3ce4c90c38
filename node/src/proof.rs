//! What a node in the remote site can prove when the leader's city is lost: the tuple that the leader's messages carry, kept in
//! a small file beside the log.
//!
//! Contact alone proves nothing: a deposed leader, a one-way link, or heartbeats that overtake data all keep it fresh. So the
//! tuple says what the leader itself knew: when a quorum last answered it, which acknowledgement *of this node* it had counted
//! by then, and up to where it had acknowledged `geo`.
//!
//! Invariants:
//! - a tuple is kept only after this node has flushed, and matched with that leader, everything up to its `geo_acked`;
//! - `geo_acked` never goes back: what was acknowledged stays committed, whoever leads next;
//! - the file holds two slots that are written in turn, each with a number and a checksum, so that a write that is cut off
//!   leaves the former tuple;
//! - a tuple is of one data directory: what stands in another's file is no tuple of this one.
//!
//! ```text
//! slot (of 4,096 bytes, two of them), little-endian
//!  0  magic "TCPF"  4 | version=1 u8 | number u64 | group u32 | incarnation u64 | term u64 | leader u64 | written_us i64 | quorum_us i64
//!    | echoed index u64 | echoed_us i64 | geo_acked u64 | flushed u64 | adaptive u8 | degrade_after_ms u64
//!    | degraded_since u64 (0: not degraded) | first 8 bytes of the SHA-256 of all before
//! ```

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tercet_proto::canonical::{CanonicalError, Reader};
use tercet_storage::mutants;

const MAGIC: [u8; 4] = *b"TCPF";
const VERSION: u8 = 1;
const SLOT_BYTES: u64 = 4_096;
const SLOTS: u64 = 2;
const ENCODED_BYTES: usize = 5 + 8 + 4 + 8 + 8 * 8 + 1 + 16 + CHECK_BYTES;
const CHECK_BYTES: usize = 8;

/// The tuple.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Proof {
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub leader: u64,
    /// This node's UTC clock when it kept the tuple, microseconds since 1970.
    pub written_us: i64,
    /// The leader's time of its last acknowledgement by a quorum; 0: none in this term.
    pub quorum_us: i64,
    /// The newest acknowledgement of this node that the leader had counted.
    pub echoed_index: u64,
    /// The leader's time when it counted that; or, if earlier, since when its oldest entry of class `geo` was waiting. No entry
    /// that makes the regime change was waiting before.
    pub echoed_us: i64,
    /// The highest index that was acknowledged as class `geo`, not degraded. All of it is here.
    pub geo_acked: u64,
    /// Up to where this node's log was flushed and equal to the leader's.
    pub flushed: u64,
    /// Whether the leader may degrade `geo` by itself, and after how long.
    pub adaptive: bool,
    /// See `adaptive`.
    pub degrade_after_ms: u64,
    /// Log index of the regime record under which `geo` is acknowledged as `city`; 0: it is not.
    pub degraded_since: u64,
}

impl Proof {
    /// Before this time, by the leader's clock, no acknowledgement can have been degraded that this log does not hold the regime
    /// record of. None: never, or it is degraded already.
    #[must_use]
    pub fn degraded_not_before_us(&self) -> Option<i64> {
        let after_us = i64::try_from(self.degrade_after_ms).ok()?.checked_mul(1_000)?;
        (self.adaptive && self.degraded_since == 0).then(|| self.echoed_us.saturating_add(after_us))
    }

    fn encode(&self, number: u64, group: u32, incarnation: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENCODED_BYTES);
        out.extend_from_slice(&MAGIC);
        out.push(VERSION);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&incarnation.to_le_bytes());
        out.extend_from_slice(&self.term.to_le_bytes());
        out.extend_from_slice(&self.leader.to_le_bytes());
        out.extend_from_slice(&self.written_us.to_le_bytes());
        out.extend_from_slice(&self.quorum_us.to_le_bytes());
        out.extend_from_slice(&self.echoed_index.to_le_bytes());
        out.extend_from_slice(&self.echoed_us.to_le_bytes());
        out.extend_from_slice(&self.geo_acked.to_le_bytes());
        out.extend_from_slice(&self.flushed.to_le_bytes());
        out.push(u8::from(self.adaptive));
        out.extend_from_slice(&self.degrade_after_ms.to_le_bytes());
        out.extend_from_slice(&self.degraded_since.to_le_bytes());
        let check = Sha256::digest(&out);
        out.extend_from_slice(&check[..CHECK_BYTES]);
        out
    }

    /// (number, group, incarnation, tuple)
    fn decode(bytes: &[u8]) -> Result<(u64, u32, u64, Self), CanonicalError> {
        let invalid = CanonicalError::Invalid { what: "proof" };
        let mut reader = Reader::new(bytes);
        if reader.array::<4>("magic")? != MAGIC {
            return Err(invalid);
        }
        let version = reader.u8("version")?;
        if version != VERSION {
            return Err(CanonicalError::Version { what: "proof", found: version });
        }
        let (number, group) = (reader.u64("number")?, reader.u32("group")?);
        let incarnation = reader.u64("incarnation")?;
        let proof = Self {
            term: reader.u64("term")?,
            leader: reader.u64("leader")?,
            written_us: reader.i64("written")?,
            quorum_us: reader.i64("quorum")?,
            echoed_index: reader.u64("echoed")?,
            echoed_us: reader.i64("echoed")?,
            geo_acked: reader.u64("geo_acked")?,
            flushed: reader.u64("flushed")?,
            adaptive: reader.u8("adaptive")? == 1,
            degrade_after_ms: reader.u64("degrade_after")?,
            degraded_since: reader.u64("degraded_since")?,
        };
        let covered = bytes.len() - reader.rest().len();
        let check = Sha256::digest(bytes.get(..covered).ok_or(invalid)?);
        if reader.array::<CHECK_BYTES>("check")? != check[..CHECK_BYTES] {
            return Err(invalid);
        }
        Ok((number, group, incarnation, proof))
    }
}

/// The file of a group's tuple in a data directory.
#[must_use]
pub fn path_of(data_dir: &Path, group: u32) -> PathBuf {
    data_dir.join(format!("proof-{group}"))
}

/// The newest intact tuple of a group, and the incarnation of the directory that it was kept in; none if there is none.
///
/// # Errors
/// The file cannot be read.
pub fn read_of(data_dir: &Path, group: u32) -> io::Result<Option<(u64, Proof)>> {
    match File::open(path_of(data_dir, group)) {
        Ok(file) => {
            Ok(slots(&file, group).max_by_key(|slot| slot.number).map(|slot| (slot.incarnation, slot.proof)))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The newest intact tuple of a group; none if there is none.
///
/// # Errors
/// The file cannot be read.
pub fn read(data_dir: &Path, group: u32) -> io::Result<Option<Proof>> {
    Ok(read_of(data_dir, group)?.map(|(_, proof)| proof))
}

struct Slot {
    number: u64,
    incarnation: u64,
    proof: Proof,
}

/// The intact slots of a group's file.
fn slots(file: &File, group: u32) -> impl Iterator<Item = Slot> + '_ {
    (0..SLOTS).filter_map(move |slot: u64| {
        let mut bytes = [0; ENCODED_BYTES];
        file.read_exact_at(&mut bytes, slot * SLOT_BYTES).ok()?;
        let (number, of, incarnation, proof) = Proof::decode(&bytes).ok()?;
        (of == group && number % SLOTS == slot).then_some(Slot { number, incarnation, proof })
    })
}

/// Where tuples are kept.
pub trait ProofSink: Send + Sync {
    /// Puts a group's tuple on stable media in place of the former one.
    ///
    /// # Errors
    /// The file system refused.
    fn keep(&self, group: u32, proof: &Proof) -> io::Result<()>;

    /// The tuple that was kept last.
    fn kept(&self, group: u32) -> Option<Proof>;
}

/// Keeps tuples in a node's data directory. One writer per group.
#[derive(Debug, Clone)]
pub struct ProofFiles {
    /// The directory.
    pub dir: PathBuf,
    /// Its number.
    pub incarnation: u64,
}

impl ProofFiles {
    /// The newest tuple of this directory's life, and its number.
    fn newest(&self, file: &File, group: u32) -> Option<(u64, Proof)> {
        let own = slots(file, group).filter(|slot| slot.incarnation == self.incarnation);
        own.max_by_key(|slot| slot.number).map(|slot| (slot.number, slot.proof))
    }

    /// Moves a group's file aside if it was kept in another directory, and says where to.
    ///
    /// # Errors
    /// The file system refused.
    pub fn set_other_aside(&self, group: u32) -> io::Result<Option<PathBuf>> {
        if read_of(&self.dir, group)?.is_none_or(|(incarnation, _)| incarnation == self.incarnation) {
            return Ok(None);
        }
        let path = path_of(&self.dir, group);
        // `proof-` begins the names of those that count.
        let name = |number: u32| self.dir.join(format!("other-proof-{group}-{number}"));
        let aside = (1..10_000).map(name).find(|aside| !aside.exists());
        let aside = aside.ok_or_else(|| io::Error::other("too many proofs of others lie there already"))?;
        std::fs::rename(path, &aside)?;
        Ok(Some(aside))
    }
}

impl ProofSink for ProofFiles {
    fn keep(&self, group: u32, proof: &Proof) -> io::Result<()> {
        let path = path_of(&self.dir, group);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        if file.metadata()?.len() < SLOT_BYTES * SLOTS {
            // Written, not only sized, so that later writes change no metadata.
            file.write_all_at(&vec![0; 8_192], 0)?;
            file.sync_all()?;
            File::open(&self.dir)?.sync_all()?;
        }
        let number = self.newest(&file, group).map_or(1, |(number, _)| number.wrapping_add(1));
        file.write_all_at(&proof.encode(number, group, self.incarnation), (number % SLOTS) * SLOT_BYTES)?;
        file.sync_data()
    }

    fn kept(&self, group: u32) -> Option<Proof> {
        let file = File::open(path_of(&self.dir, group)).ok()?;
        self.newest(&file, group).map(|(_, proof)| proof)
    }
}

/// Decides which tuples may be kept. Pure.
#[derive(Debug, Clone, Default)]
pub struct ProofGate {
    /// Up to where this node has flushed and matched with the leader of that term.
    matched: (u64, u64),
    geo_acked: u64,
}

impl ProofGate {
    /// `kept` is what was kept before.
    #[must_use]
    pub fn new(kept: Option<Proof>) -> Self {
        Self { matched: (0, 0), geo_acked: kept.map_or(0, |proof| proof.geo_acked) }
    }

    /// A leader's message brought this tuple, and was answered with `matched`. What may be kept, if anything: not before this
    /// node has flushed what the tuple says it holds.
    pub fn offer(&mut self, offered: Proof, matched: u64) -> Option<Proof> {
        match offered.term.cmp(&self.matched.0) {
            std::cmp::Ordering::Less => return None,
            std::cmp::Ordering::Equal => self.matched.1 = self.matched.1.max(matched),
            std::cmp::Ordering::Greater => self.matched = (offered.term, matched),
        }
        if offered.geo_acked > self.matched.1 && !mutants::is("tuple-before-flush") {
            return None;
        }
        self.geo_acked = self.geo_acked.max(offered.geo_acked);
        Some(Proof { geo_acked: self.geo_acked, flushed: self.matched.1, ..offered })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(term: u64, geo_acked: u64) -> Proof {
        Proof { term, geo_acked, ..Proof::default() }
    }

    #[test]
    fn a_tuple_waits_for_the_flush_that_it_speaks_of() {
        let mut gate = ProofGate::new(Some(proof(2, 40)));
        assert_eq!(gate.offer(proof(3, 50), 49), None, "the message overtook the data");
        let kept = gate.offer(proof(3, 50), 50).expect("it is flushed now");
        assert_eq!((kept.geo_acked, kept.flushed), (50, 50));
        assert_eq!(gate.offer(proof(2, 10), 60), None, "a deposed leader");
        let kept = gate.offer(proof(3, 50), 12).expect("a heartbeat names an earlier entry");
        assert_eq!(kept.flushed, 50);
        let kept = gate.offer(proof(4, 0), 51).expect("a new leader has acknowledged nothing yet");
        assert_eq!((kept.term, kept.geo_acked, kept.flushed), (4, 50, 51), "what was proven stays proven");
        assert_eq!(gate.offer(proof(4, 52), 51), None, "what the last leader flushed here does not count");
    }

    #[test]
    fn golden_bytes_of_version_1() {
        let proof = Proof {
            term: 3,
            leader: 1,
            written_us: 9,
            quorum_us: 8,
            echoed_index: 7,
            echoed_us: -1,
            geo_acked: 6,
            flushed: 10,
            adaptive: true,
            degrade_after_ms: 2_000,
            degraded_since: 0,
        };
        let bytes = proof.encode(5, 2, 11);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let body = [
            "5443504601",
            "0500000000000000",
            "02000000",
            "0b00000000000000",
            "0300000000000000",
            "0100000000000000",
            "0900000000000000",
            "0800000000000000",
            "0700000000000000",
            "ffffffffffffffff",
            "0600000000000000",
            "0a00000000000000",
            "01",
            "d007000000000000",
            "0000000000000000",
        ]
        .concat();
        assert_eq!(hex[..body.len()], body);
        assert_eq!(bytes.len(), ENCODED_BYTES);
        assert_eq!(Proof::decode(&bytes), Ok((5, 2, 11, proof)));
        assert_eq!(proof.degraded_not_before_us(), Some(1_999_999));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(Proof::decode(&damaged).is_err(), "byte {at}");
            assert!(Proof::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_torn_write_leaves_the_former_tuple() {
        let dir = tempfile::tempdir().expect("a directory");
        let files = ProofFiles { dir: dir.path().to_owned(), incarnation: 4 };
        assert_eq!(files.kept(1), None);
        for term in 1..=5 {
            files.keep(1, &proof(term, term * 10)).expect("kept");
            assert_eq!(files.kept(1), Some(proof(term, term * 10)));
        }
        assert_eq!(files.kept(0), None, "another group's");
        let path = path_of(dir.path(), 1);
        let mut bytes = std::fs::read(&path).expect("the file");
        // Number 5 stands in slot 1.
        bytes[4_096 + 30] ^= 0xff;
        std::fs::write(&path, &bytes).expect("written");
        assert_eq!(files.kept(1), Some(proof(4, 40)));
        files.keep(1, &proof(6, 60)).expect("kept");
        assert_eq!(files.kept(1), Some(proof(6, 60)));
        std::fs::write(&path, b"short").expect("written");
        assert_eq!(files.kept(1), None);
        files.keep(1, &proof(7, 70)).expect("kept");
        assert_eq!(files.kept(1), Some(proof(7, 70)));
        assert_eq!(files.set_other_aside(1).expect("its own"), None);
        let next = ProofFiles { incarnation: 5, ..files };
        assert_eq!(next.kept(1), None, "another directory's");
        let aside = next.set_other_aside(1).expect("moved").expect("aside");
        assert!(aside.exists() && !path.exists());
    }
}
