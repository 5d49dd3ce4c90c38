//! The portable disk: pwrite and fdatasync on a thread of its own, for systems without io_uring.
//!
//! The thread takes everything that waits, writes it, and syncs each file once: an fdatasync that begins after several
//! writes covers them all. A write that meets no other is done in the same way on the thread that waits for it, which
//! saves two thread switches (see `alone.rs`). Invariant: a write is completed without an error only after such an
//! fdatasync.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::alone::Company;
use super::directory::{Directory, segment_name};
use super::{Completion, Disk, DiskError, SegmentFile, SegmentWrite, Wait};

/// A directory written with plain system calls.
pub struct PortableDisk {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

struct Shared {
    directory: Directory,
    state: Mutex<State>,
    /// Something is to be written by the thread, or the disk is being dropped.
    begun: Condvar,
    /// Something has finished, or somebody called `wake`.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    /// Handed in, not begun.
    waiting: Vec<SegmentWrite>,
    /// For the writing thread.
    begun: Vec<SegmentWrite>,
    /// How many writes the thread has: begun, or in its hands.
    under_way: usize,
    company: Company,
    done: Vec<Completion>,
    woken: bool,
    stop: bool,
}

impl PortableDisk {
    /// Opens or makes the directory and starts the writing thread.
    pub fn open(dir: &Path) -> Result<PortableDisk, DiskError> {
        let shared = Arc::new(Shared::over(Directory::open(dir, true)?));
        let theirs = Arc::clone(&shared);
        let writer = std::thread::Builder::new()
            .name("log-disk".to_owned())
            .spawn(move || theirs.write_until_stopped())
            .map_err(|error| {
                DiskError::io("start the writing thread of", dir.display().to_string(), &error)
            })?;
        Ok(PortableDisk { shared, writer: Some(writer) })
    }

