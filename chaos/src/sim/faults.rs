//! Carries out a fault plan.
//!
//! Invariants: what a fault did is undone when its time is over, or by [`Cluster::heal`]; faults may overlap, so cuts are
//! counted, and a node that two faults have killed comes back with the first that is over.

use std::sync::Arc;
use std::time::Duration;

use tercet_storage::disk::PowerLoss;
use tokio::time::{Instant, sleep, sleep_until};

use super::cluster::Cluster;
use super::members;
use super::plan::{Fault, FaultKind, NODES, Plan, ends, node_id};

/// Patience for a leader transfer.
const TRANSFER: Duration = Duration::from_secs(1);

/// Starts every fault at its time; completes when the plan's time is over.
pub async fn drive(cluster: &Arc<Cluster>, plan: &Plan) {
    let begin = Instant::now();
    let end = begin + Duration::from_millis(plan.faulty_ms);
    for (number, fault) in (1..).zip(&plan.faults) {
        sleep_until(begin + Duration::from_millis(fault.at_ms)).await;
        let (cluster, fault) = (cluster.clone(), fault.clone());
        tokio::spawn(async move { happen(&cluster, number, &fault, end).await });
    }
    sleep_until(end).await;
}

async fn happen(cluster: &Arc<Cluster>, number: u64, fault: &Fault, end: Instant) {
    let nodes: Vec<u64> = fault.nodes.iter().filter_map(|name| resolve(cluster, name)).collect();
    let what = format!("{:?} {} {:?} {:?} {}", fault.kind, fault.shape, nodes, fault.links, fault.amount);
    cluster.trace().event(format_args!("fault {number} begins: {what}"));
    cluster.recorder.fault_begins(number, &what);
    let over = Instant::now() + Duration::from_millis(fault.for_ms);
    for node in nodes.iter().filter_map(|id| cluster.node(*id)) {
        match fault.kind {
            FaultKind::Kill => node.kill(PowerLoss::KeepsAll),
            FaultKind::PowerLoss => node.kill(PowerLoss::LosesAll),
            FaultKind::TornPower => node.kill(PowerLoss::Tears),
            FaultKind::LostIndex => {
                node.kill(PowerLoss::LosesAll);
                node.drop_index();
            }
            // Beyond a minority what was acknowledged could be gone.
            FaultKind::Rot | FaultKind::LatentRot if !cluster.may_ail(node.id) => {}
            FaultKind::Rot => {
                node.kill(PowerLoss::LosesAll);
                node.rot(fault.amount, number);
            }
            FaultKind::LatentRot => node.rot(fault.amount, number),
            FaultKind::Pause => node.pause(true),
            FaultKind::SlowDisk => node.slow_disk(Duration::from_millis(fault.amount.unsigned_abs())),
            FaultKind::DiskFull => node.fill_disk(true),
            FaultKind::Skew => node.skew(fault.amount.saturating_mul(1_000)),
            FaultKind::Checkpoint => node.checkpoint(),
            FaultKind::Transfer => transfer(cluster, node.id).await,
            FaultKind::AddMember
            | FaultKind::PromoteMember
            | FaultKind::RemoveMember
            | FaultKind::ReplaceMember => {
                members::happen(cluster, fault.kind, node.id, over.min(end)).await;
            }
            FaultKind::Cut | FaultKind::Flap | FaultKind::SlowLink | FaultKind::Lossy => {}
        }
    }
    let links = links(fault, &nodes);
    match fault.kind {
        FaultKind::Flap => {
            let half = Duration::from_millis(fault.amount.unsigned_abs().max(1));
            while Instant::now() < over {
                change_links(cluster, FaultKind::Cut, &links, 0, false);
                sleep(half).await;
                change_links(cluster, FaultKind::Cut, &links, 0, true);
                sleep(half).await;
            }
        }
        kind => {
            change_links(cluster, kind, &links, fault.amount, false);
            sleep_until(over).await;
            change_links(cluster, kind, &links, fault.amount, true);
        }
    }
    undo(cluster, fault, &nodes).await;
    cluster.trace().event(format_args!("fault {number} is over"));
    cluster.recorder.fault_ended(number);
}

fn resolve(cluster: &Cluster, name: &str) -> Option<u64> {
    if name == "leader" { cluster.leader() } else { node_id(name) }
}

/// The links that are meant: those named, and all of the nodes named.
fn links(fault: &Fault, nodes: &[u64]) -> Vec<(u64, u64)> {
    let mut links: Vec<(u64, u64)> = fault.links.iter().filter_map(|link| ends(link)).collect();
    let is_net =
        matches!(fault.kind, FaultKind::Cut | FaultKind::Flap | FaultKind::SlowLink | FaultKind::Lossy);
    for &node in nodes.iter().filter(|_| is_net) {
        for other in (1..=NODES.len() as u64).filter(|other| *other != node) {
            links.extend([(node, other), (other, node)]);
        }
    }
    links
}

fn change_links(cluster: &Cluster, kind: FaultKind, links: &[(u64, u64)], amount: i64, undo: bool) {
    let net = &cluster.common.net;
    for &(from, to) in links {
        match kind {
            FaultKind::Cut => net.cut(from, to, if undo { -1 } else { 1 }),
            FaultKind::SlowLink => {
                net.slow(from, to, Duration::from_millis(amount.unsigned_abs()), undo);
            }
            FaultKind::Lossy => {
                let lost = u32::try_from(amount).unwrap_or(0);
                net.lose(from, to, if undo { 0 } else { lost });
            }
            _ => {}
        }
    }
}

async fn undo(cluster: &Arc<Cluster>, fault: &Fault, nodes: &[u64]) {
    for node in nodes.iter().filter_map(|id| cluster.node(*id)) {
        match fault.kind {
            FaultKind::Kill
            | FaultKind::PowerLoss
            | FaultKind::TornPower
            | FaultKind::LostIndex
            | FaultKind::Rot => {
                cluster.start_node(node.id).await;
            }
            FaultKind::Pause => node.pause(false),
            FaultKind::SlowDisk => node.slow_disk(Duration::ZERO),
            FaultKind::DiskFull => node.fill_disk(false),
            FaultKind::Skew => node.skew(-fault.amount.saturating_mul(1_000)),
            _ => {}
        }
    }
}

/// Moves leadership to a node, if it can be moved.
pub(super) async fn transfer(cluster: &Cluster, to: u64) {
    let Some(target) = cluster.leader().and_then(|leader| cluster.node(leader)?.target()) else { return };
    let group = target.group.clone();
    let moved = target.scope.spawn(async move { group.transfer_leader(to, TRANSFER).await.is_ok() });
    let moved = moved.await.unwrap_or(false);
    cluster.trace().event(format_args!("leadership is moved to {to}: {moved}"));
}
