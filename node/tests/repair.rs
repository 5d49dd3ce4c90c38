//! What rot takes from one node comes back from the others: the node sees it, stays silent, is repaired, and counts again.
//!
//! Each case stops one node of five, damages its log with one flipped bit, appends more meanwhile, and starts it again.

#[path = "common/support.rs"]
mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_proto::v1;
use tercet_storage::format::{BLOCK_BYTES, Kind};
use tercet_storage::inspect::{BatchInfo, InspectReport, inspect};

/// Enough to seal a 16 MiB segment.
const ENTRIES: usize = 300;
const PAYLOAD_BYTES: usize = 60_000;

/// A byte of a log: segment and offset in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct At {
    segment: u32,
    offset: u64,
}

impl At {
    fn of(batch: &BatchInfo, within: u64) -> Self {
        let start = u64::from(batch.header.block) * BLOCK_BYTES as u64;
        Self { segment: batch.header.segment, offset: start + within }
    }
}

fn flip(dir: &Path, at: At) {
    let path = dir.join(format!("{:08x}.seg", at.segment));
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at.offset).expect("the byte");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at.offset).expect("written");
    file.sync_all().expect("synced");
}

/// The place of a record of this kind in the first or last batch that satisfies `wanted`: its payload, its row, its header.
fn find(report: &InspectReport, kind: Kind, wanted: impl Fn(&BatchInfo) -> bool) -> (At, At, At) {
    let (batch, row) = report
        .batches
        .iter()
        .filter(|batch| wanted(batch))
        .find_map(|batch| {
            let records = batch.records.as_ref()?;
            let at = records.iter().position(|record| record.row.kind == kind && record.row.length > 0)?;
            Some((batch, at))
        })
        .unwrap_or_else(|| panic!("no batch with {kind:?}"));
    let records = batch.records.as_ref().expect("records");
    let payload = u64::from(records[row].row.offset) + 1;
    (At::of(batch, payload), At::of(batch, 128 + 56 * row as u64 + 9), At::of(batch, 33))
}

type Place = fn(&InspectReport) -> At;

/// Where the bit is flipped; each is looked up in the log as it is by then.
const PLACES: &[(&str, Place)] = &[
    ("payload in a sealed segment", |log| find(log, Kind::Entry, |batch| sealed(log, batch, 20)).0),
    ("table in a sealed segment", |log| find(log, Kind::Entry, |batch| sealed(log, batch, 40)).1),
    ("header in a sealed segment", |log| find(log, Kind::Entry, |batch| sealed(log, batch, 60)).2),
    ("payload in the tail", |log| find(log, Kind::Entry, |batch| last_with_entries(log, batch)).0),
    ("table in the tail", |log| find(log, Kind::Entry, |batch| last_with_entries(log, batch)).1),
    ("header in the tail", |log| find(log, Kind::Entry, |batch| last_with_entries(log, batch)).2),
    ("vote", |log| find(log, Kind::Vote, |batch| in_last_segment(log, batch)).0),
    ("checkpoint", |log| find(log, Kind::Checkpoint, |batch| in_last_segment(log, batch)).0),
];

fn sealed(log: &InspectReport, batch: &BatchInfo, from_number: u64) -> bool {
    let first_segment = log.segments.first().expect("segments").number;
    assert!(log.batches.last().expect("batches").header.segment > first_segment, "a segment is sealed");
    batch.header.segment == first_segment && batch.header.number > from_number
}

fn in_last_segment(log: &InspectReport, batch: &BatchInfo) -> bool {
    batch.header.segment == log.batches.last().expect("batches").header.segment
}

fn last_with_entries(log: &InspectReport, batch: &BatchInfo) -> bool {
    let has_entries = |batch: &&BatchInfo| {
        batch.records.iter().flatten().any(|record| record.row.kind == Kind::Entry && record.row.length > 0)
    };
    log.batches.iter().rev().find(has_entries).is_some_and(|last| last.header.number == batch.header.number)
}

