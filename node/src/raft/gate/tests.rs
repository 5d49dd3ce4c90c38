//! The gate over a real log, on paused time.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;

use tercet_storage::disk::{DiskChoice, open_directory};
use tercet_storage::{LogOptions, LogRecord};
use tokio::time::advance;

use super::*;
use crate::placement::Budget;

const LOST_AFTER: Duration = Duration::from_millis(1_200);
const TERM: u64 = 3;

/// A gate of node 1 in the default topology, whose log holds indexes 1 to 10 of term 3.
struct Bed {
    gate: Arc<Gate>,
    log: SegmentLog,
    clock_us: Arc<AtomicI64>,
    told: mpsc::Receiver<(&'static str, Release)>,
    tell: mpsc::Sender<(&'static str, Release)>,
    _dir: tempfile::TempDir,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.log.close();
    }
}

fn append(log: &SegmentLog, indexes: RangeInclusive<u64>) {
    let record = |index| LogRecord { index, term: TERM, leader: 1, tag: 0, payload: bytes::Bytes::new() };
    let (done, finished) = mpsc::channel();
    log.append(0, indexes.map(record).collect(), Box::new(move |result| drop(done.send(result))))
        .expect("accepted");
    finished.recv().expect("answered").expect("durable");
}

fn bed() -> Bed {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = open_directory(dir.path(), DiskChoice::Portable).expect("a disk");
    let options =
        LogOptions { segment_bytes: 256 * 1024, batch_limit_bytes: 64 * 1024, ..LogOptions::default() };
    let (log, _) = SegmentLog::open(disk, options).expect("a log");
    append(&log, 1..=10);
    let places = [(1, "a", "east"), (2, "a", "east"), (3, "b", "east"), (4, "b", "east"), (5, "c", "west")];
    let clock_us = Arc::new(AtomicI64::new(1_000));
    let now_us = clock_us.clone();
    let gate = Arc::new(Gate::new(GateParams {
        node_id: 1,
        group: 0,
        log: log.clone(),
        voters: places.map(|(id, zone, site)| Voter::new(id, zone, site)).to_vec(),
        floor: Watermarks::default(),
        contact_lost_after: LOST_AFTER,
        clock: Arc::new(move || now_us.load(Ordering::Relaxed)),
        policy: Policy { adaptive: true, degrade_after_ms: 2_000, budget: Budget::default() },
    }));
    let (tell, told) = mpsc::channel();
    gate.lead(TERM);
    Bed { gate, log, clock_us, told, tell, _dir: dir }
}

impl Bed {
    fn hold(&self, index: u64, class: Class, name: &'static str) {
        let tell = self.tell.clone();
        self.gate.hold(TERM, index, class, Box::new(move |release| drop(tell.send((name, release)))));
    }

    fn append(&self, indexes: RangeInclusive<u64>) {
        let last = *indexes.end();
        append(&self.log, indexes);
        self.gate.local_flushed(last);
    }

    fn ack(&self, nodes: &[u64], index: u64) {
        nodes.iter().for_each(|node| self.gate.acknowledged(TERM, *node, 7, Some(index)));
    }

