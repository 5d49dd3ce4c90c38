//! What a business relies on that asks for the remote city: nothing is acknowledged as `geo` that is not there, and without
//! the remote city the cluster does what its regime says. Five real nodes in one process.

#[path = "common/support.rs"]
mod support;

use std::time::{Duration, Instant};

use futures::StreamExt;
use support::{Cluster, PATIENCE, payment, request, wait_for};
use tercet_proto::client::{Client, ClientError};
use tercet_proto::reason::Reason;
use tercet_proto::topology::{DegradedBudget, Durability, GeoRegime};
use tercet_proto::v1::{self, DurabilityClass};

/// Every answer about a class that cannot be reached comes within this, on a busy machine, too: the node's own bound is 5 s.
const BOUNDED: Duration = Duration::from_secs(20);

async fn make_journal(client: &Client, name: &str, class: DurabilityClass) {
    let wanted = v1::CreateJournalRequest {
        name: name.into(),
        currencies: vec![v1::Currency { code: "CZK".into(), digits: 2 }],
        default_class: class.into(),
        business_date: "2026-01-05".into(),
    };
    client.create_journal(wanted).await.expect("a journal");
}

fn to(journal: &str, key: &str) -> v1::AppendRequest {
    v1::AppendRequest { journal: journal.into(), ..request(vec![payment(key, 10)]) }
}

async fn append(client: &Client, journal: &str, key: &str) -> v1::Receipt {
    let mut answer = client.append(to(journal, key)).await.expect(key);
    answer.receipts.remove(0)
}

fn attestation(receipt: &v1::Receipt) -> (DurabilityClass, bool, bool) {
    let attestation = receipt.attestation.as_ref().expect("an attestation");
    let remote = attestation.zones.iter().any(|zone| zone == "c");
    (attestation.durability_class(), attestation.degraded, remote)
}

async fn keys_of(client: &Client, journal: &str) -> Vec<String> {
    let wanted = v1::ReadRequest { journal: journal.into(), ..Default::default() };
    let mut entries = client.read(wanted);
    let mut keys = Vec::new();
    while let Some(entry) = entries.next().await {
        keys.push(entry.expect("an entry").entry.expect("what the client supplied").key);
    }
    keys
}

