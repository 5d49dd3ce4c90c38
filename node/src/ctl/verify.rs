//! `tercet verify`: recomputes a journal on every replica and compares the replicas with each other.
//!
//! Invariants: the head that everything is measured against is read once, linearizably, before any replica is read; each
//! replica is asked for its own copy (LOCAL, without following the leader); a replica that was not read through to the head
//! never counts as verified.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tercet_proto::client::{Client, ClientError};
use tercet_proto::reason::{Reason, Retry};
use tercet_proto::v1;
use tercet_proto::v1::Consistency;
use tokio::time::Instant;

use self::chain::{Fault, Recomputed, key_of};
use super::connect::{EndpointArgs, connect_to};
use super::exit::{Exit, Failure};
use super::output::{counted, hex, print, printable};

mod chain;

/// Between two looks at a lagging replica's head.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Arguments of `tercet verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet verify --journal interbank
  tercet verify --journal interbank --allow-unreachable --wait 60

Reads every entry from every replica; recomputes content, entry_hash and chain_hash from the creation record on; checks
that seq is dense; compares the chain hash at the head; recomputes all balances. Exit code 5 when anything differs, 1 when
a replica could not be read through to the head (unless it may be unreachable).")]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(long, value_name = "NAME")]
    journal: String,
    /// Seconds that a replica may take to answer, and a lagging one to reach the head
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
    /// Does not fail for replicas that cannot be reached
    #[arg(long)]
    allow_unreachable: bool,
    /// Prints one JSON object a replica
    #[arg(long)]
    json: bool,
}

/// What was found on one replica.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    /// The node.
    pub(crate) node: String,
    /// Its zone.
    pub(crate) zone: String,
    /// What was found.
    pub(crate) finding: Finding,
}

/// See [`Verdict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// Everything is as it must be, through the head.
    Verified {
        /// The head's seq.
        seq: u64,
        /// The chain hash there, in hexadecimal.
        chain_hash: String,
        /// How many balances were compared.
        balances: u64,
    },
    /// Something differs.
    Wrong(String),
    /// The replica did not reach the head in time.
    Lagging(String),
    /// The replica did not answer.
    Unreachable(String),
}

/// Verifies a journal on all replicas.
///
/// # Errors
/// Exit code 5 if anything differs, 1 if a replica was not verified.
pub(crate) async fn verify(args: VerifyArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let wait = Duration::from_secs(args.wait);
    let verdicts = verify_all(&client, &args.journal, wait).await?;
    for verdict in &verdicts {
        print(&if args.json { to_value(verdict).to_string() } else { describe(verdict) })?;
    }
    conclude(&args.journal, &verdicts, args.allow_unreachable)
}

/// Verifies a journal on every node of the topology, all at the same time.
///
/// # Errors
/// The topology or the head cannot be read; what is found on replicas is in the verdicts.
pub(crate) async fn verify_all(
    client: &Client,
    journal: &str,
    wait: Duration,
) -> Result<Vec<Verdict>, Failure> {
    let topology = client.topology().await?;
    let head = client.get_journal(journal, Consistency::Linearizable).await?;
    let checks = topology.nodes.into_iter().map(|info| async {
        let finding = match verify_replica(client.endpoint_of(&info), &head, wait).await {
            Ok(finding) | Err(finding) => finding,
        };
        Verdict { node: info.name, zone: info.zone, finding }
    });
    Ok(join_all(checks).await)
}

/// Success, or the failure that the verdicts amount to.
///
/// # Errors
/// Exit code 5 if anything differs, 1 if a replica was not verified.
pub(crate) fn conclude(journal: &str, verdicts: &[Verdict], allow_unreachable: bool) -> Result<(), Failure> {
    let names = |matches: fn(&Finding) -> bool| -> Vec<&str> {
        verdicts
            .iter()
            .filter(|verdict| matches(&verdict.finding))
            .map(|verdict| verdict.node.as_str())
            .collect()
    };
    let wrong = names(|finding| matches!(finding, Finding::Wrong(_)));
    if !wrong.is_empty() {
        let message = format!("journal {journal}: verification failed on {}", wrong.join(", "));
        return Err(Failure::new(Exit::Verification, message));
    }
    let mut missing = names(|finding| matches!(finding, Finding::Lagging(_)));
    if !allow_unreachable {
        missing.extend(names(|finding| matches!(finding, Finding::Unreachable(_))));
    }
    if !missing.is_empty() {
        return Err(Failure::failed(format!("journal {journal}: not verified on {}", missing.join(", "))));
    }
    if names(|finding| matches!(finding, Finding::Verified { .. })).is_empty() {
        return Err(Failure::failed(format!("journal {journal}: no replica was verified")));
    }
    Ok(())
}

