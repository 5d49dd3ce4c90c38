//! Golden bytes, every refusal, and properties of the canonical encoding.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::limits::*;
use crate::reason::Reason;
use crate::v1::entry::Kind;
use crate::v1::posting::Side;
use crate::v1::{self, Currency, DurabilityClass, Entry, HashAlgorithm, Posting, References};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn posting(account: &str, side: Side, amount: i64, currency: &str) -> Posting {
    Posting { account: account.into(), side: side.into(), amount, currency: currency.into() }
}

/// The worked example of WIRE.md.
fn example() -> Entry {
    Entry {
        key: "ord-29401".into(),
        kind: Kind::Payment.into(),
        business_date: "2026-03-02".into(),
        postings: vec![
            posting("SENDER", Side::Debit, 245_200, "CZK"),
            posting("清算行", Side::Credit, 245_200, "CZK"),
        ],
        references: Some(References {
            end_to_end_id: "E2E-7".into(),
            uetr: "eb6305c9-1f7f-49de-aed0-16487c27b42d".into(),
            ..References::default()
        }),
        payload: Bytes::from_static(b"rent"),
    }
}

fn example_creation() -> CreationRecord {
    CreationRecord {
        settings: JournalSettings {
            name: "clearing".into(),
            currencies: vec![
                CurrencySpec { code: *b"CZK", digits: 2 },
                CurrencySpec { code: *b"JPY", digits: 0 },
            ],
            class: DurabilityClass::City,
            business_date: BusinessDate::parse("2026-03-02").unwrap(),
        },
        algorithm: HashAlgorithm::Sha256,
        group: 0,
        created_at_us: 1_772_434_800_000_000,
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    encode_entry(entry, &mut out).unwrap();
    out
}

const CLIENT_HEX: &str = "01750000000109006f72642d3239343031ce2535010201435a4bd0bd0300000000000653454e44455202435a4bd0bd03000000000009e6b885e7ae97e8a18c0203054532452d37062465623633303563392d316637662d343964652d616564302d3136343837633237623432640400000072656e74";
const STORE_HEX: &str = "01000000000000004e9d6023054c0600";
const CONTENT_HASH: &str = "b1baeb49ab1161489e0448beca393366f00f18e3b2ae4c8d2f7e981e30c10912";
const ENTRY_HASH: &str = "177ca089d744490780616c7ad4931a99ad5093d84601621ea498f2d8790606dc";
const CREATION_HEX: &str =
    "54434a012c0000000100000000003ca422054c060001ce25350108636c656172696e6702435a4b024a505900";
const CHAIN_0: &str = "69faaae8ee39f8e0ced7b078c3527814041a499963a6bfa8884884e89bd7910c";
const CHAIN_1: &str = "3f98aaf6b4b2ffea7e25f61aaf1586f2f8e56f20cded6e146a9ecdeb7194562b";

#[test]
fn golden_bytes_and_hashes_of_version_1() {
    let client = encode(&example());
    let store = store_part(1, 1_772_434_812_345_678);
    let creation = example_creation();
    let hasher = EntryHasher::new(&client);
    assert_eq!(hex(&client), CLIENT_HEX);
    assert_eq!(hex(&store), STORE_HEX);
    assert_eq!(hex(&hasher.content_hash()), CONTENT_HASH);
    let entry_hash_1 = hasher.entry_hash(&store);
    assert_eq!(hex(&entry_hash_1), ENTRY_HASH);
    assert_eq!(hex(&creation.to_bytes()), CREATION_HEX);
    assert_eq!(hex(&creation.chain_hash()), CHAIN_0);
    assert_eq!(hex(&chain(&creation.chain_hash(), &entry_hash_1)), CHAIN_1);
    assert_eq!(hex(&content_hash(&client)), CONTENT_HASH);
    assert_eq!(hex(&entry_hash(&client, &store)), ENTRY_HASH);
}

#[test]
fn wire_md_holds_the_golden_example() {
    let page: String = include_str!("../../WIRE.md").split_whitespace().collect();
    for golden in [CLIENT_HEX, STORE_HEX, CONTENT_HASH, ENTRY_HASH, CREATION_HEX, CHAIN_0, CHAIN_1] {
        assert!(page.contains(golden), "WIRE.md lacks {golden}");
    }
}

#[test]
fn the_example_reads_back() {
    let bytes = [encode(&example()), b"behind".to_vec()].concat();
    let (view, rest) = EntryView::parse(&bytes).unwrap();
    assert_eq!(rest, b"behind");
    assert_eq!(view.to_proto(), example());
    assert_eq!((view.key(), view.kind(), view.payload()), ("ord-29401", Kind::Payment, b"rent".as_slice()));
    assert_eq!(view.business_date().number(), 20_260_302);
    assert_eq!(view.postings().len(), 2);
    assert!(view.references().last().unwrap().is_uetr());
    assert_eq!(view.hasher().content_hash(), sha256(view.client_part()));
}

#[test]
fn an_empty_references_message_is_the_same_content_as_none() {
    let without = Entry { references: None, ..example() };
    let empty = Entry { references: Some(References::default()), ..example() };
    assert_eq!(encode(&without), encode(&empty));
}

/// What is wrong, how to make it so, the reason, the field.
type Case = (&'static str, Box<dyn Fn(&mut Entry)>, Reason, &'static str);

fn case(
    what: &'static str,
    break_it: impl Fn(&mut Entry) + 'static,
    reason: Reason,
    field: &'static str,
) -> Case {
    (what, Box::new(break_it), reason, field)
}

fn refusal_cases() -> Vec<Case> {
    use Reason::*;
    let key = |key: &'static str| move |e: &mut Entry| e.key = key.into();
    let date = |date: &'static str| move |e: &mut Entry| e.business_date = date.into();
    let uetr = |uetr: &'static str| {
        move |e: &mut Entry| e.references = Some(References { uetr: uetr.into(), ..References::default() })
    };
    let currency = |code: &'static str| move |e: &mut Entry| e.postings[1].currency = code.into();
    let amount = |amount: i64| move |e: &mut Entry| e.postings[1].amount = amount;
    vec![
        case("no key", key(""), KeyInvalid, "key"),
        case("long key", |e| e.key = "k".repeat(65), KeyInvalid, "key"),
        case("65 bytes in 22 characters", |e| e.key = format!("{}ab", "清".repeat(21)), KeyInvalid, "key"),
        case("control character", key("a\nb"), KeyInvalid, "key"),
        case("NUL", key("a\0"), KeyInvalid, "key"),
        case("DEL", key("a\u{7f}"), KeyInvalid, "key"),
        case("C1 control character", key("a\u{85}"), KeyInvalid, "key"),
        case("no kind", |e| e.kind = 0, KindInvalid, "kind"),
        case("unknown kind", |e| e.kind = 99, KindInvalid, "kind"),
        case("negative kind", |e| e.kind = -1, KindInvalid, "kind"),
        case("reversal", |e| e.kind = Kind::Reversal.into(), KindUnimplemented, "kind"),
        case("cutoff", |e| e.kind = Kind::Cutoff.into(), KindUnimplemented, "kind"),
        case("no date", date(""), BusinessDateInvalid, "business_date"),
        case("30 February", date("2026-02-30"), BusinessDateInvalid, "business_date"),
        case("29 February", date("2025-02-29"), BusinessDateInvalid, "business_date"),
        case("1900 was no leap year", date("1900-02-29"), BusinessDateInvalid, "business_date"),
        case("month 13", date("2026-13-01"), BusinessDateInvalid, "business_date"),
        case("day 0", date("2026-01-00"), BusinessDateInvalid, "business_date"),
        case("year 0", date("0000-01-01"), BusinessDateInvalid, "business_date"),
        case("slashes", date("2026/01/01"), BusinessDateInvalid, "business_date"),
        case("short", date("2026-1-01"), BusinessDateInvalid, "business_date"),
        case("plus sign", date("+026-01-01"), BusinessDateInvalid, "business_date"),
        case("no postings", |e| e.postings.clear(), PostingsInvalid, "postings"),
        case("one posting", |e| e.postings.truncate(1), PostingsInvalid, "postings"),
        case(
            "129 postings",
            |e| e.postings = vec![posting("a", Side::Debit, 1, "CZK"); 129],
            PostingsInvalid,
            "postings",
        ),
        case("note with postings", |e| e.kind = Kind::Note.into(), PostingsInvalid, "postings"),
        case("no account", |e| e.postings[1].account.clear(), AccountInvalid, "postings[1].account"),
        case("tab", |e| e.postings[0].account = "a\tb".into(), AccountInvalid, "postings[0].account"),
        // Names that look the same and are two accounts.
        case(
            "override",
            |e| e.postings[0].account = "AB\u{202e}21".into(),
            AccountInvalid,
            "postings[0].account",
        ),
        case(
            "zero width",
            |e| e.postings[1].account = "AB\u{200b}".into(),
            AccountInvalid,
            "postings[1].account",
        ),
        case(
            "byte order mark",
            |e| e.postings[1].account = "\u{feff}".into(),
            AccountInvalid,
            "postings[1].account",
        ),
        case(
            "long account",
            |e| e.postings[0].account = "清".repeat(22),
            AccountInvalid,
            "postings[0].account",
        ),
        case("no side", |e| e.postings[0].side = 0, SideInvalid, "postings[0].side"),
        case("unknown side", |e| e.postings[1].side = 3, SideInvalid, "postings[1].side"),
        case("zero", amount(0), AmountInvalid, "postings[1].amount"),
        case("negative", amount(-1), AmountInvalid, "postings[1].amount"),
        case("most negative", amount(i64::MIN), AmountInvalid, "postings[1].amount"),
        case("small letters", currency("czk"), CurrencyInvalid, "postings[1].currency"),
        case("two letters", currency("CZ"), CurrencyInvalid, "postings[1].currency"),
        case("no currency", currency(""), CurrencyInvalid, "postings[1].currency"),
        case("not ASCII", currency("€"), CurrencyInvalid, "postings[1].currency"),
        case("unbalanced", amount(245_201), Unbalanced, "postings"),
        case("crossed currencies", currency("EUR"), Unbalanced, "postings"),
        case("both debit", |e| e.postings[1].side = Side::Debit.into(), Unbalanced, "postings"),
        case(
            "36 characters",
            |e| e.references = Some(References { message_id: "m".repeat(36), ..References::default() }),
            ReferenceInvalid,
            "references.message_id",
        ),
        case(
            "control character in a reference",
            |e| e.references = Some(References { transaction_id: "a\rb".into(), ..References::default() }),
            ReferenceInvalid,
            "references.transaction_id",
        ),
        case(
            "capital letters",
            uetr("EB6305C9-1F7F-49DE-AED0-16487C27B42D"),
            ReferenceInvalid,
            "references.uetr",
        ),
        case("UUIDv1", uetr("eb6305c9-1f7f-19de-aed0-16487c27b42d"), ReferenceInvalid, "references.uetr"),
        case("variant", uetr("eb6305c9-1f7f-49de-7ed0-16487c27b42d"), ReferenceInvalid, "references.uetr"),
        case("no hyphens", uetr("eb6305c91f7f49deaed016487c27b42d"), ReferenceInvalid, "references.uetr"),
        case("payload", |e| e.payload = vec![0; MAX_PAYLOAD_BYTES + 1].into(), PayloadTooLarge, "payload"),
    ]
}

