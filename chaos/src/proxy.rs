//! The user-space network between nodes and clients: one proxy per dialler and target, no root needed.
//!
//! Every address that a node or a client knows of another node is a proxy's. The proxy carries each connection over two
//! [`Link`]s, one a direction, that faults are imposed on.
//!
//! Invariants: there is exactly one link for every ordered pair of endpoints; dropping the [`Network`] ends every proxy,
//! every connection and the timer thread.

mod connection;
mod link;
mod pacer;
mod pump;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use link::{Endpoint, Link, LinkCounts, LinkFault, LinkShape};
pub use pacer::Pacer;

use connection::{Route, carry};

/// Pause after a failed accept (no file descriptor left), so that the proxy does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// All links and the proxies that use them.
#[derive(Debug)]
pub struct Network {
    links: BTreeMap<(Endpoint, Endpoint), Arc<Link>>,
    proxies: Vec<Proxy>,
    pacer: Arc<Pacer>,
    seed: u64,
}

impl Network {
    /// Links between all of `endpoints`, each with the shape that `own` gives it; no proxy yet.
    ///
    /// # Errors
    /// The system gives no thread for the timers.
    pub fn new(
        endpoints: &[Endpoint],
        own: impl Fn(Endpoint, Endpoint) -> LinkShape,
        seed: u64,
    ) -> std::io::Result<Self> {
        let mut links = BTreeMap::new();
        for &from in endpoints {
            for &to in endpoints.iter().filter(|&&to| to != from) {
                links.insert((from, to), Arc::new(Link::new(from, to, own(from, to))));
            }
        }
        Ok(Self { links, proxies: Vec::new(), pacer: Arc::new(Pacer::start()?), seed })
    }

    /// The link from one endpoint to another, if there are both.
    pub fn link(&self, from: Endpoint, to: Endpoint) -> Option<&Arc<Link>> {
        self.links.get(&(from, to))
    }

    /// All links, ordered by their endpoints.
    pub fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.links.values()
    }

    /// Every proxy: who dials whom, and where.
    pub fn addresses(&self) -> impl Iterator<Item = (Endpoint, Endpoint, SocketAddr)> {
        self.proxies.iter().map(|proxy| (proxy.from, proxy.to, proxy.address))
    }

    /// Starts a proxy through which `from` reaches `upstream`, an address of `to`; returns the proxy's address. With `local`
    /// the proxy listens and dials there and nowhere else, so that its packets can be told from all others.
    ///
    /// # Errors
    /// No such link, no such local address, or no port.
    pub async fn proxy(
        &mut self,
        from: Endpoint,
        to: Endpoint,
        upstream: SocketAddr,
        local: Option<Ipv4Addr>,
    ) -> std::io::Result<SocketAddr> {
        let missing = || std::io::Error::other(format!("there is no link between {from} and {to}"));
        let route = Route {
            upstream,
            forward: Arc::clone(self.link(from, to).ok_or_else(missing)?),
            backward: Arc::clone(self.link(to, from).ok_or_else(missing)?),
            pacer: Arc::clone(&self.pacer),
            local,
        };
        let listener = TcpListener::bind((local.unwrap_or(Ipv4Addr::LOCALHOST), 0)).await?;
        let address = listener.local_addr()?;
        let seed = self.seed.wrapping_add((self.proxies.len() as u64) << 32);
        self.proxies.push(Proxy { from, to, address, task: tokio::spawn(accept(listener, route, seed)) });
        Ok(address)
    }
}

/// A listener and its connections.
#[derive(Debug)]
struct Proxy {
    from: Endpoint,
    to: Endpoint,
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, route: Route, seed: u64) {
    let mut connections = JoinSet::new();
    let mut count = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((dialler, _)) => {
                    count += 2;
                    connections.spawn(carry(dialler, route.clone(), seed.wrapping_add(count)));
                }
                Err(error) => {
                    tracing::warn!(%error, "a proxy cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}
