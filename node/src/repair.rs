//! Repair of a group of which rot has taken something, with the help of the peers and without a leader where that can be.
//!
//! ```text
//! rot found --> (leader: transfer) --> quarantined: Raft stopped --> ask all voters --> judge --> restore | drop | wait
//!                                                                        ^                              |
//!                                                                        +------------------------------+
//!                                          running again <-- nothing is lost any more
//! ```
//!
//! Invariants: while anything is lost the group's Raft does not run here, so it neither votes nor acknowledges; nothing is
//! dropped but by [`judge`]; every step is durable before the next one, so that a crash only repeats work.

mod host;
pub mod judge;
mod supervise;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use tercet_storage::{Done, LogError, LogPoint, LogRecord, LostRecord, SegmentLog};
use tokio::sync::oneshot;

pub use host::{Host, is_held_back};
pub use supervise::supervise;
pub use survey::answer;

use self::judge::{Lost, Verdict, is_another_leaders, judge};
use self::survey::{Survey, Wanted};
use crate::groups::{Quarantine, Standing};
use crate::raft::codec::decode_vote;
use crate::raft::vote_after_loss;

/// Before the voters are asked again.
const PAUSE: Duration = Duration::from_millis(300);
/// Stands for the term of an entry that is kept though its term is lost.
const TERM_NOT_KNOWN: u64 = u64::MAX;
/// Lost entries that are asked for in one request.
const WANTED_AT_ONCE: usize = 64;

/// What kept a round of a repair from going on.
enum Halt {
    /// The voters cannot help yet.
    Waits(String),
    /// This node's own log failed.
    Log(LogError),
}

impl From<LogError> for Halt {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

/// One group's repair.
struct Repair<'a, H> {
    node: &'a H,
    log: &'a SegmentLog,
    group: u32,
    restored: u64,
}

/// Repairs `group` until nothing of it is lost.
///
/// # Errors
/// The log has failed: the node must stop.
pub async fn repair<H: Host>(node: &Arc<H>, group: u32) -> Result<u64, LogError> {
    let mut repair = Repair { node: &**node, log: &node.params().log, group, restored: 0 };
    loop {
        repair.tell("");
        match repair.round().await {
            Ok(()) if !repair.log.is_damaged(group) => return Ok(repair.restored),
            Ok(()) => {}
            Err(Halt::Waits(why)) => {
                repair.tell(&why);
                tokio::time::sleep(PAUSE).await;
            }
            // Somebody else's change came between; look again.
            Err(Halt::Log(error)) if is_passing(&error) => tokio::time::sleep(PAUSE).await,
            Err(Halt::Log(error)) => return Err(error),
        }
    }
}

/// Whether the log goes on after this error.
fn is_passing(error: &LogError) -> bool {
    matches!(error, LogError::DiskFull | LogError::NotLost { .. } | LogError::NotTheLostEntry { .. })
}

/// What is lost, in words.
#[must_use]
pub fn describe(lost: &[LostRecord]) -> String {
    let mut words: Vec<String> = lost
        .iter()
        .take(4)
        .map(|lost| match lost {
            LostRecord::Entry { index, term: Some(term), .. } => format!("entry {index} of term {term}"),
            LostRecord::Entry { index, .. } => format!("entry {index}"),
            LostRecord::Entries { first, last } => format!("entries {first} to {last}"),
            LostRecord::Tail { after } => {
                format!("whatever followed entry {}", after.map_or(0, |after| after.index))
            }
            LostRecord::Vote => "the vote".to_owned(),
        })
        .collect();
    if lost.len() > 4 {
        words.push(format!("{} more", lost.len() - 4));
    }
    words.join(", ")
}

/// Waits until the log says that a change is durable.
async fn durable(submit: impl FnOnce(Done) -> Result<(), LogError>) -> Result<(), LogError> {
    let (tx, rx) = oneshot::channel();
    submit(Box::new(move |result| drop(tx.send(result))))?;
    rx.await.unwrap_or(Err(LogError::Closed))
}

