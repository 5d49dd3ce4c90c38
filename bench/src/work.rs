//! What the load of `cluster`, `sweep` and `compare` is made of: the arguments, the journals, and running one case.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tercet_proto::client::Client;
use tercet_proto::v1;

use crate::bed::Bed;
use crate::load::{BUSINESS_DATE, CURRENCY, Case, Outcome, Pace, Work, recorder, run as run_load};
use crate::nodes::{Usage, ready};
use crate::report::{CaseFigures, Latency};

/// What a stored entry adds to its payload: key, two postings, dates, hashes' inputs.
const ENTRY_OVERHEAD_BYTES: usize = 84;
const TICK: Duration = Duration::from_millis(250);

/// Arguments about requests.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkArgs {
    /// Payload bytes of an entry
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub(crate) payload: usize,
    /// Durability class
    #[arg(long, value_enum, default_value_t = Class::City)]
    class: Class,
    /// Journals, used in turn
    #[arg(long, default_value_t = 1, value_name = "N")]
    journals: usize,
    /// Payers, and as many payees
    #[arg(long, default_value_t = 1_000, value_name = "N")]
    accounts: u64,
    /// Of 100 entries, those between one payer and one payee
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    hot: u64,
    /// Of 100 requests, those that read one earlier entry
    #[arg(long, default_value_t = 0, value_name = "PERCENT")]
    reads: u64,
    /// Reads ask any node for what it knows, not the leader for the latest
    #[arg(long)]
    local_reads: bool,
    /// Clients of a closed loop append by a call each (`Append`) instead of over a stream each (`AppendStream`)
    #[arg(long)]
    unary: bool,
    /// Counted seconds of each case
    #[arg(long, default_value_t = 10.0)]
    pub(crate) seconds: f64,
    /// Seconds before them that are not counted
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS")]
    pub(crate) warmup: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Class {
    City,
    Geo,
}

impl WorkArgs {
    /// Bounds.
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.seconds > 0.0 && self.seconds <= 86_400.0) {
            bail!("--seconds {}: above 0, at most a day", self.seconds);
        }
        if !(0.0..=86_400.0).contains(&self.warmup) {
            bail!("--warmup {}: from 0 to a day", self.warmup);
        }
        if self.journals == 0 || self.accounts == 0 {
            bail!("--journals and --accounts: at least 1 each");
        }
        if self.reads > 100 || self.hot > 100 {
            bail!("--reads and --hot: at most 100 percent");
        }
        Ok(())
    }

    /// Bytes of an entry as the log keeps it, about.
    pub(crate) fn entry_bytes(&self) -> usize {
        self.payload + ENTRY_OVERHEAD_BYTES
    }

    /// Reads among the requests, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a percentage")]
    pub(crate) fn read_share(&self) -> f64 {
        self.reads as f64 / 100.0
    }

    /// The class' name.
    pub(crate) fn class_name(&self) -> String {
        format!("{:?}", self.class).to_lowercase()
    }

    fn work(&self) -> Work {
        Work {
            journals: (1..=self.journals).map(|number| format!("bench-{number}")).collect(),
            payload_bytes: self.payload,
            class: match self.class {
                Class::City => v1::DurabilityClass::City,
                Class::Geo => v1::DurabilityClass::Geo,
            },
            accounts: self.accounts,
            hot_percent: self.hot,
            read_percent: self.reads,
            consistency: match self.local_reads {
                true => v1::Consistency::Local,
                false => v1::Consistency::Linearizable,
            },
            unary: self.unary,
        }
    }

    /// A case; `number` tells its keys from those of others.
    pub(crate) fn case(&self, number: usize, pace: Pace, entries: usize) -> Case {
        Case {
            pace,
            entries,
            work: self.work(),
            warm_up: Duration::from_secs_f64(self.warmup),
            measured: Duration::from_secs_f64(self.seconds),
            number,
        }
    }

    /// Makes the journals.
    pub(crate) async fn make_journals(&self, client: &Client) -> Result<()> {
        for name in self.work().journals {
            let request = v1::CreateJournalRequest {
                name,
                currencies: vec![v1::Currency { code: CURRENCY.to_owned(), digits: 2 }],
                default_class: v1::DurabilityClass::City.into(),
                business_date: BUSINESS_DATE.to_owned(),
            };
            client.create_journal(request).await.context("making a journal")?;
        }
        Ok(())
    }
}

/// Runs one case on the bed and gives its figures.
pub(crate) async fn measure_case(bed: &mut Bed, args: &WorkArgs, case: &Case) -> Result<CaseFigures> {
    let first = bed.channels.first().context("no channel")?.clone();
    let (leader, _) = ready(&mut bed.nodes, &bed.topology, &first).await?;
    let (before, load_before) = (bed.nodes.usage()?, Usage::of(std::process::id())?);
    let disk_before = bed.nodes.log_counters(&bed.topology).await?;
    let outcome = watched(case, &bed.channels).await?;
    bed.nodes.check()?;
    let disk_after = bed.nodes.log_counters(&bed.topology).await?;
    let (after, load_after) = (bed.nodes.usage()?, Usage::of(std::process::id())?);
    Ok(CaseFigures::new(case, &outcome, &Latency::of(&bed.floor.write))
        .with_usage(&leader, &before, &after, (&load_before, &load_after))
        .with_disk(case, outcome.entries, args.entry_bytes(), disk_after - disk_before))
}

/// Runs a case, showing on a terminal how it goes on.
pub(crate) async fn watched(case: &Case, channels: &[Client]) -> Result<Outcome> {
    let recorder = recorder()?;
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
    let watching = Arc::clone(&recorder);
    let mut work = std::pin::pin!(run_load(case, channels, &recorder));
    loop {
        tokio::select! {
            done = &mut work => {
                bar.finish_and_clear();
                return done.map(|()| watching.outcome());
            }
            _ = tick.tick() => {
                let answered = watching.answered_so_far();
                bar.set_message(format!("{}: {} requests/s", name_of(case), (answered - before) * 4));
                before = answered;
                bar.set_position(u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX));
            }
        }
    }
}

/// A case in words.
pub(crate) fn name_of(case: &Case) -> String {
    let who = match case.pace {
        Pace::Closed { clients: 1 } => "1 client".to_owned(),
        Pace::Closed { clients } => format!("{clients} clients"),
        Pace::Open { per_second } => format!("{per_second:.0}/s open loop"),
    };
    let what = match case.entries {
        1 => String::new(),
        entries => format!(", batches of {entries}"),
    };
    let reads = match case.work.read_percent {
        0 => String::new(),
        percent => format!(", {percent} % reads"),
    };
    format!("{who}{what}{reads}")
}
