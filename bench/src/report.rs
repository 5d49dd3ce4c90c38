//! The figures: JSON for programs, tables for people.

use std::fmt;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::bed::{Bed, BedArgs};
use crate::load::{Case, Outcome, Pace, Second};
use crate::machine::{Machine, mebibytes};
use crate::nodes::{LogCounters, Usage};
use crate::work::{WorkArgs, name_of};

/// Latencies of one kind of operation, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Latency {
    /// Operations counted.
    pub(crate) count: u64,
    /// Median.
    pub(crate) p50_us: f64,
    /// 99 of 100 are faster.
    pub(crate) p99_us: f64,
    /// 999 of 1,000 are faster.
    pub(crate) p999_us: f64,
    /// The slowest.
    pub(crate) max_us: f64,
}

impl Latency {
    /// Of a histogram in nanoseconds.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| micros(histogram.value_at_quantile(quantile));
        Self {
            count: histogram.len(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: micros(histogram.max()),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^52 ns")]
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e3
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people, not for sums")]
fn ratio(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

/// A node during one case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct NodeFigures {
    /// Its name.
    pub(crate) node: String,
    /// Whether it led when the case began.
    pub(crate) leader: bool,
    /// Used in the case, warm-up included.
    pub(crate) cpu_seconds: f64,
    /// At the case's end.
    pub(crate) resident_bytes: u64,
    /// Since its start.
    pub(crate) peak_bytes: u64,
}

/// One case.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct CaseFigures {
    /// In words.
    pub(crate) name: String,
    /// Concurrent clients of a closed loop.
    pub(crate) clients: Option<usize>,
    /// Requests that were due each second of an open loop.
    pub(crate) due_per_second: Option<f64>,
    /// Entries of each append.
    pub(crate) entries_per_request: usize,
    /// Appends that were answered in time, each second.
    pub(crate) appends_per_second: f64,
    /// Entries of those.
    pub(crate) entries_per_second: f64,
    /// Of an append; in an open loop from the moment when it was due.
    pub(crate) latency: Latency,
    /// Of a read.
    pub(crate) reads: Option<Latency>,
    /// p50 in units of the floor's write.
    pub(crate) p50_over_floor: f64,
    /// Requests without an answer.
    pub(crate) failed: u64,
    /// The first of their errors.
    pub(crate) first_error: Option<String>,
    /// The load's own CPU time, in seconds.
    pub(crate) load_cpu_seconds: f64,
    /// By node.
    pub(crate) nodes: Vec<NodeFigures>,
    /// fdatasyncs of all nodes' logs each second, warm-up included.
    pub(crate) fsyncs_per_second: f64,
    /// What one node's log wrote for each byte of entries, on average over the nodes.
    pub(crate) written_per_entry_byte: f64,
    /// Second by second.
    pub(crate) seconds: Vec<Second>,
}

impl CaseFigures {
    /// From a case's outcome.
    pub(crate) fn new(case: &Case, outcome: &Outcome, floor: &Latency) -> Self {
        let latency = Latency::of(&outcome.appends);
        let (clients, due_per_second) = match case.pace {
            Pace::Closed { clients } => (Some(clients), None),
            Pace::Open { per_second } => (None, Some(per_second)),
        };
        let each_second = |count| ratio(count, case.measured.as_secs_f64());
        Self {
            name: name_of(case),
            clients,
            due_per_second,
            entries_per_request: case.entries,
            appends_per_second: each_second(outcome.in_time.0),
            entries_per_second: each_second(outcome.in_time.1),
            p50_over_floor: latency.p50_us / floor.p50_us,
            latency,
            reads: (!outcome.reads.is_empty()).then(|| Latency::of(&outcome.reads)),
            failed: outcome.failed,
            first_error: outcome.first_error.clone(),
            load_cpu_seconds: 0.0,
            nodes: Vec::new(),
            fsyncs_per_second: 0.0,
            written_per_entry_byte: 0.0,
            seconds: outcome.series.clone(),
        }
    }

    /// Adds what the nodes' logs wrote during the case; `entries` were appended in it, warm-up included.
    pub(crate) fn with_disk(
        mut self,
        case: &Case,
        entries: u64,
        entry_bytes: usize,
        wrote: LogCounters,
    ) -> Self {
        self.fsyncs_per_second = ratio(wrote.fsyncs, (case.warm_up + case.measured).as_secs_f64());
        let nodes = self.nodes.len().max(1) as u64;
        let entry_bytes = entries.saturating_mul(entry_bytes as u64).saturating_mul(nodes);
        self.written_per_entry_byte =
            if entry_bytes == 0 { 0.0 } else { ratio(wrote.written_bytes, ratio(entry_bytes, 1.0)) };
        self
    }

    /// Adds what the nodes and the load used between two moments.
    pub(crate) fn with_usage(
        mut self,
        leader: &str,
        before: &[(String, Usage)],
        after: &[(String, Usage)],
        load: (&Usage, &Usage),
    ) -> Self {
        self.nodes = before
            .iter()
            .zip(after)
            .map(|((node, before), (_, after))| NodeFigures {
                node: node.clone(),
                leader: node == leader,
                cpu_seconds: after.cpu_seconds_since(before),
                resident_bytes: after.resident_bytes,
                peak_bytes: after.peak_bytes,
            })
            .collect();
        self.load_cpu_seconds = load.1.cpu_seconds_since(load.0);
        self
    }
}

/// Everything of one run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// What it was measured on.
    pub(crate) machine: Machine,
    /// The disk in the words of the disk layer.
    pub(crate) disk: String,
    /// The same of the floor.
    pub(crate) floor_disk: String,
    /// The leader at the start.
    pub(crate) leader: String,
    /// Payload of each entry.
    pub(crate) payload_bytes: usize,
    /// Durability class.
    pub(crate) class: String,
    /// `processes` or `one process`.
    pub(crate) mode: String,
    /// Counted seconds of each case.
    pub(crate) seconds: f64,
    /// Counted seconds of each floor.
    pub(crate) floor_seconds: f64,
    /// A durable 4 KiB write, one at a time.
    pub(crate) floor_write: Latency,
    /// One entry to a segment log, one at a time.
    pub(crate) floor_log: Latency,
    /// In the order in which they were run.
    pub(crate) cases: Vec<CaseFigures>,
}

/// An empty table; all columns but the first hold numbers.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Microseconds with as many digits as mean something.
pub(crate) fn shown(us: f64) -> String {
    if us >= 10_000.0 {
        format!("{:.1} ms", us / 1e3)
    } else if us >= 1_000.0 {
        format!("{:.2} ms", us / 1e3)
    } else {
        format!("{us:.0} us")
    }
}

/// The middle one, or the mean of the two in the middle; no number of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match (values.len(), values.get(values.len() / 2)) {
        (_, None) => f64::NAN,
        (count, Some(upper)) if count % 2 == 0 => (values[count / 2 - 1] + upper) / 2.0,
        (_, Some(middle)) => *middle,
    }
}

