//! The harness doubts itself: while it says that a link is blackholed, a health request over that link must meet its own
//! deadline. An answer would mean that the fault is not there, a reset or an end that it is not a blackhole.
//!
//! The request (`grpc.health.v1.Health/Check`) is written here byte by byte on a bare TCP connection, so that neither a
//! client library's connections of before nor its repetitions stand between the harness and the link. The same probe is
//! answered over every link before the first fault ([`healthy`]); a node's peer address may answer that it does not know
//! the service, which is an answer.
//!
//! Invariants: a proof that does not hold is an error of the harness, never a verdict on the cluster; counters are read
//! after the fault was imposed and before it is lifted.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::Members;
use crate::cluster::process::ClusterError;
use crate::proxy::{Endpoint, Network};

/// Deadline of a health request in a blackhole.
const DEADLINE: Duration = Duration::from_secs(1);
/// Deadline of a health request over a sound link, on a busy machine.
const HEALTHY_DEADLINE: Duration = Duration::from_secs(10);
/// A blackhole that lasts for less than this is not probed.
const SHORTEST: Duration = Duration::from_millis(300);
/// What was in a system call when the blackhole came is through by then.
const SETTLE: Duration = Duration::from_millis(50);

/// What became of a health request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "why", rename_all = "snake_case")]
pub enum Probed {
    /// It was answered, by whatever status.
    Answered,
    /// Its deadline passed; the connection was open, or still being made, and silent.
    TimedOut,
    /// The connection was refused, reset or ended.
    Broken(String),
}

/// A blackholed link as it was seen from outside while the fault lasted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BlackholeProof {
    /// The fault's number.
    pub fault: u64,
    /// Who would have asked.
    pub from: String,
    /// Who was asked.
    pub to: String,
    /// What became of the request.
    #[serde(flatten)]
    pub probed: Probed,
    /// How long it was waited for, in milliseconds.
    pub waited_ms: u64,
    /// Bytes that blackholed links between the two delivered meanwhile.
    pub delivered_bytes: u64,
}

impl BlackholeProof {
    /// Whether it was a blackhole.
    pub fn holds(&self) -> bool {
        self.probed == Probed::TimedOut && self.delivered_bytes == 0
    }
}

/// Asks for health at `address`.
pub async fn ask(address: SocketAddr, deadline: Duration) -> Probed {
    match tokio::time::timeout(deadline, exchange(address)).await {
        Err(_) => Probed::TimedOut,
        Ok(Ok(())) => Probed::Answered,
        Ok(Err(error)) => Probed::Broken(error.to_string()),
    }
}

async fn exchange(address: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&request()).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [high, middle, low, kind, _, stream_id @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        match (kind, u32::from_be_bytes(stream_id)) {
            (FRAME_HEADERS, REQUEST_STREAM) => return Ok(()),
            (FRAME_RST_STREAM | FRAME_GOAWAY, _) => return Err(io::Error::other("the request was rejected")),
            _ => {}
        }
    }
}

const FRAME_DATA: u8 = 0;
const FRAME_HEADERS: u8 = 1;
const FRAME_RST_STREAM: u8 = 3;
const FRAME_SETTINGS: u8 = 4;
const FRAME_GOAWAY: u8 = 7;
const FLAG_END_STREAM: u8 = 1;
const FLAG_END_HEADERS: u8 = 4;
const REQUEST_STREAM: u32 = 1;

/// HTTP/2's preface, settings as they are by default, and one gRPC call whose message is empty: all services.
fn request() -> Vec<u8> {
    let mut headers = vec![
        0x83, // :method POST, of the static table
        0x86, // :scheme http
    ];
    // A literal without indexing: the name by its index in the static table, or written out.
    literal(&mut headers, &[0x04], "/grpc.health.v1.Health/Check"); // :path
    literal(&mut headers, &[0x01], "probe"); // :authority
    literal(&mut headers, &[0x0f, 0x10], "application/grpc"); // content-type, 31 = 15 + 16
    literal(&mut headers, &[0x00, 2, b't', b'e'], "trailers"); // te
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    frame(&mut bytes, FRAME_SETTINGS, 0, 0, &[]);
    frame(&mut bytes, FRAME_HEADERS, FLAG_END_HEADERS, REQUEST_STREAM, &headers);
    // Not compressed, no bytes.
    frame(&mut bytes, FRAME_DATA, FLAG_END_STREAM, REQUEST_STREAM, &[0; 5]);
    bytes
}

fn literal(into: &mut Vec<u8>, name: &[u8], value: &str) {
    into.extend_from_slice(name);
    // Below 127, so the length is one byte.
    into.push(value.len().to_le_bytes()[0]);
    into.extend_from_slice(value.as_bytes());
}

fn frame(into: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = payload.len().to_le_bytes();
    into.extend_from_slice(&[length[2], length[1], length[0], kind, flags]);
    into.extend_from_slice(&stream.to_be_bytes());
    into.extend_from_slice(payload);
}

