//! What a plan says of the remote site, of leadership and of membership, and the faults that are about them.
//!
//! ```text
//! 2-2-1   c2 is there and no member: it may be added, promoted, wiped, replaced, removed
//! 2-2-2   c2 votes from the beginning: one remote node may lag behind the other
//! ```
//!
//! Invariants: all of it is drawn from the seed by a generator of its own, so that it leaves what else is drawn as it is.

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tercet_proto::topology::{DegradedBudget, Durability, GeoRegime, Role, Topology};

use super::plan::{Fault, FaultKind, NODES};

/// The node that is a voter in some plans only.
pub const SPARE: &str = "c2";

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GeoPlan {
    /// c2 votes from the beginning.
    pub second_remote: bool,
    /// The regime is `adaptive`, else `required`.
    pub adaptive: bool,
    /// Under `adaptive`: how long an entry waits before the regime changes.
    pub degrade_after_ms: u64,
    /// Under `adaptive`: how many entries may be acknowledged without the remote site,
    pub budget_entries: u64,
    /// and for how long.
    pub budget_seconds: u64,
    /// Leadership moves to the preferred zone when a node there has been fit for so long; 0: it does not move by itself.
    pub leader_steady_ms: u64,
}

impl GeoPlan {
    /// What a seed's plan says, how many of 100 appends ask for class `geo`, and what happens because of it.
    pub(super) fn draw(seed: u64, faulty_ms: u64) -> (Self, u32, Vec<Fault>) {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x0067_656f);
        let geo = Self {
            second_remote: rng.random_range(0..4) == 0,
            adaptive: rng.random(),
            degrade_after_ms: *[300, 1_000, 2_500].choose(&mut rng).unwrap_or(&1_000),
            budget_entries: *[3, 20, 100].choose(&mut rng).unwrap_or(&20),
            budget_seconds: *[5, 600].choose(&mut rng).unwrap_or(&600),
            leader_steady_ms: *[0, 500, 3_000].choose(&mut rng).unwrap_or(&0),
        };
        let geo_percent = *[0, 10, 40, 80].choose(&mut rng).unwrap_or(&0);
        let mut faults = Vec::new();
        if geo_percent > 0 {
            geo.remote_cuts(faulty_ms, &mut rng, &mut faults);
        }
        if !geo.second_remote && rng.random_range(0..3) == 0 {
            member_changes(faulty_ms, &mut rng, &mut faults);
        }
        (geo, geo_percent, faults)
    }

    /// The nodes that vote from the beginning.
    #[must_use]
    pub fn voters(&self) -> &'static [(&'static str, &'static str)] {
        if self.second_remote { &NODES } else { &NODES[..NODES.len() - 1] }
    }

    /// Nodes to heal first when six vote: a majority; any four of them are in two zones.
    pub(super) fn core_of_six(seed: u64) -> Vec<String> {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x636f_7265);
        let mut names = NODES.map(|(name, _)| name.to_owned());
        names.shuffle(&mut rng);
        let mut core = names[..rng.random_range(4..=5)].to_vec();
        core.sort();
        core
    }

    /// The topology.
    ///
    /// # Errors
    /// The template does not hold.
    pub fn topology(&self) -> anyhow::Result<Topology> {
        let mut topology = Topology::template("2-2-2", 20_000)?;
        for node in topology.nodes.iter_mut().filter(|node| node.name == SPARE && !self.second_remote) {
            node.role = Role::Learner;
        }
        let budget = DegradedBudget {
            entries: self.budget_entries,
            seconds: self.budget_seconds,
            ..DegradedBudget::default()
        };
        let geo_regime = if self.adaptive { GeoRegime::Adaptive } else { GeoRegime::Required };
        topology.durability = Durability { geo_regime, degrade_after_ms: self.degrade_after_ms, budget };
        Ok(topology)
    }

    /// The remote site is cut off for long, one way or both ways, and leaders change meanwhile.
    fn remote_cuts(&self, faulty_ms: u64, rng: &mut SmallRng, faults: &mut Vec<Fault>) {
        let mut at_ms = rng.random_range(1_000..8_000);
        while at_ms < faulty_ms {
            let for_ms = rng.random_range(500..12_000).min(faulty_ms - at_ms);
            let (links, shape) = match rng.random_range(0..3) {
                0 => (remote_links(true, false), "the remote site hears nothing"),
                1 => (remote_links(false, true), "the remote site is not heard"),
                _ => (remote_links(true, true), "the remote site is cut off"),
            };
            faults.push(Fault { shape: shape.into(), links, ..fault(FaultKind::Cut, at_ms, for_ms) });
            for _ in 0..rng.random_range(0..3) {
                let at_ms = at_ms + rng.random_range(0..for_ms.max(1));
                let node = NODES[rng.random_range(0..4)].0;
                let kind =
                    *[FaultKind::Kill, FaultKind::Transfer].choose(rng).unwrap_or(&FaultKind::Transfer);
                let node = if kind == FaultKind::Kill { "leader" } else { node };
                faults.push(Fault {
                    nodes: vec![node.into()],
                    ..fault(kind, at_ms, rng.random_range(50..1_500))
                });
            }
            if self.second_remote && rng.random() {
                let slow = fault(FaultKind::SlowDisk, at_ms, for_ms + 5_000);
                faults.push(Fault { nodes: vec![SPARE.into()], amount: 600, ..slow });
            }
            at_ms += for_ms + rng.random_range(1_000..15_000);
        }
    }
}

