//! What an origin is, what it may have, and that connections are refused, told so and given back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const SMALL: Bounds = Bounds {
    connections: Bound { total: 4, each: 1 },
    calls: Bound { total: 4, each: 2 },
    request_bytes: Bound { total: 100, each: 60 },
    answer_bytes: Bound { total: 100, each: 60 },
    tails: Bound { total: 4, each: 2 },
};

#[test]
fn an_origin_is_what_costs_an_attacker_something() {
    let local = address("10.0.0.1");
    assert_eq!(Origin::of(address("10.0.0.1"), local), Origin::Here);
    assert_eq!(Origin::of(address("::ffff:10.0.0.1"), local), Origin::Here, "the same, written otherwise");
    assert_ne!(Origin::of(address("10.0.0.2"), local), Origin::of(address("10.0.0.3"), local));
    let one = Origin::of(address("2001:db8:1:2::1"), local);
    assert_eq!(one, Origin::of(address("2001:db8:1:2:ffff::9"), local), "one host's network");
    assert_ne!(one, Origin::of(address("2001:db8:1:3::1"), local));
}

#[test]
fn an_address_takes_its_share_and_leaves_the_others_theirs() {
    let door = Door::new("client", SMALL);
    let of = |last| Origin::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
    let first = door.enter(of(1)).expect("room");
    assert_eq!(door.enter(of(1)).err(), Some(Full::Origin));
    // This machine: half of all.
    let here: Vec<_> = (0..2).map(|_| door.enter(Origin::Here).expect("room")).collect();
    assert_eq!(door.enter(Origin::Here).err(), Some(Full::Origin));
    let second = door.enter(of(2)).expect("room");
    assert_eq!(door.enter(of(3)).err(), Some(Full::Door));
    assert_eq!(door.connections(), 4);

    let held = first.try_request_bytes(60).expect("room");
    assert!(first.try_request_bytes(1).is_none(), "its share");
    let other = second.try_request_bytes(40).expect("room for others");
    assert!(here[0].try_request_bytes(1).is_none(), "all");
    assert_eq!(door.held_bytes(), 100);
    drop((held, other));
    assert_eq!(door.held_bytes(), 0);

    drop(first);
    drop((second, here));
    assert_eq!(door.connections(), 0);
    assert!(door.enter(of(1)).is_ok(), "a place that was given back");
}

#[tokio::test(start_paused = true)]
async fn who_wants_too_much_waits_for_room_and_not_for_ever() {
    let door = Door::new("client", SMALL);
    let caller = door.enter(Origin::Here).expect("room");
    let mut held = caller.answer_bytes(60).await.expect("room");
    assert_eq!(caller.answer_bytes(1).await.err(), Some(Full::Origin));
    let (waited, ()) = tokio::join!(caller.answer_bytes(20), async { held.shrink(40) });
    assert!(waited.is_ok());
    assert_eq!(door.held_bytes(), 60);
}

async fn open(bounds: Bounds) -> (Doorway, SocketAddr, Arc<Door>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("an address");
    let door = Door::new("client", bounds);
    (Doorway::http2(listener, door.clone()), at, door)
}

async fn dial(from: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(address(from), 0)).expect("an address of this machine");
    socket.connect(to).await.expect("a connection")
}

/// The fault: idle connections took every descriptor of the node. Those beyond the bound are told so and closed; another
/// address comes in behind them.
#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_hold_up_nobody() {
    let (mut doorway, at, door) = open(SMALL).await;
    let _one = dial("127.0.0.2", at).await;
    let first = doorway.next().await;
    let mut refused = dial("127.0.0.2", at).await;
    refused.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    let _behind = dial("127.0.0.3", at).await;
    let second = doorway.next().await;
    let mut heard = Vec::new();
    refused.shutdown().await.expect("closed");
    refused.read_to_end(&mut heard).await.expect("an orderly end");
    assert!(String::from_utf8_lossy(&heard).contains("too many connections"), "{heard:?}");
    assert_eq!(door.connections(), 2);
    assert_eq!(door.counts.refused_address.load(Ordering::Relaxed), 1);
    drop((first, second));
    assert_eq!(door.connections(), 0);
}

/// The fault: HTTP/2's keep-alive begins after the greeting, and nothing ended a connection that never greets.
#[tokio::test]
async fn who_does_not_greet_is_closed() {
    let (mut doorway, at, _door) = open(SMALL).await;
    let mut silent = dial("127.0.0.2", at).await;
    let mut guest = doorway.next().await;
    silent.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("sent");
    tokio::time::pause();
    let mut into = [0; 64];
    assert_eq!(guest.read(&mut into).await.expect("a part of it"), 24);
    let ended = guest.read(&mut into).await;
    assert_eq!(ended.map_err(|error| error.kind()), Err(std::io::ErrorKind::TimedOut));
    tokio::time::resume();

    let mut polite = dial("127.0.0.3", at).await;
    let mut guest = doorway.next().await;
    polite.write_all(&[1; super::accept::HTTP2_GREETING_BYTES]).await.expect("sent");
    assert!(guest.read(&mut into).await.expect("its greeting") > 0);
    let later = tokio::time::timeout(std::time::Duration::from_millis(50), guest.read(&mut into)).await;
    assert!(later.is_err(), "it may be silent now");
}
