//! Five real `tercet serve` processes on loopback, with a proxy in every link.
//!
//! Each node has its own topology file: its own addresses are real, all others are those of the proxies on its links.
//! Clients come in through proxies too. The harness itself looks at nodes directly, beside the proxies.
//!
//! Invariants: no node knows a real address but its own; a node that was killed comes back with the same addresses and the
//! same data; a node that ends unasked is an error; dropping the cluster kills every process.

mod blows;
mod replace;
mod settle;
mod topology;
mod votes;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use tercet_node::loopback::free_address;
use tercet_proto::client::{Client, ClientError, ClientOptions};
use tercet_proto::v1;

use super::child::{Child, Nursery, describe};
use super::loop_disk::LoopDisk;
use super::packets::{self, PacketFilter};
use super::{Member, Members};
use crate::probe;
use crate::proxy::{Endpoint, Network};
use crate::scenario::{ClusterPlan, NetworkKind};

/// How long a process may take from its start until it answers.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long a process may take to stop when it is asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How long one question to a node may take.
const ASK_PATIENCE: Duration = Duration::from_secs(1);
/// Environment variable of `tercet serve`: how far its wall clock is wrong, in milliseconds.
const CLOCK_SKEW_VARIABLE: &str = "TERCET_TEST_CLOCK_SKEW_MS";
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(50);

/// Why a cluster cannot be had, or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The harness or the machine is at fault.
    #[error("{0}")]
    Harness(String),
    /// A process ended that nobody had asked to end.
    #[error("node {node} ended by itself: {how}; see {log}")]
    Crashed {
        /// Its name.
        node: String,
        /// Exit code or signal.
        how: String,
        /// What it said.
        log: String,
    },
    /// The cluster did not get well in time.
    #[error("the cluster has not recovered within {within:?}: {state}")]
    NotRecovered {
        /// The bound.
        within: Duration,
        /// What was missing.
        state: String,
    },
}

impl ClusterError {
    /// Whether the cluster broke a promise, rather than the harness being unable to tell.
    pub fn is_violation(&self) -> bool {
        matches!(self, Self::Crashed { .. } | Self::NotRecovered { .. })
    }

    fn io(what: impl std::fmt::Display, error: &io::Error) -> Self {
        Self::Harness(format!("{what}: {error}"))
    }
}

/// What a cluster is made of.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The `tercet` executable.
    pub tercet: PathBuf,
    /// The `tercet-chaos` executable, which starts the processes.
    pub launcher: PathBuf,
    /// Where the nodes keep their data.
    pub data_dir: PathBuf,
    /// Where the nodes' output and topology files go.
    pub log_dir: PathBuf,
    /// What random choices are drawn from.
    pub seed: u64,
}

/// A running cluster.
#[derive(Debug)]
pub struct ProcessCluster {
    // Dropped in this order: the children before the thread that started them.
    nodes: Vec<Node>,
    nursery: Nursery,
    network: Network,
    /// Blackholes drop packets; else the proxies hold bytes.
    packets: Option<PacketFilter>,
    members: Members,
    tercet: PathBuf,
    observer: Client,
}

#[derive(Debug)]
struct Node {
    member: Member,
    topology_file: PathBuf,
    data_dir: PathBuf,
    disk: Option<LoopDisk>,
    log: PathBuf,
    /// Where the node itself listens for clients.
    real_client: String,
    /// Where clients reach it.
    client_proxy: String,
    /// How far its wall clock is wrong, in milliseconds.
    clock_skew_ms: i64,
    process: Mutex<Process>,
}

#[derive(Debug, Default)]
struct Process {
    child: Option<Child>,
    /// Nobody has killed it since it was started.
    wanted: bool,
    /// Its disk is gone: it does not come back.
    gone: bool,
    /// How often it was started.
    starts: u64,
}

impl Node {
    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_gone(&self) -> bool {
        self.process().gone
    }

    fn error(&self, what: &str, error: &io::Error) -> ClusterError {
        ClusterError::io(format!("node {}: {what}", self.member.name), error)
    }