fn fault(kind: FaultKind, at_ms: u64, for_ms: u64) -> Fault {
    Fault { at_ms, for_ms, kind, shape: String::new(), nodes: Vec::new(), links: Vec::new(), amount: 0 }
}

/// Links between the city and the remote zone: those to the remote, those from there.
fn remote_links(to: bool, from: bool) -> Vec<String> {
    let of =
        |remote: bool| NODES.iter().filter(move |(_, zone)| (*zone == "c") == remote).map(|(name, _)| *name);
    let pairs = of(false).flat_map(|near| of(true).map(move |far| (near, far)));
    pairs
        .flat_map(|(near, far)| [(to, format!("{near}>{far}")), (from, format!("{far}>{near}"))])
        .filter_map(|(wanted, link)| wanted.then_some(link))
        .collect()
}

fn member_changes(faulty_ms: u64, rng: &mut SmallRng, faults: &mut Vec<Fault>) {
    let mut at_ms = rng.random_range(500..5_000);
    while at_ms < faulty_ms {
        let change = |kind, node: &str, at_ms, for_ms| Fault {
            nodes: vec![node.into()],
            ..fault(kind, at_ms, for_ms)
        };
        let any = NODES[rng.random_range(0..NODES.len())].0;
        match rng.random_range(0..10) {
            0..3 => {
                faults.push(change(FaultKind::AddMember, SPARE, at_ms, 3_000));
                let later = at_ms + rng.random_range(0..2_000);
                faults.push(change(FaultKind::PromoteMember, SPARE, later, 5_000));
            }
            3..5 => faults.push(change(FaultKind::RemoveMember, SPARE, at_ms, 3_000)),
            5 => faults.push(change(FaultKind::RemoveMember, any, at_ms, 2_000)),
            6..8 => faults.push(change(FaultKind::ReplaceMember, any, at_ms, 15_000)),
            _ => {
                // A learner is wiped and votes soon, while the remote site's voter is away and entries wait for it.
                faults.push(change(FaultKind::AddMember, SPARE, at_ms, 1_500));
                let links = remote_links(true, true).into_iter().filter(|link| link.contains("c1")).collect();
                let shape = "c1 is cut off".into();
                faults.push(Fault { shape, links, ..fault(FaultKind::Cut, at_ms + 1_500, 6_000) });
                let wiped = at_ms + rng.random_range(1_700..2_300);
                faults.push(change(FaultKind::ReplaceMember, SPARE, wiped, 5_000));
                let slow = change(FaultKind::SlowDisk, SPARE, wiped, 4_000);
                faults.push(Fault { amount: 500, ..slow });
                faults.push(change(FaultKind::PromoteMember, SPARE, wiped + 100, 4_000));
            }
        }
        at_ms += rng.random_range(2_000..12_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_seed_is_drawn_and_every_topology_holds() {
        let plans: Vec<_> = (0..200).map(|seed| GeoPlan::draw(seed, 60_000)).collect();
        let some =
            |what: fn(&(GeoPlan, u32, Vec<Fault>)) -> bool| plans.iter().any(what) && !plans.iter().all(what);
        assert!(some(|(geo, ..)| geo.second_remote) && some(|(geo, ..)| geo.adaptive));
        assert!(some(|(geo, ..)| geo.leader_steady_ms > 0) && some(|(_, percent, _)| *percent > 0));
        for kind in [
            FaultKind::AddMember,
            FaultKind::PromoteMember,
            FaultKind::RemoveMember,
            FaultKind::ReplaceMember,
        ] {
            assert!(
                plans.iter().any(|(.., faults)| faults.iter().any(|fault| fault.kind == kind)),
                "{kind:?}"
            );
        }
        for (geo, ..) in plans.iter().take(8) {
            let topology = geo.topology().unwrap();
            assert_eq!(topology.voters().count(), geo.voters().len());
            topology.validate().unwrap();
        }
    }

    #[test]
    fn a_cut_remote_site_is_cut_in_the_direction_that_is_meant() {
        assert_eq!(remote_links(true, true).len(), 16);
        assert!(remote_links(true, false).iter().all(|link| link.contains(">c")));
        assert!(remote_links(false, true).iter().all(|link| link.starts_with('c')));
    }
}
