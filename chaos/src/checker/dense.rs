//! Seq is dense: 1, 2, 3 ... in the order of F, and recorded times never fall.

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut last_recorded = i64::MIN;
    for (expected, logged) in (1_u64..).zip(&evidence.log) {
        let seq = logged.entry.seq;
        if seq != expected {
            findings.add(format!("entry {expected} of the final log has seq {seq}"));
        }
        if logged.entry.recorded_at_us < last_recorded {
            findings.add(format!(
                "seq {seq} was recorded at {} us, before the one ahead of it",
                logged.entry.recorded_at_us
            ));
        }
        last_recorded = logged.entry.recorded_at_us;
    }
}
