//! The parts of a data directory belong to one life: whatever is missing, emptied, older or another's is noticed at the start.

#[path = "common/support.rs"]
mod support;

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use support::{Cluster, create_journal, payment, request, topology, wait_for};
use tercet_node::identity::{Drawn, Identity, IdentityError};
use tercet_node::proof::{self, Proof, ProofFiles, ProofSink as _};
use tercet_node::server::{Server, ServerError, open_parts};
use tercet_proto::topology::Topology;
use tercet_proto::v1;
use tercet_storage::StoreId;

fn small_segments() -> Topology {
    let mut topology = topology();
    topology.storage.segment_mib = 16;
    topology
}

async fn append(cluster: &Cluster, keys: std::ops::Range<u32>, class: v1::DurabilityClass) {
    let client = cluster.client();
    for key in keys {
        let mut asked = request(vec![payment(&key.to_string(), 1)]);
        asked.durability_class = class.into();
        client.append(asked).await.expect("an append");
    }
}

/// Copies a file or a directory; what is zero takes no room, as most of a segment.
fn copy(from: &Path, to: &Path) {
    let done = std::process::Command::new("cp").args(["-r", "--sparse=always"]).args([from, to]).status();
    assert!(done.expect("cp").success(), "{from:?} is copied");
}

/// How a part of a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    There,
    Missing,
    Empty,
    /// A copy from before the last start.
    Older,
    /// Another node's.
    Another,
}

use State::{Another, Empty, Missing, Older, There};

const STATES: [State; 5] = [There, Missing, Empty, Older, Another];

/// What becomes of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It goes on.
    Starts,
    /// It is refused, and the reason says this.
    Silent(&'static str),
}

/// The table of decision 0031.
fn expected(node: State, log: State, index: State, proof: State) -> End {
    match (node, log, index, proof) {
        (Empty, ..) => End::Silent("NODE is damaged"),
        (Another, ..) => End::Silent("belongs to node b1"),
        // Nothing is left: a new directory. That the node is known by another one the cluster tells it (decision 0004).
        (Missing, Missing, Missing | Empty, Missing | Empty) => End::Starts,
        (Missing, Missing, Missing | Empty, _) => End::Silent("a proof"),
        (Missing, Missing, ..) => End::Silent("an index"),
        (Missing, ..) => End::Silent("a log"),
        (There | Older, Missing, ..) => End::Silent("log is missing"),
        (There | Older, Empty, ..) => End::Silent("log is empty"),
        (There | Older, Another, ..) => End::Silent("another one"),
        (There, Older, ..) => End::Silent("older copy"),
        // An index and a proof may be missing, and be older; another's is moved aside. An older NODE is noticed by the cluster.
        (There | Older, There, ..) => End::Starts,
        (Older, Older, There, _) => End::Silent("the index was applied"),
        (Older, Older, _, There) => End::Silent("the proof says"),
        (Older, Older, ..) => End::Starts,
    }
}

/// Directories of c1 as it is and as it was, and of b1.
struct Sources {
    dir: tempfile::TempDir,
    topology: Topology,
}

