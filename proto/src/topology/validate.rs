//! Refuses topologies that do not make sense, naming the field.
//!
//! The order matters: names first, then references, then what is computed through them.

use std::collections::HashMap;

use super::address::parse_address;
use super::{LossKind, Topology, TopologyError};

/// Most nodes; every pair is tried, and every append goes to every node.
const MAX_NODES: usize = 64;
/// A segment holds the largest proposal twice and is addressed with four bytes.
const SEGMENT_MIB: std::ops::RangeInclusive<u32> = 16..=2_048;
/// Most groups.
const MAX_GROUPS: u32 = 1_024;
/// Longest name of a site, zone or node, in bytes.
const MAX_NAME_BYTES: usize = 32;
/// Longest name of a cluster, in bytes.
const MAX_CLUSTER_NAME_BYTES: usize = 64;

impl Topology {
    /// Refuses, with the field and the reason: names or ids that are malformed or given twice, references to what is not
    /// there, addresses used twice, timing that cannot work, and a zone whose loss would lose the quorum.
    pub fn validate(&self) -> Result<(), TopologyError> {
        self.validate_cluster()?;
        self.validate_sites()?;
        self.validate_zones()?;
        self.validate_nodes()?;
        self.validate_addresses()?;
        self.validate_limits()?;
        self.validate_rtts()?;
        self.validate_timing()?;
        self.validate_durability()?;
        self.validate_leadership()?;
        self.validate_survival()
    }

    fn validate_cluster(&self) -> Result<(), TopologyError> {
        check_name("cluster.name", &self.cluster.name, true, MAX_CLUSTER_NAME_BYTES)?;
        if !(1..=MAX_GROUPS).contains(&self.cluster.groups) {
            let message = format!("{} is not from 1 to {MAX_GROUPS}", self.cluster.groups);
            return Err(TopologyError::invalid("cluster.groups", message));
        }
        Ok(())
    }

    fn validate_sites(&self) -> Result<(), TopologyError> {
        if self.sites.is_empty() {
            return Err(TopologyError::invalid("sites", "there is no site"));
        }
        let mut seen = HashMap::new();
        for (at, site) in self.sites.iter().enumerate() {
            let field = format!("sites[{at}].name");
            check_name(&field, &site.name, false, MAX_NAME_BYTES)?;
            unique(&mut seen, field, site.name.clone())?;
            if !self.zones.iter().any(|zone| zone.site == site.name) {
                let message = format!("site {:?} has no zone", site.name);
                return Err(TopologyError::invalid(format!("sites[{at}]"), message));
            }
        }
        Ok(())
    }

    fn validate_zones(&self) -> Result<(), TopologyError> {
        let mut names = HashMap::new();
        let mut preferences = HashMap::new();
        for (at, zone) in self.zones.iter().enumerate() {
            let field = format!("zones[{at}].name");
            check_name(&field, &zone.name, false, MAX_NAME_BYTES)?;
            unique(&mut names, field, zone.name.clone())?;
            if !self.sites.iter().any(|site| site.name == zone.site) {
                let message = format!("zone {:?} is in unknown site {:?}", zone.name, zone.site);
                return Err(TopologyError::invalid(format!("zones[{at}].site"), message));
            }
            let field = format!("zones[{at}].leader_preference");
            if zone.leader_preference == 0 {
                return Err(TopologyError::invalid(field, "preferences begin with 1"));
            }
            unique(&mut preferences, field, zone.leader_preference)?;
            if !self.nodes.iter().any(|node| node.zone == zone.name) {
                let message = format!("zone {:?} has no node", zone.name);
                return Err(TopologyError::invalid(format!("zones[{at}]"), message));
            }
        }
        Ok(())
    }

