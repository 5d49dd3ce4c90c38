//! Standard error of a process that serves: written by a thread of its own, and never waited for.
//!
//! Whoever reads standard error may stop reading: a pipe that a supervisor has forgotten, a terminal that is held, a disk that is
//! full or stands still. A node goes on all the same. What does not fit into the queue is dropped and counted, and the count is
//! written where it happened as soon as something can be written again.
//!
//! Invariants: nothing that serves ever waits for standard error; what waits to be written is bounded in bytes; the last words of a
//! process wait for room, but only so long ([`LAST_WORDS`]); verbs that do not serve write directly, in order with their bars.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

/// What waits to be written takes at most so much memory.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// A single message, if it is longer, is cut.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// How long the last words of a process may wait until they are written.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// A descriptor that somebody has made non-blocking is tried again after so long.
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(20);

static DETACHED: OnceLock<Arc<Queue>> = OnceLock::new();

/// Lets a thread of its own write standard error from now on, panics included.
///
/// # Errors
/// The thread cannot be made; standard error is then written directly.
pub fn detach() -> io::Result<()> {
    let queue = Arc::new(Queue::default());
    let written = queue.clone();
    std::thread::Builder::new()
        .name("stderr".into())
        .spawn(move || written.write_all_to(&mut io::stderr()))?;
    if DETACHED.set(queue).is_ok() {
        std::panic::set_hook(Box::new(|panic| say(&describe_panic(panic))));
    }
    Ok(())
}

/// As the standard hook says it; that one would write by itself.
fn describe_panic(panic: &std::panic::PanicHookInfo<'_>) -> String {
    let thread = std::thread::current();
    let backtrace = std::backtrace::Backtrace::capture();
    let shown = match backtrace.status() {
        std::backtrace::BacktraceStatus::Captured => format!("\n{backtrace}"),
        _ => String::new(),
    };
    format!("thread '{}' {panic}{shown}", thread.name().unwrap_or("<unnamed>"))
}

/// Writes a line.
pub fn say(line: &str) {
    write(format!("{line}\n").as_bytes());
}

/// Writes a line and waits, within reason, until it and all before it are written.
pub fn say_last(line: &str) {
    match DETACHED.get() {
        Some(queue) => queue.say_last(format!("{line}\n").into_bytes(), LAST_WORDS),
        None => say(line),
    }
}

/// Waits, within reason, until all that was said is written.
pub fn flush() {
    if let Some(queue) = DETACHED.get() {
        queue.flush(Instant::now() + LAST_WORDS);
    }
}

/// Messages that could not be written since the start.
#[must_use]
pub fn dropped() -> u64 {
    DETACHED.get().map_or(0, |queue| queue.state().dropped)
}

/// Writes bytes as they are.
pub fn write(bytes: &[u8]) {
    match DETACHED.get() {
        Some(queue) => queue.push(bytes),
        // Where standard error is gone there is nobody to tell.
        None => drop(io::stderr().lock().write_all(bytes)),
    }
}

/// Standard error for the log: each event is one message.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

/// What waits to be written.
#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    /// Something has come, or has been written.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    /// Bytes that wait or are being written.
    bytes: usize,
    dropped: u64,
    /// Of those, how many have been told of in the log itself.
    told: u64,
}

impl State {
    fn has_room(&self, more: usize) -> bool {
        self.bytes.saturating_add(more) <= QUEUE_BYTES_MAX
    }

