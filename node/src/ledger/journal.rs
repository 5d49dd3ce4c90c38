//! One journal's state.
//!
//! Invariants: `head.seq` is the number of its entries, and `head.chain_hash` commits to all of them and to the creation
//! record, in order.

use std::sync::Arc;

use bytes::Bytes;
use tercet_proto::canonical::{BusinessDate, CreationRecord, Hash, JournalSettings, sha256};
use tercet_proto::v1;

use super::balances::{BalanceRow, Balances};
use super::marks::Marks;
use super::store::{self, LedgerError, VALUE_VERSION};
use crate::placement::Class;

/// The newest entry of a journal; seq 0 is the creation record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Number of the newest entry.
    pub seq: u64,
    /// Its chain hash.
    pub chain_hash: Hash,
}

/// A journal of this group.
pub struct Journal {
    pub(super) id: u32,
    pub(super) name: Arc<str>,
    pub(super) creation: CreationRecord,
    pub(super) record: Bytes,
    pub(super) created_index: u64,
    pub(super) business_date: BusinessDate,
    pub(super) head: Head,
    pub(super) balances: Balances,
    pub(super) marks: Marks,
    /// Changed since the last checkpoint began.
    pub(super) dirty: bool,
}

impl Journal {
    pub(super) fn create(id: u32, creation: CreationRecord, created_index: u64) -> Self {
        let record = creation.to_bytes();
        Self {
            id,
            name: creation.settings.name.as_str().into(),
            business_date: creation.settings.business_date,
            head: Head { seq: 0, chain_hash: sha256(&record) },
            record: record.into(),
            creation,
            created_index,
            balances: Balances::new(),
            marks: Marks::default(),
            dirty: true,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What it was made with.
    #[must_use]
    pub fn settings(&self) -> &JournalSettings {
        &self.creation.settings
    }

    /// Its default class: what is shown of it is placed like that.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::from(self.creation.settings.class)
    }

    /// Its creation record.
    #[must_use]
    pub fn creation(&self) -> &CreationRecord {
        &self.creation
    }

    /// The creation record's bytes; their SHA-256 is chain_hash(0).
    #[must_use]
    pub fn creation_bytes(&self) -> &Bytes {
        &self.record
    }

    /// chain_hash(0).
    #[must_use]
    pub fn creation_hash(&self) -> Hash {
        sha256(&self.record)
    }

    /// Log index of the proposal that made it: the journal may be shown when this is placed.
    #[must_use]
    pub const fn created_index(&self) -> u64 {
        self.created_index
    }

    /// The present business date.
    #[must_use]
    pub const fn business_date(&self) -> BusinessDate {
        self.business_date
    }

    /// The newest applied entry. What may be shown is `Ledger::head_at` the watermark.
    #[must_use]
    pub const fn head(&self) -> Head {
        self.head
    }

    /// How many (account, currency) pairs have a balance.
    #[must_use]
    pub fn balance_count(&self) -> usize {
        self.balances.len()
    }

    /// Up to `limit` balances by account, then currency: of `account` only, if given, and behind `after` (account, currency).
    #[must_use]
    pub fn balances(
        &self,
        account: Option<&str>,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<BalanceRow> {
        self.balances.page(account, after, limit)
    }

    /// As a message that shows `head`.
    #[must_use]
    pub fn to_proto(&self, head: Head) -> v1::Journal {
        let settings = &self.creation.settings;
        v1::Journal {
            name: settings.name.clone(),
            currencies: settings
                .currencies
                .iter()
                .map(|currency| v1::Currency { code: currency.code_text(), digits: currency.digits.into() })
                .collect(),
            default_class: settings.class.into(),
            business_date: self.business_date.to_string(),
            hash_algorithm: self.creation.algorithm.into(),
            head: Some(v1::Head { seq: head.seq, chain_hash: Bytes::copy_from_slice(&head.chain_hash) }),
            group: self.creation.group,
            created_at_us: self.creation.created_at_us,
            creation_record: self.record.clone(),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(64 + self.record.len());
        value.push(VALUE_VERSION);
        value.extend_from_slice(&self.created_index.to_le_bytes());
        value.extend_from_slice(&self.head.seq.to_le_bytes());
        value.extend_from_slice(&self.head.chain_hash);
        value.extend_from_slice(&self.business_date.number().to_le_bytes());
        value.extend_from_slice(&self.record);
        value
    }

    pub(super) fn decode(id: u32, value: &[u8]) -> Result<Self, LedgerError> {
        let journal = store::read_all(value, "journal", |reader| {
            let version = reader.u8("journal")?;
            let created_index = reader.u64("journal")?;
            let head = Head { seq: reader.u64("journal")?, chain_hash: reader.array("journal")? };
            let business_date = BusinessDate::from_number(reader.u32("journal")?)?;
            let record = reader.bytes(reader.rest().len(), "journal")?;
            let journal = Self::create(id, CreationRecord::parse(record)?, created_index);
            Ok((version == VALUE_VERSION).then_some(Self { head, business_date, dirty: false, ..journal }))
        })?;
        journal.ok_or(LedgerError::Corrupt("journal of another version"))
    }
}
