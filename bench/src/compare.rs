//! `tercet-bench compare`: the same closed-loop work against Tercet and another store, in alternating rounds; medians of the
//! ratios of each round.
//!
//! Invariants: both run five nodes on this machine with their data on the same file system, never at the same time; both
//! flush before they answer; nothing is left behind. What differs is said in bench/README.md.

mod etcd;

use std::fmt;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::bed::{Bed, BedArgs, note};
use crate::load::Pace;
use crate::report::{Latency, median, shown, table};
use crate::work::{WorkArgs, measure_case};

/// Arguments of `tercet-bench compare`.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The other store; its program must be on the PATH
    #[arg(long, value_enum, default_value_t = Peer::Etcd)]
    with: Peer,
    /// Clients of the closed loop
    #[arg(long, default_value_t = 256, value_name = "N")]
    clients: usize,
    /// Rounds, each with one turn of both
    #[arg(long, default_value_t = 3, value_name = "N")]
    rounds: usize,
    #[command(flatten)]
    work: WorkArgs,
    #[command(flatten)]
    bed: BedArgs,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Peer {
    /// etcd, five members, one put a request
    Etcd,
}

/// What one store did in one round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Turn {
    /// Requests answered in time, each second.
    pub(crate) per_second: f64,
    /// Of a request.
    pub(crate) latency: Latency,
}

/// A closed loop against a store.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Loop {
    clients: usize,
    payload_bytes: usize,
    warm_up: Duration,
    measured: Duration,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Round {
    tercet: Turn,
    other: Turn,
}

#[derive(Debug, Serialize)]
struct Comparison {
    with: String,
    version: String,
    clients: usize,
    payload_bytes: usize,
    rounds: Vec<Round>,
    throughput_ratio_median: f64,
    p50_ratio_median: f64,
    p99_ratio_median: f64,
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    args.work.check()?;
    if args.clients == 0 || args.rounds == 0 {
        bail!("--clients and --rounds: at least 1 each");
    }
    let version = etcd::version()?;
    let mut rounds = Vec::new();
    for number in 1..=args.rounds {
        note(&format!("round {number} of {}: tercet", args.rounds));
        let tercet = args.bed.run(args.work.entry_bytes(), async |bed: &mut Bed| {
            if let Some(first) = bed.channels.first() {
                args.work.make_journals(first).await?;
            }
            let case = args.work.case(0, Pace::Closed { clients: args.clients }, 1);
            let figures = measure_case(bed, &args.work, &case).await?;
            if let Some(error) = figures.first_error {
                bail!("{} of tercet's requests failed: {error}", figures.failed);
            }
            Ok(Turn { per_second: figures.appends_per_second, latency: figures.latency })
        })?;
        note(&format!("round {number} of {}: etcd", args.rounds));
        let other = etcd::turn(
            args.bed.dir(),
            Loop {
                clients: args.clients,
                payload_bytes: args.work.payload,
                warm_up: Duration::from_secs_f64(args.work.warmup),
                measured: Duration::from_secs_f64(args.work.seconds),
            },
        )?;
        rounds.push(Round { tercet, other });
    }
    let ratio = |of: fn(&Turn) -> f64| {
        median(rounds.iter().map(|round| of(&round.tercet) / of(&round.other)).collect())
    };
    let comparison = Comparison {
        with: "etcd".into(),
        version,
        clients: args.clients,
        payload_bytes: args.work.payload,
        throughput_ratio_median: ratio(|turn| turn.per_second),
        p50_ratio_median: ratio(|turn| turn.latency.p50_us),
        p99_ratio_median: ratio(|turn| turn.latency.p99_us),
        rounds,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&comparison)?);
    } else {
        println!("{comparison}");
    }
    Ok(())
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "tercet {} and {} {}, five nodes each, {} clients, {} bytes of payload, one entry a request",
            env!("CARGO_PKG_VERSION"),
            self.with,
            self.version,
            self.clients,
            self.payload_bytes
        )?;
        let mut table = table(&["round", "store", "requests/s", "p50", "p99"]);
        for (number, round) in self.rounds.iter().enumerate() {
            for (name, turn) in [("tercet", &round.tercet), (self.with.as_str(), &round.other)] {
                table.add_row([
                    (number + 1).to_string(),
                    name.to_owned(),
                    format!("{:.0}", turn.per_second),
                    shown(turn.latency.p50_us),
                    shown(turn.latency.p99_us),
                ]);
            }
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "medians of tercet / {}: throughput {:.2}, p50 {:.2}, p99 {:.2}",
            self.with, self.throughput_ratio_median, self.p50_ratio_median, self.p99_ratio_median
        )
    }
}
