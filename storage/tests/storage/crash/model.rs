//! What a group's log may hold after a crash, judged by what was asked of it and what was acknowledged.
//!
//! Invariant: calls of one group are durable in their order, so that an acknowledged call vouches for all before it; of
//! those after it any prefix may have come through, and of an append any prefix of its records. Two exceptions: entries
//! that a truncation takes out of the queue are never written, and their append is acknowledged with the truncation; on a
//! full disk a purge, which makes room, passes the entries behind it that wait for some.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tercet_storage::{GroupId, GroupState, LogPoint, LogRecord};

/// A call that changes a group's log.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Append(Vec<LogRecord>),
    Truncate(Option<LogPoint>),
    Purge(LogPoint),
}

/// What a group's log holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) entries: Vec<LogRecord>,
    pub(super) purged: Option<LogPoint>,
}

impl Held {
    pub(super) fn last(&self) -> Option<LogPoint> {
        self.entries.last().map(LogRecord::point).or(self.purged)
    }

    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Append(records) => self.entries.extend(records.iter().cloned()),
            Op::Truncate(kept) => {
                self.entries.retain(|entry| kept.is_some_and(|kept| entry.index <= kept.index));
            }
            Op::Purge(upto) => {
                self.entries.retain(|entry| entry.index > upto.index);
                self.purged = Some(*upto);
            }
        }
    }

    fn points(&self) -> Vec<String> {
        self.entries.iter().map(|entry| entry.point().to_string()).collect()
    }
}

/// What was asked of one group and what of it is acknowledged.
#[derive(Debug, Clone, Default)]
struct Asked {
    /// What the acknowledged calls have made of the log.
    base: Held,
    /// Calls since, by number.
    ops: Vec<(u64, Op)>,
    /// How many of them something acknowledged vouches for.
    needed: usize,
    /// The newest acknowledged vote.
    vote: Option<Bytes>,
    /// Votes since, by the call's number.
    votes: Vec<(u64, Bytes)>,
    /// Every point that was reported as committed.
    committed: Vec<LogPoint>,
    /// Purges and truncations since that were on their way while the disk was full, by the call's number.
    passing: BTreeSet<u64>,
}

/// What was asked of the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    groups: BTreeMap<GroupId, Asked>,
    /// Which group a call that is not acknowledged belongs to.
    open_calls: BTreeMap<u64, GroupId>,
}

impl Model {
    pub(super) fn asked(&mut self, number: u64, group: GroupId, op: Op) {
        self.open_calls.insert(number, group);
        self.groups.entry(group).or_default().ops.push((number, op));
    }

    pub(super) fn asked_vote(&mut self, number: u64, group: GroupId, vote: Bytes) {
        self.open_calls.insert(number, group);
        self.groups.entry(group).or_default().votes.push((number, vote));
    }

    pub(super) fn asked_committed(&mut self, group: GroupId, committed: LogPoint) {
        self.groups.entry(group).or_default().committed.push(committed);
    }

    /// The disk is full: purges and truncations that are on their way may pass entries.
    pub(super) fn stalled(&mut self) {
        for asked in self.groups.values_mut() {
            let passing = asked.ops.iter().filter(|(_, op)| !matches!(op, Op::Append(_)));
            asked.passing = passing.map(|(number, _)| *number).collect();
        }
    }

    pub(super) fn acknowledged(&mut self, number: u64) {
        let Some(asked) = self.open_calls.remove(&number).and_then(|group| self.groups.get_mut(&group))
        else {
            return;
        };
        if asked.passing.contains(&number) {
            asked.pass(number);
            asked.settle_truncation(number, |call| self.open_calls.contains_key(&call));
        }
        if let Some(at) = asked.ops.iter().position(|(open, _)| *open == number) {
            asked.needed = asked.needed.max(at + 1);
            // What a truncation may have taken out of the queue stays until that is acknowledged.
            if asked.droppable(asked.needed) == 0 {
                for (_, op) in asked.ops.drain(..asked.needed) {
                    asked.base.apply(&op);
                }
                asked.needed = 0;
            }
        }
        if let Some(at) = asked.votes.iter().position(|(open, _)| *open == number) {
            asked.vote = asked.votes.drain(..=at).next_back().map(|(_, vote)| vote);
        }
    }

