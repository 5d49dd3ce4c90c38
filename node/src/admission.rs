//! Admission: how many requests and bytes a node works on at once.
//!
//! Invariant: what is admitted is bounded; what is not is refused at once (RESOURCE_EXHAUSTED, OVERLOADED) and nothing of it
//! is kept, so a node under overload stays as fast as it is.

use std::sync::Arc;

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The gate keeper.
pub struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

/// Held while a request is in work.
pub struct Permit {
    _request: OwnedSemaphorePermit,
    _bytes: OwnedSemaphorePermit,
}

impl Admission {
    /// Admits at most `requests` requests of at most `bytes` bytes together.
    #[must_use]
    pub fn new(requests: u64, bytes: u64) -> Self {
        let permits = |most: u64| usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            requests: Arc::new(Semaphore::new(permits(requests))),
            bytes: Arc::new(Semaphore::new(permits(bytes))),
        }
    }

    /// Admits a request of `bytes` bytes.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Refusal> {
        let overloaded = |what: &str| {
            Refusal::new(
                Reason::Overloaded,
                "",
                format!("the node has too many {what} in work; try again shortly"),
            )
        };
        let request = self.requests.clone().try_acquire_owned().map_err(|_| overloaded("requests"))?;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let bytes = self.bytes.clone().try_acquire_many_owned(bytes).map_err(|_| overloaded("bytes"))?;
        Ok(Permit { _request: request, _bytes: bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_refused_and_room_comes_back() {
        let admission = Admission::new(2, 100);
        let first = admission.admit(60).unwrap();
        assert_eq!(admission.admit(60).err().map(|r| r.reason), Some(Reason::Overloaded), "bytes");
        let second = admission.admit(40).unwrap();
        assert_eq!(admission.admit(0).err().map(|r| r.reason), Some(Reason::Overloaded), "requests");
        drop((first, second));
        assert!(admission.admit(100).is_ok());
    }
}
