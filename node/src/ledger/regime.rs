//! The regime of the remote site as the log tells it, and what was spent without it.
//!
//! Invariants: all of it is a function of the applied log, so that a new leader knows what its predecessor knew; the seconds of a budget
//! are those that leaders have told (`DegradedFor`), whatever any wall clock said; entries of class
//! `geo` that are not known to be placed count into a budget from the regime record on, those that were waiting already
//! included; an entry that would exceed the budget is refused when it is applied, so the budget is never overdrawn, and from
//! then on it is spent.
//!
//! ```text
//! index value, tag G: version=1 u8, degraded u8, then if degraded
//!   since index u64, elapsed_ms u64, budget, spent cost, what ended it text16 (empty: not ended)
//! waiting u32 count, each: log index u64, cost; reason of the last record text16
//! budget  entries u64, seconds u64, currencies u16 count, each: code 3, amount u128
//! cost    entries u64, currencies u16 count, each: code 3, amount u128
//! ```

use std::collections::{BTreeMap, VecDeque};

use tercet_proto::canonical::{CanonicalError, EntryView, Reader};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1::posting::Side;

use super::store::{self, LedgerError, VALUE_VERSION};
use crate::placement::{Budget, Class, Cost};

/// `geo` is acknowledged as `city`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Degraded {
    /// Log index of the regime record.
    pub since_index: u64,
    /// For how long it has been in force, by the last that a leader told.
    pub elapsed_ms: u64,
    /// How much may be acknowledged like that.
    pub budget: Budget,
    /// What was.
    pub spent: Cost,
    /// What ended the budget; none while it lasts.
    pub exhausted: Option<String>,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegimeState {
    degraded: Option<Degraded>,
    /// Entries of class `geo` above the watermark, by log index.
    waiting: VecDeque<(u64, Cost)>,
    /// Of the last record that changed something.
    reason: String,
    dirty: bool,
    /// For a mutant: who proposed last.
    #[cfg(feature = "mutants")]
    leader: u64,
}

impl RegimeState {
    /// Whether `geo` is acknowledged as `city`, and how.
    #[must_use]
    pub const fn degraded(&self) -> Option<&Degraded> {
        self.degraded.as_ref()
    }

    /// Why the last record was proposed; empty: there has been none.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Entries of class `geo` that are not known to be placed.
    #[must_use]
    pub fn waiting(&self) -> Cost {
        let mut sum = Cost::default();
        self.waiting.iter().for_each(|(_, cost)| sum.add(cost));
        sum
    }

    /// A proposal of this leader is about to be applied: what was spent does not depend on it.
    #[cfg(feature = "mutants")]
    pub(super) fn led_by(&mut self, leader: u64) {
        let is_another = std::mem::replace(&mut self.leader, leader) != leader;
        if is_another
            && tercet_storage::mutants::is("budget-forgotten")
            && let Some(degraded) = &mut self.degraded
        {
            (degraded.spent, degraded.exhausted) = (Cost::default(), None);
        }
    }

    /// Everything up to `geo_watermark` is placed.
    pub(super) fn placed(&mut self, geo_watermark: u64) {
        while self.waiting.front().is_some_and(|(index, _)| *index <= geo_watermark) {
            self.waiting.pop_front();
            self.dirty = true;
        }
    }

