//! What the leader of one term knows of the voters' logs, and the watermarks that follow.
//!
//! Invariants: acknowledgements of another term count for nothing; a node's index never goes back within a term; a watermark
//! never goes back and starts from a floor; it passes only indexes whose entries this leader wrote in its own term.
//!
//! Why the last one: followers acknowledge older terms' entries as well, and such entries can still be replaced even when a
//! majority holds them (Raft, section 5.4.2). A watermark that counted one would be wrong for ever, since watermarks are kept
//! across terms. An entry of the own term on a majority is committed, and with it everything below.

use std::collections::BTreeMap;

use tercet_storage::mutants;

use super::{Class, Voter, watermark};

/// See the module. Made anew for every term that this node leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acks {
    term: u64,
    by_node: BTreeMap<u64, u64>,
    /// Number of the data directory that each node acknowledged from.
    incarnations: BTreeMap<u64, u64>,
    city: u64,
    geo: u64,
}

impl Acks {
    /// Starts a term: nobody has acknowledged anything, but everything up to the floors is known to be placed.
    #[must_use]
    pub const fn new(term: u64, city_floor: u64, geo_floor: u64) -> Self {
        Self {
            term,
            by_node: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            city: city_floor,
            geo: geo_floor,
        }
    }

    /// The term that this node leads.
    #[must_use]
    pub const fn term(&self) -> u64 {
        self.term
    }

    /// A node says, in a message of `term`, that its log matches the leader's and is flushed through `index`. True if this is
    /// news.
    pub fn acknowledge(&mut self, term: u64, node_id: u64, index: u64) -> bool {
        if term != self.term {
            return false;
        }
        let known = self.by_node.entry(node_id).or_insert(0);
        let news = index > *known;
        *known = index.max(*known);
        news
    }

    /// A node answers from this data directory; another one than before holds nothing of what the old one acknowledged.
    pub fn meet(&mut self, node_id: u64, incarnation: u64) {
        let is_another =
            self.incarnations.insert(node_id, incarnation).is_some_and(|before| before != incarnation);
        if is_another {
            self.forget(node_id);
        }
    }

    /// Forgets a node: its data directory is another one now.
    pub fn forget(&mut self, node_id: u64) {
        if !mutants::is("incarnation-ignored") {
            self.by_node.remove(&node_id);
        }
    }

    /// The index through which each node has acknowledged.
    #[must_use]
    pub const fn by_node(&self) -> &BTreeMap<u64, u64> {
        &self.by_node
    }

    /// The watermark of a class. `is_own_term` says whether the entry at an index was written in this leader's term.
    pub fn watermark(&mut self, class: Class, voters: &[Voter], is_own_term: impl Fn(u64) -> bool) -> u64 {
        self.raise(class, watermark(class, voters, &self.by_node), is_own_term)
    }

    /// The watermark of a class that holds for either of two sets of voters.
    pub fn watermark_of_both(
        &mut self,
        class: Class,
        [one, other]: [&[Voter]; 2],
        is_own_term: impl Fn(u64) -> bool,
    ) -> u64 {
        let reached = watermark(class, one, &self.by_node).min(watermark(class, other, &self.by_node));
        self.raise(class, reached, is_own_term)
    }

    fn raise(&mut self, class: Class, reached: u64, is_own_term: impl Fn(u64) -> bool) -> u64 {
        let kept = match class {
            Class::City => &mut self.city,
            Class::Geo => &mut self.geo,
        };
        if reached > *kept && is_own_term(reached) {
            *kept = reached;
        }
        *kept
    }
}
