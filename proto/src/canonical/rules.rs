//! The rules on single values that encoding and parsing share, so that they cannot differ but where it is said.

use crate::limits::{CURRENCY_CODE_BYTES, MAX_ACCOUNT_BYTES, MAX_REFERENCE_CHARS, UETR_BYTES};
use crate::text::is_hidden;

/// Tag of the UETR among the references; tags are the field numbers of `tercet.v1.References`.
pub(super) const TAG_UETR: u8 = 6;

/// Text without control characters (C0, DEL, C1), 1 to `max_bytes` bytes.
#[inline]
pub(super) fn is_name(text: &str, max_bytes: usize) -> bool {
    !text.is_empty() && text.len() <= max_bytes && is_printable(text)
}

/// An account's name as a request may bring it: one in which everything shows, for a clerk tells accounts apart by looking.
/// Encoding asks for this, parsing only for [`is_name`]: what is stored stays readable whatever is taken for hidden later.
#[inline]
pub(super) fn is_new_account(text: &str) -> bool {
    is_name(text, MAX_ACCOUNT_BYTES) && (text.is_ascii() || !text.chars().any(is_hidden))
}

/// No control characters.
#[inline]
pub(super) fn is_printable(text: &str) -> bool {
    if text.is_ascii() {
        !text.bytes().any(|byte| byte.is_ascii_control())
    } else {
        !text.chars().any(char::is_control)
    }
}

/// Three capital letters.
#[inline]
pub(super) fn currency_code(text: &[u8]) -> Option<[u8; CURRENCY_CODE_BYTES]> {
    let code: [u8; CURRENCY_CODE_BYTES] = text.try_into().ok()?;
    code.iter().all(u8::is_ascii_uppercase).then_some(code)
}

/// A value that the reference with this tag may have.
pub(super) fn is_reference(tag: u8, text: &str) -> bool {
    match tag {
        TAG_UETR => is_uuid_v4(text),
        1..TAG_UETR => !text.is_empty() && text.chars().count() <= MAX_REFERENCE_CHARS && is_printable(text),
        _ => false,
    }
}

/// `xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx`, lower-case, y one of 8, 9, a, b.
fn is_uuid_v4(text: &str) -> bool {
    text.len() == UETR_BYTES
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            14 => byte == b'4',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b'),
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}
