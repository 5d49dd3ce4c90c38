//! Moves leadership to the preferred zone, as `controller/leadership.rs` does on a real node: the policy is the real one, its clock
//! and its hands are here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tercet_node::placement::LeadershipPolicy;
use tercet_node::raft::group::Group;
use tercet_proto::topology::Topology;
use tokio::time::{Instant, sleep, timeout};

use super::net::Net;
use super::node::GROUP;
use super::plan::NODES;

/// Between two looks at the voters, as in production.
const LOOK: Duration = Duration::from_millis(250);
const HELLO: Duration = Duration::from_millis(500);
const LOOK_AROUND: Duration = Duration::from_secs(2);
const TRANSFER: Duration = Duration::from_secs(3);

/// Follows who leads and moves leadership while this node has it; never completes.
pub(super) async fn keep(net: Net, own: u64, group: Arc<Group>, topology: Arc<Topology>, steady: Duration) {
    let (begun, mut policy) = (Instant::now(), LeadershipPolicy::new(steady));
    let rank =
        |id| topology.leader_rank(GROUP, topology.node_by_id(id).map_or("", |node| node.zone.as_str()));
    let mut last = None;
    loop {
        let now = *group.leadership().borrow();
        if last != Some((now.term, now.leader)) {
            last = Some((now.term, now.leader));
            if now.leader.is_some() {
                policy.leader_changed(begun.elapsed());
            }
        }
        if now.leads {
            let candidates = group.candidates(rank);
            if let Some(to) = policy.look(begun.elapsed(), own, &candidates)
                && group.may_transfer(to).is_ok()
            {
                let reached = reached_by(&net, own, to).await;
                if candidates.iter().any(|one| one.fit && !reached.contains(&one.node_id)) {
                    policy.doubt(to);
                } else {
                    net.trace().event(format_args!("leadership goes to {to}, whose zone is preferred"));
                    if group.transfer_leader(to, TRANSFER).await.is_err() {
                        policy.transfer_failed(begun.elapsed());
                    }
                }
            }
        }
        sleep(LOOK).await;
    }
}

/// Whom `to` reaches, by what it answers.
async fn reached_by(net: &Net, own: u64, to: u64) -> BTreeSet<u64> {
    let there = net.clone();
    let asked = net.ask(own, to, "is asked whom it reaches", move |_| {
        let net = there.clone();
        async move {
            let others = (1..=NODES.len() as u64).filter(|other| *other != to);
            let asked = others.map(|other| {
                let hello = net.ask(to, other, "is asked whether it is there", |_| async {});
                async move { matches!(timeout(HELLO, hello).await, Ok(Ok(()))).then_some(other) }
            });
            join_all(asked).await.into_iter().flatten().chain([to]).collect::<BTreeSet<u64>>()
        }
    });
    match timeout(LOOK_AROUND, asked).await {
        Ok(Ok(reached)) => reached,
        _ => BTreeSet::new(),
    }
}
