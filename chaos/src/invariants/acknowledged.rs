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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::sim::disk::Durable;
    use crate::sim::trace::Trace;

    #[test]
    fn it_takes_a_majority_in_two_zones() {
        let zones: BTreeMap<u64, String> = [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")]
            .map(|(node, zone)| (node, zone.to_owned()))
            .into();
        let told = |holders: &[u64]| {
            let disks = (1..=5).map(|node| {
                let term = if holders.contains(&node) { 2 } else { 1 };
                let durable = Durable { terms: [(7, term)].into(), ..Durable::default() };
                let trace = Arc::new(Trace::new(None).expect("no file"));
                (node, PacedDisk::new("n", SimDisk::new(0), durable, 0, trace))
            });
            check(LogPoint { term: 2, index: 7 }, &disks.collect(), &zones)
        };
        assert!(told(&[1, 2, 4]).is_ok());
        assert!(told(&[1, 4, 5]).is_ok());
        assert!(told(&[1, 2, 3]).is_err(), "one zone");
        assert!(told(&[1, 4]).is_err(), "no majority");
        assert!(told(&[]).is_err(), "another term's entry is another entry");
    }
}
