//! What faults do to a cluster of processes: to its links, its processes and its disks.
//!
//! Invariant: a process that a fault has ended is not wanted any more until it is started again, so that its end is never
//! taken for a crash.

use std::io;
use std::time::Duration;

use futures::future::join_all;

use super::{ClusterError, ProcessCluster};
use crate::cluster::Member;
use crate::cluster::child::Child;
use crate::cluster::loop_disk::LoopDisk;
use crate::cluster::packets::{Dialled, PacketFilter};
use crate::proxy::{Endpoint, LinkCounts, LinkFault};

impl ProcessCluster {
    /// Imposes a fault on links.
    ///
    /// # Errors
    /// The packets of a link cannot be dropped.
    pub fn impose(
        &self,
        number: u64,
        pairs: &[(Endpoint, Endpoint)],
        fault: LinkFault,
    ) -> Result<(), ClusterError> {
        if let (LinkFault::Blackhole, Some(packets)) = (fault, &self.packets) {
            let dialled: Vec<Dialled> = self.network.addresses().collect();
            return tokio::task::block_in_place(|| packets.impose(number, pairs, &dialled))
                .map_err(|error| ClusterError::io("dropping packets", &error));
        }
        for link in pairs.iter().filter_map(|(from, to)| self.network.link(*from, *to)) {
            link.impose(number, fault);
        }
        Ok(())
    }

    /// Lifts a fault from links.
    ///
    /// # Errors
    /// The packets of a link cannot be let through again.
    pub fn lift(&self, number: u64, pairs: &[(Endpoint, Endpoint)]) -> Result<(), ClusterError> {
        for link in pairs.iter().filter_map(|(from, to)| self.network.link(*from, *to)) {
            link.lift(number);
        }
        let Some(packets) = &self.packets else { return Ok(()) };
        let dialled: Vec<Dialled> = self.network.addresses().collect();
        tokio::task::block_in_place(|| packets.lift(number, &dialled))
            .map_err(|error| ClusterError::io("letting packets through", &error))
    }

