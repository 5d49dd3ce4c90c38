//! Which links a fault hits: `"a1, a2 <-> b1, c"`, `"clients -> leader"`.
//!
//! A shape of a broken network is a list of such wires: a ring, a bridge or two halves are the links that are missing.
//!
//! Invariants: a wire that was parsed names only what there is; a link between two ends of the same side is never hit, so
//! what is cut off as a whole stays whole within itself.

use std::fmt;

use crate::cluster::{Member, Members};
use crate::proxy::Endpoint;

/// Some ends of links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Party {
    /// Everybody who is not on the other side: `everything`.
    Everything,
    /// Every node that is not on the other side: `others`.
    Others,
    /// All clients: `clients`.
    Clients,
    /// The nodes of a site, by its name.
    Site(String),
    /// The nodes of a zone, by its name.
    Zone(String),
    /// A node, by its name.
    Node(String),
    /// The node that leads group 0 when the fault begins: `leader`.
    Leader,
    /// All nodes of that node's zone: `leader-zone`.
    LeaderZone,
}

impl Party {
    /// Reads a name.
    ///
    /// # Errors
    /// There is nobody of that name.
    pub fn parse(name: &str, members: &Members) -> Result<Self, String> {
        Ok(match name {
            "everything" => Self::Everything,
            "others" => Self::Others,
            "clients" => Self::Clients,
            "leader" => Self::Leader,
            "leader-zone" => Self::LeaderZone,
            site if members.has_site(site) => Self::Site(site.to_owned()),
            zone if members.has_zone(zone) => Self::Zone(zone.to_owned()),
            node if members.node(node).is_some() => Self::Node(node.to_owned()),
            other => {
                return Err(format!(
                    "{other:?} is neither a site, a zone, a node nor one of everything, others, clients, leader and \
                     leader-zone"
                ));
            }
        })
    }

    fn needs_leader(&self) -> bool {
        matches!(self, Self::Leader | Self::LeaderZone)
    }

    fn is_relative(&self) -> bool {
        matches!(self, Self::Everything | Self::Others)
    }

    fn holds(&self, end: Endpoint, members: &Members, leader: Option<&Member>) -> bool {
        let member = match end {
            Endpoint::Clients => None,
            Endpoint::Node(id) => members.by_id(id),
        };
        match self {
            Self::Everything => true,
            Self::Others => member.is_some(),
            Self::Clients => end == Endpoint::Clients,
            Self::Site(site) => member.is_some_and(|member| member.site == *site),
            Self::Zone(zone) => member.is_some_and(|member| member.zone == *zone),
            Self::Node(node) => member.is_some_and(|member| member.name == *node),
            Self::Leader => member.is_some() && member == leader,
            Self::LeaderZone => member.zip(leader).is_some_and(|(member, leader)| member.zone == leader.zone),
        }
    }
}

/// Links between two sides, one way or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// One side.
    pub left: Vec<Party>,
    /// The other side.
    pub right: Vec<Party>,
    /// From left to right.
    pub forth: bool,
    /// From right to left.
    pub back: bool,
}

impl Wire {
    /// Reads `LEFT <-> RIGHT`, `LEFT -> RIGHT` or `LEFT <- RIGHT`, each side names with commas between them.
    ///
    /// # Errors
    /// It is nothing like that, or names somebody who is not there.
    pub fn parse(text: &str, members: &Members) -> Result<Self, String> {
        // The longest arrow first: it holds the others.
        let arrows = [("<->", true, true), ("->", true, false), ("<-", false, true)];
        let split = |(arrow, forth, back)| Some((text.split_once(arrow)?, forth, back));
        let Some(((left, right), forth, back)) = arrows.into_iter().find_map(split) else {
            return Err(format!("{text:?} is not like \"a <-> b\" or \"clients -> a1, a2\""));
        };
        let side = |names: &str| -> Result<Vec<Party>, String> {
            names.split(',').map(|name| Party::parse(name.trim(), members)).collect()
        };
        let wire = Self { left: side(left)?, right: side(right)?, forth, back };
        if wire.left.iter().chain(&wire.right).filter(|party| party.is_relative()).count() > 1 {
            return Err(format!("{text:?} names what is left over more than once"));
        }
        Ok(wire)
    }

    /// Whether it can only be resolved when the leader is known.
    pub fn needs_leader(&self) -> bool {
        self.left.iter().chain(&self.right).any(Party::needs_leader)
    }

