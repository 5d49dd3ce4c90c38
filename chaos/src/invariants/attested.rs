//! What a receipt attests is true at the instant when it is given: the class is reached, every zone that it names holds the
//! entry on a disk, and the zones that it names are enough for the class, unless it says that the leader inherited that.

use std::collections::BTreeSet;

use tercet_node::placement::Class;
use tercet_proto::v1;
use tercet_storage::LogPoint;
use tokio::time::Instant;

use super::electorates::{Disks, Electorates, holders};

pub(super) fn check(
    point: LogPoint,
    said: &v1::Attestation,
    begun: Instant,
    disks: &Disks,
    electorates: &Electorates,
) -> Result<(), String> {
    let holders = holders(point, disks, begun);
    let reached = Class::from(said.durability_class());
    let zones = &said.zones;
    let wrong = |what: &str| {
        Err(format!(
            "attested: the receipt of entry {point} says {reached} in {zones:?}, degraded {}: {what}; it is on {holders:?}",
            said.degraded
        ))
    };
    if !electorates.is_placed(reached, &holders, begun) {
        return wrong("the class is not reached");
    }
    if let Some(zone) =
        zones.iter().find(|zone| electorates.in_zone(zone).all(|node| !holders.contains(&node)))
    {
        return wrong(&format!("zone {zone} does not hold it"));
    }
    // A leader that has it from the one before may not have heard yet from all zones that hold it.
    if zones.len() < 2 && !said.inherited {
        return wrong("class city takes two zones");
    }
    let in_zones = |place: &&tercet_node::placement::Voter| zones.contains(&place.zone);
    let places = (1..).map_while(|node| electorates.place(node));
    let sites: BTreeSet<&String> = places.filter(in_zones).map(|place| &place.site).collect();
    if reached == Class::Geo && sites.len() < electorates.sites.len() && !said.inherited {
        return wrong("class geo takes every site");
    }
    if said.degraded && reached == Class::Geo {
        return wrong("there is nothing above geo");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tercet_node::placement::Voter;
    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::sim::disk::{Durable, PacedDisk};
    use crate::sim::trace::Trace;

    #[test]
    fn a_receipt_says_no_more_than_is_true_and_no_less_than_it_takes() {
        let places = [(1, "a", "x"), (2, "b", "x"), (3, "c", "y")]
            .map(|(node, zone, site)| Voter::new(node, zone, site));
        let electorates = Electorates::new(&places, (1..=3).collect());
        let say = |class: Class, degraded, zones: &[&str], on: &[u64]| {
            let disk = |_| {
                let durable = Durable { terms: [(7, 2)].into(), ..Durable::default() };
                let trace = Arc::new(Trace::new(None).expect("no file"));
                PacedDisk::new("n", SimDisk::new(0), durable, 0, trace)
            };
            let disks =
                Disks { now: on.iter().map(|node| (*node, disk(*node))).collect(), wiped: Vec::new() };
            let said = v1::Attestation {
                zones: zones.iter().map(|zone| (*zone).to_owned()).collect(),
                durability_class: v1::DurabilityClass::from(class).into(),
                degraded,
                inherited: false,
            };
            check(LogPoint { term: 2, index: 7 }, &said, Instant::now(), &disks, &electorates)
        };
        assert!(say(Class::City, false, &["a", "b"], &[1, 2]).is_ok());
        assert!(say(Class::City, true, &["a", "b"], &[1, 2]).is_ok());
        assert!(say(Class::Geo, false, &["a", "c"], &[1, 3]).is_ok());
        for (class, degraded, zones, on, why) in [
            (Class::Geo, false, &["a", "b"][..], &[1, 2][..], "the class is not reached"),
            (Class::City, false, &["a", "c"], &[1, 2], "zone c does not hold it"),
            (Class::City, false, &[], &[1, 2], "two zones"),
            (Class::Geo, false, &["a", "b"], &[1, 2, 3], "every site"),
            (Class::Geo, true, &["a", "c"], &[1, 3], "nothing above"),
        ] {
            let refused = say(class, degraded, zones, on);
            assert!(refused.as_ref().is_err_and(|said| said.contains(why)), "{why}: {refused:?}");
        }
    }
}
