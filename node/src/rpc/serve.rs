//! The two gRPC servers of a node: one for clients, one for peers.
//!
//! Invariants: health and reflection are always on at the client address; the peer address takes forwarded ledger calls, and
//! only there is the hop count believed.

use std::sync::Arc;

use tercet_proto::FILE_DESCRIPTOR_SET;
use tercet_proto::limits::MAX_MESSAGE_BYTES;
use tercet_proto::v1::admin_server::AdminServer;
use tercet_proto::v1::ledger_server::LedgerServer;
use tercet_proto::v1::peer_server::PeerServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::admin::AdminService;
use super::health;
use super::ledger::LedgerService;
use super::peer::PeerService;
use crate::node::Node;
use crate::raft::network::peers::MESSAGE_BYTES_MAX;

/// HTTP/2 windows of both servers.
const WINDOW_BYTES: u32 = 16 << 20;

fn server() -> Server {
    Server::builder()
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
}

fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
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
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let admin = AdminServer::new(AdminService::new(node.clone()));
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
    Ok(async move {
        let served = server()
            .add_service(health)
            .add_service(v1)
            .add_service(v1alpha)
            .add_service(ledger)
            .add_service(admin)
            .serve_with_incoming_shutdown(incoming(listener), stop)
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
    let name = node.name.clone();
    async move {
        let served = server()
            .add_service(peer)
            .add_service(ledger)
            .serve_with_incoming_shutdown(incoming(listener), stop)
            .await;
        if let Err(error) = served {
            tracing::error!(node = name, %error, "the peer server has stopped");
        }
    }
}
