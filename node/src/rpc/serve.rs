//! The two gRPC servers of a node: one for clients, one for peers.
//!
//! Invariants: health and reflection are always on at the client address; the peer address takes forwarded calls of the Ledger and Admin
//! services, and only there is the hop count believed; callers come in through the node's doors, and nothing of HTTP/2 is without
//! a bound (tonic hands `None` down where nothing is said, which switches hyper's own bounds off); whatever is refused carries a
//! reason, also by tonic itself.

use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use tercet_proto::FILE_DESCRIPTOR_SET;
use tercet_proto::limits::{MAX_MESSAGE_BYTES, MAX_REQUEST_MESSAGE_BYTES};
use tercet_proto::v1::admin_server::AdminServer;
use tercet_proto::v1::ledger_server::LedgerServer;
use tercet_proto::v1::peer_server::PeerServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

use super::admin::AdminService;
use super::bodies::BodiesLayer;
use super::health;
use super::ledger::LedgerService;
use super::named::{self, Naming};
use super::peer::PeerService;
use crate::doors::{Doorway, Guest};
use crate::node::Node;
use crate::raft::network::peers::MESSAGE_BYTES_MAX;

/// HTTP/2's bounds at a port.
struct Http2 {
    /// Streams of a connection at once.
    streams: u32,
    /// Streams that the caller has reset and no service has seen yet; beyond, the connection ends (rapid reset).
    pending_resets: usize,
    /// Streams that this end has reset for the caller's faults; beyond, the connection ends.
    error_resets: usize,
    /// What a caller may send of one stream before a service takes it.
    stream_window: u32,
    /// The same of a connection. What a service does not take lies here uncounted, so times the connections of an address it has to
    /// stay below what one address may make a node hold.
    connection_window: u32,
    message_bytes_max: u32,
}

const CLIENTS: Http2 = Http2 {
    streams: 256,
    pending_resets: 20,
    error_resets: 128,
    stream_window: 512 << 10,
    connection_window: 1 << 20,
    message_bytes_max: MAX_REQUEST_MESSAGE_BYTES,
};

/// Windows of a far link: 30 ms must not wait for updates. Bounds on resets that a cluster's own calls, given up by the dozen when a
/// zone is lost, do not reach.
const PEERS: Http2 = Http2 {
    streams: 1_024,
    pending_resets: 1_000,
    error_resets: 1_024,
    stream_window: 16 << 20,
    connection_window: 16 << 20,
    message_bytes_max: MESSAGE_BYTES_MAX_ANNOUNCED,
};

const MESSAGE_BYTES_MAX_ANNOUNCED: u32 = 32 << 20;
const _: () = assert!(MESSAGE_BYTES_MAX_ANNOUNCED as usize == MESSAGE_BYTES_MAX);

const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A connection is asked so often whether it is still there, and must answer in so long.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

fn server(bounds: &Http2) -> Server<Stack<BodiesLayer, Stack<Naming, Identity>>> {
    Server::builder()
        .layer(named::layer())
        .max_concurrent_streams(Some(bounds.streams))
        .http2_max_pending_accept_reset_streams(Some(bounds.pending_resets))
        .http2_max_local_error_reset_streams(Some(bounds.error_resets))
        .initial_stream_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEP_ALIVE.0))
        .http2_keepalive_timeout(Some(KEEP_ALIVE.1))
        .layer(BodiesLayer::new(bounds.message_bytes_max))
}

fn guests(doorway: Doorway) -> impl Stream<Item = std::io::Result<Guest>> + Send {
    futures::stream::unfold(doorway, |mut doorway| async move {
        let guest = doorway.next().await;
        Some((Ok(guest), doorway))
    })
}

/// Serves Ledger, Admin, health and reflection until `stop` completes.
///
/// # Errors
/// The descriptors do not decode.
pub fn client_services(
    node: &Arc<Node>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<impl Future<Output = ()> + Send + 'static, tonic_reflection::server::Error> {
    let ledger = LedgerServer::new(LedgerService::new(node.clone(), false))
        .max_decoding_message_size(MAX_REQUEST_MESSAGE_BYTES as usize)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let admin = AdminServer::new(AdminService::new(node.clone(), false));
    let reflection = |node: tonic_reflection::server::Builder<'static>| {
        node.register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let v1 = reflection(tonic_reflection::server::Builder::configure()).build_v1()?;
    // grpcurl and older grpcio ask for v1alpha.
    let v1alpha = reflection(tonic_reflection::server::Builder::configure()).build_v1alpha()?;
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(health::keep(node.clone(), reporter));
    let name = node.name.clone();
    let doorway = Doorway::http2(listener, node.doors.client.clone());
    Ok(async move {
        let served = server(&CLIENTS)
            .add_service(health)
            .add_service(v1)
            .add_service(v1alpha)
            .add_service(ledger)
            .add_service(admin)
            .serve_with_incoming_shutdown(guests(doorway), stop)
            .await;
        if let Err(error) = served {
            tracing::error!(node = name, %error, "the client server has stopped");
        }
    })
}

/// Serves Peer and forwarded ledger calls until `stop` completes.
pub fn peer_services(
    node: &Arc<Node>,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let peer = PeerServer::new(PeerService::new(node.clone()))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let ledger = LedgerServer::new(LedgerService::new(node.clone(), true))
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let admin = AdminServer::new(AdminService::new(node.clone(), true));
    let name = node.name.clone();
    let doorway = Doorway::http2(listener, node.doors.peer.clone());
    async move {
        let served = server(&PEERS)
            .add_service(peer)
            .add_service(ledger)
            .add_service(admin)
            .serve_with_incoming_shutdown(guests(doorway), stop)
            .await;
        if let Err(error) = served {
            tracing::error!(node = name, %error, "the peer server has stopped");
        }
    }
}
