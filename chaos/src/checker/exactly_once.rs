//! One key makes one entry: F holds no key twice, and no two attempts of one key were told that they made it.

use std::collections::BTreeMap;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut seen = BTreeMap::new();
    for logged in &evidence.log {
        let Ok(view) = &logged.view else { continue };
        if let Some(first) = seen.insert(view.key(), logged.entry.seq) {
            findings.add(format!(
                "key {:?} is in the final log twice, as seq {first} and {}",
                view.key(),
                logged.entry.seq
            ));
        }
    }
    for attempts in evidence.attempts_by_key() {
        let makers: Vec<u64> = attempts
            .all
            .iter()
            .filter(|attempt| attempt.receipt.is_some_and(|receipt| !receipt.replayed))
            .map(|attempt| attempt.operation.op)
            .collect();
        if makers.len() > 1 {
            findings.add(format!("key {:?} was made by each of the operations {makers:?}", attempts.key));
        }
    }
}
