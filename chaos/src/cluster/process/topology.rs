//! Each node's own view of the topology, and the links' own shape.

use std::collections::BTreeMap;
use std::time::Duration;

use tercet_proto::topology::{DiskSetting, Topology};

use super::{Addresses, ClusterError};
use crate::cluster::Members;
use crate::proxy::{Endpoint, LinkShape};
use crate::scenario::ClusterPlan;

/// Where the default topology's ports begin; all of them are replaced.
const ANY_BASE_PORT: u16 = 20_000;
/// Declared round trip of zones without a delay, in milliseconds: the machine's own scheduling.
const LEAST_RTT_MS: f64 = 1.0;

/// `a-b` for either order.
fn pair(zone: &str, other: &str) -> String {
    if zone < other { format!("{zone}-{other}") } else { format!("{other}-{zone}") }
}

/// The delays between zones; clients are next to every node.
pub(super) fn link_shape<'a>(
    members: &'a Members,
    plan: &'a ClusterPlan,
) -> impl Fn(Endpoint, Endpoint) -> LinkShape + 'a {
    move |from, to| {
        let zone = |end| match end {
            Endpoint::Clients => None,
            Endpoint::Node(id) => members.by_id(id).map(|member| member.zone.as_str()),
        };
        let delay = match (zone(from), zone(to)) {
            (Some(zone), Some(other)) => plan.delay.get(&pair(zone, other)).copied(),
            _ => None,
        };
        match delay {
            Some(delay) => {
                LinkShape { delay: delay.into(), jitter: plan.jitter.into(), ..LinkShape::default() }
            }
            None => LinkShape::default(),
        }
    }
}

/// The topology file of a node that sees the members at these addresses.
pub(super) fn render(
    members: &Members,
    plan: &ClusterPlan,
    seen: &BTreeMap<u64, Addresses>,
) -> Result<String, ClusterError> {
    let harness = |error: &dyn std::fmt::Display| ClusterError::Harness(format!("the topology: {error}"));
    let mut topology = Topology::default_on(ANY_BASE_PORT).map_err(|error| harness(&error))?;
    topology.cluster.name = "chaos".into();
    topology.storage.disk = DiskSetting::Auto;
    for node in &mut topology.nodes {
        let known =
            members.node(&node.name).is_some_and(|member| member.id == node.id && member.zone == node.zone);
        let (true, Some(addresses)) = (known, seen.get(&node.id)) else {
            return Err(harness(&format!("node {} is not as expected", node.name)));
        };
        node.peer = addresses.peer.to_string();
        node.client = addresses.client.to_string();
        node.metrics = Some(addresses.metrics.to_string());
    }
    for (zones, rtt_ms) in &mut topology.timing.rtt_ms {
        let there_and_back = plan.delay.get(zones).map_or(Duration::ZERO, |delay| Duration::from(*delay) * 2);
        *rtt_ms = (there_and_back.as_secs_f64() * 1e3).max(LEAST_RTT_MS);
    }
    topology.durability.geo_regime = plan.geo_regime;
    if let Some(after) = plan.degrade_after {
        let ms = Duration::from(after).as_millis();
        topology.durability.degrade_after_ms = u64::try_from(ms).unwrap_or(u64::MAX);
    }
    topology.validate().map_err(|error| harness(&error))?;
    toml::to_string(&topology).map_err(|error| harness(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;

    #[test]
    fn a_node_sees_proxies_and_the_declared_round_trip() {
        let scenario = Scenario::parse(
            "name = 'x'\ndescription = ''\n[cluster]\ndelay = { 'a-c' = '15ms' }\njitter = '1ms'",
        )
        .unwrap();
        let members = Members::default_five();
        let address = |port: u64| format!("127.0.0.1:{port}").parse().unwrap();
        let seen = members
            .iter()
            .map(|member| {
                let base = 1_000 * member.id;
                (
                    member.id,
                    Addresses { peer: address(base), client: address(base + 1), metrics: address(base + 2) },
                )
            })
            .collect();
        let text = render(&members, &scenario.cluster, &seen).unwrap();
        let topology = Topology::parse(&text).unwrap();
        assert_eq!(topology.node("b1").unwrap().peer, "127.0.0.1:3000");
        assert_eq!(topology.rtt_ms("a", "c"), Some(30.0));
        assert_eq!(topology.rtt_ms("a", "b"), Some(1.0));

        let shape = link_shape(&members, &scenario.cluster);
        assert_eq!(shape(Endpoint::Node(5), Endpoint::Node(1)).delay, Duration::from_millis(15));
        assert_eq!(shape(Endpoint::Node(1), Endpoint::Node(2)), LinkShape::default());
        assert_eq!(shape(Endpoint::Clients, Endpoint::Node(5)), LinkShape::default());
    }
}
