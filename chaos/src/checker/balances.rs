//! Double entry: every entry is balanced in every currency, so all balances of a currency sum to zero; the balances that
//! replicas state are those of F, recomputed.

use std::collections::BTreeMap;

use tercet_proto::v1::posting::Side;

use super::{Evidence, Findings};
use crate::history::BalanceRow;

#[derive(Default, Clone, Copy)]
struct Sums {
    debits: i128,
    credits: i128,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut accounts: BTreeMap<(String, [u8; 3]), Sums> = BTreeMap::new();
    let mut currencies: BTreeMap<[u8; 3], i128> = BTreeMap::new();
    for logged in &evidence.log {
        let Ok(view) = &logged.view else { continue };
        let mut open: BTreeMap<[u8; 3], i128> = BTreeMap::new();
        for posting in view.postings() {
            let amount = i128::from(posting.amount);
            let sums = accounts.entry((posting.account.to_owned(), posting.currency)).or_default();
            let signed = if posting.side == Side::Debit {
                sums.debits += amount;
                -amount
            } else {
                sums.credits += amount;
                amount
            };
            *open.entry(posting.currency).or_default() += signed;
            *currencies.entry(posting.currency).or_default() += signed;
        }
        for (currency, rest) in open.iter().filter(|(_, rest)| **rest != 0) {
            findings.add(format!("seq {}: {} differ by {rest}", logged.entry.seq, name(*currency)));
        }
    }
    for (currency, rest) in currencies.iter().filter(|(_, rest)| **rest != 0) {
        findings.add(format!("the balances in {} sum to {rest}", name(*currency)));
    }
    let stated = evidence.finals.first().and_then(|log| log.balances.as_ref());
    if let Some(stated) = stated {
        compare(&accounts, stated, findings);
    }
}

fn name(currency: [u8; 3]) -> String {
    String::from_utf8_lossy(&currency).into_owned()
}

fn compare(accounts: &BTreeMap<(String, [u8; 3]), Sums>, stated: &[BalanceRow], findings: &mut Findings) {
    let mut expected: BTreeMap<(String, String), BalanceRow> = accounts
        .iter()
        .map(|((account, currency), sums)| {
            let row = BalanceRow {
                account: account.clone(),
                currency: name(*currency),
                debits: sums.debits.to_string(),
                credits: sums.credits.to_string(),
                balance: (sums.credits - sums.debits).to_string(),
            };
            ((row.account.clone(), row.currency.clone()), row)
        })
        .collect();
    for row in stated {
        match expected.remove(&(row.account.clone(), row.currency.clone())) {
            Some(recomputed) if recomputed == *row => {}
            Some(recomputed) => findings.add(format!("stated {row:?}, recomputed {recomputed:?}")),
            None => findings
                .add(format!("stated {row:?}, for which there is no posting or which is stated twice")),
        }
    }
    for row in expected.values() {
        findings.add(format!("not stated: {row:?}"));
    }
}
