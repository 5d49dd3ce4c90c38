//! The simulated network: messages between five nodes and their clients, delayed, lost, doubled, held back and reset by the
//! seed.
//!
//! ```text
//! unary:  caller --delay, loss--> handler in the target's scope --delay, loss--> caller
//! stream: sender --pipe--> inbox --handlers, answers in order--> pipe --> sender
//! ```
//!
//! A unary message that meets a cut is gone, and its caller waits for its own time-out. A stream is TCP: its messages keep
//! their order; at a cut they wait and arrive late when it heals, or the stream is reset then. Messages of an abandoned stream
//! may still arrive after those of its successor.
//!
//! Invariants: what is under way belongs to the network, not to a node, and outlives its sender; everything is drawn from the
//! seed in the order of events; messages are the wire messages of production.

mod stream;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tercet_node::raft::group::Group;
use tercet_node::raft::runtime::{Scope, watch};
use tokio::sync::oneshot;

use super::host::SimHost;
use super::trace::Trace;

/// Stands for all clients, as the end of a link.
pub const CLIENTS: u64 = 0;
/// Of 1,000 unary messages between nodes, how many are doubled.
const DOUBLED: u32 = 5;
/// What is never doubled. HTTP/2 over TCP delivers a request once, and who sends one again knows it; if a copy could come after the
/// answer, no refusal of an append would be one.
const ONCE: [&str; 2] = ["client's request", "forwarded request"];
/// Of 1,000 messages, how many are late by a retransmission.
const LATE: u32 = 4;

/// A running node, as the network reaches it.
#[derive(Clone)]
pub struct Target {
    /// Its tasks.
    pub scope: Arc<Scope>,
    /// Its group.
    pub group: Arc<Group>,
}

/// A running node, whether its group takes part or is being repaired.
#[derive(Clone)]
pub struct Door {
    /// Its tasks.
    pub scope: Arc<Scope>,
    /// The node.
    pub host: Arc<SimHost>,
}

/// A directed link.
#[derive(Debug, Clone, Copy, Default)]
struct Link {
    /// How many faults cut it now.
    cuts: u32,
    /// Sum of what faults add to each message's delay.
    slow: Duration,
    /// Of 1,000 unary messages, how many are lost.
    lossy: u32,
}

struct State {
    rng: SmallRng,
    links: BTreeMap<(u64, u64), Link>,
    targets: BTreeMap<u64, Target>,
    doors: BTreeMap<u64, Door>,
}

/// The network. Clones of the handle share it.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    zone_of: BTreeMap<u64, String>,
    /// Changes when a cut heals.
    healed: watch::Sender<u64>,
    trace: Arc<Trace>,
}

