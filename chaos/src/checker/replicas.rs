//! All replicas hold the same log, creation record and balances.

use super::{Evidence, Findings};
use crate::history::FinalLog;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some((first, others)) = evidence.finals.split_first() else {
        findings.add("there is no final log");
        return;
    };
    for log in evidence.finals {
        if log.journal != evidence.history.header.journal {
            let journal = &evidence.history.header.journal;
            findings
                .add(format!("the final log is of journal {:?}, the history of {journal:?}", log.journal));
        }
    }
    for other in others.iter().filter(|other| !first.same_as(other)) {
        findings.add(difference(first, other));
    }
}

fn difference(first: &FinalLog, other: &FinalLog) -> String {
    let names = format!("{} and {}", first.replicas.join(", "), other.replicas.join(", "));
    if first.creation_record != other.creation_record {
        return format!("{names} differ in the creation record");
    }
    let differing = first.entries.iter().zip(&other.entries).position(|(a, b)| a != b);
    match differing {
        Some(at) => format!("{names} differ from the entry with seq {} on", first.entries[at].seq),
        None if first.entries.len() != other.entries.len() => {
            format!("{names} hold {} and {} entries", first.entries.len(), other.entries.len())
        }
        None => format!("{names} state different balances"),
    }
}
