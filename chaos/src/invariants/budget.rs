//! What is acknowledged degraded stays within the budget of its regime record, whoever leads meanwhile.

use std::collections::BTreeMap;

/// New entries acknowledged degraded, by the log index of the regime record in force.
#[derive(Default)]
pub(super) struct Spent {
    by_record: BTreeMap<u64, u64>,
}

impl Spent {
    /// New entries were acknowledged under the regime record that the answering node has applied; none: it has applied the
    /// record back meanwhile, and they were acknowledged under the last one.
    pub(super) fn acknowledged(
        &mut self,
        since: Option<u64>,
        entries: u64,
        budget: u64,
    ) -> Result<(), String> {
        let since = since.or_else(|| self.by_record.keys().next_back().copied());
        let Some(since) = since else {
            return Err(
                "budget: an entry is acknowledged degraded, and no regime record was ever in force".into()
            );
        };
        let spent = self.by_record.entry(since).or_default();
        *spent += entries;
        if *spent <= budget {
            return Ok(());
        }
        Err(format!(
            "budget: {spent} entries acknowledged degraded since the record {since}, {budget} allowed"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_has_its_budget() {
        let mut spent = Spent::default();
        assert!(spent.acknowledged(None, 1, 5).is_err(), "no record");
        assert!(spent.acknowledged(Some(10), 5, 5).is_ok());
        assert!(spent.acknowledged(Some(20), 4, 5).is_ok());
        assert!(spent.acknowledged(None, 1, 5).is_ok());
        assert!(spent.acknowledged(None, 1, 5).is_err());
    }
}
