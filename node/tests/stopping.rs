//! A planned stop of the leader is no failure: somebody else leads before anything is refused, and nobody's open connection
//! holds the process up.
//!
//! The fault that was: with one idle stream or one bare connection open, the listeners were closed first, the connections were waited
//! for, and only then did the leader stop leading: 3.2 s without an acknowledgement in the whole cluster (0.2 s after kill -9), and
//! 6 s until the process had ended.

#[path = "common/support.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_proto::v1;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_first_and_waits_for_nobody() {
    let mut cluster = Cluster::start_with(topology()).await;
    create_journal(&cluster.client()).await;
    let leader = cluster.leader().await;
    let term = cluster.status_of(&leader).await.expect("a status").groups[0].term;

    // What callers keep open.
    let node = cluster.topology.node(&leader).expect("the leader").clone();
    let bare = [
        TcpStream::connect(&node.client).await.expect("a connection"),
        TcpStream::connect(&node.peer).await.expect("a connection"),
        TcpStream::connect(node.metrics.as_deref().expect("metrics")).await.expect("a connection"),
    ];
    let idle_client = cluster.client_of(&leader);
    let mut idle = idle_client.appender();
    idle.append(request(vec![payment("idle", 1)])).await.expect("an append");
    let tail = idle_client.tail(v1::TailRequest { journal: "j".into(), from_seq: 1 });
    let events = idle_client.watch_events(&cluster.endpoint(&leader)).await.expect("events");

    let stop = Arc::new(AtomicBool::new(false));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let (client, stop, acknowledged) = (cluster.client(), stop.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut n = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let appended = client.append(request(vec![payment(&format!("{writer}-{n}"), 1)])).await;
                    appended.expect("a stop is no error at the client");
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let goes_on = |what: &'static str| {
        let (acknowledged, goal) = (acknowledged.clone(), acknowledged.load(Ordering::Relaxed) + 50);
        async move {
            let enough = || async { (acknowledged.load(Ordering::Relaxed) >= goal).then_some(()) };
            wait_for(what, enough).await;
        }
    };
    goes_on("appends are acknowledged").await;

    let began = Instant::now();
    let server = cluster.servers.remove(&leader).expect("it runs");
    let stopped = server.shut_down(std::future::pending()).await;
    let took = began.elapsed();
    // Two seconds are promised; the other four nodes and this test share the machine with it.
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    goes_on("appends are acknowledged again").await;
    let (next, now) = wait_for("another one leads", || async {
        let next = cluster.leader().await;
        let status = cluster.status_of(&next).await?;
        Some((next, status.groups.first()?.term))
    })
    .await;
    assert_ne!(next, leader);
    assert!(now > term, "it was elected: {now} after {term}");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("no writer has failed");
    }
    drop((bare, idle, tail, events));
    drop(stopped);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_that_is_hastened_or_has_nobody_to_hand_over_to_is_over_soon() {
    let mut cluster = Cluster::start_with(topology()).await;
    for name in ["a2", "b1", "b2"] {
        cluster.stop_node(name).await;
    }
    // Whoever leads, if anybody still believes so, has no majority: nothing is waited for, bare connections least of all.
    let address = cluster.topology.node("a1").expect("a1").client.clone();
    let _bare = TcpStream::connect(&address).await.expect("a connection");
    let hastened = cluster.servers.remove("a1").expect("a1 runs");
    drop(hastened.shut_down(std::future::ready(())).await);
    assert!(TcpStream::connect(&address).await.is_err(), "nobody listens");
    cluster.stop().await;
}