fn latencies(latency: &Latency) -> [String; 4] {
    [latency.p50_us, latency.p99_us, latency.p999_us, latency.max_us].map(shown)
}

impl Report {
    /// Of what was measured on a bed.
    pub(crate) fn new(bed: &Bed, args: &BedArgs, work: &WorkArgs, cases: Vec<CaseFigures>) -> Self {
        Self {
            machine: Machine::this(),
            disk: bed.disk.split(',').next().unwrap_or_default().to_owned(),
            floor_disk: bed.floor.disk.clone(),
            leader: bed.leader.clone(),
            payload_bytes: work.payload,
            class: work.class_name(),
            mode: if args.in_process { "one process" } else { "processes" }.to_owned(),
            seconds: work.seconds,
            floor_seconds: args.floor_seconds,
            floor_write: Latency::of(&bed.floor.write),
            floor_log: Latency::of(&bed.floor.append),
            cases,
        }
    }

    fn latency_table(&self) -> Table {
        let mut table =
            table(&["work", "appends/s", "entries/s", "p50", "p99", "p99.9", "max", "p50 / floor", "failed"]);
        let floors = [
            ("floor: one durable 4 KiB write", self.floor_write),
            ("floor: segment log, one entry", self.floor_log),
        ];
        for (name, latency) in floors {
            let per_second = ratio(latency.count, self.floor_seconds);
            let mut row = vec![name.to_owned(), format!("{per_second:.0}"), String::new()];
            row.extend(latencies(&latency));
            row.extend([format!("{:.1}", latency.p50_us / self.floor_write.p50_us), String::new()]);
            table.add_row(row);
        }
        for case in &self.cases {
            let mut row = vec![
                case.name.clone(),
                format!("{:.0}", case.appends_per_second),
                format!("{:.0}", case.entries_per_second),
            ];
            row.extend(latencies(&case.latency));
            row.extend([format!("{:.1}", case.p50_over_floor), case.failed.to_string()]);
            table.add_row(row);
            if let Some(reads) = &case.reads {
                let per_second = ratio(reads.count, self.seconds);
                let mut row = vec!["  its reads".to_owned(), format!("{per_second:.0}"), String::new()];
                row.extend(latencies(reads));
                table.add_row(row);
            }
        }
        table
    }

