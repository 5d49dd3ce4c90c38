//! A simulated disk: in memory, seeded, and able to do to written bytes what real disks do.
//!
//! [`SimDisk`] is a handle: clones share one disk, so a test keeps one while the log owns another. Each write and each
//! fdatasync is one *event*; the seed decides in which order the pending ones happen. A write that no fdatasync has
//! covered is volatile: [`SimDisk::power_loss`] makes the disk that is found afterwards, in which the 512-byte sectors of
//! volatile writes are kept, lost or torn as the seed picks. Making and removing segments is atomic and durable, as
//! [`Disk`] demands.
//!
//! Invariant: driven from one thread, the same seed and the same calls give the same disk, byte for byte.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::io::Errno;

use super::{BLOCK_BYTES, Completion, Disk, DiskError, RESERVE, SegmentFile, SegmentWrite, Wait};

const SECTOR_BYTES: usize = 512;

/// What a power loss does to bytes that no fdatasync has covered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerLoss {
    /// None of them is there afterwards.
    LosesAll,
    /// Every write that had begun is there: what a killed process leaves behind.
    KeepsAll,
    /// Each write is kept, lost, cut short at either end, or loses or keeps single sectors, as the seed picks.
    Tears,
}

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    rng: StdRng,
    files: BTreeMap<u32, SimFile>,
    notes: BTreeMap<String, Vec<u8>>,
    pending: Vec<Pending>,
    failed_submits: Vec<Completion>,
    woken: bool,
    events: u64,
    stop_at: Option<u64>,
    stopped: bool,
    capacity_bytes: Option<u64>,
    fail_write: Option<i32>,
    fail_sync: Option<i32>,
    unreadable: Vec<(u32, u32)>,
}

#[derive(Clone, Default)]
struct SimFile {
    /// Shared with the copies that losses of power make, until one of them changes it.
    durable: Arc<Vec<u8>>,
    /// Written, not yet covered by an fdatasync; in the order of writing.
    volatile: Vec<(usize, Arc<Vec<u8>>)>,
}

struct Pending {
    write: SegmentWrite,
    written: bool,
}

