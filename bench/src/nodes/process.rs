//! Nodes as real processes that end with the benchmark.
//!
//! Each is started through this program itself (`tercet-bench child`), which asks the kernel to be killed when the thread
//! that started it dies, then becomes `tercet`. They are started by the main thread, before any other work.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tercet_proto::topology::Topology;

use super::{Usage, write_topology};

const STOP_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// Ties this process to its parent, then replaces it by `program`. Returns only on failure.
pub(crate) fn become_child(
    parent: u32,
    program: &Path,
    arguments: impl Iterator<Item = OsString>,
) -> io::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // The parent may have died before the kernel was asked.
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if now.and_then(|pid| u32::try_from(pid).ok()) != Some(parent) {
        return io::Error::other("the parent process is gone");
    }
    Command::new(program).args(arguments).exec()
}

/// The executable to measure: as told, else beside this one, else the release build of the working directory.
pub(crate) fn find_tercet(told: Option<&Path>) -> Result<PathBuf> {
    let beside = std::env::current_exe().context("finding this executable")?.with_file_name("tercet");
    let candidates = match told {
        Some(told) => vec![told.to_path_buf()],
        None => vec![beside, PathBuf::from("target/release/tercet")],
    };
    for candidate in &candidates {
        if candidate.is_file() {
            return std::path::absolute(candidate).with_context(|| candidate.display().to_string());
        }
    }
    let tried: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    bail!(
        "no `tercet` executable at {}; build it with `cargo build --release`, or name it with --tercet",
        tried.join(" or ")
    );
}

/// Five `tercet serve` processes. Dropping it kills them.
pub(crate) struct Processes(Vec<NodeProcess>);

/// One of them.
pub(crate) struct NodeProcess {
    name: String,
    log: PathBuf,
    child: Child,
}

/// Nodes that share a machine share its cores: a worker a core for each runtime would only make them fight.
pub(crate) fn workers_each(nodes: usize) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / nodes.max(1)).max(1)
}

impl NodeProcess {
    /// Starts the node with its data and output below `dir`; output of an earlier run is kept. Must be called on the main
    /// thread.
    pub(crate) fn start(
        name: &str,
        topology_file: &Path,
        tercet: &Path,
        dir: &Path,
        workers: usize,
    ) -> Result<Self> {
        let launcher = std::env::current_exe().context("finding this executable")?;
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::options().create(true).append(true).open(&log);
        let output = output.with_context(|| log.display().to_string())?;
        let child = Command::new(&launcher)
            .args(["child", "--parent", &std::process::id().to_string(), "--"])
            .arg(tercet)
            .args(["serve", "--node", name, "--topology"])
            .arg(topology_file)
            .arg("--data-dir")
            .arg(dir.join(name))
            .env("TOKIO_WORKER_THREADS", workers.to_string())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting node {name}"))?;
        Ok(Self { name: name.to_owned(), log, child })
    }

    /// An error if it has ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("node {} ended by itself: {status}; see {}", self.name, self.log.display()),
            None => Ok(()),
        }
    }

    /// What it has used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.child.id())
    }

    /// Ends it as a power cut would, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop cleanly.
    pub(crate) fn ask_to_stop(&self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(rustix::process::kill_process(pid, Signal::TERM)?)
    }

    /// Whether it has stopped as it was asked to.
    pub(crate) fn has_stopped(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            None => Ok(false),
            Some(status) if status.success() => Ok(true),
            Some(status) => bail!("node {} stopped with {status}; see {}", self.name, self.log.display()),
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        // Both fail only for a process that is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Processes {
    /// Starts all nodes of the topology with their data and output below `dir`. Must be called on the main thread.
    pub(crate) fn start(topology: &Topology, tercet: &Path, dir: &Path) -> Result<Self> {
        let topology_file = dir.join("topology.toml");
        write_topology(topology, &topology_file)?;
        let mut started = Self(Vec::new());
        for node in &topology.nodes {
            let workers = workers_each(topology.nodes.len());
            started.0.push(NodeProcess::start(&node.name, &topology_file, tercet, dir, workers)?);
        }
        Ok(started)
    }

    pub(super) fn usage(&self) -> Result<Vec<(String, Usage)>> {
        self.0.iter().map(|node| Ok((node.name.clone(), node.usage()?))).collect()
    }

    pub(super) fn check(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(NodeProcess::check)
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.check()?;
        self.0.iter().try_for_each(NodeProcess::ask_to_stop)?;
        let deadline = Instant::now() + STOP_PATIENCE;
        for node in &mut self.0 {
            while !node.has_stopped()? {
                if Instant::now() >= deadline {
                    bail!("node {} does not stop; see {}", node.name, node.log.display());
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}
