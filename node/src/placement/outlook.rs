//! What is left after a loss: by trying it, on the voters and on the definition of the classes.
//!
//! Invariant: nothing is concluded from a formula. What a class can be reached with, and what could be lost with it, is asked of
//! the same function that the gate asks.

use std::collections::BTreeSet;

use super::{Class, Voter, majority, satisfies};

/// A voter as a leader of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    /// The voter.
    pub voter: Voter,
    /// Its zone's rank in the group; 1 is the most preferred.
    pub preference: u32,
}

/// What is left of one class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassOutlook {
    /// Entries of the class can be acknowledged.
    pub reachable: bool,
    /// What was acknowledged as this class is on a voter that is left, whatever the voters were that acknowledged it: RPO 0.
    pub kept: bool,
    /// The round trip that an acknowledgement needs, from the leader to the last voter that it waits for, milliseconds; none if
    /// the class cannot be reached or there is no leader.
    pub round_trip_ms: Option<f64>,
}

/// What is left after a loss.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Voters that are left.
    pub voters_left: usize,
    /// Voters in all.
    pub voters: usize,
    /// They elect a leader and commit.
    pub quorum: bool,
    /// The zone that would lead and its voters; none without a quorum.
    pub leader: Option<(String, Vec<u64>)>,
    /// Class `city`.
    pub city: ClassOutlook,
    /// Class `geo`.
    pub geo: ClassOutlook,
}

impl Outlook {
    /// Of a class.
    #[must_use]
    pub const fn of(&self, class: Class) -> &ClassOutlook {
        match class {
            Class::City => &self.city,
            Class::Geo => &self.geo,
        }
    }
}

/// What is left when the nodes of `lost` are lost. `rtt_ms` is the round trip between two zones.
#[must_use]
pub fn outlook(
    ranked: &[Ranked],
    lost: &BTreeSet<u64>,
    rtt_ms: impl Fn(&str, &str) -> Option<f64>,
) -> Outlook {
    let voters: Vec<Voter> = ranked.iter().map(|ranked| ranked.voter.clone()).collect();
    let (gone, left): (Vec<&Ranked>, Vec<&Ranked>) =
        ranked.iter().partition(|ranked| lost.contains(&ranked.voter.node_id));
    let gone: Vec<&Voter> = gone.into_iter().map(|ranked| &ranked.voter).collect();
    let quorum = left.len() >= majority(&voters);
    let leader = leader_of(&left).filter(|_| quorum);
    let left: Vec<&Voter> = left.into_iter().map(|ranked| &ranked.voter).collect();
    let class = |class| {
        let from = leader.as_ref().map(|(zone, _)| zone.as_str());
        let round_trip_ms = from.and_then(|zone| round_trip(class, &voters, &left, zone, &rtt_ms));
        ClassOutlook {
            reachable: quorum && satisfies(class, &voters, &left),
            // Whatever satisfies the class has a voter outside of what is lost, unless what is lost satisfies it alone.
            kept: !satisfies(class, &voters, &gone),
            round_trip_ms,
        }
    };
    let (city, geo) = (class(Class::City), class(Class::Geo));
    Outlook { voters_left: left.len(), voters: voters.len(), quorum, leader, city, geo }
}

/// The most preferred zone with a voter that is left, and those voters.
fn leader_of(left: &[&Ranked]) -> Option<(String, Vec<u64>)> {
    let best = left.iter().min_by_key(|ranked| ranked.preference)?;
    let zone = &best.voter.zone;
    let nodes = left.iter().filter(|ranked| ranked.voter.zone == *zone).map(|ranked| ranked.voter.node_id);
    Some((zone.clone(), nodes.collect()))
}

/// The nearest voters of `left` that satisfy the class, seen from zone `from`: the round trip to the farthest of them.
fn round_trip(
    class: Class,
    voters: &[Voter],
    left: &[&Voter],
    from: &str,
    rtt_ms: impl Fn(&str, &str) -> Option<f64>,
) -> Option<f64> {
    let mut nearest_first: Vec<(f64, &Voter)> = left
        .iter()
        .filter_map(|voter| Some((if voter.zone == from { 0.0 } else { rtt_ms(from, &voter.zone)? }, *voter)))
        .collect();
    nearest_first.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    let mut holding = Vec::new();
    nearest_first.into_iter().find_map(|(ms, voter)| {
        holding.push(voter);
        satisfies(class, voters, &holding).then_some(ms)
    })
}
