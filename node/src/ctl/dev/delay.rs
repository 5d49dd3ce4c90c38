//! `--link-delay west=15ms`: relays inside the process that hold back what crosses a site's links.
//!
//! Invariants:
//! - Every node listens on its own `peer` address; only the addresses at which it *dials* nodes across a delayed link are
//!   a relay's.
//! - The declared round trips never lie below what the relays add, so Raft's timing is derived from the true ones.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use tercet_proto::topology::Topology;
use tokio::sync::watch;

use crate::relay::Relay;

/// Longest delay that makes sense, one way.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// One `--link-delay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LinkDelay {
    /// The site whose links are delayed.
    pub(crate) site: String,
    /// One way, to and from the site.
    pub(crate) delay: Duration,
}

impl FromStr for LinkDelay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (site, delay) = text
            .split_once('=')
            .filter(|(site, _)| !site.is_empty())
            .ok_or_else(|| format!("{text:?} is not SITE=DELAY, e.g. west=15ms"))?;
        let units = [("ms", 1_000.0), ("us", 1.0), ("s", 1_000_000.0)];
        let (number, unit_us) = units
            .into_iter()
            .find_map(|(unit, us)| delay.strip_suffix(unit).map(|number| (number, us)))
            .ok_or_else(|| format!("delay {delay:?} has no unit: us, ms or s"))?;
        let number: f64 =
            number.parse().map_err(|_| format!("delay {delay:?} is not a number and a unit"))?;
        let delay = Duration::try_from_secs_f64(number * unit_us / 1_000_000.0)
            .ok()
            .filter(|&delay| delay <= MAX_DELAY)
            .ok_or_else(|| format!("delay {delay:?} is not from 0 to {} s", MAX_DELAY.as_secs()))?;
        Ok(Self { site: site.to_owned(), delay })
    }
}

/// The running relays. Dropping them ends them at once.
#[derive(Debug, Default)]
pub(crate) struct DelayedLinks {
    relays: Vec<Relay>,
    /// Never cut.
    whole: watch::Sender<bool>,
}

impl DelayedLinks {
    /// Starts the relays that `delays` ask for and returns each node's view of `topology`, by node name.
    ///
    /// # Errors
    /// An unknown site, a round trip that the timing cannot be derived from, or no free port; the text names it.
    pub(crate) async fn start(
        topology: &Topology,
        delays: &[LinkDelay],
    ) -> Result<(Self, BTreeMap<String, Topology>), String> {
        let delays = by_site(topology, delays)?;
        let shared = with_declared_round_trips(topology, &delays)?;
        let mut links = Self::default();
        let mut known: HashMap<(u64, Duration), SocketAddr> = HashMap::new();
        let mut views = BTreeMap::new();
        for dialer in &shared.nodes {
            let mut view = shared.clone();
            for target in &mut view.nodes {
                let delay = one_way(&shared, &delays, dialer.id, target.id);
                if delay.is_zero() {
                    continue;
                }
                let relay = match known.get(&(target.id, delay)) {
                    Some(&relay) => relay,
                    None => {
                        let relay = links.relay_to(target.peer.clone(), delay).await?;
                        known.insert((target.id, delay), relay);
                        relay
                    }
                };
                target.peer = relay.to_string();
            }
            views.insert(dialer.name.clone(), view);
        }
        Ok((links, views))
    }

    /// Ends every relay and its connections.
    pub(crate) fn stop(self) {
        drop(self);
    }

    async fn relay_to(&mut self, target: String, delay: Duration) -> Result<SocketAddr, String> {
        let relay = Relay::start(target, delay, self.whole.subscribe()).await;
        let relay = relay.map_err(|error| format!("link delay: {error}"))?;
        let address = relay.address();
        self.relays.push(relay);
        Ok(address)
    }
}

fn by_site(topology: &Topology, delays: &[LinkDelay]) -> Result<HashMap<String, Duration>, String> {
    let mut by_site = HashMap::new();
    for LinkDelay { site, delay } in delays {
        if !topology.sites.iter().any(|known| known.name == *site) {
            let known: Vec<&str> = topology.sites.iter().map(|site| site.name.as_str()).collect();
            return Err(format!("--link-delay {site}: no such site (there are {})", known.join(", ")));
        }
        if by_site.insert(site.clone(), *delay).is_some() {
            return Err(format!("--link-delay {site}: given twice"));
        }
    }
    Ok(by_site)
}

