//! The index: a sorted map on disk that holds only what can be rebuilt from the log.
//!
//! The only file that knows sled. One tree, one writer at a time. What was read in sled's source (1.0.0-alpha.124):
//! - `flush` fsyncs the heap files and then appends one checksummed frame of metadata and fsyncs it: everything since the
//!   last flush becomes visible after a crash together. Its background flusher is switched off, so nothing is flushed
//!   between the two halves of a batch: one [`Index::commit`] is atomic.
//! - A batch that runs beside an iterator or a merge may deadlock (its own list of known bugs says so): readers and the
//!   batch exclude each other here, since sled's handle is not `Sync` anyway. Flushing does not need that.
//! - Damaged files make it return errors or panic: both are caught, here and in [`Index::open`]. Damaged metadata may make
//!   it go on with a tree that has holes, and search for ever: [`precheck`] looks for that first.
//! - Opening runs the `sync` command (it says so itself); there is no way to switch that off.
//! - A leaf that was written is never dropped from memory again, whatever the cache's size ("need to remove
//!   max_unflushed_epoch after flushing it", says its own list): only what a handle has read from disk is. So the handle is
//!   closed and opened anew each time that enough has been written; that takes some 80 ms, in which readers wait.
//! - After one failed read or write a handle answers everything with that error, and a flush after a failed one waits for
//!   ever, the flush in its `drop` too. So a commit that a full disk would not take is refused before sled hears of it, and a
//!   handle that has failed is never used nor dropped again: its memory and its lock on the directory stay until the process
//!   ends, and the next one opens the index anew.
//!
//! Invariant: after [`Index::commit`] has returned without an error its changes are durable, all of them or (after an
//! error) none that a later opening shows halfway.

mod precheck;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use crate::types::StoreId;

/// Memory that sled may use for pages, in bytes.
const CACHE_BYTES: usize = 16 << 20;
/// Entries of a sled leaf. Most values are blocks of some KiB, and a leaf is read and written as a whole.
const LEAF_FANOUT: usize = 32;

/// Negative levels are quicker. Most of what is written are hashes of keys, which nothing makes smaller.
const ZSTD_LEVEL: i32 = -50;

/// After so many bytes of keys and values sled is opened anew: it would keep all of them in memory.
const REOPEN_BYTES: usize = 16 << 20;
/// A commit leaves so much of the disk free, beyond what it may take itself: for opening, and for what others write meanwhile.
const SPARE_BYTES: u64 = 16 << 20;
/// A commit may take so many times its bytes: a leaf is written whole, into a slot of the next size that sled has.
const GROWTH: u64 = 4;
/// How long the old handle's lock on the directory may outlive it.
const REOPEN_PATIENCE: Duration = Duration::from_secs(5);

/// File descriptors that the index holds open at most: sled has one for each of its 78 sizes of slots, two of directories, one of its
/// log of metadata, and opens some more for a moment. They do not grow with what is in it.
pub const INDEX_DESCRIPTORS: u64 = 78 + 3 + 7;

type Db = sled::Db<LEAF_FANOUT>;

/// Changes in the order of their keys: a value, or `None` to remove the key.
pub type SortedChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// What went wrong with the index. It can always be rebuilt from the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// The system or sled refused.
    #[error("{operation}: {message}")]
    Io {
        /// What was being done.
        operation: &'static str,
        /// The words for it.
        message: String,
    },
    /// The files are damaged: sled's metadata does not add up, or sled panicked.
    #[error("{operation}: the index is damaged: {message}")]
    Damaged {
        /// What was being done.
        operation: &'static str,
        /// What the panic said.
        message: String,
    },
    /// The disk has too little room for a commit: nothing was written, and the index goes on as it was.
    #[error("the disk is full: {free_bytes} bytes are free, and a commit wants {wanted_bytes}")]
    Full {
        /// What is there.
        free_bytes: u64,
        /// What a commit may take at most, and what it leaves.
        wanted_bytes: u64,
    },
    /// Sled has failed, some time ago: only the next process can open the index anew.
    #[error("the index has failed: {message}")]
    Failed {
        /// The first failure.
        message: String,
    },
    /// The keys handed to [`Index::commit`] are not in strictly ascending order.
    #[error("the keys are not in ascending order")]
    Unsorted,
}

