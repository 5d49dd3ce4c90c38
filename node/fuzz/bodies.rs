//! What each fuzz target does with its bytes: the decoders of what this node has stored and of what other nodes send it.
//!
//! Shared by the targets in `fuzz_targets/`, which libFuzzer drives on a nightly toolchain, and by the ordinary tests
//! (`tests/fuzz.rs`), which drive them over a corpus made from seeds. Invariant: whatever the bytes are, nothing panics, and
//! nothing runs on or takes memory beyond what they hold; what decodes encodes to the same bytes.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tercet_node::ledger::{
    Command, CommandView, IndexFault, KeyIndex, Ledger, Pair, ProposalBuilder, ProposalHeader, ProposalView,
};
use tercet_node::raft::codec::{
    decode_membership, decode_vote, encode_membership, encode_vote, entry_from_wire, entry_to_wire,
    from_record, log_id_from_wire, log_id_to_wire, to_record, vote_from_wire, vote_to_wire,
};
use tercet_node::raft::snapshot::{decode_meta, decode_pairs, encode_meta, encode_pairs};
use tercet_proto::canonical::{BusinessDate, CurrencySpec, JournalSettings};
use tercet_proto::topology::Topology;
use tercet_proto::v1::{DurabilityClass, PeerAppendRequest, PeerLogEntry};
use tercet_storage::LogRecord;

/// The group of the bodies.
pub(crate) const GROUP: u32 = 1;
/// The journal that a proposal finds.
pub(crate) const JOURNAL: &str = "j";

/// Decodes a stored vote.
pub(crate) fn vote(bytes: &[u8]) {
    if let Ok(vote) = decode_vote(bytes) {
        assert_eq!(encode_vote(&vote), bytes);
    }
}

/// Decodes a stored membership.
pub(crate) fn membership(bytes: &[u8]) {
    if let Ok(membership) = decode_membership(bytes) {
        assert_eq!(encode_membership(&membership).expect("it was encoded"), bytes);
    }
}

/// Decodes a record of the log; the first byte is its tag.
pub(crate) fn record(bytes: &[u8]) {
    let Some((tag, payload)) = bytes.split_first() else { return };
    let record =
        LogRecord { index: 7, term: 3, leader: 2, tag: *tag, payload: Bytes::copy_from_slice(payload) };
    if let Ok(entry) = from_record(record.clone()) {
        let again = to_record(entry, 2).expect("it was encoded");
        let is_blank = *tag == tercet_node::raft::codec::TAG_BLANK;
        assert!(again == record || (is_blank && again.payload.is_empty()), "{again:?}");
    }
}

/// Decodes a leader's append request, and all in it.
pub(crate) fn append_message(bytes: &[u8]) {
    let Ok(message) = PeerAppendRequest::decode(bytes) else { return };
    if let Ok(vote) = vote_from_wire(message.vote) {
        assert_eq!(Some(vote_to_wire(&vote)), message.vote);
    }
    for id in [message.prev, message.committed] {
        assert_eq!(log_id_to_wire(log_id_from_wire(id).as_ref()), id);
    }
    for sent in message.entries {
        let Ok(entry) = entry_from_wire(sent.clone()) else { continue };
        let again = entry_to_wire(entry).expect("it was encoded");
        assert!(again == sent || again == PeerLogEntry { payload: Bytes::new(), ..sent }, "{again:?}");
    }
}

/// Decodes a snapshot's meta record.
pub(crate) fn snapshot_meta(bytes: &[u8]) {
    if let Ok(meta) = decode_meta(bytes) {
        assert_eq!(encode_meta(&meta).expect("it was encoded"), bytes);
    }
}

/// Decodes a snapshot's content, and restores a ledger from it: each value of a checkpoint is decoded.
pub(crate) fn snapshot(bytes: &[u8]) {
    let Ok(pairs) = decode_pairs(bytes) else { return };
    assert_eq!(encode_pairs(&pairs).expect("it was encoded"), bytes);
    let index = MapIndex(pairs.into_iter().collect());
    if let Ok(ledger) = Ledger::restore(GROUP, Arc::new(index)) {
        // Found or not, intact or not: never a panic.
        drop(ledger.locate(JOURNAL, 1));
        drop(ledger.locate(JOURNAL, u64::MAX));
        let _ = ledger.applied();
    }
}

/// Reads a proposal in place and applies it to a ledger that has one journal.
pub(crate) fn proposal(bytes: &[u8]) {
    if let Ok(view) = ProposalView::parse(bytes) {
        assert!(view.commands().count() <= view.command_count() as usize);
        for command in view.commands() {
            let Ok(CommandView::Append(append)) = command else { continue };
            for entry in append.entries().flatten() {
                let _ = entry.postings().count();
            }
        }
    }
    let mut ledger = Ledger::new(GROUP, Arc::new(MapIndex::default()));
    let outcomes = ledger.apply(1, 1, &first_proposal()).expect("a valid proposal");
    assert_eq!(outcomes.len(), 1);
    // What cannot be read ends the ledger; what can is applied or refused, and can be checkpointed.
    if ledger.apply(1, 2, bytes).is_ok() {
        let writes = ledger.begin_checkpoint().expect("something has been applied").to_writes();
        let pairs = writes.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let restored = Ledger::restore(GROUP, Arc::new(MapIndex(pairs.collect())));
        assert_eq!(restored.expect("what a checkpoint writes can be read").applied(), Some((1, 2)));
    }
}

/// Reads a topology.
pub(crate) fn topology(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(topology) = Topology::parse(text)
    {
        assert!(topology.voters().count() > 0);
    }
}

/// A proposal that makes the journal.
pub(crate) fn first_proposal() -> Bytes {
    let currency = |code: &[u8; 3], digits| CurrencySpec { code: *code, digits };
    let settings = JournalSettings {
        name: JOURNAL.to_owned(),
        currencies: vec![currency(b"CZK", 2), currency(b"EUR", 2)],
        class: DurabilityClass::City,
        business_date: BusinessDate::parse("2026-03-02").expect("a date"),
    };
    let mut builder =
        ProposalBuilder::new(ProposalHeader { leader: 1, leader_clock_us: 1_000_000, ..Default::default() });
    builder.push(&Command::CreateJournal(settings)).expect("valid settings");
    builder.finish()
}

/// An index in memory.
#[derive(Default)]
pub(crate) struct MapIndex(pub(crate) BTreeMap<Vec<u8>, Vec<u8>>);

impl KeyIndex for MapIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexFault> {
        Ok(self.0.get(key).cloned())
    }

    fn floor(&self, prefix: &[u8], key: &[u8]) -> Result<Option<Pair>, IndexFault> {
        let range = (Bound::Included(prefix), Bound::Included(key));
        Ok(self.0.range::<[u8], _>(range).next_back().map(|(key, value)| (key.clone(), value.clone())))
    }

    fn scan_prefix(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexFault> {
        for (key, value) in self.0.iter().filter(|(key, _)| key.starts_with(prefix)) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }
}
