//! What a run came to: JSON for programs, lines and a page ([`page`]) for people.
//!
//! RTO around a fault is the longest time without an acknowledged append from the fault's beginning to the beginning of
//! the next one (or to the end of the workload); RPO is the number of acknowledged keys that are not in the final log.

pub mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::checker::{ByClass, Judgement};
use crate::history::{Call, Class, FaultSpan, History, Outcome};
use crate::probe::BlackholeProof;
use crate::proxy::LinkCounts;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every invariant and every expectation holds.
    Pass,
    /// One does not.
    Violation,
}

/// A fault and what clients felt of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FaultReport {
    /// What was done and when.
    #[serde(flatten)]
    pub span: FaultSpan,
    /// Longest time without an acknowledgement around it, in milliseconds.
    pub rto_ms: f64,
    /// How often another node, or the same one in another term, began to lead from its beginning to the next one's.
    pub leader_changes: u64,
}

/// A link and its counters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LinkReport {
    /// Where its bytes come from.
    pub from: String,
    /// Where they go.
    pub to: String,
    /// What happened on it.
    #[serde(flatten)]
    pub counts: LinkCounts,
}

/// A node that was seen to lead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaderReport {
    /// When it was first seen so, in nanoseconds.
    pub t: u64,
    /// Its term.
    pub term: u64,
    /// Its name.
    pub node: String,
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// What random choices were drawn from.
    pub seed: u64,
    /// The commit of the working directory, and whether it was changed since.
    pub commit: String,
    /// SHA-256 of the executable that was tested.
    pub executable: String,
    /// The version that the nodes state.
    pub version: String,
    /// The disk that the nodes use.
    pub disk: String,
    /// From the first invocation to the last return, in seconds.
    pub workload_seconds: f64,
    /// Processes killed.
    pub kills: u64,
    /// What the harness saw of its own blackholes.
    pub proofs: Vec<BlackholeProof>,
    /// Packets that blackholes dropped; none: proxies held bytes instead.
    pub packets_dropped: Option<u64>,
    /// What the checker says; none if there was no final log to check.
    pub judgement: Option<Judgement>,
    /// Longest time without an acknowledgement in the whole run, in milliseconds.
    pub rto_ms: f64,
    /// By number.
    pub faults: Vec<FaultReport>,
    /// In the order in which they were seen.
    pub leaders: Vec<LeaderReport>,
    /// By endpoints.
    pub links: Vec<LinkReport>,
    /// What was expected beyond the checker's invariants, and is not so.
    pub unmet: Vec<String>,
    /// The whole.
    pub verdict: Verdict,
}

/// When appends were acknowledged, and how long there was none.
#[derive(Debug)]
pub struct Acknowledgements {
    times: Vec<u64>,
    begin: u64,
    end: u64,
}

impl Acknowledgements {
    /// Of a history.
    pub fn of(history: &History) -> Self {
        let mut times = Vec::new();
        let (mut begin, mut end) = (u64::MAX, 0);
        for operation in &history.operations {
            begin = begin.min(operation.invoked);
            end = end.max(operation.invoked);
            let Some((t, outcome)) = &operation.returned else { continue };
            end = end.max(*t);
            if matches!((&operation.call, outcome), (Call::Append { .. }, Outcome::Appended { .. })) {
                times.push(*t);
            }
        }
        times.sort_unstable();
        Self { times, begin: begin.min(end), end }
    }

    /// The workload's length, in seconds.
    pub fn seconds(&self) -> f64 {
        to_ms(self.end - self.begin) / 1e3
    }

    /// Times without an acknowledgement that are longer than `least` nanoseconds.
    pub fn gaps(&self, least: u64) -> impl Iterator<Item = (u64, u64)> {
        self.stops()
            .zip(self.stops().skip(1))
            .filter(move |(left, right)| right.saturating_sub(*left) > least)
    }

    /// The workload's beginning, every acknowledgement, its end.
    fn stops(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.begin).chain(self.times.iter().copied()).chain(std::iter::once(self.end))
    }

    /// Longest time without an acknowledgement that touches `from..to`, in nanoseconds. Before the first and after the last
    /// one the workload's ends count.
    pub fn longest_gap(&self, from: u64, to: u64) -> u64 {
        self.stops()
            .zip(self.stops().skip(1))
            .filter(|(left, right)| *right > from && *left < to)
            .map(|(left, right)| right.saturating_sub(left))
            .max()
            .unwrap_or(0)
    }

    /// When the last operation returned, in nanoseconds.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many appends were acknowledged in `from..to`.
    pub fn between(&self, from: u64, to: u64) -> usize {
        self.times.iter().filter(|t| (from..to).contains(*t)).count()
    }

    /// Longest time without an acknowledgement at all, in milliseconds.
    pub fn rto_ms(&self) -> f64 {
        to_ms(self.longest_gap(self.begin, self.end))
    }

    /// Each fault with the longest gap around it, and the terms of `led` that began.
    pub fn around(&self, faults: &[FaultSpan], led: &BTreeMap<u64, u64>) -> Vec<FaultReport> {
        let next_begin = |fault: &FaultSpan| {
            faults
                .iter()
                .map(|other| other.begin)
                .filter(|begin| *begin > fault.begin)
                .min()
                .unwrap_or(self.end)
        };
        faults
            .iter()
            .map(|fault| FaultReport {
                span: fault.clone(),
                rto_ms: to_ms(self.longest_gap(fault.begin, next_begin(fault))),
                leader_changes: led.values().filter(|t| (fault.begin..next_begin(fault)).contains(*t)).count()
                    as u64,
            })
            .collect()
    }
}

