//! One simulated node: the real log over a simulated disk, the real group over the simulated network.
//!
//! Invariants: everything that a process loses when it is killed lives in the node's scope or goes with it; what stays is the
//! disk and the index, and they are found as the fault left them.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::SmallRng;
use tercet_node::groups::{Groups, Quarantine, Standing};
use tercet_node::placement::Voter;
use tercet_node::proof::ProofSink as _;
use tercet_node::raft::codec::decode_vote;
use tercet_node::raft::group::{Group, GroupParams, IndexFit};
use tercet_node::raft::network::transport::Transport;
use tercet_node::raft::runtime::Scope;
use tercet_node::repair::{is_held_back, supervise};
use tercet_node::room::DiskRoom;
use tercet_node::scrub::scrub;
use tercet_node::server::geo_policy;
use tercet_proto::topology::{Timing, Topology};
use tercet_storage::disk::{PowerLoss, SimDisk, Wait};
use tercet_storage::index::Index;
use tercet_storage::{LogDriver, LogError, LogOptions, LostRecord, SegmentLog, StoreId};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::carrier::SimCarrier;
use super::disk::{Durable, PacedDisk};
use super::host::SimHost;
use super::net::{Door, Net, Target};
use super::proofs::KeptProofs;
use super::rot::{self, Reach};
use super::standing::Standings;
use crate::invariants::Witness;

/// The group.
pub const GROUP: u32 = 0;
/// The simulated wall clock at the beginning: microseconds since 1970.
pub const EPOCH_US: i64 = 1_767_571_200_000_000;
/// The number of a node's first data directory.
const FIRST_INCARNATION: u64 = 1;
/// How often a node looks at the room on its disk, as in production.
const LOOK: Duration = Duration::from_millis(100);
/// How fast sealed segments are read again, as in production.
const SCRUB_MIB_PER_SECOND: u32 = 4;

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
    host: Arc<Mutex<Option<Arc<SimHost>>>>,
}

/// Bits have flipped on a node's disk, and it is not known that nothing is missing there.
#[derive(Debug, Clone, Copy)]
struct Rotten {
    /// In which of its lives, or after it.
    life: u64,
    /// After how many rounds of the scrubber in that life.
    rounds: u64,
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
    /// What was durable when it stopped.
    durable: Durable,
    rotten: Option<Rotten>,
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
                durable: Durable::default(),
                rotten: None,
                lives: 0,
                slow: Duration::ZERO,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the log and starts the group; returns when the node serves, or is being repaired.
    ///
    /// # Errors
    /// The log cannot be opened or is damaged although no bit has flipped, or the group does not start.
    pub async fn start(&self) -> Result<(), String> {
        let (scope, slot, log) = {
            let mut state = self.state();
            if state.life.is_some() {
                return Ok(());
            }
            state.lives += 1;
            let life = self.open(&mut state)?;
            let started = (life.scope.clone(), life.host.clone(), life.log.clone());
            state.life = Some(life);
            started
        };
        let settling = scope.spawn(settle_groups(log.clone()));
        match settling.await {
            Ok(settled) => settled.map_err(|error| format!("{}: {error}", self.name))?,
            // Killed while it was starting.
            Err(_) => return Ok(()),
        }
        let params = self.params(&scope)?;
        let standing = if is_held_back(&log, GROUP) {
            Standing::Quarantined(Quarantine::default())
        } else {
            let params = params.clone();
            match scope.spawn(async move { Group::start(params).await }).await {
                Ok(Ok(group)) => Standing::Running(group),
                // As in the server: it is the supervisor that repairs and starts it.
                Ok(Err(_)) if log.is_damaged(GROUP) => Standing::Quarantined(Quarantine::default()),
                Ok(Err(error)) => return Err(format!("{}: the group does not start: {error}", self.name)),
                Err(error) if error.is_cancelled() => return Ok(()),
                Err(error) => return Err(format!("{}: starting the group: {error}", self.name)),
            }
        };
        let host = Arc::new(SimHost {
            name: self.name.clone(),
            params,
            topology: self.common.topology.clone(),
            groups: Groups::new(vec![standing]),
            began: Instant::now(),
            damaged: watch::Sender::new(0),
            scrubbed: watch::Sender::default(),
            trace: self.common.net.trace_handle(),
            witness: self.common.witness.clone(),
        });
        let is_present = self.state().life.as_ref().is_some_and(|life| Arc::ptr_eq(&life.scope, &scope));
        if is_present {
            *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(host.clone());
            self.serve(&scope, &host);
        }
        Ok(())
    }

