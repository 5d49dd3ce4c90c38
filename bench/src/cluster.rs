//! `tercet-bench cluster`: five nodes on this machine, the device's floor, then one closed-loop case after another.
//!
//! Invariants: floor and nodes use the same disk layer on the same file system; the cluster is the same for all cases, so
//! later ones run over what earlier ones left; nothing is left behind unless `--keep` says so.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Topology};
use tercet_proto::v1;
use tokio::signal::unix::{SignalKind, signal};

use crate::floor::{Floor, measure};
use crate::load::{BUSINESS_DATE, CURRENCY, Case, Progress, run as run_load};
use crate::machine::{Machine, is_in_memory};
use crate::nodes::{InProcess, Nodes, Processes, Usage, find_tercet, ready, topology};
use crate::report::{CaseFigures, Latency, Report};

const JOURNAL: &str = "bench";
/// What a stored entry adds to its payload: key, two postings, dates, hashes' inputs.
const ENTRY_OVERHEAD_BYTES: usize = 84;
const TICK: Duration = Duration::from_millis(250);

/// Arguments of `tercet-bench cluster`.
#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Cases with one entry a request: numbers of clients
    #[arg(long, value_delimiter = ',', default_values_t = [1, 64, 256], value_name = "N,N...")]
    clients: Vec<usize>,
    /// A last case with so many entries a request; 0: none
    #[arg(long, default_value_t = 1_000, value_name = "ENTRIES")]
    batch: usize,
    /// Clients of the batch case
    #[arg(long, default_value_t = 4, value_name = "N")]
    batch_clients: usize,
    /// Payload bytes of an entry
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    payload: usize,
    /// Durability class
    #[arg(long, value_enum, default_value_t = Class::City)]
    class: Class,
    /// Connections that the clients share
    #[arg(long, default_value_t = 4, value_name = "N")]
    channels: usize,
    /// Counted seconds of each case
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before them that are not counted
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    warmup: f64,
    /// Seconds for each of the two floors
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    floor_seconds: f64,
    /// Where the nodes keep their data: a directory on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// How nodes and floor reach the disk
    #[arg(long, value_enum, default_value_t = DiskArg::Auto)]
    disk: DiskArg,
    /// Run the five nodes in this process, for profilers
    #[arg(long, conflicts_with = "tercet")]
    in_process: bool,
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

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Class {
    City,
    Geo,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DiskArg {
    /// io_uring, or portable where it is missing
    Auto,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
    /// pwrite and fdatasync
    Portable,
}

impl DiskArg {
    fn setting(self) -> DiskSetting {
        match self {
            Self::Auto => DiskSetting::Auto,
            Self::IoUring => DiskSetting::IoUring,
            Self::Portable => DiskSetting::Portable,
        }
    }
}

impl ClusterArgs {
    fn check(&self) -> Result<()> {
        if self.clients.contains(&0) || self.batch_clients == 0 || self.channels == 0 {
            bail!("--clients, --batch-clients and --channels: at least 1 each");
        }
        let seconds = [("--seconds", self.seconds), ("--floor-seconds", self.floor_seconds)];
        for (name, value) in seconds {
            if !(value > 0.0 && value <= 86_400.0) {
                bail!("{name} {value}: above 0, at most a day");
            }
        }
        if !(0.0..=86_400.0).contains(&self.warmup) {
            bail!("--warmup {}: from 0 to a day", self.warmup);
        }
        Ok(())
    }

    fn cases(&self) -> Vec<Case> {
        let class = match self.class {
            Class::City => v1::DurabilityClass::City,
            Class::Geo => v1::DurabilityClass::Geo,
        };
        let singles = self.clients.iter().map(|clients| (*clients, 1));
        let batch = (self.batch > 0).then_some((self.batch_clients, self.batch));
        singles
            .chain(batch)
            .enumerate()
            .map(|(number, (clients, entries))| Case {
                clients,
                entries,
                payload_bytes: self.payload,
                class,
                warm_up: Duration::from_secs_f64(self.warmup),
                measured: Duration::from_secs_f64(self.seconds),
                number,
            })
            .collect()
    }
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    args.check()?;
    std::fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    if is_in_memory(&args.dir)? {
        eprintln!(
            "tercet-bench: {} lies in memory: flushes cost nothing there, and the figures say nothing",
            args.dir.display()
        );
    }
    let dir = tempfile::Builder::new().prefix("cluster-").tempdir_in(std::path::absolute(&args.dir)?)?;
    let disk = args.disk.setting();
    note("measuring the floor");
    let entry_bytes = args.payload + ENTRY_OVERHEAD_BYTES;
    let floor = measure(dir.path(), disk, Duration::from_secs_f64(args.floor_seconds), entry_bytes)?;

    let topology = topology(disk)?;
    // Before the runtime's threads: the nodes' lives hang on the thread that starts them.
    let processes = match args.in_process {
        true => None,
        false => Some(Processes::start(&topology, &find_tercet(args.tercet.as_deref())?, dir.path())?),
    };
    // One thread for the load: more would fight with the nodes for the cores, and a lone client would wake across threads.
    // Nodes in this process need workers.
    let mut runtime = match processes {
        Some(_) => tokio::runtime::Builder::new_current_thread(),
        None => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let measured = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let measuring = async {
            let nodes = match processes {
                Some(processes) => Nodes::Processes(processes),
                None => Nodes::InProcess(InProcess::start(&topology, dir.path()).await?),
            };
            measure_cluster(args, &topology, nodes, &floor).await
        };
        tokio::select! {
            report = measuring => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    if args.keep || measured.is_err() {
        eprintln!("tercet-bench: data and output of the nodes: {}", dir.keep().display());
    }
    let report = measured?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("tercet-bench: {text}");
    }
}

async fn measure_cluster(
    args: &ClusterArgs,
    topology: &Topology,
    mut nodes: Nodes,
    floor: &Floor,
) -> Result<Report> {
    let endpoints: Vec<String> = topology.nodes.iter().map(|node| node.client.clone()).collect();
    let channels = (0..args.channels)
        .map(|_| Client::connect(endpoints.clone(), ClientOptions::default()))
        .collect::<Result<Vec<_>, _>>()?;
    let first = channels.first().context("no channel")?;
    let (leader, disk) = ready(&mut nodes, topology, first).await?;
    make_journal(first).await?;
    let floor_write = Latency::of(&floor.write);
    let mut cases = Vec::new();
    for case in args.cases() {
        let (leads, _) = ready(&mut nodes, topology, first).await?;
        let (before, load_before) = (nodes.usage()?, Usage::of(std::process::id())?);
        let progress = Progress::default();
        let outcome = watched(&case, run_load(&case, JOURNAL, &channels, &progress), &progress).await?;
        nodes.check()?;
        let (after, load_after) = (nodes.usage()?, Usage::of(std::process::id())?);
        let figures = CaseFigures::new(&case, &outcome, &floor_write);
        cases.push(figures.with_usage(&leads, &before, &after, (&load_before, &load_after)));
    }
    nodes.stop().await?;
    tracing::debug!(nodes = disk, floor = floor.disk, "disks");
    Ok(Report {
        machine: Machine::this(),
        disk: disk.split(',').next().unwrap_or_default().to_owned(),
        leader,
        payload_bytes: args.payload,
        class: format!("{:?}", args.class).to_lowercase(),
        mode: if args.in_process { "one process" } else { "processes" }.to_owned(),
        seconds: args.seconds,
        floor_seconds: args.floor_seconds,
        floor_write,
        floor_log: Latency::of(&floor.append),
        cases,
    })
}

async fn make_journal(client: &Client) -> Result<()> {
    let request = v1::CreateJournalRequest {
        name: JOURNAL.to_owned(),
        currencies: vec![v1::Currency { code: CURRENCY.to_owned(), digits: 2 }],
        default_class: v1::DurabilityClass::City.into(),
        business_date: BUSINESS_DATE.to_owned(),
    };
    client.create_journal(request).await.context("making the journal")?;
    Ok(())
}

/// Shows how a case goes on, on a terminal.
async fn watched<T>(case: &Case, work: impl Future<Output = T>, progress: &Progress) -> T {
    let total = case.warm_up + case.measured;
    let bar = if std::io::stderr().is_terminal() {
        ProgressBar::new(u64::try_from(total.as_millis()).unwrap_or(u64::MAX))
    } else {
        ProgressBar::hidden()
    };
    // The template is a literal that is known to parse; the default style will do otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg:50} [{wide_bar}] {elapsed}") {
        bar.set_style(style);
    }
    let begin = Instant::now();
    let mut before = 0;
    let mut tick = tokio::time::interval(TICK);
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done;
            }
            _ = tick.tick() => {
                let answered = progress.answered();
                let per_second = (answered - before) * 4;
                before = answered;
                bar.set_message(format!("{} clients x {}: {per_second} appends/s", case.clients, case.entries));
                bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
        }
    }
}
