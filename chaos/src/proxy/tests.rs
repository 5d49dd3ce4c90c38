//! The proxies against real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::*;

const A: Endpoint = Endpoint::Node(1);
const B: Endpoint = Endpoint::Node(2);
/// Long enough for anything that is going to happen on a loaded machine.
const SOON: Duration = Duration::from_secs(10);
/// How long nothing may happen where nothing must.
const QUIET: Duration = Duration::from_millis(150);

struct Pair {
    network: Network,
    listener: TcpListener,
    proxy: SocketAddr,
}

impl Pair {
    async fn new(shape: LinkShape) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut network = Network::new(&[A, B, Endpoint::Clients], |_, _| shape, 1).unwrap();
        let proxy = network.proxy(A, B, listener.local_addr().unwrap(), None).await.unwrap();
        Self { network, listener, proxy }
    }

    async fn connect(&self) -> (TcpStream, TcpStream) {
        let a = TcpStream::connect(self.proxy).await.unwrap();
        let (b, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        (a, b)
    }

    fn link(&self, from: Endpoint, to: Endpoint) -> &Link {
        self.network.link(from, to).unwrap()
    }
}

async fn expect(stream: &mut TcpStream, text: &[u8]) {
    let mut got = vec![0; text.len()];
    timeout(SOON, stream.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, text);
}

async fn expect_nothing(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = timeout(QUIET, stream.read(&mut byte)).await;
    assert!(read.is_err(), "neither a byte nor an end: {read:?}");
}

