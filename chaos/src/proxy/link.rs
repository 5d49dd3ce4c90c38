//! A link: everything that flows from one endpoint to another, in that direction only.
//!
//! A connection uses two links, one for each direction, so a one-way cut is a fault on one of them. Connections that `a`
//! opens to `b` and those that `b` opens to `a` share the same pair of links, as they share the same wire.
//!
//! Invariants: faults are imposed and lifted by number, overlapping ones add up, and lifting the last one restores the
//! link's own shape exactly; counters never go back; a half-open fault takes the connections of before it, never later ones.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Endpoint {
    /// All clients together.
    Clients,
    /// A node, by its id.
    Node(u64),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clients => f.write_str("clients"),
            Self::Node(id) => write!(f, "node {id}"),
        }
    }
}

/// How bytes travel over a link at the moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkShape {
    /// Nothing arrives; nothing is refused either.
    pub blackhole: bool,
    /// Connections are reset, new ones too.
    pub reset: bool,
    /// Added to every byte's travel.
    pub delay: Duration,
    /// A random part from zero to this is added too; bytes never overtake each other.
    pub jitter: Duration,
    /// Most bytes a second; none: unlimited.
    pub bytes_per_second: Option<u64>,
    /// Connections that are older than this, as [`Link::age`] counts, have been forgotten by the receiver, and the sender
    /// does not know; 0: none.
    pub half_open: u64,
}

/// Something that is wrong with a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkFault {
    /// Bytes are held, and flow again after it is lifted.
    Blackhole,
    /// Connections are reset.
    Reset,
    /// The receiver has forgotten the connections of this moment, the sender hears nothing of it; new ones work.
    HalfOpen,
    /// Slower by so much.
    Slow {
        /// Added to the delay.
        delay: Duration,
        /// Added to the jitter.
        jitter: Duration,
        /// The smallest limit counts.
        bytes_per_second: Option<u64>,
    },
}

impl LinkFault {
    fn worsen(self, shape: &mut LinkShape, age: u64) {
        match self {
            Self::Blackhole => shape.blackhole = true,
            Self::Reset => shape.reset = true,
            Self::HalfOpen => shape.half_open = age,
            Self::Slow { delay, jitter, bytes_per_second } => {
                shape.delay += delay;
                shape.jitter += jitter;
                shape.bytes_per_second = match (shape.bytes_per_second, bytes_per_second) {
                    (Some(limit), Some(other)) => Some(limit.min(other)),
                    (limit, other) => limit.or(other),
                };
            }
        }
    }
}

/// What has happened on a link since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct LinkCounts {
    /// Bytes taken from the sender.
    pub taken_bytes: u64,
    /// Bytes handed to the receiver. Stands still while the link is blackholed.
    pub delivered_bytes: u64,
    /// Connections opened over the link by its sender.
    pub connections: u64,
    /// Connections that a `reset` fault ended.
    pub resets: u64,
    /// Connections that became half-open: the sender's end stayed, the receiver's was reset.
    pub half_opens: u64,
    /// Connections that their dialler closed while they waited for a blackhole to heal.
    pub given_up: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) taken_bytes: AtomicU64,
    pub(super) delivered_bytes: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) resets: AtomicU64,
    pub(super) half_opens: AtomicU64,
    pub(super) given_up: AtomicU64,
}

/// One direction between two endpoints.
#[derive(Debug)]
pub struct Link {
    from: Endpoint,
    to: Endpoint,
    own: LinkShape,
    faults: Mutex<BTreeMap<u64, LinkFault>>,
    shape: watch::Sender<LinkShape>,
    age: AtomicU64,
    pub(super) counters: Counters,
}

impl Link {
    /// A link without faults.
    pub fn new(from: Endpoint, to: Endpoint, own: LinkShape) -> Self {
        Self {
            from,
            to,
            own,
            faults: Mutex::default(),
            shape: watch::Sender::new(own),
            age: AtomicU64::new(0),
            counters: Counters::default(),
        }
    }

    /// Where its bytes come from.
    pub fn from(&self) -> Endpoint {
        self.from
    }

    /// Where its bytes go.
    pub fn to(&self) -> Endpoint {
        self.to
    }

    /// Adds a fault; a fault of the same number is replaced.
    pub fn impose(&self, number: u64, fault: LinkFault) {
        let mut faults = self.faults();
        if fault == LinkFault::HalfOpen {
            self.age.fetch_add(1, Ordering::Relaxed);
        }
        faults.insert(number, fault);
        self.reshape(&faults);
    }

    /// Takes a fault away; one that is not there is no error.
    pub fn lift(&self, number: u64) {
        let mut faults = self.faults();
        faults.remove(&number);
        self.reshape(&faults);
    }

    /// The shape of the moment.
    pub fn shape(&self) -> LinkShape {
        *self.shape.borrow()
    }

    /// How often connections have become half-open; those that begin now are not older than this.
    pub(super) fn age(&self) -> u64 {
        self.age.load(Ordering::Relaxed)
    }

    /// Changes of the shape.
    pub(super) fn watch(&self) -> watch::Receiver<LinkShape> {
        self.shape.subscribe()
    }

    /// Returns when nothing holds the link's bytes.
    pub(super) async fn open(&self) {
        // The sender lives as long as `self`.
        let _ = self.shape.subscribe().wait_for(|shape| !shape.blackhole).await;
    }

    /// What has happened on it so far.
    pub fn counts(&self) -> LinkCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LinkCounts {
            taken_bytes: read(&self.counters.taken_bytes),
            delivered_bytes: read(&self.counters.delivered_bytes),
            connections: read(&self.counters.connections),
            resets: read(&self.counters.resets),
            half_opens: read(&self.counters.half_opens),
            given_up: read(&self.counters.given_up),
        }
    }

    fn faults(&self) -> MutexGuard<'_, BTreeMap<u64, LinkFault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reshape(&self, faults: &BTreeMap<u64, LinkFault>) {
        let mut shape = self.own;
        for fault in faults.values() {
            fault.worsen(&mut shape, self.age());
        }
        self.shape.send_replace(shape);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_faults_add_up_and_lift_one_by_one() {
        let own = LinkShape { delay: Duration::from_millis(15), ..LinkShape::default() };
        let link = Link::new(Endpoint::Node(1), Endpoint::Node(2), own);
        let slow = |ms, limit| LinkFault::Slow {
            delay: Duration::from_millis(ms),
            jitter: Duration::ZERO,
            bytes_per_second: limit,
        };
        link.impose(1, slow(5, Some(1_000)));
        link.impose(2, slow(7, Some(500)));
        link.impose(3, LinkFault::Blackhole);
        link.impose(4, LinkFault::Blackhole);
        assert_eq!(
            link.shape(),
            LinkShape {
                blackhole: true,
                delay: Duration::from_millis(27),
                bytes_per_second: Some(500),
                ..LinkShape::default()
            }
        );
        link.lift(3);
        assert!(link.shape().blackhole, "the other blackhole is still there");
        link.lift(4);
        link.lift(2);
        assert_eq!(link.shape().delay, Duration::from_millis(20));
        assert_eq!(link.shape().bytes_per_second, Some(1_000));
        link.lift(1);
        link.lift(1);
        assert_eq!(link.shape(), own);
    }
}
