//! The doors of a node: who may come in through its ports, and how much each caller may make it hold.
//!
//! A port has a [`Door`]. It counts by where callers come from, for without TLS an address is all that is known of them: open
//! connections, open calls, bytes of half-received requests. What goes beyond a bound is refused or made to wait; what others have is
//! not touched by it (decision 0036). It has shares for bytes of answers and for tails, too, which no service takes yet.
//!
//! Invariants: whatever is counted is given back by a drop, so that no way out of a connection or a call can forget it; a place is
//! taken of one's own share first and of all callers' together second, in this order everywhere, so that waiting cannot lock up;
//! connections stay below what the process may open beside its storage.

mod accept;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tercet_proto::topology::Limits;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use accept::{Doorway, Guest};

/// How long a caller that wants to make the node hold more is made to wait for room before it is refused.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);

/// Where a caller comes from: what an attacker can have many of for nothing counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// From this very machine: tests, proxies, tools and whole clusters share this address, so it may have half of all.
    Here,
    /// An IPv4 address, or an IPv6 network of 64 bits, of which a single host has as many addresses as it likes.
    Address(IpAddr),
}

impl Origin {
    /// Whose a connection from `remote` to `local` is.
    #[must_use]
    pub fn of(remote: IpAddr, local: IpAddr) -> Self {
        let (remote, local) = (remote.to_canonical(), local.to_canonical());
        if remote == local {
            return Self::Here;
        }
        Self::Address(match remote {
            IpAddr::V4(_) => remote,
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        })
    }
}

/// A bound for all callers together, and one for each origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// All.
    pub total: usize,
    /// Of one origin.
    pub each: usize,
}

impl Bound {
    /// What one origin may have.
    #[must_use]
    pub const fn of(self, origin: Origin) -> usize {
        let each = match origin {
            Origin::Here if self.total / 2 > self.each => self.total / 2,
            _ => self.each,
        };
        if each < self.total { each } else { self.total }
    }

    /// At most `total`, and at least one for each.
    const fn at_most(self, total: usize) -> Self {
        let total = if self.total < total { self.total } else { total };
        Self { total: if total == 0 { 1 } else { total }, ..self }
    }
}

/// All bounds of a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Open connections.
    pub connections: Bound,
    /// Calls whose request has not ended.
    pub calls: Bound,
    /// Bytes of requests that have been announced, but not received to their end.
    pub request_bytes: Bound,
    /// Bytes of answers that their readers have not taken.
    pub answer_bytes: Bound,
    /// Tails.
    pub tails: Bound,
}

const MIB: usize = 1 << 20;

impl Bounds {
    /// Of the client port. `connections_max`: what the process may open for callers.
    #[must_use]
    pub fn of_clients(limits: &Limits, connections_max: usize) -> Self {
        let connections = Bound {
            total: limits.client_connections as usize,
            each: limits.client_connections_per_address as usize,
        };
        Self {
            connections: connections.at_most(connections_max / 4 * 3),
            // An open call costs some 16 KiB before a byte of it has come.
            calls: Bound { total: 16_384, each: 4_096 },
            request_bytes: Bound { total: 256 * MIB, each: 64 * MIB },
            answer_bytes: Bound { total: 256 * MIB, each: 64 * MIB },
            tails: Bound { total: 1_024, each: 256 },
        }
    }

    /// Of the peer port: few callers, large messages, many groups.
    #[must_use]
    pub fn of_peers(limits: &Limits, connections_max: usize) -> Self {
        let connections = Bound {
            total: limits.peer_connections as usize,
            each: limits.peer_connections_per_address as usize,
        };
        Self {
            connections: connections.at_most((connections_max / 4).max(16)),
            calls: Bound { total: 65_536, each: 16_384 },
            request_bytes: Bound { total: 512 * MIB, each: 128 * MIB },
            answer_bytes: Bound { total: 256 * MIB, each: 64 * MIB },
            tails: Bound { total: 1_024, each: 256 },
        }
    }

    /// Of the metrics page: a scraper or two.
    #[must_use]
    pub const fn of_metrics() -> Self {
        let few = Bound { total: 32, each: 8 };
        Self { connections: few, calls: few, request_bytes: few, answer_bytes: few, tails: few }
    }
}

