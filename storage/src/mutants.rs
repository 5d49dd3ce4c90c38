//! Mutants: faults planted in the code, so that the simulation can prove that it would find them.
//!
//! Production code asks [`is`] where a fault would be; without the feature `mutants` that is the constant `false` and nothing is
//! left of it. With the feature, at most one mutant is at work on a thread, and none unless it was [`select`]ed.
//!
//! Invariant: a build without the feature cannot be made to misbehave.

/// Every mutant: its name, and what it does.
pub const ALL: &[(&str, &str)] = &[
    ("ack-before-fsync", "the log answers a batch when it is submitted"),
    ("vote-not-persisted", "the log answers a vote and does not write it"),
    ("append-flushed-early", "openraft is told that an append is flushed when the log has taken it"),
    ("committed-truncated", "a start drops the last record of the log"),
    ("read-without-quorum", "a leader reads without asking anybody whether it still leads"),
    ("keys-lost", "keys that a checkpoint has moved to the index are not found again"),
    ("gate-ignored", "a reply does not wait for its class"),
    (
        "quarantined-acknowledges",
        "a group of which rot has taken something takes part as if nothing were lost",
    ),
    ("site-ignored", "class geo is satisfied by two zones, whichever site they are in"),
    (
        "incarnation-ignored",
        "what a node acknowledged counts on when it comes back with another data directory",
    ),
    ("budget-forgotten", "each new leader begins the budget of the degraded regime anew"),
    ("tuple-before-flush", "a remote node keeps what a leader says of it before it has flushed that"),
    ("leader-restored", "a leader that restarts goes on leading its term"),
];

#[cfg(feature = "mutants")]
std::thread_local! {
    static SELECTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Puts a mutant to work on this thread, in the place of the one before; none: the code is as it should be.
#[cfg(feature = "mutants")]
pub fn select(name: Option<&'static str>) {
    SELECTED.set(name);
}

/// Whether this mutant is at work.
#[inline(always)]
#[must_use]
pub fn is(name: &str) -> bool {
    #[cfg(feature = "mutants")]
    return SELECTED.get() == Some(name);
    #[cfg(not(feature = "mutants"))]
    {
        let _ = name;
        false
    }
}
