//! Requests on their way in: what is held of them before a service has seen them is counted, bounded and has to get on.
//!
//! A layer puts a [`Counted`] body around every request's. It reads the frames of gRPC as they pass (five bytes: a flag and a length,
//! then the message) and nothing of what is in them. A message that does not come in one piece takes room for all that it has announced
//! before more of it is read; while there is no room, the caller's flow-control window closes and it is made to wait.
//!
//! Invariants: what is held for a caller is counted before it is admitted; a message that arrives in one piece costs no lock; a
//! refusal has its reason; a caller is refused for standing still, never for being slow.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Either, Ready, ready as done};
use http_body::Frame;
use tercet_proto::FILE_DESCRIPTOR_SET;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::server::Connected;
use tower::{Layer, Service};

use super::refuse;
use crate::doors::{Connection, Full, Guest, Held};

/// A message that is owed gets on by [`PROGRESS_BYTES`] in every so long, or to its end.
const PROGRESS_PATIENCE: Duration = Duration::from_secs(10);
/// 1.6 kB/s: a line of 64 kB/s gets on with 40 messages at once.
const PROGRESS_BYTES: u64 = 16 << 10;
/// However well it gets on, a message has come by then: 4 MiB at 16 kB/s take that long.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(300);

impl Connected for Guest {
    type ConnectInfo = Visitor;

    fn connect_info(&self) -> Visitor {
        Visitor(self.connection().clone())
    }
}

/// A request's connection; stands in its extensions.
#[derive(Clone)]
pub struct Visitor(pub Arc<Connection>);

/// The refusal of a caller that has as many or as much as it may.
pub fn overloaded(what: &str, full: Full) -> Refusal {
    Refusal::new(Reason::Overloaded, "", format!("too many {what}: {full}; try again shortly"))
}

/// What a port takes.
#[derive(Clone)]
pub struct BodiesLayer {
    message_bytes_max: u32,
    /// Paths of the methods whose request is a stream.
    streaming: Arc<[String]>,
}

impl BodiesLayer {
    /// Messages of at most `message_bytes_max` bytes.
    #[must_use]
    pub fn new(message_bytes_max: u32) -> Self {
        Self { message_bytes_max, streaming: streaming_methods().into() }
    }
}