    /// Starts what runs beside the group, as the controller does, and follows how the group stands.
    fn serve(&self, scope: &Arc<Scope>, host: &Arc<SimHost>) {
        let damaged = Arc::downgrade(host);
        host.params.log.on_rot(Box::new(move |_| {
            if let Some(host) = damaged.upgrade() {
                host.damaged.send_modify(|times| *times += 1);
            }
        }));
        self.common.net.set_door(self.id, Some(Door { scope: scope.clone(), host: host.clone() }));
        let standing =
            Standings { id: self.id, common: self.common.clone(), scope: scope.clone(), host: host.clone() };
        standing.tell();
        scope.spawn(standing.follow());
        scope.spawn(supervise(host.clone(), GROUP));
        scope.spawn(scrub(host.clone(), SCRUB_MIB_PER_SECOND));
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
        let is_damaged = log.is_damaged(GROUP) || log.unsettled_batches() > 0;
        if is_damaged && state.rotten.is_none() {
            return Err(fail(format!("after a crash without rot the log is damaged: {findings:?}")));
        }
        let mut lost = log.lost(GROUP);
        if log.unsettled_batches() > 0 && !log.groups().contains(&GROUP) {
            // It is about to be told that this group may have been in what is lost with its tables.
            lost = vec![LostRecord::Tail { after: None }, LostRecord::Vote];
        }
        let durable = state.durable.followed_by(recovered(&log, &lost));
        trace.event(format_args!(
            "{} recovers {} entries, vote {:?}, {findings:?}, lost {lost:?}",
            self.name,
            durable.terms.len(),
            durable.vote
        ));
        disk.recovered(durable.clone());
        let kept = state.proofs.kept(GROUP);
        self.common.witness.started(self.id, disk.clone(), &durable, &lost, kept.as_ref());
        if !log.is_damaged(GROUP) {
            match Group::index_fit(GROUP, &state.index, &log) {
                IndexFit::Fits(_) => {}
                // As in the server: the log has lost what was flushed, and only rot that nobody can tell from a torn write may do that.
                IndexFit::Ahead(applied) if state.rotten.is_none() => {
                    return Err(fail(format!("the index is ahead of the log: applied through {applied}")));
                }
                IndexFit::Ahead(_) | IndexFit::Unreadable => state.index = Arc::new(Index::in_memory()),
            }
        }
        let scope = Scope::new(seed);
        scope.spawn(drive(driver, disk.clone(), self.common.begun));
        Ok(Life { scope, log, disk, host: Arc::default() })
    }

    fn params(&self, scope: &Arc<Scope>) -> Result<GroupParams, String> {
        let state = self.state();
        let life = state.life.as_ref().ok_or("the node was killed while it started")?;
        let room = Arc::new(DiskRoom::default());
        let (watched, log, disk) = (room.clone(), life.log.clone(), life.disk.clone());
        scope.spawn(async move {
            loop {
                use tercet_storage::disk::Disk as _;
                watched.look(&log, disk.free_bytes(), 0, Instant::now());
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
            name: format!("n{}", self.id),
            room,
            incarnation: state.incarnation,
            geo_policy: geo_policy(&self.common.topology),
            proofs: state.proofs.clone(),
        }
        .of_group(GROUP, &self.common.topology))
    }

    /// Ends the node where it stands. `loss` says what becomes of what was not durable.
    pub fn kill(&self, loss: PowerLoss) {
        let mut state = self.state();
        let Some(life) = state.life.take() else { return };
        self.common.net.set_target(self.id, None);
        self.common.net.set_door(self.id, None);
        life.scope.end();
        let seed = mix(self.common.seed, self.id + 1_000, state.lives);
        state.durable = life.disk.at_the_end();
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
            (state.durable, state.rotten) = (Durable::default(), None);
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
        self.host()?.groups.get(GROUP).ok()
    }

    fn host(&self) -> Option<Arc<SimHost>> {
        let slot = self.state().life.as_ref().map(|life| life.host.clone())?;
        slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Flips so many bits of its disk: anywhere while it is down, in sealed segments while it runs.
    pub fn rot(&self, bits: i64, number: u64) {
        let rounds = self.host().map_or(0, |host| host.scrubbed.borrow().rounds);
        let mut state = self.state();
        let mut rng = SmallRng::seed_from_u64(mix(self.common.seed, self.id + 2_000, number));
        let mut flips = Vec::new();
        for _ in 0..bits {
            flips.extend(match &state.life {
                Some(life) => life.disk.with_disk(|disk| rot::flip(disk, &mut rng, Reach::Sealed)),
                None => rot::flip(&state.disk, &mut rng, Reach::Everything),
            });
        }
        if !flips.is_empty() {
            state.rotten = Some(Rotten { life: state.lives, rounds });
        }
        self.common.net.trace().event(format_args!("{} rots: {flips:?}", self.name));
    }

    /// Why it may lack something that it once held; none: it is whole.
    pub fn ails(&self) -> Option<String> {
        let rotten = self.state().rotten?;
        let Some(host) = self.host() else { return Some("it is down, and its disk has rotted".into()) };
        if let Some((_, Standing::Quarantined(quarantine))) = host.groups.standings().next() {
            return Some(quarantine.describe());
        }
        let mut state = self.state();
        // A start reads everything, a round of the scrubber what it has not passed yet.
        let rounds = host.scrubbed.borrow().rounds;
        let is_read = state.lives > rotten.life || rounds >= rotten.rounds.saturating_add(2);
        if !is_read || host.params.log.is_damaged(GROUP) {
            return Some("its disk has rotted, and the scrubber has not found that yet".into());
        }
        state.rotten = None;
        None
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
fn recovered(log: &SegmentLog, lost: &[LostRecord]) -> Durable {
    let state = log.state(GROUP);
    let last = state.last.map_or(0, |last| last.index);
    // Of a lost entry the term may be known.
    let is_lost =
        |index| lost.iter().any(|lost| matches!(*lost, LostRecord::Entry { index: at, .. } if at == index));
    let there = (0..=last).filter(|index| !is_lost(*index));
    let terms = there.filter_map(|index| log.point(GROUP, index).map(|point| (index, point.term))).collect();
    let vote = state.vote.as_ref().and_then(|bytes| decode_vote(bytes).ok());
    let vote = vote.map(|vote| (0, vote.leader_id.term, vote.leader_id.voted_for));
    Durable { terms, vote, ..Durable::default() }
}

/// Tells the log which groups there are, when batches are lost of which not even the groups are known.
async fn settle_groups(log: SegmentLog) -> Result<(), LogError> {
    if log.unsettled_batches() == 0 {
        return Ok(());
    }
    let (tx, rx) = oneshot::channel();
    log.settle_groups(&[GROUP], Box::new(move |result| drop(tx.send(result))))?;
    rx.await.unwrap_or(Err(LogError::Closed))
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
