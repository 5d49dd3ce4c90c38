//! A topology in words, for `tercet topology check`: the layout, the timing, and in short what it survives.

use std::fmt;

use super::{Durability, GeoRegime, Loss, LossKind, Topology};

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_layout(f)?;
        self.write_timing(f)?;
        self.write_losses(f)
    }
}

impl Topology {
    fn write_layout(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let voters = self.voters().count();
        writeln!(
            f,
            "cluster {}: {}, {}, {} ({voters} voting, quorum {}), {}",
            self.cluster.name,
            count(self.sites.len(), "site"),
            count(self.zones.len(), "zone"),
            count(self.nodes.len(), "node"),
            self.quorum(),
            count(self.cluster.groups, "group"),
        )?;
        for site in &self.sites {
            writeln!(f, "site {}", site.name)?;
            for zone in self.zones.iter().filter(|zone| zone.site == site.name) {
                writeln!(f, "  zone {} (leader preference {})", zone.name, zone.leader_preference)?;
                for node in self.nodes.iter().filter(|node| node.zone == zone.name) {
                    let metrics = node.metrics.as_deref().unwrap_or("none");
                    writeln!(
                        f,
                        "    node {} {} {}: peer {}, client {}, metrics {metrics}",
                        node.id, node.name, node.role, node.peer, node.client
                    )?;
                }
            }
        }
        Ok(())
    }

    fn write_timing(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timing = self.timing();
        let Durability { geo_regime, degrade_after_ms, budget } = &self.durability;
        match geo_regime {
            GeoRegime::Required => writeln!(f, "class geo without the remote site: refused (required)")?,
            GeoRegime::Adaptive => writeln!(
                f,
                "class geo without the remote site: as city after {degrade_after_ms} ms (adaptive), for {} and {} at most{}",
                count(budget.entries, "entry").replace("entrys", "entries"),
                count(budget.seconds, "second"),
                if budget.amounts.is_empty() { "" } else { ", and within the amounts per currency" }
            )?,
        }
        writeln!(
            f,
            "timing: heartbeat {} ms, election {} to {} ms, from a largest round trip of {} ms; \
             a lost leader is noticed within {} ms",
            timing.heartbeat_ms,
            timing.election_min_ms,
            timing.election_max_ms,
            self.largest_rtt_ms(),
            timing.detection_max_ms()
        )
    }

    fn write_losses(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let losses = self.survives();
        let names: Vec<String> = losses.iter().map(Loss::to_string).collect();
        let lost_for = |kind| {
            let broken: Vec<&str> = losses
                .iter()
                .zip(&names)
                .filter(|(loss, _)| loss.kind == kind && !loss.quorum)
                .map(|(_, name)| name.as_str())
                .collect();
            if broken.is_empty() { "yes".to_owned() } else { format!("not of {}", broken.join(", ")) }
        };
        writeln!(f, "survives the loss of any node: {}", lost_for(LossKind::Node))?;
        writeln!(f, "survives the loss of any zone: {}", lost_for(LossKind::Zone))?;
        writeln!(f, "survives the loss of any site: {}", lost_for(LossKind::Site))?;
        write!(f, "survives the loss of any two nodes: {}", lost_for(LossKind::Pair))
    }
}

fn count(number: impl fmt::Display, word: &str) -> String {
    let number = number.to_string();
    if number == "1" { format!("1 {word}") } else { format!("{number} {word}s") }
}