    fn push(&mut self, message: Vec<u8>) {
        self.bytes = self.bytes.saturating_add(message.len());
        self.waiting.push_back(message);
    }
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, message: &[u8]) {
        let message = cut(message);
        let mut state = self.state();
        if state.has_room(message.len()) {
            state.push(message);
            self.changed.notify_all();
        } else {
            state.dropped = state.dropped.saturating_add(1);
        }
    }

    /// Waits for room, then until all is written, both within `patience`.
    fn say_last(&self, message: Vec<u8>, patience: Duration) {
        let deadline = Instant::now() + patience;
        let room = message.len();
        if let Some(mut state) = self.wait_until(deadline, |state| state.has_room(room)) {
            state.push(message);
            self.changed.notify_all();
        } else {
            self.state().dropped += 1;
        }
        self.flush(deadline);
    }

    fn flush(&self, deadline: Instant) {
        drop(self.wait_until(deadline, |state| state.bytes == 0));
    }

    fn wait_until(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> Option<MutexGuard<'_, State>> {
        let mut state = self.state();
        while !done(&state) {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(state)
    }

    /// Never ends: the process ends without it.
    fn write_all_to(&self, out: &mut impl Write) {
        loop {
            let (message, untold) = self.next();
            if untold > 0 {
                let note = format!("tercet: {untold} messages were dropped here: nobody took them in time\n");
                drop(persist(out, note.as_bytes()));
            }
            let is_written = persist(out, &message).is_ok();
            let mut state = self.state();
            state.bytes = state.bytes.saturating_sub(message.len());
            if !is_written {
                // Nobody can be told there.
                state.dropped = state.dropped.saturating_add(1);
                state.told = state.dropped;
            }
            self.changed.notify_all();
        }
    }

    /// The next message, and how many have been dropped that nobody has been told of.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.state();
        loop {
            if let Some(message) = state.waiting.pop_front() {
                let untold = state.dropped.saturating_sub(state.told);
                state.told = state.dropped;
                self.changed.notify_all();
                return (message, untold);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn cut(message: &[u8]) -> Vec<u8> {
    match message.get(..MESSAGE_BYTES_MAX) {
        Some(head) if message.len() > MESSAGE_BYTES_MAX => [head, b" ...\n"].concat(),
        _ => message.to_vec(),
    }
}

/// As `write_all`, also where the descriptor does not block.
fn persist(out: &mut impl Write, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match out.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(WOULD_BLOCK_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes bytes only while it is told to, like a pipe that somebody reads or does not.
    struct Pipe {
        gate: Arc<(Mutex<bool>, Condvar)>,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut open = self.gate.0.lock().expect("a lock");
            while !*open {
                open = self.gate.1.wait(open).expect("a lock");
            }
            self.read.lock().expect("a lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn open(gate: &(Mutex<bool>, Condvar)) {
        *gate.0.lock().expect("a lock") = true;
        gate.1.notify_all();
    }

    #[test]
    fn what_nobody_reads_is_bounded_dropped_counted_and_told_of() {
        let queue = Arc::new(Queue::default());
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let read = Arc::new(Mutex::new(Vec::new()));
        let mut pipe = Pipe { gate: gate.clone(), read: read.clone() };
        let writer = queue.clone();
        // It never ends by itself; it ends with the test's process.
        std::thread::spawn(move || writer.write_all_to(&mut pipe));
        let line = [b'x'; 1_023];
        queue.push(&[line.as_slice(), b"\n"].concat());
        // The writer stands at the pipe before anything is dropped, so that it tells of all at once.
        let deadline = Instant::now() + Duration::from_secs(60);
        drop(queue.wait_until(deadline, |state| state.waiting.is_empty()).expect("a writer"));
        for _ in 0..2_999 {
            queue.push(&[line.as_slice(), b"\n"].concat());
        }
        let dropped = queue.state().dropped;
        assert!((1_900..=2_000).contains(&dropped), "{dropped} of 3,000 KiB do not fit into 1 MiB");
        // Last words end the wait by themselves.
        queue.say_last(b"unheard\n".to_vec(), Duration::from_millis(20));
        assert_eq!(queue.state().dropped, dropped + 1);

        open(&gate);
        queue.say_last(b"the end\n".to_vec(), Duration::from_secs(60));
        let read = String::from_utf8(read.lock().expect("a lock").clone()).expect("text");
        assert!(read.ends_with("the end\n"), "{}", read.len());
        let note = format!("tercet: {} messages were dropped here", dropped + 1);
        assert_eq!(read.matches(&note).count(), 1);
        assert_eq!(queue.state().bytes, 0);
    }

    #[test]
    fn a_reader_that_has_gone_is_counted_and_nothing_piles_up() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let queue = Arc::new(Queue::default());
        let writer = queue.clone();
        std::thread::spawn(move || writer.write_all_to(&mut Gone));
        queue.push(b"one\n");
        queue.say_last(b"two\n".to_vec(), Duration::from_secs(60));
        let state = queue.state();
        assert_eq!((state.bytes, state.dropped), (0, 2));
    }

    #[test]
    fn one_message_cannot_fill_the_queue() {
        let long = vec![b'y'; 3 * QUEUE_BYTES_MAX];
        assert_eq!(cut(&long).len(), MESSAGE_BYTES_MAX + b" ...\n".len());
        assert_eq!(cut(b"short\n"), b"short\n");
    }
}
