//! What the nodes report of their leaders while it happens: where the time goes between the fault and the client's answer.
//!
//! Invariant: every node is watched for as long as this lives, again after each of its restarts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tercet_proto::client::Client;
use tokio::task::JoinSet;

const RETRY: Duration = Duration::from_millis(100);

/// Who was reported as leader, and when the report arrived here.
type Seen = Arc<Mutex<Vec<(Instant, String)>>>;

/// A watcher a node.
pub(crate) struct Events {
    seen: Seen,
    _watchers: JoinSet<()>,
}

impl Events {
    /// Watches the nodes at these addresses.
    pub(crate) fn watch(client: &Client, addresses: &[String]) -> Self {
        let seen = Seen::default();
        let mut watchers = JoinSet::new();
        for address in addresses {
            watchers.spawn(watch(client.clone(), address.clone(), seen.clone()));
        }
        Self { seen, _watchers: watchers }
    }

    /// Only what comes from now on counts.
    pub(crate) fn forget(&mut self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first report of a leader outside `zone`.
    pub(crate) fn first_leader_outside(
        &self,
        zone: &str,
        zone_of: impl Fn(&str) -> String,
    ) -> Option<(Instant, String)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter()
            .find(|(_, leader)| {
                let theirs = zone_of(leader);
                !theirs.is_empty() && theirs != zone
            })
            .cloned()
    }
}

async fn watch(client: Client, address: String, seen: Seen) {
    loop {
        if let Ok(mut events) = client.watch_events(&address).await {
            while let Ok(Some(event)) = events.message().await {
                let leader = event.message.strip_prefix("leader is ").and_then(|rest| rest.split(' ').next());
                if let Some(leader) = leader.filter(|_| event.kind == "leader_changed") {
                    let report = (Instant::now(), leader.to_owned());
                    seen.lock().unwrap_or_else(PoisonError::into_inner).push(report);
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}
