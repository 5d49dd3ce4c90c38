//! Page tokens: where a listing goes on, and which request it belongs to.
//!
//! A token is lower-case hexadecimal of: version (1) | check (8 bytes) | cursor. The check is the beginning of a SHA-256 over the method,
//! the request's fields but the page size, and the cursor. It keeps nothing secret: it finds tokens of another request, another method or
//! nobody's, which would silently show another part of the listing or none.
//!
//! Invariant: a cursor that comes out belongs to the method and the fields that it is asked for with.

use sha2::{Digest, Sha256};
use tercet_proto::limits::MAX_PAGE_TOKEN_BYTES;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;

const VERSION: u8 = 1;
const CHECK_BYTES: usize = 8;

/// The pages of one request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pages<'a> {
    method: &'a str,
    journal: &'a str,
    account: &'a str,
    consistency: i32,
}

impl<'a> Pages<'a> {
    pub(super) fn of_journals(request: &'a v1::ListJournalsRequest) -> Self {
        Self { method: "ListJournals", journal: "", account: "", consistency: request.consistency }
    }

    pub(super) fn of_balances(request: &'a v1::GetBalancesRequest) -> Self {
        Self {
            method: "GetBalances",
            journal: &request.journal,
            account: &request.account,
            consistency: request.consistency,
        }
    }

    /// The token of the page behind `cursor`.
    pub(super) fn token(&self, cursor: &str) -> String {
        let bytes = std::iter::once(VERSION).chain(self.check(cursor)).chain(cursor.bytes());
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    /// The cursor that a token stands for; none for the first page.
    ///
    /// # Errors
    /// PAGE_TOKEN_INVALID.
    pub(super) fn cursor(&self, token: &str) -> Result<Option<String>, Refusal> {
        if token.is_empty() {
            return Ok(None);
        }
        let why = "it is not one that this method returned for this request";
        self.parse(token).map(Some).ok_or_else(|| Refusal::new(Reason::PageTokenInvalid, "page_token", why))
    }

    fn parse(&self, token: &str) -> Option<String> {
        if token.len() > MAX_PAGE_TOKEN_BYTES {
            return None;
        }
        let bytes = from_hex(token.as_bytes())?;
        let (&version, rest) = bytes.split_first()?;
        let (check, cursor) = rest.split_at_checked(CHECK_BYTES)?;
        let cursor = std::str::from_utf8(cursor).ok()?;
        (version == VERSION && check == self.check(cursor)).then(|| cursor.to_owned())
    }

    fn check(&self, cursor: &str) -> [u8; CHECK_BYTES] {
        let mut hasher = Sha256::new();
        for part in [self.method, self.journal, self.account, cursor] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.update(self.consistency.to_le_bytes());
        let mut check = [0; CHECK_BYTES];
        check.copy_from_slice(&hasher.finalize()[..CHECK_BYTES]);
        check
    }
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let pairs = text.chunks(2).map(|pair| match pair {
        &[high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tercet_proto::limits::{MAX_ACCOUNT_BYTES, MAX_JOURNAL_NAME_BYTES};

    fn balances(journal: &str, account: &str, page_size: u32, consistency: i32) -> v1::GetBalancesRequest {
        v1::GetBalancesRequest {
            journal: journal.into(),
            account: account.into(),
            page_size,
            page_token: String::new(),
            consistency,
        }
    }

    fn reason_of(pages: Pages<'_>, token: &str) -> Option<Reason> {
        pages.cursor(token).err().map(|refusal| refusal.reason)
    }

    #[test]
    fn a_token_leads_on_whatever_the_page_size() {
        let (small, large) = (balances("j", "", 1, 0), balances("j", "", 100, 0));
        let token = Pages::of_balances(&small).token("甲银行\0CNY");
        assert_eq!(
            Pages::of_balances(&large).cursor(&token).expect("it is ours").as_deref(),
            Some("甲银行\0CNY")
        );
        assert_eq!(Pages::of_balances(&large).cursor("").expect("the first page"), None);
    }

    /// GetBalances took another journal's token and showed no balance, with OK.
    #[test]
    fn a_token_of_another_request_is_refused() {
        let asked = balances("j", "", 0, 0);
        let token = Pages::of_balances(&asked).token("A\0CNY");
        for other in [balances("i", "", 0, 0), balances("j", "A", 0, 0), balances("j", "", 0, 1)] {
            assert_eq!(
                reason_of(Pages::of_balances(&other), &token),
                Some(Reason::PageTokenInvalid),
                "{other:?}"
            );
        }
        let journals = v1::ListJournalsRequest::default();
        assert_eq!(reason_of(Pages::of_journals(&journals), &token), Some(Reason::PageTokenInvalid));
    }

    /// ListJournals took `zzz` and 5,000 letters.
    #[test]
    fn what_is_no_token_is_refused() {
        let asked = v1::ListJournalsRequest::default();
        let pages = Pages::of_journals(&asked);
        let good = pages.token("interbank");
        let mut changed = good.clone().into_bytes();
        if let Some(last) = changed.last_mut() {
            *last = if *last == b'0' { b'1' } else { b'0' };
        }
        let changed = String::from_utf8(changed).expect("ASCII");
        let upper = good.to_uppercase();
        let strange =
            ["zzz", "a", "00", "interbank", &"a".repeat(5_000), "清算", &changed, &upper, &good[2..]];
        for token in strange.iter().chain([&&*format!("{good}00")]) {
            assert_eq!(reason_of(pages, token), Some(Reason::PageTokenInvalid), "{token}");
        }
    }

    #[test]
    fn the_longest_token_is_within_the_limit() {
        let asked = balances("j", "", 0, 0);
        let cursor = format!("{}\0CNY", "a".repeat(MAX_ACCOUNT_BYTES));
        assert!(Pages::of_balances(&asked).token(&cursor).len() <= MAX_PAGE_TOKEN_BYTES);
        assert!(
            Pages::of_balances(&asked).token(&"j".repeat(MAX_JOURNAL_NAME_BYTES)).len()
                <= MAX_PAGE_TOKEN_BYTES
        );
    }
}
