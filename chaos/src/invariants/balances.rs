//! In every journal and currency debits and credits are equal, on every replica at every moment.

use std::collections::BTreeMap;

use tercet_node::ledger::Ledger;

pub(super) fn check(node: u64, ledger: &Ledger) -> Result<(), String> {
    for journal in ledger.journals(None) {
        let mut sums: BTreeMap<String, (u128, u128)> = BTreeMap::new();
        for row in journal.balances(None, None, usize::MAX) {
            let sum = sums.entry(row.currency).or_default();
            sum.0 += row.totals.debits;
            sum.1 += row.totals.credits;
        }
        for (currency, (debits, credits)) in sums {
            if debits != credits {
                let name = journal.name();
                return Err(format!("balances: {name} on node {node}: {debits} and {credits} {currency}"));
            }
        }
    }
    Ok(())
}