/// The index. Readers and [`Index::commit`]'s batch take turns; its flush keeps nobody out.
pub struct Index {
    store: Store,
    moved_aside: Option<PathBuf>,
}

enum Store {
    Sled(Box<SledStore>),
    Memory(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>),
}

struct SledStore {
    dir: PathBuf,
    /// The handle may move between threads but not be used by two at once; a clone of it may be used beside it.
    handle: Mutex<Handle>,
    /// What commits leave free.
    spare_bytes: AtomicU64,
    /// Bytes committed since it was opened.
    written_bytes: AtomicUsize,
}

enum Handle {
    Open(Box<Db>),
    /// It could not be opened anew: whoever needs it tries again.
    Closed,
    /// Sled has failed.
    Failed(String),
}

impl Index {
    /// Opens the index in a directory, or makes it. A damaged one is moved aside (`<name>.damaged-<n>`) and an empty one
    /// takes its place; [`Index::moved_aside`] tells.
    pub fn open(dir: &Path) -> Result<Index, IndexError> {
        let first = match open_sled(dir) {
            Ok(db) => return Ok(Index::over(db, dir, None)),
            Err(error) => error,
        };
        if !dir.exists() {
            return Err(first);
        }
        let aside = move_aside(dir, "damaged")?;
        tracing::warn!(error = %first, aside = %aside.display(), "the index cannot be opened: moved aside, starting empty");
        Ok(Index::over(open_sled(dir)?, dir, Some(aside)))
    }

    /// As [`Index::open`], of the log with this id. An index that does not say that it is this log's is moved aside
    /// (`<name>.other-<n>`): whatever it says is of another life.
    pub fn open_of(dir: &Path, store: StoreId) -> Result<Index, IndexError> {
        let io = |error: std::io::Error| IndexError::Io { operation: "open", message: error.to_string() };
        let mut other = None;
        if !precheck::is_of(dir, store).map_err(io)? {
            let aside = move_aside(dir, "other")?;
            tracing::warn!(aside = %aside.display(), "the index is not this log's: moved aside, starting empty");
            other = Some(aside);
        }
        precheck::note_store(dir, store).map_err(io)?;
        let mut index = Index::open(dir)?;
        if index.moved_aside.is_some() {
            precheck::note_store(dir, store).map_err(io)?;
        } else {
            index.moved_aside = other;
        }
        Ok(index)
    }

    /// An index in memory: the simulation's.
    pub fn in_memory() -> Index {
        Index { store: Store::Memory(RwLock::default()), moved_aside: None }
    }

    fn over(db: Db, dir: &Path, moved_aside: Option<PathBuf>) -> Index {
        let store = SledStore {
            dir: dir.to_path_buf(),
            handle: Mutex::new(Handle::Open(Box::new(db))),
            spare_bytes: AtomicU64::new(SPARE_BYTES),
            written_bytes: AtomicUsize::new(0),
        };
        Index { store: Store::Sled(Box::new(store)), moved_aside }
    }

    /// Where a damaged index, or another log's, was moved when this one was opened.
    pub fn moved_aside(&self) -> Option<&Path> {
        self.moved_aside.as_deref()
    }

