//! What rot has taken from a group, and what gives it back.
//!
//! ```text
//!  purged | missing range (nothing known, but for entries in `restored`) | first ..... last | tail
//!         |                                                         base |    x faulty      | unknown?
//! ```
//!
//! Invariants: a lost entry is never handed out; an entry that has been restored in the missing range joins the slots as soon
//! as it reaches up to them; a term that is not certain is `NO_TERM`, or its slot is doubtful.

use super::{GroupLog, Place, Released, Restored, Run, Slot, release};
use crate::format::NO_TERM;
use crate::log::recover::LostRecord;
use crate::types::LogPoint;

/// What a lost entry is known to have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Its term, if that is certain.
    pub(crate) term: Option<u64>,
    /// CRC and length of its payload, if they are known.
    pub(crate) payload: Option<(u32, u32)>,
}

impl GroupLog {
    /// Whether anything is lost.
    pub(crate) fn is_damaged(&self) -> bool {
        !self.faulty.is_empty() || self.missing_range().is_some() || self.tail_unknown || self.vote_lost
    }

    /// Everything that is lost now.
    pub(crate) fn lost(&self) -> Vec<LostRecord> {
        let mut lost = Vec::new();
        if let Some((mut first, last)) = self.missing_range() {
            for restored in self.restored.keys().copied() {
                if restored > first {
                    lost.push(LostRecord::Entries { first, last: restored - 1 });
                }
                first = restored.saturating_add(1);
            }
            if first <= last {
                lost.push(LostRecord::Entries { first, last });
            }
        }
        for index in self.faulty.iter().copied() {
            let identity = self.lost_entry(index).unwrap_or(Identity { term: None, payload: None });
            let payload_crc = identity.payload.map(|(crc, _)| crc);
            lost.push(LostRecord::Entry { index, term: identity.term, payload_crc });
        }
        if self.tail_unknown {
            lost.push(LostRecord::Tail { after: self.last() });
        }
        if self.vote_lost {
            lost.push(LostRecord::Vote);
        }
        lost
    }

    /// What is known of a lost entry; `None` = this entry is not lost.
    pub(crate) fn lost_entry(&self, index: u64) -> Option<Identity> {
        let Some(slot) = self.position(index).and_then(|position| self.slots.get(position)) else {
            let (first, last) = self.missing_range()?;
            let is_lost = (first..=last).contains(&index) && !self.restored.contains_key(&index);
            let at_base = self.base.filter(|base| base.index == index && base.term != NO_TERM);
            return is_lost.then_some(Identity { term: at_base.map(|base| base.term), payload: None });
        };
        match slot.place {
            Place::Memory | Place::Disk => None,
            Place::Doubtful => Some(Identity { term: None, payload: None }),
            Place::Faulty => Some(Identity {
                term: self.point(index).map(|point| point.term),
                payload: (slot.segment != u32::MAX).then_some((slot.crc, slot.length)),
            }),
        }
    }

    /// Whether the term that is noted of an entry may be another one.
    pub(crate) fn is_doubtful(&self, index: u64) -> bool {
        self.faulty.contains(&index) && self.slot(index).is_some_and(|slot| slot.place == Place::Doubtful)
    }

    /// Whether a term fits between the neighbours of an entry, as far as theirs are certain: terms never fall.
    pub(crate) fn fits_between(&self, point: LogPoint) -> bool {
        let before = point.index.checked_sub(1).and_then(|before| self.point(before));
        let after = point.index.checked_add(1).and_then(|after| self.point(after));
        before.is_none_or(|before| before.term <= point.term)
            && after.is_none_or(|after| point.term <= after.term)
    }

    /// Whether the log can be made to end at this point: it is held, or lost with no certain term.
    pub(crate) fn may_end_at(&self, point: LogPoint) -> bool {
        match self.point(point.index) {
            Some(held) => held == point,
            None => self.lost_entry(point.index).is_some_and(|lost| lost.term.is_none()),
        }
    }

    /// Whether the term of the last entry is certain, so that another one can follow it.
    pub(crate) fn can_be_followed(&self) -> bool {
        self.last().is_none_or(|last| self.point(last.index).is_some())
    }

    /// The entry at this point is the one of this term, whatever has been held there.
    pub(crate) fn vouch(&mut self, at: LogPoint) -> Released {
        if at.term == NO_TERM {
            return Released::new();
        }
        if let Some(base) = self.base.as_mut().filter(|base| base.index == at.index && base.term == NO_TERM) {
            base.term = at.term;
        }
        let Some(position) = self.position(at.index) else { return Released::new() };
        let (Some(slot), Some(term)) =
            (self.slots.get(position).copied(), self.run_of(at.index).map(|run| run.term))
        else {
            return Released::new();
        };
        if term != at.term {
            self.set_identity(at.index, at.term, 0);
            self.place(at.index, Slot::MISSING);
            return release(std::iter::once(slot));
        }
        if slot.place == Place::Doubtful {
            self.place(at.index, Slot { place: Place::Faulty, ..slot });
        }
        Released::new()
    }

    /// The entries that lie in a range of bytes of a segment, lost ones left out.
    pub(crate) fn entries_in(&self, segment: u32, bytes: std::ops::Range<u64>) -> Vec<u64> {
        let slots = self.slots.iter().zip(self.first..);
        let restored = self.restored.iter().map(|(index, entry)| (&entry.slot, *index));
        slots
            .chain(restored)
            .filter(|(slot, _)| {
                slot.place == Place::Disk
                    && slot.segment == segment
                    && bytes.contains(&u64::from(slot.offset))
            })
            .map(|(_, index)| index)
            .collect()
    }

