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

struct NodeProcess {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Processes {
    /// Starts all nodes of the topology with their data and output below `dir`. Must be called on the main thread.
    pub(crate) fn start(topology: &Topology, tercet: &Path, dir: &Path) -> Result<Self> {
        let launcher = std::env::current_exe().context("finding this executable")?;
        let topology_file = dir.join("topology.toml");
        write_topology(topology, &topology_file)?;
        let mut started = Self(Vec::new());
        // Nodes that share a machine share its cores: five runtimes with a worker a core each would only fight for them.
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let workers = (cores / topology.nodes.len().max(1)).max(1);
        for node in &topology.nodes {
            let log = dir.join(format!("{}.log", node.name));
            let output = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
            let child = Command::new(&launcher)
                .args(["child", "--parent", &std::process::id().to_string(), "--"])
                .arg(tercet)
                .args(["serve", "--node", &node.name, "--topology"])
                .arg(&topology_file)
                .arg("--data-dir")
                .arg(dir.join(&node.name))
                .env("TOKIO_WORKER_THREADS", workers.to_string())
                .stdin(Stdio::null())
                .stdout(output.try_clone()?)
                .stderr(output)
                .spawn()
                .with_context(|| format!("starting node {}", node.name))?;
            started.0.push(NodeProcess { name: node.name.clone(), log, child });
        }
        Ok(started)
    }

    pub(super) fn usage(&self) -> Result<Vec<(String, Usage)>> {
        self.0.iter().map(|node| Ok((node.name.clone(), Usage::of(node.child.id())?))).collect()
    }

    pub(super) fn check(&mut self) -> Result<()> {
        for node in &mut self.0 {
            if let Some(status) = node.child.try_wait()? {
                bail!("node {} ended by itself: {status}; see {}", node.name, node.log.display());
            }
        }
        Ok(())
    }

    pub(super) fn stop(mut self) -> Result<()> {
        self.check()?;
        for node in &self.0 {
            let pid = i32::try_from(node.child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
            rustix::process::kill_process(pid, Signal::TERM)?;
        }
        let deadline = Instant::now() + STOP_PATIENCE;
        for node in &mut self.0 {
            while node.child.try_wait()?.is_none() {
                if Instant::now() >= deadline {
                    bail!("node {} does not stop; see {}", node.name, node.log.display());
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for node in &mut self.0 {
            // Both fail only for a process that is gone already.
            let _ = node.child.kill();
            let _ = node.child.wait();
        }
    }
}
