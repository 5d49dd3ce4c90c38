//! One attempt, and what its failure means.
//!
//! Invariant: an attempt counts as not sent only where the connection itself could not be opened, and as refused only where
//! the status carries a reason of ours. Codes alone prove nothing: tonic gives OUT_OF_RANGE, RESOURCE_EXHAUSTED or
//! UNIMPLEMENTED to answers that it could not decode, after the node has done its work.

use std::error::Error;
use std::time::Duration;

use tonic::metadata::MetadataMap;
use tonic::{Code, ConnectError, Response, Status};

use super::{LEADER_ID_METADATA, LEADER_METADATA};
use crate::reason::{Reason, Retry};
use crate::refusal::Refusal;

/// What an answer said about the leader.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hint {
    pub(super) node_id: Option<u64>,
    pub(super) address: Option<String>,
}

impl Hint {
    pub(super) fn from_metadata(metadata: &MetadataMap) -> Self {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        Self {
            // 0 is no node: "none known".
            node_id: text(LEADER_ID_METADATA).and_then(|id| id.parse().ok()).filter(|&id| id != 0),
            address: text(LEADER_METADATA).filter(|address| !address.is_empty()).map(str::to_owned),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// A node refused, with a reason.
    Refused(Refusal, Hint),
    /// No connection: the node has not seen the request.
    NotSent(String),
    /// No answer, or one that says nothing about the outcome; another attempt may do better.
    Lost(String),
    /// An answer without a reason that this version knows, and more attempts would get the same.
    Unexpected(Code, String),
}

impl Failure {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Refused(refusal, _) => format!("{}: {refusal}", refusal.reason),
            Self::NotSent(text) | Self::Lost(text) => text.clone(),
            Self::Unexpected(code, text) => format!("{code:?}: {text}"),
        }
    }
}

/// Sends, waits at most `limit`, and says what came of it.
pub(super) async fn bounded<T>(
    limit: Duration,
    sending: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<(T, Hint), Failure> {
    match tokio::time::timeout(limit, sending).await {
        Ok(Ok(response)) => {
            let hint = Hint::from_metadata(response.metadata());
            Ok((response.into_inner(), hint))
        }
        Ok(Err(status)) => Err(classify(&status)),
        Err(_) => Err(Failure::Lost(format!("no answer within {} ms", limit.as_millis()))),
    }
}

pub(super) fn classify(status: &Status) -> Failure {
    if let Some(refusal) = Refusal::from_status(status) {
        return Failure::Refused(refusal, Hint::from_metadata(status.metadata()));
    }
    if never_sent(status) {
        return Failure::NotSent(format!("cannot connect: {}", innermost(status)));
    }
    let text = status.message().to_owned();
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => Failure::Unexpected(status.code(), text),
        code => Failure::Lost(format!("{code:?}: {text}")),
    }
}

/// Whether a call ended with this status because no connection could be opened: then nothing of it has left this process.
/// What broke later may have been carried out.
#[must_use]
pub fn never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The cause that says most: "Connection refused" and not "transport error".
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

/// Whether the same request may fare better a little later.
pub(super) fn may_change(reason: Reason) -> bool {
    reason.retry() == Retry::SameRequest && reason != Reason::TransferRefused
}

/// Whether this refusal is about the asked node, which other nodes may well make up for.
pub(super) fn rules_node_out(reason: Reason) -> bool {
    matches!(reason, Reason::StorageFailed | Reason::ShuttingDown | Reason::Recovering | Reason::NotAMember)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_without_a_reason_prove_nothing() {
        for code in
            [Code::Unknown, Code::Unavailable, Code::Internal, Code::ResourceExhausted, Code::Cancelled]
        {
            assert!(matches!(classify(&Status::new(code, "x")), Failure::Lost(_)), "{code:?}");
        }
        for code in [Code::OutOfRange, Code::Unimplemented, Code::InvalidArgument] {
            assert!(matches!(classify(&Status::new(code, "x")), Failure::Unexpected(..)), "{code:?}");
        }
    }

    #[test]
    fn refusals_carry_the_leader() {
        let mut status = Refusal::new(Reason::NoLeader, "", "ask node 3").into_status();
        status.metadata_mut().insert(LEADER_ID_METADATA, "3".parse().unwrap());
        status.metadata_mut().insert(LEADER_METADATA, "127.0.0.1:7203".parse().unwrap());
        let Failure::Refused(refusal, hint) = classify(&status) else { panic!("{status:?}") };
        assert_eq!(refusal.reason, Reason::NoLeader);
        assert_eq!(hint, Hint { node_id: Some(3), address: Some("127.0.0.1:7203".to_owned()) });
    }

    #[test]
    fn an_unknown_leader_is_no_hint() {
        let mut metadata = MetadataMap::new();
        metadata.insert(LEADER_ID_METADATA, "0".parse().unwrap());
        metadata.insert(LEADER_METADATA, "".parse().unwrap());
        assert_eq!(Hint::from_metadata(&metadata), Hint::default());
        metadata.insert(LEADER_ID_METADATA, "a1".parse().unwrap());
        assert_eq!(Hint::from_metadata(&metadata), Hint::default());
    }

    #[test]
    fn only_lasting_refusals_settle_a_lost_attempt() {
        for reason in [Reason::Unbalanced, Reason::KeyConflict, Reason::RequestTooLarge] {
            assert!(reason.settles_earlier_attempts(), "{reason}");
        }
        for reason in [Reason::NoLeader, Reason::Overloaded, Reason::JournalNotFound, Reason::OutcomeUnknown]
        {
            assert!(!reason.settles_earlier_attempts(), "{reason}");
        }
        assert!(Reason::ALL.iter().all(|&reason| !(may_change(reason) && reason.settles_earlier_attempts())));
    }
}
