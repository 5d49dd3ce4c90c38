//! Admission: how many requests and bytes a node works on at once.
//!
//! Invariant: what is admitted is bounded; what is not is refused at once (RESOURCE_EXHAUSTED, OVERLOADED) and nothing of it
//! is kept, so a node under overload stays as fast as it is.

use std::sync::Arc;

use tercet_proto::limits::MAX_REQUEST_BYTES;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The gate keeper.
pub struct Admission {
    requests: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    geo_requests: Arc<Semaphore>,
    geo_bytes: Arc<Semaphore>,
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
            geo_requests: Arc::new(Semaphore::new(permits(requests.div_ceil(2)))),
            geo_bytes: Arc::new(Semaphore::new(permits((bytes / 2).max(MAX_REQUEST_BYTES as u64)))),
        }
    }

    /// Admits a request of `bytes` bytes.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn admit(&self, bytes: usize) -> Result<Permit, Refusal> {
        take(&self.requests, &self.bytes, bytes, "the node has")
    }

    /// Admits a request of class `geo`, which may wait for the remote site: on top of [`Admission::admit`], half of what there
    /// is at most, so that waiting ones leave room for class `city`.
    ///
    /// # Errors
    /// OVERLOADED.
    pub fn admit_geo(&self, bytes: usize) -> Result<Permit, Refusal> {
        take(&self.geo_requests, &self.geo_bytes, bytes, "of class geo the node has")
    }
}

fn take(
    requests: &Arc<Semaphore>,
    all_bytes: &Arc<Semaphore>,
    bytes: usize,
    who: &str,
) -> Result<Permit, Refusal> {
    let overloaded = |what: &str| {
        Refusal::new(Reason::Overloaded, "", format!("{who} too many {what} in work; try again shortly"))
    };
    let request = requests.clone().try_acquire_owned().map_err(|_| overloaded("requests"))?;
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    let bytes = all_bytes.clone().try_acquire_many_owned(bytes).map_err(|_| overloaded("bytes"))?;
    Ok(Permit { _request: request, _bytes: bytes })
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
    #[test]
    fn waiting_requests_of_class_geo_leave_half_of_the_room() {
        let admission = Admission::new(4, 100);
        let waiting: Vec<_> = (0..2)
            .map(|_| (admission.admit(10).expect("room"), admission.admit_geo(10).expect("room")))
            .collect();
        let third = admission.admit(10).expect("room for city");
        assert_eq!(admission.admit_geo(10).err().map(|r| r.reason), Some(Reason::Overloaded));
        drop(waiting);
        assert!(admission.admit_geo(10).is_ok());
        drop(third);
    }
}
