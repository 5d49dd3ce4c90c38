//! Nodes join, leave and are replaced while the cluster works, and never so that the loss of a zone becomes fatal.

#[path = "common/support.rs"]
mod support;

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_proto::client::ClientError;
use tercet_proto::reason::Reason;
use tercet_proto::topology::{Node, Role};
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

async fn change(
    cluster: &Cluster,
    change: Change,
    node: &str,
) -> Result<v1::ChangeMemberResponse, ClientError> {
    let request =
        v1::ChangeMemberRequest { group: 0, node: node.into(), change: change.into(), force: false };
    cluster.client().change_member(request).await
}

fn refusal(result: Result<v1::ChangeMemberResponse, ClientError>) -> String {
    match result {
        Err(ClientError::Refused(refusal)) if refusal.reason == Reason::MemberRefused => refusal.to_string(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// Waits until the leader knows that `node` has all of its log.
async fn caught_up(cluster: &Cluster, node: &str) {
    wait_for(&format!("{node} has caught up"), || async {
        let leader = cluster.status_of(&cluster.leader().await).await?;
        let group = leader.groups.first()?;
        let replica = group.replicas.iter().find(|replica| replica.node == node)?;
        (replica.matched_index == group.last_index && replica.last_contact_ms? < 300).then_some(())
    })
    .await;
}

async fn append(cluster: &Cluster, keys: std::ops::Range<u32>) {
    let client = cluster.client();
    for key in keys {
        client.append(request(vec![payment(&key.to_string(), 1)])).await.expect("an append");
    }
}

/// How many entries of the journal a node holds itself.
async fn held_by(cluster: &Cluster, node: &str) -> Option<u64> {
    let journal = cluster.client_of(node).get_journal("j", v1::Consistency::Local).await.ok()?;
    Some(journal.head?.seq)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_votes_and_lets_another_leave() {
    let mut topology = topology();
    topology.nodes.push(Node {
        id: 6,
        name: "c2".into(),
        zone: "c".into(),
        peer: support::free_address(),
        client: support::free_address(),
        metrics: None,
        role: Role::Learner,
    });
    let cluster = Cluster::start_with(topology).await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0..20).await;
    assert!(refusal(change(&cluster, Change::Promote, "c2").await).contains("no member"));

    let members = change(&cluster, Change::Add, "c2").await.expect("a learner");
    assert_eq!((members.voters.len(), members.learners), (5, vec!["c2".to_owned()]));
    append(&cluster, 20..30).await;
    caught_up(&cluster, "c2").await;
    let members = change(&cluster, Change::Promote, "c2").await.expect("a voter");
    assert_eq!(members.voters, ["a1", "a2", "b1", "b2", "c1", "c2"]);

    let leaving = if cluster.leader().await == "b2" { "b1" } else { "b2" };
    let members = change(&cluster, Change::Remove, leaving).await.expect("five voters are left");
    assert_eq!((members.voters.len(), members.learners.len()), (5, 0));
    let why = refusal(change(&cluster, Change::Remove, "c1").await);
    assert!(why.contains("could not be borne"), "{why}");
    append(&cluster, 30..40).await;
    wait_for("all entries on the new node", || async {
        (held_by(&cluster, "c2").await == Some(40)).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_returns_as_another_incarnation() {
    let mut cluster = Cluster::start().await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0..10).await;
    assert!(refusal(change(&cluster, Change::Replace, "b2").await).contains("it answers"));
    wait_for("b2 is registered", || async {
        let status = cluster.status_of("b2").await?;
        (status.warnings.is_empty() && held_by(&cluster, "b2").await == Some(10)).then_some(())
    })
    .await;

    cluster.stop_node("b2").await;
    std::fs::remove_dir_all(cluster.config("b2").data_dir).expect("the disk is lost");
    cluster.start_node("b2").await;
    let failed = tokio::time::timeout(support::PATIENCE, cluster.servers["b2"].failed());
    let why = failed.await.expect("it notices");
    assert!(why.contains("member replace b2"), "{why}");
    cluster.stop_node("b2").await;

    let members =
        wait_for("b2 is taken for lost", || async { change(&cluster, Change::Replace, "b2").await.ok() })
            .await;
    assert_eq!((members.voters.len(), members.learners), (4, vec!["b2".to_owned()]));
    append(&cluster, 10..20).await;
    cluster.start_node("b2").await;
    caught_up(&cluster, "b2").await;
    let members = change(&cluster, Change::Promote, "b2").await.expect("it votes again");
    assert_eq!(members.voters, ["a1", "a2", "b1", "b2", "c1"]);
    append(&cluster, 20..30).await;
    wait_for("all entries on the node that came back", || async {
        (held_by(&cluster, "b2").await == Some(30)).then_some(())
    })
    .await;
    cluster.stop().await;
}
