//! What a topology survives, found by trying every loss: each node, each zone, each site, each pair of nodes.
//!
//! Invariant: nothing is concluded from a formula; every statement is a count over the nodes that are left.

use std::fmt;

use super::{Node, Topology};

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LossKind {
    /// One node.
    Node,
    /// Every node of a zone.
    Zone,
    /// Every node of a site.
    Site,
    /// Two nodes, of any zones.
    Pair,
}

/// One loss and what is left after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What is lost.
    pub kind: LossKind,
    /// Its name; the two names of a pair.
    pub names: Vec<String>,
    /// Ids of the nodes that are lost with it.
    pub lost: Vec<u64>,
    /// Voters that are left.
    pub voters_left: usize,
    /// Voters in all.
    pub voters: usize,
    /// A majority of all voters is left: the rest elects a leader and commits.
    pub quorum: bool,
}

impl fmt::Display for Loss {
    /// E.g. `zone a`, `pair a1 b2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            LossKind::Node => "node",
            LossKind::Zone => "zone",
            LossKind::Site => "site",
            LossKind::Pair => "pair",
        };
        write!(f, "{kind} {}", self.names.join(" "))
    }
}

impl Topology {
    /// Every loss, in the order node, zone, site, pair, each in the file's order.
    pub fn survives(&self) -> Vec<Loss> {
        let nodes = self
            .nodes
            .iter()
            .map(|lost| self.after(LossKind::Node, vec![lost.name.clone()], |node| node.id == lost.id));
        let zones = self
            .zones
            .iter()
            .map(|zone| self.after(LossKind::Zone, vec![zone.name.clone()], |node| node.zone == zone.name));
        let sites = self.sites.iter().map(|site| {
            let lost = |node: &Node| self.zone(&node.zone).is_some_and(|zone| zone.site == site.name);
            self.after(LossKind::Site, vec![site.name.clone()], lost)
        });
        let pairs = self.nodes.iter().enumerate().flat_map(|(at, one)| {
            self.nodes[at + 1..].iter().map(move |two| {
                let names = vec![one.name.clone(), two.name.clone()];
                self.after(LossKind::Pair, names, |node| node.id == one.id || node.id == two.id)
            })
        });
        nodes.chain(zones).chain(sites).chain(pairs).collect()
    }

    fn after(&self, kind: LossKind, names: Vec<String>, lost: impl Fn(&Node) -> bool) -> Loss {
        let lost: Vec<u64> = self.nodes.iter().filter(|node| lost(node)).map(|node| node.id).collect();
        let voters_left = self.voters().filter(|voter| !lost.contains(&voter.id)).count();
        let quorum = voters_left >= self.quorum();
        Loss { kind, names, lost, voters_left, voters: self.voters().count(), quorum }
    }
}