    /// Takes entries that are about to be appended.
    pub(super) fn admit(
        &mut self,
        class: Class,
        log_index: u64,
        fresh: &[EntryView<'_>],
    ) -> Result<(), Refusal> {
        if class != Class::Geo || fresh.is_empty() {
            return Ok(());
        }
        let cost = cost_of(fresh);
        if let Some(degraded) = &mut self.degraded {
            let mut spent = degraded.spent.clone();
            spent.add(&cost);
            let elapsed = degraded.elapsed_ms / 1_000;
            if degraded.exhausted.is_none() {
                degraded.exhausted = degraded.budget.exceeded_by(&spent, elapsed);
                self.dirty = true;
            }
            if let Some(what) = &degraded.exhausted {
                return Err(budget_spent(what));
            }
            degraded.spent = spent;
        }
        self.dirty = true;
        match self.waiting.back_mut() {
            Some((index, waiting)) if *index == log_index => waiting.add(&cost),
            _ => self.waiting.push_back((log_index, cost)),
        }
        Ok(())
    }

    /// A leader tells for how long the record at `since_index` has been in force. It is never less than before.
    pub(super) fn lasted(&mut self, since_index: u64, elapsed_ms: u64) {
        let of_record = self.degraded.as_mut().filter(|degraded| degraded.since_index == since_index);
        if let Some(degraded) = of_record.filter(|degraded| degraded.elapsed_ms < elapsed_ms) {
            degraded.elapsed_ms = elapsed_ms;
            self.dirty = true;
        }
    }

    /// A regime record: from now on `geo` is acknowledged as `city`. False if it is already.
    pub(super) fn degrade(
        &mut self,
        since_index: u64,
        reason: String,
        budget: Budget,
    ) -> Result<bool, Refusal> {
        if self.degraded.is_some() {
            return Ok(false);
        }
        let spent = self.waiting();
        if let Some(what) = budget.exceeded_by(&spent, 0) {
            let message = format!("what waits for the remote site exceeds the budget already: {what}");
            return Err(Refusal::new(Reason::PlacementUnreachable, "budget", message));
        }
        self.degraded = Some(Degraded { since_index, elapsed_ms: 0, budget, spent, exhausted: None });
        self.reason = reason;
        self.dirty = true;
        Ok(true)
    }

    /// A regime record: `geo` waits for every site again. False if it does already.
    pub(super) fn restore(&mut self, reason: String) -> bool {
        if self.degraded.take().is_none() {
            return false;
        }
        self.reason = reason;
        self.dirty = true;
        true
    }

    /// The index value, if it has changed since it was last taken.
    pub(super) fn take_changed(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty).then(|| self.encode())
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VALUE_VERSION, u8::from(self.degraded.is_some())];
        if let Some(degraded) = &self.degraded {
            out.extend_from_slice(&degraded.since_index.to_le_bytes());
            out.extend_from_slice(&degraded.elapsed_ms.to_le_bytes());
            put_budget(&mut out, &degraded.budget);
            put_cost(&mut out, &degraded.spent);
            put_text(&mut out, degraded.exhausted.as_deref().unwrap_or_default());
        }
        out.extend_from_slice(&u32::try_from(self.waiting.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (index, cost) in &self.waiting {
            out.extend_from_slice(&index.to_le_bytes());
            put_cost(&mut out, cost);
        }
        put_text(&mut out, &self.reason);
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, LedgerError> {
        let state = store::read_all(value, "regime", |reader| {
            if reader.u8("version")? != VALUE_VERSION {
                return Err(CanonicalError::Invalid { what: "regime version" });
            }
            let degraded = match reader.u8("degraded")? {
                0 => None,
                1 => Some(Degraded {
                    since_index: reader.u64("since")?,
                    elapsed_ms: reader.u64("elapsed")?,
                    budget: read_budget(reader)?,
                    spent: read_cost(reader)?,
                    exhausted: Some(read_text(reader)?).filter(|text| !text.is_empty()),
                }),
                _ => return Err(CanonicalError::Invalid { what: "regime" }),
            };
            let mut waiting = VecDeque::new();
            for _ in 0..reader.u32("waiting")? {
                waiting.push_back((reader.u64("waiting")?, read_cost(reader)?));
            }
            Ok(Self { degraded, waiting, reason: read_text(reader)?, ..Self::default() })
        })?;
        Ok(state)
    }
}

/// The refusal at a budget's end.
#[must_use]
pub fn budget_spent(what: &str) -> Refusal {
    let message = format!(
        "class geo is degraded, and its budget is spent ({what}): nothing more is taken until the remote site is back"
    );
    Refusal::new(Reason::PlacementUnreachable, "durability_class", message).with("budget", what)
}

fn cost_of(fresh: &[EntryView<'_>]) -> Cost {
    let mut amounts: BTreeMap<[u8; 3], u128> = BTreeMap::new();
    for entry in fresh {
        for posting in entry.postings().filter(|posting| posting.side == Side::Debit) {
            let sum = amounts.entry(posting.currency).or_default();
            *sum = sum.saturating_add(u128::from(posting.amount));
        }
    }
    Cost { entries: fresh.len() as u64, amounts }
}

/// Reasons are ours and short; one that is not is cut.
pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(usize::from(u16::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.extend_from_slice(&u16::try_from(end).unwrap_or(u16::MAX).to_le_bytes());
    out.extend_from_slice(&text.as_bytes()[..end]);
}

pub(super) fn read_text(reader: &mut Reader<'_>) -> Result<String, CanonicalError> {
    let length = reader.u16("text")?;
    let bytes = reader.bytes(usize::from(length), "text")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| CanonicalError::Invalid { what: "text" })
}

pub(super) fn put_budget(out: &mut Vec<u8>, budget: &Budget) {
    out.extend_from_slice(&budget.entries.to_le_bytes());
    out.extend_from_slice(&budget.seconds.to_le_bytes());
    put_amounts(out, &budget.amounts);
}

pub(super) fn read_budget(reader: &mut Reader<'_>) -> Result<Budget, CanonicalError> {
    let (entries, seconds) = (reader.u64("budget")?, reader.u64("budget")?);
    Ok(Budget { entries, seconds, amounts: read_amounts(reader)? })
}

fn put_cost(out: &mut Vec<u8>, cost: &Cost) {
    out.extend_from_slice(&cost.entries.to_le_bytes());
    put_amounts(out, &cost.amounts);
}

fn read_cost(reader: &mut Reader<'_>) -> Result<Cost, CanonicalError> {
    Ok(Cost { entries: reader.u64("cost")?, amounts: read_amounts(reader)? })
}

/// A journal has 16 currencies, a group has many journals: two bytes count them.
fn put_amounts(out: &mut Vec<u8>, amounts: &BTreeMap<[u8; 3], u128>) {
    let count = u16::try_from(amounts.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&count.to_le_bytes());
    for (currency, amount) in amounts.iter().take(usize::from(count)) {
        out.extend_from_slice(currency);
        out.extend_from_slice(&amount.to_le_bytes());
    }
}

fn read_amounts(reader: &mut Reader<'_>) -> Result<BTreeMap<[u8; 3], u128>, CanonicalError> {
    let count = reader.u16("amounts")?;
    let mut amounts = BTreeMap::new();
    for _ in 0..count {
        let currency = reader.array("currency")?;
        amounts.insert(currency, u128::from_le_bytes(reader.array("amount")?));
    }
    Ok(amounts)
}