impl Pending {
    fn offset(&self) -> usize {
        usize::try_from(self.write.offset).unwrap_or(usize::MAX)
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        let state = State {
            rng: StdRng::seed_from_u64(seed),
            files: BTreeMap::new(),
            notes: BTreeMap::new(),
            pending: Vec::new(),
            failed_submits: Vec::new(),
            woken: false,
            events: 0,
            stop_at: None,
            stopped: false,
            capacity_bytes: None,
            fail_write: None,
            fail_sync: None,
            unreadable: Vec::new(),
        };
        SimDisk { inner: Arc::new(Inner { state: Mutex::new(state), changed: Condvar::new() }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many events (writes, fdatasyncs, segments made or removed, notes) have happened.
    pub fn events(&self) -> u64 {
        self.lock().events
    }

    /// Stops the disk just before its event number `events` (the first is 0): from then on everything fails.
    pub fn stop_at(&self, events: u64) {
        self.lock().stop_at = Some(events);
    }

    /// Limits the sum of all segments' lengths; more is refused with [`DiskError::Full`].
    pub fn set_capacity_bytes(&self, capacity: Option<u64>) {
        self.lock().capacity_bytes = capacity;
    }

    /// Makes the next write fail with EIO.
    pub fn fail_next_write(&self) {
        self.lock().fail_write = Some(Errno::IO.raw_os_error());
    }

    /// Makes the next fdatasync fail with EIO.
    pub fn fail_next_sync(&self) {
        self.lock().fail_sync = Some(Errno::IO.raw_os_error());
    }

    /// Makes one block of a segment unreadable: EIO.
    pub fn make_unreadable(&self, segment: u32, block: u32) {
        self.lock().unreadable.push((segment, block));
    }

    /// Lets a test damage the durable bytes of a segment in any way; a segment that is not there is made.
    pub fn damage(&self, segment: u32, how: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        how(Arc::make_mut(&mut state.files.entry(segment).or_default().durable));
    }

    /// The durable bytes of a segment.
    pub fn image(&self, segment: u32) -> Option<Vec<u8>> {
        self.lock().files.get(&segment).map(|file| file.durable.to_vec())
    }

    /// Takes a segment's file away, as an accident would.
    pub fn lose_segment(&self, segment: u32) {
        self.lock().files.remove(&segment);
    }

    /// Takes the note away or replaces it, as an accident would.
    pub fn damage_note(&self, name: &str, content: Option<Vec<u8>>) {
        let mut state = self.lock();
        match content {
            Some(content) => state.notes.insert(name.to_owned(), content),
            None => state.notes.remove(name),
        };
    }

    /// The disk that is found after the power has failed at this moment. The present one is left as it is.
    pub fn power_loss(&self, seed: u64, loss: PowerLoss) -> SimDisk {
        let after = SimDisk::new(seed);
        {
            let state = self.lock();
            let mut found = after.lock();
            found.notes.clone_from(&state.notes);
            found.capacity_bytes = state.capacity_bytes;
            found.unreadable.clone_from(&state.unreadable);
            let mut rng = StdRng::seed_from_u64(seed);
            for (number, file) in &state.files {
                let mut durable = Arc::clone(&file.durable);
                let begun = state.pending.iter().filter(|op| op.write.segment == *number && !op.written);
                for (offset, data) in &file.volatile {
                    survive(&mut durable, *offset, data, loss, &mut rng);
                }
                for op in begun {
                    // Handed to the device and perhaps half done when the power failed.
                    let loss = if loss == PowerLoss::KeepsAll { PowerLoss::Tears } else { loss };
                    let data = op.write.buffer.as_slice();
                    survive(&mut durable, op.offset(), data, loss, &mut rng);
                }
                found.files.insert(*number, SimFile { durable, volatile: Vec::new() });
            }
        }
        after
    }

    /// The disk that is found after the process has been killed at this moment, the power staying on: what was written
    /// is still volatile, and what had been handed in may or may not have been written. The present one is left as it is.
    pub fn killed(&self, seed: u64) -> SimDisk {
        let after = SimDisk::new(seed);
        {
            let state = self.lock();
            let mut found = after.lock();
            found.notes.clone_from(&state.notes);
            found.capacity_bytes = state.capacity_bytes;
            found.unreadable.clone_from(&state.unreadable);
            found.files.clone_from(&state.files);
            let mut rng = StdRng::seed_from_u64(seed);
            for op in state.pending.iter().filter(|op| !op.written) {
                if rng.random_bool(0.5)
                    && let Some(file) = found.files.get_mut(&op.write.segment)
                {
                    file.volatile.push((op.offset(), Arc::new(op.write.buffer.as_slice().to_vec())));
                }
            }
        }
        after
    }
}

/// Puts onto `bytes` what survives of one volatile write.
fn survive(bytes: &mut Arc<Vec<u8>>, offset: usize, data: &[u8], loss: PowerLoss, rng: &mut StdRng) {
    let sectors = data.len().div_ceil(SECTOR_BYTES);
    let fate = match loss {
        PowerLoss::LosesAll => 0,
        PowerLoss::KeepsAll => 1,
        PowerLoss::Tears => rng.random_range(0..7_u8),
    };
    let chosen = rng.random_range(0..=sectors);
    for sector in 0..sectors {
        let kept = match fate {
            0 => false,
            1 => true,
            2 => sector < chosen,
            3 => sector >= chosen,
            4 => sector == chosen,
            5 => sector != chosen,
            _ => rng.random_bool(0.5),
        };
        let from = sector * SECTOR_BYTES;
        let to = (from + SECTOR_BYTES).min(data.len());
        if kept && let Some(target) = Arc::make_mut(bytes).get_mut(offset + from..offset + to) {
            target.copy_from_slice(&data[from..to]);
        }
    }
}

impl State {
    /// Counts one event; fails when the disk has stopped.
    fn event(&mut self) -> Result<(), DiskError> {
        if self.stop_at == Some(self.events) {
            self.stopped = true;
        }
        if self.stopped {
            return Err(DiskError::Stopped);
        }
        self.events += 1;
        Ok(())
    }

    /// Lets one pending write or fdatasync happen; says what has finished.
    fn advance(&mut self) -> Result<Option<Completion>, DiskError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        self.event()?;
        let chosen = self.rng.random_range(0..self.pending.len());
        if !self.pending[chosen].written {
            if let Some(errno) = self.fail_write.take() {
                let op = self.pending.swap_remove(chosen);
                return Ok(Some(failed(op, "write", errno)));
            }
            let op = &mut self.pending[chosen];
            let data = Arc::new(op.write.buffer.as_slice().to_vec());
            op.written = true;
            if let Some(file) = self.files.get_mut(&op.write.segment) {
                file.volatile.push((op.offset(), data));
            }
            return Ok(None);
        }
        let op = self.pending.swap_remove(chosen);
        if let Some(errno) = self.fail_sync.take() {
            return Ok(Some(failed(op, "fdatasync", errno)));
        }
        if let Some(file) = self.files.get_mut(&op.write.segment) {
            file.flush();
        }
        Ok(Some(Completion { token: op.write.token, buffer: op.write.buffer, result: Ok(()) }))
    }

    /// The sum of all segments' lengths; the reserve is beside it.
    fn used_bytes(&self) -> u64 {
        let segments = self.files.iter().filter(|(number, _)| **number != RESERVE);
        segments.map(|(_, file)| file.durable.len() as u64).sum()
    }

    fn make(&mut self, segment: u32, bytes: u64, freed: u64) -> Result<(), DiskError> {
        let used = self.used_bytes();
        let needs_room = bytes > freed && segment != RESERVE;
        if needs_room && self.capacity_bytes.is_some_and(|capacity| used - freed.min(used) + bytes > capacity)
        {
            return Err(DiskError::Full { operation: "allocate", subject: format!("segment {segment}") });
        }
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.files.insert(segment, SimFile { durable: Arc::new(vec![0; length]), volatile: Vec::new() });
        self.unreadable.retain(|(number, _)| *number != segment);
        Ok(())
    }
}

impl SimFile {
    fn flush(&mut self) {
        if self.volatile.is_empty() {
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for (offset, data) in self.volatile.drain(..) {
            if let Some(target) = durable.get_mut(offset..offset + data.len()) {
                target.copy_from_slice(&data);
            }
        }
    }
}

fn failed(op: Pending, operation: &'static str, errno: i32) -> Completion {
    let error = DiskError::io(
        operation,
        format!("segment {}", op.write.segment),
        &std::io::Error::from_raw_os_error(errno),
    );
    Completion { token: op.write.token, buffer: op.write.buffer, result: Err(error) }
}

impl Disk for SimDisk {
    fn description(&self) -> String {
        "simulated disk in memory".to_owned()
    }

    fn segments(&self) -> Result<Vec<SegmentFile>, DiskError> {
        let state = self.lock();
        Ok(state
            .files
            .iter()
            .filter(|(number, _)| **number != RESERVE)
            .map(|(number, file)| SegmentFile { number: *number, bytes: file.durable.len() as u64 })
            .collect())
    }

    fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.event()?;
        let freed = state.files.get(&segment).map_or(0, |file| file.durable.len() as u64);
        state.make(segment, bytes, freed)
    }

    fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.event()?;
        let Some(file) = state.files.remove(&old) else {
            return Err(DiskError::NoSegment { segment: old });
        };
        state.event()?;
        // What a segment had taken is not counted any more, what a reserve has taken never was.
        let freed = if old == RESERVE { file.durable.len() as u64 } else { 0 };
        state.make(new, bytes, freed)
    }

    fn remove(&self, segment: u32) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.event()?;
        state.files.remove(&segment);
        Ok(())
    }

