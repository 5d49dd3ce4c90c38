//! A journal's settings, and its creation record: the bytes whose SHA-256 is chain_hash(0).
//!
//! Invariants: equal settings are equal bytes (currencies are kept by ascending code); the record begins with a magic that
//! no client part begins with, so neither can be taken for the other.
//!
//! ```text
//! creation record, little-endian                 settings
//!  0  magic          3 bytes "TCJ"                0  default class  u8   1 city, 2 geo
//!  3  version        u8   1                       1  business date  u32  yyyymmdd
//!  4  total length   u32  of the record           5  name           u8 length, [a-z0-9_-]
//!  8  algorithm      u8   1 SHA-256                  currencies     u8 count, each: code 3 bytes, digits u8; ascending
//!  9  group          u32
//! 13  created_at_us  i64
//! 21  settings
//! ```

use super::rules::currency_code;
use super::{BusinessDate, CanonicalError, Hash, Reader, sha256};
use crate::limits::{MAX_CURRENCIES, MAX_CURRENCY_DIGITS, MAX_JOURNAL_NAME_BYTES, RESERVED_JOURNAL_PREFIX};
use crate::reason::Reason;
use crate::refusal::Refusal;
use crate::text::quote;
use crate::v1;
use crate::v1::{DurabilityClass, HashAlgorithm};

/// The first bytes of a creation record.
pub const CREATION_MAGIC: [u8; 3] = *b"TCJ";

/// Version of the creation record.
pub const CREATION_VERSION: u8 = 1;

/// A currency of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CurrencySpec {
    /// ISO 4217 code.
    pub code: [u8; 3],
    /// Minor-unit digits.
    pub digits: u8,
}

impl CurrencySpec {
    /// The code as text.
    #[must_use]
    pub fn code_text(&self) -> String {
        String::from_utf8_lossy(&self.code).into_owned()
    }
}

/// What a journal is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// `[a-z0-9_-]{1,64}`
    pub name: String,
    /// By ascending code, none twice.
    pub currencies: Vec<CurrencySpec>,
    /// CITY or GEO.
    pub class: DurabilityClass,
    /// The first business date.
    pub business_date: BusinessDate,
}

/// Refuses a name that no journal can have. Names of the system's journals pass.
///
/// # Errors
/// JOURNAL_NAME_INVALID, naming `field`.
pub fn check_journal_name(name: &str, field: &str) -> Result<(), Refusal> {
    if is_journal_name(name) {
        return Ok(());
    }
    let message = match name.len() {
        0 => "a journal's name is needed".to_owned(),
        count if count > MAX_JOURNAL_NAME_BYTES => {
            format!("{count} bytes are more than {MAX_JOURNAL_NAME_BYTES}")
        }
        _ => format!("{} has other characters than a-z, 0-9, _ and -", quote(name)),
    };
    Err(Refusal::new(Reason::JournalNameInvalid, field, message))
}

