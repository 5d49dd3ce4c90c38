//! The proposal encoding: what one Raft log entry of tag 1 holds. `proto/WIRE.md` describes the bytes.
//!
//! Invariants: a request is encoded once, by the node that proposes it, and read in place by everyone else; reading never
//! panics, whatever the bytes; a proposal that parses has exactly as many commands as it states and nothing behind them.
//!
//! ```text
//! proposal, little-endian                           command
//!  0  version          u8   1                        0  kind    u8   1 append, 2 create journal, 3 map journal,
//!  1  leader           u64  node id                                  4 form cluster, 5 register node,
//!  9  leader_clock_us  i64                                            6 set regime, 21 degraded for
//! 17  city_watermark   u64                           1  length  u32  of the body
//! 25  geo_watermark    u64                           5  body
//! 33  commands         u32 count, then the commands
//!
//! append          journal u8 length + name, class u8 (0 the journal's, 1 city, 2 geo), entries u32 count, client parts
//! create journal  settings (canonical/creation.rs)
//! map journal     u8 length + name
//! form cluster    cluster_id 16 bytes, groups u32
//! register node   node_id u64, incarnation u64, start u64, nonce u64
//! set regime      regime u8 (0 normal, 1 degraded), reason text16; if degraded: entries u64, seconds u64,
//!                 currencies u16 count, each: code 3 bytes, amount u128
//! degraded for    since_index u64, elapsed_ms u64
//! ```

mod view;

use bytes::Bytes;
use prost::Message;
use tercet_proto::canonical::{JournalSettings, check_journal_name, encode_entry};
use tercet_proto::limits::{MAX_REQUEST_BYTES, MAX_REQUEST_ENTRIES, RESERVED_JOURNAL_PREFIX};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1::{AppendRequest, DurabilityClass};

use super::regime::{put_budget, put_text};
use crate::placement::{Budget, Class};

pub use view::{AppendView, CommandView, Commands, Entries, ProposalView};

/// Version of the proposal encoding.
pub const PROPOSAL_VERSION: u8 = 1;

/// Bytes before the first command.
const HEADER_BYTES: usize = 37;
/// Where the leader's clock stands.
const CLOCK_AT: usize = 9;
/// Where the count of commands stands.
const COUNT_AT: usize = 33;
/// Bytes of a command before its body.
const FRAME_BYTES: usize = 5;

const KIND_APPEND: u8 = 1;
const KIND_CREATE_JOURNAL: u8 = 2;
const KIND_MAP_JOURNAL: u8 = 3;
const KIND_FORM_CLUSTER: u8 = 4;
const KIND_REGISTER_NODE: u8 = 5;
const KIND_SET_REGIME: u8 = 6;
const KIND_DEGRADED_FOR: u8 = 21;

/// What a leader says once for all commands of a proposal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProposalHeader {
    /// Id of the node that proposes.
    pub leader: u64,
    /// Its UTC clock, microseconds since 1970.
    pub leader_clock_us: i64,
    /// The highest index that it knows to be placed as class `city` demands.
    pub city_watermark: u64,
    /// The same for class `geo`.
    pub geo_watermark: u64,
}

/// Everything that a proposal can hold besides appends, which are made with [`PreparedCommand::append`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Makes a journal in this group.
    CreateJournal(JournalSettings),
    /// Group 0 only: says which group keeps a journal of this name.
    MapJournal {
        /// The journal.
        name: String,
    },
    /// Group 0 only: gives the cluster its id and its number of groups; the first one wins.
    FormCluster {
        /// Random.
        cluster_id: [u8; 16],
        /// Groups of the cluster, at least 1.
        groups: u32,
    },
    /// Group 0 only: binds a node id to a data directory; the first one wins, until incarnation 0 looses it again. Of one
    /// directory the last start wins.
    RegisterNode {
        /// The node.
        node_id: u64,
        /// Its data directory's number.
        incarnation: u64,
        /// How often that has been started from.
        start: u64,
        /// Drawn by the process that was started.
        nonce: u64,
    },
    /// The regime record: whether class `geo` waits for every site.
    SetRegime {
        /// Why.
        reason: String,
        /// Acknowledge `geo` as `city` within this budget; none: wait for every site again.
        degraded: Option<Budget>,
    },
    /// While the regime is degraded the leader puts this before whatever it proposes: the seconds of the budget are counted by it.
    DegradedFor {
        /// Log index of the regime record that is meant.
        since_index: u64,
        /// For how long it has been in force, by the leader's monotone clock and what was told before.
        elapsed_ms: u64,
    },
}

