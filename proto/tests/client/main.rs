//! The client against small in-process servers on loopback: leader changes, lost answers, refusals, dead nodes, broken
//! streams. The servers share one ledger in memory, so what was really appended can be compared with what the client said.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod cluster;

use std::time::{Duration, Instant};

use cluster::{Cluster, Script, entry, request};
use futures::StreamExt;
use tercet_proto::client::{Client, ClientError, ClientOptions};
use tercet_proto::reason::Reason;
use tercet_proto::v1;

fn options() -> ClientOptions {
    ClientOptions {
        deadline: Duration::from_secs(10),
        attempt_timeout: Duration::from_millis(500),
        connect_timeout: Duration::from_millis(300),
        ..ClientOptions::default()
    }
}

fn client(cluster: &Cluster, nodes: &[usize]) -> Client {
    let endpoints = nodes.iter().map(|&node| cluster.address(node)).collect();
    Client::connect(endpoints, options()).unwrap()
}

async fn seqs(client: &Client, keys: &[&str]) -> Vec<u64> {
    let response = client.append(request(keys)).await.unwrap();
    response.receipts.iter().map(|receipt| receipt.seq).collect()
}

#[tokio::test]
async fn goes_straight_to_the_leader_once_an_answer_named_it() {
    let cluster = Cluster::start(3).await;
    cluster.lead(2);
    let client = client(&cluster, &[0]);
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    assert_eq!(client.leader_endpoint("j"), Some(format!("http://{}", cluster.address(2))));
    let before = cluster.appends_at(0);
    assert_eq!(seqs(&client, &["k2", "k3"]).await, [2, 3]);
    assert_eq!(cluster.appends_at(0), before, "the follower was asked again");
    assert_eq!(cluster.appends_at(2), 2);
    cluster.stop().await;
}

#[tokio::test]
async fn a_leader_change_is_not_seen_by_the_caller() {
    let cluster = Cluster::start(3).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    // An election: nobody leads for a while, then another one does.
    cluster.lead_none();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { seqs(&client, &["k2"]).await }
    });
    cluster.wait_for(|| cluster.refusals() >= 3).await;
    cluster.lead(1);
    assert_eq!(waiting.await.unwrap(), [2]);
    assert_eq!(cluster.journal_keys(), ["k1", "k2"]);
    cluster.stop().await;
}

#[tokio::test]
async fn a_writer_with_a_stream_follows_the_leader_and_repeats_what_was_lost() {
    let cluster = Cluster::start(3).await;
    cluster.lead(2);
    let client = client(&cluster, &[0]);
    let mut appender = client.appender();
    let mut append = async |keys: &[&str]| {
        let receipts = appender.append(request(keys)).await.unwrap().receipts;
        receipts.iter().map(|receipt| (receipt.seq, receipt.replayed)).collect::<Vec<_>>()
    };
    assert_eq!(append(&["k1"]).await, [(1, false)]);
    let at_a_follower = cluster.appends_at(0);
    assert_eq!(append(&["k2"]).await, [(2, false)]);
    assert_eq!(cluster.appends_at(0), at_a_follower, "the stream still goes to the follower");
    for (seq, script) in
        (3..).zip([Script::CommitThenUnknown, Script::CommitThenHang, Script::CommitThenUnavailable])
    {
        cluster.script(2, script);
        assert_eq!(append(&[&format!("k{seq}")]).await, [(seq, true)], "{script:?}");
    }
    // A leader that only goes on leading elsewhere, with its stream open.
    cluster.lead(1);
    assert_eq!(append(&["k6"]).await, [(6, false)]);
    let at_the_old_leader = cluster.appends_at(2);
    assert_eq!(append(&["k7"]).await, [(7, false)]);
    assert_eq!(cluster.appends_at(2), at_the_old_leader);
    let mut other = request(&["k8"]);
    other.journal = "gone".into();
    let error = appender.append(other).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(refusal) if refusal.reason == Reason::JournalNotFound),
        "{error}"
    );
    assert_eq!(appender.append(request(&["k8"])).await.unwrap().receipts[0].seq, 8, "a refusal ends nothing");
    cluster.stop().await;
}

#[tokio::test]
async fn a_lost_answer_is_resolved_by_repeating() {
    for script in [Script::CommitThenUnknown, Script::CommitThenHang, Script::CommitThenUnavailable] {
        let cluster = Cluster::start(2).await;
        cluster.lead(0);
        let client = client(&cluster, &[0, 1]);
        cluster.script(0, script);
        let response = client.append(request(&["k1", "k2"])).await.unwrap();
        assert_eq!(response.receipts.iter().map(|receipt| receipt.seq).collect::<Vec<_>>(), [1, 2]);
        assert!(
            response.receipts.iter().all(|receipt| receipt.replayed),
            "{script:?}: the first attempt had appended"
        );
        assert_eq!(cluster.journal_keys(), ["k1", "k2"], "{script:?}: nothing twice");
        cluster.stop().await;
    }
}

