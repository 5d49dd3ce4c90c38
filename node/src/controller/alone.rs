//! Asks the other nodes, before this one takes part and every few seconds afterwards, whether it is the only process of its data
//! directory and whether that is as far as it was once.
//!
//! Nothing is waited for that a node could do without: to take part a majority of the voters is needed anyway, and each of them
//! answers a greeting before it takes part itself, so nodes that start together do not wait for each other. If one of those
//! who answer has heard a leader lately, the leader must answer, too: it knows best who is at work and who has acknowledged what.
//! The leader of a group answers by what it remembers; a node that has forgotten something stops, and is replaced (decision 0032).
//!
//! Invariants: before the answers are there this node asks for no vote, gives none and acknowledges nothing; it asks again and again, and
//! says in status that it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tercet_proto::v1;

use super::hello_all;
use crate::identity::processes::{Alone, Process, SaidOfProcesses, judge};
use crate::ledger::Registered;
use crate::node::Node;
use crate::placement::Electorate;
use crate::raft::codec::decode_vote;
use crate::raft::electorate;
use crate::raft::gate::{LogEnd, Remembered};
use crate::repair::Host;

/// Greetings before this node takes part are not waited for any longer.
const FIRST_LIMIT: Duration = Duration::from_millis(300);
const FIRST_PAUSE: Duration = Duration::from_millis(30);
/// How often a node that takes part looks about for another process of its directory.
const WATCH_PAUSE: Duration = Duration::from_secs(2);
const WATCH_LIMIT: Duration = Duration::from_millis(800);

/// As it travels.
pub(crate) fn to_wire(process: Process, silent: Duration) -> v1::PeerProcess {
    v1::PeerProcess {
        incarnation: process.incarnation,
        start: process.start,
        nonce: process.nonce,
        silent_ms: u64::try_from(silent.as_millis()).unwrap_or(u64::MAX),
    }
}

/// A node's last registered process.
pub(crate) const fn registered(known: Registered) -> Process {
    Process { incarnation: known.incarnation, start: known.start, nonce: known.nonce }
}

fn said(answer: &v1::HelloResponse) -> SaidOfProcesses {
    let process = |told: &v1::PeerProcess| Process {
        incarnation: told.incarnation,
        start: told.start,
        nonce: told.nonce,
    };
    SaidOfProcesses {
        applied: answer.applied_index,
        registered: answer.registered.as_ref().map(process),
        other: answer.other.as_ref().map(|told| (process(told), Duration::from_millis(told.silent_ms))),
    }
}

/// What this node has applied itself counts like an answer.
fn own_word(node: &Node) -> Option<SaidOfProcesses> {
    let zero = node.group_zero().ok()?;
    let ledger = zero.state().ledger();
    Some(SaidOfProcesses {
        applied: ledger.applied().map_or(0, |(_, index)| index),
        registered: ledger.registered(node.identity.node_id()).map(registered),
        other: None,
    })
}

fn all_said(node: &Node, answers: &BTreeMap<u64, v1::HelloResponse>) -> Vec<SaidOfProcesses> {
    answers.values().map(said).chain(own_word(node)).collect()
}

/// Whether those who answered are enough to take part. Pure. `leaders`: whom they have heard as a leader.
fn is_enough(own: u64, members: &Electorate, answered: &BTreeSet<u64>, leaders: &BTreeSet<u64>) -> bool {
    let is_there = |node| node == own || answered.contains(&node);
    let votes = members.everybody().contains(&own);
    (!votes || members.majority(is_there)) && leaders.iter().all(|leader| is_there(*leader))
}

/// Where this node's logs end, of groups that are not being repaired.
fn log_ends(node: &Node) -> Vec<v1::PeerLogEnd> {
    let groups = (0..node.groups.count()).filter(|group| !node.log.is_damaged(*group));
    let end = |group| {
        let state = node.log.state(group);
        let vote = state.vote.as_ref().and_then(|bytes| decode_vote(bytes).ok());
        v1::PeerLogEnd {
            group,
            vote_term: vote.map_or(0, |vote| vote.leader_id.term),
            last_index: state.last.map_or(0, |last| last.index),
        }
    };
    groups.map(end).collect()
}

/// What somebody remembers and this node has forgotten, in words.
fn forgotten(
    node: &Node,
    ends: &[v1::PeerLogEnd],
    answers: &BTreeMap<u64, v1::HelloResponse>,
) -> Option<String> {
    answers.iter().find_map(|(peer, answer)| {
        answer.remembered.iter().find_map(|told| {
            let end = ends.iter().find(|end| end.group == told.group)?;
            let known = Remembered {
                incarnation: node.identity.incarnation(),
                term: told.term,
                index: told.index,
                vote_term: told.vote_term,
            };
            let what = known.contradicted_by(LogEnd { vote_term: end.vote_term, last: end.last_index })?;
            Some(format!("group {}: {what}, as {} remembers", told.group, node.name_of(*peer)))
        })
    })
}

