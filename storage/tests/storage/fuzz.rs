//! The bodies of the fuzz targets over a corpus made from seeds: valid images, mutated, cut short, spliced.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tercet_storage::disk::{Disk, PowerLoss, SimDisk};
use tercet_storage::format::{BatchHeader, CheckpointState, CutRecord, HEADER_BYTES, flags};
use tercet_storage::inspect::inspect_disk;
use tercet_storage::{LogOptions, StoreId};

use crate::harness::{Stepped, ignore, point, records, small};

/// Changes some of the bytes: single bits, fields of extreme numbers, a piece copied elsewhere, the end cut off.
fn mutated(valid: &[u8], rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = valid.to_vec();
    for _ in 0..rng.random_range(0..6) {
        if bytes.is_empty() {
            break;
        }
        let mut at = rng.random_range(0..bytes.len());
        if at > 4_096 && rng.random_bool(0.7) {
            // Headers and tables stand at the fronts of blocks; two bytes come before the first.
            at = (at / 4_096 * 4_096 + 2 + rng.random_range(0..128 + 5 * 56)).min(bytes.len() - 1);
        }
        match rng.random_range(0..12) {
            0..=4 => bytes[at] ^= 1 << rng.random_range(0..8),
            5 | 6 => bytes[at] = rng.random(),
            7 | 8 => {
                let width = [1, 2, 4, 8][rng.random_range(0..4)];
                let at = if at > 4_096 { (at - 2) / width * width + 2 } else { at / width * width };
                let fill = [0, 0xff, 0x7f][rng.random_range(0..3)];
                let end = (at + width).min(bytes.len());
                bytes[at..end].fill(fill);
            }
            9 | 10 => {
                let length = rng.random_range(0..=bytes.len() - at).min(5_000);
                let to = rng.random_range(0..=bytes.len() - length);
                bytes.copy_within(at..at + length, to);
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// Runs a body over variations of each valid input, so many of each.
fn run(valid: &[Vec<u8>], each: u64, body: impl Fn(&[u8])) {
    for (number, valid) in (0..).zip(valid) {
        body(valid);
        for seed in 0..each {
            let mut rng = StdRng::seed_from_u64(seed * 1_000 + number);
            body(&mutated(valid, &mut rng));
        }
    }
}

/// The segments of small logs, as the body takes them: how many, whether there is a note, their bytes.
fn images() -> Vec<Vec<u8>> {
    let options = LogOptions {
        segment_bytes: 64 << 10,
        batch_limit_bytes: 8 << 10,
        store: Some(StoreId([1; 16])),
        ..small()
    };
    (0..6_u64)
        .map(|seed| {
            let disk = SimDisk::new(seed);
            let mut stepped = Stepped::open(&disk, options.clone()).unwrap();
            let log = stepped.log.clone();
            for round in 0..4 + seed * 4 {
                let index = round * 2 + 1;
                log.append(1, records(index..index + 2, 1 + round, 700), ignore()).unwrap();
                log.append(2, records(round + 1..round + 2, 3, 90), ignore()).unwrap();
                if round % 3 == seed % 3 {
                    log.save_vote(1, Bytes::from(format!("vote {round}")), ignore()).unwrap();
                    log.truncate_after(2, Some(point(round + 1, 3)), ignore()).unwrap();
                    log.purge(1, point(index, 1 + round), ignore()).unwrap();
                }
                stepped.settle();
                log.save_committed(2, point(round + 1, 3)).unwrap();
            }
            // Some end in the middle of a write, some with a cut behind it.
            let last = log.state(1).last.unwrap().index;
            log.append(1, records(last + 1..last + 3, 40, 5_000), ignore()).unwrap();
            stepped.step();
            let mut disk = disk.power_loss(seed, PowerLoss::Tears);
            if seed % 2 == 1 {
                drop(Stepped::open(&disk, options.clone()).unwrap());
                disk = disk.power_loss(seed, PowerLoss::LosesAll);
            }
            let files = disk.segments().unwrap();
            let mut bytes = vec![u8::try_from(files.len() - 1).unwrap(), u8::try_from(seed % 3).unwrap()];
            files.iter().for_each(|file| bytes.extend(disk.image(file.number).unwrap()));
            assert!(inspect_disk(&disk).unwrap().batches.len() > 4);
            bytes
        })
        .collect()
}

fn header() -> BatchHeader {
    BatchHeader {
        flags: flags::FIRST,
        store: StoreId([1; 16]),
        number: 9,
        durable_mark: 8,
        segment: 3,
        block: 0,
        blocks: 1,
        records: 2,
        table_crc: 5,
        payload_bytes: 77,
        previous_crc: 6,
        window_batches: 4,
        window_blocks: 4,
        oldest_segment: 2,
        segment_blocks: 16,
    }
}

fn states() -> Vec<Vec<u8>> {
    let full = CheckpointState {
        vote_sequence: 4,
        vote: Some(Bytes::from_static(b"a vote")),
        purged: Some(point(3, 1)),
        committed: Some(point(5, 2)),
        last: Some(point(9, 3)),
        truncation: Some(Some(point(4, 2))),
        tail_unknown: true,
        vote_lost: false,
    };
    vec![CheckpointState::default().encode(), full.encode()]
}

#[test]
fn decoders() {
    run(&[header().encode().to_vec(), vec![0; HEADER_BYTES]], 60_000, bodies::header);
    run(&states(), 60_000, bodies::checkpoint);
    run(&[CutRecord { segment: 3, block: 4, last_batch: 5, last_crc: 6 }.encode()], 60_000, bodies::cut);
}

#[test]
fn tables_and_batches() {
    let mut tables = Vec::new();
    let mut batches = Vec::new();
    for image in images() {
        for block in image[2..].chunks(4_096) {
            let Ok(header) = BatchHeader::decode(block) else { continue };
            let end = HEADER_BYTES + header.table_bytes() as usize;
            if let Some(table) = block.get(HEADER_BYTES..end).filter(|_| header.blocks == 1) {
                tables.push([&header.payload_bytes.to_le_bytes()[..], table].concat());
                batches.push(block.to_vec());
            }
        }
    }
    assert!(tables.len() > 50);
    run(&tables, 500, bodies::table);
    run(&batches, 200, bodies::batch);
}

#[test]
fn notes() {
    let id = StoreId([0x5c; 16]).to_string().into_bytes();
    run(&[id.clone(), [&id[..], b"\n"].concat(), Vec::new()], 2_500, bodies::note);
}

#[test]
fn segments() {
    run(&images(), 1_000, bodies::segments);
}

#[test]
fn segments_with_right_sums() {
    run(&images(), 1_000, bodies::segments_with_right_sums);
}