/// One line about a replica.
pub(crate) fn describe(verdict: &Verdict) -> String {
    let found = match &verdict.finding {
        Finding::Verified { seq, chain_hash, balances } => format!(
            "ok: {}, chain hash {chain_hash}, {}",
            counted(*seq, "entry", "entries"),
            counted(*balances, "balance", "balances")
        ),
        Finding::Wrong(what) => format!("WRONG: {what}"),
        Finding::Lagging(what) => format!("lagging: {what}"),
        Finding::Unreachable(why) => format!("unreachable: {why}"),
    };
    format!("{} (zone {}): {}", verdict.node, verdict.zone, printable(&found))
}

fn to_value(verdict: &Verdict) -> Value {
    let (word, detail) = match &verdict.finding {
        Finding::Verified { seq, chain_hash, balances } => {
            ("ok", json!({ "seq": seq, "chain_hash": chain_hash, "balances": balances }))
        }
        Finding::Wrong(what) => ("wrong", json!(what)),
        Finding::Lagging(what) => ("lagging", json!(what)),
        Finding::Unreachable(why) => ("unreachable", json!(why)),
    };
    json!({ "node": verdict.node, "zone": verdict.zone, "result": word, "detail": detail })
}

impl From<Fault> for Finding {
    fn from(fault: Fault) -> Self {
        Self::Wrong(fault.to_string())
    }
}

impl From<ClientError> for Finding {
    fn from(error: ClientError) -> Self {
        let wrong = match &error {
            // "Later" is no statement about the data; every other refusal to show what must be there is.
            ClientError::Refused(refusal) => refusal.reason.retry() != Retry::SameRequest,
            ClientError::Unexpected { .. } => true,
            _ => false,
        };
        if wrong { Self::Wrong(error.to_string()) } else { Self::Unreachable(error.to_string()) }
    }
}

/// Everything about one replica. Both arms hold a finding: `?` ends the check with what stopped it.
async fn verify_replica(endpoint: String, head: &v1::Journal, wait: Duration) -> Result<Finding, Finding> {
    let client = connect_to(endpoint, wait)?;
    let target = head.head.clone().unwrap_or_default();
    let local = wait_for_head(&client, &head.name, target.seq, wait).await?;
    if local.creation_record != head.creation_record {
        return Err(Finding::Wrong("its creation record is not that of the other replicas".to_owned()));
    }
    let mut recomputed = Recomputed::from_creation(&local)?;
    read_through(&client, &head.name, &mut recomputed, target.seq).await?;
    let chain_hash = hex(recomputed.chain_hash());
    if recomputed.chain_hash().as_slice() != &target.chain_hash[..] {
        let stated = hex(&target.chain_hash);
        return Err(Finding::Wrong(format!(
            "seq {}: chain hash {chain_hash}, the head's is {stated}",
            target.seq
        )));
    }
    let balances = compare_balances(&client, &head.name, &mut recomputed).await?;
    Ok(Finding::Verified { seq: target.seq, chain_hash, balances })
}

