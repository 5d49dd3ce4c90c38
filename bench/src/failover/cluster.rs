//! Five node processes whose links are delayed as their zones' declared round trips say, and can be cut by zone.
//!
//! The links are `tercet_node::relay`'s: the layers let a benchmark depend on the node and not on the chaos harness, and delayed
//! links that can be cut are all that is needed here.
//!
//! Invariants: every connection between two zones, and every one of the client, goes through a relay; within a zone nodes dial
//! each other directly; the processes end with this one.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use tercet_node::relay::Relay;
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Topology};
use tercet_proto::v1;
use tokio::sync::watch;

use crate::nodes::{NodeProcess, topology, workers_each, write_topology};

const POLL: Duration = super::POLL;
/// A follower that lags by more is not caught up.
const LAG_MAX: u64 = 64;
/// A follower that has been silent for longer is not in contact.
const CONTACT_MAX_MS: u64 = 400;

/// How a zone is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Its processes are killed with SIGKILL
    Kill,
    /// Nothing passes to it or from it
    Blackhole,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Kill => "kill -9",
            Self::Blackhole => "blackhole",
        })
    }
}

/// Two ends of a link: zones, or the client (the empty name); the smaller first.
type Ends = (String, String);

fn ends(one: &str, other: &str) -> Ends {
    if one <= other { (one.to_owned(), other.to_owned()) } else { (other.to_owned(), one.to_owned()) }
}

/// The nodes, their links, and what is wrong with them.
pub(crate) struct FaultyCluster {
    topology: Topology,
    tercet: PathBuf,
    dir: PathBuf,
    cuts: BTreeMap<Ends, watch::Sender<bool>>,
    /// Held for their tasks.
    _relays: Vec<Relay>,
    /// Where the client reaches each node.
    client_relays: BTreeMap<u64, String>,
    running: BTreeMap<String, NodeProcess>,
    observer: Client,
}

impl FaultyCluster {
    /// Starts the default topology below `dir`. Must be called on the main thread.
    pub(crate) async fn start(tercet: PathBuf, dir: &Path) -> Result<Self> {
        let topology = topology(DiskSetting::Auto)?;
        let observer = Client::connect(
            topology.nodes.iter().map(|node| node.client.clone()).collect(),
            ClientOptions { attempt_timeout: Duration::from_secs(1), ..ClientOptions::default() },
        )?;
        let mut cluster = Self {
            topology,
            tercet,
            dir: dir.to_owned(),
            cuts: BTreeMap::new(),
            _relays: Vec::new(),
            client_relays: BTreeMap::new(),
            running: BTreeMap::new(),
            observer,
        };
        cluster.link().await?;
        let names: Vec<String> = cluster.topology.nodes.iter().map(|node| node.name.clone()).collect();
        for name in names {
            cluster.start_node(&name)?;
        }
        Ok(cluster)
    }

    /// Starts the relays and writes each zone's view of the topology.
    async fn link(&mut self) -> Result<()> {
        let topology = self.topology.clone();
        for from in &topology.zones {
            let mut view = topology.clone();
            for target in view.nodes.iter_mut().filter(|node| node.zone != from.name) {
                let one_way_ms = topology.rtt_ms(&from.name, &target.zone).context("a round trip")? / 2.0;
                let delay = Duration::from_secs_f64(one_way_ms / 1e3);
                target.peer = self.relay(&target.peer, delay, ends(&from.name, &target.zone)).await?;
            }
            write_topology(&view, &self.topology_file(&from.name))?;
        }
        for node in &topology.nodes {
            let relay = self.relay(&node.client, Duration::ZERO, ends("", &node.zone)).await?;
            self.client_relays.insert(node.id, relay);
        }
        Ok(())
    }

    async fn relay(&mut self, target: &str, delay: Duration, ends: Ends) -> Result<String> {
        let cut = self.cuts.entry(ends).or_default().subscribe();
        let relay = Relay::start(target.to_owned(), delay, cut).await?;
        let address = relay.address().to_string();
        self._relays.push(relay);
        Ok(address)
    }

    fn topology_file(&self, zone: &str) -> PathBuf {
        self.dir.join(format!("topology-{zone}.toml"))
    }

    fn start_node(&mut self, name: &str) -> Result<()> {
        let zone = self.zone_of(name);
        let workers = workers_each(self.topology.nodes.len());
        let node = NodeProcess::start(name, &self.topology_file(&zone), &self.tercet, &self.dir, workers)?;
        self.running.insert(name.to_owned(), node);
        Ok(())
    }

