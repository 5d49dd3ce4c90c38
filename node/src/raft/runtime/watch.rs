//! A watched value whose waiters are woken in the order in which they began to wait.
//!
//! tokio's own watch spreads its waiters over eight lists at random, with numbers that no stable interface seeds; so the order
//! in which several tasks hear of a change differs from run to run. This one has a single list. It is also lighter on the
//! sender, which locks one list a change instead of eight. The methods are those of `tokio::sync::watch` that are used here.
//!
//! Invariants: a change that was sent after a receiver looked is never missed; a receiver that has fallen behind sees the
//! newest value only; a value that was sent before the last sender went is still seen.

use std::future::Future;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use openraft::rt::watch::{self as raft_watch, RecvError, SendError};
use tokio::sync::Notify;
use tokio::task::coop::cooperative;

struct Shared<T> {
    value: RwLock<T>,
    /// How many changes there have been; changed under the value's lock.
    version: AtomicU64,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    changed: Notify,
}

impl<T> Shared<T> {
    fn read(&self) -> Ref<'_, T> {
        Ref(self.value.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Changes the value; tells the receivers if `change` says that it has.
    fn change(&self, change: impl FnOnce(&mut T) -> bool) -> bool {
        {
            let mut value = self.value.write().unwrap_or_else(PoisonError::into_inner);
            if !change(&mut value) {
                return false;
            }
            self.version.fetch_add(1, Ordering::Release);
        }
        self.changed.notify_waiters();
        true
    }
}

/// The watched value, locked for reading: not to be held across an await.
pub struct Ref<'a, T>(RwLockReadGuard<'a, T>);

impl<T> Deref for Ref<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Changes the value.
pub struct Sender<T>(Arc<Shared<T>>);

/// Sees the value and waits for its changes.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
    seen: u64,
}

/// A watched value.
#[must_use]
pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    /// A value that nobody watches yet.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self(Arc::new(Shared {
            value: RwLock::new(value),
            version: AtomicU64::new(0),
            senders: AtomicUsize::new(1),
            receivers: AtomicUsize::new(0),
            changed: Notify::new(),
        }))
    }

    /// The value.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        self.0.read()
    }

    /// Replaces the value, watched or not; gives the old one.
    pub fn send_replace(&self, value: T) -> T {
        let mut value = value;
        self.0.change(|held| {
            std::mem::swap(held, &mut value);
            true
        });
        value
    }

    /// Changes the value and tells the receivers.
    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.0.change(|value| {
            modify(value);
            true
        });
    }

    /// Changes the value; receivers hear of it if `modify` says that it has changed it.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        self.0.change(modify)
    }

    /// Another receiver, which has seen the present value.
    #[must_use]
    pub fn subscribe(&self) -> Receiver<T> {
        self.0.receivers.fetch_add(1, Ordering::AcqRel);
        Receiver { seen: self.0.version(), shared: self.0.clone() }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::AcqRel);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.changed.notify_waiters();
        }
    }
}

impl<T> Receiver<T> {
    /// The newest value; it does not count as seen.
    #[must_use]
    pub fn borrow(&self) -> Ref<'_, T> {
        self.shared.read()
    }

    /// The newest value, which counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        let value = self.shared.read();
        // Under the lock: the version is that of this value.
        self.seen = self.shared.version();
        value
    }

    /// Waits until there is a value that has not been seen; it counts as seen then.
    ///
    /// # Errors
    /// The last sender has gone.
    pub async fn changed(&mut self) -> Result<(), RecvError> {
        let Self { shared, seen } = self;
        cooperative(async move {
            loop {
                // Made before looking: it hears of every change from now on.
                let changed = shared.changed.notified();
                let version = shared.version();
                if version != *seen {
                    *seen = version;
                    return Ok(());
                }
                if shared.senders.load(Ordering::Acquire) == 0 {
                    return Err(RecvError(()));
                }
                changed.await;
            }
        })
        .await
    }

    /// Waits until the value is as wanted, and gives it.
    ///
    /// # Errors
    /// The last sender has gone and the value is not as wanted.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, RecvError> {
        while !wanted(&self.borrow_and_update()) {
            self.changed().await?;
        }
        Ok(self.shared.read())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::AcqRel);
        Self { shared: self.shared.clone(), seen: self.seen }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.shared.receivers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// openraft's handle of this kind of watch.
pub struct DeterministicWatch;

impl raft_watch::Watch for DeterministicWatch {
    type Sender<T: Send + Sync> = Sender<T>;
    type Receiver<T: Send + Sync> = Receiver<T>;
    type Ref<'a, T: Send + 'a> = Ref<'a, T>;

    fn channel<T: Send + Sync>(init: T) -> (Sender<T>, Receiver<T>) {
        channel(init)
    }
}

impl<T: Send + Sync> raft_watch::WatchSender<DeterministicWatch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        if self.0.receivers.load(Ordering::Acquire) == 0 {
            return Err(SendError(value));
        }
        self.send_replace(value);
        Ok(())
    }

    fn send_if_modified<F>(&self, modify: F) -> bool
    where
        F: FnOnce(&mut T) -> bool,
    {
        Self::send_if_modified(self, modify)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Self::subscribe(self)
    }
}

impl<T: Send + Sync> raft_watch::WatchReceiver<DeterministicWatch, T> for Receiver<T> {
    fn changed(&mut self) -> impl Future<Output = Result<(), RecvError>> + Send {
        Self::changed(self)
    }

    fn borrow_watched(&self) -> Ref<'_, T> {
        self.borrow()
    }

    fn borrow_and_update(&mut self) -> Ref<'_, T> {
        Self::borrow_and_update(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiters_hear_in_the_order_in_which_they_began_to_wait() {
        let (sender, receiver) = channel(0);
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        for waiter in 0..20 {
            let (mut receiver, tx) = (receiver.clone(), tx.clone());
            tokio::spawn(async move { receiver.changed().await.map(|()| tx.send(waiter)) });
        }
        tokio::task::yield_now().await;
        sender.send_replace(1);
        for waiter in 0..20 {
            assert_eq!(rx.recv().await, Some(waiter));
        }
    }

    #[tokio::test]
    async fn the_last_value_is_seen_and_then_the_end() {
        let (sender, mut receiver) = channel(1);
        sender.send_replace(2);
        sender.send_replace(3);
        drop(sender);
        assert!(receiver.changed().await.is_ok());
        assert_eq!(*receiver.borrow_and_update(), 3);
        assert!(receiver.changed().await.is_err());
        assert_eq!(receiver.wait_for(|value| *value == 3).await.map(|value| *value), Ok(3));
        assert!(receiver.wait_for(|value| *value == 4).await.is_err());
    }

    #[test]
    fn a_silent_change_tells_nobody() {
        let (sender, receiver) = channel(1);
        assert!(!sender.send_if_modified(|value| {
            *value = 2;
            false
        }));
        assert_eq!((*receiver.borrow(), receiver.shared.version()), (2, 0));
    }
}
