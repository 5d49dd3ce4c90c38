//! Simulated nodes in three zones, five or six of which vote, and what a run does to all of them.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tercet_node::ledger::{Command, PreparedCommand, Totals};
use tercet_node::placement::Voter;
use tercet_node::raft::group::{Group, Members};
use tercet_node::raft::proposer::Proposed;
use tercet_node::reader::Reader;
use tercet_proto::canonical::JournalSettings;
use tercet_proto::v1;
use tercet_storage::LogOptions;
use tokio::sync::RwLock;
use tokio::time::{Instant, sleep, timeout};

use super::client::{Contacts, SimLedger};
use super::net::Net;
use super::node::{Common, SimNode};
use super::plan::{FaultKind, NODES, Plan};
use super::trace::Trace;
use crate::history::{BalanceRow, FinalEntry, FinalLog, HexBytes, Recorder};
use crate::invariants::Witness;
use crate::workload::{BUSINESS_DATE, CURRENCIES};

/// The journal of the workload.
pub const JOURNAL: &str = "sim";
/// Small, so that a run goes through many segments.
const SEGMENT_BYTES: u64 = 512 << 10;
const POLL: Duration = Duration::from_millis(20);

/// See the module.
pub struct Cluster {
    /// What the nodes have in common.
    pub common: Common,
    /// The history.
    pub recorder: Recorder,
    nodes: Vec<Arc<SimNode>>,
    /// So many nodes may lack something that they once held, at the same time.
    most_ailing: usize,
    /// The node whose data directory is lost, and whether it voted. It must not start before it is no member any more.
    lost: Mutex<Option<(u64, bool)>>,
    contacts: Contacts,
    /// Held for reading while a fault changes the members.
    pub changing: RwLock<()>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.common.net.close();
    }
}

/// How a whole cluster fails.
pub type Unmet = String;

impl Cluster {
    /// Nodes that are not started.
    ///
    /// # Errors
    /// The plan's topology does not hold.
    pub fn new(plan: &Plan, recorder: Recorder, trace: Arc<Trace>) -> anyhow::Result<Self> {
        let topology = plan.geo.topology()?;
        let zone_of: BTreeMap<u64, String> =
            NODES.iter().zip(1..).map(|((_, zone), id)| (id, (*zone).to_owned())).collect();
        let known = topology.nodes.iter().map(|node| {
            let site = topology.site_of(node.id).unwrap_or_default().to_owned();
            Voter { node_id: node.id, zone: node.zone.clone(), site }
        });
        let known: Vec<Voter> = known.collect();
        let vote: Vec<u64> = topology.voters().map(|voter| voter.id).collect();
        let voters: Vec<Voter> = known.iter().filter(|one| vote.contains(&one.node_id)).cloned().collect();
        let clocks_agree = plan.faults.iter().all(|fault| fault.kind != FaultKind::Skew);
        let voting = vote.into_iter().collect();
        let witness = Arc::new(Witness::new(&known, voting, clocks_agree, trace.clone()));
        let log_options = LogOptions {
            segment_bytes: SEGMENT_BYTES,
            batch_limit_bytes: 64 << 10,
            cache_bytes: 1 << 20,
            ..LogOptions::default()
        };
        let common = Common {
            net: Net::new(zone_of, plan.seed, trace),
            witness,
            voters,
            known,
            leader_steady: Duration::from_millis(plan.geo.leader_steady_ms),
            timing: topology.timing(),
            topology: Arc::new(topology.clone()),
            log_options,
            begun: Instant::now(),
            seed: plan.seed,
        };
        let nodes =
            NODES.iter().zip(1..).map(|((name, _), id)| Arc::new(SimNode::new(id, name, common.clone())));
        let nodes: Vec<_> = nodes.collect();
        let contacts = Arc::new(Mutex::new(nodes.iter().map(|node| (node.id, node.name.clone())).collect()));
        // Where members change, the voters may be fewer.
        let most_ailing = if plan.changes_members() { 1 } else { (common.voters.len() - 1) / 2 };
        let (lost, changing) = (Mutex::default(), RwLock::default());
        Ok(Self { nodes, most_ailing, common, recorder, lost, contacts, changing })
    }

    /// The trace.
    pub fn trace(&self) -> &Trace {
        self.common.net.trace()
    }

