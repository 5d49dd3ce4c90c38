//! Recovery: from segment files to what the log held, by an ordered table of findings.
//!
//! The rows are tried in this order; exactly one matches what lies where the next batch should begin:
//!
//! | finding | verdict |
//! |---|---|
//! | valid and next in number | [`Verdict::Accepted`] |
//! | a valid header of ours that belongs elsewhere, or of another store at or below the durable mark | [`Verdict::Misdirected`]: rot |
//! | a valid header of another store above the durable mark | [`Verdict::NotOurs`] |
//! | damaged at or below the durable mark, in a sealed segment, or a gap in numbers | [`Verdict::ConfirmedRot`] |
//! | blocks that cannot be read, or a file that is too short | [`Verdict::Unreadable`]: rot |
//! | zero, and nothing but zeros behind | [`Verdict::EndOfLog`] |
//! | sectors wholly zero where data should be, within the in-flight window | [`Verdict::TornTail`]: cut here |
//! | no such sector, wrong CRC, header and table valid | [`Verdict::RotInWindow`]: rot, identities kept |
//! | more than the in-flight window can explain | [`Verdict::RotBeyondWindow`]: rot |
//! | anything else | [`Verdict::UnconfirmedTail`]: cut here; the stated residue of G8 |
//!
//! Assumptions, each kept by the committer: segments are zero before they are used; a new segment begins only when all
//! before it is durable; what is in flight never exceeds the window that the last durable batch states.
//!
//! Invariants: reading changes nothing on the disk; afterwards [`open`] makes what was accepted durable (a killed process
//! may have left it in a cache) before anybody hears of it, and after a cut goes on in a new segment that names the cut. Only
//! where the disk has no room for one, an interrupted write (never rot) is wiped and the log goes on in its place.

mod judge;
mod outcome;
mod replay;
pub(super) mod scan;
mod tail;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};

use super::committer::{Committer, Head, Start};
use super::housekeeper;
use super::options::LogOptions;
use super::shared::{Jobs, Segments, Shared, State, Told, VoteWork, Work};
use super::window::Window;
use crate::disk::{AlignedBuffer, Disk, DiskError, RESERVE, SegmentWrite, Wait};
use crate::error::LogError;
use crate::format::{BLOCK_BYTES, BatchBody, BatchHeader, Kind};
use crate::types::{GroupId, LogPoint, StoreId};
use judge::Walk;
use outcome::Resume;
pub(crate) use outcome::Walked;

/// The file that holds the store's id.
const STORE_NOTE: &str = "STORE";

/// What a finding means. See the table above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Valid and next in number.
    Accepted,
    /// Bytes of the log that belong elsewhere: what should be here has been overwritten, or never arrived.
    Misdirected,
    /// Bytes of another store, beyond the durable mark.
    NotOurs,
    /// Damage in what is known to have been durable.
    ConfirmedRot(RotReason),
    /// The medium does not give the bytes back.
    Unreadable,
    /// Nothing but zeros from here on.
    EndOfLog,
    /// An interrupted write: never acknowledged.
    TornTail,
    /// Completely written, damaged since; the table says which records.
    RotInWindow,
    /// More is damaged than can have been in flight.
    RotBeyondWindow,
    /// An interrupted write or damage to the last unconfirmed batch: the two cannot be told apart.
    UnconfirmedTail,
}

/// How it is known that damaged bytes had been durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RotReason {
    /// A later batch states it.
    DurableMark,
    /// A later segment has begun.
    SealedSegment,
    /// Batch numbers are missing.
    NumberGap,
}

impl Verdict {
    /// Whether the finding means that durable bytes have been damaged.
    pub fn is_rot(self) -> bool {
        matches!(
            self,
            Verdict::Misdirected
                | Verdict::ConfirmedRot(_)
                | Verdict::Unreadable
                | Verdict::RotInWindow
                | Verdict::RotBeyondWindow
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Verdict::Accepted => "accepted",
            Verdict::Misdirected => "misdirected (rot)",
            Verdict::NotOurs => "not ours",
            Verdict::ConfirmedRot(RotReason::DurableMark) => "rot (below the durable mark)",
            Verdict::ConfirmedRot(RotReason::SealedSegment) => "rot (in a sealed segment)",
            Verdict::ConfirmedRot(RotReason::NumberGap) => "rot (gap in batch numbers)",
            Verdict::Unreadable => "unreadable (rot)",
            Verdict::EndOfLog => "end of log",
            Verdict::TornTail => "torn tail",
            Verdict::RotInWindow => "rot (written whole, damaged since)",
            Verdict::RotBeyondWindow => "rot (beyond the in-flight window)",
            Verdict::UnconfirmedTail => "unconfirmed tail",
        })
    }
}

