//! Half-received requests: bounded by what they announce, and ended when they stand still.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use futures::FutureExt;
use http_body_util::BodyExt;

use super::*;
use crate::doors::{Bound, Bounds, Door, Origin};

/// A request that comes in these pieces, and then stands still.
struct Pieces(VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Polled {
        self.0.pop_front().map_or(Poll::Pending, |bytes| Poll::Ready(Some(Ok(Frame::data(bytes)))))
    }
}

fn framed(announced: u32, sent: usize) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&announced.to_be_bytes());
    bytes.resize(5 + sent, 7);
    bytes
}

fn caller(door: &Arc<Door>, last: u8) -> Arc<Connection> {
    door.enter(Origin::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)))).expect("room")
}

fn small_door() -> Arc<Door> {
    let few = Bound { total: 8, each: 8 };
    let bytes = Bound { total: 1_500, each: 1_000 };
    Door::new(
        "client",
        Bounds { connections: few, calls: few, request_bytes: bytes, answer_bytes: bytes, tails: few },
    )
}

fn counted(connection: &Arc<Connection>, is_stream: bool, pieces: Vec<Vec<u8>>) -> Counted {
    Counted {
        body: Body::new(Pieces(pieces.into_iter().map(Bytes::from).collect())),
        connection: connection.clone(),
        _call: connection.call().expect("room"),
        reading: Reading::new(1_000, is_stream),
        room: None,
        waiting: None,
        refused: None,
        owed: None,
    }
}

fn reason(status: &Status) -> Option<Reason> {
    Refusal::from_status(status).map(|refusal| refusal.reason)
}

/// Messages of any length, cut anywhere, are read alike.
#[test]
fn frames_are_read_however_they_are_cut() {
    let mut all = framed(0, 0);
    all.extend(framed(300, 300));
    all.extend(framed(7, 3));
    for cut in 0..all.len() {
        let mut reading = Reading::new(1_000, true);
        let (first, second) = (reading.piece(&all[..cut]), reading.piece(&all[cut..]));
        assert_eq!((first.good_bytes, second.good_bytes), (cut, all.len() - cut));
        assert_eq!((reading.complete, reading.to_come), (2, 4), "cut at {cut}");
        assert!(reading.owes());
    }
}

#[test]
fn what_is_before_a_fault_is_handed_on() {
    let mut bytes = framed(10, 10);
    let good = bytes.len();
    bytes.extend(framed(1_001, 5));
    let piece = Reading::new(1_000, true).piece(&bytes);
    assert_eq!((piece.good_bytes, piece.wrong), (good, Some(Wrong::TooLarge(1_001))));
    let mut twice = framed(10, 10);
    twice.extend(framed(10, 10));
    let piece = Reading::new(1_000, false).piece(&twice);
    assert_eq!((piece.good_bytes, piece.wrong), (good, Some(Wrong::TwoMessages)));
}

/// The fault: 150 requests of 16 MiB, of which 15 MiB were sent, took 2 GiB. Now what is announced takes room, a caller that
/// has none waits, is refused, and leaves the others theirs.
#[tokio::test(start_paused = true)]
async fn half_received_requests_are_bounded_by_what_they_announce() {
    let door = small_door();
    let (hostile, honest) = (caller(&door, 1), caller(&door, 2));
    let mut first = counted(&hostile, false, vec![framed(900, 20)]);
    assert!(first.frame().await.expect("a piece").is_ok());
    assert_eq!(door.held_bytes(), 900);
    let mut second = counted(&hostile, false, vec![framed(900, 20)]);
    let refused = second.frame().await.expect("an answer").expect_err("no room");
    assert_eq!(reason(&refused), Some(Reason::Overloaded));
    let mut third = counted(&honest, false, vec![framed(500, 20), vec![7; 480]]);
    assert!(third.frame().now_or_never().expect("at once").expect("a piece").is_ok());
    assert!(third.frame().now_or_never().expect("at once").expect("a piece").is_ok());
    drop((first, second, third));
    assert_eq!(door.held_bytes(), 0);
}

/// A message in one piece takes no room, one of a stream gives its room back at its end.
#[tokio::test(start_paused = true)]
async fn room_is_given_back_at_a_messages_end() {
    let door = small_door();
    let connection = caller(&door, 1);
    let mut stream = counted(&connection, true, vec![framed(700, 700), framed(700, 20), vec![7; 680]]);
    for held in [0, 700, 0] {
        assert!(stream.frame().await.expect("a piece").is_ok());
        assert_eq!(door.held_bytes(), held);
    }
    // Between messages a stream may be silent.
    let silent = tokio::time::timeout(Duration::from_secs(3_600), stream.frame()).await;
    assert!(silent.is_err(), "it is still open");
}

#[tokio::test(start_paused = true)]
async fn who_stands_still_is_refused_and_who_is_slow_is_not() {
    let door = small_door();
    let connection = caller(&door, 1);
    let cases = [
        (false, vec![], "nothing at all"),
        (false, vec![framed(900, 20)], "a part"),
        (false, vec![framed(20, 20)], "no end"),
        (true, vec![framed(900, 20)], "a part, on a stream"),
    ];
    for (is_stream, pieces, what) in cases {
        let began = Instant::now();
        let mut body = counted(&connection, is_stream, pieces);
        let refused = loop {
            match body.frame().await.expect("an answer") {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        };
        assert_eq!(reason(&refused), Some(Reason::CallerStalled), "{what}");
        assert_eq!(began.elapsed().as_secs(), PROGRESS_PATIENCE.as_secs(), "{what}");
    }
    // 64 kB/s: 4 MiB take over a minute.
    let mut reading = counted(&connection, false, Vec::new());
    reading.reading = Reading::new(5 << 20, false);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
    reading.body =
        Body::new(http_body_util::StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)));
    reading.connection = Door::new(
        "client",
        Bounds { request_bytes: Bound { total: 5 << 20, each: 5 << 20 }, ..small_door().bounds },
    )
    .enter(Origin::Here)
    .expect("room");
    let sending = tokio::spawn(async move {
        let whole = Bytes::from(framed(4 << 20, 4 << 20));
        for piece in whole.chunks(64 << 10) {
            tokio::time::sleep(Duration::from_secs(1)).await;
            sender.send(Ok(Frame::data(whole.slice_ref(piece)))).await.expect("taken");
        }
    });
    let whole = reading.collect().await.expect("all of it").to_bytes();
    assert_eq!(whole.len(), 5 + (4 << 20));
    sending.await.expect("sent");
}

#[test]
fn the_methods_that_take_a_stream_are_known() {
    let paths = streaming_methods();
    for method in ["Ledger/AppendStream", "Peer/AppendEntries", "Peer/InstallSnapshot"] {
        assert!(paths.contains(&format!("/tercet.v1.{method}")), "{method} in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.ends_with("/Append")));
}