/// Nanoseconds in milliseconds.
#[expect(clippy::cast_precision_loss, reason = "a run lasts far less than 2^52 ns")]
pub fn to_ms(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e6
}

/// Every term of group 0 that anybody knew a leader of, and when that was first seen: a leader that no observation caught is
/// remembered by those that it led.
pub fn terms_led(history: &History) -> BTreeMap<u64, u64> {
    let mut first_seen = BTreeMap::new();
    for seen in history.observations.iter().filter(|seen| seen.group == 0 && !seen.leader.is_empty()) {
        let t = first_seen.entry(seen.term).or_insert(seen.t);
        *t = seen.t.min(*t);
    }
    first_seen
}

/// The leaders that observations show.
pub fn leaders(history: &History) -> Vec<LeaderReport> {
    let mut leaders: Vec<LeaderReport> = Vec::new();
    for seen in history.observations.iter().filter(|seen| seen.role == "leader" && seen.group == 0) {
        if !leaders.iter().any(|known| known.term == seen.term && known.node == seen.node) {
            leaders.push(LeaderReport { t: seen.t, term: seen.term, node: seen.node.clone() });
        }
    }
    leaders
}

/// `; of city 5 acknowledged, 0 lost; of geo ...`
fn classes(judgement: &Judgement) -> String {
    let of_class = |(class, counts): (&Class, &ByClass)| {
        let name = match class {
            Class::City => "city",
            Class::Geo => "geo",
        };
        format!("; of class {name} {} acknowledged, {} lost", counts.acknowledged, counts.lost)
    };
    judgement.by_class.iter().map(of_class).collect()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "scenario   {} (seed {}, disk {}, version {})",
            self.scenario, self.seed, self.disk, self.version
        )?;
        if let Some(judgement) = &self.judgement {
            for (name, counts) in [("appends", judgement.appends), ("reads", judgement.reads)] {
                writeln!(
                    f,
                    "{name:<10} {} ok, {} refused, {} unknown, of {} in {:.1} s",
                    counts.ok, counts.refused, counts.unknown, counts.invoked, self.workload_seconds
                )?;
            }
            writeln!(
                f,
                "final log  {} entries; {} keys acknowledged, {} unknown ones present, {} absent",
                judgement.final_entries,
                judgement.acknowledged_keys,
                judgement.unknown_present,
                judgement.unknown_absent
            )?;
            writeln!(f, "RPO        {} acknowledged keys lost{}", judgement.lost, classes(judgement))?;
        }
        writeln!(f, "RTO        {:.0} ms: the longest time without an acknowledgement", self.rto_ms)?;
        writeln!(f, "faults     {}, {} processes killed", self.faults.len(), self.kills)?;
        for fault in &self.faults {
            let span = &fault.span;
            let end = span
                .end
                .map_or_else(|| "never undone".to_owned(), |end| format!("{:.2} s", to_ms(end) / 1e3));
            writeln!(
                f,
                "  {:>7.2} s to {end}  {}  (RTO {:.0} ms, {} leader changes)",
                to_ms(span.begin) / 1e3,
                span.what,
                fault.rto_ms,
                fault.leader_changes
            )?;
        }
        if !self.proofs.is_empty() {
            writeln!(
                f,
                "blackholes {} health requests over blackholed links, every one met its own deadline",
                self.proofs.len()
            )?;
        }
        if let Some(packets) = self.packets_dropped {
            writeln!(f, "dropped    {packets} packets")?;
        }
        let leaders: Vec<String> =
            self.leaders.iter().map(|seen| format!("{} (term {})", seen.node, seen.term)).collect();
        writeln!(f, "leaders    {}", leaders.join(", "))?;
        for violation in self.judgement.iter().flat_map(|judgement| &judgement.violations) {
            writeln!(f, "VIOLATED   {violation}")?;
        }
        for unmet in &self.unmet {
            writeln!(f, "NOT MET    {unmet}")?;
        }
        match self.verdict {
            Verdict::Pass => f.write_str("verdict    PASS"),
            Verdict::Violation => f.write_str("verdict    VIOLATION"),
        }
    }
}
