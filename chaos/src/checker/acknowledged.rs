//! Every receipt is kept: its entry is in F, at its seq, with its content, its hashes and its recorded time.
//!
//! One thing excuses an entry that is not in F: all nodes of a site are gone for good, disks included, and no receipt of the
//! key promised more than that city. What was acknowledged as `geo`, and not degraded, survives even that.

use super::{Evidence, Findings};
use crate::history::Hash32;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    for attempts in evidence.attempts_by_key() {
        for attempt in &attempts.all {
            let Some(receipt) = attempt.receipt else { continue };
            let op = attempt.operation.op;
            let who =
                format!("key {:?}, acknowledged by operation {op} as seq {}", attempts.key, receipt.seq);
            let Some(logged) = evidence.position(attempts.key).map(|at| &evidence.log[at]) else {
                if !evidence.excused(attempts) {
                    findings.add(format!("{who}, is lost"));
                }
                continue;
            };
            let entry = logged.entry;
            let mut differs = |what: &str, promised: String, found: String| {
                if promised != found {
                    findings.add(format!("{who}: {what} was {promised}, the final log has {found}"));
                }
            };
            let show = |hash: &Hash32| hash.to_string();
            differs("its seq", receipt.seq.to_string(), entry.seq.to_string());
            differs("its content", show(&attempt.content), show(&logged.content));
            differs("its entry hash", show(&receipt.entry_hash), show(&entry.entry_hash));
            differs("its chain hash", show(&receipt.chain_hash), show(&entry.chain_hash));
            differs(
                "its recorded time",
                receipt.recorded_at_us.to_string(),
                entry.recorded_at_us.to_string(),
            );
        }
    }
}
