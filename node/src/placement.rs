//! Placement: how far the log is flushed where a durability class demands it. Pure: no clock, no I/O.
//!
//! Commit and acknowledgement are two things: Raft commits by majority; a client hears of its append when the placement gate
//! finds it where its class demands.
//!
//! Invariants:
//! - A watermark covers only entries that are committed for good: it passes an index only if the leader wrote the entry there
//!   in its own term (Raft's commit rule), so it never needs to go back, whoever leads next.
//! - Acknowledgements count per leader term and only ever grow within one.
//! - Nobody but voters counts.
//!
//! | class | holds when flushed on a majority of the voters and ... |
//! |---|---|
//! | `city` | in at least two zones (if the voters stand in one zone only: the majority alone) |
//! | `geo` | on at least one voter in every site |

mod acks;
mod clocks;
mod contact;
mod electorate;
mod exposure;
mod lag;
mod leadership;
mod membership;
mod outlook;
mod queue;
mod regime;
mod spare;
mod standing;
#[cfg(test)]
mod tests;
mod watermarks;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fmt::Write as _;

use tercet_proto::v1::DurabilityClass;
use tercet_storage::mutants;

pub use acks::Acks;
pub use clocks::{CLOCK_OFF, CLOCK_WARN, Clocks, Offset, Reading, Readings};
pub use contact::{ContactWatch, Told};
pub use electorate::Electorate;
pub use exposure::{Exposure, Missing, Now, exposure};
pub use lag::Lag;
pub use leadership::{Candidate, LeadershipPolicy, better_leader, refuge};
pub use membership::{Weaker, held_in_its_site_without, keeps_placement};
pub use outlook::{ClassOutlook, Outlook, Ranked, outlook};
pub use queue::ReplyQueue;
pub use regime::{Budget, Change, Cost, Policy, RegimeClock, RegimeWatch, Seen};
pub use spare::{is_spare, stands_for_its_site};
pub use standing::{Rival, Situation, StandingPolicy, Step};
pub use watermarks::{Placed, Watermarks};

/// Where an entry must be flushed before its ack. `Geo` is the stronger one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// A majority of voters in at least two zones.
    City,
    /// A majority of voters and at least one voter in every site.
    Geo,
}

impl Class {
    /// Every class, weaker first.
    pub const ALL: [Self; 2] = [Self::City, Self::Geo];

