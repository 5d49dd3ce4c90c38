//! The segment log from outside: behaviour on every disk, crashes, damage, golden bytes.

mod behaviour;
mod crash;
mod damage;
mod golden;
mod harness;
mod verdicts;
