//! The figures of `tercet-bench failover`: JSON for programs, tables for people.

use std::fmt;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::cluster::Fault;
use crate::machine::Machine;

/// One loss of the leader's zone.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    /// How it was lost.
    pub(crate) kind: Fault,
    /// The zone.
    pub(crate) zone: String,
    /// Who led before.
    pub(crate) leader: String,
    /// The first leader after it, as a node reported it.
    pub(crate) new_leader: String,
    /// The longest pause between two acknowledgements.
    pub(crate) gap_ms: f64,
    /// From the fault until a node first reported a leader elsewhere.
    pub(crate) elected_ms: Option<f64>,
    /// Entries acknowledged since the round before.
    pub(crate) acknowledged: usize,
    /// Of these, how many could not be read back.
    pub(crate) lost: usize,
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elected = self.elected_ms.map_or("?".to_owned(), |ms| format!("{ms:.0}"));
        write!(
            f,
            "{} -> {}  gap {:>6.1} ms, leader after {elected:>4} ms, {} acknowledged, {} lost",
            self.leader, self.new_leader, self.gap_ms, self.acknowledged, self.lost
        )
    }
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What it ran on.
    pub(crate) machine: Machine,
    /// Raft's timing.
    pub(crate) timing: String,
    /// Requests that ended without a receipt.
    pub(crate) failed_requests: u64,
    /// In the order in which they were run.
    pub(crate) rounds: Vec<Round>,
}

/// The value that so many in a hundred are at or below; `sorted` is not empty.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

impl Report {
    fn row(&self, kind: Fault) -> Option<Vec<String>> {
        let rounds: Vec<&Round> = self.rounds.iter().filter(|round| round.kind == kind).collect();
        let gaps = sorted(rounds.iter().map(|round| round.gap_ms));
        let elected = sorted(rounds.iter().filter_map(|round| round.elected_ms));
        let (least, most) = (gaps.first()?, gaps.last()?);
        let ms = |value: f64| format!("{value:.0} ms");
        let elected_ms = if elected.is_empty() { String::new() } else { ms(percentile(&elected, 50)) };
        Some(vec![
            kind.to_string(),
            rounds.len().to_string(),
            ms(*least),
            ms(percentile(&gaps, 50)),
            ms(percentile(&gaps, 90)),
            ms(*most),
            elected_ms,
            rounds.iter().map(|round| round.acknowledged).sum::<usize>().to_string(),
            rounds.iter().map(|round| round.lost).sum::<usize>().to_string(),
        ])
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(f, "five nodes, one-way delays as half the declared round trips; {}", self.timing)?;
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header([
            "leader's zone lost by",
            "rounds",
            "gap min",
            "median",
            "p90",
            "max",
            "leader elected (median)",
            "acknowledged",
            "lost",
        ]);
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in [Fault::Kill, Fault::Blackhole].into_iter().filter_map(|kind| self.row(kind)) {
            table.add_row(row);
        }
        writeln!(f, "{table}")?;
        for kind in [Fault::Kill, Fault::Blackhole] {
            let gaps: Vec<String> = self
                .rounds
                .iter()
                .filter(|round| round.kind == kind)
                .map(|round| format!("{:.0}", round.gap_ms))
                .collect();
            if !gaps.is_empty() {
                writeln!(f, "{kind}, ms: {}", gaps.join(" "))?;
            }
        }
        write!(f, "requests that ended without a receipt: {}", self.failed_requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let values = sorted([5.0, 1.0, 3.0, 2.0, 4.0].into_iter());
        assert_eq!([1, 50, 90, 100].map(|percent| percentile(&values, percent)), [1.0, 3.0, 5.0, 5.0]);
        assert_eq!(percentile(&[7.0], 50), 7.0);
    }
}