/// A record named by a damaged batch whose table survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NamedRecord {
    /// The group.
    pub group: GroupId,
    /// What the record is.
    pub kind: Kind,
    /// Its index (a vote's sequence number).
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// Something that recovery found and did not simply accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The segment.
    pub segment: u32,
    /// The block in it.
    pub block: u32,
    /// The number of the batch that is or should be there.
    pub batch: u64,
    /// What it means.
    pub verdict: Verdict,
    /// The damaged records, where the table names them.
    pub records: Vec<NamedRecord>,
    /// How many batches are lost together with their tables.
    pub lost_batches: u64,
    /// For a human.
    pub detail: String,
}

/// Something of a quarantined group that rot has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostRecord {
    /// One entry.
    Entry {
        /// Its index.
        index: u64,
        /// Its term, where that survives.
        term: Option<u64>,
        /// The CRC of its payload, where that survives: it tells whether a peer's copy is the same.
        payload_crc: Option<u32>,
    },
    /// All entries of a range, of which nothing survives.
    Entries {
        /// The first index.
        first: u64,
        /// The last index.
        last: u64,
    },
    /// Whatever followed the last entry that is held: there may have been more, or the last ones may have been replaced.
    Tail {
        /// The last entry held.
        after: Option<LogPoint>,
    },
    /// Both copies of the newest vote: the node may have voted without remembering it.
    Vote,
}

/// Where recovery cut the log.
pub type Cut = crate::format::CutRecord;

/// What recovery found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The store's id.
    pub store: StoreId,
    /// Whether the store was made just now.
    pub is_new: bool,
    /// Segment files looked at.
    pub segments: u64,
    /// Batches accepted.
    pub batches: u64,
    /// Records in them.
    pub records: u64,
    /// Number of the last batch.
    pub last_batch: u64,
    /// The highest durable mark stated.
    pub durable_mark: u64,
    /// Everything that was not simply accepted, in order of place.
    pub findings: Vec<Finding>,
    /// The place where the log was cut, if it was.
    pub cut: Option<Cut>,
    /// Batches lost together with their tables.
    pub lost_batches: u64,
    /// Those of them since every group was last named: a group that is not known at all may have been in them. See
    /// [`crate::SegmentLog::settle_groups`].
    pub unsettled_batches: u64,
    /// Groups of which something is lost. They must neither vote nor acknowledge until that is repaired.
    pub quarantined: Vec<(GroupId, Vec<LostRecord>)>,
}

/// Told of each batch in order of place, with its verdict.
pub(crate) type Observer<'a> = &'a mut dyn FnMut(&BatchHeader, &BatchBody, Verdict);

/// Reads the log without changing anything. `None` = there is no store yet.
pub(crate) fn read(
    disk: &dyn Disk,
    options: &LogOptions,
    observe: Observer<'_>,
) -> Result<Option<(StoreId, Walked)>, LogError> {
    let files = disk.segments()?;
    let noted = disk.read_note(STORE_NOTE)?.as_deref().and_then(parse_note);
    let store = match (noted, files.is_empty()) {
        (Some(store), _) => store,
        (None, true) => return Ok(None),
        (None, false) => match judge::first_store(disk, &files)? {
            Some(store) => store,
            // A crash while the store was being made: its first segment is there, and nothing else.
            None if judge::is_unbegun(disk, &files)? => return Ok(None),
            None => options.store.unwrap_or_else(|| StoreId(rand::random())),
        },
    };
    let walked = Walk::new(disk, &files, store, options, observe)?.run()?;
    Ok(Some((store, walked)))
}

fn parse_note(content: &[u8]) -> Option<StoreId> {
    StoreId::parse(std::str::from_utf8(content).ok()?.trim())
}

/// Decides, by what recovery has found and before anything is changed, whether the log may be gone on with; `None` = there is
/// no store yet. What it says against it is [`LogError::Refused`].
pub type Vet<'a> = &'a mut dyn FnMut(Option<&RecoveryReport>) -> Result<(), String>;

/// Recovers, asks `vet`, repairs what needs no peer, and prepares the committer. Steps the log itself until every vote is in two
/// places again and, after a cut, the new segment is durable.
pub(crate) fn open(
    disk: Box<dyn Disk>,
    options: LogOptions,
    vet: Vet<'_>,
) -> Result<(Arc<Shared>, Committer, RecoveryReport), LogError> {
    options.validate()?;
    let disk: Arc<dyn Disk> = Arc::from(disk);
    let found = read(&*disk, &options, &mut |_, _, _| {})?;
    vet(found.as_ref().map(|(store, walked)| walked.report(*store)).as_ref()).map_err(LogError::Refused)?;
    let (store, walked, is_new) = match found {
        Some((store, walked)) => (store, walked, false),
        None => {
            let store = options.store.unwrap_or_else(|| StoreId(rand::random()));
            (store, Walked::nothing(), true)
        }
    };
    let note = disk.read_note(STORE_NOTE)?;
    let is_noted = note.as_deref().and_then(parse_note) == Some(store);
    let mut report = walked.report(store);
    report.is_new = is_new;
    let (shared, mut committer) = start(Arc::clone(&disk), options, store, walked)?;
    // Only now that there is a segment: a note without any segment says that they are lost.
    if !is_noted {
        disk.write_note(STORE_NOTE, format!("{store}\n").as_bytes())?;
    }
    settle(&shared, &mut committer)?;
    keep_reserve(&*shared.disk, &shared.options)?;
    Ok((shared, committer, report))
}