    fn validate_nodes(&self) -> Result<(), TopologyError> {
        if self.nodes.len() > MAX_NODES {
            let message = format!("{} nodes are more than {MAX_NODES}", self.nodes.len());
            return Err(TopologyError::invalid("nodes", message));
        }
        let mut ids = HashMap::new();
        let mut names = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            if node.id == 0 {
                return Err(TopologyError::invalid(format!("nodes[{at}].id"), "ids begin with 1"));
            }
            unique(&mut ids, format!("nodes[{at}].id"), node.id)?;
            let field = format!("nodes[{at}].name");
            check_name(&field, &node.name, true, MAX_NAME_BYTES)?;
            unique(&mut names, field, node.name.clone())?;
            if self.zone(&node.zone).is_none() {
                let message = format!("node {:?} is in unknown zone {:?}", node.name, node.zone);
                return Err(TopologyError::invalid(format!("nodes[{at}].zone"), message));
            }
        }
        if self.voters().next().is_none() {
            return Err(TopologyError::invalid("nodes", "no node is a voter"));
        }
        Ok(())
    }

    fn validate_addresses(&self) -> Result<(), TopologyError> {
        let mut seen = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let addresses = [
                ("peer", Some(&node.peer)),
                ("client", Some(&node.client)),
                ("metrics", node.metrics.as_ref()),
            ];
            for (name, address) in addresses {
                let Some(address) = address else { continue };
                let field = format!("nodes[{at}].{name}");
                let (host, port) =
                    parse_address(address).map_err(|message| TopologyError::invalid(&field, message))?;
                unique(&mut seen, field, format!("{}:{port}", host.to_ascii_lowercase()))?;
            }
        }
        Ok(())
    }

    fn validate_limits(&self) -> Result<(), TopologyError> {
        let largest_request = crate::limits::MAX_REQUEST_BYTES as u64;
        if self.limits.inflight_bytes < largest_request {
            let message =
                format!("{} is below one largest request, {largest_request}", self.limits.inflight_bytes);
            return Err(TopologyError::invalid("limits.inflight_bytes", message));
        }
        if !SEGMENT_MIB.contains(&self.storage.segment_mib) {
            let message = format!(
                "{} is not from {} to {} MiB",
                self.storage.segment_mib,
                SEGMENT_MIB.start(),
                SEGMENT_MIB.end()
            );
            return Err(TopologyError::invalid("storage.segment_mib", message));
        }
        if self.limits.inflight_requests == 0 {
            return Err(TopologyError::invalid("limits.inflight_requests", "is not at least 1"));
        }
        let limits = &self.limits;
        for (name, value) in [
            ("client_connections", limits.client_connections),
            ("client_connections_per_address", limits.client_connections_per_address),
            ("peer_connections", limits.peer_connections),
            ("peer_connections_per_address", limits.peer_connections_per_address),
        ] {
            if value == 0 {
                return Err(TopologyError::invalid(format!("limits.{name}"), "is not at least 1"));
            }
        }
        Ok(())
    }

    fn validate_survival(&self) -> Result<(), TopologyError> {
        let fatal = self.survives().into_iter().find(|loss| loss.kind == LossKind::Zone && !loss.quorum);
        let Some(loss) = fatal else { return Ok(()) };
        let message = format!(
            "losing {loss} loses the quorum: {} of {} voters would be left, and {} are needed; \
             no zone may hold half of the voters or more (2 + 2 + 1 in three zones is the usual layout)",
            loss.voters_left,
            loss.voters,
            self.quorum()
        );
        Err(TopologyError::invalid("nodes", message))
    }
}

/// Lower-case letters, digits, underscores, and hyphens where they are allowed.
fn check_name(field: &str, name: &str, hyphen: bool, max_bytes: usize) -> Result<(), TopologyError> {
    let ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || (hyphen && c == '-');
    if (1..=max_bytes).contains(&name.len()) && name.chars().all(ok) {
        return Ok(());
    }
    let set = if hyphen { "a-z0-9_-" } else { "a-z0-9_" };
    Err(TopologyError::invalid(field, format!("{name:?} is not [{set}]{{1,{max_bytes}}}")))
}

/// Notes that `field` has `value`; refuses if another field has it.
fn unique<T: std::hash::Hash + Eq + std::fmt::Debug>(
    seen: &mut HashMap<T, String>,
    field: String,
    value: T,
) -> Result<(), TopologyError> {
    if let Some(other) = seen.get(&value) {
        return Err(TopologyError::invalid(field, format!("{value:?} is also {other}")));
    }
    seen.insert(value, field);
    Ok(())
}
