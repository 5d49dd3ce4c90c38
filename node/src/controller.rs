//! Forms the cluster, lets a node with an empty log take part only when that is safe, and keeps the registry of nodes.
//! `leadership` follows who leads, and moves it to where it is preferred; `contact` tells of members that are lost and regained.
//!
//! `alone` asks whether this process is the only one of its directory, and whether that has forgotten something.
//!
//! Invariants: a node whose log is empty answers no peer before those who must know have been asked whether its id is already
//! another data directory's (`admission`; a wiped voter would have forgotten its votes and its acknowledgements); only one
//! membership can ever be proposed as a group's first entry, so that nodes which form the cluster at once agree.

mod admission;
pub(crate) mod alone;
mod contact;
mod leadership;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;

use crate::identity::processes::Process;
use crate::ledger::{Command, PreparedCommand};
use crate::node::Node;
use crate::placement::Electorate;
use crate::raft::proposer::Proposed;
use crate::repair::supervise;
use crate::room::watch_disk;
use crate::scrub::scrub;
use admission::{Admission, Said, may_take_part, registered_by};

const HELLO_TIMEOUT: Duration = Duration::from_millis(800);
/// An older copy of the log that lacks less than this of it is not noticed after a kill; after a clean stop any is.
const NOTE_PAUSE: Duration = Duration::from_secs(5);
const HELLO_PAUSE: Duration = Duration::from_millis(100);
/// The second in the order of preference forms the cluster only when the first has not done so for this long.
const FORMING_TURN: Duration = Duration::from_secs(5);
const REGISTRY_PAUSE: Duration = Duration::from_millis(300);
/// Until the cluster is formed.
const FORMING_PAUSE: Duration = Duration::from_millis(20);

/// Starts the controller's tasks; they end when the node stops.
pub fn start(node: &Arc<Node>) {
    let tasks: [futures::future::BoxFuture<'static, ()>; 9] = [
        Box::pin(watch_disk(node.clone())),
        Box::pin(scrub(node.clone(), node.topology.storage.scrub_mib_per_second)),
        Box::pin(take_part(node.clone())),
        Box::pin(keep_registry(node.clone())),
        Box::pin(follow_group_zero(node.clone())),
        Box::pin(contact::notice_removal(node.clone())),
        Box::pin(note_how_far_the_log_is(node.clone())),
        Box::pin(register_starts(node.clone())),
        Box::pin(alone::keep_watch(node.clone())),
    ];
    for task in tasks {
        spawn_until_stopped(node, task);
    }
    for group in 0..node.groups.count() {
        spawn_until_stopped(node, Box::pin(crate::regime::report(node.clone(), group)));
        spawn_until_stopped(node, Box::pin(leadership::keep(node.clone(), group)));
        spawn_until_stopped(node, Box::pin(contact::tell_of_members(node.clone(), group)));
        spawn_until_stopped(node, Box::pin(supervise(node.clone(), group)));
    }
}

fn spawn_until_stopped(node: &Node, task: futures::future::BoxFuture<'static, ()>) {
    let mut stopping = node.stopping.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = task => {}
            _ = stopping.wait_for(|stop| *stop) => {}
        }
    });
}

/// Lets NODE say, from time to time, how far the log is durable: an older copy of the log is noticed by that.
async fn note_how_far_the_log_is(node: Arc<Node>) {
    loop {
        tokio::time::sleep(NOTE_PAUSE).await;
        let (identity, batch) = (node.identity.clone(), node.log.durable_batch());
        match tokio::task::spawn_blocking(move || identity.note_batch(batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "NODE does not say how far the log has come"),
            Err(_) => return,
        }
    }
}

/// Ids of the voters, most preferred zone first.
fn voters_by_preference(node: &Node) -> Vec<u64> {
    let mut voters: Vec<_> = node
        .topology
        .voters()
        .map(|voter| {
            let preference = node.topology.zone(&voter.zone).map_or(u32::MAX, |zone| zone.leader_preference);
            (preference, voter.id)
        })
        .collect();
    voters.sort_unstable();
    voters.into_iter().map(|(_, id)| id).collect()
}

/// The nodes that answer this one, itself included.
pub async fn in_reach(node: &Node) -> Vec<u64> {
    let others = hello_all(node, HELLO_TIMEOUT, &[]).await.into_keys();
    others.chain([node.identity.node_id()]).collect()
}

