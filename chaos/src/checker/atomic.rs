//! All or nothing: of a request without an answer, F holds every entry or none.
//!
//! Only requests are judged whose keys no request with other keys has sent; for acknowledged and refused ones the other
//! invariants say more.

use super::{Evidence, Findings};
use crate::history::{Call, Outcome};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    for operation in &evidence.history.operations {
        let Call::Append { entries, .. } = &operation.call else { continue };
        if matches!(operation.returned, Some((_, Outcome::Appended { .. } | Outcome::Refused { .. }))) {
            continue;
        }
        let shared = entries.iter().any(|sent| {
            let attempts = evidence.attempts(&sent.key);
            attempts.is_some_and(|attempts| {
                attempts.all.iter().any(|other| other.operation.call != operation.call)
            })
        });
        let present = entries.iter().filter(|sent| evidence.position(&sent.key).is_some()).count();
        if !shared && present != 0 && present != entries.len() {
            let op = operation.op;
            findings.add(format!(
                "{present} of {} entries of operation {op} are in the final log",
                entries.len()
            ));
        }
    }
}
