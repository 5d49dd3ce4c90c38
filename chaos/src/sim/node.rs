//! One simulated node: the real log over a simulated disk, the real group over the simulated network.
//!
//! Invariants: everything that a process loses when it is killed lives in the node's scope or goes with it; what stays is the
//! disk and the index, and they are found as the fault left them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tercet_node::placement::Voter;
use tercet_node::proof::ProofSink as _;
use tercet_node::raft::codec::decode_vote;
use tercet_node::raft::group::{Group, GroupParams};
use tercet_node::raft::network::transport::Transport;
use tercet_node::raft::runtime::Scope;
use tercet_node::room::DiskRoom;
use tercet_node::server::geo_policy;
use tercet_proto::topology::{Timing, Topology};
use tercet_storage::disk::{PowerLoss, SimDisk, Wait};
use tercet_storage::index::Index;
use tercet_storage::{LogDriver, LogOptions, SegmentLog, StoreId};
use tokio::time::Instant;

use super::carrier::SimCarrier;
use super::disk::{Durable, PacedDisk};
use super::net::{Net, Target};
use super::preference;
use super::proofs::KeptProofs;
use crate::invariants::{LOOK_MAX, Witness};

/// The group.
pub const GROUP: u32 = 0;
/// The simulated wall clock at the beginning: microseconds since 1970.
pub const EPOCH_US: i64 = 1_767_571_200_000_000;
/// The number of a node's first data directory.
const FIRST_INCARNATION: u64 = 1;
/// How often a node looks at the room on its disk, as in production.
const LOOK: Duration = Duration::from_millis(100);
/// How often a node's progress is compared with what others have.
const WATCH: Duration = Duration::from_millis(50);
/// In so many of these rounds the balances are summed up once.
const BALANCES_EVERY: u32 = 20;

/// What all nodes have in common.
#[derive(Clone)]
pub struct Common {
    /// The network.
    pub net: Net,
    /// Who watches.
    pub witness: Arc<Witness>,
    /// Those that vote from the beginning, and where they stand.
    pub voters: Vec<Voter>,
    /// All nodes and where they stand.
    pub known: Vec<Voter>,
    /// After how long leadership moves to a preferred zone; zero: not by itself.
    pub leader_steady: Duration,
    /// Sites, zones and who is preferred.
    pub topology: Arc<Topology>,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Settings of the logs; the store's id is each node's own.
    pub log_options: LogOptions,
    /// When the simulation began.
    pub begun: Instant,
    /// What everything is drawn from.
    pub seed: u64,
}

/// A node from a start to a crash.
struct Life {
    scope: Arc<Scope>,
    log: SegmentLog,
    disk: PacedDisk,
    group: Arc<Mutex<Option<Arc<Group>>>>,
}

/// See the module.
pub struct SimNode {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    common: Common,
    /// Added to its wall clock.
    skew_us: Arc<AtomicI64>,
    state: Mutex<State>,
}

struct State {
    life: Option<Life>,
    /// The disk of a node that is down.
    disk: SimDisk,
    index: Arc<Index>,
    proofs: Arc<KeptProofs>,
    incarnation: u64,
    lives: u64,
    slow: Duration,
}

