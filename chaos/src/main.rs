//! The `tercet-chaos` command; one file a verb in [`verbs`].
//!
//! Exit codes: 0 everything holds, 1 the harness could not do its work, 2 wrong usage, 5 a violation.

mod verbs;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tercet_chaos::report::Verdict;
use tercet_chaos::sim::command::{self as sim, MutantsArgs, PlanArgs, ReplayArgs, SimArgs};
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
    Run(verbs::run::RunArgs),
    /// Judges a history from anywhere against the final log (formats: chaos/HISTORY.md)
    Check(verbs::check::CheckArgs),
    /// Simulates five nodes in one thread, once for each seed; prints the seed and the hash of all that happened
    Sim(SimArgs),
    /// Runs a simulation's fault plan
    Replay(ReplayArgs),
    /// Plants known faults in the code and reports how many seeds each took to be found
    Mutants(MutantsArgs),
    /// Prints the fault plan of a seed
    Plan(PlanArgs),
    /// Becomes PROGRAM, and ends when the parent does
    #[command(name = "child", hide = true)]
    Child(verbs::child::ChildArgs),
}

fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    // What simulated nodes say is theirs: thousands of lines a second.
    let usual =
        if matches!(verb, Verb::Sim(_) | Verb::Replay(_) | Verb::Mutants(_)) { "off" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .with_target(false)
        .init();
    let done = match verb {
        Verb::Run(args) => verbs::run::run_scenario(&args),
        Verb::Check(args) => verbs::check::check_files(&args),
        Verb::Sim(args) => sim::sim(&args),
        Verb::Replay(args) => sim::replay(&args),
        Verb::Mutants(args) => sim::mutants(&args),
        Verb::Plan(args) => sim::plan(&args),
        Verb::Child(args) => verbs::child::be_child(&args),
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
