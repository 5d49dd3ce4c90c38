//! Tests of the ledger: tables for every refusal, and properties against a naive model.

mod apply;
mod model;
mod proposals;
mod regime;
mod restart;
mod runs;
mod support;
