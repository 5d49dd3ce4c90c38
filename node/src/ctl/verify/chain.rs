//! Recomputes a journal from its creation record on, entry by entry, with nothing but what a reader is given (G4).
//!
//! Invariant: everything that is checked is recomputed here from the entries' content; no hash and no balance that a
//! replica states is used to compute another.

use std::collections::BTreeMap;

use tercet_proto::canonical::{self, CreationRecord, Hash, sha256};
use tercet_proto::v1;
use tercet_proto::v1::posting::Side;

use crate::ctl::output::hex;

/// Something that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Fault {
    /// The creation record does not describe the journal, or is none.
    #[error("creation record: {0}")]
    Creation(String),
    /// A hole, a repetition or a wrong order.
    #[error("seq {found} stands where seq {expected} must be")]
    Seq {
        /// The next number.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// The entry is none that the store could have taken.
    #[error("seq {seq}: {why}")]
    Content {
        /// The entry.
        seq: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A hash differs.
    #[error("seq {seq}: {which} is {stated}, the entries give {computed}")]
    Hash {
        /// The entry; 0 is the creation record.
        seq: u64,
        /// `entry_hash` or `chain_hash`.
        which: &'static str,
        /// What the replica states, in hexadecimal.
        stated: String,
        /// What was recomputed, in hexadecimal.
        computed: String,
    },
    /// A balance differs.
    #[error("balance of {account:?} in {currency} after seq {seq}: {stated}, the entries give {computed}")]
    Balance {
        /// The account.
        account: String,
        /// The currency.
        currency: String,
        /// The seq that the balances are as of.
        seq: u64,
        /// Debits and credits as the replica states them.
        stated: String,
        /// Debits and credits as recomputed.
        computed: String,
    },
}

/// Debits and credits of one account in one currency, in minor units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Sum of the debits.
    pub(crate) debits: u128,
    /// Sum of the credits.
    pub(crate) credits: u128,
}

impl Totals {
    fn describe(self) -> String {
        format!("debits {}, credits {}", self.debits, self.credits)
    }
}

/// Account, then currency: the order in which balances are listed.
type AccountKey = (String, String);

/// A journal recomputed up to some seq.
#[derive(Debug, Clone)]
pub(crate) struct Recomputed {
    currencies: Vec<String>,
    seq: u64,
    chain_hash: Hash,
    recorded_at_us: i64,
    balances: BTreeMap<AccountKey, Totals>,
    client_part: Vec<u8>,
}

impl Recomputed {
    /// A journal at seq 0.
    ///
    /// # Errors
    /// [`Fault::Creation`] if the creation record is none or contradicts the journal's other fields.
    pub(crate) fn from_creation(journal: &v1::Journal) -> Result<Self, Fault> {
        let record = CreationRecord::parse(&journal.creation_record)
            .map_err(|error| Fault::Creation(error.to_string()))?;
        check_creation(&record, journal)?;
        Ok(Self {
            currencies: record.settings.currencies.iter().map(|currency| currency.code_text()).collect(),
            seq: 0,
            chain_hash: sha256(&journal.creation_record),
            recorded_at_us: record.created_at_us,
            balances: BTreeMap::new(),
            client_part: Vec::new(),
        })
    }

    /// The newest seq.
    pub(crate) const fn seq(&self) -> u64 {
        self.seq
    }

    /// The chain hash at [`Recomputed::seq`].
    pub(crate) const fn chain_hash(&self) -> &Hash {
        &self.chain_hash
    }

