//! Which endpoint to ask next.
//!
//! Invariants: an endpoint that failed is not chosen again for [`REST`] while another one is left; a leader that an answer
//! names is believed until it fails, or another answer names another; with `follow_leader` off only the given endpoints are
//! ever asked. Time comes in as an argument.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use super::attempt::Hint;
use super::wire;
use super::{ClientError, ClientOptions};
use crate::v1;

/// How long an endpoint that failed is left alone.
const REST: Duration = Duration::from_millis(500);
/// How long to wait before asking for the topology again after no answer.
const TOPOLOGY_PAUSE: Duration = Duration::from_secs(5);
/// Most journals whose leader is remembered; beyond it, all are learned anew.
const MAX_LEADERS: usize = 4_096;
/// An unanswered HTTP/2 ping ends a connection, so that a node that vanished without a word is noticed within
/// interval + time-out while calls are waiting on it.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// See [`KEEPALIVE_INTERVAL`]; long enough for a node that shares two loaded cores with four others.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Who should answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    /// The leader, as far as it is known.
    Leader,
    /// Any node, the first given one before others.
    Any,
}

impl Prefer {
    pub(super) fn for_consistency(consistency: v1::Consistency) -> Self {
        match consistency {
            v1::Consistency::Linearizable => Self::Leader,
            v1::Consistency::Local => Self::Any,
        }
    }
}

#[derive(Debug)]
pub(super) struct Router {
    follow_leader: bool,
    address_map: HashMap<u64, String>,
    connect_timeout: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The given ones first, then those that the topology added.
    endpoints: Vec<String>,
    /// Where the round of endpoints stands.
    current: usize,
    /// Endpoint by journal.
    leaders: HashMap<String, String>,
    last_leader: Option<String>,
    /// Endpoints that failed, and until when they rest.
    resting: HashMap<String, Instant>,
    /// Endpoint by node id, from the topology.
    nodes: HashMap<u64, String>,
    topology: Learning,
    channels: HashMap<String, Channel>,
}

#[derive(Debug, Default)]
enum Learning {
    #[default]
    Due,
    After(Instant),
    Done,
}

