//! Says which field of a line is wrong, for people who write histories by hand or from another tool.
//!
//! The derived decoder says what it could not read, but not where in the object. This names the first field that is missing
//! or of another type; it is asked only about lines that were refused.

use serde_json::Value;

#[derive(Clone, Copy)]
enum Kind {
    Number,
    Text,
    Flag,
    Hash,
    Hex,
    List(&'static [Field]),
}

type Field = (&'static str, Kind);

const SENT: &[Field] = &[("key", Kind::Text), ("content", Kind::Hash)];
const RECEIPT: &[Field] = &[
    ("key", Kind::Text),
    ("seq", Kind::Number),
    ("entry_hash", Kind::Hash),
    ("chain_hash", Kind::Hash),
    ("recorded_at_us", Kind::Number),
];
const ENTRY: &[Field] = &[("seq", Kind::Number), ("entry_hash", Kind::Hash)];

const LINES: &[(&str, &[Field])] = &[
    ("header", &[("format", Kind::Number), ("journal", Kind::Text)]),
    (
        "invoke",
        &[
            ("t", Kind::Number),
            ("client", Kind::Number),
            ("op", Kind::Number),
            ("via", Kind::Text),
            ("call", Kind::Text),
        ],
    ),
    ("return", &[("t", Kind::Number), ("op", Kind::Number), ("outcome", Kind::Text)]),
    ("fault_begin", &[("t", Kind::Number), ("fault", Kind::Number), ("what", Kind::Text)]),
    ("fault_end", &[("t", Kind::Number), ("fault", Kind::Number)]),
    (
        "observe",
        &[
            ("t", Kind::Number),
            ("node", Kind::Text),
            ("incarnation", Kind::Number),
            ("group", Kind::Number),
            ("term", Kind::Number),
            ("role", Kind::Text),
            ("leader", Kind::Text),
        ],
    ),
    (
        "vote",
        &[
            ("node", Kind::Text),
            ("incarnation", Kind::Number),
            ("group", Kind::Number),
            ("term", Kind::Number),
            ("for_node", Kind::Number),
            ("committed", Kind::Flag),
        ],
    ),
];
const CALLS: &[(&str, &[Field])] = &[
    ("append", &[("entries", Kind::List(SENT))]),
    ("read_head", &[]),
    ("read_from", &[("from", Kind::Number)]),
];
const OUTCOMES: &[(&str, &[Field])] = &[
    ("appended", &[("receipts", Kind::List(RECEIPT))]),
    ("head", &[("seq", Kind::Number), ("chain_hash", Kind::Hash)]),
    ("entries", &[("head", Kind::Number), ("entries", Kind::List(ENTRY))]),
    ("refused", &[("reason", Kind::Text)]),
    ("unknown", &[]),
];
const FINAL_HEADER: &[Field] = &[
    ("format", Kind::Number),
    ("journal", Kind::Text),
    ("creation_record", Kind::Hex),
    ("replicas", Kind::List(&[])),
];
const FINAL_ENTRY: &[Field] = &[
    ("seq", Kind::Number),
    ("recorded_at_us", Kind::Number),
    ("client_part", Kind::Hex),
    ("entry_hash", Kind::Hash),
    ("chain_hash", Kind::Hash),
];

/// What is wrong with a line of a history that could not be read.
pub(super) fn history_line(text: &str, error: &serde_json::Error) -> String {
    explain(text, error, |line| {
        first_wrong(line, "", &[("type", Kind::Text)])
            .or_else(|| variant(line, "type", LINES))
            .or_else(|| line.get("call").and_then(|_| variant(line, "call", CALLS)))
            .or_else(|| line.get("outcome").and_then(|_| variant(line, "outcome", OUTCOMES)))
    })
}

/// What is wrong with a line of a final log that could not be read.
pub(super) fn final_line(text: &str, is_header: bool, error: &serde_json::Error) -> String {
    explain(text, error, |line| first_wrong(line, "", if is_header { FINAL_HEADER } else { FINAL_ENTRY }))
}

fn explain(text: &str, error: &serde_json::Error, find: impl Fn(&Value) -> Option<String>) -> String {
    if text.trim().is_empty() {
        return "the line is empty".into();
    }
    match serde_json::from_str::<Value>(text) {
        Err(error) => format!("no JSON: {error}"),
        Ok(Value::Object(object)) => find(&Value::Object(object)).unwrap_or_else(|| error.to_string()),
        Ok(other) => format!("an object is needed, found {}", shown(&other)),
    }
}

/// The fields that go with the word in `tag`.
fn variant(line: &Value, tag: &str, known: &[(&str, &[Field])]) -> Option<String> {
    let word = line[tag].as_str().unwrap_or_default();
    match known.iter().find(|(name, _)| *name == word) {
        Some((_, fields)) => first_wrong(line, "", fields),
        None => {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            Some(format!("field `{tag}`: {word:?} is not one of {}", names.join(", ")))
        }
    }
}

fn first_wrong(object: &Value, path: &str, fields: &[Field]) -> Option<String> {
    fields.iter().find_map(|(name, kind)| {
        let path = format!("{path}{name}");
        match object.get(name) {
            None => Some(format!("field `{path}` is missing")),
            Some(value) => wrong(value, &path, *kind),
        }
    })
}

fn wrong(value: &Value, path: &str, kind: Kind) -> Option<String> {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let needed = match (kind, value) {
        (Kind::Number, value) if value.is_u64() || value.is_i64() => return None,
        (Kind::Text, Value::String(_)) | (Kind::Flag, Value::Bool(_)) => return None,
        (Kind::Hash, Value::String(text)) if text.len() == 64 && is_hex(text) => return None,
        (Kind::Hex, Value::String(text)) if text.len().is_multiple_of(2) && is_hex(text) => return None,
        (Kind::List(fields), Value::Array(items)) => {
            return items
                .iter()
                .enumerate()
                .find_map(|(at, item)| first_wrong(item, &format!("{path}[{at}]."), fields));
        }
        (Kind::Number, _) => "a whole number",
        (Kind::Text, _) => "a string",
        (Kind::Flag, _) => "true or false",
        (Kind::Hash, _) => "64 lower-case hex digits",
        (Kind::Hex, _) => "lower-case hex digits in pairs",
        (Kind::List(_), _) => "a list",
    };
    Some(format!("field `{path}`: {needed} is needed, found {}", shown(value)))
}

fn shown(value: &Value) -> String {
    const MOST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Line;

    #[test]
    fn the_field_at_fault_is_named() {
        let cases = [
            ("", "empty"),
            ("{", "no JSON"),
            ("[]", "an object is needed"),
            ("{}", "field `type` is missing"),
            (r#"{"type":"sing"}"#, "field `type`: \"sing\" is not one of header, invoke"),
            (r#"{"type":"return","op":1,"outcome":"unknown"}"#, "field `t` is missing"),
            (
                r#"{"type":"return","t":"9","op":1,"outcome":"unknown"}"#,
                "field `t`: a whole number is needed, found \"9\"",
            ),
            (r#"{"type":"return","t":9,"op":1,"outcome":"lost"}"#, "field `outcome`: \"lost\""),
            (
                r#"{"type":"invoke","t":1,"client":1,"op":1,"via":"a1","call":"append","entries":[{"key":"k","content":"AB"}]}"#,
                "field `entries[0].content`: 64 lower-case hex digits",
            ),
            (
                r#"{"type":"return","t":9,"op":1,"outcome":"appended","receipts":[{"key":"k"}]}"#,
                "field `receipts[0].seq` is missing",
            ),
            (
                r#"{"type":"vote","node":"a1","incarnation":1,"group":0,"term":1,"for_node":1,"committed":0}"#,
                "true or false",
            ),
        ];
        for (text, why) in cases {
            let error = serde_json::from_str::<Line>(text).unwrap_err();
            let said = history_line(text, &error);
            assert!(said.contains(why), "{text}: {said}");
        }
    }

    #[test]
    fn what_is_too_odd_for_the_table_keeps_the_decoders_words() {
        let text = r#"{"type":"fault_end","t":18446744073709551616,"fault":1}"#;
        let error = serde_json::from_str::<Line>(text).unwrap_err();
        assert!(history_line(text, &error).contains("field `t`"));
        let text = r#"{"type":"header","format":1,"journal":"j","seed":"x"}"#;
        let error = serde_json::from_str::<Line>(text).unwrap_err();
        assert_eq!(history_line(text, &error), error.to_string());
    }
}
