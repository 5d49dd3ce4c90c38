//! Validates an entry as a client sent it and writes its client part.
//!
//! Invariants: all stateless rules of the data model are checked here and only here; a refusal names the field relative to
//! the entry (`postings[2].amount`), and leaves the output as it was.

use super::rules::{currency_code, is_name, is_new_account, is_reference};
use super::{BusinessDate, ENTRY_VERSION};
use crate::limits::{
    MAX_ACCOUNT_BYTES, MAX_AMOUNT, MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MAX_POSTINGS, MIN_AMOUNT, MIN_POSTINGS,
};
use crate::reason::Reason;
use crate::refusal::Refusal;
use crate::text::{is_hidden, quote};
use crate::v1::entry::Kind;
use crate::v1::posting::Side;
use crate::v1::{Entry, Posting, References};

/// Appends the client part of `entry` to `out`.
///
/// # Errors
/// A [`Refusal`] naming the first field at fault, relative to the entry; `out` is unchanged then.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let start = out.len();
    let written = write_entry(entry, start, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_entry(entry: &Entry, start: usize, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let kind = check_kind(entry.kind)?;
    check_key(&entry.key)?;
    let date = check_date(&entry.business_date)?;
    check_posting_count(kind, entry.postings.len())?;
    if entry.payload.len() > MAX_PAYLOAD_BYTES {
        let message = format!("{} bytes are more than {MAX_PAYLOAD_BYTES}", entry.payload.len());
        return Err(Refusal::new(Reason::PayloadTooLarge, "payload", message));
    }
    // Every length below has just been bounded far under its type's maximum, so no conversion can fail.
    out.push(ENTRY_VERSION);
    out.extend_from_slice(&[0; 4]);
    out.push(kind as u8);
    out.extend_from_slice(&u16::try_from(entry.key.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(entry.key.as_bytes());
    out.extend_from_slice(&date.number().to_le_bytes());
    out.push(u8::try_from(entry.postings.len()).unwrap_or(0));
    let mut totals = Totals::default();
    for (at, posting) in entry.postings.iter().enumerate() {
        write_posting(posting, at, &mut totals, out)?;
    }
    totals.check()?;
    write_references(entry.references.as_ref(), out)?;
    out.extend_from_slice(&u32::try_from(entry.payload.len()).unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&entry.payload);
    let total = u32::try_from(out.len() - start).unwrap_or(0);
    if let Some(place) = out.get_mut(start + 1..start + 5) {
        place.copy_from_slice(&total.to_le_bytes());
    }
    Ok(())
}

fn check_kind(kind: i32) -> Result<Kind, Refusal> {
    match Kind::try_from(kind) {
        Ok(kind @ (Kind::Payment | Kind::Adjustment | Kind::Note)) => Ok(kind),
        Ok(kind @ (Kind::Reversal | Kind::Cutoff)) => Err(Refusal::new(
            Reason::KindUnimplemented,
            "kind",
            format!("{} entries are not taken by this version", kind.as_str_name()),
        )),
        Ok(Kind::Unspecified) => {
            Err(Refusal::new(Reason::KindInvalid, "kind", "a kind is needed: PAYMENT, ADJUSTMENT or NOTE"))
        }
        Err(_) => Err(Refusal::new(Reason::KindInvalid, "kind", format!("{kind} is no kind of entry"))),
    }
}

fn check_key(key: &str) -> Result<(), Refusal> {
    if is_name(key, MAX_KEY_BYTES) {
        return Ok(());
    }
    Err(Refusal::new(Reason::KeyInvalid, "key", name_fault(key, MAX_KEY_BYTES)))
}

/// Says what is wrong with text that [`is_name`] or [`is_new_account`] rejects, without repeating it.
fn name_fault(text: &str, max_bytes: usize) -> String {
    match text.len() {
        0 => format!("is empty; 1 to {max_bytes} bytes are needed"),
        count if count > max_bytes => format!("{count} bytes are more than {max_bytes}"),
        _ if text.chars().any(char::is_control) => "holds a control character".to_owned(),
        _ => {
            let hidden = text.chars().find(|character| is_hidden(*character)).unwrap_or_default();
            format!("holds a character that does not show, U+{:04X}", u32::from(hidden))
        }
    }
}

fn check_date(text: &str) -> Result<BusinessDate, Refusal> {
    BusinessDate::parse(text).ok_or_else(|| {
        Refusal::new(
            Reason::BusinessDateInvalid,
            "business_date",
            format!("{} is not a calendar date written YYYY-MM-DD", quote(text)),
        )
    })
}

fn check_posting_count(kind: Kind, count: usize) -> Result<(), Refusal> {
    let fault = match kind {
        Kind::Note if count == 0 => return Ok(()),
        Kind::Note => format!("a note has no postings, this one has {count}"),
        _ if (MIN_POSTINGS..=MAX_POSTINGS).contains(&count) => return Ok(()),
        _ => format!("{count} postings; {MIN_POSTINGS} to {MAX_POSTINGS} are needed"),
    };
    Err(Refusal::new(Reason::PostingsInvalid, "postings", fault))
}

fn write_posting(
    posting: &Posting,
    at: usize,
    totals: &mut Totals,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let refuse = |reason, name: &str, message: String| {
        Err(Refusal::new(reason, format!("postings[{at}].{name}"), message))
    };
    if !is_new_account(&posting.account) {
        return refuse(Reason::AccountInvalid, "account", name_fault(&posting.account, MAX_ACCOUNT_BYTES));
    }
    let side = match Side::try_from(posting.side) {
        Ok(side @ (Side::Debit | Side::Credit)) => side,
        _ => return refuse(Reason::SideInvalid, "side", "a side is needed: DEBIT or CREDIT".to_owned()),
    };
    let amount = match u64::try_from(posting.amount) {
        Ok(amount) if posting.amount >= MIN_AMOUNT => amount,
        _ => {
            let message = format!("{} is not between {MIN_AMOUNT} and {MAX_AMOUNT}", posting.amount);
            return refuse(Reason::AmountInvalid, "amount", message);
        }
    };
    let Some(currency) = currency_code(posting.currency.as_bytes()) else {
        let message = format!("{} is not three capital letters", quote(&posting.currency));
        return refuse(Reason::CurrencyInvalid, "currency", message);
    };
    totals.add(currency, side, amount);
    out.push(side as u8);
    out.extend_from_slice(&currency);
    out.extend_from_slice(&amount.to_le_bytes());
    out.push(u8::try_from(posting.account.len()).unwrap_or(0));
    out.extend_from_slice(posting.account.as_bytes());
    Ok(())
}

fn write_references(references: Option<&References>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let count_at = out.len();
    out.push(0);
    let Some(references) = references else {
        return Ok(());
    };
    let fields = [
        ("message_id", &references.message_id),
        ("instruction_id", &references.instruction_id),
        ("end_to_end_id", &references.end_to_end_id),
        ("transaction_id", &references.transaction_id),
        ("clearing_system_reference", &references.clearing_system_reference),
        ("uetr", &references.uetr),
    ];
    let mut count = 0;
    for (tag, (name, text)) in (1_u8..).zip(fields) {
        // Empty means absent, as everywhere in protobuf.
        if text.is_empty() {
            continue;
        }
        if !is_reference(tag, text) {
            let message = if name == "uetr" {
                format!("{} is not a lower-case UUIDv4", quote(text))
            } else {
                format!("{} is longer than 35 characters or holds a control character", quote(text))
            };
            return Err(Refusal::new(Reason::ReferenceInvalid, format!("references.{name}"), message));
        }
        out.push(tag);
        // 35 characters are at most 140 bytes.
        out.push(u8::try_from(text.len()).unwrap_or(0));
        out.extend_from_slice(text.as_bytes());
        count += 1;
    }
    if let Some(place) = out.get_mut(count_at) {
        *place = count;
    }
    Ok(())
}

/// Debits and credits of one entry per currency. Entries have one or two currencies, so a list is enough; 128 postings
/// below 2^63 cannot overflow 128 bits.
#[derive(Default)]
struct Totals(Vec<([u8; 3], u128, u128)>);

impl Totals {
    fn add(&mut self, currency: [u8; 3], side: Side, amount: u64) {
        let at = match self.0.iter().position(|total| total.0 == currency) {
            Some(at) => at,
            None => {
                self.0.push((currency, 0, 0));
                self.0.len() - 1
            }
        };
        if let Some((_, debits, credits)) = self.0.get_mut(at) {
            *(if side == Side::Debit { debits } else { credits }) += u128::from(amount);
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let Some((currency, debits, credits)) = self.0.iter().find(|(_, debits, credits)| debits != credits)
        else {
            return Ok(());
        };
        let currency = String::from_utf8_lossy(currency);
        let message = format!("debits of {debits} and credits of {credits} minor units of {currency} differ");
        Err(Refusal::new(Reason::Unbalanced, "postings", message)
            .with("currency", currency)
            .with("debits", debits.to_string())
            .with("credits", credits.to_string()))
    }
}
