//! Wall clocks that are wrong: what is recorded stays near the time, leadership goes to a sound clock, and a budget of seconds lasts
//! for its seconds.
//!
//! The faults that were: a leader eight hours ahead once gave every later entry that time, without a warning. A leader an hour ahead once
//! let a degraded budget of 15 s last for a minute and longer, and a new leader an hour ahead ended it at once.

#[path = "common/support.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_node::node::now_us;
use tercet_node::server::Server;
use tercet_proto::client::ClientError;
use tercet_proto::reason::Reason;
use tercet_proto::topology::{DegradedBudget, Durability, GeoRegime, Topology};
use tercet_proto::v1;

const MINUTE_US: i64 = 60_000_000;
const HOUR_US: i64 = 60 * MINUTE_US;

/// How far each node's clock is ahead, microseconds; changed while the nodes run.
type Skews = BTreeMap<String, Arc<AtomicI64>>;

async fn start(cluster: &mut Cluster, skews: &Skews, name: &str) {
    let skew = skews[name].clone();
    let clock = Arc::new(move || now_us() + skew.load(Ordering::Relaxed));
    let server = Server::start_with_clock(cluster.config(name), clock).await.expect("the node starts");
    cluster.servers.insert(name.into(), server);
}

/// A cluster whose nodes have a clock each, all of them right.
async fn with_clocks(topology: Topology) -> (Cluster, Skews) {
    let mut cluster = Cluster::not_started(topology);
    let names: Vec<String> = cluster.topology.nodes.iter().map(|node| node.name.clone()).collect();
    let skews: Skews = names.iter().map(|name| (name.clone(), Arc::default())).collect();
    for name in &names {
        start(&mut cluster, &skews, name).await;
    }
    cluster.whole().await;
    (cluster, skews)
}

