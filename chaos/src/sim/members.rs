//! Changes who belongs to the group while everything goes wrong, by the code of `tercet member`, and brings the first members back
//! in the end.
//!
//! ```text
//! replace:  killed, disk gone -> removed -> starts with an empty directory -> added -> caught up -> promoted, if it voted
//! ```
//!
//! Invariants: a node whose disk is gone does not start before its removal is committed (decisions 0004 and 0015); one node at a
//! time is in that state; nothing is forced while things go wrong, so the placement is kept at every step until the mending; that
//! begins when no fault's change is under way any more.

use std::sync::Arc;
use std::time::Duration;

use tercet_node::raft::group::{MemberChange, Members};
use tercet_storage::disk::PowerLoss;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, Unmet};
use super::plan::FaultKind;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(60);
/// An attempt takes 10 s at most, where it is not held or killed.
const ATTEMPT: Duration = Duration::from_secs(11);
/// The first members must be back so soon after everything is healed.
const MEND: Duration = Duration::from_secs(60);

/// Carries out a member change of a plan, until `over` at the latest.
pub(super) async fn happen(cluster: &Arc<Cluster>, kind: FaultKind, node: u64, over: Instant) {
    let _changing = cluster.changing.read().await;
    let done = match kind {
        FaultKind::AddMember => change(cluster, MemberChange::Add(node), over, false).await.map(drop),
        FaultKind::PromoteMember => change(cluster, MemberChange::Promote(node), over, false).await.map(drop),
        FaultKind::RemoveMember => change(cluster, MemberChange::Remove(node), over, false).await.map(drop),
        _ => {
            lose(cluster, node);
            come_back(cluster, node, over, false).await
        }
    };
    if let Err(why) = done {
        cluster.trace().event(format_args!("{kind:?} {node} does not come about: {why}"));
    }
}

/// Asks whoever leads, again and again.
async fn change(
    cluster: &Cluster,
    change: MemberChange,
    over: Instant,
    force: bool,
) -> Result<Members, Unmet> {
    loop {
        match attempt(cluster, change, force).await {
            Err(_) if Instant::now() < over => sleep(PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Asks whoever leads, once.
async fn attempt(cluster: &Cluster, change: MemberChange, force: bool) -> Result<Members, Unmet> {
    let leader = cluster.leader().and_then(|leader| cluster.node(leader)?.target());
    let Some(target) = leader else { return Err("nobody leads".into()) };
    let group = target.group.clone();
    let asked = target.scope.spawn(async move { group.change_member(change, force).await });
    let why = match timeout(ATTEMPT, asked).await {
        Ok(Ok(Ok(members))) => {
            cluster.trace().event(format_args!("{change:?}: {members:?}"));
            cluster.common.witness.members(&members.voters);
            return Ok(members);
        }
        Ok(Ok(Err(refusal))) => refusal.to_string(),
        Ok(Err(_)) => "the leader was killed".into(),
        Err(_) => "no answer".into(),
    };
    cluster.trace().event(format_args!("{change:?} is not made: {why}"));
    Err(why)
}

/// The node's data directory is lost, if no other node has lost anything.
fn lose(cluster: &Cluster, id: u64) {
    let Some(node) = cluster.node(id) else { return };
    // Whoever votes is known to a leader; and of two voters none can be spared.
    let Some(Members { voters, .. }) = cluster.members() else { return };
    let is_voter = voters.contains(&id);
    if is_voter && voters.len() < 3 {
        return;
    }
    if cluster.may_ail(id) && cluster.losing(id, is_voter) {
        node.kill(PowerLoss::LosesAll);
        cluster.trace().event(format_args!("{} has lost its data directory", node.name));
    }
}

/// Brings a node back whose data directory is lost.
async fn come_back(cluster: &Arc<Cluster>, id: u64, over: Instant, force: bool) -> Result<(), Unmet> {
    let Some(node) = cluster.node(id) else { return Ok(()) };
    let Some(voted) = cluster.is_lost(id) else { return Err("another node is lost".into()) };
    change(cluster, MemberChange::Remove(id), over, force).await?;
    if cluster.is_lost(id).is_none() {
        // The fault's own attempt and the mending meet here; the other one was first.
        return Ok(());
    }
    cluster.common.witness.wiped(id);
    node.wipe();
    cluster.found(id);
    cluster.start_node(id).await;
    if voted {
        promote(cluster, id, over, force).await?;
    } else {
        change(cluster, MemberChange::Add(id), over, force).await?;
    }
    Ok(())
}

/// Makes a node a voter, and a member first if it is none.
async fn promote(cluster: &Cluster, id: u64, over: Instant, force: bool) -> Result<(), Unmet> {
    loop {
        match attempt(cluster, MemberChange::Promote(id), force).await {
            Ok(_) => return Ok(()),
            Err(why) if Instant::now() >= over => return Err(why),
            // It is no member yet, it lags, or a change is under way.
            Err(_) => drop(attempt(cluster, MemberChange::Add(id), false).await),
        }
        sleep(PAUSE).await;
    }
}

/// Brings the first voters back, and nobody else.
///
/// # Errors
/// It does not come to that in time, with everything healed.
pub(super) async fn mend(cluster: &Arc<Cluster>, voters: &[u64]) -> Result<(), Unmet> {
    // What a fault asked for last may still be carried out.
    let _changing = cluster.changing.write().await;
    let over = Instant::now() + MEND;
    let unmet =
        |why: Unmet| format!("liveness: in {MEND:?} after healing the first members are not back: {why}");
    if let Some(lost) = cluster.lost() {
        come_back(cluster, lost, over, true).await.map_err(unmet)?;
    }
    for &id in voters {
        // Three voters in three zones cannot become five one by one without four of which two share a zone.
        promote(cluster, id, over, true).await.map_err(unmet)?;
    }
    for id in cluster.ids().filter(|id| !voters.contains(id)) {
        while let Err(why) = attempt(cluster, MemberChange::Remove(id), false).await {
            if Instant::now() >= over {
                return Err(unmet(why));
            }
            // It may lead.
            if cluster.leader() == Some(id) {
                super::faults::transfer(cluster, voters[0]).await;
            }
            sleep(PAUSE).await;
        }
    }
    Ok(())
}