    /// What was let go since: name, class reached, degraded.
    fn released(&self) -> Vec<(&'static str, &'static str, bool)> {
        let told = self.told.try_iter().map(|(name, release)| match release {
            Release::Demoted => (name, "unknown", false),
            Release::Placed(attestation) => {
                let class =
                    if attestation.durability_class() == v1::DurabilityClass::Geo { "geo" } else { "city" };
                (name, class, attestation.degraded)
            }
        });
        told.collect()
    }
}

#[tokio::test(start_paused = true)]
async fn geo_never_holds_city_back_and_a_demotion_makes_both_unknown() {
    let bed = bed();
    bed.hold(4, Class::Geo, "treasury");
    bed.hold(5, Class::City, "retail");
    assert!(bed.gate.waits_for_geo());
    bed.ack(&[2, 3], 5);
    assert_eq!(bed.released(), [("retail", "city", false)]);
    advance(Duration::from_millis(300)).await;
    assert_eq!(bed.gate.oldest_geo_wait(), Some(Duration::from_millis(300)));
    bed.ack(&[5], 5);
    assert_eq!(bed.released(), [("treasury", "geo", false)]);
    assert!(!bed.gate.waits_for_geo());
    bed.hold(9, Class::City, "c");
    bed.hold(9, Class::Geo, "g");
    bed.gate.demote(TERM + 1);
    let mut unknown = bed.released();
    unknown.sort_unstable();
    assert_eq!(unknown, [("c", "unknown", false), ("g", "unknown", false)]);
    assert!(!bed.gate.waits_for_geo());
}

#[tokio::test(start_paused = true)]
async fn a_voter_leaves_when_the_rest_of_its_site_holds_what_it_made_geo() {
    let bed = bed();
    let mut six = bed.gate.inner().voters.clone();
    six.push(Voter::new(6, "c", "west"));
    let five: Vec<Voter> = six.iter().filter(|voter| voter.node_id != 6).cloned().collect();
    bed.gate.set_voters(six.clone(), Vec::new());
    bed.hold(10, Class::Geo, "by 6 alone");
    bed.ack(&[2, 3, 6], 10);
    bed.ack(&[5], 9);
    assert_eq!(bed.released(), [("by 6 alone", "geo", false)]);
    assert_eq!(bed.gate.leave(6, false), Err(Lacking { held: 9, needed: 10 }));
    assert!(bed.gate.leave(5, false).is_ok(), "6 holds it");
    bed.gate.stay();
    bed.ack(&[5], 10);
    assert!(bed.gate.leave(6, false).is_ok());
    bed.append(11..=12);
    // It leaves: nothing becomes geo by it any more, before the change stands in the log and after.
    bed.hold(11, Class::Geo, "while it leaves");
    bed.ack(&[2, 3, 4, 6], 11);
    assert_eq!(bed.released(), []);
    bed.gate.set_voters(five, six.clone());
    assert_eq!(bed.released(), []);
    bed.ack(&[5], 11);
    assert_eq!(bed.released(), [("while it leaves", "geo", false)]);
    bed.gate.set_voters(six, Vec::new());
    bed.hold(12, Class::Geo, "refused, so it stays");
    assert!(bed.gate.leave(6, true).is_ok() && bed.gate.placed().known.geo == 11);
    bed.ack(&[2, 3, 4, 6], 12);
    assert_eq!(bed.released(), []);
    bed.gate.stay();
    assert_eq!(bed.released(), [("refused, so it stays", "geo", false)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_former_leader_may_have_acknowledged_counts_for_who_leaves() {
    let bed = bed();
    let mut six = bed.gate.inner().voters.clone();
    six.push(Voter::new(6, "c", "west"));
    bed.gate.set_voters(six, Vec::new());
    bed.gate.lead(TERM + 1);
    // This leader has acknowledged nothing; whatever the one before did is in the log that it began with.
    bed.gate.acknowledged(TERM + 1, 5, 7, Some(9));
    assert_eq!(bed.gate.leave(6, false), Err(Lacking { held: 9, needed: 10 }));
    bed.gate.acknowledged(TERM + 1, 5, 7, Some(10));
    assert!(bed.gate.leave(6, false).is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_by_what_a_later_leader_says() {
    let bed = bed();
    bed.hold(9, Class::City, "held");
    // Its messages say that everything is placed, before this node has noticed that it does not lead any more.
    bed.gate.led_by_another(TERM + 1);
    bed.gate.learn(Watermarks { city: 10, geo: 10 });
    bed.gate.local_flushed(10);
    // Applied only now, by the new leader's commit.
    bed.hold(10, Class::City, "applied late");
    assert_eq!(bed.released(), [("held", "unknown", false), ("applied late", "unknown", false)]);
    assert_eq!(bed.gate.inherited(), None);
    bed.gate.lead(TERM);
    assert_eq!(bed.gate.inherited(), None, "late news of a term that is over");
    bed.gate.lead(TERM + 2);
    assert!(bed.gate.inherited().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_remote_node_places_nothing_by_what_it_once_had() {
    let bed = bed();
    bed.ack(&[2, 3], 8);
    bed.gate.acknowledged(TERM, 5, 7, Some(2));
    assert_eq!(bed.gate.placed().known, Watermarks { city: 8, geo: 2 });
    bed.gate.acknowledged(TERM, 5, 8, None);
    bed.hold(2, Class::Geo, "placed before");
    bed.hold(3, Class::Geo, "new");
    assert_eq!(bed.released(), [("placed before", "geo", false)]);
    bed.gate.acknowledged(TERM, 5, 8, Some(1));
    assert_eq!(bed.released(), []);
    bed.gate.acknowledged(TERM, 5, 8, Some(3));
    assert_eq!(bed.released(), [("new", "geo", false)]);
}

#[tokio::test(start_paused = true)]
async fn a_site_whose_last_voter_has_left_is_still_one_that_geo_needs() {
    let bed = bed();
    let places = [(1, "a"), (2, "a"), (3, "b"), (4, "b")];
    let city: Vec<Voter> = places.map(|(id, zone)| Voter::new(id, zone, "east")).to_vec();
    bed.gate.set_voters(city.clone(), Vec::new());
    bed.ack(&[2, 3, 4], 6);
    bed.hold(5, Class::City, "city");
    bed.hold(5, Class::Geo, "geo");
    assert_eq!(bed.released(), [("city", "city", false)]);
    assert!(bed.gate.reachable(Class::Geo).is_err_and(|why| why.contains("west")));
    assert_eq!(bed.gate.reachable(Class::City), Ok(()));
    // As a learner it had everything; that may have been in a directory that it has lost.
    bed.ack(&[6], 6);
    bed.gate.set_voters(city.into_iter().chain([Voter::new(6, "c", "west")]).collect(), Vec::new());
    bed.ack(&[2], 7);
    assert_eq!(bed.released(), [], "it has not said yet what it holds");
    bed.ack(&[6], 6);
    assert_eq!(bed.released(), [("geo", "geo", false)]);
}

#[tokio::test(start_paused = true)]
async fn a_site_is_out_of_reach_when_contact_is_known_to_be_lost_and_not_before() {
    let bed = bed();
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()), "a new leader has heard of nobody yet");
    bed.ack(&[2, 3, 5], 1);
    // No connection can be had: known at once.
    bed.gate.lost(TERM, 5);
    assert!(bed.gate.reachable(Class::Geo).is_err_and(|why| why.contains("west")));
    assert_eq!(bed.gate.reachable(Class::City), Ok(()));
    bed.gate.lost(TERM - 1, 3);
    bed.ack(&[5], 1);
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()), "it is back; another term's news is none");
    // Silence takes longer.
    advance(LOST_AFTER - Duration::from_millis(1)).await;
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()));
    advance(Duration::from_millis(1)).await;
    assert!(bed.gate.reachable(Class::City).is_err());
    bed.ack(&[2, 3], 1);
    assert_eq!(bed.gate.reachable(Class::City), Ok(()));
    assert!(bed.gate.reachable(Class::Geo).is_err());
}

/// While members change nothing is committed without a majority of the old ones, and without one of the new ones.
#[tokio::test(start_paused = true)]
async fn what_both_halves_cannot_reach_is_refused_before_it_is_proposed() {
    let bed = bed();
    let places = |nodes: &[(u64, &str, &str)]| -> Vec<Voter> {
        nodes.iter().map(|(id, zone, site)| Voter::new(*id, *zone, *site)).collect()
    };
    let old = places(&[(1, "a", "east"), (2, "a", "east"), (3, "b", "east"), (5, "c", "west")]);
    let new = places(&[(1, "a", "east"), (3, "b", "east"), (5, "c", "west")]);
    bed.gate.set_voters(new.clone(), old);
    bed.ack(&[2, 3, 5], 1);
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()));
    bed.gate.lost(TERM, 2);
    assert_eq!(bed.gate.reachable(Class::City), Ok(()), "three of four, and three of three");
    bed.gate.lost(TERM, 5);
    let why = bed.gate.reachable(Class::City).expect_err("two of the old half");
    assert!(why.contains("2 of 4 voters"), "{why}");
    bed.gate.set_voters(new, Vec::new());
    assert_eq!(bed.gate.reachable(Class::City), Ok(()), "two of three, when the change is done");
    assert!(bed.gate.reachable(Class::Geo).is_err());
}

