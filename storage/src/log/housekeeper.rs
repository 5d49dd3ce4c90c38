//! The housekeeper: makes the next segment ahead of need and removes old ones, off the append path.
//!
//! A removed segment's file becomes the next segment's where one is wanted. Invariants: segments are removed oldest first,
//! so that what is left is always a run without a hole; a full disk is not a failure (it is tried again), anything else is.

use std::sync::PoisonError;
use std::time::Duration;

use super::shared::Shared;
use crate::disk::DiskError;
use crate::error::LogError;

/// How long to wait before asking a full disk again.
const RETRY: Duration = Duration::from_millis(500);

enum Job {
    Prepare(u32),
    Recycle { old: u32, new: u32 },
    Remove(u32),
}

/// Runs until told to stop.
pub(crate) fn run(shared: &Shared) {
    loop {
        let was_full = shared.lock().segments.full;
        {
            let mut jobs = shared.lock_jobs();
            while jobs.prepare.is_none() && jobs.remove.is_empty() && !jobs.stop {
                jobs = shared.jobs_changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
            }
            if was_full && jobs.remove.is_empty() && !jobs.stop {
                jobs =
                    shared.jobs_changed.wait_timeout(jobs, RETRY).unwrap_or_else(PoisonError::into_inner).0;
            }
            if jobs.stop {
                return;
            }
        }
        run_one(shared);
    }
}

/// Does one job, if there is one; says whether there was.
pub(crate) fn run_one(shared: &Shared) -> bool {
    if shared.lock().failure.is_some() {
        let mut jobs = shared.lock_jobs();
        jobs.prepare = None;
        jobs.remove.clear();
        return false;
    }
    let Some(job) = next_job(shared) else { return false };
    let bytes = shared.options.segment_bytes;
    let result = match job {
        Job::Prepare(new) => leaves_enough(shared, new).and_then(|()| shared.disk.create(new, bytes)),
        Job::Recycle { old, new } => shared.disk.recycle(old, new, bytes),
        Job::Remove(old) => shared.disk.remove(old),
    };
    finish(shared, &job, result);
    shared.lock_jobs().is_busy = false;
    shared.kick();
    true
}

/// Whether a new segment leaves as much of the disk free as it should. One that takes an old one's file takes nothing.
fn leaves_enough(shared: &Shared, new: u32) -> Result<(), DiskError> {
    let wanted = shared.options.segment_bytes.saturating_add(shared.options.keep_free_bytes);
    if shared.options.keep_free_bytes == 0 || shared.disk.free_bytes().is_none_or(|free| free >= wanted) {
        return Ok(());
    }
    Err(DiskError::Full { operation: "leave room beside", subject: format!("segment {new}") })
}

fn next_job(shared: &Shared) -> Option<Job> {
    let mut jobs = shared.lock_jobs();
    jobs.is_busy = jobs.prepare.is_some() || !jobs.remove.is_empty();
    match (jobs.prepare, jobs.remove.pop_front()) {
        (Some(new), Some(old)) => {
            jobs.prepare = None;
            Some(Job::Recycle { old, new })
        }
        (None, Some(old)) => Some(Job::Remove(old)),
        (Some(new), None) => {
            jobs.prepare = None;
            Some(Job::Prepare(new))
        }
        (None, None) => None,
    }
}

fn finish(shared: &Shared, job: &Job, result: Result<(), DiskError>) {
    let made = match job {
        Job::Prepare(new) | Job::Recycle { new, .. } => Some(*new),
        Job::Remove(_) => None,
    };
    match (result, made) {
        (Ok(()), _) => {
            let mut state = shared.lock();
            if let Some(new) = made {
                state.segments.spare = Some(new);
                state.segments.full = false;
                state.counters.segments_made += 1;
            }
            if !matches!(job, Job::Prepare(_)) {
                state.counters.segments_removed += 1;
            }
            shared.tell(&state);
        }
        (Err(DiskError::Full { .. }), Some(new)) => {
            let mut state = shared.lock();
            let first = !std::mem::replace(&mut state.segments.full, true);
            shared.tell(&state);
            drop(state);
            if first {
                tracing::warn!(segment = new, "no room for the next segment: appends will be refused");
            }
            shared.lock_jobs().prepare.get_or_insert(new);
        }
        (Err(error), _) => {
            let error = LogError::Failed(error);
            for done in shared.fail(&error) {
                done(Err(error.clone()));
            }
        }
    }
}
