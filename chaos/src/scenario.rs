//! Scenario files: a story of what clients do and what goes wrong, and what is expected of the cluster.
//!
//! Invariants of a scenario that [`Scenario::parse`] returned: every step names a fault with what it needs and nothing
//! else, every fault but a wiped disk has an end, every named site, zone and node exists, and no step waits for one that
//! comes after it.

mod span;
mod step;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tercet_proto::topology::GeoRegime;

pub use span::Span;
pub use step::{Step, When, Writes};

use crate::cluster::Members;
use crate::cluster::namespace::Needs;
use crate::faults::Blow;
use step::StepFile;

/// Room for three log segments and an index.
const LOOP_DISK_MIB_MIN: u64 = 320;

/// A whole scenario file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short; used in paths.
    pub name: String,
    /// What happens and what must hold, in prose.
    pub description: String,
    /// `[cluster]`
    #[serde(default)]
    pub cluster: ClusterPlan,
    /// `[workload]`
    #[serde(default)]
    pub workload: WorkloadPlan,
    /// `[[steps]]`, in the order in which they are taken.
    #[serde(default)]
    steps: Vec<StepFile>,
    /// `[expect]`
    #[serde(default)]
    pub expect: Expectations,
    #[serde(skip)]
    resolved: Vec<Step>,
}

/// `[cluster]`: the network's own shape. Five nodes in 2-2-1.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterPlan {
    /// One-way delay between two zones, by `"a-b"`; both directions. Zones that are not named: none.
    #[serde(default)]
    pub delay: BTreeMap<String, Span>,
    /// At most so much is added to each delay at random.
    #[serde(default)]
    pub jitter: Span,
    /// How blackholes are made.
    #[serde(default)]
    pub network: NetworkKind,
    /// By node: how many milliseconds its wall clock is ahead.
    #[serde(default)]
    pub clock_skew_ms: BTreeMap<String, i64>,
    /// What class `geo` does without the remote site.
    #[serde(default)]
    pub geo_regime: GeoRegime,
    /// After how long `adaptive` degrades; none: as the topology's default.
    pub degrade_after: Option<Span>,
    /// Gives each node a file system of its own of so many MiB, whose power can be cut; needs root.
    pub loop_disk_mib: Option<u64>,
}

/// How a blackhole is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkKind {
    /// Proxies hold the bytes; they arrive when it is over.
    #[default]
    Proxies,
    /// The kernel drops the packets, in a network namespace of the harness's own.
    Namespace,
}

/// `[workload]`: what clients do while things go wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkloadPlan {
    /// How many of them, each with one request at a time.
    pub clients: u32,
    /// At least so long; it goes on until every fault is undone.
    pub duration: Span,
    /// How long it goes on after the last fault is undone and the cluster has recovered.
    pub tail: Span,
    /// Pause between two requests of a client: up to twice this, at random.
    pub think: Span,
    /// Bytes of payload of an entry.
    pub payload_bytes: usize,
    /// Of 100 operations, how many only read.
    pub read_percent: u32,
    /// Of 100 appends, how many have several entries.
    pub batch_percent: u32,
    /// Most entries of an append.
    pub batch_entries: u32,
    /// Of 100 appends that did not succeed, how many are repeated with the same keys.
    pub retry_percent: u32,
    /// Of 100 appends, how many reuse a known key with other content, which must be refused.
    pub conflict_percent: u32,
    /// Of 100 appends, how many ask for class `geo`.
    pub geo_percent: u32,
    /// How long a client waits for an answer before it calls the outcome unknown.
    pub timeout: Span,
}

impl Default for WorkloadPlan {
    fn default() -> Self {
        Self {
            clients: 10,
            duration: Span::from_secs(10),
            tail: Span::from_secs(2),
            think: Span::from_millis(5),
            payload_bytes: 64,
            read_percent: 30,
            batch_percent: 10,
            batch_entries: 8,
            retry_percent: 60,
            conflict_percent: 2,
            geo_percent: 0,
            timeout: Span::from_secs(2),
        }
    }
}

