//! How a call may end other than well.

use tonic::Code;

use crate::refusal::Refusal;

/// Why a call did not return what was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The cluster refused: nothing of the request has taken effect, and nothing will.
    #[error("{}: {}", .0.reason, .0)]
    Refused(Refusal),
    /// The request may have taken effect or not. Sending the same request again resolves it.
    #[error("outcome unknown after {attempts} attempts: {message}")]
    Unknown {
        /// The last thing that went wrong.
        message: String,
        /// Attempts made.
        attempts: u32,
    },
    /// No node could be reached, or none answered a read; the request has had no effect.
    #[error("no node could be reached in {attempts} attempts: {message}")]
    Unreachable {
        /// The last thing that went wrong.
        message: String,
        /// Attempts made.
        attempts: u32,
    },
    /// What answers is not a Tercet node of this version: a gRPC code without a reason that this version knows, or an
    /// answer that breaks a promise. Of a call that only reads.
    #[error("unexpected answer of {endpoint}: {code:?}: {message}")]
    Unexpected {
        /// Who answered.
        endpoint: String,
        /// The gRPC code.
        code: Code,
        /// What it said.
        message: String,
    },
    /// An endpoint that cannot be used at all.
    #[error("endpoint {endpoint:?}: {message}")]
    InvalidEndpoint {
        /// As it was given.
        endpoint: String,
        /// What is wrong with it.
        message: String,
    },
}

impl ClientError {
    /// Whether the request is known to have had no effect.
    pub fn is_definite(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unreachable { .. } | Self::InvalidEndpoint { .. } => true,
            Self::Unknown { .. } | Self::Unexpected { .. } => false,
        }
    }

    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}