/// What to do, for whoever reads the reason of a stop.
pub(crate) fn advice(node: &Node) -> String {
    format!(
        "it must not vote or acknowledge: bring the newest state of data directory {} back and run it once only, or empty it and let the \
         others take the node for lost with `tercet member replace {}`",
        node.identity.dir().display(),
        node.name
    )
}

fn stop(node: &Node, kind: &str, why: &str) {
    node.event(0, kind, format!("node {}: {why}", node.name));
    node.failure.send_replace(Some(format!("node {}: {why}; {}", node.name, advice(node))));
}

/// Waits until this node may take part. False: it may not, and stops.
pub(super) async fn may_begin(node: &Node) -> bool {
    let (own, process) = (node.identity.node_id(), node.identity.process());
    let ends = log_ends(node);
    let mut first_answers = None;
    loop {
        let answers = hello_all(node, FIRST_LIMIT, &ends).await;
        if let Some(what) = forgotten(node, &ends, &answers) {
            stop(node, "went_back", &format!("its data directory was put back to an earlier state: {what}"));
            return false;
        }
        let asked_for = first_answers.get_or_insert_with(Instant::now).elapsed();
        match judge(process, &all_said(node, &answers), node.identity.processes().lease(), asked_for) {
            Alone::No(why) => {
                stop(node, "not_alone", &why);
                return false;
            }
            Alone::NotYet => {}
            Alone::Yes => {
                let told = answers.values().map(|answer| electorate::from_wire(answer.members.as_ref()));
                let members = told.fold(Host::electorate(node, 0), Electorate::newest);
                let leaders = answers.values().map(|answer| answer.leader).filter(|leader| *leader != 0);
                let leaders = leaders.filter(|leader| node.peers.knows(*leader)).collect();
                // A new directory forms the cluster or asks to be let in (`admission`), and has nothing to forget.
                if node.fresh || is_enough(own, &members, &answers.keys().copied().collect(), &leaders) {
                    return true;
                }
            }
        }
        tokio::time::sleep(FIRST_PAUSE).await;
    }
}

/// Looks about while the node takes part: two processes of a directory may have begun where none could hear of the other.
pub(super) async fn keep_watch(node: Arc<Node>) {
    let mut admitted = node.admitted.subscribe();
    if admitted.wait_for(|admitted| *admitted).await.is_err() {
        return;
    }
    let mut first_seen = None;
    let mut told = BTreeSet::new();
    loop {
        tokio::time::sleep(WATCH_PAUSE).await;
        tell_of_others(&node, &mut told);
        let answers = hello_all(&node, WATCH_LIMIT, &[]).await;
        let lease = node.identity.processes().lease();
        let asked_for = first_seen.map_or(Duration::ZERO, |at: Instant| at.elapsed());
        match judge(node.identity.process(), &all_said(&node, &answers), lease, asked_for) {
            Alone::Yes => first_seen = None,
            Alone::NotYet => drop(first_seen.get_or_insert_with(Instant::now)),
            Alone::No(why) => return stop(&node, "not_alone", &why),
        }
    }
}

/// Events about other nodes, each once.
fn tell_of_others(node: &Node, told: &mut BTreeSet<(u32, u64, u64)>) {
    for group in node.groups.running() {
        for (other, back) in group.gate().all_gone_back() {
            if told.insert((group.id(), other, back.incarnation)) {
                node.event(group.id(), "follower_went_back", went_back(node, group.id(), other, back.had));
            }
        }
    }
    for other in node.identity.processes().twins() {
        let process = node.identity.processes().taken(other).unwrap_or_default();
        if told.insert((u32::MAX, other, process.nonce)) {
            node.event(0, "directory_copied", twins(node, other));
        }
    }
}

/// For events and status.
pub(crate) fn went_back(node: &Node, group: u32, other: u64, had: u64) -> String {
    let name = node.name_of(other);
    format!(
        "{name} has forgotten what it acknowledged of group {group} (up to entry {had}): its data directory was put back to an earlier \
         state; it counts for nothing until it is replaced with `tercet member replace {name}`"
    )
}

/// The same.
pub(crate) fn twins(node: &Node, other: u64) -> String {
    format!(
        "two processes run as node {}: its data directory was copied; the later one is to stop",
        node.name_of(other)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_is_heard_and_the_leader_among_them() {
        let five = Electorate::first(1..=5);
        let enough = |own, heard: &[u64], leaders: &[u64]| {
            is_enough(own, &five, &heard.iter().copied().collect(), &leaders.iter().copied().collect())
        };
        assert!(!enough(3, &[], &[]) && !enough(3, &[1], &[]));
        assert!(enough(3, &[1, 2], &[]), "three of five can begin together");
        assert!(!enough(3, &[2, 4, 5], &[1]), "somebody hears the leader: it must answer");
        assert!(enough(3, &[1, 2, 4], &[1]) && enough(3, &[1, 2], &[3]));
        assert!(enough(6, &[], &[]), "who has no vote needs nobody");
        assert!(enough(1, &[], &[]) != enough(6, &[], &[]));
        assert!(is_enough(1, &Electorate::first([1]), &BTreeSet::new(), &BTreeSet::new()), "the only voter");
    }
}
