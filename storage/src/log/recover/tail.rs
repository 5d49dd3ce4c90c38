//! The end of the log: telling it from an interrupted write, and both from rot.
//!
//! The rows of the table that apply where no header is and nothing later says that there was one. Invariant: whatever
//! more than one interrupted window of writes would be needed to explain is rot.

use super::judge::{Step, Walk};
use super::scan::{Place, Survey};
use super::{RotReason, Verdict};
use crate::disk::SegmentFile;
use crate::format::{BLOCK_BYTES, BatchHeader};
use crate::log::options::LogOptions;

impl Walk<'_> {
    /// No header here, and nothing later says that there was one: the end, an interrupted write, or worse.
    pub(super) fn tail(
        &mut self,
        here: (usize, u32),
        place: &Place,
        next: Option<(usize, u32, BatchHeader)>,
    ) -> Step {
        let Some(survey) = &self.survey else { return Step::Cut };
        let is_clean = survey.is_clean();
        let odd_size = self.files_of_odd_size(here.0);
        let lost_segment = self.lost_segment_after(here, survey);
        if let Some((position, block)) = survey.unreadable.first().copied() {
            let other = self.files.get(position).map_or(0, |file| file.number);
            let detail = format!("block {block} of segment {other} cannot be read");
            return self.lost_here(here, Verdict::Unreadable, next, &detail);
        }
        if let Some((position, block)) = survey.misplaced.first().copied() {
            let other = self.files.get(position).map_or(0, |file| file.number);
            let detail = format!("block {block} of segment {other} holds a batch that belongs elsewhere");
            return self.lost_here(here, Verdict::Misdirected, next, &detail);
        }
        if let Some(detail) = lost_segment {
            return self.lost_here(here, Verdict::ConfirmedRot(RotReason::SealedSegment), next, &detail);
        }
        if let Some(number) = odd_size {
            let detail = format!("segment {number} does not have the length it was made with");
            return self.lost_here(here, Verdict::RotBeyondWindow, next, &detail);
        }
        if is_clean {
            if self.batches > 0 || here != (0, 0) {
                self.find(here, Verdict::EndOfLog, Vec::new(), 0, "zeros from here on");
            }
            return Step::End;
        }
        if self.exceeds_window(here) {
            return self.lost_here(
                here,
                Verdict::RotBeyondWindow,
                next,
                "more is damaged than can have been in flight",
            );
        }
        let torn = match place {
            Place::Garbage { header_sector_is_zero } => *header_sector_is_zero,
            _ => true,
        };
        let verdict = if torn { Verdict::TornTail } else { Verdict::UnconfirmedTail };
        self.find(here, verdict, Vec::new(), 0, "the last write was interrupted");
        Step::Cut
    }

    /// Segments are made one after the other, each only when the one before it has begun. So behind the place where the
    /// log ends there is at most one more, and it is the next in number.
    fn lost_segment_after(&self, here: (usize, u32), survey: &Survey) -> Option<String> {
        let numbers = self.files.iter().skip(here.0).map(|file| file.number);
        let mut pairs = numbers.clone().zip(numbers.skip(1));
        if let Some((one, _)) = pairs.find(|(one, two)| one.checked_add(1) != Some(*two)) {
            return Some(format!("segment {} is missing", one + 1));
        }
        let unstarted = if here.1 == 0 { here.0 } else { here.0 + 1 };
        let mut followed = unstarted..self.files.len().saturating_sub(1);
        let empty = self.files.get(followed.find(|position| survey.is_empty(*position))?)?;
        Some(format!("segment {} is empty, but a later one has been made", empty.number))
    }

    /// A file from a place on whose length is none that segments are made with. How long a segment is that has not begun
    /// nobody says: it may have been made with other settings than the present ones.
    fn files_of_odd_size(&self, from: usize) -> Option<u32> {
        let last = self.last.as_ref()?;
        let odd = |file: &&SegmentFile| match last.segment == file.number {
            true => file.bytes != u64::from(last.segment_blocks) * BLOCK_BYTES as u64,
            false => !LogOptions::is_segment_length(file.bytes),
        };
        self.files.iter().skip(from).find(odd).map(|file| file.number)
    }

    /// Whether what is not zero behind a place reaches farther than the last durable batch allowed to be in flight.
    fn exceeds_window(&self, here: (usize, u32)) -> bool {
        let Some(survey) = &self.survey else { return false };
        let Some(last) = &self.last else {
            // Only the very first batch, which takes one block and is durable before anything else is written, or, after a
            // cut there, the first one of the next segment.
            let is_first = self.files.first().is_some_and(|file| file.number == 1);
            return !is_first || self.files.len() > 2 || survey.extents(here).any(|blocks| blocks > 1);
        };
        survey.extents(here).any(|blocks| blocks > last.window_blocks)
            || survey.headers.len() > last.window_batches as usize
    }
}
