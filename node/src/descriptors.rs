//! File descriptors: how many this process may have, and how many of them storage and peers need.
//!
//! A node must never be short of descriptors for its log because of callers' connections. So the limit is raised as far as the
//! system lets it be, a node does not start where it is too low, and whoever accepts connections keeps below
//! [`Descriptors::connections_max`].
//!
//! Invariant: what a node opens by itself is bounded, whatever the length of its log, and fits into [`DESCRIPTORS_NEEDED`].

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tercet_storage::disk::LOG_DESCRIPTORS;
use tercet_storage::index::INDEX_DESCRIPTORS;

/// Three listeners, LOCK, NODE or a proof while it is written, a look at the process' own figures. What was open before the node
/// began (standard streams, the runtime's own) is counted then.
const FOR_NODE: u64 = 8;
/// Connections to four peers and from them, two each way, and as many that are being replaced.
const FOR_PEERS: u64 = 32;

/// What a node needs beside its callers' connections.
pub const DESCRIPTORS_NEEDED: u64 = LOG_DESCRIPTORS + INDEX_DESCRIPTORS + FOR_NODE + FOR_PEERS;

/// How many descriptors there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// The limit of this process (RLIMIT_NOFILE, soft).
    pub limit: u64,
    /// What connections must leave to storage and peers.
    pub reserved: u64,
}

/// The limit is too low for a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this process may open {limit} files (RLIMIT_NOFILE, hard), {used} are open already, and a node needs {DESCRIPTORS_NEEDED} beside \
     its callers' connections: raise the limit (`ulimit -Hn`, systemd's LimitNOFILE=) and start again; nothing was opened or changed"
)]
pub struct TooFewDescriptors {
    /// The limit as far as it could be raised.
    pub limit: u64,
    /// What is open.
    pub used: u64,
}

impl Descriptors {
    /// Raises this process' limit as far as it may be, and looks whether that is enough for one node more.
    ///
    /// # Errors
    /// It is not.
    pub fn claim() -> Result<Self, TooFewDescriptors> {
        Self::enough(raise(), open_now())
    }

    /// Whether one node more finds enough. Pure.
    fn enough(limit: u64, used: u64) -> Result<Self, TooFewDescriptors> {
        let reserved = used.saturating_add(DESCRIPTORS_NEEDED);
        if reserved > limit { Err(TooFewDescriptors { limit, used }) } else { Ok(Self { limit, reserved }) }
    }

    /// How many connections of callers there may be at once: each may cost another one, to the leader.
    #[must_use]
    pub fn connections_max(self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.reserved) / 2).unwrap_or(usize::MAX)
    }
}

/// Raises the soft limit to the hard one. Gives the soft limit as it is then.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let raised = Rlimit { current: maximum, maximum };
        // Refused, say by a filter: then the limit is what it was.
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    // None: there is no limit.
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// How many descriptors this process has open; 0 where the system does not tell.
fn open_now() -> u64 {
    // The listing's own is among them.
    std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count().saturating_sub(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_too_low_is_named_and_half_of_the_rest_is_for_connections() {
        let few = Descriptors::enough(DESCRIPTORS_NEEDED + 9, 10).unwrap_err();
        assert_eq!(few, TooFewDescriptors { limit: DESCRIPTORS_NEEDED + 9, used: 10 });
        assert!(few.to_string().contains("LimitNOFILE"), "{few}");
        let just = Descriptors::enough(DESCRIPTORS_NEEDED + 10, 10).unwrap();
        assert_eq!(just.connections_max(), 0);
        assert_eq!(Descriptors::enough(DESCRIPTORS_NEEDED + 1_010, 10).unwrap().connections_max(), 500);
        assert!(Descriptors::enough(u64::MAX, 10).unwrap().connections_max() > 1 << 40, "no limit");
    }

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let claimed = Descriptors::claim().unwrap();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(claimed.limit, current.unwrap_or(u64::MAX));
        assert!(claimed.reserved > DESCRIPTORS_NEEDED, "the standard streams are open");
    }
}
