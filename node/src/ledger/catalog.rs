//! What only group 0 keeps: the cluster's id, which group keeps which journal, and which data directory each node id is
//! bound to, with the last start of that.
//!
//! Invariants: the first cluster id, the first mapping of a name and the first incarnation of a node win and never change;
//! the choice of a group depends on the replicated state alone.

use std::collections::BTreeMap;

use super::store::{self, KeyIndex, LedgerError, TAG_CLUSTER, TAG_NAME, TAG_NODE};

/// What a node id is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Registered {
    /// The data directory's number; 0: none.
    pub incarnation: u64,
    /// The last start of it that is known, and what that process drew.
    pub start: u64,
    /// See `start`.
    pub nonce: u64,
}

#[derive(Debug, Default)]
pub(super) struct Catalog {
    pub(super) cluster: Option<([u8; 16], u32)>,
    pub(super) journals: BTreeMap<String, u32>,
    /// Journals per group.
    used: BTreeMap<u32, u64>,
    pub(super) nodes: BTreeMap<u64, Registered>,
    /// Index writes of the next checkpoint, each key once: a node's id may be loosed and bound again between two.
    changed: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Catalog {
    /// The cluster's id and groups, and whether they are new.
    pub(super) fn form(&mut self, group: u32, cluster_id: [u8; 16], groups: u32) -> (([u8; 16], u32), bool) {
        if let Some(known) = self.cluster {
            return (known, false);
        }
        self.cluster = Some((cluster_id, groups));
        let value = [cluster_id.as_slice(), &groups.to_le_bytes()].concat();
        self.changed.insert(store::prefix(group, TAG_CLUSTER), value);
        ((cluster_id, groups), true)
    }

    /// The group of a journal, and whether it has just been chosen: the least used one, the lowest number among equals.
    /// Before the cluster is formed, there is only group 0.
    pub(super) fn map(&mut self, group: u32, name: &str) -> (u32, bool) {
        if let Some(&known) = self.journals.get(name) {
            return (known, false);
        }
        let groups = self.cluster.map_or(1, |(_, groups)| groups);
        let chosen = (0..groups).min_by_key(|group| self.used.get(group).copied().unwrap_or(0)).unwrap_or(0);
        self.note_mapping(name, chosen);
        let mut key = store::prefix(group, TAG_NAME);
        key.extend_from_slice(name.as_bytes());
        self.changed.insert(key, chosen.to_le_bytes().to_vec());
        (chosen, true)
    }

    fn note_mapping(&mut self, name: &str, group: u32) {
        self.journals.insert(name.to_owned(), group);
        *self.used.entry(group).or_default() += 1;
    }

    /// The incarnation that a node id is bound to, and whether it is new. 0 looses it: the next one binds it anew. A later start
    /// of the directory that it is bound to is kept.
    pub(super) fn register(&mut self, group: u32, node_id: u64, asked: Registered) -> (u64, bool) {
        let bound = self.nodes.get(&node_id).filter(|known| known.incarnation != 0 && asked.incarnation != 0);
        if let Some(&known) = bound
            && (known.incarnation != asked.incarnation || asked.start <= known.start)
        {
            return (known.incarnation, false);
        }
        let is_new = bound.is_none();
        self.nodes.insert(node_id, asked);
        let mut key = store::prefix(group, TAG_NODE);
        key.extend_from_slice(&node_id.to_be_bytes());
        let value = [asked.incarnation, asked.start, asked.nonce].map(u64::to_le_bytes).concat();
        self.changed.insert(key, value);
        (asked.incarnation, is_new)
    }

    pub(super) fn take_changed(&mut self) -> Vec<(Vec<u8>, Vec<u8>)> {
        std::mem::take(&mut self.changed).into_iter().collect()
    }

    pub(super) fn restore(group: u32, index: &dyn KeyIndex) -> Result<Self, LedgerError> {
        let mut catalog = Self::default();
        if let Some(value) = index.get(&store::prefix(group, TAG_CLUSTER))? {
            let cluster = store::read_all(&value, "cluster id", |r| Ok((r.array("")?, r.u32("")?)))?;
            catalog.cluster = Some(cluster);
        }
        each(group, TAG_NAME, index, &mut |name, value| {
            let name = std::str::from_utf8(name).map_err(|_| LedgerError::Corrupt("journal map"))?;
            catalog.note_mapping(name, store::read_all(value, "journal map", |r| r.u32(""))?);
            Ok(())
        })?;
        each(group, TAG_NODE, index, &mut |node, value| {
            let node = node.try_into().map(u64::from_be_bytes).map_err(|_| LedgerError::Corrupt("node"))?;
            let registered = store::read_all(value, "node", |r| {
                Ok(Registered { incarnation: r.u64("")?, start: r.u64("")?, nonce: r.u64("")? })
            })?;
            catalog.nodes.insert(node, registered);
            Ok(())
        })?;
        Ok(catalog)
    }
}

/// Takes one pair of a scan.
pub(super) type TakePair<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), LedgerError> + 'a;

/// Scans one tag and stops at the first fault; keys come without group and tag.
pub(super) fn each(
    group: u32,
    tag: u8,
    index: &dyn KeyIndex,
    take: &mut TakePair<'_>,
) -> Result<(), LedgerError> {
    let prefix = store::prefix(group, tag);
    let mut fault = None;
    index.scan_prefix(&prefix, &mut |key, value| {
        fault = take(key.get(prefix.len()..).unwrap_or_default(), value).err();
        fault.is_none()
    })?;
    fault.map_or(Ok(()), Err)
}
