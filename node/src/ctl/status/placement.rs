//! What the leader of a group says of its placement, in words and as a table.

use tercet_proto::v1;

use super::super::output::{Column, counted, printable, table};

/// Lines to put below a group's line, each behind a line break; empty if the leader tells nothing (an older version).
pub(super) fn describe(status: &v1::GroupStatus) -> String {
    let mut text = String::new();
    for class in &status.classes {
        text.push_str(&format!("\n  {}", class_line(class, &status.geo_regime)));
    }
    if !status.losses.is_empty() {
        for line in losses_table(&status.losses).lines() {
            text.push_str(&format!("\n  {line}"));
        }
    }
    text
}

fn class_line(class: &v1::ClassStatus, geo_regime: &str) -> String {
    let name = class_name(class.durability_class());
    let mut line = format!("class {name}: placed through {}", class.watermark);
    if class.behind_entries > 0 {
        let entries = counted(class.behind_entries, "entry", "entries");
        line.push_str(&format!(", {entries} behind for {} ms", class.behind_ms));
    }
    if class.waiting > 0 {
        line.push_str(&format!(", {}", counted(class.waiting, "reply waits", "replies wait")));
    }
    if class.durability_class() == v1::DurabilityClass::Geo && !class.degraded {
        line.push_str(&format!(" ({geo_regime})"));
    }
    if class.degraded {
        line.push_str(&format!(
            "; DEGRADED to city since {}: {}; {} of {} entries of the budget spent",
            class.degraded_since, class.reason, class.spent_entries, class.budget_entries
        ));
    }
    if !class.exhausted.is_empty() {
        line.push_str(&format!("; REFUSED, the budget is spent: {}", class.exhausted));
    }
    if !class.unreachable.is_empty() {
        line.push_str(&format!("; {}", class.unreachable));
    }
    printable(&line)
}

fn class_name(class: v1::DurabilityClass) -> &'static str {
    if class == v1::DurabilityClass::Geo { "geo" } else { "city" }
}

fn losses_table(losses: &[v1::LossStatus]) -> String {
    let columns = ["if lost now", "leader", "city RPO", "geo RPO", "writable"].map(Column::Text);
    let rows: Vec<Vec<String>> = losses
        .iter()
        .map(|loss| {
            let leader = if loss.leader_zone.is_empty() {
                "nobody".to_owned()
            } else {
                format!("zone {} ({})", loss.leader_zone, loss.leader_nodes.join(" or "))
            };
            let writable = match (loss.city_writable, loss.geo_writable) {
                (true, true) => "city, geo",
                (true, false) => "city",
                (false, true) => "geo",
                (false, false) => "no",
            };
            vec![
                format!("{} {}", loss.kind, loss.name),
                leader,
                rpo_text(loss, v1::DurabilityClass::City),
                rpo_text(loss, v1::DurabilityClass::Geo),
                writable.to_owned(),
            ]
        })
        .collect();
    table(&columns, &rows)
}

fn rpo_text(loss: &v1::LossStatus, class: v1::DurabilityClass) -> String {
    match loss.rpo.iter().find(|rpo| rpo.durability_class() == class) {
        None => "-".to_owned(),
        Some(rpo) if rpo.entries == 0 => "0".to_owned(),
        Some(rpo) => {
            format!("{}, {} ms", counted(rpo.entries, "entry", "entries"), rpo.milliseconds)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_and_losses_are_told_with_their_reasons() {
        let class = |class: v1::DurabilityClass| v1::ClassStatus {
            durability_class: class.into(),
            watermark: 90,
            ..v1::ClassStatus::default()
        };
        let geo = v1::ClassStatus {
            watermark: 70,
            behind_entries: 1_200,
            behind_ms: 2_500,
            waiting: 1,
            degraded: true,
            degraded_since: 71,
            reason: "site west is silent".into(),
            spent_entries: 12,
            budget_entries: 100,
            unreachable: "no contact with a voter in site west".into(),
            ..class(v1::DurabilityClass::Geo)
        };
        let rpo = |class: v1::DurabilityClass, entries, milliseconds| v1::LossRpo {
            durability_class: class.into(),
            entries,
            milliseconds,
        };
        let zone = v1::LossStatus {
            kind: "zone".into(),
            name: "a".into(),
            leader_zone: "b".into(),
            leader_nodes: vec!["b1".into(), "b2".into()],
            rpo: vec![rpo(v1::DurabilityClass::City, 0, 0), rpo(v1::DurabilityClass::Geo, 0, 0)],
            city_writable: true,
            geo_writable: false,
        };
        let site = v1::LossStatus {
            kind: "site".into(),
            name: "east".into(),
            rpo: vec![rpo(v1::DurabilityClass::City, 1, 40), rpo(v1::DurabilityClass::Geo, 12, 2_400)],
            ..v1::LossStatus::default()
        };
        let status = v1::GroupStatus {
            classes: vec![class(v1::DurabilityClass::City), geo],
            losses: vec![zone, site],
            geo_regime: "adaptive".into(),
            ..v1::GroupStatus::default()
        };
        assert_eq!(
            describe(&status),
            "\n  class city: placed through 90\
             \n  class geo: placed through 70, 1,200 entries behind for 2500 ms, 1 reply waits; DEGRADED to city since 71: \
             site west is silent; 12 of 100 entries of the budget spent; no contact with a voter in site west\
             \n  if lost now  leader             city RPO        geo RPO              writable\
             \n  zone a       zone b (b1 or b2)  0               0                    city\
             \n  site east    nobody             1 entry, 40 ms  12 entries, 2400 ms  no"
        );
        let healthy = v1::GroupStatus {
            classes: vec![class(v1::DurabilityClass::Geo)],
            geo_regime: "required".into(),
            ..v1::GroupStatus::default()
        };
        assert_eq!(describe(&healthy), "\n  class geo: placed through 90 (required)");
    }
}
