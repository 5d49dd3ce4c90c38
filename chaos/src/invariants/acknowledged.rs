//! What a client is told is durable on a majority of the voters at the instant when it is told: in two zones for class `city`,
//! in every site for class `geo`.

use tercet_node::placement::Class;
use tercet_storage::LogPoint;
use tokio::time::Instant;

use super::electorates::{Disks, Electorates, holders};

pub(super) fn check(
    point: LogPoint,
    class: Class,
    begun: Instant,
    disks: &Disks,
    electorates: &Electorates,
) -> Result<(), String> {
    let holders = holders(point, disks, begun);
    if electorates.is_placed(class, &holders, begun) {
        return Ok(());
    }
    Err(format!("acknowledged: entry {point} is told as {class} to a client and durable on {holders:?} only"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tercet_node::placement::Voter;
    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::sim::disk::{Durable, PacedDisk};
    use crate::sim::trace::Trace;

    fn disk(term: u64) -> PacedDisk {
        let durable = Durable { terms: [(7, term)].into(), ..Durable::default() };
        let trace = Arc::new(Trace::new(None).expect("no file"));
        PacedDisk::new("n", SimDisk::new(0), durable, 0, trace)
    }

    fn electorates() -> Electorates {
        let places =
            [(1, "a", "x"), (2, "a", "x"), (3, "a", "x"), (4, "b", "x"), (5, "c", "y"), (6, "c", "y")]
                .map(|(node, zone, site)| Voter::new(node, zone, site));
        Electorates::new(&places, (1..=5).collect())
    }

    fn told(class: Class, holders: &[u64], begun: Instant, electorates: &Electorates) -> Result<(), String> {
        let term = |node| if holders.contains(&node) { 2 } else { 1 };
        let disks = Disks { now: (1..=6).map(|node| (node, disk(term(node)))).collect(), wiped: Vec::new() };
        check(LogPoint { term: 2, index: 7 }, class, begun, &disks, electorates)
    }

    #[test]
    fn it_takes_a_majority_in_two_zones_and_for_geo_every_site() {
        let five = electorates();
        let told = |class, holders: &[u64]| told(class, holders, Instant::now(), &five);
        assert!(told(Class::City, &[1, 2, 4]).is_ok());
        assert!(told(Class::City, &[1, 4, 5]).is_ok());
        assert!(told(Class::City, &[1, 2, 3]).is_err(), "one zone");
        assert!(told(Class::City, &[1, 4]).is_err(), "no majority");
        assert!(told(Class::City, &[1, 4, 6]).is_err(), "a node that does not vote");
        assert!(told(Class::Geo, &[1, 2, 5]).is_ok());
        assert!(told(Class::Geo, &[1, 2, 4]).is_err(), "one site");
        assert!(told(Class::City, &[]).is_err(), "another term's entry is another entry");
    }

    #[tokio::test(start_paused = true)]
    async fn voters_count_that_were_in_force_since_the_request_began() {
        let mut changing = electorates();
        let early = Instant::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        changing.named(&(1..=4).collect());
        tokio::time::sleep(Duration::from_millis(10)).await;
        let late = Instant::now();
        assert!(told(Class::City, &[1, 4, 5], early, &changing).is_ok(), "by the voters before");
        assert!(told(Class::City, &[1, 4, 5], late, &changing).is_err(), "two of four");
        assert!(
            told(Class::Geo, &[1, 2, 3, 4], late, &changing).is_err(),
            "a site that has no voter is still one"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_wiped_node_held_counts_only_for_what_began_before() {
        let five = electorates();
        let mut disks = Disks { now: [(1, disk(2)), (4, disk(2)), (5, disk(1))].into(), wiped: Vec::new() };
        let early = Instant::now();
        tokio::time::sleep(Duration::from_millis(10)).await;
        disks.wiped.push((5, Instant::now(), disk(2)));
        let point = LogPoint { term: 2, index: 7 };
        assert!(check(point, Class::Geo, early, &disks, &five).is_ok());
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(check(point, Class::Geo, Instant::now(), &disks, &five).is_err());
    }
}
