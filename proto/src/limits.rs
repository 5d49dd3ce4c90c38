//! Every size limit of the data model and the interface, by name.
//!
//! Invariant: a limit that a client can meet is stated here once; validation, documentation and error texts use these
//! constants and no literal of their own.

/// Longest journal name, in bytes (`[a-z0-9_-]{1,64}`).
pub const MAX_JOURNAL_NAME_BYTES: usize = 64;
/// Names that begin with this character belong to the system.
pub const RESERVED_JOURNAL_PREFIX: char = '_';
/// Most currencies of one journal.
pub const MAX_CURRENCIES: usize = 16;
/// Length of a currency code, in bytes: three capital letters (ISO 4217).
pub const CURRENCY_CODE_BYTES: usize = 3;
/// Most minor-unit digits of a currency.
pub const MAX_CURRENCY_DIGITS: u32 = 4;

/// Longest idempotency key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 64;
/// Longest account name, in bytes of UTF-8.
pub const MAX_ACCOUNT_BYTES: usize = 64;
/// Fewest postings of an entry that has any (a note has none).
pub const MIN_POSTINGS: usize = 2;
/// Most postings of an entry.
pub const MAX_POSTINGS: usize = 128;
/// Smallest amount of a posting, in minor units.
pub const MIN_AMOUNT: i64 = 1;
/// Largest amount of a posting, in minor units.
pub const MAX_AMOUNT: i64 = i64::MAX;
/// Longest ISO 20022 reference, in characters (not bytes).
pub const MAX_REFERENCE_CHARS: usize = 35;
/// Length of a UETR, in bytes: a lower-case UUIDv4 with hyphens.
pub const UETR_BYTES: usize = 36;
/// Length of a business date, in bytes: `YYYY-MM-DD`.
pub const BUSINESS_DATE_BYTES: usize = 10;
/// Largest payload of an entry, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 64 * 1024;

/// Most entries of one append request.
pub const MAX_REQUEST_ENTRIES: usize = 8_192;
/// Largest append request, in bytes as encoded protobuf.
pub const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;
/// Largest gRPC message that a node takes of a client, in bytes. Above [`MAX_REQUEST_BYTES`], so that most of what is too large is
/// looked at before it is refused; what announces more is refused unread, with the same reason.
pub const MAX_REQUEST_MESSAGE_BYTES: u32 = 5 * 1024 * 1024;
/// Largest gRPC message that clients take, in bytes.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Largest answer, in bytes as encoded protobuf: gRPC clients take 4 MiB unless they are told otherwise.
pub const MAX_RESPONSE_BYTES: usize = 4 * 1024 * 1024 - 4 * 1024;
/// What a message of a stream of entries holds at most, in bytes as encoded protobuf, unless one entry alone is larger.
pub const READ_MESSAGE_BYTES: usize = 1024 * 1024;
/// Longest page token, in bytes.
pub const MAX_PAGE_TOKEN_BYTES: usize = 256;

/// Journals a page when `page_size` is 0.
pub const DEFAULT_JOURNAL_PAGE: u32 = 100;
/// Most journals a page.
pub const MAX_JOURNAL_PAGE: u32 = 1_000;
/// Balances a page when `page_size` is 0.
pub const DEFAULT_BALANCE_PAGE: u32 = 1_000;
/// Most balances a page.
pub const MAX_BALANCE_PAGE: u32 = 10_000;
