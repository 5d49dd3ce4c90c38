//! The Raft groups of a node, each running or held back.
//!
//! Invariant: a group with damaged records is not here to be asked: it neither votes nor acknowledges nor serves, until it is
//! repaired and started anew.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tokio::sync::watch;

use crate::raft::group::Group;

/// How a group stands on this node.
#[derive(Clone)]
pub enum Standing {
    /// It takes part.
    Running(Arc<Group>),
    /// It has lost something and is being repaired from the peers.
    Quarantined(Quarantine),
}

/// What is known of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quarantine {
    /// What is lost, in words.
    pub lost: String,
    /// Damaged records that have been restored so far.
    pub restored: u64,
    /// What the repair waits for; empty while it goes on.
    pub waits_for: String,
}

impl Quarantine {
    /// For status and refusals.
    #[must_use]
    pub fn describe(&self) -> String {
        let waits =
            if self.waits_for.is_empty() { String::new() } else { format!("; waits: {}", self.waits_for) };
        format!("quarantined, {} restored from peers, still lost: {}{waits}", self.restored, self.lost)
    }
}

/// All groups of a node, by number.
pub struct Groups {
    slots: Vec<watch::Sender<Standing>>,
    /// The last repair of each group in this run, in words.
    repairs: Mutex<BTreeMap<u32, String>>,
}

impl Groups {
    /// Groups 0, 1, 2 ... as they stand at the start.
    #[must_use]
    pub fn new(standings: Vec<Standing>) -> Self {
        Self { slots: standings.into_iter().map(watch::Sender::new).collect(), repairs: Mutex::default() }
    }

    /// How many groups the cluster has.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.slots.len()).unwrap_or(u32::MAX)
    }

    /// A group that takes part.
    ///
    /// # Errors
    /// GROUP_NOT_FOUND; RECOVERING while it is quarantined.
    pub fn get(&self, group: u32) -> Result<Arc<Group>, Refusal> {
        let Some(slot) = self.slots.get(group as usize) else {
            let why = format!("there is no group {group}; this cluster has {}", self.slots.len());
            return Err(Refusal::new(Reason::GroupNotFound, "group", why));
        };
        match &*slot.borrow() {
            Standing::Running(running) => Ok(running.clone()),
            Standing::Quarantined(quarantine) => {
                let why = format!("group {group} on this node: {}", quarantine.describe());
                Err(Refusal::new(Reason::Recovering, "", why))
            }
        }
    }

    /// The groups that take part.
    #[must_use]
    pub fn running(&self) -> Vec<Arc<Group>> {
        (0..self.count()).filter_map(|group| self.get(group).ok()).collect()
    }

    /// Every group, as it stands now.
    pub fn standings(&self) -> impl Iterator<Item = (u32, Standing)> + '_ {
        (0..).zip(self.slots.iter().map(|slot| slot.borrow().clone()))
    }

    /// How a group stands, followed. None: no such group.
    #[must_use]
    pub fn follow(&self, group: u32) -> Option<watch::Receiver<Standing>> {
        self.slots.get(group as usize).map(watch::Sender::subscribe)
    }

    /// Waits until a group runs. Never completes for a group that does not exist.
    pub async fn when_running(&self, group: u32) -> Arc<Group> {
        if let Some(mut slot) = self.follow(group) {
            let running = slot.wait_for(|standing| matches!(standing, Standing::Running(_))).await;
            if let Ok(Standing::Running(running)) = running.as_deref() {
                return running.clone();
            }
        }
        std::future::pending().await
    }

    /// Waits until `running` is not the one that runs any more.
    pub async fn until_replaced(&self, running: &Arc<Group>) {
        let Some(mut slot) = self.follow(running.id()) else { return };
        let other = |now: &Standing| !matches!(now, Standing::Running(now) if Arc::ptr_eq(now, running));
        // The sender goes only with the node.
        drop(slot.wait_for(other).await.map(|_| ()));
    }

    /// Keeps what a repair has done, for status.
    pub fn remember_repair(&self, group: u32, what: String) {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).insert(group, what);
    }

    /// What the last repair of a group in this run has done.
    #[must_use]
    pub fn last_repair(&self, group: u32) -> Option<String> {
        self.repairs.lock().unwrap_or_else(PoisonError::into_inner).get(&group).cloned()
    }

    /// Changes how a group stands.
    pub fn set(&self, group: u32, standing: Standing) {
        if let Some(slot) = self.slots.get(group as usize) {
            slot.send_replace(standing);
        }
    }
}
