//! `tercet serve`: one node of the cluster, until it is told to stop or its storage fails.
//!
//! Invariant: a storage failure ends the process with its own exit code and is never retried here (G9).

use std::path::PathBuf;

use clap::Args;
use tercet_proto::topology::Topology;
use tokio::signal::unix::{SignalKind, signal};

use super::exit::{Exit, Failure};
use super::output::notice;
use super::rebuild::show_rebuild;
use crate::identity::IdentityError;
use crate::server::{Server, ServerConfig, ServerError};

/// Arguments of `tercet serve`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet serve --topology topology.toml --node a1 --data-dir /var/lib/tercet/a1

The node serves when it has said `tercet: node NAME serving clients on ADDRESS` on standard error. SIGINT or SIGTERM stop
it cleanly: what it leads is handed over, callers are let finish for a second; a second signal stops it at once. Exit code 70
means that a write or flush failed: look at the disk before starting the node again. Exit code 78 means that the data
directory is not whole or is another node's: the message says what is missing and what to do.")]
pub(crate) struct ServeArgs {
    /// The topology file.
    #[arg(long, value_name = "FILE")]
    topology: PathBuf,
    /// Which node of the topology this is.
    #[arg(long, value_name = "NAME")]
    node: String,
    /// Where the node keeps its log and index; made if it is missing.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

/// Serves until a signal or a storage failure.
///
/// # Errors
/// What keeps the node from starting, or exit code 70 with the reason of the storage failure.
pub(crate) async fn serve(args: ServeArgs) -> Result<(), Failure> {
    // Registered first, so that a signal during the start is not lost.
    let mut stop = StopSignals::new()?;
    let topology = Topology::load(&args.topology)?;
    let disk = topology.storage.disk;
    let config = ServerConfig { topology, node: args.node, data_dir: args.data_dir, disk };
    let server =
        Server::start(config).await.map_err(|error| Failure::new(exit_of(&error), error.to_string()))?;
    notice(&format!("tercet: node {} serving clients on {}", server.node(), server.client_address()));
    notice(&format!("tercet: disk {}", server.disk_description()));
    let shown_then_idle = async {
        show_rebuild(&server).await;
        std::future::pending::<()>().await;
    };
    let failure = tokio::select! {
        signal = stop.wait() => {
            notice(&format!("tercet: node {}: {signal}, stopping", server.node()));
            None
        }
        why = server.failed() => Some(why),
        () = shown_then_idle => None,
    };
    let node = server.node().to_owned();
    let hasten = async {
        let signal = stop.wait().await;
        notice(&format!("tercet: node {node}: {signal} again, stopping at once"));
    };
    // Whatever still uses the node ends with the process.
    drop(server.shut_down(hasten).await);
    match failure {
        None => {
            notice(&format!("tercet: node {node} stopped"));
            Ok(())
        }
        Some(why) => Err(Failure::new(
            Exit::Storage,
            format!(
                "node {node}: storage failed and the node stopped for good: {why}; do not restart it unseen"
            ),
        )),
    }
}

/// What a start that fails ends with.
fn exit_of(error: &ServerError) -> Exit {
    match error {
        ServerError::Identity(IdentityError::Damaged { .. } | IdentityError::Foreign { .. }) => {
            Exit::Directory
        }
        _ => Exit::Failed,
    }
}

/// SIGINT and SIGTERM.
pub(crate) struct StopSignals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignals {
    /// Catches both from now on.
    ///
    /// # Errors
    /// The system does not let signals be caught.
    pub(crate) fn new() -> Result<Self, Failure> {
        let register =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot catch signals: {error}")));
        Ok(Self {
            interrupt: register(SignalKind::interrupt())?,
            terminate: register(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}
