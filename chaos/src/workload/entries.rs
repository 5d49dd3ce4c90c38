//! The entries that clients send: balanced, of every kind, with accounts that many clients share.
//!
//! Invariant: every entry is valid, so a refusal is the cluster's choice and never the entry's fault.

use rand::Rng;
use rand::seq::IndexedRandom;
use tercet_proto::canonical::{content_hash, encode_entry};
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::entry::Kind;
use tercet_proto::v1::posting::Side;

use crate::history::{Hash32, Sent};

/// The journal's currencies and their digits.
pub const CURRENCIES: [(&str, u32); 2] = [("CNY", 2), ("JPY", 0)];
/// The journal's business date.
pub const BUSINESS_DATE: &str = "2026-01-05";

const ACCOUNTS: [&str; 12] =
    ["SENDER", "clearing", "招商银行", "中国银行", "AB", "CD", "EF", "GH", "KL", "MN", "suspense", "费用"];
const LARGEST_AMOUNT: i64 = 1_000_000_000;

/// A valid entry under this key.
pub(super) fn entry(key: String, payload_bytes: usize, random: &mut impl Rng) -> v1::Entry {
    let kind = match random.random_range(0..20) {
        0 => Kind::Note,
        1 | 2 => Kind::Adjustment,
        _ => Kind::Payment,
    };
    let mut postings = Vec::new();
    if kind != Kind::Note {
        transfer(&mut postings, random);
        if random.random_ratio(1, 8) {
            transfer(&mut postings, random);
        }
    }
    let references = random
        .random_ratio(1, 4)
        .then(|| v1::References { end_to_end_id: format!("E2E/{key}"), ..v1::References::default() });
    let mut payload = vec![0; payload_bytes];
    random.fill(payload.as_mut_slice());
    v1::Entry {
        key,
        kind: kind.into(),
        business_date: BUSINESS_DATE.to_owned(),
        postings,
        references,
        payload: payload.into(),
    }
}

fn transfer(postings: &mut Vec<v1::Posting>, random: &mut impl Rng) {
    let amount = random.random_range(1..=LARGEST_AMOUNT);
    let (currency, _) = CURRENCIES[random.random_range(0..CURRENCIES.len())];
    for side in [Side::Debit, Side::Credit] {
        let account = ACCOUNTS.choose(random).copied().unwrap_or("suspense").to_owned();
        postings.push(v1::Posting { account, side: side.into(), amount, currency: currency.to_owned() });
    }
}

/// How the history names an entry.
///
/// # Errors
/// The entry is not valid.
pub(super) fn sent(entry: &v1::Entry) -> Result<Sent, Refusal> {
    let mut bytes = Vec::new();
    encode_entry(entry, &mut bytes)?;
    Ok(Sent { key: entry.key.clone(), content: Hash32(content_hash(&bytes)) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn every_entry_is_valid_and_of_its_own_content() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut contents = BTreeSet::new();
        for number in 0..500 {
            let entry = entry("same key".into(), 16, &mut random);
            contents
                .insert(sent(&entry).unwrap_or_else(|refusal| panic!("entry {number}: {refusal}")).content);
        }
        assert_eq!(contents.len(), 500);
    }
}
