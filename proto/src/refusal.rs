//! A refusal as a value, and its two forms on the wire: a gRPC status with `google.rpc` details, and [`v1::Refusal`].
//!
//! Invariants: both forms carry the same reason, field, message and metadata, so converting there and back loses nothing that was
//! sent; the code always follows from the reason; metadata key `field` is reserved for the field's path. A refusal is bounded
//! where it becomes a status or a message, whatever it was made of: all its HTTP/2 headers take less than
//! [`MAX_TRAILER_BYTES`], for a client refuses more than 8 KiB of them (many do) and is then told nothing at all.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason::Reason;
use crate::text::shown;
use crate::v1;

/// `ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "tercet.v1";

/// Metadata key of the field's path.
pub const FIELD: &str = "field";

/// Most bytes that a refusal takes as HTTP/2 headers, names and the 32 bytes that HTTP/2 reckons for each included.
pub const MAX_TRAILER_BYTES: usize = 4_096;

/// Longest text, in bytes: it travels once as it is and once in base64.
const MAX_TEXT_BYTES: usize = 600;
/// The same, percent-encoded as `grpc-message` is: a Chinese character takes nine.
const MAX_ENCODED_TEXT_BYTES: usize = 1_000;
/// Longest path of a field, in bytes. Ours are far shorter; they hold no text of a caller's.
const MAX_FIELD_BYTES: usize = 160;
/// Longest description in `BadRequest`, in bytes: it repeats the text.
const MAX_DESCRIPTION_BYTES: usize = 200;
/// All metadata together, in bytes.
const MAX_METADATA_BYTES: usize = 640;
/// What is left of a text that had to be cut ends so.
const CUT: &str = "...";

/// Why a request was refused, and which field is at fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// Path of the field at fault, e.g. `entries[3].postings[0].amount`; empty when no one field is.
    pub field: String,
    /// For people; not stable.
    pub message: String,
    /// More facts, e.g. `seq` of the original with KEY_CONFLICT. Never holds `field`.
    pub metadata: BTreeMap<String, String>,
}

impl Refusal {
    /// A refusal that names a field (empty: none) and has no metadata yet.
    pub fn new(reason: Reason, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { reason, field: field.into(), message: message.into(), metadata: BTreeMap::new() }
    }

    /// Adds one fact.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Puts `prefix` before the field's path: `postings[0].amount` becomes `entries[3].postings[0].amount`.
    #[must_use]
    pub fn within(mut self, prefix: &str) -> Self {
        self.field = match (prefix.is_empty(), self.field.is_empty()) {
            (true, _) => self.field,
            (false, true) => prefix.to_owned(),
            (false, false) => format!("{prefix}.{}", self.field),
        };
        self
    }

    fn text(&self) -> String {
        if self.field.is_empty() { self.message.clone() } else { format!("{}: {}", self.field, self.message) }
    }

    /// This refusal within its limits, and without hidden characters where people read it.
    fn bounded(self) -> Self {
        let field = within_bytes(&shown(&self.field), MAX_FIELD_BYTES, MAX_FIELD_BYTES * 3);
        let prefix = if field.is_empty() { 0 } else { field.len() + 2 };
        let (bytes, encoded) = (MAX_TEXT_BYTES - prefix, MAX_ENCODED_TEXT_BYTES - 3 * prefix);
        // Cut first: whoever sends megabytes shall not have them escaped.
        let message = self.message.get(..self.message.floor_char_boundary(bytes + 1)).unwrap_or_default();
        let message = within_bytes(&shown(message), bytes, encoded);
        let mut room = MAX_METADATA_BYTES;
        let mut metadata = BTreeMap::new();
        for (key, value) in self.metadata {
            if key == FIELD || key.len() + CUT.len() >= room {
                continue;
            }
            let value = within_bytes(&value, room - key.len(), usize::MAX);
            room -= key.len() + value.len();
            metadata.insert(key, value);
        }
        Self { reason: self.reason, field, message, metadata }
    }

    fn wire_metadata(&self) -> HashMap<String, String> {
        let mut metadata: HashMap<String, String> =
            self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        if !self.field.is_empty() {
            metadata.insert(FIELD.to_owned(), self.field.clone());
        }
        metadata
    }

