//! Entries there and back, and one bad text a row.

use super::*;
use crate::v1::{Entry, Posting, References, entry::Kind, posting::Side};

const GOOD: &str = r#"{"key":"29401","kind":"PAYMENT","businessDate":"1998-12-31","postings":[{"account":"SENDER","side":"DEBIT","amount":"245200","currency":"CZK"},{"account":"北京","side":"CREDIT","amount":"245200","currency":"CZK"}],"references":{"endToEndId":"E-1"},"payload":"AP9h"}"#;

fn good() -> Entry {
    let posting = |account: &str, side: Side| Posting {
        account: account.to_owned(),
        side: side.into(),
        amount: 245_200,
        currency: "CZK".to_owned(),
    };
    Entry {
        key: "29401".to_owned(),
        kind: Kind::Payment.into(),
        business_date: "1998-12-31".to_owned(),
        postings: vec![posting("SENDER", Side::Debit), posting("北京", Side::Credit)],
        references: Some(References { end_to_end_id: "E-1".to_owned(), ..References::default() }),
        payload: bytes::Bytes::from_static(b"\x00\xffa"),
    }
}

#[test]
fn entries_are_written_compactly_and_read_back() {
    assert_eq!(to_json(&good(), ENTRY).unwrap(), GOOD);
    assert_eq!(entry_from_json(GOOD).unwrap(), good());
    assert_eq!(to_json(&Entry::default(), ENTRY).unwrap(), "{}");
}

#[test]
fn people_may_write_it_more_loosely() {
    let text = GOOD
        .replace("PAYMENT", "payment")
        .replace("\"DEBIT\"", "\"debit\"")
        .replace("\"CREDIT\"", "2")
        .replace("businessDate", "business_date")
        .replace("\"245200\"", "245200");
    assert_eq!(entry_from_json(&text).unwrap(), good());
    assert_eq!(entry_from_json(&GOOD.replace("\"245200\"", "2.452e5")).unwrap(), good());
    let with_nulls = GOOD.replace("\"references\":{\"endToEndId\":\"E-1\"}", "\"references\":null");
    assert_eq!(entry_from_json(&with_nulls).unwrap().references, None);
}

#[test]
fn bad_texts_are_refused_with_the_field() {
    // What is replaced, by what, the field, and a part of the message.
    let rows = [
        ("\"245200\"", "\"12a\"", "postings[0].amount", "invalid digit"),
        ("\"245200\"", "\"\"", "postings[0].amount", "empty"),
        ("\"245200\"", "24.5", "postings[0].amount", "24.5 is not a whole number"),
        ("\"245200\"", "1e17", "postings[0].amount", "exact"),
        ("\"245200\"", "9223372036854775808", "postings[0].amount", "out of range"),
        ("\"245200\"", "\"9223372036854775808\"", "postings[0].amount", "too large"),
        ("\"245200\"", "true", "postings[0].amount", "boolean"),
        ("\"CREDIT\"", "\"left\"", "postings[1].side", "\"left\" is none of side_unspecified, debit, credit"),
        ("\"CREDIT\"", "[]", "postings[1].side", "a list is not a name"),
        ("\"PAYMENT\"", "\"pay\"", "kind", "payment"),
        ("\"29401\"", "29401", "key", "string"),
        ("\"AP9h\"", "\"***\"", "payload", "base64"),
        ("{\"endToEndId\":\"E-1\"}", "[]", "references", "a list is not an object"),
        ("\"endToEndId\"", "\"endToEnd\"", "references", "no field \"endToEnd\" in References"),
        ("\"account\":\"SENDER\"", "\"acount\":\"SENDER\"", "postings[0]", "\"acount\" in Posting"),
        ("\"key\"", "\"Key\"", "", "\"Key\" in Entry"),
        ("\"kind\":", "\"business_date\":\"x\",\"kind\":", "business_date", "both of its names"),
    ];
    for (from, to, field, part) in rows {
        let text = GOOD.replacen(from, to, 1);
        match entry_from_json(&text) {
            Err(JsonError::Field { field: found, message }) => {
                assert_eq!(found, field, "{from} -> {to}: {message}");
                assert!(message.contains(part), "{from} -> {to}: {message}");
            }
            other => panic!("{from} -> {to}: {other:?}"),
        }
    }
}

#[test]
fn broken_texts_are_refused() {
    let deep = "[".repeat(100_000);
    let cut = &GOOD[..40];
    for text in ["", "{", cut, "{} {}", "nul", deep.as_str()] {
        assert!(matches!(entry_from_json(text), Err(JsonError::Syntax { .. })), "{:.20}", text);
    }
    let twice = GOOD.replacen("\"side\"", "\"amount\":\"1\",\"side\"", 1);
    let error = entry_from_json(&twice).unwrap_err().to_string();
    assert!(error.contains("\"amount\" stands there twice"), "{error}");
    assert_eq!(entry_from_json("[]").unwrap_err().to_string(), "a list is not an object");
}

#[test]
fn other_messages() {
    let status = v1::NodeStatus {
        node: "a1".to_owned(),
        groups: vec![v1::GroupStatus { role: "leader".to_owned(), term: 7, ..Default::default() }],
        ..Default::default()
    };
    let text = to_json(&status, "tercet.v1.NodeStatus").unwrap();
    assert_eq!(text, r#"{"node":"a1","groups":[{"role":"leader","term":"7"}]}"#);
    assert_eq!(from_json::<v1::NodeStatus>(&text, "tercet.v1.NodeStatus").unwrap(), status);
    let refusal = crate::refusal::Refusal::new(crate::reason::Reason::NoLeader, "f", "m").into_message();
    let text = to_json(&refusal, "tercet.v1.Refusal").unwrap();
    assert_eq!(from_json::<v1::Refusal>(&text, "tercet.v1.Refusal").unwrap(), refusal);
    assert!(matches!(to_json(&status, "tercet.v1.Nothing"), Err(JsonError::Type { .. })));
}
