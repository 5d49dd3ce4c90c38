//! The final log: all entries of the journal as a replica returned them after healing, with what is needed to recompute
//! every hash.
//!
//! Invariants: the first line is the header, every other line one entry, in the order in which the replica returned them;
//! nothing is computed here, only kept, so that the checker judges what the replica said.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use tercet_proto::canonical::encode_entry;
use tercet_proto::v1;

use super::diagnose::final_line;
use super::{FORMAT, Hash32, HexBytes, HistoryError};

/// One entry of the final log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalEntry {
    /// The entry's number.
    pub seq: u64,
    /// When the leader recorded it, in microseconds since 1970.
    pub recorded_at_us: i64,
    /// The canonical bytes of what the client supplied (`proto/WIRE.md`).
    pub client_part: HexBytes,
    /// As the replica says.
    pub entry_hash: Hash32,
    /// As the replica says.
    pub chain_hash: Hash32,
}

impl FinalEntry {
    /// An entry as a replica returned it. What has no canonical form keeps an empty client part, and the checker says so.
    ///
    /// # Errors
    /// A hash that is not 32 bytes.
    pub fn of_replica(stored: v1::StoredEntry) -> Result<Self, String> {
        let mut client_part = Vec::new();
        if let Err(refusal) = encode_entry(&stored.entry.unwrap_or_default(), &mut client_part) {
            tracing::error!(seq = stored.seq, %refusal, "a replica returned what is no entry");
        }
        let hash = |bytes: &[u8]| {
            Hash32::from_slice(bytes).ok_or_else(|| format!("seq {}: a hash is not 32 bytes", stored.seq))
        };
        Ok(Self {
            seq: stored.seq,
            recorded_at_us: stored.recorded_at_us,
            client_part: HexBytes(client_part),
            entry_hash: hash(&stored.entry_hash)?,
            chain_hash: hash(&stored.chain_hash)?,
        })
    }
}

/// A balance as a replica states it: 128-bit decimal numbers in minor units.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BalanceRow {
    /// The account.
    pub account: String,
    /// ISO 4217.
    pub currency: String,
    /// Sum of its debits.
    pub debits: String,
    /// Sum of its credits.
    pub credits: String,
    /// Credits less debits.
    pub balance: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename = "final")]
struct FinalHeader {
    format: u32,
    journal: String,
    creation_record: HexBytes,
    replicas: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    gone: Vec<String>,
    #[serde(default)]
    balances: Option<Vec<BalanceRow>>,
}

/// What replicas hold at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FinalLog {
    /// The journal's name.
    pub journal: String,
    /// Seq 0: the canonical bytes whose hash is chain_hash(0).
    pub creation_record: HexBytes,
    /// The nodes that returned exactly this.
    pub replicas: Vec<String>,
    /// The nodes whose disks are gone for good, so that nothing can be asked of them.
    pub gone: Vec<String>,
    /// By account and currency, if they were asked for.
    pub balances: Option<Vec<BalanceRow>>,
    /// As returned.
    pub entries: Vec<FinalEntry>,
}

impl FinalLog {
    /// Whether two replicas hold the same, whoever they are.
    pub fn same_as(&self, other: &Self) -> bool {
        self.journal == other.journal
            && self.creation_record == other.creation_record
            && self.balances == other.balances
            && self.entries == other.entries
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The system refuses.
    pub fn save(&self, path: &Path) -> Result<(), HistoryError> {
        self.write(path).map_err(|error| HistoryError::io(path, error))
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = BufWriter::new(std::fs::File::create(path)?);
        let header = FinalHeader {
            format: FORMAT,
            journal: self.journal.clone(),
            creation_record: self.creation_record.clone(),
            replicas: self.replicas.clone(),
            gone: self.gone.clone(),
            balances: self.balances.clone(),
        };
        serde_json::to_writer(&mut file, &header)?;
        file.write_all(b"\n")?;
        for entry in &self.entries {
            serde_json::to_writer(&mut file, entry)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    }

    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or is no final log.
    pub fn load(path: &Path) -> Result<Self, HistoryError> {
        let file = std::fs::File::open(path).map_err(|error| HistoryError::io(path, error))?;
        let place = |at: usize| format!("{}:{}", path.display(), at + 1);
        let mut log: Option<Self> = None;
        for (at, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|error| HistoryError::io(path, error))?;
            let is_header = log.is_none();
            let malformed = |error: serde_json::Error| {
                HistoryError::malformed(place(at), final_line(&line, is_header, &error))
            };
            match &mut log {
                None => {
                    let header: FinalHeader = serde_json::from_str(&line).map_err(malformed)?;
                    if header.format != FORMAT {
                        let why = format!("format {} is not known; this is {FORMAT}", header.format);
                        return Err(HistoryError::malformed(place(at), why));
                    }
                    log = Some(Self {
                        journal: header.journal,
                        creation_record: header.creation_record,
                        replicas: header.replicas,
                        gone: header.gone,
                        balances: header.balances,
                        entries: Vec::new(),
                    });
                }
                Some(log) => log.entries.push(serde_json::from_str(&line).map_err(malformed)?),
            }
        }
        log.ok_or_else(|| HistoryError::malformed(place(0), "the header is missing"))
    }
}
