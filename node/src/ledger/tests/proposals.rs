//! The proposal encoding, and validation of requests.

use bytes::Bytes;
use proptest::prelude::*;
use tercet_proto::canonical::CanonicalError;
use tercet_proto::reason::Reason;
use tercet_proto::v1::{AppendRequest, DurabilityClass};

use super::support::{payment, request, settings};
use crate::ledger::{
    Command, CommandView, PreparedCommand, ProposalBuilder, ProposalHeader, ProposalView, prepare,
};
use crate::placement::{Budget, Class};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const HEADER: ProposalHeader =
    ProposalHeader { leader: 3, leader_clock_us: -2, city_watermark: 5, geo_watermark: 4 };

fn budget() -> Budget {
    Budget { entries: 3, seconds: 60, amounts: [(*b"CZK", 500)].into() }
}

fn all_commands() -> Vec<Command> {
    vec![
        Command::CreateJournal(settings("j")),
        Command::MapJournal { name: "j".into() },
        Command::FormCluster { cluster_id: [7; 16], groups: 2 },
        Command::RegisterNode { node_id: 9, incarnation: 8, start: 7, nonce: 6 },
        Command::SetRegime { reason: "c1".into(), degraded: Some(budget()) },
        Command::SetRegime { reason: "up".into(), degraded: None },
        Command::DegradedFor { since_index: 40, elapsed_ms: 15_000 },
    ]
}

fn proposal() -> Bytes {
    let mut builder = ProposalBuilder::new(HEADER);
    for command in all_commands() {
        builder.push(&command).unwrap();
    }
    let append = prepare(&request("j", vec![payment("k1", "AB", 5), payment("k2", "CD", 6)])).unwrap();
    builder.push_prepared(&append);
    assert_eq!(builder.command_count(), 8);
    let (len, proposal) = (builder.len_bytes(), builder.finish());
    assert_eq!(proposal.len(), len);
    proposal
}

#[test]
#[rustfmt::skip]
fn golden_bytes_of_version_1() {
    let expected = [
        // version, leader, clock, watermarks
        "01", "0300000000000000", "feffffffffffffff", "0500000000000000", "0400000000000000",
        "08000000",
        // create journal: class, date, name, currencies
        "0210000000", "01ce253501016a02435a4b0245555202",
        // map journal
        "0302000000", "016a",
        // form cluster
        "0414000000", "0707070707070707070707070707070702000000",
        // register node
        "0520000000", "09000000000000000800000000000000", "07000000000000000600000000000000",
        // set regime: degraded, reason, entries, seconds, one currency and its amount; normal, reason
        "062a000000", "01", "02006331", "0300000000000000", "3c00000000000000",
        "0100", "435a4b", "f4010000000000000000000000000000",
        "0605000000", "00", "02007570",
        // degraded for: the record's index, milliseconds
        "1510000000", "2800000000000000", "983a000000000000",
        // append: journal, class, 2 entries
        "0173000000", "016a00", "02000000",
        "0136000000", "0102006b31ce25350102",
        "01435a4b050000000000000006", "53454e444552",
        "02435a4b050000000000000002", "4142",
        "00", "00000000",
        "0136000000", "0102006b32ce25350102",
        "01435a4b060000000000000006", "53454e444552",
        "02435a4b060000000000000002", "4344",
        "00", "00000000",
    ]
    .concat();
    assert_eq!(hex(&proposal()), expected);
}

#[test]
fn a_proposal_reads_back() {
    let bytes = proposal();
    let view = ProposalView::parse(&bytes).unwrap();
    assert_eq!((view.header(), view.command_count()), (HEADER, 8));
    let commands: Vec<_> = view.commands().map(Result::unwrap).collect();
    for (read, written) in commands.iter().zip(all_commands()) {
        assert_eq!(read, &CommandView::Other(written));
    }
    let Some(CommandView::Append(append)) = commands.last() else { panic!("{commands:?}") };
    assert_eq!((append.journal(), append.entry_count()), ("j", 2));
    assert_eq!(append.class(), DurabilityClass::Unspecified);
    let keys: Vec<_> = append.entries().map(|entry| entry.unwrap().key()).collect();
    assert_eq!(keys, ["k1", "k2"]);
}

