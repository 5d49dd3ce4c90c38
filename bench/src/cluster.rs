//! `tercet-bench cluster`: five nodes on this machine, the device's floor, then one case after another.
//!
//! Invariant: the cluster is the same for all cases, so later ones run over what earlier ones left.

use std::fmt::Display;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::bed::{Bed, BedArgs};
use crate::delayed;
use crate::load::{Case, Pace};
use crate::report::Report;
use crate::work::{WorkArgs, measure_case};

/// Arguments of `tercet-bench cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Closed-loop cases with one entry a request: numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_name = "N,N...")]
    clients: Vec<usize>,
    /// A last closed-loop case with so many entries a request; 0: none
    #[arg(long, default_value_t = 1_000, value_name = "ENTRIES")]
    batch: usize,
    /// Clients of the batch case
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch_clients: usize,
    /// Instead: open-loop cases at so many requests a second; latencies begin when a request was due
    #[arg(long, value_delimiter = ',', value_name = "PER_SECOND,...")]
    rate: Vec<f64>,
    /// Entries a request of open-loop cases
    #[arg(long, default_value_t = 1, value_name = "N")]
    entries: usize,
    /// Instead: one client, the links between zones delayed as declared, class city and class geo beside their floors
    #[arg(long, conflicts_with_all = ["rate", "in_process", "groups", "class", "disk"])]
    link_delays: bool,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    bed: BedArgs,
    /// Print JSON instead of tables: with every second of each case
    #[arg(long)]
    json: bool,
}

impl ClusterArgs {
    fn check(&self) -> Result<()> {
        if self.clients.contains(&0) || self.batch_clients == 0 || self.entries == 0 {
            bail!("--clients, --batch-clients and --entries: at least 1 each");
        }
        self.work.check()
    }

    fn cases(&self) -> Vec<Case> {
        let closed = |clients| Pace::Closed { clients };
        let paces: Vec<(Pace, usize)> = if self.rate.is_empty() {
            let singles = self.clients.iter().map(|clients| (closed(*clients), 1));
            let batch = (self.batch > 0).then(|| (closed(self.batch_clients), self.batch));
            singles.chain(batch).collect()
        } else {
            self.rate.iter().map(|rate| (Pace::Open { per_second: *rate }, self.entries)).collect()
        };
        let numbered = paces.into_iter().enumerate();
        numbered.map(|(number, (pace, entries))| self.work.case(number, pace, entries)).collect()
    }
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    args.check()?;
    if args.link_delays {
        args.bed.check()?;
        let figures = delayed::run(&delayed::Settings {
            dir: args.bed.dir(),
            tercet: args.bed.tercet.as_deref(),
            floor: Duration::from_secs_f64(args.bed.floor_seconds),
            work: &args.work,
        })?;
        return print(&figures, args.json);
    }
    let report = args.bed.run(args.work.entry_bytes(), async |bed: &mut Bed| {
        if let Some(first) = bed.channels.first() {
            args.work.make_journals(first).await?;
        }
        let mut cases = Vec::new();
        for case in args.cases() {
            cases.push(measure_case(bed, &args.work, &case).await?);
        }
        Ok(Report::new(bed, &args.bed, &args.work, cases))
    })?;
    print(&report, args.json)
}

fn print(figures: &(impl Serialize + Display), json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
    } else {
        println!("{figures}");
    }
    Ok(())
}
