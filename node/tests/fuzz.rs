//! The decoders of stored bytes and of other nodes' messages: round trips, and the bodies of the fuzz targets over a corpus made
//! from seeds (valid inputs, mutated, cut short, spliced) and over arbitrary bytes.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use proptest::prelude::*;
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_node::ledger::{Command, Ledger, PreparedCommand, ProposalBuilder, ProposalHeader};
use tercet_node::raft::codec::{decode_membership, decode_vote, encode_membership, encode_vote};
use tercet_node::raft::snapshot::{decode_pairs, encode_pairs};
use tercet_node::raft::types::{Vote, log_id};
use tercet_proto::v1::{self, AppendRequest, Entry, PeerAppendRequest, PeerLogEntry, PeerLogId, PeerVote};

/// Changes some of the bytes: single bits, fields of extreme numbers, a piece copied elsewhere, the end cut off.
fn mutated(valid: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..rng.random_range(0..6) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..12) {
            0..=4 => bytes[at] ^= 1 << rng.random_range(0..8),
            5 | 6 => bytes[at] = rng.random(),
            7 | 8 => {
                let width = [1, 2, 4, 8][rng.random_range(0..4)];
                let end = (at + width).min(bytes.len());
                bytes[at..end].fill([0, 0xff, 0x7f][rng.random_range(0..3)]);
            }
            9 | 10 => {
                let length = rng.random_range(0..=bytes.len() - at);
                let to = rng.random_range(0..=bytes.len() - length);
                bytes.copy_within(at..at + length, to);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Runs a body over variations of each valid input, so many of each.
fn run(valid: &[Vec<u8>], each: u64, body: impl Fn(&[u8])) {
    for (number, valid) in (0..).zip(valid) {
        body(valid);
        (0..valid.len().min(2_000)).for_each(|cut| body(&valid[..cut]));
        for seed in 0..each {
            body(&mutated(valid, &mut StdRng::seed_from_u64(seed * 1_000 + number)));
        }
    }
}

/// Memberships: none, one config, a joint one with a learner.
fn memberships() -> Vec<Vec<u8>> {
    let ids = |ids: &[u64]| {
        let mut out = u16::try_from(ids.len()).expect("few").to_le_bytes().to_vec();
        ids.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
        out
    };
    vec![
        vec![1, 0, 0, 0],
        [vec![1, 1], ids(&[1, 2, 3]), ids(&[1, 2, 3])].concat(),
        [vec![1, 2], ids(&[1, 2, 3]), ids(&[3, 4]), ids(&[1, 2, 3, 4, 9])].concat(),
    ]
}

fn payment(key: &str, bytes: usize) -> Entry {
    let side = |account: &str, side: v1::posting::Side| v1::Posting {
        account: account.to_owned(),
        side: side.into(),
        amount: 125,
        currency: "CZK".to_owned(),
    };
    Entry {
        key: key.to_owned(),
        kind: v1::entry::Kind::Payment.into(),
        business_date: "2026-03-02".to_owned(),
        postings: vec![side("payer", v1::posting::Side::Debit), side("收款人", v1::posting::Side::Credit)],
        payload: vec![7; bytes].into(),
        ..Default::default()
    }
}

/// Proposals with every kind of command.
fn proposals() -> Vec<Vec<u8>> {
    let header =
        ProposalHeader { leader: 1, leader_clock_us: 2_000_000, city_watermark: 1, geo_watermark: 1 };
    let append = |entries: Vec<Entry>| {
        let request = AppendRequest { journal: bodies::JOURNAL.to_owned(), entries, ..Default::default() };
        PreparedCommand::append(&request).expect("a valid request")
    };
    let mut appends = ProposalBuilder::new(header);
    appends.push_prepared(&append(vec![payment("one", 10), payment("two", 300)]));
    appends.push_prepared(&append(vec![payment("two", 300)]));
    let mut others = ProposalBuilder::new(header);
    for command in [
        Command::MapJournal { name: "other".to_owned() },
        Command::FormCluster { cluster_id: [3; 16], groups: 2 },
        Command::RegisterNode { node_id: 4, incarnation: 9, start: 0, nonce: 0 },
        Command::SetRegime { reason: "lost".to_owned(), degraded: None },
        Command::DegradedFor { since_index: 7, elapsed_ms: 15_000 },
    ] {
        others.push(&command).expect("a valid command");
    }
    let empty = ProposalBuilder::new(header);
    let all = [bodies::first_proposal(), appends.finish(), others.finish(), empty.finish()];
    all.into_iter().map(|proposal| proposal.to_vec()).collect()
}

/// The content of a snapshot of a ledger that has applied the proposals.
fn snapshot() -> Vec<u8> {
    let mut ledger = Ledger::new(bodies::GROUP, std::sync::Arc::new(bodies::MapIndex::default()));
    for (index, proposal) in (1..).zip(proposals()) {
        ledger.apply(1, index, &proposal).expect("a valid proposal");
    }
    let writes = ledger.begin_checkpoint().expect("something was applied").to_writes();
    let pairs: Vec<_> = writes.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
    assert!(pairs.len() > 5, "{}", pairs.len());
    encode_pairs(&pairs).expect("short pairs").to_vec()
}

fn append_request() -> Vec<u8> {
    let entry =
        |index, tag: u32, payload: Vec<u8>| PeerLogEntry { term: 3, index, tag, payload: payload.into() };
    let request = PeerAppendRequest {
        vote: Some(PeerVote { term: 3, voted_for: Some(2), committed: true }),
        prev: Some(PeerLogId { term: 2, index: 6 }),
        committed: Some(PeerLogId { term: 2, index: 5 }),
        entries: vec![
            entry(7, 0, Vec::new()),
            entry(8, 1, proposals().swap_remove(1)),
            entry(9, 2, memberships().swap_remove(2)),
        ],
        city_watermark: 4,
        ..Default::default()
    };
    request.encode_to_vec()
}

#[test]
fn votes_and_memberships() {
    let votes = [Vote::new(3, 5), Vote::new_committed(u64::MAX, 1)].map(|vote| encode_vote(&vote).to_vec());
    run(&votes, 20_000, bodies::vote);
    for membership in memberships() {
        assert!(decode_membership(&membership).is_ok(), "{membership:?}");
    }
    run(&memberships(), 20_000, bodies::membership);
}

#[test]
fn records_and_messages() {
    let tagged = |tag: u8, payload: &[u8]| [&[tag], payload].concat();
    let mut records: Vec<Vec<u8>> = memberships().iter().map(|payload| tagged(2, payload)).collect();
    records.extend([tagged(0, b""), tagged(1, b"a proposal"), tagged(9, b"")]);
    run(&records, 10_000, bodies::record);
    run(&[append_request()], 20_000, bodies::append_message);
}

#[test]
fn snapshots() {
    let metas: Vec<Vec<u8>> = memberships()
        .iter()
        .flat_map(|membership| [[vec![1], vec![0; 34], membership.clone()].concat()])
        .collect();
    run(&metas, 10_000, bodies::snapshot_meta);
    run(&[snapshot()], 8_000, bodies::snapshot);
}

#[test]
fn proposals_are_read_or_refused_whole() {
    run(&proposals(), 3_000, bodies::proposal);
}

#[test]
fn topologies() {
    let text = include_bytes!("../../topology.toml").to_vec();
    run(&[text], 1_000, bodies::topology);
}

/// Lengths and counts that promise far more than there is.
#[test]
fn a_length_that_lies_is_refused_before_anything_is_set_aside_for_it() {
    assert!(decode_pairs(&[0xff; 4]).is_err());
    assert!(decode_pairs(&[3, 0, 0, 0, 1, 2, 3, 0xff, 0xff, 0xff, 0x7f]).is_err());
    assert!(decode_membership(&[1, 255, 0xff, 0xff]).is_err());
    assert!(decode_membership(&[1, 0, 0xff, 0xff]).is_err());
    for valid in [proposals(), vec![snapshot()], vec![append_request()]].concat() {
        for at in 0..valid.len().saturating_sub(4) {
            for count in [0x7fff_ffff_u32, u32::MAX] {
                let mut bytes = valid.clone();
                bytes[at..at + 4].copy_from_slice(&count.to_le_bytes());
                bodies::proposal(&bytes);
                bodies::snapshot(&bytes);
                bodies::append_message(&bytes);
            }
        }
    }
}

/// Ids out of order, or twice: two encodings of one membership would have two checksums.
#[test]
fn a_membership_has_one_encoding() {
    let mut twice = memberships().swap_remove(1);
    assert!(decode_membership(&twice).is_ok());
    twice[4] = 2;
    assert!(decode_membership(&twice).is_err(), "voter 2 twice");
    twice[4] = 3;
    assert!(decode_membership(&twice).is_err(), "voters 3, 2, 3");
}

proptest! {
    #[test]
    fn a_vote_round_trips(term: u64, node: u64, committed: bool) {
        let vote = if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) };
        prop_assert_eq!(decode_vote(&encode_vote(&vote)).expect("it was encoded"), vote);
    }

    #[test]
    fn a_membership_round_trips(
        voters in proptest::collection::btree_set(any::<u64>(), 1..9),
        old in proptest::collection::btree_set(any::<u64>(), 1..9),
        learners in proptest::collection::btree_set(any::<u64>(), 0..5),
    ) {
        let nodes: std::collections::BTreeSet<u64> = voters.iter().chain(&old).chain(&learners).copied().collect();
        let mut bytes = vec![1, 2];
        for ids in [&old, &voters, &nodes] {
            bytes.extend_from_slice(&u16::try_from(ids.len()).expect("few").to_le_bytes());
            ids.iter().for_each(|id| bytes.extend_from_slice(&id.to_le_bytes()));
        }
        let membership = decode_membership(&bytes).expect("a valid membership");
        prop_assert_eq!(membership.voter_ids().collect::<std::collections::BTreeSet<_>>(), &voters | &old);
        prop_assert_eq!(encode_membership(&membership).expect("few"), bytes);
    }

    #[test]
    fn pairs_round_trip(pairs in proptest::collection::vec(
        (proptest::collection::vec(any::<u8>(), 0..40), proptest::collection::vec(any::<u8>(), 0..40)), 0..20)) {
        let bytes = encode_pairs(&pairs).expect("short");
        prop_assert_eq!(decode_pairs(&bytes).expect("it was encoded"), pairs);
    }

    #[test]
    fn entries_survive_the_wire(term in 0..u64::MAX, index: u64, payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let sent = PeerLogEntry { term, index, tag: 1, payload: payload.into() };
        let entry = tercet_node::raft::codec::entry_from_wire(sent.clone()).expect("a proposal");
        prop_assert_eq!(entry.log_id, log_id(term, index));
        prop_assert_eq!(tercet_node::raft::codec::entry_to_wire(entry).expect("small"), sent);
    }

    #[test]
    fn arbitrary_bytes_panic_nowhere(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for body in [
            bodies::vote, bodies::membership, bodies::record, bodies::append_message, bodies::snapshot_meta,
            bodies::snapshot, bodies::proposal, bodies::topology,
        ] {
            body(&bytes);
        }
    }
}
