//! `tercet-chaos check` as anybody would use it: files in, a verdict and an exit code out. The files are those that
//! `chaos/HISTORY.md` shows.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HISTORY: &str = include_str!("data/history.jsonl");
const FINAL: &str = include_str!("data/final.jsonl");

struct Files {
    dir: tempfile::TempDir,
}

impl Files {
    fn new(history: &str, finals: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("history.jsonl"), history).unwrap();
        for (at, text) in finals.iter().enumerate() {
            std::fs::write(dir.path().join(format!("final-{at}.jsonl")), text).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn tercet_chaos(arguments: &[&Path]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tercet-chaos")).arg("check").args(arguments).output().unwrap()
}

fn check(history: &str, finals: &[&str]) -> (i32, String) {
    let files = Files::new(history, finals);
    let mut arguments = vec![files.path("history.jsonl")];
    for at in 0..finals.len() {
        arguments.push("--final".into());
        arguments.push(files.path(&format!("final-{at}.jsonl")));
    }
    let arguments: Vec<&Path> = arguments.iter().map(PathBuf::as_path).collect();
    let output = tercet_chaos(&arguments);
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn a_true_history_passes() {
    let (code, text) = check(HISTORY, &[FINAL]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("verdict: PASS"), "{text}");
    assert_eq!(check(HISTORY, &[FINAL, FINAL]).0, 0);
}

#[test]
fn a_lost_acknowledgement_is_a_violation() {
    let last = FINAL.trim_end().rfind('\n').unwrap();
    let (code, text) = check(HISTORY, &[&FINAL[..=last]]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("VIOLATED acknowledged") && text.contains("is lost"), "{text}");
}

#[test]
fn replicas_that_differ_are_a_violation() {
    let last = FINAL.trim_end().rfind('\n').unwrap();
    let (code, text) = check(HISTORY, &[FINAL, &FINAL[..=last]]);
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("VIOLATED replicas"), "{text}");
}

#[test]
fn what_cannot_be_judged_is_a_failure_of_the_harness() {
    let (code, text) = check("{}\n", &[FINAL]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("history.jsonl:1"), "the line is named: {text}");
    let (code, text) = check(HISTORY, &[""]);
    assert_eq!(code, 1, "{text}");
    let (code, text) = check(HISTORY, &[HISTORY]);
    assert_eq!(code, 1, "{text}");
    let missing =
        tercet_chaos(&[Path::new("/nonexistent/h"), Path::new("--final"), Path::new("/nonexistent/f")]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn wrong_usage_is_told_apart() {
    assert_eq!(tercet_chaos(&[]).status.code(), Some(2));
}

/// Every kept history gets the verdict of the directory that it is in.
#[test]
fn forged_histories_are_rejected_and_true_ones_accepted() {
    let histories = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories");
    for (verdict, exit_code, least) in [("accepted", 0, 3), ("rejected", 5, 14)] {
        let mut count = 0;
        for file in std::fs::read_dir(histories.join(verdict)).unwrap() {
            let history = file.unwrap().path();
            let Some(stem) = history.to_str().unwrap().strip_suffix(".history.jsonl") else { continue };
            let log = PathBuf::from(format!("{stem}.final.jsonl"));
            let output = tercet_chaos(&[&history, Path::new("--final"), &log]);
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert_eq!(output.status.code(), Some(exit_code), "{stem}: {said}");
            count += 1;
        }
        assert!(count >= least, "{count} histories are {verdict}");
    }
}

#[test]
fn a_malformed_line_is_named_with_its_field() {
    let broken = HISTORY.replacen("\"op\":4,", "\"op\":\"four\",", 1);
    let (code, text) = check(&broken, &[FINAL]);
    assert_eq!(code, 1, "{text}");
    let named = "field `op`: a whole number is needed, found \"four\"";
    assert!(text.contains("history.jsonl:9: ") && text.contains(named), "{text}");
    let broken = FINAL.replacen("\"recorded_at_us\":1002,", "", 1);
    let (code, text) = check(HISTORY, &[&broken]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("final-0.jsonl:3: field `recorded_at_us` is missing"), "{text}");
}