    /// A crash has decided what became of the calls in flight: this is what the group holds from now on.
    pub(super) fn settle(&mut self, group: GroupId, state: &GroupState, held: Held) {
        let asked = self.groups.entry(group).or_default();
        *asked = Asked {
            base: held,
            vote: state.vote.clone(),
            committed: state.committed.into_iter().collect(),
            ..Asked::default()
        };
        self.open_calls.retain(|_, of| *of != group);
    }

    /// The votes that must be there after damage to a single block, and what else may be.
    pub(super) fn vote_fits(&self, group: GroupId, vote: Option<&Bytes>) -> Result<(), String> {
        let Some(asked) = self.groups.get(&group) else {
            return vote.map_or(Ok(()), |vote| Err(format!("group {group}: {vote:?} was never asked for")));
        };
        if vote == asked.vote.as_ref() || asked.votes.iter().any(|(_, open)| Some(open) == vote) {
            return Ok(());
        }
        Err(format!(
            "group {group}: vote {vote:?}; {:?} was acknowledged, {:?} are in flight",
            asked.vote, asked.votes
        ))
    }

    /// Whether a recovered group is what the acknowledged calls made of it, or what some of those in flight did.
    pub(super) fn check(&self, group: GroupId, state: &GroupState, held: &Held) -> Result<(), String> {
        self.vote_fits(group, state.vote.as_ref())?;
        let Some(asked) = self.groups.get(&group) else {
            return if *held == Held::default() {
                Ok(())
            } else {
                Err(format!("group {group}: nothing was asked, {held:?} is held"))
            };
        };
        if state.committed.is_some_and(|committed| !asked.committed.contains(&committed)) {
            return Err(format!("group {group}: committed {:?} was never reported", state.committed));
        }
        if asked.reaches(held) || asked.reaches_by_passing(held) {
            Ok(())
        } else {
            Err(asked.describe(group, held))
        }
    }
}

impl Asked {
    /// How many entries of the first `count` calls a later truncation may have taken out of the queue.
    fn droppable(&self, count: usize) -> usize {
        self.ops[..count].iter().map(|(_, op)| self.dropped(count, op)).sum()
    }

    /// How many entries of a call those are.
    fn dropped(&self, count: usize, op: &Op) -> usize {
        let Op::Append(records) = op else { return 0 };
        let is_dropped = |record: &&LogRecord| {
            self.ops[count..].iter().any(|(_, later)| match later {
                Op::Truncate(kept) => kept.is_none_or(|kept| kept.index < record.index),
                _ => false,
            })
        };
        records.iter().filter(is_dropped).count()
    }

    /// What the first calls have made of the log, if so many of the droppable entries have been written.
    fn after(&self, count: usize, mut written: usize) -> Held {
        let mut held = self.base.clone();
        for (_, op) in &self.ops[..count] {
            let dropped = self.dropped(count, op);
            match op {
                Op::Append(records) if dropped > 0 => {
                    let kept = written.min(dropped);
                    written -= kept;
                    held.entries.extend(records[..records.len() - dropped + kept].iter().cloned());
                }
                op => held.apply(op),
            }
        }
        held
    }

    fn reaches(&self, held: &Held) -> bool {
        for count in self.needed..=self.ops.len() {
            for written in 0..=self.droppable(count) {
                let mut candidate = self.after(count, written);
                if candidate == *held {
                    return true;
                }
                if let Some((_, Op::Append(records))) = self.ops.get(count) {
                    for record in records {
                        candidate.entries.push(record.clone());
                        if candidate == *held {
                            return true;
                        }
                    }
                }
            }
        }
        false
    }

