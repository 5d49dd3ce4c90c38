//! Linearizability, by one sweep.
//!
//! F fixes the order of the appends. A read that saw a prefix of length v stands between append v and append v + 1. So the
//! places in the order are known, and the history is linearizable exactly if no operation that had returned before
//! another was invoked has a later place: sweep invocations and returns in time order, keep the highest value that has
//! been returned so far; an append invoked later must be above it, a read invoked later at or above it.
//!
//! - An entry of F that nobody was told of counts as returned at infinity; only its invocation is swept. A read that saw
//!   it before it was invoked read the future.
//! - A key that was attempted several times takes effect once: no earlier than the first attempt that was not refused, or
//!   than the attempt that was told that it made the entry; and by the first acknowledgement at the latest.
//! - Equal times count as concurrent: invocations are swept before returns.

use super::evidence::Attempts;
use super::{Evidence, Findings};
use crate::history::Outcome;

enum Step {
    /// An append that came to have this seq is invoked.
    Append { seq: u64 },
    /// A read that came to see this prefix is invoked.
    Read { saw: u64 },
    /// Somebody has been told of this seq, or of a prefix of this length.
    Told { value: u64 },
}

struct Event {
    t: u64,
    op: u64,
    step: Step,
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut events = Vec::new();
    for attempts in evidence.attempts_by_key() {
        append_events(evidence, attempts, &mut events);
    }
    for operation in &evidence.history.operations {
        let (returned, saw) = match operation.returned {
            Some((t, Outcome::Head { seq, .. })) => (t, seq),
            Some((t, Outcome::Entries { head, .. })) => (t, head),
            _ => continue,
        };
        events.push(Event { t: operation.invoked, op: operation.op, step: Step::Read { saw } });
        events.push(Event { t: returned, op: operation.op, step: Step::Told { value: saw } });
    }
    events.sort_by_key(|event| (event.t, matches!(event.step, Step::Told { .. }), event.op));
    sweep(&events, findings);
}

fn append_events(evidence: &Evidence<'_>, attempts: &Attempts<'_>, events: &mut Vec<Event>) {
    // What was acknowledged has the seq of its receipt, wherever it is in F; `acknowledged` compares the two.
    let receipts = || attempts.all.iter().filter_map(|attempt| Some((attempt.operation, attempt.receipt?)));
    let in_log = || evidence.position(attempts.key).map(|at| &evidence.log[at]);
    let Some(seq) =
        receipts().map(|(_, receipt)| receipt.seq).next().or_else(|| in_log().map(|logged| logged.entry.seq))
    else {
        return;
    };
    let maker = receipts().find(|(_, receipt)| !receipt.replayed).map(|(operation, _)| operation);
    let possible = attempts.all.iter().filter(|attempt| !attempt.refused()).map(|attempt| attempt.operation);
    if let Some(operation) = maker.or_else(|| possible.min_by_key(|operation| operation.invoked)) {
        events.push(Event { t: operation.invoked, op: operation.op, step: Step::Append { seq } });
    }
    for (operation, receipt) in receipts() {
        if let Some((t, _)) = operation.returned {
            events.push(Event { t, op: operation.op, step: Step::Told { value: receipt.seq } });
        }
    }
}

fn sweep(events: &[Event], findings: &mut Findings) {
    let (mut highest, mut teller) = (0, 0);
    for Event { op, step, .. } in events {
        match *step {
            Step::Told { value } if value > highest => (highest, teller) = (value, *op),
            Step::Told { .. } => {}
            Step::Append { seq } if seq > highest => {}
            Step::Append { seq } => findings.add(format!(
                "operation {op} appended seq {seq}, but {highest} had been returned by operation {teller} before it was invoked"
            )),
            Step::Read { saw } if saw >= highest => {}
            Step::Read { saw } => findings.add(format!(
                "stale: operation {op} read a prefix of {saw}, but {highest} had been returned by operation {teller} before it was invoked"
            )),
        }
    }
}
