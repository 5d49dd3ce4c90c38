//! Tercet's chaos harness: clients work, things go wrong, and one exact checker judges what they saw.
//!
//! | module | about |
//! |---|---|
//! | [`scenario`] | the files that tell what happens |
//! | [`faults`] | what can go wrong, done and undone |
//! | [`cluster`] | five real processes with a proxy in every link |
//! | [`proxy`] | the user-space network |
//! | [`probe`] | the proof that a blackhole is one |
//! | [`workload`] | the clients |
//! | [`history`] | what they asked and heard (`chaos/HISTORY.md`) |
//! | [`checker`] | the judgement, one invariant a file |
//! | [`report`] | what a run came to |
//! | [`run`] | all of it in order |
//! | [`sim`] | the same in one thread, from a seed: the simulation |
//! | [`invariants`] | what must hold at every moment of a simulation |
//!
//! The checker and the formats know nothing of clusters: histories may come from anywhere.

pub mod checker;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod invariants;
pub mod probe;
pub mod proxy;
pub mod report;
pub mod run;
pub mod scenario;
pub mod sim;
pub mod workload;
