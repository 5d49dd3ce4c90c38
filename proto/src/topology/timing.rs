//! Raft's timing, derived from the declared round trips.
//!
//! Why these numbers (openraft's behaviour, read in its source):
//! - The time limit of an append-entries call is the heartbeat interval, so a heartbeat shorter than the longest round
//!   trip can never succeed. Three round trips leave room for one retransmission and for the follower's flush.
//! - A voter refuses votes for `election_max` after it last heard of a leader (the lease). Two heartbeats are the shortest
//!   lease under which one lost heartbeat costs no election; a longer one only delays failover.
//! - A node stands at the lease's end when the leader's connection has closed, and after one and a half leases of mere
//!   silence (the node's `placement::standing`, the preferred zones first). openraft's own timer, which knows no
//!   preference, fires after the lease plus a sample of `[election_min, election_max)`: it is kept behind the node's.
//! - The floors are for machines, not for networks: nodes that share two loaded cores can be off the CPU for tens of
//!   milliseconds. With a lease of 200 ms a leader must be unheard of for 300 ms before anyone stands, and a lost one is
//!   replaced soon enough for a client to miss it for less than 0.4 s (its process killed) or 0.8 s (its zone silent).
//!
//! Invariants: `largest round trip < heartbeat < election_min < election_max`, and `heartbeat + largest round trip <
//! election_max`, so a lease outlives the gap between two heartbeats. Every node derives the same numbers, because it
//! derives them from the same file.

use super::{Topology, TopologyError};

/// Shortest derived heartbeat, in milliseconds.
const HEARTBEAT_FLOOR_MS: u64 = 60;
/// Shortest derived upper end of the election time-out, in milliseconds.
const ELECTION_MAX_FLOOR_MS: u64 = 200;
/// Largest round trip that makes sense, in milliseconds.
const MAX_RTT_MS: f64 = 10_000.0;
/// Largest interval of any kind, in milliseconds.
const MAX_INTERVAL_MS: u64 = 120_000;

/// What every node's Raft runs with, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats; also the time limit of one append-entries call.
    pub heartbeat_ms: u64,
    /// Lower end of the random part of the election time-out.
    pub election_min_ms: u64,
    /// Upper end of it, and the lease: voters refuse votes for so long after they heard of a leader.
    pub election_max_ms: u64,
}

impl Timing {
    /// Longest time from a leader's death to the first candidate, whatever else fails: the lease, then the random part.
    pub const fn detection_max_ms(&self) -> u64 {
        self.election_max_ms * 2
    }
}

impl Topology {
    /// The timing that follows from the largest declared round trip, and from the overrides.
    ///
    /// Heartbeat: 3 x the round trip, at least 60 ms. Lease: 2 heartbeats, at least 200 ms; the election's random part is the
    /// last tenth of it.
    pub fn timing(&self) -> Timing {
        let settings = &self.timing;
        let heartbeat_ms = settings
            .heartbeat_ms
            .unwrap_or_else(|| ceil_ms(3.0 * self.largest_rtt_ms()).max(HEARTBEAT_FLOOR_MS))
            .min(MAX_INTERVAL_MS);
        let max_from_heartbeat = (heartbeat_ms * 2).max(ELECTION_MAX_FLOOR_MS);
        let min_from_heartbeat = max_from_heartbeat - max_from_heartbeat / 10;
        match (settings.election_min_ms, settings.election_max_ms) {
            (Some(election_min_ms), Some(election_max_ms)) => {
                Timing { heartbeat_ms, election_min_ms, election_max_ms }
            }
            (Some(election_min_ms), None) => {
                let above_min = election_min_ms.saturating_add(election_min_ms / 3 + 1);
                Timing { heartbeat_ms, election_min_ms, election_max_ms: max_from_heartbeat.max(above_min) }
            }
            (None, Some(election_max_ms)) => {
                // Half-way between heartbeat and max where the usual value does not fit between them.
                let usual = election_max_ms - election_max_ms / 10;
                let fits = heartbeat_ms < usual && usual < election_max_ms;
                let fitting = if fits { usual } else { heartbeat_ms.midpoint(election_max_ms) };
                Timing { heartbeat_ms, election_min_ms: fitting, election_max_ms }
            }
            (None, None) => Timing {
                heartbeat_ms,
                election_min_ms: min_from_heartbeat,
                election_max_ms: max_from_heartbeat,
            },
        }
    }