#[test]
fn every_truncation_and_every_other_version_is_an_error() {
    let bytes = proposal();
    for cut in 0..bytes.len() {
        assert!(ProposalView::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(ProposalView::parse(&[&bytes[..], &[0]].concat()).is_err());
    let mut other = bytes.to_vec();
    other[0] = 2;
    let error = ProposalView::parse(&other).unwrap_err();
    assert_eq!(error, CanonicalError::Version { what: "proposal", found: 2 });
}

#[test]
fn requests_are_refused_with_their_field() {
    let ok = || request("j", vec![payment("k", "AB", 5)]);
    let cases: Vec<(AppendRequest, Reason, &str)> = vec![
        (request("", vec![payment("k", "AB", 5)]), Reason::JournalNameInvalid, "journal"),
        (request("J", vec![payment("k", "AB", 5)]), Reason::JournalNameInvalid, "journal"),
        (request("_drills", vec![payment("k", "AB", 5)]), Reason::JournalReserved, "journal"),
        (request("j", vec![]), Reason::RequestEmpty, "entries"),
        (request("j", vec![payment("k", "AB", 5); 8_193]), Reason::RequestTooLarge, "entries"),
        (
            request("j", (0..70).map(|at| large(&format!("k{at}"))).collect()),
            Reason::RequestTooLarge,
            "entries",
        ),
        (AppendRequest { durability_class: 7, ..ok() }, Reason::ClassInvalid, "durability_class"),
        (
            request("j", vec![payment("k", "AB", 5), payment("l", "AB", 0)]),
            Reason::AmountInvalid,
            "entries[1].postings[0].amount",
        ),
        (request("j", vec![payment("", "AB", 5)]), Reason::KeyInvalid, "entries[0].key"),
    ];
    for (request, reason, field) in cases {
        let refusal = prepare(&request).unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_str()), (reason, field), "{refusal}");
    }
    assert_eq!(prepare(&request("j", vec![payment("k", "AB", 5); 8_192])).unwrap().entry_count(), 8_192);
    assert_eq!(prepare(&AppendRequest { durability_class: 1, ..ok() }).unwrap().journal(), Some("j"));
    for (asked, default, class) in
        [(0, Class::Geo, Class::Geo), (1, Class::Geo, Class::Geo), (2, Class::City, Class::Geo)]
    {
        let prepared = prepare(&AppendRequest { durability_class: asked, ..ok() }).unwrap();
        assert_eq!(prepared.class(default), class, "never weaker than the journal's");
    }
    let system = request("_drills", vec![payment("k", "AB", 5)]);
    assert_eq!(PreparedCommand::system_append(&system).unwrap().entry_count(), 1);
}

fn large(key: &str) -> tercet_proto::v1::Entry {
    tercet_proto::v1::Entry { payload: vec![1; 64 * 1024].into(), ..payment(key, "AB", 5) }
}

#[test]
fn commands_are_refused_with_their_field() {
    let cases = [
        (Command::MapJournal { name: "no such name".into() }, Reason::JournalNameInvalid, "name"),
        (Command::CreateJournal(settings("")), Reason::JournalNameInvalid, "name"),
        (Command::FormCluster { cluster_id: [0; 16], groups: 0 }, Reason::RequestMalformed, "groups"),
    ];
    for (command, reason, field) in cases {
        let refusal = PreparedCommand::new(&command).unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_str()), (reason, field));
    }
}

proptest! {
    #[test]
    fn reading_any_bytes_never_panics(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut damaged = proposal().to_vec();
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        for bytes in [bytes, damaged] {
            let Ok(view) = ProposalView::parse(&bytes) else { continue };
            for command in view.commands() {
                if let Ok(CommandView::Append(append)) = command {
                    append.entries().for_each(drop);
                }
            }
        }
    }
}
