//! `tercet-bench log`: the segment log beside the bare disk under it, one cell of record size and depth after another.
//!
//! In each cell five take turns on the same file system: the log, driven from its own answers and by another thread; the same records
//! as independent writes, each linked to its fdatasync; all of them as one merged write linked to one fdatasync, which with the one
//! before is the floor; and that merged write as a synchronous one. All of them make their segments in the same way, ahead of
//! need: zeroing costs each of them the same.
//!
//! Invariants: every turn begins with nothing under way on the disk; what is counted was begun after the warm-up and has
//! been durable before the turn ended; nothing is left behind.

mod appends;
mod bare;
mod chains;
mod cost;
mod figures;
mod strategies;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tercet_storage::disk::{DiskChoice, open_directory};

use crate::machine::{Machine, is_in_memory};
use appends::Appends;
use bare::{Bare, Shape};
use figures::{Cell, Report, Tallies};

/// Rounds of a cell: in each, each of the five has one turn.
const ROUNDS: u32 = 4;
/// The largest record: half a segment of 64 MiB.
const SIZE_LIMIT: usize = 32 << 20;
/// The disk is quiet when this process has written nothing for so long.
const QUIET: Duration = Duration::from_millis(15);

/// Arguments of `tercet-bench log`.
#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Bytes of a record
    #[arg(long, value_delimiter = ',', default_values_t = [512, 4_096, 16_384, 65_536, 262_144, 1_048_576], value_name = "BYTES,...")]
    sizes: Vec<usize>,
    /// Appends under way at once
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16], value_name = "N,N...")]
    depths: Vec<usize>,
    /// Counted seconds of each of the five in each cell
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Seconds before each turn that are not counted
    #[arg(long, default_value_t = 0.1, value_name = "SECONDS")]
    warmup: f64,
    /// A directory on the disk to be measured
    #[arg(long, default_value = "target/bench")]
    dir: PathBuf,
    /// How the disk is reached
    #[arg(long, value_enum, default_value_t = How::Auto)]
    disk: How,
    /// Print JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    /// io_uring, or portable where it is missing
    Auto,
    /// io_uring
    #[value(name = "io_uring")]
    IoUring,
    /// pwrite and fdatasync
    Portable,
}

impl How {
    fn choice(self) -> DiskChoice {
        match self {
            Self::Auto => DiskChoice::UringOrPortable,
            Self::IoUring => DiskChoice::Uring,
            Self::Portable => DiskChoice::Portable,
        }
    }
}

impl LogArgs {
    fn check(&self) -> Result<()> {
        if self.sizes.iter().any(|size| !(1..=SIZE_LIMIT).contains(size)) {
            bail!("--sizes: from 1 to {SIZE_LIMIT} bytes each");
        }
        if self.depths.iter().any(|depth| !(1..=64).contains(depth)) {
            bail!("--depths: from 1 to 64 each");
        }
        if self.sizes.iter().max().unwrap_or(&0) * self.depths.iter().max().unwrap_or(&0) > SIZE_LIMIT {
            bail!("the largest of --sizes times the largest of --depths: at most {SIZE_LIMIT} bytes");
        }
        let seconds_are_fine = self.seconds > 0.0 && self.seconds <= 86_400.0;
        if !seconds_are_fine || !(0.0..=86_400.0).contains(&self.warmup) {
            bail!("--seconds above 0, --warmup from 0, both at most a day");
        }
        Ok(())
    }

    fn turn(&self) -> Turn {
        Turn {
            warm_up: Duration::from_secs_f64(self.warmup),
            counted: Duration::from_secs_f64(self.seconds) / ROUNDS,
        }
    }
}

/// How long one turn is.
#[derive(Debug, Clone, Copy)]
struct Turn {
    warm_up: Duration,
    counted: Duration,
}

/// Decides what is counted in a turn that has just begun.
#[derive(Debug, Clone, Copy)]
struct Clock {
    from: Instant,
    to: Instant,
}

impl Turn {
    fn start(self) -> Clock {
        let from = Instant::now() + self.warm_up;
        Clock { from, to: from + self.counted }
    }
}

impl Clock {
    fn is_over(&self) -> bool {
        Instant::now() >= self.to
    }

    /// The latency of what began and ended at these moments, if it counts.
    fn counts(&self, begin: Instant, end: Instant) -> Option<Duration> {
        (begin >= self.from && end <= self.to).then(|| end - begin)
    }
}

