//! The input of `tercet append`: NDJSON lines to requests, and fields of requests back to lines.
//!
//! Invariants: a batch is complete and valid before anything of it is sent; every entry keeps the number of its line; a
//! batch never exceeds what one request may hold; memory is bounded by one batch and one line.

use std::io::{BufRead, Read};

use prost::Message;
use tercet_proto::limits::{MAX_JOURNAL_NAME_BYTES, MAX_REQUEST_BYTES};
use tercet_proto::{canonical, json, v1};

use crate::ctl::exit::describe_refusal;

/// Longest line, in bytes; an entry of the largest payload and the most postings is far below it.
const MAX_LINE_BYTES: usize = 1024 * 1024;
/// What a request holds beside its entries: the journal's name, the class and their tags.
const REQUEST_OVERHEAD_BYTES: usize = MAX_JOURNAL_NAME_BYTES + 16;
/// Tag and length before each entry of a request.
const ENTRY_OVERHEAD_BYTES: usize = 5;

/// A line that no entry can be made of, or an input that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The line is at fault.
    #[error("{file}:{line}: {why}")]
    Line {
        /// The file as it was named.
        file: String,
        /// From 1.
        line: u64,
        /// Names the field.
        why: String,
    },
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Read {
        /// The file as it was named.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Entries of one request, and where they came from.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Batch {
    /// At least one.
    pub(crate) entries: Vec<v1::Entry>,
    /// Line numbers, from 1, one for each entry.
    pub(crate) lines: Vec<u64>,
}

impl Batch {
    /// Splits a field of the request like `entries[3].postings[0].amount` into the line of its entry and the rest.
    pub(crate) fn line_of<'a>(&self, field: &'a str) -> Option<(u64, &'a str)> {
        let (at, rest) = field.strip_prefix("entries[")?.split_once(']')?;
        let line = *self.lines.get(at.parse::<usize>().ok()?)?;
        Some((line, rest.strip_prefix('.').unwrap_or(rest)))
    }

    /// Runs like `0..4=6472..6476` with line numbers in place of the numbers of entries.
    pub(crate) fn runs_with_lines(&self, runs: &str) -> String {
        let to_line = |entry: &str| -> Option<String> {
            Some(self.lines.get(entry.trim().parse::<usize>().ok()?)?.to_string())
        };
        let shown: Vec<String> = runs
            .split(',')
            .map(|run| {
                let located = run.split_once('=').and_then(|(entries, seqs)| {
                    let lines: Option<Vec<String>> = entries.split("..").map(to_line).collect();
                    Some(format!("{}={seqs}", lines?.join("..")))
                });
                located.unwrap_or_else(|| run.trim().to_owned())
            })
            .collect();
        shown.join(", ")
    }

    /// Text with `line 7` in place of each `entries[3]` of the request.
    pub(crate) fn with_lines(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("entries[") {
            let (before, found) = rest.split_at(at);
            shown.push_str(before);
            let end = found.find(']').map_or(found.len(), |end| end + 1);
            let (token, after) = found.split_at(end);
            match self.line_of(token) {
                Some((line, _)) => shown.push_str(&format!("line {line}")),
                None => shown.push_str(token),
            }
            rest = after;
        }
        shown.push_str(rest);
        shown
    }
}

/// Reads batches from NDJSON.
pub(crate) struct Batches<R> {
    source: R,
    file: String,
    max_entries: usize,
    line: u64,
    /// Read, but too large for the batch before it.
    left_over: Option<(u64, v1::Entry)>,
    read_bytes: u64,
}

impl<R: BufRead> Batches<R> {
    /// Batches of at most `max_entries` (at least 1); `file` names the source in errors.
    pub(crate) fn new(source: R, file: impl Into<String>, max_entries: usize) -> Self {
        Self {
            source,
            file: file.into(),
            max_entries: max_entries.max(1),
            line: 0,
            left_over: None,
            read_bytes: 0,
        }
    }

    /// Bytes that have been taken from the source.
    pub(crate) const fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The next batch; none at the end of the input.
    ///
    /// # Errors
    /// The first line at fault, before anything of its batch is handed out.
    pub(crate) fn next_batch(&mut self) -> Result<Option<Batch>, InputError> {
        let mut batch = Batch::default();
        let mut bytes = REQUEST_OVERHEAD_BYTES;
        while batch.entries.len() < self.max_entries {
            let Some((line, entry)) = self.next_entry()? else { break };
            let entry_bytes = entry.encoded_len() + ENTRY_OVERHEAD_BYTES;
            if !batch.entries.is_empty() && bytes + entry_bytes > MAX_REQUEST_BYTES {
                self.left_over = Some((line, entry));
                break;
            }
            bytes += entry_bytes;
            batch.entries.push(entry);
            batch.lines.push(line);
        }
        Ok(if batch.entries.is_empty() { None } else { Some(batch) })
    }

    fn next_entry(&mut self) -> Result<Option<(u64, v1::Entry)>, InputError> {
        if let Some(left_over) = self.left_over.take() {
            return Ok(Some(left_over));
        }
        loop {
            let Some(text) = self.next_line()? else { return Ok(None) };
            // Blank lines are no records; their numbers count all the same.
            if text.trim().is_empty() {
                continue;
            }
            let entry = json::entry_from_json(&text).map_err(|error| self.at_line(error.to_string()))?;
            canonical::encode_entry(&entry, &mut Vec::new())
                .map_err(|refusal| self.at_line(describe_refusal(&refusal)))?;
            return Ok(Some((self.line, entry)));
        }
    }

