//! The figures of `tercet-bench recover`: JSON for programs, tables for people.

use std::fmt;

use comfy_table::Table;
use serde::Serialize;

use super::down::Down;
use super::seed::{Progress, Seeding};
use super::start::{After, Size, Start};
use crate::machine::{Machine, mebibytes};
use crate::report::{shown, table};

const MILLION: f64 = 1e6;
/// The sizes that the marks for starts speak of begin here.
const MARKED_ENTRIES: u64 = 1_000_000;
/// Rows of a newcomer's progress that a table has at most.
const PROGRESS_ROWS: usize = 12;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What it ran on.
    pub(crate) machine: Machine,
    /// The loads and the payload, in words.
    pub(crate) loads: String,
    /// Rising.
    pub(crate) sizes: Vec<Size>,
    /// How the starts grow from the first size to the last.
    pub(crate) growth: Vec<Growth>,
    /// A newcomer under load.
    pub(crate) seeding: Option<Seeding>,
    /// One node down.
    pub(crate) down: Option<Down>,
    /// What the issues ask for.
    pub(crate) marks: Vec<Mark>,
}

/// One kind of start at the last size over the same at the first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Growth {
    /// What came before the start.
    pub(crate) after: After,
    /// What grows: entries held, or entries missed while it was away.
    pub(crate) entries: f64,
    /// Time until it serves.
    pub(crate) time: f64,
    /// Peak memory.
    pub(crate) memory: f64,
}

/// A figure that an issue asks for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Mark {
    /// In words.
    pub(crate) what: String,
    /// What was seen.
    pub(crate) seen: f64,
    /// It must stay below this.
    pub(crate) below: f64,
    /// `s` or `%`.
    pub(crate) unit: &'static str,
}

impl Report {
    /// Of what was measured.
    pub(super) fn new(loads: String, sizes: Vec<Size>, seeding: Option<Seeding>, down: Option<Down>) -> Self {
        let growth = growth(&sizes);
        let marks = marks(&sizes, seeding.as_ref(), down.as_ref());
        Self { machine: Machine::this(), loads, sizes, growth, seeding, down, marks }
    }
}

/// For a million entries what it is for so many; none of none.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_million(value: f64, entries: u64) -> Option<f64> {
    (entries > 0).then(|| value * MILLION / entries as f64)
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn over(later: u64, earlier: u64) -> f64 {
    later as f64 / earlier as f64
}

fn growth(sizes: &[Size]) -> Vec<Growth> {
    let (Some(first), Some(last)) = (sizes.first(), sizes.last()) else { return Vec::new() };
    if sizes.len() < 2 {
        return Vec::new();
    }
    let pairs = first.starts.iter().filter_map(|start| {
        let later = last.starts.iter().find(|later| later.after == start.after)?;
        let entries = match start.after {
            After::Away => over(later.missed, start.missed),
            _ => over(later.entries, start.entries),
        };
        Some(Growth {
            after: start.after,
            entries,
            time: later.serves_seconds / start.serves_seconds,
            memory: over(later.peak_bytes, start.peak_bytes),
        })
    });
    pairs.collect()
}

fn marks(sizes: &[Size], seeding: Option<&Seeding>, down: Option<&Down>) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut mark = |what: String, seen: f64, below: f64, unit| marks.push(Mark { what, seen, below, unit });
    if let Some(size) = sizes.iter().find(|size| size.entries >= MARKED_ENTRIES) {
        for (after, below) in [(After::CleanStop, 2.0), (After::Kill, 10.0)] {
            for start in size.starts.iter().filter(|start| start.after == after) {
                let what = format!("{} entries, {} to serving again", start.entries, after.as_str());
                mark(what, start.serves_seconds, below, "s");
            }
        }
    }
    for fall in down.iter().flat_map(|down| &down.falls) {
        let what = format!("throughput falls with {} down, {}", fall.down, fall.load);
        mark(what, (1.0 - fall.median) * 100.0, 20.0, "%");
    }
    if let Some(seeding) = seeding {
        let what = format!("throughput falls while a node is seeded, {}", seeding.load);
        mark(what, (1.0 - seeding.ratio) * 100.0, 40.0, "%");
    }
    marks
}

/// At most so many of the rows, evenly chosen, the first and the last among them.
fn chosen<T>(rows: &[T], most: usize) -> Vec<&T> {
    if rows.len() <= most || most < 2 {
        return rows.iter().collect();
    }
    (0..most).filter_map(|number| rows.get(number * (rows.len() - 1) / (most - 1))).collect()
}

fn optional(value: Option<f64>, digits: usize) -> String {
    value.map(|value| format!("{value:.digits$}")).unwrap_or_default()
}

