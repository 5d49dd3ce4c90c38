//! Whether the parts of a data directory are of one life: NODE, log, index and proofs. Pure, but for [`Traces::look`].
//!
//! What a node has ever acknowledged or voted is part of who it is. A directory that has lost some of that, or brings another
//! one's, must not be taken part from. Decision 0031 has the table of all combinations; the tests walk it.
//!
//! | part | says of the others |
//! |---|---|
//! | NODE | the log's id; how often it has been begun with; a batch that the log had durably |
//! | log | its own id, in every batch and in STORE |
//! | index | the log's id; up to where it was applied, and no checkpoint passes what is flushed |
//! | proof | the incarnation; the leader's term, and what had been flushed then |
//!
//! Invariants: NODE is written before the log is made, and counts a start after the log has been opened and before anybody hears
//! of the node; what NODE, index and proof say of the log was durable in it when they said it. So a log that holds less has lost
//! something, unless recovery has found the rot that took it. An index can be rebuilt and a proof begins anew: neither is missed.

use std::path::Path;

use tercet_storage::{RecoveryReport, StoreId};

use crate::proof::Proof;

/// What NODE says of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Its id.
    pub store: StoreId,
    /// How often a node has been begun with it.
    pub starts: u64,
    /// A batch that was durable in it.
    pub batch: u64,
}

/// What lies in a directory beside NODE, at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traces {
    /// There is a directory `log`.
    pub log: bool,
    /// There is an index that holds something.
    pub index: bool,
    /// There is a proof that holds something.
    pub proof: bool,
}

impl Traces {
    /// Looks.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn look(dir: &Path) -> std::io::Result<Self> {
        let mut traces = Self::default();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name == "log" {
                traces.log = true;
            } else if name == "index" {
                traces.index |= std::fs::read_dir(entry.path()).is_ok_and(|mut files| files.next().is_some());
            } else if name.starts_with("proof-") {
                traces.proof |= entry.metadata()?.len() > 0;
            }
        }
        Ok(traces)
    }
}

/// Whether a directory without NODE is a new one.
///
/// # Errors
/// It is not: what is left of it.
pub fn judge_without_node(traces: Traces) -> Result<(), String> {
    let left = match traces {
        Traces { log: true, .. } => "a log",
        Traces { index: true, .. } => "an index",
        Traces { proof: true, .. } => "a proof of what a leader had acknowledged",
        _ => return Ok(()),
    };
    Err(format!("it holds {left}, but its file NODE is missing"))
}

/// What recovery has found in the log, before anything is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundLog {
    /// Its id.
    pub store: StoreId,
    /// The number of its last batch.
    pub last_batch: u64,
    /// It ends in rot: what followed is known to be lost, and its groups are to be repaired.
    pub ends_in_rot: bool,
}

impl FoundLog {
    /// What matters of a report.
    #[must_use]
    pub fn of(report: &RecoveryReport) -> Self {
        let rots = |last: &tercet_storage::Finding| last.verdict.is_rot();
        Self {
            store: report.store,
            last_batch: report.last_batch,
            ends_in_rot: report.cut.is_some() && report.findings.last().is_some_and(rots),
        }
    }
}

/// What follows for a log that may be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesOn {
    /// With the log as NODE knows it, or further.
    Whole,
    /// Rot has taken batches that NODE knows of, and recovery says so: from now on the log ends with this batch.
    Shortened(u64),
}

/// Whether the log is the one that NODE speaks of.
///
/// # Errors
/// It is missing, emptied, another one, or older: what is wrong.
pub fn judge_log(noted: Noted, found: Option<FoundLog>) -> Result<GoesOn, String> {
    let Some(found) = found.filter(|found| found.last_batch > 0 || noted.starts == 0) else {
        return match noted.starts {
            0 => Ok(GoesOn::Whole),
            _ => Err("its log is empty, and what was acknowledged and voted here was in it".into()),
        };
    };
    let FoundLog { store, last_batch, ends_in_rot } = found;
    if store != noted.store {
        return Err(format!(
            "its log is another one: NODE is about store {}, log/ holds store {store}",
            noted.store
        ));
    }
    match (last_batch < noted.batch, ends_in_rot) {
        (false, _) => Ok(GoesOn::Whole),
        (true, true) => Ok(GoesOn::Shortened(last_batch)),
        (true, false) => Err(format!(
            "its log is an older copy, or its end is lost: it ends with batch {last_batch}, and batch {} was durable",
            noted.batch
        )),
    }
}

/// What lies beside the log of one group, and what the log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beside {
    /// The last entry of the log.
    pub last: u64,
    /// The term of its vote.
    pub vote_term: u64,
    /// Something of it is lost to rot: it is looked at again when that is repaired.
    pub is_damaged: bool,
    /// Up to where the index was applied, and whether the log holds that entry.
    pub applied: Option<(u64, bool)>,
    /// The proof of this directory's own life.
    pub proof: Option<Proof>,
}