/// Shares of everything that is counted: one of each origin, and one of all.
struct Shares {
    connections: Arc<Semaphore>,
    calls: Arc<Semaphore>,
    request_bytes: Arc<Semaphore>,
    answer_bytes: Arc<Semaphore>,
    tails: Arc<Semaphore>,
}

impl Shares {
    fn new(bounds: &Bounds, size: impl Fn(Bound) -> usize) -> Self {
        let share = |bound| Arc::new(Semaphore::new(size(bound).min(Semaphore::MAX_PERMITS)));
        Self {
            connections: share(bounds.connections),
            calls: share(bounds.calls),
            request_bytes: share(bounds.request_bytes),
            answer_bytes: share(bounds.answer_bytes),
            tails: share(bounds.tails),
        }
    }
}

/// What is held of a bound; a drop gives it back.
pub struct Held {
    own: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
}

impl Held {
    fn try_take(own: &Arc<Semaphore>, all: &Arc<Semaphore>, count: u32) -> Result<Self, Full> {
        let own = own.clone().try_acquire_many_owned(count).map_err(|_| Full::Origin)?;
        let all = all.clone().try_acquire_many_owned(count).map_err(|_| Full::Door)?;
        Ok(Self { own, all })
    }

    async fn take(own: &Arc<Semaphore>, all: &Arc<Semaphore>, count: u32) -> Result<Self, Full> {
        // The most that can be waited for is what there is.
        let taken = async {
            let own = own.clone().acquire_many_owned(count).await.map_err(|_| Full::Origin)?;
            let all = all.clone().acquire_many_owned(count).await.map_err(|_| Full::Door)?;
            Ok(Self { own, all })
        };
        tokio::time::timeout(ROOM_PATIENCE, taken).await.unwrap_or(Err(Full::Origin))
    }

    /// Gives back all but `count`.
    pub fn shrink(&mut self, count: usize) {
        for permit in [&mut self.own, &mut self.all] {
            drop(permit.split(permit.num_permits().saturating_sub(count)));
        }
    }
}

/// Which bound is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The caller's own.
    #[error("callers from this address have as many as they may")]
    Origin,
    /// All callers'.
    #[error("all callers together have as many as they may")]
    Door,
}

impl Full {
    /// A word for a metric's label.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Origin => "address",
            Self::Door => "total",
        }
    }
}

/// What has been counted at a door since the start.
#[derive(Default)]
pub struct Counts {
    /// Connections taken.
    pub accepted: AtomicU64,
    /// Connections refused: their address had as many as it may.
    pub refused_address: AtomicU64,
    /// Connections refused: the door had as many as it may.
    pub refused_total: AtomicU64,
    /// Times that accepting failed for want of descriptors or memory.
    pub accept_errors: AtomicU64,
    /// Calls refused or cut off: too many, too much, too slow.
    pub refused_calls: AtomicU64,
}

fn raise(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// One port's bounds and what is counted of them.
pub struct Door {
    /// `client`, `peer` or `metrics`.
    pub port: &'static str,
    /// Its bounds.
    pub bounds: Bounds,
    /// What has been counted.
    pub counts: Counts,
    all: Arc<Shares>,
    origins: Mutex<Origins>,
}

#[derive(Default)]
struct Origins {
    by_origin: HashMap<Origin, Weak<Shares>>,
    /// Size at which those that have gone are looked for.
    prune_at: usize,
}

impl Door {
    /// A door of a port.
    #[must_use]
    pub fn new(port: &'static str, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            port,
            bounds,
            counts: Counts::default(),
            all: Arc::new(Shares::new(&bounds, |bound| bound.total)),
            origins: Mutex::default(),
        })
    }

    /// A connection from `origin`, if it may come in.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn enter(self: &Arc<Self>, origin: Origin) -> Result<Arc<Connection>, Full> {
        let own = self.shares_of(origin);
        let entered = Held::try_take(&own.connections, &self.all.connections, 1);
        raise(match entered {
            Ok(_) => &self.counts.accepted,
            Err(Full::Origin) => &self.counts.refused_address,
            Err(Full::Door) => &self.counts.refused_total,
        });
        let place = entered?;
        Ok(Arc::new(Connection { door: self.clone(), own, _place: place }))
    }

    fn shares_of(&self, origin: Origin) -> Arc<Shares> {
        let mut origins = self.origins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shares) = origins.by_origin.get(&origin).and_then(Weak::upgrade) {
            return shares;
        }
        if origins.by_origin.len() >= origins.prune_at {
            origins.by_origin.retain(|_, shares| shares.strong_count() > 0);
            origins.prune_at = (2 * origins.by_origin.len()).max(64);
        }
        let shares = Arc::new(Shares::new(&self.bounds, |bound| bound.of(origin)));
        origins.by_origin.insert(origin, Arc::downgrade(&shares));
        shares
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.bounds.connections.total.saturating_sub(self.all.connections.available_permits())
    }

    /// Bytes held for callers: half-received requests and answers not taken.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let held = |bound: Bound, share: &Semaphore| bound.total.saturating_sub(share.available_permits());
        held(self.bounds.request_bytes, &self.all.request_bytes)
            + held(self.bounds.answer_bytes, &self.all.answer_bytes)
    }
}

