//! A leader's watermarks cover only what is durable where their class demands, at the time when they get there.

use std::time::Duration;

use tercet_node::placement::{Class, Watermarks};
use tercet_storage::LogPoint;
use tokio::time::Instant;

use super::electorates::{Disks, Electorates, holders};

/// Between two looks at a leader at most; a later one proves nothing of the moment of the change.
pub const LOOK_MAX: Duration = Duration::from_millis(100);

/// How far each class' watermark has been looked at.
#[derive(Default)]
pub(super) struct Looked(Watermarks);

impl Looked {
    /// The leader of a term says that everything up to `known` is placed; `point_of` gives its entries.
    pub(super) fn says(
        &mut self,
        (node, term): (u64, u64),
        known: Watermarks,
        point_of: impl Fn(u64) -> Option<LogPoint>,
        disks: &Disks,
        electorates: &Electorates,
    ) -> Result<(), String> {
        let lately = Instant::now().checked_sub(LOOK_MAX).unwrap_or_else(Instant::now);
        for class in Class::ALL {
            let index = known.of(class);
            let Some(point) = point_of(index).filter(|_| index > self.0.of(class)) else { continue };
            // An entry of an earlier term was placed by whoever led then, between two looks, and has been heard of since.
            let begun = if point.term < term { electorates.began() } else { lately };
            let on = holders(point, disks, begun);
            if !electorates.is_placed(class, &on, begun) {
                return Err(format!(
                    "watermarks: node {node} says that {point} is placed as {class}; it is durable on {on:?} only"
                ));
            }
        }
        self.0 = self.0.max(known);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tercet_node::placement::Voter;
    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::sim::disk::{Durable, PacedDisk};
    use crate::sim::trace::Trace;

    fn disk(holds: bool) -> PacedDisk {
        let terms = if holds { [(7, 2)].into() } else { [].into() };
        let trace = Arc::new(Trace::new(None).expect("no file"));
        PacedDisk::new("n", SimDisk::new(0), Durable { terms, ..Durable::default() }, 0, trace)
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_wiped_node_held_counts_for_entries_of_an_earlier_term_only() {
        let places = [(1, "a", "x"), (3, "b", "x"), (5, "c", "y")];
        let places = places.map(|(node, zone, site)| Voter::new(node, zone, site));
        let electorates = Electorates::new(&places, [1, 3, 5].into());
        let now = [(1, disk(true)), (3, disk(true)), (5, disk(false))].into();
        let mut disks = Disks { now, wiped: vec![(5, Instant::now(), disk(true))] };
        tokio::time::sleep(LOOK_MAX * 2).await;
        let says = |term, disks: &Disks| {
            let point_of = |index| Some(LogPoint { term: 2, index });
            let known = Watermarks { city: 7, geo: 7 };
            Looked::default().says((1, term), known, point_of, disks, &electorates)
        };
        assert!(says(2, &disks).is_err(), "it was there before this leader counted it");
        assert!(says(3, &disks).is_ok(), "the leader before counted it");
        disks.now.insert(3, disk(false));
        assert!(says(2, &disks).is_err());
    }
}
