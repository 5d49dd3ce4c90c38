//! `tercet-chaos sim`, `replay` and `mutants`: runs plans, prints one line a seed, sums up.
//!
//! Invariants: data goes to stdout (seed and trace hash, or JSON), the rest to stderr; lines come in the order of the seeds,
//! whatever `--jobs` is; a seed that fails leaves its plan and names the one command that repeats it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::plan::Plan;
use super::{Outcome, run};
use crate::report::Verdict;

/// `tercet-chaos sim`
#[derive(Debug, clap::Args)]
pub struct SimArgs {
    /// The seeds to run: `A..B`, without B; or one seed
    #[arg(long, value_parser = parse_seeds)]
    pub seeds: Range<u64>,
    /// Runs at once, each on a thread of its own
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
    /// Print one JSON object a seed
    #[arg(long)]
    pub json: bool,
    /// Where plans of failed seeds go
    #[arg(long, default_value = "target/chaos/sim", value_name = "DIR")]
    pub out: PathBuf,
}

/// `tercet-chaos replay`
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    /// A fault plan
    pub plan: PathBuf,
    /// Write every event to this file, one a line
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `tercet-chaos plan`
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    /// The seed
    pub seed: u64,
}

/// `tercet-chaos mutants`
#[derive(Debug, clap::Args)]
pub struct MutantsArgs {
    /// Only this one [default: all of them]
    #[arg(long, value_name = "NAME")]
    pub only: Option<String>,
    /// Count only violations that begin with this: `quarantine`, say, for the invariant of that name
    #[arg(long, value_name = "TEXT")]
    pub by: Option<String>,
    /// Seeds that a mutant may take
    #[arg(long, default_value_t = 200)]
    pub limit: u64,
    /// Runs at once, each on a thread of its own
    #[arg(long, default_value_t = 1)]
    pub jobs: usize,
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("{text:?}: {error}"));
    let range = match text.split_once("..") {
        Some((from, to)) => number(from)?..number(to)?,
        None => {
            let seed = number(text)?;
            seed..seed.saturating_add(1)
        }
    };
    if range.is_empty() { Err("there is no seed in it".into()) } else { Ok(range) }
}

/// Prints a seed's plan.
///
/// # Errors
/// It cannot be written as TOML.
pub fn plan(args: &PlanArgs) -> Result<Verdict> {
    print!("{}", Plan::of_seed(args.seed).text()?);
    Ok(Verdict::Pass)
}

/// Runs one plan from a file.
///
/// # Errors
/// The file is no plan, or the harness could not run it.
pub fn replay(args: &ReplayArgs) -> Result<Verdict> {
    let plan = Plan::load(&args.plan).with_context(|| args.plan.display().to_string())?;
    let outcome = run(&plan, args.trace.as_deref())?;
    print_one(&outcome, args.json)?;
    for violation in &outcome.violations {
        eprintln!("{violation}");
    }
    Ok(verdict(outcome.violations.is_empty()))
}

const fn verdict(holds: bool) -> Verdict {
    if holds { Verdict::Pass } else { Verdict::Violation }
}

fn print_one(outcome: &Outcome, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string(outcome)?);
    } else {
        println!("{} {}", outcome.seed, outcome.trace);
    }
    Ok(())
}

/// What a range of seeds came to.
#[derive(Default)]
struct Sum {
    seeds: u64,
    failed: Vec<u64>,
    simulated_seconds: f64,
    acknowledged: u64,
    unknown: u64,
    entries: u64,
    slowest_liveness_ms: u64,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        self.simulated_seconds += outcome.simulated_seconds;
        self.slowest_liveness_ms = self.slowest_liveness_ms.max(outcome.liveness_ms.unwrap_or(0));
        if let Some(judgement) = &outcome.judgement {
            self.acknowledged += judgement.appends.ok;
            self.unknown += judgement.appends.unknown;
            self.entries += judgement.final_entries;
        }
        if !outcome.violations.is_empty() {
            self.failed.push(outcome.seed);
        }
    }

    fn say(&self, cpu: Option<Duration>, wall: Duration) {
        let Self { seeds, failed, simulated_seconds, acknowledged, unknown, entries, .. } = self;
        eprintln!("{seeds} seeds, {} with violations {failed:?}", failed.len());
        eprintln!(
            "{:.2} simulated hours, {entries} entries, {acknowledged} appends acknowledged, {unknown} unknown, \
             {} ms at most until a healed core acknowledged",
            simulated_seconds / 3_600.0,
            self.slowest_liveness_ms
        );
        let cpu = cpu.map_or_else(String::new, |cpu| {
            format!(
                ", {:.1} CPU seconds, {:.0} simulated seconds per CPU second",
                cpu.as_secs_f64(),
                simulated_seconds / cpu.as_secs_f64().max(1e-9)
            )
        });
        eprintln!("{:.1} s{cpu}", wall.as_secs_f64());
    }
}

