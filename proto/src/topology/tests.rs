//! The default, one malformed topology a row, timing and survival.

use super::*;

const REPOSITORY: &str = include_str!("../../../topology.toml");

fn default() -> Topology {
    Topology::default_on(7000).unwrap()
}

/// Replaces the first `from` in the repository's topology, and says what parsing answers.
fn parse_with(from: &str, to: &str) -> Result<Topology, TopologyError> {
    assert!(REPOSITORY.contains(from), "{from:?} is not in topology.toml");
    Topology::parse(&REPOSITORY.replacen(from, to, 1))
}

fn error_with(from: &str, to: &str) -> String {
    parse_with(from, to).expect_err(&format!("{from:?} -> {to:?} was taken")).to_string()
}

#[test]
fn the_repositorys_topology_is_the_default_on_7000() {
    assert_eq!(Topology::parse(REPOSITORY).unwrap(), default());
}

#[test]
fn toml_and_back_changes_nothing() {
    let mut topology = default();
    topology.storage.disk = DiskSetting::Portable;
    topology.nodes[1].role = Role::Learner;
    topology.nodes[3].role = Role::Learner;
    topology.nodes[4].metrics = None;
    topology.timing.heartbeat_ms = Some(120);
    assert_eq!(Topology::parse(&topology.to_toml().unwrap()).unwrap(), topology);
}

#[test]
fn default_ports_follow_from_the_base() {
    let topology = Topology::default_on(9000).unwrap();
    let node = topology.node("b2").unwrap();
    assert_eq!((node.id, node.peer.as_str(), node.client.as_str()), (4, "127.0.0.1:9104", "127.0.0.1:9204"));
    assert_eq!(node.metrics.as_deref(), Some("127.0.0.1:9304"));
    assert!(Topology::default_on(65_230).is_ok());
    let error = Topology::default_on(65_231).unwrap_err().to_string();
    assert!(error.contains("base_port: 65231 is too high"), "{error}");
}

#[test]
fn what_is_where() {
    let topology = default();
    assert_eq!(topology.site_of(2), Some("east"));
    assert_eq!(topology.site_of(5), Some("west"));
    assert_eq!(topology.site_of(6), None);
    assert_eq!(topology.node_by_id(3).unwrap().name, "b1");
    assert_eq!(topology.zone("c").unwrap().site, "west");
    let mut swapped = topology.clone();
    swapped.zones[0].leader_preference = 9;
    let order: Vec<&str> = swapped.zones_by_preference().iter().map(|zone| zone.name.as_str()).collect();
    assert_eq!(order, ["b", "c", "a"]);
    let info = topology.to_info();
    assert_eq!((info.nodes.len(), info.groups, info.nodes[4].site.as_str()), (5, 1, "west"));
}

