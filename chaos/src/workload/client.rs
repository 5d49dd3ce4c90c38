//! One client of the workload: a loop of operations, one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use tercet_proto::v1;

use super::{Ledger, Progress, entries};
use crate::history::{Call, Class, Outcome, Recorder, Sent};
use crate::scenario::WorkloadPlan;

/// After so many failures in a row a client that stays with one node goes on to the next.
const PATIENCE: u32 = 3;
/// Most repetitions of one append.
const MAX_RETRIES: u32 = 4;
/// Longest pause after a failure.
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// Most entries that a read asks for.
const MAX_READ: u64 = 200;
/// Keys that a client remembers for conflicts.
const MAX_KNOWN: usize = 100;

pub(super) struct WorkloadClient<L> {
    pub(super) number: u32,
    pub(super) journal: String,
    pub(super) plan: WorkloadPlan,
    pub(super) ledger: L,
    pub(super) recorder: Recorder,
    pub(super) random: SmallRng,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) progress: Arc<Progress>,
}

/// What a client remembers between its operations.
#[derive(Default)]
struct Memory {
    keys_made: u64,
    /// Keys that were acknowledged.
    known: Vec<String>,
    /// The highest seq that it has been told of.
    seen: u64,
    failures: u32,
}

impl<L: Ledger> WorkloadClient<L> {
    pub(super) async fn run(mut self) {
        let mut memory = Memory::default();
        while !self.stop.load(Ordering::Relaxed) {
            if self.draw(self.plan.read_percent) {
                self.read(&mut memory).await;
            } else {
                self.append(&mut memory).await;
            }
            let longest = Duration::from(self.plan.think) * 2;
            tokio::time::sleep(longest.mul_f64(self.random.random())).await;
        }
    }

    fn draw(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    async fn read(&mut self, memory: &mut Memory) {
        let outcome = if self.random.random() {
            let op = self.recorder.invoke(self.number, &self.ledger.via(), Call::ReadHead);
            let outcome = self.ledger.read_head(&self.journal).await;
            self.recorder.returned(op, outcome.clone());
            outcome
        } else {
            // From an entry that is known to be there, so that the answer is never empty.
            let back = self.random.random_range(0..MAX_READ);
            let from = memory.seen.saturating_sub(back).max(1);
            let op = self.recorder.invoke(self.number, &self.ledger.via(), Call::ReadFrom { from });
            let outcome = self.ledger.read_from(&self.journal, from).await;
            self.recorder.returned(op, outcome.clone());
            outcome
        };
        self.learn(memory, &outcome).await;
    }

    async fn append(&mut self, memory: &mut Memory) {
        let entries = self.choose_entries(memory);
        let named: Result<Vec<Sent>, _> = entries.iter().map(entries::sent).collect();
        let named = match named {
            Ok(named) => named,
            Err(refusal) => {
                tracing::error!(%refusal, "the workload made an entry that is not valid");
                return;
            }
        };
        let class = self.draw(self.plan.geo_percent).then_some(Class::Geo);
        let durability_class = match class {
            Some(Class::Geo) => v1::DurabilityClass::Geo,
            Some(Class::City) => v1::DurabilityClass::City,
            None => v1::DurabilityClass::Unspecified,
        };
        let request = v1::AppendRequest {
            journal: self.journal.clone(),
            entries,
            durability_class: durability_class.into(),
        };
        for _ in 0..=MAX_RETRIES {
            let call = Call::Append { entries: named.clone(), class };
            let op = self.recorder.invoke(self.number, &self.ledger.via(), call);
            let outcome = self.ledger.append(&request).await;
            self.recorder.returned(op, outcome.clone());
            let done = match &outcome {
                Outcome::Appended { .. } => true,
                Outcome::Refused { reason, .. } => reason == "KEY_CONFLICT",
                _ => false,
            };
            self.learn(memory, &outcome).await;
            if done || self.stop.load(Ordering::Relaxed) || !self.draw(self.plan.retry_percent) {
                return;
            }
        }
    }

    fn choose_entries(&mut self, memory: &mut Memory) -> Vec<v1::Entry> {
        let payload_bytes = self.plan.payload_bytes;
        if self.draw(self.plan.conflict_percent)
            && let Some(key) = memory.known.choose(&mut self.random).cloned()
        {
            return vec![entries::entry(key, payload_bytes, &mut self.random)];
        }
        let count = match self.draw(self.plan.batch_percent) {
            true => self.random.random_range(1..=self.plan.batch_entries),
            false => 1,
        };
        (0..count)
            .map(|_| {
                memory.keys_made += 1;
                let key = format!("c{}-{}", self.number, memory.keys_made);
                entries::entry(key, payload_bytes, &mut self.random)
            })
            .collect()
    }

    /// Remembers what an answer told; pauses after a failure.
    async fn learn(&mut self, memory: &mut Memory, outcome: &Outcome) {
        match outcome {
            Outcome::Appended { receipts } => {
                self.progress.acknowledged.fetch_add(1, Ordering::Relaxed);
                for receipt in receipts {
                    memory.seen = memory.seen.max(receipt.seq);
                    if memory.known.len() < MAX_KNOWN {
                        memory.known.push(receipt.key.clone());
                    }
                }
            }
            Outcome::Head { seq, .. } => memory.seen = memory.seen.max(*seq),
            Outcome::Entries { head, .. } => memory.seen = memory.seen.max(*head),
            Outcome::Refused { .. } | Outcome::Unknown { .. } => {
                self.progress.unsuccessful.fetch_add(1, Ordering::Relaxed);
                memory.failures += 1;
                if memory.failures >= PATIENCE {
                    memory.failures = 0;
                    self.ledger.move_on();
                }
                tokio::time::sleep(MAX_PAUSE.mul_f64(self.random.random())).await;
                return;
            }
        }
        memory.failures = 0;
    }
}
