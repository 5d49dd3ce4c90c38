//! The figures of `tercet-bench log`: JSON for programs, tables for people.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::machine::{Machine, mebibytes};

/// Longest latency that is told apart.
const HIGHEST_NS: u64 = 120_000_000_000;

/// Latencies while they are being counted.
pub(super) struct Tally {
    histogram: Histogram<u64>,
    counted: Duration,
    size_bytes: usize,
}

impl Tally {
    /// Nothing yet.
    pub(super) fn new() -> Result<Tally> {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_NS, 3).context("making a histogram")?;
        Ok(Tally { histogram, counted: Duration::ZERO, size_bytes: 0 })
    }

    /// So many appends took so long each.
    pub(super) fn add(&mut self, took: Duration, appends: u64) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(HIGHEST_NS).clamp(1, HIGHEST_NS);
        self.histogram.saturating_record_n(nanoseconds, appends);
    }

    /// What another one has counted.
    pub(super) fn merge(&mut self, other: &Tally) -> Result<()> {
        self.histogram.add(&other.histogram).context("adding up a turn")
    }

    /// A turn is over.
    pub(super) fn add_turn(&mut self, counted: Duration, size_bytes: usize) {
        self.counted += counted;
        self.size_bytes = size_bytes;
    }
}

/// One of the three in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Side {
    /// Durable appends that were counted.
    pub(super) count: u64,
    /// Durable appends each second.
    pub(super) appends_per_second: f64,
    /// Megabytes (10^6) of payload each second.
    pub(super) megabytes_per_second: f64,
    /// Median.
    pub(super) p50_us: f64,
    /// 99 of 100 are faster.
    pub(super) p99_us: f64,
    /// 999 of 1,000 are faster.
    pub(super) p999_us: f64,
}

#[expect(clippy::cast_precision_loss, reason = "figures for people, far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

impl Side {
    fn of(tally: &Tally) -> Side {
        let at = |quantile| float(tally.histogram.value_at_quantile(quantile)) / 1e3;
        let appends_per_second = float(tally.histogram.len()) / tally.counted.as_secs_f64().max(1e-9);
        Side {
            count: tally.histogram.len(),
            appends_per_second,
            megabytes_per_second: appends_per_second * float(tally.size_bytes as u64) / 1e6,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
        }
    }
}

/// One record size at one depth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Cell {
    /// Payload of a record.
    pub(super) size_bytes: usize,
    /// Appends under way at once.
    pub(super) depth: usize,
    /// The log, each answer handing in the next append.
    pub(super) log: Side,
    /// The log, all appends from another thread, which waits for the answers.
    pub(super) handed_over: Side,
    /// Independent writes, each linked to an fdatasync.
    pub(super) linked: Side,
    /// One write for all, linked to one fdatasync.
    pub(super) merged: Side,
    /// One synchronous write for all.
    pub(super) synchronous: Side,
    /// Which of linked and merged is the floor: the one with more appends a second.
    pub(super) floor: &'static str,
    /// The log's appends a second over the floor's.
    pub(super) ratio: f64,
    /// The same of appends from another thread.
    pub(super) handed_over_ratio: f64,
    /// The log's appends a second over those of the synchronous write.
    pub(super) ratio_to_synchronous: f64,
    /// The log's median over that of the independent writes.
    pub(super) p50_over_linked: f64,
}

/// What is counted in a cell.
pub(super) struct Tallies {
    pub(super) log: Tally,
    pub(super) handed_over: Tally,
    pub(super) linked: Tally,
    pub(super) merged: Tally,
    pub(super) synchronous: Tally,
}

impl Tallies {
    /// Nothing yet.
    pub(super) fn new() -> Result<Tallies> {
        Ok(Tallies {
            log: Tally::new()?,
            handed_over: Tally::new()?,
            linked: Tally::new()?,
            merged: Tally::new()?,
            synchronous: Tally::new()?,
        })
    }