    fn sync(&self, segment: u32) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.event()?;
        let file = state.files.get_mut(&segment).ok_or(DiskError::NoSegment { segment })?;
        file.flush();
        Ok(())
    }

    fn free_bytes(&self) -> Option<u64> {
        let state = self.lock();
        Some(state.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.used_bytes())))
    }

    fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let state = self.lock();
        let file = state.files.get(&segment).ok_or(DiskError::NoSegment { segment })?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let to = from.saturating_add(into.len());
        let bytes = file.durable.get(from..to).ok_or_else(|| DiskError::Io {
            operation: "read",
            subject: format!("segment {segment}"),
            errno: None,
            message: "unexpected end of file".to_owned(),
        })?;
        let blocks = from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES);
        if state
            .unreadable
            .iter()
            .any(|(number, block)| *number == segment && blocks.contains(&(*block as usize)))
        {
            let error = std::io::Error::from_raw_os_error(Errno::IO.raw_os_error());
            return Err(DiskError::io("read", format!("segment {segment}"), &error));
        }
        into.copy_from_slice(bytes);
        for (start, data) in &file.volatile {
            let begin = from.max(*start);
            let end = to.min(start + data.len());
            if begin < end {
                into[begin - from..end - from].copy_from_slice(&data[begin - start..end - start]);
            }
        }
        Ok(())
    }

    fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.lock().notes.get(name).cloned())
    }

    fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        let mut state = self.lock();
        state.event()?;
        state.notes.insert(name.to_owned(), content.to_vec());
        Ok(())
    }

    fn submit(&self, write: SegmentWrite) -> Result<(), DiskError> {
        let mut state = self.lock();
        if state.stopped {
            return Err(DiskError::Stopped);
        }
        let end = write.offset + write.buffer.len() as u64;
        match state.files.get(&write.segment) {
            None => return Err(DiskError::NoSegment { segment: write.segment }),
            Some(file) if end > file.durable.len() as u64 => {
                let op = Pending { write, written: false };
                let completion = failed(op, "write", Errno::FBIG.raw_os_error());
                state.failed_submits.push(completion);
            }
            Some(_) => state.pending.push(Pending { write, written: false }),
        }
        Ok(())
    }

    fn completions(&self, wait: Wait, into: &mut Vec<Completion>) -> Result<(), DiskError> {
        let mut state = self.lock();
        let deadline = match wait {
            Wait::AtMostUs(us) => Some(Instant::now() + Duration::from_micros(us)),
            Wait::No | Wait::Forever => None,
        };
        loop {
            into.append(&mut state.failed_submits);
            // One event a call when nobody waits, so that a driver can stop between any two of them.
            if let Some(completion) = state.advance()? {
                into.push(completion);
            }
            let woken = std::mem::take(&mut state.woken);
            if wait == Wait::No || woken || !into.is_empty() {
                return Ok(());
            }
            if !state.pending.is_empty() {
                continue;
            }
            let Some(deadline) = deadline else {
                state = self.inner.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            state = self.inner.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn wake(&self) {
        self.lock().woken = true;
        self.inner.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::AlignedBuffer;

    fn block(fill: u8) -> AlignedBuffer {
        let mut buffer = AlignedBuffer::with_capacity(BLOCK_BYTES);
        buffer.set_len(BLOCK_BYTES);
        buffer.as_mut_slice().fill(fill);
        buffer
    }

    #[test]
    fn what_was_not_synced_is_lost_kept_or_torn() {
        let disk = SimDisk::new(1);
        disk.create(1, 8192).unwrap();
        disk.submit(SegmentWrite { token: 1, segment: 1, offset: 4096, buffer: block(3) }).unwrap();
        let mut done = Vec::new();
        disk.completions(Wait::No, &mut done).unwrap();
        assert!(done.is_empty(), "the write has happened, the fdatasync has not");
        assert_eq!(disk.power_loss(1, PowerLoss::LosesAll).image(1).unwrap(), vec![0; 8192]);
        let kept = disk.power_loss(1, PowerLoss::KeepsAll).image(1).unwrap();
        assert!(kept[4096..].iter().all(|byte| *byte == 3));
        let torn = (0..40).map(|seed| disk.power_loss(seed, PowerLoss::Tears).image(1).unwrap());
        let mixed = torn.filter(|image| image[4096..].contains(&0) && image[4096..].contains(&3)).count();
        assert!(mixed > 5, "some of the seeds tear the block");
        disk.completions(Wait::No, &mut done).unwrap();
        assert_eq!(done.len(), 1);
        let after = disk.power_loss(1, PowerLoss::LosesAll).image(1).unwrap();
        assert!(after[4096..].iter().all(|byte| *byte == 3), "synced bytes stay");
    }

    #[test]
    fn it_stops_fails_and_fills_up_when_told() {
        let disk = SimDisk::new(1);
        disk.set_capacity_bytes(Some(8192));
        disk.create(1, 8192).unwrap();
        assert!(matches!(disk.create(2, 4096), Err(DiskError::Full { .. })));
        disk.fail_next_sync();
        disk.submit(SegmentWrite { token: 1, segment: 1, offset: 0, buffer: block(3) }).unwrap();
        let mut done = Vec::new();
        disk.completions(Wait::Forever, &mut done).unwrap();
        assert!(matches!(&done[0].result, Err(DiskError::Io { operation: "fdatasync", .. })));
        disk.make_unreadable(1, 1);
        let mut byte = [0];
        assert_eq!(disk.read_at(1, 0, &mut byte), Ok(()));
        assert!(disk.read_at(1, 5000, &mut byte).unwrap_err().is_unreadable());
        disk.stop_at(disk.events());
        assert_eq!(disk.remove(1), Err(DiskError::Stopped));
        assert_eq!(disk.completions(Wait::No, &mut done), Ok(()), "nothing pending, nothing to fail");
    }
}
