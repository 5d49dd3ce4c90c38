//! Figures and the page.

use super::*;

fn acknowledgements() -> Acknowledgements {
    Acknowledgements { times: vec![10, 20, 100, 110, 300], begin: 0, end: 320 }
}

#[test]
fn gaps_are_found_where_they_touch_the_window() {
    let acks = acknowledgements();
    assert_eq!(acks.longest_gap(0, 320), 190);
    assert_eq!(acks.longest_gap(25, 30), 80, "a window inside a gap feels all of it");
    assert_eq!(acks.longest_gap(100, 111), 190);
    assert_eq!(acks.longest_gap(0, 15), 10);
    assert_eq!(acks.longest_gap(301, 320), 20, "to the end of the workload");
    let none = Acknowledgements { times: vec![], begin: 5, end: 50 };
    assert_eq!(none.longest_gap(5, 50), 45);
}

#[test]
fn each_fault_is_charged_until_the_next_begins() {
    let fault = |fault, begin| FaultSpan { fault, what: String::new(), begin, end: Some(begin + 5) };
    let reports = acknowledgements()
        .around(&[fault(1, 15), fault(2, 105)], &[(1, 2), (2, 15), (3, 40), (5, 105)].into());
    let rto: Vec<f64> = reports.iter().map(|report| report.rto_ms * 1e6).collect();
    assert_eq!(rto, [80.0, 190.0]);
    let changes: Vec<u64> = reports.iter().map(|report| report.leader_changes).collect();
    assert_eq!(changes, [2, 1], "the first leader is nobody's fault");
}

fn report() -> (Report, crate::history::History) {
    use crate::history::{History, Line};
    let lines = include_str!("../../tests/data/history.jsonl");
    let mut lines: Vec<Line> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let Some(Line::FaultBegin { what, .. }) =
        lines.iter_mut().find(|line| matches!(line, Line::FaultBegin { .. }))
    else {
        panic!("a fault")
    };
    *what = "blackhole a1 <-> b1 & \"c1\"".into();
    let history = History::from_lines(lines).unwrap();
    let acknowledgements = Acknowledgements::of(&history);
    let report = Report {
        scenario: "sample".into(),
        seed: 7,
        commit: "0123".into(),
        executable: "4567".into(),
        version: "0".into(),
        disk: "none".into(),
        workload_seconds: acknowledgements.seconds(),
        kills: 0,
        proofs: Vec::new(),
        packets_dropped: None,
        judgement: None,
        rto_ms: acknowledgements.rto_ms(),
        faults: acknowledgements.around(&history.faults, &terms_led(&history)),
        leaders: leaders(&history),
        links: Vec::new(),
        unmet: vec!["more <was> expected".into()],
        verdict: Verdict::Violation,
    };
    (report, history)
}

#[test]
fn the_page_stands_alone_and_escapes_what_it_shows() {
    let (report, history) = report();
    let page = page::render(&report, &history);
    for outside in ["http:", "https:", "src=", "href=", "url(", "<script"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("blackhole a1 &lt;-&gt; b1 &amp; &quot;c1&quot;"));
    assert!(page.contains("more &lt;was&gt; expected"));
    assert!(page.contains("VIOLATION"));
    let count = |what: &str| page.matches(what).count();
    assert_eq!(count("class=\"fault\""), 1);
    assert_eq!(count("class=\"ack\""), 3, "three appends were acknowledged, far apart");
    assert_eq!(count("class=\"zone1\""), 1, "b1 led, of the second zone");
    assert_eq!(count("<svg"), count("</svg>"));
    for tag in ["text", "table", "tr", "td", "th", "h2", "pre", "title"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}
