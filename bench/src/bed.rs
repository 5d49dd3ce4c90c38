//! What is measured on: a scratch directory, the device's floor, five nodes, and the channels that clients share.
//!
//! Invariants: floor and nodes use the same disk layer on the same file system; processes are started by the main thread
//! before any other thread (their lives hang on it); nothing is left behind unless `--keep` says so or something failed.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Topology};
use tokio::signal::unix::{SignalKind, signal};

use crate::floor::{Floor, measure};
use crate::machine::is_in_memory;
use crate::nodes::{InProcess, Nodes, Processes, find_tercet, ready, topology};

/// Arguments of every benchmark that runs nodes.
#[derive(Debug, Clone, Args)]
pub(crate) struct BedArgs {
    /// Raft groups of the cluster
    #[arg(long, default_value_t = 1, value_name = "N")]
    groups: u32,
    /// Connections that the clients share
    #[arg(long, default_value_t = 4, value_name = "N")]
    channels: usize,
    /// Seconds for each of the two floors
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) floor_seconds: f64,
    /// Where the nodes keep their data: a directory on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// How nodes and floor reach the disk
    #[arg(long, value_enum, default_value_t = DiskArg::Auto)]
    disk: DiskArg,
    /// Run the five nodes in this process, for profilers
    #[arg(long, conflicts_with = "tercet")]
    pub(crate) in_process: bool,
    /// The `tercet` executable [default: beside this one, else target/release/tercet]
    #[arg(long, env = "TERCET_BIN", value_name = "FILE")]
    pub(crate) tercet: Option<PathBuf>,
    /// Keep the nodes' data and output
    #[arg(long)]
    keep: bool,
}

/// How a disk is reached, as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum DiskArg {
    /// io_uring, or portable where it is missing
    Auto,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
    /// pwrite and fdatasync
    Portable,
}

impl DiskArg {
    /// As the topology says it.
    pub(crate) fn setting(self) -> DiskSetting {
        match self {
            Self::Auto => DiskSetting::Auto,
            Self::IoUring => DiskSetting::IoUring,
            Self::Portable => DiskSetting::Portable,
        }
    }
}

/// Five running nodes and what is known of their machine.
pub(crate) struct Bed {
    /// What the nodes were started with.
    pub(crate) topology: Topology,
    /// The nodes.
    pub(crate) nodes: Nodes,
    /// Clients with a connection of their own each.
    pub(crate) channels: Vec<Client>,
    /// The device.
    pub(crate) floor: Floor,
    /// The leader of group 0 at the start.
    pub(crate) leader: String,
    /// The nodes' disk layer, in its words.
    pub(crate) disk: String,
}

impl BedArgs {
    /// Where data may be kept.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bounds.
    pub(crate) fn check(&self) -> Result<()> {
        if self.channels == 0 || self.groups == 0 {
            bail!("--channels and --groups: at least 1 each");
        }
        if !(self.floor_seconds > 0.0 && self.floor_seconds <= 86_400.0) {
            bail!("--floor-seconds {}: above 0, at most a day", self.floor_seconds);
        }
        Ok(())
    }

    /// Measures the floor, starts the nodes, does the work, and puts everything away.
    pub(crate) fn run<T>(
        &self,
        entry_bytes: usize,
        work: impl AsyncFnOnce(&mut Bed) -> Result<T>,
    ) -> Result<T> {
        self.check()?;
        std::fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
        if is_in_memory(&self.dir)? {
            eprintln!(
                "tercet-bench: {} lies in memory: flushes cost nothing there, and the figures say nothing",
                self.dir.display()
            );
        }
        let scratch =
            tempfile::Builder::new().prefix("cluster-").tempdir_in(std::path::absolute(&self.dir)?)?;
        note("measuring the floor");
        let disk = self.disk.setting();
        let floor = measure(scratch.path(), disk, Duration::from_secs_f64(self.floor_seconds), entry_bytes)?;
        let mut topology = topology(disk)?;
        topology.cluster.groups = self.groups;
        let processes = match self.in_process {
            true => None,
            false => {
                Some(Processes::start(&topology, &find_tercet(self.tercet.as_deref())?, scratch.path())?)
            }
        };
        // One thread for the load: more would fight with the nodes for the cores, and a lone client would wake across
        // threads. Nodes in this process need workers.
        let mut runtime = match processes {
            Some(_) => tokio::runtime::Builder::new_current_thread(),
            None => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_all().build()?;
        let done = runtime.block_on(async {
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            tokio::select! {
                done = self.with_nodes(topology, processes, floor, scratch.path().to_path_buf(), work) => done,
                _ = interrupt.recv() => bail!("interrupted"),
                _ = terminate.recv() => bail!("terminated"),
            }
        });
        if self.keep || done.is_err() {
            eprintln!("tercet-bench: data and output of the nodes: {}", scratch.keep().display());
        }
        done
    }

    async fn with_nodes<T>(
        &self,
        topology: Topology,
        processes: Option<Processes>,
        floor: Floor,
        dir: PathBuf,
        work: impl AsyncFnOnce(&mut Bed) -> Result<T>,
    ) -> Result<T> {
        let mut nodes = match processes {
            Some(processes) => Nodes::Processes(processes),
            None => Nodes::InProcess(InProcess::start(&topology, &dir).await?),
        };
        let endpoints: Vec<String> = topology.nodes.iter().map(|node| node.client.clone()).collect();
        let channels = (0..self.channels)
            .map(|_| Client::connect(endpoints.clone(), ClientOptions::default()))
            .collect::<Result<Vec<_>, _>>()?;
        let first = channels.first().context("no channel")?;
        let (leader, disk) = ready(&mut nodes, &topology, first).await?;
        let mut bed = Bed { topology, nodes, channels, floor, leader, disk };
        let done = work(&mut bed).await?;
        bed.nodes.stop().await?;
        Ok(done)
    }
}

/// Says what goes on, on a terminal.
pub(crate) fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("tercet-bench: {text}");
    }
}
