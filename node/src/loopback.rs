//! Addresses for a cluster on this machine: for tests, benchmarks and the chaos harness.
//!
//! A port that was free a moment ago may be anybody's when a node binds it: another test's, or the local end of an
//! outgoing connection. So nothing is reserved by binding and letting go. Instead every process has an address of
//! 127.0.0.0/8 to itself, made from its process id, and counts the ports on it.
//!
//! Invariants: no address is given out twice by a process; two processes that run at the same time never get the same;
//! connections, whose local end is 127.0.0.1, never take one.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below are the well-known services, which may listen on all addresses.
const FIRST_PORT: u16 = 10_000;

static NEXT_PORT: AtomicU16 = AtomicU16::new(FIRST_PORT);

/// An address on which nothing listens, and which nobody else is given.
///
/// # Errors
/// No port of this process's address is left, or the system has no such address.
pub fn free_address() -> std::io::Result<SocketAddrV4> {
    let own = own_address(std::process::id());
    loop {
        let port = NEXT_PORT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| port.checked_add(1))
            .map_err(|_| std::io::Error::other(format!("all ports of {own} have been used")))?;
        let address = SocketAddrV4::new(own, port);
        match TcpListener::bind(address) {
            Ok(_) => return Ok(address),
            // Somebody listens on this port of all addresses.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
}

/// 127.64.0.0 to 127.127.255.255, one for each of the 2^22 process ids that Linux has.
fn own_address(process: u32) -> Ipv4Addr {
    let [_, high, middle, low] = process.to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), middle, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_has_its_own_address() {
        for (process, address) in
            [(1, "127.64.0.1"), (70_000, "127.65.17.112"), (4_194_303, "127.127.255.255")]
        {
            assert_eq!(own_address(process).to_string(), address);
            assert!(own_address(process).is_loopback());
        }
    }

    #[test]
    fn no_address_is_given_twice_even_if_it_is_not_used() {
        let mut given: Vec<SocketAddrV4> = (0..50).map(|_| free_address().expect("an address")).collect();
        given.dedup();
        assert_eq!(given.len(), 50);
        TcpListener::bind(given[0]).expect("nothing listens there");
    }
}