#[tokio::test]
async fn one_attempt_tells_unknown_from_refused() {
    let cluster = Cluster::start(1).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    let timeout = Duration::from_millis(300);
    for script in [Script::CommitThenUnknown, Script::CommitThenHang, Script::CommitThenUnavailable] {
        cluster.script(0, script);
        let error = client.append_once(&request(&["k1"]), timeout).await.unwrap_err();
        assert!(matches!(error, ClientError::Unknown { attempts: 1, .. }), "{script:?}: {error}");
        assert!(!error.is_definite());
    }
    cluster.lead_none();
    let error = client.append_once(&request(&["k2"]), timeout).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::NoLeader), "{error}");
    assert!(error.is_definite());
    cluster.lead(0);
    let mut other = request(&["k1"]);
    other.entries[0].payload = bytes::Bytes::from_static(b"other");
    let error = client.append_once(&other, timeout).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::KeyConflict), "{error}");
    assert_eq!(cluster.journal_keys(), ["k1"]);
    cluster.stop().await;
}

#[tokio::test]
async fn refusals_of_content_come_back_at_once_with_everything() {
    let cluster = Cluster::start(2).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    seqs(&client, &["k0", "k1"]).await;
    let mut conflicting = request(&["new", "k1"]);
    conflicting.entries[1].payload = bytes::Bytes::from_static(b"other");
    let before = cluster.appends_at(0);
    let error = client.append(conflicting).await.unwrap_err();
    assert_eq!(cluster.appends_at(0), before + 1, "a definite refusal was repeated");
    let refusal = error.refusal().expect("refused");
    assert_eq!((refusal.reason, refusal.field.as_str()), (Reason::KeyConflict, "entries[1].key"));
    assert_eq!(refusal.metadata.get("seq").map(String::as_str), Some("2"));
    assert_eq!(cluster.journal_keys(), ["k0", "k1"], "nothing is half-applied");

    let mut elsewhere = request(&["k9"]);
    elsewhere.journal = "nowhere".to_owned();
    let error = client.append(elsewhere).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::JournalNotFound), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_refusal_that_does_not_settle_a_lost_attempt_is_unknown() {
    let cluster = Cluster::start(1).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    cluster.script(0, Script::HangOnce);
    cluster.then(0, Script::JournalNotFound);
    let error = client.append(request(&["k1"])).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { attempts: 2, .. }), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn dead_endpoints_are_passed_over() {
    let cluster = Cluster::start(2).await;
    cluster.lead(1);
    let dead = cluster::unused_address();
    let endpoints = vec![dead, cluster.address(0)];
    let client = Client::connect(endpoints, options()).unwrap();
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    cluster.stop().await;
}

#[tokio::test]
async fn nodes_of_the_topology_make_up_for_given_endpoints_that_died() {
    let mut cluster = Cluster::start(3).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    cluster.kill(0).await;
    cluster.lead(2);
    assert_eq!(seqs(&client, &["k2"]).await, [2]);
    cluster.stop().await;
}

#[tokio::test]
async fn the_address_map_leads_around_addresses_that_do_not_work() {
    let cluster = Cluster::start_behind_wrong_addresses(2).await;
    cluster.lead(1);
    let address_map = (0..2).map(|node| (node as u64 + 1, cluster.address(node))).collect();
    let options = ClientOptions { address_map, ..options() };
    let client = Client::connect(vec![cluster.address(0)], options).unwrap();
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    assert_eq!(client.leader_endpoint("j"), Some(format!("http://{}", cluster.address(1))));
    assert_eq!(cluster.appends_at(1), 1);
    cluster.stop().await;
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_definite() {
    let options = ClientOptions { deadline: Duration::from_millis(300), ..options() };
    let client = Client::connect(vec![cluster::unused_address()], options).unwrap();
    let begun = Instant::now();
    let error = client.append(request(&["k1"])).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(error.is_definite());
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(5));
    let error = client.append_once(&request(&["k1"]), Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { attempts: 1, .. }), "{error}");
    let error = client.topology().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn at_the_deadline_refused_and_unknown_are_told_apart() {
    let cluster = Cluster::start(1).await;
    cluster.lead_none();
    let options = ClientOptions { deadline: Duration::from_millis(400), ..options() };
    let client = Client::connect(vec![cluster.address(0)], options).unwrap();
    let error = client.append(request(&["k1"])).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::NoLeader), "{error}");
    assert!(cluster.refusals() > 3, "it was repeated");
    cluster.lead(0);
    cluster.script(0, Script::CommitThenUnknown);
    cluster.then(0, Script::NoLeaderForEver);
    let error = client.append(request(&["k2"])).await.unwrap_err();
    assert!(matches!(error, ClientError::Unknown { .. }), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn without_following_only_the_given_endpoint_is_asked() {
    let cluster = Cluster::start(2).await;
    cluster.lead(1);
    let options = ClientOptions { follow_leader: false, deadline: Duration::from_millis(300), ..options() };
    let client = Client::connect(vec![cluster.address(0)], options).unwrap();
    let error = client.append(request(&["k1"])).await.unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::NoLeader), "{error}");
    assert_eq!(cluster.appends_at(1), 0);
    cluster.stop().await;
}

