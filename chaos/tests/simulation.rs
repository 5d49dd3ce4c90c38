//! The simulation repeats itself: in other processes, and under other load.

use std::path::Path;
use std::process::{Command, Output};

use tercet_chaos::sim::plan::{Fault, FaultKind, Plan};

/// Enough for crashes and cuts, short enough for a build without optimisation.
const FAULTY_MS: u64 = 6_000;

/// A seed's plan, cut short, as its user would cut it by hand.
fn short_plan(seed: u64, dir: &Path) -> std::path::PathBuf {
    let mut plan = Plan::of_seed(seed);
    plan.faulty_ms = FAULTY_MS;
    for fault in &mut plan.faults {
        // Ten times as dense.
        fault.at_ms /= 10;
        fault.for_ms = fault.for_ms.min(1_500);
    }
    plan.faults.retain(|fault| fault.at_ms + fault.for_ms < FAULTY_MS);
    let file = dir.join(format!("{seed}.toml"));
    std::fs::write(&file, plan.text().expect("a plan is TOML")).expect("a writable directory");
    file
}

fn replay(plan: &Path) -> Output {
    let done = Command::new(env!("CARGO_BIN_EXE_tercet-chaos")).arg("replay").arg(plan).output();
    done.expect("tercet-chaos runs")
}

#[test]
fn equal_plans_give_equal_hashes_in_processes_of_their_own() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut hashes = std::collections::BTreeSet::new();
    for seed in [1, 2, 5] {
        let plan = short_plan(seed, dir.path());
        // The second one shares its core with the third.
        let first = replay(&plan);
        let (second, third) = std::thread::scope(|threads| {
            let beside = threads.spawn(|| replay(&plan));
            (replay(&plan), beside.join().expect("no panic"))
        });
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert!(first.status.success(), "seed {seed}: {said}");
        assert_eq!(first.stdout, second.stdout, "seed {seed}");
        assert_eq!(first.stdout, third.stdout, "seed {seed}");
        let line = String::from_utf8(first.stdout).expect("text");
        assert_eq!(line.split_whitespace().nth(1).map(str::len), Some(64), "{line}");
        hashes.insert(line);
    }
    assert_eq!(hashes.len(), 3, "every seed goes its own way");
}

#[test]
fn what_rot_takes_comes_back_from_the_other_nodes() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut plan = Plan::of_seed(1);
    let rot = |(at_ms, node): (u64, &str)| Fault {
        at_ms,
        for_ms: 300,
        kind: FaultKind::Rot,
        shape: String::new(),
        nodes: vec![node.to_owned()],
        links: Vec::new(),
        amount: 3,
    };
    let whom = ["b1", "leader", "c1", "a2", "leader", "b2"];
    plan.faults = (1..).map(|turn| turn * 1_000).zip(whom).map(rot).collect();
    plan.faulty_ms = 8_000;
    let (file, trace) = (dir.path().join("rot.toml"), dir.path().join("trace"));
    std::fs::write(&file, plan.text().expect("a plan is TOML")).expect("a writable directory");
    let ran = Command::new(env!("CARGO_BIN_EXE_tercet-chaos"))
        .arg("replay")
        .arg(&file)
        .arg("--trace")
        .arg(&trace)
        .output()
        .expect("tercet-chaos runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let events = std::fs::read_to_string(&trace).expect("a trace");
    let count = |what: &str| events.lines().filter(|line| line.contains(what)).count();
    assert!(count(" quarantined: node ") >= 2, "rot takes something");
    assert!(count(" is repaired (") >= 2, "and repair gives it back");
}

#[test]
fn a_plan_that_is_none_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("plan.toml");
    for (change, named) in [
        (("nodes = [", "nodes = [\"z9\", "), "z9"),
        (("seed =", "sead ="), "sead"),
        (("core = [", "core = [\"q\","), "q"),
    ] {
        let text = Plan::of_seed(3).text().expect("a plan is TOML").replace(change.0, change.1);
        std::fs::write(&file, text).expect("a writable directory");
        let refused = replay(&file);
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(named), "{named}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_mutant_is_found() {
    let ran = Command::new(env!("CARGO_BIN_EXE_tercet-chaos"))
        .args(["mutants", "--only", "vote-not-persisted", "--limit", "3"])
        .output()
        .expect("tercet-chaos runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("killed after 1 seeds"), "{said}");
}
