//! Up to where a group may be read here.
//!
//! Invariants: a linearizable read confirms leadership with a quorum (ReadIndex, never a lease); no read shows an index above
//! the placement watermark of its journal's class.

use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::RaftError;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_storage::mutants;

use super::{Group, recovering};
use crate::ledger::Journal;
use crate::placement::{Class, Watermarks};
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
    /// Up to where a linearizable read of `journal` may show each class: everything acknowledged before the call is at or below
    /// it. No journal: what is of class `city`.
    ///
    /// What class `geo` owes a reader is not the read index: that may be an entry of another class, or one that was never
    /// acknowledged, and the remote site may be cut off. Whatever this leader has acknowledged is shown already; whatever former
    /// leaders have acknowledged was in its log when it began to lead, so it waits for the journal's newest entry there.
    ///
    /// # Errors
    /// This node does not lead, cannot confirm that it does, or the placement is not reached in time.
    pub async fn linearizable_point(
        &self,
        journal: Option<&str>,
        timeout: Duration,
    ) -> Result<Watermarks, NoReadPoint> {
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
        let class = journal.map_or(Class::City, |journal| self.class_of_journal(journal));
        let owed = match class {
            Class::City => index,
            Class::Geo => {
                let inherited = self.gate.inherited().ok_or(NoReadPoint::NotLeader(None))?;
                let ledger = self.state.ledger();
                ledger.changed_at(journal.unwrap_or_default(), inherited).map_err(|error| {
                    NoReadPoint::Refused(Refusal::new(Reason::Internal, "", error.to_string()))
                })?
            }
        };
        self.wait_placed(class, owed, timeout).await.map_err(NoReadPoint::Refused)?;
        let visible = self.visible();
        Ok(if class == Class::City {
            Watermarks { city: visible.city.max(index), ..visible }
        } else {
            visible
        })
    }

    /// The class that a journal's entries are shown as; `city` if there is no such journal.
    #[must_use]
    pub fn class_of_journal(&self, journal: &str) -> Class {
        self.state.ledger().journal(journal).map_or(Class::City, Journal::class)
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

    /// Up to where a local read may show each class.
    #[must_use]
    pub fn visible(&self) -> Watermarks {
        self.gate.placed().shown.up_to(*self.state.applied().borrow())
    }

    /// Waits until `index` may be shown here as an entry of `class`.
    ///
    /// # Errors
    /// PLACEMENT_UNREACHABLE when it is not in time.
    pub async fn wait_placed(&self, class: Class, index: u64, timeout: Duration) -> Result<(), Refusal> {
        let mut placed = self.gate.watch();
        let reached = placed.wait_for(|placed| placed.shown.of(class) >= index);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(Refusal::new(
                Reason::PlacementUnreachable,
                "",
                "what would be shown is not known to be placed as its class demands",
            )),
        }
    }

    /// Waits until something of `class` above `index` is visible here.
    pub async fn wait_visible_above(&self, class: Class, index: u64) {
        let (mut applied, mut watermark) = (self.state.applied(), self.gate.watch());
        while self.visible().of(class) <= index {
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