async fn append_numbers(client: &Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let request = v1::AppendRequest {
            journal: "j".to_owned(),
            entries: vec![entry(&format!("k{number}"))],
            ..v1::AppendRequest::default()
        };
        client.append(request).await.unwrap();
    }
}

#[tokio::test]
async fn a_read_goes_on_where_it_broke_off() {
    let cluster = Cluster::start(2).await;
    cluster.lead(0);
    let client = client(&cluster, &[0, 1]);
    append_numbers(&client, 0..25).await;
    cluster.break_reads_after(0, 2);
    let range = |from_seq, to_seq| v1::ReadRequest {
        journal: "j".to_owned(),
        from_seq,
        to_seq,
        ..v1::ReadRequest::default()
    };
    let read = |request| client.read(request).map(|entry| entry.unwrap().seq).collect::<Vec<u64>>();
    assert_eq!(read(range(0, 0)).await, (1..=25).collect::<Vec<u64>>());
    assert!(cluster.broken_reads() > 0, "no read was broken");
    assert_eq!(read(range(7, 9)).await, [7, 8, 9]);
    assert_eq!(read(range(26, 0)).await, [0; 0]);

    let mut nowhere = range(0, 0);
    nowhere.journal = "nowhere".to_owned();
    let error = client.read(nowhere).next().await.unwrap().unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.reason), Some(Reason::JournalNotFound), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_gap_ends_a_read_with_an_error() {
    let cluster = Cluster::start(1).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    append_numbers(&client, 0..10).await;
    cluster.skip_seq(4);
    let request = v1::ReadRequest { journal: "j".to_owned(), ..v1::ReadRequest::default() };
    let answers: Vec<_> = client.read(request).collect().await;
    let error = answers.last().unwrap().as_ref().unwrap_err();
    assert!(error.to_string().contains("sent seq 5 where 4 was due"), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_tail_has_no_gap_over_broken_calls() {
    let cluster = Cluster::start(2).await;
    cluster.lead(0);
    let client = client(&cluster, &[0, 1]);
    append_numbers(&client, 0..3).await;
    cluster.break_reads_after(0, 2);
    let from_start = client.tail(v1::TailRequest { journal: "j".to_owned(), from_seq: 1 });
    let mut from_start = Box::pin(from_start.take(20));
    let mut from_head = client.tail(v1::TailRequest { journal: "j".to_owned(), from_seq: 0 });
    // Polled once, so that "after the present head" is settled before more is appended.
    let first = tokio::spawn(async move { (from_head.next().await, from_head) });
    cluster.wait_for(|| cluster.tails() >= 1).await;
    append_numbers(&client, 3..20).await;
    let mut seen = Vec::new();
    while let Some(entry) = from_start.next().await {
        seen.push(entry.unwrap().seq);
    }
    assert_eq!(seen, (1..=20).collect::<Vec<u64>>());
    assert!(cluster.broken_reads() > 0, "no tail was broken");
    let (first, _tail) = tokio::time::timeout(Duration::from_secs(10), first).await.unwrap().unwrap();
    assert_eq!(first.unwrap().unwrap().seq, 4);
    cluster.stop().await;
}

#[tokio::test]
async fn lists_are_read_to_their_end() {
    let cluster = Cluster::start(1).await;
    cluster.lead(0);
    let client = client(&cluster, &[0]);
    append_numbers(&client, 0..7).await;
    let balances = client.balances("j", None).await.unwrap();
    assert_eq!(balances.len(), 14, "two accounts an entry, three a page");
    assert_eq!(client.balances("j", Some("from-k3")).await.unwrap().len(), 1);
    let topology = client.topology().await.unwrap();
    assert_eq!(client.endpoint_of(&topology.nodes[0]), format!("http://{}", cluster.address(0)));
    let status = client.status(&cluster.address(0)).await.unwrap();
    assert_eq!(status.node_id, 1);
    let error = client.status("nonsense").await.unwrap_err();
    assert!(matches!(error, ClientError::InvalidEndpoint { .. }), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn a_leader_that_falls_silent_is_left_as_soon_as_another_leads() {
    let cluster = Cluster::start(3).await;
    cluster.lead(0);
    let options = ClientOptions { attempt_timeout: Duration::from_secs(30), ..options() };
    let client = Client::connect(
        vec![cluster.address(0)],
        ClientOptions { deadline: Duration::from_secs(60), ..options },
    )
    .unwrap();
    assert_eq!(seqs(&client, &["k1"]).await, [1]);
    cluster.script(0, Script::CommitThenHang);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { seqs(&client, &["k2"]).await }
    });
    // It is silent, and nobody else leads: that is waited for.
    cluster.wait_for(|| cluster.appends_at(0) == 2).await;
    let began = Instant::now();
    cluster.lead(1);
    assert_eq!(waiting.await.unwrap(), [2], "the entry that node 0 took, once");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(cluster.journal_keys(), ["k1", "k2"]);
    assert_eq!(client.leader_endpoint("j"), Some(format!("http://{}", cluster.address(1))));
    cluster.stop().await;
}
