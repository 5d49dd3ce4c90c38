//! Nothing is in F that nobody sent: every entry's key and content were in an invocation.

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    for logged in &evidence.log {
        let Ok(view) = &logged.view else { continue };
        let sent = evidence
            .attempts(view.key())
            .is_some_and(|attempts| attempts.all.iter().any(|attempt| attempt.content == logged.content));
        if !sent {
            findings.add(format!(
                "seq {}, key {:?}, was never sent by anybody",
                logged.entry.seq,
                view.key()
            ));
        }
    }
}