/// Sends it once, to whoever leads now.
async fn once(cluster: &Cluster, journal: &str, key: &str) -> Result<v1::Receipt, ClientError> {
    let client = cluster.client_of(&cluster.leader().await);
    client.append_once(&to(journal, key), BOUNDED).await.map(|mut answer| answer.receipts.remove(0))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn geo_is_refused_without_the_remote_city_and_goes_on_at_once_when_it_is_back() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client();
    make_journal(&client, "j", DurabilityClass::City).await;
    make_journal(&client, "g", DurabilityClass::Geo).await;
    let mut acknowledged = Vec::new();
    for n in 0..5 {
        let key = format!("before{n}");
        let receipt = append(&client, "g", &key).await;
        assert_eq!(attestation(&receipt), (DurabilityClass::Geo, false, true));
        acknowledged.push(key);
    }
    let stronger = v1::AppendRequest { durability_class: DurabilityClass::Geo.into(), ..to("j", "stronger") };
    let receipt = client.append(stronger).await.expect("a stronger class").receipts.remove(0);
    assert_eq!(attestation(&receipt), (DurabilityClass::Geo, false, true));

    cluster.stop_node("c1").await;
    let mut refused = 0;
    let deadline = Instant::now() + PATIENCE;
    for n in 0.. {
        let begun = Instant::now();
        let error =
            once(&cluster, "g", &format!("during{n}")).await.expect_err("geo without the remote city");
        assert!(begun.elapsed() < BOUNDED, "answered after {:?}", begun.elapsed());
        match error {
            ClientError::Refused(refusal) if refusal.reason == Reason::PlacementUnreachable => {
                assert!(refusal.message.contains("west"), "{refusal}");
                refused += 1;
            }
            // Contact was not known to be lost yet, or another node leads now.
            error => assert!(Instant::now() < deadline, "{error}"),
        }
        // City is never blocked by geo.
        let receipt = append(&client, "j", &format!("city{n}")).await;
        assert_eq!(attestation(&receipt), (DurabilityClass::City, false, false));
        if refused == 3 {
            break;
        }
    }
    // The older data stays readable, and a stronger class of a city journal is refused as well.
    assert!(keys_of(&client, "g").await.starts_with(&acknowledged));
    let by = Some(v1::get_entry_request::By::Key("before3".into()));
    let wanted = v1::GetEntryRequest { journal: "g".into(), by, consistency: 0 };
    assert_eq!(client.get_entry(wanted).await.expect("an older entry").seq, 4);
    // Balances show what was acknowledged and nothing that waits: entries of 10 each.
    let balances = client.balances("g", None).await.expect("balances");
    let credit = balances.iter().find(|row| row.account == "BANK-B").expect("a balance");
    let shown: i64 = credit.balance.parse().expect("a number");
    let keys = keys_of(&client, "g").await;
    assert_eq!(shown, 10 * i64::try_from(keys.len()).expect("few"), "{keys:?}");
    assert!(keys.len() >= acknowledged.len());
    let stronger =
        v1::AppendRequest { durability_class: DurabilityClass::Geo.into(), ..to("j", "stronger2") };
    let leader = cluster.client_of(&cluster.leader().await);
    assert!(leader.append_once(&stronger, BOUNDED).await.is_err());

    cluster.start_node("c1").await;
    let receipt = append(&client, "g", "after").await;
    assert_eq!(attestation(&receipt), (DurabilityClass::Geo, false, true));
    acknowledged.push("after".into());
    let keys = keys_of(&client, "g").await;
    assert!(acknowledged.iter().all(|key| keys.contains(key)), "{acknowledged:?} in {keys:?}");
    let replayed = append(&client, "g", "before0").await;
    assert_eq!(
        (replayed.seq, replayed.replayed, attestation(&replayed)),
        (1, true, (DurabilityClass::Geo, false, true))
    );
    cluster.stop().await;
}

/// A cluster whose `geo` may do without the remote city for a while.
async fn adaptive(entries: u64) -> Cluster {
    let mut topology = support::topology();
    topology.durability = Durability {
        geo_regime: GeoRegime::Adaptive,
        degrade_after_ms: 500,
        budget: DegradedBudget { entries, ..DegradedBudget::default() },
    };
    Cluster::start_with(topology).await
}

/// Appends one entry after the other until the answer is what is waited for; gives how many were acknowledged degraded.
async fn append_until(
    cluster: &Cluster,
    prefix: &str,
    mut is_end: impl FnMut(&Result<v1::Receipt, ClientError>) -> bool,
) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    let mut degraded = 0;
    for n in 0.. {
        let answer = once(cluster, "g", &format!("{prefix}{n}")).await;
        degraded += u64::from(answer.as_ref().is_ok_and(|receipt| attestation(receipt).1));
        if is_end(&answer) {
            return degraded;
        }
        assert!(Instant::now() < deadline, "{prefix}: it did not come to this; the last answer: {answer:?}");
    }
    unreachable!()
}

