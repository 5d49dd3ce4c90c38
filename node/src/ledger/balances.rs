//! The balances of one journal: account and currency to debits and credits.
//!
//! Invariants: an account's name is stored once for the hot path and once for listing in order; in every currency the debits
//! of all accounts equal the credits, because only whole entries are added.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use tercet_proto::canonical::PostingView;
use tercet_proto::limits::MAX_ACCOUNT_BYTES;
use tercet_proto::v1::posting::Side;

use super::table::ByteTable;

/// Between account and currency: below every character of an account, so that keys sort by account, then currency.
const SEPARATOR: u8 = 0;
const CURRENCY_BYTES: usize = 3;
const MAX_KEY_BYTES: usize = MAX_ACCOUNT_BYTES + 1 + CURRENCY_BYTES;

/// Sums of one account in one currency, in minor units. 2^64 entries of 2^63 fit into 128 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Sum of the debits.
    pub debits: u128,
    /// Sum of the credits.
    pub credits: u128,
}

/// One row of a listing of balances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BalanceRow {
    /// The account.
    pub account: String,
    /// The currency's code.
    pub currency: String,
    /// Its sums.
    pub totals: Totals,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    totals: Totals,
    /// Changed since the last checkpoint began.
    dirty: bool,
}

pub(super) struct Balances {
    seed: RandomState,
    table: ByteTable<Slot>,
    order: BTreeMap<Box<[u8]>, usize>,
    dirty: Vec<usize>,
}

impl Balances {
    pub(super) fn new() -> Self {
        // The seed only spreads the slots.
        Self {
            seed: RandomState::new(),
            table: ByteTable::default(),
            order: BTreeMap::new(),
            dirty: Vec::new(),
        }
    }

    /// Adds one posting.
    pub(super) fn add(&mut self, posting: &PostingView<'_>) {
        let account = posting.account.as_bytes();
        let len = account.len() + 1 + CURRENCY_BYTES;
        let mut key = [SEPARATOR; MAX_KEY_BYTES];
        // A view's account has at most MAX_ACCOUNT_BYTES.
        key[..account.len()].copy_from_slice(account);
        key[account.len() + 1..len].copy_from_slice(&posting.currency);
        let number = self.slot(&key[..len]);
        let slot = self.table.value_mut(number);
        let sum = match posting.side {
            Side::Credit => &mut slot.totals.credits,
            _ => &mut slot.totals.debits,
        };
        *sum = sum.saturating_add(u128::from(posting.amount));
        if !slot.dirty {
            slot.dirty = true;
            self.dirty.push(number);
        }
    }

    fn slot(&mut self, key: &[u8]) -> usize {
        let hash = self.seed.hash_one(key);
        match self.table.find(hash, key) {
            Some(number) => number,
            None => {
                let slot = Slot { totals: Totals::default(), dirty: false };
                let number = self.table.insert(hash, key, slot);
                self.order.insert(key.into(), number);
                number
            }
        }
    }

    /// Sets one balance as a checkpoint has it; false if the key is none.
    pub(super) fn load(&mut self, key: &[u8], totals: Totals) -> bool {
        if split(key).is_none() || key.len() > MAX_KEY_BYTES {
            return false;
        }
        let number = self.slot(key);
        self.table.value_mut(number).totals = totals;
        true
    }

    /// What changed since the last call: (account, separator, currency) and totals.
    pub(super) fn take_dirty(&mut self) -> Vec<(Vec<u8>, Totals)> {
        let mut changed = Vec::with_capacity(self.dirty.len());
        for number in std::mem::take(&mut self.dirty) {
            let key = self.table.key(number).to_vec();
            let slot = self.table.value_mut(number);
            slot.dirty = false;
            changed.push((key, slot.totals));
        }
        changed
    }

    /// Up to `limit` rows by account, then currency; of one account only, and behind `after`, if given.
    pub(super) fn page(
        &self,
        account: Option<&str>,
        after: Option<(&str, &str)>,
        limit: usize,
    ) -> Vec<BalanceRow> {
        let from: Vec<u8> = match (account, after) {
            (_, Some((account, currency))) => {
                [account.as_bytes(), &[SEPARATOR], currency.as_bytes()].concat()
            }
            (Some(account), None) => [account.as_bytes(), &[SEPARATOR]].concat(),
            (None, None) => Vec::new(),
        };
        // The cursor itself has been shown; the other two are no keys, so leaving them out loses nothing.
        let range = (std::ops::Bound::Excluded(from.as_slice()), std::ops::Bound::Unbounded);
        self.order
            .range::<[u8], _>(range)
            .filter_map(|(key, number)| Some((split(key)?, number)))
            .skip_while(|((name, _), _)| account.is_some_and(|account| name.as_bytes() < account.as_bytes()))
            .take_while(|((name, _), _)| account.is_none_or(|account| account == *name))
            .take(limit)
            .map(|((name, currency), number)| BalanceRow {
                account: name.to_owned(),
                currency: currency.to_owned(),
                totals: self.table.value(*number).totals,
            })
            .collect()
    }

    /// All balances by account, then currency, keys as stored.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], Totals)> {
        self.order.iter().map(|(key, number)| (key.as_ref(), self.table.value(*number).totals))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

/// Account and currency of a key; none if it is not one.
fn split(key: &[u8]) -> Option<(&str, &str)> {
    let (account, currency) = key.split_at_checked(key.len().checked_sub(CURRENCY_BYTES)?)?;
    let (&last, account) = account.split_last()?;
    (last == SEPARATOR).then_some(())?;
    Some((std::str::from_utf8(account).ok()?, std::str::from_utf8(currency).ok()?))
}
