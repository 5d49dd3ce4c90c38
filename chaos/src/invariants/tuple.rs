//! What a remote node keeps to prove something never claims more than its disk holds, and no acknowledgement is degraded before
//! the time that the tuple excludes (where all clocks agree).

use std::collections::BTreeMap;

use tercet_node::proof::Proof;

use crate::sim::disk::Durable;

pub(super) fn check(node: u64, proof: &Proof, durable: &Durable) -> Result<(), String> {
    // That its end has rotted, its log says; the tuple lies elsewhere.
    let last = durable.terms.keys().chain(durable.rotten.keys()).max().copied().unwrap_or(0);
    // What is not committed may be truncated after the answer.
    if proof.geo_acked <= last && proof.flushed <= last.max(durable.dropped_up_to) {
        return Ok(());
    }
    let Proof { geo_acked, flushed, term, .. } = proof;
    Err(format!(
        "tuple: node {node} keeps, of the leader of term {term}, that it has flushed {flushed} and {geo_acked} was \
         acknowledged as geo; its disk ends at {last}"
    ))
}

/// The tuples that are kept now.
#[derive(Default)]
pub(super) struct Kept(BTreeMap<u64, Proof>);

impl Kept {
    pub(super) fn keeps(&mut self, node: u64, proof: &Proof) {
        self.0.insert(node, *proof);
    }

    pub(super) fn wiped(&mut self, node: u64) {
        self.0.remove(&node);
    }

    /// An entry is acknowledged degraded now, under the regime record at an index; `holds` says whose disk has that.
    pub(super) fn degraded(
        &self,
        now_us: i64,
        record: u64,
        holds: impl Fn(u64) -> bool,
    ) -> Result<(), String> {
        for (node, proof) in &self.0 {
            let Some(not_before_us) = proof.degraded_not_before_us() else { continue };
            if now_us < not_before_us && !holds(*node) {
                return Err(format!(
                    "tuple: an entry is acknowledged degraded by the record {record}, {} ms before the tuple of node {node} \
                     allows it: {proof:?}",
                    (not_before_us - now_us) / 1_000
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_degraded_before_a_tuple_allows_it() {
        let mut kept = Kept::default();
        let proof = Proof { adaptive: true, degrade_after_ms: 2, echoed_us: 10_000, ..Proof::default() };
        kept.keeps(5, &proof);
        assert!(kept.degraded(12_000, 7, |_| false).is_ok());
        assert!(kept.degraded(11_999, 7, |_| false).is_err());
        assert!(kept.degraded(11_999, 7, |node| node == 5).is_ok(), "it knows of the record");
        kept.wiped(5);
        assert!(kept.degraded(0, 7, |_| false).is_ok());
    }

    #[test]
    fn a_tuple_is_kept_after_what_it_claims() {
        let durable = Durable { terms: [(1, 1), (2, 1)].into(), dropped_up_to: 3, ..Durable::default() };
        let claims =
            |geo_acked, flushed| check(5, &Proof { geo_acked, flushed, ..Proof::default() }, &durable);
        assert!(claims(2, 2).is_ok());
        assert!(claims(2, 3).is_ok(), "3 was there");
        assert!(claims(3, 3).is_err(), "acknowledged entries are not truncated");
        assert!(claims(1, 4).is_err());
    }
}