#[test]
fn malformed_topologies_are_refused_with_the_field() {
    // What is replaced, by what, and what the error must contain.
    let rows: &[(&str, &str, &[&str])] = &[
        ("name = \"tercet\"", "name = \"Tercet!\"", &["cluster.name", "Tercet!"]),
        ("name = \"tercet\"", "name = \"\"", &["cluster.name"]),
        ("groups = 1", "groups = 0", &["cluster.groups", "0 is not from 1"]),
        ("groups = 1", "groups = -1", &["line 6", "-1"]),
        ("groups = 1", "grups = 1", &["line 6", "unknown field `grups`"]),
        ("role = \"voter\"", "rolle = \"voter\"", &["unknown field `rolle`"]),
        ("role = \"voter\"", "role = \"boss\"", &["boss", "voter", "learner"]),
        ("[cluster]", "[clustre]", &["unknown field `clustre`"]),
        ("name = \"tercet\"", "name = tercet", &["line 5"]),
        ("name = \"east\"", "name = \"we-st\"", &["sites[0].name", "we-st"]),
        ("name = \"east\"", "name = \"west\"", &["sites[1].name", "\"west\" is also sites[0].name"]),
        ("site = \"west\"", "site = \"east\"", &["sites[1]", "\"west\" has no zone"]),
        ("site = \"west\"", "site = \"north\"", &["sites[1]", "has no zone"]),
        ("name = \"a\"", "name = \"b\"", &["zones[1].name", "also zones[0].name"]),
        ("name = \"a\"", "name = \"A\"", &["zones[0].name", "\"A\""]),
        ("leader_preference = 2", "leader_preference = 1", &["zones[1].leader_preference", "1 is also"]),
        ("leader_preference = 1", "leader_preference = 0", &["zones[0].leader_preference"]),
        ("leader_preference = 1\n", "", &["missing field `leader_preference`"]),
        ("id = 1", "id = 0", &["nodes[0].id"]),
        ("id = 2", "id = 1", &["nodes[1].id", "1 is also nodes[0].id"]),
        ("id = 2", "id = -2", &["-2"]),
        ("name = \"a2\"", "name = \"a1\"", &["nodes[1].name", "\"a1\" is also nodes[0].name"]),
        ("name = \"a2\"", "name = \"a 2\"", &["nodes[1].name"]),
        ("zone = \"b\"", "zone = \"x\"", &["nodes[2].zone", "\"b1\" is in unknown zone \"x\""]),
        ("zone = \"c\"", "zone = \"b\"", &["zones[2]", "\"c\" has no node"]),
        ("127.0.0.1:7102", "127.0.0.1:7101", &["nodes[1].peer", "also nodes[0].peer"]),
        ("127.0.0.1:7202", "127.0.0.1:7101", &["nodes[1].client", "also nodes[0].peer"]),
        ("127.0.0.1:7301", "127.0.0.1:7101", &["nodes[0].metrics", "also nodes[0].peer"]),
        ("127.0.0.1:7101", "127.0.0.1", &["nodes[0].peer", "not host:port"]),
        ("127.0.0.1:7101", "127.0.0.1:0", &["nodes[0].peer", "port"]),
        ("127.0.0.1:7101", "127.0.0.1:70000", &["nodes[0].peer", "port"]),
        ("127.0.0.1:7101", "127.0.0.400:7101", &["nodes[0].peer"]),
        ("127.0.0.1:7101", "http://127.0.0.1:7101", &["nodes[0].peer"]),
        ("127.0.0.1:7101", "[::1:7101", &["nodes[0].peer"]),
        ("127.0.0.1:7101", "", &["nodes[0].peer"]),
        ("\"a-b\" = 1.0, ", "", &["timing.rtt_ms", "\"a-b\" is missing"]),
        ("\"a-b\" = 1.0", "\"a-x\" = 1.0", &["timing.rtt_ms.\"a-x\"", "unknown zone \"x\""]),
        ("\"a-b\" = 1.0", "\"ab\" = 1.0", &["timing.rtt_ms.\"ab\"", "hyphen"]),
        ("\"a-b\" = 1.0", "\"a-a\" = 1.0", &["timing.rtt_ms.\"a-a\"", "twice"]),
        ("\"a-b\" = 1.0", "\"a-b\" = 1.0, \"b-a\" = 1.0", &["timing.rtt_ms.\"a-b\"", "declared twice"]),
        ("\"a-b\" = 1.0", "\"a-b\" = -1.0", &["timing.rtt_ms.\"a-b\"", "-1"]),
        ("\"a-b\" = 1.0", "\"a-b\" = nan", &["timing.rtt_ms.\"a-b\"", "NaN"]),
        ("\"a-b\" = 1.0", "\"a-b\" = 1e9", &["timing.rtt_ms.\"a-b\""]),
        ("[timing]", "[timing]\nheartbeat_ms = 0", &["timing.heartbeat_ms"]),
        ("[timing]", "[timing]\nheartbeat_ms = 30", &["timing.heartbeat_ms", "largest round trip, 30"]),
        ("[timing]", "[timing]\nelection_min_ms = 90", &["timing.election_min_ms", "heartbeat, 90"]),
        (
            "[timing]",
            "[timing]\nelection_min_ms = 500\nelection_max_ms = 500",
            &["timing.election_min_ms", "election_max_ms, 500"],
        ),
        (
            "[timing]",
            "[timing]\nelection_min_ms = 105\nelection_max_ms = 120",
            &["timing.election_max_ms", "heartbeat and round trip, 120"],
        ),
        ("[timing]", "[timing]\nelection_max_ms = 89", &["timing.election_m"]),
        ("[timing]", "[timing]\nheartbeat = 9", &["unknown field `heartbeat`"]),
        ("[timing]", "[storage]\ndisk = \"floppy\"\n[timing]", &["floppy", "io_uring"]),
        ("[timing]", "[limits]\ninflight_bytes = 1024\n[timing]", &["limits.inflight_bytes", "1024"]),
        ("[timing]", "[limits]\ninflight_requests = 0\n[timing]", &["limits.inflight_requests"]),
        ("[timing]", "[limits]\npeer_connections = 0\n[timing]", &["limits.peer_connections"]),
        ("[timing]", "[security]\ninsecure = \"no\"\n[timing]", &["line", "boolean"]),
    ];
    for (from, to, expected) in rows {
        let error = error_with(from, to);
        for part in *expected {
            assert!(error.contains(part), "{from:?} -> {to:?} gave {error:?}, which lacks {part:?}");
        }
    }
}

