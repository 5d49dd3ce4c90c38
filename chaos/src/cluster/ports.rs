//! Loopback ports for processes that are killed and come back to them.
//!
//! Invariant: the ports lie outside the range from which the kernel picks the local ports of outgoing connections, so
//! none is taken by a connection while its node is down.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use rand::Rng;

/// Lowest port that is tried; below are the well-known services of a machine.
const LOWEST: u16 = 12_000;
/// Where the kernel's own range begins where it cannot be read.
const USUAL_KERNEL_RANGE: u16 = 32_768;
/// How many ports are tried for each that is needed.
const TRIES: usize = 200;

/// `count` different ports on which nothing listens now.
///
/// # Errors
/// So many were not found.
pub(super) fn free(count: usize, random: &mut impl Rng) -> std::io::Result<Vec<u16>> {
    let below = kernel_range_begin().filter(|&begin| begin > LOWEST + 1_000).unwrap_or(USUAL_KERNEL_RANGE);
    let mut found = BTreeSet::new();
    for _ in 0..count * TRIES {
        if found.len() == count {
            break;
        }
        let port = random.random_range(LOWEST..below);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            found.insert(port);
        }
    }
    if found.len() < count {
        return Err(std::io::Error::other(format!("no {count} free ports between {LOWEST} and {below}")));
    }
    Ok(found.into_iter().collect())
}

fn kernel_range_begin() -> Option<u16> {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_different_and_free() {
        let ports = free(15, &mut rand::rng()).unwrap();
        assert_eq!(ports.len(), 15);
        for port in ports {
            assert!(port < kernel_range_begin().unwrap_or(USUAL_KERNEL_RANGE));
        }
    }
}
