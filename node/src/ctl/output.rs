//! What verbs write: data to standard output, everything else to standard error.
//!
//! Invariants: standard output is only written through [`print`] and [`Lines`], which report a closed pipe instead of panicking; text
//! from the cluster (account names, messages) is shown without hidden characters. JSON is data and left as it is.

use std::io::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::exit::Failure;
use super::money::format_count;

/// Writes data and a newline to standard output.
///
/// # Errors
/// A closed pipe ends the verb quietly; other errors are failures.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    Ok(())
}

/// Many lines of data for standard output, buffered.
pub(crate) struct Lines(std::io::BufWriter<std::io::Stdout>);

impl Lines {
    /// Nothing written yet.
    pub(crate) fn new() -> Self {
        Self(std::io::BufWriter::with_capacity(64 * 1024, std::io::stdout()))
    }

    /// Adds one line.
    ///
    /// # Errors
    /// As [`print`].
    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.0.write_all(text.as_bytes())?;
        self.0.write_all(b"\n")?;
        Ok(())
    }

    /// Hands everything over.
    ///
    /// # Errors
    /// As [`print`].
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.0.flush()?)
    }
}

/// Writes a notice to standard error; a process that serves does not wait for it.
pub(crate) fn notice(text: &str) {
    crate::stderr::say(text);
}

/// As [`print`], for a process that serves: whoever does not read holds up this and nothing else.
///
/// # Errors
/// As [`print`].
pub(crate) async fn print_aside(text: String) -> Result<(), Failure> {
    let printed = tokio::task::spawn_blocking(move || print(&text)).await;
    printed.unwrap_or_else(|error| Err(Failure::failed(format!("standard output: {error}"))))
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// Words, left.
    Text(&'static str),
    /// Numbers, right.
    Number(&'static str),
}

/// Rows under a header, in aligned columns without lines around them.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    let cell = |column: Column, text: &str| {
        let alignment = match column {
            Column::Text(_) => CellAlignment::Left,
            Column::Number(_) => CellAlignment::Right,
        };
        Cell::new(printable(text)).set_alignment(alignment)
    };
    table.set_header(columns.iter().map(|&column| match column {
        Column::Text(name) | Column::Number(name) => cell(column, name),
    }));
    for row in rows {
        table.add_row(columns.iter().zip(row).map(|(&column, text)| cell(column, text)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

/// Text in which everything shows: hidden characters (controls, marks of writing direction, zero-width ones) become escapes.
pub(crate) fn printable(text: &str) -> String {
    tercet_proto::text::shown(text).into_owned()
}

/// A number and what it counts, e.g. `1 entry`, `6,471 entries`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", format_count(count), if count == 1 { one } else { many })
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Microseconds since 1970 as RFC 3339, UTC; the number itself where it names no time of the years 0 to 9999.
pub(crate) fn utc(at_us: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at_us) * 1_000)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| format!("{at_us} us"))
}

/// A bar over a known number of `unit`, drawn on standard error, and only if that is a terminal.
pub(crate) fn progress_bar(total: u64, unit: &str) -> ProgressBar {
    let template = format!("{{msg}} {{wide_bar}} {{human_pos}}/{{human_len}} {unit} {{per_sec}} {{eta}}");
    with_style(ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()), &template)
}

/// A bar over the bytes of a file, on the same conditions.
pub(crate) fn progress_bytes(total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    with_style(bar, "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// A counter of `unit` whose total is not known, on the same conditions.
pub(crate) fn progress_counter(unit: &str) -> ProgressBar {
    let template = format!("{{spinner}} {{msg}} {{human_pos}} {unit} {{per_sec}}");
    with_style(ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()), &template)
}

fn with_style(bar: ProgressBar, template: &str) -> ProgressBar {
    // A template that indicatif does not take leaves its default.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_words_left_and_numbers_right() {
        let rows = vec![
            vec!["AB".to_owned(), "519".to_owned(), "1,707,389.50".to_owned()],
            vec!["total".to_owned(), "6,471".to_owned(), "21,228,993.60".to_owned()],
        ];
        let text = table(&[Column::Text("bank"), Column::Number("orders"), Column::Number("CZK")], &rows);
        assert_eq!(
            text,
            "bank   orders            CZK\n\
             AB        519   1,707,389.50\n\
             total   6,471  21,228,993.60"
        );
    }

    #[test]
    fn tables_show_control_characters_as_escapes_and_keep_chinese() {
        let rows = vec![vec!["清算\u{1b}[2J\nX".to_owned()]];
        assert_eq!(table(&[Column::Text("account")], &rows), "account\n清算\\u{1b}[2J\\nX");
        // What turns the reading direction round, or has no width.
        let rows = vec![vec!["AB\u{202e}21\u{200b}".to_owned()]];
        assert_eq!(table(&[Column::Text("account")], &rows), "account\nAB\\u{202e}21\\u{200b}");
    }

    #[test]
    fn times_are_rfc_3339_in_utc() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(915_408_000_123_456), "1999-01-04T00:00:00.123456Z");
        assert_eq!(utc(i64::MAX), format!("{} us", i64::MAX));
    }

    #[test]
    fn counts_agree_with_their_words() {
        assert_eq!(counted(1, "entry", "entries"), "1 entry");
        assert_eq!(counted(6_471, "entry", "entries"), "6,471 entries");
        assert_eq!(counted(0, "entry", "entries"), "0 entries");
    }

    #[test]
    fn hashes_are_lower_case_hexadecimal() {
        assert_eq!(hex(&[0, 0xab, 0xff]), "00abff");
    }

    #[test]
    fn templates_of_progress_are_well_formed() {
        for bar in [progress_bar(10, "entries"), progress_counter("entries")] {
            bar.inc(1);
            assert_eq!(bar.position(), 1);
        }
        let template = "{msg} {wide_bar} {human_pos}/{human_len} entries {per_sec} {eta}";
        assert!(ProgressStyle::with_template(template).is_ok());
    }
}
