//! The log under a closed loop in which each answer hands in the next append, on the thread that gives the answer: what one thread does
//! with the bare disk beside it. So a thread switch from the log to its caller is not measured here; `appends.rs` does.
//!
//! Invariant: so many appends as the depth says are under way until the turn is over; then all of them are waited for.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use tercet_storage::{LogError, LogRecord, SegmentLog};

use super::appends::{Appends, GROUP, PATIENCE, TERM};
use super::figures::Tally;
use super::{Clock, Turn};

/// What the answers of one turn share.
struct Chains {
    log: SegmentLog,
    payload: Bytes,
    clock: Clock,
    links: Mutex<Links>,
    /// Hears of the last answer, or of the first failure.
    ended: Sender<Result<(), LogError>>,
}

struct Links {
    next: u64,
    under_way: usize,
    tally: Tally,
}

/// One turn; waits for the rest at its end.
pub(super) fn turn(
    appends: &mut Appends,
    size: usize,
    depth: usize,
    turn: Turn,
    tally: &mut Tally,
) -> Result<()> {
    let (ended, end) = channel();
    let links = Links { next: appends.next, under_way: depth, tally: Tally::new()? };
    let chains = Arc::new(Chains {
        log: appends.log().clone(),
        payload: Bytes::from(vec![0x5a; size]),
        clock: turn.start(),
        links: Mutex::new(links),
        ended,
    });
    for _ in 0..depth {
        chains.append(chains.lock())?;
    }
    end.recv_timeout(PATIENCE.saturating_add(turn.counted)).context("the last append of a turn")??;
    let links = chains.lock();
    appends.next = links.next;
    tally.merge(&links.tally)?;
    tally.add_turn(turn.counted, size);
    Ok(())
}

impl Chains {
    fn lock(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands in the next record. Under the lock: records must come in order.
    fn append(self: &Arc<Self>, mut links: MutexGuard<'_, Links>) -> Result<(), LogError> {
        let record =
            LogRecord { index: links.next, term: TERM, leader: 1, tag: 1, payload: self.payload.clone() };
        links.next += 1;
        let (chains, begin) = (Arc::clone(self), Instant::now());
        self.log.append(GROUP, vec![record], Box::new(move |result| chains.answered(begin, result)))
    }

    fn answered(self: &Arc<Self>, begin: Instant, result: Result<(), LogError>) {
        let mut links = self.lock();
        if let Some(took) = self.clock.counts(begin, Instant::now()) {
            links.tally.add(took, 1);
        }
        let result = match result {
            Ok(()) if self.clock.is_over() => {
                links.under_way -= 1;
                if links.under_way > 0 {
                    return;
                }
                Ok(())
            }
            Ok(()) => match self.append(links) {
                Ok(()) => return,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        // Nobody listens any more only when the turn has failed.
        let _ = self.ended.send(result);
    }
}
