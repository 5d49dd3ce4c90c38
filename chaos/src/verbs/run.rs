//! `tercet-chaos run`: a scenario against five real processes, in namespaces of its own if it needs them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tercet_chaos::cluster::{loop_disk, namespace, packets};
use tercet_chaos::report::Verdict;
use tercet_chaos::run::{RunOptions, run};
use tercet_chaos::scenario::{NetworkKind, Scenario};
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub(crate) struct RunArgs {
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

pub(crate) fn run_scenario(args: &RunArgs) -> Result<Verdict> {
    let scenario = Scenario::load(&args.scenario).with_context(|| args.scenario.display().to_string())?;
    let needs = scenario.needs();
    if !needs.nothing() && !namespace::is_inside() {
        if let Some(why) = needs.why_not() {
            return Ok(skipped(&scenario, &why));
        }
        return Err(namespace::enter(needs)).context("namespaces of the harness's own");
    }
    if scenario.cluster.network == NetworkKind::Namespace
        && let Some(why) = packets::why_not()
    {
        return Ok(skipped(&scenario, &why));
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
            return Ok(skipped(&scenario, &why));
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

fn skipped(scenario: &Scenario, why: &str) -> Verdict {
    println!("SKIPPED {}: {why}", scenario.name);
    Verdict::Pass
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
