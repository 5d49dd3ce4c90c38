//! `host:port` addresses as topologies write them.
//!
//! Invariant: an address that [`parse_address`] accepts can be put behind `http://` unchanged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Splits `host:port`; IPv6 hosts stand in brackets.
pub(super) fn parse_address(address: &str) -> Result<(&str, u16), String> {
    let wrong = || format!("{address:?} is not host:port");
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| format!("{address:?} has no port from 1 to 65535"))?;
    if port == 0 {
        return Err(format!("{address:?} has no port from 1 to 65535"));
    }
    if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').ok_or_else(wrong)?;
        inner.parse::<Ipv6Addr>().map_err(|_| wrong())?;
        return Ok((host, port));
    }
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    if host.is_empty() || !host.chars().all(ok) {
        return Err(wrong());
    }
    // Four numbers with dots must be an address; other names are left to the resolver.
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(wrong());
    }
    Ok((host, port))
}

/// Whether an address is reachable from its own machine only: 127.0.0.0/8, `[::1]` or `localhost`.
pub fn is_loopback(address: &str) -> bool {
    let Ok((host, _)) = parse_address(address) else { return false };
    if host.eq_ignore_ascii_case("localhost") {
        return true;
    }
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
