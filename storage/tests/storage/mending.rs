//! Random logs with random damage, repaired from what a leader would have: nothing is lost silently, everything comes back,
//! and stays. `TERCET_MENDING_SEEDS` sets how many there are.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_storage::disk::{PowerLoss, SimDisk};
use tercet_storage::format::BLOCK_BYTES;
use tercet_storage::{LogRecord, SegmentLog};

use crate::harness::{Stepped, all, ignore, record, small};
use crate::repair::{Truth, batches, repair_whole, repair_with_crashes};

/// A random call on group 1, as a Raft group would make it: terms never fall, what is committed stays.
fn call(rng: &mut StdRng, log: &SegmentLog, term: &mut u64, committed: &mut u64) {
    let state = log.state(1);
    let next = state.last.map_or(0, |last| last.index + 1);
    match rng.random_range(0..20) {
        0..=12 => {
            let count = rng.random_range(1..5);
            let entries: Vec<LogRecord> = (next..next + count)
                .map(|index| {
                    let bytes = rng.random_range(1..3_000);
                    record(index, *term, vec![u8::try_from(index % 250).unwrap() + 1; bytes])
                })
                .collect();
            log.append(1, entries, ignore()).unwrap();
        }
        13 | 14 if next > *committed => {
            *committed = rng.random_range(*committed..next);
            let upto = log.point(1, *committed).unwrap();
            log.save_committed(1, upto).unwrap();
        }
        15 | 16 if next > *committed + 1 => {
            let kept = rng.random_range(*committed..next - 1);
            *term += 1;
            if let Some(kept) = log.point(1, kept) {
                log.truncate_after(1, Some(kept), ignore()).unwrap();
            }
        }
        17 if *committed > 20 => {
            let upto = rng.random_range(*committed - 20..*committed);
            if let Some(upto) = log.point(1, upto) {
                log.purge(1, upto, ignore()).unwrap();
            }
        }
        18 => {
            *term += 1;
            log.save_vote(1, Bytes::from(format!("vote {term}")), ignore()).unwrap();
        }
        _ => {
            let next = log.state(2).last.map_or(0, |last| last.index + 1);
            log.append(2, vec![record(next, 1, vec![9; rng.random_range(1..2_000)])], ignore()).unwrap();
        }
    }
}

fn written(rng: &mut StdRng, seed: u64) -> (SimDisk, Truth) {
    let disk = SimDisk::new(seed);
    let mut stepped = Stepped::open(&disk, small()).unwrap();
    let (mut term, mut committed) = (1, 0);
    for _ in 0..rng.random_range(20..200) {
        call(rng, &stepped.log, &mut term, &mut committed);
        for _ in 0..rng.random_range(0..6) {
            stepped.step();
        }
    }
    stepped.settle();
    stepped.log.save_vote(1, Bytes::from_static(b"vote"), ignore()).unwrap();
    stepped.confirm();
    let entries = all(&stepped.log, 1).unwrap();
    let truth = Truth { entries, purged: stepped.log.state(1).purged };
    (disk.power_loss(1, PowerLoss::LosesAll), truth)
}

/// Damages one to three places, all of them before the last batch: an idle one, by which the rest is known to be durable.
fn damage(rng: &mut StdRng, disk: &SimDisk) -> String {
    let found = batches(disk);
    let last = found.last().unwrap();
    let mut what = Vec::new();
    for _ in 0..rng.random_range(1..4) {
        let header = &found[rng.random_range(0..found.len() - 1)];
        let start = header.block as usize * BLOCK_BYTES;
        let length = header.blocks as usize * BLOCK_BYTES;
        match rng.random_range(0..6) {
            0 => {
                let at = start + rng.random_range(0..length);
                disk.damage(header.segment, |bytes| bytes[at] ^= 1);
                what.push(format!("byte {at} of segment {}", header.segment));
            }
            1 | 2 => {
                let fill = if rng.random_bool(0.5) { 0 } else { 0x55 };
                disk.damage(header.segment, |bytes| bytes[start..start + length].fill(fill));
                what.push(format!("batch {} filled with {fill}", header.number));
            }
            3 => {
                let block = header.block + rng.random_range(0..header.blocks);
                disk.make_unreadable(header.segment, block);
                what.push(format!("block {block} of segment {} unreadable", header.segment));
            }
            4 => {
                let at = start + rng.random_range(0..128);
                disk.damage(header.segment, |bytes| bytes[at] ^= 1);
                what.push(format!("header of batch {}", header.number));
            }
            _ if header.segment < last.segment => {
                disk.lose_segment(header.segment);
                what.push(format!("segment {} gone", header.segment));
                break;
            }
            _ => {}
        }
    }
    what.join(", ")
}

#[test]
fn random_damage_is_mended() {
    let seeds = std::env::var("TERCET_MENDING_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(80);
    for seed in 0..seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let (disk, truth) = written(&mut rng, seed);
        let what = format!("seed {seed}: {}", damage(&mut rng, &disk));
        if seed % 10 == 0 {
            repair_with_crashes(&disk, &truth, &what);
        } else {
            repair_whole(&disk, &truth, &what);
        }
    }
}
