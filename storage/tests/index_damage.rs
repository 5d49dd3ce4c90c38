//! The index under damage: files cut short, overwritten, missing, strange; writers killed.
//!
//! Whatever lies in the directory, opening gives an index or a typed error, in time, and an index that was moved aside is
//! empty. The index holds only what can be rebuilt; what must not happen is a panic that escapes, or a hang.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should fail where it stands")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_storage::index::{Index, IndexError};

/// Longer than any of this takes.
const DEADLINE: Duration = Duration::from_secs(60);

/// Does something on a thread of its own; a hang is a failure.
fn in_time<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn(move || sender.send(work()).unwrap_or(()));
    let outcome = receiver.recv_timeout(DEADLINE);
    match outcome {
        Ok(outcome) => outcome,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match thread.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => panic!("{what}: ended without an outcome"),
        },
    }
}

fn key(number: u32) -> Vec<u8> {
    format!("key {:08}", u64::from(number) * 7_919 % 10_007).into_bytes()
}

/// The changes of one batch: every key of it says which batch it was.
fn changes(batch: u32) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut changes: Vec<_> =
        (0..500).map(|number| (key(batch * 300 + number), Some(batch.to_be_bytes().to_vec()))).collect();
    changes.push((b"batch".to_vec(), Some(batch.to_be_bytes().to_vec())));
    changes.sort();
    changes
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        // A file may go while its directory is being copied.
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).unwrap_or(()) }
    }
}

/// Opens, reads everything, writes: each step succeeds or is refused with a type. Says whether it was moved aside.
fn use_it(dir: &Path) -> Result<bool, IndexError> {
    let index = Index::open(dir)?;
    let is_aside = index.moved_aside().is_some();
    let batch = index.get(b"batch")?;
    let mut count = 0_u32;
    index.scan_prefix(b"key", &mut |_, _| {
        count += 1;
        true
    })?;
    assert!(!is_aside || (count == 0 && batch.is_none()), "what took a damaged index's place is empty");
    index.floor(b"key", b"key 5")?;
    index.commit(vec![(b"key 0".to_vec(), Some(vec![1]))])?;
    Ok(is_aside)
}

fn sample(dir: &Path) {
    let index = Index::open(dir).unwrap();
    for batch in 0..6 {
        index.commit(changes(batch)).unwrap();
    }
}

/// Opens a damaged copy of a sample, in time. Says whether it was moved aside, or refused.
fn damaged(sample: &Path, what: &str, damage: impl FnOnce(&Path)) -> &'static str {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    copy(sample, &path);
    damage(&path);
    let outcome = in_time(what, move || use_it(&path));
    match outcome {
        Ok(true) => "moved aside",
        Ok(false) => "opened",
        Err(_) => "refused",
    }
}

#[test]
fn damaged_files_are_refused_or_moved_aside_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    sample(&path);
    // sled makes a heap file for each size of object: most are empty, and a few of those will do.
    let (empty, full): (Vec<PathBuf>, Vec<PathBuf>) =
        files(&path).into_iter().partition(|path| fs::metadata(path).unwrap().len() == 0);
    assert!(full.len() >= 3, "{full:?}");
    let names: Vec<PathBuf> = full.into_iter().chain(empty.into_iter().take(2)).collect();
    let mut rng = StdRng::seed_from_u64(1);
    let mut outcomes = std::collections::BTreeMap::<&str, u32>::new();
    for name in &names {
        let name = name.strip_prefix(&path).unwrap().to_path_buf();
        let length = usize::try_from(fs::metadata(path.join(&name)).unwrap().len()).unwrap();
        let mut note = |outcome| *outcomes.entry(outcome).or_default() += 1;
        let shown = name.display().to_string();
        note(damaged(&path, &format!("{shown} missing"), |dir| fs::remove_file(dir.join(&name)).unwrap()));
        for fill in [0, 0xff, b'x'] {
            note(damaged(&path, &format!("{shown} filled with {fill}"), |dir| {
                fs::write(dir.join(&name), vec![fill; length.max(100)]).unwrap();
            }));
        }
        for cut in [0, 1, length / 3, length / 2, length.saturating_sub(1)] {
            note(damaged(&path, &format!("{shown} cut to {cut}"), |dir| {
                let content = fs::read(dir.join(&name)).unwrap();
                fs::write(dir.join(&name), &content[..cut.min(content.len())]).unwrap();
            }));
        }
        for _ in 0..6 {
            let at = rng.random_range(0..length.max(1));
            note(damaged(&path, &format!("{shown}, byte {at} flipped"), |dir| {
                let mut content = fs::read(dir.join(&name)).unwrap();
                if let Some(byte) = content.get_mut(at) {
                    *byte ^= 0x41;
                }
                fs::write(dir.join(&name), content).unwrap();
            }));
        }
    }
    let mut note = |outcome| *outcomes.entry(outcome).or_default() += 1;
    note(damaged(&path, "a file in the directory's place", |dir| {
        fs::remove_dir_all(dir).unwrap();
        fs::write(dir, b"nonsense").unwrap();
    }));
    note(damaged(&path, "a strange file beside", |dir| fs::write(dir.join("strange"), b"x").unwrap()));
    println!("{outcomes:?}");
    assert!(outcomes.get("moved aside").is_some_and(|count| *count > 0), "{outcomes:?}");
}

/// Set for the child that writes until it is killed: the index's directory.
const WRITER_DIR: &str = "TERCET_TEST_INDEX_WRITER";
/// What the child prints after each batch.
const COMMITTED: &str = "committed ";

/// The batch that an index is at.
fn batch_of(index: &Index) -> Option<u32> {
    let value = index.get(b"batch").unwrap()?;
    Some(u32::from_be_bytes(value.try_into().unwrap()))
}

/// Not a test of its own: the process that [`a_killed_writer_leaves_whole_batches`] kills.
#[test]
fn a_writer_to_be_killed() {
    let Some(dir) = std::env::var_os(WRITER_DIR) else { return };
    let index = Index::open(Path::new(&dir)).unwrap();
    let first = batch_of(&index).map_or(0, |batch| batch + 1);
    for batch in first.. {
        index.commit(changes(batch)).unwrap();
        println!("{COMMITTED}{batch}");
    }
}

/// Writes until so many batches have been committed, then dies of SIGKILL. Says which was the last that it told of.
fn write_and_die(dir: &Path, batches: usize) -> u32 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_writer_to_be_killed", "--nocapture"])
        .env(WRITER_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut committed = told.filter_map(|line| line.strip_prefix(COMMITTED)?.parse::<u32>().ok());
    let last = committed.by_ref().take(batches).last().unwrap();
    child.kill().unwrap();
    let last = committed.last().unwrap_or(last);
    child.wait().unwrap();
    last
}

#[test]
fn a_killed_writer_leaves_whole_batches() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut rng = StdRng::seed_from_u64(2);
    for round in 0..8 {
        let told = write_and_die(&path, rng.random_range(1..12));
        let here = path.clone();
        in_time(&format!("round {round}"), move || {
            let index = Index::open(&here).unwrap();
            assert_eq!(index.moved_aside(), None, "a kill damages nothing");
            let batch = batch_of(&index).unwrap();
            assert!(batch == told || batch == told + 1, "told of {told}, holds {batch}");
            for (key, value) in changes(batch) {
                assert_eq!(index.get(&key).unwrap(), value, "batch {batch} is whole");
            }
        });
    }
}