fn rot(log: &InspectReport) -> usize {
    log.findings.iter().filter(|finding| finding.verdict.is_rot()).count()
}

async fn append(cluster: &Cluster, from: usize, count: usize) {
    let client = cluster.client();
    for n in from..from + count {
        let mut entry = payment(&format!("k{n}"), 1);
        entry.payload = vec![u8::try_from(n % 251).expect("small"); PAYLOAD_BYTES].into();
        client.append(request(vec![entry])).await.expect("an append");
    }
}

/// Waits until the node takes part, has everything, and shows the same chain as the cluster.
async fn caught_up(cluster: &Cluster, name: &str, what: &str) {
    let head =
        cluster.client().get_journal("j", v1::Consistency::Linearizable).await.expect("the journal").head;
    let head = head.expect("a head");
    let client = cluster.client_of(name);
    let shown = wait_for(&format!("{name} has everything again after damage to the {what}"), || async {
        let journal = client.get_journal("j", v1::Consistency::Local).await.ok()?;
        journal.head.filter(|shown| shown.seq >= head.seq)
    })
    .await;
    assert_eq!(shown, head, "{what}: the chain");
    let status = cluster.status_of(name).await.expect("its status");
    // Which of the two is the others' choice as much as its own.
    assert!(["follower", "leader"].contains(&status.groups[0].role.as_str()), "{what}: {status:?}");
    let log = inspect(&cluster.log_dir(name)).expect("the log can be looked at");
    assert!(
        log.recovery.is_some_and(|report| report.quarantined.is_empty()),
        "{what}: nothing is lost any more"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_flipped_bit_anywhere_is_repaired_from_the_peers() {
    let mut topology = topology();
    topology.storage.segment_mib = 16;
    let mut cluster = Cluster::start_with(topology).await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0, ENTRIES).await;
    let victim = cluster.follower().await;
    cluster.stop_node(&victim).await;
    let mut appended = ENTRIES;
    for (what, place) in PLACES {
        let dir = cluster.log_dir(&victim);
        let before = inspect(&dir).expect("the log");
        flip(&dir, place(&before));
        let damaged = inspect(&dir).expect("the damaged log");
        assert_eq!(rot(&damaged), rot(&before) + 1, "{what}: the damage is seen: {:?}", damaged.findings);
        append(&cluster, appended, 3).await;
        appended += 3;
        cluster.start_node(&victim).await;
        caught_up(&cluster, &victim, what).await;
        eprintln!("{what}: repaired");
        cluster.stop_node(&victim).await;
    }
    cluster.start_node(&victim).await;
    // It counts again: with two others down, nothing is acknowledged without it.
    let leader = cluster.leader().await;
    let others: Vec<String> =
        cluster.servers.keys().filter(|name| **name != leader && **name != victim).take(2).cloned().collect();
    for name in &others {
        cluster.stop_node(name).await;
    }
    append(&cluster, appended, 3).await;
    caught_up(&cluster, &victim, "end").await;
    cluster.stop().await;
}

/// Rot in a running leader's sealed segment: the scrubber finds it, leadership moves, the node repairs itself and counts again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_leader_that_finds_rot_hands_over_and_is_repaired() {
    let mut topology = topology();
    topology.storage.segment_mib = 16;
    topology.storage.scrub_mib_per_second = 64;
    // What has left the cache cannot be mended from memory.
    let cluster = Cluster::start_with(topology).await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0, ENTRIES * 3).await;
    let leader = cluster.leader().await;
    let dir = cluster.log_dir(&leader);
    let log = inspect(&dir).expect("the log");
    flip(&dir, find(&log, Kind::Entry, |batch| sealed(&log, batch, 20)).0);
    let leader_now = || async {
        let status = cluster.status_of(&leader).await?;
        Some(status.groups[0].role.clone())
    };
    wait_for("the leader has given leadership up", || async {
        leader_now().await.filter(|role| role != "leader")
    })
    .await;
    append(&cluster, ENTRIES * 3, 3).await;
    caught_up(&cluster, &leader, "sealed segment of the leader").await;
    cluster.stop().await;
}
