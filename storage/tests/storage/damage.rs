//! Damage exploration on small logs that end with their idle batch: each byte with a flipped bit, each block zeroed,
//! overwritten, unreadable, swapped with each other one; segments set back, copied, cut short, lengthened, swapped, lost.
//! Never a panic, never a wrong record, never a silent loss, and each finding is what the table says.
//!
//! In the ordinary tests one bit of every byte is flipped, another one in each byte; with `TERCET_DAMAGE_BITS=8` all are.

mod sample;

use std::sync::atomic::{AtomicUsize, Ordering};

use tercet_storage::disk::SimDisk;
use tercet_storage::format::{BLOCK_BYTES, Kind};
use tercet_storage::{Finding, LogError, LostRecord, StoreId, Verdict};

use crate::harness::Stepped;
use crate::oracle;
use sample::{Found, Part, Sample, options};

impl Sample {
    /// Opens a damaged copy: every group is whole or reported, and nothing wrong is served.
    fn check(&self, what: &str, damage: impl FnOnce(&SimDisk)) -> Stepped {
        let disk = self.copy();
        damage(&disk);
        let stepped = Stepped::open(&disk, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        if let Err(error) = oracle::check(&stepped, &self.expected) {
            panic!("{what}: {error}: {:?}", stepped.report);
        }
        stepped
    }

    /// Flips a bit: the finding, its class, the records it names and what becomes of them are as the table says.
    fn flip(&self, segment: u32, at: usize, bit: u8) {
        let what = format!("bit {bit} of byte {at} of segment {segment}");
        let stepped = self.check(&what, |disk| disk.damage(segment, |bytes| bytes[at] ^= 1 << bit));
        let report = &stepped.report;
        let found: Vec<Found> = report.findings.iter().filter_map(noted).collect();
        let expected: Vec<Found> = self.finding(segment, at).into_iter().collect();
        assert_eq!(found, expected, "{what}: {report:?}");
        let Some(batch) = self.batch_at(segment, at) else { return };
        let lost: Vec<(u32, &[LostRecord])> =
            report.quarantined.iter().map(|(group, lost)| (*group, lost.as_slice())).collect();
        match Sample::part(batch, at) {
            Part::Padding => assert_eq!(lost, [], "{what}: nothing is lost"),
            Part::Payload(row) => {
                let row = &batch.records.as_ref().unwrap()[row].row;
                let held = self.expected.iter().find(|one| one.group == row.group);
                let is_held = held.is_some_and(|one| {
                    one.entries.iter().any(|entry| (entry.index, entry.term) == (row.index, row.term))
                });
                let entry =
                    LostRecord::Entry { index: row.index, term: Some(row.term), payload_crc: Some(row.crc) };
                match row.kind {
                    Kind::Entry if is_held => {
                        assert_eq!(lost, [(row.group, [entry].as_slice())], "{what}: exactly this entry");
                    }
                    // A copy of a vote or a cut, a checkpoint with all it says still known, an entry that is gone anyway.
                    _ => assert_eq!(lost, [], "{what}: {:?} is known from elsewhere", row.kind),
                }
            }
            Part::Header | Part::Table => {}
        }
    }
}

/// A finding without its place; the end of the log is none.
fn noted(finding: &Finding) -> Option<Found> {
    let records = finding.records.iter().map(|record| (record.group, record.kind, record.index)).collect();
    (finding.verdict != Verdict::EndOfLog).then_some(Found {
        verdict: finding.verdict,
        records,
        lost_batches: finding.lost_batches,
    })
}

/// Does something with each number below a limit, on two threads.
fn on_each(limit: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= limit {
                return;
            }
            work(number);
        }
    };
    std::thread::scope(|scope| {
        for thread in [scope.spawn(run), scope.spawn(run)] {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

fn flip_everywhere(sample: &Sample) {
    let bits = std::env::var("TERCET_DAMAGE_BITS").ok().and_then(|bits| bits.parse().ok()).unwrap_or(1_u8);
    let mut places = Vec::new();
    for file in &sample.segments {
        let length = usize::try_from(file.bytes).unwrap();
        // Every byte of every batch; of the zeros, one in each half of a sector.
        let used = |at: &usize| sample.batch_at(file.number, *at).is_some() || at % 256 == 77;
        places.extend((0..length).filter(used).map(|at| (file.number, at)));
    }
    on_each(places.len(), |number| {
        let (segment, at) = places[number];
        for bit in 0..bits {
            let first = u8::try_from((at + at / 8) % 8).unwrap();
            sample.flip(segment, at, (first + bit) % 8);
        }
    });
    println!("{} bytes with {bits} flipped bits each", places.len());
}

#[test]
fn one_flipped_bit_in_every_byte() {
    flip_everywhere(&Sample::plain());
}

#[test]
fn one_flipped_bit_in_every_byte_around_a_cut() {
    flip_everywhere(&Sample::cut());
}

#[test]
fn every_block_zeroed_overwritten_unreadable_or_swapped() {
    for sample in [Sample::plain(), Sample::cut()] {
        let blocks: Vec<(u32, usize)> = sample
            .segments
            .iter()
            .flat_map(|file| (0..16).map(move |block| (file.number, block * BLOCK_BYTES)))
            .collect();
        on_each(blocks.len(), |number| {
            let (segment, at) = blocks[number];
            let place = at..at + BLOCK_BYTES;
            for fill in [0, 0x5a, 0xff] {
                sample.check(&format!("block at {at} of segment {segment} filled with {fill}"), |disk| {
                    disk.damage(segment, |bytes| bytes[place.clone()].fill(fill));
                });
            }
            sample.check(&format!("block at {at} of segment {segment} unreadable"), |disk| {
                disk.make_unreadable(segment, u32::try_from(at / BLOCK_BYTES).unwrap());
            });
            for (other, to) in blocks[..number].iter().copied() {
                let what = format!("block at {at} of segment {segment} swapped with {to} of {other}");
                sample.check(&what, |disk| {
                    let one = disk.image(segment).unwrap()[place.clone()].to_vec();
                    let two = disk.image(other).unwrap()[to..to + BLOCK_BYTES].to_vec();
                    disk.damage(segment, |bytes| bytes[place.clone()].copy_from_slice(&two));
                    disk.damage(other, |bytes| bytes[to..to + BLOCK_BYTES].copy_from_slice(&one));
                });
            }
        });
    }
}

#[test]
fn segments_set_back_to_an_earlier_state() {
    let sample = Sample::plain();
    let newest = sample.batches.last().unwrap().header.segment;
    for (round, (earlier, held)) in sample.earlier.iter().enumerate() {
        for file in &sample.segments {
            let Some(old) = earlier.image(file.number) else { continue };
            let what = format!("segment {} as it was after round {round}", file.number);
            let disk = sample.copy();
            disk.damage(file.number, |bytes| bytes.copy_from_slice(&old));
            let stepped = Stepped::open(&disk, options()).unwrap();
            let result = oracle::check(&stepped, &sample.expected);
            // The newest one set back as a whole is what cannot be told; then the log is what it was then.
            if file.number != newest || oracle::check(&stepped, held).is_err() {
                assert_eq!(result, Ok(()), "{what}: {:?}", stepped.report);
            }
        }
    }
}

#[test]
fn segments_copied_swapped_cut_short_lengthened_or_lost() {
    for sample in [Sample::plain(), Sample::cut()] {
        for file in &sample.segments {
            let (segment, length) = (file.number, usize::try_from(file.bytes).unwrap());
            for other in sample.segments.iter().map(|file| file.number).filter(|other| *other != segment) {
                let (one, two) = (sample.disk.image(segment).unwrap(), sample.disk.image(other).unwrap());
                sample.check(&format!("segment {other} copied over {segment}"), |disk| {
                    disk.damage(segment, |bytes| bytes.copy_from_slice(&two));
                });
                sample.check(&format!("segments {segment} and {other} swapped"), |disk| {
                    disk.damage(segment, |bytes| bytes.copy_from_slice(&two));
                    disk.damage(other, |bytes| bytes.copy_from_slice(&one));
                });
            }
            let odd =
                [0, 1, 511, 513, 4095].map(|odd| (0..length).step_by(BLOCK_BYTES).map(move |at| at + odd));
            for cut in odd.into_iter().flatten() {
                sample.check(&format!("segment {segment} cut to {cut} bytes"), |disk| {
                    disk.damage(segment, |bytes| bytes.truncate(cut));
                });
            }
            for more in [1, 512, BLOCK_BYTES, length] {
                for fill in [0, 1] {
                    sample.check(&format!("segment {segment} lengthened by {more} times {fill}"), |disk| {
                        disk.damage(segment, |bytes| bytes.resize(length + more, fill));
                    });
                }
            }
            sample.check(&format!("segment {segment} lost"), |disk| disk.lose_segment(segment));
        }
    }
}

#[test]
fn the_note_damaged_or_everything_lost() {
    let sample = Sample::plain();
    for content in [None, Some(Vec::new()), Some(b"nonsense".to_vec()), Some(vec![0xff; 100])] {
        let what = format!("the note is {content:?}");
        let stepped = sample.check(&what, |disk| disk.damage_note("STORE", content));
        assert_eq!(stepped.report.store, StoreId([7; 16]), "{what}: the batches say it");
        assert!(stepped.report.quarantined.is_empty(), "{what}");
    }
    let disk = sample.copy();
    disk.damage_note("STORE", Some(format!("{}\n", StoreId([8; 16])).into_bytes()));
    let refused = Stepped::open(&disk, options()).map(|_| ()).unwrap_err();
    assert_eq!(refused, LogError::ForeignStore { expected: StoreId([8; 16]), found: StoreId([7; 16]) });
    sample.check("all segments lost", |disk| {
        sample.segments.iter().for_each(|file| disk.lose_segment(file.number));
    });
    sample.check("all segments overwritten", |disk| {
        sample.segments.iter().for_each(|file| disk.damage(file.number, |bytes| bytes.fill(0x5a)));
    });
    sample.check("all segments overwritten, and the note lost", |disk| {
        disk.damage_note("STORE", None);
        sample.segments.iter().for_each(|file| disk.damage(file.number, |bytes| bytes.fill(0x5a)));
    });
    sample.check("all segments zeroed, and the note lost", |disk| {
        disk.damage_note("STORE", None);
        sample.segments.iter().for_each(|file| disk.damage(file.number, |bytes| bytes.fill(0)));
    });
}