    /// The zone of a node; empty if there is no such node.
    pub(crate) fn zone_of(&self, name: &str) -> String {
        self.topology.node(name).map(|node| node.zone.clone()).unwrap_or_default()
    }

    /// Where the nodes listen for clients, without relays.
    pub(crate) fn client_addresses(&self) -> Vec<String> {
        self.topology.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// Raft's timing, in words.
    pub(crate) fn timing(&self) -> String {
        let timing = self.topology.timing();
        format!(
            "heartbeat {} ms, election {} to {} ms",
            timing.heartbeat_ms, timing.election_min_ms, timing.election_max_ms
        )
    }

    /// A client behind the relays.
    pub(crate) fn client(&self) -> Result<Client> {
        let options = ClientOptions {
            address_map: self.client_relays.iter().map(|(id, address)| (*id, address.clone())).collect(),
            ..ClientOptions::default()
        };
        Ok(Client::connect(self.client_relays.values().cloned().collect(), options)?)
    }

    /// A client that no fault touches.
    pub(crate) fn observer(&self) -> Result<Client> {
        Ok(Client::connect(self.client_addresses(), ClientOptions::default())?)
    }

    /// Waits until all nodes see one leader, and it has all of them in contact and caught up; returns its name.
    pub(crate) async fn settled(&mut self, patience: Duration) -> Result<String> {
        let deadline = Instant::now() + patience;
        loop {
            for node in self.running.values_mut() {
                node.check()?;
            }
            let mut seen = Vec::new();
            for node in &self.topology.nodes {
                seen.extend(self.observer.status(&node.client).await.ok());
            }
            match settled_leader(&seen, self.topology.nodes.len()) {
                Ok(leader) => return Ok(leader),
                Err(why) if Instant::now() >= deadline => {
                    bail!("the nodes have not settled within {patience:?}: {why}")
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// Loses the zone of this node; returns its name.
    pub(crate) fn lose_zone_of(&mut self, leader: &str, fault: Fault) -> Result<String> {
        let zone = self.zone_of(leader);
        match fault {
            Fault::Blackhole => self.cut(&zone, true),
            Fault::Kill => {
                // The leader first: what the others could still do would only help.
                let others = self.names_in(&zone).into_iter().filter(|name| name != leader);
                for name in std::iter::once(leader.to_owned()).chain(others) {
                    self.running.remove(&name).context("a node that runs")?.kill()?;
                }
            }
        }
        Ok(zone)
    }

    /// Undoes it.
    pub(crate) fn restore(&mut self, zone: &str, fault: Fault) -> Result<()> {
        match fault {
            Fault::Blackhole => self.cut(zone, false),
            Fault::Kill => {
                for name in self.names_in(zone) {
                    self.start_node(&name)?;
                }
            }
        }
        Ok(())
    }

    fn names_in(&self, zone: &str) -> Vec<String> {
        let nodes = self.topology.nodes.iter().filter(|node| node.zone == zone);
        nodes.map(|node| node.name.clone()).collect()
    }

    fn cut(&self, zone: &str, cut: bool) {
        for (_, link) in self.cuts.iter().filter(|((one, other), _)| one == zone || other == zone) {
            link.send_replace(cut);
        }
    }
}

/// The leader, if all of `nodes` statuses agree on it and it has everybody caught up.
fn settled_leader(seen: &[v1::NodeStatus], nodes: usize) -> Result<String, String> {
    if seen.len() < nodes {
        return Err(format!("{} of {nodes} nodes answer", seen.len()));
    }
    let groups: Vec<&v1::GroupStatus> = seen.iter().filter_map(|status| status.groups.first()).collect();
    let leader = groups.first().map(|group| group.leader.clone()).unwrap_or_default();
    if leader.is_empty() || groups.iter().any(|group| group.leader != leader) {
        return Err("they do not agree on a leader".to_owned());
    }
    let leads = groups.iter().find(|group| group.role == "leader").ok_or("nobody says that it leads")?;
    for replica in &leads.replicas {
        let lag = leads.last_index.saturating_sub(replica.matched_index);
        if lag > LAG_MAX || replica.last_contact_ms.is_none_or(|ms| ms > CONTACT_MAX_MS) {
            return Err(format!(
                "{} lags by {lag}, last contact {:?} ms",
                replica.node, replica.last_contact_ms
            ));
        }
    }
    Ok(leader)
}
