//! The fault plan of a simulation: drawn from the seed before anything runs, kept as a file that can be cut down by hand.
//!
//! Invariants: the plan and the seed decide the whole run; taking a fault out of the file leaves the others as they are.

use std::fmt::Write as _;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::geo::GeoPlan;
use super::net::CLIENTS;

/// The nodes in the order of their numbers from 1 on, and their zones; the last one votes in some plans only.
pub const NODES: [(&str, &str); 6] =
    [("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("c1", "c"), ("c2", "c")];

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What everything else is drawn from.
    pub seed: u64,
    /// How long faults go on.
    pub faulty_ms: u64,
    /// Clients, each with one request at a time.
    pub clients: u32,
    /// Their pause between two requests: up to twice this.
    pub think_ms: u64,
    /// Of 100 appends, how many ask for class `geo`.
    #[serde(default)]
    pub geo_percent: u32,
    /// The nodes that are healed first, and on which writes must succeed soon while the others stay away.
    pub core: Vec<String>,
    /// The remote site, leadership and membership.
    #[serde(default)]
    pub geo: GeoPlan,
    /// What happens.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// Something that goes wrong, and is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, from the beginning of the faults.
    pub at_ms: u64,
    /// For how long.
    pub for_ms: u64,
    /// What.
    pub kind: FaultKind,
    /// The shape, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub shape: String,
    /// To which nodes; `leader` is whoever leads then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// To which directed links, `from>to`; `clients` is an end, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// How much: milliseconds of delay or skew, messages lost of 1,000, bits that flip.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub amount: i64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn is_zero(amount: &i64) -> bool {
    *amount == 0
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The process is killed; what it had handed to the disk may arrive. Started again at the end.
    Kill,
    /// The power is cut: what no fdatasync covered is lost.
    PowerLoss,
    /// The power is cut: what no fdatasync covered is kept, lost or torn, sector by sector.
    TornPower,
    /// As `PowerLoss`, and the index is gone afterwards.
    LostIndex,
    /// The power is cut, and bits of what was durable flip before it comes back.
    Rot,
    /// Bits of sealed segments flip under a running node.
    LatentRot,
    /// The process stands still.
    Pause,
    /// Links carry nothing.
    Cut,
    /// Links are cut and healed again and again.
    Flap,
    /// Links are slow.
    SlowLink,
    /// Links lose messages.
    Lossy,
    /// The disk is slow.
    SlowDisk,
    /// The disk has no room for another segment.
    DiskFull,
    /// The wall clock is wrong.
    Skew,
    /// Leadership is moved to the node.
    Transfer,
    /// A checkpoint is written into the index.
    Checkpoint,
    /// The node becomes a learner; asked again until the fault is over, as are the next ones.
    AddMember,
    /// The learner votes from now on.
    PromoteMember,
    /// The node is no member any more.
    RemoveMember,
    /// The node's data directory is lost: it leaves, comes back under a new incarnation, and votes again if it did.
    ReplaceMember,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed ^ 0x7465_7263_6574);
        let faulty_ms = rng.random_range(40_000..90_000);
        let (geo, geo_percent, more) = GeoPlan::draw(seed, faulty_ms);
        let nodes = geo.voters();
        let mut faults = Vec::new();
        let mut at_ms = rng.random_range(200..2_500);
        // Some seeds are calm and some are wild.
        let pause_ms = *[600, 1_500, 3_000, 6_000].choose(&mut rng).unwrap_or(&1_500);
        while at_ms < faulty_ms {
            let mut fault = draw(&mut rng, nodes);
            fault.at_ms = at_ms;
            fault.for_ms = fault.for_ms.min(faulty_ms - at_ms);
            faults.push(fault);
            at_ms += rng.random_range(50..=2 * pause_ms);
        }
        faults.extend(more);
        faults.sort_by_key(|fault| fault.at_ms);
        let core = if geo.second_remote { GeoPlan::core_of_six(seed) } else { core(&mut rng) };
        Self {
            seed,
            faulty_ms,
            clients: rng.random_range(3..=8),
            think_ms: *[40, 100, 250, 500].choose(&mut rng).unwrap_or(&100),
            geo_percent,
            core,
            geo,
            faults,
        }
    }

    /// Whether who belongs to the group changes.
    #[must_use]
    pub fn changes_members(&self) -> bool {
        use FaultKind::{AddMember, PromoteMember, RemoveMember, ReplaceMember};
        let change = [AddMember, PromoteMember, RemoveMember, ReplaceMember];
        self.faults.iter().any(|fault| change.contains(&fault.kind))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read or is no plan.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let plan: Self = toml::from_str(&std::fs::read_to_string(path)?)?;
        for fault in &plan.faults {
            for name in &fault.nodes {
                anyhow::ensure!(name == "leader" || node_id(name).is_some(), "there is no node {name:?}");
            }
            for link in &fault.links {
                anyhow::ensure!(ends(link).is_some(), "{link:?} is no link; write it like \"a1>b2\"");
            }
        }
        for name in &plan.core {
            anyhow::ensure!(node_id(name).is_some(), "core: there is no node {name:?}");
        }
        Ok(plan)
    }

    /// The file's text.
    ///
    /// # Errors
    /// It cannot be written as TOML.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut text = String::from("# A simulation's fault plan: `tercet-chaos replay FILE` runs it.\n");
        write!(text, "{}", toml::to_string(self)?)?;
        Ok(text)
    }
}