/// Asks over every link and wants an answer from each: what a blackhole does to the probe means something only then.
///
/// # Errors
/// One is not answered.
pub async fn healthy(network: &Network, members: &Members) -> Result<(), ClusterError> {
    let asked = network.addresses().map(|(from, to, address)| async move {
        match ask(address, HEALTHY_DEADLINE).await {
            Probed::Answered => Ok(()),
            other => {
                let (from, to) = (members.name_of(from), members.name_of(to));
                Err(ClusterError::Harness(format!(
                    "a health request from {from} to {to} over a sound link: {other:?}"
                )))
            }
        }
    });
    join_all(asked).await.into_iter().collect()
}

/// Asks over every one of the blackholed links, until `end` at the latest.
///
/// # Errors
/// One of them is no blackhole.
pub async fn prove(
    network: &Network,
    members: &Members,
    fault: u64,
    pairs: &[(Endpoint, Endpoint)],
    end: Instant,
) -> Result<Vec<BlackholeProof>, ClusterError> {
    if end.saturating_duration_since(Instant::now()) < SHORTEST {
        return Ok(Vec::new());
    }
    tokio::time::sleep(SETTLE).await;
    let left = end.saturating_duration_since(Instant::now());
    let deadline = DEADLINE.min(left / 2);
    let is_hit = |from, to| pairs.contains(&(from, to)) || pairs.contains(&(to, from));
    let dialled = network.addresses().filter(|(from, to, _)| is_hit(*from, *to));
    let proofs = join_all(dialled.map(|(from, to, address)| async move {
        let delivered = || -> u64 {
            [(from, to), (to, from)]
                .iter()
                .filter(|pair| pairs.contains(pair))
                .filter_map(|(from, to)| network.link(*from, *to))
                .map(|link| link.counts().delivered_bytes)
                .sum()
        };
        let (before, asked) = (delivered(), Instant::now());
        let probed = ask(address, deadline).await;
        BlackholeProof {
            fault,
            from: members.name_of(from),
            to: members.name_of(to),
            probed,
            waited_ms: u64::try_from(asked.elapsed().as_millis()).unwrap_or(u64::MAX),
            delivered_bytes: delivered() - before,
        }
    }))
    .await;
    if Instant::now() >= end {
        return Err(ClusterError::Harness(format!("fault {fault} was not probed before it was lifted")));
    }
    match proofs.iter().find(|proof| !proof.holds()) {
        Some(proof) => Err(ClusterError::Harness(format!("fault {fault} is no blackhole: {proof:?}"))),
        None => Ok(proofs),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::proxy::{LinkFault, LinkShape};

    const A1: Endpoint = Endpoint::Node(1);
    const B1: Endpoint = Endpoint::Node(3);

    /// A server that reads a request to its end and answers it with response headers, or ends the connection.
    async fn serve(listener: TcpListener, answer: bool) {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = vec![0; request().len()];
            if stream.read_exact(&mut asked).await.is_ok() && answer {
                assert_eq!(asked, request());
                let mut bytes = Vec::new();
                frame(&mut bytes, FRAME_SETTINGS, 0, 0, &[]);
                // :status 200, of the static table
                frame(&mut bytes, FRAME_HEADERS, FLAG_END_HEADERS, REQUEST_STREAM, &[0x88]);
                let _ = stream.write_all(&bytes).await;
            }
        }
    }

    async fn network(answer: bool) -> Network {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut network = Network::new(&[A1, B1], |_, _| LinkShape::default(), 1).unwrap();
        network.proxy(A1, B1, listener.local_addr().unwrap(), None).await.unwrap();
        tokio::spawn(serve(listener, answer));
        network
    }

    async fn proven(
        network: &Network,
        pairs: &[(Endpoint, Endpoint)],
    ) -> Result<Vec<BlackholeProof>, String> {
        let end = Instant::now() + Duration::from_secs(2);
        prove(network, &Members::default_five(), 1, pairs, end).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn a_health_request_in_a_blackhole_meets_its_own_deadline_and_nothing_is_delivered() {
        let network = network(true).await;
        healthy(&network, &Members::default_five()).await.unwrap();
        for cut in [(A1, B1), (B1, A1)] {
            network.link(cut.0, cut.1).unwrap().impose(1, LinkFault::Blackhole);
            let proofs = proven(&network, &[cut]).await.unwrap();
            let [proof] = proofs.as_slice() else { panic!("{proofs:?}") };
            assert_eq!((proof.from.as_str(), proof.to.as_str()), ("a1", "b1"));
            assert!(proof.probed == Probed::TimedOut && proof.delivered_bytes == 0, "{proof:?}");
            assert!(proof.waited_ms >= 900, "the deadline was its own: {proof:?}");
            network.link(cut.0, cut.1).unwrap().lift(1);
        }
        healthy(&network, &Members::default_five()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_blackhole_is_not_proven() {
        let network = network(true).await;
        let error = proven(&network, &[(A1, B1)]).await.unwrap_err();
        assert!(error.contains("no blackhole") && error.contains("Answered"), "{error}");
        network.link(A1, B1).unwrap().impose(1, LinkFault::Reset);
        let error = proven(&network, &[(A1, B1)]).await.unwrap_err();
        assert!(error.contains("Broken"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_not_healthy() {
        let network = network(false).await;
        let error = healthy(&network, &Members::default_five()).await.unwrap_err();
        assert!(error.to_string().contains("from a1 to b1"), "{error}");
    }
}