impl<H: Host> Repair<'_, H> {
    fn tell(&self, waits_for: &str) {
        let lost = describe(&self.log.lost(self.group));
        let quarantine = Quarantine { lost, restored: self.restored, waits_for: waits_for.to_owned() };
        self.node.groups().set(self.group, Standing::Quarantined(quarantine));
    }

    /// Settles the first thing that is lost. With an unknown end, entries near it may have been replaced: what differs from
    /// the leader's log goes first, then entries are restored, then the end is copied; the vote comes last.
    async fn round(&mut self) -> Result<(), Halt> {
        let is_tail_lost =
            |lost: &[LostRecord]| lost.iter().any(|lost| matches!(lost, LostRecord::Tail { .. }));
        let mut leader = None;
        if is_tail_lost(&self.log.lost(self.group)) {
            let found = Survey::of(self.node, self.group, &[], None).await.leader(self.own_vote_term());
            let Some((node, last)) = found else {
                return Err(Halt::Waits("a leader of the present term, to tell how the log went on".into()));
            };
            self.cut_back_to(node).await?;
            leader = Some((node, last));
        }
        let lost = self.log.lost(self.group);
        let entries = self.wanted(&lost);
        if !entries.is_empty() {
            return self.settle_entries(&entries).await;
        }
        if let Some((leader, last)) = leader {
            return self.settle_tail(leader, last).await;
        }
        if lost.contains(&LostRecord::Vote) {
            return self.settle_vote().await;
        }
        Ok(())
    }

    fn own_vote_term(&self) -> u64 {
        let vote = self.log.state(self.group).vote;
        vote.and_then(|bytes| decode_vote(&bytes).ok()).map_or(0, |vote| vote.leader_id.term)
    }

    fn committed(&self) -> u64 {
        self.log.state(self.group).committed.map_or(0, |point| point.index)
    }

    /// The first lost entries, with their terms where they survive.
    fn wanted(&self, lost: &[LostRecord]) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for lost in lost {
            match *lost {
                LostRecord::Entry { index, term, .. } => wanted.push(Wanted { index, term }),
                LostRecord::Entries { first, last } => {
                    let range = (first..=last).take(WANTED_AT_ONCE);
                    wanted.extend(range.map(|index| Wanted { index, term: None }));
                }
                LostRecord::Tail { .. } | LostRecord::Vote => {}
            }
        }
        wanted.sort_unstable_by_key(|wanted| wanted.index);
        wanted.truncate(WANTED_AT_ONCE);
        wanted
    }

    /// An entry of which index and term are certain, beyond `index`: a log that holds it is equal to this one there.
    fn voucher(&self, index: u64) -> Option<LogPoint> {
        let last = self.log.state(self.group).last?;
        (index + 1..=last.index).find_map(|index| self.log.point(self.group, index))
    }

    async fn settle_entries(&mut self, wanted: &[Wanted]) -> Result<(), Halt> {
        let last_wanted = wanted.last().map_or(0, |wanted| wanted.index);
        let survey = Survey::of(self.node, self.group, wanted, self.voucher(last_wanted)).await;
        let (own_vote_term, committed) = (self.own_vote_term(), self.committed());
        let own = self.node.params().node_id;
        let mut progress = false;
        for (at, Wanted { index, term }) in wanted.iter().enumerate() {
            let lost = Lost { index: *index, term: *term, own_vote_term, committed, own };
            let answers = survey.answers_about(at);
            match judge(&lost, survey.voters(), &answers) {
                Verdict::Restore(record) => match self.restore(record).await {
                    Ok(()) => progress = true,
                    Err(LogError::NotTheLostEntry { .. }) if is_another_leaders(&lost, &answers) => {
                        return self.drop_from(*index).await;
                    }
                    Err(error) => return Err(error.into()),
                },
                Verdict::Drop => return self.drop_from(*index).await,
                Verdict::Wait(why) if !progress => {
                    return Err(Halt::Waits(format!("entry {index}: {why} ({survey})")));
                }
                Verdict::Wait(_) => break,
            }
        }
        Ok(())
    }

    async fn restore(&mut self, record: LogRecord) -> Result<(), LogError> {
        let (group, index) = (self.group, record.index);
        durable(|done| self.log.restore(group, record, done)).await?;
        tracing::info!(group, index, "entry restored from a peer");
        self.restored += 1;
        Ok(())
    }

    /// Truncates before an entry that was never committed.
    async fn drop_from(&mut self, index: u64) -> Result<(), Halt> {
        // Of an entry that is lost itself the term may not be known; the log takes that for what it is.
        let before = index.saturating_sub(1);
        let point = self.log.point(self.group, before);
        let kept = (index > self.first_index().max(1))
            .then(|| point.unwrap_or(LogPoint { term: TERM_NOT_KNOWN, index: before }))
            .or(point);
        durable(|done| self.log.truncate_after(self.group, kept, done)).await?;
        tracing::warn!(group = self.group, index, "entries from here on were never committed: dropped");
        Ok(())
    }

    /// Copies what follows from a leader's log, then declares the end known. See [`judge`] for why a leader's word is enough.
    async fn settle_tail(&mut self, leader: u64, last: u64) -> Result<(), Halt> {
        loop {
            let next =
                self.log.state(self.group).last.map_or(0, |last| last.index + 1).max(self.first_index());
            if next > last {
                break;
            }
            let wanted: Vec<Wanted> =
                (next..=last).take(WANTED_AT_ONCE).map(|index| Wanted { index, term: None }).collect();
            let records = Survey::of_one(self.node, self.group, leader, &wanted).await;
            let Some(records) = records.filter(|records| !records.is_empty()) else {
                return Err(Halt::Waits(format!("entry {next} from node {leader}")));
            };
            self.restored += records.len() as u64;
            durable(|done| self.log.append(self.group, records, done)).await?;
        }
        durable(|done| self.log.tail_settled(self.group, done)).await?;
        Ok(())
    }

    /// The first index that this log can hold.
    fn first_index(&self) -> u64 {
        self.log.state(self.group).purged.map_or(0, |purged| purged.index + 1)
    }

    /// Truncates what follows the last entry that is certain here and held by the leader, but nothing committed.
    async fn cut_back_to(&mut self, leader: u64) -> Result<(), Halt> {
        let Some(last) = self.log.state(self.group).last else { return Ok(()) };
        let floor = self.committed().max(self.first_index().saturating_sub(1));
        let mut index = last.index;
        while index > floor {
            let Some(own) = self.log.point(self.group, index) else {
                index -= 1;
                continue;
            };
            let wanted = [Wanted { index, term: Some(own.term) }];
            match Survey::of_one(self.node, self.group, leader, &wanted).await {
                Some(records) if !records.is_empty() => break,
                Some(_) => index -= 1,
                None => return Err(Halt::Waits(format!("node {leader}'s answer about entry {index}"))),
            }
        }
        if index < last.index {
            self.drop_from(index + 1).await?;
        }
        Ok(())
    }

    /// A vote that cannot be one too many: in a term that no other voter has reached, or for its established leader.
    async fn settle_vote(&mut self) -> Result<(), Halt> {
        let survey = Survey::of(self.node, self.group, &[], None).await;
        if !survey.all_answered() {
            return Err(Halt::Waits(format!(
                "all other voters, to tell in which terms this node may have voted ({survey})"
            )));
        }
        let own_last = self.log.state(self.group).last.map_or(0, |last| last.term);
        let highest = survey.highest_vote_term().max(self.own_vote_term()).max(own_last);
        let leader = survey.leader(highest).map(|(leader, _)| leader);
        let vote = vote_after_loss(highest, leader, self.node.params().node_id);
        durable(|done| self.log.save_vote(self.group, vote, done)).await?;
        tracing::warn!(group = self.group, highest, "the lost vote is replaced");
        Ok(())
    }
}
