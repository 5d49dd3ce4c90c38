//! The nodes of `tercet dev`: all of a topology in one process.
//!
//! Invariant: either every node runs or none does: what had been started is stopped before a failure is reported.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;

use futures::FutureExt;
use futures::future::{join_all, select_all};
use tercet_proto::topology::{DiskSetting, Topology};

use super::delay::{DelayedLinks, LinkDelay};
use crate::ctl::exit::Failure;
use crate::server::{Server, ServerConfig};

/// Five servers, or as many as the topology has.
pub(crate) struct DevCluster {
    servers: Vec<Server>,
    links: DelayedLinks,
}

impl DevCluster {
    /// Starts every node, each in a directory of its own name below `data_dir`.
    ///
    /// # Errors
    /// A taken port, an unknown site, or what keeps a node from starting; nothing is left running.
    pub(crate) async fn start(
        topology: &Topology,
        data_dir: &Path,
        delays: &[LinkDelay],
        port_hint: &str,
    ) -> Result<Self, Failure> {
        check_ports(topology, port_hint)?;
        let (links, views) = DelayedLinks::start(topology, delays).await.map_err(Failure::input)?;
        let configs = configs(topology, views, data_dir);
        let started = join_all(configs.into_iter().map(|config| Box::pin(Server::start(config)))).await;
        let mut servers = Vec::new();
        let mut failure = None;
        for result in started {
            match result {
                Ok(server) => servers.push(server),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let cluster = Self { servers, links };
        match failure {
            None => Ok(cluster),
            Some(error) => {
                cluster.stop().await;
                Err(Failure::failed(error.to_string()))
            }
        }
    }

    /// Where clients reach the nodes, in the topology's order.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("http://{}", server.client_address())).collect()
    }

    /// The nodes and their disks in words, one line each.
    pub(crate) fn describe(&self) -> Vec<String> {
        self.servers
            .iter()
            .map(|server| {
                let disk = server.disk_description();
                format!("node {} serving clients on {}, disk {disk}", server.node(), server.client_address())
            })
            .collect()
    }

    /// Completes when a node cannot go on, with its name and the reason.
    pub(crate) async fn failed(&self) -> (String, String) {
        if self.servers.is_empty() {
            return std::future::pending().await;
        }
        let failures = self
            .servers
            .iter()
            .map(|server| async { (server.node().to_owned(), server.failed().await) }.boxed());
        select_all(failures).await.0
    }

    /// Stops every node cleanly.
    pub(crate) async fn stop(self) {
        join_all(self.servers.into_iter().map(|server| Box::pin(server.stop_with_all()))).await;
        self.links.stop();
    }
}

fn configs(topology: &Topology, mut views: BTreeMap<String, Topology>, data_dir: &Path) -> Vec<ServerConfig> {
    // A newcomer's machine may lack io_uring; a file that asks for the portable disk gets it.
    let disk = match topology.storage.disk {
        DiskSetting::Portable => DiskSetting::Portable,
        DiskSetting::IoUring | DiskSetting::Auto => DiskSetting::Auto,
    };
    topology
        .nodes
        .iter()
        .map(|node| ServerConfig {
            topology: views.remove(&node.name).unwrap_or_else(|| topology.clone()),
            node: node.name.clone(),
            data_dir: data_dir.join(&node.name),
            disk,
        })
        .collect()
}

/// Tries every port before anything is started or written, so that the message can name the node and the way out.
fn check_ports(topology: &Topology, hint: &str) -> Result<(), Failure> {
    for node in &topology.nodes {
        let addresses =
            [("peer", Some(&node.peer)), ("client", Some(&node.client)), ("metrics", node.metrics.as_ref())];
        for (what, address) in addresses {
            let Some(address) = address else { continue };
            if let Err(error) = TcpListener::bind(address) {
                let message = match error.kind() {
                    std::io::ErrorKind::AddrInUse => format!(
                        "{address} ({what} address of node {}) is taken by another process; {hint}",
                        node.name
                    ),
                    _ => format!("{address} ({what} address of node {}): {error}", node.name),
                };
                return Err(Failure::failed(message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A topology on addresses that only this test has.
    fn free_topology() -> Topology {
        let mut topology = Topology::default_on(7_000).expect("the default");
        let free = || crate::loopback::free_address().expect("an address").to_string();
        for node in &mut topology.nodes {
            (node.peer, node.client, node.metrics) = (free(), free(), Some(free()));
        }
        topology
    }

    #[test]
    fn a_taken_port_is_named_with_its_node_and_the_way_out() {
        let topology = free_topology();
        check_ports(&topology, "use --base-port").expect("all free");
        let address = &topology.nodes[2].client;
        let _held = TcpListener::bind(address).expect("free");
        let failure = check_ports(&topology, "use --base-port").expect_err("taken");
        assert_eq!(
            failure.message,
            format!("{address} (client address of node b1) is taken by another process; use --base-port")
        );
    }

    #[test]
    fn every_node_has_its_own_directory_and_a_disk_that_falls_back() {
        let mut topology = Topology::default_on(7_000).expect("the default");
        let made = configs(&topology, BTreeMap::new(), Path::new("data/dev"));
        let dirs: Vec<String> = made.iter().map(|config| config.data_dir.display().to_string()).collect();
        assert_eq!(dirs, ["a1", "a2", "b1", "b2", "c1"].map(|name| format!("data/dev/{name}")));
        assert!(made.iter().all(|config| config.disk == DiskSetting::Auto));
        topology.storage.disk = DiskSetting::Portable;
        let made = configs(&topology, BTreeMap::new(), Path::new("data/dev"));
        assert!(made.iter().all(|config| config.disk == DiskSetting::Portable));
    }
}