    /// As a gRPC status with `ErrorInfo`, and with `BadRequest` when a field is named.
    pub fn into_status(self) -> Status {
        let refusal = self.bounded();
        let metadata = refusal.wire_metadata();
        let mut details = ErrorDetails::with_error_info(refusal.reason.as_str(), DOMAIN, metadata);
        if !refusal.field.is_empty() {
            let description = within_bytes(&refusal.message, MAX_DESCRIPTION_BYTES, usize::MAX);
            details.add_bad_request_violation(refusal.field.as_str(), description);
        }
        Status::with_error_details(refusal.reason.grpc_code(), refusal.text(), details)
    }

    /// The refusal that a status carries; none if it carries no `ErrorInfo` of [`DOMAIN`] or a reason that this version
    /// does not know (then the status' code has to do).
    pub fn from_status(status: &Status) -> Option<Self> {
        let info = status.get_details_error_info()?;
        if info.domain != DOMAIN {
            return None;
        }
        Self::from_parts(&info.reason, status.message(), info.metadata)
    }

    /// As a message, for streams whose answers carry their own status.
    pub fn into_message(self) -> v1::Refusal {
        let refusal = self.bounded();
        v1::Refusal {
            code: refusal.reason.grpc_code() as i32,
            message: refusal.text(),
            reason: refusal.reason.as_str().to_owned(),
            metadata: refusal.wire_metadata(),
        }
    }

    /// The reverse of [`Refusal::into_message`]; none if this version does not know the reason.
    pub fn from_message(message: &v1::Refusal) -> Option<Self> {
        Self::from_parts(&message.reason, &message.message, message.metadata.clone())
    }

