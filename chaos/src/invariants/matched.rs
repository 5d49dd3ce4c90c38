//! What a follower says to match is durable on it.

use tercet_proto::v1;
use tercet_proto::v1::peer_append_response::Result as Said;

use crate::sim::disk::PacedDisk;

pub(super) fn check(node: u64, answer: &v1::PeerAppendResponse, disk: &PacedDisk) -> Result<(), String> {
    let Some(Said::Matched(matched)) = &answer.result else { return Ok(()) };
    let Some(at) = &matched.log_id else { return Ok(()) };
    if disk.durable(|durable| durable.held(at.term, at.index)) {
        return Ok(());
    }
    let last = disk.durable(|durable| durable.terms.last_key_value().map(|(index, term)| (*index, *term)));
    Err(format!(
        "matched: node {node} acknowledges entry {} of term {}; its disk ends at {last:?}",
        at.index, at.term
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tercet_storage::disk::SimDisk;

    use super::*;
    use crate::sim::disk::Durable;
    use crate::sim::trace::Trace;

    #[test]
    fn only_what_is_or_was_durable_matches() {
        let durable =
            Durable { terms: [(1, 1), (2, 3)].into(), truncated: [(2, 2)].into(), ..Durable::default() };
        let trace = Arc::new(Trace::new(None).expect("no file"));
        let disk = PacedDisk::new("n", SimDisk::new(0), durable, 0, trace);
        let says = |term, index| {
            let log_id = Some(v1::PeerLogId { term, index });
            let result = Some(Said::Matched(v1::PeerMatched { log_id, ..Default::default() }));
            check(1, &v1::PeerAppendResponse { result, ..Default::default() }, &disk)
        };
        assert!(says(1, 1).is_ok());
        assert!(says(3, 2).is_ok());
        assert!(says(2, 2).is_ok(), "truncated between the answer and its way out");
        assert!(says(4, 2).is_err(), "another term");
        assert!(says(3, 3).is_err(), "beyond the end");
        let nothing = v1::PeerAppendResponse {
            result: Some(Said::Matched(v1::PeerMatched::default())),
            ..Default::default()
        };
        assert!(check(1, &nothing, &disk).is_ok());
    }
}
