//! Who a node is: the identity file of its data directory and the header of its peer messages.
//!
//! Invariants: a data directory belongs to one node of one cluster and is opened by one process; the incarnation is made with
//! the directory and never changes; the cluster id is written once, when the node first learns it.

use std::path::{Path, PathBuf};
use std::sync::RwLock;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tercet_proto::v1;

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
    /// A log without an identity, or an identity that cannot be read.
    #[error("data directory {dir}: {why}")]
    Damaged {
        /// The directory.
        dir: PathBuf,
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

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct IdentityFile {
    format: u32,
    cluster_name: String,
    node_id: u64,
    node: String,
    incarnation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cluster_id: Option<String>,
}

/// The identity of a running node; holds the directory's lock.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    file: RwLock<IdentityFile>,
    _lock: std::fs::File,
}

impl Identity {
    /// Opens a data directory, or makes a new one with `new_incarnation`.
    ///
    /// # Errors
    /// The directory is another node's, is in use, cannot be written, or its identity is damaged.
    pub fn open(
        dir: &Path,
        cluster_name: &str,
        node_id: u64,
        node: &str,
        new_incarnation: u64,
    ) -> Result<Self, IdentityError> {
        let io = |source| IdentityError::Io { dir: dir.to_path_buf(), source };
        std::fs::create_dir_all(dir).map_err(io)?;
        let lock = std::fs::File::create(dir.join("LOCK")).map_err(io)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| IdentityError::InUse { dir: dir.to_path_buf() })?;
        let path = dir.join("NODE");
        let file = match std::fs::read_to_string(&path) {
            Ok(text) => Self::check(dir, &text, cluster_name, node_id, node)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if dir.join("log").exists() {
                    return Err(IdentityError::Damaged {
                        dir: dir.to_path_buf(),
                        why: "it holds a log but its file NODE is missing; restore NODE or move the directory away".into(),
                    });
                }
                let file = IdentityFile {
                    format: 1,
                    cluster_name: cluster_name.into(),
                    node_id,
                    node: node.into(),
                    incarnation: new_incarnation.max(1),
                    cluster_id: None,
                };
                Self::write(dir, &file).map_err(io)?;
                file
            }
            Err(error) => return Err(io(error)),
        };
        Ok(Self { dir: dir.to_path_buf(), file: RwLock::new(file), _lock: lock })
    }

    fn check(
        dir: &Path,
        text: &str,
        cluster_name: &str,
        node_id: u64,
        node: &str,
    ) -> Result<IdentityFile, IdentityError> {
        let file: IdentityFile = toml::from_str(text)
            .map_err(|e| IdentityError::Damaged { dir: dir.to_path_buf(), why: format!("NODE: {e}") })?;
        if file.format != 1 {
            let why = format!("NODE: format {} is not known to this version", file.format);
            return Err(IdentityError::Damaged { dir: dir.to_path_buf(), why });
        }
        if file.cluster_name != cluster_name || file.node_id != node_id || file.node != node {
            return Err(IdentityError::Foreign {
                dir: dir.to_path_buf(),
                found: format!("{} (id {})", file.node, file.node_id),
                found_cluster: file.cluster_name,
                wanted: format!("{node} (id {node_id})"),
                wanted_cluster: cluster_name.into(),
            });
        }
        Ok(file)
    }

    fn write(dir: &Path, file: &IdentityFile) -> std::io::Result<()> {
        let text = toml::to_string(file).map_err(std::io::Error::other)?;
        let temporary = dir.join("NODE.new");
        std::fs::write(&temporary, text)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, dir.join("NODE"))?;
        std::fs::File::open(dir)?.sync_all()
    }

    fn read<T>(&self, get: impl FnOnce(&IdentityFile) -> T) -> T {
        get(&self.file.read().unwrap_or_else(std::sync::PoisonError::into_inner))
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
        let mut file = self.file.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &file.cluster_id {
            Some(known) if known == cluster_id => Ok(()),
            Some(known) => {
                let why = format!("it belongs to cluster {known}, but the log says {cluster_id}");
                Err(IdentityError::Damaged { dir: self.dir.clone(), why })
            }
            None => {
                file.cluster_id = Some(cluster_id.into());
                Self::write(&self.dir, &file)
                    .map_err(|source| IdentityError::Io { dir: self.dir.clone(), source })
            }
        }
    }

    /// The header of a message to `to_node` about `group`.
    #[must_use]
    pub fn header(&self, to_node: u64, group: u32) -> v1::Header {
        self.read(|file| v1::Header {
            protocol_version: PROTOCOL_VERSION,
            cluster_id: file.cluster_id.clone().unwrap_or_default().into_bytes().into(),
            epoch: 1,
            from_node: file.node_id,
            to_node,
            incarnation: file.incarnation,
            group,
            cluster_name: file.cluster_name.clone(),
        })
    }

    /// Whether a message may be taken.
    ///
    /// # Errors
    /// A sentence that names what does not fit: no header, another version, cluster or node.
    pub fn accept(&self, header: Option<&v1::Header>) -> Result<(), String> {
        let header = header.ok_or("the message has no header")?;
        if header.protocol_version != PROTOCOL_VERSION {
            return Err(format!(
                "protocol version {} is not spoken here (version {PROTOCOL_VERSION} is)",
                header.protocol_version
            ));
        }
        self.read(|file| {
            if header.to_node != file.node_id {
                return Err(format!(
                    "this is node {} ({}), the message is for node {}: check the peer addresses",
                    file.node_id, file.node, header.to_node
                ));
            }
            if header.cluster_name != file.cluster_name {
                return Err(format!(
                    "this is cluster {:?}, the message is from cluster {:?}",
                    file.cluster_name, header.cluster_name
                ));
            }
            match &file.cluster_id {
                Some(own) if !header.cluster_id.is_empty() && header.cluster_id != own.as_bytes() => {
                    Err(format!(
                        "this is cluster {own}, the message is from cluster {}",
                        String::from_utf8_lossy(&header.cluster_id)
                    ))
                }
                _ => Ok(()),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), "t", 1, "a1", 42).unwrap();
        assert!(matches!(Identity::open(dir.path(), "t", 1, "a1", 43), Err(IdentityError::InUse { .. })));
        first.learn_cluster_id("0011").unwrap();
        drop(first);
        let again = Identity::open(dir.path(), "t", 1, "a1", 43).unwrap();
        assert_eq!((again.incarnation(), again.cluster_id().as_str()), (42, "0011"));
        assert!(again.learn_cluster_id("0022").is_err());
        drop(again);
        let text = Identity::open(dir.path(), "t", 2, "a2", 1).unwrap_err().to_string();
        assert!(text.contains("a1 (id 1)") && text.contains("a2 (id 2)"), "{text}");
        let text = Identity::open(dir.path(), "other", 1, "a1", 1).unwrap_err().to_string();
        assert!(text.contains("cluster t"), "{text}");
    }

    #[test]
    fn a_log_without_an_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        assert!(matches!(Identity::open(dir.path(), "t", 1, "a1", 1), Err(IdentityError::Damaged { .. })));
    }

    #[test]
    fn messages_of_others_are_refused() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let a = Identity::open(one.path(), "t", 1, "a1", 1).unwrap();
        let b = Identity::open(two.path(), "t", 2, "a2", 1).unwrap();
        assert_eq!(b.accept(Some(&a.header(2, 0))), Ok(()));
        assert!(b.accept(Some(&a.header(3, 0))).unwrap_err().contains("for node 3"));
        assert!(b.accept(None).is_err());
        a.learn_cluster_id("aa").unwrap();
        assert_eq!(b.accept(Some(&a.header(2, 0))), Ok(()), "a node that does not know its cluster yet");
        b.learn_cluster_id("bb").unwrap();
        assert!(b.accept(Some(&a.header(2, 0))).unwrap_err().contains("cluster aa"));
    }
}