fn is_journal_name(name: &str) -> bool {
    (1..=MAX_JOURNAL_NAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
}

impl JournalSettings {
    /// Validates what a client asks for.
    ///
    /// # Errors
    /// A [`Refusal`] naming the field: the name (or a system's name), currencies, class, business date.
    pub fn from_request(request: &v1::CreateJournalRequest) -> Result<Self, Refusal> {
        check_journal_name(&request.name, "name")?;
        if request.name.starts_with(RESERVED_JOURNAL_PREFIX) {
            let message = format!("names that begin with {RESERVED_JOURNAL_PREFIX} are the system's");
            return Err(Refusal::new(Reason::JournalReserved, "name", message));
        }
        let currencies = check_currencies(&request.currencies)?;
        let class = match DurabilityClass::try_from(request.default_class) {
            Ok(DurabilityClass::Unspecified | DurabilityClass::City) => DurabilityClass::City,
            Ok(DurabilityClass::Geo) => DurabilityClass::Geo,
            Err(_) => {
                let message = format!("{} is no durability class", request.default_class);
                return Err(Refusal::new(Reason::ClassInvalid, "default_class", message));
            }
        };
        let business_date = BusinessDate::parse(&request.business_date).ok_or_else(|| {
            let message = "a calendar date written YYYY-MM-DD is needed";
            Refusal::new(Reason::BusinessDateInvalid, "business_date", message)
        })?;
        Ok(Self { name: request.name.clone(), currencies, class, business_date })
    }

    /// Whether one of the currencies has this code.
    #[inline]
    #[must_use]
    pub fn has_currency(&self, code: [u8; 3]) -> bool {
        self.currencies.iter().any(|currency| currency.code == code)
    }

    /// Appends the settings' bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(class_byte(self.class));
        out.extend_from_slice(&self.business_date.number().to_le_bytes());
        // Both counts are bounded by the limits of the data model.
        out.push(u8::try_from(self.name.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(self.name.as_bytes());
        out.push(u8::try_from(self.currencies.len()).unwrap_or(u8::MAX));
        for currency in &self.currencies {
            out.extend_from_slice(&currency.code);
            out.push(currency.digits);
        }
    }

    /// Reads settings.
    ///
    /// # Errors
    /// Bytes that [`JournalSettings::encode`] never writes for valid settings.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, CanonicalError> {
        let class = match reader.u8("class")? {
            1 => DurabilityClass::City,
            2 => DurabilityClass::Geo,
            _ => return Err(CanonicalError::Invalid { what: "class" }),
        };
        let business_date = BusinessDate::from_number(reader.u32("business date")?)?;
        let name = reader.short_text("journal name")?;
        if !is_journal_name(name) {
            return Err(CanonicalError::Invalid { what: "journal name" });
        }
        let count = usize::from(reader.u8("currencies")?);
        if !(1..=MAX_CURRENCIES).contains(&count) {
            return Err(CanonicalError::Invalid { what: "currencies" });
        }
        let mut currencies: Vec<CurrencySpec> = Vec::with_capacity(count);
        for _ in 0..count {
            let code = currency_code(reader.bytes(3, "currency")?)
                .ok_or(CanonicalError::Invalid { what: "currency" })?;
            let digits = reader.u8("currency digits")?;
            if u32::from(digits) > MAX_CURRENCY_DIGITS
                || currencies.last().is_some_and(|last| last.code >= code)
            {
                return Err(CanonicalError::Invalid { what: "currencies" });
            }
            currencies.push(CurrencySpec { code, digits });
        }
        Ok(Self { name: name.to_owned(), currencies, class, business_date })
    }
}

fn check_currencies(asked: &[v1::Currency]) -> Result<Vec<CurrencySpec>, Refusal> {
    if asked.is_empty() || asked.len() > MAX_CURRENCIES {
        let message = format!("{} currencies; 1 to {MAX_CURRENCIES} are needed", asked.len());
        return Err(Refusal::new(Reason::CurrenciesInvalid, "currencies", message));
    }
    let mut currencies: Vec<CurrencySpec> = Vec::with_capacity(asked.len());
    for (at, currency) in asked.iter().enumerate() {
        let Some(code) = currency_code(currency.code.as_bytes()) else {
            let message = "a currency code is three capital letters (ISO 4217)";
            return Err(Refusal::new(Reason::CurrencyInvalid, format!("currencies[{at}].code"), message));
        };
        let digits = match u8::try_from(currency.digits) {
            Ok(digits) if currency.digits <= MAX_CURRENCY_DIGITS => digits,
            _ => {
                let message = format!("{} is more than {MAX_CURRENCY_DIGITS} digits", currency.digits);
                let field = format!("currencies[{at}].digits");
                return Err(Refusal::new(Reason::CurrenciesInvalid, field, message));
            }
        };
        if currencies.iter().any(|known| known.code == code) {
            let message = format!("{} stands there twice", currency.code);
            let field = format!("currencies[{at}].code");
            return Err(Refusal::new(Reason::CurrenciesInvalid, field, message));
        }
        currencies.push(CurrencySpec { code, digits });
    }
    currencies.sort_unstable();
    Ok(currencies)
}

const fn class_byte(class: DurabilityClass) -> u8 {
    match class {
        DurabilityClass::Unspecified | DurabilityClass::City => 1,
        DurabilityClass::Geo => 2,
    }
}

/// A journal's seq 0: what it was made with, where and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreationRecord {
    /// What was asked for.
    pub settings: JournalSettings,
    /// The hash behind the journal's hashes; only SHA-256 for now.
    pub algorithm: HashAlgorithm,
    /// The Raft group that keeps the journal.
    pub group: u32,
    /// The leader's UTC clock, microseconds since 1970, as recorded.
    pub created_at_us: i64,
}

impl CreationRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(&CREATION_MAGIC);
        out.push(CREATION_VERSION);
        out.extend_from_slice(&[0; 4]);
        out.push(match self.algorithm {
            HashAlgorithm::Sm3 => 2,
            HashAlgorithm::Sha256 | HashAlgorithm::Unspecified => 1,
        });
        out.extend_from_slice(&self.group.to_le_bytes());
        out.extend_from_slice(&self.created_at_us.to_le_bytes());
        self.settings.encode(&mut out);
        let total = u32::try_from(out.len()).unwrap_or(0);
        out[4..8].copy_from_slice(&total.to_le_bytes());
        out
    }

    /// Reads a record; all of `bytes` must be one.
    ///
    /// # Errors
    /// Bytes that [`CreationRecord::to_bytes`] never writes; another version or algorithm.
    pub fn parse(bytes: &[u8]) -> Result<Self, CanonicalError> {
        let mut reader = Reader::new(bytes);
        if reader.array::<3>("creation record")? != CREATION_MAGIC {
            return Err(CanonicalError::Invalid { what: "creation record" });
        }
        let version = reader.u8("creation record")?;
        if version != CREATION_VERSION {
            return Err(CanonicalError::Version { what: "creation record", found: version });
        }
        if usize::try_from(reader.u32("creation record length")?).ok() != Some(bytes.len()) {
            return Err(CanonicalError::Invalid { what: "creation record length" });
        }
        if reader.u8("hash algorithm")? != 1 {
            return Err(CanonicalError::Invalid { what: "hash algorithm" });
        }
        let group = reader.u32("group")?;
        let created_at_us = reader.i64("creation time")?;
        let settings = JournalSettings::read(&mut reader)?;
        if !reader.is_empty() {
            return Err(CanonicalError::Invalid { what: "creation record length" });
        }
        Ok(Self { settings, algorithm: HashAlgorithm::Sha256, group, created_at_us })
    }

    /// chain_hash(0) of a journal with this record.
    #[must_use]
    pub fn chain_hash(&self) -> Hash {
        sha256(&self.to_bytes())
    }
}
