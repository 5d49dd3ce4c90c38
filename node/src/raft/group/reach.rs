//! Whether a class can be reached, before anything is proposed.
//!
//! Invariants: what is refused here was not proposed; under `adaptive` a lost remote site is no reason to refuse while the budget
//! lasts, because entries that wait are what changes the regime.

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;

use super::Group;
use crate::ledger::budget_spent;
use crate::placement::Class;

impl Group {
    /// Whether entries of `class` can be proposed.
    ///
    /// # Errors
    /// PLACEMENT_UNREACHABLE, with what is missing.
    pub(super) fn ensure_reachable(&self, class: Class) -> Result<(), Refusal> {
        let unreachable = |why| Refusal::new(Reason::PlacementUnreachable, "durability_class", why);
        self.gate.reachable(Class::City).map_err(unreachable)?;
        if class == Class::City {
            return Ok(());
        }
        let ledger = self.state.ledger();
        if let Some(degraded) = ledger.regime().degraded() {
            return degraded.exhausted.as_deref().map_or(Ok(()), |what| Err(budget_spent(what)));
        }
        let Err(missing) = self.gate.reachable(Class::Geo) else { return Ok(()) };
        let policy = self.gate.policy();
        if !policy.adaptive {
            return Err(unreachable(missing));
        }
        match policy.budget.exceeded_by(&ledger.regime().waiting(), 0) {
            Some(what) => {
                Err(unreachable(format!("{missing}; what waits already exceeds the budget: {what}")))
            }
            None => Ok(()),
        }
    }
}
