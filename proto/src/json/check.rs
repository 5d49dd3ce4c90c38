//! Walks a JSON value beside a message descriptor: puts enum names into their declared case, refuses what the generic reader
//! would take too lightly, and finds the field that an error of the generic reader is about.

use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};
use serde::de::DeserializeSeed;
use serde_json::{Map, Value};

use super::JsonError;

/// Integers up to here are exact in JSON's floating point.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Checks one message and normalises it in place. `path` is where it stands.
pub(super) fn message(
    value: &mut Value,
    descriptor: &MessageDescriptor,
    path: &str,
) -> Result<(), JsonError> {
    let Value::Object(object) = value else {
        return Err(wrong(path, format!("{} is not an object", kind_of(value))));
    };
    let mut seen = Vec::with_capacity(object.len());
    for (key, value) in object.iter_mut() {
        let field = find(descriptor, key)
            .ok_or_else(|| wrong(path, format!("there is no field {key:?} in {}", descriptor.name())))?;
        let here = join(path, field.name());
        if seen.contains(&field.number()) {
            return Err(wrong(&here, "is given under both of its names"));
        }
        seen.push(field.number());
        if !value.is_null() {
            check_field(value, &field, &here)?;
        }
    }
    Ok(())
}

fn check_field(value: &mut Value, field: &FieldDescriptor, path: &str) -> Result<(), JsonError> {
    if field.is_map() {
        return Ok(());
    }
    if !field.is_list() {
        return check_one(value, &field.kind(), path);
    }
    let Value::Array(items) = value else {
        return Err(wrong(path, format!("{} is not a list", kind_of(value))));
    };
    for (at, item) in items.iter_mut().enumerate() {
        check_one(item, &field.kind(), &format!("{path}[{at}]"))?;
    }
    Ok(())
}

fn check_one(value: &mut Value, kind: &Kind, path: &str) -> Result<(), JsonError> {
    match kind {
        Kind::Message(descriptor) => message(value, descriptor, path),
        Kind::Enum(descriptor) => enum_value(value, descriptor, path),
        Kind::Int32 | Kind::Int64 | Kind::Uint32 | Kind::Uint64 => exact_integer(value, path),
        _ => Ok(()),
    }
}

fn enum_value(value: &mut Value, descriptor: &EnumDescriptor, path: &str) -> Result<(), JsonError> {
    match value {
        Value::String(name) => {
            if descriptor.get_value_by_name(name).is_none() {
                name.make_ascii_uppercase();
            }
            if descriptor.get_value_by_name(name).is_none() {
                let known: Vec<String> =
                    descriptor.values().map(|value| value.name().to_ascii_lowercase()).collect();
                return Err(wrong(
                    path,
                    format!("{:?} is none of {}", name.to_ascii_lowercase(), known.join(", ")),
                ));
            }
            Ok(())
        }
        Value::Number(_) => Ok(()),
        other => Err(wrong(path, format!("{} is not a name", kind_of(other)))),
    }
}

/// Floating-point notation is taken only where it is exact.
fn exact_integer(value: &Value, path: &str) -> Result<(), JsonError> {
    let Value::Number(number) = value else { return Ok(()) };
    if number.is_i64() || number.is_u64() {
        return Ok(());
    }
    match number.as_f64() {
        Some(float) if float.fract() == 0.0 && float.abs() <= MAX_EXACT => Ok(()),
        _ => Err(wrong(path, format!("{number} is not a whole number that is exact; write it in a string"))),
    }
}

/// The field that the generic reader's `error` is about: the first whose value cannot be read alone.
pub(super) fn locate(value: &Value, descriptor: &MessageDescriptor, error: &serde_json::Error) -> JsonError {
    search(value, descriptor, "").unwrap_or_else(|| wrong("", error.to_string()))
}

fn search(value: &Value, descriptor: &MessageDescriptor, path: &str) -> Option<JsonError> {
    let Value::Object(object) = value else { return None };
    for (key, value) in object {
        let Some(field) = find(descriptor, key) else { continue };
        let here = join(path, field.name());
        let items: Vec<(String, &Value)> = match value {
            Value::Array(items) if field.is_list() => {
                items.iter().enumerate().map(|(at, item)| (format!("{here}[{at}]"), item)).collect()
            }
            other => vec![(here, other)],
        };
        for (here, item) in items {
            if let Kind::Message(inner) = field.kind()
                && !field.is_map()
                && let Some(found) = search(item, &inner, &here)
            {
                return Some(found);
            }
            let alone = if field.is_list() { Value::Array(vec![item.clone()]) } else { item.clone() };
            let object = Value::Object(Map::from_iter([(key.clone(), alone)]));
            if let Err(error) = descriptor.clone().deserialize(&object) {
                return Some(wrong(&here, error.to_string()));
            }
        }
    }
    None
}

fn find(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn wrong(field: &str, message: impl Into<String>) -> JsonError {
    JsonError::Field { field: field.to_owned(), message: message.into() }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
