//! Reads little-endian fields from the front of a byte slice, in place.
//!
//! Invariant: never reads beyond the slice and never panics; a failed read leaves the reader as it was.

use super::CanonicalError;

/// A position in bytes that are being read.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes; `what` names them in the error.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if there are fewer.
    #[inline]
    pub fn bytes(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], CanonicalError> {
        let Some((taken, rest)) = self.rest.split_at_checked(count) else {
            return Err(CanonicalError::Truncated { what });
        };
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes by value.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if there are fewer.
    #[inline]
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], CanonicalError> {
        let Some((taken, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(CanonicalError::Truncated { what });
        };
        self.rest = rest;
        Ok(*taken)
    }

    /// A byte.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] at the end.
    #[inline]
    pub fn u8(&mut self, what: &'static str) -> Result<u8, CanonicalError> {
        self.array::<1>(what).map(|[byte]| byte)
    }

    /// A 16-bit number.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if the bytes end.
    #[inline]
    pub fn u16(&mut self, what: &'static str) -> Result<u16, CanonicalError> {
        self.array(what).map(u16::from_le_bytes)
    }

    /// A 32-bit number.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if the bytes end.
    #[inline]
    pub fn u32(&mut self, what: &'static str) -> Result<u32, CanonicalError> {
        self.array(what).map(u32::from_le_bytes)
    }

    /// A 64-bit number.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if the bytes end.
    #[inline]
    pub fn u64(&mut self, what: &'static str) -> Result<u64, CanonicalError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A signed 64-bit number.
    ///
    /// # Errors
    /// [`CanonicalError::Truncated`] if the bytes end.
    #[inline]
    pub fn i64(&mut self, what: &'static str) -> Result<i64, CanonicalError> {
        self.array(what).map(i64::from_le_bytes)
    }

    /// UTF-8 text behind a one-byte length.
    ///
    /// # Errors
    /// [`CanonicalError`] if the bytes end or are not UTF-8.
    #[inline]
    pub fn short_text(&mut self, what: &'static str) -> Result<&'a str, CanonicalError> {
        let mut ahead = *self;
        let count = usize::from(ahead.u8(what)?);
        let text =
            std::str::from_utf8(ahead.bytes(count, what)?).map_err(|_| CanonicalError::Invalid { what })?;
        *self = ahead;
        Ok(text)
    }
}