    /// The declared round trip between two zones, in milliseconds; 0 within a zone, none if it is not declared.
    pub fn rtt_ms(&self, zone: &str, other: &str) -> Option<f64> {
        if zone == other {
            return Some(0.0);
        }
        let declared = &self.timing.rtt_ms;
        declared.get(&format!("{zone}-{other}")).or_else(|| declared.get(&format!("{other}-{zone}"))).copied()
    }

    /// The largest declared round trip, in milliseconds.
    pub fn largest_rtt_ms(&self) -> f64 {
        self.timing.rtt_ms.values().copied().fold(0.0, f64::max)
    }

    pub(super) fn validate_rtts(&self) -> Result<(), TopologyError> {
        for (pair, &ms) in &self.timing.rtt_ms {
            let field = format!("timing.rtt_ms.\"{pair}\"");
            let Some((zone, other)) = pair.split_once('-') else {
                return Err(TopologyError::invalid(
                    field,
                    "is not two zones joined by a hyphen, like \"a-b\"",
                ));
            };
            for name in [zone, other] {
                if self.zone(name).is_none() {
                    return Err(TopologyError::invalid(field, format!("unknown zone {name:?}")));
                }
            }
            if zone == other {
                return Err(TopologyError::invalid(field, "names the same zone twice"));
            }
            if self.timing.rtt_ms.contains_key(&format!("{other}-{zone}")) {
                return Err(TopologyError::invalid(
                    field,
                    format!("is declared twice, also as \"{other}-{zone}\""),
                ));
            }
            if !(ms > 0.0 && ms <= MAX_RTT_MS) {
                return Err(TopologyError::invalid(
                    field,
                    format!("{ms} is not above 0 and at most {MAX_RTT_MS}"),
                ));
            }
        }
        for (at, zone) in self.zones.iter().enumerate() {
            for other in &self.zones[at + 1..] {
                if self.rtt_ms(&zone.name, &other.name).is_none() {
                    let pair = format!("\"{}-{}\"", zone.name, other.name);
                    return Err(TopologyError::invalid(
                        "timing.rtt_ms",
                        format!("the pair {pair} is missing"),
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn validate_timing(&self) -> Result<(), TopologyError> {
        let refuse =
            |field: &str, message: String| Err(TopologyError::invalid(format!("timing.{field}"), message));
        let settings = &self.timing;
        let overrides = [
            ("heartbeat_ms", settings.heartbeat_ms),
            ("election_min_ms", settings.election_min_ms),
            ("election_max_ms", settings.election_max_ms),
        ];
        for (field, value) in overrides {
            if value.is_some_and(|ms| ms == 0 || ms > MAX_INTERVAL_MS) {
                return refuse(field, format!("is not from 1 to {MAX_INTERVAL_MS}"));
            }
        }
        let Timing { heartbeat_ms, election_min_ms, election_max_ms } = self.timing();
        let rtt_ms = ceil_ms(self.largest_rtt_ms());
        if heartbeat_ms <= rtt_ms {
            let why = "an answer would always come too late";
            return refuse(
                "heartbeat_ms",
                format!("{heartbeat_ms} is not above the largest round trip, {rtt_ms}: {why}"),
            );
        }
        if election_min_ms >= election_max_ms {
            return refuse(
                "election_min_ms",
                format!("{election_min_ms} is not below election_max_ms, {election_max_ms}"),
            );
        }
        if election_min_ms <= heartbeat_ms {
            return refuse(
                "election_min_ms",
                format!("{election_min_ms} is not above the heartbeat, {heartbeat_ms}"),
            );
        }
        if election_max_ms <= heartbeat_ms + rtt_ms {
            let gap = heartbeat_ms + rtt_ms;
            return refuse(
                "election_max_ms",
                format!("{election_max_ms} is not above heartbeat and round trip, {gap}"),
            );
        }
        Ok(())
    }
}

/// Whole milliseconds, rounded up; 0 for what is negative or not a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=MAX_INTERVAL_MS, which both types hold exactly"
)]
fn ceil_ms(ms: f64) -> u64 {
    const TOP: f64 = 120_000.0;
    if ms.is_nan() { 0 } else { ms.ceil().clamp(0.0, TOP) as u64 }
}
