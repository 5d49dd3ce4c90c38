//! Raft's promises as far as nodes tell: one leader a term; a node's term never falls within an incarnation, whether it was
//! restarted or not; what it knows to be committed and what it has applied never fall between two starts.

use std::collections::BTreeMap;

use super::{Evidence, Findings};

/// What was said before, to be compared with what is said next.
#[derive(Default)]
struct Marks<'a>(BTreeMap<(&'a str, u64, u64, u32, &'static str), u64>);

impl<'a> Marks<'a> {
    /// The value of before, if the new one is below it.
    fn fallen(
        &mut self,
        what: &'static str,
        (node, incarnation, start, group): (&'a str, u64, u64, u32),
        value: u64,
    ) -> Option<u64> {
        let mark = self.0.entry((node, incarnation, start, group, what)).or_default();
        let before = *mark;
        *mark = value.max(before);
        (value < before).then_some(before)
    }
}

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut leaders: BTreeMap<(u32, u64), &str> = BTreeMap::new();
    let mut marks = Marks::default();
    for seen in &evidence.history.observations {
        if seen.role == "leader" {
            let first = leaders.entry((seen.group, seen.term)).or_insert(&seen.node);
            if *first != seen.node {
                findings.add(format!(
                    "group {}, term {}: both {first} and {} led",
                    seen.group, seen.term, seen.node
                ));
            }
        }
        let always = (seen.node.as_str(), seen.incarnation, 0, seen.group);
        let since_start = (seen.node.as_str(), seen.incarnation, seen.start, seen.group);
        // A node that does not say how far it is says 0, and says so all the time.
        let said = [
            ("the term", always, seen.term),
            ("the committed index", since_start, seen.committed),
            ("the applied index", since_start, seen.applied),
        ];
        for (what, who, value) in said {
            if let Some(before) = marks.fallen(what, who, value) {
                findings.add(format!(
                    "{}, group {}: {what} fell from {before} to {value} at {} ns",
                    seen.node, seen.group, seen.t
                ));
            }
        }
    }
}