    /// Commits leave so many bytes of the disk free, beyond what they may take themselves; 16 MiB if nobody says otherwise.
    pub fn leave_free(&self, bytes: u64) {
        if let Store::Sled(store) = &self.store {
            store.spare_bytes.store(bytes, Ordering::Relaxed);
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        match &self.store {
            Store::Memory(map) => Ok(reading(map).get(key).cloned()),
            Store::Sled(store) => store.read("get", |db| Ok(db.get(key)?.map(|value| value.to_vec()))),
        }
    }

    /// The greatest key at or below `key` that begins with `prefix`, and its value.
    pub fn floor(&self, prefix: &[u8], key: &[u8]) -> Result<Option<KeyValue>, IndexError> {
        if key < prefix {
            return Ok(None);
        }
        let found = match &self.store {
            Store::Memory(map) => reading(map)
                .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
                .next_back()
                .map(|(key, value)| (key.clone(), value.clone())),
            Store::Sled(store) => store.read("floor", |db| {
                if let Some(value) = db.get(key)? {
                    return Ok(Some((key.to_vec(), value.to_vec())));
                }
                Ok(db.get_lt(key)?.map(|(key, value)| (key.to_vec(), value.to_vec())))
            })?,
        };
        // Keys with the prefix lie together: if the nearest one below lacks it, none has it.
        Ok(found.filter(|(key, _)| key.starts_with(prefix)))
    }

    /// Calls `each` with every key that begins with `prefix`, in order, until it returns `false`. It must not call the
    /// index.
    pub fn scan_prefix(
        &self,
        prefix: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), IndexError> {
        match &self.store {
            Store::Memory(map) => {
                for (key, value) in reading(map).range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
                {
                    if !key.starts_with(prefix) || !each(key, value) {
                        break;
                    }
                }
                Ok(())
            }
            Store::Sled(store) => store.read("scan", |db| {
                for item in db.scan_prefix(prefix) {
                    let (key, value) = item?;
                    if !each(&key, &value) {
                        break;
                    }
                }
                Ok(())
            }),
        }
    }

    /// Applies changes as one atomic batch, durable when this returns. Keys in strictly ascending order: sled is several
    /// times faster that way. [`IndexError::Full`] changes nothing, and the same may be committed later. After any other
    /// error the next process finds all of the changes or none.
    pub fn commit(&self, sorted: SortedChanges) -> Result<(), IndexError> {
        if !sorted.is_sorted_by(|(one, _), (two, _)| one < two) {
            return Err(IndexError::Unsorted);
        }
        match &self.store {
            Store::Memory(map) => {
                let mut map = map.write().unwrap_or_else(PoisonError::into_inner);
                for (key, value) in sorted {
                    match value {
                        Some(value) => map.insert(key, value),
                        None => map.remove(&key),
                    };
                }
                Ok(())
            }
            Store::Sled(store) => store.commit(sorted),
        }
    }
}

impl SledStore {
    fn handle(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Db) -> std::io::Result<T>,
    ) -> Result<T, IndexError> {
        let mut handle = self.handle();
        let db = self.opened(&mut handle)?;
        guarded(operation, || work(db)).inspect_err(|error| abandon(&mut handle, error))
    }

    fn commit(&self, sorted: SortedChanges) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        let mut bytes = 0;
        for (key, value) in sorted {
            bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        find_room(free_bytes(&self.dir), bytes as u64, self.spare_bytes.load(Ordering::Relaxed))?;
        self.write(batch)?;
        // An older note only asks for less.
        if let Err(error) = precheck::note_committed(&self.dir) {
            tracing::warn!(%error, "how far the index reaches is not noted");
        }
        if self.written_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= REOPEN_BYTES {
            let mut handle = self.handle();
            *handle = Handle::Closed;
            // What was committed is durable. If this fails, whoever needs the index next tries again.
            if let Err(error) = self.opened(&mut handle) {
                tracing::warn!(%error, "the index could not be opened anew");
            }
        }
        Ok(())
    }

