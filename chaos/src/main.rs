//! The `tercet-chaos` command.
//!
//! Exit codes: 0 everything holds, 1 the harness could not do its work, 2 wrong usage, 5 a violation.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tercet_chaos::checker::{Judgement, check};
use tercet_chaos::cluster::child::become_child;
use tercet_chaos::cluster::loop_disk;
use tercet_chaos::history::{FinalLog, History};
use tercet_chaos::report::Verdict;
use tercet_chaos::run::{RunOptions, run};
use tercet_chaos::scenario::Scenario;
use tercet_chaos::sim::command::{self as sim, PlanArgs, ReplayArgs, SimArgs};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The harness could not do its work.
const EXIT_HARNESS: u8 = 1;
/// A promise is broken.
const EXIT_VIOLATION: u8 = 5;

#[derive(Parser)]
#[command(name = "tercet-chaos", version, about = "Breaks Tercet clusters and judges what their clients saw")]
#[command(after_help = "\
Examples:
  tercet-chaos run chaos/scenarios/zone-blackhole.toml
  tercet-chaos check target/chaos/zone-blackhole/history.jsonl --final target/chaos/zone-blackhole/final.jsonl

Exit codes: 0 everything holds, 1 the harness could not do its work, 2 wrong usage, 5 a violation.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs a scenario against five real `tercet serve` processes, then judges it
    Run(RunArgs),
    /// Judges a history from anywhere against the final log (formats: chaos/HISTORY.md)
    Check(CheckArgs),
    /// Simulates five nodes in one thread, once for each seed; prints the seed and the hash of all that happened
    Sim(SimArgs),
    /// Runs a simulation's fault plan
    Replay(ReplayArgs),
    /// Prints the fault plan of a seed
    Plan(PlanArgs),
    /// Becomes PROGRAM, and ends when the parent does
    #[command(name = "child", hide = true)]
    Child(ChildArgs),
}

#[derive(clap::Args)]
struct RunArgs {
    /// The scenario file
    scenario: PathBuf,
    /// The `tercet` executable [default: beside this one, else target/release/tercet]
    #[arg(long, env = "TERCET_BIN", value_name = "FILE")]
    tercet: Option<PathBuf>,
    /// Keep the nodes' data in this directory [default: a directory below --out, removed after a pass]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Where history, final log, report and the nodes' output go [default: target/chaos/NAME]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What random choices are drawn from [default: at random]
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(clap::Args)]
struct CheckArgs {
    /// What clients asked and heard
    history: PathBuf,
    /// The final log; several times if replicas differ
    #[arg(long = "final", value_name = "LOG", required = true)]
    finals: Vec<PathBuf>,
    /// Print the judgement as JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct ChildArgs {
    #[arg(long)]
    parent: u32,
    #[arg(required = true, last = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // What simulated nodes say is theirs: thousands of lines a second.
    let usual = if matches!(verb, Verb::Sim(_) | Verb::Replay(_)) { "off" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
    let done = match verb {
        Verb::Run(args) => run_scenario(&args),
        Verb::Check(args) => check_files(&args),
        Verb::Sim(args) => sim::sim(&args),
        Verb::Replay(args) => sim::replay(&args),
        Verb::Plan(args) => sim::plan(&args),
        Verb::Child(args) => be_child(&args),
    };
    match done {
        Ok(Verdict::Pass) => ExitCode::SUCCESS,
        Ok(Verdict::Violation) => ExitCode::from(EXIT_VIOLATION),
        Err(error) => {
            eprintln!("tercet-chaos: {error:#}");
            ExitCode::from(EXIT_HARNESS)
        }
    }
}

fn run_scenario(args: &RunArgs) -> Result<Verdict> {
    let scenario = Scenario::load(&args.scenario).with_context(|| args.scenario.display().to_string())?;
    if scenario.cluster.loop_disk_mib.is_some() && !loop_disk::is_inside() {
        if let Some(why) = loop_disk::why_no_namespace() {
            println!("SKIPPED {}: {why}", scenario.name);
            return Ok(Verdict::Pass);
        }
        let end = loop_disk::run_inside().context("a mount namespace for the nodes' disks")?;
        return match end.code() {
            Some(0) => Ok(Verdict::Pass),
            Some(code) if code == i32::from(EXIT_VIOLATION) => Ok(Verdict::Violation),
            _ => bail!("the run in its own mount namespace ended with {end}"),
        };
    }
    let out = args.out.clone().unwrap_or_else(|| Path::new("target/chaos").join(&scenario.name));
    let data = args.keep.clone().unwrap_or_else(|| out.join("data"));
    if data.exists() && args.keep.is_some() {
        bail!("--keep {}: exists already; the cluster must start from nothing", data.display());
    }
    if data.exists() {
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    }
    let options = RunOptions {
        tercet: find_tercet(args.tercet.as_deref())?,
        launcher: std::env::current_exe().context("finding this executable")?,
        out: absolute(&out)?,
        data: absolute(&data)?,
        seed: args.seed.unwrap_or_else(rand::random),
    };
    if scenario.cluster.loop_disk_mib.is_some() {
        std::fs::create_dir_all(&data).with_context(|| data.display().to_string())?;
        if let Some(why) = loop_disk::why_not(&data) {
            println!("SKIPPED {}: {why}", scenario.name);
            return Ok(Verdict::Pass);
        }
    }
    tracing::info!(scenario = scenario.name, seed = options.seed, out = %out.display(), "run");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = run(&scenario, &options) => report,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    });
    // What is still running holds the cluster; its processes end with it.
    drop(runtime);
    let report = report?;
    println!("{report}");
    if args.keep.is_none() && report.verdict == Verdict::Pass {
        std::fs::remove_dir_all(&data).with_context(|| data.display().to_string())?;
    } else {
        println!("data       {}", data.display());
    }
    Ok(report.verdict)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}

