//! The sample of `tercet dev`: real payment orders as entries of a journal (`node/data/README.md`).
//!
//! Invariants: amounts are parsed exactly; one order is one entry whose key is the order's number, so loading it again
//! appends nothing; the same file always gives the same entries, byte for byte.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;

use crate::ctl::money::{AmountError, parse_amount};

/// The journal that the sample is loaded into.
pub(crate) const JOURNAL: &str = "interbank";
/// The only currency of the sample.
pub(crate) const CURRENCY: &str = "CZK";
/// Minor-unit digits of [`CURRENCY`].
pub(crate) const CURRENCY_DIGITS: u32 = 2;
/// The orders carry no dates: one day stands for all.
pub(crate) const BUSINESS_DATE: &str = "1999-01-04";
/// The account of the sending bank, which every order debits.
pub(crate) const SENDER: &str = "SENDER";

const CSV: &str = include_str!("../../../data/interbank-orders.csv");

/// Why the sample cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SampleError {
    /// Not CSV of the expected columns.
    #[error("sample: {0}")]
    Csv(#[from] csv::Error),
    /// An amount that is not exact in haler.
    #[error("sample, order {order_id}: amount {amount:?} {source}")]
    Amount {
        /// The order.
        order_id: String,
        /// What stands there.
        amount: String,
        /// What is wrong with it.
        source: AmountError,
    },
}

/// A line of the file.
#[derive(Debug, Deserialize)]
struct Line {
    order_id: String,
    account_id: String,
    bank_to: String,
    account_to: String,
    amount: String,
    purpose: String,
}

/// One payment order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// Its number, unique.
    pub(crate) order_id: String,
    /// The payer's account at the sending bank.
    pub(crate) payer_account: String,
    /// The payee's bank.
    pub(crate) bank_to: String,
    /// The payee's account there.
    pub(crate) payee_account: String,
    /// In haler.
    pub(crate) amount: i64,
    /// Empty where the order states none.
    pub(crate) purpose: String,
}

/// What the payload keeps of an order, as compact JSON.
#[derive(Serialize)]
struct Payload<'a> {
    payer_account: &'a str,
    payee_account: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    purpose: &'a str,
}

/// Orders and haler to one bank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BankTotal {
    /// How many orders.
    pub(crate) orders: u64,
    /// Their sum.
    pub(crate) amount: i128,
}

/// Every order of the sample, in the file's order.
///
/// # Errors
/// A file that is not what `node/data/README.md` says; impossible for the one that is built in, as the tests show.
pub(crate) fn orders() -> Result<Vec<Order>, SampleError> {
    parse(CSV)
}

fn parse(text: &str) -> Result<Vec<Order>, SampleError> {
    csv::Reader::from_reader(text.as_bytes()).into_deserialize().map(|line| to_order(line?)).collect()
}

fn to_order(line: Line) -> Result<Order, SampleError> {
    let amount = parse_amount(&line.amount, CURRENCY_DIGITS).map_err(|source| SampleError::Amount {
        order_id: line.order_id.clone(),
        amount: line.amount.clone(),
        source,
    })?;
    Ok(Order {
        order_id: line.order_id,
        payer_account: line.account_id,
        bank_to: line.bank_to,
        payee_account: line.account_to,
        amount,
        purpose: line.purpose,
    })
}

impl Order {
    /// The entry that stands for the order.
    pub(crate) fn to_entry(&self) -> v1::Entry {
        let posting = |account: &str, side: Side| v1::Posting {
            account: account.to_owned(),
            side: side.into(),
            amount: self.amount,
            currency: CURRENCY.to_owned(),
        };
        v1::Entry {
            key: self.order_id.clone(),
            kind: Kind::Payment.into(),
            business_date: BUSINESS_DATE.to_owned(),
            postings: vec![posting(SENDER, Side::Debit), posting(&self.bank_to, Side::Credit)],
            references: None,
            payload: self.payload().into(),
        }
    }

    fn payload(&self) -> Vec<u8> {
        let payload = Payload {
            payer_account: &self.payer_account,
            payee_account: &self.payee_account,
            purpose: &self.purpose,
        };
        // Three strings always serialize.
        serde_json::to_vec(&payload).unwrap_or_default()
    }
}

