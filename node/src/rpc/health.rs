//! What grpc.health.v1 says of this node: for each service whether it can do its work.
//!
//! | service | SERVING while |
//! |---|---|
//! | `tercet.v1.Admin` | the node runs |
//! | `tercet.v1.Ledger`, and the node as a whole (the empty name) | it takes part, is a member, has a group that is not quarantined, knows of a leader with a majority in each, and is not about to stop |
//!
//! Invariants: a loss is only told after [`QUORUM_LOST_AFTER`]: elections and transfers pass unseen; a stop is told at once, before
//! anything is refused.

use std::sync::Arc;
use std::time::Duration;

use tercet_proto::v1::admin_server::AdminServer;
use tercet_proto::v1::ledger_server::LedgerServer;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::admin::AdminService;
use super::ledger::LedgerService;
use crate::groups::Standing;
use crate::node::Node;
use crate::raft::group::QUORUM_LOST_AFTER;

/// Between two looks at the groups.
const LOOK: Duration = Duration::from_millis(100);

/// How a group stands, as far as its health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    Quarantined,
    Removed,
    /// For so long no majority has followed a leader that this node knows of; `led`: one has been known at all.
    Running {
        without_quorum: Duration,
        led: bool,
    },
}

/// Whether ledger calls find their way through this node.
fn can_serve(takes_part: bool, leaving: bool, groups: &[Seen]) -> bool {
    let has_quorum = |seen: &Seen| match seen {
        Seen::Quarantined => true,
        Seen::Removed => false,
        Seen::Running { without_quorum, led } => *led && *without_quorum < QUORUM_LOST_AFTER,
    };
    let is_running = |seen: &Seen| matches!(seen, Seen::Running { .. });
    takes_part && !leaving && groups.iter().any(is_running) && groups.iter().all(has_quorum)
}

fn look(node: &Node) -> bool {
    let see = |(_, standing)| match standing {
        Standing::Quarantined(_) => Seen::Quarantined,
        Standing::Running(group) if group.is_removed() => Seen::Removed,
        Standing::Running(group) => {
            Seen::Running { without_quorum: group.without_quorum(), led: group.leader().is_some() }
        }
    };
    let groups: Vec<Seen> = node.groups.standings().map(see).collect();
    can_serve(*node.admitted.borrow(), *node.leaving.borrow(), &groups)
}

/// Keeps what the health service says true, until the node stops.
pub(super) async fn keep(node: Arc<Node>, reporter: HealthReporter) {
    reporter.set_serving::<AdminServer<AdminService>>().await;
    let (mut leaving, mut stopping) = (node.leaving.subscribe(), node.stopping.clone());
    let mut told = None;
    loop {
        let serves = look(&node);
        if told.replace(serves) != Some(serves) {
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            for service in ["", LedgerServer::<LedgerService>::NAME] {
                reporter.set_service_status(service, status).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = leaving.changed() => {}
            _ = stopping.wait_for(|stop| *stop) => break,
        }
    }
    for service in ["", LedgerServer::<LedgerService>::NAME, AdminServer::<AdminService>::NAME] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn running(ms: u64, led: bool) -> Seen {
        Seen::Running { without_quorum: Duration::from_millis(ms), led }
    }

    #[test]
    fn the_ledger_is_served_with_a_quorum_in_every_group_that_runs() {
        let serves = |groups: &[Seen]| can_serve(true, false, groups);
        assert!(serves(&[running(90, true), running(1_999, true)]), "an election is no loss");
        assert!(!serves(&[running(90, true), running(2_000, true)]));
        assert!(!serves(&[running(90, false)]), "no leader yet");
        assert!(serves(&[Seen::Quarantined, running(90, true)]), "the others are served");
        assert!(!serves(&[Seen::Quarantined]));
        assert!(!serves(&[Seen::Removed]));
        assert!(!can_serve(false, false, &[running(90, true)]), "not let in");
        assert!(!can_serve(true, true, &[running(90, true)]), "about to stop");
    }
}