    /// How many packets blackholes have dropped; none where they hold bytes instead.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn packets_dropped(&self) -> Result<Option<u64>, ClusterError> {
        let dropped = self.packets.as_ref().map(PacketFilter::dropped).transpose();
        dropped.map_err(|error| ClusterError::io("counting packets", &error))
    }

    /// What has happened on every link: from, to, counts.
    pub fn link_counts(&self) -> Vec<(String, String, LinkCounts)> {
        let name = |end| self.members.name_of(end);
        self.network.links().map(|link| (name(link.from()), name(link.to()), link.counts())).collect()
    }

    /// SIGKILL to all of them, one right after the other.
    ///
    /// # Errors
    /// One had ended unasked, or the system refuses.
    pub fn kill(&self, hit: &[Member]) -> Result<(), ClusterError> {
        for node in self.of(hit) {
            node.check()?;
            let mut process = node.process();
            process.wanted = false;
            if let Some(child) = &mut process.child {
                child.begin_kill().map_err(|error| node.error("killing it", &error))?;
            }
        }
        for node in self.of(hit) {
            if let Some(child) = &mut node.process().child {
                child.kill().map_err(|error| node.error("killing it", &error))?;
            }
        }
        Ok(())
    }

    /// SIGKILL to all of them, then all that they had stored is deleted. They are out of the cluster for good.
    ///
    /// # Errors
    /// One had ended unasked, or the system refuses.
    pub fn wipe(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.lose_disks(hit)?;
        for node in self.of(hit) {
            node.process().gone = true;
        }
        Ok(())
    }

    /// SIGKILL to all of them, then all that they had stored is deleted.
    ///
    /// # Errors
    /// One had ended unasked, or the system refuses.
    pub fn lose_disks(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.kill(hit)?;
        for node in self.of(hit) {
            tokio::task::block_in_place(|| std::fs::remove_dir_all(&node.data_dir))
                .map_err(|error| node.error("deleting its data", &error))?;
        }
        Ok(())
    }

    /// Starts killed nodes again and waits until they answer. One that another fault's end has started already is left.
    ///
    /// # Errors
    /// One does not come back.
    pub async fn restart(&self, hit: &[Member]) -> Result<(), ClusterError> {
        for node in self.of(hit).filter(|node| !node.process().wanted) {
            self.launch(node)?;
        }
        join_all(self.of(hit).map(|node| self.answers(node))).await.into_iter().collect()
    }

    /// SIGSTOP to all of them that are not killed.
    ///
    /// # Errors
    /// One had ended unasked, or the system refuses.
    pub fn pause(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.signal(hit, "pausing it", Child::pause)
    }

    /// SIGCONT to all of them that are not killed.
    ///
    /// # Errors
    /// One had ended unasked, or the system refuses.
    pub fn resume(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.signal(hit, "resuming it", Child::resume)
    }

    fn signal(
        &self,
        hit: &[Member],
        what: &str,
        signal: impl Fn(&mut Child) -> io::Result<()>,
    ) -> Result<(), ClusterError> {
        for node in self.of(hit) {
            node.check()?;
            let mut process = node.process();
            if process.wanted
                && let Some(child) = &mut process.child
            {
                signal(child).map_err(|error| node.error(what, &error))?;
            }
        }
        Ok(())
    }

    /// Shuts the file systems of all of them down as nearly in the same instant as processes can be started, then kills the
    /// nodes.
    ///
    /// # Errors
    /// One had ended unasked, or its file system cannot be shut down.
    pub fn cut_power(&self, hit: &[Member]) -> Result<(), ClusterError> {
        let mut cuts = Vec::new();
        for node in self.of(hit) {
            node.check()?;
            // From here on it may end by itself: its disk fails.
            node.process().wanted = false;
            let disk =
                node.disk.as_ref().ok_or_else(|| ClusterError::Harness("no disk of its own".into()))?;
            cuts.push((node, disk.begin_cut().map_err(|error| node.error("cutting its power", &error))?));
        }
        for (node, mut cut) in cuts {
            let status = cut.wait().map_err(|error| node.error("cutting its power", &error))?;
            if !status.success() {
                return Err(ClusterError::Harness(format!(
                    "node {}: its file system was not shut down: {status}",
                    node.member.name
                )));
            }
        }
        for node in self.of(hit) {
            if let Some(child) = &mut node.process().child {
                child.kill().map_err(|error| node.error("killing it", &error))?;
            }
        }
        Ok(())
    }

    /// Fills the disks of all of them.
    ///
    /// # Errors
    /// One has no disk of its own, or it cannot be filled.
    pub fn fill(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.on_disks(hit, "filling its disk", LoopDisk::fill)
    }

    /// Frees what was filled.
    ///
    /// # Errors
    /// It cannot be freed.
    pub fn free(&self, hit: &[Member]) -> Result<(), ClusterError> {
        self.on_disks(hit, "freeing its disk", LoopDisk::free)
    }

    fn on_disks(
        &self,
        hit: &[Member],
        what: &str,
        act: impl Fn(&LoopDisk) -> io::Result<()>,
    ) -> Result<(), ClusterError> {
        for node in self.of(hit) {
            let disk =
                node.disk.as_ref().ok_or_else(|| ClusterError::Harness("no disk of its own".into()))?;
            tokio::task::block_in_place(|| act(disk)).map_err(|error| node.error(what, &error))?;
        }
        Ok(())
    }

    /// Lets the disks of all of them answer nothing for so long.
    ///
    /// # Errors
    /// One has no disk of its own, or it cannot be frozen.
    pub async fn stall(&self, hit: &[Member], lasts: Duration) -> Result<(), ClusterError> {
        let mut stalls = Vec::new();
        for node in self.of(hit) {
            let disk =
                node.disk.as_ref().ok_or_else(|| ClusterError::Harness("no disk of its own".into()))?;
            let begun = disk.begin_stall(lasts).map_err(|error| node.error("stalling its disk", &error))?;
            stalls.push((node, begun));
        }
        for (node, mut stall) in stalls {
            let status = tokio::task::block_in_place(|| stall.wait())
                .map_err(|error| node.error("stalling its disk", &error))?;
            if !status.success() {
                let name = &node.member.name;
                return Err(ClusterError::Harness(format!("node {name}: its disk did not stall: {status}")));
            }
        }
        Ok(())
    }

    /// Mounts what was on the disks of killed nodes.
    ///
    /// # Errors
    /// The system refuses.
    pub fn restore_power(&self, hit: &[Member]) -> Result<(), ClusterError> {
        for node in self.of(hit) {
            node.process().child = None;
            if let Some(disk) = &node.disk {
                tokio::task::block_in_place(|| disk.restore())
                    .map_err(|error| node.error("mounting its disk again", &error))?;
            }
        }
        Ok(())
    }
}