/// A node's number.
#[must_use]
pub fn node_id(name: &str) -> Option<u64> {
    let at = NODES.iter().position(|(node, _)| *node == name)?;
    Some(at as u64 + 1)
}

/// The ends of a link.
#[must_use]
pub fn ends(link: &str) -> Option<(u64, u64)> {
    let end = |name: &str| if name == "clients" { Some(CLIENTS) } else { node_id(name) };
    let (from, to) = link.split_once('>')?;
    Some((end(from)?, end(to)?))
}

/// A majority of five that spans two zones.
fn core(rng: &mut SmallRng) -> Vec<String> {
    let mut all: Vec<(&str, &str)> = NODES[..5].to_vec();
    loop {
        all.shuffle(rng);
        let chosen = &all[..rng.random_range(3..=4)];
        if chosen.iter().any(|(_, zone)| *zone != chosen[0].1) {
            let mut names: Vec<String> = chosen.iter().map(|(name, _)| (*name).to_owned()).collect();
            names.sort();
            return names;
        }
    }
}

fn draw(rng: &mut SmallRng, nodes: Nodes) -> Fault {
    let kind = match rng.random_range(0..100) {
        0..9 => FaultKind::Kill,
        9..16 => FaultKind::PowerLoss,
        16..24 => FaultKind::TornPower,
        24..28 => FaultKind::LostIndex,
        28..36 => FaultKind::Rot,
        36..39 => FaultKind::LatentRot,
        39..46 => FaultKind::Pause,
        46..70 => FaultKind::Cut,
        70..73 => FaultKind::Flap,
        73..77 => FaultKind::SlowLink,
        77..80 => FaultKind::Lossy,
        80..84 => FaultKind::SlowDisk,
        84..87 => FaultKind::DiskFull,
        87..91 => FaultKind::Skew,
        91..96 => FaultKind::Transfer,
        _ => FaultKind::Checkpoint,
    };
    let long = rng.random_range(0..5) == 0;
    let for_ms = if long { rng.random_range(2_000..15_000) } else { rng.random_range(20..2_500) };
    let (mut links, mut amount) = (Vec::new(), 0);
    let (shape, hit) = match kind {
        FaultKind::Cut | FaultKind::Flap | FaultKind::SlowLink | FaultKind::Lossy => {
            let (shape, hit, cut) = partition(rng, nodes);
            links = cut;
            (shape, hit)
        }
        FaultKind::Transfer => (String::new(), vec![any(rng, nodes)]),
        FaultKind::Rot | FaultKind::LatentRot => {
            let whom = if rng.random_range(0..3) == 0 { "leader".into() } else { any(rng, nodes) };
            (String::new(), vec![whom])
        }
        _ => victims(rng, nodes),
    };
    match kind {
        FaultKind::SlowLink => amount = rng.random_range(10..400),
        FaultKind::Lossy => amount = rng.random_range(20..500),
        FaultKind::SlowDisk => amount = rng.random_range(5..600),
        FaultKind::Skew => amount = rng.random_range(-3_600_000..3_600_000),
        FaultKind::Rot | FaultKind::LatentRot => amount = rng.random_range(1..=3),
        FaultKind::Flap => amount = rng.random_range(20..400),
        _ => {}
    }
    Fault { at_ms: 0, for_ms, kind, shape, nodes: hit, links, amount }
}

/// Nodes and their zones.
type Nodes = &'static [(&'static str, &'static str)];

fn any(rng: &mut SmallRng, nodes: Nodes) -> String {
    nodes[rng.random_range(0..nodes.len())].0.to_owned()
}

fn in_zone(zone: &str) -> Vec<String> {
    NODES.iter().filter(|(_, of)| *of == zone).map(|(name, _)| (*name).to_owned()).collect()
}