    fn sides(&self, members: &Members, leader: Option<&Member>) -> (Vec<Endpoint>, Vec<Endpoint>) {
        let on = |parties: &[Party], but: &[Endpoint]| -> Vec<Endpoint> {
            let is_on = |end: &Endpoint| parties.iter().any(|party| party.holds(*end, members, leader));
            members.endpoints().into_iter().filter(|end| !but.contains(end) && is_on(end)).collect()
        };
        // What is left over can only be told when the other side is known.
        if self.left.iter().any(Party::is_relative) {
            let right = on(&self.right, &[]);
            (on(&self.left, &right), right)
        } else {
            let left = on(&self.left, &[]);
            let right = on(&self.right, &left);
            (left, right)
        }
    }

    /// The ordered pairs of ends whose links are hit.
    pub fn pairs(&self, members: &Members, leader: Option<&Member>) -> Vec<(Endpoint, Endpoint)> {
        let (left, right) = self.sides(members, leader);
        let mut pairs = Vec::new();
        for &one in &left {
            for &other in &right {
                if self.back {
                    pairs.push((other, one));
                }
                if self.forth {
                    pairs.push((one, other));
                }
            }
        }
        pairs
    }

    /// The wire in names: `a1, a2 <-> clients, b1`.
    pub fn describe(&self, members: &Members, leader: Option<&Member>) -> String {
        let (left, right) = self.sides(members, leader);
        let names = |ends: &[Endpoint]| {
            let names: Vec<String> = ends.iter().map(|end| members.name_of(*end)).collect();
            names.join(", ")
        };
        format!("{} {self} {}", names(&left), names(&right))
    }
}

/// Its arrow.
impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.forth, self.back) {
            (true, true) => "<->",
            (true, false) => "->",
            _ => "<-",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Wire {
        Wire::parse(text, &Members::default_five()).unwrap()
    }

    fn pairs(text: &str) -> Vec<(Endpoint, Endpoint)> {
        let members = Members::default_five();
        wire(text).pairs(&members, members.node("b1"))
    }

    #[test]
    fn a_zone_is_cut_from_everything_but_itself() {
        let pairs = pairs("a <-> everything");
        assert_eq!(pairs.len(), 2 * 4 * 2, "two nodes, four others each, both ways");
        assert!(!pairs.contains(&(Endpoint::Node(1), Endpoint::Node(2))));
        assert!(pairs.contains(&(Endpoint::Clients, Endpoint::Node(2))));
        assert!(pairs.contains(&(Endpoint::Node(1), Endpoint::Node(5))));
        assert!(!pairs.contains(&(Endpoint::Node(3), Endpoint::Node(4))));
    }

    #[test]
    fn one_way_wires_and_parties_are_exact() {
        let (c1, b2) = (Endpoint::Node(5), Endpoint::Node(4));
        assert_eq!(pairs("c -> clients, b2"), [(c1, Endpoint::Clients), (c1, b2)]);
        assert_eq!(pairs("c <- b2"), [(b2, c1)]);
        assert_eq!(pairs("leader -> c1"), [(Endpoint::Node(3), c1)], "b1 leads");
        assert_eq!(pairs("east -> west").len(), 4);
        assert_eq!(pairs("leader-zone -> others").len(), 2 * 3, "the clients are no nodes");
        assert_eq!(pairs("others -> leader-zone").len(), 2 * 3);
    }

    /// Every node keeps a majority: itself and its two neighbours in a1 - a2 - b1 - b2 - c1 - a1.
    #[test]
    fn a_ring_is_what_is_not_cut() {
        let members = Members::default_five();
        let cut = ["a1 <-> b1, b2", "a2 <-> b2, c1", "b1 <-> c1"].map(pairs).concat();
        for member in members.iter() {
            let heard = members
                .iter()
                .filter(|other| *other != member && !cut.contains(&(other.endpoint(), member.endpoint())));
            assert_eq!(heard.count(), 2, "{}", member.name);
        }
    }

    #[test]
    fn what_is_no_wire_is_refused() {
        let members = Members::default_five();
        for (text, why) in [
            ("a b", "is not like"),
            ("a <-> z", "\"z\" is neither"),
            ("<-> a", "\"\" is neither"),
            ("others <-> everything", "more than once"),
        ] {
            let error = Wire::parse(text, &members).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn wires_are_said_in_names() {
        let members = Members::default_five();
        let said = wire("leader-zone <-> clients, c").describe(&members, members.node("b1"));
        assert_eq!(said, "b1, b2 <-> clients, c1");
    }
}
