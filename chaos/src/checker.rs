//! The checker: judges a history against the final log. Pure and exact; no clock, no network, no cluster.
//!
//! F is the final log, equal on every replica after healing. Its positions fix the order of all appends, so what is
//! NP-hard for other stores is one sweep here ([`order`]): the history is linearizable if and only if no operation that
//! returned before another was invoked stands behind it in that order. Everything else that is promised is compared
//! entry by entry.
//!
//! Invariants: a history is accepted only if every invariant holds; unknown operations may be in F or not, and those in F
//! count as having returned at infinity; no verdict depends on the order of the file's lines.
//!
//! | invariant | promises |
//! |---|---|
//! | [`replicas`] | all replicas hold the same log and the same balances |
//! | [`dense`] | seq is 1, 2, 3 ... without a hole |
//! | [`chain`] | every hash recomputes, from the creation record on |
//! | [`exactly_once`] | no key twice, no key made twice |
//! | [`acknowledged`] | every receipt's entry is in F, where and as it says |
//! | [`refused`] | nothing that was only ever refused is in F |
//! | [`phantom`] | nothing is in F that nobody sent |
//! | [`atomic`] | a request is in F whole or not at all |
//! | [`order`] | appends and reads are linearizable |
//! | [`reads`] | every read returned a piece of F's prefix |
//! | [`balances`] | every entry and every currency sum to zero; stated balances are those of F |
//! | [`placement`] | receipts attest, and replicas hold, what the class demands |
//! | [`leaders`] | one leader a term; terms never fall; commit and applied never fall between starts |
//! | [`votes`] | stored votes never go back, in a term they are for one node, and one node wins it |

mod acknowledged;
mod atomic;
mod balances;
mod chain;
mod dense;
mod evidence;
mod exactly_once;
#[cfg(test)]
mod forge;
mod leaders;
mod order;
mod phantom;
mod placement;
mod reads;
mod refused;
mod replicas;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
mod votes;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::{Call, Class, FinalLog, History, Outcome};
use evidence::Evidence;

/// Most messages that are kept of one invariant.
const MAX_MESSAGES: usize = 20;

type Invariant = fn(&Evidence<'_>, &mut Findings);

const INVARIANTS: &[(&str, Invariant)] = &[
    ("replicas", replicas::check),
    ("dense", dense::check),
    ("chain", chain::check),
    ("exactly once", exactly_once::check),
    ("acknowledged", acknowledged::check),
    ("refused", refused::check),
    ("phantom", phantom::check),
    ("atomic", atomic::check),
    ("order", order::check),
    ("reads", reads::check),
    ("balances", balances::check),
    ("placement", placement::check),
    ("leaders", leaders::check),
    ("votes", votes::check),
];

/// What an invariant has found, in words.
#[derive(Debug, Default)]
struct Findings {
    count: u64,
    messages: Vec<String>,
}

impl Findings {
    fn add(&mut self, message: impl Into<String>) {
        self.count += 1;
        if self.messages.len() < MAX_MESSAGES {
            self.messages.push(message.into());
        }
    }
}

/// An invariant that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// Its name.
    pub invariant: &'static str,
    /// How often it was found broken.
    pub count: u64,
    /// The first findings.
    pub messages: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} found", self.invariant, self.count)?;
        for message in &self.messages {
            write!(f, "\n  {message}")?;
        }
        Ok(())
    }
}

/// How many operations came to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// All of the kind.
    pub invoked: u64,
    /// Acknowledged or answered.
    pub ok: u64,
    /// Definitely without effect.
    pub refused: u64,
    /// Unknown, or never returned.
    pub unknown: u64,
}

/// What was promised to one class, and kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ByClass {
    /// Different keys that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that are not in F.
    pub lost: u64,
}

/// The checker's judgement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// No violation.
    pub pass: bool,
    /// Append operations.
    pub appends: Counts,
    /// Read operations.
    pub reads: Counts,
    /// Entries of F.
    pub final_entries: u64,
    /// Different keys that were acknowledged.
    pub acknowledged_keys: u64,
    /// Keys that nobody was ever told of, yet are in F.
    pub unknown_present: u64,
    /// Keys of unknown outcome that are not in F.
    pub unknown_absent: u64,
    /// RPO in entries: acknowledged keys that are not in F.
    pub lost: u64,
    /// The same by the strongest class that a receipt of the key lets rely on.
    pub by_class: BTreeMap<Class, ByClass>,
    /// Empty when it passes.
    pub violations: Vec<Violation>,
}

/// Judges a history. `finals` holds one log for each group of replicas that returned the same; one if all agree.
pub fn check(history: &History, finals: &[FinalLog]) -> Judgement {
    let evidence = Evidence::new(history, finals);
    let mut violations = Vec::new();
    for &(invariant, check) in INVARIANTS {
        let mut findings = Findings::default();
        check(&evidence, &mut findings);
        if findings.count > 0 {
            violations.push(Violation { invariant, count: findings.count, messages: findings.messages });
        }
    }
    let (appends, reads) = count(history);
    Judgement {
        pass: violations.is_empty(),
        appends,
        reads,
        final_entries: evidence.log.len() as u64,
        acknowledged_keys: evidence.attempts_by_key().filter(|attempts| attempts.acknowledged()).count()
            as u64,
        unknown_present: evidence.unresolved().filter(|key| evidence.position(key).is_some()).count() as u64,
        unknown_absent: evidence.unresolved().filter(|key| evidence.position(key).is_none()).count() as u64,
        lost: evidence
            .attempts_by_key()
            .filter(|attempts| attempts.acknowledged() && evidence.position(attempts.key).is_none())
            .count() as u64,
        by_class: by_class(&evidence),
        violations,
    }
}

fn by_class(evidence: &Evidence<'_>) -> BTreeMap<Class, ByClass> {
    let mut classes: BTreeMap<Class, ByClass> = BTreeMap::new();
    for attempts in evidence.attempts_by_key() {
        let Some(class) = attempts.promised() else { continue };
        let counts = classes.entry(class).or_default();
        counts.acknowledged += 1;
        counts.lost += u64::from(evidence.position(attempts.key).is_none());
    }
    classes
}

fn count(history: &History) -> (Counts, Counts) {
    let (mut appends, mut reads) = (Counts::default(), Counts::default());
    for operation in &history.operations {
        let counts = if matches!(operation.call, Call::Append { .. }) { &mut appends } else { &mut reads };
        counts.invoked += 1;
        match &operation.returned {
            Some((_, Outcome::Refused { .. })) => counts.refused += 1,
            Some((_, Outcome::Unknown { .. })) | None => counts.unknown += 1,
            Some(_) => counts.ok += 1,
        }
    }
    (appends, reads)
}
