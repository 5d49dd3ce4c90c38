//! What status says of placement: how far each class is placed, what is degraded and why, and what each loss would mean now.
//!
//! Invariant: only the leader says it, from what it knows itself; the reckoning is `placement::exposure`.

use std::collections::BTreeSet;

use tercet_proto::topology::{Loss, LossKind, Topology};
use tercet_proto::v1;

use crate::node::Node;
use crate::placement::{Class, Exposure, Ranked, Voter, exposure};
use crate::raft::group::Group;

/// The voters that a topology begins with, and how much each is preferred to lead group 0.
#[must_use]
pub fn ranked(topology: &Topology) -> Vec<Ranked> {
    let voters = topology.voters().filter_map(|node| {
        let zone = topology.zone(&node.zone)?;
        Some(Voter::new(node.id, node.zone.clone(), zone.site.clone()))
    });
    voters.map(|voter| ranked_in(topology, 0, voter)).collect()
}

fn ranked_in(topology: &Topology, group: u32, voter: Voter) -> Ranked {
    Ranked { preference: topology.leader_rank(group, &voter.zone), voter }
}

impl Node {
    /// For each zone and each site: if it were lost now. Empty on a follower.
    #[must_use]
    pub fn losses(&self, group: &Group) -> Vec<v1::LossStatus> {
        let Some(now) = group.placed_now() else { return Vec::new() };
        let rank = |voter| ranked_in(&self.topology, group.id(), voter);
        let halves: Vec<Vec<Ranked>> =
            group.voting().into_iter().map(|half| half.into_iter().map(rank).collect()).collect();
        let of_interest = |loss: &Loss| matches!(loss.kind, LossKind::Zone | LossKind::Site);
        self.topology
            .survives()
            .into_iter()
            .filter(of_interest)
            .map(|loss| {
                let lost: BTreeSet<u64> = loss.lost.iter().copied().collect();
                self.loss_status(group, &loss, &exposure(&halves, &now, &lost))
            })
            .collect()
    }

    fn loss_status(&self, group: &Group, loss: &Loss, exposure: &Exposure) -> v1::LossStatus {
        let (zone, nodes) = exposure.leader.clone().unwrap_or_default();
        let rpo = |class| {
            let (entries, milliseconds) = match exposure.missing(class) {
                None => (0, 0),
                Some((kept, acknowledged)) => {
                    (group.entries_between(class, kept, acknowledged), group.age_ms(kept))
                }
            };
            v1::LossRpo { durability_class: v1::DurabilityClass::from(class).into(), entries, milliseconds }
        };
        v1::LossStatus {
            kind: if loss.kind == LossKind::Zone { "zone" } else { "site" }.into(),
            name: loss.names.join(" "),
            leader_zone: zone,
            leader_nodes: nodes.into_iter().map(|id| self.name_of(id)).collect(),
            rpo: Class::ALL.map(rpo).to_vec(),
            city_writable: exposure.city_writable,
            geo_writable: exposure.geo_writable,
        }
    }
}
