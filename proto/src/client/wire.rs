//! The client's connections: small messages of many callers leave together.
//!
//! h2 hands a message of 256 bytes or more to a writer that takes several pieces at once by itself, with a system call of its own; to one
//! that does not, it copies messages of up to 1 KiB into one buffer first. An append is 300 to 600 bytes, and a system call costs far more
//! than copying it: with 256 callers on four connections one call a request became one for twenty.
//!
//! Invariant: bytes go through unchanged and in order.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tower::util::MapResponse;

/// A channel whose connection is opened when it is first used, and given up if that takes longer than `limit`.
pub(super) fn channel(endpoint: &Endpoint, limit: Duration) -> Channel {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    let gathering =
        MapResponse::new(connector, |io: TokioIo<TcpStream>| TokioIo::new(Gathering(io.into_inner())));
    endpoint.connect_with_connector_lazy(gathering)
}

/// A connection that takes one piece at a time, and says so.
struct Gathering(TcpStream);

impl AsyncRead for Gathering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Gathering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