/// Orders and amounts by bank.
pub(crate) fn totals(orders: &[Order]) -> BTreeMap<String, BankTotal> {
    let mut totals: BTreeMap<String, BankTotal> = BTreeMap::new();
    for order in orders {
        let total = totals.entry(order.bank_to.clone()).or_default();
        total.orders += 1;
        total.amount += i128::from(order.amount);
    }
    totals
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::ctl::money::format_amount;
    use tercet_proto::canonical;

    /// The figures of node/data/README.md.
    const BANKS: [(&str, u64, &str); 13] = [
        ("AB", 519, "1,707,389.50"),
        ("CD", 458, "1,498,209.40"),
        ("EF", 483, "1,698,275.00"),
        ("GH", 487, "1,603,264.80"),
        ("IJ", 496, "1,626,195.40"),
        ("KL", 500, "1,685,397.00"),
        ("MN", 466, "1,461,547.50"),
        ("OP", 485, "1,486,419.30"),
        ("QR", 531, "1,728,170.30"),
        ("ST", 511, "1,690,662.70"),
        ("UV", 499, "1,675,704.20"),
        ("WX", 515, "1,730,775.70"),
        ("YZ", 521, "1,636,982.80"),
    ];

    #[test]
    fn the_sample_has_the_published_figures() {
        let orders = orders().expect("the built-in sample");
        assert_eq!(orders.len(), 6_471);
        let totals = totals(&orders);
        let shown: Vec<(&str, u64, String)> = totals
            .iter()
            .map(|(bank, total)| (bank.as_str(), total.orders, format_amount(total.amount, CURRENCY_DIGITS)))
            .collect();
        let expected: Vec<(&str, u64, String)> =
            BANKS.iter().map(|&(bank, orders, amount)| (bank, orders, amount.to_owned())).collect();
        assert_eq!(shown, expected);
        let sum: i128 = totals.values().map(|total| total.amount).sum();
        assert_eq!(format_amount(sum, CURRENCY_DIGITS), "21,228,993.60");
    }

    #[test]
    fn every_order_is_an_entry_that_a_journal_takes() {
        let orders = orders().expect("the built-in sample");
        let keys: HashSet<&str> = orders.iter().map(|order| order.order_id.as_str()).collect();
        assert_eq!(keys.len(), orders.len());
        for order in &orders {
            canonical::encode_entry(&order.to_entry(), &mut Vec::new()).expect("a valid entry");
        }
    }

    #[test]
    fn the_first_order_is_converted_field_by_field() {
        let entry = orders().expect("the built-in sample")[0].to_entry();
        let payload = r#"{"payer_account":"1","payee_account":"87144583","purpose":"household"}"#;
        assert_eq!(entry.key, "29401");
        assert_eq!(entry.kind(), Kind::Payment);
        assert_eq!(entry.business_date, "1999-01-04");
        assert_eq!(entry.payload, payload.as_bytes());
        let postings: Vec<(&str, Side, i64, &str)> = entry
            .postings
            .iter()
            .map(|posting| {
                (posting.account.as_str(), posting.side(), posting.amount, posting.currency.as_str())
            })
            .collect();
        assert_eq!(postings, [("SENDER", Side::Debit, 245_200, "CZK"), ("YZ", Side::Credit, 245_200, "CZK")]);
    }

    #[test]
    fn an_amount_that_is_not_exact_is_refused_by_order() {
        let text = "order_id,account_id,bank_to,account_to,amount,purpose\n7,1,YZ,2,1.005,\n";
        let error = parse(text).expect_err("three decimals").to_string();
        assert_eq!(error, "sample, order 7: amount \"1.005\" has more decimals than the currency's 2");
        assert!(parse("order_id,amount\n7,1.00\n").is_err());
    }

    #[test]
    fn a_missing_purpose_is_left_out() {
        let text = "order_id,account_id,bank_to,account_to,amount,purpose\n7,1,YZ,2,1.00,\n";
        let orders = parse(text).expect("one order");
        assert_eq!(orders[0].payload(), br#"{"payer_account":"1","payee_account":"2"}"#);
    }
}
