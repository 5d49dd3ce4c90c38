//! Looking at segment files block by block.
//!
//! Invariants: a block that cannot be read (EIO, or beyond the end of a file that is too short) is reported as such and
//! costs no other block; nothing found in a block is believed before its CRC, and nothing before it is known to lie where
//! its header says.

use crate::disk::{Disk, DiskError, SegmentFile};
use crate::error::LogError;
use crate::format::{
    BLOCK_BYTES, BatchBody, BatchHeader, HeaderError, RowState, SECTOR_BYTES, is_zero, read_batch,
};
use crate::types::StoreId;

/// Blocks read at once.
const AHEAD_BLOCKS: u32 = 256;

/// Reads runs of blocks, with a little read-ahead.
pub(in crate::log) struct Reader<'a> {
    disk: &'a dyn Disk,
    segment: Option<u32>,
    first: u32,
    ahead_blocks: u32,
    bytes: Vec<u8>,
    bad: Vec<bool>,
}

/// A run of blocks as it was read.
#[derive(Clone, Copy)]
pub(in crate::log) struct Blocks<'a> {
    pub(in crate::log) bytes: &'a [u8],
    /// Whether a block could not be read; its bytes are zero then.
    pub(in crate::log) bad: &'a [bool],
}

/// What a place in a segment holds.
pub(in crate::log) enum Place {
    /// A header that belongs there, and its batch.
    Batch(Box<PlacedBatch>),
    /// A valid header of our store that belongs elsewhere.
    Misplaced(Box<BatchHeader>),
    /// A valid header of another store.
    Foreign(Box<BatchHeader>),
    /// The block cannot be read.
    Unreadable,
    /// The block is zero.
    Zero,
    /// The block is not zero and is no header.
    Garbage {
        /// The first sector, where the header should be, is zero.
        header_sector_is_zero: bool,
    },
}

/// A batch that lies where it says.
pub(in crate::log) struct PlacedBatch {
    pub(in crate::log) header: BatchHeader,
    pub(in crate::log) body: BatchBody,
    /// Some of its blocks cannot be read.
    pub(in crate::log) has_bad_blocks: bool,
    /// Payloads of the log's own records, by row number.
    pub(in crate::log) bytes: Vec<u8>,
}

/// How many whole blocks a segment file has.
pub(in crate::log) fn file_blocks(file: &SegmentFile) -> u32 {
    u32::try_from(file.bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX)
}

