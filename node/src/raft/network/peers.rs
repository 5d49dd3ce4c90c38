//! The channels to all other nodes, shared by the groups.
//!
//! Invariants: addresses come from the topology, never from the log; a channel connects lazily and again after every failure;
//! a dead connection is noticed by HTTP/2 keep-alive even when the network only swallows packets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tercet_proto::v1;
use tercet_proto::v1::admin_client::AdminClient;
use tercet_proto::v1::ledger_client::LedgerClient;
use tercet_proto::v1::peer_client::PeerClient;
use tonic::transport::{Channel, Endpoint};

use super::link::AppendLink;
use super::transport::Way;
use crate::identity::Identity;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
const KEEP_ALIVE: Duration = Duration::from_millis(1_000);
/// HTTP/2 windows: a far link of 30 ms must not wait for window updates.
const WINDOW_BYTES: u32 = 16 << 20;
/// A peer's largest message: an append request of 1 MiB of entries, or one of a single huge proposal.
pub const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// No such node in the topology.
#[derive(Debug, thiserror::Error)]
#[error("node {0} is not in the topology")]
pub struct UnknownPeer(u64);

/// An address that is none.
#[derive(Debug, thiserror::Error)]
#[error("nodes[id = {node}].peer: {why}")]
pub struct BadAddress {
    node: u64,
    why: String,
}

/// All channels of a node.
pub struct Peers {
    identity: Arc<Identity>,
    channels: BTreeMap<u64, Channel>,
    silence: Duration,
    takes_part: AtomicBool,
}

impl Peers {
    /// Channels to `addresses` (node id to `host:port`); an append stream that is silent for `silence` is given up. Must be
    /// called within the runtime.
    ///
    /// # Errors
    /// An address that is no `host:port`.
    pub fn new(
        identity: Arc<Identity>,
        addresses: impl IntoIterator<Item = (u64, String)>,
        silence: Duration,
    ) -> Result<Self, BadAddress> {
        let mut channels = BTreeMap::new();
        for (node, address) in addresses {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .map_err(|error| BadAddress { node, why: error.to_string() })?
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .keep_alive_while_idle(true)
                .initial_stream_window_size(WINDOW_BYTES)
                .initial_connection_window_size(WINDOW_BYTES);
            channels.insert(node, endpoint.connect_lazy());
        }
        Ok(Self { identity, channels, silence, takes_part: AtomicBool::new(false) })
    }

    /// Ids of all other nodes.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.channels.keys().copied()
    }

    /// Whether a node is one of the others.
    #[must_use]
    pub fn knows(&self, node: u64) -> bool {
        self.channels.contains_key(&node)
    }

    /// Whether this node may ask for votes: not before it has asked whether it is who it takes itself for.
    #[must_use]
    pub fn takes_part(&self) -> bool {
        self.takes_part.load(Ordering::Acquire)
    }

    /// From now on it may.
    pub fn take_part(&self) {
        self.takes_part.store(true, Ordering::Release);
    }

    /// See [`Identity::accept_answer`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn accept_answer(&self, node: u64, header: Option<&v1::Header>) -> Result<(), String> {
        self.identity.accept_answer(node, header)
    }

    /// See [`Identity::accept_greeting_back`].
    ///
    /// # Errors
    /// What does not fit.
    pub fn accept_greeting_back(&self, node: u64, header: Option<&v1::Header>) -> Result<(), String> {
        self.identity.accept_greeting_back(node, header)
    }

    /// Greets a node.
    ///
    /// # Errors
    /// It does not answer, or another one does, in words.
    pub async fn hello(&self, node: u64, request: v1::HelloRequest) -> Result<v1::HelloResponse, String> {
        let mut client = self.client(node).map_err(|error| error.to_string())?;
        let answer = client.hello(request).await.map_err(|status| status.to_string())?.into_inner();
        self.accept_greeting_back(node, answer.header.as_ref())?;
        Ok(answer)
    }

    /// The header of a message.
    #[must_use]
    pub fn header(&self, to_node: u64, group: u32) -> v1::Header {
        self.identity.header(to_node, group)
    }

    fn channel(&self, node: u64) -> Result<Channel, UnknownPeer> {
        self.channels.get(&node).cloned().ok_or(UnknownPeer(node))
    }

    /// A client of a node's Peer service.
    ///
    /// # Errors
    /// The topology has no such node.
    pub fn client(&self, node: u64) -> Result<PeerClient<Channel>, UnknownPeer> {
        let channel = self.channel(node)?;
        Ok(PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of a node's Ledger service on its peer address, for forwarding.
    ///
    /// # Errors
    /// The topology has no such node.
    pub fn ledger(&self, node: u64) -> Result<LedgerClient<Channel>, UnknownPeer> {
        let channel = self.channel(node)?;
        Ok(LedgerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// A client of a node's Admin service on its peer address, for forwarding.
    ///
    /// # Errors
    /// The topology has no such node.
    pub fn admin(&self, node: u64) -> Result<AdminClient<Channel>, UnknownPeer> {
        self.channel(node).map(AdminClient::new)
    }

    /// A new append stream to a node. A node outside the topology gets one that never connects.
    #[must_use]
    pub fn link(&self, node: u64) -> AppendLink {
        let client = self.client(node).unwrap_or_else(|unknown| {
            tracing::error!(%unknown, "the membership names a node that the topology does not have");
            PeerClient::new(Endpoint::from_static("http://0.0.0.0:0").connect_lazy())
        });
        AppendLink::new(Way::Grpc(client), self.silence)
    }
}
