//! Loads the sample into the cluster of `tercet dev`, as any client would, and reads it back.
//!
//! Invariants: only orders whose keys the journal does not hold are sent, and a key that is sent twice is one entry all the
//! same; what is shown is what the cluster answers, never what was sent.

use std::collections::{BTreeMap, HashSet};

use futures::StreamExt;
use tercet_proto::client::Client;
use tercet_proto::v1;
use tercet_proto::v1::posting::Side;
use tercet_proto::v1::{Consistency, DurabilityClass};

use super::sample::{self, BUSINESS_DATE, BankTotal, CURRENCY, CURRENCY_DIGITS, JOURNAL, Order};
use crate::ctl::balance::minor_units;
use crate::ctl::exit::{Exit, Failure};
use crate::ctl::journal::class_text;
use crate::ctl::money::{format_amount, format_count};
use crate::ctl::output::{Column, hex, progress_bar, table, utc};

/// Orders of one request.
const BATCH_ORDERS: usize = 500;

/// What loading came to.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// Orders that were appended now.
    pub(crate) appended: u64,
    /// Orders that the journal held already.
    pub(crate) known: u64,
    /// The receipt of the first order.
    pub(crate) receipt: v1::Receipt,
}

/// Makes the journal if it is missing and appends the orders that it lacks.
///
/// # Errors
/// What the cluster refused, or why it does not answer.
pub(crate) async fn load(client: &Client, orders: &[Order]) -> Result<Loaded, Failure> {
    client.create_journal(create_request()).await?;
    let known_keys = keys(client).await?;
    let missing: Vec<&Order> = orders.iter().filter(|order| !known_keys.contains(&order.order_id)).collect();
    let bar = progress_bar(u64::try_from(missing.len()).unwrap_or(0), "orders");
    bar.set_message(JOURNAL);
    let mut appended = 0;
    let mut first = None;
    for batch in missing.chunks(BATCH_ORDERS) {
        let receipts = append(client, batch).await?;
        for receipt in receipts {
            // Another client may have been faster.
            appended += u64::from(!receipt.replayed);
            if first.is_none() && orders.first().is_some_and(|order| order.order_id == receipt.key) {
                first = Some(receipt);
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    let receipt = match first {
        Some(receipt) => receipt,
        // The order is in the journal: sending it again returns its receipt and appends nothing.
        None => {
            let again: Vec<&Order> = orders.iter().take(1).collect();
            let receipts = append(client, &again).await?;
            receipts.into_iter().next().ok_or_else(|| Failure::failed("the cluster sent no receipt"))?
        }
    };
    let all = u64::try_from(orders.len()).unwrap_or(0);
    Ok(Loaded { appended, known: all.saturating_sub(appended), receipt })
}

fn create_request() -> v1::CreateJournalRequest {
    v1::CreateJournalRequest {
        name: JOURNAL.to_owned(),
        currencies: vec![v1::Currency { code: CURRENCY.to_owned(), digits: CURRENCY_DIGITS }],
        default_class: DurabilityClass::City.into(),
        business_date: BUSINESS_DATE.to_owned(),
    }
}

async fn append(client: &Client, orders: &[&Order]) -> Result<Vec<v1::Receipt>, Failure> {
    let request = v1::AppendRequest {
        journal: JOURNAL.to_owned(),
        entries: orders.iter().map(|order| order.to_entry()).collect(),
        durability_class: DurabilityClass::Unspecified.into(),
    };
    Ok(client.append(request).await?.receipts)
}

/// Every key of the journal; nothing is read of an empty one.
async fn keys(client: &Client) -> Result<HashSet<String>, Failure> {
    let mut keys = HashSet::new();
    each_entry(client, |entry| {
        keys.insert(entry.key);
    })
    .await?;
    Ok(keys)
}

/// Calls `each` with every entry up to the present head.
async fn each_entry(client: &Client, mut each: impl FnMut(v1::Entry)) -> Result<(), Failure> {
    let journal = client.get_journal(JOURNAL, Consistency::Linearizable).await?;
    let head_seq = journal.head.map_or(0, |head| head.seq);
    if head_seq == 0 {
        return Ok(());
    }
    let mut entries = client.read(v1::ReadRequest {
        journal: JOURNAL.to_owned(),
        from_seq: 1,
        to_seq: head_seq,
        consistency: Consistency::Linearizable.into(),
    });
    while let Some(stored) = entries.next().await {
        if let Some(entry) = stored?.entry {
            each(entry);
        }
    }
    Ok(())
}

/// Payments to each account and its balance, as the cluster has them.
///
/// # Errors
/// What the cluster refused, or why it does not answer.
pub(crate) async fn banks(client: &Client) -> Result<BTreeMap<String, BankTotal>, Failure> {
    let mut banks: BTreeMap<String, BankTotal> = BTreeMap::new();
    each_entry(client, |entry| {
        for posting in entry.postings.iter().filter(|posting| posting.side() == Side::Credit) {
            banks.entry(posting.account.clone()).or_default().orders += 1;
        }
    })
    .await?;
    for balance in client.balances(JOURNAL, None).await? {
        // Accounts that only ever paid, like the sender's, are no receiving bank.
        if let Some(bank) = banks.get_mut(&balance.account)
            && balance.currency == CURRENCY
        {
            bank.amount = minor_units(&balance.balance)?;
        }
    }
    Ok(banks)
}

/// The balance table with its total.
pub(crate) fn banks_table(banks: &BTreeMap<String, BankTotal>) -> String {
    let row = |name: &str, total: &BankTotal| {
        vec![name.to_owned(), format_count(total.orders), format_amount(total.amount, CURRENCY_DIGITS)]
    };
    let mut rows: Vec<Vec<String>> = banks.iter().map(|(bank, total)| row(bank, total)).collect();
    let all = banks.values().fold(BankTotal::default(), |sum, total| BankTotal {
        orders: sum.orders + total.orders,
        amount: sum.amount + total.amount,
    });
    rows.push(row("total", &all));
    table(&[Column::Text("bank"), Column::Number("orders"), Column::Number(CURRENCY)], &rows)
}

/// Compares what the cluster has with the sample, as long as nothing else has been appended.
///
/// # Errors
/// Exit code 5, naming the first bank that differs.
pub(crate) fn check_banks(banks: &BTreeMap<String, BankTotal>, orders: &[Order]) -> Result<(), Failure> {
    let expected = sample::totals(orders);
    let held: u64 = banks.values().map(|bank| bank.orders).sum();
    if held > u64::try_from(orders.len()).unwrap_or(u64::MAX) {
        return Ok(());
    }
    let names: HashSet<&String> = expected.keys().chain(banks.keys()).collect();
    let mut differing: Vec<&String> =
        names.into_iter().filter(|&name| expected.get(name) != banks.get(name)).collect();
    differing.sort_unstable();
    match differing.first() {
        None => Ok(()),
        Some(bank) => {
            let message = format!("journal {JOURNAL}: the balance of {bank} is not that of the sample");
            Err(Failure::new(Exit::Verification, message))
        }
    }
}

/// A receipt, one field a line.
pub(crate) fn describe_receipt(receipt: &v1::Receipt) -> String {
    let attestation = receipt.attestation.clone().unwrap_or_default();
    let class = class_text(attestation.durability_class());
    let degraded = if attestation.degraded { ", degraded" } else { "" };
    let lines = [
        ("journal", receipt.journal.clone()),
        ("seq", receipt.seq.to_string()),
        ("key", receipt.key.clone()),
        ("entry hash", hex(&receipt.entry_hash)),
        ("chain hash", hex(&receipt.chain_hash)),
        ("recorded at", utc(receipt.recorded_at_us)),
        ("zones", attestation.zones.join(" ")),
        ("class", format!("{class}{degraded}")),
        ("replayed", if receipt.replayed { "yes" } else { "no" }.to_owned()),
    ];
    let lines: Vec<String> =
        lines.into_iter().map(|(name, value)| format!("  {name:<11}  {value}")).collect();
    format!("receipt\n{}", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_sample_shows_the_published_figures() {
        let orders = sample::orders().expect("the built-in sample");
        let text = banks_table(&sample::totals(&orders));
        assert_eq!(
            text,
            "bank   orders            CZK\n\
             AB        519   1,707,389.50\n\
             CD        458   1,498,209.40\n\
             EF        483   1,698,275.00\n\
             GH        487   1,603,264.80\n\
             IJ        496   1,626,195.40\n\
             KL        500   1,685,397.00\n\
             MN        466   1,461,547.50\n\
             OP        485   1,486,419.30\n\
             QR        531   1,728,170.30\n\
             ST        511   1,690,662.70\n\
             UV        499   1,675,704.20\n\
             WX        515   1,730,775.70\n\
             YZ        521   1,636,982.80\n\
             total   6,471  21,228,993.60"
        );
    }

    #[test]
    fn balances_that_differ_from_the_sample_are_named() {
        let orders = sample::orders().expect("the built-in sample");
        let mut banks = sample::totals(&orders);
        check_banks(&banks, &orders).expect("equal");
        banks.get_mut("KL").expect("a bank").amount += 1;
        let failure = check_banks(&banks, &orders).expect_err("differs");
        assert_eq!(failure.exit, Exit::Verification);
        assert!(failure.message.contains("the balance of KL"), "{failure}");
        banks.get_mut("KL").expect("a bank").orders += 1;
        check_banks(&banks, &orders).expect("others have appended");
    }

    #[test]
    fn a_receipt_shows_what_it_proves() {
        let receipt = v1::Receipt {
            journal: JOURNAL.to_owned(),
            seq: 1,
            key: "29401".to_owned(),
            entry_hash: vec![0xab; 32].into(),
            chain_hash: vec![0xcd; 32].into(),
            recorded_at_us: 915_408_000_000_001,
            replayed: false,
            attestation: Some(v1::Attestation {
                inherited: false,
                zones: vec!["a".to_owned(), "b".to_owned()],
                durability_class: DurabilityClass::City.into(),
                degraded: false,
            }),
        };
        let text = describe_receipt(&receipt);
        for line in [
            "  seq          1",
            "  key          29401",
            &format!("  chain hash   {}", "cd".repeat(32)),
            "  recorded at  1999-01-04T00:00:00.000001Z",
            "  zones        a b",
            "  class        city",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}\n{text}");
        }
    }
}
