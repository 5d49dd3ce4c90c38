//! One connection through a proxy: dialled on when both links allow it, carried in both directions, ended as TCP would.
//!
//! Invariants: nothing is dialled while a link is blackholed, yet the connection has been accepted and stays open; an end
//! or a reset of one side reaches the other over the link, never past a blackhole; a `reset` fault ends the connection
//! at both sides at once; a `half-open` one resets the receiver's end and leaves the sender in the dark until it is lifted.
//!
//! Where it differs from a wire: the kernel completes the handshake with the proxy at once, so a dialler behind a
//! blackhole finds itself connected (and unheard) instead of waiting for its SYN to be answered, and a dialler of a dead
//! process is connected and then reset instead of refused.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};

use super::link::Link;
use super::pacer::Pacer;
use super::pump::{Ended, pump};

/// How often a connection that waits for a blackhole to heal looks whether its dialler has given up.
const GIVEN_UP_CHECK: Duration = Duration::from_millis(100);

/// How long one fault may take to be imposed on both directions.
const BOTH_WAYS: Duration = Duration::from_millis(5);
/// How much is read at once of what nobody will hear.
const UNHEARD_BYTES: usize = 32 << 10;

/// What a connection goes over.
#[derive(Debug, Clone)]
pub(super) struct Route {
    /// Where the dialled process listens.
    pub(super) upstream: SocketAddr,
    /// From the dialler.
    pub(super) forward: Arc<Link>,
    /// To the dialler.
    pub(super) backward: Arc<Link>,
    pub(super) pacer: Arc<Pacer>,
    /// Where the proxy dials from; none: as the system likes.
    pub(super) local: Option<Ipv4Addr>,
}

impl Route {
    async fn dial(&self) -> std::io::Result<TcpStream> {
        let Some(local) = self.local else { return TcpStream::connect(self.upstream).await };
        let socket = TcpSocket::new_v4()?;
        socket.bind((local, 0).into())?;
        socket.connect(self.upstream).await
    }
}

/// Carries one accepted connection until it ends. Dropping the future closes both sides.
pub(super) async fn carry(dialler: TcpStream, route: Route, seed: u64) {
    let (forward, backward) = (&*route.forward, &*route.backward);
    let ages = (forward.age(), backward.age());
    forward.counters.connections.fetch_add(1, Ordering::Relaxed);
    if !wait_until_open(&dialler, forward, backward).await {
        forward.counters.given_up.fetch_add(1, Ordering::Relaxed);
        return;
    }
    if forward.shape().reset || backward.shape().reset {
        forward.counters.resets.fetch_add(1, Ordering::Relaxed);
        reset(&dialler);
        return;
    }
    route.pacer.sleep_until(Instant::now() + forward.shape().delay + backward.shape().delay).await;
    let Ok(target) = route.dial().await else {
        reset(&dialler);
        return;
    };
    // Small messages must not wait for acknowledgements; a failure costs speed only.
    let _ = dialler.set_nodelay(true);
    let _ = target.set_nodelay(true);
    let (mut from_dialler, mut to_dialler) = dialler.into_split();
    let (mut from_target, mut to_target) = target.into_split();
    let outcome = {
        let mut there = pin!(pump(&mut from_dialler, &mut to_target, forward, &route.pacer, seed));
        let mut back = pin!(pump(&mut from_target, &mut to_dialler, backward, &route.pacer, seed ^ 1));
        let (mut there_ended, mut back_ended) = (None, None);
        loop {
            tokio::select! {
                ended = &mut there, if there_ended.is_none() => there_ended = Some(ended),
                ended = &mut back, if back_ended.is_none() => back_ended = Some(ended),
                () = reset_imposed(forward) => break Outcome::Reset,
                () = reset_imposed(backward) => break Outcome::Reset,
                () = forgotten(forward, ages.0) => break Outcome::HalfOpen,
                () = forgotten(backward, ages.1) => break Outcome::HalfOpen,
            }
            match (there_ended, back_ended) {
                (Some(Ended::SourceReset), _) | (_, Some(Ended::SourceReset)) => break Outcome::Broken,
                // The dead side's answer travels against the direction of what it did not take.
                (Some(Ended::SinkBroken), _) => {
                    backward.open().await;
                    break Outcome::Broken;
                }
                (_, Some(Ended::SinkBroken)) => {
                    forward.open().await;
                    break Outcome::Broken;
                }
                (Some(Ended::Closed), Some(Ended::Closed)) => break Outcome::Closed,
                (Some(Ended::Closed) | None, None) | (None, Some(Ended::Closed)) => {}
            }
        }
    };
    if outcome == Outcome::Reset {
        forward.counters.resets.fetch_add(1, Ordering::Relaxed);
    }
    if outcome == Outcome::HalfOpen {
        // Where both directions are hit, one is a moment ahead of the other.
        tokio::time::sleep(BOTH_WAYS).await;
        // Both ends at once: neither may be told by the other one's end.
        let dialler = linger(from_dialler, to_dialler, forward, ages.0);
        let target = linger(from_target, to_target, backward, ages.1);
        tokio::join!(dialler, target);
    } else if outcome != Outcome::Closed {
        close_with_reset(to_dialler);
        close_with_reset(to_target);
    }
}

