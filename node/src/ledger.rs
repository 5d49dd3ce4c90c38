//! The ledger: the replicated state of one Raft group. Synchronous and pure: no clock, no I/O, no tokio, no gRPC.
//!
//! Invariants:
//! - The state is a function of the applied log entries alone: the same log gives the same digest on every replica.
//! - A journal's seq is dense, its chain hash commits to every entry, one key makes one entry for ever (G2-G4).
//! - A request is applied as a whole or not at all.
//! - Entries are not kept: a [`Mark`] says which proposal holds them, and [`entries_of`] rebuilds them from its bytes.
//!
//! | file | about |
//! |---|---|
//! | `command` | the proposal encoding, and validation of requests |
//! | `append` | applying an append |
//! | `journal`, `balances`, `catalog` | the state |
//! | `keys`, `table`, `filter` | which keys are known |
//! | `regime` | whether the remote site is waited for, and what was spent without it |
//! | `marks` | from a seq to the entry |
//! | `checkpoint`, `store` | what the index holds |

mod append;
mod balances;
mod catalog;
mod checkpoint;
mod command;
mod filter;
mod journal;
mod keys;
mod marks;
mod regime;
mod runs;
mod store;
mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use tercet_proto::canonical::{CreationRecord, EntryView, Hash, JournalSettings};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1::HashAlgorithm;

pub use append::EntryOutcome;
pub use balances::{BalanceRow, Totals};
pub use checkpoint::Checkpoint;
pub use command::{
    AppendView, Command, CommandView, Commands, Entries, PROPOSAL_VERSION, PreparedCommand, ProposalBuilder,
    ProposalHeader, ProposalView, prepare,
};
pub use journal::{Head, Journal};
pub use marks::{Mark, MarkEntries, StoredView, entries_of};
pub use regime::{Degraded, RegimeState, budget_spent};
pub use store::{IndexFault, KeyIndex, LedgerError, Pair};

use catalog::Catalog;
pub use catalog::Registered;
use keys::Keys;
use marks::{MarkReader, WHOLE_COMMAND};

use crate::placement::Class;

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An append, carried out: one outcome per entry, in the request's order.
    Appended {
        /// The journal.
        journal: Arc<str>,
        /// The class that its new entries were appended as.
        class: Class,
        /// The entries.
        entries: Vec<EntryOutcome>,
    },
    /// Refused; nothing changed.
    Refused(Refusal),
    /// A journal was made.
    JournalCreated {
        /// Its name.
        journal: Arc<str>,
    },
    /// The journal was there, with the same settings.
    JournalExisted {
        /// Its name.
        journal: Arc<str>,
    },
    /// A journal's group is this one.
    JournalMapped {
        /// The journal's name.
        name: String,
        /// The group that keeps it.
        group: u32,
        /// Chosen now, not known before.
        new: bool,
    },
    /// The cluster's id is this one.
    ClusterFormed {
        /// The first that was proposed.
        cluster_id: [u8; 16],
        /// Groups of the cluster.
        groups: u32,
        /// Set now, not known before.
        new: bool,
    },
    /// A node id is bound to this incarnation.
    NodeRegistered {
        /// The node.
        node_id: u64,
        /// The first that was proposed.
        incarnation: u64,
        /// Bound now, not known before.
        new: bool,
    },
    /// The regime of the remote site is what the record says.
    RegimeSet {
        /// It was another one before.
        new: bool,
    },
}

/// The replicated state of one group.
pub struct Ledger {
    group: u32,
    /// (term, index)
    applied: Option<(u64, u64)>,
    recorded_at_us: i64,
    city_watermark: u64,
    geo_watermark: u64,
    journals: Vec<Journal>,
    by_name: BTreeMap<Arc<str>, usize>,
    keys: Keys,
    catalog: Catalog,
    regime: RegimeState,
    /// Some journal's class is `geo`.
    any_geo: bool,
    checkpointing: bool,
    checkpointed: Option<(u64, u64)>,
    /// An error left the state half-applied.
    failed: bool,
}

