//! Damage exploration on a small log that ends with its idle batch: bits flipped, blocks zeroed and swapped, segments
//! copied over each other, files cut short. Never a panic, never a wrong record, never a silent loss.

use bytes::Bytes;
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::BLOCK_BYTES;
use tercet_storage::{GroupId, LogError, LogOptions, LogRecord};

use crate::harness::{Stepped, all, ignore, point, records, small};

/// A small log of two groups in three segments, confirmed, and what it holds.
struct Sample {
    disk: SimDisk,
    expected: Vec<(GroupId, Vec<LogRecord>, Option<Bytes>)>,
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..small() }
}

fn sample() -> Sample {
    let disk = SimDisk::new(21);
    let mut stepped = Stepped::open(&disk, options()).unwrap();
    let log = stepped.log.clone();
    log.save_vote(1, Bytes::from_static(b"vote of one"), ignore()).unwrap();
    for round in 0..9_u64 {
        let index = round * 2 + 1;
        log.append(1, records(index..index + 2, 1 + round / 4, 2_500), ignore()).unwrap();
        log.append(2, records(index..index + 2, 3, 300), ignore()).unwrap();
        log.save_committed(1, point(index, 1 + round / 4)).unwrap();
        stepped.settle();
    }
    log.truncate_after(2, Some(point(15, 3)), ignore()).unwrap();
    log.append(2, records(16..20, 4, 200), ignore()).unwrap();
    log.purge(1, point(2, 1), ignore()).unwrap();
    log.save_vote(2, Bytes::from_static(b"vote of two"), ignore()).unwrap();
    stepped.confirm();
    let expected = [1, 2].map(|group| (group, all(&log, group).unwrap(), log.state(group).vote)).to_vec();
    assert!(log.stats().segments >= 2);
    Sample { disk: disk.power_loss(1, PowerLoss::LosesAll), expected }
}

impl Sample {
    /// Opens a damaged copy: every group is whole or reported, and nothing wrong is served.
    fn check(&self, what: &str, damage: impl FnOnce(&SimDisk)) {
        let disk = self.disk.power_loss(1, PowerLoss::LosesAll);
        damage(&disk);
        let stepped = Stepped::open(&disk, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        let report = &stepped.report;
        for (group, expected, vote) in &self.expected {
            let unknown = report.lost_batches > 0 && !stepped.log.groups().contains(group);
            let quarantined = unknown || report.quarantined.iter().any(|(other, _)| other == group);
            let state = stepped.log.state(*group);
            if !quarantined {
                let found =
                    all(&stepped.log, *group).unwrap_or_else(|error| panic!("{what}: {error}: {report:?}"));
                assert!(found == *expected, "{what}: group {group} has changed silently: {report:?}");
                assert_eq!(state.vote, *vote, "{what}: {report:?}");
            }
            for record in expected {
                match stepped.log.read(*group, record.index..record.index + 1, usize::MAX) {
                    Ok(found) => assert!(
                        found
                            .first()
                            .is_none_or(|found| found == record || quarantined && found.term != record.term),
                        "{what}: a wrong record is served: {found:?}"
                    ),
                    Err(error) => assert!(matches!(error, LogError::Rot { .. }), "{what}: {error}"),
                }
            }
        }
    }

    fn segments(&self) -> Vec<(u32, usize)> {
        (1..20).filter_map(|number| Some((number, self.disk.image(number)?.len()))).collect()
    }
}

#[test]
fn one_flipped_bit_anywhere() {
    let sample = sample();
    for (segment, length) in sample.segments() {
        // Every sixth byte of each header and first rows, every 97th of the rest, and a few of the zeros at the end.
        for at in (0..length).filter(|at| at % BLOCK_BYTES < 240 && at % 6 == 0 || at % 97 == 0) {
            sample.check(&format!("bit of byte {at} of segment {segment}"), |disk| {
                disk.damage(segment, |bytes| bytes[at] ^= 1 << (at % 8));
            });
        }
    }
}

#[test]
fn blocks_zeroed_unreadable_or_swapped() {
    let sample = sample();
    let segments = sample.segments();
    for (segment, length) in &segments {
        for block in 0..length / BLOCK_BYTES {
            let at = block * BLOCK_BYTES;
            sample.check(&format!("block {block} of segment {segment} zeroed"), |disk| {
                disk.damage(*segment, |bytes| bytes[at..at + BLOCK_BYTES].fill(0));
            });
            sample.check(&format!("block {block} of segment {segment} unreadable"), |disk| {
                disk.make_unreadable(*segment, u32::try_from(block).unwrap());
            });
            let other = (block * 7 + 3) % (length / BLOCK_BYTES) * BLOCK_BYTES;
            sample.check(
                &format!("block {block} of segment {segment} swapped with {}", other / BLOCK_BYTES),
                |disk| {
                    disk.damage(*segment, |bytes| {
                        let one = bytes[at..at + BLOCK_BYTES].to_vec();
                        bytes.copy_within(other..other + BLOCK_BYTES, at);
                        bytes[other..other + BLOCK_BYTES].copy_from_slice(&one);
                    });
                },
            );
        }
    }
}

#[test]
fn segments_copied_cut_short_or_lost() {
    let sample = sample();
    let segments = sample.segments();
    for (segment, length) in &segments {
        for (other, _) in segments.iter().filter(|(other, _)| other != segment) {
            let image = sample.disk.image(*other).unwrap();
            sample.check(&format!("segment {other} copied over {segment}"), |disk| {
                disk.damage(*segment, |bytes| bytes.copy_from_slice(&image));
            });
        }
        for cut in (0..*length).step_by(1_024) {
            sample.check(&format!("segment {segment} cut to {cut} bytes"), |disk| {
                disk.damage(*segment, |bytes| bytes.truncate(cut));
            });
        }
        sample.check(&format!("segment {segment} lost"), |disk| disk.lose_segment(*segment));
    }
}
