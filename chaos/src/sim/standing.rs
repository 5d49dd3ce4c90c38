//! How a simulated node's group stands: shown to the network and to the witness as it changes.
//!
//! Invariant: only a group that takes part can be reached; the one that it replaces is not watched any longer.

use std::sync::Arc;
use std::time::Duration;

use tercet_node::groups::Standing;
use tercet_node::raft::group::Group;
use tercet_node::raft::runtime::Scope;
use tokio::time::Instant;

use super::host::SimHost;
use super::net::Target;
use super::node::{Common, GROUP};
use super::preference;
use crate::invariants::LOOK_MAX;

/// How often a node's progress is compared with what others have.
const WATCH: Duration = Duration::from_millis(50);
/// In so many of these rounds the balances are summed up once.
const BALANCES_EVERY: u32 = 20;

/// See the module.
pub struct Standings {
    /// The node.
    pub id: u64,
    /// What it has in common with the others.
    pub common: Common,
    /// Its tasks.
    pub scope: Arc<Scope>,
    /// Its group is in here.
    pub host: Arc<SimHost>,
}

impl Standings {
    /// Shows how it stands now.
    pub fn tell(&self) {
        let (net, name) = (&self.common.net, &self.host.name);
        match self.host.groups.get(GROUP) {
            Ok(group) => {
                self.common.witness.runs(self.id, self.host.params.log.is_damaged(GROUP));
                self.watch(&group);
                net.set_target(self.id, Some(Target { scope: self.scope.clone(), group }));
                net.trace().event(format_args!("{name} serves"));
            }
            Err(refusal) => {
                net.set_target(self.id, None);
                net.trace().event(format_args!("{name} does not serve: {}", refusal.message));
            }
        }
    }

    /// Shows every change, as long as the node lives.
    pub async fn follow(self) {
        // One task follows it, so tokio's watch does.
        let Some(mut slot) = self.host.groups.follow(GROUP) else { return };
        let mut runs = matches!(*slot.borrow_and_update(), Standing::Running(_));
        while slot.changed().await.is_ok() {
            let now = matches!(*slot.borrow_and_update(), Standing::Running(_));
            // A repair tells its progress over and over.
            if now != std::mem::replace(&mut runs, now) {
                self.tell();
            }
        }
    }

    /// Shows the group's leadership and progress to the witness, as long as it takes part.
    fn watch(&self, group: &Arc<Group>) {
        let (id, witness) = (self.id, self.common.witness.clone());
        let (trace, name) = (self.common.net.trace_handle(), self.host.name.clone());
        let (mut leadership, stopping) = (group.leadership(), group.clone());
        self.scope.spawn(async move {
            loop {
                let now = *leadership.borrow_and_update();
                trace.event(format_args!("{name} {now:?}"));
                if now.leads {
                    witness.leads(id, now.term);
                }
                tokio::select! {
                    biased;
                    _ = stopping.given_up() => return,
                    changed = leadership.changed() => if changed.is_err() {
                        return;
                    },
                }
            }
        });
        if !self.common.leader_steady.is_zero() {
            let (net, topology) = (self.common.net.clone(), self.common.topology.clone());
            let (steady, group) = (self.common.leader_steady, group.clone());
            self.scope.spawn(async move {
                tokio::select! {
                    biased;
                    _ = group.given_up() => {}
                    _ = preference::keep(net, id, group.clone(), topology, steady) => {}
                }
            });
        }
        let witness = self.common.witness.clone();
        let (group, log) = (group.clone(), self.host.params.log.clone());
        self.scope.spawn(async move {
            let watched = async {
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
            };
            tokio::select! {
                biased;
                _ = group.given_up() => {}
                () = watched => {}
            }
        });
    }
}