/// One way between two nodes: nothing within a site, else what both sites' links add.
fn one_way(topology: &Topology, delays: &HashMap<String, Duration>, from: u64, to: u64) -> Duration {
    let (from, to) = (topology.site_of(from), topology.site_of(to));
    if from == to {
        return Duration::ZERO;
    }
    [from, to].into_iter().flatten().filter_map(|site| delays.get(site)).sum()
}

/// The topology with round trips that are at least what the relays add.
fn with_declared_round_trips(
    topology: &Topology,
    delays: &HashMap<String, Duration>,
) -> Result<Topology, String> {
    let mut declared = topology.clone();
    for (pair, rtt_ms) in &mut declared.timing.rtt_ms {
        let sites = pair
            .split_once('-')
            .and_then(|(zone, other)| Some([&topology.zone(zone)?.site, &topology.zone(other)?.site]));
        if let Some([site, other]) = sites
            && site != other
        {
            let added: Duration = [site, other].into_iter().filter_map(|site| delays.get(site)).sum();
            *rtt_ms = rtt_ms.max(added.as_secs_f64() * 2_000.0);
        }
    }
    declared.validate().map_err(|error| format!("--link-delay: {error}"))?;
    Ok(declared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_a_site_and_a_duration() {
        let parsed = |text: &str| text.parse::<LinkDelay>();
        let delay =
            |site: &str, us| Ok(LinkDelay { site: site.to_owned(), delay: Duration::from_micros(us) });
        assert_eq!(parsed("west=15ms"), delay("west", 15_000));
        assert_eq!(parsed("west=0.5ms"), delay("west", 500));
        assert_eq!(parsed("east=250us"), delay("east", 250));
        assert_eq!(parsed("east=1s"), delay("east", 1_000_000));
        for wrong in ["west", "=15ms", "west=", "west=15", "west=ms", "west=-1ms", "west=6s", "west=NaNms"] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn only_the_links_of_the_site_are_redirected() {
        let topology = Topology::default_on(7_000).expect("the default");
        let delays = ["west=15ms".parse().expect("a delay")];
        let (links, views) = DelayedLinks::start(&topology, &delays).await.expect("relays");
        let redirected = |dialer: &str| -> Vec<&str> {
            let pairs = views[dialer].nodes.iter().zip(&topology.nodes);
            pairs.filter(|(seen, real)| seen.peer != real.peer).map(|(_, real)| real.name.as_str()).collect()
        };
        for dialer in ["a1", "a2", "b1", "b2"] {
            assert_eq!(redirected(dialer), ["c1"]);
        }
        assert_eq!(redirected("c1"), ["a1", "a2", "b1", "b2"]);
        assert_eq!(views["a1"].node("c1"), views["b2"].node("c1"));
        assert!(views.values().all(|view| view.timing() == topology.timing()));
        links.stop();
    }

    #[tokio::test]
    async fn a_longer_delay_than_declared_lengthens_the_timing() {
        let topology = Topology::default_on(7_000).expect("the default");
        let delays = ["west=100ms".parse().expect("a delay")];
        let (links, views) = DelayedLinks::start(&topology, &delays).await.expect("relays");
        assert_eq!(views["a1"].rtt_ms("a", "c"), Some(200.0));
        assert_eq!(views["a1"].rtt_ms("a", "b"), topology.rtt_ms("a", "b"));
        links.stop();
    }

    #[tokio::test]
    async fn unknown_and_repeated_sites_are_refused_by_name() {
        let topology = Topology::default_on(7_000).expect("the default");
        let refused = async |delays: &[&str]| {
            let delays: Vec<LinkDelay> = delays.iter().map(|text| text.parse().expect("a delay")).collect();
            DelayedLinks::start(&topology, &delays).await.expect_err("refused")
        };
        assert_eq!(refused(&["north=1ms"]).await, "--link-delay north: no such site (there are east, west)");
        assert_eq!(refused(&["west=1ms", "west=2ms"]).await, "--link-delay west: given twice");
    }
}
