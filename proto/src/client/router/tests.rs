//! Choices as a transcript; time is moved by hand.

use super::*;

const A: &str = "http://127.0.0.1:1";
const B: &str = "http://127.0.0.1:2";
const C: &str = "http://127.0.0.1:3";

fn router(follow_leader: bool) -> Router {
    let options = ClientOptions { follow_leader, ..ClientOptions::default() };
    Router::new(vec!["127.0.0.1:1".to_owned(), B.to_owned()], &options).unwrap()
}

fn leader_is(address: &str) -> Hint {
    Hint { node_id: None, address: Some(address.to_owned()) }
}

#[test]
fn the_named_leader_is_asked_until_it_fails() {
    let (router, t0) = (router(true), Instant::now());
    assert_eq!(router.choose(Some("j"), Prefer::Leader, t0), A);
    assert!(router.answered(A, Some("j"), &leader_is("127.0.0.1:3"), t0), "named another one");
    assert_eq!(router.choose(Some("j"), Prefer::Leader, t0), C);
    assert_eq!(router.choose(Some("other"), Prefer::Leader, t0), C, "one group leads to the same node");
    assert_eq!(router.choose(Some("j"), Prefer::Any, t0), A);
    assert!(!router.answered(C, Some("j"), &leader_is("127.0.0.1:3"), t0), "named itself");

    router.failed(C, t0);
    assert_eq!(router.choose(Some("j"), Prefer::Leader, t0), A);
    // A follower that has not noticed yet is not believed while the leader rests.
    assert!(!router.answered(A, Some("j"), &leader_is("127.0.0.1:3"), t0));
    assert_eq!(router.choose(Some("j"), Prefer::Leader, t0), A);
    // Later it is.
    let later = t0 + REST;
    assert!(router.answered(A, Some("j"), &leader_is("127.0.0.1:3"), later));
    assert_eq!(router.choose(Some("j"), Prefer::Leader, later), C);
}

#[test]
fn endpoints_take_turns() {
    let (router, t0) = (router(true), Instant::now());
    router.failed(A, t0);
    assert_eq!(router.choose(None, Prefer::Leader, t0), B);
    router.failed(B, t0 + Duration::from_millis(1));
    assert_eq!(router.choose(None, Prefer::Leader, t0 + Duration::from_millis(2)), A, "rested longest");
    router.pass_on(A);
    assert_eq!(router.choose(None, Prefer::Leader, t0 + REST * 2), B);
}

#[test]
fn without_following_only_given_endpoints_are_asked() {
    let (router, t0) = (router(false), Instant::now());
    assert!(!router.answered(A, Some("j"), &leader_is("127.0.0.1:3"), t0));
    assert_eq!(router.choose(Some("j"), Prefer::Leader, t0), A);
    assert!(!router.topology_due(t0));
}

#[test]
fn the_address_map_goes_before_the_topology() {
    let options = ClientOptions {
        address_map: HashMap::from([(3, "127.0.0.1:9".to_owned())]),
        ..ClientOptions::default()
    };
    let router = Router::new(vec![A.to_owned()], &options).unwrap();
    let t0 = Instant::now();
    assert!(router.topology_due(t0));
    assert!(!router.topology_due(t0), "asked for once");
    let node = |id, client: &str| v1::NodeInfo { id, client: client.to_owned(), ..v1::NodeInfo::default() };
    router.learned(&v1::TopologyInfo {
        nodes: vec![node(2, "127.0.0.1:2"), node(3, "127.0.0.1:3"), node(4, "nonsense")],
        ..v1::TopologyInfo::default()
    });
    assert!(!router.topology_due(t0 + TOPOLOGY_PAUSE));
    let hint = |id| Hint { node_id: Some(id), address: Some("127.0.0.1:77".to_owned()) };
    let now = Instant::now();
    router.answered(A, None, &hint(3), now);
    assert_eq!(router.leader(None).unwrap(), "http://127.0.0.1:9");
    router.answered(A, None, &hint(2), now);
    assert_eq!(router.leader(None).unwrap(), B);
    router.answered(A, None, &hint(8), now);
    assert_eq!(router.leader(None).unwrap(), "http://127.0.0.1:77");
    // Learned nodes are asked when the given ones fail.
    router.failed("http://127.0.0.1:77", now);
    router.failed(A, now);
    assert_eq!(router.choose(None, Prefer::Leader, now), B);
}

#[test]
fn bad_endpoints_are_refused() {
    for endpoint in
        ["", "localhost", "ftp://x:1", "https://x:1", "x:0", "x:99999", "http://x:1/path", "a b:1"]
    {
        let error = Router::new(vec![endpoint.to_owned()], &ClientOptions::default()).unwrap_err();
        assert!(matches!(error, ClientError::InvalidEndpoint { .. }), "{endpoint}: {error}");
    }
    assert!(Router::new(Vec::new(), &ClientOptions::default()).is_err());
    assert_eq!(checked("[::1]:7201").unwrap(), "http://[::1]:7201");
}
