//! What clients asked, what they heard, what was done to the cluster, and the final log: JSON lines, described in
//! `chaos/HISTORY.md`.
//!
//! Invariants: every time is nanoseconds of one monotonic clock since the run began; an operation has one invocation and
//! at most one return, not before it; an operation without a return is unknown; content is named by its hash, never
//! repeated.

mod diagnose;
mod hex;
mod log;
mod recorder;
mod seen;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use hex::{Hash32, HexBytes};
pub use log::{BalanceRow, FinalEntry, FinalLog};
pub use recorder::Recorder;
pub use seen::{Attested, Class, EntrySeen, Observation, Place, Places, ReceiptSeen, StoredVote};

/// Version of both formats.
pub const FORMAT: u32 = 1;

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Header(Header),
    /// A client asks for something.
    Invoke {
        /// When, in nanoseconds.
        t: u64,
        /// Who.
        client: u32,
        /// Number of the operation, unique in the history.
        op: u64,
        /// The node that was asked.
        via: String,
        /// What.
        #[serde(flatten)]
        call: Call,
    },
    /// A client has its answer, or gives up waiting.
    Return {
        /// When, in nanoseconds.
        t: u64,
        /// Number of the operation.
        op: u64,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// A fault begins.
    FaultBegin {
        /// When, in nanoseconds.
        t: u64,
        /// Number of the fault, unique in the history.
        fault: u64,
        /// What is done to the cluster.
        what: String,
    },
    /// A fault has been undone.
    FaultEnd {
        /// When, in nanoseconds.
        t: u64,
        /// Number of the fault.
        fault: u64,
    },
    /// What a node said of itself when it was asked.
    Observe(Observation),
    /// A vote that a node has stored; those of a node in the order in which it did.
    Vote(StoredVote),
}

/// The first line of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u32,
    /// The one journal that all operations are about.
    pub journal: String,
    /// Where the history comes from, for people.
    #[serde(default)]
    pub scenario: String,
    /// What the run's choices were drawn from.
    #[serde(default)]
    pub seed: u64,
    /// Where the nodes stand, if placement is to be judged.
    #[serde(default, skip_serializing_if = "Places::is_empty")]
    pub places: Places,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub enum Call {
    /// Append these entries, all or nothing.
    Append {
        /// In the request's order.
        entries: Vec<Sent>,
        /// The class that was asked for; none: the journal's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<Class>,
    },
    /// The journal's head, linearizable.
    ReadHead,
    /// The entries from a seq to the head, linearizable.
    ReadFrom {
        /// The first seq asked for.
        from: u64,
    },
}

/// An entry of an append.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Sent {
    /// Its idempotency key.
    pub key: String,
    /// SHA-256 of its canonical client part.
    pub content: Hash32,
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// An append was acknowledged.
    Appended {
        /// One for each entry, in the request's order.
        receipts: Vec<ReceiptSeen>,
    },
    /// The answer to [`Call::ReadHead`].
    Head {
        /// 0: no entry yet.
        seq: u64,
        /// The chain hash after it.
        chain_hash: Hash32,
    },
    /// The answer to [`Call::ReadFrom`].
    Entries {
        /// The length of the prefix that the read saw.
        head: u64,
        /// What was returned, in the order in which it was.
        entries: Vec<EntrySeen>,
    },
    /// Definitely without effect, now and later.
    Refused {
        /// ERRORS.md
        reason: String,
        /// For people.
        #[serde(default)]
        message: String,
    },
    /// It may have taken effect, or may yet.
    Unknown {
        /// For people.
        #[serde(default)]
        message: String,
    },
}

/// An operation: an invocation and its return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number.
    pub op: u64,
    /// Who asked.
    pub client: u32,
    /// The node that was asked.
    pub via: String,
    /// When it was invoked, in nanoseconds.
    pub invoked: u64,
    /// What was asked.
    pub call: Call,
    /// When it returned and with what; none: it never did, so it is unknown.
    pub returned: Option<(u64, Outcome)>,
}

