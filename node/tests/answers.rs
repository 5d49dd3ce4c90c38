//! What callers get back: answers that fit, refusals that are definite where nothing was sent, and the leader's work through any node.

#[path = "common/support.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Cluster, create_journal, payment, request, wait_for};
use tercet_proto::client::ClientError;
use tercet_proto::reason::Reason;
use tercet_proto::v1;
use tercet_proto::v1::ledger_client::LedgerClient;

/// 8,192 entries of nearly 4 MiB were taken and came back as one message of 4.8 MB: whoever reads with the limits that gRPC clients have
/// by default (4 MiB) could not read past them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_was_taken_can_be_read_with_default_limits() {
    let cluster = Cluster::start().await;
    create_journal(&cluster.client()).await;
    let large = |at: usize| v1::Entry { payload: vec![7; 330].into(), ..payment(&format!("{at:064}"), 5) };
    let entries: Vec<v1::Entry> = (0..8_192).map(large).collect();
    let receipts = cluster.client().append(request(entries.clone())).await.expect("an append").receipts;
    assert_eq!(receipts.len(), entries.len());
    let endpoint = cluster.endpoint(&cluster.follower().await);
    let mut client = LedgerClient::connect(endpoint).await.expect("a connection");
    let wanted = v1::ReadRequest { journal: "j".into(), ..Default::default() };
    let mut stream = client.read(wanted).await.expect("a stream").into_inner();
    let mut read = Vec::new();
    while let Some(message) = stream.message().await.expect("every message can be received") {
        read.extend(message.entries.into_iter().filter_map(|stored| stored.entry));
    }
    assert_eq!(read, entries);
    cluster.stop().await;
}

/// TransferLeader and ChangeMember at a follower were NO_LEADER, although the leader was known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_leader_does_is_done_through_any_node() {
    let cluster = Cluster::start().await;
    create_journal(&cluster.client()).await;
    let (leader, asked) = (cluster.leader().await, cluster.follower().await);
    let target =
        cluster.servers.keys().find(|name| **name != leader && **name != asked && !name.starts_with('c'));
    let target = target.expect("another node").clone();
    // This client asks one node, and follows nobody.
    let client = cluster.client_of(&asked);
    let moved = client.transfer_leader(0, &target).await.expect("leadership moves");
    assert_eq!(moved.leader, target);
    let change = |change: v1::change_member_request::Change| v1::ChangeMemberRequest {
        group: 0,
        node: "c1".into(),
        change: change.into(),
        force: true,
    };
    use v1::change_member_request::Change;
    let members =
        wait_for("c1 is removed", || async { client.change_member(change(Change::Remove)).await.ok() }).await;
    assert!(!members.voters.contains(&"c1".to_owned()), "{members:?}");
    let members = client.change_member(change(Change::Add)).await.expect("c1 is added");
    assert_eq!(members.learners, ["c1"]);
    cluster.stop().await;
}

/// Four of five are gone. The fifth took 5 s for each request and called unknown what it had never sent, and went on naming the dead leader.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_left_alone_says_at_once_that_nobody_leads() {
    let mut cluster = Cluster::start().await;
    create_journal(&cluster.client()).await;
    let leader = cluster.leader().await;
    // The leader last: as long as it has a majority, others would take over.
    let mut others: Vec<String> = cluster.servers.keys().filter(|name| **name != "c1").cloned().collect();
    others.sort_by_key(|name| *name == leader);
    for name in &others {
        cluster.stop_node(name).await;
    }
    wait_for("nobody is named as the leader", || async {
        let status = cluster.status_of("c1").await?;
        let group = status.groups.first()?;
        (group.leader_id == 0 && group.leader.is_empty()).then_some(())
    })
    .await;
    let client = cluster.client_of("c1");
    let append = |key: &str| {
        let (client, request) = (client.clone(), request(vec![payment(key, 5)]));
        async move {
            let began = Instant::now();
            let refused = client.append_once(&request, Duration::from_secs(30)).await;
            (refused.expect_err("there is no quorum"), began.elapsed())
        }
    };
    wait_for("a quick answer", || async {
        let (_, took) = append("first").await;
        (took < Duration::from_secs(1)).then_some(())
    })
    .await;
    for at in 0..3 {
        match append(&format!("k{at}")).await.0 {
            ClientError::Refused(refusal) => assert_eq!(refusal.reason, Reason::NoLeader, "{refusal}"),
            other => panic!("nothing was sent, and it says {other}"),
        }
    }
    cluster.stop().await;
}
