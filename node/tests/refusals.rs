//! What an operator gets wrong at start: each thing is named, and nothing is written where it should not be.

#[path = "common/support.rs"]
mod support;

use support::{Cluster, topology};
use tercet_node::server::{Server, ServerConfig};
use tercet_proto::topology::Topology;

fn config(topology: &Topology, node: &str, dir: &std::path::Path) -> ServerConfig {
    ServerConfig {
        topology: topology.clone(),
        node: node.into(),
        data_dir: dir.to_path_buf(),
        disk: topology.storage.disk,
    }
}

async fn refusal(config: ServerConfig) -> String {
    match Server::start(config).await {
        Ok(server) => {
            server.stop().await;
            panic!("it started");
        }
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_way_is_named() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let good = topology();

    let text = refusal(config(&good, "z9", dir.path())).await;
    assert!(text.contains("z9") && text.contains("a1, a2, b1, b2, c1"), "{text}");

    let held = std::net::TcpListener::bind(&good.nodes[0].client).expect("the port");
    let text = refusal(config(&good, "a1", dir.path())).await;
    assert!(text.contains("nodes.client") && text.contains(&good.nodes[0].client), "{text}");
    assert!(!dir.path().join("NODE").exists(), "nothing is written before the ports are ours");
    drop(held);

    let mut open = good.clone();
    let (_, port) = good.nodes[0].client.rsplit_once(':').expect("a port");
    open.nodes[0].client = format!("0.0.0.0:{port}");
    let text = refusal(config(&open, "a1", dir.path())).await;
    assert!(text.contains("insecure"), "{text}");

    let file = dir.path().join("a-file");
    std::fs::write(&file, "x").expect("a file");
    let text = refusal(config(&good, "a1", &file.join("below"))).await;
    assert!(text.contains("a-file"), "{text}");

    let mut narrow = good.clone();
    narrow.nodes.retain(|node| node.zone != "b" && node.zone != "c");
    let text = refusal(config(&narrow, "a1", dir.path())).await;
    assert!(text.starts_with("topology: "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_of_another_node_or_cluster_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let own = topology();
    Server::start(config(&own, "a1", dir.path())).await.expect("a node").stop().await;
    let text = refusal(config(&own, "a2", dir.path())).await;
    assert!(text.contains("a1 (id 1)") && text.contains("a2 (id 2)"), "{text}");
    let mut other = own.clone();
    other.cluster.name = "another".into();
    let text = refusal(config(&other, "a1", dir.path())).await;
    assert!(text.contains("another"), "{text}");
    let running = Server::start(config(&own, "a1", dir.path())).await.expect("a node");
    let mut elsewhere = topology();
    elsewhere.cluster.name.clone_from(&own.cluster.name);
    let text = refusal(config(&elsewhere, "a1", dir.path())).await;
    assert!(text.contains("another process"), "{text}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_voter_does_not_vote() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client();
    support::create_journal(&client).await;
    support::wait_for("every node registered", || async {
        let status = cluster.status_of("a1").await?;
        let group = status.groups.first()?;
        // The cluster id and one registration a node have been applied.
        (!status.cluster_id.is_empty() && group.applied_index >= 8).then_some(())
    })
    .await;
    let victim = cluster.follower().await;
    cluster.stop_node(&victim).await;
    let dir = cluster.config(&victim).data_dir;
    std::fs::remove_dir_all(&dir).expect("the directory");
    let server = Server::start(cluster.config(&victim)).await.expect("it starts, to say why it cannot go on");
    let why = tokio::time::timeout(support::PATIENCE, server.failed()).await.expect("in time");
    assert!(why.contains("wiped voter") && why.contains(&victim), "{why}");
    server.stop().await;
    cluster.stop().await;
}
