//! The cluster under test: who its members are, and how real processes are made one ([`process`]).

pub mod child;
pub mod loop_disk;
pub mod namespace;
pub mod packets;
pub mod process;

use crate::proxy::Endpoint;

/// A node's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// From 1.
    pub id: u64,
    /// `a1`
    pub name: String,
    /// `a`
    pub zone: String,
    /// `east`
    pub site: String,
}

impl Member {
    /// The node's end of its links.
    pub fn endpoint(&self) -> Endpoint {
        Endpoint::Node(self.id)
    }
}

/// All nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members(Vec<Member>);

impl Members {
    /// The default five in 2-2-1: `a1`, `a2`, `b1`, `b2`, `c1`.
    pub fn default_five() -> Self {
        let places = [
            ("a1", "a", "east"),
            ("a2", "a", "east"),
            ("b1", "b", "east"),
            ("b2", "b", "east"),
            ("c1", "c", "west"),
        ];
        Self(
            (1..)
                .zip(places)
                .map(|(id, (name, zone, site))| Member {
                    id,
                    name: name.into(),
                    zone: zone.into(),
                    site: site.into(),
                })
                .collect(),
        )
    }

    /// In the order of their ids.
    pub fn iter(&self) -> std::slice::Iter<'_, Member> {
        self.0.iter()
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Member> {
        self.iter().find(|member| member.name == name)
    }

    /// The node of this id.
    pub fn by_id(&self, id: u64) -> Option<&Member> {
        self.iter().find(|member| member.id == id)
    }

    /// Whether any node is in this zone.
    pub fn has_zone(&self, zone: &str) -> bool {
        self.iter().any(|member| member.zone == zone)
    }

    /// Whether any node is in this site.
    pub fn has_site(&self, site: &str) -> bool {
        self.iter().any(|member| member.site == site)
    }

    /// The nodes of a zone.
    pub fn of_zone<'a>(&'a self, zone: &'a str) -> impl Iterator<Item = &'a Member> {
        self.iter().filter(move |member| member.zone == zone)
    }

    /// An end's name.
    pub fn name_of(&self, end: Endpoint) -> String {
        match end {
            Endpoint::Clients => "clients".to_owned(),
            Endpoint::Node(id) => {
                self.by_id(id).map_or_else(|| end.to_string(), |member| member.name.clone())
            }
        }
    }

    /// Every end that links have: all nodes and the clients.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        std::iter::once(Endpoint::Clients).chain(self.iter().map(Member::endpoint)).collect()
    }
}
