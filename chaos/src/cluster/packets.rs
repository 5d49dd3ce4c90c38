//! Blackholes by the kernel: nftables drops the packets of a link, in a network namespace of the harness's own.
//!
//! Every proxy has an address to itself there, so a link's packets can be told: for a connection that X dials to Y over the
//! proxy at L, port P,
//!
//! ```text
//! X ----> L:P    L:* ----> Y        X to Y: daddr L dport P;  saddr L sport not P
//! X <---- L:P    L:* <---- Y        Y to X: saddr L sport P;  daddr L dport not P
//! ```
//!
//! and a connection that Y dials to X has the same two directions the other way round. What is dropped is lost: it is sent
//! again by TCP as it likes, a new connection is not even accepted, and after healing both ends find out by themselves.
//!
//! They are dropped where they arrive: the sender is not told, as it would be by a rule on its own way out.
//!
//! Invariants: the rules in force are always exactly those of the faults in force, changed in one transaction; they end
//! with the namespace.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use super::namespace::run;
use crate::proxy::Endpoint;

/// Two ends, and where the proxy between them listens.
pub(crate) type Dialled = (Endpoint, Endpoint, SocketAddr);

const TABLE: &str = "\
table ip chaos {
  counter dropped {
  }
  chain in {
    type filter hook input priority 0; policy accept;
  }
}
";

/// The address of the proxy between two ends.
pub(crate) fn address_of(from: Endpoint, to: Endpoint) -> Ipv4Addr {
    let octet = |end| match end {
        Endpoint::Clients => 0,
        Endpoint::Node(id) => u8::try_from(id).unwrap_or(u8::MAX),
    };
    Ipv4Addr::new(127, 200, octet(from), octet(to))
}

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct PacketFilter {
    faults: Mutex<BTreeMap<u64, Vec<(Endpoint, Endpoint)>>>,
}

impl PacketFilter {
    /// Makes the namespace's network usable and its table.
    ///
    /// # Errors
    /// No `ip`, no `nft`, or the kernel refuses.
    pub(crate) fn start() -> io::Result<Self> {
        run("ip", &["link", "set", "lo", "up"].map(std::ffi::OsStr::new))?;
        nft(TABLE)?;
        Ok(Self::default())
    }

    /// Drops the packets of these links from now on.
    ///
    /// # Errors
    /// nft refuses.
    pub(crate) fn impose(
        &self,
        number: u64,
        pairs: &[(Endpoint, Endpoint)],
        dialled: &[Dialled],
    ) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(number, pairs.to_vec());
        nft(&rules(&faults, dialled))
    }

    /// Lets them through again, as far as no other fault hits them.
    ///
    /// # Errors
    /// nft refuses.
    pub(crate) fn lift(&self, number: u64, dialled: &[Dialled]) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.remove(&number).is_none() {
            return Ok(());
        }
        nft(&rules(&faults, dialled))
    }

    /// How many packets have been dropped so far.
    ///
    /// # Errors
    /// nft does not say.
    pub(crate) fn dropped(&self) -> io::Result<u64> {
        let output =
            Command::new("nft").args(["-j", "list", "counter", "ip", "chaos", "dropped"]).output()?;
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let counters = said["nftables"].as_array().into_iter().flatten();
        counters
            .filter_map(|object| object["counter"]["packets"].as_u64())
            .next()
            .ok_or_else(|| io::Error::other("nft shows no counter"))
    }
}

/// Why packets cannot be dropped here; none: they can. To be asked inside.
pub fn why_not() -> Option<String> {
    let tried = PacketFilter::start().and_then(|filter| filter.dropped());
    // The run makes its own.
    let removed = nft("delete table ip chaos\n");
    tried.map(drop).and(removed).err().map(|error| format!("packets cannot be dropped here: {error}"))
}

fn rules(faults: &BTreeMap<u64, Vec<(Endpoint, Endpoint)>>, dialled: &[Dialled]) -> String {
    let mut text = "flush chain ip chaos in\n".to_owned();
    for (from, to, proxy) in dialled {
        let (address, port) = (proxy.ip(), proxy.port());
        let is_cut = |link: (Endpoint, Endpoint)| faults.values().any(|pairs| pairs.contains(&link));
        let mut add = |rule: String| {
            text.push_str(&format!("add rule ip chaos in {rule} counter name dropped drop\n"));
        };
        if is_cut((*from, *to)) {
            add(format!("ip daddr {address} tcp dport {port}"));
            add(format!("ip saddr {address} tcp sport != {port}"));
        }
        if is_cut((*to, *from)) {
            add(format!("ip saddr {address} tcp sport {port}"));
            add(format!("ip daddr {address} tcp dport != {port}"));
        }
    }
    text
}

fn nft(script: &str) -> io::Result<()> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("nft: {error}"));
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(named)?;
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("nft: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_are_those_of_the_faults_in_force() {
        let (a1, b1) = (Endpoint::Node(1), Endpoint::Node(3));
        let dialled: Vec<Dialled> = [(a1, b1, 7000), (b1, a1, 7001), (Endpoint::Clients, b1, 7002)]
            .map(|(from, to, port)| (from, to, SocketAddr::new(address_of(from, to).into(), port)))
            .to_vec();
        let mut faults = BTreeMap::from([(1, vec![(a1, b1)])]);
        let drops: Vec<String> = rules(&faults, &dialled)
            .lines()
            .skip(1)
            .map(|line| line.replace("add rule ip chaos in ", "").replace(" counter name dropped drop", ""))
            .collect();
        assert_eq!(
            drops,
            [
                "ip daddr 127.200.1.3 tcp dport 7000",
                "ip saddr 127.200.1.3 tcp sport != 7000",
                "ip saddr 127.200.3.1 tcp sport 7001",
                "ip daddr 127.200.3.1 tcp dport != 7001",
            ],
            "what a1 sends to b1, over connections that either has dialled"
        );
        faults.clear();
        assert_eq!(rules(&faults, &dialled), "flush chain ip chaos in\n");
    }
}
