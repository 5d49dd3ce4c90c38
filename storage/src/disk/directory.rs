//! The files of a log directory: what the io_uring disk and the portable disk have in common.
//!
//! ```text
//! log/STORE            the store's id
//! log/0000002a.seg     segment 42
//! log/*.tmp            something unfinished; removed at the next opening
//! ```
//!
//! Residue of a crash: a segment is made under a `.tmp` name, filled with zeros, fsynced, renamed, and the directory is
//! fsynced. A recycled segment first loses its number in the same way. So whatever bears a number is whole, and whatever
//! ends in `.tmp` can go.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{FallocateFlags, OFlags};

use super::{AlignedBuffer, DiskError, RESERVE, SegmentFile};

/// File systems whose synchronous writes end with the flush that an fdatasync would be: ext2 to ext4, XFS, btrfs.
const KEEP_DSYNC: [rustix::fs::FsWord; 3] = [0xef53, 0x5846_5342, 0x9123_683e];
/// Zeros are written in pieces of this size.
const ZERO_BYTES: usize = 1 << 20;

/// An open segment: one descriptor for the committer's writes, one for buffered reads.
pub(super) struct OpenSegment {
    /// Opened with O_DIRECT where the file system takes it.
    pub(super) write: File,
    /// Opened without.
    pub(super) read: File,
}

/// The files of one log directory.
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    direct: bool,
    synchronous: bool,
    read_only: bool,
    open: RwLock<HashMap<u32, Arc<OpenSegment>>>,
}

