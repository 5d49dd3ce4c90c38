//! `tercet-chaos check`: judges a history from anywhere.

use std::path::PathBuf;

use anyhow::Result;
use tercet_chaos::checker::{Judgement, check};
use tercet_chaos::history::{FinalLog, History};
use tercet_chaos::report::Verdict;

#[derive(clap::Args)]
pub(crate) struct CheckArgs {
    /// What clients asked and heard
    history: PathBuf,
    /// The final log; several times if replicas differ
    #[arg(long = "final", value_name = "LOG", required = true)]
    finals: Vec<PathBuf>,
    /// Print the judgement as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn check_files(args: &CheckArgs) -> Result<Verdict> {
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
