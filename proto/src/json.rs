//! Protobuf JSON: one message as one line of text, and back.
//!
//! Output follows the protobuf JSON mapping: lowerCamelCase names, 64-bit numbers as strings, bytes as base64, enum values by
//! name; fields that have their default value are left out; no line breaks, so that a line is a record (NDJSON).
//!
//! Input is the same, read with less trust in the writer and more patience with people:
//! - names may be lowerCamelCase or as in the `.proto` file; enum values may be written in lower case (`payment`, `debit`);
//! - a field that does not exist or stands there twice is an error, and so is a number that JSON's floating point cannot hold
//!   exactly: an amount is never rounded;
//! - every error names the field by its path, e.g. `postings[0].amount`.

mod check;
mod strict;

use std::sync::LazyLock;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor};
use serde::de::DeserializeSeed;

use crate::{FILE_DESCRIPTOR_SET, v1};

/// Full name of [`v1::Entry`].
pub const ENTRY: &str = "tercet.v1.Entry";

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string()));

/// Why a text is not a message, or a message cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or a key stands twice in one object.
    #[error("not valid JSON: {message}")]
    Syntax {
        /// With line and column.
        message: String,
    },
    /// JSON, but not this message.
    #[error("{}{message}", if field.is_empty() { String::new() } else { format!("{field}: ") })]
    Field {
        /// Path of the field at fault; empty for the message itself.
        field: String,
        /// What is wrong with it.
        message: String,
    },
    /// The named message does not exist, or is not of the Rust type that was asked for.
    #[error("message type {name}: {message}")]
    Type {
        /// The name that was asked for.
        name: String,
        /// What is wrong with it.
        message: String,
    },
}

/// Reads a message; `message_full_name` is e.g. `tercet.v1.Entry` and must be the name of `M`.
pub fn from_json<M: Message + Default>(text: &str, message_full_name: &str) -> Result<M, JsonError> {
    let descriptor = descriptor(message_full_name)?;
    let mut value = strict::parse(text)?;
    check::message(&mut value, &descriptor, "")?;
    let message =
        descriptor.clone().deserialize(&value).map_err(|error| check::locate(&value, &descriptor, &error))?;
    message
        .transcode_to()
        .map_err(|error| JsonError::Type { name: message_full_name.to_owned(), message: error.to_string() })
}

/// Writes a message on one line; `message_full_name` must be the name of `M`.
pub fn to_json<M: Message>(message: &M, message_full_name: &str) -> Result<String, JsonError> {
    let descriptor = descriptor(message_full_name)?;
    let failed = |message: String| JsonError::Type { name: message_full_name.to_owned(), message };
    let mut dynamic = DynamicMessage::new(descriptor);
    dynamic.transcode_from(message).map_err(|error| failed(error.to_string()))?;
    serde_json::to_string(&dynamic).map_err(|error| failed(error.to_string()))
}

/// Reads an entry, as `tercet append` takes them one a line.
pub fn entry_from_json(text: &str) -> Result<v1::Entry, JsonError> {
    from_json(text, ENTRY)
}

fn descriptor(name: &str) -> Result<MessageDescriptor, JsonError> {
    let failed = |message: &str| JsonError::Type { name: name.to_owned(), message: message.to_owned() };
    let pool = POOL.as_ref().map_err(|error| failed(error))?;
    pool.get_message_by_name(name).ok_or_else(|| failed("does not exist"))
}

#[cfg(test)]
mod tests;
