//! Business dates: labels in the form `YYYY-MM-DD`, kept as the number `yyyymmdd`.
//!
//! Invariant: every value is a day of the Gregorian calendar, years 1 to 9999; the numbers order as the days do. No clock
//! is ever asked for one.

use std::fmt;

use super::CanonicalError;

/// An accounting day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BusinessDate(u32);

impl BusinessDate {
    /// Reads `YYYY-MM-DD`; none if the text has another form or names no day.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != crate::limits::BUSINESS_DATE_BYTES {
            return None;
        }
        let mut number = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            match (at, byte) {
                (4 | 7, b'-') => {}
                (4 | 7, _) => return None,
                (_, b'0'..=b'9') => number = number * 10 + u32::from(byte - b'0'),
                _ => return None,
            }
        }
        Self::from_number(number).ok()
    }

    /// From the number `yyyymmdd`.
    ///
    /// # Errors
    /// [`CanonicalError::Invalid`] if it names no day.
    pub const fn from_number(number: u32) -> Result<Self, CanonicalError> {
        let (year, month, day) = (number / 10_000, number / 100 % 100, number % 100);
        if year >= 1 && year <= 9_999 && day >= 1 && day <= days_of(year, month) {
            Ok(Self(number))
        } else {
            Err(CanonicalError::Invalid { what: "business date" })
        }
    }

    /// The number `yyyymmdd`.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for BusinessDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.0 / 10_000, self.0 / 100 % 100, self.0 % 100)
    }
}

/// Days of a month; 0 for a month that there is not.
const fn days_of(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 0,
    }
}