    /// The figures.
    pub(super) fn cell(&self, size_bytes: usize, depth: usize) -> Cell {
        let all = [&self.log, &self.handed_over, &self.linked, &self.merged, &self.synchronous];
        let [log, handed_over, linked, merged, synchronous] = all.map(Side::of);
        let is_linked = linked.appends_per_second >= merged.appends_per_second;
        let best = linked.appends_per_second.max(merged.appends_per_second);
        let over = |side: Side, base: f64| side.appends_per_second / base.max(1e-9);
        Cell {
            size_bytes,
            depth,
            log,
            handed_over,
            linked,
            merged,
            synchronous,
            floor: if is_linked { "linked" } else { "merged" },
            ratio: over(log, best),
            handed_over_ratio: over(handed_over, best),
            ratio_to_synchronous: over(log, synchronous.appends_per_second),
            p50_over_linked: log.p50_us / linked.p50_us.max(1e-9),
        }
    }
}

/// One way to make a block durable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Strategy {
    /// For a human.
    pub(super) name: &'static str,
    /// 4 KiB, one at a time; `null` where the file system refuses it.
    pub(super) figures: Option<Side>,
}

impl Strategy {
    /// From what was counted.
    pub(super) fn new(name: &'static str, tally: &Tally) -> Strategy {
        Strategy { name, figures: (!tally.histogram.is_empty()).then(|| Side::of(tally)) }
    }
}

/// CPU time and memory.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Cost {
    /// Records of 256 bytes, in appends of 1,000.
    pub(super) records: u64,
    /// Each second.
    pub(super) records_per_second: f64,
    /// CPU time of all threads, user and kernel, for each.
    pub(super) cpu_us_per_record: f64,
    /// Payload that the log holds in memory.
    pub(super) cached_bytes: u64,
    /// Payload that waited for a batch, at its highest.
    pub(super) queued_bytes: u64,
    /// Resident memory of this process.
    pub(super) resident_bytes: u64,
    /// What the log may hold: cache, write buffers, and what was handed in and is not durable.
    pub(super) bound_bytes: u64,
}

impl Cost {
    /// From what was counted.
    pub(super) fn new(
        records: u64,
        seconds: f64,
        cpu_seconds: f64,
        cached_bytes: u64,
        queued_bytes: u64,
        resident_bytes: u64,
        bound_bytes: u64,
    ) -> Cost {
        Cost {
            records,
            records_per_second: float(records) / seconds.max(1e-9),
            cpu_us_per_record: cpu_seconds * 1e6 / float(records.max(1)),
            cached_bytes,
            queued_bytes,
            resident_bytes,
            bound_bytes,
        }
    }
}

/// Everything of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Report {
    /// What it was measured on.
    pub(super) machine: Machine,
    /// The disk in its own words.
    pub(super) disk: String,
    /// Counted seconds of each of the three in each cell.
    pub(super) seconds: f64,
    /// Compared once, at the start.
    pub(super) strategies: Vec<Strategy>,
    /// In the order in which they were measured.
    pub(super) cells: Vec<Cell>,
    /// CPU and memory.
    pub(super) cost: Cost,
}

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(left) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// 512 B, 4 KiB, 1 MiB; other sizes in bytes.
fn size(bytes: usize) -> String {
    match bytes {
        _ if bytes >= 1 << 20 && bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ if bytes >= 1 << 10 && bytes.is_multiple_of(1 << 10) => format!("{} KiB", bytes >> 10),
        _ => format!("{bytes} B"),
    }
}

impl Report {
    fn strategy_table(&self) -> Table {
        let mut table = table(&["4 KiB, one at a time", "per second", "p50 us", "p99 us", "p99.9 us"], 1);
        for strategy in &self.strategies {
            let mut row = vec![strategy.name.to_owned()];
            match strategy.figures {
                Some(side) => {
                    row.push(format!("{:.0}", side.appends_per_second));
                    row.extend([side.p50_us, side.p99_us, side.p999_us].map(|us| format!("{us:.0}")));
                }
                None => row.push("refused".to_owned()),
            }
            table.add_row(row);
        }
        table
    }