fn starts_table(sizes: &[Size]) -> Table {
    let mut rows = table(&[
        "start after",
        "entries",
        "stopping s",
        "answers s",
        "serves s",
        "s / million",
        "CPU s",
        "peak MiB",
        "MiB / million",
    ]);
    for start in sizes.iter().flat_map(|size| &size.starts).filter(|start| start.after != After::Away) {
        let peak = mebibytes(start.peak_bytes);
        rows.add_row([
            start.after.as_str().to_owned(),
            start.entries.to_string(),
            optional(start.stop_seconds, 2),
            format!("{:.2}", start.answers_seconds),
            format!("{:.2}", start.serves_seconds),
            optional(per_million(start.serves_seconds, start.entries), 2),
            format!("{:.2}", start.cpu_seconds),
            format!("{peak:.0}"),
            optional(per_million(peak, start.entries), 0),
        ]);
    }
    rows
}

fn away_table(sizes: &[Size]) -> Table {
    let mut rows = table(&[
        "catching up at",
        "missed",
        "answers s",
        "caught up s",
        "entries/s",
        "s / missed million",
        "CPU s",
        "peak MiB",
        "MiB / million",
    ]);
    for start in sizes.iter().flat_map(|size| &size.starts).filter(|start| start.after == After::Away) {
        let peak = mebibytes(start.peak_bytes);
        rows.add_row([
            start.entries.to_string(),
            start.missed.to_string(),
            format!("{:.2}", start.answers_seconds),
            format!("{:.2}", start.serves_seconds),
            format!("{:.0}", start.caught_up_per_second()),
            optional(per_million(start.serves_seconds - start.answers_seconds, start.missed), 2),
            format!("{:.2}", start.cpu_seconds),
            format!("{peak:.0}"),
            optional(per_million(peak, start.entries), 0),
        ]);
    }
    rows
}

impl Start {
    /// Missed entries over the time from the first answer until it had all of them.
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    fn caught_up_per_second(&self) -> f64 {
        self.missed as f64 / (self.serves_seconds - self.answers_seconds)
    }
}

fn seeding_table(seeding: &Seeding) -> Table {
    let mut rows = table(&["a node is seeded", "seconds", "entries/s", "p99"]);
    let phases =
        [("before", seeding.before), ("meanwhile", seeding.meanwhile), ("gone again", seeding.after)];
    for (name, phase) in phases {
        rows.add_row([
            name.to_owned(),
            format!("{:.1}", phase.seconds),
            format!("{:.0}", phase.entries_per_second),
            phase.p99_us.map(shown).unwrap_or_default(),
        ]);
    }
    rows
}

fn progress_table(progress: &[Progress]) -> Table {
    let mut rows = table(&["seconds", "entries applied", "proposals applied", "held", "in the leader's log"]);
    for seen in chosen(progress, PROGRESS_ROWS) {
        rows.add_row([
            format!("{:.1}", seen.seconds),
            seen.entries.to_string(),
            seen.applied_index.to_string(),
            seen.matched_index.to_string(),
            seen.leader_index.to_string(),
        ]);
    }
    rows
}

fn down_table(down: &Down) -> Table {
    let names: Vec<&str> =
        down.turns.first().iter().flat_map(|turn| &turn.loads).map(|load| load.name.as_str()).collect();
    let mut header = vec!["turn".to_owned(), "entries".to_owned()];
    for name in &names {
        header.extend([format!("{name}: entries/s"), "p50".to_owned(), "p99".to_owned()]);
    }
    header.push("failed".to_owned());
    let mut rows = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for turn in &down.turns {
        let who = turn.down.as_ref().map_or("all five".to_owned(), |node| format!("{node} down"));
        let mut row = vec![who, turn.entries.to_string()];
        for load in &turn.loads {
            row.push(format!("{:.0}", load.entries_per_second));
            row.extend([shown(load.latency.p50_us), shown(load.latency.p99_us)]);
        }
        row.push(turn.loads.iter().map(|load| load.failed).sum::<u64>().to_string());
        rows.add_row(row);
    }
    rows
}