/// A fault from its beginning to its undoing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultSpan {
    /// Its number.
    pub fault: u64,
    /// What was done.
    pub what: String,
    /// When it began, in nanoseconds.
    pub begin: u64,
    /// When it was undone; none: never.
    pub end: Option<u64>,
}

/// A whole history in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The first line.
    pub header: Header,
    /// By number.
    pub operations: Vec<Operation>,
    /// By number.
    pub faults: Vec<FaultSpan>,
    /// In the file's order.
    pub observations: Vec<Observation>,
    /// In the file's order.
    pub votes: Vec<StoredVote>,
}

/// A history or final log that says nothing, because it is malformed.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// A line is not what the format says.
    #[error("{place}: {why}")]
    Malformed {
        /// File and line.
        place: String,
        /// What is wrong.
        why: String,
    },
}

impl HistoryError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.display().to_string(), source }
    }

    pub(crate) fn malformed(place: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Malformed { place: place.into(), why: why.into() }
    }
}

impl History {
    /// Reads a file.
    ///
    /// # Errors
    /// The file cannot be read, or is no history.
    pub fn load(path: &Path) -> Result<Self, HistoryError> {
        let file = std::fs::File::open(path).map_err(|error| HistoryError::io(path, error))?;
        let mut building = Building::default();
        for (at, line) in BufReader::new(file).lines().enumerate() {
            let line = line.map_err(|error| HistoryError::io(path, error))?;
            let place = || format!("{}:{}", path.display(), at + 1);
            let parsed: Line = serde_json::from_str(&line)
                .map_err(|error| HistoryError::malformed(place(), diagnose::history_line(&line, &error)))?;
            building.add(parsed).map_err(|why| HistoryError::malformed(place(), why))?;
        }
        building.finish().ok_or_else(|| HistoryError::malformed(path.display().to_string(), "it is empty"))
    }

    /// Puts lines together that are in memory.
    ///
    /// # Errors
    /// They are no history.
    pub fn from_lines(lines: impl IntoIterator<Item = Line>) -> Result<Self, HistoryError> {
        let mut building = Building::default();
        for (at, line) in lines.into_iter().enumerate() {
            building.add(line).map_err(|why| HistoryError::malformed(format!("line {}", at + 1), why))?;
        }
        building.finish().ok_or_else(|| HistoryError::malformed("history", "it is empty"))
    }
}

#[derive(Default)]
struct Building {
    header: Option<Header>,
    operations: BTreeMap<u64, Operation>,
    faults: BTreeMap<u64, FaultSpan>,
    observations: Vec<Observation>,
    votes: Vec<StoredVote>,
}

impl Building {
    fn add(&mut self, line: Line) -> Result<(), String> {
        if self.header.is_none() && !matches!(line, Line::Header(_)) {
            return Err("the first line must be the header".into());
        }
        match line {
            Line::Header(header) if header.format != FORMAT => {
                return Err(format!("format {} is not known; this is {FORMAT}", header.format));
            }
            Line::Header(header) => {
                if self.header.replace(header).is_some() {
                    return Err("a second header".into());
                }
            }
            Line::Invoke { t, client, op, via, call } => {
                let operation = Operation { op, client, via, invoked: t, call, returned: None };
                if self.operations.insert(op, operation).is_some() {
                    return Err(format!("operation {op} is invoked twice"));
                }
            }
            Line::Return { t, op, outcome } => self.add_return(t, op, outcome)?,
            Line::FaultBegin { t, fault, what } => {
                if self.faults.insert(fault, FaultSpan { fault, what, begin: t, end: None }).is_some() {
                    return Err(format!("fault {fault} begins twice"));
                }
            }
            Line::FaultEnd { t, fault } => {
                let Some(span) = self.faults.get_mut(&fault) else {
                    return Err(format!("fault {fault} ends without having begun"));
                };
                if t < span.begin || span.end.replace(t).is_some() {
                    return Err(format!("fault {fault} ends twice or before it begins"));
                }
            }
            Line::Observe(observation) => self.observations.push(observation),
            Line::Vote(vote) => self.votes.push(vote),
        }
        Ok(())
    }