/// Measures, and prints what was measured.
pub(crate) fn run(args: &LogArgs) -> Result<()> {
    args.check()?;
    std::fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
    if is_in_memory(&args.dir)? {
        eprintln!(
            "tercet-bench: {} lies in memory: flushes cost nothing there, and the figures say nothing",
            args.dir.display()
        );
    }
    let dir = tempfile::Builder::new().prefix("log-").tempdir_in(std::path::absolute(&args.dir)?)?;
    let choice = args.disk.choice();
    let cells = args.sizes.len() * args.depths.len();
    let bar = progress(cells as u64 + 2);
    bar.set_message("comparing strategies");
    let strategies = strategies::compare(dir.path(), choice)?;
    bar.inc(1);
    let mut measured = Vec::new();
    for size in &args.sizes {
        for depth in &args.depths {
            bar.set_message(format!("{size} bytes, depth {depth}"));
            measured.push(measure_cell(dir.path(), choice, *size, *depth, args.turn())?);
            bar.inc(1);
        }
    }
    bar.set_message("CPU and memory");
    let cost = cost::measure(&dir.path().join("cost"), choice, Duration::from_secs_f64(args.seconds))?;
    bar.finish_and_clear();
    let report = Report {
        machine: Machine::this(),
        disk: describe(dir.path(), choice)?,
        seconds: args.seconds,
        strategies,
        cells: measured,
        cost,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn measure_cell(dir: &Path, choice: DiskChoice, size: usize, depth: usize, turn: Turn) -> Result<Cell> {
    let dir = tempfile::Builder::new().prefix("cell-").tempdir_in(dir)?;
    let mut bare = Bare::open(&dir.path().join("bare"), choice)?;
    let mut log = Appends::open(&dir.path().join("log"), choice)?;
    let mut tallies = Tallies::new()?;
    for _ in 0..ROUNDS {
        log.tidy()?;
        quiet()?;
        bare.turn(Shape::Linked, size, depth, turn, &mut tallies.linked)?;
        bare.tidy()?;
        quiet()?;
        chains::turn(&mut log, size, depth, turn, &mut tallies.log)?;
        quiet()?;
        bare.turn(Shape::Merged, size, depth, turn, &mut tallies.merged)?;
        bare.tidy()?;
        log.tidy()?;
        quiet()?;
        log.turn(size, depth, turn, &mut tallies.handed_over)?;
        quiet()?;
        bare.turn(Shape::Synchronous, size, depth, turn, &mut tallies.synchronous)?;
        bare.tidy()?;
    }
    log.close();
    Ok(tallies.cell(size, depth))
}

/// The disk in its own words, without the path.
fn describe(dir: &Path, choice: DiskChoice) -> Result<String> {
    let words = open_directory(&dir.join("words"), choice)?.description();
    Ok(words.split(',').next().unwrap_or_default().to_owned())
}

/// Waits until this process writes nothing more: segments that the turn before has asked for are still being zeroed.
fn quiet() -> Result<()> {
    let written = || -> Result<u64> {
        let io = std::fs::read_to_string("/proc/self/io").context("/proc/self/io")?;
        let bytes =
            io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).context("no write_bytes")?;
        Ok(bytes.parse()?)
    };
    let begin = Instant::now();
    let mut before = written()?;
    loop {
        std::thread::sleep(QUIET);
        let now = written()?;
        if now == before || begin.elapsed() > Duration::from_secs(5) {
            return Ok(());
        }
        before = now;
    }
}

fn progress(steps: u64) -> ProgressBar {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(steps) } else { ProgressBar::hidden() };
    // The template is a literal that is known to parse; the default style will do otherwise.
    if let Ok(style) = ProgressStyle::with_template("{msg:30} [{wide_bar}] {pos}/{len} {elapsed}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_between_warm_up_and_end_counts() {
        let now = Instant::now();
        let at = |ms| now + Duration::from_millis(ms);
        let clock = Clock { from: at(100), to: at(200) };
        assert_eq!(clock.counts(at(100), at(130)), Some(Duration::from_millis(30)));
        assert_eq!(clock.counts(at(99), at(130)), None);
        assert_eq!(clock.counts(at(190), at(201)), None);
    }

    #[test]
    fn a_cell_is_measured_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let turn = Turn { warm_up: Duration::ZERO, counted: Duration::from_millis(100) };
        let cell = measure_cell(dir.path(), DiskChoice::UringOrPortable, 512, 4, turn).unwrap();
        assert!(cell.log.count > 0 && cell.handed_over.count > 0);
        assert!(cell.linked.count > 0 && cell.merged.count > 0 && cell.synchronous.count > 0);
        assert!(cell.ratio > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