/// A validated command, encoded once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedCommand {
    bytes: Vec<u8>,
    journal: Option<String>,
    entry_count: usize,
    asked: DurabilityClass,
}

impl PreparedCommand {
    /// Encodes a command.
    ///
    /// # Errors
    /// A journal's name or settings, or a number of groups, that cannot be.
    pub fn new(command: &Command) -> Result<Self, Refusal> {
        let mut bytes = Vec::with_capacity(128);
        let mut asked = DurabilityClass::Unspecified;
        let journal = match command {
            Command::CreateJournal(settings) => {
                check_journal_name(&settings.name, "name")?;
                asked = settings.class;
                frame(&mut bytes, KIND_CREATE_JOURNAL, |out| settings.encode(out))?;
                Some(settings.name.clone())
            }
            Command::MapJournal { name } => {
                check_journal_name(name, "name")?;
                frame(&mut bytes, KIND_MAP_JOURNAL, |out| put_name(out, name))?;
                Some(name.clone())
            }
            Command::FormCluster { cluster_id, groups } => {
                if *groups == 0 {
                    let message = "a cluster has at least one group";
                    return Err(Refusal::new(Reason::RequestMalformed, "groups", message));
                }
                frame(&mut bytes, KIND_FORM_CLUSTER, |out| {
                    out.extend_from_slice(cluster_id);
                    out.extend_from_slice(&groups.to_le_bytes());
                })?;
                None
            }
            Command::RegisterNode { node_id, incarnation, start, nonce } => {
                frame(&mut bytes, KIND_REGISTER_NODE, |out| {
                    for number in [node_id, incarnation, start, nonce] {
                        out.extend_from_slice(&number.to_le_bytes());
                    }
                })?;
                None
            }
            Command::DegradedFor { since_index, elapsed_ms } => {
                frame(&mut bytes, KIND_DEGRADED_FOR, |out| {
                    out.extend_from_slice(&since_index.to_le_bytes());
                    out.extend_from_slice(&elapsed_ms.to_le_bytes());
                })?;
                None
            }
            Command::SetRegime { reason, degraded } => {
                frame(&mut bytes, KIND_SET_REGIME, |out| {
                    out.push(u8::from(degraded.is_some()));
                    put_text(out, reason);
                    if let Some(budget) = degraded {
                        put_budget(out, budget);
                    }
                })?;
                None
            }
        };
        Ok(Self { bytes, journal, entry_count: 0, asked })
    }

    /// Validates and encodes a client's append: everything that can be said without the journal's state.
    ///
    /// # Errors
    /// A [`Refusal`] naming the field at fault, e.g. `entries[3].postings[0].amount`.
    pub fn append(request: &AppendRequest) -> Result<Self, Refusal> {
        if request.journal.starts_with(RESERVED_JOURNAL_PREFIX) {
            let message = format!("journals that begin with {RESERVED_JOURNAL_PREFIX} are the system's");
            return Err(Refusal::new(Reason::JournalReserved, "journal", message));
        }
        Self::system_append(request)
    }