    fn from_parts(reason: &str, text: &str, metadata: HashMap<String, String>) -> Option<Self> {
        let reason = Reason::parse(reason)?;
        let mut metadata: BTreeMap<String, String> = metadata.into_iter().collect();
        let field = metadata.remove(FIELD).unwrap_or_default();
        let message = if field.is_empty() {
            text
        } else {
            text.strip_prefix(field.as_str()).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(text)
        };
        Some(Self { reason, message: message.to_owned(), field, metadata })
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

/// Text of at most `bytes` bytes, `encoded` of them percent-encoded, cut at a character, with a sign that something is missing.
fn within_bytes(text: &str, bytes: usize, encoded: usize) -> String {
    // What gRPC encodes of ASCII is at most this; of others each byte.
    let encoded_len = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '.' | ':' | ',' | ';' | '(' | ')' | '[' | ']' => 1,
        other => 3 * other.len_utf8(),
    };
    let (mut end, mut used) = (0, 0_usize);
    for (at, character) in text.char_indices() {
        let next = at + character.len_utf8();
        used = used.saturating_add(encoded_len(character));
        if next > bytes || used > encoded {
            return format!("{}{CUT}", &text[..end]);
        }
        if next + CUT.len() <= bytes && used + 3 * CUT.len() <= encoded {
            end = next;
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn conflict() -> Refusal {
        Refusal::new(Reason::KeyConflict, "key", "已有 with other content")
            .within("entries[3]")
            .with("seq", "17")
            .with("key", "k-1")
    }

    #[test]
    fn a_status_carries_everything() {
        let status = conflict().into_status();
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(status.message(), "entries[3].key: 已有 with other content");
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("KEY_CONFLICT", "tercet.v1"));
        assert_eq!(info.metadata["field"], "entries[3].key");
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "entries[3].key");
        assert_eq!(Refusal::from_status(&status), Some(conflict()));
    }

    #[test]
    fn a_message_carries_everything() {
        let message = conflict().into_message();
        assert_eq!((message.code, message.reason.as_str()), (6, "KEY_CONFLICT"));
        assert_eq!(Refusal::from_message(&message), Some(conflict()));
    }

    #[test]
    fn without_a_field() {
        let refusal = Refusal::new(Reason::NoLeader, "", "an election is going on");
        let status = refusal.clone().into_status();
        assert!(status.get_details_bad_request().is_none());
        assert!(!status.get_details_error_info().unwrap().metadata.contains_key("field"));
        assert_eq!(Refusal::from_status(&status), Some(refusal));
    }

    #[test]
    fn every_reason_survives_both_ways() {
        for &reason in Reason::ALL {
            let refusal = Refusal::new(reason, "a.b", "c: d").with("x", "y");
            assert_eq!(Refusal::from_status(&refusal.clone().into_status()), Some(refusal.clone()));
            assert_eq!(Refusal::from_message(&refusal.clone().into_message()), Some(refusal));
        }
    }

    #[test]
    fn strangers_are_not_taken_for_refusals() {
        assert_eq!(Refusal::from_status(&Status::unavailable("connection reset")), None);
        let other = ErrorDetails::with_error_info("KEY_CONFLICT", "example.org", HashMap::new());
        assert_eq!(Refusal::from_status(&Status::with_error_details(Code::AlreadyExists, "", other)), None);
        let newer = ErrorDetails::with_error_info("NOT_YET_INVENTED", DOMAIN, HashMap::new());
        assert_eq!(Refusal::from_status(&Status::with_error_details(Code::Aborted, "", newer)), None);
    }

    #[test]
    fn prefixes() {
        let field = |field: &str, prefix| Refusal::new(Reason::KeyInvalid, field, "").within(prefix).field;
        assert_eq!(field("key", "entries[0]"), "entries[0].key");
        assert_eq!(field("", "entries[0]"), "entries[0]");
        assert_eq!(field("key", ""), "key");
    }

    /// All headers that the status adds, as HTTP/2 reckons them.
    fn trailer_bytes(status: &Status) -> usize {
        let mut headers = http::HeaderMap::new();
        status.add_header(&mut headers).expect("valid headers");
        headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let status = Refusal::new(Reason::AccountInvalid, "", "账".repeat(5_000)).into_status();
        assert!(status.message().ends_with("账..."), "{}", status.message());
        assert!((90..=113).contains(&status.message().chars().count()), "{}", status.message());
        let short = Refusal::new(Reason::AccountInvalid, "a", "账".repeat(60));
        assert_eq!(
            Refusal::from_status(&short.clone().into_status()),
            Some(short),
            "what fits is left alone"
        );
    }

    /// Callers gave GetEntry, GetJournal and TransferLeader long Chinese names: the refusals repeated them, the trailers grew beyond 8 KiB,
    /// and the callers saw RESOURCE_EXHAUSTED of their own library instead.
    #[test]
    fn a_refusal_full_of_a_callers_text_fits_into_its_trailers() {
        for filling in ["账", "a", " ", "\"", "\0", "\u{202e}", "\u{10ffff}", "é"] {
            let long = filling.repeat(100_000);
            let refusal = Refusal::new(Reason::PlacementUnreachable, long.clone(), long.clone())
                .with("a", long.clone())
                .with("b", long.clone())
                .with("seq", "7");
            let status = refusal.into_status();
            let bytes = trailer_bytes(&status);
            assert!(bytes <= MAX_TRAILER_BYTES, "{filling:?}: {bytes}");
            let read = Refusal::from_status(&status).expect("ErrorInfo");
            assert_eq!(read.reason, Reason::PlacementUnreachable);
            assert!(!read.message.chars().any(crate::text::is_hidden), "{filling:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_refusal_fits_into_its_trailers(
            reason in 0..Reason::ALL.len(),
            field in ".{0,400}",
            message in ".{0,1500}",
            facts in proptest::collection::btree_map("[a-z_]{1,30}", ".{0,300}", 0..30),
        ) {
            let mut refusal = Refusal::new(Reason::ALL[reason], field, message);
            refusal.metadata = facts;
            let status = refusal.clone().into_status();
            proptest::prop_assert!(trailer_bytes(&status) <= MAX_TRAILER_BYTES, "{}", trailer_bytes(&status));
            let read = Refusal::from_status(&status).expect("ErrorInfo");
            proptest::prop_assert_eq!(read.reason, refusal.reason);
            // Both forms say the same.
            proptest::prop_assert_eq!(Refusal::from_message(&refusal.into_message()), Some(read));
        }
    }
}
