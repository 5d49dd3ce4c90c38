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