    /// A node by its number.
    pub fn node(&self, id: u64) -> Option<&Arc<SimNode>> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// The numbers of all nodes.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.nodes.iter().map(|node| node.id)
    }

    /// The numbers of those that vote from the beginning.
    pub fn first_voters(&self) -> Vec<u64> {
        self.common.voters.iter().map(|voter| voter.node_id).collect()
    }

    /// The members as whoever leads knows them.
    pub fn members(&self) -> Option<Members> {
        Some(self.node(self.leader()?)?.group()?.members())
    }

    fn lost_slot(&self) -> std::sync::MutexGuard<'_, Option<(u64, bool)>> {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's data directory is to be lost; false: another one's is.
    pub fn losing(&self, id: u64, voted: bool) -> bool {
        let mut lost = self.lost_slot();
        if lost.is_some() {
            return false;
        }
        *lost = Some((id, voted));
        true
    }

    /// Whether this node's data directory is lost, and if so whether it voted.
    pub fn is_lost(&self, id: u64) -> Option<bool> {
        self.lost_slot().filter(|(lost, _)| *lost == id).map(|(_, voted)| voted)
    }

    /// The node whose data directory is lost.
    pub fn lost(&self) -> Option<u64> {
        self.lost_slot().map(|(lost, _)| lost)
    }

    /// It may start with a new one.
    pub fn found(&self, id: u64) {
        self.lost_slot().take_if(|(lost, _)| *lost == id);
    }

    /// Starts a node; that it does not start is a violation.
    pub async fn start_node(&self, id: u64) {
        let Some(node) = self.node(id) else { return };
        if self.is_lost(id).is_some() {
            return;
        }
        if let Err(why) = node.start().await {
            self.common.witness.violated(format!("start: {why}"));
        }
    }

    /// Whoever leads now; with several, the newest.
    pub fn leader(&self) -> Option<u64> {
        let leading = self.nodes.iter().filter_map(|node| Some((node.group()?.leading_term()?, node.id)));
        leading.max().map(|(_, id)| id)
    }

    /// Starts all nodes, forms the group and makes the journal.
    ///
    /// # Errors
    /// It does not come to that in time.
    pub async fn form(&self) -> Result<(), Unmet> {
        for node in &self.nodes {
            self.start_node(node.id).await;
        }
        let first = self.nodes[0].target().ok_or("the first node does not serve")?;
        let voters = self.first_voters();
        let initialized = first.scope.spawn(async move { first.group.initialize(&voters).await });
        initialized.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let made = timeout(Duration::from_secs(20), async {
            while !self.make_journal().await {
                sleep(POLL).await;
            }
        });
        made.await.map_err(|_| "the journal is not made in 20 s without any fault".to_owned())
    }

    async fn make_journal(&self) -> bool {
        let Some(target) = self.leader().and_then(|id| self.node(id)?.target()) else { return false };
        let currencies =
            CURRENCIES.map(|(code, digits)| v1::Currency { code: code.to_owned(), digits }).to_vec();
        let request = v1::CreateJournalRequest {
            name: JOURNAL.into(),
            currencies,
            default_class: v1::DurabilityClass::City.into(),
            business_date: BUSINESS_DATE.into(),
        };
        let Ok(settings) = JournalSettings::from_request(&request) else { return false };
        let Ok(command) = PreparedCommand::new(&Command::CreateJournal(settings)) else { return false };
        let group = target.group.clone();
        let proposed = target.scope.spawn(async move { group.propose(Arc::new(command)).await });
        matches!(proposed.await, Ok(Proposed::Done { .. }))
    }

    /// One way to the cluster for each client.
    pub fn ledgers(&self, clients: u32, patience: Duration) -> Vec<SimLedger> {
        let ledger = |client: u32| SimLedger {
            net: self.common.net.clone(),
            witness: self.common.witness.clone(),
            nodes: self.contacts.clone(),
            current: AtomicUsize::new(client as usize),
            patience,
        };
        (0..clients).map(ledger).collect()
    }

    /// Undoes everything to `nodes`: they run and reach each other; links to others stay cut.
    pub async fn heal(&self, nodes: &[u64]) {
        for id in nodes {
            let Some(node) = self.node(*id) else { continue };
            node.pause(false);
            node.slow_disk(Duration::ZERO);
            node.fill_disk(false);
            self.start_node(*id).await;
        }
    }

    /// Whether this node may lose something that it holds now: a majority must be whole at every moment.
    pub fn may_ail(&self, id: u64) -> bool {
        let is_hit = |node: &&Arc<SimNode>| node.ails().is_some() || self.is_lost(node.id).is_some();
        let others = self.nodes.iter().filter(|node| node.id != id).filter(is_hit).count();
        others < self.most_ailing && self.is_lost(id).is_none()
    }

    /// What nodes lack that they once held. A lost data directory is not among it: the node comes back as another.
    fn ailing(&self) -> impl Iterator<Item = String> + '_ {
        let there = self.nodes.iter().filter(|node| self.is_lost(node.id).is_none());
        there.filter_map(|node| Some(format!("{}: {}", node.name, node.ails()?)))
    }

    /// Whether no node lacks anything that it once held.
    pub fn is_whole(&self) -> bool {
        self.ailing().next().is_none()
    }

    /// Waits until no node lacks anything that it once held.
    ///
    /// # Errors
    /// What is missing where when the patience is over.
    pub async fn mended(&self, patience: Duration) -> Result<(), Unmet> {
        let deadline = Instant::now() + patience;
        loop {
            let Some(first) = self.ailing().next() else { return Ok(()) };
            if Instant::now() > deadline {
                return Err(format!(
                    "liveness: in {patience:?} after healing a node is not repaired: {first}"
                ));
            }
            sleep(POLL).await;
        }
    }

    /// From now on clients ask these nodes only.
    pub fn clients_ask(&self, nodes: &[u64]) {
        self.contacts.lock().unwrap_or_else(PoisonError::into_inner).retain(|(id, _)| nodes.contains(id));
    }

    /// Cuts or joins every link between two sets of nodes.
    pub fn part(&self, left: &[u64], right: &[u64], by: i32) {
        Net::between(left, right, |from, to| self.common.net.cut(from, to, by));
    }

    /// A log or a group that has stopped although nothing was done to it that may stop it.
    pub fn stopped(&self) -> Option<String> {
        self.nodes.iter().find_map(|node| Some(format!("{}: {}", node.name, node.failure()?)))
    }

    /// Waits until all nodes have applied and placed the same, twice in a row; gives what each holds.
    ///
    /// # Errors
    /// What differs when the patience is over.
    pub async fn settled(&self, patience: Duration) -> Result<Vec<FinalLog>, Unmet> {
        let deadline = Instant::now() + patience;
        let mut before = None;
        let voters = self.first_voters();
        let members: Vec<_> = self.nodes.iter().filter(|node| voters.contains(&node.id)).collect();
        loop {
            let standing: Vec<Option<(u64, u64, bool)>> =
                members.iter().map(|node| node.group().map(|group| stands(&group))).collect();
            let same =
                standing.iter().all(|one| *one == standing[0] && one.is_some_and(|(.., settled)| settled));
            if same && before == Some(standing.clone()) {
                break;
            }
            if Instant::now() >= deadline {
                return Err(format!(
                    "liveness: in {patience:?} after healing the replicas do not agree: (applied, placed, settled) {standing:?}"
                ));
            }
            before = same.then_some(standing);
            sleep(Duration::from_millis(300)).await;
        }
        finals(&members)
    }
}

