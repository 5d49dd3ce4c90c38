//! A small log whose every byte is accounted for, and what the table says of damage to each of them.

use bytes::Bytes;
use tercet_storage::disk::{Disk, PowerLoss, SegmentFile, SimDisk};
use tercet_storage::format::{BLOCK_BYTES, HEADER_BYTES, Kind, SECTOR_BYTES};
use tercet_storage::inspect::{BatchInfo, inspect_disk};
use tercet_storage::{GroupId, LogOptions, RotReason, Verdict};

use crate::harness::{Stepped, ignore, point, records, small};
use crate::oracle::{self, Expected};

pub(super) fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, batch_limit_bytes: 4 << 10, in_flight_batches: 2, ..small() }
}

/// A log that ends with its idle batch, and what it holds.
pub(super) struct Sample {
    pub(super) disk: SimDisk,
    pub(super) expected: Vec<Expected>,
    pub(super) batches: Vec<BatchInfo>,
    pub(super) segments: Vec<SegmentFile>,
    /// Earlier states: the images of the segments and what was held.
    pub(super) earlier: Vec<(SimDisk, Vec<Expected>)>,
}

/// What recovery should find of one flipped bit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) verdict: Verdict,
    pub(super) records: Vec<(GroupId, Kind, u64)>,
    pub(super) lost_batches: u64,
}

/// Where in a batch a byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Header,
    Table,
    Payload(usize),
    Padding,
}

impl Sample {
    /// Two groups in two segments and the beginning of a third: votes, entries, a truncation, a purge, committed points.
    pub(super) fn plain() -> Sample {
        let disk = SimDisk::new(21);
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        let mut earlier = Vec::new();
        let log = stepped.log.clone();
        log.save_vote(1, Bytes::from_static(b"vote of one"), ignore()).unwrap();
        log.save_vote(2, Bytes::from_static(b"first vote of two"), ignore()).unwrap();
        for round in 0..9_u64 {
            let index = round * 2 + 1;
            let term = 1 + round / 4;
            log.append(1, records(index..index + 2, term, 1_900), ignore()).unwrap();
            log.append(2, records(index..index + 2, 3, 300), ignore()).unwrap();
            stepped.settle();
            log.save_committed(1, point(index, term)).unwrap();
            earlier.push((disk.power_loss(1, PowerLoss::LosesAll), oracle::expected(&stepped)));
        }
        log.truncate_after(2, Some(point(15, 3)), ignore()).unwrap();
        log.append(2, records(16..18, 4, 200), ignore()).unwrap();
        log.purge(1, point(2, 1), ignore()).unwrap();
        stepped.settle();
        log.save_vote(2, Bytes::from_static(b"second vote of two"), ignore()).unwrap();
        Sample::finish(&disk, stepped, earlier)
    }

    /// One segment purged away, one that a torn write has cut, one behind the cut: nothing of it begins with batch 1.
    pub(super) fn cut() -> Sample {
        let disk = SimDisk::new(22);
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        stepped.log.save_vote(1, Bytes::from_static(b"vote of one"), ignore()).unwrap();
        for index in 1..21 {
            stepped.log.append(1, records(index..index + 1, 1, 2_500), ignore()).unwrap();
            stepped.log.append(2, records(index..index + 1, 3, 600), ignore()).unwrap();
            stepped.settle();
        }
        stepped.log.purge(1, point(19, 1), ignore()).unwrap();
        stepped.log.purge(2, point(18, 3), ignore()).unwrap();
        stepped.confirm();
        for _ in 0..4 {
            stepped.step();
        }
        assert!(disk.image(1).is_none(), "the first segment is gone");
        stepped.log.append(1, records(21..22, 1, 1_500), ignore()).unwrap();
        stepped.log.append(2, records(21..22, 3, 3_500), ignore()).unwrap();
        stepped.settle();
        drop(stepped);
        // Of two batches that were in flight together the first is lost: a cut, with a whole batch behind it.
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let [.., torn, whole] = &inspect_disk(&disk).unwrap().batches[..] else { panic!("no two batches") };
        assert!(whole.header.durable_mark < torn.header.number, "nothing confirms the first one");
        let at = torn.header.block as usize * BLOCK_BYTES;
        disk.damage(torn.header.segment, |bytes| bytes[at..at + BLOCK_BYTES].fill(0));
        let mut stepped = Stepped::open(&disk, options()).unwrap();
        assert!(stepped.report.cut.is_some() && stepped.report.quarantined.is_empty());
        stepped.log.append(1, records(21..23, 2, 700), ignore()).unwrap();
        stepped.log.append(2, records(21..23, 4, 700), ignore()).unwrap();
        stepped.settle();
        stepped.log.append(1, records(23..25, 2, 300), ignore()).unwrap();
        Sample::finish(&disk, stepped, Vec::new())
    }