impl<'a> Reader<'a> {
    pub(in crate::log) fn new(disk: &'a dyn Disk) -> Reader<'a> {
        Reader::with_ahead(disk, AHEAD_BLOCKS)
    }

    /// One that reads no more than so many blocks ahead of need.
    pub(in crate::log) fn with_ahead(disk: &'a dyn Disk, ahead_blocks: u32) -> Reader<'a> {
        Reader {
            disk,
            segment: None,
            first: 0,
            ahead_blocks: ahead_blocks.clamp(1, AHEAD_BLOCKS),
            bytes: Vec::new(),
            bad: Vec::new(),
        }
    }

    /// The blocks of a run; those beyond the end of the file count as unreadable.
    pub(in crate::log) fn blocks(
        &mut self,
        file: &SegmentFile,
        first: u32,
        count: u32,
    ) -> Result<Blocks<'_>, DiskError> {
        let held = u32::try_from(self.bad.len()).unwrap_or(0);
        let inside = self.segment == Some(file.number)
            && first >= self.first
            && u64::from(first) + u64::from(count) <= u64::from(self.first) + u64::from(held);
        if !inside {
            self.load(file, first, count)?;
        }
        let from = (first - self.first) as usize;
        let to = from + count as usize;
        Ok(Blocks { bytes: &self.bytes[from * BLOCK_BYTES..to * BLOCK_BYTES], bad: &self.bad[from..to] })
    }

    fn load(&mut self, file: &SegmentFile, first: u32, count: u32) -> Result<(), DiskError> {
        let left = file_blocks(file).saturating_sub(first);
        let readable = left.min(count.max(self.ahead_blocks));
        let total = readable.max(count) as usize;
        self.segment = None;
        self.bytes.clear();
        self.bytes.resize(total * BLOCK_BYTES, 0);
        self.bad.clear();
        self.bad.resize(total, true);
        self.read(file.number, first, 0, readable as usize)?;
        self.segment = Some(file.number);
        self.first = first;
        Ok(())
    }

    /// Reads blocks; halves the run where the medium fails, down to single blocks.
    fn read(&mut self, segment: u32, first: u32, from: usize, count: usize) -> Result<(), DiskError> {
        if count == 0 {
            return Ok(());
        }
        let offset = (u64::from(first) + from as u64) * BLOCK_BYTES as u64;
        let target = &mut self.bytes[from * BLOCK_BYTES..(from + count) * BLOCK_BYTES];
        match self.disk.read_at(segment, offset, target) {
            Ok(()) => {
                self.bad[from..from + count].fill(false);
                Ok(())
            }
            Err(error) if !error.is_unreadable() => Err(error),
            Err(_) if count == 1 => {
                target.fill(0);
                Ok(())
            }
            Err(_) => {
                self.read(segment, first, from, count / 2)?;
                self.read(segment, first, from + count / 2, count - count / 2)
            }
        }
    }

    /// What lies at a block: the whole batch if there is one. A newer format version is an error, never damage.
    pub(in crate::log) fn examine(
        &mut self,
        file: &SegmentFile,
        block: u32,
        store: StoreId,
    ) -> Result<Place, LogError> {
        let header = match self.header(file, block, store)? {
            Ok(header) => header,
            Err(place) => return Ok(place),
        };
        Ok(Place::Batch(Box::new(self.whole(file, block, header)?)))
    }

    /// The batch to a header that was found at a block.
    pub(in crate::log) fn whole(
        &mut self,
        file: &SegmentFile,
        block: u32,
        header: BatchHeader,
    ) -> Result<PlacedBatch, DiskError> {
        // A header may be believed, but not to make this allocate what no file holds: the rest counts as missing.
        let count = header.blocks.min(file_blocks(file));
        let blocks = self.blocks(file, block, count)?;
        let mut body = read_batch(&header, blocks.bytes);
        let has_bad_blocks = blocks.bad.contains(&true) || count < header.blocks;
        for (row, state) in body.rows.iter_mut().flatten().filter(|_| has_bad_blocks) {
            // Bytes that cannot be read count as zeros here, and zeros may be what the payload was.
            let (from, to) = (row.offset as usize, row.offset as usize + row.length as usize);
            let touched = from / BLOCK_BYTES..to.div_ceil(BLOCK_BYTES);
            if row.length > 0 && blocks.bad.get(touched).is_some_and(|bad| bad.contains(&true)) {
                *state = RowState::Damaged;
            }
        }
        let bytes = blocks.bytes.to_vec();
        Ok(PlacedBatch { header, body, has_bad_blocks, bytes })
    }

    /// The header at a block if it belongs there, else what is there.
    pub(in crate::log) fn header(
        &mut self,
        file: &SegmentFile,
        block: u32,
        store: StoreId,
    ) -> Result<Result<BatchHeader, Place>, LogError> {
        let found = self.blocks(file, block, 1)?;
        if found.bad[0] {
            return Ok(Err(Place::Unreadable));
        }
        Ok(match BatchHeader::decode(found.bytes) {
            Ok(header) if header.store != store => Err(Place::Foreign(Box::new(header))),
            Ok(header) if header.segment != file.number || header.block != block => {
                Err(Place::Misplaced(Box::new(header)))
            }
            Ok(header) => Ok(header),
            Err(HeaderError::Version(version)) => {
                return Err(LogError::NewerFormat { segment: file.number, version });
            }
            Err(_) if is_zero(found.bytes) => Err(Place::Zero),
            Err(_) => Err(Place::Garbage { header_sector_is_zero: is_zero(&found.bytes[..SECTOR_BYTES]) }),
        })
    }
}

/// What lies behind a place, in all segments: made once, when something is not as it should be (at the latest at the end).
pub(in crate::log) struct Survey {
    /// Valid headers that lie where they say, in order: (position of the file in the list, block, header).
    pub(in crate::log) headers: Vec<(usize, u32, BatchHeader)>,
    /// Valid headers of ours that lie elsewhere.
    pub(in crate::log) misplaced: Vec<(usize, u32)>,
    /// Blocks that cannot be read.
    pub(in crate::log) unreadable: Vec<(usize, u32)>,
    /// The last block of everything that is not zero, in order.
    used: Vec<(usize, u32)>,
    /// The highest durable mark that any header of ours states, wherever it lies: it is true even there.
    pub(in crate::log) durable_mark: u64,
}

impl Survey {
    /// Looks at every block from a place on.
    pub(in crate::log) fn take(
        reader: &mut Reader<'_>,
        files: &[SegmentFile],
        from: (usize, u32),
        store: StoreId,
        void_from: &dyn Fn(u32) -> Option<u32>,
    ) -> Result<Survey, LogError> {
        let mut survey = Survey {
            headers: Vec::new(),
            misplaced: Vec::new(),
            unreadable: Vec::new(),
            used: Vec::new(),
            durable_mark: 0,
        };
        for (position, file) in files.iter().enumerate().skip(from.0) {
            let mut block = if position == from.0 { from.1 } else { 0 };
            let end = file_blocks(file).min(void_from(file.number).unwrap_or(u32::MAX));
            while block < end {
                let mut step = 1;
                match reader.header(file, block, store)? {
                    Ok(header) => {
                        step = header.blocks.max(1);
                        for inner in block + 1..(block + step).min(end) {
                            if let Err(other) = reader.header(file, inner, store)? {
                                survey.mark(&other);
                            }
                        }
                        survey.durable_mark = survey.durable_mark.max(header.durable_mark);
                        survey.used.push((position, (block + step - 1).min(end - 1)));
                        survey.headers.push((position, block, header));
                    }
                    Err(Place::Zero) => {}
                    Err(other) => {
                        survey.used.push((position, block));
                        survey.mark(&other);
                        match other {
                            Place::Misplaced(_) => survey.misplaced.push((position, block)),
                            Place::Unreadable => survey.unreadable.push((position, block)),
                            _ => {}
                        }
                    }
                }
                block += step;
            }
        }
        Ok(survey)
    }

