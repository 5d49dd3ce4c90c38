//! What a clearing system relies on, seen through gRPC at five real nodes in one process: real segment logs, real Raft.

#[path = "common/support.rs"]
mod support;

use std::collections::BTreeMap;

use futures::StreamExt;
use support::{Cluster, create_journal, payment, request, wait_for};
use tercet_proto::client::{Client, ClientError};
use tercet_proto::reason::Reason;
use tercet_proto::v1;

async fn entries_local(client: &Client) -> Vec<v1::StoredEntry> {
    let wanted = v1::ReadRequest {
        journal: "j".into(),
        consistency: v1::Consistency::Local.into(),
        ..Default::default()
    };
    let mut entries = Vec::new();
    let mut stream = client.read(wanted);
    while let Some(entry) = stream.next().await {
        match entry {
            Ok(entry) => entries.push(entry),
            Err(_) => return Vec::new(),
        }
    }
    entries
}

fn by_key(key: &str) -> v1::GetEntryRequest {
    let by = Some(v1::get_entry_request::By::Key(key.into()));
    v1::GetEntryRequest { journal: "j".into(), by, consistency: 0 }
}

fn reason_of(error: ClientError) -> (Reason, String) {
    match error {
        ClientError::Refused(refusal) => (refusal.reason, refusal.field),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_leader_is_in_zone_a_and_every_node_serves() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    assert!(leader.starts_with('a'), "the first leader is {leader}");
    create_journal(&cluster.client_of(&cluster.follower().await)).await;
    let names: Vec<String> = cluster.servers.keys().cloned().collect();
    for (at, name) in names.iter().enumerate() {
        let client = cluster.client_of(name);
        let key = format!("k{at}");
        let response = client.append(request(vec![payment(&key, 100)])).await.expect("an append");
        let receipt = &response.receipts[0];
        assert_eq!(
            (receipt.seq, receipt.key.as_str(), receipt.replayed),
            (at as u64 + 1, key.as_str(), false)
        );
        let zones = &receipt.attestation.as_ref().expect("an attestation").zones;
        assert!(zones.len() >= 2, "class city holds in two zones, the receipt says {zones:?}");
        let found = client.get_entry(by_key(&key)).await.expect("the entry");
        assert_eq!((found.seq, &found.entry_hash), (receipt.seq, &receipt.entry_hash));
    }
    let client = cluster.client();
    let balances = client.balances("j", None).await.expect("balances");
    let by_account: BTreeMap<_, _> =
        balances.iter().map(|b| (b.account.as_str(), b.balance.as_str())).collect();
    assert_eq!(by_account, BTreeMap::from([("甲银行", "-500"), ("BANK-B", "500")]));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_makes_one_entry_whoever_is_asked() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    create_journal(&client).await;
    let first = client.append(request(vec![payment("once", 7)])).await.expect("an append").receipts.remove(0);
    for name in cluster.servers.keys() {
        let again =
            cluster.client_of(name).append(request(vec![payment("once", 7)])).await.expect("a replay");
        let again = &again.receipts[0];
        assert!(again.replayed);
        assert_eq!(
            (again.seq, &again.entry_hash, &again.chain_hash, again.recorded_at_us),
            (first.seq, &first.entry_hash, &first.chain_hash, first.recorded_at_us)
        );
    }
    let conflict =
        client.append(request(vec![payment("new", 1), payment("once", 8)])).await.expect_err("a conflict");
    match conflict {
        ClientError::Refused(refusal) => {
            assert_eq!(refusal.reason, Reason::KeyConflict);
            assert_eq!(refusal.metadata.get("seq").map(String::as_str), Some("1"), "{refusal:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(client.get_entry(by_key("new")).await.is_err(), "nothing of a refused request is applied");
    let mixed =
        client.append(request(vec![payment("once", 7), payment("two", 2)])).await.expect("replay and append");
    assert_eq!(
        mixed.receipts.iter().map(|r| (r.seq, r.replayed)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn known_keys_of_several_requests_get_their_receipts_in_any_order() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    create_journal(&client).await;
    let mut first = std::collections::BTreeMap::new();
    for batch in 0..3 {
        let entries = (0..50).map(|n| payment(&format!("{batch}-{n}"), n + 1)).collect();
        let receipts = client.append(request(entries)).await.expect("an append").receipts;
        first.extend(receipts.into_iter().map(|receipt| (receipt.key.clone(), receipt)));
    }
    // Every third of each, from the last to the first, with one that is new.
    let mut again = Vec::new();
    for batch in 0..3 {
        again.extend((0..50).step_by(3).map(|n| payment(&format!("{batch}-{n}"), n + 1)));
    }
    again.reverse();
    again.insert(20, payment("new", 1));
    let receipts = client.append(request(again.clone())).await.expect("replays").receipts;
    assert_eq!(receipts.len(), again.len());
    for (entry, receipt) in again.iter().zip(&receipts) {
        assert_eq!(receipt.key, entry.key);
        let Some(first) = first.get(&receipt.key) else {
            assert_eq!((receipt.key.as_str(), receipt.seq, receipt.replayed), ("new", 151, false));
            continue;
        };
        assert!(receipt.replayed);
        assert_eq!(
            (receipt.seq, &receipt.entry_hash, &receipt.chain_hash, receipt.recorded_at_us),
            (first.seq, &first.entry_hash, &first.chain_hash, first.recorded_at_us)
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_and_names_the_field() {
    let cluster = Cluster::start().await;
    let client = cluster.client_of(&cluster.follower().await);
    create_journal(&client).await;
    let with = |change: &dyn Fn(&mut v1::Entry)| {
        let mut entry = payment("bad", 10);
        change(&mut entry);
        request(vec![payment("good", 1), entry])
    };
    let cases: Vec<(v1::AppendRequest, Reason, &str)> = vec![
        (with(&|e| e.postings[0].amount = 11), Reason::Unbalanced, "entries[1].postings"),
        (with(&|e| e.postings[0].amount = 0), Reason::AmountInvalid, "entries[1].postings[0].amount"),
        (with(&|e| e.postings[1].amount = -5), Reason::AmountInvalid, "entries[1].postings[1].amount"),
        (
            with(&|e| e.postings.iter_mut().for_each(|p| p.currency = "EUR".into())),
            Reason::CurrencyUnknown,
            "entries[1].postings[0].currency",
        ),
        (
            with(&|e| e.postings = vec![e.postings[0].clone(); 129]),
            Reason::PostingsInvalid,
            "entries[1].postings",
        ),
        (
            with(&|e| e.postings[0].account = "a\u{7}b".into()),
            Reason::AccountInvalid,
            "entries[1].postings[0].account",
        ),
        (with(&|e| e.key = String::new()), Reason::KeyInvalid, "entries[1].key"),
        (with(&|e| e.key = "a\nb".into()), Reason::KeyInvalid, "entries[1].key"),
        (with(&|e| e.kind = v1::entry::Kind::Reversal.into()), Reason::KindUnimplemented, "entries[1].kind"),
        (
            with(&|e| e.business_date = "2026-02-30".into()),
            Reason::BusinessDateInvalid,
            "entries[1].business_date",
        ),
        (with(&|e| e.payload = vec![0; 65_537].into()), Reason::PayloadTooLarge, "entries[1].payload"),
        (request(vec![]), Reason::RequestEmpty, "entries"),
        (
            request((0..8_193).map(|n| payment(&n.to_string(), 1)).collect()),
            Reason::RequestTooLarge,
            "entries",
        ),
        (
            v1::AppendRequest { journal: "nobody".into(), ..request(vec![payment("x", 1)]) },
            Reason::JournalNotFound,
            "journal",
        ),
        (
            v1::AppendRequest { journal: "Not A Name".into(), ..request(vec![payment("x", 1)]) },
            Reason::JournalNameInvalid,
            "journal",
        ),
        (
            v1::AppendRequest { durability_class: 7, ..request(vec![payment("x", 1)]) },
            Reason::ClassInvalid,
            "durability_class",
        ),
    ];
    for (request, reason, field) in cases {
        let error = client.append(request).await.expect_err(reason.as_str());
        assert_eq!(reason_of(error), (reason, field.to_owned()));
    }
    let journal = client.get_journal("j", v1::Consistency::Linearizable).await.expect("the journal");
    assert_eq!(journal.head.map(|head| head.seq), Some(0), "nothing of all that was appended");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_through_a_follower_follows() {
    let cluster = Cluster::start().await;
    let client = cluster.client_of(&cluster.follower().await);
    create_journal(&client).await;
    client.append(request(vec![payment("0", 1)])).await.expect("an append");
    let tail = v1::TailRequest { journal: "j".into(), from_seq: 1 };
    let mut stream = client.tail(tail);
    let mut seen = Vec::new();
    for n in 1..=20_u32 {
        client.append(request(vec![payment(&n.to_string(), 1)])).await.expect("an append");
        while seen.len() <= n as usize {
            let next = tokio::time::timeout(support::PATIENCE, stream.next()).await.expect("in time");
            seen.push(next.expect("it goes on").expect("an entry").seq);
        }
    }
    assert_eq!(seen, (1..=21).collect::<Vec<u64>>());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_cluster_comes_back_with_everything() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client();
    create_journal(&client).await;
    let entries: Vec<_> = (0..500).map(|n| payment(&n.to_string(), n + 1)).collect();
    client.append(request(entries.clone())).await.expect("an append");
    let before = client.get_journal("j", v1::Consistency::Linearizable).await.expect("the journal");
    let names: Vec<String> = cluster.servers.keys().cloned().collect();
    for name in &names {
        cluster.stop_node(name).await;
    }
    for name in &names {
        cluster.start_node(name).await;
    }
    let client = cluster.client();
    let after = client.get_journal("j", v1::Consistency::Linearizable).await.expect("the journal");
    assert_eq!(before, after);
    let again = client.append(request(entries)).await.expect("replays");
    assert!(again.receipts.iter().all(|receipt| receipt.replayed));
    for name in &names {
        let client = cluster.client_of(name);
        let all = wait_for("all entries on every node", || async {
            let entries = entries_local(&client).await;
            (entries.len() == 500).then_some(entries)
        })
        .await;
        assert_eq!(
            all.last().map(|entry| &entry.chain_hash),
            after.head.as_ref().map(|head| &head.chain_hash)
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_groups_keep_several_journals() {
    let mut topology = support::topology();
    topology.cluster.groups = 3;
    let cluster = Cluster::start_with(topology).await;
    let client = cluster.client_of("c1");
    let mut groups = std::collections::BTreeSet::new();
    for n in 0..6 {
        let wanted = v1::CreateJournalRequest {
            name: format!("j{n}"),
            currencies: vec![v1::Currency { code: "CZK".into(), digits: 2 }],
            default_class: 0,
            business_date: "2026-01-05".into(),
        };
        let journal = client.create_journal(wanted).await.expect("a journal");
        groups.insert(journal.group);
        let append = v1::AppendRequest { journal: format!("j{n}"), ..request(vec![payment("k", 1)]) };
        assert_eq!(client.append(append).await.expect("an append").receipts[0].seq, 1);
    }
    assert_eq!(groups.len(), 3, "journals are spread over the groups");
    assert_eq!(client.list_journals(v1::Consistency::Linearizable).await.expect("journals").len(), 6);
    cluster.stop().await;
}
