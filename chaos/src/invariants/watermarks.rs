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
    /// A leader says that everything up to `known` is placed; `point_of` gives its entries.
    pub(super) fn says(
        &mut self,
        node: u64,
        known: Watermarks,
        point_of: impl Fn(u64) -> Option<LogPoint>,
        disks: &Disks,
        electorates: &Electorates,
    ) -> Result<(), String> {
        let begun = Instant::now().checked_sub(LOOK_MAX).unwrap_or_else(Instant::now);
        for class in Class::ALL {
            let index = known.of(class);
            let Some(point) = point_of(index).filter(|_| index > self.0.of(class)) else { continue };
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
