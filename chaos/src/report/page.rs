//! A run as one HTML page that needs nothing else: what was done to the cluster, what clients felt, who led.
//!
//! Invariants: every text that comes from elsewhere is escaped; the page refers to nothing outside itself; the drawing's
//! x axis is the workload's time, the same for every row.

use std::fmt::Write;

use super::{Acknowledgements, Report, Verdict, classes, to_ms};
use crate::history::{History, Places};

/// Width of the drawing, in its own units.
const WIDTH: f64 = 1_000.0;
/// Where the axis begins: room for the rows' names.
const LEFT: f64 = 90.0;
/// Height of a bar.
const BAR: f64 = 16.0;
/// Height of the acknowledgements' columns.
const COLUMNS: f64 = 90.0;
/// How many columns there are.
const SLICES: u64 = 200;
/// A time without an acknowledgement that is longer is marked, in nanoseconds.
const GAP: u64 = 500_000_000;

const STYLE: &str = "\
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:70em;padding:0 1em;color:#1d2733;background:#fff}\
h1{font-size:1.4em}h2{font-size:1.1em;margin-top:2em}\
table{border-collapse:collapse}td,th{padding:.15em .9em .15em 0;text-align:left;vertical-align:top}\
th{font-weight:600}.num{text-align:right;font-variant-numeric:tabular-nums}\
.pass{color:#0a7a3d}.violation{color:#b3261e}pre{white-space:pre-wrap;background:#f4f6f8;padding:.7em}\
svg{width:100%;height:auto}svg text{font:11px system-ui,sans-serif;fill:#1d2733}\
.fault{fill:#d9822b}.ack{fill:#2f6fb0}.gap{fill:#b3261e;opacity:.15}.grid{stroke:#d5dbe1;stroke-width:1}\
.zone0{fill:#2f6fb0}.zone1{fill:#0a7a3d}.zone2{fill:#8a4fbf}.zone3{fill:#6b7785}.on{fill:#fff !important}";

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The page.
pub fn render(report: &Report, history: &History) -> String {
    let mut page = String::new();
    // Writing into a string cannot fail.
    let _ = write_page(&mut page, report, history);
    page
}

fn write_page(page: &mut String, report: &Report, history: &History) -> std::fmt::Result {
    let (verdict, word) = match report.verdict {
        Verdict::Pass => ("pass", "PASS"),
        Verdict::Violation => ("violation", "VIOLATION"),
    };
    let name = escaped(&report.scenario);
    write!(
        page,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{name}: {word}</title>\
         <style>{STYLE}</style></head><body>\n<h1>{name} <span class=\"{verdict}\">{word}</span></h1>\n"
    )?;
    facts(page, report)?;
    page.push_str("<h2>Timeline</h2>\n");
    Timeline::new(history).draw(page, report, &history.header.places)?;
    faults(page, report)?;
    findings(page, report)?;
    page.push_str("</body></html>\n");
    Ok(())
}

