//! Whether this group can do its work as far as this node knows: a leader with a majority, and this node a member.
//!
//! Invariants: nothing here is asked of anybody; that a node was removed is only believed of a membership that is newer than its own,
//! and no longer than until it hears a leader again; neither is ever a reason to vote or not to.

use std::sync::PoisonError;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use tercet_proto::v1;
use tokio::time::Instant;

use super::Group;
use crate::placement::Offset;
use crate::raft::types::{LogId, term_of};

/// A leader or a majority that has been away for so long is said to be lost. Elections and transfers take less.
pub const QUORUM_LOST_AFTER: Duration = Duration::from_secs(2);

/// A membership that does not include this node: where it stands, (term, index), and when this node was told of it.
pub(super) type Removal = ((u64, u64), Instant);

fn place(at: Option<&LogId>) -> (u64, u64) {
    at.map_or((0, 0), |at| (term_of(at), at.index))
}

impl Group {
    /// For how long this node has known of no leader that a majority follows.
    #[must_use]
    pub fn without_quorum(&self) -> Duration {
        if self.is_leader() {
            return self.gate.without_quorum().unwrap_or_default();
        }
        self.contact.without_quorum()
    }

    /// The same, once it is worth to be told.
    #[must_use]
    pub fn quorum_lost(&self) -> Option<Duration> {
        Some(self.without_quorum()).filter(|lost| *lost >= QUORUM_LOST_AFTER)
    }

    /// A member that has not answered its leader for so long is lost.
    #[must_use]
    pub fn contact_lost_after(&self) -> Duration {
        Duration::from_millis(self.params.timing.election_max_ms.saturating_mul(3))
    }

    /// The other members as this leader knows them, voters or not: each with the time since its last answer in this term.
    #[must_use]
    pub fn contacts(&self) -> Vec<(u64, Option<Duration>)> {
        let voters = self.gate.replicas().into_iter().map(|(node, _, contact)| (node, contact));
        let learners = self.learners().into_iter();
        let learners =
            learners.map(|learner| (learner.node_id, learner.last_contact_ms.map(Duration::from_millis)));
        voters.chain(learners).filter(|(node, _)| *node != self.params.node_id).collect()
    }

    /// What this leader has measured of a node's clock.
    pub(super) fn clock_of(&self, node: u64) -> Option<v1::ClockOffset> {
        let Offset { ahead_us, error_us } = self.gate.offset_of(node)?;
        Some(v1::ClockOffset { ahead_us, error_us })
    }

    /// Where the newest membership that this node knows stands in the log, and whether `node` belongs to it. None: it knows of none.
    #[must_use]
    pub fn belongs(&self, node: u64) -> Option<((u64, u64), bool)> {
        let metrics = self.raft.server_metrics();
        let seen = metrics.borrow_watched();
        let membership = seen.membership_config.membership();
        membership.nodes().next()?;
        Some((
            place(seen.membership_config.log_id().as_ref()),
            membership.nodes().any(|(id, ())| *id == node),
        ))
    }

    /// Another node knows of a membership that stands there, and says whether this node belongs to it. A leader that removes a node
    /// sends it nothing any more, often not even that.
    pub fn told_of_membership(&self, at: (u64, u64), belongs: bool) {
        let is_newer = self.belongs(self.params.node_id).is_some_and(|(known, _)| at > known);
        let mut removal = self.removal.lock().unwrap_or_else(PoisonError::into_inner);
        if belongs {
            *removal = removal.filter(|(known, _)| *known > at);
        } else if is_newer && removal.is_none_or(|(known, _)| at > known) {
            *removal = Some((at, Instant::now()));
        }
    }

    /// Whether this node was a member and is none any more, as far as it knows.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        let Some((known, belongs)) = self.belongs(self.params.node_id) else { return false };
        if !belongs {
            return true;
        }
        let removal = *self.removal.lock().unwrap_or_else(PoisonError::into_inner);
        removal.is_some_and(|(at, told)| at > known && self.contact.silence() >= told.elapsed())
    }
}