async fn append(cluster: &Cluster, key: &str) -> v1::Receipt {
    let appended = cluster.client().append(request(vec![payment(key, 1)])).await;
    appended.expect("a clock refuses nothing").receipts.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_hours_ahead_records_a_minute_at_most_is_warned_of_and_hands_over() {
    let mut topology = topology();
    // It leads until it is told to go, then soon another one does.
    topology.timing.leader_steady_ms = Some(300);
    let (cluster, skews) = with_clocks(topology).await;
    create_journal(&cluster.client()).await;
    let before = append(&cluster, "right").await;
    let leader = cluster.leader().await;
    wait_for("the other clocks are known", || async {
        let status = cluster.status_of(&leader).await?;
        let replicas = &status.groups.first()?.replicas;
        (replicas.iter().filter(|replica| replica.clock.is_some()).count() >= 4).then_some(())
    })
    .await;
    skews[&leader].store(8 * HOUR_US, Ordering::Relaxed);
    let at_once = append(&cluster, "at once").await;
    assert!(at_once.recorded_at_us - now_us() <= MINUTE_US, "a clock that is set is noticed at once");
    wait_for("status warns of the clock", || async {
        for name in cluster.servers.keys() {
            let Some(status) = cluster.status_of(name).await else { continue };
            let expected = format!("the clock of {leader} is 2");
            if status.warnings.iter().any(|warning| warning.contains(&expected)) {
                return Some(());
            }
        }
        None
    })
    .await;
    let during = append(&cluster, "wrong").await;
    assert!(during.recorded_at_us >= before.recorded_at_us);
    let ahead_us = during.recorded_at_us - now_us();
    assert!(ahead_us <= MINUTE_US, "{ahead_us} us ahead of the time");
    wait_for("another one leads", || async { (cluster.leader().await != leader).then_some(()) }).await;
    let after = append(&cluster, "after").await;
    assert!(after.recorded_at_us >= during.recorded_at_us && after.recorded_at_us - now_us() <= MINUTE_US);
    // Its offset is measured and shown, by whoever leads.
    wait_for("the offset is shown", || async {
        let status = cluster.status_of(&cluster.leader().await).await?;
        let replica = status.groups.first()?.replicas.iter().find(|replica| replica.node == leader)?.clone();
        let clock = replica.clock?;
        ((clock.ahead_us - 8 * HOUR_US).unsigned_abs() <= clock.error_us + 1_000_000).then_some(())
    })
    .await;
    skews[&leader].store(0, Ordering::Relaxed);
    append(&cluster, "right again").await;
    cluster.stop().await;
}

/// `geo` may do without the remote city for `seconds`.
fn adaptive(seconds: u64) -> Topology {
    let mut topology = topology();
    let budget = DegradedBudget { entries: u64::MAX, seconds, ..DegradedBudget::default() };
    topology.durability = Durability { geo_regime: GeoRegime::Adaptive, degrade_after_ms: 300, budget };
    // Leadership stays where a test puts it.
    topology.timing.leader_steady_ms = Some(600_000);
    topology
}

async fn geo(cluster: &Cluster, key: String) -> Result<v1::Receipt, ClientError> {
    let mut request = request(vec![payment(&key, 1)]);
    request.durability_class = v1::DurabilityClass::Geo.into();
    let client = cluster.client_of(&cluster.leader().await);
    let appended = client.append_once(&request, std::time::Duration::from_secs(5)).await?;
    Ok(appended.receipts.into_iter().next().expect("a receipt"))
}

/// Appends until an entry is acknowledged degraded.
async fn until_degraded(cluster: &Cluster) {
    let n = AtomicI64::new(0);
    wait_for("an entry is acknowledged degraded", || async {
        let key = format!("d{}", n.fetch_add(1, Ordering::Relaxed));
        let receipt = geo(cluster, key).await.ok()?;
        receipt.attestation.is_some_and(|attestation| attestation.degraded).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_does_not_prolong_a_budget() {
    let (mut cluster, skews) = with_clocks(adaptive(3)).await;
    create_journal(&cluster.client()).await;
    // All clocks: no majority contradicts them. Recorded time stands still for an hour after.
    skews.values().for_each(|skew| skew.store(HOUR_US, Ordering::Relaxed));
    append(&cluster, "ahead").await;
    cluster.stop_node("c1").await;
    until_degraded(&cluster).await;
    skews.values().for_each(|skew| skew.store(0, Ordering::Relaxed));
    let n = AtomicI64::new(0);
    let refused = wait_for("the budget is spent", || async {
        let error = geo(&cluster, format!("e{}", n.fetch_add(1, Ordering::Relaxed))).await.err()?;
        error.refusal().filter(|refusal| refusal.metadata.contains_key("budget")).cloned()
    })
    .await;
    assert_eq!(refused.reason, Reason::PlacementUnreachable, "{refused}");
    let what = refused.metadata.get("budget").expect("it is the budget");
    assert!(what.ends_with(" seconds of 3"), "{what}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_that_is_ahead_does_not_end_a_budget() {
    let (mut cluster, skews) = with_clocks(adaptive(600)).await;
    create_journal(&cluster.client()).await;
    cluster.stop_node("c1").await;
    until_degraded(&cluster).await;
    let old = cluster.leader().await;
    skews
        .iter()
        .filter(|(name, _)| **name != old)
        .for_each(|(_, skew)| skew.store(HOUR_US, Ordering::Relaxed));
    cluster.stop_node(&old).await;
    cluster.leader().await;
    let receipt = wait_for("the new leader acknowledges degraded", || async {
        match geo(&cluster, "next".into()).await {
            Ok(receipt) => Some(receipt),
            Err(error) => {
                let budget = error.refusal().and_then(|refusal| refusal.metadata.get("budget"));
                assert_eq!(budget, None, "the budget of ten minutes is not spent");
                None
            }
        }
    })
    .await;
    assert!(receipt.attestation.is_some_and(|attestation| attestation.degraded));
    cluster.stop().await;
}
