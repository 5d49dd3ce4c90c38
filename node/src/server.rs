//! Wires one node: data directory, log, index, Raft groups, services; and takes it down again in order.
//!
//! Invariants: ports are bound before anything is written; nothing listens beyond loopback without TLS unless the topology
//! says `[security] insecure = true`; a node that failed a write or an fsync stops and is not started again by itself.

mod parts;
mod stop;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_proto::topology::{self, DiskSetting, Topology, is_loopback};
use tercet_storage::disk::{DiskChoice, DiskError, open_directory};
use tercet_storage::index::IndexError;
use tercet_storage::{Finding, LogError, LogOptions, RecoveryReport, SegmentLog, StoreId, Verdict};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;

use crate::admission::Admission;
use crate::ballast;
use crate::controller;
use crate::descriptors::{Descriptors, TooFewDescriptors};
use crate::doors::{Doors, Doorway};
use crate::groups::{Groups, Quarantine, Standing};
use crate::identity::parts::FoundLog;
use crate::identity::{Drawn, Identity, IdentityError};
use crate::node::{Node, now_us};
use crate::placement::{Budget, Policy, Voter};
use crate::proof::ProofFiles;
use crate::raft::group::{Group, GroupError, GroupParams};
use crate::raft::network::peers::{BadAddress, Peers};
use crate::raft::network::transport::Transport;
use crate::raft::proposer::Clock;
use crate::room::{DiskRoom, free_bytes};
use crate::rpc::serve::{client_services, peer_services};
use crate::telemetry::{self, Metrics};

pub use self::parts::{Opened, open_parts};

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// The cluster.
    pub topology: Topology,
    /// Which of its nodes this is.
    pub node: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// How it reaches its disk.
    pub disk: DiskSetting,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The topology.
    #[error("topology: {0}")]
    Topology(#[from] topology::TopologyError),
    /// No such node.
    #[error("topology: there is no node {node:?}; it has {known}")]
    UnknownNode {
        /// The name asked for.
        node: String,
        /// The names there are.
        known: String,
    },
    /// The limit of open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// A port.
    #[error("node {node}: nodes.{field} = {address:?}: {source}")]
    Listen {
        /// The node.
        node: String,
        /// Which of its addresses.
        field: &'static str,
        /// The address.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Beyond loopback without TLS.
    #[error(
        "node {node}: nodes.{field} = {address:?} is not a loopback address, and there is no TLS yet; \
         set `[security] insecure = true` to serve it all the same"
    )]
    Insecure {
        /// The node.
        node: String,
        /// Which of its addresses.
        field: &'static str,
        /// The address.
        address: String,
    },
    /// The data directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No io_uring here.
    #[error("{0}; set `[storage] disk = \"portable\"` in the topology to use pwrite and fdatasync instead")]
    NoIoUring(DiskError),
    /// The disk.
    #[error("data directory {dir}: {source}")]
    Disk {
        /// The directory.
        dir: PathBuf,
        /// What the disk said.
        source: DiskError,
    },
    /// The log.
    #[error("data directory {dir}: {source}")]
    Log {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: LogError,
    },
    /// The index.
    #[error("data directory {dir}: {source}")]
    Index {
        /// The directory.
        dir: PathBuf,
        /// What is wrong with it.
        source: IndexError,
    },
    /// A peer's address.
    #[error("topology: {0}")]
    Peer(#[from] BadAddress),
    /// A Raft group.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Metrics or reflection.
    #[error("services: {0}")]
    Services(String),
}

pub use stop::Stopped;

/// A running node.
pub struct Server {
    node: Arc<Node>,
    client_address: SocketAddr,
    stopping: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

struct Listeners {
    peer: TcpListener,
    client: TcpListener,
    client_address: SocketAddr,
    metrics: Option<TcpListener>,
}

async fn listen(
    node: &str,
    field: &'static str,
    address: &str,
    insecure: bool,
) -> Result<TcpListener, ServerError> {
    if !insecure && !is_loopback(address) {
        return Err(ServerError::Insecure { node: node.into(), field, address: address.into() });
    }
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen {
        node: node.into(),
        field,
        address: address.into(),
        source,
    })
}

