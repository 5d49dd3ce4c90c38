//! Accepting: from the listener to a connection that has a place, or is told why it has none.
//!
//! Invariants: a connection without a place is taken from the backlog and closed, so that it holds up nobody behind it; while the
//! system has no descriptors or memory, accepting pauses and never spins; who does not greet in time is closed. TLS comes in between
//! [`Doorway::next`] and the [`Guest`].

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Sleep, sleep, timeout};

use super::{Connection, Door, Full, origin};

/// A caller says its first words within so long, or is closed.
const GREETING_PATIENCE: Duration = Duration::from_secs(5);
/// First and longest pause after the system could not accept.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Callers that are told at one time why they are refused; beyond, they are just closed.
const FAREWELLS_MAX: usize = 32;
const FAREWELL_PATIENCE: Duration = Duration::from_secs(1);

/// HTTP/2's connection preface and the header of the SETTINGS frame that must follow.
pub(crate) const HTTP2_GREETING_BYTES: usize = 24 + 9;

/// How long to wait after accepting has failed, and whether this is the first time in a row.
#[derive(Default)]
struct Backoff {
    pause: Option<Duration>,
}

impl Backoff {
    /// The next pause; true: an episode begins.
    fn failed(&mut self) -> (Duration, bool) {
        let begins = self.pause.is_none();
        let pause = self.pause.map_or(PAUSES.0, |pause| (pause * 2).min(PAUSES.1));
        self.pause = Some(pause);
        (pause, begins)
    }

    /// True: an episode has ended.
    fn succeeded(&mut self) -> bool {
        self.pause.take().is_some()
    }
}

/// Whether only the one connection has failed, and the next may be accepted at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | Interrupted | TimedOut | WouldBlock
    )
}

/// A port that is open: gives one guest after the other.
pub struct Doorway {
    listener: TcpListener,
    door: Arc<Door>,
    /// What a caller must have sent within [`GREETING_PATIENCE`].
    greeting_bytes: usize,
    backoff: Backoff,
    farewells: Arc<Semaphore>,
}

impl Doorway {
    /// Opens `door` at `listener` for HTTP/2.
    #[must_use]
    pub fn http2(listener: TcpListener, door: Arc<Door>) -> Self {
        Self::new(listener, door, HTTP2_GREETING_BYTES)
    }

    /// Opens `door` at `listener` for HTTP/1.1, whose server limits the time for headers itself.
    #[must_use]
    pub fn http1(listener: TcpListener, door: Arc<Door>) -> Self {
        Self::new(listener, door, 0)
    }

    fn new(listener: TcpListener, door: Arc<Door>, greeting_bytes: usize) -> Self {
        let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
        Self { listener, door, greeting_bytes, backoff: Backoff::default(), farewells }
    }

    /// The next caller that has a place.
    pub async fn next(&mut self) -> Guest {
        loop {
            match self.listener.accept().await {
                Ok((stream, remote)) => {
                    if self.backoff.succeeded() {
                        tracing::info!(port = self.door.port, "connections are accepted again");
                    }
                    match self.door.enter(origin(remote, stream.local_addr().ok())) {
                        Ok(place) => return Guest::new(stream, place, self.greeting_bytes),
                        Err(full) => self.turn_away(stream, remote, full),
                    }
                }
                Err(error) if is_of_one_connection(&error) => tokio::task::yield_now().await,
                Err(error) => {
                    let (pause, begins) = self.backoff.failed();
                    self.door.counts.accept_errors.fetch_add(1, Ordering::Relaxed);
                    if begins {
                        tracing::warn!(port = self.door.port, %error, "connections cannot be accepted; trying again");
                    }
                    sleep(pause).await;
                }
            }
        }
    }

    /// Closes a connection and, if not too many are being told, says why.
    fn turn_away(&self, stream: TcpStream, remote: SocketAddr, full: Full) {
        tracing::debug!(port = self.door.port, %remote, %full, "a connection is refused");
        let Ok(one) = self.farewells.clone().try_acquire_owned() else { return };
        let words = if self.greeting_bytes > 0 { goaway(full) } else { unavailable(full) };
        tokio::spawn(async move {
            // A goodbye that is not heard out is none the less one.
            let _ = timeout(FAREWELL_PATIENCE, say_goodbye(stream, &words)).await;
            drop(one);
        });
    }
}

/// Says it, and lets the caller read it: closing while its bytes are unread would reset the connection.
async fn say_goodbye(mut stream: TcpStream, words: &[u8]) -> io::Result<()> {
    stream.write_all(words).await?;
    stream.shutdown().await?;
    let mut heard = [0; 512];
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

/// A server's empty SETTINGS and a GOAWAY, ENHANCE_YOUR_CALM, with the reason as debug data.
fn goaway(full: Full) -> Vec<u8> {
    let why = format!("too many connections: {full}");
    let length = u32::try_from(8 + why.len()).unwrap_or(8).to_be_bytes();
    let mut words = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    words.extend_from_slice(&length[1..]);
    words.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
    words.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0xb]);
    words.extend_from_slice(why.as_bytes());
    words
}

fn unavailable(full: Full) -> Vec<u8> {
    let why = format!("too many connections: {full}\n");
    let length = why.len();
    format!("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{why}")
        .into()
}

/// A connection with a place; the place is given back when it is dropped.
pub struct Guest {
    stream: TcpStream,
    place: Arc<Connection>,
    /// Until it has greeted: by when it must, and how many bytes are still wanted.
    greeting: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Guest {
    fn new(stream: TcpStream, place: Arc<Connection>, greeting_bytes: usize) -> Self {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
        let greeting = (greeting_bytes > 0).then(|| (Box::pin(sleep(GREETING_PATIENCE)), greeting_bytes));
        Self { stream, place, greeting }
    }

    /// Its place.
    #[must_use]
    pub fn connection(&self) -> &Arc<Connection> {
        &self.place
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some((deadline, _)) = &mut this.greeting
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no greeting in time")));
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(context, into))?;
        if let Some((_, wanted)) = &mut this.greeting {
            *wanted = wanted.saturating_sub(into.filled().len() - before);
            if *wanted == 0 {
                this.greeting = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fault: with no descriptor left the accept loop was polled again at once, a whole core long.
    #[test]
    fn pauses_double_to_a_second_and_an_episode_is_told_once() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..7).map(|_| backoff.failed()).collect();
        let ms: Vec<_> = pauses.iter().map(|(pause, _)| pause.as_millis()).collect();
        assert_eq!(ms, [50, 100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(pauses.iter().filter(|(_, begins)| *begins).count(), 1);
        assert!(backoff.succeeded());
        assert!(!backoff.succeeded());
        assert_eq!(backoff.failed(), (PAUSES.0, true));
        for raw in [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOMEM] {
            assert!(!is_of_one_connection(&raw.into()), "{raw}");
        }
        assert!(is_of_one_connection(&rustix::io::Errno::CONNABORTED.into()));
    }

    #[test]
    fn a_goaway_is_well_formed() {
        let words = goaway(Full::Origin);
        assert_eq!(&words[..9], &[0, 0, 0, 4, 0, 0, 0, 0, 0], "empty SETTINGS");
        let length = usize::from(words[10]) * 256 + usize::from(words[11]);
        assert_eq!((words[9], words[12], length), (0, 7, words.len() - 18), "GOAWAY with its length");
        assert_eq!(&words[18..26], &[0, 0, 0, 0, 0, 0, 0, 0xb]);
        assert!(words.ends_with(Full::Origin.to_string().as_bytes()));
    }
}
