//! Tells operators of every change of the regime of the remote site.
//!
//! Invariant: what is told is what this node has applied, so every node tells it, with the reason that the record carries.

use std::sync::Arc;

use crate::node::Node;
use crate::raft::group::{Group, RegimeNote};

/// Publishes every change of a group's regime as an event.
pub async fn report(node: Arc<Node>, group: u32) {
    let mut last = RegimeNote::default();
    loop {
        let running = node.groups.when_running(group).await;
        tokio::select! {
            () = report_running(&node, &running, &mut last) => {}
            () = node.groups.until_replaced(&running) => {}
        }
    }
}

async fn report_running(node: &Node, group: &Group, last: &mut RegimeNote) {
    let mut regime = group.regime();
    loop {
        let now = regime.borrow_and_update().clone();
        for (kind, message) in news(last, &now) {
            node.event(group.id(), kind, message);
        }
        *last = now;
        if regime.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What has changed, in words.
fn news(last: &RegimeNote, now: &RegimeNote) -> Vec<(&'static str, String)> {
    let mut news = Vec::new();
    match (last.degraded_since, now.degraded_since) {
        (before, Some(since)) if before != Some(since) => news.push((
            "regime_degraded",
            format!("class geo is acknowledged as city since log index {since}: {}", now.reason),
        )),
        (Some(_), None) => {
            news.push(("regime_restored", format!("class geo waits for every site again: {}", now.reason)));
        }
        _ => {}
    }
    if now.exhausted != last.exhausted && !now.exhausted.is_empty() {
        let message = format!("class geo is refused until the remote site is back: {}", now.exhausted);
        news.push(("budget_spent", message));
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_once_and_with_its_reason() {
        let normal = RegimeNote::default();
        let degraded =
            RegimeNote { degraded_since: Some(7), reason: "west is lost".into(), ..normal.clone() };
        let spent = RegimeNote { exhausted: "4 entries of 3".into(), ..degraded.clone() };
        let restored = RegimeNote { reason: "west is back".into(), ..normal.clone() };
        let again = RegimeNote { degraded_since: Some(9), ..degraded.clone() };
        let kinds = |last: &RegimeNote, now: &RegimeNote| -> Vec<&str> {
            news(last, now).into_iter().map(|(kind, _)| kind).collect()
        };
        assert_eq!(kinds(&normal, &degraded), ["regime_degraded"]);
        assert!(news(&normal, &degraded)[0].1.ends_with("log index 7: west is lost"));
        assert_eq!(kinds(&degraded, &degraded), [""; 0]);
        assert_eq!(kinds(&degraded, &spent), ["budget_spent"]);
        assert_eq!(kinds(&spent, &restored), ["regime_restored"]);
        assert!(news(&spent, &restored)[0].1.ends_with("west is back"));
        assert_eq!(kinds(&degraded, &again), ["regime_degraded"], "both records came between two looks");
        assert_eq!(kinds(&normal, &spent), ["regime_degraded", "budget_spent"]);
    }
}