/// Puts files in order and makes the committer that goes on where the log ends.
fn start(
    disk: Arc<dyn Disk>,
    options: LogOptions,
    store: StoreId,
    mut walked: Walked,
) -> Result<(Arc<Shared>, Committer), LogError> {
    for segment in &walked.sync {
        disk.sync(*segment)?;
    }
    for segment in &walked.discard {
        disk.remove(*segment)?;
    }
    let (segment, block, blocks) = go_on(&*disk, &options, &mut walked)?;
    let mut live: BTreeMap<u32, u64> = walked.kept.iter().map(|segment| (*segment, 0)).collect();
    live.entry(segment).or_default();
    for log in walked.groups.values() {
        for (segment, count) in log.used() {
            *live.entry(segment).or_default() += count;
        }
    }
    // A crash may have come between stating that a segment is not needed and removing it.
    let oldest = walked.oldest.unwrap_or(segment);
    let leftover: Vec<u32> = live
        .iter()
        .take_while(|(number, live)| **number < oldest && **live == 0)
        .map(|(number, _)| *number)
        .collect();
    live.retain(|number, _| !leftover.contains(number));
    // A segment that begins repeats everything by itself.
    let (votes_to_repeat, votes) = if block > 0 { votes_to_repeat(&walked) } else { Default::default() };
    // What this recovery has found out must be stated in the log before anything is written that could pass for proof of the
    // contrary. A new segment begins with that anyway.
    let to_state = if block > 0 { statements(&walked) } else { Vec::new() };
    let cuts_repeated = walked.cuts.is_empty() || (block > 0 && walked.cuts_repeated_in == Some(segment));
    let void = walked.cuts.iter().map(|cut| (cut.segment, cut.block)).collect();
    let head = Head {
        segment,
        block,
        segment_blocks: blocks,
        last_number: walked.last_number,
        last_crc: walked.last_crc,
    };
    let start = Start {
        head,
        allowed: walked.window.unwrap_or(Window { batches: 1, blocks: u32::MAX }),
        written: walked.groups.iter().map(|(group, log)| (*group, log.checkpoint())).collect(),
        cuts_repeated,
        is_repeated: block > 0 && cuts_repeated && votes_to_repeat.is_empty() && votes.is_empty(),
        cuts: walked.cuts,
        oldest,
        doubt: walked.doubt,
        stated_mark: walked.stated_mark,
        last_is_idle: walked.last_is_idle,
        votes_to_repeat,
    };
    let segments = Segments { live, void, spare: walked.spare, full: false, room_blocks: blocks - block };
    let mut state = State::new(walked.groups, segments);
    state.doubt = walked.doubt;
    state.durable_batch = walked.last_number;
    state.queue.extend(to_state);
    state.votes = votes;
    let shared = Arc::new(Shared {
        disk,
        options,
        store,
        state: Mutex::new(state),
        jobs: Mutex::new(Jobs { remove: leftover.into(), ..Jobs::default() }),
        jobs_changed: Condvar::new(),
        hooks: Mutex::new(Vec::new()),
        rot_hooks: Mutex::new(Vec::new()),
        told: Told::default(),
    });
    shared.tell(&shared.lock());
    let committer = Committer::new(Arc::clone(&shared), start);
    if walked.spare.is_none() && block > 0 {
        committer.request_spare();
    }
    Ok((shared, committer))
}

/// Where the next batch goes: segment, block, and blocks of the segment.
fn go_on(disk: &dyn Disk, options: &LogOptions, walked: &mut Walked) -> Result<(u32, u32, u32), LogError> {
    let segment = match walked.resume {
        Resume::InPlace { segment, block, segment_blocks } => return Ok((segment, block, segment_blocks)),
        Resume::NewSegment { segment } => segment,
    };
    match (disk.create(segment, options.segment_bytes), walked.cut) {
        (Ok(()), _) => Ok((segment, 0, options.segment_blocks())),
        (Err(DiskError::Full { .. }), Some(cut)) if !walked.ends_in_rot() => {
            tracing::warn!(
                segment = cut.segment,
                block = cut.block,
                "no room for a new segment: the interrupted write is wiped and the log goes on in its place"
            );
            let blocks = wipe(disk, &cut)?;
            walked.cuts.retain(|other| *other != cut);
            Ok((cut.segment, cut.block, blocks))
        }
        // Wiping would take what later openings judge the damage by.
        (Err(DiskError::Full { .. }), _) => from_reserve(disk, options, segment),
        (Err(error), _) => Err(LogError::Disk(error)),
    }
}

