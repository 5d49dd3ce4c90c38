//! Opens the parts of a data directory and lets them be judged ([`crate::identity::parts`]).
//!
//! Invariant: a directory whose parts do not belong together is closed again, and no start is counted.

use std::path::Path;
use std::sync::Arc;

use tercet_proto::topology::{DiskSetting, Topology};
use tercet_storage::SegmentLog;
use tercet_storage::index::Index;

use super::{ServerError, open_log};
use crate::identity::Identity;
use crate::identity::parts::{Beside, judge_beside};
use crate::node::now_us;
use crate::proof::{ProofFiles, ProofSink as _};
use crate::raft::codec::decode_vote;
use crate::raft::group::{Group, IndexFit};

/// What a data directory holds, opened.
pub struct Opened {
    /// The log.
    pub log: SegmentLog,
    /// The index.
    pub index: Arc<Index>,
    /// The disk in words.
    pub disk: String,
}

/// Opens the index and looks at it and at the proofs: neither may know of more than the log holds. Counts a start when all is well.
fn open_beside(
    dir: &Path,
    log: &SegmentLog,
    groups: u32,
    identity: &Identity,
) -> Result<Arc<Index>, ServerError> {
    let path = dir.join("index");
    let fail = |source| ServerError::Index { dir: dir.to_path_buf(), source };
    let mut index = Arc::new(Index::open_of(&path, log.store()).map_err(fail)?);
    // Of a damaged group it is seen after the repair.
    let fit =
        |index: &Arc<Index>, group| (!log.is_damaged(group)).then(|| Group::index_fit(group, index, log));
    if (0..groups).any(|group| fit(&index, group) == Some(IndexFit::Unreadable)) {
        tracing::warn!(dir = %path.display(), "the index cannot be read: it is moved aside and rebuilt");
        drop(index);
        let aside = dir.join(format!("index.unreadable-{}", now_us()));
        std::fs::rename(&path, &aside)
            .map_err(|error| ServerError::Services(format!("{}: {error}", path.display())))?;
        index = Arc::new(Index::open_of(&path, log.store()).map_err(fail)?);
    }
    let proofs = ProofFiles { dir: dir.to_path_buf(), incarnation: identity.incarnation() };
    for group in 0..groups {
        match proofs.set_other_aside(group) {
            Ok(None) => {}
            Ok(Some(aside)) => {
                tracing::warn!(group, aside = %aside.display(), "a proof of another directory is moved aside");
            }
            Err(error) => tracing::warn!(group, %error, "the proof cannot be read"),
        }
        let state = log.state(group);
        let vote = state.vote.as_ref().and_then(|bytes| decode_vote(bytes).ok());
        let beside = Beside {
            last: state.last.map_or(0, |last| last.index),
            vote_term: vote.map_or(0, |vote| vote.leader_id.term),
            is_damaged: log.is_damaged(group),
            applied: match fit(&index, group) {
                Some(IndexFit::Fits(applied)) => Some((applied, true)),
                Some(IndexFit::Ahead(applied)) => Some((applied, false)),
                Some(IndexFit::Unreadable) | None => None,
            },
            proof: proofs.kept(group),
        };
        judge_beside(group, &beside).map_err(|why| identity.damaged(why))?;
    }
    identity.begin(log.durable_batch())?;
    Ok(index)
}

/// Opens all parts of a data directory.
///
/// # Errors
/// They are not those of one life, or cannot be opened.
pub fn open_parts(
    dir: &Path,
    disk: DiskSetting,
    topology: &Topology,
    identity: &Identity,
) -> Result<Opened, ServerError> {
    let groups = topology.cluster.groups;
    let (log, disk) = open_log(dir, disk, topology, identity)?;
    let index = open_beside(dir, &log, groups, identity).inspect_err(|_| log.close())?;
    Ok(Opened { log, index, disk })
}