/// `[expect]`: beyond the checker's verdict, which is always expected.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expectations {
    /// At least so many appends are acknowledged in the whole run.
    pub acknowledged_at_least: u64,
    /// No time without an acknowledgement is longer, around any fault.
    pub rto_at_most: Option<Span>,
    /// Every node is reachable and has caught up so soon after its fault is undone.
    pub recovery_within: Span,
}

impl Default for Expectations {
    fn default() -> Self {
        Self { acknowledged_at_least: 1, rto_at_most: None, recovery_within: Span::from_secs(60) }
    }
}

/// A scenario that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no TOML, or has other fields.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A field's value makes no sense.
    #[error("{field}: {why}")]
    Invalid {
        /// Its path.
        field: String,
        /// What is wrong.
        why: String,
    },
}

fn invalid<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, ScenarioError> {
    Err(ScenarioError::Invalid { field: field.into(), why: why.into() })
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or says something that cannot be run.
    pub fn load(path: &Path) -> Result<Self, ScenarioError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ScenarioError::Io { path: path.display().to_string(), source })?;
        Self::parse(&text)
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// It says something that cannot be run; the field is named.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let mut scenario: Self = toml::from_str(text)?;
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if scenario.name.is_empty() || !scenario.name.chars().all(named) {
            return invalid(
                "name",
                format!("{:?} is not lower-case letters, digits and hyphens", scenario.name),
            );
        }
        let members = Members::default_five();
        scenario.check_cluster(&members)?;
        scenario.check_workload()?;
        for (at, step) in scenario.steps.iter().enumerate() {
            let step = step.resolve(&format!("steps[{at}]"), &members)?;
            let needs_disk = matches!(step.blow, Blow::PowerLoss | Blow::Fill | Blow::Stall { .. });
            if needs_disk && scenario.cluster.loop_disk_mib.is_none() {
                return invalid(format!("steps[{at}].fault"), "it needs `[cluster] loop_disk_mib`");
            }
            scenario.resolved.push(step);
        }
        Ok(scenario)
    }

    /// What goes wrong, in the order in which it is begun.
    pub fn steps(&self) -> &[Step] {
        &self.resolved
    }

    /// The namespaces that it needs.
    pub fn needs(&self) -> Needs {
        Needs {
            mounts: self.cluster.loop_disk_mib.is_some(),
            network: self.cluster.network == NetworkKind::Namespace,
        }
    }

    fn check_cluster(&self, members: &Members) -> Result<(), ScenarioError> {
        if self.cluster.loop_disk_mib.is_some_and(|mib| mib < LOOP_DISK_MIB_MIN) {
            return invalid("cluster.loop_disk_mib", format!("must be at least {LOOP_DISK_MIB_MIN}"));
        }
        if let Some(node) = self.cluster.clock_skew_ms.keys().find(|node| members.node(node).is_none()) {
            return invalid("cluster.clock_skew_ms", format!("there is no node {node:?}"));
        }
        for pair in self.cluster.delay.keys() {
            let known = pair.split_once('-').is_some_and(|(zone, other)| {
                zone < other && members.has_zone(zone) && members.has_zone(other)
            });
            if !known {
                return invalid("cluster.delay", format!("{pair:?} is not two zones in order, like \"a-b\""));
            }
        }
        Ok(())
    }

    fn check_workload(&self) -> Result<(), ScenarioError> {
        let workload = &self.workload;
        let percents = [
            ("read_percent", workload.read_percent),
            ("batch_percent", workload.batch_percent),
            ("retry_percent", workload.retry_percent),
            ("conflict_percent", workload.conflict_percent),
            ("geo_percent", workload.geo_percent),
        ];
        for (field, value) in percents {
            if value > 100 {
                return invalid(format!("workload.{field}"), format!("{value} is more than 100"));
            }
        }
        if workload.clients == 0 {
            return invalid("workload.clients", "at least one is needed");
        }
        if workload.batch_entries == 0 {
            return invalid("workload.batch_entries", "at least one is needed");
        }
        if workload.timeout.is_zero() {
            return invalid("workload.timeout", "must be above zero");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::faults::{Target, Wire};
    use crate::proxy::LinkFault;

    fn scenario(steps: &str) -> Result<Scenario, ScenarioError> {
        Scenario::parse(&format!("name = \"x\"\ndescription = \"y\"\n{steps}"))
    }

    #[test]
    fn a_story_is_read() {
        let story = scenario(
            r#"
            [cluster]
            delay = { "a-c" = "15ms", "b-c" = "15ms" }
            network = "namespace"
            clock_skew_ms = { c1 = -3000 }
            [workload]
            clients = 3
            duration = "1.5s"
            [[steps]]
            at = "2s"
            fault = "blackhole"
            zone = "a"
            from = ["clients", "b1", "c"]
            direction = "out"
            for = "500ms"
            [[steps]]
            after = "1s"
            fault = "kill"
            node = "leader"
            for = "2s"
            writes = "go on"
            gap_at_most = "3s"
            leader_changes_at_most = 1
            [[steps]]
            at = "9s"
            fault = "reset"
            links = ["east <-> west", "clients -> a"]
            flap = "100ms"
            for = "500ms"
            [[steps]]
            at = "10s"
            on = "acknowledgement"
            fault = "wipe"
            zone = "leader"
            [expect]
            rto_at_most = "10s"
            "#,
        )
        .unwrap();
        assert_eq!(Duration::from(story.workload.duration), Duration::from_millis(1_500));
        let wire = |text| Wire::parse(text, &Members::default_five()).unwrap();
        let link = |fault, flap| Blow::Link { fault, flap };
        let at = |seconds, blow, target, lasts| Step {
            when: When::At(Duration::from_secs(seconds)),
            on_acknowledgement: false,
            blow,
            target,
            lasts: Some(Duration::from_millis(lasts)),
            writes: None,
            gap_at_most: None,
            leader_changes_at_most: None,
        };
        let flap = Some(Duration::from_millis(100));
        assert_eq!(
            story.steps(),
            [
                at(
                    2,
                    link(LinkFault::Blackhole, None),
                    Target::Wires(vec![wire("a -> clients, b1, c")]),
                    500
                ),
                Step {
                    when: When::AfterRecovery(Duration::from_secs(1)),
                    writes: Some(Writes::GoOn),
                    gap_at_most: Some(Duration::from_secs(3)),
                    leader_changes_at_most: Some(1),
                    ..at(0, Blow::Kill, Target::Leader, 2_000)
                },
                at(
                    9,
                    link(LinkFault::Reset, flap),
                    Target::Wires(vec![wire("east <-> west"), wire("clients -> a")]),
                    500
                ),
                Step { on_acknowledgement: true, lasts: None, ..at(10, Blow::Wipe, Target::LeaderZone, 0) },
            ]
        );
        assert_eq!(story.cluster.clock_skew_ms["c1"], -3_000);
        assert_eq!(story.needs(), Needs { mounts: false, network: true });
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_its_field() {
        let step = |rest: &str| format!("[[steps]]\n{rest}");
        let cases = [
            (step("at = '1s'\nfault = 'kill'\nnode = 'a1'"), "for"),
            (step("fault = 'kill'\nnode = 'a1'\nfor = '1s'"), "steps[0]: needs `at` or `after`"),
            (step("at = '1s'\nafter = '1s'\nfault = 'kill'\nnode = 'a1'\nfor = '1s'"), "not both"),
            (step("at = '1s'\nfault = 'kill'\nfor = '1s'"), "needs `zone` or `node`"),
            (step("at = '1s'\nfault = 'kill'\nnode = 'z9'\nfor = '1s'"), "steps[0].node"),
            (step("at = '1s'\nfault = 'kill'\nzone = 'z'\nfor = '1s'"), "steps[0].zone"),
            (step("at = '1s'\nfault = 'replace'\nnode = 'b1'"), "every fault needs an end"),
            (step("at = '1s'\nfault = 'burn'\nzone = 'a'\nfor = '1s'"), "steps[0].fault"),
            (step("at = '1s'\nfault = 'kill'\nzone = 'a'\nfor = '0s'"), "steps[0].for"),
            (step("at = '1s'\nfault = 'kill'\nzone = 'a'\nfor = '1s'\nfrom = ['b']"), "steps[0].from"),
            (step("at = '1s'\nfault = 'kill'\nzone = 'a'\nfor = '1s'\ndelay = '1ms'"), "steps[0].delay"),
            (step("at = '1s'\nfault = 'slow'\nzone = 'a'\nfor = '1s'"), "slow needs"),
            (step("at = '1s'\nfault = 'blackhole'\nzone = 'a'\nfor = '1s'\nfrom = ['q']"), "steps[0].from"),
            (step("at = '1 hour'\nfault = 'kill'\nzone = 'a'\nfor = '1s'"), "1 hour"),
            (step("at = '1s'\nfault = 'kill'\nzone = 'a'\nfor = '1s'\ncolour = 'red'"), "colour"),
            (step("at = '1s'\nfault = 'power-loss'\nnode = 'all'\nfor = '1s'"), "loop_disk_mib"),
            (step("at = '1s'\nfault = 'stall'\nnode = 'a1'\nfor = '1s'"), "stall needs `flap`"),
            (step("at = '1s'\nfault = 'wipe'\nnode = 'a1'\nfor = '1s'"), "does not come back"),
            (step("at = '1s'\nfault = 'kill'\nnode = 'a1'"), "every fault needs an end"),
            (step("at = '1s'\non = 'full moon'\nfault = 'kill'\nnode = 'a1'\nfor = '1s'"), "steps[0].on"),
            (step("at = '1s'\nfault = 'blackhole'\nlinks = []\nfor = '1s'"), "names no link"),
            (step("at = '1s'\nfault = 'blackhole'\nlinks = ['a b']\nfor = '1s'"), "steps[0].links"),
            (
                step("at = '1s'\nfault = 'blackhole'\nlinks = ['a <-> b']\nzone = 'a'\nfor = '1s'"),
                "says it all",
            ),
            (
                step("at = '1s'\nfault = 'kill'\nzone = 'a'\nlinks = ['a <-> b']\nfor = '1s'"),
                "steps[0].links",
            ),
            (step("at = '1s'\nfault = 'half-open'\nzone = 'a'\nflap = '1s'\nfor = '1s'"), "steps[0].flap"),
            ("[cluster]\nclock_skew_ms = { z9 = 1 }".into(), "cluster.clock_skew_ms"),
            ("[cluster]\nnetwork = 'magic'".into(), "magic"),
            ("[cluster]\nloop_disk_mib = 10".into(), "cluster.loop_disk_mib"),
            ("[workload]\nread_percent = 101".into(), "workload.read_percent"),
            ("[workload]\nclients = 0".into(), "workload.clients"),
            ("[cluster]\ndelay = { \"c-a\" = '1ms' }".into(), "cluster.delay"),
        ];
        for (text, why) in cases {
            let error = scenario(&text).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Scenario::parse("name = 'A b'\ndescription = ''").is_err());
    }

    #[test]
    fn the_scenarios_of_the_repository_are_sound() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let mut count = 0;
        for file in std::fs::read_dir(dir).unwrap() {
            let path = file.unwrap().path();
            let scenario =
                Scenario::load(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            assert_eq!(path.file_stem().unwrap().to_str().unwrap(), scenario.name);
            assert!(!scenario.steps().is_empty());
            count += 1;
        }
        assert!(count >= 3, "{count} scenarios");
    }
}
