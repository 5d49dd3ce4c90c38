//! Replies that wait at the gate, one queue per class, so that `geo` never blocks `city`.
//!
//! Invariants: a reply leaves exactly once, by [`ReplyQueue::release`] or [`ReplyQueue::drain`]; replies of one class leave by
//! index, and those of one index in the order in which they came.

use std::collections::BTreeMap;

use super::Class;

/// See the module.
#[derive(Debug)]
pub struct ReplyQueue<T> {
    city: BTreeMap<(u64, u64), T>,
    geo: BTreeMap<(u64, u64), T>,
    next_ticket: u64,
}

impl<T> Default for ReplyQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> ReplyQueue<T> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { city: BTreeMap::new(), geo: BTreeMap::new(), next_ticket: 0 }
    }

    fn of(&mut self, class: Class) -> &mut BTreeMap<(u64, u64), T> {
        match class {
            Class::City => &mut self.city,
            Class::Geo => &mut self.geo,
        }
    }

    /// Holds a reply until `index` is placed as `class` demands. Indexes may come in any order: a replay waits for its original.
    pub fn push(&mut self, index: u64, class: Class, reply: T) {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.of(class).insert((index, ticket), reply);
    }

    /// Lets go what a class' watermark covers: (index, reply), by index.
    pub fn release(&mut self, class: Class, watermark: u64) -> Vec<(u64, T)> {
        let queue = self.of(class);
        if queue.first_key_value().is_none_or(|((index, _), _)| *index > watermark) {
            return Vec::new();
        }
        let held = match watermark.checked_add(1) {
            Some(above) => queue.split_off(&(above, 0)),
            None => BTreeMap::new(),
        };
        let released = std::mem::replace(queue, held);
        released.into_iter().map(|((index, _), reply)| (index, reply)).collect()
    }

    /// Lets go everything, by index: leadership was lost, every outcome is unknown here.
    pub fn drain(&mut self) -> Vec<T> {
        let mut all = std::mem::take(&mut self.city);
        all.append(&mut self.geo);
        all.into_values().collect()
    }

    /// How many replies wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.city.len() + self.geo.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many replies of a class wait.
    #[must_use]
    pub fn waiting(&self, class: Class) -> usize {
        match class {
            Class::City => self.city.len(),
            Class::Geo => self.geo.len(),
        }
    }

    /// The reply of a class that waits for the lowest index.
    #[must_use]
    pub fn first(&self, class: Class) -> Option<&T> {
        let queue = match class {
            Class::City => &self.city,
            Class::Geo => &self.geo,
        };
        queue.first_key_value().map(|(_, reply)| reply)
    }

    /// The lowest index that a reply of a class waits for.
    #[must_use]
    pub fn oldest(&self, class: Class) -> Option<u64> {
        let queue = match class {
            Class::City => &self.city,
            Class::Geo => &self.geo,
        };
        queue.first_key_value().map(|((index, _), _)| *index)
    }
}
