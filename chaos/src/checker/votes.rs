//! A node's stored votes: within an incarnation, restarts or not, a later one has no lower term; in one term it is for one
//! node only, unless another one is known to have won meanwhile; and once a node is known to have won it stays so. Between
//! all nodes one node wins a term.

use std::collections::BTreeMap;

use super::{Evidence, Findings};
use crate::history::StoredVote;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let mut last: BTreeMap<(&str, u64, u32), &StoredVote> = BTreeMap::new();
    let mut winners: BTreeMap<(u32, u64), u64> = BTreeMap::new();
    for vote in &evidence.history.votes {
        let who = format!("{}, group {}", vote.node, vote.group);
        if let Some(before) = last.insert((&vote.node, vote.incarnation, vote.group), vote) {
            let (one, other) = (before.for_node, vote.for_node);
            if vote.term < before.term {
                findings.add(format!("{who}: a vote of term {} after one of {}", vote.term, before.term));
            } else if vote.term == before.term && before.committed && !vote.committed {
                findings.add(format!("{who}: in term {} it forgot who had won", vote.term));
            } else if vote.term == before.term && one != other && !vote.committed {
                findings.add(format!(
                    "{who}: in term {} it voted for node {one}, then for node {other}",
                    vote.term
                ));
            }
        }
        if vote.committed {
            let winner = *winners.entry((vote.group, vote.term)).or_insert(vote.for_node);
            if winner != vote.for_node {
                let (term, other) = (vote.term, vote.for_node);
                findings.add(format!("{who}: in term {term} node {other} won, and node {winner} elsewhere"));
            }
        }
    }
}