fn facts(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str("<table>\n");
    let mut row =
        |name: &str, text: &str| writeln!(page, "<tr><th>{name}</th><td>{}</td></tr>", escaped(text));
    row("seed", &report.seed.to_string())?;
    row("commit", &report.commit)?;
    row("nodes", &format!("version {}, SHA-256 {}", report.version, report.executable))?;
    row("disk", &report.disk)?;
    if let Some(judgement) = &report.judgement {
        for (name, counts) in [("appends", judgement.appends), ("reads", judgement.reads)] {
            let text = format!(
                "{} ok, {} refused, {} unknown, of {} in {:.1} s",
                counts.ok, counts.refused, counts.unknown, counts.invoked, report.workload_seconds
            );
            row(name, &text)?;
        }
        let text = format!(
            "{} entries; {} keys acknowledged; of unknown outcome {} are there, {} are not",
            judgement.final_entries,
            judgement.acknowledged_keys,
            judgement.unknown_present,
            judgement.unknown_absent
        );
        row("final log", &text)?;
        row("RPO", &format!("{} acknowledged keys lost{}", judgement.lost, classes(judgement)))?;
    }
    row("RTO", &format!("{:.0} ms, the longest time without an acknowledgement", report.rto_ms))?;
    row("processes killed", &report.kills.to_string())?;
    if !report.proofs.is_empty() {
        let text =
            format!("{} health requests over blackholed links met their own deadlines", report.proofs.len());
        row("blackholes proven", &text)?;
    }
    if let Some(packets) = report.packets_dropped {
        row("packets dropped", &packets.to_string())?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn faults(page: &mut String, report: &Report) -> std::fmt::Result {
    page.push_str(
        "<h2>Faults</h2>\n<table><tr><th>from</th><th>to</th><th>what</th><th>RTO around it</th></tr>\n",
    );
    for fault in &report.faults {
        let end = fault.span.end.map_or_else(|| "never undone".to_owned(), seconds);
        writeln!(
            page,
            "<tr><td class=\"num\">{}</td><td class=\"num\">{end}</td><td>{}</td><td class=\"num\">{:.0} ms</td></tr>",
            seconds(fault.span.begin),
            escaped(&fault.span.what),
            fault.rto_ms
        )?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn findings(page: &mut String, report: &Report) -> std::fmt::Result {
    let violations = report.judgement.iter().flat_map(|judgement| &judgement.violations);
    let texts: Vec<String> = violations
        .map(|violation| format!("VIOLATED {violation}"))
        .chain(report.unmet.iter().map(|unmet| format!("NOT MET {unmet}")))
        .collect();
    if !texts.is_empty() {
        page.push_str("<h2 class=\"violation\">Findings</h2>\n");
    }
    texts.iter().try_for_each(|text| writeln!(page, "<pre>{}</pre>", escaped(text)))
}

fn seconds(nanoseconds: u64) -> String {
    format!("{:.2} s", to_ms(nanoseconds) / 1e3)
}

struct Timeline {
    acknowledgements: Acknowledgements,
    /// Nanoseconds on the axis.
    length: u64,
}

impl Timeline {
    fn new(history: &History) -> Self {
        let acknowledgements = Acknowledgements::of(history);
        let faults = history.faults.iter().map(|fault| fault.end.unwrap_or(fault.begin));
        let length = faults.chain([acknowledgements.end()]).max().unwrap_or(0).max(1);
        Self { acknowledgements, length }
    }

    fn x(&self, t: u64) -> f64 {
        LEFT + (WIDTH - LEFT) * to_ms(t.min(self.length)) / to_ms(self.length)
    }

    fn draw(&self, page: &mut String, report: &Report, places: &Places) -> std::fmt::Result {
        let leaders_at = BAR * 1.25;
        let faults_at = leaders_at + BAR * 2.5;
        let columns_at = faults_at + BAR * 1.25 * to_rows(report.faults.len()) + BAR;
        let bottom = columns_at + COLUMNS;
        writeln!(
            page,
            "<svg viewBox=\"0 0 {WIDTH} {:.1}\" role=\"img\" aria-label=\"leaders, faults and acknowledgements over time\">",
            bottom + 24.0
        )?;
        self.gaps(page, leaders_at, bottom)?;
        self.axis(page, bottom)?;
        self.leaders(page, report, places, leaders_at)?;
        for (fault, row) in report.faults.iter().zip(0_u32..) {
            let y = faults_at + BAR * 1.25 * f64::from(row);
            let (from, to) = (self.x(fault.span.begin), self.x(fault.span.end.unwrap_or(self.length)));
            let what = escaped(&fault.span.what);
            label(page, y, &format!("fault {}", fault.span.fault))?;
            writeln!(
                page,
                "<rect class=\"fault\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\"><title>{what}</title></rect>",
                (to - from).max(1.0)
            )?;
        }
        self.columns(page, columns_at)?;
        page.push_str("</svg>\n");
        Ok(())
    }

    /// Times without an acknowledgement, over all rows.
    fn gaps(&self, page: &mut String, top: f64, bottom: f64) -> std::fmt::Result {
        for (from, to) in self.acknowledgements.gaps(GAP) {
            let (left, right) = (self.x(from), self.x(to));
            writeln!(
                page,
                "<rect class=\"gap\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{:.0} ms without an acknowledgement</title></rect>",
                right - left,
                bottom - top,
                to_ms(to - from)
            )?;
        }
        Ok(())
    }

    fn axis(&self, page: &mut String, bottom: f64) -> std::fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        let step = [1, 2, 5, 10, 20, 60, 300]
            .into_iter()
            .find(|step| self.length / (step * SECOND) <= 15)
            .unwrap_or(3_600);
        for at in (0..=self.length / SECOND).filter(|at| at % step == 0) {
            let x = self.x(at * SECOND);
            writeln!(
                page,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"12\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>"
            )?;
            let y = bottom + 14.0;
            writeln!(page, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{at} s</text>")?;
        }
        Ok(())
    }

    /// Who led, coloured by zone: from when a node was first seen to lead until the next one was.
    fn leaders(&self, page: &mut String, report: &Report, places: &Places, y: f64) -> std::fmt::Result {
        label(page, y, "leader")?;
        let mut zones: Vec<&str> = places.values().map(|place| place.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        let ends = report.leaders.iter().skip(1).map(|next| next.t).chain([self.length]);
        for (leader, end) in report.leaders.iter().zip(ends) {
            let zone = places.get(&leader.node).map_or("?", |place| place.zone.as_str());
            let colour = zones.iter().position(|known| *known == zone).unwrap_or(3).min(3);
            let (from, to) = (self.x(leader.t), self.x(end));
            let who = escaped(&leader.node);
            writeln!(
                page,
                "<rect class=\"zone{colour}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{BAR}\"><title>{who}, zone {}, term {}</title></rect>",
                (to - from).max(1.0),
                escaped(zone),
                leader.term
            )?;
            writeln!(page, "<text class=\"on\" x=\"{:.1}\" y=\"{:.1}\">{who}</text>", from + 3.0, y + 12.0)?;
        }
        Ok(())
    }

    /// Acknowledged appends per slice of time.
    fn columns(&self, page: &mut String, top: f64) -> std::fmt::Result {
        let slice = (self.length / SLICES).max(1);
        let counts: Vec<usize> =
            (0..SLICES).map(|at| self.acknowledgements.between(at * slice, (at + 1) * slice)).collect();
        let most = counts.iter().copied().max().unwrap_or(0).max(1);
        label(page, top, "acknowledged")?;
        label(page, top + BAR, &format!("max {:.0}/s", per_second(most, slice)))?;
        for (at, count) in (0_u64..).zip(&counts).filter(|(_, count)| **count > 0) {
            let height = COLUMNS * ratio(*count, most);
            let (from, to) = (self.x(at * slice), self.x((at + 1) * slice));
            writeln!(
                page,
                "<rect class=\"ack\" x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                top + COLUMNS - height,
                (to - from).max(0.5)
            )?;
        }
        Ok(())
    }
}

fn label(page: &mut String, y: f64, text: &str) -> std::fmt::Result {
    writeln!(page, "<text x=\"0\" y=\"{:.1}\">{}</text>", y + 12.0, escaped(text))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
fn ratio(count: usize, most: usize) -> f64 {
    count as f64 / most as f64
}

fn to_rows(count: usize) -> f64 {
    ratio(count, 1)
}

fn per_second(count: usize, slice: u64) -> f64 {
    ratio(count, 1) / (to_ms(slice) / 1e3)
}