#[tokio::test(start_paused = true)]
async fn geo_is_acknowledged_as_city_while_the_regime_record_says_so() {
    let bed = bed();
    bed.ack(&[2, 3], 4);
    bed.hold(4, Class::Geo, "waits");
    bed.gate.follow_regime(Some(5), 5);
    assert_eq!(bed.released(), [], "the record itself is not placed");
    bed.ack(&[2, 3], 6);
    assert_eq!(bed.released(), [("waits", "city", true)]);
    bed.gate.follow_regime(None, 7);
    bed.hold(7, Class::Geo, "later");
    bed.ack(&[2, 3], 8);
    assert_eq!(bed.released(), []);
    bed.ack(&[5], 8);
    assert_eq!(bed.released(), [("later", "geo", false)]);
}

/// Watermarks travel, the zones do not: who leads next knows that something is placed before it has heard where.
#[tokio::test(start_paused = true)]
async fn the_receipts_of_a_new_leader_name_the_zones_that_have_told_it_and_say_what_it_inherited() {
    let bed = bed();
    bed.gate.demote(TERM + 1);
    bed.gate.learn(Watermarks { city: 8, geo: 5 });
    let receipt = |index, class| {
        let (tell, told) = mpsc::channel();
        bed.gate.hold(TERM + 1, index, class, Box::new(move |release| drop(tell.send(release))));
        match told.try_recv() {
            Ok(Release::Placed(attestation)) => {
                (attestation.durability_class(), attestation.zones.join(" "), attestation.inherited)
            }
            other => panic!("{index}: {other:?}"),
        }
    };
    let answers = |nodes: &[u64]| {
        nodes.iter().for_each(|node| bed.gate.acknowledged(TERM + 1, *node, 7, Some(8)));
    };
    let (city, geo) = (v1::DurabilityClass::City, v1::DurabilityClass::Geo);
    // Nobody has told it of the new term yet. Its own disk is its own.
    assert_eq!(receipt(8, Class::City), (city, "a".into(), true));
    assert_eq!(receipt(4, Class::City), (geo, "a".into(), true));
    answers(&[2, 3]);
    assert_eq!(receipt(8, Class::City), (city, "a b".into(), false));
    assert_eq!(receipt(4, Class::Geo), (geo, "a b".into(), true), "three voters in one site");
    answers(&[5]);
    assert_eq!(receipt(4, Class::Geo), (geo, "a b c".into(), false));
    assert_eq!(
        receipt(8, Class::City),
        (city, "a b c".into(), false),
        "of the own term nothing is placed yet"
    );
}

