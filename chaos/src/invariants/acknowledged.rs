//! What a client is told is durable on a majority of the nodes, in two zones, at the instant when it is told.

use std::collections::{BTreeMap, BTreeSet};

use tercet_storage::LogPoint;

use crate::sim::disk::PacedDisk;

pub(super) fn check(
    point: LogPoint,
    disks: &BTreeMap<u64, PacedDisk>,
    zones: &BTreeMap<u64, String>,
) -> Result<(), String> {
    let holders: Vec<u64> = disks
        .iter()
        .filter(|(_, disk)| disk.durable(|durable| durable.holds(point.term, point.index)))
        .map(|(node, _)| *node)
        .collect();
    let in_zones: BTreeSet<&String> = holders.iter().filter_map(|node| zones.get(node)).collect();
    if holders.len() > zones.len() / 2 && in_zones.len() >= 2 {
        return Ok(());
    }
    Err(format!("acknowledged: entry {point} is told to a client and durable on {holders:?} only"))
}
