//! Reads a client part in place: no allocation, no copy.
//!
//! Invariant: an [`EntryView`] exists only over bytes that obey every rule of the client part except the balance of debits
//! and credits, so its accessors cannot fail; parsing never panics, whatever the bytes.

use super::rules::{TAG_UETR, currency_code, is_name, is_reference};
use super::{BusinessDate, CanonicalError, ENTRY_VERSION, EntryHasher, Reader};
use crate::limits::{
    MAX_ACCOUNT_BYTES, MAX_AMOUNT, MAX_KEY_BYTES, MAX_PAYLOAD_BYTES, MAX_POSTINGS, MIN_POSTINGS,
};
use crate::v1;
use crate::v1::entry::Kind;
use crate::v1::posting::Side;

/// An entry as the client supplied it, over its canonical bytes.
#[derive(Debug, Clone, Copy)]
pub struct EntryView<'a> {
    client: &'a [u8],
    key: &'a str,
    kind: Kind,
    business_date: BusinessDate,
    posting_count: u8,
    postings: &'a [u8],
    references: &'a [u8],
    payload: &'a [u8],
}

impl<'a> EntryView<'a> {
    /// Reads the client part at the front of `bytes`; also returns what follows it.
    ///
    /// # Errors
    /// Bytes that [`encode_entry`](super::encode_entry) never writes.
    pub fn parse(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), CanonicalError> {
        let mut reader = Reader::new(bytes);
        let version = reader.u8("entry")?;
        if version != ENTRY_VERSION {
            return Err(CanonicalError::Version { what: "entry", found: version });
        }
        let total = reader.u32("entry length")?;
        let total = usize::try_from(total).map_err(|_| CanonicalError::Invalid { what: "entry length" })?;
        let Some((client, rest)) = bytes.split_at_checked(total) else {
            return Err(CanonicalError::Truncated { what: "entry" });
        };
        let Some(body) = client.get(5..) else {
            return Err(CanonicalError::Invalid { what: "entry length" });
        };
        Ok((Self::parse_body(client, body)?, rest))
    }

    fn parse_body(client: &'a [u8], body: &'a [u8]) -> Result<Self, CanonicalError> {
        let mut reader = Reader::new(body);
        let kind = match Kind::try_from(i32::from(reader.u8("kind")?)) {
            Ok(kind @ (Kind::Payment | Kind::Adjustment | Kind::Note)) => kind,
            _ => return Err(CanonicalError::Invalid { what: "kind" }),
        };
        let key_bytes = usize::from(reader.u16("key")?);
        let key = std::str::from_utf8(reader.bytes(key_bytes, "key")?)
            .ok()
            .filter(|key| is_name(key, MAX_KEY_BYTES))
            .ok_or(CanonicalError::Invalid { what: "key" })?;
        let business_date = BusinessDate::from_number(reader.u32("business date")?)?;
        let posting_count = reader.u8("postings")?;
        check_posting_count(kind, posting_count)?;
        let postings = measured(&mut reader, |reader| {
            (0..posting_count).try_for_each(|_| PostingView::read(reader).map(drop))
        })?;
        let reference_count = reader.u8("references")?;
        let references = measured(&mut reader, |reader| check_references(reader, reference_count))?;
        let payload_bytes = usize::try_from(reader.u32("payload")?)
            .ok()
            .filter(|&count| count <= MAX_PAYLOAD_BYTES)
            .ok_or(CanonicalError::Invalid { what: "payload length" })?;
        let payload = reader.bytes(payload_bytes, "payload")?;
        if !reader.is_empty() {
            return Err(CanonicalError::Invalid { what: "entry length" });
        }
        Ok(Self { client, key, kind, business_date, posting_count, postings, references, payload })
    }

    /// The whole client part.
    #[must_use]
    pub const fn client_part(&self) -> &'a [u8] {
        self.client
    }

    /// The idempotency key.
    #[must_use]
    pub const fn key(&self) -> &'a str {
        self.key
    }

    /// What kind of entry it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// The business date.
    #[must_use]
    pub const fn business_date(&self) -> BusinessDate {
        self.business_date
    }

    /// The postings, in the client's order.
    #[must_use]
    pub const fn postings(&self) -> Postings<'a> {
        Postings { reader: Reader::new(self.postings), left: self.posting_count }
    }

    /// The references that are present, by ascending tag.
    #[must_use]
    pub const fn references(&self) -> ReferencesIter<'a> {
        ReferencesIter { reader: Reader::new(self.references) }
    }

    /// The payload.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Hashes the client part.
    #[must_use]
    pub fn hasher(&self) -> EntryHasher {
        EntryHasher::new(self.client)
    }

    /// As the message that a client would send for it. No reference at all is an absent `references`.
    #[must_use]
    pub fn to_proto(&self) -> v1::Entry {
        let mut references = v1::References::default();
        let mut any = false;
        for reference in self.references() {
            any = true;
            let text = reference.text.to_owned();
            match reference.tag {
                1 => references.message_id = text,
                2 => references.instruction_id = text,
                3 => references.end_to_end_id = text,
                4 => references.transaction_id = text,
                5 => references.clearing_system_reference = text,
                _ => references.uetr = text,
            }
        }
        v1::Entry {
            key: self.key.to_owned(),
            kind: self.kind.into(),
            business_date: self.business_date.to_string(),
            postings: self.postings().map(|posting| posting.to_proto()).collect(),
            references: any.then_some(references),
            payload: bytes::Bytes::copy_from_slice(self.payload),
        }
    }
}

