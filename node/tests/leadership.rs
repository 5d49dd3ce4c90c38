//! Where the leader is: in the preferred zone of each group, when that zone has a node for it; and never without what was
//! acknowledged, even if only the least preferred node has that.

#[path = "common/support.rs"]
mod support;

use std::time::Duration;

use support::{Cluster, PATIENCE, create_journal, payment, request, wait_for};
use tercet_proto::topology::{GroupSettings, Topology};
use tercet_proto::v1;

/// Leadership moves soon, so that the test does not wait long.
fn soon() -> Topology {
    let mut topology = support::topology();
    topology.timing.leader_steady_ms = Some(300);
    topology
}

/// Waits until a node whose name begins with `zone` leads `group`.
async fn led_from(cluster: &Cluster, group: usize, zone: char) -> String {
    wait_for(&format!("group {group} led from zone {zone}"), || async {
        for name in cluster.servers.keys().filter(|name| name.starts_with(zone)) {
            let Some(status) = cluster.status_of(name).await else { continue };
            if status.groups.get(group).is_some_and(|group| group.role == "leader") {
                return Some(name.clone());
            }
        }
        None
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_groups_are_led_from_two_zones_and_come_home_after_a_loss() {
    let mut topology = soon();
    topology.cluster.groups = 2;
    topology.groups = vec![GroupSettings { id: 1, prefer: vec!["b".into()] }];
    let mut cluster = Cluster::start_with(topology).await;
    led_from(&cluster, 0, 'a').await;
    led_from(&cluster, 1, 'b').await;

    // What a loss would mean is told by each group's own preference.
    for (group, of_leader) in [(0, "a"), (1, "b")] {
        wait_for(&format!("group {group} without zone c is led from {of_leader}"), || async {
            let leader = led_from(&cluster, group, of_leader.chars().next()?).await;
            let status = cluster.status_of(&leader).await?;
            let losses = &status.groups.get(group)?.losses;
            let zone_c = losses.iter().find(|loss| loss.kind == "zone" && loss.name == "c")?;
            (zone_c.leader_zone == of_leader).then_some(())
        })
        .await;
    }
    for name in ["b1", "b2"] {
        cluster.stop_node(name).await;
    }
    led_from(&cluster, 1, 'a').await;
    for name in ["b1", "b2"] {
        cluster.start_node(name).await;
    }
    led_from(&cluster, 1, 'b').await;
    led_from(&cluster, 0, 'a').await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_remote_holds_is_kept_and_the_leader_ends_in_b() {
    let mut cluster = Cluster::start_with(soon()).await;
    led_from(&cluster, 0, 'a').await;
    create_journal(&cluster.client()).await;
    for name in ["b1", "b2"] {
        cluster.stop_node(name).await;
    }
    // Acknowledged: a1, a2 and c1 are a majority in two zones.
    let acknowledged = cluster.client().append(request(vec![payment("kept", 5)])).await.expect("an append");
    // Zone a goes with everything that b has missed, so that c1 alone can be elected.
    for name in ["a1", "a2"] {
        cluster.stop_node(name).await;
    }
    for name in ["b1", "b2"] {
        cluster.start_node(name).await;
    }
    let leader = led_from(&cluster, 0, 'b').await;
    let wanted = v1::GetEntryRequest {
        journal: "j".into(),
        by: Some(v1::get_entry_request::By::Key("kept".into())),
        consistency: v1::Consistency::Linearizable.into(),
    };
    let entry = cluster.client_of(&leader).get_entry(wanted).await.expect("what was acknowledged");
    assert_eq!(entry.entry_hash, acknowledged.receipts[0].entry_hash);
    let next = cluster.client().append(request(vec![payment("next", 6)])).await.expect("an append");
    assert_eq!(next.receipts[0].seq, acknowledged.receipts[0].seq + 1);
    cluster.stop().await;
}

/// Issue 15, row 18: a leader whose disk was frozen went on leading for minutes, with everything that it took in memory and no warning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_stands_still_hands_over_and_comes_back_when_it_moves() {
    let cluster = Cluster::start_with(soon()).await;
    let first = led_from(&cluster, 0, 'a').await;
    let client = cluster.client();
    create_journal(&client).await;
    let mut events = client.watch_events(&cluster.endpoint(&first)).await.expect("events");
    let stall = |still: Option<Duration>| {
        ["a1", "a2"].into_iter().for_each(|name| cluster.servers[name].disk_room().assume_still(still));
    };
    stall(Some(Duration::from_secs(3)));
    let second = led_from(&cluster, 0, 'b').await;
    let mut awaited = vec!["disk_stalled", "leader_moving"];
    while !awaited.is_empty() {
        let event = tokio::time::timeout(PATIENCE, events.message()).await.expect("in time");
        let event = event.expect("a stream").expect("an event");
        awaited.retain(|awaited| *awaited != event.kind);
    }
    let status = cluster.status_of(&first).await.expect("a status");
    assert_eq!(status.disk_stalled_ms, 3_000);
    assert!(status.warnings.iter().any(|warning| warning.contains("stands still")), "{:?}", status.warnings);
    // Appends go on, through the stalled node as well, and nobody counts on it.
    client.append(request(vec![payment("other", 5)])).await.expect("an append");
    cluster.client_of(&first).append(request(vec![payment("through", 5)])).await.expect("forwarded");
    wait_for("the leader knows whose disks stand still", || async {
        let status = cluster.status_of(&second).await?;
        let replicas = &status.groups.first()?.replicas;
        let still = replicas.iter().filter(|replica| replica.takes_no_entries.contains("stands still"));
        (still.count() == 2).then_some(())
    })
    .await;
    stall(None);
    led_from(&cluster, 0, 'a').await;
    client.append(request(vec![payment("after", 5)])).await.expect("an append");
    cluster.stop().await;
}