impl Net {
    /// A network between the nodes of `zone_of`, and clients in the first site.
    pub fn new(zone_of: BTreeMap<u64, String>, seed: u64, trace: Arc<Trace>) -> Self {
        let state = State {
            rng: SmallRng::seed_from_u64(seed),
            links: BTreeMap::new(),
            targets: BTreeMap::new(),
            doors: BTreeMap::new(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), zone_of, healed: watch::Sender::new(0), trace }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trace that events go to.
    pub fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// A node serves from now on, or (none) does not any more.
    pub fn set_target(&self, node: u64, target: Option<Target>) {
        let mut state = self.state();
        match target {
            Some(target) => state.targets.insert(node, target),
            None => state.targets.remove(&node),
        };
    }

    /// A node can be asked for records from now on, or (none) cannot any more.
    pub fn set_door(&self, node: u64, door: Option<Door>) {
        let mut state = self.state();
        match door {
            Some(door) => state.doors.insert(node, door),
            None => state.doors.remove(&node),
        };
    }

    /// No node serves any more. A target holds its node's way into the network, so whoever made a network ends it with this.
    pub fn close(&self) {
        let (targets, doors) = {
            let mut state = self.state();
            (std::mem::take(&mut state.targets), std::mem::take(&mut state.doors))
        };
        drop((targets, doors));
    }

    fn target(&self, node: u64) -> Option<Target> {
        self.state().targets.get(&node).cloned()
    }

    /// Cuts a link, or (`by` -1) takes one cut back.
    pub fn cut(&self, from: u64, to: u64, by: i32) {
        {
            let mut state = self.state();
            let link = state.links.entry((from, to)).or_default();
            link.cuts = link.cuts.saturating_add_signed(by);
        }
        if by < 0 {
            self.0.healed.send_if_modified(|times| {
                *times += 1;
                true
            });
        }
    }

    /// Makes a link slower by so much, or (`undo`) takes that back.
    pub fn slow(&self, from: u64, to: u64, by: Duration, undo: bool) {
        let mut state = self.state();
        let link = state.links.entry((from, to)).or_default();
        link.slow = if undo { link.slow.saturating_sub(by) } else { link.slow + by };
    }

    /// Lets a link lose so many of 1,000 messages.
    pub fn lose(&self, from: u64, to: u64, per_mille: u32) {
        self.state().links.entry((from, to)).or_default().lossy = per_mille;
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        self.state().links.get(&(from, to)).is_some_and(|link| link.cuts > 0)
    }

    /// The delay of a message, or a retransmission more.
    fn delay(&self, from: u64, to: u64) -> Duration {
        let zone = |node| self.0.zone_of.get(&node).map_or("", String::as_str);
        let base_ms = match (zone(from), zone(to)) {
            ("c", "c") => 0,
            ("c", _) | (_, "c") => 15,
            _ => 0,
        };
        let mut state = self.state();
        let slow = state.links.get(&(from, to)).map_or(Duration::ZERO, |link| link.slow);
        let rng = &mut state.rng;
        let jitter_ms = match rng.random_range(0..1_000_u32) {
            0..LATE => rng.random_range(40..300),
            LATE..700 => rng.random_range(0..2),
            _ => rng.random_range(1..4),
        };
        let slow = if slow.is_zero() { slow } else { slow.mul_f64(rng.random_range(0.5..1.5)) };
        Duration::from_millis(base_ms + jitter_ms) + slow
    }

    fn draw(&self, of_thousand: u32) -> bool {
        of_thousand > 0 && self.state().rng.random_range(0..1_000) < of_thousand
    }

    /// Carries a message over a link; false: it is gone.
    async fn carry(&self, from: u64, to: u64) -> bool {
        let lossy = self.state().links.get(&(from, to)).map_or(0, |link| link.lossy);
        let is_lost = self.draw(lossy);
        let delay = self.delay(from, to);
        tokio::time::sleep(delay).await;
        !is_lost && !self.is_cut(from, to)
    }

    /// Asks a node whose group takes part; `handle` runs there. Waits for ever for an answer that is lost.
    pub fn ask<T, F, FF>(
        &self,
        from: u64,
        to: u64,
        what: &'static str,
        handle: F,
    ) -> impl Future<Output = Result<T, String>> + Send + 'static + use<T, F, FF>
    where
        T: Send + 'static,
        F: Fn(Target) -> FF + Send + 'static,
        FF: Future<Output = T> + Send + 'static,
    {
        self.ask_any(from, to, what, move |net| {
            let target = net.target(to)?;
            Some((target.scope.clone(), handle(target)))
        })
    }

    /// Asks a node that runs, whether its group takes part or not.
    pub fn ask_host<T, F, FF>(
        &self,
        from: u64,
        to: u64,
        what: &'static str,
        handle: F,
    ) -> impl Future<Output = Result<T, String>> + Send + 'static + use<T, F, FF>
    where
        T: Send + 'static,
        F: Fn(Arc<SimHost>) -> FF + Send + 'static,
        FF: Future<Output = T> + Send + 'static,
    {
        self.ask_any(from, to, what, move |net| {
            let door = net.state().doors.get(&to).cloned()?;
            Some((door.scope, handle(door.host)))
        })
    }

    fn ask_any<T, F, FF>(
        &self,
        from: u64,
        to: u64,
        what: &'static str,
        handle: F,
    ) -> impl Future<Output = Result<T, String>> + Send + 'static + use<T, F, FF>
    where
        T: Send + 'static,
        F: Fn(&Self) -> Option<(Arc<Scope>, FF)> + Send + 'static,
        FF: Future<Output = T> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let net = self.clone();
        // Not in the caller's scope: what has been sent travels on when the sender dies.
        tokio::spawn(async move {
            if let Some(answer) = net.exchange(from, to, what, handle).await {
                drop(tx.send(answer));
            }
        });
        async move {
            match rx.await {
                Ok(answer) => answer,
                Err(_) => std::future::pending().await,
            }
        }
    }

    async fn exchange<T, F, FF>(
        &self,
        from: u64,
        to: u64,
        what: &'static str,
        handle: F,
    ) -> Option<Result<T, String>>
    where
        T: Send + 'static,
        F: Fn(&Self) -> Option<(Arc<Scope>, FF)>,
        FF: Future<Output = T> + Send + 'static,
    {
        if !self.carry(from, to).await {
            self.trace().event(format_args!("{from}>{to} {what} is lost"));
            return None;
        }
        self.trace().event(format_args!("{from}>{to} {what}"));
        let answer = match handle(self) {
            None => Err("connection refused".to_owned()),
            Some((scope, working)) => {
                let (tx, rx) = oneshot::channel();
                scope.spawn(async move { drop(tx.send(working.await)) });
                if self.draw(DOUBLED)
                    && !ONCE.contains(&what)
                    && let Some((scope, working)) = handle(self)
                {
                    // The second copy's answer is nobody's.
                    scope.spawn(working);
                }
                rx.await.map_err(|_| "connection reset".to_owned())
            }
        };
        let arrives = self.carry(to, from).await;
        self.trace().event(format_args!("{to}>{from} answer to {what}: {arrives} {}", answer.is_ok()));
        arrives.then_some(answer)
    }
}

impl Net {
    /// The trace, to keep.
    pub fn trace_handle(&self) -> Arc<Trace> {
        self.0.trace.clone()
    }

    /// Calls `change` for every directed link between nodes of one side and of the other.
    pub fn between(left: &[u64], right: &[u64], mut change: impl FnMut(u64, u64)) {
        for &a in left {
            for &b in right.iter().filter(|b| **b != a) {
                change(a, b);
                change(b, a);
            }
        }
    }
}
