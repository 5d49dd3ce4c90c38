//! `tercet append`: entries from NDJSON into a journal, batch by batch.
//!
//! Invariants: batches go one after the other, so that what has been appended is always a prefix of the file; nothing of a
//! batch with a bad line is sent; running the same file again is always safe, because the keys are in it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use tercet_proto::client::{Client, ClientError};
use tercet_proto::json::to_json;
use tercet_proto::limits::MAX_REQUEST_ENTRIES;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_proto::v1::DurabilityClass;

use self::input::{Batch, Batches, InputError};
use super::connect::EndpointArgs;
use super::exit::{Exit, Failure, describe_refusal};
use super::journal::ClassArg;
use super::money::format_count;
use super::output::{Lines, print, progress_bytes, progress_counter};

mod input;

/// Full name of [`v1::Receipt`].
const RECEIPT: &str = "tercet.v1.Receipt";
/// Metadata of KEY_CONFLICT: `entry=seq` or `first..last=first..last`, with the numbers of the request's entries.
const CONFLICTS: &str = "conflicts";

/// Arguments of `tercet append`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet append --journal payments --file day.ndjson
  produce-entries | tercet append --journal payments --file - --json > receipts.ndjson

A line is the protobuf JSON of tercet.v1.Entry:
  {\"key\":\"k1\",\"kind\":\"payment\",\"businessDate\":\"2026-01-05\",\"postings\":[
   {\"account\":\"A\",\"side\":\"debit\",\"amount\":\"100\",\"currency\":\"CNY\"},
   {\"account\":\"B\",\"side\":\"credit\",\"amount\":\"100\",\"currency\":\"CNY\"}]}   (on one line)

Amounts are whole minor units. Batches are sent in order; the first one that fails ends the command. The keys make it
safe to run the same file again: what is known already is answered and not appended twice.")]
pub(crate) struct AppendArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// The journal
    #[arg(long, value_name = "NAME")]
    journal: String,
    /// One entry a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Entries a request
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = parse_batch)]
    batch: usize,
    /// A stronger class than the journal's
    #[arg(long, value_enum)]
    class: Option<ClassArg>,
    /// Prints a receipt a line, as JSON, instead of a summary
    #[arg(long)]
    json: bool,
}

/// What has been acknowledged so far.
#[derive(Debug, Default)]
struct Acknowledged {
    appended: u64,
    known: u64,
    last_seq: u64,
}

/// Appends the file.
///
/// # Errors
/// Exit code 2 for a bad line, 3 for a refused batch, 4 for one whose outcome is unknown.
pub(crate) async fn append(args: AppendArgs) -> Result<(), Failure> {
    let (source, bar) = open(&args.file)?;
    let mut input = Batches::new(source, args.file.display().to_string(), args.batch);
    let client = args.endpoint.connect()?;
    let mut acknowledged = Acknowledged::default();
    bar.set_message(args.journal.clone());
    let result = append_all(&client, &args, &mut input, &mut acknowledged, &bar).await;
    bar.finish_and_clear();
    let summary = format!(
        "{}: {} appended, {} known already",
        args.journal,
        format_count(acknowledged.appended),
        format_count(acknowledged.known)
    );
    match result {
        Ok(()) if args.json => Ok(()),
        Ok(()) => print(&format!("{summary}, last seq {}", acknowledged.last_seq)),
        Err(failure) if failure.exit == Exit::OutputClosed => Err(failure),
        Err(mut failure) => {
            failure.message.push_str(&format!("\nbefore that, {summary}"));
            Err(failure)
        }
    }
}

async fn append_all(
    client: &Client,
    args: &AppendArgs,
    input: &mut Batches<Box<dyn BufRead>>,
    acknowledged: &mut Acknowledged,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let class = args.class.map_or(DurabilityClass::Unspecified, DurabilityClass::from);
    let file = args.file.display().to_string();
    let mut lines = Lines::new();
    while let Some(mut batch) = input.next_batch()? {
        let request = v1::AppendRequest {
            journal: args.journal.clone(),
            entries: std::mem::take(&mut batch.entries),
            durability_class: class.into(),
        };
        let response = client.append(request).await.map_err(|error| to_failure(error, &file, &batch))?;
        for receipt in &response.receipts {
            *(if receipt.replayed { &mut acknowledged.known } else { &mut acknowledged.appended }) += 1;
            acknowledged.last_seq = acknowledged.last_seq.max(receipt.seq);
            if args.json {
                lines
                    .line(&to_json(receipt, RECEIPT).map_err(|error| Failure::failed(error.to_string()))?)?;
            }
        }
        lines.flush()?;
        bar.set_position(if bar.length().is_some() {
            input.read_bytes()
        } else {
            acknowledged.appended + acknowledged.known
        });
    }
    Ok(())
}