fn is_refused(answer: &Result<v1::Receipt, ClientError>) -> bool {
    let refusal = answer.as_ref().err().and_then(ClientError::refusal);
    refusal.is_some_and(|refusal| {
        refusal.reason == Reason::PlacementUnreachable && refusal.metadata.contains_key("budget")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adaptive_goes_on_degraded_within_its_budget_and_comes_back() {
    const BUDGET: u64 = 12;
    let mut cluster = adaptive(BUDGET).await;
    let client = cluster.client();
    make_journal(&client, "j", DurabilityClass::City).await;
    make_journal(&client, "g", DurabilityClass::Geo).await;
    append(&client, "g", "before").await;
    let mut events = client.watch_events(&cluster.endpoint("b2")).await.expect("events");

    cluster.stop_node("c1").await;
    let is_degraded = |answer: &Result<v1::Receipt, ClientError>| {
        answer.as_ref().is_ok_and(|receipt| attestation(receipt) == (DurabilityClass::City, true, false))
    };
    let mut degraded = append_until(&cluster, "d", is_degraded).await;
    assert_eq!(degraded, 1);
    // Reads show what was acknowledged.
    assert!(keys_of(&client, "g").await.len() >= 2);

    // A new leader knows what was spent.
    let leader = cluster.leader().await;
    cluster.stop_node(&leader).await;
    degraded += append_until(&cluster, "e", is_refused).await;
    assert!(degraded <= BUDGET, "{degraded} of {BUDGET}");
    assert!(is_refused(&once(&cluster, "g", "more").await), "spent is spent");
    append(&client, "j", "city").await;
    cluster.start_node(&leader).await;

    cluster.start_node("c1").await;
    append_until(&cluster, "f", |answer| {
        answer.as_ref().is_ok_and(|receipt| attestation(receipt) == (DurabilityClass::Geo, false, true))
    })
    .await;
    let mut told = Vec::new();
    while told.last().is_none_or(|kind| kind != "regime_restored") {
        // The watched node may have been the leader that was stopped; then it has told until there.
        match tokio::time::timeout(PATIENCE, events.message()).await.expect("in time") {
            Ok(Some(event)) if event.kind.starts_with("regime") || event.kind == "budget_spent" => {
                assert!(!event.message.is_empty());
                told.push(event.kind);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => break,
        }
    }
    assert_eq!(told.first().map(String::as_str), Some("regime_degraded"), "{told:?}");
    if told.last().is_some_and(|kind| kind == "regime_restored") {
        assert_eq!(told, ["regime_degraded", "budget_spent", "regime_restored"]);
    } else {
        assert_eq!(leader, "b2", "only a node that stops tells no more: {told:?}");
    }
    cluster.stop().await;
}

/// What `tercet inspect` says of a directory: the indexes that the leader had acknowledged as geo up to by what the node can
/// prove, and those of the log that hold entries of journal `g`.
fn inspect(dir: &std::path::Path) -> (Option<u64>, Vec<u64>) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tercet"))
        .args(["inspect", "--json"])
        .arg(dir)
        .output()
        .expect("tercet inspect");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut proven, mut indexes) = (None, Vec::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        match line["type"].as_str() {
            Some("proof") => {
                assert_eq!(line["holds_geo_acked"], true, "{line}");
                proven = line["geo_acked"].as_u64();
            }
            Some("batch") => {
                let records = line["records"].as_array().cloned().unwrap_or_default();
                let of_journal = |record: &&serde_json::Value| {
                    record["meaning"].as_str().is_some_and(|meaning| meaning.contains("request for g"))
                };
                indexes
                    .extend(records.iter().filter(of_journal).filter_map(|record| record["index"].as_u64()));
            }
            _ => {}
        }
    }
    (proven, indexes)
}

/// Both zones of the city are lost: the remote node's own directory says what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_remote_node_can_prove_what_it_holds() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client();
    make_journal(&client, "g", DurabilityClass::Geo).await;
    for n in 0..20 {
        append(&client, "g", &format!("k{n}")).await;
    }
    assert_ne!(cluster.leader().await, "c1", "the remote zone is preferred last");
    let dir = cluster.config("c1").data_dir;
    wait_for("a proof of everything that was acknowledged as geo", || async {
        let (proven, indexes) = inspect(&dir);
        (indexes.len() == 20 && proven >= indexes.iter().max().copied()).then_some(())
    })
    .await;
    // A lost city says nothing more to the remote node. One that is stopped on purpose does: it hands leadership from node to node, and a
    // leader that has heard of nobody yet proves less.
    for name in ["c1", "a1", "a2", "b1", "b2"] {
        cluster.stop_node(name).await;
    }
    let (proven, indexes) = inspect(&dir);
    assert_eq!(indexes.len(), 20, "all of them are in the remote node's log");
    assert!(indexes.iter().all(|index| Some(*index) <= proven), "{indexes:?}, proven through {proven:?}");
    let proof = tercet_node::proof::read(&dir, 0).expect("readable").expect("a proof");
    assert!(proof.flushed >= proof.geo_acked && proof.term >= 1 && proof.echoed_index >= 1, "{proof:?}");
    assert!(proof.quorum_us > 0 && !proof.adaptive && proof.degraded_since == 0, "{proof:?}");
    cluster.stop().await;
}

/// Issue 15, row 19: with c1's disk full, class `geo` was proposed and answered OUTCOME_UNKNOWN after 5 s, because c1 went on answering
/// heartbeats. A replica that takes nothing is out of reach: refused before anything is proposed, with the reason.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn geo_is_refused_with_the_reason_while_the_remote_disk_takes_nothing() {
    let cluster = Cluster::start().await;
    let client = cluster.client();
    make_journal(&client, "j", DurabilityClass::City).await;
    make_journal(&client, "g", DurabilityClass::Geo).await;
    append(&client, "g", "before").await;
    cluster.servers["c1"].disk_room().assume_free(Some(0));
    let why = "c1 takes no entries: its disk is nearly full";
    wait_for("the leader says what stands in the way", || async {
        let status = cluster.status_of(&cluster.leader().await).await?;
        let group = status.groups.first()?;
        let geo = group.classes.iter().find(|class| class.durability_class() == DurabilityClass::Geo)?;
        let replica = group.replicas.iter().find(|replica| replica.node == "c1")?;
        (geo.unreachable.contains(why) && replica.takes_no_entries.contains(why)).then_some(())
    })
    .await;
    for n in 0..3 {
        let begun = Instant::now();
        let error = once(&cluster, "g", &format!("during{n}")).await.expect_err("geo on a full disk");
        let refusal = error.refusal().unwrap_or_else(|| panic!("not a refusal: {error}"));
        assert_eq!(refusal.reason, Reason::PlacementUnreachable, "{refusal}");
        assert!(refusal.message.contains(why), "{refusal}");
        assert!(begun.elapsed() < Duration::from_secs(5), "nobody waited for an answer that could not come");
        append(&client, "j", &format!("city{n}")).await;
    }
    // With room again it is in reach again, with no restart.
    cluster.servers["c1"].disk_room().assume_free(None);
    let receipt = append(&client, "g", "after").await;
    assert_eq!(attestation(&receipt), (DurabilityClass::Geo, false, true));
    assert_eq!(keys_of(&client, "g").await, ["before", "after"], "what was refused was not proposed");
    cluster.stop().await;
}