#[test]
fn a_syntax_error_names_line_and_column() {
    match Topology::parse("[cluster]\nname = \"x\"\ngrups = 1\n") {
        Err(TopologyError::Syntax { line, column, message }) => {
            assert_eq!((line, column), (3, 1));
            assert!(message.contains("grups"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    let missing = Topology::parse("").unwrap_err().to_string();
    assert!(missing.contains("missing field `cluster`"), "{missing}");
}

#[test]
fn a_zone_that_holds_the_quorum_is_refused_with_the_reason() {
    let mut topology = default();
    topology.nodes[4].zone = "a".to_owned();
    topology.zones.truncate(2);
    topology.sites.truncate(1);
    topology.timing.rtt_ms.retain(|pair, _| pair == "a-b");
    let error = topology.validate().unwrap_err().to_string();
    assert!(
        error.contains("losing zone a loses the quorum: 2 of 5 voters would be left, and 3 are needed"),
        "{error}"
    );

    let mut topology = default();
    topology.nodes[4].role = Role::Learner;
    topology.nodes[3].role = Role::Learner;
    let error = topology.validate().unwrap_err().to_string();
    assert!(error.contains("losing zone a loses the quorum: 1 of 3"), "{error}");
}

#[test]
fn learners_do_not_count() {
    let mut topology = default();
    topology.nodes[1].role = Role::Learner;
    topology.nodes[3].role = Role::Learner;
    topology.validate().unwrap();
    assert_eq!(topology.quorum(), 2);
    let all_learners = {
        let mut copy = topology.clone();
        copy.nodes.iter_mut().for_each(|node| node.role = Role::Learner);
        copy.validate().unwrap_err().to_string()
    };
    assert!(all_learners.contains("no node is a voter"), "{all_learners}");
}

#[test]
fn survival_of_the_default() {
    let losses = default().survives();
    assert_eq!(losses.len(), 5 + 3 + 2 + 10);
    // name of the loss; voters left, serves
    let rows = [
        ("node a1", 4, true),
        ("zone a", 3, true),
        ("zone c", 4, true),
        ("site east", 1, false),
        ("site west", 4, true),
        ("pair a1 b1", 3, true),
    ];
    for (name, voters_left, quorum) in rows {
        let loss = losses.iter().find(|loss| loss.to_string() == name).expect(name);
        assert_eq!((loss.voters_left, loss.quorum), (voters_left, quorum), "{name}");
    }
    assert_eq!(losses.iter().filter(|loss| !loss.quorum).count(), 1);
}

#[test]
fn every_template_survives_the_loss_of_any_zone() {
    for (name, voters) in TEMPLATES {
        let topology = Topology::template(name, 7_000).expect(name);
        assert_eq!(topology.voters().count(), voters.iter().sum::<usize>(), "{name}");
        let zones = topology.survives().into_iter().filter(|loss| loss.kind == LossKind::Zone);
        assert!(zones.map(|loss| loss.quorum).eq([true; 3]), "{name}");
        assert_eq!(Topology::parse(&topology.to_toml().expect(name)).expect(name), topology);
    }
    assert_eq!(Topology::template("2-2-1", 7_000).expect("the default"), default());
    let error = Topology::template("1-1-1-1", 7_000).unwrap_err().to_string();
    assert!(error.contains("2-2-1, 3-3-1, 2-2-2, 3-3-2"), "{error}");
}

#[test]
fn durability_is_bounded() {
    let with = |text: &str| error_with("[timing]", &format!("{text}\n[timing]"));
    for (text, expected) in [
        ("[durability]\ngeo_regime = \"never\"", "required"),
        ("[durability]\ndegrade_after_ms = 10", "durability.degrade_after_ms"),
        ("[durability.budget]\nentries = 0", "durability.budget.entries"),
        ("[durability.budget]\nseconds = 0", "durability.budget.seconds"),
        ("[durability.budget]\namounts = { czk = 5 }", "durability.budget.amounts.\"czk\""),
        ("[durability.budget]\namounts = { CZK = -5 }", "line"),
    ] {
        let error = with(text);
        assert!(error.contains(expected), "{text}: {error}");
    }
    let text = "[durability]\ngeo_regime = \"adaptive\"\nbudget = { entries = 9, amounts = { CZK = 5 } }";
    let topology = parse_with("[timing]", &format!("{text}\n[timing]")).expect("taken");
    assert_eq!(
        (topology.durability.geo_regime, topology.durability.budget.seconds),
        (GeoRegime::Adaptive, 3_600)
    );
}

#[test]
fn timing_follows_the_largest_round_trip() {
    // a-c round trip; heartbeat, election min and max
    let rows = [(2.0, 60, 180, 200), (30.0, 90, 180, 200), (66.8, 201, 362, 402), (100.0, 300, 540, 600)];
    for (rtt_ms, heartbeat_ms, election_min_ms, election_max_ms) in rows {
        let mut topology = default();
        topology.timing.rtt_ms.insert("a-c".to_owned(), rtt_ms);
        topology.timing.rtt_ms.insert("b-c".to_owned(), 1.5);
        topology.validate().unwrap();
        assert_eq!(topology.timing(), Timing { heartbeat_ms, election_min_ms, election_max_ms }, "{rtt_ms}");
    }
    assert_eq!(default().rtt_ms("c", "a"), Some(30.0));
    assert_eq!(default().rtt_ms("c", "c"), Some(0.0));
    assert_eq!(default().rtt_ms("c", "x"), None);
}

#[test]
fn timing_overrides() {
    // heartbeat, min, max as given; heartbeat, min, max that result
    let rows = [
        ((Some(50), None, None), (50, 180, 200)),
        ((Some(500), None, None), (500, 900, 1_000)),
        ((None, Some(600), None), (90, 600, 801)),
        ((None, None, Some(400)), (90, 360, 400)),
        ((None, None, Some(122)), (90, 110, 122)),
        ((Some(40), Some(60), Some(90)), (40, 60, 90)),
    ];
    for ((heartbeat, min, max), (heartbeat_ms, election_min_ms, election_max_ms)) in rows {
        let mut topology = default();
        topology.timing.heartbeat_ms = heartbeat;
        topology.timing.election_min_ms = min;
        topology.timing.election_max_ms = max;
        topology.validate().unwrap();
        assert_eq!(topology.timing(), Timing { heartbeat_ms, election_min_ms, election_max_ms });
    }
}

#[test]
fn description_says_what_matters() {
    let text = default().to_string();
    for part in [
        "cluster tercet: 2 sites, 3 zones, 5 nodes (5 voting, quorum 3), 1 group",
        "  zone c (leader preference 3)",
        "    node 5 c1 voter: peer 127.0.0.1:7105, client 127.0.0.1:7205, metrics 127.0.0.1:7305",
        "heartbeat 90 ms, election 180 to 200 ms",
        "survives the loss of any zone: yes",
        "survives the loss of any site: not of site east",
        "survives the loss of any two nodes: yes",
    ] {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
}

#[test]
fn loopback() {
    for address in ["127.0.0.1:1", "127.9.0.1:1", "localhost:7", "[::1]:7"] {
        assert!(is_loopback(address), "{address}");
    }
    for address in ["10.0.0.1:1", "0.0.0.0:1", "[::]:7", "example.org:7", "127.0.0.1"] {
        assert!(!is_loopback(address), "{address}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Topology::load(Path::new("no/such/topology.toml")).unwrap_err().to_string();
    assert!(error.contains("no/such/topology.toml"), "{error}");
}
