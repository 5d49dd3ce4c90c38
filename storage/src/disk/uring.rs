//! The io_uring disk: O_DIRECT writes through one ring, each synchronous (RWF_DSYNC) or linked to an fdatasync.
//!
//! A write that meets no other is done synchronously on the thread that waits for it; which way the others take is said in `alone.rs`
//! (the ring hands each fdatasync to a kernel thread of its own, which costs two switches). Only the one thread that submits enters the ring:
//! requests belong to the thread that handed them in, and what becomes of them when it ends was not tried. So nobody
//! submits on behalf of the committer.
//!
//! The only file of Tercet with `unsafe`. What makes it sound, in one place:
//! - Every buffer that the ring has been told of is owned by the ring's `pending` table (or is the wake-up counter,
//!   which the ring owns on the heap) from before its entry is pushed until its completion has been taken.
//! - The file descriptors are kept open by the same table.
//! - Dropping the disk waits for every completion; if that cannot be had, the memory is leaked rather than freed.
//! - Stores past the cache go to memory that is borrowed for writing, and a fence ends them before the borrow does.
//!
//! Other invariants: one write and its fdatasync are pushed together (or neither is), so that a link never dangles; a
//! short write is an error, and the kernel then cancels the linked fdatasync; a synchronous write is made only where the file system is
//! known to honour it.

#![allow(unsafe_code)]

use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, Probe, opcode, types};
use rustix::event::EventfdFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::alone::{Company, Doorbell, Trial, short_write, write_here};
use super::directory::{Directory, OpenSegment, segment_name};
use super::{AlignedBuffer, Completion, Disk, DiskError, SegmentFile, SegmentWrite, Wait};

/// Room for this many entries: 127 writes with their fsyncs, and the wake-up.
const RING_ENTRIES: u32 = 256;
/// `user_data` of the read on the eventfd. Writes use `token * 2` and their fsyncs `token * 2 + 1`, which stay below.
const WAKE: u64 = u64::MAX;
/// What is shorter is copied as usual: records of 256 bytes gained nothing, those of 4 KiB lost 2 us a batch of 16.
const STREAM_FROM_BYTES: usize = 16 << 10;

/// A directory written through io_uring.
pub struct UringDisk {
    directory: Directory,
    bell: Doorbell,
    /// Ends a wait in the ring.
    wake: OwnedFd,
    /// Held while its thread waits in the ring.
    ring: Mutex<Ring>,
    /// Whether writes in the ring may be synchronous.
    is_synchronous: bool,
}

struct Ring {
    ring: IoUring,
    /// Handed in, not begun.
    waiting: Vec<(SegmentWrite, Arc<OpenSegment>)>,
    company: Company,
    /// Synchronous writes in the ring; none where they are not to be had.
    synchronous: Option<Trial>,
    /// What the kernel may still touch, by token.
    pending: HashMap<u64, Pending>,
    /// Where the kernel puts the eventfd's counter: on the heap, so that it does not move.
    counter: Box<[u8; 8]>,
    /// Whether a read of the eventfd is under way.
    armed: bool,
}

struct Pending {
    segment: u32,
    /// Keeps the descriptor open.
    file: Arc<OpenSegment>,
    buffer: AlignedBuffer,
    begun: Instant,
    write: Option<i32>,
    /// A synchronous write needs none.
    fsync: Option<Fsync>,
}

/// The fdatasync that is linked to a write.
#[derive(Clone, Copy)]
enum Fsync {
    UnderWay,
    Ended(i32),
}

/// Says whether this system offers the io_uring operations that Tercet needs, and if not, why.
pub fn uring_available() -> Result<(), DiskError> {
    new_ring().map(drop)
}

