//! Nodes as five servers in this process, for profilers. Memory and CPU cannot be told apart then.

use std::path::Path;

use anyhow::{Context, Result};
use tercet_node::server::{Server, ServerConfig};
use tercet_proto::topology::Topology;

/// Five servers.
pub(crate) struct InProcess(Vec<Server>);

impl InProcess {
    /// Starts all nodes of the topology with their data below `dir`.
    pub(crate) async fn start(topology: &Topology, dir: &Path) -> Result<Self> {
        let mut servers = Vec::new();
        for node in &topology.nodes {
            let config = ServerConfig {
                topology: topology.clone(),
                node: node.name.clone(),
                data_dir: dir.join(&node.name),
                disk: topology.storage.disk,
            };
            let server = Box::pin(Server::start(config)).await;
            servers.push(server.with_context(|| format!("starting node {}", node.name))?);
        }
        Ok(Self(servers))
    }

    pub(super) async fn stop(self) {
        for server in self.0 {
            Box::pin(server.stop()).await;
        }
    }
}
