//! Tercet's wire contract: the `tercet.v1` services, the canonical bytes, the reasons of refusals, the topology and the
//! Rust client.
//!
//! This crate is one of the two bottom layers: it knows neither Raft nor storage. What crosses a process boundary is
//! defined here and nowhere else.
//!
//! | module | about |
//! |---|---|
//! | [`v1`] | types, clients and servers generated from `proto/tercet/v1/*.proto` |
//! | [`reason`], [`refusal`] | why something was refused, as data (`ERRORS.md`) |
//! | [`canonical`] | the bytes that are stored and hashed (`WIRE.md`) |
//! | [`limits`] | every size limit of the data model |
//! | [`text`] | other people's text, shown without hidden characters |
//! | [`topology`] | sites, zones, nodes; what a topology survives; Raft's timing |
//! | [`json`] | protobuf JSON, one message a line |
//! | [`client`] | the client that follows the leader and repeats safely |

pub mod canonical;
pub mod client;
pub mod json;
pub mod limits;
pub mod reason;
pub mod refusal;
pub mod text;
pub mod topology;

/// Generated from `proto/tercet/v1/*.proto`; the documentation stands there.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::cast_possible_truncation, clippy::large_futures)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/tercet.v1.rs"));
}

/// The encoded `google.protobuf.FileDescriptorSet` that [`v1`] was generated from, imports and comments included.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tercet_v1.bin"));
