//! `[[steps]]`: when something goes wrong, what, with whom, and for how long.

use std::time::Duration;

use serde::Deserialize;

use super::{ScenarioError, Span, invalid};
use crate::cluster::Members;
use crate::faults::{Blow, Party, Target, Wire};
use crate::proxy::LinkFault;

/// A step as it is written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StepFile {
    at: Option<Span>,
    after: Option<Span>,
    on: Option<String>,
    fault: String,
    zone: Option<String>,
    node: Option<String>,
    links: Option<Vec<String>>,
    #[serde(rename = "for")]
    lasts: Option<Span>,
    from: Option<Vec<String>>,
    direction: Option<Direction>,
    flap: Option<Span>,
    delay: Option<Span>,
    jitter: Option<Span>,
    bytes_per_second: Option<u64>,
    writes: Option<Writes>,
    gap_at_most: Option<Span>,
    leader_changes_at_most: Option<u64>,
}

/// What is expected of appends while a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Writes {
    /// None is acknowledged, once what was under way is through.
    #[serde(rename = "stop")]
    Stop,
    /// Some are, to the end.
    #[serde(rename = "go on")]
    GoOn,
}

/// Which way bytes are hit, seen from the node or zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Both,
    In,
    Out,
}

/// When a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// So long after the workload has begun.
    At(Duration),
    /// So long after every earlier fault has been undone and every node has caught up.
    AfterRecovery(Duration),
}

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When it begins.
    pub when: When,
    /// From then on, in the instant in which the next append is acknowledged to a client.
    pub on_acknowledgement: bool,
    /// What happens.
    pub blow: Blow,
    /// To whom.
    pub target: Target,
    /// How long until it is undone; none: never.
    pub lasts: Option<Duration>,
    /// What is expected of appends while it lasts.
    pub writes: Option<Writes>,
    /// No time without an acknowledgement is longer until the next step; none: as for the whole scenario.
    pub gap_at_most: Option<Duration>,
    /// So many times another node, or the same one in another term, begins to lead until the next step, at most.
    pub leader_changes_at_most: Option<u64>,
}

impl StepFile {
    pub(super) fn resolve(&self, field: &str, members: &Members) -> Result<Step, ScenarioError> {
        let when = match (self.at, self.after) {
            (Some(at), None) => When::At(at.into()),
            (None, Some(after)) => When::AfterRecovery(after.into()),
            _ => return invalid(field, "needs `at` or `after`, and not both"),
        };
        let on_acknowledgement = match self.on.as_deref() {
            None => false,
            Some("acknowledgement") => true,
            Some(other) => {
                return invalid(format!("{field}.on"), format!("{other:?} is not \"acknowledgement\""));
            }
        };
        let blow = self.blow(field)?;
        self.refuse_unused(field, blow)?;
        let target = match blow {
            Blow::Link { .. } => self.wires(field, members)?,
            _ => self.nodes(field, members)?,
        };
        if self.lasts.is_some_and(Span::is_zero) {
            return invalid(format!("{field}.for"), "must be above zero");
        }
        Ok(Step {
            when,
            on_acknowledgement,
            blow,
            target,
            lasts: self.lasts.map(Duration::from),
            writes: self.writes,
            gap_at_most: self.gap_at_most.map(Duration::from),
            leader_changes_at_most: self.leader_changes_at_most,
        })
    }

    fn nodes(&self, field: &str, members: &Members) -> Result<Target, ScenarioError> {
        Ok(match (self.zone.as_deref(), self.node.as_deref()) {
            (Some("leader"), None) => Target::LeaderZone,
            (None, Some("leader")) => Target::Leader,
            (None, Some("all")) => Target::All,
            (Some(zone), None) if members.has_zone(zone) => Target::Zone(zone.to_owned()),
            (Some(zone), None) => {
                return invalid(format!("{field}.zone"), format!("there is no zone {zone:?}"));
            }
            (None, Some(node)) if members.node(node).is_some() => Target::Node(node.to_owned()),
            (None, Some(node)) => {
                return invalid(format!("{field}.node"), format!("there is no node {node:?}"));
            }
            _ => return invalid(field, "needs `zone` or `node`, and not both"),
        })
    }