    /// Forgets what lies before a place.
    pub(in crate::log) fn advance(&mut self, place: (usize, u32)) {
        self.headers.retain(|(position, block, _)| (*position, *block) >= place);
        self.misplaced.retain(|found| *found >= place);
        self.unreadable.retain(|found| *found >= place);
        self.used.retain(|found| *found >= place);
    }

    /// Whether everything is zero and can be read.
    pub(in crate::log) fn is_clean(&self) -> bool {
        self.used.is_empty()
    }

    /// Whether a file holds nothing but zeros that can be read.
    pub(in crate::log) fn is_empty(&self, position: usize) -> bool {
        !self.used.iter().any(|(used, _)| *used == position)
    }

    /// How many blocks of each file, counted from a place (or the file's start), reach up to its last block in use.
    pub(in crate::log) fn extents(&self, from: (usize, u32)) -> impl Iterator<Item = u32> + '_ {
        self.used.iter().map(move |(position, block)| {
            let start = if *position == from.0 { from.1 } else { 0 };
            block.saturating_add(1).saturating_sub(start)
        })
    }

    /// The first valid header at or behind a place with at least this number.
    pub(in crate::log) fn next_from(
        &self,
        place: (usize, u32),
        number: u64,
    ) -> Option<&(usize, u32, BatchHeader)> {
        self.headers
            .iter()
            .find(|(position, block, header)| (*position, *block) >= place && header.number >= number)
    }

    /// Takes the durable mark of a header that lies where it does not belong.
    fn mark(&mut self, place: &Place) {
        if let Place::Misplaced(header) = place {
            self.durable_mark = self.durable_mark.max(header.durable_mark);
        }
    }
}
