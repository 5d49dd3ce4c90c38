//! What reads returned is a piece of F: the head's hash, and the entries from the first asked for to the head, no more and
//! no less.

use tercet_proto::canonical::sha256;

use super::{Evidence, Findings};
use crate::history::{Call, EntrySeen, Hash32, Outcome};

pub(super) fn check(evidence: &Evidence<'_>, findings: &mut Findings) {
    let length = evidence.log.len() as u64;
    for operation in &evidence.history.operations {
        let op = operation.op;
        match (&operation.call, &operation.returned) {
            (_, Some((_, Outcome::Head { seq, chain_hash }))) => {
                let expected = match seq {
                    0 => evidence.finals.first().map(|log| Hash32(sha256(&log.creation_record.0))),
                    _ => evidence.at_seq(*seq).map(|logged| logged.entry.chain_hash),
                };
                match expected {
                    None => findings.add(format!("operation {op} read head {seq}; the final log ends at {length}")),
                    Some(expected) if expected != *chain_hash => findings.add(format!(
                        "operation {op} read chain hash {chain_hash:?} at seq {seq}; the final log has {expected:?}"
                    )),
                    Some(_) => {}
                }
            }
            (Call::ReadFrom { from }, Some((_, Outcome::Entries { head, entries }))) => {
                if let Err(why) = piece(evidence, *from, *head, entries) {
                    findings.add(format!("operation {op} read from {from}: {why}"));
                }
            }
            _ => {}
        }
    }
}

fn piece(evidence: &Evidence<'_>, from: u64, head: u64, entries: &[EntrySeen]) -> Result<(), String> {
    if head > evidence.log.len() as u64 {
        return Err(format!("it saw head {head}; the final log ends at {}", evidence.log.len()));
    }
    let expected = (head + 1).saturating_sub(from.max(1));
    if entries.len() as u64 != expected {
        return Err(format!("{} entries up to head {head}, {expected} expected", entries.len()));
    }
    for (seq, seen) in (from.max(1)..).zip(entries) {
        if seen.seq != seq {
            return Err(format!("seq {} where {seq} was expected", seen.seq));
        }
        let logged = evidence.at_seq(seq).map(|logged| logged.entry.entry_hash);
        if logged != Some(seen.entry_hash) {
            return Err(format!(
                "entry hash {:?} at seq {seq}; the final log has {logged:?}",
                seen.entry_hash
            ));
        }
    }
    Ok(())
}