fn new_ring() -> Result<IoUring, DiskError> {
    let unavailable = |reason: String| DiskError::UringUnavailable { reason };
    let ring = IoUring::builder()
        .setup_coop_taskrun()
        .setup_clamp()
        .build(RING_ENTRIES)
        .or_else(|error| match error.raw_os_error() {
            // Kernels before 5.19 do not know cooperative task running; everything else works without it.
            Some(code) if code == Errno::INVAL.raw_os_error() => IoUring::new(RING_ENTRIES),
            _ => Err(error),
        })
        .map_err(|error| {
            unavailable(match error.raw_os_error() {
                Some(code) if code == Errno::NOSYS.raw_os_error() => {
                    "the kernel has no io_uring (ENOSYS); Linux 5.11 or newer has it".to_owned()
                }
                Some(code) if code == Errno::PERM.raw_os_error() || code == Errno::ACCESS.raw_os_error() => {
                    format!("the system forbids it ({error}); see the sysctl kernel.io_uring_disabled and the container's filter")
                }
                _ => error.to_string(),
            })
        })?;
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|error| unavailable(format!("its operations cannot be listed: {error}")))?;
    for (name, code) in
        [("WRITE", opcode::Write::CODE), ("READ", opcode::Read::CODE), ("FSYNC", opcode::Fsync::CODE)]
    {
        if !probe.is_supported(code) {
            return Err(unavailable(format!(
                "the kernel lacks its operation {name}; Linux 5.11 or newer has it"
            )));
        }
    }
    if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_nodrop() {
        return Err(unavailable(
            "the kernel's io_uring is too old; Linux 5.11 or newer is needed".to_owned(),
        ));
    }
    Ok(ring)
}

impl UringDisk {
    /// Opens or makes the directory and sets the ring up.
    pub fn open(dir: &Path) -> Result<UringDisk, DiskError> {
        let directory = Directory::open(dir, true)?;
        let is_synchronous = directory.is_synchronous();
        UringDisk::over(directory, is_synchronous)
    }

    /// The same, but no write in the ring is a synchronous one: each is linked to an fdatasync.
    pub fn open_linked(dir: &Path) -> Result<UringDisk, DiskError> {
        UringDisk::over(Directory::open(dir, true)?, false)
    }

    fn over(directory: Directory, is_synchronous: bool) -> Result<UringDisk, DiskError> {
        let ring = new_ring()?;
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| {
            DiskError::io("make an eventfd for", directory.path().display().to_string(), &error.into())
        })?;
        let ring = Ring {
            ring,
            waiting: Vec::new(),
            company: Company::default(),
            synchronous: is_synchronous.then(Trial::default),
            pending: HashMap::new(),
            counter: Box::new([0; 8]),
            armed: false,
        };
        Ok(UringDisk { directory, bell: Doorbell::default(), wake, ring: Mutex::new(ring), is_synchronous })
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands what has been pushed to the kernel and takes what has finished.
    fn wait_in_ring(&self, ring: &mut Ring, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let under_way = ring.pending.len();
        let mut knocked = false;
        if wait == Wait::No {
            ring.enter(Wait::No)?;
        } else {
            ring.arm(&self.wake)?;
            let wait = if self.bell.leave() { wait } else { Wait::No };
            let entered = ring.enter(wait);
            knocked = self.bell.answer();
            entered?;
        }
        ring.settle(into);
        if ring.pending.len() < under_way || knocked {
            ring.company.wrote(knocked || under_way > 1);
        }
        Ok(())
    }
}

/// Copies past the cache, for it is the device that reads these bytes next. On a virtual machine a usual copy of a MiB took 0.03 ms for a
/// while and 0.41 for another, most likely as the host's thread that plays the device read the buffer through another core's cache and
/// each line had to be had back from there. This takes 0.04 always.
#[cfg(all(target_arch = "x86_64", not(miri)))]
fn stream(target: &mut [u8], bytes: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const WORD_BYTES: usize = size_of::<__m128i>();

    /// A line of the cache.
    #[repr(align(64))]
    struct Line([__m128i; 4]);

    // SAFETY: a `Line` has no padding, and whatever is in its bytes is a value of it.
    let (head, lines, tail) = unsafe { target.align_to_mut::<Line>() };
    let (first, rest) = bytes.split_at(head.len());
    let (middle, last) = rest.split_at(size_of_val(lines));
    head.copy_from_slice(first);
    tail.copy_from_slice(last);
    let (words, _) = middle.as_chunks::<WORD_BYTES>();
    let (pieces, _) = words.as_chunks::<4>();
    for (line, piece) in lines.iter_mut().zip(pieces) {
        // All four are read before the first is written, so that the line goes out whole.
        // SAFETY: `from` is 16 bytes. Every x86-64 has SSE2.
        let read = piece.each_ref().map(|from| unsafe { _mm_loadu_si128(from.as_ptr().cast()) });
        for (word, read) in line.0.iter_mut().zip(read) {
            // SAFETY: `word` is 16 aligned bytes, borrowed here alone, and nobody else sees them before the fence below.
            unsafe { _mm_stream_si128(word, read) };
        }
    }
    // SAFETY: as above.
    unsafe { _mm_sfence() };
}

