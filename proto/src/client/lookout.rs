//! Looks out for another leader while a request waits for an answer.
//!
//! A connection that is swallowed by the network looks like a slow node, and the request that waits on it would wait until its
//! time is up. The other nodes know better: those that are connected elect a leader and say so. So after a short patience they
//! are asked for their status, and when another node answers that it leads now, the attempt is given up. What the others say of
//! a leader is not enough: they may not know yet that it is gone. A slow leader is still the leader, and is waited for.
//!
//! Invariants: only one look is under way at a time, whoever waits shares it; only a leader of the highest term counts that
//! anybody knows.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tonic::Request;

use super::{Client, admin};
use crate::v1;

/// How long an answer may take before others are asked about the leader.
const PATIENCE: Duration = Duration::from_millis(150);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// What does not answer a look within this is not waited for.
const LIMIT: Duration = Duration::from_millis(100);
/// Once a leader of each group has answered, so much longer for one of a higher term: those who are silent would hold every look
/// up to its limit, and a node that leads no more says so when it is asked.
const LIMIT_AFTER_LEADERS: Duration = Duration::from_millis(10);

/// Term and leader by group.
type Leaders = BTreeMap<u32, (u64, u64)>;

/// The last look, and when it ended.
#[derive(Debug, Default)]
pub(super) struct Lookout {
    last: Mutex<Option<(Instant, Leaders)>>,
}

impl Client {
    /// Completes with the new leader's endpoint when the other nodes say that `endpoint` leads nothing any more.
    pub(super) async fn led_elsewhere(&self, endpoint: &str) -> String {
        if !self.shared.options.follow_leader {
            return std::future::pending().await;
        }
        tokio::time::sleep(PATIENCE).await;
        loop {
            let leaders = self.look(endpoint).await;
            let router = &self.shared.router;
            let endpoints: Vec<Option<String>> =
                leaders.values().map(|(_, leader)| router.endpoint_of_node(*leader)).collect();
            let elsewhere =
                |leader: &Option<String>| leader.as_ref().is_some_and(|leader| leader != endpoint);
            if !endpoints.is_empty()
                && endpoints.iter().all(elsewhere)
                && let Some(Some(leader)) = endpoints.into_iter().next()
            {
                return leader;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Who leads each group, as all nodes but the one at `endpoint` see it.
    async fn look(&self, endpoint: &str) -> Leaders {
        let mut last = self.shared.lookout.last.lock().await;
        if let Some((at, leaders)) = &*last
            && at.elapsed() < PAUSE
        {
            return leaders.clone();
        }
        let others = self.shared.router.endpoints_but(endpoint);
        let asked = others.iter().map(|other| async move {
            let channel = self.shared.router.channel(other).ok()?;
            let mut client = admin(channel);
            let status = client.get_status(Request::new(v1::GetStatusRequest {}));
            Some(status.await.ok()?.into_inner())
        });
        let leaders = newest(gathered(asked.collect()).await.iter());
        *last = Some((Instant::now(), leaders.clone()));
        leaders
    }
}

/// The answers that come in time.
async fn gathered(
    mut asked: FuturesUnordered<impl Future<Output = Option<v1::NodeStatus>>>,
) -> Vec<v1::NodeStatus> {
    let mut answers = Vec::new();
    let mut limit = tokio::time::Instant::now() + LIMIT;
    while let Ok(Some(answer)) = tokio::time::timeout_at(limit, asked.next()).await {
        answers.extend(answer);
        let groups: BTreeSet<u32> =
            answers.iter().flat_map(|answer| &answer.groups).map(|group| group.group).collect();
        let led = newest(answers.iter());
        if !groups.is_empty() && led.len() == groups.len() {
            limit = limit.min(tokio::time::Instant::now() + LIMIT_AFTER_LEADERS);
        }
    }
    answers
}

/// Of each group the node that says of itself that it leads, in the highest term that anybody knows.
fn newest<'a>(statuses: impl Iterator<Item = &'a v1::NodeStatus>) -> Leaders {
    let mut leaders = Leaders::new();
    for status in statuses {
        for group in &status.groups {
            let leader = if group.role == "leader" { status.node_id } else { 0 };
            let known = leaders.entry(group.group).or_default();
            *known = (*known).max((group.term, leader));
        }
    }
    leaders.retain(|_, (_, leader)| *leader != 0);
    leaders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silent_nodes_hold_a_look_up_only_while_nobody_leads() {
        type Asked = futures::future::BoxFuture<'static, Option<v1::NodeStatus>>;
        let answer = |after_ms, node_id, role: &str| -> Asked {
            let group = v1::GroupStatus { role: role.to_owned(), ..Default::default() };
            let status = v1::NodeStatus { node_id, groups: vec![group], ..Default::default() };
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                Some(status)
            })
        };
        let silent = || -> Asked { Box::pin(std::future::pending()) };
        let begin = tokio::time::Instant::now();
        let asked = [answer(30, 2, "follower"), silent(), silent()].into_iter().collect();
        assert_eq!(gathered(asked).await.len(), 1);
        assert_eq!(begin.elapsed().as_millis(), 100);

        let begin = tokio::time::Instant::now();
        let asked = [answer(1, 3, "leader"), answer(5, 4, "leader"), answer(40, 5, "follower"), silent()];
        let heard = gathered(asked.into_iter().collect()).await;
        assert_eq!(heard.iter().map(|status| status.node_id).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(begin.elapsed().as_millis(), 11);
    }

    #[test]
    fn a_leader_counts_that_says_so_itself_in_the_highest_term() {
        let status = |node_id, groups: &[(u32, u64, &str)]| v1::NodeStatus {
            node_id,
            groups: groups
                .iter()
                .map(|&(group, term, role)| v1::GroupStatus {
                    group,
                    term,
                    role: role.to_owned(),
                    leader_id: 1,
                    ..Default::default()
                })
                .collect(),
            ..Default::default()
        };
        let seen = [
            status(1, &[(0, 4, "leader"), (1, 2, "follower"), (2, 7, "leader")]),
            status(2, &[(0, 5, "follower"), (1, 2, "leader"), (2, 8, "candidate")]),
            status(3, &[(0, 5, "leader"), (1, 1, "leader"), (3, 9, "follower")]),
        ];
        assert_eq!(newest(seen.iter()), Leaders::from([(0, (5, 3)), (1, (2, 2))]));
        assert!(newest(std::iter::empty()).is_empty());
    }
}
