//! What clients and nodes said, as histories keep it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Hash32;

/// A durability class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// On two zones at least.
    City,
    /// In every site.
    Geo,
}

/// Where a node stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its zone.
    pub zone: String,
    /// The zone's site.
    pub site: String,
}

/// Where nodes stand, by their names.
pub type Places = BTreeMap<String, Place>;

/// The replicated part of a receipt, and what it attests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptSeen {
    /// The entry's key.
    pub key: String,
    /// The entry's number.
    pub seq: u64,
    /// Its hash.
    pub entry_hash: Hash32,
    /// The chain's hash after it.
    pub chain_hash: Hash32,
    /// When the leader recorded it, in microseconds since 1970.
    pub recorded_at_us: i64,
    /// The key was known already.
    #[serde(default)]
    pub replayed: bool,
    /// What it says of the entry's placement, if it says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attested: Option<Attested>,
}

/// Of the moment of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The class that the entry satisfies.
    pub class: Class,
    /// Acknowledged as a weaker class than was asked for.
    #[serde(default)]
    pub degraded: bool,
    /// The class is known from the log, and `zones` need not show it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inherited: bool,
    /// Zones that hold it.
    #[serde(default)]
    pub zones: Vec<String>,
}

impl Attested {
    /// The class that may be relied on.
    pub fn reliable(&self) -> Class {
        if self.degraded { Class::City } else { self.class }
    }
}

/// An entry that a read returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntrySeen {
    /// The entry's number.
    pub seq: u64,
    /// Its hash.
    pub entry_hash: Hash32,
}

/// What a node said of one of its groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observation {
    /// When the answer arrived, in nanoseconds.
    pub t: u64,
    /// The node's name.
    pub node: String,
    /// The number of its present data directory.
    pub incarnation: u64,
    /// How often its process had been started, as far as the observer knows.
    #[serde(default)]
    pub start: u64,
    /// The group.
    pub group: u32,
    /// Its term.
    pub term: u64,
    /// `leader`, `follower`, `candidate`, `learner`, `stopped`
    pub role: String,
    /// Its leader's name; empty: none known.
    pub leader: String,
    /// The highest index that it knows to be committed; 0: not said.
    #[serde(default)]
    pub committed: u64,
    /// The highest index that it has applied; 0: not said.
    #[serde(default)]
    pub applied: u64,
}

/// A vote that a node has stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredVote {
    /// The node's name.
    pub node: String,
    /// The number of its data directory.
    pub incarnation: u64,
    /// The group.
    pub group: u32,
    /// The term of the vote.
    pub term: u64,
    /// Whom it is for: a node's id.
    pub for_node: u64,
    /// Whether that node is known to have won.
    pub committed: bool,
}
