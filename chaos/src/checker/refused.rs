//! A definite refusal is definite: an entry of F had at least one attempt with its content that was not refused.

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    for logged in &evidence.log {
        let Ok(view) = &logged.view else { continue };
        // Keys and contents that nobody sent are `phantom`'s.
        let Some(attempts) = evidence.attempts(view.key()) else { continue };
        let mut of_content =
            attempts.all.iter().filter(|attempt| attempt.content == logged.content).peekable();
        if let Some(first) = of_content.peek() {
            let op = first.operation.op;
            if of_content.all(|attempt| attempt.refused()) {
                findings.add(format!(
                    "key {:?}, refused to operation {op} and never sent otherwise, is in the final log as seq {}",
                    view.key(),
                    logged.entry.seq
                ));
            }
        }
    }
}
