//! `kill -9` of the harness in mid-fault: nothing is left after the fault's deadline. No proxy or node (running or stopped),
//! no namespace, no nftables rule (a rule lives as long as its network namespace), no mount, no loop device, no frozen file
//! system.
//!
//! Needs the `tercet` executable beside `tercet-chaos`, which `cargo test --workspace` builds. Faults that need what is not
//! to be had here are skipped, and it says so.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// From a start on a busy machine to the first fault.
const UNTIL_THE_FAULT: Duration = Duration::from_secs(90);
/// After the kill: longer than any fault of these scenarios lasts.
const DEADLINE: Duration = Duration::from_secs(20);

fn wait_until(what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !condition() {
        assert!(Instant::now() < end, "{what}: not within {patience:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every process whose command line names the directory, and its state.
fn processes_of(dir: &Path) -> Vec<(u32, char)> {
    let needle = dir.to_str().unwrap().as_bytes();
    let names = |path: PathBuf| {
        std::fs::read(path).is_ok_and(|text| text.windows(needle.len()).any(|part| part == needle))
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
        // This test names it in no argument; its children do.
        if pid == std::process::id() || !names(entry.path().join("cmdline")) {
            continue;
        }
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if let Some(state) = state.filter(|state| *state != 'Z') {
            found.push((pid, state));
        }
    }
    found
}

/// The namespaces of this kind that any process is in.
fn namespaces(kind: &str) -> BTreeSet<PathBuf> {
    let of = |entry: std::fs::DirEntry| std::fs::read_link(entry.path().join("ns").join(kind)).ok();
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

/// The namespaces of a process.
fn namespace_of(pid: u32, kind: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap()
}

/// Whether anything that the kernel keeps names the directory: a mount that this process sees, or a loop device.
fn kept_by_the_kernel(dir: &Path) -> Option<String> {
    let name = dir.to_str().unwrap();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    if let Some(mount) = mounts.lines().find(|line| line.contains(name)) {
        return Some(format!("mount {mount}"));
    }
    std::fs::read_dir("/sys/block").into_iter().flatten().flatten().find_map(|device| {
        let file = std::fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        file.contains(name).then(|| format!("loop device {:?} of {file}", device.file_name()))
    })
}

/// Runs a scenario of these lines, kills the harness with SIGKILL when it says `said`, and looks for what is left. False
/// if the scenario is skipped here.
fn kill_in(name: &str, lines: &str, said: &str) -> bool {
    let harness = PathBuf::from(env!("CARGO_BIN_EXE_tercet-chaos"));
    let tercet = harness.with_file_name("tercet");
    assert!(tercet.is_file(), "{}: build it first, `cargo build -p tercet-node`", tercet.display());
    let dir = tempfile::tempdir().unwrap();
    let scenario = dir.path().join(format!("{name}.toml"));
    std::fs::write(&scenario, format!("name = \"{name}\"\ndescription = \"\"\n{lines}")).unwrap();
    let (own_net, own_mnt) = (namespaces("net"), namespaces("mnt"));
    let mut run = Command::new(harness)
        .args(["run", "--tercet"])
        .arg(&tercet)
        .arg("--out")
        .arg(dir.path().join("out"))
        .arg(&scenario)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(run.stderr.take().unwrap());
    let (begin, mut heard) = (Instant::now(), String::new());
    while !heard.contains(said) {
        assert!(begin.elapsed() < UNTIL_THE_FAULT, "{name}: {heard}");
        if output.read_line(&mut heard).unwrap() == 0 {
            let mut result = String::new();
            std::io::Read::read_to_string(&mut run.stdout.take().unwrap(), &mut result).unwrap();
            assert!(
                run.wait().unwrap().success() && result.starts_with("SKIPPED"),
                "{name}: {heard}{result}"
            );
            println!("{}", result.trim());
            return false;
        }
    }
    assert!(processes_of(dir.path()).len() >= 5, "the nodes run");
    let namespaces_of_run =
        [("net", own_net), ("mnt", own_mnt)].map(|(kind, known)| (kind, namespace_of(run.id(), kind), known));
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until(name, DEADLINE, || processes_of(dir.path()).is_empty());
    wait_until(name, DEADLINE, || kept_by_the_kernel(dir.path()).is_none());
    for (kind, namespace, known) in namespaces_of_run {
        wait_until(name, DEADLINE, || known.contains(&namespace) || !namespaces(kind).contains(&namespace));
    }
    true
}

#[test]
fn links_and_stopped_processes_end_with_a_killed_harness() {
    let steps = "\
        [[steps]]\nat = '500ms'\nfault = 'pause'\nzone = 'b'\nfor = '10s'\n\
        [[steps]]\nat = '1s'\nfault = 'blackhole'\nlinks = ['a <-> everything']\nfor = '10s'\n";
    assert!(kill_in("links", steps, "blackhole a1, a2"));
}

#[test]
fn a_network_namespace_and_its_rules_end_with_a_killed_harness() {
    let steps = "\
        [cluster]\nnetwork = 'namespace'\n\
        [[steps]]\nat = '1s'\nfault = 'blackhole'\nlinks = ['a <-> everything']\nfor = '10s'\n";
    kill_in("packets", steps, "blackhole a1, a2");
}

#[test]
fn mounts_and_a_frozen_disk_end_with_a_killed_harness() {
    let steps = "\
        [cluster]\nloop_disk_mib = 320\n\
        [[steps]]\nat = '500ms'\nfault = 'fill'\nnode = 'c1'\nfor = '10s'\n\
        [[steps]]\nat = '1s'\nfault = 'stall'\nnode = 'b2'\nflap = '2s'\nfor = '10s'\n";
    kill_in("disks", steps, "stall the disk of b2");
}
