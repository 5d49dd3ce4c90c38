//! What a caller may choose.

use std::collections::HashMap;
use std::time::Duration;

/// Options of a [`Client`](super::Client).
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// How long a call goes on repeating. Default 30 s.
    pub deadline: Duration,
    /// How long one attempt may take. Default 5 s.
    pub attempt_timeout: Duration,
    /// How long opening a connection may take; below `attempt_timeout`, so that a node that cannot be reached is told from
    /// one that does not answer. Default 1 s.
    pub connect_timeout: Duration,
    /// Go straight to the leader that answers name, and to nodes that the topology names when the given endpoints fail.
    /// Default true; false keeps to the given endpoints.
    pub follow_leader: bool,
    /// Where to reach nodes instead of where the topology says: node id to endpoint. For proxies and tunnels.
    pub address_map: HashMap<u64, String>,
    /// First pause between attempts; each later one is twice as long, and all are shortened at random. Default 5 ms.
    pub backoff_min: Duration,
    /// Longest pause between attempts. Default 200 ms.
    pub backoff_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            attempt_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(1),
            follow_leader: true,
            address_map: HashMap::new(),
            backoff_min: Duration::from_millis(5),
            backoff_max: Duration::from_millis(200),
        }
    }
}
