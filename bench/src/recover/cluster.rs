//! Five node processes, each of which can be stopped, killed and started again, and a sixth that may join them.
//!
//! Invariants: every topology file declares the sixth node as a learner, and it is not started before it is asked for; the
//! processes are started by the main thread, on which their lives hang; a measurement begins only where all nodes that run hold
//! and have applied the same, and are led from the zone that leadership prefers, so that it does not move meanwhile.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tercet_node::loopback::free_address;
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Node, Role, Topology};
use tercet_proto::v1;
use tercet_proto::v1::change_member_request::Change;

use crate::nodes::{NodeProcess, Usage, topology, workers_each, write_topology};

/// The node that joins.
pub(super) const NEWCOMER: &str = "c2";
/// The only group.
const GROUP: u32 = 0;
/// How long the nodes may take until a measurement can begin.
const SETTLE_PATIENCE: Duration = Duration::from_secs(300);
/// How long a clean stop may take.
const STOP_PATIENCE: Duration = Duration::from_secs(60);
/// A node that the leader has not heard for longer is not in contact.
const CONTACT_MAX_MS: u64 = 400;
const POLL: Duration = Duration::from_millis(50);
const STOP_POLL: Duration = Duration::from_millis(5);

/// How far the ledger was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    /// Ledger entries.
    pub(super) entries: u64,
    /// The last index of the Raft log.
    pub(super) last_index: u64,
}

/// The nodes and who talks to them.
pub(super) struct Cluster {
    topology: Topology,
    tercet: PathBuf,
    dir: PathBuf,
    running: BTreeMap<String, NodeProcess>,
    channels: Vec<Client>,
    observer: Client,
}

impl Cluster {
    /// Starts all nodes but the newcomer, with their data below `dir`. Must be called on the main thread.
    pub(super) fn start(disk: DiskSetting, channels: usize, tercet: &Path, dir: &Path) -> Result<Self> {
        let topology = with_newcomer(topology(disk)?)?;
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        write_topology(&topology, &dir.join("topology.toml"))?;
        let endpoints: Vec<String> = topology.voters().map(|node| node.client.clone()).collect();
        let connect = |_| Client::connect(endpoints.clone(), ClientOptions::default());
        let names: Vec<String> = topology.voters().map(|node| node.name.clone()).collect();
        let mut cluster = Self {
            tercet: tercet.to_owned(),
            dir: dir.to_owned(),
            running: BTreeMap::new(),
            channels: (0..channels).map(connect).collect::<Result<_, _>>()?,
            observer: connect(0)?,
            topology,
        };
        for name in names {
            cluster.start_node(&name)?;
        }
        Ok(cluster)
    }

    /// What the nodes were started with.
    pub(super) fn topology(&self) -> &Topology {
        &self.topology
    }

    /// What the load's clients share.
    pub(super) fn channels(&self) -> &[Client] {
        &self.channels
    }

    /// A client that the load does not use.
    pub(super) fn observer(&self) -> &Client {
        &self.observer
    }

    /// Where a node keeps its data.
    pub(super) fn data_dir(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Starts a node. Must be called on the main thread.
    pub(super) fn start_node(&mut self, name: &str) -> Result<()> {
        // The newcomer is extra: the others have their share already.
        let workers = workers_each(self.topology.voters().count());
        let file = self.dir.join("topology.toml");
        let node = NodeProcess::start(name, &file, &self.tercet, &self.dir, workers)?;
        self.running.insert(name.to_owned(), node);
        Ok(())
    }

    /// Ends a node as a power cut would.
    pub(super) fn kill(&mut self, name: &str) -> Result<()> {
        self.running.remove(name).with_context(|| format!("{name} does not run"))?.kill()
    }

    /// Stops a node cleanly; returns how long that took.
    pub(super) async fn stop_node(&mut self, name: &str) -> Result<Duration> {
        let mut node = self.running.remove(name).with_context(|| format!("{name} does not run"))?;
        let begin = Instant::now();
        node.ask_to_stop()?;
        while !node.has_stopped()? {
            if begin.elapsed() >= STOP_PATIENCE {
                bail!("{name} has not stopped after {STOP_PATIENCE:?}");
            }
            tokio::time::sleep(STOP_POLL).await;
        }
        Ok(begin.elapsed())
    }

    /// Stops all nodes cleanly.
    pub(super) async fn stop(mut self) -> Result<()> {
        self.check()?;
        let names: Vec<String> = self.running.keys().cloned().collect();
        // Together: followers that lost their leader would begin to elect one.
        self.running.values().try_for_each(NodeProcess::ask_to_stop)?;
        for name in names {
            self.stop_node(&name).await?;
        }
        Ok(())
    }

    /// What a node has used since it was started.
    pub(super) fn usage(&self, name: &str) -> Result<Usage> {
        self.running.get(name).with_context(|| format!("{name} does not run"))?.usage()
    }

    /// An error if a node that should run has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        self.running.values_mut().try_for_each(NodeProcess::check)
    }