fn finals(members: &[&Arc<SimNode>]) -> Result<Vec<FinalLog>, Unmet> {
    {
        let mut logs: Vec<FinalLog> = Vec::new();
        for node in members {
            let group = node.group().ok_or_else(|| format!("{} does not serve", node.name))?;
            let mut log = final_log(&node.name, &group).map_err(|why| format!("{}: {why}", node.name))?;
            match logs.iter_mut().find(|known| known.same_as(&log)) {
                Some(known) => known.replicas.append(&mut log.replicas),
                None => logs.push(log),
            }
        }
        logs.sort_by_key(|log| std::cmp::Reverse(log.replicas.len()));
        Ok(logs)
    }
}

/// What a node has applied, what it knows to be placed, and whether that is all of its log.
fn stands(group: &Group) -> (u64, u64, bool) {
    let status = group.status();
    let settled = status.applied_index == status.last_index
        && status.flushed_index == status.last_index
        && status.applied_index == status.city_watermark
        && group.is_recovered();
    (status.applied_index, status.city_watermark, settled)
}

/// All that a replica holds of the journal.
fn final_log(name: &str, group: &Group) -> Result<FinalLog, String> {
    let ledger = group.state().ledger();
    let journal = ledger.journal(JOURNAL).ok_or("the journal is not there")?;
    let head = journal.head().seq;
    let creation_record = HexBytes(journal.creation_bytes().to_vec());
    let balances = journal.balances(None, None, usize::MAX).into_iter().map(|row| {
        let Totals { debits, credits } = row.totals;
        let sign = if credits < debits { "-" } else { "" };
        BalanceRow {
            account: row.account,
            currency: row.currency,
            debits: debits.to_string(),
            credits: credits.to_string(),
            balance: format!("{sign}{}", credits.abs_diff(debits)),
        }
    });
    let balances = Some(balances.collect());
    drop(ledger);
    let reader = Reader::new(group, JOURNAL);
    let mut entries = Vec::new();
    while (entries.len() as u64) < head {
        let chunk = reader.chunk(entries.len() as u64 + 1, head).map_err(|refusal| refusal.to_string())?;
        for stored in chunk {
            entries.push(FinalEntry::of_replica(stored)?);
        }
    }
    let (journal, replicas) = (JOURNAL.to_owned(), vec![name.to_owned()]);
    Ok(FinalLog { journal, creation_record, replicas, gone: Vec::new(), balances, entries })
}
