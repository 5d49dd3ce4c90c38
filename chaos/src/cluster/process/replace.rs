//! A node that has lost its disk comes back as an operator brings it back: taken for lost, started empty, promoted.
//!
//! Invariant: what is asked of the cluster is asked of its leader, directly, again and again until it is done or the time is up; a
//! refusal that does not pass is a violation, not a fault of the harness.

use std::time::{Duration, Instant};

use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

use super::settle::direct;
use super::{ClusterError, POLL, ProcessCluster, not_recovered};
use crate::cluster::Member;

/// How long one change may take, catching up included.
const PATIENCE: Duration = Duration::from_secs(30);

impl ProcessCluster {
    /// Brings killed nodes without data back into the cluster, one after the other.
    ///
    /// # Errors
    /// A change is not made in time, or a node does not come back.
    pub async fn replace(&self, hit: &[Member]) -> Result<(), ClusterError> {
        for member in hit {
            self.change_member(member, Change::Replace).await?;
            self.restart(std::slice::from_ref(member)).await?;
            self.change_member(member, Change::Promote).await?;
        }
        Ok(())
    }

    async fn change_member(&self, member: &Member, change: Change) -> Result<(), ClusterError> {
        let deadline = Instant::now() + PATIENCE;
        let request = v1::ChangeMemberRequest {
            group: 0,
            node: member.name.clone(),
            change: change.into(),
            force: false,
        };
        loop {
            let leader = self.leader().await?;
            let Some(node) = self.of(std::slice::from_ref(leader)).next() else { continue };
            let error = match direct(node)?.change_member(request.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if Instant::now() >= deadline {
                let what = change.as_str_name();
                return Err(not_recovered(PATIENCE, format!("{what} {}: {error}", member.name)));
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