impl Sources {
    /// A cluster's, whose c1 was stopped twice.
    async fn make() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = Cluster::start_with(small_segments()).await;
        create_journal(&cluster.client()).await;
        let c1 = cluster.config("c1").data_dir;
        for (round, state) in [There, Older].into_iter().rev().enumerate() {
            let before = proof::read(&c1, 0).expect("readable").map_or(0, |proof| proof.geo_acked);
            let keys = u32::try_from(round).expect("small") * 10;
            append(&cluster, keys..keys + 10, v1::DurabilityClass::Geo).await;
            wait_for("c1 has kept a newer proof", || async {
                let proof = proof::read(&c1, 0).expect("readable")?;
                (proof.geo_acked >= before + 5).then_some(())
            })
            .await;
            cluster.stop_node("c1").await;
            copy(&c1, &dir.path().join(format!("{state:?}")));
            if state == Older {
                cluster.start_node("c1").await;
            }
        }
        cluster.stop_node("b1").await;
        let another = dir.path().join("Another");
        copy(&cluster.config("b1").data_dir, &another);
        let kept = Proof { term: 99, geo_acked: 1_000, flushed: 1_000, ..Proof::default() };
        ProofFiles { dir: another, incarnation: 77 }.keep(0, &kept).expect("kept");
        let topology = cluster.topology.clone();
        cluster.stop().await;
        Self { dir, topology }
    }

    /// A directory with these parts.
    fn put_together(&self, to: &Path, parts: [(&str, State); 4]) {
        std::fs::create_dir_all(to).expect("a directory");
        for (name, state) in parts {
            let to = to.join(name);
            match state {
                Missing => {}
                Empty if ["log", "index"].contains(&name) => std::fs::create_dir(to).expect("a directory"),
                Empty => std::fs::write(to, "").expect("a file"),
                There | Older | Another => copy(&self.dir.path().join(format!("{state:?}")).join(name), &to),
            }
        }
    }

    /// What a start from a directory comes to.
    fn open(&self, dir: &Path) -> Result<(), ServerError> {
        let drawn = Drawn { incarnation: 5, store: StoreId([5; 16]), nonce: 5 };
        let identity = Identity::open(dir, &self.topology.cluster.name, 5, "c1", drawn)?;
        let opened = open_parts(dir, self.topology.storage.disk, &self.topology, &identity)?;
        opened.log.close();
        Ok(())
    }

    /// Walks through a share of the table; says how many have started.
    fn walk(&self, share: &[[State; 4]]) -> usize {
        let work = tempfile::tempdir().expect("a directory");
        let dir = work.path().join("c1");
        let mut started = 0;
        for &[node, log, index, proof] in share {
            let parts = [("NODE", node), ("log", log), ("index", index), ("proof-0", proof)];
            self.put_together(&dir, parts);
            let before = content(&dir);
            match (expected(node, log, index, proof), self.open(&dir)) {
                (End::Starts, Ok(())) => started += 1,
                (End::Silent(why), Err(ServerError::Identity(error))) => {
                    let said = error.to_string();
                    assert!(said.contains(why), "{parts:?}: {said}");
                    // Where the log itself was sound it is recovered before the index is looked at.
                    if (node, log) != (Older, Older) {
                        assert_eq!(content(&dir), before, "{parts:?}: a refused start changes nothing");
                    }
                }
                (expected, end) => panic!("{parts:?}: expected {expected:?}, got {end:?}"),
            }
            std::fs::remove_dir_all(&dir).expect("removed");
        }
        started
    }
}

/// Every file but those that a start may touch without changing anything that was kept.
fn content(dir: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.file_name().is_some_and(|name| name != "LOCK") {
                // The beginning of a segment, where a few entries are, is enough.
                let mut bytes = Vec::new();
                let file = std::fs::File::open(&path).expect("readable");
                file.take(1 << 20).read_to_end(&mut bytes).expect("readable");
                found.push((path, bytes));
            }
        }
    }
    found.sort();
    found
}

/// Was: b1's `log/` was lost while NODE was kept (a disk that was not mounted, a backup put back in part), or c1's was put in its
/// place. It took part again and voted, and entries that it had acknowledged were gone. Whatever is missing is noticed, in all
/// combinations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_that_are_not_of_one_life_are_refused_in_all_combinations() {
    let sources = Sources::make().await;
    let state = |at: usize| STATES[at % 5];
    let all: Vec<[State; 4]> =
        (0..625).map(|n| [state(n / 125), state(n / 25), state(n / 5), state(n)]).collect();
    // Most of the time goes into waiting for a disk.
    let started: usize = tokio::task::block_in_place(|| {
        std::thread::scope(|scope| {
            let sources = &sources;
            let walk = |share| scope.spawn(move || sources.walk(share));
            let shares: Vec<_> = all.chunks(63).map(walk).collect();
            shares.into_iter().map(|share| share.join().expect("a share of the table")).sum()
        })
    });
    assert_eq!(started, 25 + 25 + 16 + 4);
}

