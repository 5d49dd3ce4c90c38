//! `tercet read` and `tercet tail`: entries as NDJSON.
//!
//! Invariant: lines come in seq order without a hole; what the cluster sent is written as the protobuf JSON of StoredEntry
//! and nothing else goes to standard output.

use clap::Args;
use futures::StreamExt;
use tercet_proto::client::EntryStream;
use tercet_proto::json::to_json;
use tercet_proto::v1;
use tercet_proto::v1::Consistency;

use super::connect::EndpointArgs;
use super::exit::Failure;
use super::output::Lines;

/// Full name of [`v1::StoredEntry`].
const STORED_ENTRY: &str = "tercet.v1.StoredEntry";
/// Most entries that are written before they are handed over.
const CHUNK_ENTRIES: usize = 512;

/// Arguments of `tercet read`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet read --journal interbank --from 1 --to 10
  tercet read --journal interbank | jq -r .entry.key

A line is the protobuf JSON of tercet.v1.StoredEntry: 64-bit numbers are strings, hashes and payloads base64.")]
pub(crate) struct ReadArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(long, value_name = "NAME")]
    journal: String,
    /// First seq
    #[arg(long, value_name = "SEQ", default_value_t = 1)]
    from: u64,
    /// Last seq; the head when the read begins if it is left out
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Shows what the asked node has: it may lag, and no leader is needed
    #[arg(long)]
    local: bool,
}

/// Arguments of `tercet tail`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet tail --journal interbank
  tercet tail --journal interbank --from 6472 >> mirror.ndjson

Ends at Ctrl-C, or when whoever reads its output closes it.")]
pub(crate) struct TailArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(long, value_name = "NAME")]
    journal: String,
    /// First seq; the first one after the present head if it is left out
    #[arg(long, value_name = "SEQ")]
    from: Option<u64>,
}

/// How the verbs say which state they ask for.
pub(crate) const fn consistency(local: bool) -> Consistency {
    if local { Consistency::Local } else { Consistency::Linearizable }
}

/// Writes a range of entries.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn read(args: ReadArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let request = v1::ReadRequest {
        journal: args.journal,
        from_seq: args.from,
        to_seq: args.to.unwrap_or(0),
        consistency: consistency(args.local).into(),
    };
    write_entries(client.read(request)).await
}

/// Writes entries as they are appended, until Ctrl-C.
///
/// # Errors
/// What the cluster refused, or why it cannot be reached.
pub(crate) async fn tail(args: TailArgs) -> Result<(), Failure> {
    let client = args.endpoint.connect()?;
    let request = v1::TailRequest { journal: args.journal, from_seq: args.from.unwrap_or(0) };
    let entries = client.tail(request);
    tokio::select! {
        written = write_entries(entries) => written,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))
        }
    }
}

async fn write_entries(entries: EntryStream) -> Result<(), Failure> {
    let mut lines = Lines::new();
    // What has arrived together is handed over together; whoever follows waits for nothing.
    let mut chunks = entries.ready_chunks(CHUNK_ENTRIES);
    while let Some(chunk) = chunks.next().await {
        for entry in chunk {
            let text = to_json(&entry?, STORED_ENTRY).map_err(|error| Failure::failed(error.to_string()))?;
            lines.line(&text)?;
        }
        lines.flush()?;
    }
    Ok(())
}
