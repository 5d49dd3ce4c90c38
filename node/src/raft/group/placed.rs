//! What a group tells of its placement: per class, and to reckon with losses.
//!
//! Invariant: nothing here changes anything; what is told of a follower is only what it was told.

use tercet_proto::v1;

use super::Group;
use crate::placement::{Class, Now};

/// A voter that has answered within so many election time-outs counts as there.
const CONTACT_ELECTIONS: u64 = 3;

impl Group {
    /// What the leader knows of its voters' logs, both halves of them while they change. None on a follower.
    #[must_use]
    pub fn placed_now(&self) -> Option<Now> {
        let voters = self.gate.replicas();
        if voters.is_empty() {
            return None;
        }
        let limit_ms = self.params.timing.election_max_ms.saturating_mul(CONTACT_ELECTIONS);
        let ms = |age: std::time::Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        let voters = voters.into_iter().map(|(node, matched, contact)| (node, matched, contact.map(ms)));
        // Whoever only votes in the old half is no voter to openraft's metrics and the gate any more.
        let others = self.learners().into_iter();
        let others = others.map(|other| (other.node_id, other.matched_index, other.last_contact_ms));
        let known: Vec<(u64, u64, Option<u64>)> = voters.chain(others).collect();
        let answers = |contact: &Option<u64>| contact.is_some_and(|age| age <= limit_ms);
        let refusals = self.gate.refusals();
        Some(Now {
            acked: known.iter().map(|(node, matched, _)| (*node, *matched)).collect(),
            in_contact: known
                .iter()
                .filter(|(node, _, contact)| answers(contact) && !refusals.contains_key(node))
                .map(|(node, ..)| *node)
                .collect(),
            acknowledged: self.gate.placed().shown,
        })
    }

    /// How many entries journals of this class have above one index, through another.
    #[must_use]
    pub fn entries_between(&self, class: Class, above: u64, through: u64) -> u64 {
        let ledger = self.state.ledger();
        // Marks that cannot be read are a fault that every read reports; a status goes on.
        let seq = |name: &str, index| ledger.head_at(name, index).ok().flatten().map_or(0, |head| head.seq);
        ledger
            .journals(None)
            .filter(|journal| journal.class() == class)
            .map(|journal| seq(journal.name(), through).saturating_sub(seq(journal.name(), above)))
            .sum()
    }

    /// For how long, in milliseconds, something above `index` has been in the leader's log.
    #[must_use]
    pub fn age_ms(&self, index: u64) -> u64 {
        self.lag().age_ms(self.now_ms(), index)
    }

    pub(super) fn class_statuses(&self) -> Vec<v1::ClassStatus> {
        Class::ALL.map(|class| self.class_status(class)).to_vec()
    }

    fn class_status(&self, class: Class) -> v1::ClassStatus {
        let placed = self.gate.placed();
        let leads = self.gate.inherited().is_some();
        let watermark = placed.known.of(class);
        let applied = *self.state.applied().borrow();
        let oldest = if class == Class::Geo { self.gate.oldest_geo_wait() } else { None };
        let mut status = v1::ClassStatus {
            durability_class: v1::DurabilityClass::from(class).into(),
            watermark,
            acknowledged: placed.shown.of(class),
            waiting: u64::try_from(self.gate.held(class)).unwrap_or(u64::MAX),
            oldest_wait_ms: oldest.map_or(0, |wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            behind_entries: if leads { self.entries_between(class, watermark, applied) } else { 0 },
            behind_ms: if leads { self.age_ms(watermark) } else { 0 },
            unreachable: self.gate.reachable(class).err().unwrap_or_default(),
            ..Default::default()
        };
        let ledger = self.state.ledger();
        if class == Class::Geo
            && let Some(degraded) = ledger.regime().degraded()
        {
            status.degraded = true;
            status.degraded_since = degraded.since_index;
            status.reason = ledger.regime().reason().to_owned();
            status.spent_entries = degraded.spent.entries;
            status.budget_entries = degraded.budget.entries;
            status.exhausted = degraded.exhausted.clone().unwrap_or_default();
        }
        status
    }
}
