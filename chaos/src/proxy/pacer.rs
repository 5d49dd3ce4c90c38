//! Timers finer than tokio's millisecond, for links with a delay.
//!
//! One thread sleeps on a condition variable (a futex with an absolute deadline) and answers the timers as they fall due.
//! Resolution: the kernel's high-resolution timers with a slack of 1 us instead of the usual 50 us, plus one thread
//! switch and one task wake-up; 20 to 100 us late on an idle machine, more when every core is busy. Never early.
//!
//! Invariants: [`Pacer::sleep_until`] does not return before its deadline while the pacer lives; timers fall due in the
//! order of their deadlines, equal ones in the order in which they were set.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::oneshot;

/// How late the kernel may wake the pacer, in nanoseconds.
const TIMER_SLACK_NS: u64 = 1_000;

/// A source of fine timers. Dropping it ends its thread; timers that are still set end at once.
#[derive(Debug)]
pub struct Pacer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    timers: BinaryHeap<Reverse<Timer>>,
    set_so_far: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Timer {
    due: Instant,
    number: u64,
    fire: oneshot::Sender<()>,
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timer {}

impl PartialOrd for Timer {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timer {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.number).cmp(&(other.due, other.number))
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // The queue is consistent at every point where a panic could happen.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // Without it the timers are 50 us coarser, no more.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS)) {
            tracing::debug!(%error, "the pacer keeps the usual timer slack");
        }
        let mut queue = self.queue();
        while !queue.stopped {
            let now = Instant::now();
            let next = queue.timers.peek().map(|Reverse(timer)| timer.due);
            queue = match next {
                Some(due) if due <= now => {
                    if let Some(Reverse(timer)) = queue.timers.pop() {
                        // Nobody listens any more when the connection has ended meanwhile.
                        let _ = timer.fire.send(());
                    }
                    queue
                }
                Some(due) => {
                    self.changed.wait_timeout(queue, due - now).unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
        }
        queue.timers.clear();
    }
}

impl Pacer {
    /// Starts the pacer's thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let on_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(move || on_thread.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Returns when `due` has come.
    pub async fn sleep_until(&self, due: Instant) {
        if due <= Instant::now() {
            return;
        }
        let (fire, fired) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            let number = queue.set_so_far;
            queue.set_so_far += 1;
            let is_next = queue.timers.peek().is_none_or(|Reverse(first)| due < first.due);
            queue.timers.push(Reverse(Timer { due, number, fire }));
            if is_next {
                self.shared.changed.notify_one();
            }
        }
        // An error means that the pacer has been dropped: everything ends.
        let _ = fired.await;
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.shared.queue().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn timers_are_never_early_and_keep_their_order() {
        let pacer = Arc::new(Pacer::start().unwrap());
        let start = Instant::now();
        let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
        for micros in [900, 300, 600, 0, 1_500, 301] {
            let (pacer, sent) = (Arc::clone(&pacer), sent.clone());
            tokio::spawn(async move {
                let due = start + Duration::from_micros(micros);
                pacer.sleep_until(due).await;
                assert!(Instant::now() >= due, "{micros} us: early");
                sent.send(micros).unwrap();
            });
        }
        drop(sent);
        let mut order = Vec::new();
        while let Some(micros) = received.recv().await {
            order.push(micros);
        }
        order.sort_unstable();
        assert_eq!(order, [0, 300, 301, 600, 900, 1_500]);
    }

    #[tokio::test]
    async fn dropping_the_pacer_ends_its_timers() {
        let pacer = Arc::new(Pacer::start().unwrap());
        let (fire, fired) = oneshot::channel();
        pacer.shared.queue().timers.push(Reverse(Timer {
            due: Instant::now() + Duration::from_secs(3_600),
            number: 0,
            fire,
        }));
        drop(pacer);
        assert!(fired.await.is_err());
    }
}
