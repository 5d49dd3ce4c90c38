//! Topologies to begin with: two zones in the city `east`, one in the remote city `west`, with so many voters each.
//!
//! JR/T 0205 level 6 asks for two replicas in the remote city: 2-2-2 and 3-3-2 have them. An even number of voters has a greater
//! majority: in 2-2-2, with a zone of the city lost, each of the four that are left is needed, the remote ones too.

use super::{
    Cluster, Durability, Limits, Node, Role, Security, Site, Storage, TimingSettings, Topology,
    TopologyError, Zone,
};

/// Names of the templates: voters in zones `a`, `b` (site `east`) and `c` (site `west`).
pub const TEMPLATES: [(&str, [usize; 3]); 4] =
    [("2-2-1", [2, 2, 1]), ("3-3-1", [3, 3, 1]), ("2-2-2", [2, 2, 2]), ("3-3-2", [3, 3, 2])];

/// Offset of the peer ports; client and metrics ports lie 100 and 200 above.
const PEER_OFFSET: u16 = 100;

impl Topology {
    /// The template of this name, all nodes on 127.0.0.1.
    ///
    /// Node `id` has peer port `base_port + 100 + id`, client port `base_port + 200 + id` and metrics port
    /// `base_port + 300 + id`.
    ///
    /// # Errors
    /// There is no such template, or a port would pass 65535.
    pub fn template(name: &str, base_port: u16) -> Result<Self, TopologyError> {
        let Some((_, voters)) = TEMPLATES.iter().find(|(known, _)| *known == name) else {
            let known: Vec<&str> = TEMPLATES.iter().map(|(name, _)| *name).collect();
            let message = format!("there is no template {name:?}; there are {}", known.join(", "));
            return Err(TopologyError::invalid("template", message));
        };
        Self::of_voters(*voters, base_port)
    }

    pub(super) fn of_voters(voters: [usize; 3], base_port: u16) -> Result<Self, TopologyError> {
        let zones = [("a", "east", 1), ("b", "east", 2), ("c", "west", 3)];
        let last = u16::try_from(voters.iter().sum::<usize>()).unwrap_or(u16::MAX);
        let places =
            zones.iter().zip(voters).flat_map(|((zone, ..), count)| (1..=count).map(move |at| (*zone, at)));
        let nodes = (1_u16..)
            .zip(places)
            .map(|(id, (zone, at))| template_node(base_port, id, last, &format!("{zone}{at}"), zone))
            .collect::<Result<Vec<_>, _>>()?;
        let rtt_ms = [("a-b", 1.0), ("a-c", 30.0), ("b-c", 30.0)];
        let topology = Self {
            cluster: Cluster { name: "tercet".to_owned(), groups: 1 },
            timing: TimingSettings {
                rtt_ms: rtt_ms.into_iter().map(|(pair, ms)| (pair.to_owned(), ms)).collect(),
                heartbeat_ms: None,
                election_min_ms: None,
                election_max_ms: None,
                leader_steady_ms: None,
            },
            durability: Durability::default(),
            storage: Storage::default(),
            security: Security::default(),
            limits: Limits::default(),
            sites: ["east", "west"].map(|name| Site { name: name.to_owned() }).to_vec(),
            zones: zones
                .map(|(name, site, leader_preference)| Zone {
                    name: name.to_owned(),
                    site: site.to_owned(),
                    leader_preference,
                })
                .to_vec(),
            nodes,
            groups: Vec::new(),
        };
        topology.validate()?;
        Ok(topology)
    }
}

fn template_node(base_port: u16, id: u16, last: u16, name: &str, zone: &str) -> Result<Node, TopologyError> {
    let address = |offset: u16| {
        base_port.checked_add(offset + id).map(|port| format!("127.0.0.1:{port}")).ok_or_else(|| {
            let highest = PEER_OFFSET + 200 + last;
            let message = format!("{base_port} is too high: ports up to {base_port} + {highest} are used");
            TopologyError::invalid("base_port", message)
        })
    };
    Ok(Node {
        id: u64::from(id),
        name: name.to_owned(),
        zone: zone.to_owned(),
        peer: address(PEER_OFFSET)?,
        client: address(PEER_OFFSET + 100)?,
        metrics: Some(address(PEER_OFFSET + 200)?),
        role: Role::Voter,
    })
}