/// Other processors copy as usual.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn stream(target: &mut [u8], bytes: &[u8]) {
    target.copy_from_slice(bytes);
}

impl Ring {
    /// Pushes the read of the eventfd unless one is under way.
    fn arm(&mut self, wake: &OwnedFd) -> Result<(), DiskError> {
        if self.armed {
            return Ok(());
        }
        let read = opcode::Read::new(types::Fd(wake.as_raw_fd()), self.counter.as_mut_ptr(), 8)
            .build()
            .user_data(WAKE);
        // SAFETY: `counter` is on the heap and owned by this ring, which is not freed before the read has completed
        // (see `Drop`); the eventfd is owned by the same disk. `armed` keeps a second read from sharing the memory.
        unsafe { self.push(&[read]) }?;
        self.armed = true;
        Ok(())
    }

    /// Pushes entries, all or none; makes room by submitting what is queued.
    ///
    /// # Safety
    /// The memory and descriptors that the entries name must stay valid until their completions have been taken.
    unsafe fn push(&mut self, entries: &[Entry]) -> Result<(), DiskError> {
        for _ in 0..2 {
            // SAFETY: the caller answers for the entries; `push_multiple` pushes all of them or none.
            if unsafe { self.ring.submission().push_multiple(entries) }.is_ok() {
                return Ok(());
            }
            match self.ring.submit() {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(error) => return Err(DiskError::io("submit to", "io_uring", &error)),
            }
        }
        Err(DiskError::Io {
            operation: "submit to",
            subject: "io_uring".to_owned(),
            errno: None,
            message: "the submission queue stays full".to_owned(),
        })
    }

    /// The write that may be done on the calling thread: the only one, where none are expected to come.
    fn take_lone(&mut self) -> Option<(SegmentWrite, Arc<OpenSegment>)> {
        let is_alone = self.pending.is_empty() && self.waiting.len() == 1 && self.company.is_alone();
        if is_alone { self.waiting.pop() } else { None }
    }

    /// Pushes what has been handed in.
    fn push_waiting(&mut self) -> Result<(), DiskError> {
        for (write, file) in std::mem::take(&mut self.waiting) {
            self.push_write(write, file)?;
        }
        Ok(())
    }

    fn push_write(&mut self, write: SegmentWrite, file: Arc<OpenSegment>) -> Result<(), DiskError> {
        let token = write.token;
        let bytes = u32::try_from(write.buffer.len()).map_err(|_| DiskError::Io {
            operation: "write",
            subject: segment_name(write.segment),
            errno: None,
            message: "more than 4 GiB in one write".to_owned(),
        })?;
        let fd = types::Fd(file.write.as_raw_fd());
        let is_synchronous = self.synchronous.as_ref().is_some_and(Trial::is_open);
        let writing = opcode::Write::new(fd, write.buffer.as_slice().as_ptr(), bytes).offset(write.offset);
        let entries = if is_synchronous {
            vec![writing.rw_flags(ReadWriteFlags::DSYNC.bits().cast_signed()).build().user_data(token * 2)]
        } else {
            self.synchronous.iter_mut().for_each(Trial::passed);
            let fsync = opcode::Fsync::new(fd).flags(types::FsyncFlags::DATASYNC);
            vec![
                writing.build().flags(Flags::IO_LINK).user_data(token * 2),
                fsync.build().user_data(token * 2 + 1),
            ]
        };
        let pending = Pending {
            segment: write.segment,
            file,
            buffer: write.buffer,
            begun: Instant::now(),
            write: None,
            fsync: (!is_synchronous).then_some(Fsync::UnderWay),
        };
        self.pending.insert(token, pending);
        // SAFETY: `pending` now owns the buffer, whose storage does not move with it, and the open file; both stay there
        // until both completions have been taken (`settle`), or for ever.
        if let Err(error) = unsafe { self.push(&entries) } {
            self.pending.remove(&token);
            return Err(error);
        }
        Ok(())
    }

