//! Appends and new journals: validation, admission, proposal, receipts.
//!
//! Invariants: a request is validated and encoded once, before it is admitted; nothing is half-applied; a receipt of a known key
//! is rebuilt from the log, so it is the same for ever.

use std::sync::Arc;
use std::time::Duration;

use tercet_proto::canonical::JournalSettings;
use tercet_proto::limits::MAX_JOURNAL_NAME_BYTES;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tonic::{Response, Status};

use super::route::{Effect, Local, REQUEST_TIMEOUT, route};
use super::size::ensure_receipts_fit;
use super::{Caller, refuse};
use crate::ledger::{Command, EntryOutcome, Outcome, PreparedCommand, prepare};
use crate::node::Node;
use crate::placement::Class;
use crate::raft::group::{Group, NoReadPoint};
use crate::raft::proposer::Proposed;
use crate::reader::{Originals, Reader, journal_not_found};

/// How long a journal's creation waits for the cluster to be formed.
const FORMING_PATIENCE: Duration = Duration::from_secs(3);

/// Appends a request's entries.
///
/// # Errors
/// The refusal as a status.
pub async fn append(
    node: &Node,
    caller: Caller,
    request: v1::AppendRequest,
) -> Result<v1::AppendResponse, Status> {
    let started = std::time::Instant::now();
    let result = admitted_append(node, caller, request).await;
    let outcome = match &result {
        Ok(response) => {
            node.metrics.entries.inc_by(u64::try_from(response.receipts.len()).unwrap_or(0));
            "ok"
        }
        Err(status) if status.code() == tonic::Code::Unknown => "unknown",
        Err(_) => "refused",
    };
    node.metrics.appends.with_label_values(&[outcome]).inc();
    node.metrics.append_seconds.observe(started.elapsed().as_secs_f64());
    result
}

async fn admitted_append(
    node: &Node,
    caller: Caller,
    request: v1::AppendRequest,
) -> Result<v1::AppendResponse, Status> {
    let prepared = Arc::new(prepare(&request).map_err(refuse)?);
    let zones = node.topology.zones.iter().map(|zone| zone.name.as_str());
    ensure_receipts_fit(&request, zones).map_err(refuse)?;
    let _permit = node.admission.admit(prepared.len_bytes()).map_err(refuse)?;
    let group = group_of_journal(node, caller, &request.journal).await?;
    let is_geo = group.state().ledger().class_of(&prepared) == Class::Geo;
    let _share =
        is_geo.then(|| node.admission.admit_geo(prepared.len_bytes())).transpose().map_err(refuse)?;
    let local = || append_here(&group, &request, prepared.clone());
    route(node, &group, caller.hops, Effect::Writes, &request, local, |mut client, message| async move {
        client.append(message).await
    })
    .await
}

async fn append_here(
    group: &Group,
    request: &v1::AppendRequest,
    prepared: Arc<PreparedCommand>,
) -> Local<v1::AppendResponse> {
    if let Err(refusal) = group.ensure_appendable(&prepared) {
        return Local::Refused(refusal);
    }
    match group.propose(prepared).await {
        Proposed::Done { outcome: Outcome::Appended { entries, class, .. }, attestation } => {
            match receipts(group, request, (&entries, class), &attestation).await {
                Ok(receipts) => Local::Done(v1::AppendResponse { receipts }),
                Err(refusal) => Local::Refused(refusal),
            }
        }
        other => not_done(other),
    }
}

/// Every end of a proposal but the one that was hoped for.
fn not_done<T>(proposed: Proposed) -> Local<T> {
    match proposed {
        Proposed::Done { outcome: Outcome::Refused(refusal), .. } => Local::Refused(refusal),
        Proposed::Done { outcome, .. } => Local::Refused(Refusal::new(
            Reason::Internal,
            "",
            format!("an outcome of another kind: {outcome:?}"),
        )),
        Proposed::NotLeader(_) => Local::NotLeader,
        Proposed::Refused(refusal) => Local::Refused(refusal),
        Proposed::Unknown(why) => Local::Refused(Refusal::new(
            Reason::OutcomeUnknown,
            "",
            format!("{why}; it may have been carried out: send it again with the same keys"),
        )),
    }
}

/// The receipts of a request that was held until it was placed as `class` demands.
async fn receipts(
    group: &Group,
    request: &v1::AppendRequest,
    (outcomes, class): (&[EntryOutcome], Class),
    attestation: &v1::Attestation,
) -> Result<Vec<v1::Receipt>, Refusal> {
    let is_replayed = |outcome: &EntryOutcome| matches!(outcome, EntryOutcome::Replayed { .. });
    let originals = if outcomes.iter().any(is_replayed) {
        // Boxed: few requests are repetitions, and each would carry the room for it.
        Box::pin(Reader::new(group, &request.journal).replayed(outcomes, class, REQUEST_TIMEOUT)).await?
    } else {
        Originals::default()
    };
    let mut receipts = Vec::with_capacity(outcomes.len());
    for (entry, outcome) in request.entries.iter().zip(outcomes) {
        let receipt = match outcome {
            EntryOutcome::New { seq, entry_hash, chain_hash, recorded_at_us } => v1::Receipt {
                seq: *seq,
                entry_hash: entry_hash.to_vec().into(),
                chain_hash: chain_hash.to_vec().into(),
                recorded_at_us: *recorded_at_us,
                replayed: false,
                ..Default::default()
            },
            EntryOutcome::Replayed { seq } => replayed(&originals, *seq)?,
        };
        receipts.push(v1::Receipt {
            journal: request.journal.clone(),
            key: entry.key.clone(),
            attestation: Some(attestation.clone()),
            ..receipt
        });
    }
    Ok(receipts)
}