    /// An error if the process has ended unasked.
    fn check(&self) -> Result<(), ClusterError> {
        let mut process = self.process();
        let wanted = process.wanted;
        let Some(child) = &mut process.child else { return Ok(()) };
        match child.ended().map_err(|error| self.error("asking for its state", &error))? {
            Some(status) if wanted => Err(ClusterError::Crashed {
                node: self.member.name.clone(),
                how: describe(status),
                log: self.log.display().to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// The addresses of one node.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    peer: SocketAddr,
    client: SocketAddr,
    metrics: SocketAddr,
}

impl ProcessCluster {
    /// Makes the network, writes the topology files, starts every process and waits until each answers and a leader is
    /// known.
    ///
    /// # Errors
    /// Anything that keeps the cluster from running.
    pub async fn start(plan: &ClusterPlan, options: ClusterOptions) -> Result<Self, ClusterError> {
        let members = Members::default_five();
        for dir in [&options.data_dir, &options.log_dir] {
            std::fs::create_dir_all(dir).map_err(|error| ClusterError::io(dir.display(), &error))?;
        }
        let shape = topology::link_shape(&members, plan);
        let mut network = Network::new(&members.endpoints(), shape, options.seed)
            .map_err(|error| ClusterError::io("the network's timers", &error))?;
        let packets = match plan.network {
            NetworkKind::Proxies => None,
            NetworkKind::Namespace => {
                Some(PacketFilter::start().map_err(|error| ClusterError::io("the namespace", &error))?)
            }
        };
        let real = real_addresses(&members)?;
        let nodes = make_nodes(&members, plan, &options, &mut network, &real).await?;
        let cluster = Self {
            nodes,
            nursery: Nursery::new(options.launcher)
                .map_err(|error| ClusterError::io("the nursery", &error))?,
            network,
            packets,
            members,
            tercet: options.tercet,
            observer: observer(&real)?,
        };
        for node in &cluster.nodes {
            cluster.launch(node)?;
        }
        join_all(cluster.nodes.iter().map(|node| cluster.answers(node)))
            .await
            .into_iter()
            .collect::<Result<(), _>>()?;
        cluster.leader().await?;
        probe::healthy(&cluster.network, &cluster.members).await?;
        Ok(cluster)
    }

    /// Its links and proxies.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// Who has lost its disk and does not come back.
    pub fn gone(&self) -> Vec<&Member> {
        self.nodes.iter().filter(|node| node.is_gone()).map(|node| &node.member).collect()
    }

    /// How often the node was started.
    pub fn starts(&self, member: &Member) -> u64 {
        self.of(std::slice::from_ref(member)).map(|node| node.process().starts).sum()
    }

    /// Who is in it.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// Where clients reach each node: name, id, address of the proxy.
    pub fn client_addresses(&self) -> impl Iterator<Item = (&Member, &str)> {
        self.nodes.iter().map(|node| (&node.member, node.client_proxy.as_str()))
    }

    /// A client of the harness that sees nodes directly.
    pub fn observer(&self) -> &Client {
        &self.observer
    }

    /// What the node says of itself, asked directly.
    ///
    /// # Errors
    /// It does not answer in time.
    pub async fn status(&self, member: &Member) -> Result<v1::NodeStatus, ClientError> {
        let Some(node) = self.of(std::slice::from_ref(member)).next() else {
            return Err(ClientError::InvalidEndpoint {
                endpoint: member.name.clone(),
                message: "no such node".into(),
            });
        };
        self.observer.status(&node.real_client).await
    }

    /// The node that leads group 0, as the node of the highest term says; waits until there is one.
    ///
    /// # Errors
    /// None is known in time.
    pub async fn leader(&self) -> Result<&Member, ClusterError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let statuses = self.statuses().await?;
            let groups = statuses.iter().flatten().filter_map(|status| status.groups.first());
            let newest = groups.max_by_key(|group| (group.term, group.leader_id));
            let leader = newest.and_then(|group| self.members.by_id(group.leader_id));
            let leader = leader.filter(|leader| !self.gone().contains(leader));
            if let Some(leader) = leader {
                return Ok(leader);
            }
            if Instant::now() >= deadline {
                return Err(not_recovered(START_PATIENCE, "no leader is known"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Every node's status, by the order of members; none where a node does not answer.
    async fn statuses(&self) -> Result<Vec<Option<v1::NodeStatus>>, ClusterError> {
        for node in &self.nodes {
            node.check()?;
        }
        let asked = self.nodes.iter().map(|node| self.observer.status(&node.real_client));
        Ok(join_all(asked).await.into_iter().map(Result::ok).collect())
    }

    /// Waits until every node answers, knows a leader and has applied what any of them had committed when all first
    /// answered.
    ///
    /// # Errors
    /// That does not come true in time, or a process has ended unasked.
    pub async fn recovered(&self, within: Duration) -> Result<(), ClusterError> {
        let deadline = Instant::now() + within;
        let mut goals: Option<BTreeMap<u32, u64>> = None;
        loop {
            let statuses = self.statuses().await?;
            let state = match lagging(&self.nodes, &statuses, &mut goals) {
                None => return Ok(()),
                Some(state) => state,
            };
            if Instant::now() >= deadline {
                return Err(not_recovered(within, state));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Asks every process to stop, and makes it.
    ///
    /// # Errors
    /// A process had ended unasked, does not stop in time, or stops with another exit code than 0.
    pub async fn stop(&self) -> Result<(), ClusterError> {
        for node in &self.nodes {
            node.check()?;
        }
        let running = |node: &Node| node.process().wanted;
        for node in self.nodes.iter().filter(|node| running(node)) {
            if let Some(child) = &mut node.process().child {
                child.terminate().map_err(|error| node.error("stopping it", &error))?;
            }
        }
        for node in self.nodes.iter().filter(|node| running(node)) {
            let mut process = node.process();
            process.wanted = false;
            let Some(child) = &mut process.child else { continue };
            let status = tokio::task::block_in_place(|| child.wait_or_kill(STOP_PATIENCE))
                .map_err(|error| node.error("waiting for its end", &error))?;
            if let Some(status) = status.filter(|status| !status.success()) {
                return Err(ClusterError::Crashed {
                    node: node.member.name.clone(),
                    how: format!("{} when asked to stop", describe(status)),
                    log: node.log.display().to_string(),
                });
            }
        }
        Ok(())
    }

    fn of<'a>(&'a self, hit: &'a [Member]) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(|node| hit.contains(&node.member))
    }

    fn launch(&self, node: &Node) -> Result<(), ClusterError> {
        let arguments: Vec<OsString> = vec![
            "serve".into(),
            "--topology".into(),
            node.topology_file.clone().into(),
            "--node".into(),
            node.member.name.clone().into(),
            "--data-dir".into(),
            node.data_dir.clone().into(),
        ];
        let skew = (node.clock_skew_ms != 0).then(|| (CLOCK_SKEW_VARIABLE, node.clock_skew_ms.to_string()));
        let environment = skew.as_slice();
        let child = self
            .nursery
            .start(&node.member.name, &self.tercet, &arguments, environment, &node.log)
            .map_err(|error| node.error("starting it", &error))?;
        let mut process = node.process();
        process.child = Some(child);
        process.wanted = true;
        process.starts += 1;
        Ok(())
    }

    async fn answers(&self, node: &Node) -> Result<(), ClusterError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            let error = match self.observer.status(&node.real_client).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            // Killed again by another fault: whoever did that will start it again.
            if !node.process().wanted {
                return Ok(());
            }
            node.check()?;
            if Instant::now() >= deadline {
                return Err(not_recovered(
                    START_PATIENCE,
                    format!("node {} does not answer: {error}", node.member.name),
                ));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

fn not_recovered(within: Duration, state: impl Into<String>) -> ClusterError {
    ClusterError::NotRecovered { within, state: state.into() }
}

/// What is missing until all have caught up; none if nothing is.
fn lagging(
    nodes: &[Node],
    statuses: &[Option<v1::NodeStatus>],
    goals: &mut Option<BTreeMap<u32, u64>>,
) -> Option<String> {
    let mut answered = Vec::new();
    let gone: Vec<u64> = nodes.iter().filter(|node| node.is_gone()).map(|node| node.member.id).collect();
    for (node, status) in nodes.iter().zip(statuses).filter(|(node, _)| !gone.contains(&node.member.id)) {
        match status {
            Some(status) => answered.push(status),
            None => return Some(format!("node {} does not answer", node.member.name)),
        }
    }
    let goals = goals.get_or_insert_with(|| {
        let mut goals = BTreeMap::new();
        for group in answered.iter().flat_map(|status| &status.groups) {
            let goal: &mut u64 = goals.entry(group.group).or_default();
            *goal = group.committed_index.max(*goal);
        }
        goals
    });
    for status in answered {
        for (group, goal) in &*goals {
            let Some(state) = status.groups.iter().find(|state| state.group == *group) else {
                return Some(format!("node {} does not run group {group}", status.node));
            };
            if state.leader_id == 0 || gone.contains(&state.leader_id) {
                return Some(format!("node {} knows no leader of group {group}", status.node));
            }
            if state.applied_index < *goal {
                return Some(format!(
                    "node {} has applied {} of {goal} in group {group}",
                    status.node, state.applied_index
                ));
            }
        }
    }
    None
}

fn real_addresses(members: &Members) -> Result<BTreeMap<u64, Addresses>, ClusterError> {
    let free = || {
        let address = free_address().map_err(|error| ClusterError::io("an address for a node", &error))?;
        Ok(SocketAddr::V4(address))
    };
    let of_node =
        |member: &Member| Ok((member.id, Addresses { peer: free()?, client: free()?, metrics: free()? }));
    members.iter().map(of_node).collect()
}

fn observer(real: &BTreeMap<u64, Addresses>) -> Result<Client, ClusterError> {
    let endpoints = real.values().map(|addresses| addresses.client.to_string()).collect();
    let options = ClientOptions {
        attempt_timeout: ASK_PATIENCE,
        connect_timeout: ASK_PATIENCE,
        follow_leader: false,
        ..ClientOptions::default()
    };
    Client::connect(endpoints, options).map_err(|error| ClusterError::Harness(error.to_string()))
}

async fn make_nodes(
    members: &Members,
    plan: &ClusterPlan,
    options: &ClusterOptions,
    network: &mut Network,
    real: &BTreeMap<u64, Addresses>,
) -> Result<Vec<Node>, ClusterError> {
    let no_proxy = |error: io::Error| ClusterError::io("a proxy", &error);
    let mut client_proxies = BTreeMap::new();
    for (id, addresses) in real {
        let to = Endpoint::Node(*id);
        let (from, upstream) = (Endpoint::Clients, addresses.client);
        client_proxies
            .insert(*id, network.proxy(from, to, upstream, local(plan, from, to)).await.map_err(no_proxy)?);
    }
    let mut nodes = Vec::new();
    for member in members.iter() {
        let own =
            real.get(&member.id).ok_or_else(|| ClusterError::Harness("a node without addresses".into()))?;
        let mut seen = BTreeMap::from([(member.id, own.clone())]);
        for other in members.iter().filter(|other| *other != member) {
            let (Some(theirs), Some(client)) = (real.get(&other.id), client_proxies.get(&other.id)) else {
                continue;
            };
            let (from, to) = (member.endpoint(), other.endpoint());
            let peer = network.proxy(from, to, theirs.peer, local(plan, from, to)).await;
            let peer = peer.map_err(no_proxy)?;
            seen.insert(other.id, Addresses { peer, client: *client, metrics: theirs.metrics });
        }
        let topology_file = options.log_dir.join(format!("{}.toml", member.name));
        write_topology(&topology_file, &topology::render(members, plan, &seen)?)?;
        let data_dir = options.data_dir.join(&member.name);
        let disk = plan.loop_disk_mib.map(|mib| LoopDisk::make(&data_dir, mib)).transpose();
        let disk = disk.map_err(|error| ClusterError::io("a disk whose power can be cut", &error))?;
        nodes.push(Node {
            member: member.clone(),
            topology_file,
            data_dir: data_dir.join("data"),
            disk,
            log: options.log_dir.join(format!("{}.log", member.name)),
            real_client: own.client.to_string(),
            client_proxy: client_proxies.get(&member.id).map(ToString::to_string).unwrap_or_default(),
            clock_skew_ms: plan.clock_skew_ms.get(&member.name).copied().unwrap_or(0),
            process: Mutex::default(),
        });
    }
    Ok(nodes)
}

/// Where a proxy must be so that its packets can be told from others.
fn local(plan: &ClusterPlan, from: Endpoint, to: Endpoint) -> Option<Ipv4Addr> {
    (plan.network == NetworkKind::Namespace).then(|| packets::address_of(from, to))
}

fn write_topology(path: &Path, text: &str) -> Result<(), ClusterError> {
    std::fs::write(path, text).map_err(|error| ClusterError::io(path.display(), &error))
}