    /// Opens an existing directory for reading only.
    pub(super) fn open_read_only(dir: &Path) -> Result<PortableDisk, DiskError> {
        let directory = Directory::open_existing(dir, true)?;
        Ok(PortableDisk { shared: Arc::new(Shared::over(directory)), writer: None })
    }
}

impl Shared {
    fn over(directory: Directory) -> Shared {
        Shared {
            directory,
            state: Mutex::new(State::default()),
            begun: Condvar::new(),
            finished: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_until_stopped(&self) {
        loop {
            let batch = {
                let mut state = self.lock();
                while state.begun.is_empty() && !state.stop {
                    state = self.begun.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.begun.is_empty() {
                    return;
                }
                std::mem::take(&mut state.begun)
            };
            let completions = self.write_all(batch);
            {
                let mut state = self.lock();
                state.under_way -= completions.len();
                state.done.extend(completions);
            }
            self.finished.notify_all();
        }
    }

    /// Hands what waits to the writing thread.
    fn begin(&self, state: &mut State) {
        if state.waiting.is_empty() {
            return;
        }
        state.under_way += state.waiting.len();
        let mut waiting = std::mem::take(&mut state.waiting);
        state.begun.append(&mut waiting);
        self.begun.notify_one();
    }

    fn write_all(&self, batch: Vec<SegmentWrite>) -> Vec<Completion> {
        let mut completions = Vec::with_capacity(batch.len());
        let mut written = BTreeSet::new();
        let mut segments = Vec::with_capacity(batch.len());
        for write in batch {
            let result = self.directory.segment(write.segment).and_then(|open| {
                open.write
                    .write_all_at(write.buffer.as_slice(), write.offset)
                    .map_err(|error| DiskError::io("write", segment_name(write.segment), &error))
            });
            written.insert(write.segment);
            segments.push(write.segment);
            completions.push(Completion { token: write.token, buffer: write.buffer, result });
        }
        for segment in written {
            if let Err(error) = self.directory.sync(segment) {
                for (completion, _) in completions.iter_mut().zip(&segments).filter(|(_, of)| **of == segment)
                {
                    completion.result = Err(error.clone());
                }
            }
        }
        completions
    }
}

impl Disk for PortableDisk {
    fn description(&self) -> String {
        let how = if self.shared.directory.is_direct() { "O_DIRECT" } else { "buffered" };
        format!(
            "portable: {how} pwrite and fdatasync on a thread, {}",
            self.shared.directory.path().display()
        )
    }

    fn segments(&self) -> Result<Vec<SegmentFile>, DiskError> {
        self.shared.directory.segments()
    }

    fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError> {
        self.shared.directory.create(segment, bytes)
    }

    fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError> {
        self.shared.directory.recycle(old, new, bytes)
    }

    fn remove(&self, segment: u32) -> Result<(), DiskError> {
        self.shared.directory.remove(segment)
    }

    fn sync(&self, segment: u32) -> Result<(), DiskError> {
        self.shared.directory.sync(segment)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.shared.directory.free_bytes()
    }

    fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.shared.directory.read_at(segment, offset, into)
    }

    fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.shared.directory.read_note(name)
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        self.shared.directory.write_note(name, content)
    }

    fn submit(&self, write: SegmentWrite) -> Result<(), DiskError> {
        if self.writer.is_none() {
            return Err(DiskError::ReadOnly);
        }
        self.shared.lock().waiting.push(write);
        Ok(())
    }

    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let deadline = match wait {
            Wait::No => Some(Instant::now()),
            Wait::AtMostUs(us) => Some(Instant::now() + Duration::from_micros(us)),
            Wait::Forever => None,
        };
        let mut state = self.shared.lock();
        let is_alone = state.under_way == 0 && state.waiting.len() == 1 && state.company.is_alone();
        if wait == Wait::Forever && is_alone && state.done.is_empty() {
            let write = std::mem::take(&mut state.waiting);
            drop(state);
            let begin = Instant::now();
            let bytes = write.iter().map(|write| write.buffer.len()).sum();
            into.extend(self.shared.write_all(write));
            let mut state = self.shared.lock();
            let met = std::mem::take(&mut state.woken);
            state.company.wrote_here(met, bytes, begin.elapsed());
            return Ok(());
        }
        self.shared.begin(&mut state);
        let under_way = state.under_way;
        while state.done.is_empty() && !state.woken {
            let Some(deadline) = deadline else {
                state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.shared.finished.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let woken = std::mem::take(&mut state.woken);
        if under_way > 0 && (woken || !state.done.is_empty()) {
            state.company.wrote(woken || under_way > 1);
        }
        into.append(&mut state.done);
        Ok(())
    }

    fn wake(&self) {
        self.shared.lock().woken = true;
        self.shared.finished.notify_all();
    }
}

impl Drop for PortableDisk {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            self.shared.begin(&mut state);
            state.stop = true;
        }
        self.shared.begun.notify_all();
        if let Some(writer) = self.writer.take() {
            // A panic of the thread has been reported by the panic hook; there is nothing left to do about it here.
            let _ = writer.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{AlignedBuffer, BLOCK_BYTES};

    #[test]
    fn lone_writes_and_many_at_once_are_written_and_handed_back() {
        let dir = tempfile::tempdir().unwrap();
        let disk = PortableDisk::open(dir.path()).unwrap();
        disk.create(1, 64 * 4096).unwrap();
        let submit = |token: u64| {
            let mut buffer = AlignedBuffer::with_capacity(BLOCK_BYTES);
            buffer.set_len(BLOCK_BYTES);
            buffer.as_mut_slice().fill(u8::try_from(token).unwrap() + 1);
            disk.submit(SegmentWrite { token, segment: 1, offset: token * 4096, buffer }).unwrap();
        };
        let finish = |count: usize| {
            let mut done = Vec::new();
            while done.len() < count {
                disk.completions(Wait::Forever, &mut done).unwrap();
            }
            assert!(done.iter().all(|completion| completion.result.is_ok()));
        };
        submit(0);
        finish(1);
        assert_eq!(disk.shared.lock().under_way, 0);
        disk.shared.lock().company = Company::default();
        (1..9).for_each(submit);
        finish(8);
        assert!(!disk.shared.lock().company.is_alone());
        // Handed in, never waited for: written all the same when the disk is dropped.
        (9..12).for_each(submit);
        drop(disk);
        let again = PortableDisk::open(dir.path()).unwrap();
        let mut content = vec![0; 12 * 4096];
        again.read_at(1, 0, &mut content).unwrap();
        for (block, bytes) in content.chunks(4096).enumerate() {
            assert!(bytes.iter().all(|byte| usize::from(*byte) == block + 1), "block {block}");
        }
    }
}