    fn write(&self, batch: sled::Batch) -> Result<(), IndexError> {
        let mut handle = self.handle();
        let db = self.opened(&mut handle)?;
        let flushing = db.clone();
        if let Err(error) = guarded("apply", || db.apply_batch(batch)) {
            std::mem::forget(flushing);
            abandon(&mut handle, &error);
            return Err(error);
        }
        // The flush is the long part, and readers need not wait for it.
        drop(handle);
        if let Err(error) = guarded("flush", || flushing.flush().map(drop)) {
            std::mem::forget(flushing);
            abandon(&mut self.handle(), &error);
            return Err(error);
        }
        Ok(())
    }

    /// The handle, opened anew if it is closed: sled lets go of what it kept in memory only in that way.
    fn opened<'a>(&self, handle: &'a mut Handle) -> Result<&'a Db, IndexError> {
        if let Handle::Closed = handle {
            let begun = Instant::now();
            let db = loop {
                match open_sled(&self.dir) {
                    Err(IndexError::Io { .. }) if begun.elapsed() < REOPEN_PATIENCE => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    opened => break opened?,
                }
            };
            self.written_bytes.store(0, Ordering::Relaxed);
            tracing::debug!(ms = begun.elapsed().as_millis(), "the index has been opened anew");
            *handle = Handle::Open(Box::new(db));
        }
        match handle {
            Handle::Open(db) => Ok(db),
            Handle::Failed(message) => Err(IndexError::Failed { message: message.clone() }),
            Handle::Closed => Err(IndexError::Failed { message: "it is closed".to_owned() }),
        }
    }
}

/// Puts a handle away that has failed, without dropping it.
fn abandon(handle: &mut Handle, error: &IndexError) {
    if let Handle::Open(_) = handle {
        tracing::error!(%error, "the index has failed; the next start opens it anew");
        if let Handle::Open(db) = std::mem::replace(handle, Handle::Failed(error.to_string())) {
            std::mem::forget(db);
        }
    }
}

/// What the file system of the directory has left, if it says.
fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Whether a commit of so many bytes finds room. Where nobody knows, sled has to find out.
fn find_room(free_bytes: Option<u64>, bytes: u64, spare_bytes: u64) -> Result<(), IndexError> {
    let wanted_bytes = bytes.saturating_mul(GROWTH).saturating_add(spare_bytes);
    match free_bytes {
        Some(free_bytes) if free_bytes < wanted_bytes => Err(IndexError::Full { free_bytes, wanted_bytes }),
        _ => Ok(()),
    }
}

fn reading<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn open_sled(dir: &Path) -> Result<Db, IndexError> {
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity_bytes(CACHE_BYTES)
        .flush_every_ms(None)
        .zstd_compression_level(ZSTD_LEVEL);
    let damage = precheck::find_damage(dir)
        .map_err(|error| IndexError::Io { operation: "open", message: error.to_string() })?;
    match damage {
        Some(message) => Err(IndexError::Damaged { operation: "open", message }),
        None => guarded("open", || config.open()),
    }
}

/// Renames the directory to the first free `<name>.<why>-<n>`.
fn move_aside(dir: &Path, why: &str) -> Result<PathBuf, IndexError> {
    let failed = |message: String| IndexError::Io { operation: "move the index aside", message };
    let name =
        dir.file_name().ok_or_else(|| failed("it has no name".to_owned()))?.to_string_lossy().into_owned();
    for number in 1..10_000 {
        let aside = dir.with_file_name(format!("{name}.{why}-{number}"));
        if !aside.exists() {
            std::fs::rename(dir, &aside).map_err(|error| failed(error.to_string()))?;
            return Ok(aside);
        }
    }
    Err(failed("too many are there already".to_owned()))
}

