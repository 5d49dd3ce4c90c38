//! The portable disk: pwrite and fdatasync on a thread of its own, for systems without io_uring.
//!
//! The thread takes everything that waits, writes it, and syncs each file once: an fdatasync that begins after several
//! writes covers them all. Invariant: a write is completed without an error only after such an fdatasync.

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Something was submitted, or the disk is being dropped.
    submitted: Condvar,
    /// Something has finished, or somebody called `wake`.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<SegmentWrite>,
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
            submitted: Condvar::new(),
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
                while state.waiting.is_empty() && !state.stop {
                    state = self.submitted.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if state.waiting.is_empty() {
                    return;
                }
                std::mem::take(&mut state.waiting)
            };
            let completions = self.write_all(batch);
            self.lock().done.extend(completions);
            self.finished.notify_all();
        }
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
        self.shared.submitted.notify_one();
        Ok(())
    }

    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let deadline = match wait {
            Wait::No => Some(Instant::now()),
            Wait::AtMostUs(us) => Some(Instant::now() + Duration::from_micros(us)),
            Wait::Forever => None,
        };
        let mut state = self.shared.lock();
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
        state.woken = false;
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
        self.shared.lock().stop = true;
        self.shared.submitted.notify_all();
        if let Some(writer) = self.writer.take() {
            // A panic of the thread has been reported by the panic hook; there is nothing left to do about it here.
            let _ = writer.join();
        }
    }
}