/// Asks all other nodes who they are.
async fn hello_all(
    node: &Node,
    limit: Duration,
    logs: &[v1::PeerLogEnd],
) -> BTreeMap<u64, v1::HelloResponse> {
    let asked = node.peers.ids().map(|id| async move {
        let header = Some(node.peers.header(id, 0));
        let request = v1::HelloRequest { header, look_around: false, logs: logs.to_vec() };
        match tokio::time::timeout(limit, node.peers.hello(id, request)).await {
            Ok(Ok(response)) => Some((id, response)),
            Ok(Err(why)) => {
                tracing::debug!(peer = id, why, "hello refused");
                None
            }
            Err(_) => None,
        }
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Lets this node take part, and forms the cluster when it is this node's turn.
async fn take_part(node: Arc<Node>) {
    let own = node.identity.node_id();
    let voters = voters_by_preference(&node);
    if !alone::may_begin(&node).await || node.fresh && !admit(&node, own, &voters).await {
        return;
    }
    node.peers.take_part();
    node.admitted.send_replace(true);
    node.event(
        0,
        "started",
        format!("node {} takes part, incarnation {}", node.name, node.identity.incarnation()),
    );
    let Some(turn) = voters.iter().position(|id| *id == own) else { return };
    let turn = FORMING_TURN.saturating_mul(u32::try_from(turn).unwrap_or(u32::MAX));
    let ready_since = Instant::now();
    for group in 0..node.groups.count() {
        let group = node.groups.when_running(group).await;
        while !group.is_initialized().await {
            let answers = hello_all(&node, HELLO_TIMEOUT, &[]).await;
            let voters_fresh =
                voters.iter().filter(|id| **id == own || answers.get(id).is_some_and(|a| a.fresh)).count();
            let formed_elsewhere = answers.values().any(|answer| !answer.fresh);
            if !formed_elsewhere && voters_fresh * 2 > voters.len() && ready_since.elapsed() >= turn
                || group.id() > 0 && turn.is_zero() && formed_here(&node)
            {
                match group.initialize(&voters).await {
                    Ok(()) => node.event(group.id(), "formed", format!("group {} formed", group.id())),
                    Err(error) => tracing::warn!(%error, "the group could not be formed yet"),
                }
            }
            tokio::time::sleep(HELLO_PAUSE).await;
        }
    }
}

/// Whether this node has formed group 0 in this run: then it forms the others, too.
fn formed_here(node: &Node) -> bool {
    node.fresh && node.group_zero().is_ok_and(|zero| zero.leader().is_some())
}

/// Waits until those who must know say that this node's id is not another data directory's. False: it is.
async fn admit(node: &Node, own: u64, voters: &[u64]) -> bool {
    let first = Electorate::first(voters.iter().copied());
    let mut goal = None;
    loop {
        let said = hello_all(node, HELLO_TIMEOUT, &[])
            .await
            .into_iter()
            .map(|(id, answer)| (id, Said::from(&answer)));
        match may_take_part(own, node.identity.incarnation(), &first, &said.collect(), &mut goal) {
            Admission::Granted => return true,
            Admission::NotYet => {}
            Admission::Wiped { registered } => {
                let failure = format!(
                    "data directory {} is empty, but the cluster knows node {} by incarnation {registered}: a wiped \
                     voter has forgotten what it acknowledged and must not vote; bring the old directory back, or let the \
                     others take it for lost with `tercet member replace {}`",
                    node.identity.dir().display(),
                    node.name,
                    node.name,
                );
                node.failure.send_replace(Some(failure));
                return false;
            }
        }
        tokio::time::sleep(HELLO_PAUSE).await;
    }
}

/// The leader of group 0 gives the cluster its id and registers every node's incarnation on first sight. At the beginning it makes
/// haste: a directory that is wiped before it is registered returns unnoticed, and may have acknowledged something.
async fn keep_registry(node: Arc<Node>) {
    let mut pause = FORMING_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = REGISTRY_PAUSE;
        let Ok(group) = node.group_zero() else { continue };
        let (formed, missing) = {
            let ledger = group.state().ledger();
            let missing: Vec<u64> = node
                .topology
                .nodes
                .iter()
                .map(|entry| entry.id)
                .filter(|id| ledger.registered_incarnation(*id).is_none())
                .collect();
            (ledger.cluster_id().is_some(), missing)
        };
        if !formed {
            pause = FORMING_PAUSE;
        }
        if !group.is_leader() {
            continue;
        }
        if !formed {
            propose(&node, Command::FormCluster { cluster_id: rand::random(), groups: node.groups.count() })
                .await;
            continue;
        }
        if missing.is_empty() {
            continue;
        }
        let mut seen: BTreeMap<u64, u64> = hello_all(&node, HELLO_TIMEOUT, &[])
            .await
            .into_iter()
            .filter_map(|(id, answer)| Some((id, answer.header?.incarnation)))
            .collect();
        seen.insert(node.identity.node_id(), node.identity.incarnation());
        for id in missing {
            if let Some(&incarnation) = seen.get(&id).filter(|incarnation| **incarnation != 0) {
                // The start follows when the process has been heard to take part.
                propose(&node, Command::RegisterNode { node_id: id, incarnation, start: 0, nonce: 0 }).await;
            }
        }
    }
}

/// The leader of group 0 registers the start of every process that it takes for a node: a directory that is put back to an earlier
/// state counts it once more. While an earlier process is at work no later one is taken.
async fn register_starts(node: Arc<Node>) {
    loop {
        tokio::time::sleep(REGISTRY_PAUSE).await;
        let Ok(zero) = node.group_zero() else { continue };
        if !zero.is_leader() || !*node.admitted.borrow() {
            continue;
        }
        let own = node.identity.node_id();
        let late: Vec<(u64, Process)> = {
            let ledger = zero.state().ledger();
            let taken = node.topology.nodes.iter().filter_map(|entry| match entry.id == own {
                true => Some((own, node.identity.process())),
                false => Some((entry.id, node.identity.processes().taken(entry.id)?)),
            });
            let is_late = |(id, process): &(u64, Process)| {
                let known = ledger.registered(*id);
                known.is_some_and(|known| {
                    known.incarnation == process.incarnation && known.start < process.start
                })
            };
            taken.filter(is_late).collect()
        };
        for (node_id, Process { incarnation, start, nonce }) in late {
            propose(&node, Command::RegisterNode { node_id, incarnation, start, nonce }).await;
        }
    }
}

/// Looses a node's id from its lost data directory, so that the next one may be bound to it.
///
/// # Errors
/// NO_LEADER or OUTCOME_UNKNOWN: ask again.
pub async fn forget_incarnation(node: &Node, id: u64) -> Result<(), Refusal> {
    let prepared =
        PreparedCommand::new(&Command::RegisterNode { node_id: id, incarnation: 0, start: 0, nonce: 0 })?;
    match node.group_zero()?.propose(Arc::new(prepared)).await {
        Proposed::Done { .. } => Ok(()),
        Proposed::NotLeader(_) => Err(Refusal::new(Reason::NoLeader, "", "leadership has just moved")),
        Proposed::Refused(refusal) => Err(refusal),
        Proposed::Unknown(why) => Err(Refusal::new(Reason::OutcomeUnknown, "", why)),
    }
}

async fn propose(node: &Node, command: Command) {
    let prepared = match PreparedCommand::new(&command) {
        Ok(prepared) => Arc::new(prepared),
        Err(refusal) => return tracing::error!(%refusal, "a command of this node's own is malformed"),
    };
    let Ok(zero) = node.group_zero() else { return };
    match zero.propose(prepared).await {
        Proposed::Done { .. } => {}
        Proposed::NotLeader(_) => tracing::debug!(?command, "not the leader any more"),
        Proposed::Refused(refusal) => tracing::debug!(?command, %refusal, "not proposed"),
        Proposed::Unknown(why) => tracing::debug!(?command, why, "outcome unknown; looked at again"),
    }
}

/// Whether this node's id is another directory's, and not only as far as this node has applied: one that replaces a lost directory
/// passes what was registered before on its way through the log.
async fn is_still_registered(node: &Node, applied: u64) -> bool {
    let heard: Vec<Said> = hello_all(node, HELLO_TIMEOUT, &[]).await.values().map(Said::from).collect();
    if heard.iter().all(|said| said.applied <= applied) {
        // Nobody knows better.
        return true;
    }
    registered_by(heard.iter()).is_some_and(|known| known != node.identity.incarnation())
}

/// Keeps the cluster id in the identity, and notices that this node's id has become another directory's.
async fn follow_group_zero(node: Arc<Node>) {
    let mut zero = node.groups.when_running(0).await;
    let mut applied = zero.state().applied();
    loop {
        let (cluster_id, registered, applied_index) = {
            let ledger = zero.state().ledger();
            let applied_index = ledger.applied().map_or(0, |(_, index)| index);
            (ledger.cluster_id(), ledger.registered_incarnation(node.identity.node_id()), applied_index)
        };
        if let Some(id) = cluster_id {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            if let Err(error) = node.identity.learn_cluster_id(&hex) {
                node.failure.send_replace(Some(error.to_string()));
                return;
            }
        }
        if let Some(other) = registered.filter(|known| *known != node.identity.incarnation())
            && is_still_registered(&node, applied_index).await
        {
            node.failure.send_replace(Some(format!(
                "node {} is registered with incarnation {other}, this data directory is {}",
                node.name,
                node.identity.incarnation()
            )));
            return;
        }
        if cluster_id.is_some() && registered == Some(node.identity.incarnation()) {
            return;
        }
        tokio::select! {
            Ok(()) = applied.changed() => {}
            () = node.groups.until_replaced(&zero) => {
                zero = node.groups.when_running(0).await;
                applied = zero.state().applied();
            }
        }
    }
}
