//! Which way a write takes, and where the one thread that writes sleeps when nothing is under way.
//!
//! A write that has the disk for itself is fastest as a plain system call on the thread that waits for it anyway: a
//! linked pair in a ring, or another thread, costs two thread switches more. But meanwhile that thread cannot begin
//! another write, so [`Company`] notices when somebody knocks during such a write, and from then on writes go out side by
//! side, until so many in a row have met nobody.
//!
//! Writes side by side are quickest as synchronous ones (RWF_DSYNC) in the ring: half the processor time of a linked pair, and the
//! device works on several at once. But a kernel thread has to end each of them.
//!
//! On busy processors it is the other way round: plain calls took 4 ms each (a scheduler's tick) beside a compiler on both cores, and
//! synchronous writes in the ring did beside busy loops, where linked pairs took 0.1 ms. So each of the two ways is on [`Trial`]: a write that is slow sends the
//! next ones through the ring as linked pairs, twice as many each time that it happens again.
//!
//! Invariant of [`Doorbell`]: a ring is never lost; it ends the present wait or the next one.

use std::io::IoSlice;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::{Errno, ReadWriteFlags};

use super::directory::{OpenSegment, segment_name};
use super::{DiskError, SegmentWrite, Wait};

/// So many writes in a row must have met nobody before the next is done on the waiting thread.
const ALONE_AFTER: u32 = 16;

/// After a slow write the next one tries the same way after so many; doubled each time, no more often than this.
const TRIAL_AFTER: u32 = 64;
const MOST_DOUBLINGS: u32 = 8;

/// A way that is quick on idle processors: whether the next write may try it.
#[derive(Debug, Default)]
pub(super) struct Trial {
    /// Writes still to go another way before the next one tries it.
    rest: u32,
    /// Slow writes, less the quick ones since.
    slow: u32,
}

impl Trial {
    /// Whether the next write may go this way.
    pub(super) fn is_open(&self) -> bool {
        self.rest == 0
    }

    /// A write has gone another way.
    pub(super) fn passed(&mut self) {
        self.rest = self.rest.saturating_sub(1);
    }

    /// A write of so many bytes has gone this way.
    pub(super) fn took(&mut self, bytes: usize, took: Duration) {
        // Less than a scheduler's tick; more than a write takes while the next segment is zeroed beside it, and what a slow device needs
        // for the bytes: 250 MB/s.
        let usual = Duration::from_micros(2_500)
            + Duration::from_nanos(4).saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
        if took > usual {
            self.rest = TRIAL_AFTER << self.slow;
            self.slow = (self.slow + 1).min(MOST_DOUBLINGS);
        } else {
            self.slow = self.slow.saturating_sub(1);
        }
    }
}

/// Whether writes meet others, and whether the waiting thread is quick with them.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Lone writes still to be seen before the next is done on the waiting thread.
    wanted: u32,
    here: Trial,
}

impl Company {
    /// Whether the next write is expected to meet nobody and to be quick on the waiting thread.
    pub(super) fn is_alone(&self) -> bool {
        self.wanted == 0 && self.here.is_open()
    }

    /// A write elsewhere is over; `met` says whether another one came, or somebody knocked, before it was.
    pub(super) fn wrote(&mut self, met: bool) {
        self.here.passed();
        self.meets(met);
    }

    /// A write of so many bytes on the waiting thread is over.
    pub(super) fn wrote_here(&mut self, met: bool, bytes: usize, took: Duration) {
        self.here.took(bytes, took);
        self.meets(met);
    }

    fn meets(&mut self, met: bool) {
        self.wanted = if met { ALONE_AFTER } else { self.wanted.saturating_sub(1) };
    }
}

/// Where the waiting thread sleeps, and how it is woken from elsewhere.
#[derive(Default)]
pub(super) struct Doorbell {
    bell: Mutex<Bell>,
    rang: Condvar,
}

#[derive(Default)]
struct Bell {
    rung: bool,
    listener: Listener,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// Awake, or doing a write: it looks before it sleeps.
    #[default]
    Busy,
    /// In [`Doorbell::wait`].
    Here,
    /// Asleep somewhere else, where the caller of [`Doorbell::ring`] has to wake it.
    Elsewhere,
}

impl Doorbell {
    fn lock(&self) -> MutexGuard<'_, Bell> {
        self.bell.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings. If the answer is true, the listener sleeps elsewhere and must be woken there.
    pub(super) fn ring(&self) -> bool {
        let listener = {
            let mut bell = self.lock();
            bell.rung = true;
            bell.listener
        };
        // After the lock: the one who wakes up wants it first.
        if listener == Listener::Here {
            self.rang.notify_one();
        }
        listener == Listener::Elsewhere
    }

    /// Whether the bell has been rung since it was last answered; answers it.
    pub(super) fn answer(&self) -> bool {
        let mut bell = self.lock();
        bell.listener = Listener::Busy;
        std::mem::take(&mut bell.rung)
    }