    /// Whether one purge after the other passes entries, and it is reached then.
    fn reaches_by_passing(&self, held: &Held) -> bool {
        let mut asked = self.clone();
        self.passing.iter().any(|number| {
            asked.pass(*number);
            asked.reaches(held)
        })
    }

    /// Puts a purge before what it may pass: entries behind its point that nothing acknowledged vouches for, and
    /// truncations that keep some of those.
    fn pass(&mut self, number: u64) {
        let Some(at) = self.ops.iter().position(|(open, _)| *open == number) else { return };
        let Op::Purge(upto) = self.ops[at].1 else { return };
        let mut to = at;
        while to > self.needed {
            match &mut self.ops[to - 1].1 {
                Op::Append(records) => {
                    let behind = records.partition_point(|record| record.index <= upto.index);
                    if behind > 0 {
                        let written = records.drain(..behind).collect();
                        // A call that nobody waits for: the rest of it answers.
                        self.ops.insert(to - 1, (0, Op::Append(written)));
                        return self.ops[to..=at + 1].rotate_right(1);
                    }
                }
                Op::Truncate(Some(kept)) if kept.index > upto.index => {}
                _ => break,
            }
            to -= 1;
        }
        self.ops[to..=at].rotate_right(1);
    }

    /// A truncation that is answered while some of what it keeps still waits has cut that short, and is done: what it dropped was
    /// never written.
    fn settle_truncation(&mut self, number: u64, is_open: impl Fn(u64) -> bool) {
        let Some(at) = self.ops.iter().position(|(call, _)| *call == number) else { return };
        let Op::Truncate(kept) = self.ops[at].1 else { return };
        let is_kept = |record: &LogRecord| kept.is_some_and(|kept| record.index <= kept.index);
        let waits = |(call, op): &(u64, Op)| matches!(op, Op::Append(records) if is_open(*call) && records.iter().any(is_kept));
        if !self.ops[self.needed..at].iter().any(waits) {
            return;
        }
        self.ops.remove(at);
        for (_, op) in &mut self.ops[self.needed..at] {
            if let Op::Append(records) = op {
                records.retain(is_kept);
            }
        }
    }

