//! Reading a proposal in place: its header, its commands, and the entries of an append.
//!
//! Invariant: reading never panics, whatever the bytes; what comes behind something that cannot be read is not looked at.

use tercet_proto::canonical::{CanonicalError, EntryView, JournalSettings, Reader, check_journal_name};
use tercet_proto::v1::DurabilityClass;

use super::super::regime::{read_budget, read_text};
use super::{
    Command, KIND_APPEND, KIND_CREATE_JOURNAL, KIND_DEGRADED_FOR, KIND_FORM_CLUSTER, KIND_MAP_JOURNAL,
    KIND_REGISTER_NODE, KIND_SET_REGIME, PROPOSAL_VERSION, ProposalHeader,
};

/// A proposal, read in place.
#[derive(Debug, Clone, Copy)]
pub struct ProposalView<'a> {
    header: ProposalHeader,
    count: u32,
    body: &'a [u8],
}

impl<'a> ProposalView<'a> {
    /// Reads the header and checks the frames of all commands.
    ///
    /// # Errors
    /// An unknown version; frames that do not fill the bytes exactly.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CanonicalError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("proposal")?;
        if version != PROPOSAL_VERSION {
            return Err(CanonicalError::Version { what: "proposal", found: version });
        }
        let header = ProposalHeader {
            leader: reader.u64("leader")?,
            leader_clock_us: reader.i64("leader's clock")?,
            city_watermark: reader.u64("city watermark")?,
            geo_watermark: reader.u64("geo watermark")?,
        };
        let count = reader.u32("commands")?;
        let body = reader.rest();
        for _ in 0..count {
            read_frame(&mut reader)?;
        }
        if !reader.is_empty() {
            return Err(CanonicalError::Invalid { what: "commands" });
        }
        Ok(Self { header, count, body })
    }

    /// What the leader said for all commands.
    #[must_use]
    pub const fn header(&self) -> ProposalHeader {
        self.header
    }

    /// How many commands there are.
    #[must_use]
    pub const fn command_count(&self) -> u32 {
        self.count
    }

    /// The commands, in order.
    #[must_use]
    pub const fn commands(&self) -> Commands<'a> {
        Commands { reader: Reader::new(self.body), left: self.count }
    }
}

fn read_frame<'a>(reader: &mut Reader<'a>) -> Result<(u8, &'a [u8]), CanonicalError> {
    let kind = reader.u8("command")?;
    let length = reader.u32("command length")?;
    let length = usize::try_from(length).map_err(|_| CanonicalError::Invalid { what: "command length" })?;
    Ok((kind, reader.bytes(length, "command")?))
}

/// The commands of a proposal. Ends after the first that cannot be read.
#[derive(Debug, Clone)]
pub struct Commands<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<CommandView<'a>, CanonicalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let view = read_frame(&mut self.reader).and_then(|(kind, body)| CommandView::read(kind, body));
        if view.is_err() {
            self.left = 0;
        }
        Some(view)
    }
}

/// One command, read in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandView<'a> {
    /// Appends entries to a journal.
    Append(AppendView<'a>),
    /// Any other.
    Other(Command),
}

impl<'a> CommandView<'a> {
    fn read(kind: u8, body: &'a [u8]) -> Result<Self, CanonicalError> {
        let mut reader = Reader::new(body);
        let view = match kind {
            KIND_APPEND => return AppendView::read(reader).map(Self::Append),
            KIND_CREATE_JOURNAL => Command::CreateJournal(JournalSettings::read(&mut reader)?),
            KIND_MAP_JOURNAL => Command::MapJournal { name: read_name(&mut reader)?.to_owned() },
            KIND_FORM_CLUSTER => {
                let (cluster_id, groups) = (reader.array("cluster id")?, reader.u32("groups")?);
                if groups == 0 {
                    return Err(CanonicalError::Invalid { what: "groups" });
                }
                Command::FormCluster { cluster_id, groups }
            }
            KIND_REGISTER_NODE => {
                let (node_id, incarnation) = (reader.u64("node id")?, reader.u64("incarnation")?);
                let (start, nonce) = (reader.u64("start")?, reader.u64("nonce")?);
                Command::RegisterNode { node_id, incarnation, start, nonce }
            }
            KIND_DEGRADED_FOR => {
                let since_index = reader.u64("since")?;
                Command::DegradedFor { since_index, elapsed_ms: reader.u64("elapsed")? }
            }
            KIND_SET_REGIME => {
                let (is_degraded, reason) = (reader.u8("regime")?, read_text(&mut reader)?);
                let degraded = match is_degraded {
                    0 => None,
                    1 => Some(read_budget(&mut reader)?),
                    _ => return Err(CanonicalError::Invalid { what: "regime" }),
                };
                Command::SetRegime { reason, degraded }
            }
            _ => return Err(CanonicalError::Invalid { what: "command" }),
        };
        if !reader.is_empty() {
            return Err(CanonicalError::Invalid { what: "command length" });
        }
        Ok(Self::Other(view))
    }
}

fn read_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, CanonicalError> {
    let name = reader.short_text("journal name")?;
    check_journal_name(name, "").map_err(|_| CanonicalError::Invalid { what: "journal name" })?;
    Ok(name)
}

/// An append, read in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendView<'a> {
    journal: &'a str,
    class: DurabilityClass,
    count: u32,
    entries: &'a [u8],
}

impl<'a> AppendView<'a> {
    fn read(mut reader: Reader<'a>) -> Result<Self, CanonicalError> {
        let journal = reader.short_text("journal name")?;
        let class = DurabilityClass::try_from(i32::from(reader.u8("class")?))
            .map_err(|_| CanonicalError::Invalid { what: "class" })?;
        let count = reader.u32("entries")?;
        Ok(Self { journal, class, count, entries: reader.rest() })
    }

    /// The journal's name.
    #[must_use]
    pub const fn journal(&self) -> &'a str {
        self.journal
    }

    /// The class that was asked for; unspecified: the journal's.
    #[must_use]
    pub const fn class(&self) -> DurabilityClass {
        self.class
    }

    /// How many entries the request has.
    #[must_use]
    pub const fn entry_count(&self) -> u32 {
        self.count
    }

    /// The entries, in order.
    #[must_use]
    pub const fn entries(&self) -> Entries<'a> {
        Entries { rest: self.entries, left: self.count }
    }
}

/// The entries of an append. Ends after the first that cannot be read.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<EntryView<'a>, CanonicalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match EntryView::parse(self.rest) {
            Ok((_, rest)) if self.left == 0 && !rest.is_empty() => {
                Some(Err(CanonicalError::Invalid { what: "entries" }))
            }
            Ok((view, rest)) => {
                self.rest = rest;
                Some(Ok(view))
            }
            Err(error) => {
                self.left = 0;
                Some(Err(error))
            }
        }
    }
}