    /// As [`PreparedCommand::append`], for the system's own journals, too.
    ///
    /// # Errors
    /// A [`Refusal`] naming the field at fault.
    pub fn system_append(request: &AppendRequest) -> Result<Self, Refusal> {
        check_journal_name(&request.journal, "journal")?;
        let class = check_class(request.durability_class)?;
        let encoded_bytes = check_size(request)?;
        let count = u32::try_from(request.entries.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(encoded_bytes + 128);
        let mut fault = None;
        frame(&mut bytes, KIND_APPEND, |out| {
            put_name(out, &request.journal);
            out.push(class);
            out.extend_from_slice(&count.to_le_bytes());
            fault = request.entries.iter().enumerate().find_map(|(at, entry)| {
                encode_entry(entry, out).err().map(|refusal| refusal.within(&format!("entries[{at}]")))
            });
        })?;
        match fault {
            Some(refusal) => Err(refusal),
            None => {
                let asked = request.durability_class();
                let (journal, entry_count) = (Some(request.journal.clone()), request.entries.len());
                Ok(Self { bytes, journal, entry_count, asked })
            }
        }
    }

    /// The journal that it is about, if it is about one.
    #[must_use]
    pub fn journal(&self) -> Option<&str> {
        self.journal.as_deref()
    }

    /// The class that it must be placed as, in a journal with this default: never weaker than that.
    #[must_use]
    pub fn class(&self, default: Class) -> Class {
        Class::of_request(self.asked, default)
    }

    /// How many entries it would append.
    #[must_use]
    pub const fn entry_count(&self) -> usize {
        self.entry_count
    }

    /// What it adds to a proposal, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Validates and encodes a client's append; short for [`PreparedCommand::append`].
///
/// # Errors
/// A [`Refusal`] naming the field at fault.
pub fn prepare(request: &AppendRequest) -> Result<PreparedCommand, Refusal> {
    PreparedCommand::append(request)
}

fn check_class(class: i32) -> Result<u8, Refusal> {
    match DurabilityClass::try_from(class) {
        Ok(DurabilityClass::Unspecified) => Ok(0),
        Ok(DurabilityClass::City) => Ok(1),
        Ok(DurabilityClass::Geo) => Ok(2),
        Err(_) => {
            let message = format!("{class} is no durability class");
            Err(Refusal::new(Reason::ClassInvalid, "durability_class", message))
        }
    }
}

fn check_size(request: &AppendRequest) -> Result<usize, Refusal> {
    let count = request.entries.len();
    if count == 0 {
        return Err(Refusal::new(Reason::RequestEmpty, "entries", "the request has no entries"));
    }
    if count > MAX_REQUEST_ENTRIES {
        let message = format!("{count} entries are more than {MAX_REQUEST_ENTRIES}");
        return Err(Refusal::new(Reason::RequestTooLarge, "entries", message));
    }
    let encoded_bytes = request.encoded_len();
    if encoded_bytes > MAX_REQUEST_BYTES {
        let message = format!("{encoded_bytes} bytes encoded are more than {MAX_REQUEST_BYTES}");
        return Err(Refusal::new(Reason::RequestTooLarge, "entries", message));
    }
    Ok(encoded_bytes)
}

/// Writes a command's kind and length around its body.
fn frame(out: &mut Vec<u8>, kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Result<(), Refusal> {
    let start = out.len();
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start - FRAME_BYTES)
        .map_err(|_| Refusal::new(Reason::RequestTooLarge, "", "the command is larger than 4 GiB"))?;
    out[start + 1..start + FRAME_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// The name has been checked: at most 64 bytes.
fn put_name(out: &mut Vec<u8>, name: &str) {
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(name.as_bytes());
}

/// Collects commands into one proposal.
#[derive(Debug, Clone)]
pub struct ProposalBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl ProposalBuilder {
    /// An empty proposal.
    #[must_use]
    pub fn new(header: ProposalHeader) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.push(PROPOSAL_VERSION);
        bytes.extend_from_slice(&header.leader.to_le_bytes());
        bytes.extend_from_slice(&header.leader_clock_us.to_le_bytes());
        bytes.extend_from_slice(&header.city_watermark.to_le_bytes());
        bytes.extend_from_slice(&header.geo_watermark.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Self { bytes, count: 0 }
    }

    /// Adds a command; its outcome will stand at this place among the outcomes.
    pub fn push_prepared(&mut self, command: &PreparedCommand) {
        self.bytes.extend_from_slice(&command.bytes);
        self.count += 1;
    }

    /// Encodes and adds a command.
    ///
    /// # Errors
    /// As [`PreparedCommand::new`]; nothing is added then.
    pub fn push(&mut self, command: &Command) -> Result<(), Refusal> {
        self.push_prepared(&PreparedCommand::new(command)?);
        Ok(())
    }

    /// The same proposal with another clock: for one that was not taken.
    #[must_use]
    pub fn with_clock(proposal: &Bytes, leader_clock_us: i64) -> Bytes {
        let mut bytes = proposal.to_vec();
        if let Some(clock) = bytes.get_mut(CLOCK_AT..CLOCK_AT + 8) {
            clock.copy_from_slice(&leader_clock_us.to_le_bytes());
        }
        Bytes::from(bytes.into_boxed_slice())
    }

    /// How large the proposal is by now, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many commands it has.
    #[must_use]
    pub const fn command_count(&self) -> u32 {
        self.count
    }

    /// The payload of the log entry. It lives on in caches, so it takes no more memory than it has bytes.
    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.bytes[COUNT_AT..HEADER_BYTES].copy_from_slice(&self.count.to_le_bytes());
        Bytes::from(self.bytes.into_boxed_slice())
    }
}
