//! Who votes and where they stand: what the placement of an entry is measured by.
//!
//! Invariant: an acknowledgement is measured by voters that were in force at some time between its request and itself; a site
//! is one of the topology's, whoever has left it.

use std::collections::{BTreeMap, BTreeSet};

use tercet_node::placement::{Class, Voter};
use tercet_storage::LogPoint;
use tokio::time::Instant;

use crate::sim::disk::PacedDisk;

/// Sets of voters, and since when leaders have named them.
pub(super) struct Electorates {
    places: BTreeMap<u64, Voter>,
    /// Sites of those that vote from the beginning.
    pub(super) sites: BTreeSet<String>,
    named: Vec<(Instant, BTreeSet<u64>)>,
}

impl Electorates {
    pub(super) fn new(places: &[Voter], voters: BTreeSet<u64>) -> Self {
        let places: BTreeMap<u64, Voter> =
            places.iter().map(|place| (place.node_id, place.clone())).collect();
        let sites =
            voters.iter().filter_map(|node| places.get(node)).map(|place| place.site.clone()).collect();
        Self { places, sites, named: vec![(Instant::now(), voters)] }
    }

    /// When the first voters came into force.
    pub(super) fn began(&self) -> Instant {
        self.named.first().map_or_else(Instant::now, |(at, _)| *at)
    }

    /// A leader counts these.
    pub(super) fn named(&mut self, voters: &BTreeSet<u64>) {
        if !voters.is_empty() && self.named.last().is_none_or(|(_, last)| last != voters) {
            self.named.push((Instant::now(), voters.clone()));
        }
    }

    pub(super) fn place(&self, node: u64) -> Option<&Voter> {
        self.places.get(&node)
    }

    pub(super) fn in_zone<'e>(&'e self, zone: &'e str) -> impl Iterator<Item = u64> + 'e {
        self.places.values().filter(move |place| place.zone == zone).map(|place| place.node_id)
    }

    /// Whether an entry that these nodes hold is placed as `class` demands of some voters that were in force since `begun`.
    pub(super) fn is_placed(&self, class: Class, holders: &BTreeSet<u64>, begun: Instant) -> bool {
        let ended = self.named.iter().skip(1).map(|(from, _)| Some(*from)).chain([None]);
        let in_force =
            self.named.iter().zip(ended).filter(|(_, ended)| ended.is_none_or(|ended| ended >= begun));
        in_force.into_iter().any(|((_, voters), _)| self.satisfies(class, voters, holders))
    }

    fn satisfies(&self, class: Class, voters: &BTreeSet<u64>, holders: &BTreeSet<u64>) -> bool {
        let holding: Vec<&Voter> =
            voters.intersection(holders).filter_map(|node| self.places.get(node)).collect();
        let zones: BTreeSet<&str> = holding.iter().map(|place| place.zone.as_str()).collect();
        let has = |site: &String| holding.iter().any(|place| place.site == *site);
        let is_city = holding.len() > voters.len() / 2 && zones.len() >= 2;
        is_city && (class == Class::City || self.sites.iter().all(has))
    }
}

/// The nodes on whose disks the entry is durable, or was until rot took it. What a wiped node held counts for requests that
/// began before it came back.
pub(super) fn holders(point: LogPoint, disks: &Disks, begun: Instant) -> BTreeSet<u64> {
    let holds = |disk: &PacedDisk| disk.durable(|durable| durable.once_held(point.term, point.index));
    let now = disks.now.iter().filter(|(_, disk)| holds(disk)).map(|(node, _)| *node);
    let former =
        disks.wiped.iter().filter(|(_, at, disk)| *at >= begun && holds(disk)).map(|(node, ..)| *node);
    now.chain(former).collect()
}

/// All disks.
#[derive(Default)]
pub(super) struct Disks {
    /// Of each node.
    pub(super) now: BTreeMap<u64, PacedDisk>,
    /// Of nodes that were wiped, and when they came back without.
    pub(super) wiped: Vec<(u64, Instant, PacedDisk)>,
}
