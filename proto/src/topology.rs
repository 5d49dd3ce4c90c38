//! The topology: sites, zones and nodes, as `topology.toml` declares them.
//!
//! Invariants of a topology that [`Topology::parse`], [`Topology::load`] or [`Topology::default_on`] returned:
//! - names, ids and addresses are unique, and every reference leads somewhere;
//! - the loss of any one zone leaves a quorum of voters;
//! - [`Topology::timing`] satisfies `largest round trip < heartbeat < election_min < election_max`.
//!
//! Fields are public so that tests and tools can make variants; call [`Topology::validate`] on those.

mod address;
mod describe;
mod durability;
mod leadership;
mod survival;
mod template;
mod timing;
mod validate;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use address::is_loopback;
pub use durability::{DegradedBudget, Durability, GeoRegime};
pub use leadership::GroupSettings;
pub use survival::{Loss, LossKind};
pub use template::TEMPLATES;
pub use timing::Timing;

use crate::v1;

/// A whole topology file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// `[cluster]`
    pub cluster: Cluster,
    /// `[timing]`
    pub timing: TimingSettings,
    /// `[durability]`
    #[serde(default)]
    pub durability: Durability,
    /// `[storage]`
    #[serde(default)]
    pub storage: Storage,
    /// `[security]`
    #[serde(default)]
    pub security: Security,
    /// `[limits]`
    #[serde(default)]
    pub limits: Limits,
    /// `[[sites]]`
    pub sites: Vec<Site>,
    /// `[[zones]]`
    pub zones: Vec<Zone>,
    /// `[[nodes]]`
    pub nodes: Vec<Node>,
    /// `[[groups]]`: only groups that prefer other zones for their leader than the zones' own order says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<GroupSettings>,
}

/// `[cluster]`: what the cluster is called and how it is divided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// `[a-z0-9_-]{1,64}`; nodes refuse peers of another name.
    pub name: String,
    /// Number of Raft groups, from 1.
    #[serde(default = "one_group")]
    pub groups: u32,
}

fn one_group() -> u32 {
    1
}

/// `[timing]`: declared round trips, and overrides of what is derived from them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingSettings {
    /// Round-trip time of every pair of zones, in milliseconds; the key is `"a-b"`, in either order.
    pub rtt_ms: BTreeMap<String, f64>,
    /// Overrides the derived heartbeat interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// Overrides the derived lower end of the election time-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_min_ms: Option<u64>,
    /// Overrides the derived upper end of the election time-out, which is also the lease.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_max_ms: Option<u64>,
    /// How long a node of a more preferred zone must have been in contact and caught up before leadership moves to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_steady_ms: Option<u64>,
}

/// `[storage]`: how nodes reach their disks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// Which disk implementation nodes use.
    #[serde(default)]
    pub disk: DiskSetting,
    /// Length of a log segment in MiB, 16 to 2,048: how much is written ahead, sealed and removed at once.
    #[serde(default = "default_segment_mib")]
    pub segment_mib: u32,
    /// How fast the scrubber reads sealed segments, MiB a second; 0: not at all. 4 are a terabyte in three days.
    #[serde(default = "default_scrub_mib_per_second")]
    pub scrub_mib_per_second: u32,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            disk: DiskSetting::default(),
            segment_mib: default_segment_mib(),
            scrub_mib_per_second: default_scrub_mib_per_second(),
        }
    }
}

const fn default_scrub_mib_per_second() -> u32 {
    4
}

const fn default_segment_mib() -> u32 {
    64
}

/// `[storage] disk`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DiskSetting {
    /// io_uring; a node does not start where it is missing.
    #[default]
    IoUring,
    /// pwrite and fdatasync on a thread of their own.
    Portable,
    /// io_uring, or portable where io_uring is missing.
    Auto,
}

impl DiskSetting {
    /// As written in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IoUring => "io_uring",
            Self::Portable => "portable",
            Self::Auto => "auto",
        }
    }
}

/// `[security]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// Allows addresses other than loopback without TLS.
    #[serde(default)]
    pub insecure: bool,
}

/// `[limits]`: what one node takes on at a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Encoded bytes of append requests that a leader holds before it answers OVERLOADED.
    pub inflight_bytes: u64,
    /// Append requests that a leader holds before it answers OVERLOADED.
    pub inflight_requests: u64,
    /// Free bytes below which appends are refused as DISK_FULL.
    pub disk_reserve_bytes: u64,
    /// Connections of clients that a node takes, all together.
    pub client_connections: u32,
    /// Connections of clients that a node takes from one address. This machine's own may have half of all.
    pub client_connections_per_address: u32,
    /// Connections of peers that a node takes, all together.
    pub peer_connections: u32,
    /// Connections of peers that a node takes from one address. This machine's own may have half of all.
    pub peer_connections_per_address: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            inflight_bytes: 64 << 20,
            inflight_requests: 16_384,
            disk_reserve_bytes: 64 << 20,
            client_connections: 4_096,
            client_connections_per_address: 256,
            peer_connections: 256,
            peer_connections_per_address: 32,
        }
    }
}

