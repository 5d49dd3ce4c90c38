//! TCP relays in user space that hold back what they carry, for clusters on one machine: `dev --link-delay` and benchmarks.
//! They need no rights, and can be cut: then nothing arrives and nothing is refused, as when a network swallows packets.
//!
//! Invariants: a relay keeps the order of the bytes, delays both directions alike, and bounds what it holds; a side that ends is
//! ended on the other side after the delay, and not while the relay is cut; what was held by a cut flows when it is lifted;
//! dropping a relay ends its connections. Delays are kept to some 50 us: the timers are the kernel's, not the runtime's
//! millisecond.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Most bytes of one read.
const CHUNK_BYTES: usize = 64 * 1024;
/// Most chunks that one direction of a connection holds; then the sender is made to wait.
const HELD_CHUNKS: usize = 256;

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Relay {
    /// Starts a relay to `target`, delayed by `delay` each way; while `cut` says so nothing passes. A cut without a sender is
    /// never lifted or imposed.
    ///
    /// # Errors
    /// No free port.
    pub async fn start(target: String, delay: Duration, cut: watch::Receiver<bool>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, target, Wire { delay, cut }));
        Ok(Self { address, task })
    }

    /// Where to dial it.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Wire {
    delay: Duration,
    cut: watch::Receiver<bool>,
}

impl Wire {
    async fn whole(&mut self) {
        // Without a sender it stays as it is, and who waits is ended with the relay.
        if self.cut.wait_for(|cut| !*cut).await.is_err() && *self.cut.borrow() {
            std::future::pending::<()>().await;
        }
    }
}

async fn accept(listener: TcpListener, target: String, wire: Wire) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error here is the dialer's (it gave up already) or a passing lack of descriptors: it dials again.
                if let Ok((inbound, _)) = accepted {
                    connections.spawn(connection(inbound, target.clone(), wire.clone()));
                } else {
                    tokio::task::yield_now().await;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until it ends. A target that does not answer closes the inbound side, as a refusal would.
async fn connection(inbound: TcpStream, target: String, mut wire: Wire) {
    wire.whole().await;
    let Ok(outbound) = TcpStream::connect(&target).await else { return };
    for stream in [&inbound, &outbound] {
        if stream.set_nodelay(true).is_err() {
            return;
        }
    }
    let (from_dialer, to_dialer) = inbound.into_split();
    let (from_target, to_target) = outbound.into_split();
    // An error of either direction drops both streams; an orderly end of one lets the other finish.
    drop(tokio::try_join!(relay(from_dialer, to_target, wire.clone()), relay(from_target, to_dialer, wire)));
}

async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut wire: Wire,
) -> io::Result<()> {
    let delay = wire.delay;
    let (hold, mut held) = mpsc::channel::<(Instant, Bytes)>(HELD_CHUNKS);
    let reading = async move {
        let mut buffer = BytesMut::new();
        loop {
            buffer.reserve(CHUNK_BYTES);
            // A reset must not overtake what is held, nor pass a cut: it is passed on as an end.
            let count = from.read_buf(&mut buffer).await.unwrap_or(0);
            // The writer is gone only when its side failed, which ends both.
            if count == 0 || hold.send((Instant::now() + delay, buffer.split().freeze())).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let writing = async move {
        let timer = FineTimer::new()?;
        while let Some((due, chunk)) = held.recv().await {
            timer.until(due).await?;
            wire.whole().await;
            to.write_all(&chunk).await?;
        }
        timer.until(Instant::now() + delay).await?;
        wire.whole().await;
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}

/// One timer of the kernel's.
struct FineTimer(AsyncFd<OwnedFd>);

impl FineTimer {
    #[expect(
        deprecated,
        reason = "about types that do not own their descriptor as this one does; the other way is unsafe"
    )]
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(AsyncFd::new(timerfd_create(TimerfdClockId::Monotonic, flags)?)?))
    }

    async fn until(&self, due: Instant) -> io::Result<()> {
        let wait = due.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return Ok(());
        }
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let due = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let once = Itimerspec { it_interval: never, it_value: due };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut count = [0; 8];
            let read = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut count)?));
            if let Ok(read) = read {
                return read.map(drop);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo() -> (String, JoinHandle<u64>) {
        let echo = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let target = echo.local_addr().expect("an address").to_string();
        let echoing = tokio::spawn(async move {
            let (stream, _) = echo.accept().await.expect("the relay");
            let (mut from, mut to) = stream.into_split();
            tokio::io::copy(&mut from, &mut to).await.expect("echo")
        });
        (target, echoing)
    }

    #[tokio::test]
    async fn a_relay_delays_both_ways_keeps_order_and_passes_the_end_on() {
        const DELAY: Duration = Duration::from_millis(20);
        let (target, echoing) = echo().await;
        let (_cut, whole) = watch::channel(false);
        let relay = Relay::start(target, DELAY, whole).await.expect("a relay");
        let mut client = TcpStream::connect(relay.address()).await.expect("the relay");
        let sent: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        let started = Instant::now();
        client.write_all(&sent).await.expect("write");
        client.shutdown().await.expect("end");
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("the end comes back");
        assert!(started.elapsed() >= 2 * DELAY, "{:?}", started.elapsed());
        assert_eq!(received, sent);
        assert_eq!(echoing.await.expect("the echo"), 200_000);
    }

    #[tokio::test]
    async fn while_it_is_cut_nothing_arrives_and_nothing_is_refused_and_then_everything_comes() {
        let (target, _echoing) = echo().await;
        let (cut, whole) = watch::channel(false);
        let relay = Relay::start(target, Duration::from_micros(200), whole).await.expect("a relay");
        let mut client = TcpStream::connect(relay.address()).await.expect("the relay");
        let mut answer = [0; 2];
        client.write_all(b"ab").await.expect("write");
        client.read_exact(&mut answer).await.expect("the echo");
        cut.send_replace(true);
        client.write_all(b"cd").await.expect("a write is taken");
        let silence = Duration::from_millis(100);
        assert!(tokio::time::timeout(silence, client.read_exact(&mut answer)).await.is_err());
        cut.send_replace(false);
        client.read_exact(&mut answer).await.expect("what was held");
        assert_eq!(&answer, b"cd");
    }

    #[tokio::test]
    async fn a_target_that_does_not_listen_closes_the_connection() {
        let unused = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let target = unused.local_addr().expect("an address").to_string();
        drop(unused);
        let (_cut, whole) = watch::channel(false);
        let relay = Relay::start(target, Duration::ZERO, whole).await.expect("a relay");
        let mut client = TcpStream::connect(relay.address()).await.expect("the relay");
        let ended = client.read(&mut [0; 1]).await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
}