/// Runs something of sled's and turns errors and panics into ours.
fn guarded<T>(operation: &'static str, work: impl FnOnce() -> std::io::Result<T>) -> Result<T, IndexError> {
    match std::panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(IndexError::Io { operation, message: error.to_string() }),
        Err(panic) => {
            let message = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            Err(IndexError::Damaged { operation, message })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
        (key.into(), Some(value.into()))
    }

    fn both(check: impl Fn(Index)) {
        check(Index::in_memory());
        let dir = tempfile::tempdir().unwrap();
        check(Index::open(&dir.path().join("index")).unwrap());
    }

    #[test]
    fn both_kinds_find_scan_and_remove_alike() {
        both(|index| {
            index.commit(vec![put("a1", "1"), put("a3", "3"), put("b1", "x")]).unwrap();
            assert_eq!(index.get(b"a1").unwrap(), Some(b"1".to_vec()));
            assert_eq!(index.get(b"a2").unwrap(), None);
            let floor = |prefix: &str, key: &str| {
                let found = index.floor(prefix.as_bytes(), key.as_bytes()).unwrap();
                found.map(|(key, _)| String::from_utf8(key).unwrap())
            };
            assert_eq!(floor("a", "a0"), None);
            assert_eq!(floor("a", "a1").as_deref(), Some("a1"));
            assert_eq!(floor("a", "a2").as_deref(), Some("a1"));
            assert_eq!(floor("a", "zzz"), None, "the nearest below has another prefix");
            assert_eq!(floor("b", "a9"), None);
            let mut seen = Vec::new();
            index
                .scan_prefix(b"a", &mut |key, _| {
                    seen.push(key.to_vec());
                    true
                })
                .unwrap();
            assert_eq!(seen, vec![b"a1".to_vec(), b"a3".to_vec()]);
            let mut first = 0;
            index
                .scan_prefix(b"", &mut |_, _| {
                    first += 1;
                    false
                })
                .unwrap();
            assert_eq!(first, 1);
            index.commit(vec![(b"a1".to_vec(), None), put("a3", "4")]).unwrap();
            assert_eq!(index.get(b"a1").unwrap(), None);
            assert_eq!(index.get(b"a3").unwrap(), Some(b"4".to_vec()));
            assert_eq!(index.commit(vec![put("b", "1"), put("a", "2")]), Err(IndexError::Unsorted));
            assert_eq!(index.commit(vec![put("a", "1"), put("a", "2")]), Err(IndexError::Unsorted));
        });
    }

    #[test]
    fn a_committed_batch_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let many: Vec<_> = (0..5_000).map(|number| put(&format!("k{number:05}"), "v")).collect();
        {
            let index = Index::open(&path).unwrap();
            index.commit(many).unwrap();
        }
        let index = Index::open(&path).unwrap();
        assert!(index.moved_aside().is_none());
        let mut count = 0;
        index
            .scan_prefix(b"k", &mut |_, _| {
                count += 1;
                true
            })
            .unwrap();
        assert_eq!(count, 5_000);
        assert_eq!(index.floor(b"k", b"k02500x").unwrap().unwrap().0, b"k02500".to_vec());
    }

    #[test]
    fn what_was_written_is_there_after_the_handle_was_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index")).unwrap();
        let Store::Sled(store) = &index.store else { panic!("not in memory") };
        let value = vec![b'v'; 1 << 20];
        for number in 0..60 {
            index.commit(vec![(format!("k{number:02}").into_bytes(), Some(value.clone()))]).unwrap();
        }
        let written = store.written_bytes.load(Ordering::Relaxed);
        assert!((10 << 20..20 << 20).contains(&written), "opened anew once: {written} bytes since");
        let mut count = 0;
        index
            .scan_prefix(b"k", &mut |_, found| {
                assert_eq!(found.len(), value.len());
                count += 1;
                true
            })
            .unwrap();
        assert_eq!(count, 60);
        *store.handle() = Handle::Closed;
        assert_eq!(
            index.get(b"k00").unwrap(),
            Some(value.clone()),
            "a handle that is missing is opened anew"
        );
        drop(index);
        assert_eq!(Index::open(&dir.path().join("index")).unwrap().get(b"k59").unwrap(), Some(value));
    }

    /// Files of the heap that are still empty, made to refuse every write as a full disk does.
    struct FullSlabs(Vec<PathBuf>);

    impl FullSlabs {
        fn of(index: &Path) -> FullSlabs {
            let mut files = Vec::new();
            for file in std::fs::read_dir(index.join("slabs")).unwrap() {
                let file = file.unwrap();
                if file.metadata().unwrap().len() == 0 {
                    std::fs::remove_file(file.path()).unwrap();
                    std::os::unix::fs::symlink("/dev/full", file.path()).unwrap();
                    files.push(file.path());
                }
            }
            FullSlabs(files)
        }

        fn have_room_again(self) {
            self.0.iter().for_each(|file| std::fs::remove_file(file).unwrap());
        }
    }

    #[test]
    fn a_write_that_fails_ends_the_index_and_hangs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        Index::open(&path).unwrap().commit(vec![put("a", "1"), put("b", "1")]).unwrap();
        let slabs = FullSlabs::of(&path);
        let index = Index::open(&path).unwrap();
        let large = "2".repeat(100_000);
        let refused = index.commit(vec![put("b", "2"), put("c", &large)]).unwrap_err();
        assert!(matches!(&refused, IndexError::Io { operation: "flush", .. }), "{refused}");
        assert!(matches!(index.get(b"a"), Err(IndexError::Failed { .. })));
        assert!(matches!(index.commit(vec![put("c", "2")]), Err(IndexError::Failed { .. })));
        drop(index);
        slabs.have_room_again();
        // Another process would open the same directory; this one still holds the lock on it.
        let copy = dir.path().join("copy");
        assert!(std::process::Command::new("cp").arg("-r").args([&path, &copy]).status().unwrap().success());
        let index = Index::open(&copy).unwrap();
        assert!(index.moved_aside().is_none());
        let found = ["a", "b", "c"].map(|key| index.get(key.as_bytes()).unwrap());
        assert_eq!(found, [Some(b"1".to_vec()), Some(b"1".to_vec()), None]);
    }

    #[test]
    fn a_commit_is_refused_before_the_disk_is_full_and_can_be_made_later() {
        assert_eq!(find_room(None, 1 << 40, 1), Ok(()));
        assert_eq!(find_room(Some(1_400), 100, 1_000), Ok(()));
        let full = IndexError::Full { free_bytes: 1_399, wanted_bytes: 1_400 };
        assert_eq!(find_room(Some(1_399), 100, 1_000), Err(full));
        let dir = tempfile::tempdir().unwrap();
        let index = Index::open(&dir.path().join("index")).unwrap();
        index.commit(vec![put("a", "1")]).unwrap();
        index.leave_free(u64::MAX);
        assert!(matches!(index.commit(vec![put("a", "2")]), Err(IndexError::Full { .. })));
        assert_eq!(index.get(b"a").unwrap(), Some(b"1".to_vec()));
        index.leave_free(SPARE_BYTES);
        index.commit(vec![put("a", "2")]).unwrap();
        assert_eq!(index.get(b"a").unwrap(), Some(b"2".to_vec()));
    }

    #[test]
    fn a_damaged_index_is_moved_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        drop(Index::open(&path).unwrap());
        std::fs::write(path.join("settings.toml"), b"nonsense").ok();
        for entry in std::fs::read_dir(&path).unwrap() {
            let file = entry.unwrap().path();
            if file.is_file() {
                std::fs::write(&file, b"nonsense").unwrap();
            }
        }
        let index = Index::open(&path).unwrap();
        let aside = index.moved_aside().unwrap().to_path_buf();
        assert_eq!(aside, dir.path().join("index.damaged-1"));
        assert!(aside.exists());
        index.commit(vec![put("a", "1")]).unwrap();
        assert_eq!(index.get(b"a").unwrap(), Some(b"1".to_vec()));
    }
}
