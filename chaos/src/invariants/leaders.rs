//! A term has one leader at most.

use std::collections::BTreeMap;

/// Who has led which term.
#[derive(Default)]
pub(super) struct Leaders(BTreeMap<u64, u64>);

impl Leaders {
    pub(super) fn leads(&mut self, node: u64, term: u64) -> Result<(), String> {
        let first = *self.0.entry(term).or_insert(node);
        if first == node { Ok(()) } else { Err(format!("leaders: both {first} and {node} lead term {term}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_belongs_to_its_first_leader() {
        let mut leaders = Leaders::default();
        assert!(leaders.leads(1, 3).is_ok() && leaders.leads(1, 3).is_ok() && leaders.leads(2, 4).is_ok());
        assert!(leaders.leads(2, 3).is_err());
    }
}