/// The receipt of an entry that was there already.
fn replayed(originals: &Originals, seq: u64) -> Result<v1::Receipt, Refusal> {
    let original = originals.get(seq)?;
    Ok(v1::Receipt {
        seq,
        entry_hash: original.entry_hash.to_vec().into(),
        chain_hash: original.chain_hash.to_vec().into(),
        recorded_at_us: original.recorded_at_us,
        replayed: true,
        ..Default::default()
    })
}

/// The group that keeps a journal. With several groups, group 0 knows, and a node that has not heard of a journal asks the
/// leader of group 0 before it says that there is none.
///
/// # Errors
/// JOURNAL_NOT_FOUND, or what the leader of group 0 said.
pub async fn group_of_journal(node: &Node, caller: Caller, journal: &str) -> Result<Arc<Group>, Status> {
    let zero = node.group_zero().map_err(refuse)?;
    if node.groups.count() == 1 {
        return Ok(zero);
    }
    if journal.len() > MAX_JOURNAL_NAME_BYTES {
        return Err(refuse(journal_not_found(journal)));
    }
    let known = || zero.state().ledger().mapped_group(journal);
    if let Some(group) = known() {
        return node.group(group).map_err(refuse);
    }
    let request =
        v1::GetJournalRequest { name: journal.to_owned(), consistency: v1::Consistency::Linearizable.into() };
    let local = || async {
        match zero.linearizable_point(None, REQUEST_TIMEOUT).await {
            Ok(_) => known().map_or_else(|| Local::Refused(journal_not_found(journal)), Local::Done),
            Err(NoReadPoint::NotLeader(_)) => Local::NotLeader,
            Err(NoReadPoint::Refused(refusal)) => Local::Refused(refusal),
        }
    };
    let group =
        route(node, &zero, caller.hops, Effect::Reads, &request, local, |mut client, message| async move {
            client.get_journal(message).await.map(|found| Response::new(found.into_inner().group))
        })
        .await?;
    node.group(group).map_err(refuse)
}

/// Makes a journal: first its place in group 0, then the journal in its group. Both steps can be repeated.
///
/// # Errors
/// The refusal as a status.
pub async fn create_journal(
    node: &Node,
    caller: Caller,
    request: v1::CreateJournalRequest,
) -> Result<v1::Journal, Status> {
    let settings = JournalSettings::from_request(&request).map_err(refuse)?;
    let prepare = |command: Command| PreparedCommand::new(&command).map(Arc::new).map_err(refuse);
    let zero = node.group_zero().map_err(refuse)?;
    let map = prepare(Command::MapJournal { name: settings.name.clone() })?;
    let group = if node.groups.count() == 1 {
        0
    } else {
        let local = || map_here(&zero, map.clone());
        route(node, &zero, caller.hops, Effect::Writes, &request, local, |mut client, message| async move {
            // The leader of group 0 does both steps.
            client.create_journal(message).await.map(|done| Response::new(done.into_inner().group))
        })
        .await?
    };
    let group = node.group(group).map_err(refuse)?;
    let create = prepare(Command::CreateJournal(settings.clone()))?;
    let local = || create_here(&group, &settings.name, create.clone());
    route(node, &group, caller.hops, Effect::Writes, &request, local, |mut client, message| async move {
        client.create_journal(message).await
    })
    .await
}

/// Waits until the cluster is formed: before, nobody knows over how many groups journals are to be spread.
async fn is_formed(zero: &Group) -> bool {
    let mut applied = zero.state().applied();
    let formed = async {
        while zero.state().ledger().cluster_groups().is_none() {
            if applied.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    tokio::time::timeout(FORMING_PATIENCE, formed).await.is_ok()
}

async fn map_here(zero: &Group, map: Arc<PreparedCommand>) -> Local<u32> {
    if !is_formed(zero).await {
        return Local::Refused(Refusal::new(Reason::Recovering, "", "the cluster is still being formed"));
    }
    match zero.propose(map).await {
        Proposed::Done { outcome: Outcome::JournalMapped { group, .. }, .. } => Local::Done(group),
        other => not_done(other),
    }
}

async fn create_here(group: &Group, name: &str, create: Arc<PreparedCommand>) -> Local<v1::Journal> {
    if let Err(refusal) = group.ensure_appendable(&create) {
        return Local::Refused(refusal);
    }
    match group.propose(create).await {
        Proposed::Done {
            outcome: Outcome::JournalCreated { .. } | Outcome::JournalExisted { .. }, ..
        } => match group.state().ledger().journal(name) {
            Some(journal) => Local::Done(journal.to_proto(journal.head())),
            None => Local::Refused(journal_not_found(name)),
        },
        other => not_done(other),
    }
}