fn check_posting_count(kind: Kind, count: u8) -> Result<(), CanonicalError> {
    let fits = match kind {
        Kind::Note => count == 0,
        _ => (MIN_POSTINGS..=MAX_POSTINGS).contains(&usize::from(count)),
    };
    if fits { Ok(()) } else { Err(CanonicalError::Invalid { what: "postings" }) }
}

fn check_references(reader: &mut Reader<'_>, count: u8) -> Result<(), CanonicalError> {
    let mut previous_tag = 0;
    for _ in 0..count {
        let reference = ReferenceView::read(reader)?;
        if reference.tag <= previous_tag || !is_reference(reference.tag, reference.text) {
            return Err(CanonicalError::Invalid { what: "references" });
        }
        previous_tag = reference.tag;
    }
    Ok(())
}

/// The bytes that `read` consumes.
fn measured<'a>(
    reader: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<(), CanonicalError>,
) -> Result<&'a [u8], CanonicalError> {
    let before = reader.rest();
    read(reader)?;
    Ok(&before[..before.len() - reader.rest().len()])
}

/// One debit or credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostingView<'a> {
    /// Debit or credit.
    pub side: Side,
    /// ISO 4217 code.
    pub currency: [u8; 3],
    /// Minor units, 1 to 2^63-1.
    pub amount: u64,
    /// The account's name.
    pub account: &'a str,
}

impl<'a> PostingView<'a> {
    #[inline]
    fn read(reader: &mut Reader<'a>) -> Result<Self, CanonicalError> {
        let side = match reader.u8("side")? {
            1 => Side::Debit,
            2 => Side::Credit,
            _ => return Err(CanonicalError::Invalid { what: "side" }),
        };
        let currency = currency_code(reader.bytes(3, "currency")?)
            .ok_or(CanonicalError::Invalid { what: "currency" })?;
        let amount = reader.u64("amount")?;
        if amount == 0 || amount > MAX_AMOUNT.unsigned_abs() {
            return Err(CanonicalError::Invalid { what: "amount" });
        }
        let account = reader.short_text("account")?;
        if !is_name(account, MAX_ACCOUNT_BYTES) {
            return Err(CanonicalError::Invalid { what: "account" });
        }
        Ok(Self { side, currency, amount, account })
    }

    /// As the message that a client would send for it.
    #[must_use]
    pub fn to_proto(&self) -> v1::Posting {
        v1::Posting {
            account: self.account.to_owned(),
            side: self.side.into(),
            // Parsing bounded it.
            amount: i64::try_from(self.amount).unwrap_or(MAX_AMOUNT),
            currency: String::from_utf8_lossy(&self.currency).into_owned(),
        }
    }
}

/// The postings of an entry.
#[derive(Debug, Clone)]
pub struct Postings<'a> {
    reader: Reader<'a>,
    left: u8,
}

impl<'a> Iterator for Postings<'a> {
    type Item = PostingView<'a>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        PostingView::read(&mut self.reader).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Postings<'_> {}

/// One ISO 20022 reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceView<'a> {
    /// The field's number in `tercet.v1.References`.
    pub tag: u8,
    /// Its value.
    pub text: &'a str,
}

impl<'a> ReferenceView<'a> {
    /// Whether this is the UETR.
    #[must_use]
    pub const fn is_uetr(&self) -> bool {
        self.tag == TAG_UETR
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, CanonicalError> {
        let tag = reader.u8("reference tag")?;
        let text = reader.short_text("reference")?;
        Ok(Self { tag, text })
    }
}

/// The references of an entry that are present.
#[derive(Debug, Clone)]
pub struct ReferencesIter<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for ReferencesIter<'a> {
    type Item = ReferenceView<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        ReferenceView::read(&mut self.reader).ok()
    }
}