fn open(file: &Path) -> Result<(Box<dyn BufRead>, ProgressBar), Failure> {
    if file.as_os_str() == "-" {
        return Ok((Box::new(std::io::stdin().lock()), progress_counter("entries")));
    }
    let fail = |error: std::io::Error| Failure::input(format!("{}: {error}", file.display()));
    let opened = File::open(file).map_err(fail)?;
    let metadata = opened.metadata().map_err(fail)?;
    let bar = if metadata.is_file() { progress_bytes(metadata.len()) } else { progress_counter("entries") };
    Ok((Box::new(BufReader::with_capacity(256 * 1024, opened)), bar))
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Line { .. } => Self::input(format!("{error}; nothing of its batch was sent")),
            InputError::Read { .. } => Self::failed(error.to_string()),
        }
    }
}

fn to_failure(error: ClientError, file: &str, batch: &Batch) -> Failure {
    let lines = match (batch.lines.first(), batch.lines.last()) {
        (Some(first), Some(last)) => format!("{file}:{first}-{last}"),
        _ => file.to_owned(),
    };
    let refused = match &error {
        ClientError::Refused(refusal) => in_file(refusal, file, batch),
        _ => None,
    };
    let mut failure = Failure::from(error);
    match refused {
        Some(text) => failure.message = text,
        None => failure = failure.while_doing(lines),
    }
    match failure.exit {
        Exit::Refused => failure.message.push_str("; nothing of its batch was appended"),
        Exit::Unknown => failure.message.push_str(
            "; the batch may have been appended or not: running the same file again is safe and tells",
        ),
        _ => {}
    }
    failure
}

/// The refusal with the line in place of the request's entry.
fn in_file(refusal: &Refusal, file: &str, batch: &Batch) -> Option<String> {
    let (line, rest) = batch.line_of(&refusal.field)?;
    let mut located =
        Refusal { field: rest.to_owned(), message: batch.with_lines(&refusal.message), ..refusal.clone() };
    if let Some(runs) = located.metadata.remove(CONFLICTS) {
        located.metadata.insert("conflicting lines".to_owned(), batch.runs_with_lines(&runs));
    }
    Some(format!("{file}:{line}: {}", describe_refusal(&located)))
}

fn parse_batch(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (1..=MAX_REQUEST_ENTRIES).contains(&count) {
        Ok(count)
    } else {
        Err(format!("a request holds 1 to {MAX_REQUEST_ENTRIES} entries"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tercet_proto::reason::Reason;

    #[test]
    fn a_refused_batch_names_the_line_and_the_field_in_it() {
        let batch = Batch { entries: Vec::new(), lines: vec![4, 7] };
        let refusal =
            Refusal::new(Reason::KeyConflict, "entries[1].key", "known with other content").with("seq", "9");
        let failure = to_failure(ClientError::Refused(refusal), "day.ndjson", &batch);
        assert_eq!(failure.exit, Exit::Refused);
        assert_eq!(
            failure.message,
            "day.ndjson:7: KEY_CONFLICT: key: known with other content (seq 9); nothing of its batch was appended"
        );
    }

    #[test]
    fn conflicts_are_listed_by_line() {
        let batch = Batch { entries: Vec::new(), lines: vec![4, 7] };
        let refusal = Refusal::new(Reason::KeyConflict, "entries[0].key", "\"a\" (entries[0]) is seq 1")
            .with("conflicts", "0..1=1..2");
        let failure = to_failure(ClientError::Refused(refusal), "f", &batch);
        let expected = "f:4: KEY_CONFLICT: key: \"a\" (line 4) is seq 1 (conflicting lines 4..7=1..2); ";
        assert!(failure.message.starts_with(expected), "{failure}");
    }

    #[test]
    fn a_refusal_of_the_whole_request_names_the_lines_of_the_batch() {
        let batch = Batch { entries: Vec::new(), lines: vec![4, 7] };
        let refusal = Refusal::new(Reason::JournalNotFound, "journal", "no journal \"x\"");
        let failure = to_failure(ClientError::Refused(refusal), "day.ndjson", &batch);
        assert!(failure.message.starts_with("day.ndjson:4-7: JOURNAL_NOT_FOUND: journal: "), "{failure}");
    }

    #[test]
    fn an_unknown_outcome_says_that_running_again_is_safe() {
        let batch = Batch { entries: Vec::new(), lines: vec![1] };
        let refusal = Refusal::new(Reason::OutcomeUnknown, "", "the leader was lost");
        let failure = to_failure(ClientError::Refused(refusal), "-", &batch);
        assert_eq!(failure.exit, Exit::Unknown);
        assert!(failure.message.contains("running the same file again is safe"), "{failure}");
    }

    #[test]
    fn a_batch_holds_what_a_request_may() {
        assert_eq!(parse_batch("8192"), Ok(8_192));
        for wrong in ["0", "8193", "x"] {
            assert!(parse_batch(wrong).is_err(), "{wrong}");
        }
    }
}