impl Directory {
    /// Opens or makes the directory and removes what a crash left unfinished.
    pub(super) fn open(path: &Path, want_direct: bool) -> Result<Directory, DiskError> {
        if let Err(error) = fs::create_dir(path)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(DiskError::io("create directory", show(path), &error));
        }
        if let Some(parent) = path.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let handle = File::open(parent).map_err(|error| DiskError::io("open", show(parent), &error))?;
            handle.sync_all().map_err(|error| DiskError::io("fsync", show(parent), &error))?;
        }
        let mut directory = Directory::open_existing(path, false)?;
        for name in directory.names()? {
            if name.ends_with(".tmp") {
                let file = path.join(&name);
                fs::remove_file(&file).map_err(|error| DiskError::io("remove", show(&file), &error))?;
            }
        }
        if want_direct {
            directory.direct = directory.takes_direct_io()?;
        }
        directory.synchronous = directory.honours_dsync();
        Ok(directory)
    }

    /// Opens an existing directory and changes nothing in it.
    pub(super) fn open_existing(path: &Path, read_only: bool) -> Result<Directory, DiskError> {
        let handle = File::open(path).map_err(|error| DiskError::io("open", show(path), &error))?;
        Ok(Directory {
            path: path.to_path_buf(),
            handle,
            direct: false,
            synchronous: false,
            read_only,
            open: RwLock::new(HashMap::new()),
        })
    }

    /// Whether segments are written past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// Whether one synchronous write (RWF_DSYNC) is as good as a write and an fdatasync after it.
    pub(super) fn is_synchronous(&self) -> bool {
        self.synchronous
    }

    /// Whether the file system is known to make a write with RWF_DSYNC durable before it ends. Others may take the flag and do nothing
    /// for it.
    fn honours_dsync(&self) -> bool {
        rustix::fs::fstatfs(&self.handle).is_ok_and(|status| KEEP_DSYNC.contains(&status.f_type))
    }

    /// The directory's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the file system by trying: tmpfs and some others answer EINVAL, at open or at the first write.
    fn takes_direct_io(&self) -> Result<bool, DiskError> {
        let probe = self.path.join("probe.tmp");
        let result = open_for_writing(&probe, true, true).and_then(|file| {
            let mut block = AlignedBuffer::with_capacity(super::BLOCK_BYTES);
            block.set_len(super::BLOCK_BYTES);
            file.write_all_at(block.as_slice(), 0)
        });
        match fs::remove_file(&probe) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(DiskError::io("remove", show(&probe), &error));
            }
            _ => {}
        }
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => Ok(false),
            Err(error) => match DiskError::io("write", show(&probe), &error) {
                // A log that is there can be asked as well.
                full @ DiskError::Full { .. } => self.reads_directly()?.ok_or(full),
                other => Err(other),
            },
        }
    }

    /// Asks a segment for direct I/O, where there is one: a full disk has no block for a probe.
    fn reads_directly(&self) -> Result<Option<bool>, DiskError> {
        let Some(segment) = self.segments()?.first().copied() else { return Ok(None) };
        let path = self.segment_path(segment.number);
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(OFlags::DIRECT.bits().cast_signed());
        let mut block = AlignedBuffer::with_capacity(super::BLOCK_BYTES);
        block.set_len(super::BLOCK_BYTES);
        match options.open(&path).and_then(|file| file.read_at(block.as_mut_slice(), 0)) {
            Ok(_) => Ok(Some(true)),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
                Ok(Some(false))
            }
            Err(error) => Err(DiskError::io("read", show(&path), &error)),
        }
    }

    fn names(&self) -> Result<Vec<String>, DiskError> {
        let entries =
            fs::read_dir(&self.path).map_err(|error| DiskError::io("list", show(&self.path), &error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| DiskError::io("list", show(&self.path), &error))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// The segment files in ascending order.
    pub(super) fn segments(&self) -> Result<Vec<SegmentFile>, DiskError> {
        let mut found = Vec::new();
        for name in self.names()? {
            let Some(number) = parse_name(&name).filter(|number| *number != RESERVE) else { continue };
            let path = self.path.join(&name);
            let metadata = fs::metadata(&path).map_err(|error| DiskError::io("stat", show(&path), &error))?;
            found.push(SegmentFile { number, bytes: metadata.len() });
        }
        found.sort_by_key(|segment| segment.number);
        Ok(found)
    }

    fn segment_path(&self, segment: u32) -> PathBuf {
        self.path.join(segment_name(segment))
    }

    fn writable(&self) -> Result<(), DiskError> {
        if self.read_only { Err(DiskError::ReadOnly) } else { Ok(()) }
    }

    /// The open segment; opens it at the first use.
    pub(super) fn segment(&self, segment: u32) -> Result<Arc<OpenSegment>, DiskError> {
        if let Some(open) = self.open.read().unwrap_or_else(PoisonError::into_inner).get(&segment) {
            return Ok(Arc::clone(open));
        }
        let path = self.segment_path(segment);
        let refused = |error: &std::io::Error| match error.kind() {
            ErrorKind::NotFound => DiskError::NoSegment { segment },
            _ => DiskError::io("open", show(&path), error),
        };
        let read = File::open(&path).map_err(|error| refused(&error))?;
        let write = if self.read_only {
            read.try_clone().map_err(|error| refused(&error))?
        } else {
            open_for_writing(&path, self.direct, false).map_err(|error| refused(&error))?
        };
        let open = Arc::new(OpenSegment { write, read });
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(segment, Arc::clone(&open));
        Ok(open)
    }

    fn forget(&self, segment: u32) {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    fn sync_directory(&self) -> Result<(), DiskError> {
        self.handle.sync_all().map_err(|error| DiskError::io("fsync", show(&self.path), &error))
    }

    /// See [`super::Disk::create`].
    pub(super) fn create(&self, segment: u32, bytes: u64) -> Result<(), DiskError> {
        self.writable()?;
        let temporary = self.path.join(format!("create-{segment:08x}.tmp"));
        if let Err(error) = self.zero(&temporary, bytes) {
            // Half a file helps nobody, least of all on a full disk. What cannot be removed goes at the next opening.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.name(&temporary, segment)
    }

    /// See [`super::Disk::recycle`].
    pub(super) fn recycle(&self, old: u32, new: u32, bytes: u64) -> Result<(), DiskError> {
        self.writable()?;
        let from = self.segment_path(old);
        let temporary = self.path.join(format!("recycle-{new:08x}.tmp"));
        fs::rename(&from, &temporary).map_err(|error| DiskError::io("rename", show(&from), &error))?;
        self.forget(old);
        self.sync_directory()?;
        if let Err(error) = self.zero(&temporary, bytes) {
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        self.name(&temporary, new)
    }

    /// Gives a finished file its number, durably.
    fn name(&self, temporary: &Path, segment: u32) -> Result<(), DiskError> {
        let path = self.segment_path(segment);
        fs::rename(temporary, &path).map_err(|error| DiskError::io("rename", show(temporary), &error))?;
        self.forget(segment);
        self.sync_directory()
    }

    /// Writes zeros over the whole length, so that no later write has to change an extent, and fsyncs.
    fn zero(&self, path: &Path, bytes: u64) -> Result<(), DiskError> {
        let file = open_for_writing(path, self.direct, true)
            .map_err(|error| DiskError::io("create", show(path), &error))?;
        file.set_len(bytes).map_err(|error| DiskError::io("set length of", show(path), &error))?;
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
            // Not every file system can: the zeros below allocate as well.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            Err(error) => return Err(DiskError::io("allocate", show(path), &error.into())),
        }
        let mut zeros = AlignedBuffer::with_capacity(ZERO_BYTES);
        let mut offset = 0;
        while offset < bytes {
            let piece = usize::try_from(bytes - offset).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
            zeros.set_len(piece);
            file.write_all_at(zeros.as_slice(), offset)
                .map_err(|error| DiskError::io("zero", show(path), &error))?;
            offset += piece as u64;
        }
        file.sync_all().map_err(|error| DiskError::io("fsync", show(path), &error))
    }

    /// See [`super::Disk::remove`].
    pub(super) fn remove(&self, segment: u32) -> Result<(), DiskError> {
        self.writable()?;
        let path = self.segment_path(segment);
        let removed = fs::remove_file(&path);
        self.forget(segment);
        match removed {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(DiskError::io("remove", show(&path), &error))
            }
            _ => self.sync_directory(),
        }
    }

    /// See [`super::Disk::sync`].
    pub(super) fn sync(&self, segment: u32) -> Result<(), DiskError> {
        self.writable()?;
        let open = self.segment(segment)?;
        open.write.sync_data().map_err(|error| DiskError::io("fdatasync", segment_name(segment), &error))
    }

    /// See [`super::Disk::free_bytes`].
    pub(super) fn free_bytes(&self) -> Option<u64> {
        // Some file systems do not count their blocks.
        let status = rustix::fs::fstatvfs(&self.handle).ok().filter(|status| status.f_blocks > 0)?;
        status.f_bavail.checked_mul(status.f_frsize)
    }

    /// See [`super::Disk::read_at`].
    pub(super) fn read_at(&self, segment: u32, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
        let open = self.segment(segment)?;
        open.read
            .read_exact_at(into, offset)
            .map_err(|error| DiskError::io("read", segment_name(segment), &error))
    }

    /// See [`super::Disk::read_note`].
    pub(super) fn read_note(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.path.join(name);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DiskError::io("read", show(&path), &error)),
        }
    }

    /// See [`super::Disk::write_note`].
    pub(super) fn write_note(&self, name: &str, content: &[u8]) -> Result<(), DiskError> {
        self.writable()?;
        let temporary = self.path.join(format!("{name}.tmp"));
        let path = self.path.join(name);
        File::create(&temporary)
            .and_then(|mut file| {
                file.write_all(content)?;
                file.sync_all()
            })
            .map_err(|error| DiskError::io("write", show(&temporary), &error))?;
        fs::rename(&temporary, &path).map_err(|error| DiskError::io("rename", show(&temporary), &error))?;
        self.sync_directory()
    }
}