impl Listeners {
    async fn bind(entry: &topology::Node, insecure: bool) -> Result<Self, ServerError> {
        if insecure {
            tracing::warn!("[security] insecure = true: no TLS, every address is served to everybody");
        }
        let peer = listen(&entry.name, "peer", &entry.peer, insecure).await?;
        let client = listen(&entry.name, "client", &entry.client, insecure).await?;
        let client_address = client.local_addr().map_err(|source| ServerError::Listen {
            node: entry.name.clone(),
            field: "client",
            address: entry.client.clone(),
            source,
        })?;
        let metrics = match &entry.metrics {
            Some(address) => Some(listen(&entry.name, "metrics", address, insecure).await?),
            None => None,
        };
        Ok(Self { peer, client, client_address, metrics })
    }
}

/// A start on a disk without a free byte lives from the ballast.
fn make_room(dir: &Path) {
    match ballast::give_up(dir, free_bytes(dir)) {
        Ok(false) => {}
        Ok(true) => {
            tracing::warn!(dir = %dir.display(), "the disk is full: the ballast is given up for this start")
        }
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "the ballast cannot be removed"),
    }
}

fn open_log(
    dir: &Path,
    setting: DiskSetting,
    topology: &Topology,
    identity: &Identity,
) -> Result<(SegmentLog, String), ServerError> {
    let choice = match setting {
        DiskSetting::IoUring => DiskChoice::Uring,
        DiskSetting::Portable => DiskChoice::Portable,
        DiskSetting::Auto => DiskChoice::UringOrPortable,
    };
    let disk = open_directory(&dir.join("log"), choice).map_err(|source| match source {
        DiskError::UringUnavailable { .. } => ServerError::NoIoUring(source),
        source => ServerError::Disk { dir: dir.to_path_buf(), source },
    })?;
    let description = disk.description();
    let options = LogOptions {
        segment_bytes: u64::from(topology.storage.segment_mib) << 20,
        // The index, which may only grow while so much is free, gets half of the reserve.
        keep_free_bytes: topology.limits.disk_reserve_bytes / 2,
        store: Some(identity.noted().store),
        ..LogOptions::default()
    };
    let mut vet = |report: Option<&RecoveryReport>| identity.vet_log(report.map(FoundLog::of));
    let (log, report) = SegmentLog::open_vetted(disk, options, &mut vet).map_err(|source| match source {
        LogError::Refused(why) => ServerError::Identity(identity.damaged(why)),
        source => ServerError::Log { dir: dir.to_path_buf(), source },
    })?;
    let remarkable = |finding: &&Finding| finding.verdict != Verdict::EndOfLog;
    for finding in report.findings.iter().filter(remarkable) {
        tracing::warn!(dir = %dir.display(), segment = finding.segment, block = finding.block, verdict = %finding.verdict,
            detail = finding.detail, "the log");
    }
    // A lost batch may have held any group's records, even those of a group that nothing else in the log names.
    settle_groups(&log, topology.cluster.groups)
        .map_err(|source| ServerError::Log { dir: dir.to_path_buf(), source })?;
    Ok((log, description))
}

/// Tells the log which groups there are, when batches are lost of which not even the groups are known.
fn settle_groups(log: &SegmentLog, groups: u32) -> Result<(), LogError> {
    if log.unsettled_batches() == 0 {
        return Ok(());
    }
    let (tx, rx) = std::sync::mpsc::channel();
    let all: Vec<u32> = (0..groups).collect();
    log.settle_groups(&all, Box::new(move |result| drop(tx.send(result))))?;
    rx.recv().unwrap_or(Err(LogError::Closed))
}

impl Server {
    /// Starts a node and returns when it serves.
    ///
    /// # Errors
    /// What stands in the way, naming the field, port, file or directory.
    pub async fn start(config: ServerConfig) -> Result<Self, ServerError> {
        Self::start_with_clock(config, Arc::new(now_us)).await
    }

