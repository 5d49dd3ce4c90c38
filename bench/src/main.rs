//! The `tercet-bench` command: figures of Tercet beside the floor of the device, measured in the same run.
//!
//! Exit codes: 0 measured, 1 something failed, 2 wrong usage.

mod bed;
mod cluster;
mod compare;
mod delayed;
mod failover;
mod floor;
mod load;
mod log;
mod machine;
mod nodes;
mod recover;
mod report;
mod scratch;
mod sweep;
mod work;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use cluster::ClusterArgs;
use compare::CompareArgs;
use failover::FailoverArgs;
use log::LogArgs;
use recover::RecoverArgs;
use sweep::SweepArgs;

#[derive(Parser)]
#[command(
    name = "tercet-bench",
    version,
    about = "Measures Tercet beside the floor of the device, in the same run"
)]
#[command(after_help = "\
Examples:
  tercet-bench cluster
  tercet-bench cluster --clients 256 --seconds 30 --json > figures.json
  tercet-bench log --sizes 512,4096 --depths 1,16
  tercet-bench failover --rounds 50
  tercet-bench cluster --link-delays --seconds 5
  tercet-bench cluster --rate 2000,8000 --reads 20
  tercet-bench sweep --from 1000 --plot sweep.svg
  tercet-bench compare --with etcd
  tercet-bench recover --entries 1000000,2000000

Build with --release, and give a --dir on the disk that is to be measured. bench/README.md says what is measured.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Five nodes on this machine under load, closed or open loop
    Cluster(ClusterArgs),
    /// The segment log beside the bare disk under it, by record size and depth
    Log(LogArgs),
    /// The loss of the leader's zone, again and again, as one client sees it
    Failover(FailoverArgs),
    /// Rising rates until the latency breaks, and the curve
    Sweep(SweepArgs),
    /// The same work against another store, in turns
    Compare(CompareArgs),
    /// How a node comes back as the ledger grows, and what one node less or a new one costs
    Recover(RecoverArgs),
    /// Becomes PROGRAM, and ends when the parent does
    #[command(name = "child", hide = true)]
    Child(ChildArgs),
}

#[derive(clap::Args)]
struct ChildArgs {
    #[arg(long)]
    parent: u32,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

/// The load shares its cores with the nodes that it measures.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
    let done = match verb {
        Verb::Cluster(args) => cluster::run(&args),
        Verb::Log(args) => log::run(&args),
        Verb::Failover(args) => failover::run(&args),
        Verb::Sweep(args) => sweep::run(&args),
        Verb::Compare(args) => compare::run(&args),
        Verb::Recover(args) => recover::run(&args),
        Verb::Child(args) => be_child(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tercet-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn be_child(args: ChildArgs) -> Result<()> {
    let mut command = args.command.into_iter();
    let program = PathBuf::from(command.next().context("no program")?);
    let error = nodes::become_child(args.parent, &program, command);
    Err(error).with_context(|| program.display().to_string())
}