#[test]
fn every_refusal_names_its_field_and_leaves_the_output() {
    for (what, break_it, reason, field) in refusal_cases() {
        let mut entry = example();
        break_it(&mut entry);
        let mut out = b"before".to_vec();
        let refusal = encode_entry(&entry, &mut out).expect_err(what);
        assert_eq!((refusal.reason, refusal.field.as_str()), (reason, field), "{what}: {refusal}");
        assert_eq!(out, b"before", "{what}");
    }
}

#[test]
fn unbalanced_names_the_currency_and_both_sums() {
    let mut entry = example();
    entry.postings.extend([
        posting("a", Side::Debit, i64::MAX, "EUR"),
        posting("a", Side::Debit, i64::MAX, "EUR"),
        posting("b", Side::Credit, 7, "EUR"),
    ]);
    let refusal = encode_entry(&entry, &mut Vec::new()).unwrap_err();
    assert_eq!(refusal.metadata["currency"], "EUR");
    assert_eq!(refusal.metadata["debits"], (2 * u128::from(i64::MAX.unsigned_abs())).to_string());
    assert_eq!(refusal.metadata["credits"], "7");
    assert!(refusal.message.contains("18446744073709551614") && refusal.message.contains(" 7 "), "{refusal}");
}

#[test]
fn the_limits_themselves_are_accepted() {
    let mut entry = example();
    entry.key = "清".repeat(21) + "a";
    entry.payload = vec![7; MAX_PAYLOAD_BYTES].into();
    entry.postings = (0..128)
        .map(|at| {
            let side = if at % 2 == 0 { Side::Debit } else { Side::Credit };
            posting(&"x".repeat(64), side, i64::MAX, "CZK")
        })
        .collect();
    entry.references = Some(References { message_id: "清".repeat(35), ..References::default() });
    let bytes = encode(&entry);
    assert_eq!(EntryView::parse(&bytes).unwrap().0.to_proto(), entry);
    let note = Entry { kind: Kind::Note.into(), postings: Vec::new(), ..example() };
    assert_eq!(EntryView::parse(&encode(&note)).unwrap().0.to_proto(), note);
    for date in ["2024-02-29", "2000-02-29", "0001-01-01", "9999-12-31"] {
        let entry = Entry { business_date: date.into(), ..example() };
        assert_eq!(EntryView::parse(&encode(&entry)).unwrap().0.business_date().to_string(), date);
    }
}

