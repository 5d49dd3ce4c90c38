//! Where the leader is: in the preferred zone of each group, when that zone has a node for it; and never without what was
//! acknowledged, even if only the least preferred node has that.

#[path = "common/support.rs"]
mod support;

use support::{Cluster, create_journal, payment, request, wait_for};
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