fn marks_table(marks: &[Mark]) -> Table {
    let mut rows = table(&["mark", "below", "seen", "met"]);
    for Mark { what, seen, below, unit } in marks {
        let met = if seen < below { "yes" } else { "NO" };
        let seen = if *unit == "s" { format!("{seen:.2} {unit}") } else { format!("{seen:.0} {unit}") };
        rows.add_row([what.clone(), format!("{below:.0} {unit}"), seen, met.to_owned()]);
    }
    rows
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        write!(f, "five nodes, {}", self.loads)?;
        for size in &self.sizes {
            let Size { node, entries, log_bytes, index_bytes, .. } = size;
            let (log, index) = (mebibytes(*log_bytes), mebibytes(*index_bytes));
            write!(
                f,
                "\n{entries} entries: {node} holds a log of {log:.0} MiB and an index of {index:.0} MiB"
            )?;
        }
        if !self.sizes.is_empty() {
            write!(f, "\n{}\n{}", starts_table(&self.sizes), away_table(&self.sizes))?;
        }
        for Growth { after, entries, time, memory } in &self.growth {
            let what = if *after == After::Away { "missed entries" } else { "entries" };
            let after = after.as_str();
            write!(f, "\n{after}: {what} x {entries:.2}, time x {time:.2}, memory x {memory:.2}")?;
        }
        if let Some(seeding) = &self.seeding {
            write!(f, "\n{}", seeding_table(seeding))?;
            write!(
                f,
                "\n{}, from {} entries on: caught up at {} entries in {:.1} s, peak {:.0} MiB; throughput x {:.2}",
                seeding.load,
                seeding.entries,
                seeding.seeded_entries,
                seeding.took_seconds,
                mebibytes(seeding.peak_bytes),
                seeding.ratio
            )?;
            write!(f, "\n{}", progress_table(&seeding.progress))?;
            if let Some(error) = &seeding.first_error {
                write!(f, "\n{} requests failed, first error: {error}", seeding.failed)?;
            }
        }
        if let Some(down) = &self.down {
            write!(f, "\n{}", down_table(down))?;
            let failures = down.turns.iter().flat_map(|turn| &turn.loads);
            for (name, error) in failures.filter_map(|load| Some((&load.name, load.first_error.as_ref()?))) {
                write!(f, "\n{name}: first error: {error}")?;
            }
            for fall in &down.falls {
                let ratios: Vec<String> = fall.ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
                let (down, load, median) = (&fall.down, &fall.load, fall.median);
                write!(f, "\n{down} down, {load}: throughput x {median:.2} ({})", ratios.join(", "))?;
            }
        }
        if !self.marks.is_empty() {
            write!(f, "\n{}", marks_table(&self.marks))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(after: After, entries: u64, missed: u64, serves_seconds: f64, peak_bytes: u64) -> Start {
        Start {
            after,
            entries,
            missed,
            stop_seconds: None,
            answers_seconds: 0.5,
            serves_seconds,
            cpu_seconds: 1.0,
            peak_bytes,
        }
    }

    fn size(entries: u64, starts: Vec<Start>) -> Size {
        Size { node: "b2".into(), entries, log_bytes: 1, index_bytes: 1, starts }
    }

    fn two_sizes() -> [Size; 2] {
        let million = 1_000_000;
        [
            size(
                million,
                vec![
                    start(After::Kill, million, 0, 2.0, 100),
                    start(After::CleanStop, million, 0, 2.5, 100),
                    start(After::Away, 3 * million / 2, million / 2, 1.5, 100),
                ],
            ),
            size(
                2 * million,
                vec![
                    start(After::Kill, 2 * million, 0, 3.0, 150),
                    start(After::Away, 3 * million, million, 2.5, 150),
                ],
            ),
        ]
    }

    #[test]
    fn figures_per_million() {
        assert_eq!(per_million(3.0, 2_000_000), Some(1.5));
        assert_eq!(per_million(3.0, 500_000), Some(6.0));
        assert_eq!(per_million(3.0, 0), None);
    }

    #[test]
    fn growth_compares_the_last_size_with_the_first() {
        let sizes = two_sizes();
        let grown = growth(&sizes);
        let of = |after| grown.iter().find(|grown| grown.after == after).unwrap();
        let rounded = |grown: &Growth| [grown.entries, grown.time, grown.memory].map(|x| (x * 100.0).round());
        assert_eq!(rounded(of(After::Kill)), [200.0, 150.0, 150.0]);
        assert_eq!(rounded(of(After::Away)), [200.0, 167.0, 150.0], "by what was missed");
        assert_eq!(grown.len(), 2, "what the last size has not is not compared");
        assert_eq!(growth(&sizes[..1]), []);
        assert!((sizes[0].starts[2].caught_up_per_second() - 500_000.0).abs() < 1e-6);
    }

    #[test]
    fn marks_speak_of_the_first_size_from_a_million_on() {
        let sizes = two_sizes();
        let seen = marks(&sizes, None, None);
        let rows: Vec<_> = seen.iter().map(|mark| (mark.seen, mark.below)).collect();
        assert_eq!(rows, [(2.5, 2.0), (2.0, 10.0)]);
        assert!(marks_table(&seen).to_string().contains("NO"));
        assert_eq!(marks(&[size(999_999, sizes[0].starts.clone())], None, None), []);
    }

    #[test]
    fn rows_are_chosen_evenly_with_both_ends() {
        let rows: Vec<u32> = (0..101).collect();
        assert_eq!(chosen(&rows, 5), [&0, &25, &50, &75, &100]);
        assert_eq!(chosen(&rows[..3], 5), [&0, &1, &2]);
    }
}
