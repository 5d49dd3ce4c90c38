//! The segment log from outside: behaviour on every disk, crashes, damage, golden bytes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail where it stands")]

mod behaviour;
mod crash;
mod damage;
mod fuzz;
mod golden;
mod harness;
mod oracle;
mod verdicts;