    fn finish(disk: &SimDisk, mut stepped: Stepped, earlier: Vec<(SimDisk, Vec<Expected>)>) -> Sample {
        stepped.confirm();
        let expected = oracle::expected(&stepped);
        let disk = disk.power_loss(1, PowerLoss::LosesAll);
        let report = inspect_disk(&disk).unwrap();
        assert!(report.segments.len() >= 3, "{:?}", report.segments);
        assert!(report.batches.iter().all(|batch| batch.verdict == Verdict::Accepted));
        Sample { expected, batches: report.batches, segments: disk.segments().unwrap(), disk, earlier }
    }

    /// A copy to be damaged.
    pub(super) fn copy(&self) -> SimDisk {
        self.disk.power_loss(1, PowerLoss::LosesAll)
    }

    /// The batch over a byte of a segment.
    pub(super) fn batch_at(&self, segment: u32, at: usize) -> Option<&BatchInfo> {
        let block = at / BLOCK_BYTES;
        self.batches.iter().find(|batch| {
            let first = batch.header.block as usize;
            batch.header.segment == segment && (first..first + batch.header.blocks as usize).contains(&block)
        })
    }

    /// The part of its batch that a byte belongs to.
    pub(super) fn part(batch: &BatchInfo, at: usize) -> Part {
        let at = at - batch.header.block as usize * BLOCK_BYTES;
        let table = HEADER_BYTES + batch.header.table_bytes() as usize;
        let rows = batch.records.iter().flatten().enumerate();
        let mut rows =
            rows.map(|(number, record)| (number, record.row.offset as usize, record.row.length as usize));
        match rows.find(|(_, from, length)| (*from..from + length).contains(&at)) {
            _ if at < HEADER_BYTES => Part::Header,
            _ if at < table => Part::Table,
            Some((number, _, _)) => Part::Payload(number),
            None => Part::Padding,
        }
    }

    /// What the table says of one flipped bit; `None` = the byte is void, and nothing is found.
    pub(super) fn finding(&self, segment: u32, at: usize) -> Option<Found> {
        let last = &self.batches.last().unwrap().header;
        let found = |verdict, lost_batches| Some(Found { verdict, records: Vec::new(), lost_batches });
        let confirmed = Verdict::ConfirmedRot(RotReason::DurableMark);
        if let Some(batch) = self.batch_at(segment, at) {
            let is_last = batch.header.number == last.number;
            return match Sample::part(batch, at) {
                Part::Header | Part::Table if is_last => found(Verdict::UnconfirmedTail, 0),
                Part::Header | Part::Table => found(confirmed, 1),
                Part::Padding if is_last => found(Verdict::RotInWindow, 0),
                Part::Padding => found(confirmed, 0),
                Part::Payload(row) => {
                    let row = &batch.records.as_ref().unwrap()[row].row;
                    let records = vec![(row.group, row.kind, row.index)];
                    Some(Found { verdict: confirmed, records, lost_batches: 0 })
                }
            };
        }
        if self.void_from(segment).is_some_and(|void| at >= void) {
            return None;
        }
        if segment < last.segment {
            return found(confirmed, 0);
        }
        let end = (last.block + last.blocks) as usize * BLOCK_BYTES;
        let from = if segment == last.segment { end } else { 0 };
        if (at - from) / BLOCK_BYTES >= last.window_blocks as usize {
            return found(Verdict::RotBeyondWindow, 2);
        }
        let in_first_sector = segment == last.segment && at < end + SECTOR_BYTES;
        found(if in_first_sector { Verdict::UnconfirmedTail } else { Verdict::TornTail }, 0)
    }

    /// Where a segment was cut: a later segment's batches follow on something that is not its last block in use.
    fn void_from(&self, segment: u32) -> Option<usize> {
        let cuts = self.batches.iter().flat_map(|batch| batch.records.iter().flatten());
        let is_cut = cuts.into_iter().any(|record| record.row.kind == Kind::Cut);
        let end = self
            .batches
            .iter()
            .filter(|batch| batch.header.segment == segment)
            .map(|batch| (batch.header.block + batch.header.blocks) as usize * BLOCK_BYTES);
        let newest = self.batches.last().unwrap().header.segment;
        (is_cut && segment + 1 == newest).then(|| end.max().unwrap_or(0))
    }
}