    /// The word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::City => "city",
            Self::Geo => "geo",
        }
    }

    /// The class of a request to a journal whose default is `default`: never weaker than that.
    #[must_use]
    pub fn of_request(asked: DurabilityClass, default: Self) -> Self {
        match asked {
            DurabilityClass::Unspecified => default,
            DurabilityClass::City => default.max(Self::City),
            DurabilityClass::Geo => default.max(Self::Geo),
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<DurabilityClass> for Class {
    /// Unspecified is `city`, the weakest.
    fn from(class: DurabilityClass) -> Self {
        match class {
            DurabilityClass::Unspecified | DurabilityClass::City => Self::City,
            DurabilityClass::Geo => Self::Geo,
        }
    }
}

impl From<Class> for DurabilityClass {
    fn from(class: Class) -> Self {
        match class {
            Class::City => Self::City,
            Class::Geo => Self::Geo,
        }
    }
}

/// A voter and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voter {
    /// Its node id.
    pub node_id: u64,
    /// The zone's name.
    pub zone: String,
    /// The name of the zone's site.
    pub site: String,
}

impl Voter {
    /// A voter.
    pub fn new(node_id: u64, zone: impl Into<String>, site: impl Into<String>) -> Self {
        Self { node_id, zone: zone.into(), site: site.into() }
    }
}

/// The highest index that is flushed where class `city` demands; 0: none. `acked` holds, per node, the index through which its
/// log is flushed and equal to the leader's.
#[must_use]
pub fn city_watermark(voters: &[Voter], acked: &BTreeMap<u64, u64>) -> u64 {
    watermark(Class::City, voters, acked)
}

/// The highest index that is flushed where class `geo` demands; 0: none.
#[must_use]
pub fn geo_watermark(voters: &[Voter], acked: &BTreeMap<u64, u64>) -> u64 {
    watermark(Class::Geo, voters, acked)
}

/// The highest index that is flushed where `class` demands; 0: none.
///
/// Only an acknowledged index can be the highest one: walk the voters from the best acknowledged down, until those so far
/// satisfy the class.
#[must_use]
pub fn watermark(class: Class, voters: &[Voter], acked: &BTreeMap<u64, u64>) -> u64 {
    let mut best_first: Vec<(u64, &Voter)> = voters
        .iter()
        .filter_map(|voter| acked.get(&voter.node_id).map(|index| (*index, voter)))
        .filter(|(index, _)| *index > 0)
        .collect();
    best_first.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    let mut holding = Vec::with_capacity(best_first.len());
    for (index, voter) in best_first {
        holding.push(voter);
        if satisfies(class, voters, &holding) {
            return index;
        }
    }
    0
}

/// Whether an entry that is flushed on `holding` is placed as `class` demands.
fn satisfies(class: Class, voters: &[Voter], holding: &[&Voter]) -> bool {
    let class = if mutants::is("site-ignored") { Class::City } else { class };
    holding.len() >= majority(voters) && missing_places(class, voters, holding).is_none()
}

fn majority(voters: &[Voter]) -> usize {
    voters.len() / 2 + 1
}

/// What the class demands besides a majority and `holding` lacks, in words.
fn missing_places(class: Class, voters: &[Voter], holding: &[&Voter]) -> Option<String> {
    let lost: Vec<&str> = in_order(voters.iter().map(|voter| voter.site.as_str()))
        .into_iter()
        .filter(|site| class == Class::Geo && !holding.iter().any(|voter| voter.site == *site))
        .collect();
    if !lost.is_empty() {
        return Some(format!("a voter in site {}", lost.join(" and in site ")));
    }
    // Wherever the voters are: if all of them are in one zone, nothing is in two.
    match in_order(holding.iter().map(|voter| voter.zone.as_str())).as_slice() {
        [] => Some("two zones".to_owned()),
        [only] => Some(format!("a second zone besides {only}")),
        _ => None,
    }
}

/// Each name once, in the order of first appearance.
fn in_order<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// Whether `class` can be reached with the voters that are in contact (the leader itself included): [`reachable`] without the words.
/// Asked for each request.
#[must_use]
pub fn is_reachable(class: Class, voters: &[Voter], is_in_contact: impl Fn(u64) -> bool) -> bool {
    let holding = || voters.iter().filter(|voter| is_in_contact(voter.node_id));
    let first = holding().next();
    let spans_zones = first.is_some_and(|first| holding().any(|voter| voter.zone != first.zone));
    let spans_sites = || voters.iter().all(|voter| holding().any(|other| other.site == voter.site));
    holding().count() >= majority(voters) && spans_zones && (class == Class::City || spans_sites())
}

/// Whether `class` can be reached with the voters that are in contact (the leader itself included).
///
/// # Errors
/// What is missing, for PLACEMENT_UNREACHABLE.
pub fn reachable(class: Class, voters: &[Voter], in_contact: &BTreeSet<u64>) -> Result<(), String> {
    let holding: Vec<&Voter> = voters.iter().filter(|voter| in_contact.contains(&voter.node_id)).collect();
    let mut missing = Vec::new();
    if holding.len() < majority(voters) {
        missing.push(format!(
            "{} of {} voters in contact, {} needed",
            holding.len(),
            voters.len(),
            majority(voters)
        ));
    }
    if let Some(places) = missing_places(class, voters, &holding) {
        missing.push(format!("no contact with {places}"));
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("class {class} cannot be reached: {}", missing.join("; ")))
}

/// The zones with a voter that is known to hold `index`, in the topology's order (the order of `voters`).
#[must_use]
pub fn holders(voters: &[Voter], acked: &BTreeMap<u64, u64>, index: u64) -> Vec<String> {
    let holds = |voter: &&Voter| acked.get(&voter.node_id).is_some_and(|acked| *acked >= index);
    in_order(voters.iter().filter(holds).map(|voter| voter.zone.as_str()))
        .into_iter()
        .map(str::to_owned)
        .collect()
}

/// The acknowledgements as a picture: a line per voter with its place and a bar up to its index, then each class' watermark.
#[must_use]
pub fn describe(voters: &[Voter], acked: &BTreeMap<u64, u64>) -> String {
    const BAR_CHARS: u64 = 20;
    let highest = acked.values().copied().max().unwrap_or(0).max(1);
    let mut text = String::new();
    for voter in voters {
        let acked_here = acked.get(&voter.node_id).copied();
        let filled = acked_here.unwrap_or(0).saturating_mul(BAR_CHARS) / highest;
        let bar: String = (0..BAR_CHARS).map(|at| if at < filled { 'x' } else { '.' }).collect();
        let shown = acked_here.map_or_else(|| "-".to_owned(), |index| index.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{bar} {shown:>8}  node {} zone {} site {}",
            voter.node_id, voter.zone, voter.site
        );
    }
    for class in Class::ALL {
        let _ = writeln!(text, "{class} {}", watermark(class, voters, acked));
    }
    text
}