/// What a proposal has done to one journal so far.
struct Touched {
    journal: usize,
    head: Head,
    skipped: Vec<(u32, u32)>,
}

/// A proposal being applied.
struct Batch<'p> {
    log_index: u64,
    touched: Vec<Touched>,
    /// Appends to journals that did not exist (yet): (journal, command).
    missed: Vec<(&'p str, u32)>,
}

impl Ledger {
    /// The state of an empty log; `keys` must hold nothing of this group ([`Ledger::restore`] takes what it holds).
    #[must_use]
    pub fn new(group: u32, keys: Arc<dyn KeyIndex>) -> Self {
        Self {
            group,
            applied: None,
            recorded_at_us: 0,
            city_watermark: 0,
            geo_watermark: 0,
            journals: Vec::new(),
            by_name: BTreeMap::new(),
            keys: Keys::new(group, keys, 0),
            catalog: Catalog::default(),
            regime: RegimeState::default(),
            any_geo: false,
            checkpointing: false,
            checkpointed: None,
            failed: false,
        }
    }

    /// What every index key of a group begins with.
    #[must_use]
    pub fn key_prefix(group: u32) -> [u8; 4] {
        group.to_be_bytes()
    }

    /// Applies a proposal: one outcome per command, in order.
    ///
    /// # Errors
    /// The index does not follow the applied one; the proposal cannot be read; the index fails. After the latter two nothing
    /// more is taken, because the state may be half-applied.
    pub fn apply(&mut self, term: u64, index: u64, payload: &[u8]) -> Result<Vec<Outcome>, LedgerError> {
        self.check_next(index)?;
        let outcomes = self.apply_proposal(index, payload);
        match &outcomes {
            Ok(_) => self.applied = Some((term, index)),
            Err(_) => self.failed = true,
        }
        outcomes
    }

    /// Passes a log entry that is no proposal: a blank one or a membership.
    ///
    /// # Errors
    /// The index is not above the applied one.
    pub fn apply_other(&mut self, term: u64, index: u64) -> Result<(), LedgerError> {
        if self.failed {
            return Err(LedgerError::Failed);
        }
        // Gaps are let through: a snapshot may end at one.
        if let Some((_, applied)) = self.applied.filter(|(_, applied)| *applied >= index) {
            return Err(LedgerError::NotNext { applied: Some(applied), got: index });
        }
        self.applied = Some((term, index));
        Ok(())
    }

    fn check_next(&self, index: u64) -> Result<(), LedgerError> {
        if self.failed {
            return Err(LedgerError::Failed);
        }
        match self.applied {
            Some((_, applied)) if applied.checked_add(1) != Some(index) => {
                Err(LedgerError::NotNext { applied: Some(applied), got: index })
            }
            _ => Ok(()),
        }
    }

    fn apply_proposal(&mut self, log_index: u64, payload: &[u8]) -> Result<Vec<Outcome>, LedgerError> {
        let proposal = ProposalView::parse(payload)?;
        let header = proposal.header();
        self.recorded_at_us = self.recorded_at_us.max(header.leader_clock_us);
        self.city_watermark = self.city_watermark.max(header.city_watermark);
        self.geo_watermark = self.geo_watermark.max(header.geo_watermark);
        self.regime.placed(self.geo_watermark);
        #[cfg(feature = "mutants")]
        self.regime.led_by(header.leader);
        let mut batch = Batch { log_index, touched: Vec::new(), missed: Vec::new() };
        // A command has five bytes at least, so the count is bounded by the payload.
        let mut outcomes = Vec::with_capacity(usize::try_from(proposal.command_count()).unwrap_or(0));
        for (number, command) in (0_u32..).zip(proposal.commands()) {
            outcomes.push(match command? {
                CommandView::Append(append) => self.apply_append(&mut batch, number, &append)?,
                CommandView::Other(command) => self.apply_command(log_index, command),
            });
        }
        self.add_marks(batch);
        Ok(outcomes)
    }

