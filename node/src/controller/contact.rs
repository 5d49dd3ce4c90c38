//! Tells operators of members that a leader has lost and regained and of clocks that are off, and asks around when this node hears of no leader.
//!
//! Invariants: the leader tells of members, nobody else; a node that was removed learns it by asking, for the leader sends it nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use super::{HELLO_TIMEOUT, hello_all};
use crate::node::{Node, describe_clock};
use crate::placement::{ContactWatch, Told};
use crate::raft::group::Group;

/// Between two looks at the members.
const LOOK: Duration = Duration::from_millis(100);
/// Between two rounds of asking whether this node still belongs to its groups.
const ASK: Duration = Duration::from_secs(1);

/// Tells of a group's members while this node leads it.
pub(super) async fn tell_of_members(node: Arc<Node>, group: u32) {
    loop {
        let running = node.groups.when_running(group).await;
        tokio::select! {
            () = follow(&node, &running) => {}
            () = node.groups.until_replaced(&running) => {}
        }
    }
}

/// Never completes.
async fn follow(node: &Node, group: &Group) {
    let origin = Instant::now();
    let mut watch: Option<(u64, ContactWatch)> = None;
    let mut wrong = BTreeSet::new();
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let Some(term) = group.leading_term() else {
            watch = None;
            wrong.clear();
            continue;
        };
        // A new term is begun with nobody lost: the leader before may have told of them, or was lost itself.
        let (_, seen) = match watch.take().filter(|(known, _)| *known == term) {
            Some(known) => watch.insert(known),
            None => watch.insert((term, ContactWatch::new(group.contact_lost_after()))),
        };
        for told in seen.look(origin.elapsed(), &group.contacts()) {
            let (kind, message) = match told {
                Told::Lost { node: lost, silence } => (
                    "peer_lost",
                    format!("{} has not answered for {} ms", node.name_of(lost), silence.as_millis()),
                ),
                Told::Regained { node: back, away } => (
                    "peer_regained",
                    format!("{} answers again, after {:.1} s", node.name_of(back), away.as_secs_f64()),
                ),
            };
            node.event(group.id(), kind, message);
        }
        tell_of_clocks(node, group, &mut wrong);
    }
}

/// Tells of clocks that have come to differ from the majority's, and that are right again.
fn tell_of_clocks(node: &Node, group: &Group, told: &mut BTreeSet<u64>) {
    let clocks = group.gate().clocks();
    let now: BTreeMap<u64, i64> = clocks.wrong().collect();
    for (id, ahead_us) in now.iter().filter(|(id, _)| !told.contains(id)) {
        node.event(group.id(), "clock_off", describe_clock(&node.name_of(*id), *ahead_us));
    }
    let right = |id: &&u64| !now.contains_key(id) && clocks.ahead_of_majority_us(**id).is_some();
    for id in told.iter().filter(right) {
        node.event(group.id(), "clock_right", format!("the clock of {} agrees again", node.name_of(*id)));
    }
    told.retain(|id| clocks.ahead_of_majority_us(*id).is_none());
    told.extend(now.into_keys());
}

/// Asks the others, while no leader is heard of, whether this node still belongs to its groups.
pub(super) async fn notice_removal(node: Arc<Node>) {
    let mut told = vec![false; node.groups.count() as usize];
    loop {
        tokio::time::sleep(ASK).await;
        let running = node.groups.running();
        if running.iter().any(|group| group.quorum_lost().is_some()) {
            for answer in hello_all(&node, HELLO_TIMEOUT, &[]).await.into_values() {
                for said in answer.belongs {
                    let group = running.iter().find(|group| group.id() == said.group);
                    if let (Some(group), Some(at)) = (group, said.at) {
                        group.told_of_membership((at.term, at.index), said.belongs);
                    }
                }
            }
        }
        for group in &running {
            let removed = group.is_removed();
            if let Some(told) = told.get_mut(group.id() as usize)
                && std::mem::replace(told, removed) != removed
                && removed
            {
                let message =
                    "this node is no member of the group any more, and serves nothing of it".to_owned();
                node.event(group.id(), "removed", message);
            }
        }
    }
}
