//! Raft's promises as far as nodes tell: one leader a term, and a node's term never falls within an incarnation.

use std::collections::BTreeMap;

use super::{Evidence, Findings};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut leaders: BTreeMap<(u32, u64), &str> = BTreeMap::new();
    let mut terms: BTreeMap<(&str, u64, u32), u64> = BTreeMap::new();
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
        let term = terms.entry((&seen.node, seen.incarnation, seen.group)).or_default();
        if seen.term < *term {
            findings.add(format!(
                "{}, group {}: the term fell from {term} to {}",
                seen.node, seen.group, seen.term
            ));
        }
        *term = seen.term.max(*term);
    }
}
