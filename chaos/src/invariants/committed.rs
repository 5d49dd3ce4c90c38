//! Applied logs are equal on all nodes, entry by entry, and none is taken back or replaced.

use std::collections::BTreeMap;

use tercet_storage::SegmentLog;

/// The group.
const GROUP: u32 = 0;

/// What has been applied anywhere.
#[derive(Default)]
pub(super) struct Committed {
    /// Terms by index, as the first node that applied an entry has it.
    terms: BTreeMap<u64, u64>,
    /// How far each node's log has been compared in its present life.
    compared: BTreeMap<u64, u64>,
}

impl Committed {
    /// A node begins anew; all of its log is compared again as it applies it.
    pub(super) fn restarted(&mut self, node: u64) {
        self.compared.remove(&node);
    }

    pub(super) fn applied(&mut self, node: u64, applied: u64, log: &SegmentLog) -> Result<(), String> {
        let compared = self.compared.entry(node).or_default();
        if applied < *compared {
            return Err(format!("committed: node {node} goes back from applied {compared} to {applied}"));
        }
        let from = *compared + 1;
        *compared = applied;
        for index in from..=applied {
            let Some(term) = log.point(GROUP, index).map(|point| point.term) else {
                return Err(format!(
                    "committed: node {node} has applied {applied} and its log lacks {index}"
                ));
            };
            let first = *self.terms.entry(index).or_insert(term);
            if first != term {
                return Err(format!(
                    "committed: entry {index} is of term {term} on node {node}, of term {first} elsewhere"
                ));
            }
        }
        Ok(())
    }
}