    /// The entries behind a committed index that lie before a place (segment, byte).
    pub(crate) fn uncommitted_before(&self, place: (u32, u64), committed: Option<u64>) -> Vec<u64> {
        let from = committed.map_or(0, |committed| committed.saturating_add(1));
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let slots = self.slots.iter().zip(self.first..).skip(skip);
        slots
            .take_while(|(slot, _)| {
                slot.place != Place::Disk || (slot.segment, u64::from(slot.offset)) < place
            })
            .filter(|(slot, _)| slot.place == Place::Disk)
            .map(|(_, index)| index)
            .collect()
    }

    /// The bytes of an entry have been found damaged. Says whether that is news.
    pub(crate) fn mark_faulty(&mut self, index: u64, found: Slot) -> bool {
        if self.slot(index) != Some(found) || found.place != Place::Disk {
            return false;
        }
        let faulty = Slot { place: Place::Faulty, ..found };
        if self.position(index).is_some() {
            self.place(index, faulty);
        } else {
            // In the missing range: it is missing again.
            self.restored.remove(&index);
        }
        true
    }

    /// An entry lies in a repair record now. Gives the place that is free by that, or `None` if the entry is not wanted.
    pub(crate) fn put_restored(&mut self, index: u64, entry: Restored) -> Option<Released> {
        if self.position(index).is_some() {
            if self.slot(index).is_some_and(|slot| slot.place == Place::Memory) {
                return None;
            }
            if self.term_and_leader(index) != Some((entry.term, entry.leader)) {
                self.set_identity(index, entry.term, entry.leader);
            }
            self.has_repairs = true;
            return self.place(index, entry.slot).map(|old| release(std::iter::once(old)));
        }
        let (first, last) = self.missing_range()?;
        if !(first..=last).contains(&index) || entry.slot.place.is_lost() {
            return None;
        }
        self.has_repairs = true;
        let old = self.restored.insert(index, entry);
        self.absorb_restored();
        Some(release(old.map(|old| old.slot).into_iter()))
    }

    /// Entries restored right below the first slot become slots.
    pub(super) fn absorb_restored(&mut self) {
        while let Some(base) = self.base
            && self.missing_range().is_some()
            && let Some(Restored { term, leader, slot }) = self.restored.remove(&base.index)
        {
            if self.slots.is_empty() {
                self.runs.clear();
            }
            self.first = base.index;
            self.slots.push_front(slot);
            match self.runs.front_mut() {
                Some(run) if run.term == term && run.leader == leader => run.first = base.index,
                _ => self.runs.push_front(Run { first: base.index, term, leader }),
            }
            let before = base.index.checked_sub(1).map(|index| LogPoint { term: NO_TERM, index });
            let purged =
                self.purged.filter(|purged| before.is_some_and(|before| before.index == purged.index));
            self.base = purged.or(before);
        }
    }

    /// Gives one entry another term and leader.
    fn set_identity(&mut self, index: u64, term: u64, leader: u64) {
        let after = self.runs.partition_point(|run| run.first <= index);
        let Some(position) = after.checked_sub(1) else { return };
        let Some(old) = self.runs.get(position).copied() else { return };
        let end = self.runs.get(after).map_or(self.first + self.slots.len() as u64, |next| next.first);
        self.runs.remove(position);
        let mut at = position;
        let start = old.first.max(self.first);
        let pieces = [(start, index, old.term, old.leader), (index, index + 1, term, leader)];
        for (first, end, term, leader) in pieces
            .into_iter()
            .chain([(index + 1, end, old.term, old.leader)])
            .filter(|piece| piece.0 < piece.1)
        {
            let before = at.checked_sub(1).and_then(|before| self.runs.get(before));
            let goes_on = before.is_some_and(|run| run.term == term && run.leader == leader);
            debug_assert!(first < end);
            if !goes_on {
                self.runs.insert(at, Run { first, term, leader });
                at += 1;
            }
        }
    }

    /// Whether removing the oldest segment would leave the beginning of the log in doubt: the log begins somewhere without
    /// a purge point that says so, and entries of it lie in repair records.
    pub(crate) fn needs_its_beginning(&self) -> bool {
        self.has_repairs && self.purged.is_none() && self.first > 0 && !self.slots.is_empty()
    }

    /// Recovery: the entry at `missing` must have been there, and whatever lies between the purge point and it.
    pub(crate) fn begin_after(&mut self, missing: LogPoint) {
        self.slots.clear();
        self.runs.clear();
        self.faulty.clear();
        self.restored.clear();
        self.base = Some(missing);
        self.first = missing.index.saturating_add(1);
    }

    /// Recovery: entries from this one on may have been replaced in a batch that is lost.
    pub(crate) fn suspect_from(&mut self, from: u64) {
        self.restored.split_off(&from);
        let skip = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for (slot, index) in self.slots.iter_mut().zip(self.first..).skip(skip) {
            // A missing entry of which no term is known cannot become less certain.
            slot.place = Place::Doubtful;
            self.faulty.insert(index);
        }
    }

    /// The entries between the purge point and the first slot, which should be there and are not (but for those in
    /// `restored`).
    pub(crate) fn missing_range(&self) -> Option<(u64, u64)> {
        let base = self.base?;
        match self.purged {
            Some(purged) if purged.index >= base.index => None,
            Some(purged) => Some((purged.index.saturating_add(1), base.index)),
            None => Some((0, base.index)),
        }
    }
}
