//! `tercet-bench sweep`: an open loop at rising rates until the p99 or the throughput breaks, as a table and a curve.
//!
//! Invariants: every rate runs on the same cluster, lower ones first; latencies begin when requests were due, so a rate that
//! is too high shows as latency, not as fewer requests.

mod plot;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bed::{Bed, BedArgs, note};
use crate::load::Pace;
use crate::report::{CaseFigures, Report};
use crate::work::{WorkArgs, measure_case};

/// Answered in time, of what was due: below it, the rate is too high.
const KEPT_UP: f64 = 0.95;

/// Arguments of `tercet-bench sweep`.
#[derive(Debug, Args)]
pub(crate) struct SweepArgs {
    /// The first rate, requests a second
    #[arg(long, default_value_t = 1_000.0, value_name = "PER_SECOND")]
    from: f64,
    /// The highest rate
    #[arg(long, default_value_t = 100_000.0, value_name = "PER_SECOND")]
    to: f64,
    /// Each rate over the one before
    #[arg(long, default_value_t = 1.5, value_name = "FACTOR")]
    factor: f64,
    /// The p99 that ends the sweep
    #[arg(long, default_value_t = 100.0, value_name = "MILLISECONDS")]
    p99_limit_ms: f64,
    /// Entries a request
    #[arg(long, default_value_t = 1, value_name = "N")]
    entries: usize,
    /// Write the curve as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    bed: BedArgs,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

impl SweepArgs {
    fn check(&self) -> Result<()> {
        if !(self.from > 0.0 && self.to >= self.from && self.to <= 10_000_000.0) {
            bail!("--from above 0, --to not below it and at most ten million");
        }
        if !(self.factor > 1.0 && self.factor <= 100.0) {
            bail!("--factor {}: above 1, at most 100", self.factor);
        }
        if self.entries == 0 {
            bail!("--entries: at least 1");
        }
        self.work.check()
    }

    fn is_broken(&self, figures: &CaseFigures) -> Option<String> {
        let due = figures.due_per_second.unwrap_or(0.0) * (1.0 - self.work.read_share());
        if figures.latency.p99_us > self.p99_limit_ms * 1e3 {
            return Some(format!("p99 is above {} ms", self.p99_limit_ms));
        }
        (figures.appends_per_second < due * KEPT_UP)
            .then(|| format!("{:.0} appends/s of {due:.0} were answered in time", figures.appends_per_second))
    }
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &SweepArgs) -> Result<()> {
    args.check()?;
    let (report, end) = args.bed.run(args.work.entry_bytes(), async |bed: &mut Bed| {
        if let Some(first) = bed.channels.first() {
            args.work.make_journals(first).await?;
        }
        let (mut cases, mut rate, mut end) = (Vec::new(), args.from, None);
        while rate <= args.to && end.is_none() {
            let case = args.work.case(cases.len(), Pace::Open { per_second: rate }, args.entries);
            let figures = measure_case(bed, &args.work, &case).await?;
            note(&format!(
                "{rate:.0}/s: p50 {:.0} us, p99 {:.0} us",
                figures.latency.p50_us, figures.latency.p99_us
            ));
            end = args.is_broken(&figures);
            cases.push(figures);
            rate *= args.factor;
        }
        Ok((Report::new(bed, &args.bed, &args.work, cases), end))
    })?;
    if let Some(file) = &args.plot {
        plot::curve(&report, file).with_context(|| file.display().to_string())?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
        println!(
            "the sweep ended because {}",
            end.unwrap_or_else(|| "the highest rate was reached".to_owned())
        );
    }
    Ok(())
}
