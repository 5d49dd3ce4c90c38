//! A node whose standard error nobody reads goes on.
//!
//! The fault that was: supervisors and scripts start nodes with their output in a pipe and forget it. The log was written by
//! whoever had something to say, so once the pipe was full every thread of the node stood still in turn: after nine leadership moves
//! all five nodes answered nothing any more, GetStatus neither.

#[path = "common/support.rs"]
mod support;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use support::{PATIENCE, free_address, topology, wait_for};
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::Topology;
use tercet_proto::v1::NodeStatus;

/// A process of this test; gone with it.
struct Node {
    child: Child,
    endpoint: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Node {
    /// Node a1 of a cluster whose other nodes are away, and which says all that it can say.
    fn start(topology: &Topology, dir: &std::path::Path) -> Self {
        let file = dir.join("topology.toml");
        std::fs::write(&file, toml::to_string(topology).expect("a topology")).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_tercet"))
            .args(["serve", "--node", "a1", "--topology"])
            .arg(&file)
            .arg("--data-dir")
            .arg(dir.join("a1"))
            .env("TERCET_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node starts");
        Self { child, endpoint: format!("http://{}", topology.node("a1").expect("a1").client) }
    }

    async fn status(&self) -> Option<NodeStatus> {
        let client = Client::connect(vec![self.endpoint.clone()], ClientOptions::default()).ok()?;
        let asked = tokio::time::timeout(std::time::Duration::from_secs(1), client.status(&self.endpoint));
        asked.await.ok()?.ok()
    }

    async fn ended(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(began.elapsed() < PATIENCE, "it does not end");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_output_nobody_reads_serves_counts_what_it_drops_and_stops() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&topology(), dir.path());
    let warned = |status: NodeStatus| {
        status
            .warnings
            .iter()
            .any(|warning| warning.contains("messages of the log were dropped"))
            .then_some(())
    };
    // It asks the others for their names ten times a second, and says so in detail: a pipe and the queue are full before long.
    wait_for("log messages are dropped and counted", || async { warned(node.status().await?) }).await;
    for _ in 0..20 {
        node.status().await.expect("an answer within a second");
    }
    node.terminate();
    assert!(node.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_outputs_reader_has_gone_serves_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut topology = topology();
    for node in &mut topology.nodes {
        node.metrics = Some(free_address());
    }
    let mut node = Node::start(&topology, dir.path());
    drop(node.child.stderr.take());
    drop(node.child.stdout.take());
    wait_for("it answers, and has noticed", || async {
        let status = node.status().await?;
        status.warnings.iter().any(|warning| warning.contains("were dropped")).then_some(())
    })
    .await;
    node.terminate();
    assert!(node.ended().await.success());
}