    fn next_line(&mut self) -> Result<Option<String>, InputError> {
        let mut bytes = Vec::new();
        let limit = u64::try_from(MAX_LINE_BYTES + 1).unwrap_or(u64::MAX);
        let count = (&mut self.source)
            .take(limit)
            .read_until(b'\n', &mut bytes)
            .map_err(|source| InputError::Read { file: self.file.clone(), source })?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.read_bytes += u64::try_from(count).unwrap_or(0);
        if bytes.len() > MAX_LINE_BYTES {
            return Err(self.at_line(format!("the line is longer than {MAX_LINE_BYTES} bytes")));
        }
        String::from_utf8(bytes).map(Some).map_err(|_| self.at_line("is not UTF-8".to_owned()))
    }

    fn at_line(&self, why: String) -> InputError {
        InputError::Line { file: self.file.clone(), line: self.line, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str, amount: &str) -> String {
        format!(
            r#"{{"key":"{key}","kind":"payment","businessDate":"1999-01-04","postings":[{{"account":"A","side":"debit","amount":"{amount}","currency":"CZK"}},{{"account":"B","side":"credit","amount":"{amount}","currency":"CZK"}}]}}"#
        )
    }

    fn batches(text: &str, max_entries: usize) -> Batches<&[u8]> {
        Batches::new(text.as_bytes(), "in.ndjson", max_entries)
    }

    #[test]
    fn lines_become_batches_and_keep_their_numbers() {
        let text = format!("{}\n\n{}\r\n{}", line("1", "100"), line("2", "200"), line("3", "300"));
        let mut input = batches(&text, 2);
        let first = input.next_batch().expect("valid").expect("a batch");
        assert_eq!(first.lines, [1, 3]);
        assert_eq!(first.entries[1].key, "2");
        let second = input.next_batch().expect("valid").expect("a batch");
        assert_eq!(second.lines, [4]);
        assert_eq!(input.next_batch().expect("valid"), None);
        assert_eq!(input.read_bytes(), text.len() as u64);
    }

    #[test]
    fn a_bad_line_is_named_with_its_field_and_holds_its_batch_back() {
        for (bad, why) in [
            (line("2", "0"), "AMOUNT_INVALID: postings[0].amount"),
            (line("", "1"), "KEY_INVALID: key"),
            ("{".to_owned(), "not valid JSON"),
            (line("2", "x"), "postings[0].amount"),
            (r#"{"key":"2","colour":"red"}"#.to_owned(), "colour"),
        ] {
            let text = format!("{}\n{bad}\n", line("1", "100"));
            let error = batches(&text, 10).next_batch().expect_err("a bad line").to_string();
            assert!(error.starts_with("in.ndjson:2: "), "{error}");
            assert!(error.contains(why), "{error}");
        }
        let error = Batches::new(&b"\n\xff\n"[..], "-", 1).next_batch().expect_err("no UTF-8");
        assert_eq!(error.to_string(), "-:2: is not UTF-8");
    }

    #[test]
    fn a_batch_never_exceeds_a_request() {
        // 64 KiB of payload each: 4 MiB hold fewer than 64.
        let payload = "AAAA".repeat(64 * 1024 / 3);
        let with_payload = |key: usize| {
            line(&key.to_string(), "100").replacen('{', &format!(r#"{{"payload":"{payload}","#), 1)
        };
        let text: String = (0..70).map(|key| with_payload(key) + "\n").collect();
        let mut input = batches(&text, 1_000);
        let mut lines = Vec::new();
        while let Some(batch) = input.next_batch().expect("valid") {
            lines.extend_from_slice(&batch.lines);
            let request =
                v1::AppendRequest { journal: "j".repeat(64), entries: batch.entries, durability_class: 2 };
            assert!(request.encoded_len() <= MAX_REQUEST_BYTES, "{}", request.encoded_len());
        }
        assert_eq!(lines, (1..=70).collect::<Vec<u64>>());
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_memory() {
        let endless = std::io::BufReader::new(std::io::repeat(b'x'));
        let error = Batches::new(endless, "-", 1).next_batch().expect_err("too long");
        assert_eq!(error.to_string(), "-:1: the line is longer than 1048576 bytes");
    }

    #[test]
    fn messages_speak_of_lines() {
        let batch = Batch { entries: Vec::new(), lines: vec![4, 7] };
        assert_eq!(
            batch
                .with_lines("\"a\" (entries[0]) is seq 1, \"b\" (entries[1]) is seq 2; entries[9], entries["),
            "\"a\" (line 4) is seq 1, \"b\" (line 7) is seq 2; entries[9], entries["
        );
        assert_eq!(batch.with_lines("nothing to replace"), "nothing to replace");
        assert_eq!(batch.runs_with_lines("0=1,1=2"), "4=1, 7=2");
        assert_eq!(batch.runs_with_lines("0..1=6472..6473, 5=1"), "4..7=6472..6473, 5=1");
    }

    #[test]
    fn fields_of_a_request_lead_back_to_lines() {
        let batch = Batch { entries: Vec::new(), lines: vec![4, 7] };
        assert_eq!(batch.line_of("entries[1].postings[0].amount"), Some((7, "postings[0].amount")));
        assert_eq!(batch.line_of("entries[0]"), Some((4, "")));
        for other in ["entries[2].key", "entries[x].key", "journal", "entries"] {
            assert_eq!(batch.line_of(other), None, "{other}");
        }
    }
}
