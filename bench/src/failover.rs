//! `tercet-bench failover`: the leader's zone is lost again and again, by kill -9 and by blackhole, under one client that writes
//! one entry after the other through delayed links; what the client sees of it is the figure.
//!
//! Invariants: a round begins only when every node is in contact and caught up and the client is being answered; everything that
//! was acknowledged in a round is read back, linearizable, from those that are left, before the zone returns.

pub(crate) mod cluster;
mod events;
mod report;
mod writer;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tercet_proto::client::Client;

use crate::machine::Machine;
use crate::nodes::find_tercet;
use crate::scratch::run_in;
use cluster::{Fault, FaultyCluster};
use events::Events;
use report::{Report, Round};
use writer::{Ack, Writer};

/// How long it may take until a round can begin, or until the client is answered again.
const PATIENCE: Duration = Duration::from_secs(120);
/// The client writes undisturbed for so long before each fault.
const CALM: Duration = Duration::from_millis(700);
/// A pause that comes within this after the client was answered again is still the fault's.
const AFTERMATH: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// Arguments of `tercet-bench failover`.
#[derive(Debug, Args)]
pub(crate) struct FailoverArgs {
    /// Rounds of each kind
    #[arg(long, default_value_t = 50, value_name = "N")]
    rounds: usize,
    /// Only this kind
    #[arg(long, value_enum, value_name = "KIND")]
    only: Option<Fault>,
    /// Where the nodes keep their data
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// The `tercet` executable [default: beside this one, else target/release/tercet]
    #[arg(long, env = "TERCET_BIN", value_name = "FILE")]
    tercet: Option<PathBuf>,
    /// Keep the nodes' data and output
    #[arg(long)]
    keep: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &FailoverArgs) -> Result<()> {
    if args.rounds == 0 {
        bail!("--rounds: at least 1");
    }
    let tercet = find_tercet(args.tercet.as_deref())?;
    let report =
        run_in(&args.dir, "failover-", args.keep, async |dir: &Path| measure(args, tercet, dir).await)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

async fn measure(args: &FailoverArgs, tercet: PathBuf, dir: &Path) -> Result<Report> {
    let kinds = args.only.map_or(vec![Fault::Kill, Fault::Blackhole], |only| vec![only]);
    let mut cluster = FaultyCluster::start(tercet, dir).await?;
    let bar = progress_bar(args.rounds * kinds.len());
    bar.set_message("starting");
    cluster.settled(PATIENCE).await?;
    let observer = cluster.observer()?;
    let mut events = Events::watch(&observer, &cluster.client_addresses());
    let mut writer = Writer::start(cluster.client()?).await?;
    let mut rounds = Vec::new();
    for kind in kinds {
        for number in 1..=args.rounds {
            bar.set_message(format!("{kind} {number} of {}", args.rounds));
            let round = round(&mut cluster, &mut writer, &mut events, &observer, kind).await?;
            bar.println(format!("{kind:<9} {number:>3}  {round}"));
            bar.inc(1);
            rounds.push(round);
        }
    }
    bar.finish_and_clear();
    let failed = writer.stop();
    Ok(Report { machine: Machine::this(), timing: cluster.timing(), failed_requests: failed, rounds })
}

async fn round(
    cluster: &mut FaultyCluster,
    writer: &mut Writer,
    events: &mut Events,
    observer: &Client,
    kind: Fault,
) -> Result<Round> {
    cluster.settled(PATIENCE).await?;
    writer.answered_since(Instant::now(), PATIENCE).await?;
    tokio::time::sleep(CALM).await;
    let leader = cluster.settled(PATIENCE).await?;
    // What was acknowledged before belongs to the fault, too: it must survive it.
    events.forget();
    // With the nodes' output (TERCET_LOG=info,openraft=info) this line shows where the time goes.
    tracing::info!(leader, "its zone is lost now, by {kind}");
    let before = Instant::now();
    let zone = cluster.lose_zone_of(&leader, kind)?;
    let lost_at = Instant::now();
    writer.answered_since(lost_at, PATIENCE).await?;
    tracing::info!("the client is answered again, {:.1} ms later", milliseconds(lost_at.elapsed()));
    tokio::time::sleep(AFTERMATH).await;
    let acks = writer.take();
    let lost = writer::missing(observer, &acks).await?;
    let change = events.first_leader_outside(&zone, |name| cluster.zone_of(name));
    cluster.restore(&zone, kind)?;
    let (elected_at, new_leader) = match change {
        Some((at, name)) => (Some(at), name),
        None => (None, String::new()),
    };
    Ok(Round {
        kind,
        zone,
        leader,
        new_leader,
        gap_ms: milliseconds(longest_gap(&acks, before)),
        elected_ms: elected_at.map(|at| milliseconds(at.saturating_duration_since(before))),
        acknowledged: acks.len(),
        lost,
    })
}

/// The longest pause between two acknowledgements of which the later one came after `fault`.
fn longest_gap(acks: &[Ack], fault: Instant) -> Duration {
    let pairs = acks.iter().zip(acks.iter().skip(1));
    pairs
        .filter(|(_, later)| later.at >= fault)
        .map(|(earlier, later)| later.at - earlier.at)
        .max()
        .unwrap_or_default()
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e4).round() / 10.0
}

fn progress_bar(rounds: usize) -> ProgressBar {
    let rounds = u64::try_from(rounds).unwrap_or(u64::MAX);
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(rounds) } else { ProgressBar::hidden() };
    // The template is a literal that is known to parse; the default style will do otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg:24} [{wide_bar}] {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_the_longest_pause_that_ends_after_the_fault() {
        let start = Instant::now();
        let acks: Vec<Ack> = [0, 500, 510, 520, 900, 910, 1_200]
            .into_iter()
            .map(|ms| Ack { seq: ms, entry_hash: Vec::new().into(), at: start + Duration::from_millis(ms) })
            .collect();
        let gap = |fault_ms| longest_gap(&acks, start + Duration::from_millis(fault_ms)).as_millis();
        assert_eq!(gap(515), 380);
        assert_eq!(gap(905), 290);
        assert_eq!(gap(0), 500);
        assert_eq!(gap(1_300), 0);
    }
}
