//! Moves the bytes of one direction of one connection over its link.
//!
//! A chunk is taken from the source as it comes, given a moment at which it is due by the link's delay, jitter and
//! bandwidth, and handed to the sink not before then and only while the link is open. The end of the source travels in
//! line with its bytes, so a process that is killed behind a blackhole is not missed before the link heals.
//!
//! Invariants: bytes keep their order and none is lost while both sockets live; while the link is blackholed the sink
//! sees neither a byte nor an end; at most [`WINDOW_BYTES`] are held, then the source is no longer read, as when a
//! sender's buffer is full.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Semaphore, mpsc};

use super::link::{Link, LinkShape};
use super::pacer::Pacer;

/// Most bytes that one direction of one connection holds.
const WINDOW_BYTES: u32 = 4 << 20;
/// Most bytes that move at once.
const CHUNK_BYTES: u32 = 32 << 10;

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The source closed it, and the sink has been told.
    Closed,
    /// The source was reset.
    SourceReset,
    /// The sink takes nothing any more.
    SinkBroken,
}

struct Parcel {
    due: Instant,
    content: Content,
}

enum Content {
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// Works until the direction has ended.
pub(super) async fn pump(
    source: &mut OwnedReadHalf,
    sink: &mut OwnedWriteHalf,
    link: &Link,
    pacer: &Pacer,
    seed: u64,
) -> Ended {
    let (parcels, mut arriving) = mpsc::unbounded_channel();
    let window = Semaphore::new(WINDOW_BYTES as usize);
    let taking = async {
        take(source, link, &window, &parcels, Schedule::new(seed)).await;
        // What has been taken is still on its way.
        std::future::pending().await
    };
    tokio::select! {
        ended = deliver(&mut arriving, sink, link, &window, pacer) => ended,
        ended = taking => ended,
    }
}

async fn take(
    source: &mut OwnedReadHalf,
    link: &Link,
    window: &Semaphore,
    parcels: &mpsc::UnboundedSender<Parcel>,
    mut schedule: Schedule,
) {
    let mut chunk = vec![0; CHUNK_BYTES as usize];
    loop {
        // The semaphore is never closed.
        let Ok(room) = window.acquire_many(CHUNK_BYTES).await else { return };
        room.forget();
        let (content, count) = match source.read(&mut chunk).await {
            Ok(0) => (Content::End, 0),
            Ok(count) => (Content::Bytes(chunk[..count].to_vec()), count),
            Err(_) => (Content::Reset, 0),
        };
        window.add_permits(CHUNK_BYTES as usize - count);
        link.counters.taken_bytes.fetch_add(count as u64, Ordering::Relaxed);
        let due = schedule.due(Instant::now(), count, link.shape());
        let last = !matches!(content, Content::Bytes(_));
        if parcels.send(Parcel { due, content }).is_err() || last {
            return;
        }
    }
}

async fn deliver(
    arriving: &mut mpsc::UnboundedReceiver<Parcel>,
    sink: &mut OwnedWriteHalf,
    link: &Link,
    window: &Semaphore,
    pacer: &Pacer,
) -> Ended {
    while let Some(parcel) = arriving.recv().await {
        pacer.sleep_until(parcel.due).await;
        match parcel.content {
            Content::Bytes(bytes) => {
                if write_while_open(&bytes, sink, link).await.is_err() {
                    return Ended::SinkBroken;
                }
                window.add_permits(bytes.len());
            }
            Content::End => {
                link.open().await;
                return if sink.shutdown().await.is_ok() { Ended::Closed } else { Ended::SinkBroken };
            }
            Content::Reset => {
                link.open().await;
                return Ended::SourceReset;
            }
        }
    }
    // Not reached: `take` ends with a parcel that ends this loop.
    Ended::SourceReset
}

/// Writes all of `bytes`; a blackhole that is imposed meanwhile stops it between two system calls.
async fn write_while_open(bytes: &[u8], sink: &mut OwnedWriteHalf, link: &Link) -> std::io::Result<()> {
    let mut shape = link.watch();
    let mut rest = bytes;
    while !rest.is_empty() {
        if shape.wait_for(|shape| !shape.blackhole).await.is_err() {
            return Err(std::io::ErrorKind::NotConnected.into());
        }
        tokio::select! {
            biased;
            _ = shape.changed() => {}
            written = sink.write(rest) => {
                let count = written?;
                if count == 0 {
                    return Err(std::io::ErrorKind::WriteZero.into());
                }
                link.counters.delivered_bytes.fetch_add(count as u64, Ordering::Relaxed);
                rest = &rest[count..];
            }
        }
    }
    Ok(())
}

/// When chunks are due, by the link's shape at the moment when they were taken.
struct Schedule {
    random: SmallRng,
    wire_free: Option<Instant>,
    last_due: Option<Instant>,
}

impl Schedule {
    fn new(seed: u64) -> Self {
        Self { random: SmallRng::seed_from_u64(seed), wire_free: None, last_due: None }
    }

    fn due(&mut self, now: Instant, bytes: usize, shape: LinkShape) -> Instant {
        let mut sent = now;
        if let Some(limit) = shape.bytes_per_second {
            let begins = self.wire_free.map_or(now, |free| free.max(now));
            let nanos = (bytes as u64).saturating_mul(1_000_000_000) / limit.max(1);
            sent = begins + Duration::from_nanos(nanos);
            self.wire_free = Some(sent);
        }
        let mut due = sent + shape.delay;
        if !shape.jitter.is_zero() {
            due += shape.jitter.mul_f64(self.random.random::<f64>());
        }
        // A stream cannot overtake itself.
        if let Some(last) = self.last_due {
            due = due.max(last);
        }
        self.last_due = Some(due);
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidth_and_delay_add_up() {
        let now = Instant::now();
        let mut schedule = Schedule::new(1);
        let shape = LinkShape {
            delay: Duration::from_millis(10),
            bytes_per_second: Some(1_000_000),
            ..LinkShape::default()
        };
        assert_eq!(schedule.due(now, 1_000, shape) - now, Duration::from_millis(11));
        assert_eq!(
            schedule.due(now, 2_000, shape) - now,
            Duration::from_millis(13),
            "after the first on the wire"
        );
        let later = now + Duration::from_millis(50);
        assert_eq!(
            schedule.due(later, 1_000, shape) - later,
            Duration::from_millis(11),
            "the wire was free again"
        );
    }

    #[test]
    fn jitter_never_reorders_and_never_exceeds_its_bound() {
        let now = Instant::now();
        let mut schedule = Schedule::new(7);
        let shape = LinkShape { jitter: Duration::from_millis(5), ..LinkShape::default() };
        let mut last = now;
        for step in 0..200 {
            let taken = now + Duration::from_micros(step * 100);
            let due = schedule.due(taken, 1, shape);
            assert!(due >= last && due >= taken);
            assert!(due - taken <= Duration::from_millis(5));
            last = due;
        }
    }

    #[test]
    fn a_free_link_delays_nothing() {
        let now = Instant::now();
        assert_eq!(Schedule::new(1).due(now, 1 << 20, LinkShape::default()), now);
    }
}