    fn describe(&self, group: GroupId, held: &Held) -> String {
        let mut lines = vec![
            format!("group {group}: holds {:?} purged {:?}", held.points(), held.purged),
            format!(
                "acknowledged, and {} calls since: {:?} purged {:?}",
                self.needed,
                self.base.points(),
                self.base.purged
            ),
        ];
        lines.extend(self.ops.iter().map(|(number, op)| match op {
            Op::Append(records) => {
                let points: Vec<String> = records.iter().map(|record| record.point().to_string()).collect();
                format!("since, call {number}: append {}", points.join(" "))
            }
            Op::Truncate(kept) => format!("since, call {number}: truncate after {kept:?}"),
            Op::Purge(upto) => format!("since, call {number}: purge up to {upto}"),
        }));
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::{point, records};

    fn state(vote: Option<&'static str>) -> GroupState {
        GroupState { vote: vote.map(|vote| Bytes::from_static(vote.as_bytes())), ..GroupState::default() }
    }

    fn holding(range: std::ops::Range<u64>) -> Held {
        Held { entries: records(range, 1, 10), purged: None }
    }

    /// The model itself: it must refuse what a wrong log would hold.
    #[test]
    fn forged_outcomes_are_refused() {
        let mut model = Model::default();
        model.asked(1, 7, Op::Append(records(1..4, 1, 10)));
        model.asked(2, 7, Op::Truncate(Some(point(2, 1))));
        model.asked(3, 7, Op::Append(records(3..5, 1, 10)));
        model.asked_vote(4, 7, Bytes::from_static(b"one"));
        model.asked_vote(5, 7, Bytes::from_static(b"two"));
        for end in 1..5 {
            assert_eq!(
                model.check(7, &state(None), &holding(1..end)),
                Ok(()),
                "a prefix, nothing acknowledged"
            );
        }
        model.acknowledged(2);
        model.acknowledged(4);
        assert_eq!(model.check(7, &state(Some("one")), &holding(1..3)), Ok(()));
        assert_eq!(model.check(7, &state(Some("two")), &holding(1..5)), Ok(()));
        assert!(model.check(7, &state(None), &holding(1..3)).is_err(), "an acknowledged vote is gone");
        assert!(model.check(7, &state(Some("three")), &holding(1..3)).is_err(), "a vote from nowhere");
        assert!(
            model.check(7, &state(Some("one")), &holding(1..2)).is_err(),
            "an acknowledged entry is gone"
        );
        assert!(model.check(7, &state(Some("one")), &holding(2..3)).is_err(), "the front is gone");
        assert!(model.check(7, &state(Some("one")), &holding(1..6)).is_err(), "entries from nowhere");
        let mut changed = holding(1..3);
        changed.entries[1].payload = Bytes::from_static(b"other");
        assert!(model.check(7, &state(Some("one")), &changed).is_err(), "other bytes");
        let purged = Held { purged: Some(point(1, 1)), ..holding(2..3) };
        assert!(model.check(7, &state(Some("one")), &purged).is_err(), "a purge that nobody asked for");
        let committed = GroupState { committed: Some(point(2, 1)), ..state(Some("one")) };
        assert!(
            model.check(7, &committed, &holding(1..3)).is_err(),
            "a committed point that nobody reported"
        );
        model.asked_committed(7, point(2, 1));
        assert_eq!(model.check(7, &committed, &holding(1..3)), Ok(()));
        assert!(model.check(8, &state(None), &holding(1..2)).is_err(), "a group from nowhere");
    }

    #[test]
    fn only_on_a_full_disk_a_truncation_passes_entries_that_it_keeps() {
        for is_full in [false, true] {
            let mut model = Model::default();
            model.asked(1, 7, Op::Append(records(1..5, 1, 10)));
            model.asked(2, 7, Op::Truncate(Some(point(3, 1))));
            if is_full {
                model.stalled();
            }
            model.acknowledged(2);
            assert_eq!(model.check(7, &state(None), &holding(1..4)), Ok(()));
            assert_eq!(model.check(7, &state(None), &holding(1..2)).is_ok(), is_full, "the rest waits");
            assert!(model.check(7, &state(None), &holding(1..5)).is_err(), "what was dropped comes back");
            model.acknowledged(1);
            assert!(model.check(7, &state(None), &holding(1..2)).is_err(), "an acknowledged entry is gone");
        }
    }

    #[test]
    fn only_on_a_full_disk_a_purge_passes_entries_and_none_of_its_own() {
        let mut model = Model::default();
        model.asked(1, 7, Op::Append(records(1..5, 1, 10)));
        model.asked(2, 7, Op::Purge(point(2, 1)));
        let purged = |range| Held { purged: Some(point(2, 1)), ..holding(range) };
        assert!(model.check(7, &state(None), &purged(3..4)).is_err(), "entry 4 was before the purge");
        model.stalled();
        for end in 3..6 {
            assert_eq!(model.check(7, &state(None), &purged(3..end)), Ok(()));
        }
        assert_eq!(model.check(7, &state(None), &holding(1..2)), Ok(()), "neither has come through");
        model.acknowledged(2);
        assert!(model.check(7, &state(None), &holding(1..5)).is_err(), "an acknowledged purge is gone");
        assert_eq!(model.check(7, &state(None), &purged(3..4)), Ok(()));
        model.acknowledged(1);
        assert_eq!(model.check(7, &state(None), &purged(3..5)), Ok(()));
        assert!(model.check(7, &state(None), &purged(3..4)).is_err(), "an acknowledged entry is gone");
    }
}