    /// As [`Server::start`], with another UTC clock for what is recorded, microseconds since 1970: nodes of one process have one
    /// clock, and tests want several.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub async fn start_with_clock(config: ServerConfig, clock: Clock) -> Result<Self, ServerError> {
        let ServerConfig { topology, node: name, data_dir, disk } = config;
        topology.validate()?;
        let entry = topology.node(&name).cloned().ok_or_else(|| ServerError::UnknownNode {
            node: name.clone(),
            known: topology.nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", "),
        })?;
        let descriptors = Descriptors::claim()?;
        let listeners = Listeners::bind(&entry, topology.security.insecure).await?;
        make_room(&data_dir);
        let identity = Arc::new(
            Identity::open(
                &data_dir,
                &topology.cluster.name,
                entry.id,
                &name,
                Drawn {
                    incarnation: rand::random::<u64>() >> 1,
                    store: StoreId(rand::random()),
                    nonce: rand::random::<u64>() >> 1,
                },
            )?
            .with_lease(Duration::from_millis(topology.timing().election_max_ms)),
        );
        let (parts_of, owner) = (topology.clone(), identity.clone());
        // Recovery reads the log; the runtime goes on meanwhile (`dev` has four other nodes on it).
        let opened = tokio::task::spawn_blocking(move || open_parts(&data_dir, disk, &parts_of, &owner));
        let opened = opened.await.map_err(|error| ServerError::Services(error.to_string()))??;
        let log = opened.log.clone();
        let (stopping, stop) = watch::channel(false);
        let node = match build_node(topology, name, identity, opened, descriptors, clock, stop).await {
            Ok(node) => Arc::new(node),
            Err(error) => {
                log.close();
                return Err(error);
            }
        };
        // Weak: the log is a part of the node.
        let failing = Arc::downgrade(&node);
        node.log.on_failure(Box::new(move |error| {
            if let Some(node) = failing.upgrade() {
                node.failure.send_replace(Some(error.to_string()));
            }
        }));
        let damaged = Arc::downgrade(&node);
        node.log.on_rot(Box::new(move |_| {
            if let Some(node) = damaged.upgrade() {
                node.damaged.send_modify(|times| *times += 1);
            }
        }));
        controller::start(&node);
        let mut tasks = JoinSet::new();
        let client_address = listeners.client_address;
        serve_all(&mut tasks, &node, listeners)?;
        Ok(Self { node, client_address, stopping, tasks })
    }

    /// The node's name.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node.name
    }

    /// Where clients reach it.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// What is known of the room on its disk.
    #[must_use]
    pub fn disk_room(&self) -> &DiskRoom {
        &self.node.room
    }

    /// Its disk in words.
    #[must_use]
    pub fn disk_description(&self) -> String {
        self.node.disk.clone()
    }

    /// How far the state of all groups is rebuilt from the log after the start: (applied, goal). None when it is.
    #[must_use]
    pub fn rebuilding(&self) -> Option<(u64, u64)> {
        let groups = self.node.groups.running();
        groups.iter().filter_map(|group| group.rebuilding()).reduce(|all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Completes when the node cannot go on, with the reason.
    pub async fn failed(&self) -> String {
        let mut failure = self.node.failure.subscribe();
        let failed = failure.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match failed {
            Some(reason) => reason,
            None => std::future::pending().await,
        }
    }
}

async fn build_node(
    topology: Topology,
    name: String,
    identity: Arc<Identity>,
    opened: Opened,
    descriptors: Descriptors,
    clock: Clock,
    stopping: watch::Receiver<bool>,
) -> Result<Node, ServerError> {
    let Opened { log, index, disk } = opened;
    let own = identity.node_id();
    let timing = topology.timing();
    let silence = Duration::from_millis(timing.election_max_ms.saturating_mul(5));
    let others = topology.nodes.iter().filter(|node| node.id != own).map(|node| (node.id, node.peer.clone()));
    let peers = Arc::new(Peers::new(identity.clone(), others, silence)?);
    let place = |node: &topology::Node| Voter {
        node_id: node.id,
        zone: node.zone.clone(),
        site: topology.site_of(node.id).unwrap_or_default().to_owned(),
    };
    let voters: Vec<Voter> = topology.voters().map(place).collect();
    let known = topology.nodes.iter().map(place).collect();
    let room = Arc::new(DiskRoom::default());
    let group_params = GroupParams {
        group: 0,
        node_id: own,
        name: name.clone(),
        incarnation: identity.incarnation(),
        log: log.clone(),
        index,
        peers: Transport::Grpc(peers.clone()),
        voters,
        known,
        rank: 1,
        rivals: Vec::new(),
        timing,
        geo_policy: geo_policy(&topology),
        clock,
        cluster_name: topology.cluster.name.clone(),
        room: room.clone(),
        proofs: Arc::new(ProofFiles {
            dir: identity.dir().to_path_buf(),
            incarnation: identity.incarnation(),
        }),
    };
    let mut standings = Vec::new();
    let mut fresh = true;
    for group in 0..topology.cluster.groups {
        let state = log.state(group);
        fresh &= state.last.is_none() && state.vote.is_none() && !log.is_damaged(group);
        // It is the supervisor that repairs and starts it.
        standings.push(if crate::repair::is_held_back(&log, group) {
            Standing::Quarantined(Quarantine::default())
        } else {
            match Group::start(group_params.of_group(group, &topology)).await {
                Ok(running) => Standing::Running(running),
                Err(error) if log.is_damaged(group) => {
                    tracing::warn!(group, %error, "the start has found rot");
                    Standing::Quarantined(Quarantine::default())
                }
                Err(error) => return Err(error.into()),
            }
        });
    }
    let metrics = Metrics::new(&name).map_err(|error| ServerError::Services(error.to_string()))?;
    Ok(Node {
        doors: Doors::new(&topology.limits, descriptors.connections_max()),
        admission: Admission::new(topology.limits.inflight_requests, topology.limits.inflight_bytes),
        identity,
        topology,
        name,
        groups: Groups::new(standings),
        group_params,
        room,
        scrubbed: watch::Sender::default(),
        damaged: watch::Sender::new(0),
        peers,
        log,
        disk,
        descriptors,
        metrics,
        events: broadcast::Sender::new(1_024),
        started: Instant::now(),
        admitted: watch::Sender::new(false),
        fresh,
        leaving: watch::Sender::new(false),
        stopping,
        failure: watch::Sender::new(None),
    })
}

/// The topology's `[durability]` as placement knows it.
#[must_use]
pub fn geo_policy(topology: &Topology) -> Policy {
    let topology::Durability { geo_regime, degrade_after_ms, budget } = &topology.durability;
    // The validator has seen that codes have three letters.
    let amount = |(code, most): (&String, &u64)| Some((code.as_bytes().try_into().ok()?, u128::from(*most)));
    Policy {
        adaptive: *geo_regime == topology::GeoRegime::Adaptive,
        degrade_after_ms: *degrade_after_ms,
        budget: Budget {
            entries: budget.entries,
            seconds: budget.seconds,
            amounts: budget.amounts.iter().filter_map(amount).collect(),
        },
    }
}

fn serve_all(tasks: &mut JoinSet<()>, node: &Arc<Node>, listeners: Listeners) -> Result<(), ServerError> {
    let stopped = |mut stop: watch::Receiver<bool>| async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let services = |error: &dyn std::fmt::Display| ServerError::Services(error.to_string());
    let peer = peer_services(node, listeners.peer, stopped(node.stopping.clone()));
    let client =
        client_services(node, listeners.client, stopped(node.stopping.clone())).map_err(|e| services(&e))?;
    tasks.spawn(peer);
    tasks.spawn(client);
    if let Some(listener) = listeners.metrics {
        let doorway = Doorway::http1(listener, node.doors.metrics.clone());
        tasks.spawn(telemetry::serve(doorway, node.clone(), stopped(node.stopping.clone())));
    }
    Ok(())
}
