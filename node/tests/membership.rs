//! Nodes join, leave and are replaced while the cluster works, and never so that the loss of a zone becomes fatal.

#[path = "common/support.rs"]
mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_proto::client::ClientError;
use tercet_proto::reason::Reason;
use tercet_proto::topology::{GroupSettings, Node, Role, Topology};
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

fn asked(group: u32, change: Change, node: &str, force: bool) -> v1::ChangeMemberRequest {
    v1::ChangeMemberRequest { group, node: node.into(), change: change.into(), force }
}

async fn change(
    cluster: &Cluster,
    change: Change,
    node: &str,
) -> Result<v1::ChangeMemberResponse, ClientError> {
    cluster.client().change_member(asked(0, change, node, false)).await
}

/// A node that the topology knows and that belongs to nobody yet.
fn spare(id: u64, name: &str) -> Node {
    Node {
        id,
        name: name.into(),
        zone: name.chars().take(1).collect(),
        peer: support::free_address(),
        client: support::free_address(),
        metrics: None,
        role: Role::Learner,
    }
}

/// A cluster with one such node, whose journal has a few entries.
async fn with_spare(mut topology: Topology, name: &str) -> Cluster {
    topology.nodes.push(spare(6, name));
    let cluster = Cluster::start_with(topology).await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0..5).await;
    cluster
}