    fn apply_append<'p>(
        &mut self,
        batch: &mut Batch<'p>,
        number: u32,
        append: &AppendView<'p>,
    ) -> Result<Outcome, LedgerError> {
        let found = self.by_name.get(append.journal()).copied();
        let Some((at, journal)) = found.and_then(|at| Some((at, self.journals.get_mut(at)?))) else {
            batch.missed.push((append.journal(), number));
            return Ok(Outcome::Refused(journal_not_found(append.journal())));
        };
        let class = Class::of_request(append.class(), journal.class());
        let (log_index, now_us, regime) = (batch.log_index, self.recorded_at_us, &mut self.regime);
        let touched = batch.touch(at, journal.head);
        let admit = |fresh: &[EntryView<'_>]| regime.admit(class, log_index, fresh);
        match append::append(journal, &mut self.keys, append, now_us, admit)? {
            Ok(appended) => {
                touched.skipped.extend(appended.replayed.into_iter().map(|entry| (number, entry)));
                Ok(Outcome::Appended { journal: journal.name.clone(), class, entries: appended.entries })
            }
            Err(refusal) => {
                touched.skipped.push((number, WHOLE_COMMAND));
                Ok(Outcome::Refused(refusal))
            }
        }
    }

    /// Notes where the proposal's new entries are.
    fn add_marks(&mut self, batch: Batch<'_>) {
        for touched in batch.touched {
            let Some(journal) = self.journals.get_mut(touched.journal) else { continue };
            // A proposal is far smaller than 2^32 entries.
            let count = u32::try_from(journal.head.seq - touched.head.seq).unwrap_or(u32::MAX);
            if count == 0 {
                continue;
            }
            let mut skipped = touched.skipped;
            let missed = batch.missed.iter().filter(|(name, _)| *name == &*journal.name);
            skipped.extend(missed.map(|(_, number)| (*number, WHOLE_COMMAND)));
            skipped.sort_unstable();
            journal.marks.push(Mark {
                first_seq: touched.head.seq + 1,
                count,
                log_index: batch.log_index,
                recorded_at_us: self.recorded_at_us,
                chain_before: touched.head.chain_hash,
                skipped: (!skipped.is_empty()).then(|| skipped.into_boxed_slice()),
            });
        }
    }

    fn apply_command(&mut self, log_index: u64, command: Command) -> Outcome {
        let anywhere = matches!(
            command,
            Command::CreateJournal(_) | Command::SetRegime { .. } | Command::DegradedFor { .. }
        );
        if self.group != 0 && !anywhere {
            let message = format!("group {} does not keep the cluster's catalog; group 0 does", self.group);
            return Outcome::Refused(Refusal::new(Reason::RequestMalformed, "", message));
        }
        match command {
            Command::CreateJournal(settings) => self.create_journal(log_index, settings),
            Command::MapJournal { name } => {
                let (group, new) = self.catalog.map(self.group, &name);
                Outcome::JournalMapped { name, group, new }
            }
            Command::FormCluster { cluster_id, groups } => {
                let ((cluster_id, groups), new) = self.catalog.form(self.group, cluster_id, groups);
                Outcome::ClusterFormed { cluster_id, groups, new }
            }
            Command::RegisterNode { node_id, incarnation, start, nonce } => {
                let asked = Registered { incarnation, start, nonce };
                let (incarnation, new) = self.catalog.register(self.group, node_id, asked);
                Outcome::NodeRegistered { node_id, incarnation, new }
            }
            Command::DegradedFor { since_index, elapsed_ms } => {
                self.regime.lasted(since_index, elapsed_ms);
                Outcome::RegimeSet { new: false }
            }
            Command::SetRegime { degraded: None, reason } => {
                Outcome::RegimeSet { new: self.regime.restore(reason) }
            }
            Command::SetRegime { degraded: Some(budget), reason } => {
                match self.regime.degrade(log_index, reason, budget) {
                    Ok(new) => Outcome::RegimeSet { new },
                    Err(refusal) => Outcome::Refused(refusal),
                }
            }
        }
    }

    fn create_journal(&mut self, log_index: u64, settings: JournalSettings) -> Outcome {
        if let Some(journal) = self.journal(&settings.name) {
            return match different_setting(journal.settings(), &settings) {
                None => Outcome::JournalExisted { journal: journal.name.clone() },
                Some(field) => {
                    let message = format!("journal {:?} exists with another {field}", settings.name);
                    Outcome::Refused(Refusal::new(Reason::JournalExists, field, message))
                }
            };
        }
        let Ok(id) = u32::try_from(self.journals.len()) else {
            let message = "the group has as many journals as it can";
            return Outcome::Refused(Refusal::new(Reason::Overloaded, "name", message));
        };
        let creation = CreationRecord {
            settings,
            algorithm: HashAlgorithm::Sha256,
            group: self.group,
            created_at_us: self.recorded_at_us,
        };
        let journal = self.add_journal(Journal::create(id, creation, log_index));
        Outcome::JournalCreated { journal }
    }

    fn add_journal(&mut self, journal: Journal) -> Arc<str> {
        let name = journal.name.clone();
        self.any_geo |= journal.class() == Class::Geo;
        self.by_name.insert(name.clone(), self.journals.len());
        self.journals.push(journal);
        name
    }

    /// The group's number.
    #[must_use]
    pub const fn group(&self) -> u32 {
        self.group
    }

    /// (term, index) of the last applied log entry.
    #[must_use]
    pub const fn applied(&self) -> Option<(u64, u64)> {
        self.applied
    }

    /// The newest recorded time, microseconds since 1970.
    #[must_use]
    pub const fn recorded_at_us(&self) -> i64 {
        self.recorded_at_us
    }

    /// A floor of the watermark for class `city`, learned from proposals.
    #[must_use]
    pub const fn city_watermark(&self) -> u64 {
        self.city_watermark
    }

    /// A floor of the watermark for class `geo`, learned from proposals.
    #[must_use]
    pub const fn geo_watermark(&self) -> u64 {
        self.geo_watermark
    }

    /// The regime of the remote site.
    #[must_use]
    pub const fn regime(&self) -> &RegimeState {
        &self.regime
    }

    /// The class that a command must be placed as, its journal's default included; `city` if there is no such journal.
    #[must_use]
    pub fn class_of(&self, command: &PreparedCommand) -> Class {
        if !self.any_geo {
            return command.class(Class::City);
        }
        let default = command.journal().and_then(|name| self.journal(name)).map(Journal::class);
        command.class(default.unwrap_or(Class::City))
    }

    /// Log index of the newest change of a journal at or below `log_index`: its newest entry there, or its creation. 0 if there
    /// is none.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn changed_at(&self, journal: &str, log_index: u64) -> Result<u64, LedgerError> {
        let Some(journal) = self.journal(journal).filter(|journal| journal.created_index <= log_index) else {
            return Ok(0);
        };
        let newest = self.marks_of(journal).newest_at(log_index)?;
        Ok(newest.map_or(journal.created_index, |mark| mark.log_index))
    }

    /// A journal of this group.
    #[must_use]
    pub fn journal(&self, name: &str) -> Option<&Journal> {
        self.journals.get(*self.by_name.get(name)?)
    }

    /// The journals behind the name `after` (none: from the first), by name.
    pub fn journals(&self, after: Option<&str>) -> impl Iterator<Item = &Journal> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_name.range::<str, _>((from, Bound::Unbounded)).filter_map(|(_, at)| self.journals.get(*at))
    }

    /// How many journals this group keeps.
    #[must_use]
    pub fn journal_count(&self) -> u64 {
        self.journals.len() as u64
    }

    /// How many entries the journals of this group have.
    #[must_use]
    pub fn entry_count(&self) -> u64 {
        self.journals.iter().fold(0, |sum, journal| sum.saturating_add(journal.head.seq))
    }

    /// Where the entry with this seq is; none if the journal has none.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn locate(&self, journal: &str, seq: u64) -> Result<Option<Mark>, LedgerError> {
        self.journal(journal).map_or(Ok(None), |journal| self.marks_of(journal).locate(seq))
    }

    /// The seq of the entry with this key; none if the journal has none.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn locate_key(&self, journal: &str, key: &str) -> Result<Option<u64>, LedgerError> {
        let Some(key) = self.journal(journal).and_then(|journal| self.keys.journal_key(journal.id, key))
        else {
            return Ok(None);
        };
        Ok(self.keys.find(&key)?.map(|record| record.seq))
    }

    /// The journal's head as of a log index: what a read may show when that index is the highest that is placed. None if the
    /// journal did not exist by then.
    ///
    /// # Errors
    /// The index cannot be read.
    pub fn head_at(&self, journal: &str, log_index: u64) -> Result<Option<Head>, LedgerError> {
        let Some(journal) = self.journal(journal).filter(|journal| journal.created_index <= log_index) else {
            return Ok(None);
        };
        let marks = self.marks_of(journal);
        let seq = marks.newest_at(log_index)?.map_or(0, |mark| mark.last_seq());
        if seq == journal.head.seq {
            return Ok(Some(journal.head));
        }
        let chain_hash: Hash = match marks.locate(seq + 1)? {
            Some(next) => next.chain_before,
            None => return Err(LedgerError::Corrupt("a mark is missing")),
        };
        Ok(Some(Head { seq, chain_hash }))
    }

    fn marks_of<'a>(&'a self, journal: &'a Journal) -> MarkReader<'a> {
        MarkReader {
            marks: &journal.marks,
            index: self.keys.index(),
            prefix: store::journal_key(self.group, store::TAG_MARK, journal.id, &[]),
            head_seq: journal.head.seq,
        }
    }

    /// Group 0: the cluster's id, once formed.
    #[must_use]
    pub fn cluster_id(&self) -> Option<[u8; 16]> {
        self.catalog.cluster.map(|(id, _)| id)
    }

    /// Group 0: how many groups the cluster was formed with.
    #[must_use]
    pub fn cluster_groups(&self) -> Option<u32> {
        self.catalog.cluster.map(|(_, groups)| groups)
    }

    /// Group 0: the group that keeps a journal.
    #[must_use]
    pub fn mapped_group(&self, journal: &str) -> Option<u32> {
        self.catalog.journals.get(journal).copied()
    }

    /// Group 0: all journals of the cluster and their groups, by name, behind `after` (none: from the first).
    pub fn mapped_journals(&self, after: Option<&str>) -> impl Iterator<Item = (&str, u32)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.catalog.journals.range::<str, _>((from, Bound::Unbounded));
        range.map(|(name, group)| (name.as_str(), *group))
    }

    /// Group 0: the incarnation that a node id is bound to.
    #[must_use]
    pub fn registered_incarnation(&self, node_id: u64) -> Option<u64> {
        self.registered(node_id).map(|known| known.incarnation)
    }

    /// Group 0: the data directory that a node id is bound to, and its last start that is known.
    #[must_use]
    pub fn registered(&self, node_id: u64) -> Option<Registered> {
        self.catalog.nodes.get(&node_id).copied().filter(|known| known.incarnation != 0)
    }
}

impl Batch<'_> {
    /// The journal's part of this proposal; `head` is what it was before, if this is the first touch.
    fn touch(&mut self, journal: usize, head: Head) -> &mut Touched {
        // A proposal touches few journals; most touch one.
        let at = match self.touched.iter().position(|touched| touched.journal == journal) {
            Some(at) => at,
            None => {
                self.touched.push(Touched { journal, head, skipped: Vec::new() });
                self.touched.len() - 1
            }
        };
        &mut self.touched[at]
    }
}

fn journal_not_found(name: &str) -> Refusal {
    Refusal::new(Reason::JournalNotFound, "journal", format!("there is no journal {name:?}"))
}

/// The request field in which settings differ.
fn different_setting(known: &JournalSettings, asked: &JournalSettings) -> Option<&'static str> {
    if known.currencies != asked.currencies {
        Some("currencies")
    } else if known.class != asked.class {
        Some("default_class")
    } else if known.business_date != asked.business_date {
        Some("business_date")
    } else {
        None
    }
}
