//! Where groups want to be led from, and how long a node must have been steady before leadership moves to it.
//!
//! Invariant: every zone has a rank in every group; a group that prefers some zones has the others after them, in the order of
//! their own preference.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Topology, TopologyError};

/// How long a node must have been steady, unless the topology says otherwise, in milliseconds.
const LEADER_STEADY_MS: u64 = 5_000;
/// Longest time that may be asked for, in milliseconds.
const LEADER_STEADY_MAX_MS: u64 = 600_000;

/// `[[groups]]`: what one group does otherwise than the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSettings {
    /// The group's number, from 0.
    pub id: u32,
    /// Names of zones, the most preferred for leadership first; zones that are not named follow in their own order.
    pub prefer: Vec<String>,
}

impl Topology {
    /// The rank of a zone for leading `group`, from 1; an unknown zone comes last.
    pub fn leader_rank(&self, group: u32, zone: &str) -> u32 {
        let preferred: &[String] =
            self.groups.iter().find(|settings| settings.id == group).map_or(&[], |settings| &settings.prefer);
        let others = self.zones_by_preference().into_iter().map(|zone| &zone.name);
        let at = preferred
            .iter()
            .chain(others.filter(|name| !preferred.contains(name)))
            .position(|name| name.as_str() == zone);
        at.and_then(|at| u32::try_from(at).ok()).map_or(u32::MAX, |at| at.saturating_add(1))
    }

    /// How long a node must have been in contact and caught up before leadership moves to it.
    pub fn leader_steady(&self) -> Duration {
        Duration::from_millis(self.timing.leader_steady_ms.unwrap_or(LEADER_STEADY_MS))
    }

    pub(super) fn validate_leadership(&self) -> Result<(), TopologyError> {
        for (at, settings) in self.groups.iter().enumerate() {
            if settings.id >= self.cluster.groups {
                let message = format!("there is no group {} among {}", settings.id, self.cluster.groups);
                return Err(TopologyError::invalid(format!("groups[{at}].id"), message));
            }
            if self.groups[..at].iter().any(|other| other.id == settings.id) {
                let message = format!("group {} is given twice", settings.id);
                return Err(TopologyError::invalid(format!("groups[{at}].id"), message));
            }
            for (place, name) in settings.prefer.iter().enumerate() {
                let field = format!("groups[{at}].prefer[{place}]");
                if self.zone(name).is_none() {
                    return Err(TopologyError::invalid(field, format!("unknown zone {name:?}")));
                }
                if settings.prefer[..place].contains(name) {
                    return Err(TopologyError::invalid(field, format!("zone {name:?} is named twice")));
                }
            }
        }
        match self.timing.leader_steady_ms {
            Some(ms) if ms == 0 || ms > LEADER_STEADY_MAX_MS => Err(TopologyError::invalid(
                "timing.leader_steady_ms",
                format!("is not from 1 to {LEADER_STEADY_MAX_MS}"),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_groups(prefer: &[&str]) -> Topology {
        let mut topology = Topology::default_on(7_000).unwrap();
        topology.cluster.groups = 2;
        topology.groups =
            vec![GroupSettings { id: 1, prefer: prefer.iter().map(|&name| name.to_owned()).collect() }];
        topology
    }

    #[test]
    fn groups_may_be_led_from_different_zones() {
        let topology = two_groups(&["b"]);
        topology.validate().unwrap();
        let ranks = |group| ["a", "b", "c", "z"].map(|zone| topology.leader_rank(group, zone));
        assert_eq!(ranks(0), [1, 2, 3, u32::MAX]);
        assert_eq!(ranks(1), [2, 1, 3, u32::MAX], "what is not named follows in its own order");
        let again = Topology::parse(&topology.to_toml().unwrap()).unwrap();
        assert_eq!(again, topology);
    }

    #[test]
    fn a_preference_that_makes_no_sense_is_refused_and_named() {
        let refused = |topology: &Topology| topology.validate().unwrap_err().to_string();
        assert!(refused(&two_groups(&["b", "z"])).contains("groups[0].prefer[1]"));
        assert!(refused(&two_groups(&["b", "a", "b"])).contains("groups[0].prefer[2]"));
        let mut topology = two_groups(&["b"]);
        topology.groups[0].id = 2;
        assert!(refused(&topology).contains("groups[0].id"));
        topology.groups = vec![topology.groups[0].clone(), topology.groups[0].clone()];
        topology.groups.iter_mut().for_each(|settings| settings.id = 1);
        assert!(refused(&topology).contains("groups[1].id"));
        topology = two_groups(&[]);
        topology.timing.leader_steady_ms = Some(0);
        assert!(refused(&topology).contains("timing.leader_steady_ms"));
    }
}