/// Whom a fault hits.
fn victims(rng: &mut SmallRng, nodes: Nodes) -> (String, Vec<String>) {
    let all = || nodes.iter().map(|(name, _)| (*name).to_owned()).collect();
    match rng.random_range(0..20) {
        0..8 => ("one node".into(), vec![any(rng, nodes)]),
        8..13 => ("the leader".into(), vec!["leader".into()]),
        13..16 => {
            let zone = *["a", "b", "c"].choose(rng).unwrap_or(&"a");
            (format!("zone {zone}"), in_zone(zone))
        }
        16..18 => ("the city".into(), [in_zone("a"), in_zone("b")].concat()),
        _ => ("everything".into(), all()),
    }
}

fn both_ways(left: &[&str], right: &[&str]) -> Vec<String> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [format!("{a}>{b}"), format!("{b}>{a}")]).collect()
}

/// A shape of partition: its name, nodes that are cut from all others, links that are cut.
fn partition(rng: &mut SmallRng, nodes: Nodes) -> (String, Vec<String>, Vec<String>) {
    let mut names: Vec<&str> = nodes.iter().map(|(name, _)| *name).collect();
    names.shuffle(rng);
    let (links, shape) = match rng.random_range(0..13) {
        0 => return ("one node is isolated".into(), vec![any(rng, nodes)], Vec::new()),
        1 => return ("the leader against the rest".into(), vec!["leader".into()], Vec::new()),
        2 => (both_ways(&names[..2], &names[2..]), "halves"),
        3 => {
            // Each node sees its neighbours on a ring, two of five, four of six: majorities that overlap.
            let count = names.len();
            let (first, last) = if count == 5 { (2, 3) } else { (3, 3) };
            let far = (first..=last).flat_map(|step| (0..count).map(move |at| (at, (at + step) % count)));
            let links = far.map(|(a, b)| format!("{}>{}", names[a], names[b])).collect();
            (links, "a ring of overlapping majorities")
        }
        4 => (both_ways(&names[..2], &names[3..]), "a bridge between two halves"),
        5 => (vec![format!("{}>{}", names[0], names[1])], "one link, one way"),
        6 => {
            let links = names[1..].iter().map(|other| format!("{}>{other}", names[0])).collect();
            (links, "one node is heard by nobody")
        }
        7 => {
            let links = names[1..].iter().map(|other| format!("{other}>{}", names[0])).collect();
            (links, "one node hears nobody")
        }
        8 => (both_ways(&["a1", "a2"], &["b1", "b2"]), "the city link is cut"),
        9 => {
            let zone = *["a", "b", "c"].choose(rng).unwrap_or(&"a");
            let inside: Vec<&str> = NODES.iter().filter(|node| node.1 == zone).map(|node| node.0).collect();
            let outside: Vec<&str> = NODES.iter().filter(|node| node.1 != zone).map(|node| node.0).collect();
            (both_ways(&inside, &outside), "a zone is lost")
        }
        10 => (both_ways(&["a1", "a2", "b1", "b2"], &["c1", "c2"]), "the remote site is cut off"),
        11 => {
            let zone = if rng.random() { ["a1", "a2"] } else { ["b1", "b2"] };
            (both_ways(&zone, &["c1", "c2"]), "the remote site is reached from one zone only")
        }
        _ => {
            let links =
                names[..2].iter().flat_map(|node| [format!("clients>{node}"), format!("{node}>clients")]);
            (links.collect(), "two nodes are cut from clients, not from peers")
        }
    };
    (shape.into(), Vec::new(), links)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_as_it_was_drawn() {
        for seed in 0..50 {
            let plan = Plan::of_seed(seed);
            assert!(plan.faults.len() > 3, "seed {seed}");
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("plan.toml");
            std::fs::write(&path, plan.text().unwrap()).unwrap();
            assert_eq!(Plan::load(&path).unwrap(), plan, "seed {seed}");
        }
    }

    #[test]
    fn bits_rot_in_most_plans() {
        let rots = |plan: &Plan, kind| plan.faults.iter().any(|fault| fault.kind == kind);
        let plans: Vec<Plan> = (0..200).map(Plan::of_seed).collect();
        for (kind, at_least) in [(FaultKind::Rot, 120), (FaultKind::LatentRot, 60)] {
            let count = plans.iter().filter(|plan| rots(plan, kind)).count();
            assert!(count >= at_least, "{kind:?} is in {count} of 200 plans");
        }
    }

    #[test]
    fn every_core_is_a_majority_in_two_zones() {
        for seed in 0..200 {
            let core = Plan::of_seed(seed).core;
            let zones: std::collections::BTreeSet<&str> = core.iter().map(|name| &name[..1]).collect();
            let voters = Plan::of_seed(seed).geo.voters().len();
            assert!(core.len() > voters / 2 && zones.len() >= 2, "seed {seed}: {core:?}");
        }
    }
}
