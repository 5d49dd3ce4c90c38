//! Over real segment files in a temporary directory, written through the log itself.

use std::sync::mpsc;

use tercet_storage::disk::{DiskChoice, open_directory};
use tercet_storage::{LogOptions, LogRecord, SegmentLog};

use super::*;
use crate::ctl::dev::sample_entries;
use crate::ledger::{PreparedCommand, ProposalBuilder, ProposalHeader};
use crate::raft::codec::{TAG_BLANK, TAG_PROPOSAL, encode_vote};
use crate::raft::types::{LeaderId, Vote};
use tercet_proto::v1;

/// A data directory whose log holds a blank entry and a proposal of three entries.
fn data_dir() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let request = v1::AppendRequest {
        journal: "interbank".to_owned(),
        entries: sample_entries(3),
        durability_class: 0,
    };
    let mut builder = ProposalBuilder::new(ProposalHeader { leader: 1, ..ProposalHeader::default() });
    builder.push_prepared(&PreparedCommand::append(&request).expect("valid"));
    let record = |index, tag, payload| LogRecord { index, term: 1, leader: 1, tag, payload };
    let disk = open_directory(&dir.path().join("log"), DiskChoice::Portable).expect("a disk");
    // Small segments, which are written full of zeros first.
    let options =
        LogOptions { segment_bytes: 256 * 1024, batch_limit_bytes: 64 * 1024, ..LogOptions::default() };
    let (log, _) = SegmentLog::open(disk, options).expect("a log");
    let (done, finished) = mpsc::channel();
    let records = vec![record(1, TAG_BLANK, bytes::Bytes::new()), record(2, TAG_PROPOSAL, builder.finish())];
    log.append(0, records, Box::new(move |result| drop(done.send(result)))).expect("accepted");
    finished.recv().expect("answered").expect("durable");
    log.close();
    dir
}

#[test]
fn votes_are_listed_with_whom_they_are_for() {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = open_directory(&dir.path().join("log"), DiskChoice::Portable).expect("a disk");
    let options =
        LogOptions { segment_bytes: 256 * 1024, batch_limit_bytes: 64 * 1024, ..LogOptions::default() };
    let (log, _) = SegmentLog::open(disk, options).expect("a log");
    let (done, finished) = mpsc::channel();
    for committed in [false, true] {
        let vote = encode_vote(&Vote { leader_id: LeaderId { term: 4, voted_for: 3 }, committed });
        let done = done.clone();
        log.save_vote(0, vote, Box::new(move |result| drop(done.send(result)))).expect("accepted");
        finished.recv().expect("answered").expect("durable");
    }
    log.close();
    let (report, disk) = report(dir.path());
    let mut values: Vec<Value> = Vec::new();
    for batch in &report.batches {
        let records = batch.records.iter().flatten();
        values.extend(records.map(|record| record_value(&*disk, batch, record)));
    }
    let votes: Vec<&Value> = values.iter().filter(|value| value["kind"] == "vote").collect();
    assert_eq!(votes.len(), 4, "each is stored twice");
    for (vote, won) in votes.iter().zip([false, false, true, true]) {
        assert_eq!(vote["vote"], json!({ "term": 4, "node": 3, "won": won }));
    }
    assert_eq!(votes[3]["meaning"], "term 4 for node 3, which has won");
}

fn report(dir: &Path) -> (InspectReport, Box<dyn Disk>) {
    let disk = open_read_only(&log_dir(dir).expect("a log")).expect("readable");
    (inspect_disk(&*disk).expect("a report"), disk)
}

fn meanings(dir: &Path) -> Vec<String> {
    let (report, disk) = report(dir);
    let mut meanings = Vec::new();
    for batch in &report.batches {
        let records = batch.records.iter().flatten();
        meanings.extend(records.filter_map(|record| record_meaning(&*disk, batch, record)));
    }
    meanings
}

#[test]
fn entries_are_listed_with_their_meaning() {
    let dir = data_dir();
    let expected =
        ["blank: a new leader's first entry", "proposal of node 1: 3 entries in 1 request for interbank"];
    assert_eq!(meanings(dir.path()), expected);
    let (report, _) = report(dir.path());
    let groups = groups_table(&report.groups);
    let row: Vec<&str> = groups.lines().nth(1).expect("group 0").split_whitespace().collect();
    assert_eq!(row, ["0", "2", "(term", "1)", "-", "-", "none"]);
}

#[test]
fn the_log_directory_itself_is_taken_too_and_others_are_refused() {
    let dir = data_dir();
    assert_eq!(meanings(&dir.path().join("log")), meanings(dir.path()));
    let empty = tempfile::tempdir().expect("a directory");
    let failure = log_dir(empty.path()).expect_err("no log");
    assert!(failure.message.contains("is no data directory"), "{failure}");
    assert!(log_dir(&empty.path().join("missing")).is_err());
}

#[test]
fn a_damaged_payload_is_listed_and_not_interpreted() {
    let dir = data_dir();
    let (before, _) = report(dir.path());
    let (batch, record) = before
        .batches
        .iter()
        .flat_map(|batch| batch.records.iter().flatten().map(move |record| (batch, record)))
        .find(|(_, record)| record.row.kind == Kind::Entry && record.row.index == 2)
        .expect("the proposal");
    let segment = dir.path().join("log").join(format!("{:08x}.seg", batch.header.segment));
    let mut bytes = std::fs::read(&segment).expect("the segment");
    let at = batch.header.block as usize * BLOCK_BYTES + record.row.offset as usize + 20;
    bytes[at] ^= 1;
    std::fs::write(&segment, bytes).expect("damaged");

    assert_eq!(meanings(dir.path()), ["blank: a new leader's first entry"]);
    let (after, disk) = report(dir.path());
    assert!(after.findings.iter().any(|finding| finding.verdict.is_rot()), "{:?}", after.findings);
    let damaged: Vec<Value> = after.batches.iter().map(|batch| batch_value(&*disk, batch)).collect();
    let rot: Vec<&Value> = damaged.iter().filter(|batch| batch["rot"] == true).collect();
    assert_eq!(rot.len(), 1);
    let intact = rot[0]["records"].as_array().expect("records").iter().map(|record| record["intact"] == true);
    assert_eq!(intact.filter(|intact| !intact).count(), 1);
}