/// Runs a range of seeds.
///
/// # Errors
/// The harness could not do its work.
pub fn sim(args: &SimArgs) -> Result<Verdict> {
    let (begun, cpu) = (Instant::now(), cpu_time());
    let mut sum = Sum::default();
    each_seed(args.seeds.clone(), args.jobs, None, |outcome| {
        let outcome = outcome?;
        print_one(&outcome, args.json)?;
        if !outcome.violations.is_empty() {
            say_failed(&outcome, &args.out)?;
        }
        sum.add(&outcome);
        Ok(true)
    })?;
    let cpu = cpu_time().zip(cpu).map(|(now, before)| now.saturating_sub(before));
    sum.say(cpu, begun.elapsed());
    Ok(verdict(sum.failed.is_empty()))
}

fn say_failed(outcome: &Outcome, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    let file = out.join(format!("plan-{}.toml", outcome.seed));
    let text = Plan::of_seed(outcome.seed).text()?;
    std::fs::write(&file, text).with_context(|| file.display().to_string())?;
    eprintln!("seed {}:", outcome.seed);
    for violation in &outcome.violations {
        eprintln!("  {violation}");
    }
    eprintln!(
        "  repeat it with: tercet-chaos replay {} --trace {}",
        file.display(),
        file.with_extension("trace").display()
    );
    Ok(())
}

/// A panic of the simulation is a violation, too. (Those of a node's tasks end its group, and are seen by that.)
fn run_guarded(seed: u64) -> Result<Outcome> {
    let ran = std::panic::catch_unwind(|| run(&Plan::of_seed(seed), None));
    ran.unwrap_or_else(|_| {
        Ok(Outcome { seed, violations: vec!["the simulation panicked".into()], ..Outcome::default() })
    })
}

/// Runs seeds on `jobs` threads and hands the outcomes over in the order of the seeds, until `take` says that it is enough.
fn each_seed(
    seeds: Range<u64>,
    jobs: usize,
    mutant: Option<&'static str>,
    mut take: impl FnMut(Result<Outcome>) -> Result<bool>,
) -> Result<()> {
    let (next, end) = (AtomicU64::new(seeds.start), seeds.end);
    let (tx, rx) = mpsc::channel();
    std::thread::scope(|threads| {
        for _ in 0..jobs.max(1) {
            let (tx, next) = (tx.clone(), &next);
            threads.spawn(move || {
                plant(mutant);
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || tx.send((seed, run_guarded(seed))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tx);
        let mut waiting = BTreeMap::new();
        let mut due = seeds.start;
        for (seed, outcome) in rx {
            waiting.insert(seed, outcome);
            while let Some(outcome) = waiting.remove(&due) {
                due += 1;
                if !take(outcome)? {
                    next.store(end, Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
        Ok(())
    })
}

/// Puts a mutant to work on this thread.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Option<&'static str>) {
    tercet_storage::mutants::select(mutant);
}

#[cfg(not(feature = "mutants"))]
const fn plant(_: Option<&'static str>) {}

/// Plants every mutant in turn and runs seeds until one finds it.
///
/// # Errors
/// There is no such mutant, the build has none, or the harness could not do its work.
#[cfg(feature = "mutants")]
pub fn mutants(args: &MutantsArgs) -> Result<Verdict> {
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| only == name);
    let chosen: Vec<_> = tercet_storage::mutants::ALL.iter().filter(|(name, _)| wanted(name)).collect();
    anyhow::ensure!(
        !chosen.is_empty(),
        "there is no such mutant; there are {:?}",
        tercet_storage::mutants::ALL
    );
    // A violation begins with the time, if it was seen while the seed ran.
    let what_of = |violation: &str| {
        let rest = violation.strip_prefix("at ").and_then(|timed| timed.split_once(": "));
        rest.map_or(violation.to_owned(), |(_, what)| what.to_owned())
    };
    let counts =
        |violation: &str| args.by.as_ref().is_none_or(|by| what_of(violation).starts_with(by.as_str()));
    // Mutants panic, and that is as good a death as any.
    std::panic::set_hook(Box::new(|_| ()));
    let mut survivors = 0;
    for (name, what) in chosen {
        let mut killed = None;
        each_seed(0..args.limit, args.jobs, Some(name), |outcome| {
            let outcome = outcome?;
            let mut counted = outcome.violations.iter().filter(|violation| counts(violation));
            killed = counted.next().map(|first| (outcome.seed, first.clone()));
            Ok(killed.is_none())
        })?;
        match killed {
            Some((seed, violation)) => {
                let first = violation.lines().take(2).collect::<Vec<_>>().join(" ");
                println!("{name}: killed after {} seeds ({what}): {first}", seed + 1);
            }
            None => {
                survivors += 1;
                println!("{name}: SURVIVES {} seeds ({what})", args.limit);
            }
        }
    }
    Ok(verdict(survivors == 0))
}

/// Says how to build what can do it.
///
/// # Errors
/// Always.
#[cfg(not(feature = "mutants"))]
pub fn mutants(_: &MutantsArgs) -> Result<Verdict> {
    anyhow::bail!(
        "this build has no mutants in it; run `cargo run --release -p tercet-chaos --features mutants -- mutants`"
    )
}

/// CPU time of this process so far.
fn cpu_time() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name in brackets: state is field 3, utime 14, stime 15.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = rustix::param::clock_ticks_per_second();
    Some(Duration::from_millis(ticks * 1_000 / per_second.max(1)))
}