/// Length of the reserve, if segments are longer: room for what recovery has to state, for votes and for some repairs.
const RESERVE_BYTES: u64 = 256 << 10;

/// Begins a small segment in the place of the reserve. Gives the segment, its first block, its blocks.
fn from_reserve(disk: &dyn Disk, options: &LogOptions, segment: u32) -> Result<(u32, u32, u32), LogError> {
    if !has_reserve(disk)? {
        return Err(LogError::DiskFull);
    }
    tracing::warn!(segment, "no room for a new segment: the log goes on in its reserve");
    let bytes = RESERVE_BYTES.min(options.segment_bytes);
    disk.recycle(RESERVE, segment, bytes)?;
    Ok((segment, 0, u32::try_from(bytes / BLOCK_BYTES as u64).unwrap_or(u32::MAX)))
}

fn has_reserve(disk: &dyn Disk) -> Result<bool, LogError> {
    match disk.read_at(RESERVE, 0, &mut [0; BLOCK_BYTES]) {
        Ok(()) => Ok(true),
        Err(DiskError::NoSegment { .. }) => Ok(false),
        // It holds nothing that has to be read.
        Err(error) if error.is_unreadable() => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Makes the reserve if it is not there. A full disk has to do without.
fn keep_reserve(disk: &dyn Disk, options: &LogOptions) -> Result<(), LogError> {
    if has_reserve(disk)? {
        return Ok(());
    }
    match disk.create(RESERVE, RESERVE_BYTES.min(options.segment_bytes)) {
        Ok(()) | Err(DiskError::Full { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Writes zeros from a cut to the end of its segment, durably. If that is interrupted, what is found is another interrupted
/// write. Gives the blocks of the segment.
fn wipe(disk: &dyn Disk, cut: &Cut) -> Result<u32, LogError> {
    const WIPE_BYTES: u64 = 1 << 20;
    let file = disk.segments()?.into_iter().find(|file| file.number == cut.segment);
    let file = file.ok_or(DiskError::NoSegment { segment: cut.segment })?;
    let mut offset = u64::from(cut.block) * BLOCK_BYTES as u64;
    while offset < file.bytes {
        let bytes = usize::try_from((file.bytes - offset).min(WIPE_BYTES)).unwrap_or(BLOCK_BYTES);
        let mut buffer = AlignedBuffer::with_capacity(bytes);
        buffer.set_len(bytes);
        disk.submit(SegmentWrite { token: 0, segment: cut.segment, offset, buffer })?;
        let mut done = Vec::new();
        while done.is_empty() {
            disk.completions(Wait::Forever, &mut done)?;
        }
        for completion in done {
            completion.result.map_err(LogError::Failed)?;
        }
        offset += bytes as u64;
    }
    Ok(scan::file_blocks(&file))
}

/// What the log does not say of itself yet.
fn statements(walked: &Walked) -> Vec<Work> {
    let (groups, doubt) = &walked.unstated;
    let tails = groups.iter().map(|group| Work::State {
        group: *group,
        tail_unknown: true,
        suspects_vote: false,
        done: None,
    });
    tails.chain(doubt.then_some(Work::Doubt { batches: walked.doubt, done: None })).collect()
}

/// Votes that stand once in the present segment, and votes that do not stand in it at all and are written like new ones.
fn votes_to_repeat(walked: &Walked) -> (Vec<VoteWork>, VecDeque<VoteWork>) {
    let work = |group: &GroupId| {
        let vote = &walked.groups.get(group)?.vote;
        Some(VoteWork { group: *group, sequence: vote.sequence, bytes: vote.bytes.clone()?, done: None })
    };
    let with = |copies: u32| walked.thin_votes.iter().filter(move |(_, found)| *found == copies);
    (
        with(1).filter_map(|(group, _)| work(group)).collect(),
        with(0).filter_map(|(group, _)| work(group)).collect(),
    )
}

/// Steps the log until nothing is left to be written.
fn settle(shared: &Shared, committer: &mut Committer) -> Result<(), LogError> {
    while !committer.is_settled() {
        committer.advance(0);
        if committer.has_in_flight() {
            committer.complete(Wait::Forever, || 0);
        } else if !housekeeper::run_one(shared) || shared.lock().segments.full {
            break;
        }
    }
    let failure = shared.lock().failure.clone();
    match failure {
        Some(failure) => Err(failure),
        None if committer.is_settled() => Ok(()),
        None => Err(LogError::DiskFull),
    }
}
