//! Children of the harness die with it, however it ends.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tercet_chaos::cluster::child::Nursery;

const PATIENCE: Duration = Duration::from_secs(20);

fn launcher() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_tercet-chaos"))
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The state letter of `/proc/PID/stat`; none if there is no such process.
fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn is_running(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z')
}

#[test]
fn children_run_pause_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let nursery = Nursery::new(launcher()).unwrap();
    let log = dir.path().join("log");
    let arguments = ["-c".into(), "echo started; exec sleep 600".into()];
    let mut child = nursery.start("sleeper", Path::new("/bin/sh"), &arguments, &[], &log).unwrap();
    let pid = child.pid();
    wait_until("the child speaks", || std::fs::read_to_string(&log).is_ok_and(|text| text == "started\n"));
    assert_eq!(child.ended().unwrap(), None);
    child.pause().unwrap();
    wait_until("it stops", || state(pid) == Some('T'));
    child.resume().unwrap();
    wait_until("it goes on", || state(pid) == Some('S'));
    child.terminate().unwrap();
    let status = child.wait_or_kill(PATIENCE).unwrap().unwrap();
    assert_eq!(status.signal(), Some(15));
    assert!(child.pause().is_err(), "it has ended");

    let child = nursery.start("sleeper", Path::new("/bin/sh"), &arguments, &[], &log).unwrap();
    let pid = child.pid();
    drop(child);
    assert!(!is_running(pid), "dropping a child kills it");
}

#[test]
fn a_program_that_cannot_be_started_ends_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let nursery = Nursery::new(launcher()).unwrap();
    let log = dir.path().join("log");
    let mut child = nursery.start("nothing", Path::new("/nonexistent/program"), &[], &[], &log).unwrap();
    let status = child.wait_or_kill(PATIENCE).unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(std::fs::read_to_string(&log).unwrap().contains("/nonexistent/program"));
}

/// `kill -9` of the parent: a stand-in for the harness starts a child, says its pid, and is killed.
#[test]
fn children_die_with_a_parent_that_is_killed() {
    let script = format!("{} child --parent $$ -- /bin/sleep 600 & echo $!; wait", launcher().display());
    let mut parent = Command::new("/bin/sh").args(["-c", &script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut output = std::io::BufReader::new(parent.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    let child: u32 = line.trim().parse().unwrap();
    wait_until("the child has become sleep", || {
        std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "sleep")
    });
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_until("the child is gone", || !is_running(child));
}

#[test]
fn a_child_whose_parent_is_gone_already_does_not_start() {
    let output = Command::new(launcher())
        .args(["child", "--parent", "1", "--", "/bin/sleep", "600"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("parent process is gone"));
}
