//! How long one durable append takes, beside the bare write and fdatasync of the same size on the same disk.
//!
//! `cargo run --release -p tercet-storage --example append_latency -- DIRECTORY [APPENDS]`. The three take turns in blocks
//! of 50, so that whatever else the machine does meets all of them. Figures for a human; nothing depends on them.

use std::error::Error;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use tercet_storage::disk::{
    AlignedBuffer, BLOCK_BYTES, Disk, DiskChoice, SegmentWrite, Wait, open_directory,
};
use tercet_storage::{LogOptions, LogRecord, SegmentLog};

const TURN: u64 = 50;
const SEGMENT_BYTES: u64 = 64 << 20;
/// Longest that one write may take.
const PATIENCE: Wait = Wait::AtMostUs(30_000_000);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let base = arguments.next().ok_or("usage: append_latency DIRECTORY [APPENDS]")?;
    let appends: u64 = arguments.next().map_or(Ok(4_000), |count| count.parse())?;
    let base = Path::new(&base);
    let bare = open_directory(&base.join("bare"), DiskChoice::UringOrPortable)?;
    let (log, _) = SegmentLog::open(
        open_directory(&base.join("log"), DiskChoice::UringOrPortable)?,
        LogOptions::default(),
    )?;
    println!("{}", log.disk_description());
    bare.create(1, SEGMENT_BYTES)?;
    for (name, payload_bytes, blocks) in [
        ("512 B payload, 4 KiB batch", 512, 1),
        // What is left of a block after header and row.
        ("3,900 B payload, 4 KiB batch", 3_900, 1),
        ("4 KiB payload, 8 KiB batch", 4_096, 2),
    ] {
        let (mut linked, mut plain, mut durable) = (Vec::new(), Vec::new(), Vec::new());
        for turn in 0..appends / TURN {
            // A wait with a limit keeps the disk from doing a lone write on the calling thread.
            linked.extend(write_bare(&*bare, blocks, 2 * turn * TURN, PATIENCE)?);
            plain.extend(write_bare(&*bare, blocks, (2 * turn + 1) * TURN, Wait::Forever)?);
            durable.extend(append(&log, payload_bytes)?);
        }
        println!("{name}");
        print("  bare linked write + fdatasync", &mut linked);
        print("  bare write, then fdatasync", &mut plain);
        print("  append", &mut durable);
        let ratio = |floor: &[u64]| percentile(&durable, 50) as f64 / percentile(floor, 50).max(1) as f64;
        println!("  p50 ratio {:.3} to linked, {:.3} to plain", ratio(&linked), ratio(&plain));
    }
    let stats = log.stats();
    println!("inside the log: p50 {} us from handing to the disk until durable", stats.write_p50_us);
    log.close();
    Ok(())
}

/// Single writes, one after the other; microseconds x 10 of each.
fn write_bare(disk: &dyn Disk, blocks: u64, from: u64, wait: Wait) -> Result<Vec<u64>, Box<dyn Error>> {
    let bytes = usize::try_from(blocks)? * BLOCK_BYTES;
    let mut buffer = AlignedBuffer::with_capacity(bytes);
    buffer.set_len(bytes);
    buffer.as_mut_slice().fill(0x5a);
    let mut times = Vec::new();
    for number in from..from + TURN {
        let offset = number * blocks * BLOCK_BYTES as u64 % (SEGMENT_BYTES - bytes as u64);
        let start = Instant::now();
        disk.submit(SegmentWrite { token: number, segment: 1, offset, buffer })?;
        let mut done = Vec::new();
        while done.is_empty() {
            disk.completions(wait, &mut done)?;
        }
        times.push(tenths(start));
        let completion = done.pop().ok_or("no completion")?;
        completion.result?;
        buffer = completion.buffer;
    }
    Ok(times)
}

/// Single appends, each awaited.
fn append(log: &SegmentLog, payload_bytes: usize) -> Result<Vec<u64>, Box<dyn Error>> {
    let mut times = Vec::new();
    let (sender, receiver) = mpsc::channel();
    for _ in 0..TURN {
        let index = log.state(1).last.map_or(1, |last| last.index + 1);
        let record = LogRecord { index, term: 1, leader: 1, tag: 1, payload: vec![7; payload_bytes].into() };
        let sender = sender.clone();
        let start = Instant::now();
        log.append(1, vec![record], Box::new(move |result| drop(sender.send(result))))?;
        receiver.recv()??;
        times.push(tenths(start));
    }
    Ok(times)
}

fn tenths(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos() / 100).unwrap_or(u64::MAX)
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

fn print(name: &str, times: &mut [u64]) {
    times.sort_unstable();
    let us = |percent| percentile(times, percent) as f64 / 10.0;
    println!("{name}: p50 {:.1} us, p90 {:.1} us, p99 {:.1} us", us(50), us(90), us(99));
}