/// Under `adaptive` it is as if the remote city were lost as soon as its disk takes nothing at all, and normal again when it does. While it
/// is only nearly full it still flushes what comes, so that `geo` is not degraded for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adaptive_degrades_while_the_remote_disk_takes_nothing() {
    let cluster = adaptive(1_000).await;
    let client = cluster.client();
    make_journal(&client, "g", DurabilityClass::Geo).await;
    append(&client, "g", "before").await;
    cluster.servers["c1"].disk_room().assume_free(Some(0));
    wait_for("the leader knows that c1 is nearly full", || async {
        let status = cluster.status_of(&cluster.leader().await).await?;
        let replicas = &status.groups.first()?.replicas;
        replicas.iter().any(|replica| replica.takes_no_entries.contains("nearly full")).then_some(())
    })
    .await;
    let receipt = append(&client, "g", "nearly").await;
    assert_eq!(attestation(&receipt), (DurabilityClass::Geo, false, true));
    cluster.servers["c1"].disk_room().assume_still(Some(Duration::from_secs(3)));
    append_until(&cluster, "d", |answer| {
        answer.as_ref().is_ok_and(|receipt| attestation(receipt) == (DurabilityClass::City, true, false))
    })
    .await;
    let status = cluster.status_of(&cluster.leader().await).await.expect("a status");
    let geo = status.groups[0].classes.iter().find(|class| class.degraded).expect("a degraded class");
    assert!(geo.reason.contains("c1 takes no entries"), "{}", geo.reason);
    cluster.servers["c1"].disk_room().assume_free(None);
    cluster.servers["c1"].disk_room().assume_still(None);
    append_until(&cluster, "f", |answer| {
        answer.as_ref().is_ok_and(|receipt| attestation(receipt) == (DurabilityClass::Geo, false, true))
    })
    .await;
    cluster.stop().await;
}