/// Parts of the log itself: what was in it is missed, whichever files of it are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_its_segments_is_an_empty_one() {
    let sources = Sources::make().await;
    let work = tempfile::tempdir().expect("a directory");
    let whole = [("NODE", There), ("log", There), ("index", There), ("proof-0", There)];
    let is_segment = |path: &Path| path.extension().is_some_and(|end| end == "seg");
    type Removed<'r> = (&'r str, &'r dyn Fn(&Path) -> bool, Option<&'r str>);
    let rows: [Removed<'_>; 3] = [
        ("all segments, STORE is left", &is_segment, Some("log is empty")),
        ("STORE alone: every batch says it, too", &|path| path.ends_with("STORE"), None),
        ("STORE and the segments", &|path| path.ends_with("STORE") || is_segment(path), Some("log is empty")),
    ];
    for (what, removed, why) in rows {
        let dir = work.path().join("c1");
        sources.put_together(&dir, whole);
        for entry in std::fs::read_dir(dir.join("log")).expect("the log") {
            let path = entry.expect("an entry").path();
            if removed(&path) {
                std::fs::remove_file(path).expect("removed");
            }
        }
        match (tokio::task::block_in_place(|| sources.open(&dir)), why) {
            (Ok(()), None) => {}
            (Err(error), Some(why)) => assert!(error.to_string().contains(why), "{what}: {error}"),
            (end, _) => panic!("{what}: {end:?}"),
        }
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}

/// The story of the fault: five entries are on a1, a2 and b1 alone, and b1 loses its log, or is given c1's. Then zone a is lost. b1
/// must not vote: with b2 and c1 it would elect a leader that has none of the five.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_log_does_not_take_part_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start_with(small_segments()).await;
    create_journal(&cluster.client()).await;
    append(&cluster, 0..3, v1::DurabilityClass::Geo).await;
    let leader = cluster.leader().await;
    if !leader.starts_with('a') {
        wait_for("a1 leads", || async {
            cluster.client_of(&leader).transfer_leader(0, "a1").await.ok().map(drop)
        })
        .await;
    }
    cluster.stop_node("b2").await;
    cluster.stop_node("c1").await;
    append(&cluster, 3..8, v1::DurabilityClass::City).await;
    cluster.stop_node("b1").await;
    let (log, kept) = (cluster.log_dir("b1"), cluster.config("b1").data_dir.join("kept"));
    std::fs::rename(&log, &kept).expect("the log is lost");
    let refused = |cluster: &Cluster| {
        let config = cluster.config("b1");
        async move {
            match Server::start(config).await {
                Err(ServerError::Identity(error @ IdentityError::Damaged { .. })) => error.to_string(),
                Err(error) => panic!("another reason: {error}"),
                Ok(_) => panic!("it takes part without its log"),
            }
        }
    };
    let why = refused(&cluster).await;
    assert!(why.contains("log is missing") && why.contains("member replace b1"), "{why}");
    copy(&cluster.log_dir("c1"), &log);
    let why = refused(&cluster).await;
    assert!(why.contains("another one"), "{why}");

    // Zone a is lost; b2 and c1 come back. Two of five elect nobody.
    cluster.stop_node("a1").await;
    cluster.stop_node("a2").await;
    cluster.start_node("b2").await;
    cluster.start_node("c1").await;
    std::fs::remove_dir_all(&log).expect("c1's");
    std::fs::rename(&kept, &log).expect("its own is put back");
    cluster.start_node("b1").await;
    wait_for("all five are there", || async {
        let client = cluster.client_of("b1");
        let journal = client.get_journal("j", v1::Consistency::Linearizable).await.ok()?;
        (journal.head?.seq == 8).then_some(())
    })
    .await;
    tokio::time::timeout(Duration::from_secs(60), append(&cluster, 8..10, v1::DurabilityClass::City))
        .await
        .expect("and it goes on");
    cluster.stop().await;
}