    /// Submits what is queued and waits for at least one completion as `wait` says.
    fn enter(&mut self, wait: Wait) -> Result<(), DiskError> {
        let entered = match wait {
            Wait::No => self.ring.submit(),
            _ if !self.ring.completion().is_empty() => self.ring.submit(),
            Wait::Forever => self.ring.submit_and_wait(1),
            Wait::AtMostUs(us) => {
                let nanoseconds = u32::try_from(us % 1_000_000).unwrap_or(0) * 1_000;
                let limit = types::Timespec::new().sec(us / 1_000_000).nsec(nanoseconds);
                self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&limit))
            }
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                // Out of time, interrupted by a signal, or completions to be taken first: the caller comes again.
                Some(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN) => Ok(()),
                _ => Err(DiskError::io("enter", "io_uring", &error)),
            },
        }
    }

    /// Takes the completions that are there.
    fn settle(&mut self, into: &mut Vec<Completion>) {
        let Ring { ring, pending, armed, synchronous, .. } = self;
        for entry in ring.completion() {
            let (data, result) = (entry.user_data(), entry.result());
            if data == WAKE {
                *armed = false;
                continue;
            }
            let token = data / 2;
            let Some(found) = pending.get_mut(&token) else { continue };
            if data % 2 == 0 {
                found.write = Some(result);
            } else {
                found.fsync = Some(Fsync::Ended(result));
            }
            let fsync = match found.fsync {
                None => None,
                Some(Fsync::Ended(result)) => Some(result),
                Some(Fsync::UnderWay) => continue,
            };
            if let Some(write) = found.write
                && let Some(done) = pending.remove(&token)
            {
                if let (None, Some(synchronous)) = (fsync, synchronous.as_mut()) {
                    synchronous.took(done.buffer.len(), done.begun.elapsed());
                }
                let result = judge(&done, write, fsync);
                into.push(Completion { token, buffer: done.buffer, result });
            }
        }
    }
}

/// What the result of a synchronous write means, or the two of a write and its linked fdatasync.
fn judge(done: &Pending, write: i32, fsync: Option<i32>) -> Result<(), DiskError> {
    let subject = || segment_name(done.segment);
    if write < 0 {
        return Err(DiskError::io("write", subject(), &std::io::Error::from_raw_os_error(-write)));
    }
    if usize::try_from(write) != Ok(done.buffer.len()) {
        return Err(short_write(done.segment, write, done.buffer.len()));
    }
    if let Some(fsync) = fsync.filter(|fsync| *fsync < 0) {
        return Err(DiskError::io("fdatasync", subject(), &std::io::Error::from_raw_os_error(-fsync)));
    }
    debug_assert!(done.file.write.as_raw_fd() >= 0);
    Ok(())
}

impl Disk for UringDisk {
    fn description(&self) -> String {
        let how = if self.directory.is_direct() {
            "O_DIRECT writes"
        } else {
            "buffered writes (the file system refuses O_DIRECT)"
        };
        let durable = if self.is_synchronous {
            "made durable by RWF_DSYNC or a linked fdatasync"
        } else {
            "linked to fdatasync"
        };
        format!("io_uring: {how} {durable}, {}", self.directory.path().display())
    }

    fn segments(&self) -> Result<Vec<SegmentFile>, DiskError> {
        self.directory.segments()
    }

    fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError> {
        self.directory.create(segment, bytes)
    }

    fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError> {
        self.directory.recycle(old, new, bytes)
    }

    fn remove(&self, segment: u32) -> Result<(), DiskError> {
        self.directory.remove(segment)
    }

    fn sync(&self, segment: u32) -> Result<(), DiskError> {
        self.directory.sync(segment)
    }

    fn free_bytes(&self) -> Option<u64> {
        self.directory.free_bytes()
    }

    fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        self.directory.read_at(segment, offset, into)
    }

    fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        self.directory.read_note(name)
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        self.directory.write_note(name, content)
    }

    fn fill(&self, target: &mut [u8], bytes: &[u8]) {
        if bytes.len() >= STREAM_FROM_BYTES && self.directory.is_direct() {
            stream(target, bytes);
        } else {
            target.copy_from_slice(bytes);
        }
    }

    fn submit(&self, write: SegmentWrite) -> Result<(), DiskError> {
        let file = self.directory.segment(write.segment)?;
        self.lock().waiting.push((write, file));
        Ok(())
    }

    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let mut ring = self.lock();
        if wait == Wait::Forever
            && let Some((write, file)) = ring.take_lone()
        {
            let begin = Instant::now();
            let result = write_here(&write, &file, self.directory.is_synchronous());
            ring.company.wrote_here(self.bell.answer(), write.buffer.len(), begin.elapsed());
            into.push(Completion { token: write.token, buffer: write.buffer, result });
            return Ok(());
        }
        ring.push_waiting()?;
        if ring.pending.is_empty() {
            drop(ring);
            self.bell.wait(wait);
            return Ok(());
        }
        self.wait_in_ring(&mut ring, wait, into)
    }

    fn wake(&self) {
        if !self.bell.ring() {
            return;
        }
        // The counter cannot overflow, and an eventfd that is open can be written; a wake-up that was lost all the same
        // delays the committer, it does not lose anything.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

impl Drop for UringDisk {
    fn drop(&mut self) {
        // Ends the read that may be under way.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        let ring = self.ring.get_mut().unwrap_or_else(PoisonError::into_inner);
        // What cannot be pushed is not begun.
        let _ = ring.push_waiting();
        let mut finished = Vec::new();
        while ring.armed || !ring.pending.is_empty() {
            if ring.enter(Wait::Forever).is_err() {
                // The kernel may still write to these: leaking them is the only thing that is sound.
                std::mem::forget(std::mem::take(&mut ring.pending));
                std::mem::forget(std::mem::replace(&mut ring.counter, Box::new([0; 8])));
                return;
            }
            ring.settle(&mut finished);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::BLOCK_BYTES;

    fn disk() -> Option<(tempfile::TempDir, UringDisk)> {
        if let Err(reason) = uring_available() {
            eprintln!("skipped: {reason}");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let disk = UringDisk::open(dir.path()).unwrap();
        Some((dir, disk))
    }

    fn block(fill: u8) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::with_capacity(BLOCK_BYTES);
        buffer.set_len(BLOCK_BYTES);
        buffer.as_mut_slice().fill(fill);
        buffer
    }

    #[test]
    fn many_writes_complete_and_can_be_read() {
        let Some((dir, disk)) = disk() else { return };
        many_writes(&disk);
        drop(disk);
        let linked = UringDisk::open_linked(dir.path()).unwrap();
        assert!(linked.description().contains("linked to fdatasync"));
        many_writes(&linked);
    }

    #[test]
    fn synchronous_writes_that_are_slow_give_way_to_linked_ones() {
        let Some((_dir, disk)) = disk() else { return };
        if disk.lock().synchronous.is_none() {
            eprintln!("skipped: the file system is not known to keep RWF_DSYNC");
            return;
        }
        let slow = std::time::Duration::from_millis(10);
        disk.lock().synchronous.iter_mut().for_each(|trial| trial.took(4096, slow));
        assert!(disk.lock().synchronous.as_ref().is_some_and(|trial| !trial.is_open()));
        many_writes(&disk);
    }

    fn many_writes(disk: &UringDisk) {
        disk.create(1, 512 * 4096).unwrap();
        for token in 0..300_u64 {
            let fill = u8::try_from(token % 251).unwrap();
            let write = SegmentWrite { token, segment: 1, offset: token * 4096, buffer: block(fill) };
            disk.submit(write).unwrap();
        }
        let mut done = Vec::new();
        while done.len() < 300 {
            disk.completions(Wait::Forever, &mut done).unwrap();
        }
        let mut content = vec![0; 4096];
        for completion in done {
            assert_eq!(completion.result, Ok(()));
            disk.read_at(1, completion.token * 4096, &mut content).unwrap();
            assert!(content.iter().all(|byte| u64::from(*byte) == completion.token % 251));
        }
    }

    #[test]
    fn bytes_are_copied_past_the_cache_to_wherever_they_begin() {
        let bytes: Vec<u8> = (0..5_000_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        for (begin, len) in
            [(0, 4_096), (0, 0), (1, 3), (63, 1), (63, 66), (17, 1_000), (64, 128), (130, 4_097)]
        {
            for from in [0, 5, 64] {
                let mut target = AlignedBuffer::with_capacity(3 * BLOCK_BYTES);
                target.set_len(3 * BLOCK_BYTES);
                stream(&mut target.as_mut_slice()[begin..begin + len], &bytes[from..from + len]);
                assert_eq!(
                    target.as_slice()[begin..begin + len],
                    bytes[from..from + len],
                    "{len} at {begin}"
                );
                let rest = [&target.as_slice()[..begin], &target.as_slice()[begin + len..]].concat();
                assert!(rest.iter().all(|byte| *byte == 0), "nothing beside {len} at {begin}");
            }
        }
    }

    #[test]
    fn a_wake_ends_a_wait_and_a_wait_ends_by_itself() {
        let Some((_dir, disk)) = disk() else { return };
        let mut done = Vec::new();
        disk.completions(Wait::AtMostUs(1_000), &mut done).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut done = Vec::new();
                disk.completions(Wait::Forever, &mut done).unwrap();
                done.len()
            });
            disk.wake();
            assert_eq!(waiting.join().unwrap(), 0);
        });
    }

    #[test]
    fn a_failed_write_is_an_error_and_so_is_an_unaligned_one() {
        let Some((_dir, disk)) = disk() else { return };
        assert!(matches!(
            disk.submit(SegmentWrite { token: 1, segment: 9, offset: 0, buffer: block(1) }),
            Err(DiskError::NoSegment { segment: 9 })
        ));
        disk.create(1, 4096).unwrap();
        if disk.directory.is_direct() {
            disk.submit(SegmentWrite { token: 2, segment: 1, offset: 100, buffer: block(1) }).unwrap();
            let mut done = Vec::new();
            while done.is_empty() {
                disk.completions(Wait::Forever, &mut done).unwrap();
            }
            assert!(matches!(&done[0].result, Err(DiskError::Io { operation: "write", .. })), "{done:?}");
        }
    }

    #[test]
    fn a_lone_write_needs_no_ring_until_somebody_knocks() {
        let Some((_dir, disk)) = disk() else { return };
        disk.create(1, 64 * 4096).unwrap();
        let write = |token: u64| {
            let write = SegmentWrite { token, segment: 1, offset: token * 4096, buffer: block(7) };
            disk.submit(write).unwrap();
            let mut done = Vec::new();
            while done.is_empty() {
                disk.completions(Wait::Forever, &mut done).unwrap();
            }
            assert_eq!((done.len(), &done[0].result), (1, &Ok(())));
        };
        write(0);
        assert!(!disk.lock().armed, "the ring has not been used");
        // Whatever the time has been that this one took.
        disk.lock().company = Company::default();
        // As if it came while the next write is under way: it ends no wait, it only says that there is more.
        disk.wake();
        write(1);
        assert!(!disk.lock().company.is_alone());
        write(2);
        assert!(disk.lock().armed, "the next one leaves room for others");
        (3..19).for_each(write);
        let mut content = vec![0; 19 * 4096];
        disk.read_at(1, 0, &mut content).unwrap();
        assert!(content.iter().all(|byte| *byte == 7));
    }

    #[test]
    fn dropping_with_writes_under_way_waits_for_them() {
        let Some((dir, disk)) = disk() else { return };
        disk.create(1, 4096 * 16).unwrap();
        for token in 0..16 {
            let write = SegmentWrite { token, segment: 1, offset: token * 4096, buffer: block(5) };
            disk.submit(write).unwrap();
        }
        drop(disk);
        let again = UringDisk::open(dir.path()).unwrap();
        let mut content = vec![0; 4096 * 16];
        again.read_at(1, 0, &mut content).unwrap();
        assert!(content.iter().all(|byte| *byte == 5));
    }
}
