//! How large answers become: below what gRPC clients take by default.
//!
//! Invariants: whatever was taken can be read, so a stream's messages are cut by their own size and not by how the entries came;
//! a request whose receipts would not fit into one answer is refused before anything is proposed. All other answers are below the limit by
//! what the data model allows (a test reckons the largest ones).

use prost::Message;
use tercet_proto::limits::{MAX_KEY_BYTES, MAX_RESPONSE_BYTES, READ_MESSAGE_BYTES};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;

/// A receipt without its texts: two hashes, numbers, flags, and the lengths of everything.
const RECEIPT_BYTES: usize = 112;

/// Entries as messages of a stream, in order.
pub(super) fn messages(entries: Vec<v1::StoredEntry>, head_seq: u64) -> Vec<v1::ReadResponse> {
    let mut messages = Vec::new();
    let mut message = v1::ReadResponse { entries: Vec::new(), head_seq };
    let mut bytes = 0;
    for entry in entries {
        // With its tag and length.
        let more = entry.encoded_len() + 6;
        if bytes + more > READ_MESSAGE_BYTES && !message.entries.is_empty() {
            let full = std::mem::replace(&mut message, v1::ReadResponse { entries: Vec::new(), head_seq });
            messages.push(full);
            bytes = 0;
        }
        bytes += more;
        message.entries.push(entry);
    }
    messages.push(message);
    messages
}

/// Refuses a request whose receipts might be too large together; `zones` may hold an entry.
///
/// # Errors
/// REQUEST_TOO_LARGE.
pub(super) fn ensure_receipts_fit<'z>(
    request: &v1::AppendRequest,
    zones: impl Iterator<Item = &'z str>,
) -> Result<(), Refusal> {
    let zones: usize = zones.map(|zone| zone.len() + 2).sum();
    let each = RECEIPT_BYTES + request.journal.len() + zones;
    let count = request.entries.len();
    if count.saturating_mul(each + MAX_KEY_BYTES) <= MAX_RESPONSE_BYTES {
        return Ok(());
    }
    let keys: usize = request.entries.iter().map(|entry| entry.key.len()).sum();
    let bytes = count.saturating_mul(each).saturating_add(keys);
    if bytes <= MAX_RESPONSE_BYTES {
        return Ok(());
    }
    let why = format!(
        "the receipts of {count} entries may take {bytes} bytes, more than an answer's {MAX_RESPONSE_BYTES}: send fewer at a time"
    );
    Err(Refusal::new(Reason::RequestTooLarge, "entries", why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use tercet_proto::limits;

    fn entry(seq: u64, payload: usize) -> v1::StoredEntry {
        let key = format!("{seq:064}");
        let entry = v1::Entry { key, payload: vec![7; payload].into(), ..Default::default() };
        v1::StoredEntry { seq, entry: Some(entry), ..Default::default() }
    }

    /// 8,192 entries of 4,096,003 bytes were taken, and read as one message of 4,775,812, which clients refuse for ever.
    #[test]
    fn messages_are_cut_by_size_and_keep_the_order() {
        for (count, payload) in [(8_192, 400), (70, 65_536), (1, 65_536), (8_192, 0)] {
            let entries: Vec<_> = (1..=count).map(|seq| entry(seq, payload)).collect();
            let messages = messages(entries.clone(), count);
            assert!(messages.iter().all(|message| message.encoded_len() <= READ_MESSAGE_BYTES + 16));
            assert!(messages.iter().all(|message| message.head_seq == count && !message.entries.is_empty()));
            let read: Vec<_> = messages.into_iter().flat_map(|message| message.entries).collect();
            assert_eq!(read, entries);
        }
    }

    fn largest_receipt(request: &v1::AppendRequest, zones: &[String]) -> v1::Receipt {
        v1::Receipt {
            journal: request.journal.clone(),
            seq: u64::MAX,
            key: request.entries[0].key.clone(),
            entry_hash: Bytes::from_static(&[7; 32]),
            chain_hash: Bytes::from_static(&[7; 32]),
            recorded_at_us: -1,
            replayed: true,
            attestation: Some(v1::Attestation {
                zones: zones.to_vec(),
                durability_class: 2,
                degraded: true,
                inherited: true,
            }),
        }
    }

    #[test]
    fn receipts_that_pass_fit_into_an_answer_and_the_usual_ones_pass() {
        for zones in [3, 9, 64] {
            let zones: Vec<String> = (0..zones).map(|at| format!("{at:032}")).collect();
            for count in [1, 100, 3_000, limits::MAX_REQUEST_ENTRIES] {
                let entries = vec![v1::Entry { key: "k".repeat(64), ..Default::default() }; count];
                let request = v1::AppendRequest { journal: "j".repeat(64), entries, durability_class: 0 };
                let fits = ensure_receipts_fit(&request, zones.iter().map(String::as_str));
                let receipts = vec![largest_receipt(&request, &zones); count];
                let bytes = v1::AppendResponse { receipts }.encoded_len();
                assert!(
                    fits.is_err() || bytes <= MAX_RESPONSE_BYTES,
                    "{count} in {} zones: {bytes}",
                    zones.len()
                );
                assert!(fits.is_ok() || zones.len() > 3, "three zones with the longest names always pass");
            }
        }
    }

    /// The largest page of each listing that the data model allows.
    #[test]
    fn pages_fit_into_an_answer() {
        let balance = v1::Balance {
            account: "a".repeat(limits::MAX_ACCOUNT_BYTES),
            currency: "CNY".into(),
            debits: u128::MAX.to_string(),
            credits: u128::MAX.to_string(),
            balance: format!("-{}", u128::MAX),
        };
        let next_page_token = "t".repeat(limits::MAX_PAGE_TOKEN_BYTES);
        let balances = vec![balance; limits::MAX_BALANCE_PAGE as usize];
        let page = v1::GetBalancesResponse {
            balances,
            next_page_token: next_page_token.clone(),
            as_of_seq: u64::MAX,
        };
        assert!(page.encoded_len() <= MAX_RESPONSE_BYTES, "{}", page.encoded_len());
        let currency = v1::Currency { code: "CNY".into(), digits: 4 };
        let journal = v1::Journal {
            name: "j".repeat(limits::MAX_JOURNAL_NAME_BYTES),
            currencies: vec![currency; limits::MAX_CURRENCIES],
            default_class: 2,
            business_date: "2026-01-05".into(),
            hash_algorithm: 1,
            head: Some(v1::Head { seq: u64::MAX, chain_hash: Bytes::from_static(&[7; 32]) }),
            group: u32::MAX,
            created_at_us: -1,
            // Longer than any: name, currencies and numbers once more.
            creation_record: vec![7; 512].into(),
        };
        let journals = vec![journal; limits::MAX_JOURNAL_PAGE as usize];
        let page = v1::ListJournalsResponse { journals, next_page_token };
        assert!(page.encoded_len() <= MAX_RESPONSE_BYTES, "{}", page.encoded_len());
    }
}
