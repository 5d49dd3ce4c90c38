//! Keeps what a leader in another site says of itself, so that this node can prove something after that site's loss.
//!
//! Invariants: only what `ProofGate` lets through is kept; one write at a time, and never on the path of an answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tercet_proto::v1;

use super::Group;
use crate::proof::{Proof, ProofSink};

/// Tuples are kept this often at most: each costs a flush.
const PAUSE: Duration = Duration::from_millis(200);

impl Group {
    /// A message of the leader of `term` was answered: everything up to `matched` is flushed here.
    pub(super) fn offer_proof(&self, term: u64, leader: u64, said: Option<v1::PeerProof>, matched: u64) {
        let Some(said) = said else { return };
        let offered = Proof {
            term,
            leader,
            written_us: (self.params.clock)(),
            quorum_us: said.quorum_us,
            echoed_index: said.echoed_index,
            echoed_us: said.echoed_us,
            geo_acked: said.geo_acked,
            flushed: 0,
            adaptive: said.adaptive,
            degrade_after_ms: said.degrade_after_ms,
            degraded_since: said.degraded_since,
        };
        let kept = self.proof_gate.lock().unwrap_or_else(PoisonError::into_inner).offer(offered, matched);
        if let Some(proof) = kept {
            self.proof.send_replace(Some(proof));
        }
    }

    pub(super) fn follow_proof(self: Arc<Self>, sink: Arc<dyn ProofSink>) {
        crate::raft::runtime::spawn(async move {
            let mut stopped = self.stopped.subscribe();
            let mut proofs = self.proof.subscribe();
            loop {
                tokio::select! {
                    biased;
                    _ = stopped.wait_for(Option::is_some) => return,
                    changed = proofs.changed() => if changed.is_err() { return },
                }
                let Some(proof) = *proofs.borrow_and_update() else { continue };
                let (group, sink) = (self.params.group, sink.clone());
                match crate::raft::runtime::run_blocking(move || sink.keep(group, &proof)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(group, %error, "the proof could not be kept"),
                    Err(error) => tracing::error!(group, %error, "the proof could not be kept"),
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}