    /// What a node says of the group, if it answers.
    pub(super) async fn group_of(&self, name: &str) -> Option<v1::GroupStatus> {
        let status = self.observer.status(&self.topology.node(name)?.client).await.ok()?;
        status.groups.into_iter().find(|group| group.group == GROUP)
    }

    /// Waits until all nodes that run are equal and in contact, led from where leadership belongs, and nothing is under way;
    /// returns the leader's name and where all of them are.
    pub(super) async fn settled(&mut self) -> Result<(String, Point)> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        let mut before = None;
        loop {
            self.check()?;
            let mut seen = Vec::new();
            for name in self.running.keys() {
                let status = self.group_of(name).await;
                seen.extend(status.map(|status| (name.clone(), status)));
            }
            let now = settled(&self.topology, self.running.len(), &seen);
            match now {
                // Twice the same: requests whose clients have gone may still have been on their way.
                Ok(now) if before.as_ref() == Some(&now) => return Ok(now),
                Err(why) if Instant::now() >= deadline => {
                    bail!("the nodes have not settled within {SETTLE_PATIENCE:?}: {why}")
                }
                _ => {}
            }
            before = now.ok();
            tokio::time::sleep(POLL).await;
        }
    }

    /// Changes what the newcomer is to the group.
    pub(super) async fn change_newcomer(&self, change: Change) -> Result<v1::ChangeMemberResponse> {
        let request = v1::ChangeMemberRequest {
            group: GROUP,
            node: NEWCOMER.to_owned(),
            change: change.into(),
            force: false,
        };
        let changed = self.observer.change_member(request).await;
        changed.with_context(|| format!("{} {NEWCOMER}", change.as_str_name()))
    }
}

/// The topology with one more node, in the zone of the last one: declared, and nobody's member.
fn with_newcomer(mut topology: Topology) -> Result<Topology> {
    let free = || anyhow::Ok(free_address().context("finding free addresses")?.to_string());
    let last = topology.nodes.last().context("a topology without nodes")?;
    let newcomer = Node {
        id: topology.nodes.iter().map(|node| node.id).max().unwrap_or(0) + 1,
        name: NEWCOMER.to_owned(),
        zone: last.zone.clone(),
        peer: free()?,
        client: free()?,
        metrics: None,
        role: Role::Learner,
    };
    topology.nodes.push(newcomer);
    topology.validate()?;
    Ok(topology)
}

/// The nodes that are lost one at a time: of each zone but the leader's the last voter, the preferred zone's first.
pub(super) fn followers_to_lose(topology: &Topology, leader: &str) -> Vec<String> {
    let leaders_zone = topology.node(leader).map(|node| node.zone.clone()).unwrap_or_default();
    let mut zones: Vec<&str> = topology.zones.iter().map(|zone| zone.name.as_str()).collect();
    zones.retain(|zone| *zone != leaders_zone);
    zones.sort_by_key(|zone| topology.leader_rank(GROUP, zone));
    let last_of = |zone: &str| topology.voters().filter(|node| node.zone == zone).last();
    zones.into_iter().filter_map(last_of).map(|node| node.name.clone()).collect()
}