/// One caller's connection; what it makes the node hold is taken through it.
pub struct Connection {
    door: Arc<Door>,
    own: Arc<Shares>,
    _place: Held,
}

impl Connection {
    fn counted<T>(&self, taken: Result<T, Full>) -> Result<T, Full> {
        taken.inspect_err(|_| raise(&self.door.counts.refused_calls))
    }

    /// A place for a call, as long as its request has not ended.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn call(&self) -> Result<Held, Full> {
        self.counted(Held::try_take(&self.own.calls, &self.door.all.calls, 1))
    }

    /// A place for a tail.
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn tail(&self) -> Result<Held, Full> {
        self.counted(Held::try_take(&self.own.tails, &self.door.all.tails, 1))
    }

    /// Room for a request that has announced so many bytes, if there is some just now.
    #[must_use]
    pub fn try_request_bytes(&self, count: u32) -> Option<Held> {
        Held::try_take(&self.own.request_bytes, &self.door.all.request_bytes, count).ok()
    }

    /// Room for a request that has announced so many bytes; waits for it.
    ///
    /// # Errors
    /// There is none in [`ROOM_PATIENCE`].
    pub async fn request_bytes(&self, count: u32) -> Result<Held, Full> {
        self.counted(Held::take(&self.own.request_bytes, &self.door.all.request_bytes, count).await)
    }

    /// Room for an answer of so many bytes; waits for it.
    ///
    /// # Errors
    /// There is none in [`ROOM_PATIENCE`].
    pub async fn answer_bytes(&self, count: u32) -> Result<Held, Full> {
        self.counted(Held::take(&self.own.answer_bytes, &self.door.all.answer_bytes, count).await)
    }

    /// Counts a call that was cut off because its caller stood still.
    pub fn stalled(&self) {
        raise(&self.door.counts.refused_calls);
    }
}

/// The doors of a node.
pub struct Doors {
    /// Of the client port.
    pub client: Arc<Door>,
    /// Of the peer port.
    pub peer: Arc<Door>,
    /// Of the metrics page.
    pub metrics: Arc<Door>,
    /// Held while a snapshot is being received.
    pub snapshots: Semaphore,
    /// When this node last looked which others answer it, and what it saw. Locked while it looks.
    pub seen: tokio::sync::Mutex<Option<(Instant, Vec<u64>)>>,
}

impl Doors {
    /// The doors of a node that may have `connections_max` connections of callers.
    #[must_use]
    pub fn new(limits: &Limits, connections_max: usize) -> Self {
        Self {
            client: Door::new("client", Bounds::of_clients(limits, connections_max)),
            peer: Door::new("peer", Bounds::of_peers(limits, connections_max)),
            metrics: Door::new("metrics", Bounds::of_metrics()),
            snapshots: Semaphore::new(1),
            seen: tokio::sync::Mutex::default(),
        }
    }

    /// All of them.
    pub fn all(&self) -> [&Arc<Door>; 3] {
        [&self.client, &self.peer, &self.metrics]
    }
}

/// What a connection's two ends say of its caller.
fn origin(remote: SocketAddr, local: Option<SocketAddr>) -> Origin {
    Origin::of(remote.ip(), local.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |local| local.ip()))
}

#[cfg(test)]
mod tests;
