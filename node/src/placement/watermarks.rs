//! How far each class is placed, and how far that may be shown.
//!
//! Invariants: nothing here ever goes back; what may be shown of class `geo` lies above its watermark only for what became
//! `city` while a regime record was in force that said so. A node that lags knows the regime only as far as it has applied: a
//! record that ends it may follow, so nothing above is shown by it.

use super::Class;

/// An index per class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// Of class `city`.
    pub city: u64,
    /// Of class `geo`.
    pub geo: u64,
}

impl Watermarks {
    /// The index of a class.
    #[must_use]
    pub const fn of(&self, class: Class) -> u64 {
        match class {
            Class::City => self.city,
            Class::Geo => self.geo,
        }
    }

    /// The greater of both, class by class.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { city: self.city.max(other.city), geo: self.geo.max(other.geo) }
    }

    /// Both cut to `index`.
    #[must_use]
    pub fn up_to(self, index: u64) -> Self {
        Self { city: self.city.min(index), geo: self.geo.min(index) }
    }
}

/// What a node knows to be placed, whoever leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Placed {
    /// Placed as each class demands.
    pub known: Watermarks,
    /// What an acknowledgement or a read of each class may show.
    pub shown: Watermarks,
    /// While `geo` is acknowledged as `city`: the log index of the regime record that says so.
    degraded_since: Option<u64>,
    /// Up to where this node has applied, and so knows the regime.
    applied: u64,
}

impl Placed {
    /// What is known from before.
    #[must_use]
    pub const fn from_floor(floor: Watermarks) -> Self {
        Self { known: floor, shown: floor, degraded_since: None, applied: 0 }
    }

    /// More is known to be placed. True if that is news.
    pub fn learn(&mut self, more: Watermarks) -> bool {
        let before = *self;
        self.known = self.known.max(more);
        self.show(&before)
    }

    /// The regime as of the log index `applied`: degraded since the record at an index, or normal. True if that is news.
    pub fn follow_regime(&mut self, degraded_since: Option<u64>, applied: u64) -> bool {
        let before = *self;
        self.degraded_since = degraded_since;
        self.applied = applied.max(self.applied);
        self.show(&before)
    }

    /// Whether `geo` is acknowledged as `city` now: the regime record has been applied and is itself placed.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.degraded_since.is_some_and(|since| self.known.city >= since)
    }

    /// The index of the regime record under which `geo` is acknowledged as `city`, as far as this node has applied.
    #[must_use]
    pub const fn degraded_since(&self) -> Option<u64> {
        self.degraded_since
    }

    fn show(&mut self, before: &Self) -> bool {
        let as_city = if self.is_degraded() { self.known.city.min(self.applied) } else { 0 };
        let now = Watermarks { city: self.known.city, geo: self.known.geo.max(as_city) };
        self.shown = self.shown.max(now);
        (self.known, self.shown, self.degraded_since) != (before.known, before.shown, before.degraded_since)
    }
}
