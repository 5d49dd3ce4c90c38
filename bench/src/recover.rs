//! `tercet-bench recover`: how a node comes back as the ledger grows, and what the cluster loses meanwhile.
//!
//! Two clusters, one after the other, on the same disk. The first is filled up to one size after the other; at each, one follower is
//! ended and started in every way that there is (`start`). The second is filled up to the first size; a new node is seeded there
//! under load (`seed`), then one node after the other is down under load (`down`). A cluster of its own, because loads that run for
//! seconds would make the ledger larger than the sizes that are to be compared.
//!
//! Invariants: the processes are started by the main thread, on which their lives hang; nothing is left behind unless `--keep`
//! says so or something failed.

mod cluster;
mod down;
mod pressure;
mod report;
mod seed;
mod start;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::bed::{DiskArg, note};
use crate::nodes::find_tercet;
use crate::scratch::run_in;
use crate::work::WorkArgs;
use cluster::{Cluster, followers_to_lose};
use pressure::{Loads, fill};
use report::Report;

/// Arguments of `tercet-bench recover`.
#[derive(Debug, Args)]
#[command(mut_arg("seconds", |arg| arg.default_value("3")), mut_arg("warmup", |arg| arg.default_value("1")))]
pub(crate) struct RecoverArgs {
    /// Sizes of the ledger, rising: at each a follower is started again and again
    #[arg(long, value_delimiter = ',', default_values_t = [1_000_000], value_name = "N,N...")]
    entries: Vec<u64>,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART,...")]
    only: Vec<Part>,
    /// How long the load goes on while the follower is away
    #[arg(long, default_value_t = 5.0, value_name = "SECONDS")]
    away: f64,
    /// How often each node is down, in turns with all five
    #[arg(long, default_value_t = 2, value_name = "N")]
    rounds: usize,
    /// Which nodes are down in their turns [default: the last one of each zone but the leader's]
    #[arg(long, value_delimiter = ',', value_name = "NODE,...")]
    down: Vec<String>,
    /// Clients with one entry a request
    #[arg(long, default_value_t = 256, value_name = "N")]
    clients: usize,
    /// Clients with batches
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch_clients: usize,
    /// Entries of a batch
    #[arg(long, default_value_t = 1_000, value_name = "ENTRIES")]
    batch: usize,
    #[command(flatten)]
    work: WorkArgs,
    /// Connections that the clients share
    #[arg(long, default_value_t = 4, value_name = "N")]
    channels: usize,
    /// Where the nodes keep their data: a directory on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// How nodes reach the disk
    #[arg(long, value_enum, default_value_t = DiskArg::Auto)]
    disk: DiskArg,
    /// The `tercet` executable [default: beside this one, else target/release/tercet]
    #[arg(long, env = "TERCET_BIN", value_name = "FILE")]
    tercet: Option<PathBuf>,
    /// Keep the nodes' data and output
    #[arg(long)]
    keep: bool,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// A follower comes back at each size
    Start,
    /// A new node is seeded under load
    Seed,
    /// One node is down under load
    Down,
}

impl RecoverArgs {
    fn check(&self) -> Result<()> {
        let rising = self.entries.windows(2).all(|pair| pair[0] < pair[1]);
        if self.entries.is_empty() || self.entries.contains(&0) || !rising {
            bail!("--entries: at least one size above 0, each above the one before");
        }
        let counts = [self.clients, self.batch_clients, self.batch, self.channels, self.rounds];
        if counts.contains(&0) {
            bail!("--clients, --batch-clients, --batch, --channels and --rounds: at least 1 each");
        }
        if !(self.away > 0.0 && self.away <= 86_400.0) {
            bail!("--away {}: above 0, at most a day", self.away);
        }
        if self.work.read_share() > 0.0 {
            bail!("--reads: the load of recover only appends");
        }
        self.work.check()
    }