    /// Takes the next entry.
    ///
    /// # Errors
    /// The first [`Fault`]; the state is not to be used further then.
    pub(crate) fn push(&mut self, stored: &v1::StoredEntry) -> Result<(), Fault> {
        let expected = self.seq + 1;
        if stored.seq != expected {
            return Err(Fault::Seq { expected, found: stored.seq });
        }
        let content = |why: String| Fault::Content { seq: expected, why };
        let entry = stored.entry.as_ref().ok_or_else(|| content("has no content".to_owned()))?;
        self.client_part.clear();
        canonical::encode_entry(entry, &mut self.client_part).map_err(|fault| content(fault.to_string()))?;
        if stored.recorded_at_us < self.recorded_at_us {
            return Err(content(format!(
                "recorded at {} us, before {} us of what precedes it",
                stored.recorded_at_us, self.recorded_at_us
            )));
        }
        let store_part = canonical::store_part(expected, stored.recorded_at_us);
        let entry_hash = canonical::entry_hash(&self.client_part, &store_part);
        check_hash(expected, "entry_hash", &stored.entry_hash, &entry_hash)?;
        let chain_hash = canonical::chain(&self.chain_hash, &entry_hash);
        check_hash(expected, "chain_hash", &stored.chain_hash, &chain_hash)?;
        self.post(entry).map_err(content)?;
        self.seq = expected;
        self.chain_hash = chain_hash;
        self.recorded_at_us = stored.recorded_at_us;
        Ok(())
    }

    fn post(&mut self, entry: &v1::Entry) -> Result<(), String> {
        for posting in &entry.postings {
            if !self.currencies.contains(&posting.currency) {
                return Err(format!("currency {} is not one of the journal's", posting.currency));
            }
            let totals =
                self.balances.entry((posting.account.clone(), posting.currency.clone())).or_default();
            let side = if posting.side() == Side::Debit { &mut totals.debits } else { &mut totals.credits };
            *side += u128::from(posting.amount.unsigned_abs());
        }
        Ok(())
    }

    /// Compares one page of the replica's balances, all as of [`Recomputed::seq`], in their order. `after` is the last
    /// account and currency of the page before; `last` says that no page follows. Accounts that a page leaves out are
    /// faults too.
    ///
    /// # Errors
    /// The first [`Fault::Balance`].
    pub(crate) fn compare_balances(
        &self,
        page: &[v1::Balance],
        after: Option<&AccountKey>,
        last: bool,
    ) -> Result<(), Fault> {
        let in_page = |key: &AccountKey| {
            let end = page.last().map(|balance| (&balance.account, &balance.currency));
            after.is_none_or(|after| key > after) && (last || end.is_some_and(|end| (&key.0, &key.1) <= end))
        };
        let mut expected = self.balances.iter().filter(|(key, _)| in_page(key));
        let mut stated = page.iter();
        loop {
            match (expected.next(), stated.next()) {
                (None, None) => return Ok(()),
                (Some((key, totals)), None) => return Err(self.fault(key, "absent", &totals.describe())),
                (None, Some(balance)) => {
                    return Err(self.fault(&key_of(balance), &describe(balance), "no such account"));
                }
                (Some((key, _)), Some(balance)) if *key != key_of(balance) => {
                    let (which, stated) = if *key < key_of(balance) {
                        (key.clone(), "absent".to_owned())
                    } else {
                        (key_of(balance), describe(balance))
                    };
                    let computed = self
                        .balances
                        .get(&which)
                        .map_or_else(|| "no such account".to_owned(), |totals| totals.describe());
                    return Err(self.fault(&which, &stated, &computed));
                }
                (Some((key, totals)), Some(balance)) => {
                    if !is_same(balance, *totals) {
                        return Err(self.fault(key, &describe(balance), &totals.describe()));
                    }
                }
            }
        }
    }

    fn fault(&self, (account, currency): &AccountKey, stated: &str, computed: &str) -> Fault {
        Fault::Balance {
            account: account.clone(),
            currency: currency.clone(),
            seq: self.seq,
            stated: stated.to_owned(),
            computed: computed.to_owned(),
        }
    }
}

/// The account and currency of a balance.
pub(crate) fn key_of(balance: &v1::Balance) -> AccountKey {
    (balance.account.clone(), balance.currency.clone())
}

fn describe(balance: &v1::Balance) -> String {
    format!("debits {}, credits {}, balance {}", balance.debits, balance.credits, balance.balance)
}

fn is_same(balance: &v1::Balance, totals: Totals) -> bool {
    let signed = |sum: u128| i128::try_from(sum).ok();
    let net = signed(totals.credits).zip(signed(totals.debits)).map(|(credits, debits)| credits - debits);
    balance.debits.parse() == Ok(totals.debits)
        && balance.credits.parse() == Ok(totals.credits)
        && net.is_some_and(|net| balance.balance.parse() == Ok(net))
}