/// The executable to test: as told, else beside this one, else the release build of the working directory.
fn find_tercet(told: Option<&Path>) -> Result<PathBuf> {
    if let Some(told) = told {
        if !told.is_file() {
            bail!("{}: there is no such file", told.display());
        }
        return absolute(told);
    }
    let beside = std::env::current_exe().context("finding this executable")?.with_file_name("tercet");
    let release = PathBuf::from("target/release/tercet");
    for candidate in [&beside, &release] {
        if candidate.is_file() {
            return absolute(candidate);
        }
    }
    bail!(
        "no `tercet` executable, neither {} nor {}; build it with `cargo build --release`, or name it with --tercet",
        beside.display(),
        release.display()
    );
}

fn check_files(args: &CheckArgs) -> Result<Verdict> {
    let history = History::load(&args.history)?;
    let finals = args.finals.iter().map(|path| FinalLog::load(path)).collect::<Result<Vec<_>, _>>()?;
    let judgement = check(&history, &finals);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&judgement)?);
    } else {
        print_judgement(&judgement);
    }
    Ok(if judgement.pass { Verdict::Pass } else { Verdict::Violation })
}

fn print_judgement(judgement: &Judgement) {
    for (name, counts) in [("appends", judgement.appends), ("reads", judgement.reads)] {
        println!("{name}: {} ok, {} refused, {} unknown", counts.ok, counts.refused, counts.unknown);
    }
    println!(
        "final log: {} entries; {} keys acknowledged, {} of them lost; {} unknown ones present, {} absent",
        judgement.final_entries,
        judgement.acknowledged_keys,
        judgement.lost,
        judgement.unknown_present,
        judgement.unknown_absent
    );
    for violation in &judgement.violations {
        println!("VIOLATED {violation}");
    }
    println!("verdict: {}", if judgement.pass { "PASS" } else { "VIOLATION" });
}

fn be_child(args: &ChildArgs) -> Result<Verdict> {
    let Some((program, arguments)) = args.command.split_first() else { bail!("no program") };
    let error = become_child(args.parent, Path::new(program), arguments);
    Err(error).with_context(|| program.to_string_lossy().into_owned())
}
