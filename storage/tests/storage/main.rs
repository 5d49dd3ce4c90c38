//! The segment log from outside: behaviour on every disk, crashes, damage, golden bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail where it stands")]

mod behaviour;
mod crash;
mod damage;
mod full;
mod fuzz;
mod golden;
mod harness;
mod mending;
mod oracle;
mod repair;
mod scrub;
mod verdicts;