#[tokio::test(start_paused = true)]
async fn a_remote_node_is_told_what_the_leader_knew() {
    let bed = bed();
    assert_eq!(bed.gate.proof_for(2), None, "the same site");
    let early = bed.gate.proof_for(5).expect("another site");
    assert_eq!((early.quorum_us, early.echoed, early.geo_acked), (0, (0, 0), 0));
    bed.ack(&[5], 4);
    bed.clock_us.store(2_000, Ordering::Relaxed);
    bed.ack(&[2, 3], 6);
    bed.clock_us.store(3_000, Ordering::Relaxed);
    bed.ack(&[4], 6);
    bed.hold(3, Class::Geo, "geo");
    let proof = bed.gate.proof_for(5).expect("another site");
    // The leader, 4 at 3,000, and 2 or 3 at 2,000 make three.
    assert_eq!((proof.quorum_us, proof.echoed, proof.geo_acked), (2_000, (4, 1_000), 3));
    assert!(proof.adaptive && proof.degraded_since.is_none());
    assert_eq!(bed.released(), [("geo", "geo", false)]);
    // The remote node answers, but not for what waits: its acknowledgement proves nothing newer than that.
    bed.hold(6, Class::Geo, "waits");
    bed.clock_us.store(9_000, Ordering::Relaxed);
    bed.ack(&[5], 5);
    assert_eq!(bed.gate.proof_for(5).expect("another site").echoed, (5, 3_000));
    bed.ack(&[5], 6);
    assert_eq!(bed.gate.proof_for(5).expect("another site").echoed, (6, 9_000));
}

/// Issue 15, row 19: a follower that answers every heartbeat and takes no entries was taken for one that can be counted on.
#[tokio::test(start_paused = true)]
async fn a_follower_that_takes_no_entries_is_out_of_reach_until_it_says_otherwise() {
    const WHY: &str = "c1 takes no entries: its disk is nearly full";
    let bed = bed();
    bed.ack(&[2, 3, 4, 5], 10);
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()));
    bed.gate.takes(TERM, 5, WHY);
    bed.ack(&[5], 10);
    let missing = bed.gate.reachable(Class::Geo).unwrap_err();
    assert!(missing.contains(WHY), "{missing}");
    assert_eq!(bed.gate.refusals().get(&5).map(String::as_str), Some(WHY));
    assert_eq!(bed.gate.reachable(Class::City), Ok(()), "city does not need it");
    for node in [3, 4] {
        bed.gate.takes(TERM, node, "b takes no entries");
    }
    let missing = bed.gate.reachable(Class::City).unwrap_err();
    assert!(missing.contains("2 of 5") && missing.contains("b takes no entries"), "{missing}");
    bed.gate.takes(TERM - 1, 5, "");
    assert!(bed.gate.reachable(Class::Geo).is_err(), "an answer of another term says nothing");
    [3, 4, 5].into_iter().for_each(|node| bed.gate.takes(TERM, node, ""));
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()));
    bed.gate.takes(TERM, 5, WHY);
    bed.gate.lead(TERM + 1);
    assert_eq!(bed.gate.reachable(Class::Geo), Ok(()), "a new term has heard of nobody yet");
}
