//! A simulated node's kept tuples (what a remote can prove). They outlive crashes, as the file does that is synced before it counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use tercet_node::proof::{Proof, ProofSink};

/// By group.
#[derive(Debug, Default)]
pub struct KeptProofs(Mutex<BTreeMap<u32, Proof>>);

impl ProofSink for KeptProofs {
    fn keep(&self, group: u32, proof: &Proof) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(group, *proof);
        Ok(())
    }

    fn kept(&self, group: u32) -> Option<Proof> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }
}