#[test]
fn every_truncation_is_an_error() {
    let bytes = encode(&example());
    for cut in 0..bytes.len() {
        assert!(EntryView::parse(&bytes[..cut]).is_err(), "cut at {cut}");
        let mut shorter = bytes[..cut].to_vec();
        if let Some(length) = shorter.get_mut(1..5) {
            length.copy_from_slice(&u32::try_from(cut).unwrap().to_le_bytes());
            assert!(EntryView::parse(&shorter).is_err(), "cut at {cut}, length adjusted");
        }
    }
}

#[test]
fn another_version_is_named() {
    let mut bytes = encode(&example());
    bytes[0] = 2;
    let error = EntryView::parse(&bytes).unwrap_err();
    assert_eq!(error, CanonicalError::Version { what: "entry", found: 2 });
}

fn create_request() -> v1::CreateJournalRequest {
    v1::CreateJournalRequest {
        name: "clearing".into(),
        currencies: vec![
            Currency { code: "JPY".into(), digits: 0 },
            Currency { code: "CZK".into(), digits: 2 },
        ],
        default_class: DurabilityClass::Unspecified.into(),
        business_date: "2026-03-02".into(),
    }
}

#[test]
fn settings_are_canonical_and_read_back() {
    let settings = JournalSettings::from_request(&create_request()).unwrap();
    let creation = example_creation();
    assert_eq!(settings, creation.settings);
    assert!(settings.has_currency(*b"JPY") && !settings.has_currency(*b"EUR"));
    let bytes = creation.to_bytes();
    assert_eq!(CreationRecord::parse(&bytes).unwrap(), creation);
    for cut in 0..bytes.len() {
        assert!(CreationRecord::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    assert!(CreationRecord::parse(&[bytes, vec![0]].concat()).is_err());
}

#[test]
fn settings_are_refused_with_their_field() {
    type Change = Box<dyn Fn(&mut v1::CreateJournalRequest)>;
    let cases: Vec<(Change, Reason, &str)> = vec![
        (Box::new(|r| r.name.clear()), Reason::JournalNameInvalid, "name"),
        (Box::new(|r| r.name = "Capital".into()), Reason::JournalNameInvalid, "name"),
        (Box::new(|r| r.name = "n".repeat(65)), Reason::JournalNameInvalid, "name"),
        (Box::new(|r| r.name = "a/b".into()), Reason::JournalNameInvalid, "name"),
        (Box::new(|r| r.name = "_drills".into()), Reason::JournalReserved, "name"),
        (Box::new(|r| r.currencies.clear()), Reason::CurrenciesInvalid, "currencies"),
        (
            Box::new(|r| r.currencies = vec![r.currencies[0].clone(); 17]),
            Reason::CurrenciesInvalid,
            "currencies",
        ),
        (Box::new(|r| r.currencies[1].code = "JPY".into()), Reason::CurrenciesInvalid, "currencies[1].code"),
        (Box::new(|r| r.currencies[1].code = "jpy".into()), Reason::CurrencyInvalid, "currencies[1].code"),
        (Box::new(|r| r.currencies[0].digits = 5), Reason::CurrenciesInvalid, "currencies[0].digits"),
        (Box::new(|r| r.currencies[0].digits = 260), Reason::CurrenciesInvalid, "currencies[0].digits"),
        (Box::new(|r| r.default_class = 9), Reason::ClassInvalid, "default_class"),
        (Box::new(|r| r.business_date = "today".into()), Reason::BusinessDateInvalid, "business_date"),
    ];
    for (change, reason, field) in cases {
        let mut request = create_request();
        change(&mut request);
        let refusal = JournalSettings::from_request(&request).unwrap_err();
        assert_eq!((refusal.reason, refusal.field.as_str()), (reason, field), "{refusal}");
    }
}

fn text(max_bytes: usize) -> impl Strategy<Value = String> {
    "[a-zA-Z0-9 ._/清算行中é-]{1,40}".prop_map(move |text: String| {
        let mut text = text;
        while text.len() > max_bytes {
            text.pop();
        }
        text
    })
}

prop_compose! {
    fn some_references()(
        texts in prop::collection::vec(prop::option::of("[A-Z0-9清]{1,35}"), 5),
        uetr in prop::option::of("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    ) -> Option<References> {
        let text = |at: usize| texts[at].clone().unwrap_or_default();
        let references = References {
            message_id: text(0),
            instruction_id: text(1),
            end_to_end_id: text(2),
            transaction_id: text(3),
            clearing_system_reference: text(4),
            uetr: uetr.unwrap_or_default(),
        };
        (references != References::default()).then_some(references)
    }
}

prop_compose! {
    /// A valid entry: pairs of debit and credit.
    fn valid_entry()(
        key in text(MAX_KEY_BYTES),
        kind in 1..=3,
        date in (1_u32..=9999, 1_u32..=12, 1_u32..=28),
        pairs in prop::collection::vec((text(64), text(64), 1..=i64::MAX, "[A-Z]{3}"), 1..6),
        references in some_references(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) -> Entry {
        let postings = pairs
            .into_iter()
            .flat_map(|(from, to, amount, currency)| {
                [posting(&from, Side::Debit, amount, &currency), posting(&to, Side::Credit, amount, &currency)]
            })
            .collect();
        Entry {
            key,
            kind,
            business_date: format!("{:04}-{:02}-{:02}", date.0, date.1, date.2),
            postings: if kind == 3 { Vec::new() } else { postings },
            references,
            payload: payload.into(),
        }
    }
}

proptest! {
    #[test]
    fn encoding_reads_back_and_concatenates(entries in prop::collection::vec(valid_entry(), 1..4)) {
        let mut bytes = Vec::new();
        for entry in &entries {
            encode_entry(entry, &mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        for entry in &entries {
            let (view, behind) = EntryView::parse(rest).unwrap();
            prop_assert_eq!(&view.to_proto(), entry);
            rest = behind;
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn parsing_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = EntryView::parse(&bytes);
        let _ = CreationRecord::parse(&bytes);
        let framed = [&[1_u8][..], &u32::try_from(bytes.len() + 5).unwrap().to_le_bytes(), &bytes].concat();
        if let Ok((view, _)) = EntryView::parse(&framed) {
            let _ = view.to_proto();
        }
        let _ = CreationRecord::parse(&[&CREATION_MAGIC, &bytes[..]].concat());
    }

    /// Damaged bytes either do not parse, or are what encoding writes for what they say (balance aside).
    #[test]
    fn what_parses_is_what_encoding_writes(
        entry in valid_entry(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = encode(&entry);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok((view, _)) = EntryView::parse(&bytes) {
            let mut again = Vec::new();
            match encode_entry(&view.to_proto(), &mut again) {
                Ok(()) => prop_assert_eq!(again.as_slice(), view.client_part()),
                Err(refusal) => prop_assert_eq!(refusal.reason, Reason::Unbalanced),
            }
        }
    }
}