impl SimNode {
    /// A node that has never run.
    pub fn new(id: u64, name: &str, common: Common) -> Self {
        let disk = SimDisk::new(mix(common.seed, id, 0));
        let index = Arc::new(Index::in_memory());
        let proofs = Arc::new(KeptProofs::new(id, common.witness.clone()));
        Self {
            id,
            name: name.to_owned(),
            common,
            skew_us: Arc::new(AtomicI64::new(0)),
            state: Mutex::new(State {
                life: None,
                disk,
                index,
                proofs,
                incarnation: FIRST_INCARNATION,
                lives: 0,
                slow: Duration::ZERO,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the log and starts the group; returns when the node serves.
    ///
    /// # Errors
    /// The log cannot be opened or is damaged, or the group does not start: nothing that a crash does may lead to that.
    pub async fn start(&self) -> Result<(), String> {
        let (scope, group_slot) = {
            let mut state = self.state();
            if state.life.is_some() {
                return Ok(());
            }
            state.lives += 1;
            let life = self.open(&mut state)?;
            let started = (life.scope.clone(), life.group.clone());
            state.life = Some(life);
            started
        };
        let params = self.params(&scope)?;
        let starting = scope.spawn(async move { Group::start(params).await });
        let group = match starting.await {
            Ok(Ok(group)) => group,
            Ok(Err(error)) => return Err(format!("{}: the group does not start: {error}", self.name)),
            // Killed while it was starting.
            Err(error) if error.is_cancelled() => return Ok(()),
            Err(error) => return Err(format!("{}: starting the group: {error}", self.name)),
        };
        *group_slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(group.clone());
        self.watch(&scope, &group);
        self.common.net.set_target(self.id, Some(Target { scope, group }));
        self.common.net.trace().event(format_args!("{} serves", self.name));
        Ok(())
    }

    fn open(&self, state: &mut State) -> Result<Life, String> {
        let seed = mix(self.common.seed, self.id, state.lives);
        let fail = |why: String| format!("{}: {why}", self.name);
        let trace = self.common.net.trace_handle();
        let disk = PacedDisk::new(&self.name, state.disk.clone(), Durable::default(), seed, trace.clone());
        disk.slow_down(state.slow);
        let mut options = self.common.log_options.clone();
        let id = u128::from(self.common.seed) << 64 | u128::from(state.incarnation << 32 | self.id);
        options.store = Some(StoreId(id.to_be_bytes()));
        let (log, driver, report) = SegmentLog::open_stepped(Box::new(disk.clone()), options)
            .map_err(|error| fail(format!("the log cannot be opened: {error}")))?;
        let findings: Vec<String> = report.findings.iter().map(|found| found.verdict.to_string()).collect();
        if log.is_damaged(GROUP) || log.unsettled_batches() > 0 {
            return Err(fail(format!("after a crash without rot the log is damaged: {findings:?}")));
        }
        let durable = recovered(&log);
        trace.event(format_args!(
            "{} recovers {} entries, vote {:?}, {findings:?}",
            self.name,
            durable.terms.len(),
            durable.vote
        ));
        disk.recovered(durable.clone());
        let kept = state.proofs.kept(GROUP);
        self.common.witness.started(self.id, disk.clone(), &durable, kept.as_ref());
        if !Group::index_fits(GROUP, &state.index, &log) {
            state.index = Arc::new(Index::in_memory());
        }
        let scope = Scope::new(seed);
        scope.spawn(drive(driver, disk.clone(), self.common.begun));
        Ok(Life { scope, log, disk, group: Arc::default() })
    }

    fn params(&self, scope: &Arc<Scope>) -> Result<GroupParams, String> {
        let state = self.state();
        let life = state.life.as_ref().ok_or("the node was killed while it started")?;
        let room = Arc::new(DiskRoom::default());
        let (watched, log, disk) = (room.clone(), life.log.clone(), life.disk.clone());
        scope.spawn(async move {
            loop {
                use tercet_storage::disk::Disk as _;
                watched.look(&log, disk.free_bytes(), 0);
                tokio::time::sleep(LOOK).await;
            }
        });
        let (begun, skew_us) = (self.common.begun, self.skew_us.clone());
        let carrier = SimCarrier {
            node: self.id,
            net: self.common.net.clone(),
            witness: self.common.witness.clone(),
            silence: Duration::from_millis(self.common.timing.election_max_ms * 5),
        };
        Ok(GroupParams {
            group: GROUP,
            node_id: self.id,
            log: life.log.clone(),
            index: state.index.clone(),
            peers: Transport::Carried(Arc::new(carrier)),
            voters: self.common.voters.clone(),
            known: self.common.known.clone(),
            rank: 0,
            rivals: Vec::new(),
            timing: self.common.timing,
            clock: Arc::new(move || {
                let elapsed_us = i64::try_from(begun.elapsed().as_micros()).unwrap_or(i64::MAX);
                EPOCH_US + elapsed_us + skew_us.load(Ordering::Relaxed)
            }),
            cluster_name: "sim".into(),
            room,
            incarnation: state.incarnation,
            geo_policy: geo_policy(&self.common.topology),
            proofs: state.proofs.clone(),
        }
        .of_group(GROUP, &self.common.topology))
    }

    /// Shows the node's leadership and progress to the witness, as long as it lives.
    fn watch(&self, scope: &Arc<Scope>, group: &Arc<Group>) {
        let (id, witness) = (self.id, self.common.witness.clone());
        let (trace, name) = (self.common.net.trace_handle(), self.name.clone());
        let mut leadership = group.leadership();
        scope.spawn(async move {
            loop {
                let now = *leadership.borrow_and_update();
                trace.event(format_args!("{name} {now:?}"));
                if now.leads {
                    witness.leads(id, now.term);
                }
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
        let (witness, name, given_up) = (self.common.witness.clone(), self.name.clone(), group.clone());
        scope.spawn(async move {
            let why = given_up.given_up().await;
            witness.violated(format!("stopped: {name} gives its group up: {why}"));
        });
        if !self.common.leader_steady.is_zero() {
            let (net, topology) = (self.common.net.clone(), self.common.topology.clone());
            let steady = self.common.leader_steady;
            scope.spawn(preference::keep(net, id, group.clone(), topology, steady));
        }
        let witness = self.common.witness.clone();
        let (group, log) = (group.clone(), self.log());
        scope.spawn(async move {
            let Some(log) = log else { return };
            let mut looked = Instant::now();
            for round in 0_u32.. {
                if looked.elapsed() <= LOOK_MAX {
                    witness.placed(id, &group, &log);
                }
                looked = Instant::now();
                witness.applied(id, *group.state().applied().borrow(), &log);
                if round.is_multiple_of(BALANCES_EVERY) {
                    witness.ledger(id, &group.state().ledger());
                }
                tokio::time::sleep(WATCH).await;
            }
        });
    }

    /// Ends the node where it stands. `loss` says what becomes of what was not durable.
    pub fn kill(&self, loss: PowerLoss) {
        let mut state = self.state();
        let Some(life) = state.life.take() else { return };
        self.common.net.set_target(self.id, None);
        life.scope.end();
        let seed = mix(self.common.seed, self.id + 1_000, state.lives);
        state.disk = life.disk.after(seed, loss);
        self.common.net.trace().event(format_args!("{} is killed, {loss:?}", self.name));
    }

    /// Takes the index away, as damage to it does; it is rebuilt from the log. Only while the node is down.
    pub fn drop_index(&self) {
        let mut state = self.state();
        if state.life.is_none() {
            state.index = Arc::new(Index::in_memory());
        }
    }

    /// Begins a new data directory, of which nothing is known. Only while the node is down.
    pub fn wipe(&self) {
        let mut state = self.state();
        if state.life.is_none() {
            state.incarnation += 1;
            state.disk = SimDisk::new(mix(self.common.seed, self.id + 2_000, state.incarnation));
            state.index = Arc::new(Index::in_memory());
            state.proofs = Arc::new(KeptProofs::new(self.id, self.common.witness.clone()));
        }
    }

    /// Writes a checkpoint into the index, if the log is flushed so far that this does not wait.
    pub fn checkpoint(&self) {
        let (Some(group), Some(log)) = (self.group(), self.log()) else { return };
        let applied = *group.state().applied().borrow();
        let flushed = log.state(GROUP).durable_last.map_or(0, |point| point.index);
        if flushed >= applied {
            let written = group.state().checkpoint();
            self.common.net.trace().event(format_args!(
                "{} checkpoints {applied}: {}",
                self.name,
                written.is_ok()
            ));
        }
    }

    /// Polls none of the node's tasks, or lets them go on.
    pub fn pause(&self, held: bool) {
        let scope = self.state().life.as_ref().map(|life| life.scope.clone());
        let Some(scope) = scope else { return };
        if held {
            scope.hold();
        } else {
            scope.release();
        }
    }

    /// Shifts the node's wall clock.
    pub fn skew(&self, by_us: i64) {
        self.skew_us.fetch_add(by_us, Ordering::Relaxed);
    }

    /// Makes its disk slower, in this life and the next ones.
    pub fn slow_disk(&self, by: Duration) {
        let mut state = self.state();
        state.slow = by;
        if let Some(life) = &state.life {
            life.disk.slow_down(by);
        }
    }

    /// Leaves no room for another segment, or takes the limit away.
    pub fn fill_disk(&self, full: bool) {
        let state = self.state();
        let used = match &state.life {
            Some(life) => life.disk.used_bytes(),
            None => return state.disk.set_capacity_bytes(None),
        };
        let capacity = full.then_some(used);
        if let Some(life) = &state.life {
            life.disk.set_capacity_bytes(capacity);
        }
    }

    /// Whether it is up, though perhaps not serving yet.
    pub fn is_up(&self) -> bool {
        self.state().life.is_some()
    }

    /// Where requests to it run, when it serves.
    pub fn target(&self) -> Option<Target> {
        let scope = self.state().life.as_ref().map(|life| life.scope.clone())?;
        Some(Target { scope, group: self.group()? })
    }

    /// Its group, when it serves.
    pub fn group(&self) -> Option<Arc<Group>> {
        let slot = self.state().life.as_ref().map(|life| life.group.clone())?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn log(&self) -> Option<SegmentLog> {
        self.state().life.as_ref().map(|life| life.log.clone())
    }

    /// Its log's failure, if it has failed.
    pub fn failure(&self) -> Option<String> {
        self.log()?.failure().map(|error| error.to_string())
    }
}

/// A number for one purpose out of the seed.
pub fn mix(seed: u64, a: u64, b: u64) -> u64 {
    let mut z = seed
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(a.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        .wrapping_add(b.wrapping_mul(0x94d0_49bb_1331_11eb));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What recovery has found on the disk.
fn recovered(log: &SegmentLog) -> Durable {
    let state = log.state(GROUP);
    let last = state.last.map_or(0, |last| last.index);
    let terms =
        (1..=last).filter_map(|index| log.point(GROUP, index).map(|point| (index, point.term))).collect();
    let vote = state.vote.as_ref().and_then(|bytes| decode_vote(bytes).ok());
    let vote = vote.map(|vote| (0, vote.leader_id.term, vote.leader_id.voted_for));
    Durable { terms, vote, ..Durable::default() }
}

/// The committer's and the housekeeper's threads.
async fn drive(mut driver: LogDriver, disk: PacedDisk, begun: Instant) {
    loop {
        let now_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        if !driver.step(now_us) {
            return;
        }
        let idle = match driver.rest(now_us) {
            Wait::No => {
                tokio::task::yield_now().await;
                continue;
            }
            Wait::AtMostUs(us) => Some(Instant::now() + Duration::from_micros(us)),
            Wait::Forever => None,
        };
        let until = disk.next().into_iter().chain(idle).min();
        tokio::select! {
            biased;
            () = disk.woken() => {}
            () = tokio::time::sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {}
        }
    }
}