/// The end of a half-open connection at one side: reset at once, unless its own way out is half-open. Then it is heard out
/// and answered nothing, until the fault is lifted or it gives up.
async fn linger(mut source: OwnedReadHalf, sink: OwnedWriteHalf, out: &Link, age: u64) {
    if out.shape().half_open > age {
        out.counters.half_opens.fetch_add(1, Ordering::Relaxed);
        let mut shape = out.watch();
        let mut unheard = vec![0; UNHEARD_BYTES];
        loop {
            tokio::select! {
                // The sender lives as long as `out`.
                _ = shape.wait_for(|shape| shape.half_open <= age) => break,
                read = source.read(&mut unheard) => match read {
                    Ok(0) | Err(_) => break,
                    Ok(count) => drop(out.counters.taken_bytes.fetch_add(count as u64, Ordering::Relaxed)),
                },
            }
        }
    }
    close_with_reset(sink);
}

fn close_with_reset(half: OwnedWriteHalf) {
    reset(half.as_ref());
    // Dropping it would send an orderly end before the reset.
    half.forget();
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Closed,
    Broken,
    Reset,
    HalfOpen,
}

/// Whether both links are open and the dialler still there; false when the dialler gave up.
async fn wait_until_open(dialler: &TcpStream, forward: &Link, backward: &Link) -> bool {
    loop {
        tokio::select! {
            () = async {
                forward.open().await;
                backward.open().await;
            } => return !given_up(dialler).await,
            () = tokio::time::sleep(GIVEN_UP_CHECK) => {
                if given_up(dialler).await {
                    return false;
                }
            }
        }
    }
}

/// Whether the dialler has closed the connection, unread bytes or not.
async fn given_up(dialler: &TcpStream) -> bool {
    let ready = futures::FutureExt::now_or_never(dialler.ready(Interest::READABLE | Interest::ERROR));
    matches!(ready, Some(Ok(ready)) if ready.is_read_closed() || ready.is_error())
}

async fn reset_imposed(link: &Link) {
    // The sender lives as long as `link`.
    let _ = link.watch().wait_for(|shape| shape.reset).await;
}

/// Returns when a half-open fault takes the connections that are as old as `age`.
async fn forgotten(link: &Link, age: u64) {
    // The sender lives as long as `link`.
    let _ = link.watch().wait_for(|shape| shape.half_open > age).await;
}

/// Makes the coming close a reset.
fn reset(stream: &TcpStream) {
    // On failure the peer sees an orderly end, which is as good for a process that is gone.
    let _ = stream.set_zero_linger();
}
