//! How long one durable append takes, beside the bare linked write and fdatasync of the same size on the same disk.
//!
//! `cargo run --release -p tercet-storage --example append_latency -- DIRECTORY [APPENDS]`. The two take turns in blocks
//! of 100, so that whatever else the machine does meets both. Figures for a human; nothing depends on them.

use std::error::Error;
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use tercet_storage::disk::{
    AlignedBuffer, BLOCK_BYTES, Disk, DiskChoice, SegmentWrite, Wait, open_directory,
};
use tercet_storage::{LogOptions, LogRecord, SegmentLog};

const TURN: u64 = 100;
const SEGMENT_BYTES: u64 = 64 << 20;

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
    // The payload that makes a batch of one block: what is left of it after header and row.
    for (name, payload_bytes, blocks) in [("4 KiB batch", 3_900, 1), ("4 KiB payload, 8 KiB batch", 4_096, 2)]
    {
        let (mut floor, mut durable) = (Vec::new(), Vec::new());
        for turn in 0..appends / TURN {
            floor.extend(write_bare(&*bare, blocks, turn * TURN)?);
            durable.extend(append(&log, payload_bytes)?);
        }
        println!("{name}");
        print("  bare write + fdatasync", &mut floor);
        print("  append", &mut durable);
        let ratio = percentile(&floor, 50).max(1);
        println!("  p50 ratio {:.3}", percentile(&durable, 50) as f64 / ratio as f64);
    }
    let stats = log.stats();
    println!("inside the log: p50 {} us from handing to the disk until durable", stats.write_p50_us);
    log.close();
    Ok(())
}

/// Single linked writes, one after the other; microseconds x 10 of each.
fn write_bare(disk: &dyn Disk, blocks: u64, from: u64) -> Result<Vec<u64>, Box<dyn Error>> {
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
            disk.completions(Wait::Forever, &mut done)?;
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
