//! Who a node is: the identity file of its data directory and the header of its peer messages.
//!
//! Invariants: a data directory belongs to one node of one cluster and is opened by one process; the incarnation and the log's id
//! are made with the directory and never change; the cluster id is written once, when the node first learns it; a directory of
//! which a part is missing, older or another's is refused before anything in it is changed ([`parts`]).
//!
//! | file | about |
//! |---|---|
//! | `file` | NODE, byte for byte |
//! | `parts` | whether NODE, log, index and proofs are of one life |
//! | `processes` | which process speaks for a node id, when a directory was copied |

mod file;
pub mod parts;
pub mod processes;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tercet_proto::v1;
use tercet_storage::StoreId;

use self::file::NodeFile;
use self::parts::{FoundLog, GoesOn, Noted, Traces, judge_log, judge_without_node};
use self::processes::{Process, Processes};

/// Version of the peer protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// It belongs to somebody else.
    #[error(
        "data directory {dir}: it belongs to node {found} of cluster {found_cluster}, not to node {wanted} of cluster {wanted_cluster}"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The node that it belongs to.
        found: String,
        /// Its cluster.
        found_cluster: String,
        /// The node that wants it.
        wanted: String,
        /// That node's cluster.
        wanted_cluster: String,
    },
    /// Another process has it open.
    #[error("data directory {dir}: another process is using it (LOCK is held)")]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A part of it is missing, damaged, older than the others, or another directory's.
    #[error(
        "data directory {dir}: {why}; the node does not start, for it may have forgotten what it acknowledged or voted: bring the \
         part back as it was, or empty the directory and let the others take the node for lost with `tercet member replace {node}`"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// The node.
        node: String,
        /// What is wrong.
        why: String,
    },
    /// The file system refused.
    #[error("data directory {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// What the file system said.
        source: std::io::Error,
    },
}

/// What is drawn by chance for a directory that is made now.
#[derive(Clone, Copy, Debug)]
pub struct Drawn {
    /// Its number.
    pub incarnation: u64,
    /// The id of its log.
    pub store: StoreId,
    /// The number of this process, whatever the directory is.
    pub nonce: u64,
}

/// The identity of a running node; holds the directory's lock.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    file: RwLock<NodeFile>,
    /// A header as this process writes it, but for whom it is to and which group it is about.
    base: RwLock<v1::Header>,
    processes: Processes,
    /// Held while NODE is written. Every message reads `file`, which must not wait for a disk that stands still.
    writing: Mutex<()>,
    _lock: std::fs::File,
}

/// How much a term may be beyond the receiver's own. A takeover adds 1,000.
const TERM_JUMP_MAX: u64 = 1_000_000;
/// No term is ever so large: one near the end of the numbers would end all elections.
const TERM_LIMIT: u64 = 1 << 62;
/// A process that nobody has heard for so long may be followed by another one, if nothing else is said.
const LEASE: Duration = Duration::from_millis(500);

/// Whether a term that somebody names can be one, for a node that has voted in `own` (0: in none yet).
///
/// # Errors
/// Why it cannot.
pub fn judge_term(own: u64, named: u64) -> Result<(), String> {
    if named >= TERM_LIMIT {
        return Err(format!("term {named} is beyond any that can be"));
    }
    if own > 0 && named > own.saturating_add(TERM_JUMP_MAX) {
        return Err(format!("term {named} is too far beyond this node's, {own}"));
    }
    Ok(())
}

