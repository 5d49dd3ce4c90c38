//! A simulated node's kept tuples (what a remote can prove). They outlive crashes, as the file does that is synced before it counts.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tercet_node::proof::{Proof, ProofSink};

use crate::invariants::Witness;

/// One node's, by group.
pub struct KeptProofs {
    node: u64,
    witness: Arc<Witness>,
    kept: Mutex<BTreeMap<u32, Proof>>,
}

impl KeptProofs {
    /// None yet.
    pub fn new(node: u64, witness: Arc<Witness>) -> Self {
        Self { node, witness, kept: Mutex::default() }
    }
}

impl ProofSink for KeptProofs {
    fn keep(&self, group: u32, proof: &Proof) -> io::Result<()> {
        self.witness.kept(self.node, proof);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).insert(group, *proof);
        Ok(())
    }

    fn kept(&self, group: u32) -> Option<Proof> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&group).copied()
    }
}
