//! Up to where a group may be read here.
//!
//! Invariants: a linearizable read confirms leadership with a quorum (ReadIndex, never a lease); no read shows an index above
//! the placement watermark.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_storage::mutants;

use super::{Group, recovering};
use crate::raft::proposer::forward_of;
use crate::raft::types::TypeConfig;

/// Why a read point cannot be had here.
#[derive(Debug)]
pub enum NoReadPoint {
    /// Ask the leader, if it is known.
    NotLeader(Option<u64>),
    /// Refused for now.
    Refused(Refusal),
}

impl Group {
    /// The index up to which a linearizable read may show: everything acknowledged before the call is at or below it.
    ///
    /// # Errors
    /// This node does not lead, cannot confirm that it does, or the placement is not reached in time.
    pub async fn linearizable_point(&self, timeout: Duration) -> Result<u64, NoReadPoint> {
        if mutants::is("read-without-quorum") && self.is_leader() {
            return Ok(self.visible());
        }
        let confirmed = tokio::time::timeout(timeout, self.raft.get_read_linearizer(ReadPolicy::ReadIndex));
        let linearizer = match confirmed.await {
            Ok(Ok(linearizer)) => linearizer,
            Ok(Err(error)) => return Err(self.no_read_point(&error)),
            Err(_) => return Err(NoReadPoint::NotLeader(None)),
        };
        let index = linearizer.read_log_id().index();
        match linearizer.try_await_ready(&self.raft, Some(timeout)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(NoReadPoint::Refused(recovering("applying is behind"))),
            Err(_) => return Err(NoReadPoint::NotLeader(None)),
        }
        self.wait_placed(index, timeout).await.map_err(NoReadPoint::Refused)?;
        Ok(self.visible().max(index))
    }

    fn no_read_point(
        &self,
        error: &RaftError<TypeConfig, openraft::errors::LinearizableReadError<TypeConfig>>,
    ) -> NoReadPoint {
        match forward_of(error) {
            Some(leader) if leader != self.params.node_id => NoReadPoint::NotLeader(Some(leader)),
            _ => NoReadPoint::NotLeader(None),
        }
    }

    /// The index up to which a local read may show.
    #[must_use]
    pub fn visible(&self) -> u64 {
        (*self.state.applied().borrow()).min(self.gate.watermark())
    }

    /// Waits until `index` is known here to be placed.
    ///
    /// # Errors
    /// PLACEMENT_UNREACHABLE when it is not in time.
    pub async fn wait_placed(&self, index: u64, timeout: Duration) -> Result<(), Refusal> {
        let mut watermark = self.gate.watch();
        let reached = watermark.wait_for(|placed| *placed >= index);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::new(
                Reason::PlacementUnreachable,
                "",
                "what would be shown is not known to be placed as its class demands",
            )),
        }
    }

    /// Waits until something above `index` is visible here.
    pub async fn wait_visible_above(&self, index: u64) {
        let (mut applied, mut watermark) = (self.state.applied(), self.gate.watch());
        while self.visible() <= index {
            let ended = tokio::select! {
                biased;
                changed = applied.changed() => changed.is_err(),
                changed = watermark.changed() => changed.is_err(),
            };
            if ended {
                return std::future::pending().await;
            }
        }
    }
}