/// What the leader says of the loss of a zone: who would lead, and whether the rest would be writable.
async fn if_lost(cluster: &Cluster, zone: &str) -> Option<(String, Vec<String>, bool)> {
    let leader = cluster.status_of(&cluster.leader().await).await?;
    let losses = &leader.groups.first()?.losses;
    let loss = losses.iter().find(|loss| (loss.kind.as_str(), loss.name.as_str()) == ("zone", zone))?;
    Some((loss.leader_zone.clone(), loss.leader_nodes.clone(), loss.city_writable))
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
    topology.nodes.push(spare(6, "c2"));
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
    let failed = tokio::time::timeout(support::PATIENCE, cluster.servers["b2"].failed()).await;
    let Ok(why) = failed else {
        let mut seen = Vec::new();
        for name in ["a1", "a2", "b1", "b2", "c1"] {
            seen.push(cluster.status_of(name).await);
        }
        panic!("it does not notice: {seen:#?}");
    };
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_weakens_the_placement_is_forced_and_status_reckons_with_it() {
    let mut cluster = with_spare(topology(), "a3").await;
    change(&cluster, Change::Add, "a3").await.expect("a learner");
    caught_up(&cluster, "a3").await;
    let why = refusal(change(&cluster, Change::Promote, "a3").await);
    assert!(why.contains("zone a") && why.contains("forced"), "{why}");
    let forced = cluster.client().change_member(asked(0, Change::Promote, "a3", true)).await;
    assert_eq!(forced.expect("forced").voters, ["a1", "a2", "b1", "b2", "c1", "a3"].map(String::from));
    // Three of six are no majority: the topology's five would have borne it.
    wait_for("the loss of zone a is told as fatal", || async {
        (if_lost(&cluster, "a").await? == (String::new(), Vec::new(), false)).then_some(())
    })
    .await;

    if cluster.leader().await == "a2" {
        let client = cluster.client_of("a2");
        client.transfer_leader(0, "a1").await.expect("a1 takes over");
    }
    change(&cluster, Change::Remove, "a2").await.expect("five are left");
    cluster.stop_node("a2").await;
    wait_for("the loss of zone a is told as borne", || async {
        let (zone, nodes, writable) = if_lost(&cluster, "a").await?;
        (zone == "b" && nodes == ["b1", "b2"] && writable).then_some(())
    })
    .await;
    wait_for("the loss of zone b is told: both nodes of zone a may lead", || async {
        let (zone, nodes, _) = if_lost(&cluster, "b").await?;
        (zone == "a" && nodes.iter().collect::<BTreeSet<_>>() == BTreeSet::from([&"a1".into(), &"a3".into()]))
            .then_some(())
    })
    .await;

    // Whoever was promoted leads for its zone as if it had always been there.
    cluster.stop_node("a1").await;
    wait_for("a3 leads", || async { (cluster.leader().await == "a3").then_some(()) }).await;
    append(&cluster, 5..10).await;
    // Three of five are there: one that leaves leaves no quorum, and no force helps.
    cluster.stop_node("b2").await;
    wait_for("it is known that two are away", || async {
        let (_, _, writable) = if_lost(&cluster, "c").await?;
        (!writable).then_some(())
    })
    .await;
    let why = refusal(cluster.client().change_member(asked(0, Change::Remove, "b1", true)).await);
    assert!(why.contains("2 of 4 voters would be in contact"), "{why}");
    append(&cluster, 10..12).await;
    cluster.stop().await;
}

/// A cluster that waits long before it takes anybody for lost, so that a change can be begun that cannot be committed.
fn patient() -> Topology {
    let mut topology = topology();
    let timing = &mut topology.timing;
    (timing.heartbeat_ms, timing.election_min_ms, timing.election_max_ms) =
        (Some(500), Some(1_500), Some(2_500));
    timing.leader_steady_ms = Some(600_000);
    topology
}

/// Leaves `c2` half promoted: the leader is gone after it has written the joint configuration and before that was committed; the
/// next leader has inherited it. Returns that one.
async fn half_promoted(cluster: &mut Cluster) -> String {
    change(cluster, Change::Add, "c2").await.expect("a learner");
    caught_up(cluster, "c2").await;
    let leader = cluster.leader().await;
    let mut others: Vec<&str> =
        ["a1", "a2", "b1", "b2", "c1"].into_iter().filter(|name| *name != leader).collect();
    let kept = others.remove(0);
    // With the leader, one more, and c2 there is no majority of the five any more, and nobody knows that yet.
    for name in &others {
        cluster.stop_node(name).await;
    }
    let client = cluster.client_of(&leader);
    let begun =
        tokio::spawn(async move { client.change_member(asked(0, Change::Promote, "c2", true)).await });
    for name in [kept, "c2"] {
        wait_for(&format!("{name} has the joint configuration"), || async {
            let status = cluster.status_of(name).await?;
            status.groups.first()?.voter_ids.contains(&6).then_some(())
        })
        .await;
    }
    assert!(!begun.is_finished(), "it cannot be committed");
    begun.abort();
    cluster.stop_node(&leader).await;
    // Two of those that have not heard of it: with the one that has they are three of the five, and with c2 four of the six.
    for name in &others[..2] {
        cluster.start_node(name).await;
    }
    let next = cluster.leader().await;
    assert!([kept, "c2"].contains(&next.as_str()), "{next} leads, which lacks what others have");
    wait_for("the change is told to be half-way", || async {
        let status = cluster.status_of(&next).await?;
        status.groups.first()?.message.contains("members change").then_some(())
    })
    .await;
    next
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_a_lost_leader_left_half_way_is_finished_by_the_next_command() {
    let mut cluster = with_spare(patient(), "c2").await;
    let leader = half_promoted(&mut cluster).await;
    // Appends go on: both halves have their majority.
    append(&cluster, 5..8).await;
    let members = change(&cluster, Change::Promote, "c2").await.expect("finished");
    assert_eq!(members.voters.len(), 6, "{members:?}");
    let status = cluster.status_of(&leader).await.expect("its status");
    assert_eq!(status.groups[0].message, "");
    append(&cluster, 8..10).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_a_lost_leader_left_half_way_can_be_undone() {
    let mut cluster = with_spare(patient(), "c2").await;
    let leader = half_promoted(&mut cluster).await;
    if leader == "c2" {
        // Nobody takes itself out.
        let to = cluster.servers.keys().find(|name| *name != "c2").expect("another one").clone();
        wait_for("another one leads", || async {
            cluster.client_of("c2").transfer_leader(0, &to).await.ok().map(drop)
        })
        .await;
    }
    let members = wait_for("c2 is out again", || async {
        // The votes of those that are away are missed the more the fewer vote: the placement is weaker, and was before.
        cluster.client().change_member(asked(0, Change::Remove, "c2", true)).await.ok()
    })
    .await;
    assert_eq!((members.voters.len(), members.learners.len()), (5, 0), "{members:?}");
    append(&cluster, 5..8).await;
    cluster.stop().await;
}

/// `tercet member VERB NODE`, as an operator types it.
async fn member(cluster: &Cluster, arguments: &[&str]) -> (bool, String) {
    let endpoint = cluster.endpoint("a1");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_tercet"))
        .arg("member")
        .args(arguments)
        .args(["--endpoint", &endpoint])
        .output()
        .await
        .expect("tercet member");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_changes_its_members_and_group_zero_last() {
    let mut topology = topology();
    topology.cluster.groups = 2;
    topology.groups = vec![GroupSettings { id: 1, prefer: vec!["b".into()] }];
    let mut cluster = with_spare(topology, "c2").await;
    let (done, said) = wait_for("c2 is added", || async {
        Some(member(&cluster, &["add", "c2"]).await).filter(|(done, _)| *done)
    })
    .await;
    let groups: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(':').map(|(group, _)| group)).collect();
    assert!(done && groups == ["group 1", "group 0"], "{said}");
    wait_for("c2 is promoted in both groups", || async {
        Some(member(&cluster, &["promote", "c2"]).await.0).filter(|done| *done).map(drop)
    })
    .await;

    // A lost node's id is not loosed while it still votes in another group.
    cluster.stop_node("c1").await;
    let why = wait_for("c1 is missed by group 0", || async {
        let refused = cluster.client().change_member(asked(0, Change::Replace, "c1", false)).await;
        Some(refusal(refused)).filter(|why| !why.contains("it answers"))
    })
    .await;
    assert!(why.contains("group 1"), "{why}");
    wait_for("c1 is replaced in both groups", || async {
        Some(member(&cluster, &["replace", "c1"]).await.0).filter(|done| *done).map(drop)
    })
    .await;
    for name in ["a1", "b1", "c2"] {
        wait_for(&format!("{name} knows who votes in both groups"), || async {
            let status = cluster.status_of(name).await?;
            let voters = |group: &v1::GroupStatus| group.voter_ids == [1, 2, 3, 4, 6];
            (status.groups.len() == 2 && status.groups.iter().all(voters)).then_some(())
        })
        .await;
    }
    append(&cluster, 5..10).await;
    cluster.stop().await;
}

/// Appends as fast as it can until it is told to stop; counts what is acknowledged.
async fn load(
    cluster: &Cluster,
    writers: usize,
) -> (Arc<AtomicBool>, Arc<AtomicU64>, Vec<tokio::task::JoinHandle<()>>) {
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tasks = (0..writers).map(|writer| {
        let (client, stop, acknowledged) = (cluster.client(), stop.clone(), acknowledged.clone());
        tokio::spawn(async move {
            for batch in 0_u64.. {
                let entries = (0..50).map(|n| {
                    let mut entry = payment(&format!("{writer}-{batch}-{n}"), 1);
                    entry.payload = vec![7; 1_000].into();
                    entry
                });
                client.append(request(entries.collect())).await.expect("an append");
                acknowledged.fetch_add(50, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        })
    });
    let tasks = tasks.collect();
    (stop, acknowledged, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_catches_up_while_the_cluster_works_at_full_load() {
    let cluster = with_spare(topology(), "c2").await;
    let (stop, acknowledged, writers) = load(&cluster, 4).await;
    wait_for("a log that takes a while to copy", || async {
        (acknowledged.load(Ordering::Relaxed) > 10_000).then_some(())
    })
    .await;
    let before = acknowledged.load(Ordering::Relaxed);
    change(&cluster, Change::Add, "c2").await.expect("a learner");
    let progress = Mutex::new(Vec::new());
    wait_for("c2 has nearly all", || async {
        let leader = cluster.status_of(&cluster.leader().await).await?;
        let group = leader.groups.first()?;
        let replica = group.replicas.iter().find(|replica| replica.node == "c2")?;
        progress.lock().expect("progress").push(replica.matched_index);
        (replica.matched_index + 100 >= group.last_index && replica.last_contact_ms? < 300).then_some(())
    })
    .await;
    let progress = progress.into_inner().expect("progress");
    assert!(progress.is_sorted(), "it only grows: {progress:?}");
    let during = acknowledged.load(Ordering::Relaxed);
    assert!(during > before, "appends went on: {before}, {during}");
    let members = change(&cluster, Change::Promote, "c2").await.expect("a voter, under load");
    assert_eq!(members.voters.len(), 6);
    // It votes for the remote zone, and leadership is not there to stay.
    wait_for("a leader in the city", || async { (!cluster.leader().await.starts_with('c')).then_some(()) })
        .await;
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    let entries = 5 + acknowledged.load(Ordering::Relaxed);
    wait_for("all entries on the new node", || async {
        (held_by(&cluster, "c2").await == Some(entries)).then_some(())
    })
    .await;
    cluster.stop().await;
}
