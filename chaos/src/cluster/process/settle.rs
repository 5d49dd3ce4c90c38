//! The end of a run: wait until every replica shows the whole journal, then read all of it from each.
//!
//! Invariant: reads are local, so each log is what that replica itself holds; nothing is compared or repaired here but the
//! grouping of equal logs.

use std::time::{Duration, Instant};

use futures::StreamExt;
use tercet_proto::client::{Client, ClientError, ClientOptions};
use tercet_proto::v1;

use super::{ASK_PATIENCE, ClusterError, Node, POLL, ProcessCluster, not_recovered};
use crate::history::{BalanceRow, FinalEntry, FinalLog, HexBytes};

impl ProcessCluster {
    /// The final log of every replica, equal ones together, that of the most replicas first.
    ///
    /// # Errors
    /// The replicas do not come to show the same head in time, or one cannot be read.
    pub async fn final_logs(&self, journal: &str, within: Duration) -> Result<Vec<FinalLog>, ClusterError> {
        let deadline = Instant::now() + within;
        loop {
            let head = self.settled(journal, deadline.saturating_duration_since(Instant::now())).await?;
            let logs = self.read_replicas(journal, head).await?;
            // A request that was still under way may have been appended while the logs were read.
            if self.heads(journal).await? == Ok(head) {
                return Ok(logs);
            }
        }
    }

    async fn read_replicas(&self, journal: &str, head: u64) -> Result<Vec<FinalLog>, ClusterError> {
        let mut logs: Vec<FinalLog> = Vec::new();
        for node in self.nodes.iter().filter(|node| !node.is_gone()) {
            let mut log = read_all(node, journal, head).await.map_err(|error| {
                ClusterError::Harness(format!("reading the final log of {}: {error}", node.member.name))
            })?;
            match logs.iter_mut().find(|known| known.same_as(&log)) {
                Some(known) => known.replicas.append(&mut log.replicas),
                None => logs.push(log),
            }
        }
        let gone: Vec<String> = self.gone().into_iter().map(|member| member.name.clone()).collect();
        for log in &mut logs {
            log.gone.clone_from(&gone);
        }
        logs.sort_by_key(|log| std::cmp::Reverse(log.replicas.len()));
        Ok(logs)
    }

    /// Waits until the linearizable head and every replica's local head are the same, twice in a row: what was in flight
    /// may still arrive.
    async fn settled(&self, journal: &str, within: Duration) -> Result<u64, ClusterError> {
        let deadline = Instant::now() + within;
        let mut before = None;
        loop {
            let state = match self.heads(journal).await? {
                Ok(head) if before == Some(head) => return Ok(head),
                Ok(head) => {
                    before = Some(head);
                    format!("head {head} was seen once")
                }
                Err(state) => {
                    before = None;
                    state
                }
            };
            if Instant::now() >= deadline {
                return Err(not_recovered(within, state));
            }
            tokio::time::sleep(POLL * 4).await;
        }
    }

    /// The head that all agree on, or what differs.
    async fn heads(&self, journal: &str) -> Result<Result<u64, String>, ClusterError> {
        let head_of = |journal: v1::Journal| journal.head.map_or(0, |head| head.seq);
        let head = match self.observer.get_journal(journal, v1::Consistency::Linearizable).await {
            Ok(journal) => head_of(journal),
            Err(error) => return Ok(Err(format!("no linearizable head: {error}"))),
        };
        for node in self.nodes.iter().filter(|node| !node.is_gone()) {
            node.check()?;
            let name = &node.member.name;
            match direct(node)?.get_journal(journal, v1::Consistency::Local).await.map(head_of) {
                Ok(local) if local == head => {}
                Ok(local) => return Ok(Err(format!("node {name} shows head {local} of {head}"))),
                Err(error) => return Ok(Err(format!("node {name} shows no head: {error}"))),
            }
        }
        Ok(Ok(head))
    }
}

/// A client that asks this node and no other.
pub(super) fn direct(node: &Node) -> Result<Client, ClusterError> {
    let options = ClientOptions {
        deadline: Duration::from_secs(10),
        connect_timeout: ASK_PATIENCE,
        follow_leader: false,
        ..ClientOptions::default()
    };
    Client::connect(vec![node.real_client.clone()], options)
        .map_err(|error| ClusterError::Harness(format!("node {}: {error}", node.member.name)))
}

async fn read_all(
    node: &Node,
    journal: &str,
    head: u64,
) -> Result<FinalLog, Box<dyn std::error::Error + Send + Sync>> {
    let client = direct(node)?;
    let local = v1::Consistency::Local;
    let creation_record = client.get_journal(journal, local).await?.creation_record.to_vec();
    let mut entries = Vec::new();
    if head > 0 {
        let request = v1::ReadRequest {
            journal: journal.to_owned(),
            from_seq: 1,
            to_seq: head,
            consistency: local.into(),
        };
        let mut stream = client.read(request);
        while let Some(stored) = stream.next().await {
            entries.push(FinalEntry::of_replica(stored?)?);
        }
    }
    Ok(FinalLog {
        journal: journal.to_owned(),
        creation_record: HexBytes(creation_record),
        replicas: vec![node.member.name.clone()],
        gone: Vec::new(),
        balances: Some(balances(&client, journal).await?),
        entries,
    })
}

async fn balances(client: &Client, journal: &str) -> Result<Vec<BalanceRow>, ClientError> {
    let mut request = v1::GetBalancesRequest {
        journal: journal.to_owned(),
        consistency: v1::Consistency::Local.into(),
        ..v1::GetBalancesRequest::default()
    };
    let mut rows = Vec::new();
    loop {
        let page = client.balances_page(request.clone()).await?;
        rows.extend(page.balances.into_iter().map(|row| BalanceRow {
            account: row.account,
            currency: row.currency,
            debits: row.debits,
            credits: row.credits,
            balance: row.balance,
        }));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return Ok(rows);
        }
    }
}