/// `[[sites]]`: a city.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// `[a-z0-9_]{1,32}`
    pub name: String,
}

/// `[[zones]]`: a datacenter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// `[a-z0-9_]{1,32}`; no hyphen, which joins the names of a pair in `rtt_ms`.
    pub name: String,
    /// Name of its site.
    pub site: String,
    /// From 1; leadership moves to the zone with the smallest number that can take it.
    pub leader_preference: u32,
}

/// `[[nodes]]`: a server process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// From 1; never given to another node.
    pub id: u64,
    /// `[a-z0-9_-]{1,32}`
    pub name: String,
    /// Name of its zone.
    pub zone: String,
    /// `host:port` for other nodes.
    pub peer: String,
    /// `host:port` for clients.
    pub client: String,
    /// `host:port` of the Prometheus page, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// Its part in elections and commits.
    #[serde(default)]
    pub role: Role,
}

/// A node's part in its groups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Counts for the quorum and may lead.
    #[default]
    Voter,
    /// Only receives the log.
    Learner,
}

impl Role {
    /// As written in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a topology was not taken.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The file cannot be read.
    #[error("cannot read topology {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// Not TOML, an unknown or missing key, or a value of the wrong type.
    #[error("topology, line {line}, column {column}: {message}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// Names the key.
        message: String,
    },
    /// Well-formed, but it does not make sense.
    #[error("topology, {field}: {message}")]
    Invalid {
        /// Path of the field at fault, e.g. `nodes[2].zone`.
        field: String,
        /// What is wrong with it.
        message: String,
    },
}

impl TopologyError {
    fn invalid(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { field: field.into(), message: message.into() }
    }

    fn syntax(text: &str, error: &toml::de::Error) -> Self {
        let at = error.span().map_or(text.len(), |span| span.start.min(text.len()));
        let before = text.get(..at).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Self::Syntax {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error.message().replace('\n', "; "),
        }
    }
}

impl Topology {
    /// Reads, parses and validates a file.
    pub fn load(path: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TopologyError::Read { path: path.to_owned(), source })?;
        Self::parse(&text)
    }

    /// Parses and validates TOML.
    pub fn parse(text: &str) -> Result<Self, TopologyError> {
        let topology: Self = toml::from_str(text).map_err(|error| TopologyError::syntax(text, &error))?;
        topology.validate()?;
        Ok(topology)
    }

    /// As TOML that [`Topology::parse`] takes.
    pub fn to_toml(&self) -> Result<String, TopologyError> {
        toml::to_string(self).map_err(|error| TopologyError::invalid("topology", error.to_string()))
    }

    /// The default, 2 + 2 + 1 voters: zones `a` and `b` in site `east`, zone `c` in site `west`, all on 127.0.0.1.
    ///
    /// Node `id` (1 to 5) has peer port `base_port + 100 + id`, client port `base_port + 200 + id` and metrics port
    /// `base_port + 300 + id`; 7000 gives the repository's `topology.toml`. Refused if a port would pass 65535.
    pub fn default_on(base_port: u16) -> Result<Self, TopologyError> {
        Self::of_voters([2, 2, 1], base_port)
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.name == name)
    }

    /// The node of this id.
    pub fn node_by_id(&self, id: u64) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The zone of this name.
    pub fn zone(&self, name: &str) -> Option<&Zone> {
        self.zones.iter().find(|zone| zone.name == name)
    }

    /// The name of a node's site.
    pub fn site_of(&self, node_id: u64) -> Option<&str> {
        let zone = &self.node_by_id(node_id)?.zone;
        self.zone(zone).map(|zone| zone.site.as_str())
    }

    /// The nodes that vote, in the file's order.
    pub fn voters(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.role == Role::Voter)
    }

    /// How many voters make a majority.
    pub fn quorum(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// The zones, the most preferred for leadership first.
    pub fn zones_by_preference(&self) -> Vec<&Zone> {
        let mut zones: Vec<&Zone> = self.zones.iter().collect();
        zones.sort_by_key(|zone| zone.leader_preference);
        zones
    }

    /// As `Admin.GetTopology` answers.
    pub fn to_info(&self) -> v1::TopologyInfo {
        v1::TopologyInfo {
            cluster_name: self.cluster.name.clone(),
            groups: self.cluster.groups,
            nodes: self
                .nodes
                .iter()
                .map(|node| v1::NodeInfo {
                    id: node.id,
                    name: node.name.clone(),
                    zone: node.zone.clone(),
                    site: self.site_of(node.id).unwrap_or_default().to_owned(),
                    peer: node.peer.clone(),
                    client: node.client.clone(),
                    role: node.role.as_str().to_owned(),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests;