    fn disk_table(&self) -> Table {
        let mut table = table(&["work", "fdatasyncs/s of all logs", "bytes written per entry byte and node"]);
        for case in &self.cases {
            table.add_row([
                case.name.clone(),
                format!("{:.0}", case.fsyncs_per_second),
                format!("{:.2}", case.written_per_entry_byte),
            ]);
        }
        table
    }

    fn usage_table(&self) -> Table {
        let mut header = vec!["node".to_owned()];
        for case in &self.cases {
            header.push(match case.clients {
                Some(clients) => format!("{clients}x{} CPU s", case.entries_per_request),
                None => format!("{:.0}/s CPU s", case.due_per_second.unwrap_or(0.0)),
            });
        }
        header.extend(["resident MiB".to_owned(), "peak MiB".to_owned()]);
        let header: Vec<&str> = header.iter().map(String::as_str).collect();
        let mut table = table(&header);
        let Some(last) = self.cases.last() else { return table };
        for (at, node) in last.nodes.iter().enumerate() {
            let mut row =
                vec![if node.leader { format!("{} (leads)", node.node) } else { node.node.clone() }];
            for case in &self.cases {
                row.push(
                    case.nodes.get(at).map(|node| format!("{:.2}", node.cpu_seconds)).unwrap_or_default(),
                );
            }
            row.extend([
                format!("{:.0}", mebibytes(node.resident_bytes)),
                format!("{:.0}", mebibytes(node.peak_bytes)),
            ]);
            table.add_row(row);
        }
        let mut row = vec!["the load".to_owned()];
        row.extend(self.cases.iter().map(|case| format!("{:.2}", case.load_cpu_seconds)));
        table.add_row(row);
        table
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "five nodes ({}), leader {}, disk {}, class {}, payload {} bytes, {} s each",
            self.mode, self.leader, self.disk, self.class, self.payload_bytes, self.seconds
        )?;
        writeln!(f, "{}", self.latency_table())?;
        writeln!(f, "{}", self.usage_table())?;
        write!(f, "{}", self.disk_table())?;
        for case in &self.cases {
            if let Some(error) = &case.first_error {
                write!(f, "\n{}: first error: {error}", case.name)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::new_histogram;

    #[test]
    fn figures_follow_from_the_histogram() {
        let mut latency = new_histogram().unwrap();
        for ms in 1..=100 {
            latency.record(ms * 1_000_000).unwrap();
        }
        let case = Case {
            pace: Pace::Closed { clients: 4 },
            entries: 1_000,
            work: crate::load::Work {
                journals: vec!["bench".into()],
                payload_bytes: 256,
                class: tercet_proto::v1::DurabilityClass::City,
                accounts: 1_000,
                hot_percent: 0,
                read_percent: 0,
                consistency: tercet_proto::v1::Consistency::Linearizable,
                unary: false,
            },
            warm_up: std::time::Duration::ZERO,
            measured: std::time::Duration::from_secs(10),
            number: 0,
        };
        let outcome = Outcome {
            appends: latency,
            reads: new_histogram().unwrap(),
            in_time: (100, 100_000),
            entries: 100_000,
            failed: 1,
            first_error: Some("x".into()),
            series: Vec::new(),
        };
        let floor = Latency { count: 1, p50_us: 200.0, p99_us: 0.0, p999_us: 0.0, max_us: 0.0 };
        let figures = CaseFigures::new(&case, &outcome, &floor);
        let wrote = LogCounters { fsyncs: 500, written_bytes: 100_000 * 300 * 2 };
        let figures = figures.with_disk(&case, 100_000, 300, wrote);
        assert!((figures.fsyncs_per_second - 50.0).abs() < 1e-9);
        assert!((figures.written_per_entry_byte - 2.0).abs() < 1e-9);
        assert_eq!(figures.name, "4 clients, batches of 1000");
        assert!((figures.appends_per_second - 10.0).abs() < 1e-9);
        assert!((figures.entries_per_second - 10_000.0).abs() < 1e-6);
        assert!((figures.latency.p50_us - 50_000.0).abs() < 100.0);
        assert!((figures.p50_over_floor - 250.0).abs() < 1.0);
    }

    #[test]
    fn latencies_are_shown_with_their_unit() {
        assert_eq!(shown(215.4), "215 us");
        assert_eq!(shown(1_234.5), "1.23 ms");
        assert_eq!(shown(43_210.0), "43.2 ms");
    }

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }
}
