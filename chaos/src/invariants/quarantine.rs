//! Rot is seen, and whoever has lost something by it is silent until it has that back.
//!
//! Whatever was durable when a node stopped is found again or named as lost; a node that lacks something neither votes nor
//! acknowledges; when it takes part again, nothing that it once held is missing within its log.

use std::collections::BTreeSet;

use tercet_storage::LostRecord;

use crate::sim::disk::Durable;

/// Nodes that start with something lost, until they are repaired.
#[derive(Default)]
pub(super) struct Quarantine(BTreeSet<u64>);

/// Whether an entry may be one of those that are named as lost.
fn covers(lost: &LostRecord, index: u64) -> bool {
    match *lost {
        LostRecord::Entry { index: at, .. } => at == index,
        LostRecord::Entries { first, last } => (first..=last).contains(&index),
        LostRecord::Tail { after } => after.is_none_or(|after| index > after.index),
        LostRecord::Vote => false,
    }
}

impl Quarantine {
    /// A node comes back: of what was durable before it lacks what `found.rotten` says, and names `lost`.
    pub(super) fn restarted(
        &mut self,
        node: u64,
        found: &Durable,
        lost: &[LostRecord],
    ) -> Result<(), String> {
        if lost.is_empty() {
            self.0.remove(&node);
        } else {
            self.0.insert(node);
        }
        let missing = found.rotten.iter().find(|(index, _)| !lost.iter().any(|lost| covers(lost, **index)));
        missing.map_or(Ok(()), |(index, term)| {
            Err(format!(
                "rot: node {node} comes back without entry {index} of term {term} and does not say so"
            ))
        })
    }

    /// Nothing that a node held counts any more.
    pub(super) fn wiped(&mut self, node: u64) {
        self.0.remove(&node);
    }

    /// A node votes or acknowledges.
    pub(super) fn speaks(&self, node: u64, what: &str) -> Result<(), String> {
        if self.0.contains(&node) {
            return Err(format!("quarantine: node {node} has lost something and {what}"));
        }
        Ok(())
    }

    /// A node takes part (again), with this on its disk.
    pub(super) fn runs(&mut self, node: u64, is_damaged: bool, durable: &Durable) -> Result<(), String> {
        if is_damaged || !self.0.remove(&node) {
            return Ok(());
        }
        let last = durable.terms.last_key_value().map(|(index, _)| *index);
        let missing = durable.rotten.iter().find(|(index, _)| Some(**index) <= last);
        missing.map_or(Ok(()), |(index, term)| {
            Err(format!("quarantine: node {node} takes part again without entry {index} of term {term}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use tercet_storage::LogPoint;

    use super::*;

    fn entry(index: u64) -> LostRecord {
        LostRecord::Entry { index, term: Some(1), payload_crc: None }
    }

    fn without(rotten: &[u64]) -> Durable {
        let rotten = rotten.iter().map(|index| (*index, 1)).collect();
        Durable { terms: [(1, 1), (9, 1)].into(), rotten, ..Durable::default() }
    }

    #[test]
    fn what_is_missing_is_named() {
        let after = Some(LogPoint { term: 1, index: 6 });
        let comes_back = |rotten: &[u64], lost: &[LostRecord]| {
            Quarantine::default().restarted(1, &without(rotten), lost).is_ok()
        };
        assert!(comes_back(&[], &[]));
        assert!(comes_back(&[4], &[entry(4)]));
        assert!(comes_back(&[4, 5], &[LostRecord::Entries { first: 3, last: 5 }]));
        assert!(comes_back(&[7, 8], &[LostRecord::Tail { after }]));
        assert!(!comes_back(&[4], &[]), "cut off in silence");
        assert!(!comes_back(&[4, 5], &[entry(4)]));
        assert!(!comes_back(&[6], &[LostRecord::Tail { after }, LostRecord::Vote]));
    }

    #[test]
    fn it_is_silent_until_it_has_everything_back() {
        let mut quarantine = Quarantine::default();
        quarantine.restarted(1, &without(&[4]), &[entry(4)]).unwrap();
        assert!(quarantine.speaks(1, "votes").is_err() && quarantine.speaks(2, "votes").is_ok());
        quarantine.runs(1, true, &without(&[4])).unwrap();
        assert!(quarantine.speaks(1, "votes").is_err(), "it runs, and is damaged");
        assert!(quarantine.runs(1, false, &without(&[4])).is_err());
        quarantine.restarted(1, &without(&[4]), &[entry(4)]).unwrap();
        quarantine.runs(1, false, &without(&[])).unwrap();
        assert!(quarantine.speaks(1, "votes").is_ok());
    }
}