    /// Says that the caller goes to sleep elsewhere. If the answer is false it must not: the bell has been rung.
    /// Ends with [`Doorbell::answer`].
    pub(super) fn leave(&self) -> bool {
        let mut bell = self.lock();
        if !bell.rung {
            bell.listener = Listener::Elsewhere;
        }
        !bell.rung
    }

    /// Sleeps here until the bell is rung, as long as `wait` allows, and answers it.
    pub(super) fn wait(&self, wait: Wait) {
        let deadline = match wait {
            Wait::No => return,
            Wait::AtMostUs(us) => Some(Instant::now() + Duration::from_micros(us)),
            Wait::Forever => None,
        };
        let mut bell = self.lock();
        bell.listener = Listener::Here;
        while !bell.rung {
            let Some(deadline) = deadline else {
                bell = self.rang.wait(bell).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            bell = self.rang.wait_timeout(bell, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        *bell = Bell::default();
    }
}

/// Writes durably on the calling thread: one synchronous write, which is as durable as a write and an fdatasync after it and one call
/// less, or those two where the file system is not known for that. Nothing is written twice.
pub(super) fn write_here(
    write: &SegmentWrite,
    file: &OpenSegment,
    is_synchronous: bool,
) -> Result<(), DiskError> {
    let failed =
        |operation, error: Errno| DiskError::io(operation, segment_name(write.segment), &error.into());
    let (bytes, flags) = (write.buffer.as_slice(), ReadWriteFlags::DSYNC);
    let written = if is_synchronous {
        rustix::io::pwritev2(&file.write, &[IoSlice::new(bytes)], write.offset, flags)
    } else {
        rustix::io::pwrite(&file.write, bytes, write.offset)
    };
    let written = written.map_err(|error| failed("write", error))?;
    if written != bytes.len() {
        return Err(short_write(write.segment, written, bytes.len()));
    }
    if is_synchronous {
        return Ok(());
    }
    rustix::fs::fdatasync(&file.write).map_err(|error| failed("fdatasync", error))
}

/// A write that has ended early.
pub(super) fn short_write(segment: u32, written: impl std::fmt::Display, of: usize) -> DiskError {
    DiskError::Io {
        operation: "write",
        subject: segment_name(segment),
        errno: None,
        message: format!("only {written} of {of} bytes were written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_meeting_ends_being_alone_and_many_lone_writes_bring_it_back() {
        let mut company = Company::default();
        assert!(company.is_alone());
        company.wrote(false);
        assert!(company.is_alone());
        company.wrote(true);
        for _ in 0..ALONE_AFTER {
            assert!(!company.is_alone());
            company.wrote(false);
        }
        assert!(company.is_alone());
    }

    #[test]
    fn slow_writes_on_the_waiting_thread_become_rare_and_quick_ones_bring_them_back() {
        let (quick, slow) = (Duration::from_micros(200), Duration::from_millis(4));
        let mut company = Company::default();
        company.wrote_here(false, 4_096, quick);
        assert!(company.is_alone());
        let lone_writes_until_trial = |company: &mut Company| {
            let mut count = 0;
            while !company.is_alone() {
                company.wrote(false);
                count += 1;
            }
            count
        };
        for doublings in [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8] {
            company.wrote_here(false, 4_096, slow);
            assert_eq!(lone_writes_until_trial(&mut company), TRIAL_AFTER << doublings);
        }
        for _ in 0..MOST_DOUBLINGS {
            company.wrote_here(false, 4_096, quick);
            assert!(company.is_alone());
        }
        company.wrote_here(false, 4_096, slow);
        assert_eq!(lone_writes_until_trial(&mut company), TRIAL_AFTER);
        company.wrote_here(false, 4 << 20, slow);
        assert!(company.is_alone(), "many bytes may take longer");
        company.wrote_here(true, 4_096, quick);
        assert_eq!(lone_writes_until_trial(&mut company), ALONE_AFTER);
    }

    #[test]
    fn a_ring_ends_the_next_wait_if_nobody_waits() {
        let bell = Doorbell::default();
        assert!(!bell.ring());
        bell.wait(Wait::Forever);
        assert!(!bell.answer(), "the wait has answered it");
        bell.wait(Wait::AtMostUs(1_000));
    }

    #[test]
    fn whoever_sleeps_elsewhere_is_to_be_woken_there() {
        let bell = Doorbell::default();
        assert!(bell.leave());
        assert!(bell.ring());
        assert!(bell.answer());
        assert!(!bell.ring(), "it is busy again");
        assert!(!bell.leave(), "and must not sleep");
        assert!(bell.answer());
    }

    #[test]
    fn a_ring_from_another_thread_ends_the_wait() {
        let bell = Doorbell::default();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bell.wait(Wait::Forever));
            bell.ring();
            waiting.join().unwrap();
        });
    }
}
