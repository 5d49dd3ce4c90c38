//! Compiles the `.proto` files with protox (no `protoc` needed) and generates the `tercet.v1` types, clients and servers.
//!
//! Invariant: the descriptor set written to `OUT_DIR/tercet_v1.bin` is the one that the generated code was made from, so
//! server reflection, protobuf JSON and the Rust types cannot disagree.

use std::error::Error;
use std::path::PathBuf;
use std::{env, fs};

use prost::Message;

const PROTO_ROOT: &str = "proto";
const FILES: [&str; 4] =
    ["tercet/v1/types.proto", "tercet/v1/ledger.proto", "tercet/v1/admin.proto", "tercet/v1/peer.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    println!("cargo:rerun-if-changed=build.rs");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let descriptors = protox::compile(FILES, [PROTO_ROOT])?;
    fs::write(out_dir.join("tercet_v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").emit_rerun_if_changed(false).compile_fds(descriptors)?;
    Ok(())
}
