//! What a node says when it cannot do its work: no majority, not a member any more, a member that does not answer.
//!
//! The fault that was: three of five nodes had been killed, and status on the two that were left named the dead leader, lag 0, and
//! warned of nothing. A removed node served local reads for ever as if it were current.

#[path = "common/support.rs"]
mod support;

use std::time::Duration;

use futures::StreamExt;
use support::{Cluster, PATIENCE, create_journal, payment, request, topology, wait_for};
use tercet_proto::reason::Reason;
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

async fn group_of(cluster: &Cluster, node: &str) -> Option<(v1::GroupStatus, Vec<String>)> {
    let mut status = cluster.status_of(node).await?;
    let group = status.groups.pop()?;
    Some((group, status.warnings))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_status_says_since_when_and_names_nobody() {
    let mut cluster = Cluster::start_with(topology()).await;
    let leader = cluster.leader().await;
    let (sound, warnings) = group_of(&cluster, &leader).await.expect("a status");
    assert!(sound.without_quorum_ms < 2_000 && warnings.is_empty(), "{sound:?} {warnings:?}");
    for name in ["a1", "a2", "b1"] {
        cluster.stop_node(name).await;
    }
    for name in ["b2", "c1"] {
        wait_for(&format!("{name} says that there is no quorum"), || async {
            let (group, warnings) = group_of(&cluster, name).await?;
            let warned = warnings.iter().any(|warning| warning.starts_with("group 0: no quorum since "));
            let named = group.role != "leader" && group.leader_id != 0;
            (warned && !named && group.without_quorum_ms >= 2_000).then_some(())
        })
        .await;
    }
    cluster.start_node("a1").await;
    for name in ["a1", "b2", "c1"] {
        wait_for(&format!("{name} knows of a leader again"), || async {
            let (group, warnings) = group_of(&cluster, name).await?;
            (group.leader_id != 0 && group.without_quorum_ms < 2_000 && warnings.is_empty()).then_some(())
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_says_so_and_serves_nothing_old() {
    let cluster = Cluster::start_with(topology()).await;
    create_journal(&cluster.client()).await;
    cluster.client().append(request(vec![payment("k", 1)])).await.expect("an append");
    let removed = if cluster.leader().await == "b2" { "b1" } else { "b2" };
    let local = || async { cluster.client_of(removed).get_journal("j", v1::Consistency::Local).await };
    wait_for("a local read is answered", || async { local().await.ok() }).await;
    let change = v1::ChangeMemberRequest {
        group: 0,
        node: removed.into(),
        change: Change::Remove.into(),
        force: true,
    };
    cluster.client().change_member(change).await.expect("it is removed");
    wait_for("the node knows that it was removed", || async {
        let (group, warnings) = group_of(&cluster, removed).await?;
        (group.role == "removed" && warnings.iter().any(|warning| warning.contains("was removed")))
            .then_some(())
    })
    .await;
    let client = {
        let options = tercet_proto::client::ClientOptions {
            follow_leader: false,
            deadline: Duration::from_secs(1),
            ..Default::default()
        };
        tercet_proto::client::Client::connect(vec![cluster.endpoint(removed)], options).expect("a client")
    };
    let refused = client.get_journal("j", v1::Consistency::Local).await.expect_err("it lags for ever");
    assert!(refused.is_definite(), "{refused}");
    assert_eq!(refused.refusal().map(|refusal| refusal.reason), Some(Reason::NotAMember), "{refused}");
    // The others go on, and do not take it for one of theirs.
    cluster.client().append(request(vec![payment("l", 1)])).await.expect("an append");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_tells_of_a_member_that_is_lost_and_regained() {
    let mut cluster = Cluster::start_with(topology()).await;
    let leader = cluster.leader().await;
    let client = cluster.client_of(&leader);
    let mut events = client.watch_events(&cluster.endpoint(&leader)).await.expect("events");
    let mut next = async |kind: &str| {
        let event = async {
            loop {
                let event = events.next().await.expect("an open stream").expect("an event");
                if event.kind == kind {
                    return event;
                }
            }
        };
        tokio::time::timeout(PATIENCE, event).await.unwrap_or_else(|_| panic!("no {kind}"))
    };
    cluster.stop_node("c1").await;
    let lost = next("peer_lost").await;
    assert!(lost.message.starts_with("c1 has not answered for "), "{lost:?}");
    cluster.start_node("c1").await;
    let regained = next("peer_regained").await;
    assert!(regained.message.starts_with("c1 answers again"), "{regained:?}");
    cluster.stop().await;
}
