//! `[durability]`: what class `geo` does while the remote site cannot be reached.
//!
//! Invariant: `required` unless the file says otherwise; what may be acknowledged without the remote site is always bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Topology, TopologyError};

/// Longest wait that makes sense, in milliseconds.
const MAX_DEGRADE_AFTER_MS: u64 = 3_600_000;

/// `[durability]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Durability {
    /// Whether class `geo` is refused while a site is out of reach, or acknowledged as `city` for a while.
    pub geo_regime: GeoRegime,
    /// `adaptive`: for how long an entry of class `geo` waits before the regime changes.
    pub degrade_after_ms: u64,
    /// `adaptive`: how much may be acknowledged as `city` until then it is refused.
    pub budget: DegradedBudget,
}

impl Default for Durability {
    fn default() -> Self {
        Self { geo_regime: GeoRegime::Required, degrade_after_ms: 2_000, budget: DegradedBudget::default() }
    }
}

/// `[durability] geo_regime`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeoRegime {
    /// Refuse.
    #[default]
    Required,
    /// Acknowledge as `city`, marked degraded, within the budget.
    Adaptive,
}

impl GeoRegime {
    /// As written in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Adaptive => "adaptive",
        }
    }
}

/// `[durability.budget]`: counted per group, from each change of the regime on; what waited already is included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DegradedBudget {
    /// Entries.
    pub entries: u64,
    /// Seconds.
    pub seconds: u64,
    /// Sum of the debits in minor units, per currency; a currency that is not named has no bound of its own.
    pub amounts: BTreeMap<String, u64>,
}

impl Default for DegradedBudget {
    fn default() -> Self {
        Self { entries: 100_000, seconds: 3_600, amounts: BTreeMap::new() }
    }
}

impl Topology {
    pub(super) fn validate_durability(&self) -> Result<(), TopologyError> {
        let refuse = |field: String, message: String| Err(TopologyError::invalid(field, message));
        let Durability { degrade_after_ms, budget, .. } = &self.durability;
        let least_ms = self.timing().heartbeat_ms;
        if !(least_ms..=MAX_DEGRADE_AFTER_MS).contains(degrade_after_ms) {
            let message = format!(
                "{degrade_after_ms} is not from one heartbeat, {least_ms}, to {MAX_DEGRADE_AFTER_MS}"
            );
            return refuse("durability.degrade_after_ms".to_owned(), message);
        }
        for (field, value) in [("entries", budget.entries), ("seconds", budget.seconds)] {
            if value == 0 {
                let message = "is not at least 1; geo_regime = \"required\" acknowledges nothing".to_owned();
                return refuse(format!("durability.budget.{field}"), message);
            }
        }
        for code in budget.amounts.keys() {
            if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
                let message = "is not a currency code of three capital letters".to_owned();
                return refuse(format!("durability.budget.amounts.{code:?}"), message);
            }
        }
        Ok(())
    }
}
