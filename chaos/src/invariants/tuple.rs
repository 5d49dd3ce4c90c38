//! What a remote node keeps to prove something never claims more than its disk holds.

use tercet_node::proof::Proof;

use crate::sim::disk::Durable;

pub(super) fn check(node: u64, proof: &Proof, durable: &Durable) -> Result<(), String> {
    let last = durable.terms.last_key_value().map_or(0, |(index, _)| *index);
    // What is not committed may be truncated between the answer and the keeping.
    let truncated = durable.truncated.iter().map(|(_, index)| *index).max().unwrap_or(0);
    if proof.geo_acked <= last && proof.flushed <= last.max(truncated) {
        return Ok(());
    }
    let Proof { geo_acked, flushed, term, .. } = proof;
    Err(format!(
        "tuple: node {node} keeps, of the leader of term {term}, that it has flushed {flushed} and {geo_acked} was \
         acknowledged as geo; its disk ends at {last}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuple_is_kept_after_what_it_claims() {
        let durable = Durable { terms: [(1, 1), (2, 1)].into(), truncated: [(1, 3)].into(), vote: None };
        let claims =
            |geo_acked, flushed| check(5, &Proof { geo_acked, flushed, ..Proof::default() }, &durable);
        assert!(claims(2, 2).is_ok());
        assert!(claims(2, 3).is_ok(), "3 was there");
        assert!(claims(3, 3).is_err(), "acknowledged entries are not truncated");
        assert!(claims(1, 4).is_err());
    }
}
