//! Every hash of F recomputes from the bytes, beginning with the creation record.

use tercet_proto::canonical::{CreationRecord, chain, entry_hash, sha256, store_part};

use super::{Evidence, Findings};
use crate::history::Hash32;

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let Some(log) = evidence.finals.first() else { return };
    match CreationRecord::parse(&log.creation_record.0) {
        Ok(record) if record.settings.name == log.journal => {}
        Ok(record) => {
            findings.add(format!(
                "the creation record names journal {:?}, not {:?}",
                record.settings.name, log.journal
            ));
        }
        Err(error) => findings.add(format!("the creation record cannot be read: {error}")),
    }
    let mut link = sha256(&log.creation_record.0);
    for logged in &evidence.log {
        let entry = logged.entry;
        if let Err(why) = &logged.view {
            findings.add(format!("seq {}: the client part is none: {why}", entry.seq));
        }
        let computed = entry_hash(&entry.client_part.0, &store_part(entry.seq, entry.recorded_at_us));
        if Hash32(computed) != entry.entry_hash {
            findings.add(format!(
                "seq {}: entry hash {:?}, computed {:?}",
                entry.seq,
                entry.entry_hash,
                Hash32(computed)
            ));
        }
        let expected = Hash32(chain(&link, &entry.entry_hash.0));
        if expected != entry.chain_hash {
            findings
                .add(format!("seq {}: chain hash {:?}, computed {expected:?}", entry.seq, entry.chain_hash));
        }
        // Go on from what is stated, so that one broken link is one finding.
        link = entry.chain_hash.0;
    }
}