    fn add_return(&mut self, t: u64, op: u64, outcome: Outcome) -> Result<(), String> {
        let Some(operation) = self.operations.get_mut(&op) else {
            return Err(format!("operation {op} returns without having been invoked"));
        };
        if t < operation.invoked {
            return Err(format!("operation {op} returns before it is invoked"));
        }
        let fits = match (&operation.call, &outcome) {
            (_, Outcome::Refused { .. } | Outcome::Unknown { .. })
            | (Call::ReadHead, Outcome::Head { .. })
            | (Call::ReadFrom { .. }, Outcome::Entries { .. }) => true,
            (Call::Append { entries, .. }, Outcome::Appended { receipts }) => {
                entries.iter().map(|sent| &sent.key).eq(receipts.iter().map(|receipt| &receipt.key))
            }
            _ => false,
        };
        if !fits {
            return Err(format!("operation {op} returns something else than it asked for"));
        }
        if operation.returned.replace((t, outcome)).is_some() {
            return Err(format!("operation {op} returns twice"));
        }
        Ok(())
    }

    fn finish(self) -> Option<History> {
        Some(History {
            header: self.header?,
            operations: self.operations.into_values().collect(),
            faults: self.faults.into_values().collect(),
            observations: self.observations,
            votes: self.votes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> &'static str {
        r#"{"type":"header","format":1,"journal":"j"}"#
    }

    fn parse(lines: &[&str]) -> Result<History, HistoryError> {
        History::from_lines(lines.iter().map(|line| serde_json::from_str(line).unwrap()))
    }

    #[test]
    fn the_documented_lines_are_read() {
        let hash = "ab".repeat(32);
        let history = parse(&[
            header(),
            &format!(
                r#"{{"type":"invoke","t":5,"client":0,"op":1,"via":"a1","call":"append","entries":[{{"key":"k","content":"{hash}"}}]}}"#
            ),
            r#"{"type":"invoke","t":6,"client":1,"op":2,"via":"b1","call":"read_head"}"#,
            r#"{"type":"fault_begin","t":6,"fault":1,"what":"kill a1"}"#,
            r#"{"type":"return","t":9,"op":1,"outcome":"unknown"}"#,
            &format!(r#"{{"type":"return","t":9,"op":2,"outcome":"head","seq":0,"chain_hash":"{hash}"}}"#),
            r#"{"type":"observe","t":9,"node":"a1","incarnation":1,"group":0,"term":2,"role":"leader","leader":"a1"}"#,
            r#"{"type":"fault_end","t":16,"fault":1}"#,
        ])
        .unwrap();
        assert_eq!(history.operations.len(), 2);
        assert_eq!(history.operations[1].returned.as_ref().unwrap().0, 9);
        assert_eq!(history.faults[0].end, Some(16));
        assert_eq!(history.observations[0].term, 2);
    }

    #[test]
    fn what_is_no_history_is_refused() {
        let invoke = r#"{"type":"invoke","t":5,"client":0,"op":1,"via":"a1","call":"read_head"}"#;
        let answer = r#"{"type":"return","t":9,"op":1,"outcome":"unknown"}"#;
        let cases: &[(&[&str], &str)] = &[
            (&[], "empty"),
            (&[invoke], "first line must be the header"),
            (&[header(), header()], "second header"),
            (&[r#"{"type":"header","format":2,"journal":"j"}"#], "format 2"),
            (&[header(), invoke, invoke], "invoked twice"),
            (&[header(), answer], "without having been invoked"),
            (&[header(), invoke, answer, answer], "returns twice"),
            (
                &[header(), invoke, r#"{"type":"return","t":4,"op":1,"outcome":"unknown"}"#],
                "before it is invoked",
            ),
            (
                &[header(), invoke, r#"{"type":"return","t":6,"op":1,"outcome":"appended","receipts":[]}"#],
                "something else",
            ),
            (&[header(), r#"{"type":"fault_end","t":4,"fault":1}"#], "without having begun"),
        ];
        for (lines, why) in cases {
            let error = parse(lines).unwrap_err().to_string();
            assert!(error.contains(why), "{lines:?}: {error}");
        }
    }
}
