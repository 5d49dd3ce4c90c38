//! A real cluster behind the workload's [`Ledger`], through the Rust client.
//!
//! Invariant: an outcome is `refused` only if the client says that the request had no effect and will have none; what the
//! client cannot know is `unknown`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use tercet_proto::client::{Client, ClientError, ClientOptions};
use tercet_proto::v1;

use super::Ledger;
use crate::history::{Attested, Class, EntrySeen, Hash32, Outcome, ReceiptSeen};

/// Where clients reach a node.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The node's id.
    pub id: u64,
    /// The node's name.
    pub node: String,
    /// `host:port`
    pub address: String,
}

/// One client's way to the cluster.
#[derive(Debug)]
pub struct Remote {
    /// One client a node, or a single one that follows the leader.
    seats: Vec<(String, Client)>,
    current: AtomicUsize,
    timeout: Duration,
}

impl Remote {
    /// Stays with the node `first` until it is told to move on.
    ///
    /// # Errors
    /// An address is none.
    pub fn pinned(seats: &[Seat], first: usize, timeout: Duration) -> Result<Self, ClientError> {
        let connected = seats
            .iter()
            .map(|seat| {
                let options = ClientOptions { follow_leader: false, ..options(timeout) };
                Ok((seat.node.clone(), Client::connect(vec![seat.address.clone()], options)?))
            })
            .collect::<Result<_, ClientError>>()?;
        Ok(Self { seats: connected, current: AtomicUsize::new(first), timeout })
    }

    /// Follows the leader, beginning at the node `first`.
    ///
    /// # Errors
    /// An address is none.
    pub fn following(seats: &[Seat], first: usize, timeout: Duration) -> Result<Self, ClientError> {
        let mut addresses: Vec<String> = seats.iter().map(|seat| seat.address.clone()).collect();
        if !addresses.is_empty() {
            let places = addresses.len();
            addresses.rotate_left(first % places);
        }
        let address_map: HashMap<u64, String> =
            seats.iter().map(|seat| (seat.id, seat.address.clone())).collect();
        let client = Client::connect(addresses, ClientOptions { address_map, ..options(timeout) })?;
        Ok(Self { seats: vec![("leader".to_owned(), client)], current: AtomicUsize::new(0), timeout })
    }

    fn seat(&self) -> Option<&(String, Client)> {
        self.seats.get(self.current.load(Ordering::Relaxed) % self.seats.len().max(1))
    }

    fn client(&self) -> Result<&Client, Outcome> {
        self.seat().map(|(_, client)| client).ok_or_else(|| refused("UNREACHABLE", "there is no node to ask"))
    }
}

fn options(timeout: Duration) -> ClientOptions {
    ClientOptions {
        deadline: timeout,
        attempt_timeout: timeout,
        connect_timeout: timeout / 2,
        ..ClientOptions::default()
    }
}

fn refused(reason: &str, message: impl Into<String>) -> Outcome {
    Outcome::Refused { reason: reason.to_owned(), message: message.into() }
}

fn unknown(message: impl Into<String>) -> Outcome {
    Outcome::Unknown { message: message.into() }
}

fn failed(error: &ClientError) -> Outcome {
    match error {
        ClientError::Refused(refusal) => refused(refusal.reason.as_str(), refusal.to_string()),
        error if error.is_definite() => refused("UNREACHABLE", error.to_string()),
        error => unknown(error.to_string()),
    }
}

/// A hash of an answer. One that is not 32 bytes becomes zeros, which the checker cannot find in any log.
fn hash(bytes: &[u8]) -> Hash32 {
    Hash32::from_slice(bytes).unwrap_or(Hash32([0; 32]))
}

/// What a receipt attests, as the history has it.
pub(crate) fn attested(attestation: v1::Attestation) -> Attested {
    let class = match attestation.durability_class() {
        v1::DurabilityClass::Geo => Class::Geo,
        _ => Class::City,
    };
    Attested {
        class,
        degraded: attestation.degraded,
        inherited: attestation.inherited,
        zones: attestation.zones,
    }
}

impl Ledger for Remote {
    async fn append(&self, request: &v1::AppendRequest) -> Outcome {
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        let receipts = match client.append_once(request, self.timeout).await {
            Ok(response) => response.receipts,
            Err(error) => return failed(&error),
        };
        let complete =
            request.entries.iter().map(|entry| &entry.key).eq(receipts.iter().map(|receipt| &receipt.key));
        if !complete {
            // It claims success but does not say for what: the checker must not take that for an answer.
            tracing::error!(
                sent = request.entries.len(),
                got = receipts.len(),
                "receipts that do not fit the request"
            );
            return unknown("the receipts do not fit the request");
        }
        let receipts = receipts
            .into_iter()
            .map(|receipt| ReceiptSeen {
                key: receipt.key,
                seq: receipt.seq,
                entry_hash: hash(&receipt.entry_hash),
                chain_hash: hash(&receipt.chain_hash),
                recorded_at_us: receipt.recorded_at_us,
                replayed: receipt.replayed,
                attested: receipt.attestation.map(attested),
            })
            .collect();
        Outcome::Appended { receipts }
    }

    async fn read_head(&self, journal: &str) -> Outcome {
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        match client.get_journal(journal, v1::Consistency::Linearizable).await {
            Ok(journal) => match journal.head {
                Some(head) => Outcome::Head { seq: head.seq, chain_hash: hash(&head.chain_hash) },
                None => unknown("the journal came without a head"),
            },
            Err(error) => failed(&error),
        }
    }

    async fn read_from(&self, journal: &str, from: u64) -> Outcome {
        let client = match self.client() {
            Ok(client) => client,
            Err(outcome) => return outcome,
        };
        let mut stream = client.read(v1::ReadRequest {
            journal: journal.to_owned(),
            from_seq: from,
            to_seq: 0,
            consistency: v1::Consistency::Linearizable.into(),
        });
        let mut entries = Vec::new();
        while let Some(next) = stream.next().await {
            match next {
                Ok(entry) => entries.push(EntrySeen { seq: entry.seq, entry_hash: hash(&entry.entry_hash) }),
                Err(error) => return failed(&error),
            }
        }
        // The stream ends at the head that the read began with; an empty one says that there is nothing from `from` on.
        let head = entries.last().map_or(from - 1, |entry| entry.seq);
        Outcome::Entries { head, entries }
    }

    fn via(&self) -> String {
        self.seat().map(|(node, _)| node.clone()).unwrap_or_default()
    }

    fn move_on(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}
