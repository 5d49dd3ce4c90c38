//! What a client is told is (or was, until rot took it) durable on a majority of the nodes at the instant when it is told: in two zones for class `city`, in
//! every site for class `geo`.

use std::collections::{BTreeMap, BTreeSet};

use tercet_node::placement::{Class, Voter};
use tercet_storage::LogPoint;

use crate::sim::disk::PacedDisk;

pub(super) fn check(
    point: LogPoint,
    class: Class,
    disks: &BTreeMap<u64, PacedDisk>,
    voters: &[Voter],
) -> Result<(), String> {
    let holds = |voter: &&Voter| {
        let disk = disks.get(&voter.node_id);
        disk.is_some_and(|disk| disk.durable(|durable| durable.once_held(point.term, point.index)))
    };
    let holders: Vec<&Voter> = voters.iter().filter(holds).collect();
    let zones: BTreeSet<&str> = holders.iter().map(|voter| voter.zone.as_str()).collect();
    let sites: BTreeSet<&str> = holders.iter().map(|voter| voter.site.as_str()).collect();
    let all_sites: BTreeSet<&str> = voters.iter().map(|voter| voter.site.as_str()).collect();
    let is_placed = holders.len() > voters.len() / 2 && zones.len() >= 2;
    if is_placed && (class == Class::City || sites == all_sites) {
        return Ok(());
    }
    let nodes: Vec<u64> = holders.iter().map(|voter| voter.node_id).collect();
    Err(format!("acknowledged: entry {point} is told as {class} to a client and durable on {nodes:?} only"))
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
        let voters = [(1, "a", "x"), (2, "a", "x"), (3, "a", "x"), (4, "b", "x"), (5, "c", "y")]
            .map(|(node, zone, site)| Voter::new(node, zone, site));
        let told_as = |class, holders: &[u64]| {
            let disks = (1..=5).map(|node| {
                let term = if holders.contains(&node) { 2 } else { 1 };
                let durable = Durable { terms: [(7, term)].into(), ..Durable::default() };
                let trace = Arc::new(Trace::new(None).expect("no file"));
                (node, PacedDisk::new("n", SimDisk::new(0), durable, 0, trace))
            });
            check(LogPoint { term: 2, index: 7 }, class, &disks.collect(), &voters)
        };
        let told = |holders: &[u64]| told_as(Class::City, holders);
        assert!(told(&[1, 2, 4]).is_ok());
        assert!(told(&[1, 4, 5]).is_ok());
        assert!(told(&[1, 2, 3]).is_err(), "one zone");
        assert!(told(&[1, 4]).is_err(), "no majority");
        assert!(told_as(Class::Geo, &[1, 2, 5]).is_ok());
        assert!(told_as(Class::Geo, &[1, 2, 4]).is_err(), "one site");
        assert!(told(&[]).is_err(), "another term's entry is another entry");
    }
}