    /// The links that are hit: as told, or those of a node or a zone.
    fn wires(&self, field: &str, members: &Members) -> Result<Target, ScenarioError> {
        let Some(links) = &self.links else {
            return Ok(Target::Wires(vec![self.wire_of_nodes(field, members)?]));
        };
        if links.is_empty() {
            return invalid(format!("{field}.links"), "names no link");
        }
        let named = [self.zone.is_some(), self.node.is_some(), self.from.is_some(), self.direction.is_some()];
        if named.contains(&true) {
            return invalid(field, "`links` says it all; leave `zone`, `node`, `from` and `direction` out");
        }
        let wires = links.iter().map(|text| {
            Wire::parse(text, members)
                .map_err(|why| ScenarioError::Invalid { field: format!("{field}.links"), why })
        });
        Ok(Target::Wires(wires.collect::<Result<_, _>>()?))
    }

    fn wire_of_nodes(&self, field: &str, members: &Members) -> Result<Wire, ScenarioError> {
        let one = match self.nodes(field, members)? {
            Target::Node(node) => Party::Node(node),
            Target::Zone(zone) => Party::Zone(zone),
            Target::Leader => Party::Leader,
            Target::LeaderZone => Party::LeaderZone,
            Target::All | Target::Wires(_) => {
                return invalid(format!("{field}.node"), "name links with `links` instead");
            }
        };
        let from = match &self.from {
            None => vec![Party::Everything],
            Some(names) => {
                let party = |name: &String| {
                    Party::parse(name, members)
                        .map_err(|why| ScenarioError::Invalid { field: format!("{field}.from"), why })
                };
                names.iter().map(party).collect::<Result<_, _>>()?
            }
        };
        let direction = self.direction.unwrap_or(Direction::Both);
        Ok(Wire {
            left: vec![one],
            right: from,
            forth: direction != Direction::In,
            back: direction != Direction::Out,
        })
    }

    fn blow(&self, field: &str) -> Result<Blow, ScenarioError> {
        let flap = self.flap.map(Duration::from);
        let link = |fault| Blow::Link { fault, flap };
        Ok(match self.fault.as_str() {
            "kill" => Blow::Kill,
            "wipe" => Blow::Wipe,
            "replace" => Blow::Replace,
            "pause" => Blow::Pause,
            "power-loss" => Blow::PowerLoss,
            "fill" => Blow::Fill,
            "stall" => match flap {
                Some(flap) => Blow::Stall { flap },
                None => return invalid(field, "stall needs `flap`: how long each stall is"),
            },
            "blackhole" => link(LinkFault::Blackhole),
            "reset" => link(LinkFault::Reset),
            "half-open" => link(LinkFault::HalfOpen),
            "slow" => link(LinkFault::Slow {
                delay: self.delay.unwrap_or_default().into(),
                jitter: self.jitter.unwrap_or_default().into(),
                bytes_per_second: self.bytes_per_second,
            }),
            other => {
                let known = "blackhole, reset, half-open, slow, kill, wipe, replace, pause, power-loss, fill and stall";
                return invalid(
                    format!("{field}.fault"),
                    format!("{other:?} is not known; there are {known}"),
                );
            }
        })
    }

    fn refuse_unused(&self, field: &str, blow: Blow) -> Result<(), ScenarioError> {
        let of_links = matches!(blow, Blow::Link { .. });
        let slow = matches!(blow, Blow::Link { fault: LinkFault::Slow { .. }, .. });
        let half_open = matches!(blow, Blow::Link { fault: LinkFault::HalfOpen, .. });
        let stall = matches!(blow, Blow::Stall { .. });
        let given = [
            ("from", self.from.is_some(), of_links),
            ("links", self.links.is_some(), of_links),
            ("direction", self.direction.is_some(), of_links),
            ("flap", self.flap.is_some(), (of_links && !half_open) || stall),
            ("delay", self.delay.is_some(), slow),
            ("jitter", self.jitter.is_some(), slow),
            ("bytes_per_second", self.bytes_per_second.is_some(), slow),
        ];
        for (name, given, used) in given {
            if given && !used {
                return invalid(
                    format!("{field}.{name}"),
                    format!("means nothing with fault {:?}", self.fault),
                );
            }
        }
        if slow && !given[4..].iter().any(|(_, given, _)| *given) {
            return invalid(field, "slow needs `delay`, `jitter` or `bytes_per_second`");
        }
        if self.flap.is_some_and(Span::is_zero) {
            return invalid(format!("{field}.flap"), "must be above zero");
        }
        if self.bytes_per_second == Some(0) {
            return invalid(
                format!("{field}.bytes_per_second"),
                "must be above zero; nothing at all is a blackhole",
            );
        }
        match (self.lasts, blow) {
            (None, Blow::Wipe) => Ok(()),
            (Some(_), Blow::Wipe) => invalid(format!("{field}.for"), "what was wiped does not come back"),
            (None, _) => invalid(format!("{field}.for"), "every fault needs an end"),
            (Some(_), _) => Ok(()),
        }
    }
}