/// Whether a group's log holds what index and proof say that it held.
///
/// # Errors
/// It does not: something was lost that had been flushed.
pub fn judge_beside(group: u32, beside: &Beside) -> Result<(), String> {
    let Beside { last, vote_term, is_damaged, applied, proof } = *beside;
    if is_damaged {
        return Ok(());
    }
    if let Some((applied, false)) = applied {
        return Err(format!(
            "its log has lost entries of group {group}: it ends with entry {last}, and the index was applied, from a flushed log, \
             through entry {applied}"
        ));
    }
    let Some(proof) = proof else { return Ok(()) };
    if vote_term < proof.term {
        return Err(format!(
            "its log has lost a vote of group {group}: it knows of term {vote_term}, and the proof is of a leader of term {}",
            proof.term
        ));
    }
    // What a later leader has replaced was flushed, too, but nothing that was acknowledged.
    let held = if vote_term == proof.term { proof.flushed.max(proof.geo_acked) } else { proof.geo_acked };
    if last < held {
        return Err(format!(
            "its log has lost entries of group {group}: it ends with entry {last}, and the proof says that entry {held} was flushed"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: StoreId = StoreId([1; 16]);

    #[test]
    fn a_log_is_the_one_that_node_speaks_of() {
        let noted = |starts, batch| Noted { store: OWN, starts, batch };
        let found = |last_batch| Some(FoundLog { store: OWN, last_batch, ends_in_rot: false });
        let rotten = |last_batch| Some(FoundLog { store: OWN, last_batch, ends_in_rot: true });
        let other = Some(FoundLog { store: StoreId([2; 16]), last_batch: 90, ends_in_rot: false });
        type Row<'r> = (&'r str, Noted, Option<FoundLog>, Result<GoesOn, &'r str>);
        let rows: [Row<'_>; 12] = [
            ("a new directory", noted(0, 0), None, Ok(GoesOn::Whole)),
            ("killed before the first start was counted", noted(0, 0), found(3), Ok(GoesOn::Whole)),
            ("killed before the first batch", noted(0, 0), found(0), Ok(GoesOn::Whole)),
            ("another's log in a new directory", noted(0, 0), other, Err("another one")),
            ("emptied", noted(1, 5), None, Err("empty")),
            ("emptied but for the note STORE", noted(1, 5), rotten(0), Err("empty")),
            ("another's", noted(1, 5), other, Err("another one")),
            ("as it was", noted(1, 5), found(5), Ok(GoesOn::Whole)),
            ("further", noted(1, 5), found(9), Ok(GoesOn::Whole)),
            ("an older copy", noted(1, 5), found(4), Err("older copy")),
            ("rot has taken the end, and recovery says so", noted(1, 5), rotten(4), Ok(GoesOn::Shortened(4))),
            ("rot beyond what NODE knows", noted(1, 5), rotten(6), Ok(GoesOn::Whole)),
        ];
        for (what, noted, found, expected) in rows {
            match (judge_log(noted, found), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{what}"),
                (Err(why), Err(part)) => assert!(why.contains(part), "{what}: {why}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn index_and_proof_say_what_a_log_must_hold() {
        let proof = |term, flushed, geo_acked| Some(Proof { term, flushed, geo_acked, ..Proof::default() });
        let held = Beside { last: 40, vote_term: 7, ..Beside::default() };
        let rows = [
            ("nothing beside it", held, None),
            ("an index that it holds", Beside { applied: Some((40, true)), ..held }, None),
            ("an index ahead of it", Beside { applied: Some((41, false)), ..held }, Some("applied")),
            ("rot explains it", Beside { applied: Some((41, false)), is_damaged: true, ..held }, None),
            ("a proof that it holds", Beside { proof: proof(7, 40, 38), ..held }, None),
            ("a proof ahead of it", Beside { proof: proof(7, 41, 38), ..held }, Some("flushed")),
            ("a later leader has replaced the end", Beside { proof: proof(6, 44, 38), ..held }, None),
            ("but nothing acknowledged", Beside { proof: proof(6, 44, 41), ..held }, Some("flushed")),
            ("a forgotten vote", Beside { proof: proof(8, 30, 30), ..held }, Some("vote")),
        ];
        for (what, beside, expected) in rows {
            match (judge_beside(0, &beside), expected) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{what}: {why}"),
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
    }

    #[test]
    fn what_is_left_of_a_directory_is_no_new_one() {
        let nothing = Traces::default();
        assert_eq!(judge_without_node(nothing), Ok(()));
        for (traces, part) in [
            (Traces { log: true, ..nothing }, "a log"),
            (Traces { index: true, ..nothing }, "an index"),
            (Traces { proof: true, ..nothing }, "a proof"),
        ] {
            let why = judge_without_node(traces).unwrap_err();
            assert!(why.contains(part) && why.contains("NODE"), "{why}");
        }
    }
}