    fn cell_table(&self) -> Table {
        let header = [
            "record",
            "depth",
            "appends/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "floor",
            "appends/s",
            "MB/s",
            "p50 us",
            "p99 us",
            "ratio",
            "p50/linked",
            "by a thread",
            "ratio",
            "to sync",
        ];
        let mut table = table(&header, 0);
        for cell in &self.cells {
            let floor = if cell.floor == "linked" { cell.linked } else { cell.merged };
            let whole = |number: f64| format!("{number:.0}");
            table.add_row(vec![
                size(cell.size_bytes),
                cell.depth.to_string(),
                whole(cell.log.appends_per_second),
                whole(cell.log.megabytes_per_second),
                whole(cell.log.p50_us),
                whole(cell.log.p99_us),
                whole(cell.log.p999_us),
                cell.floor.to_owned(),
                whole(floor.appends_per_second),
                whole(floor.megabytes_per_second),
                whole(floor.p50_us),
                whole(floor.p99_us),
                format!("{:.2}", cell.ratio),
                format!("{:.2}", cell.p50_over_linked),
                whole(cell.handed_over.appends_per_second),
                format!("{:.2}", cell.handed_over_ratio),
                format!("{:.2}", cell.ratio_to_synchronous),
            ]);
        }
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.machine)?;
        writeln!(out, "{}, {} s each", self.disk, self.seconds)?;
        writeln!(out, "{}", self.strategy_table())?;
        writeln!(out, "{}", self.cell_table())?;
        let cost = &self.cost;
        writeln!(
            out,
            "256-byte records in appends of 1,000: {:.2} us of CPU a record, {:.0} records/s",
            cost.cpu_us_per_record, cost.records_per_second
        )?;
        write!(
            out,
            "memory: {:.1} MiB cached, {:.1} MiB queued at most; the log's bound {:.0} MiB; process {:.0} MiB resident",
            mebibytes(cost.cached_bytes),
            mebibytes(cost.queued_bytes),
            mebibytes(cost.bound_bytes),
            mebibytes(cost.resident_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(took_us: u64, appends: u64) -> Tally {
        let mut tally = Tally::new().unwrap();
        tally.add(Duration::from_micros(took_us), appends);
        tally.add_turn(Duration::from_millis(500), 4_096);
        tally.add_turn(Duration::from_millis(500), 4_096);
        tally
    }

    fn cell(depth: usize, [log, handed_over, linked, merged, synchronous]: [Tally; 5]) -> Cell {
        Tallies { log, handed_over, linked, merged, synchronous }.cell(4_096, depth)
    }

    #[test]
    fn the_floor_is_the_better_of_the_two_that_are_linked() {
        let sides = [tally(300, 900), tally(400, 800), tally(200, 500), tally(250, 1_000), tally(150, 1_200)];
        let merged = cell(16, sides);
        assert_eq!(merged.floor, "merged");
        assert!((merged.ratio - 0.9).abs() < 1e-9 && (merged.handed_over_ratio - 0.8).abs() < 1e-9);
        assert!((merged.ratio_to_synchronous - 0.75).abs() < 1e-9);
        assert!((merged.p50_over_linked - 1.5).abs() < 0.01);
        assert!((merged.log.megabytes_per_second - 900.0 * 4_096.0 / 1e6).abs() < 1e-6);
        let sides = [tally(200, 450), tally(200, 440), tally(200, 500), tally(250, 400), tally(150, 600)];
        let linked = cell(1, sides);
        assert_eq!((linked.floor, linked.log.count), ("linked", 450));
        assert!((linked.ratio - 0.9).abs() < 1e-9);
    }

    #[test]
    fn what_two_tallies_counted_is_added_up() {
        let mut sum = tally(100, 10);
        sum.merge(&tally(300, 30)).unwrap();
        let side = Side::of(&sum);
        assert_eq!((side.count, side.p50_us.round()), (40, 300.0));
    }

    #[test]
    fn sizes_are_shown_with_their_unit() {
        assert_eq!([512, 4_096, 5_000, 1 << 20].map(size), ["512 B", "4 KiB", "5000 B", "1 MiB"]);
    }

    #[test]
    fn a_refused_strategy_has_no_figures() {
        assert_eq!(Strategy::new("x", &Tally::new().unwrap()).figures, None);
        let cost = Cost::new(1_000, 2.0, 0.001, 0, 0, 0, 0);
        assert!(
            (cost.cpu_us_per_record - 1.0).abs() < 1e-9 && (cost.records_per_second - 500.0).abs() < 1e-9
        );
    }
}