    fn does(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn loads(&self) -> Loads<'_> {
        Loads::new(&self.work, self.clients, self.batch_clients, self.batch)
    }
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &RecoverArgs) -> Result<()> {
    args.check()?;
    let tercet = find_tercet(args.tercet.as_deref())?;
    let report =
        run_in(&args.dir, "recover-", args.keep, async |dir: &Path| measure(args, &tercet, dir).await)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

async fn measure(args: &RecoverArgs, tercet: &Path, dir: &Path) -> Result<Report> {
    let mut sizes = Vec::new();
    if args.does(Part::Start) {
        let (mut cluster, leader) = begin(args, tercet, &dir.join("start")).await?;
        let followers = followers_to_lose(cluster.topology(), &leader);
        let follower = followers.first().context("no follower")?;
        let loads = args.loads();
        for &entries in &args.entries {
            let away = Duration::from_secs_f64(args.away);
            sizes.push(start::measure_at(&mut cluster, &loads, follower, entries, away).await?);
        }
        end(args, cluster, &dir.join("start")).await?;
    }
    let (mut seeding, mut down) = (None, None);
    if args.does(Part::Seed) || args.does(Part::Down) {
        let (mut cluster, _) = begin(args, tercet, &dir.join("load")).await?;
        let loads = args.loads();
        let first = args.entries.first().context("no size")?;
        fill(&mut cluster, &loads, *first).await?;
        if args.does(Part::Seed) {
            seeding = Some(seed::measure(&mut cluster, &loads).await?);
        }
        if args.does(Part::Down) {
            down = Some(down::measure(&mut cluster, &loads, &args.down, args.rounds).await?);
        }
        end(args, cluster, &dir.join("load")).await?;
    }
    let loads = format!(
        "class {}, payload {} bytes, {} clients with one entry a request, {} with {}",
        args.work.class_name(),
        args.work.payload,
        args.clients,
        args.batch_clients,
        args.batch
    );
    Ok(Report::new(loads, sizes, seeding, down))
}

/// A cluster with its journals; returns it and its leader.
async fn begin(args: &RecoverArgs, tercet: &Path, dir: &Path) -> Result<(Cluster, String)> {
    note("starting five nodes");
    let mut cluster = Cluster::start(args.disk.setting(), args.channels, tercet, dir)?;
    cluster.settled().await?;
    args.work.make_journals(cluster.observer()).await?;
    let (leader, _) = cluster.settled().await?;
    Ok((cluster, leader))
}

/// Stops a cluster and removes its data, so that the next one finds the disk as empty as this one did.
async fn end(args: &RecoverArgs, cluster: Cluster, dir: &Path) -> Result<()> {
    cluster.stop().await?;
    if !args.keep {
        std::fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: RecoverArgs,
    }

    fn parsed(arguments: &str) -> RecoverArgs {
        let arguments = std::iter::once("recover").chain(arguments.split_whitespace());
        Command::try_parse_from(arguments).unwrap().args
    }

    #[test]
    fn all_parts_are_measured_with_short_loads_unless_told_otherwise() {
        let args = parsed("");
        args.check().unwrap();
        assert_eq!((args.work.seconds, args.work.warmup), (3.0, 1.0));
        assert_eq!(args.entries, [1_000_000]);
        assert!([Part::Start, Part::Seed, Part::Down].iter().all(|part| args.does(*part)));
        let args = parsed("--only seed --seconds 9");
        assert!(args.does(Part::Seed) && !args.does(Part::Start) && !args.does(Part::Down));
        assert!((args.work.seconds - 9.0).abs() < 1e-9);
    }

    #[test]
    fn sizes_rise() {
        parsed("--entries 1,2,3").check().unwrap();
        for wrong in ["--entries 2,1", "--entries 2,2", "--entries 0,1"] {
            assert!(parsed(wrong).check().unwrap_err().to_string().contains("--entries"));
        }
        assert!(parsed("--reads 5").check().unwrap_err().to_string().contains("--reads"));
    }
}
