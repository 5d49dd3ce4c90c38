//! The runtime that openraft and the group's own tasks run on: tokio's, with what a simulation has to be able to repeat.
//!
//! In production this is tokio and nothing else. A simulation runs each node's work inside a [`Scope`], which tasks inherit
//! from whoever spawns them: it seeds the random numbers, can hold all of a node's tasks as SIGSTOP does, and can end them
//! all at one instant as SIGKILL does. Decision 0010 says what else has to be the same for a run to be repeated.
//!
//! Invariants: outside a scope nothing is seeded, held or ended; inside one, nothing depends on the process's entropy, and no
//! task of it is polled once it has been ended.

mod rng;
pub mod watch;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use openraft::AsyncRuntime;
use tokio::task::{AbortHandle, JoinHandle};

pub use self::rng::RuntimeRng;
use self::watch::DeterministicWatch;

tokio::task_local! {
    static SCOPE: Arc<Scope>;
}

/// Handles of ended tasks are forgotten when there are this many more than after the last time.
const PRUNE_AFTER: usize = 64;

/// All tasks of one simulated node from a start to a crash.
#[derive(Debug)]
pub struct Scope {
    random: AtomicU64,
    is_held: AtomicBool,
    is_ended: AtomicBool,
    tasks: Mutex<Tasks>,
}

#[derive(Debug, Default)]
struct Tasks {
    handles: Vec<AbortHandle>,
    prune_at: usize,
    /// Of the tasks that were polled while they were held.
    waiting: Vec<Waker>,
}

impl Scope {
    /// A scope whose random numbers come from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            random: AtomicU64::new(seed),
            is_held: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
            tasks: Mutex::default(),
        })
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a task that belongs to this scope.
    pub fn spawn<F>(self: &Arc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let scope = self.clone();
        let inner = SCOPE.scope(self.clone(), future);
        let handle = tokio::spawn(async move {
            let mut inner = pin!(inner);
            poll_fn(|context| {
                if scope.is_held.load(Ordering::Relaxed) {
                    scope.tasks().waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                inner.as_mut().poll(context)
            })
            .await
        });
        if self.is_ended.load(Ordering::Relaxed) {
            handle.abort();
            return handle;
        }
        let mut tasks = self.tasks();
        tasks.handles.push(handle.abort_handle());
        if tasks.handles.len() > tasks.prune_at {
            tasks.handles.retain(|task| !task.is_finished());
            tasks.prune_at = tasks.handles.len() + PRUNE_AFTER;
        }
        handle
    }

    /// Polls no task of the scope until [`Scope::release`].
    pub fn hold(&self) {
        self.is_held.store(true, Ordering::Relaxed);
    }

    /// Lets held tasks go on.
    pub fn release(&self) {
        self.is_held.store(false, Ordering::Relaxed);
        let waiting = std::mem::take(&mut self.tasks().waiting);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Ends every task of the scope where it stands; what is spawned into it later ends before it begins.
    pub fn end(&self) {
        self.is_ended.store(true, Ordering::Relaxed);
        let handles = std::mem::take(&mut self.tasks().handles);
        handles.iter().for_each(AbortHandle::abort);
    }

    /// A random number of the scope.
    #[must_use]
    pub fn random(&self) -> u64 {
        let step = rng::GOLDEN_RATIO;
        rng::mix(self.random.fetch_add(step, Ordering::Relaxed).wrapping_add(step))
    }
}

/// The scope of the running task, if it is simulated.
pub(super) fn current_scope() -> Option<Arc<Scope>> {
    SCOPE.try_with(Arc::clone).ok()
}

/// Starts a task in the scope of the one that runs.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    match current_scope() {
        Some(scope) => scope.spawn(future),
        None => tokio::spawn(future),
    }
}

/// Runs what may block on a thread for that; in a simulation, which has one thread, here and now.
///
/// # Errors
/// The work panicked.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    match current_scope() {
        Some(_) => Ok(work()),
        None => tokio::task::spawn_blocking(work).await,
    }
}

/// openraft's runtime; see the module.
#[derive(Debug)]
pub struct Runtime(openraft::TokioRuntime);

type Tokio = openraft::TokioRuntime;

impl AsyncRuntime for Runtime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = <Tokio as AsyncRuntime>::Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = RuntimeRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = DeterministicWatch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Tokio::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        RuntimeRng::of_this_task()
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft::rt::testing::Suite;

    use super::*;

    #[test]
    fn it_is_what_openraft_expects_of_a_runtime() {
        Suite::<Runtime>::test_all();
    }

    #[tokio::test(start_paused = true)]
    async fn a_held_scope_stands_still_and_an_ended_one_is_gone() {
        let scope = Scope::new(1);
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        scope.spawn(async move {
            // A child of the scope's task belongs to the scope.
            spawn(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    if tx.send(tokio::time::Instant::now()).is_err() {
                        return;
                    }
                }
            });
        });
        assert!(rx.recv().await.is_some());
        scope.hold();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(rx.try_recv().is_err(), "nothing happens while it is held");
        scope.release();
        assert!(rx.recv().await.is_some());
        scope.end();
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Ok(_sent_before) = rx.try_recv() {}
        assert!(rx.recv().await.is_none(), "the task is gone, and its end of the channel with it");
    }

    #[test]
    fn a_scopes_numbers_come_from_its_seed() {
        let numbers = |seed| {
            let scope = Scope::new(seed);
            (0..8).map(|_| scope.random()).collect::<Vec<_>>()
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }
}