impl Identity {
    /// Opens a data directory, or makes a new one with what is `drawn` for it.
    ///
    /// # Errors
    /// The directory is another node's, is in use, cannot be written, or a part of it is missing.
    pub fn open(
        dir: &Path,
        cluster_name: &str,
        node_id: u64,
        node: &str,
        drawn: Drawn,
    ) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { dir: dir.to_path_buf(), source };
        let damaged = |why| IdentityError::Damaged { dir: dir.to_path_buf(), node: node.into(), why };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = std::fs::File::create(dir.join("LOCK")).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| IdentityError::InUse { dir: dir.to_path_buf() })?;
        let traces = Traces::look(dir).map_err(io)?;
        let file = match std::fs::read(dir.join(file::NAME)) {
            Ok(text) => {
                let text = String::from_utf8_lossy(&text);
                let file = NodeFile::parse(&text).map_err(damaged)?;
                Self::check(dir, &file, cluster_name, node_id, node)?;
                if file.starts > 0 && !traces.log {
                    return Err(damaged("its log is missing: there is no directory log".into()));
                }
                file
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                judge_without_node(traces).map_err(damaged)?;
                let file = NodeFile::new(cluster_name, node_id, node, drawn.incarnation, drawn.store);
                file.write(dir).map_err(io)?;
                file
            }
            Err(error) => return Err(io(error)),
        };
        let base = v1::Header {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: file.cluster_id.clone().unwrap_or_default().into_bytes().into(),
            epoch: 1,
            from_node: file.node_id,
            incarnation: file.incarnation,
            cluster_name: file.cluster_name.clone(),
            start: file.starts,
            nonce: drawn.nonce.max(1),
            ..v1::Header::default()
        };
        Ok(Self {
            dir: dir.to_path_buf(),
            file: RwLock::new(file),
            base: RwLock::new(base),
            writing: Mutex::new(()),
            processes: Processes::new(LEASE),
            _lock: lock,
        })
    }

    /// As it is, but a process of another node counts as at work for so long after it was heard.
    #[must_use]
    pub fn with_lease(self, lease: Duration) -> Self {
        Self { processes: Processes::new(lease), ..self }
    }

    fn check(
        dir: &Path,
        file: &NodeFile,
        cluster_name: &str,
        node_id: u64,
        node: &str,
    ) -> Result<(), IdentityError> {
        if file.cluster_name != cluster_name || file.node_id != node_id || file.node != node {
            return Err(IdentityError::Foreign {
                dir: dir.to_path_buf(),
                found: format!("{} (id {})", file.node, file.node_id),
                found_cluster: file.cluster_name.clone(),
                wanted: format!("{node} (id {node_id})"),
                wanted_cluster: cluster_name.into(),
            });
        }
        Ok(())
    }

    /// The error for a part that is not as NODE knows it.
    #[must_use]
    pub fn damaged(&self, why: String) -> IdentityError {
        IdentityError::Damaged { dir: self.dir.clone(), node: self.read(|file| file.node.clone()), why }
    }

    /// What NODE says of the log.
    #[must_use]
    pub fn noted(&self) -> Noted {
        self.read(|file| Noted { store: file.store(), starts: file.starts, batch: file.batch })
    }

    /// Whether the log that recovery has found is this directory's, and has lost nothing; to be asked before anything in it is
    /// changed.
    ///
    /// # Errors
    /// Why it must not be gone on with.
    pub fn vet_log(&self, found: Option<FoundLog>) -> Result<(), String> {
        match judge_log(self.noted(), found)? {
            GoesOn::Whole => Ok(()),
            // Before recovery begins to use the numbers anew: a crash must not find a log that ends before what NODE says.
            GoesOn::Shortened(batch) => {
                self.change(|file| file.batch = batch).map_err(|error| format!("its file NODE: {error}"))
            }
        }
    }

    /// All parts are found to belong together, and the log is durable through `batch`: counts a start. Before this nobody has
    /// heard of the node.
    ///
    /// # Errors
    /// NODE cannot be written.
    pub fn begin(&self, batch: u64) -> Result<(), IdentityError> {
        let begun = self.change(|file| (file.starts, file.batch) = (file.starts.saturating_add(1), batch));
        begun.map_err(|source| IdentityError::Io { dir: self.dir.clone(), source })?;
        let start = self.read(|file| file.starts);
        self.rebase(|base| base.start = start);
        Ok(())
    }

    /// Keeps that the log is durable through `batch`. Does nothing if that is known.
    ///
    /// # Errors
    /// NODE cannot be written; what it says is still true.
    pub fn note_batch(&self, batch: u64) -> std::io::Result<()> {
        if batch <= self.read(|file| file.batch) {
            return Ok(());
        }
        self.change(|file| file.batch = batch)
    }

    fn change(&self, change: impl FnOnce(&mut NodeFile)) -> std::io::Result<()> {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = self.read(NodeFile::clone);
        change(&mut changed);
        changed.write(&self.dir)?;
        *self.file.write().unwrap_or_else(PoisonError::into_inner) = changed;
        Ok(())
    }

    fn read<T>(&self, get: impl FnOnce(&NodeFile) -> T) -> T {
        get(&self.file.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The data directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> u64 {
        self.read(|file| file.node_id)
    }

    /// The number of this data directory.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.read(|file| file.incarnation)
    }

    /// The cluster's id in hex; empty until it is known.
    #[must_use]
    pub fn cluster_id(&self) -> String {
        self.read(|file| file.cluster_id.clone()).unwrap_or_default()
    }

    /// Keeps the cluster's id, once.
    ///
    /// # Errors
    /// Another id is kept already, or the file cannot be written.
    pub fn learn_cluster_id(&self, cluster_id: &str) -> Result<(), IdentityError> {
        match self.read(|file| file.cluster_id.clone()) {
            Some(known) if known == cluster_id => Ok(()),
            Some(known) => {
                Err(self.damaged(format!("it belongs to cluster {known}, but the log says {cluster_id}")))
            }
            None => {
                let heard = self.based(|base| base.cluster_id.clone());
                if !heard.is_empty() && heard != cluster_id.as_bytes() {
                    let heard = String::from_utf8_lossy(&heard).into_owned();
                    return Err(self
                        .damaged(format!("the others are cluster {heard}, but the log says {cluster_id}")));
                }
                self.change(|file| file.cluster_id = Some(cluster_id.into()))
                    .map_err(|source| IdentityError::Io { dir: self.dir.clone(), source })?;
                self.hear_cluster_id(cluster_id.as_bytes());
                Ok(())
            }
        }
    }

    /// A node of this cluster has said its id. Until the log says it, messages bear what was heard.
    fn hear_cluster_id(&self, heard: &[u8]) {
        if !heard.is_empty() && self.based(|base| base.cluster_id.is_empty()) {
            let heard = heard.to_vec();
            self.rebase(|base| base.cluster_id = heard.into());
        }
    }

    fn based<T>(&self, get: impl FnOnce(&v1::Header) -> T) -> T {
        get(&self.base.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn rebase(&self, change: impl FnOnce(&mut v1::Header)) {
        change(&mut self.base.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// This process.
    #[must_use]
    pub fn process(&self) -> Process {
        self.based(Process::of)
    }

    /// What has been heard of the other nodes' processes.
    #[must_use]
    pub fn processes(&self) -> &Processes {
        &self.processes
    }

    /// The header of a message to `to_node` about `group`.
    #[must_use]
    pub fn header(&self, to_node: u64, group: u32) -> v1::Header {
        v1::Header { to_node, group, ..self.based(v1::Header::clone) }
    }

    /// The header of an answer to `to_node` about `group`: without the cluster's name, which whoever asked has said.
    #[must_use]
    pub fn answer_header(&self, to_node: u64, group: u32) -> v1::Header {
        self.based(|base| v1::Header {
            cluster_id: base.cluster_id.clone(),
            cluster_name: String::new(),
            to_node,
            group,
            ..*base
        })
    }

    /// Whether a greeting may be answered: it need not know the cluster's id yet.
    ///
    /// # Errors
    /// A sentence that names what does not fit: no header, another version, cluster or node.
    pub fn accept_greeting(&self, header: Option<&v1::Header>) -> Result<(), String> {
        let header = header.ok_or("the message has no header")?;
        self.fits(header)?;
        let (own, name) =
            self.based(|base| (base.cluster_id.clone(), base.cluster_name == header.cluster_name));
        if !name {
            let own = self.based(|base| base.cluster_name.clone());
            return Err(format!(
                "this is cluster {own:?}, the message is from cluster {:?}",
                header.cluster_name
            ));
        }
        if !own.is_empty() && !header.cluster_id.is_empty() && header.cluster_id != own {
            return Err(another_cluster(&own, &header.cluster_id));
        }
        self.hear_cluster_id(&header.cluster_id);
        self.processes.greeted(header.from_node, Process::of(header));
        Ok(())
    }

    /// Whether a message may be taken.
    ///
    /// # Errors
    /// A sentence that names what does not fit: no header, another version, cluster, node or process.
    pub fn accept(&self, header: Option<&v1::Header>) -> Result<(), String> {
        let header = header.ok_or("the message has no header")?;
        self.fits(header)?;
        let (own, name) =
            self.based(|base| (base.cluster_id.clone(), base.cluster_name == header.cluster_name));
        if !name {
            let own = self.based(|base| base.cluster_name.clone());
            return Err(format!(
                "this is cluster {own:?}, the message is from cluster {:?}",
                header.cluster_name
            ));
        }
        if !own.is_empty() && header.cluster_id != own {
            return Err(another_cluster(&own, &header.cluster_id));
        }
        self.hear_cluster_id(&header.cluster_id);
        self.processes.met(header.from_node, Process::of(header)).map_err(|why| why.to_string())
    }

    /// Whether an answer is one of the node that was dialled, and of the process that speaks for it.
    ///
    /// # Errors
    /// What does not fit.
    pub fn accept_answer(&self, dialled: u64, header: Option<&v1::Header>) -> Result<(), String> {
        let header = header.ok_or("the answer has no header")?;
        self.comes_from(dialled, header)?;
        self.processes.met(dialled, Process::of(header)).map_err(|why| why.to_string())
    }

    /// As [`Identity::accept_answer`], of a node that may not take part yet.
    ///
    /// # Errors
    /// What does not fit.
    pub fn accept_greeting_back(&self, dialled: u64, header: Option<&v1::Header>) -> Result<(), String> {
        let header = header.ok_or("the answer has no header")?;
        self.comes_from(dialled, header)?;
        self.hear_cluster_id(&header.cluster_id);
        self.processes.greeted(dialled, Process::of(header));
        Ok(())
    }

    fn comes_from(&self, dialled: u64, header: &v1::Header) -> Result<(), String> {
        if header.from_node != dialled {
            return Err(format!(
                "node {} answers at the address of node {dialled}: check the peer addresses",
                header.from_node
            ));
        }
        self.based(|own| {
            if header.to_node != own.from_node {
                return Err(format!("an answer for node {}", header.to_node));
            }
            let ids = (&own.cluster_id, &header.cluster_id);
            if !ids.0.is_empty() && !ids.1.is_empty() && ids.0 != ids.1 {
                return Err(another_cluster(ids.0, ids.1));
            }
            Ok(())
        })
    }

    /// Version, sender and receiver.
    fn fits(&self, header: &v1::Header) -> Result<(), String> {
        if header.protocol_version != PROTOCOL_VERSION {
            return Err(format!(
                "protocol version {} is not spoken here (version {PROTOCOL_VERSION} is)",
                header.protocol_version
            ));
        }
        let own = self.node_id();
        if header.to_node != own {
            let name = self.read(|file| file.node.clone());
            return Err(format!(
                "this is node {own} ({name}), the message is for node {}: check the peer addresses",
                header.to_node
            ));
        }
        if header.from_node == own {
            return Err(format!("the message says that it is from this node itself, {own}"));
        }
        Ok(())
    }
}

fn another_cluster(own: &[u8], other: &[u8]) -> String {
    let (own, other) = (String::from_utf8_lossy(own), String::from_utf8_lossy(other));
    if other.is_empty() {
        return format!("this is cluster {own}, and the message does not say which one it is from");
    }
    format!("this is cluster {own}, the message is from cluster {other}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(
        dir: &Path,
        cluster: &str,
        id: u64,
        node: &str,
        incarnation: u64,
    ) -> Result<Identity, IdentityError> {
        let store = StoreId([u8::try_from(incarnation).unwrap(); 16]);
        Identity::open(dir, cluster, id, node, Drawn { incarnation, store, nonce: incarnation + 100 })
    }

    #[test]
    fn a_directory_keeps_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "t", 1, "a1", 42).unwrap();
        assert!(matches!(open(dir.path(), "t", 1, "a1", 43), Err(IdentityError::InUse { .. })));
        first.learn_cluster_id("0011").unwrap();
        drop(first);
        let again = open(dir.path(), "t", 1, "a1", 43).unwrap();
        assert_eq!((again.incarnation(), again.cluster_id().as_str()), (42, "0011"));
        assert!(again.learn_cluster_id("0022").is_err());
        drop(again);
        let text = open(dir.path(), "t", 2, "a2", 1).unwrap_err().to_string();
        assert!(text.contains("a1 (id 1)") && text.contains("a2 (id 2)"), "{text}");
        let text = open(dir.path(), "other", 1, "a1", 1).unwrap_err().to_string();
        assert!(text.contains("cluster t"), "{text}");
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        assert!(matches!(open(dir.path(), "t", 1, "a1", 1), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn messages_of_others_are_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = open(one.path(), "t", 1, "a1", 1).unwrap();
        let b = open(two.path(), "t", 2, "a2", 1).unwrap();
        assert_eq!(b.accept(Some(&a.header(2, 0))), Ok(()));
        assert!(b.accept(Some(&a.header(3, 0))).unwrap_err().contains("for node 3"));
        assert!(b.accept(None).is_err());
        assert!(b.accept(Some(&b.header(2, 0))).unwrap_err().contains("from this node itself"));
        a.learn_cluster_id("aa").unwrap();
        assert_eq!(b.accept(Some(&a.header(2, 0))), Ok(()), "a node that does not know its cluster yet");
        assert_eq!(b.header(1, 0).cluster_id, "aa", "and says from now on what it has heard");
        assert!(b.learn_cluster_id("bb").unwrap_err().to_string().contains("the others are cluster aa"));
        b.learn_cluster_id("aa").unwrap();
        let silent = v1::Header { cluster_id: bytes::Bytes::new(), ..a.header(2, 0) };
        assert!(b.accept(Some(&silent)).unwrap_err().contains("does not say"));
        assert_eq!(b.accept_greeting(Some(&silent)), Ok(()), "only a greeting need not know the id");
        let other = v1::Header { cluster_id: bytes::Bytes::from_static(b"cc"), ..a.header(2, 0) };
        assert!(b.accept(Some(&other)).unwrap_err().contains("cluster cc"));
        assert!(b.accept_greeting(Some(&other)).unwrap_err().contains("cluster cc"));
    }

    #[test]
    fn an_answer_is_of_the_node_that_was_dialled_and_of_one_process() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = open(one.path(), "t", 1, "a1", 1).unwrap();
        let b = open(two.path(), "t", 2, "a2", 1).unwrap();
        assert_eq!(a.accept_answer(2, Some(&b.answer_header(1, 0))), Ok(()));
        assert!(a.accept_answer(2, None).is_err());
        assert!(a.accept_answer(3, Some(&b.answer_header(1, 0))).unwrap_err().contains("node 2 answers"));
        assert!(a.accept_answer(2, Some(&b.answer_header(4, 0))).unwrap_err().contains("for node 4"));
        let copy = v1::Header { nonce: 999, start: 1, ..b.header(1, 0) };
        assert!(a.accept(Some(&copy)).unwrap_err().contains("another process"), "a copy of its directory");
        assert_eq!(a.accept_greeting(Some(&copy)), Ok(()), "which is told so");
        let (other, _) = a.processes().other_than(2, Process::of(&copy)).unwrap();
        assert_eq!(other, b.process());
    }

    #[test]
    fn a_term_beyond_any_sane_one_is_refused() {
        let rows = [(0, 5, true), (0, 5_000_000, true), (5, 1_000_005, true), (5, 1_000_006, false)];
        for (own, named, is_sane) in rows {
            assert_eq!(judge_term(own, named).is_ok(), is_sane, "{named} for {own}");
        }
        assert!(judge_term(0, TERM_LIMIT).is_err() && judge_term(u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn a_start_is_counted_and_what_the_log_reached_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "t", 1, "a1", 42).unwrap();
        assert_eq!(first.noted(), Noted { store: StoreId([42; 16]), starts: 0, batch: 0 });
        drop(first);
        // Killed before the log was made: nothing has begun.
        let again = open(dir.path(), "t", 1, "a1", 43).unwrap();
        again.vet_log(None).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        again.begin(7).unwrap();
        again.note_batch(9).unwrap();
        again.note_batch(8).unwrap();
        assert_eq!(again.noted(), Noted { store: StoreId([42; 16]), starts: 1, batch: 9 });
        let rotten = FoundLog { store: StoreId([42; 16]), last_batch: 5, ends_in_rot: true };
        assert!(again.vet_log(Some(FoundLog { ends_in_rot: false, ..rotten })).is_err());
        again.vet_log(Some(rotten)).unwrap();
        drop(again);
        let again = open(dir.path(), "t", 1, "a1", 43).unwrap();
        assert_eq!(again.noted().batch, 5, "the log goes on with the numbers that rot has left");
        drop(again);
        std::fs::remove_dir(dir.path().join("log")).unwrap();
        let why = open(dir.path(), "t", 1, "a1", 43).unwrap_err().to_string();
        assert!(why.contains("log is missing") && why.contains("member replace a1"), "{why}");
    }

    #[test]
    fn an_emptied_node_file_is_damage() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path(), "t", 1, "a1", 42).unwrap());
        for content in ["", "format = 1", "\u{0}\u{0}"] {
            std::fs::write(dir.path().join("NODE"), content).unwrap();
            assert!(
                matches!(open(dir.path(), "t", 1, "a1", 1), Err(IdentityError::Damaged { .. })),
                "{content:?}"
            );
        }
    }
}
