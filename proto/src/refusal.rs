//! A refusal as a value, and its two forms on the wire: a gRPC status with `google.rpc` details, and [`v1::Refusal`].
//!
//! Invariants: both forms carry the same reason, field, message and metadata, so converting there and back loses nothing;
//! the code always follows from the reason; metadata key `field` is reserved for the field's path.

use std::collections::{BTreeMap, HashMap};

use tonic::Status;
use tonic_types::{ErrorDetails, StatusExt};

use crate::reason::Reason;
use crate::v1;

/// `ErrorInfo.domain` of every refusal.
pub const DOMAIN: &str = "tercet.v1";

/// Metadata key of the field's path.
pub const FIELD: &str = "field";

/// Longest text that travels in a status, in bytes: details go into HTTP/2 headers (base64), which peers commonly bound
/// to 16 KiB in all.
const MAX_TEXT_BYTES: usize = 2_048;

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

    fn wire_metadata(&self) -> HashMap<String, String> {
        let mut metadata: HashMap<String, String> = self
            .metadata
            .iter()
            .filter(|(key, _)| key.as_str() != FIELD)
            .map(|(key, value)| (key.clone(), shorten(value)))
            .collect();
        if !self.field.is_empty() {
            metadata.insert(FIELD.to_owned(), shorten(&self.field));
        }
        metadata
    }

    /// As a gRPC status with `ErrorInfo`, and with `BadRequest` when a field is named.
    pub fn into_status(self) -> Status {
        let mut details = ErrorDetails::with_error_info(self.reason.as_str(), DOMAIN, self.wire_metadata());
        if !self.field.is_empty() {
            details.add_bad_request_violation(shorten(&self.field), shorten(&self.message));
        }
        Status::with_error_details(self.reason.grpc_code(), shorten(&self.text()), details)
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
        v1::Refusal {
            code: self.reason.grpc_code() as i32,
            message: shorten(&self.text()),
            reason: self.reason.as_str().to_owned(),
            metadata: self.wire_metadata(),
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

/// At most [`MAX_TEXT_BYTES`], cut at a character, with a sign that something is missing.
fn shorten(text: &str) -> String {
    if text.len() <= MAX_TEXT_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_TEXT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
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

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let refusal = Refusal::new(Reason::AccountInvalid, "", "账".repeat(5_000));
        let status = refusal.into_status();
        assert!(status.message().len() <= MAX_TEXT_BYTES + 3);
        assert!(status.message().ends_with("账..."));
        assert!(status.details().len() < 16 * 1024);
    }
}
