//! A scratch directory on the disk that is measured, and work in it that a signal ends.
//!
//! Invariants: work runs on the main thread, on which the lives of the nodes' processes hang; the directory is removed unless it is
//! to be kept or something failed, and then its place is told.

use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::machine::is_in_memory;

/// Does work in a new directory below `dir`, on this thread.
pub(crate) fn run_in<T>(
    dir: &Path,
    prefix: &str,
    keep: bool,
    work: impl AsyncFnOnce(&Path) -> Result<T>,
) -> Result<T> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    if is_in_memory(dir)? {
        eprintln!("tercet-bench: {} lies in memory: flushes cost nothing there", dir.display());
    }
    let scratch = tempfile::Builder::new().prefix(prefix).tempdir_in(std::path::absolute(dir)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            done = work(scratch.path()) => done,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    if keep || done.is_err() {
        eprintln!("tercet-bench: data and output of the nodes: {}", scratch.keep().display());
    }
    done
}