fn check_hash(seq: u64, which: &'static str, stated: &[u8], computed: &Hash) -> Result<(), Fault> {
    if stated == computed {
        return Ok(());
    }
    Err(Fault::Hash { seq, which, stated: hex(stated), computed: hex(computed) })
}

/// The record is what is hashed; what the journal says beside it must be the same.
fn check_creation(record: &CreationRecord, journal: &v1::Journal) -> Result<(), Fault> {
    let settings = &record.settings;
    let mut currencies: Vec<(String, u32)> =
        journal.currencies.iter().map(|currency| (currency.code.clone(), currency.digits)).collect();
    currencies.sort_unstable();
    let recorded: Vec<(String, u32)> = settings
        .currencies
        .iter()
        .map(|currency| (currency.code_text(), u32::from(currency.digits)))
        .collect();
    let differs = if settings.name != journal.name {
        "name"
    } else if recorded != currencies {
        "currencies"
    } else if record.algorithm != journal.hash_algorithm() {
        "hash_algorithm"
    } else if record.group != journal.group {
        "group"
    } else if record.created_at_us != journal.created_at_us {
        "created_at_us"
    } else {
        return Ok(());
    };
    Err(Fault::Creation(format!("its {differs} is not the journal's")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tercet_proto::canonical::{BusinessDate, CurrencySpec, JournalSettings};
    use tercet_proto::v1::entry::Kind;
    use tercet_proto::v1::{DurabilityClass, HashAlgorithm};

    fn journal() -> v1::Journal {
        let record = CreationRecord {
            settings: JournalSettings {
                name: "j".to_owned(),
                currencies: vec![CurrencySpec { code: *b"CZK", digits: 2 }],
                class: DurabilityClass::City,
                business_date: BusinessDate::parse("1999-01-04").expect("a day"),
            },
            algorithm: HashAlgorithm::Sha256,
            group: 0,
            created_at_us: 1_000,
        };
        v1::Journal {
            name: "j".to_owned(),
            currencies: vec![v1::Currency { code: "CZK".to_owned(), digits: 2 }],
            default_class: DurabilityClass::City.into(),
            business_date: "1999-01-04".to_owned(),
            hash_algorithm: HashAlgorithm::Sha256.into(),
            head: None,
            group: 0,
            created_at_us: 1_000,
            creation_record: record.to_bytes().into(),
        }
    }

    fn entry(key: &str, credited: &str, amount: i64) -> v1::Entry {
        let posting = |account: &str, side: Side| v1::Posting {
            account: account.to_owned(),
            side: side.into(),
            amount,
            currency: "CZK".to_owned(),
        };
        v1::Entry {
            key: key.to_owned(),
            kind: Kind::Payment.into(),
            business_date: "1999-01-04".to_owned(),
            postings: vec![posting("SENDER", Side::Debit), posting(credited, Side::Credit)],
            references: None,
            payload: bytes::Bytes::new(),
        }
    }

    /// Entries as a faithful store would keep them.
    fn stored(entries: Vec<v1::Entry>) -> Vec<v1::StoredEntry> {
        let mut chain = sha256(&journal().creation_record);
        let mut all = Vec::new();
        for (seq, entry) in (1..).zip(entries) {
            let mut client = Vec::new();
            canonical::encode_entry(&entry, &mut client).expect("a valid entry");
            let recorded_at_us = 1_000 + i64::try_from(seq).expect("small");
            let entry_hash = canonical::entry_hash(&client, &canonical::store_part(seq, recorded_at_us));
            chain = canonical::chain(&chain, &entry_hash);
            all.push(v1::StoredEntry {
                seq,
                entry: Some(entry),
                recorded_at_us,
                entry_hash: entry_hash.to_vec().into(),
                chain_hash: chain.to_vec().into(),
            });
        }
        all
    }

    fn three() -> Vec<v1::StoredEntry> {
        stored(vec![entry("1", "AB", 100), entry("2", "CD", 250), entry("3", "AB", 7)])
    }

    fn recompute(entries: &[v1::StoredEntry]) -> Result<Recomputed, Fault> {
        let mut recomputed = Recomputed::from_creation(&journal())?;
        entries.iter().try_for_each(|entry| recomputed.push(entry))?;
        Ok(recomputed)
    }

    fn balance(account: &str, debits: u64, credits: u64) -> v1::Balance {
        v1::Balance {
            account: account.to_owned(),
            currency: "CZK".to_owned(),
            debits: debits.to_string(),
            credits: credits.to_string(),
            balance: (i128::from(credits) - i128::from(debits)).to_string(),
        }
    }

    #[test]
    fn a_faithful_journal_passes() {
        let entries = three();
        let recomputed = recompute(&entries).expect("no fault");
        assert_eq!(recomputed.seq(), 3);
        assert_eq!(recomputed.chain_hash().as_slice(), &entries[2].chain_hash[..]);
        let all = [balance("AB", 0, 107), balance("CD", 0, 250), balance("SENDER", 357, 0)];
        recomputed.compare_balances(&all, None, true).expect("no fault");
        recomputed.compare_balances(&all[..1], None, false).expect("no fault");
        recomputed.compare_balances(&all[1..], Some(&key_of(&all[0])), true).expect("no fault");
    }

    #[test]
    fn every_tampering_with_an_entry_is_found() {
        type Tamper = fn(&mut Vec<v1::StoredEntry>);
        let cases: [(&str, Tamper); 9] = [
            ("amount", |all| {
                let entry = all[1].entry.as_mut().expect("content");
                entry.postings.iter_mut().for_each(|posting| posting.amount += 1);
            }),
            ("unbalanced", |all| all[1].entry.as_mut().expect("content").postings[0].amount += 1),
            ("account", |all| all[1].entry.as_mut().expect("content").postings[1].account = "EF".to_owned()),
            ("key", |all| all[1].entry.as_mut().expect("content").key = "x".to_owned()),
            ("time", |all| all[1].recorded_at_us += 1),
            ("entry hash", |all| all[1].entry_hash = vec![0; 32].into()),
            ("chain hash", |all| all[1].chain_hash = vec![0; 32].into()),
            ("hole", |all| drop(all.remove(1))),
            ("repetition", |all| all.insert(1, all[0].clone())),
        ];
        for (what, tamper) in cases {
            let mut entries = three();
            tamper(&mut entries);
            assert!(recompute(&entries).is_err(), "{what}");
        }
        let mut swapped = three();
        swapped.swap(0, 1);
        assert_eq!(recompute(&swapped).expect_err("order"), Fault::Seq { expected: 1, found: 2 });
    }

    #[test]
    fn a_rewritten_tail_ends_in_another_chain_hash() {
        let rewritten = stored(vec![entry("1", "AB", 100), entry("2", "CD", 251), entry("3", "AB", 7)]);
        let both = [recompute(&three()), recompute(&rewritten)]
            .map(|result| *result.expect("no fault").chain_hash());
        assert_ne!(both[0], both[1]);
    }

    #[test]
    fn balances_that_differ_are_named() {
        let recomputed = recompute(&three()).expect("no fault");
        let good = [balance("AB", 0, 107), balance("CD", 0, 250), balance("SENDER", 357, 0)];
        let mut other_amount = good.clone();
        other_amount[1] = balance("CD", 0, 251);
        let mut other_net = good.clone();
        other_net[0].balance = "106".to_owned();
        let missing = [good[0].clone(), good[2].clone()];
        let extra = [good[0].clone(), balance("BB", 0, 1), good[1].clone(), good[2].clone()];
        let last_missing = &good[..2];
        for (page, account) in [
            (&other_amount[..], "CD"),
            (&other_net, "AB"),
            (&missing, "CD"),
            (&extra, "BB"),
            (last_missing, "SENDER"),
        ] {
            let fault = recomputed.compare_balances(page, None, true).expect_err("a fault");
            assert!(matches!(&fault, Fault::Balance { account: found, .. } if found == account), "{fault}");
        }
    }

    #[test]
    fn a_creation_record_of_another_journal_is_found() {
        let mut other = journal();
        other.name = "k".to_owned();
        let fault = Recomputed::from_creation(&other).expect_err("another name");
        assert_eq!(fault.to_string(), "creation record: its name is not the journal's");
        let mut broken = journal();
        broken.creation_record = bytes::Bytes::from_static(b"TCJ");
        assert!(Recomputed::from_creation(&broken).is_err());
    }
}
