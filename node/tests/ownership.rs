//! The layers hold: each library's name stays in its room, `unsafe` in one file, no `mod.rs`, no clock in the pure modules.
//!
//! A use of a name outside its room is a design decision; make it in DESIGN's terms, then here.

use std::fs;
use std::path::{Path, PathBuf};

/// (needle, paths where it may stand). A path ending in `*` is a prefix.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "openraft::",
        &["node/src/raft*", "node/tests/raft_conformance.rs", "chaos/src/sim*", "chaos/src/invariants*"],
    ),
    (
        "tonic::",
        // What is compared with speaks gRPC of its own.
        &["proto/*", "node/src/rpc*", "node/src/raft/network*", "bench/src/compare*"],
    ),
    ("sled::", &["storage/src/index*"]),
    ("io_uring::", &["storage/src/disk/uring.rs"]),
    ("unsafe ", &["storage/src/disk/uring.rs"]),
];

/// Needles that must not stand in the pure modules.
const IMPURE: &[&str] = &["std::time", "SystemTime", "Instant", "tokio::", "std::fs", "std::net", "rand::"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                sources(&path, into);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn all_sources() -> Vec<(String, String)> {
    let root = root();
    let mut paths = Vec::new();
    for package in ["node", "storage", "proto", "chaos", "bench"] {
        sources(&root.join(package), &mut paths);
    }
    assert!(paths.len() > 40, "the walk found the sources");
    let text = |path: &Path| fs::read_to_string(path).expect("a readable source");
    paths
        .iter()
        .map(|path| (path.strip_prefix(&root).expect("below").display().to_string(), text(path)))
        .collect()
}

/// Code without comments and string literals' neighbours: line comments and doc comments do not count as a use.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or("")))
        .filter(|(_, line)| !line.trim().is_empty())
}

fn allowed(path: &str, rooms: &[&str]) -> bool {
    rooms.iter().any(|room| room.strip_suffix('*').map_or(path == *room, |prefix| path.starts_with(prefix)))
}

#[test]
fn every_name_stays_in_its_room() {
    let mut strays = Vec::new();
    for (path, text) in all_sources() {
        if path == "node/tests/ownership.rs" {
            continue;
        }
        for (number, line) in code_lines(&text) {
            for (needle, rooms) in ROOMS {
                let bare = line.trim_start();
                let word = *needle == "unsafe " && !bare.starts_with("unsafe ") && !bare.contains(" unsafe ");
                if line.contains(needle) && !word && !allowed(&path, rooms) {
                    strays.push(format!("{path}:{number}: {needle}"));
                }
            }
        }
    }
    assert!(strays.is_empty(), "names outside their room:\n{}", strays.join("\n"));
}

#[test]
fn the_ledger_and_the_placement_are_pure() {
    let mut strays = Vec::new();
    for (path, text) in all_sources() {
        if !(path.starts_with("node/src/ledger") || path.starts_with("node/src/placement")) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or("").to_owned();
        for (number, line) in code_lines(&code) {
            for needle in IMPURE.iter().filter(|needle| line.contains(**needle)) {
                strays.push(format!("{path}:{number}: {needle}"));
            }
        }
    }
    let tests: Vec<_> = strays.iter().filter(|stray| !stray.contains("/tests")).collect();
    assert!(tests.is_empty(), "clocks, randomness or I/O in pure modules:\n{tests:?}");
}

#[test]
fn every_file_says_what_it_is_about_and_is_about_one_thing() {
    let mut faults = Vec::new();
    for (path, text) in all_sources() {
        if path.ends_with("/mod.rs") {
            faults.push(format!("{path}: use foo.rs + foo/ instead of mod.rs"));
        }
        if !text.trim_start_matches("#![").contains("//!") {
            faults.push(format!("{path}: does not open with what it is about"));
        }
        let lines = text.split("#[cfg(test)]").next().unwrap_or("").lines().count();
        if lines > 550 && !path.contains("/tests") {
            faults.push(format!("{path}: {lines} lines before its tests"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
