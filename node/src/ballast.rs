//! Room that a start finds on a disk without a free byte.
//!
//! ```text
//! <data dir>/BALLAST    16 MiB, allocated, never written
//! ```
//!
//! A start writes little (its identity, the index's own files, a probe), but not nothing, and a full disk is when nodes get restarted.
//! So a node keeps a file that holds nothing while it runs, and a start that finds no room removes it. It is made again when the
//! disk has room beyond what `limits.disk_reserve_bytes` asks for (decision 0041).
//!
//! Invariants: the file is removed only at a start; it never takes the room that appends are refused for; what cannot be made or
//! removed stops nobody.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

/// Size of the file.
pub const BALLAST_BYTES: u64 = 16 << 20;
/// A start with less than this gives the ballast up.
const START_BYTES: u64 = 8 << 20;

fn path(dir: &Path) -> PathBuf {
    dir.join("BALLAST")
}

/// Whether the whole ballast is there.
#[must_use]
pub fn is_kept(dir: &Path) -> bool {
    std::fs::metadata(path(dir)).is_ok_and(|file| file.len() == BALLAST_BYTES)
}

/// Whether to make it now.
#[must_use]
pub fn is_wanted(is_kept: bool, free_bytes: Option<u64>, reserve_bytes: u64) -> bool {
    !is_kept && free_bytes.is_some_and(|free| free >= reserve_bytes.saturating_add(2 * BALLAST_BYTES))
}

/// Allocates it. What is there of it already is completed.
///
/// # Errors
/// There is no room after all, or the file system refuses.
pub fn make(dir: &Path) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(path(dir))?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
        Ok(()) => {}
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => fill(&file)?,
        Err(error) => return Err(error.into()),
    }
    file.sync_all()
}

fn fill(mut file: &File) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    (0..BALLAST_BYTES >> 20).try_for_each(|_| file.write_all(&zeros))
}

/// At a start: removes it if there is no room without it. Says whether it did.
///
/// # Errors
/// The file cannot be removed.
pub fn give_up(dir: &Path, free_bytes: Option<u64>) -> io::Result<bool> {
    if free_bytes.is_none_or(|free| free >= START_BYTES) {
        return Ok(false);
    }
    match std::fs::remove_file(path(dir)) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    // The blocks are free when the removal is on the disk.
    File::open(dir)?.sync_all()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_without_room_gives_it_up_and_only_that() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!is_kept(dir.path()));
        assert!(!give_up(dir.path(), Some(0)).unwrap(), "there is none yet");
        make(dir.path()).unwrap();
        make(dir.path()).unwrap();
        assert!(is_kept(dir.path()));
        assert!(!give_up(dir.path(), Some(START_BYTES)).unwrap(), "there is room");
        assert!(!give_up(dir.path(), None).unwrap(), "nobody knows");
        assert!(is_kept(dir.path()));
        assert!(give_up(dir.path(), Some(START_BYTES - 1)).unwrap());
        assert!(!is_kept(dir.path()));
    }

    #[test]
    fn it_takes_none_of_the_room_that_appends_are_refused_for() {
        const RESERVE: u64 = 64 << 20;
        assert!(!is_wanted(true, Some(u64::MAX), RESERVE), "it is there");
        assert!(!is_wanted(false, None, RESERVE), "nobody knows");
        assert!(
            !is_wanted(false, Some(RESERVE + BALLAST_BYTES), RESERVE),
            "appends would be refused for it soon"
        );
        assert!(is_wanted(false, Some(RESERVE + 2 * BALLAST_BYTES), RESERVE));
        assert!(!is_wanted(false, Some(u64::MAX - 1), u64::MAX));
    }
}
