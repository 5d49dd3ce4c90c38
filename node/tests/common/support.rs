//! A five-node cluster on free loopback ports in temporary directories, and waiting for conditions.
//!
//! Invariants: ports are the system's choice; everything started is stopped; nothing sleeps to synchronise, everything waits
//! for a condition with a deadline.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tercet_node::server::{Server, ServerConfig};
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Topology};
use tercet_proto::v1;

/// How long a condition may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// An address for one listener of this test.
pub fn free_address() -> String {
    tercet_node::loopback::free_address().expect("a free address").to_string()
}

/// The default topology with free ports.
pub fn topology() -> Topology {
    let mut topology = Topology::default_on(20_000).expect("the default topology");
    for node in &mut topology.nodes {
        node.peer = free_address();
        node.client = free_address();
        node.metrics = Some(free_address());
    }
    topology.storage.disk = DiskSetting::Auto;
    topology
}

/// Waits until `condition` gives a value.
pub async fn wait_for<T, F, Fut>(what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "in {PATIENCE:?} it did not come to this: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Five nodes in this process.
pub struct Cluster {
    pub topology: Topology,
    pub servers: BTreeMap<String, Server>,
    dir: TempDir,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_with(topology()).await
    }

    /// Nobody runs yet.
    pub fn not_started(topology: Topology) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { topology, servers: BTreeMap::new(), dir }
    }

    pub async fn start_with(topology: Topology) -> Self {
        let mut cluster = Self::not_started(topology);
        let names: Vec<String> = cluster.topology.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            cluster.start_node(&name).await;
        }
        cluster.whole().await;
        cluster
    }

    /// Waits until every voter's directory is registered, as far as it has applied itself: one that is stopped before it holds
    /// anything is not let in again by two others, and rightly so.
    pub async fn whole(&self) {
        for voter in self.topology.voters() {
            wait_for(&format!("{} is registered", voter.name), || async {
                self.status_of(&voter.name).await.filter(|status| status.warnings.is_empty())
            })
            .await;
        }
    }

    pub fn config(&self, name: &str) -> ServerConfig {
        ServerConfig {
            topology: self.topology.clone(),
            node: name.into(),
            data_dir: self.dir.path().join(name),
            disk: self.topology.storage.disk,
        }
    }

    /// Where a node keeps its log.
    pub fn log_dir(&self, name: &str) -> std::path::PathBuf {
        self.config(name).data_dir.join("log")
    }

    pub async fn start_node(&mut self, name: &str) {
        let server = Server::start(self.config(name)).await.expect("the node starts");
        self.servers.insert(name.into(), server);
    }

    pub async fn stop_node(&mut self, name: &str) {
        self.servers.remove(name).expect("a running node").stop().await;
    }

    pub async fn stop(mut self) {
        for (_, server) in std::mem::take(&mut self.servers) {
            server.stop().await;
        }
    }

    pub fn endpoint(&self, name: &str) -> String {
        format!("http://{}", self.topology.node(name).expect("a node").client)
    }

    /// A client that knows only this node.
    pub fn client_of(&self, name: &str) -> Client {
        let options = ClientOptions { follow_leader: false, deadline: PATIENCE, ..ClientOptions::default() };
        Client::connect(vec![self.endpoint(name)], options).expect("a client")
    }

    /// A client that knows all nodes and follows the leader.
    pub fn client(&self) -> Client {
        let endpoints = self.topology.nodes.iter().map(|node| format!("http://{}", node.client)).collect();
        let options = ClientOptions { deadline: PATIENCE, ..ClientOptions::default() };
        Client::connect(endpoints, options).expect("a client")
    }

    pub async fn status_of(&self, name: &str) -> Option<v1::NodeStatus> {
        let client = self.client_of(name);
        client.status(&self.endpoint(name)).await.ok()
    }

    /// Waits until a node leads group 0 and says which.
    pub async fn leader(&self) -> String {
        wait_for("a leader", || async {
            for name in self.servers.keys() {
                let Some(status) = self.status_of(name).await else { continue };
                if status.groups.first().is_some_and(|group| group.role == "leader") {
                    return Some(name.clone());
                }
            }
            None
        })
        .await
    }

    pub async fn follower(&self) -> String {
        let leader = self.leader().await;
        self.servers.keys().find(|name| **name != leader).expect("a follower").clone()
    }
}

/// A payment of `amount` minor units of CZK.
pub fn payment(key: &str, amount: i64) -> v1::Entry {
    let posting = |account: &str, side: v1::posting::Side| v1::Posting {
        account: account.into(),
        side: side.into(),
        amount,
        currency: "CZK".into(),
    };
    v1::Entry {
        key: key.into(),
        kind: v1::entry::Kind::Payment.into(),
        business_date: "2026-01-05".into(),
        postings: vec![
            posting("甲银行", v1::posting::Side::Debit),
            posting("BANK-B", v1::posting::Side::Credit),
        ],
        references: None,
        payload: bytes::Bytes::from_static(b"test"),
    }
}

/// A request with these entries for journal `j`.
pub fn request(entries: Vec<v1::Entry>) -> v1::AppendRequest {
    v1::AppendRequest { journal: "j".into(), entries, durability_class: 0 }
}

/// Makes journal `j`.
pub async fn create_journal(client: &Client) -> v1::Journal {
    let wanted = v1::CreateJournalRequest {
        name: "j".into(),
        currencies: vec![v1::Currency { code: "CZK".into(), digits: 2 }],
        default_class: v1::DurabilityClass::City.into(),
        business_date: "2026-01-05".into(),
    };
    client.create_journal(wanted).await.expect("a journal")
}
