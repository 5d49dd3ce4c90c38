//! What a log may say after damage: everything right, or else that something is lost.
//!
//! Invariant: the oracle knows what the log held before the damage and believes no report by itself: an entry that is not
//! served as it was must be covered by what is reported lost, and so must a vote.

use bytes::Bytes;
use tercet_storage::{GroupId, LogError, LogPoint, LogRecord, LostRecord, RecoveryReport};

use crate::harness::{Stepped, all};

/// What a group held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    pub(crate) group: GroupId,
    pub(crate) entries: Vec<LogRecord>,
    pub(crate) vote: Option<Bytes>,
    pub(crate) purged: Option<LogPoint>,
}

/// What each group of a log holds now.
pub(crate) fn expected(stepped: &Stepped) -> Vec<Expected> {
    let groups = stepped.log.groups().into_iter();
    groups
        .map(|group| {
            let state = stepped.log.state(group);
            let entries = all(&stepped.log, group).unwrap();
            Expected { group, entries, vote: state.vote, purged: state.purged }
        })
        .collect()
}

/// What is said to be lost of a group; `None` = it is said to be whole.
fn lost(report: &RecoveryReport, group: GroupId) -> Option<&[LostRecord]> {
    report.quarantined.iter().find(|(other, _)| *other == group).map(|(_, lost)| lost.as_slice())
}

fn covers(lost: &[LostRecord], index: u64, served: Option<&LogRecord>) -> bool {
    lost.iter().any(|lost| match lost {
        LostRecord::Entry { index: one, .. } => *one == index,
        LostRecord::Entries { first, last } => (*first..=*last).contains(&index),
        // The last entries held may have been replaced: then the log serves an older one, of another term.
        LostRecord::Tail { after } => served.is_some() || after.is_none_or(|after| after.index < index),
        LostRecord::Vote => false,
    })
}

/// Whether an opened log serves what it held, group by group, or reports what it does not.
pub(crate) fn check(stepped: &Stepped, before: &[Expected]) -> Result<(), String> {
    let report = &stepped.report;
    let known = stepped.log.groups();
    if let Some(stranger) = known.iter().find(|group| !before.iter().any(|one| one.group == **group)) {
        return Err(format!("group {stranger} comes from nowhere"));
    }
    for one in before {
        let group = one.group;
        if !known.contains(&group) {
            if report.lost_batches == 0 && lost(report, group).is_none() {
                return Err(format!("group {group} has vanished silently"));
            }
            continue;
        }
        let lost = lost(report, group);
        let state = stepped.log.state(group);
        if state.vote != one.vote && !lost.is_some_and(|lost| lost.contains(&LostRecord::Vote)) {
            return Err(format!("group {group}: vote {:?} has become {:?} silently", one.vote, state.vote));
        }
        match lost {
            None => whole(stepped, one)?,
            Some(lost) => partly(stepped, one, lost)?,
        }
    }
    Ok(())
}

/// A group that is said to be whole: the same entries. Purged ones may have come back with the loss of the purge.
fn whole(stepped: &Stepped, one: &Expected) -> Result<(), String> {
    let group = one.group;
    let found = all(&stepped.log, group).map_err(|error| format!("group {group}: {error}"))?;
    let purged = one.purged.map_or(0, |purged| purged.index);
    let back = found.iter().filter(|entry| one.purged.is_some() && entry.index <= purged).count();
    if found[back..] == one.entries {
        return Ok(());
    }
    let points = |entries: &[LogRecord]| entries.iter().map(LogRecord::point).collect::<Vec<_>>();
    Err(format!(
        "group {group} has changed silently: {:?} instead of {:?}",
        points(&found[back..]),
        points(&one.entries)
    ))
}

/// A group of which something is lost: each entry is served right, or its loss is reported.
fn partly(stepped: &Stepped, one: &Expected, lost: &[LostRecord]) -> Result<(), String> {
    let group = one.group;
    for entry in &one.entries {
        let index = entry.index;
        let served = match stepped.log.read(group, index..index + 1, usize::MAX) {
            Ok(mut found) => found.pop(),
            Err(LogError::Rot { .. }) => None,
            Err(error) => return Err(format!("group {group}, entry {index}: {error}")),
        };
        if served.as_ref() == Some(entry) {
            continue;
        }
        if served.as_ref().is_some_and(|served| served.term == entry.term) {
            return Err(format!("group {group}: {served:?} is served instead of {entry:?}"));
        }
        if !covers(lost, index, served.as_ref()) {
            return Err(format!(
                "group {group}: entry {index} is lost silently, {served:?} served, {lost:?}"
            ));
        }
    }
    Ok(())
}
