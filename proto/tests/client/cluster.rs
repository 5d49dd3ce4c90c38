//! In-process nodes over one ledger in memory, with scripted misbehaviour.
//!
//! Each node is a real tonic server on a free loopback port. The ledger keeps keys, contents and order, so that a test can
//! compare what a client was told with what was appended.

mod service;

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tercet_proto::v1;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;

use service::Node;

/// What a node does with the next append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// Appends, then says OUTCOME_UNKNOWN.
    CommitThenUnknown,
    /// Appends, then never answers.
    CommitThenHang,
    /// Appends, then answers UNAVAILABLE without a reason, as a broken connection does.
    CommitThenUnavailable,
    /// Does nothing and never answers.
    HangOnce,
    /// Refuses.
    JournalNotFound,
    /// Refuses this and all later appends.
    NoLeaderForEver,
}

/// Nobody leads.
const NONE: usize = usize::MAX;

/// What all nodes share.
#[derive(Debug)]
pub(crate) struct World {
    leader: AtomicUsize,
    refusals: AtomicUsize,
    broken_reads: AtomicUsize,
    tails: AtomicUsize,
    skip_seq: AtomicU64,
    entries: watch::Sender<Vec<v1::Entry>>,
    /// What nodes say about where they are.
    advertised: Vec<String>,
    nodes: Vec<Knobs>,
}

#[derive(Debug, Default)]
struct Knobs {
    appends: AtomicUsize,
    scripts: Mutex<VecDeque<Script>>,
    /// A read or tail breaks after so many messages; 0: never.
    break_after: AtomicUsize,
}

pub(crate) struct Cluster {
    world: Arc<World>,
    addresses: Vec<String>,
    servers: Vec<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

impl Cluster {
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, false).await
    }

    /// Nodes that name addresses where nobody listens.
    pub(crate) async fn start_behind_wrong_addresses(count: usize) -> Self {
        Self::start_with(count, true).await
    }

    async fn start_with(count: usize, wrong: bool) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..count {
            listeners.push(TcpListener::bind(free_address()).await.unwrap());
        }
        let addresses: Vec<String> =
            listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let advertised =
            if wrong { (0..count).map(|_| unused_address()).collect() } else { addresses.clone() };
        let world = Arc::new(World {
            leader: AtomicUsize::new(NONE),
            refusals: AtomicUsize::new(0),
            broken_reads: AtomicUsize::new(0),
            tails: AtomicUsize::new(0),
            skip_seq: AtomicU64::new(0),
            entries: watch::Sender::new(Vec::new()),
            advertised,
            nodes: (0..count).map(|_| Knobs::default()).collect(),
        });
        let servers = listeners
            .into_iter()
            .enumerate()
            .map(|(index, listener)| {
                let (stop, stopped) = oneshot::channel();
                let node = Node { index, world: world.clone() };
                let serving = tonic::transport::Server::builder()
                    .add_service(v1::ledger_server::LedgerServer::new(node.clone()))
                    .add_service(v1::admin_server::AdminServer::new(node))
                    .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                        // A dropped sender stops it as well.
                        let _ = stopped.await;
                    });
                Some((stop, tokio::spawn(async move { serving.await.unwrap() })))
            })
            .collect();
        Self { world, addresses, servers }
    }

    pub(crate) fn address(&self, node: usize) -> String {
        self.addresses[node].clone()
    }

    pub(crate) fn lead(&self, node: usize) {
        self.world.leader.store(node, Ordering::SeqCst);
    }

    pub(crate) fn lead_none(&self) {
        self.lead(NONE);
    }

    /// The next append at this node goes like this.
    pub(crate) fn script(&self, node: usize, script: Script) {
        let mut scripts = self.world.nodes[node].scripts.lock().unwrap();
        scripts.clear();
        scripts.push_back(script);
    }

    /// And the one after it like this.
    pub(crate) fn then(&self, node: usize, script: Script) {
        self.world.nodes[node].scripts.lock().unwrap().push_back(script);
    }

    /// Appends that reached this node.
    pub(crate) fn appends_at(&self, node: usize) -> usize {
        self.world.nodes[node].appends.load(Ordering::SeqCst)
    }

    /// NO_LEADER refusals of all nodes.
    pub(crate) fn refusals(&self) -> usize {
        self.world.refusals.load(Ordering::SeqCst)
    }

    pub(crate) fn broken_reads(&self) -> usize {
        self.world.broken_reads.load(Ordering::SeqCst)
    }

    /// Tails that were opened.
    pub(crate) fn tails(&self) -> usize {
        self.world.tails.load(Ordering::SeqCst)
    }

    pub(crate) fn break_reads_after(&self, node: usize, messages: usize) {
        self.world.nodes[node].break_after.store(messages, Ordering::SeqCst);
    }

    /// Reads leave this seq out.
    pub(crate) fn skip_seq(&self, seq: u64) {
        self.world.skip_seq.store(seq, Ordering::SeqCst);
    }

    pub(crate) fn journal_keys(&self) -> Vec<String> {
        self.world.entries.borrow().iter().map(|entry| entry.key.clone()).collect()
    }

    /// Waits for a condition; fails the test after ten seconds.
    pub(crate) async fn wait_for(&self, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < deadline, "the condition did not come true");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Stops a node; its port then refuses connections.
    pub(crate) async fn kill(&mut self, node: usize) {
        if let Some((stop, server)) = self.servers[node].take() {
            drop(stop);
            server.await.unwrap();
        }
    }

    pub(crate) async fn stop(mut self) {
        for (stop, server) in self.servers.drain(..).flatten() {
            drop(stop);
            // Calls that hang on purpose would hold a graceful stop up.
            if tokio::time::timeout(Duration::from_millis(100), server).await.is_err() {
                continue;
            }
        }
    }
}

/// An address where nobody listens.
pub(crate) fn unused_address() -> String {
    free_address().to_string()
}

/// An address of this process alone (its id makes the host), given out once: neither another test nor the local end of a
/// connection takes it, not even while nobody listens on it.
fn free_address() -> SocketAddrV4 {
    static NEXT_PORT: AtomicU16 = AtomicU16::new(10_000);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    SocketAddrV4::new(Ipv4Addr::new(127, 64 | (high & 63), middle, low), port)
}

pub(crate) fn entry(key: &str) -> v1::Entry {
    let posting = |account: String, side: v1::posting::Side| v1::Posting {
        account,
        side: side.into(),
        amount: 100,
        currency: "CZK".to_owned(),
    };
    v1::Entry {
        key: key.to_owned(),
        kind: v1::entry::Kind::Payment.into(),
        business_date: "2024-01-02".to_owned(),
        postings: vec![
            posting(format!("from-{key}"), v1::posting::Side::Debit),
            posting(format!("to-{key}"), v1::posting::Side::Credit),
        ],
        ..v1::Entry::default()
    }
}

/// An append to journal `j`.
pub(crate) fn request(keys: &[&str]) -> v1::AppendRequest {
    v1::AppendRequest {
        journal: "j".to_owned(),
        entries: keys.iter().map(|key| entry(key)).collect(),
        ..v1::AppendRequest::default()
    }
}
