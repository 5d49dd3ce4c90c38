//! The ledger's view of the index.

use std::sync::Arc;

use tercet_storage::index::Index;
use tercet_storage::mutants;

use crate::ledger::{IndexFault, KeyIndex};

/// The ledger's key index over the storage crate's index.
pub struct SledKeys(pub Arc<Index>);

fn fault(error: impl std::fmt::Display) -> IndexFault {
    IndexFault(error.to_string())
}

impl KeyIndex for SledKeys {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexFault> {
        self.0.get(key).map_err(fault)
    }

    fn floor(&self, prefix: &[u8], key: &[u8]) -> Result<Option<(Vec<u8>, Vec<u8>)>, IndexFault> {
        // Behind the group's four bytes: a run of keys.
        if mutants::is("keys-lost") && prefix.get(4) == Some(&b'K') {
            return Ok(None);
        }
        self.0.floor(prefix, key).map_err(fault)
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexFault> {
        self.0.scan_prefix(prefix, each).map_err(fault)
    }
}