/// The replica's own journal once its head has reached `seq`.
async fn wait_for_head(
    client: &Client,
    journal: &str,
    seq: u64,
    wait: Duration,
) -> Result<v1::Journal, Finding> {
    let give_up = Instant::now() + wait;
    loop {
        let reached = match client.get_journal(journal, Consistency::Local).await {
            Ok(local) => {
                let reached = local.head.as_ref().map_or(0, |head| head.seq);
                if reached >= seq {
                    return Ok(local);
                }
                format!("at seq {reached} of {seq}")
            }
            // A replica that has not applied the creation yet lags; nothing is wrong with it.
            Err(ClientError::Refused(refusal)) if refusal.reason == Reason::JournalNotFound => {
                format!("does not have the journal yet, {seq} entries elsewhere")
            }
            Err(error) => return Err(error.into()),
        };
        if Instant::now() >= give_up {
            return Err(Finding::Lagging(format!("{reached} after {} s", wait.as_secs())));
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Recomputes on to `seq`, from the replica's own entries.
async fn read_through(
    client: &Client,
    journal: &str,
    recomputed: &mut Recomputed,
    seq: u64,
) -> Result<(), Finding> {
    if recomputed.seq() >= seq {
        return Ok(());
    }
    let request = v1::ReadRequest {
        journal: journal.to_owned(),
        from_seq: recomputed.seq() + 1,
        to_seq: seq,
        consistency: Consistency::Local.into(),
    };
    let mut entries = client.read(request);
    while let Some(entry) = entries.next().await {
        recomputed.push(&entry?)?;
    }
    if recomputed.seq() == seq {
        return Ok(());
    }
    Err(Finding::Wrong(format!(
        "a read up to seq {seq}, which the replica has, ended at seq {}",
        recomputed.seq()
    )))
}

/// Compares every balance. Pages of a journal that goes on growing are as of later and later seqs; each is compared with
/// the entries up to its own.
async fn compare_balances(
    client: &Client,
    journal: &str,
    recomputed: &mut Recomputed,
) -> Result<u64, Finding> {
    let mut request = v1::GetBalancesRequest {
        journal: journal.to_owned(),
        consistency: Consistency::Local.into(),
        ..v1::GetBalancesRequest::default()
    };
    let mut after = None;
    let mut compared = 0;
    loop {
        let page = client.balances_page(request.clone()).await?;
        if page.as_of_seq < recomputed.seq() {
            let read = recomputed.seq();
            return Err(Finding::Wrong(format!(
                "balances as of seq {}, after seq {read} was read",
                page.as_of_seq
            )));
        }
        read_through(client, journal, recomputed, page.as_of_seq).await?;
        let last = page.next_page_token.is_empty();
        recomputed.compare_balances(&page.balances, after.as_ref(), last)?;
        compared += u64::try_from(page.balances.len()).unwrap_or(0);
        if last {
            return Ok(compared);
        }
        after = page.balances.last().map(key_of).or(after);
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(node: &str, finding: Finding) -> Verdict {
        Verdict { node: node.to_owned(), zone: "a".to_owned(), finding }
    }

    fn verified() -> Finding {
        Finding::Verified { seq: 6_471, chain_hash: "ab".to_owned(), balances: 14 }
    }

    #[test]
    fn one_replica_that_differs_fails_the_verification() {
        let verdicts = [
            verdict("a1", verified()),
            verdict("b1", Finding::Wrong("seq 7: ...".to_owned())),
            verdict("c1", Finding::Unreachable("refused".to_owned())),
        ];
        let failure = conclude("j", &verdicts, true).expect_err("wrong");
        assert_eq!(failure.exit, Exit::Verification);
        assert_eq!(failure.message, "journal j: verification failed on b1");
    }

    #[test]
    fn a_replica_that_was_not_read_fails_unless_it_may_be_unreachable() {
        let unreachable =
            [verdict("a1", verified()), verdict("c1", Finding::Unreachable("refused".to_owned()))];
        assert_eq!(conclude("j", &unreachable, false).expect_err("not verified").exit, Exit::Failed);
        conclude("j", &unreachable, true).expect("allowed");
        let lagging =
            [verdict("a1", verified()), verdict("c1", Finding::Lagging("at seq 1 of 2".to_owned()))];
        assert_eq!(conclude("j", &lagging, true).expect_err("not verified").exit, Exit::Failed);
    }

    #[test]
    fn nothing_verified_is_no_success() {
        assert!(conclude("j", &[], true).is_err());
        let none = [verdict("a1", Finding::Unreachable("refused".to_owned()))];
        assert!(conclude("j", &none, true).is_err());
    }

    #[test]
    fn verdicts_are_one_line_each() {
        let line = describe(&verdict("a1", verified()));
        assert_eq!(line, "a1 (zone a): ok: 6,471 entries, chain hash ab, 14 balances");
        let value = to_value(&verdict("a1", Finding::Lagging("x".to_owned())));
        assert_eq!(value, json!({ "node": "a1", "zone": "a", "result": "lagging", "detail": "x" }));
    }
}