/// The file name of a segment.
pub(super) fn segment_name(segment: u32) -> String {
    format!("{segment:08x}.seg")
}

fn parse_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".seg")?;
    if digits.len() != 8 {
        return None;
    }
    let number = u32::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

fn open_for_writing(path: &Path, direct: bool, create: bool) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(create);
    if direct {
        options.custom_flags(OFlags::DIRECT.bits().cast_signed());
    }
    options.open(path)
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_strange_ones_are_left_alone() {
        assert_eq!(parse_name(&segment_name(42)), Some(42));
        assert_eq!(parse_name(&segment_name(u32::MAX)), Some(u32::MAX));
        for strange in
            ["STORE", "1.seg", "+000002a.seg", "0000002A.seg", "0000002a.seg.tmp", "create-0000002a.tmp"]
        {
            assert_eq!(parse_name(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_new_segment_is_whole_and_zero_and_unfinished_files_go_at_opening() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("create-00000001.tmp"), b"half").unwrap();
        let directory = Directory::open(dir.path(), false).unwrap();
        assert_eq!(directory.names().unwrap().len(), 0);
        directory.create(3, 3 * 4096).unwrap();
        assert_eq!(directory.segments().unwrap(), vec![SegmentFile { number: 3, bytes: 12_288 }]);
        let mut content = vec![1; 12_288];
        directory.read_at(3, 0, &mut content).unwrap();
        assert!(content.iter().all(|byte| *byte == 0));
        directory.segment(3).unwrap().write.write_all_at(&[9; 4096], 4096).unwrap();
        directory.recycle(3, 5, 12_288).unwrap();
        directory.read_at(5, 0, &mut content).unwrap();
        assert!(content.iter().all(|byte| *byte == 0), "a recycled segment is zeroed again");
        assert_eq!(directory.read_at(3, 0, &mut content), Err(DiskError::NoSegment { segment: 3 }));
        directory.remove(5).unwrap();
        directory.remove(5).unwrap();
        assert!(directory.segments().unwrap().is_empty());
        directory.create(RESERVE, 4_096).unwrap();
        assert!(directory.segments().unwrap().is_empty(), "a reserve is no segment");
        directory.recycle(RESERVE, 6, 4_096).unwrap();
        assert_eq!(directory.segments().unwrap(), vec![SegmentFile { number: 6, bytes: 4_096 }]);
    }

    #[test]
    fn a_read_only_directory_refuses_changes() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::open_existing(dir.path(), true).unwrap();
        assert_eq!(directory.create(1, 4096), Err(DiskError::ReadOnly));
        assert_eq!(directory.write_note("STORE", b"x"), Err(DiskError::ReadOnly));
        assert_eq!(directory.read_note("STORE"), Ok(None));
    }
}
