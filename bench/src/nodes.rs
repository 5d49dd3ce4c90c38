//! The five nodes under load: real `tercet serve` processes, or one process with five servers in it.
//!
//! Invariants: nothing that is started outlives the benchmark; every node has its own data directory and its own ports on
//! loopback; both kinds run with the same topology.

mod counters;
mod in_process;
mod process;
mod usage;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tercet_node::loopback::free_address;
use tercet_proto::client::Client;
use tercet_proto::topology::{DiskSetting, Topology};

pub(crate) use counters::LogCounters;
pub(crate) use in_process::InProcess;
pub(crate) use process::{NodeProcess, Processes, become_child, find_tercet, workers_each};
pub(crate) use usage::Usage;

/// How long five nodes may take until all answer and know a leader.
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Where the default topology's ports begin; all of them are replaced.
const ANY_BASE_PORT: u16 = 20_000;

/// Five running nodes.
pub(crate) enum Nodes {
    /// The honest ones: memory and CPU of each can be told apart.
    Processes(Processes),
    /// For profilers: one process holds all, the load included.
    InProcess(InProcess),
}

impl Nodes {
    /// What each process has used so far: name and usage.
    pub(crate) fn usage(&self) -> Result<Vec<(String, Usage)>> {
        match self {
            Self::Processes(processes) => processes.usage(),
            Self::InProcess(_) => Ok(vec![("all five and the load".into(), Usage::of(std::process::id())?)]),
        }
    }

    /// What all logs have written since the nodes were started.
    pub(crate) async fn log_counters(&self, topology: &Topology) -> Result<LogCounters> {
        counters::read(topology).await
    }

    /// An error if one of them has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self {
            Self::Processes(processes) => processes.check(),
            Self::InProcess(_) => Ok(()),
        }
    }

    /// Stops all of them.
    pub(crate) async fn stop(self) -> Result<()> {
        match self {
            Self::Processes(processes) => processes.stop(),
            Self::InProcess(servers) => {
                servers.stop().await;
                Ok(())
            }
        }
    }
}

/// The default topology (2-2-1) on free addresses.
pub(crate) fn topology(disk: DiskSetting) -> Result<Topology> {
    let mut topology = Topology::default_on(ANY_BASE_PORT)?;
    topology.cluster.name = "bench".into();
    topology.storage.disk = disk;
    let free = || anyhow::Ok(free_address().context("finding free addresses")?.to_string());
    for node in &mut topology.nodes {
        (node.peer, node.client, node.metrics) = (free()?, free()?, Some(free()?));
    }
    topology.validate()?;
    Ok(topology)
}

/// Waits until every node answers and knows a leader; returns the leader's name and the disk in the leader's words.
pub(crate) async fn ready(
    nodes: &mut Nodes,
    topology: &Topology,
    client: &Client,
) -> Result<(String, String)> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        nodes.check()?;
        let mut leaders = Vec::new();
        let mut disk = String::new();
        for node in &topology.nodes {
            if let Ok(status) = client.status(&node.client).await {
                leaders.extend(status.groups.iter().map(|group| group.leader.clone()));
                disk = status.disk;
            }
        }
        let first = leaders.first().cloned().unwrap_or_default();
        let agreed = leaders.len() == topology.nodes.len() && leaders.iter().all(|leader| *leader == first);
        if agreed && !first.is_empty() {
            return Ok((first, disk));
        }
        if Instant::now() >= deadline {
            bail!("the nodes have no leader after {START_PATIENCE:?}; they see {leaders:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Writes the topology file.
pub(crate) fn write_topology(topology: &Topology, path: &Path) -> Result<()> {
    std::fs::write(path, toml::to_string(topology)?).with_context(|| path.display().to_string())
}