impl Router {
    pub(super) fn new(endpoints: Vec<String>, options: &ClientOptions) -> Result<Self, ClientError> {
        if endpoints.is_empty() {
            return Err(invalid("", "no endpoint is given"));
        }
        let mut given: Vec<String> = Vec::new();
        for endpoint in endpoints {
            let normal = checked(&endpoint)?;
            if !given.contains(&normal) {
                given.push(normal);
            }
        }
        let mut address_map = HashMap::new();
        for (&id, endpoint) in &options.address_map {
            address_map.insert(id, checked(endpoint)?);
        }
        Ok(Self {
            follow_leader: options.follow_leader,
            address_map,
            connect_timeout: options.connect_timeout,
            state: Mutex::new(State { endpoints: given, ..State::default() }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that panics runs under the lock; the state is a cache in any case.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoint to ask now.
    pub(super) fn choose(&self, journal: Option<&str>, prefer: Prefer, now: Instant) -> String {
        let mut state = self.state();
        state.resting.retain(|_, until| *until > now);
        if prefer == Prefer::Leader
            && let Some(leader) = state.leader(journal)
            && !state.resting.contains_key(&leader)
        {
            return leader;
        }
        let count = state.endpoints.len();
        let from = state.current;
        let awake = (0..count)
            .map(|step| (from + step) % count)
            .find(|&at| !state.resting.contains_key(&state.endpoints[at]));
        // All rest: the one that has rested longest.
        let at = awake
            .or_else(|| (0..count).min_by_key(|&at| state.resting.get(&state.endpoints[at]).copied()))
            .unwrap_or(0);
        state.current = at;
        state.endpoints[at].clone()
    }

    /// The endpoint answered, well or with a refusal. Returns whether it named a leader that is worth asking at once.
    pub(super) fn answered(&self, endpoint: &str, journal: Option<&str>, hint: &Hint, now: Instant) -> bool {
        let mut state = self.state();
        state.resting.remove(endpoint);
        if !self.follow_leader {
            return false;
        }
        let Some(leader) = self.resolve(&state, hint) else { return false };
        if state.resting.get(&leader).is_some_and(|until| *until > now) {
            return false;
        }
        let elsewhere = leader != endpoint;
        if state.leaders.len() >= MAX_LEADERS {
            state.leaders.clear();
        }
        if let Some(journal) = journal {
            state.leaders.insert(journal.to_owned(), leader.clone());
        }
        state.last_leader = Some(leader);
        elsewhere
    }

    /// Other nodes say that this endpoint leads.
    pub(super) fn led_by(&self, journal: Option<&str>, leader: &str) {
        let mut state = self.state();
        if let Some(journal) = journal {
            state.leaders.insert(journal.to_owned(), leader.to_owned());
        }
        state.last_leader = Some(leader.to_owned());
        state.resting.remove(leader);
    }

    /// Where a node is reached, if that is known.
    pub(super) fn endpoint_of_node(&self, id: u64) -> Option<String> {
        self.address_map.get(&id).cloned().or_else(|| self.state().nodes.get(&id).cloned())
    }

    /// All endpoints but this one.
    pub(super) fn endpoints_but(&self, endpoint: &str) -> Vec<String> {
        self.state().endpoints.iter().filter(|other| *other != endpoint).cloned().collect()
    }

    /// The endpoint answered that it cannot serve now: ask another one next.
    pub(super) fn pass_on(&self, endpoint: &str) {
        self.state().leave(endpoint);
    }

    /// The endpoint did not answer: let it rest, and ask another one next.
    pub(super) fn failed(&self, endpoint: &str, now: Instant) {
        let mut state = self.state();
        state.resting.insert(endpoint.to_owned(), now + REST);
        state.leave(endpoint);
    }

    pub(super) fn leader(&self, journal: Option<&str>) -> Option<String> {
        self.state().leader(journal)
    }

    /// Whether the topology should be asked for now. Says so once; [`Router::learned`] or [`Router::not_learned`] follows.
    pub(super) fn topology_due(&self, now: Instant) -> bool {
        if !self.follow_leader {
            return false;
        }
        let mut state = self.state();
        let due = match state.topology {
            Learning::Due => true,
            Learning::After(at) => at <= now,
            Learning::Done => false,
        };
        if due {
            state.topology = Learning::After(now + TOPOLOGY_PAUSE);
        }
        due
    }

    /// The node could not be reached at all: ask the next one for the topology without waiting.
    pub(super) fn not_learned(&self) {
        self.state().topology = Learning::Due;
    }

    pub(super) fn learned(&self, topology: &v1::TopologyInfo) {
        let mut state = self.state();
        state.topology = Learning::Done;
        for node in &topology.nodes {
            let endpoint = self.address_map.get(&node.id).cloned().or_else(|| checked(&node.client).ok());
            let Some(endpoint) = endpoint else { continue };
            if !state.endpoints.contains(&endpoint) {
                state.endpoints.push(endpoint.clone());
            }
            state.nodes.insert(node.id, endpoint);
        }
    }

    /// The connection to an endpoint, opened when first used and again whenever it was lost.
    pub(super) fn channel(&self, endpoint: &str) -> Result<Channel, ClientError> {
        let mut state = self.state();
        if let Some(channel) = state.channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let at = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| invalid(endpoint, &error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let channel = wire::channel(&at, self.connect_timeout);
        state.channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }

    fn resolve(&self, state: &State, hint: &Hint) -> Option<String> {
        let by_id =
            hint.node_id.and_then(|id| self.address_map.get(&id).or_else(|| state.nodes.get(&id)).cloned());
        by_id.or_else(|| hint.address.as_deref().and_then(|address| checked(address).ok()))
    }
}

impl State {
    fn leader(&self, journal: Option<&str>) -> Option<String> {
        journal.and_then(|journal| self.leaders.get(journal)).or(self.last_leader.as_ref()).cloned()
    }

    fn leave(&mut self, endpoint: &str) {
        self.leaders.retain(|_, leader| leader != endpoint);
        if self.last_leader.as_deref() == Some(endpoint) {
            self.last_leader = None;
        }
        if self.endpoints.get(self.current).is_some_and(|current| current == endpoint) {
            self.current = (self.current + 1) % self.endpoints.len();
        }
    }
}

/// Puts `http://` before a bare `host:port`.
pub(super) fn normalise(endpoint: &str) -> String {
    let bare = endpoint.trim().trim_end_matches('/');
    if bare.contains("://") { bare.to_owned() } else { format!("http://{bare}") }
}

pub(super) fn checked(endpoint: &str) -> Result<String, ClientError> {
    let normal = normalise(endpoint);
    let uri: http::Uri = normal.parse().map_err(|_| invalid(endpoint, "is not host:port"))?;
    if uri.scheme_str() != Some("http") {
        return Err(invalid(endpoint, "only http:// is offered by this version"));
    }
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none_or(|port| port == 0) {
        return Err(invalid(endpoint, "is not host:port"));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(invalid(endpoint, "has more than host:port"));
    }
    Ok(normal)
}

fn invalid(endpoint: &str, message: &str) -> ClientError {
    ClientError::InvalidEndpoint { endpoint: endpoint.to_owned(), message: message.to_owned() }
}

#[cfg(test)]
mod tests;
