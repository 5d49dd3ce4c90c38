//! The file NODE of a data directory: whose it is, and what it knows of the directory's other parts.
//!
//! ```toml
//! format = 1
//! cluster_name = "tercet"
//! node_id = 3
//! node = "b1"
//! incarnation = 5061
//! store = "..."       # the id of the log in log/; drawn before that is made
//! starts = 4          # how often a node has begun to take part from here; 0: the log may not have been made yet
//! batch = 118         # a batch of the log that was durable when this was written
//! cluster_id = "..."  # once the node knows it
//! ```
//!
//! Invariants: the file is replaced as a whole, durably, and needs no room for that once it is there: the former one, NODE.old, is
//! overwritten and the two change places. So a full disk keeps no node from starting. `batch` never runs ahead of the log.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::{Deserialize, Serialize};
use tercet_storage::StoreId;

/// Its name.
pub(super) const NAME: &str = "NODE";
const FORMER: &str = "NODE.old";

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFile {
    pub(super) format: u32,
    pub(super) cluster_name: String,
    pub(super) node_id: u64,
    pub(super) node: String,
    pub(super) incarnation: u64,
    store: String,
    pub(super) starts: u64,
    pub(super) batch: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) cluster_id: Option<String>,
}

impl NodeFile {
    /// Of a directory that is made now.
    pub(super) fn new(
        cluster_name: &str,
        node_id: u64,
        node: &str,
        incarnation: u64,
        store: StoreId,
    ) -> Self {
        Self {
            format: 1,
            cluster_name: cluster_name.into(),
            node_id,
            node: node.into(),
            incarnation: incarnation.max(1),
            store: store.to_string(),
            starts: 0,
            batch: 0,
            cluster_id: None,
        }
    }

    /// Reads it from its text.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let file: Self =
            toml::from_str(text).map_err(|error| format!("its file NODE is damaged: {error}"))?;
        if file.format != 1 {
            return Err(format!(
                "its file NODE has format {}, which is not known to this version",
                file.format
            ));
        }
        if StoreId::parse(&file.store).is_none() {
            return Err("its file NODE is damaged: store is no 32 hexadecimal digits".into());
        }
        Ok(file)
    }

    /// The log's id.
    pub(super) fn store(&self) -> StoreId {
        // Read or made as one.
        StoreId::parse(&self.store).unwrap_or(StoreId([0; 16]))
    }

    /// Puts it in the place of the former one.
    ///
    /// # Errors
    /// The file system refused; the former one is still there.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        let (path, former) = (dir.join(NAME), dir.join(FORMER));
        overwrite(&former, text.as_bytes())?;
        match renameat_with(CWD, &former, CWD, &path, RenameFlags::EXCHANGE) {
            Ok(()) => {}
            // There is none yet, or the file system cannot do that.
            Err(_) => std::fs::rename(&former, &path)?,
        }
        File::open(dir)?.sync_all()?;
        if !former.exists() {
            // The room for the next time.
            overwrite(&former, text.as_bytes())?;
        }
        Ok(())
    }
}

/// Writes a file in place, durably. Its old length is cut last, so that a file that has its blocks keeps them.
fn overwrite(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}