/// The paths of all methods whose request is a stream: Tercet's own, by their descriptors, and reflection.
fn streaming_methods() -> Vec<String> {
    use prost::Message;
    let files = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap_or_default().file;
    let mut paths: Vec<String> = ["v1", "v1alpha"]
        .map(|version| format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"))
        .into();
    for file in &files {
        for service in &file.service {
            for method in service.method.iter().filter(|method| method.client_streaming()) {
                paths.push(format!("/{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    paths
}

impl<S> Layer<S> for BodiesLayer {
    type Service = Bodies<S>;

    fn layer(&self, inner: S) -> Bodies<S> {
        Bodies { inner, layer: self.clone() }
    }
}

/// The services behind the layer.
#[derive(Clone)]
pub struct Bodies<S> {
    inner: S,
    layer: BodiesLayer,
}

impl<S> Service<Request<Body>> for Bodies<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Some(Visitor(connection)) = request.extensions().get::<Visitor>().cloned() else {
            // Not over a door: there is nobody whose share it could be.
            return Either::Left(self.inner.call(request));
        };
        let call = match connection.call() {
            Ok(call) => call,
            Err(full) => {
                let refused = refuse(overloaded("open calls", full)).into_http();
                return Either::Right(done(Ok(refused)));
            }
        };
        let is_stream = self.layer.streaming.iter().any(|path| path == request.uri().path());
        let reading = Reading::new(self.layer.message_bytes_max, is_stream);
        let request = request.map(|body| {
            Body::new(Counted {
                body,
                connection,
                _call: call,
                reading,
                room: None,
                waiting: None,
                refused: None,
                owed: None,
            })
        });
        Either::Left(self.inner.call(request))
    }
}

/// Where in the frames of gRPC a request has got to. Pure.
#[derive(Debug)]
struct Reading {
    message_bytes_max: u32,
    is_stream: bool,
    header: [u8; 5],
    header_bytes: usize,
    /// Of the message whose header has been read: what is still to come.
    to_come: u64,
    /// Messages that have come to their end.
    complete: u64,
}

/// What a piece of a request comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Piece {
    /// So much of it is good.
    good_bytes: usize,
    /// What is wrong behind that.
    wrong: Option<Wrong>,
    /// A message has begun and not ended: what it has announced.
    begun: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    TooLarge(u32),
    TwoMessages,
}

impl Reading {
    const fn new(message_bytes_max: u32, is_stream: bool) -> Self {
        Self { message_bytes_max, is_stream, header: [0; 5], header_bytes: 0, to_come: 0, complete: 0 }
    }

    /// Whether the caller owes us something: the rest of a message, or, if it sends only one, that and the end.
    const fn owes(&self) -> bool {
        !self.is_stream || self.header_bytes > 0
    }

    fn piece(&mut self, bytes: &[u8]) -> Piece {
        let mut piece = Piece::default();
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.header_bytes < self.header.len() {
                if self.complete > 0 && !self.is_stream {
                    piece.wrong = Some(Wrong::TwoMessages);
                    return piece;
                }
                let count = rest.len().min(self.header.len() - self.header_bytes);
                self.header[self.header_bytes..][..count].copy_from_slice(&rest[..count]);
                self.header_bytes += count;
                rest = &rest[count..];
                if self.header_bytes < self.header.len() {
                    break;
                }
                let [_, length @ ..] = self.header;
                let length = u32::from_be_bytes(length);
                if length > self.message_bytes_max {
                    piece.wrong = Some(Wrong::TooLarge(length));
                    return piece;
                }
                self.to_come = u64::from(length);
                piece.begun = Some(length);
            }
            let count = rest.len().min(usize::try_from(self.to_come).unwrap_or(usize::MAX));
            self.to_come -= count as u64;
            rest = &rest[count..];
            if self.to_come == 0 {
                self.header_bytes = 0;
                self.complete += 1;
                piece.begun = None;
            }
            piece.good_bytes = bytes.len() - rest.len();
        }
        piece.good_bytes = bytes.len();
        piece
    }
}

/// Something that the caller owes us, and how it gets on.
struct Owed {
    wake: Pin<Box<Sleep>>,
    since: Instant,
    /// Received since the clock was set.
    bytes: u64,
}

/// A request's body.
struct Counted {
    body: Body,
    connection: Arc<Connection>,
    _call: Held,
    reading: Reading,
    /// Room for the message that is being received; for a single one until the request has ended.
    room: Option<Held>,
    /// A piece that waits for room.
    waiting: Option<(BoxFuture<'static, Result<Held, Full>>, Bytes)>,
    /// What the next poll says.
    refused: Option<Status>,
    owed: Option<Owed>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Counted {
    fn wrong(&self, wrong: Wrong) -> Status {
        refuse(match wrong {
            Wrong::TooLarge(bytes) => {
                let most = self.reading.message_bytes_max;
                Refusal::new(
                    Reason::RequestTooLarge,
                    "",
                    format!("a message of {bytes} bytes; {most} are taken"),
                )
            }
            Wrong::TwoMessages => {
                Refusal::new(Reason::RequestMalformed, "", "two messages where the method takes one")
            }
        })
    }

    /// A piece has come: hands it on, or keeps it until there is room.
    fn received(&mut self, mut bytes: Bytes) -> Polled {
        let complete = self.reading.complete;
        let piece = self.reading.piece(&bytes);
        if let Some(owed) = &mut self.owed {
            owed.bytes += bytes.len() as u64;
        }
        if self.reading.complete > complete {
            // The next one has time of its own.
            self.owed = None;
            if self.reading.is_stream {
                self.room = None;
            }
        }
        if let Some(wrong) = piece.wrong {
            bytes.truncate(piece.good_bytes);
            self.refused = Some(self.wrong(wrong));
        } else if let Some(announced) = piece.begun {
            match self.connection.try_request_bytes(announced) {
                Some(room) => self.room = Some(room),
                None => {
                    let connection = self.connection.clone();
                    let room = async move { connection.request_bytes(announced).await };
                    self.waiting = Some((Box::pin(room), bytes));
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    /// Nothing has come: whether the caller still has time.
    fn nothing(&mut self, context: &mut Context<'_>) -> Polled {
        if !self.reading.owes() {
            self.owed = None;
            return Poll::Pending;
        }
        let now = Instant::now();
        let owed = self.owed.get_or_insert_with(|| Owed {
            wake: Box::pin(sleep_until(now + PROGRESS_PATIENCE)),
            since: now,
            bytes: 0,
        });
        while owed.wake.as_mut().poll(context).is_ready() {
            let too_long = owed.since.elapsed() >= MESSAGE_PATIENCE;
            if owed.bytes < PROGRESS_BYTES || too_long {
                self.connection.stalled();
                let why = format!(
                    "{} bytes of the request came in the last {} s, after {} s in all; it was not taken",
                    owed.bytes,
                    PROGRESS_PATIENCE.as_secs(),
                    owed.since.elapsed().as_secs()
                );
                return Poll::Ready(Some(Err(refuse(Refusal::new(Reason::CallerStalled, "", why)))));
            }
            owed.bytes = 0;
            owed.wake.as_mut().reset(Instant::now() + PROGRESS_PATIENCE);
        }
        Poll::Pending
    }
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        if let Some(refused) = this.refused.take() {
            return Poll::Ready(Some(Err(refused)));
        }
        loop {
            if let Some((room, _)) = &mut this.waiting {
                let room = ready!(room.as_mut().poll(context));
                let bytes = this.waiting.take().map(|(_, bytes)| bytes).unwrap_or_default();
                return Poll::Ready(Some(match room {
                    Ok(room) => {
                        this.room = Some(room);
                        Ok(Frame::data(bytes))
                    }
                    Err(full) => Err(refuse(overloaded("bytes of half-received requests", full))),
                }));
            }
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Pending => return this.nothing(context),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => match this.received(bytes) {
                        Poll::Pending => {}
                        handed_on => return handed_on,
                    },
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                ended => {
                    this.room = None;
                    return ended;
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.refused.is_none() && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