/// Leader and point, or why there is none yet; `running` nodes should be among those `seen`.
fn settled(
    topology: &Topology,
    running: usize,
    seen: &[(String, v1::GroupStatus)],
) -> Result<(String, Point), String> {
    if seen.len() < running {
        return Err(format!("{} of {running} nodes answer", seen.len()));
    }
    let led = seen.iter().find(|(_, group)| group.role == "leader").ok_or("nobody says that it leads")?;
    let (leader, leads) = (&led.0, &led.1);
    let rank = |name: &str| topology.node(name).map(|node| topology.leader_rank(GROUP, &node.zone));
    if let Some((better, _)) = seen.iter().find(|(name, _)| rank(name) < rank(leader)) {
        return Err(format!("{leader} leads, and {better}'s zone is preferred"));
    }
    for (name, group) in seen {
        if group.leader != *leader {
            return Err(format!("{name} follows {:?} and not {leader}", group.leader));
        }
        if group.applied_index < leads.last_index || group.entries != leads.entries {
            let (applied, last) = (group.applied_index, leads.last_index);
            return Err(format!("{name} has applied {applied} of {last}"));
        }
        let replica = leads.replicas.iter().find(|replica| replica.node == *name);
        let heard_ms = replica.and_then(|replica| replica.last_contact_ms);
        if heard_ms.is_none_or(|ms| ms > CONTACT_MAX_MS) {
            return Err(format!("{leader} has heard {name} {heard_ms:?} ms ago"));
        }
    }
    Ok((leader.clone(), Point { entries: leads.entries, last_index: leads.last_index }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn six() -> Topology {
        with_newcomer(topology(DiskSetting::Portable).unwrap()).unwrap()
    }

    fn group(role: &str, entries: u64) -> v1::GroupStatus {
        v1::GroupStatus {
            role: role.to_owned(),
            leader: "a1".to_owned(),
            last_index: 9,
            applied_index: 9,
            entries,
            ..v1::GroupStatus::default()
        }
    }

    /// The five nodes as they should be, `a1` leading.
    fn calm() -> Vec<(String, v1::GroupStatus)> {
        let names = ["a1", "a2", "b1", "b2", "c1"];
        let mut seen: Vec<_> = names.map(|name| (name.to_owned(), group("follower", 100))).into();
        seen[0].1 = group("leader", 100);
        seen[0].1.replicas = names
            .map(|name| v1::ReplicaStatus {
                node: name.to_owned(),
                last_contact_ms: Some(20),
                ..v1::ReplicaStatus::default()
            })
            .into();
        seen
    }

    #[test]
    fn the_newcomer_is_declared_and_does_not_vote() {
        let topology = six();
        let newcomer = topology.node(NEWCOMER).unwrap();
        assert_eq!((newcomer.id, newcomer.zone.as_str(), newcomer.role), (6, "c", Role::Learner));
        assert_eq!(topology.voters().count(), 5);
    }

    #[test]
    fn one_follower_of_each_other_zone_is_lost() {
        let topology = six();
        assert_eq!(followers_to_lose(&topology, "a1"), ["b2", "c1"]);
        assert_eq!(followers_to_lose(&topology, "b1"), ["a2", "c1"]);
    }

    #[test]
    fn nodes_that_are_equal_in_contact_and_led_from_the_right_zone_have_settled() {
        let topology = six();
        assert_eq!(
            settled(&topology, 5, &calm()),
            Ok(("a1".to_owned(), Point { entries: 100, last_index: 9 }))
        );
        type Change = fn(&mut Vec<(String, v1::GroupStatus)>);
        let rows: [(&str, Change); 6] = [
            ("4 of 5", |seen| drop(seen.pop())),
            ("leads", |seen| seen[0].1.role = "follower".into()),
            ("c1 has applied 9 of 9", |seen| seen[4].1.entries = 99),
            ("b1 has applied 8 of 9", |seen| seen[2].1.applied_index = 8),
            ("heard b2 Some(900) ms", |seen| seen[0].1.replicas[3].last_contact_ms = Some(900)),
            ("b1 leads, and a1's zone", |seen| {
                seen[0].1.role = "follower".into();
                seen[2].1.role = "leader".into();
            }),
        ];
        for (expected, change) in rows {
            let mut seen = calm();
            change(&mut seen);
            let why = settled(&topology, 5, &seen).unwrap_err();
            assert!(why.contains(expected), "{why:?} should say {expected:?}");
        }
    }
}
