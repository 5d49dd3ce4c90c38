//! What a node in another site than its leader's can prove, beside what its log holds.
//!
//! Invariant: what is said to be here is compared with the log, never only repeated from the tuple.

use std::fmt;
use std::path::Path;

use serde_json::{Value, json};
use tercet_storage::GroupId;
use tercet_storage::inspect::InspectReport;

use crate::ctl::output::utc;
use crate::proof::{self, Proof};

/// A group's tuple, and up to where its log goes.
pub(super) struct Proven {
    group: GroupId,
    /// The tuple, or why it cannot be read.
    proof: Result<Proof, String>,
    last_index: u64,
}

/// The tuples beside a log; `log_dir` is the `log` directory of a data directory.
pub(super) fn of(log_dir: &Path, report: &InspectReport) -> Vec<Proven> {
    let Some(data_dir) = log_dir.parent() else { return Vec::new() };
    let found = report.groups.iter().filter_map(|(group, state)| {
        let proof = match proof::read(data_dir, *group) {
            Ok(None) => return None,
            Ok(Some(proof)) => Ok(proof),
            Err(error) => Err(error.to_string()),
        };
        let last_index = state.last.map_or(0, |point| point.index);
        Some(Proven { group: *group, proof, last_index })
    });
    found.collect()
}

impl Proven {
    pub(super) fn to_json(&self) -> Value {
        let proof = match &self.proof {
            Ok(proof) => proof,
            Err(error) => return json!({ "type": "proof", "group": self.group, "error": error }),
        };
        json!({
            "type": "proof", "group": self.group, "term": proof.term, "leader": proof.leader,
            "written_us": proof.written_us, "quorum_us": proof.quorum_us,
            "echoed_index": proof.echoed_index, "echoed_us": proof.echoed_us,
            "geo_acked": proof.geo_acked, "holds_geo_acked": self.last_index >= proof.geo_acked,
            "flushed": proof.flushed, "regime": regime(proof),
            "degrade_after_ms": proof.degrade_after_ms,
            "degraded_since": (proof.degraded_since > 0).then_some(proof.degraded_since),
            "degraded_not_before_us": proof.degraded_not_before_us(),
        })
    }
}

fn regime(proof: &Proof) -> &'static str {
    match (proof.degraded_since > 0, proof.adaptive) {
        (true, _) => "degraded",
        (false, true) => "adaptive",
        (false, false) => "required",
    }
}

impl fmt::Display for Proven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match &self.proof {
            Ok(proof) => proof,
            Err(error) => return write!(f, "proof of group {}: cannot be read: {error}", self.group),
        };
        let Proof { term, leader, geo_acked, flushed, .. } = proof;
        writeln!(
            f,
            "proof of group {}: from leader {leader} in term {term}, regime {}",
            self.group,
            regime(proof)
        )?;
        let here =
            if self.last_index >= *geo_acked { "all of it is here" } else { "NOT all of it is in this log" };
        writeln!(
            f,
            "  acknowledged as geo up to index {geo_acked}: {here} (flushed and matched through {flushed})"
        )?;
        writeln!(
            f,
            "  the leader's last quorum: {}; it had counted index {} of this node at {}",
            utc(proof.quorum_us),
            proof.echoed_index,
            utc(proof.echoed_us)
        )?;
        match (proof.degraded_since, proof.degraded_not_before_us()) {
            (0, Some(at)) => write!(
                f,
                "  degraded acknowledgements cannot have begun before {}, by the leader's clock",
                utc(at)
            ),
            (0, None) => write!(f, "  the leader never degrades geo by itself"),
            (since, _) => write!(
                f,
                "  degraded since log index {since}: what was acknowledged later may be missing here"
            ),
        }
    }
}
