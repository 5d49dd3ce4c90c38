//! `tercet inspect`: what is in a node's data directory, offline and read-only.
//!
//! Invariants: nothing is changed or locked; damage is listed and never ends the listing; verdicts are those of recovery.

mod meaning;
mod proof;

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tercet_storage::disk::{BLOCK_BYTES, Disk, DiskError, open_read_only};
use tercet_storage::format::Kind;
use tercet_storage::inspect::{BatchInfo, InspectReport, RecordInfo, inspect_disk};
use tercet_storage::{Finding, GroupId, GroupState, LogPoint};

use self::meaning::{meaning, vote_meaning};
use super::exit::Failure;
use super::output::{Column, Lines, printable, table};
use crate::raft::codec::decode_vote;

/// Arguments of `tercet inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet inspect data/dev/a1
  tercet inspect data/dev/a1 --summary
  tercet inspect data/dev/a1 --json | jq 'select(.type == \"finding\")'

Takes a node's data directory or the `log` directory in it. Changes nothing; meant for a node that is stopped: what a
running one is writing looks like a torn tail. Verdicts are those that recovery would give at the next start. With --json
each line is an object whose `type` is store, segment, group, batch (with its records), finding, quarantined or proof (what a
node in another site than its leader's can prove).")]
pub(crate) struct InspectArgs {
    /// The node's data directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Leaves batches and their records out
    #[arg(long)]
    summary: bool,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Lists a data directory.
///
/// # Errors
/// The directory holds no log, or cannot be read at all.
pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let dir = log_dir(&args.dir)?;
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("{}: {error}", dir.display()));
    let disk = open_read_only(&dir).map_err(|error| failed(&error))?;
    let report = inspect_disk(&*disk).map_err(|error| failed(&error))?;
    let mut lines = Lines::new();
    let proofs = proof::of(&dir, &report);
    if args.json {
        write_json(&report, &*disk, args.summary, &mut lines)?;
        proofs.iter().try_for_each(|proof| lines.line(&proof.to_json().to_string()))?;
    } else {
        write_text(&report, &*disk, args.summary, &mut lines)?;
        proofs.iter().try_for_each(|proof| lines.line(&format!("\n{proof}")))?;
    }
    lines.flush()
}

/// `DIR/log` of a data directory, or the directory itself where it holds segments.
fn log_dir(dir: &Path) -> Result<PathBuf, Failure> {
    let inner = dir.join("log");
    if inner.is_dir() {
        return Ok(inner);
    }
    let entries =
        std::fs::read_dir(dir).map_err(|error| Failure::failed(format!("{}: {error}", dir.display())))?;
    let is_segment = |name: &std::ffi::OsStr| Path::new(name).extension().is_some_and(|end| end == "seg");
    if entries.filter_map(Result::ok).any(|entry| is_segment(&entry.file_name())) {
        return Ok(dir.to_owned());
    }
    let message = format!("{} is no data directory: it holds neither `log` nor segments", dir.display());
    Err(Failure::failed(message))
}

fn write_text(
    report: &InspectReport,
    disk: &dyn Disk,
    summary: bool,
    lines: &mut Lines,
) -> Result<(), Failure> {
    match report.store {
        Some(store) => lines.line(&format!("store {store}"))?,
        None => lines.line("no store has been made here")?,
    }
    lines.line(&format!("\n{}", segments_table(report)))?;
    lines.line(&format!("\n{}", groups_table(&report.groups)))?;
    if !summary {
        lines.line("")?;
        for batch in &report.batches {
            lines.line(&batch.to_string())?;
            match &batch.records {
                None => lines.line("  its record table is damaged")?,
                Some(records) => {
                    for record in records {
                        let meaning = record_meaning(disk, batch, record);
                        let meaning =
                            meaning.map(|text| format!(": {}", printable(&text))).unwrap_or_default();
                        lines.line(&format!("  {record}{meaning}"))?;
                    }
                }
            }
        }
    }
    lines.line("")?;
    write_recovery(report, lines)
}

fn write_recovery(report: &InspectReport, lines: &mut Lines) -> Result<(), Failure> {
    if let Some(recovery) = &report.recovery {
        lines.line(&format!(
            "recovery: {} batches with {} records accepted, last batch {}, durable mark {}",
            recovery.batches, recovery.records, recovery.last_batch, recovery.durable_mark
        ))?;
        for (group, lost) in &recovery.quarantined {
            lines.line(&format!("QUARANTINED: group {group} has lost {lost:?}"))?;
        }
    }
    if report.findings.is_empty() {
        return lines.line("findings: none");
    }
    let rot = report.findings.iter().filter(|finding| finding.verdict.is_rot()).count();
    lines.line(&format!("findings: {}, of them rot: {rot}", report.findings.len()))?;
    report.findings.iter().try_for_each(|finding| lines.line(&finding.to_string()))
}

fn segments_table(report: &InspectReport) -> String {
    let columns = ["segment", "bytes", "used", "batches"].map(Column::Number);
    let rows: Vec<Vec<String>> = report
        .segments
        .iter()
        .map(|segment| {
            vec![
                format!("{:08x}", segment.number),
                segment.bytes.to_string(),
                segment.used_bytes.to_string(),
                segment.batches.to_string(),
            ]
        })
        .collect();
    table(&columns, &rows)
}