#[tokio::test]
async fn bytes_and_ends_pass_both_ways() {
    let pair = Pair::new(LinkShape::default()).await;
    let (mut a, mut b) = pair.connect().await;
    a.write_all(b"ping").await.unwrap();
    expect(&mut b, b"ping").await;
    b.write_all(b"pong").await.unwrap();
    expect(&mut a, b"pong").await;
    a.shutdown().await.unwrap();
    assert_eq!(timeout(SOON, b.read(&mut [0])).await.unwrap().unwrap(), 0);
    b.write_all(b"after").await.unwrap();
    expect(&mut a, b"after").await;
    drop(b);
    assert_eq!(timeout(SOON, a.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert_eq!(pair.link(A, B).counts().delivered_bytes, 4);
    assert_eq!(pair.link(B, A).counts().delivered_bytes, 9);
}

#[tokio::test]
async fn a_one_way_blackhole_holds_bytes_and_gives_them_back() {
    let pair = Pair::new(LinkShape::default()).await;
    let (mut a, mut b) = pair.connect().await;
    pair.link(A, B).impose(1, LinkFault::Blackhole);
    let before = pair.link(A, B).counts().delivered_bytes;
    a.write_all(b"lost?").await.unwrap();
    expect_nothing(&mut b).await;
    assert_eq!(pair.link(A, B).counts().delivered_bytes, before, "the counter stands still");
    b.write_all(b"other way").await.unwrap();
    expect(&mut a, b"other way").await;
    pair.link(A, B).lift(1);
    expect(&mut b, b"lost?").await;
}

#[tokio::test]
async fn an_end_does_not_pass_a_blackhole() {
    let pair = Pair::new(LinkShape::default()).await;
    let (a, mut b) = pair.connect().await;
    pair.link(A, B).impose(1, LinkFault::Blackhole);
    // As when the process of `a` is killed.
    a.set_zero_linger().unwrap();
    drop(a);
    expect_nothing(&mut b).await;
    pair.link(A, B).lift(1);
    let end = timeout(SOON, b.read(&mut [0])).await.unwrap();
    assert!(end.is_err(), "reset after healing: {end:?}");
}

#[tokio::test]
async fn a_connection_made_under_a_blackhole_is_accepted_and_hears_nothing() {
    let pair = Pair::new(LinkShape::default()).await;
    pair.link(B, A).impose(9, LinkFault::Blackhole);
    let mut a = TcpStream::connect(pair.proxy).await.unwrap();
    a.write_all(b"early").await.unwrap();
    expect_nothing(&mut a).await;
    assert!(timeout(QUIET, pair.listener.accept()).await.is_err(), "nobody was dialled");
    pair.link(B, A).lift(9);
    let (mut b, _) = timeout(SOON, pair.listener.accept()).await.unwrap().unwrap();
    expect(&mut b, b"early").await;
}

#[tokio::test]
async fn a_dialler_that_gives_up_is_not_dialled_on() {
    let pair = Pair::new(LinkShape::default()).await;
    pair.link(A, B).impose(1, LinkFault::Blackhole);
    let mut a = TcpStream::connect(pair.proxy).await.unwrap();
    a.write_all(b"never mind").await.unwrap();
    drop(a);
    let noticed = async {
        while pair.link(A, B).counts().given_up == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, noticed).await.unwrap();
    pair.link(A, B).lift(1);
    assert!(timeout(QUIET, pair.listener.accept()).await.is_err());
}

#[tokio::test]
async fn a_reset_ends_both_sides_and_new_connections() {
    let pair = Pair::new(LinkShape::default()).await;
    let (mut a, mut b) = pair.connect().await;
    pair.link(B, A).impose(1, LinkFault::Reset);
    assert!(timeout(SOON, a.read(&mut [0])).await.unwrap().is_err());
    assert!(timeout(SOON, b.read(&mut [0])).await.unwrap().is_err());
    let mut again = TcpStream::connect(pair.proxy).await.unwrap();
    assert!(timeout(SOON, again.read(&mut [0])).await.unwrap().is_err());
    assert_eq!(pair.link(A, B).counts().resets, 2);
    pair.link(B, A).lift(1);
    let (mut a, mut b) = pair.connect().await;
    a.write_all(b"well again").await.unwrap();
    expect(&mut b, b"well again").await;
}

#[tokio::test]
async fn a_half_open_connection_leaves_its_sender_in_the_dark_until_it_is_lifted() {
    let pair = Pair::new(LinkShape::default()).await;
    let (mut a, mut b) = pair.connect().await;
    pair.link(A, B).impose(1, LinkFault::HalfOpen);
    assert!(timeout(SOON, b.read(&mut [0])).await.unwrap().is_err(), "the receiver has forgotten it");
    a.write_all(b"are you there?").await.unwrap();
    expect_nothing(&mut a).await;
    let (mut fresh, mut accepted) = pair.connect().await;
    fresh.write_all(b"hello").await.unwrap();
    expect(&mut accepted, b"hello").await;
    pair.link(A, B).lift(1);
    assert!(timeout(SOON, a.read(&mut [0])).await.unwrap().is_err(), "told at last");
    pair.link(B, A).impose(2, LinkFault::HalfOpen);
    assert!(timeout(SOON, fresh.read(&mut [0])).await.unwrap().is_err(), "now the dialler is the receiver");
    expect_nothing(&mut accepted).await;
    pair.link(A, B).impose(3, LinkFault::HalfOpen);
    let (mut a, mut b) = pair.connect().await;
    pair.link(A, B).impose(4, LinkFault::HalfOpen);
    pair.link(B, A).impose(5, LinkFault::HalfOpen);
    expect_nothing(&mut a).await;
    expect_nothing(&mut b).await;
    assert_eq!(pair.link(A, B).counts().half_opens, 2);
    assert_eq!(pair.link(B, A).counts().half_opens, 2);
}

#[tokio::test]
async fn delays_hold_each_way() {
    let one_way = Duration::from_millis(15);
    let pair = Pair::new(LinkShape { delay: one_way, ..LinkShape::default() }).await;
    let (mut a, mut b) = pair.connect().await;
    let begin = Instant::now();
    a.write_all(b"ping").await.unwrap();
    expect(&mut b, b"ping").await;
    assert!(begin.elapsed() >= one_way);
    b.write_all(b"pong").await.unwrap();
    expect(&mut a, b"pong").await;
    assert!(begin.elapsed() >= 2 * one_way);
}

#[tokio::test]
async fn a_large_transfer_arrives_whole_through_delay_jitter_and_a_flapping_link() {
    let shape = LinkShape {
        delay: Duration::from_millis(1),
        jitter: Duration::from_millis(1),
        ..LinkShape::default()
    };
    let pair = Pair::new(shape).await;
    let (mut a, mut b) = pair.connect().await;
    let sent: Vec<u8> = (0..12_000_000_u32).map(|at| at.to_le_bytes()[(at % 3) as usize]).collect();
    let copy = sent.clone();
    let sender = tokio::spawn(async move {
        a.write_all(&copy).await.unwrap();
        a.shutdown().await.unwrap();
    });
    let link = Arc::clone(pair.network.link(A, B).unwrap());
    let flapping = tokio::spawn(async move {
        for round in 0..20 {
            link.impose(round, LinkFault::Blackhole);
            tokio::time::sleep(Duration::from_millis(5)).await;
            link.lift(round);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut got = Vec::new();
    timeout(3 * SOON, b.read_to_end(&mut got)).await.unwrap().unwrap();
    assert!(got == sent, "{} of {} bytes, or other ones", got.len(), sent.len());
    sender.await.unwrap();
    flapping.await.unwrap();
}

#[tokio::test]
async fn a_dead_target_resets_its_diallers() {
    let Pair { network: _network, listener, proxy } = Pair::new(LinkShape::default()).await;
    drop(listener);
    let mut a = TcpStream::connect(proxy).await.unwrap();
    assert!(timeout(SOON, a.read(&mut [0])).await.unwrap().is_err());
}
