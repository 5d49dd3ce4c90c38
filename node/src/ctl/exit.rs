//! How a verb ends: the exit codes of the `tercet` command, and failures that carry one.
//!
//! Invariant: an exit code never changes its meaning; the table in `tercet --help` is this enum.

use std::fmt;
use std::process::ExitCode;

use tercet_proto::client::ClientError;
use tercet_proto::reason::Outcome;
use tercet_proto::refusal::Refusal;
use tercet_proto::topology::TopologyError;

use super::output::printable;

/// The exit codes, for `tercet --help`.
pub(crate) const EXIT_CODES_HELP: &str = "\
Exit codes:
  0   done
  1   failed: no node could be reached, a file could not be read, a port is taken ...
  2   the command line, a topology or an input file is wrong; nothing was sent for the part at fault
  3   refused by the cluster; nothing was done
  4   outcome unknown: it may or may not have been done; running the same again is safe
  5   verification failed: a replica's chain, entries or balances are not what they must be
  70  storage failed: the node stopped for good and must not be restarted before somebody has looked
  78  the data directory is not whole or is another node's: starting again does not help before somebody has looked";

/// What the process ends with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Whoever read standard output has closed it: not an error, and nobody is left to tell.
    OutputClosed,
    /// Nothing more precise applies.
    Failed,
    /// The command line or an input file is wrong.
    Input,
    /// The cluster refused.
    Refused,
    /// The outcome is unknown.
    Unknown,
    /// Verification found something wrong.
    Verification,
    /// The node's storage failed.
    Storage,
    /// The node's data directory is not whole, or another's.
    Directory,
}

impl Exit {
    /// The code as a number.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Failed => 1,
            Self::Input => 2,
            Self::Refused => 3,
            Self::Unknown => 4,
            Self::Verification => 5,
            Self::Storage => 70,
            Self::Directory => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process ends with.
    pub(crate) exit: Exit,
    /// For people; names the thing at fault.
    pub(crate) message: String,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// Exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// Exit code 2.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Self::new(Exit::Input, message)
    }

    /// Puts what was being done before the message.
    pub(crate) fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<std::io::Error> for Failure {
    /// For standard output; errors of named files are wrapped where the name is known.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::new(Exit::OutputClosed, String::new())
        } else {
            Self::failed(format!("standard output: {error}"))
        }
    }
}

impl From<TopologyError> for Failure {
    fn from(error: TopologyError) -> Self {
        match error {
            TopologyError::Read { .. } => Self::failed(error.to_string()),
            _ => Self::input(error.to_string()),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match &error {
            ClientError::Refused(refusal) => Self::new(exit_of(refusal), describe_refusal(refusal)),
            ClientError::Unknown { .. } => Self::new(Exit::Unknown, error.to_string()),
            ClientError::InvalidEndpoint { .. } => Self::input(error.to_string()),
            ClientError::Unreachable { .. } | ClientError::Unexpected { .. } => {
                Self::failed(error.to_string())
            }
        }
    }
}

/// 4 for reasons whose outcome is unknown, else 3.
fn exit_of(refusal: &Refusal) -> Exit {
    match refusal.reason.outcome() {
        Outcome::Definite => Exit::Refused,
        Outcome::Unknown => Exit::Unknown,
    }
}

/// `REASON: field: message (seq 7, key x)`
pub(crate) fn describe_refusal(refusal: &Refusal) -> String {
    let mut text = format!("{}: {refusal}", refusal.reason.as_str());
    if !refusal.metadata.is_empty() {
        let facts: Vec<String> =
            refusal.metadata.iter().map(|(key, value)| format!("{key} {value}")).collect();
        text.push_str(&format!(" ({})", facts.join(", ")));
    }
    // Names in it are other people's text.
    printable(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tercet_proto::reason::Reason;

    #[test]
    fn the_help_lists_every_code() {
        let codes = [
            Exit::OutputClosed,
            Exit::Failed,
            Exit::Input,
            Exit::Refused,
            Exit::Unknown,
            Exit::Verification,
            Exit::Storage,
            Exit::Directory,
        ];
        let listed: Vec<u8> = EXIT_CODES_HELP
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(listed, codes.map(Exit::code));
    }

    #[test]
    fn a_refusal_says_its_reason_its_field_and_its_facts() {
        let refusal = Refusal::new(Reason::KeyConflict, "entries[3].key", "is known with other content")
            .with("seq", "7")
            .with("key", "29401");
        assert_eq!(
            describe_refusal(&refusal),
            "KEY_CONFLICT: entries[3].key: is known with other content (key 29401, seq 7)"
        );
        let failure = Failure::from(ClientError::Refused(refusal));
        assert_eq!(failure.exit, Exit::Refused);
    }

    #[test]
    fn an_unknown_outcome_has_its_own_code() {
        let refusal = Refusal::new(Reason::OutcomeUnknown, "", "the leader was lost");
        assert_eq!(Failure::from(ClientError::Refused(refusal)).exit, Exit::Unknown);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let closed = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(Failure::from(closed).exit.code(), 0);
    }
}