fn groups_table(groups: &[(GroupId, GroupState)]) -> String {
    let point = |point: Option<LogPoint>| {
        point.map_or_else(|| "-".to_owned(), |point| format!("{} (term {})", point.index, point.term))
    };
    let columns = ["group", "last", "committed", "purged"].map(Column::Number);
    let columns = [&columns[..], &[Column::Text("vote")]].concat();
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|(group, state)| {
            let vote = if state.vote.is_some() { "present" } else { "none" };
            vec![
                group.to_string(),
                point(state.last),
                point(state.committed),
                point(state.purged),
                vote.to_owned(),
            ]
        })
        .collect();
    table(&columns, &rows)
}

/// What an intact entry or vote says; none for other records and for damaged ones.
fn record_meaning(disk: &dyn Disk, batch: &BatchInfo, record: &RecordInfo) -> Option<String> {
    let row = &record.row;
    if !record.is_intact || !matches!(row.kind, Kind::Entry | Kind::Repair | Kind::Vote) {
        return None;
    }
    match record_payload(disk, batch, record) {
        Ok(payload) if row.kind == Kind::Vote => Some(vote_meaning(&payload)),
        Ok(payload) => Some(meaning(row.tag, &payload)),
        Err(error) => Some(format!("cannot be read: {error}")),
    }
}

fn record_payload(disk: &dyn Disk, batch: &BatchInfo, record: &RecordInfo) -> Result<Vec<u8>, DiskError> {
    let row = &record.row;
    let at = u64::from(batch.header.block) * BLOCK_BYTES as u64 + u64::from(row.offset);
    let mut payload = vec![0; row.length as usize];
    disk.read_at(batch.header.segment, at, &mut payload)?;
    Ok(payload)
}

/// An intact vote; null for other records.
fn vote_value(disk: &dyn Disk, batch: &BatchInfo, record: &RecordInfo) -> Value {
    let is_vote = record.is_intact && record.row.kind == Kind::Vote;
    let payload = is_vote.then(|| record_payload(disk, batch, record).ok()).flatten();
    payload.and_then(|payload| decode_vote(&payload).ok()).map_or(
        Value::Null,
        |vote| json!({ "term": vote.leader_id.term, "node": vote.leader_id.voted_for, "won": vote.committed }),
    )
}

fn write_json(
    report: &InspectReport,
    disk: &dyn Disk,
    summary: bool,
    lines: &mut Lines,
) -> Result<(), Failure> {
    lines.line(&store_value(report).to_string())?;
    for segment in &report.segments {
        let value = json!({
            "type": "segment", "segment": segment.number, "bytes": segment.bytes,
            "used_bytes": segment.used_bytes, "batches": segment.batches,
        });
        lines.line(&value.to_string())?;
    }
    for (group, state) in &report.groups {
        let value = json!({
            "type": "group", "group": group, "last": point_value(state.last),
            "committed": point_value(state.committed), "purged": point_value(state.purged),
            "has_vote": state.vote.is_some(),
        });
        lines.line(&value.to_string())?;
    }
    if !summary {
        report.batches.iter().try_for_each(|batch| lines.line(&batch_value(disk, batch).to_string()))?;
    }
    report.findings.iter().try_for_each(|finding| lines.line(&finding_value(finding).to_string()))?;
    for (group, lost) in report.recovery.iter().flat_map(|recovery| &recovery.quarantined) {
        let lost: Vec<String> = lost.iter().map(|lost| format!("{lost:?}")).collect();
        lines.line(&json!({ "type": "quarantined", "group": group, "lost": lost }).to_string())?;
    }
    Ok(())
}

fn store_value(report: &InspectReport) -> Value {
    let mut value = json!({ "type": "store", "store": report.store.map(|store| store.to_string()) });
    if let Some(recovery) = &report.recovery {
        value["batches"] = json!(recovery.batches);
        value["records"] = json!(recovery.records);
        value["last_batch"] = json!(recovery.last_batch);
        value["durable_mark"] = json!(recovery.durable_mark);
        value["lost_batches"] = json!(recovery.lost_batches);
    }
    value
}

fn point_value(point: Option<LogPoint>) -> Value {
    point.map_or(Value::Null, |point| json!({ "term": point.term, "index": point.index }))
}

fn batch_value(disk: &dyn Disk, batch: &BatchInfo) -> Value {
    let header = &batch.header;
    let records = batch.records.as_ref().map(|records| {
        let values: Vec<Value> = records.iter().map(|record| record_value(disk, batch, record)).collect();
        values
    });
    json!({
        "type": "batch", "batch": header.number, "segment": header.segment, "block": header.block,
        "blocks": header.blocks, "payload_bytes": header.payload_bytes, "durable_mark": header.durable_mark,
        "verdict": batch.verdict.to_string(), "rot": batch.verdict.is_rot(), "records": records,
    })
}

fn record_value(disk: &dyn Disk, batch: &BatchInfo, record: &RecordInfo) -> Value {
    let row = &record.row;
    json!({
        "group": row.group, "kind": row.kind.name(), "tag": row.tag, "index": row.index, "term": row.term,
        "leader": row.leader, "bytes": row.length, "intact": record.is_intact,
        "meaning": record_meaning(disk, batch, record), "vote": vote_value(disk, batch, record),
    })
}

fn finding_value(finding: &Finding) -> Value {
    let records: Vec<Value> = finding
        .records
        .iter()
        .map(|record| {
            json!({ "group": record.group, "kind": record.kind.name(), "index": record.index, "term": record.term })
        })
        .collect();
    json!({
        "type": "finding", "segment": finding.segment, "block": finding.block, "batch": finding.batch,
        "verdict": finding.verdict.to_string(), "rot": finding.verdict.is_rot(), "detail": finding.detail,
        "lost_batches": finding.lost_batches, "records": records,
    })
}

#[cfg(test)]
mod tests;
