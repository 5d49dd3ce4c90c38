//! What other nodes have acknowledged to this one as a leader, and voted for it, kept in memory: a node whose directory was put back to
//! an earlier state has forgotten it.
//!
//! What cannot go back: within a leader's term a follower's log is never shortened below what it has acknowledged to that leader, and
//! a vote is never taken back. Once the follower has voted in a later term, a later leader may have replaced what had been
//! acknowledged to this one, so nothing follows from that any more.
//!
//! Invariants: what is remembered is of one directory (incarnation); whoever has gone back counts for nothing, neither for a watermark nor
//! as in contact, until it answers from another directory.

use super::{Gate, Inner};

/// What a node remembers of another one in a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The other one's directory.
    pub incarnation: u64,
    /// It has acknowledged this node's log, as the leader of this term.
    pub term: u64,
    /// Up to here.
    pub index: u64,
    /// The last term in which it has voted for this node.
    pub vote_term: u64,
}

/// Where a node says that its log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogEnd {
    /// The term of its vote.
    pub vote_term: u64,
    /// Its last entry.
    pub last: u64,
}

/// A node that has forgotten something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoneBack {
    /// Its directory.
    pub incarnation: u64,
    /// What it had acknowledged.
    pub had: u64,
}

impl Remembered {
    fn of(&mut self, incarnation: u64) {
        if self.incarnation != incarnation {
            *self = Self { incarnation, ..Self::default() };
        }
    }

    pub(super) fn acknowledged(&mut self, incarnation: u64, term: u64, index: u64) {
        self.of(incarnation);
        if term > self.term {
            (self.term, self.index) = (term, index);
        } else if term == self.term {
            self.index = self.index.max(index);
        }
    }

    fn voted(&mut self, incarnation: u64, term: u64) {
        self.of(incarnation);
        self.vote_term = self.vote_term.max(term);
    }

    /// What a log that ends so must have forgotten, in words; none: nothing that is remembered.
    #[must_use]
    pub fn contradicted_by(&self, end: LogEnd) -> Option<String> {
        let LogEnd { vote_term, last } = end;
        if vote_term < self.vote_term {
            return Some(format!("it voted in term {}, and knows of term {vote_term} only", self.vote_term));
        }
        if vote_term < self.term {
            return Some(format!(
                "it followed the leader of term {}, and knows of term {vote_term} only",
                self.term
            ));
        }
        (vote_term == self.term && last < self.index)
            .then(|| format!("it acknowledged entry {}, and its log ends with entry {last}", self.index))
    }
}

impl Gate {
    /// A follower answers from this process: another one than before has yet to say what it holds.
    pub(in crate::raft) fn met_process(&self, term: u64, node: u64, nonce: u64) {
        let mut inner = self.inner();
        let Some(leading) = inner.leading.as_mut().filter(|leading| leading.term == term) else { return };
        if leading.processes.insert(node, nonce).is_some_and(|before| before != nonce) {
            leading.acks.forget(node);
        }
    }

    /// A voter has granted this node its vote in `term`.
    pub(in crate::raft) fn voted_for_this(&self, node: u64, incarnation: u64, term: u64) {
        self.inner().remembered.entry(node).or_default().voted(incarnation, term);
    }

    /// From which directory and how far a node has acknowledged this leader's log in `term`.
    pub(in crate::raft) fn acknowledged_by(&self, term: u64, node: u64) -> (u64, u64) {
        let inner = self.inner();
        let known = inner.remembered.get(&node).filter(|known| known.term == term);
        known.map_or((0, 0), |known| (known.incarnation, known.index))
    }

    /// What is remembered of a node's directory.
    #[must_use]
    pub fn remembered(&self, node: u64, incarnation: u64) -> Option<Remembered> {
        let inner = self.inner();
        inner.remembered.get(&node).filter(|known| known.incarnation == incarnation).copied()
    }

    /// A follower says in `term` that its log does not match at `conflict`. True: it had acknowledged that, and has gone back; it
    /// counts for nothing from now on.
    pub(in crate::raft) fn contradicts(&self, term: u64, node: u64, incarnation: u64, conflict: u64) -> bool {
        let known = self.remembered(node, incarnation);
        let had = known.filter(|known| incarnation != 0 && known.term == term && conflict <= known.index);
        had.is_some_and(|had| {
            self.gone_back(node, GoneBack { incarnation, had: had.index });
            true
        })
    }

    /// A node has forgotten something that it had acknowledged or voted.
    pub fn gone_back(&self, node: u64, back: GoneBack) {
        let mut inner = self.inner();
        let Inner { leading, gone_back, .. } = &mut *inner;
        if gone_back.insert(node, back) == Some(back) {
            return;
        }
        tracing::error!(
            group = self.group,
            node,
            had = back.had,
            "a node has forgotten what it acknowledged"
        );
        if let Some(leading) = leading {
            leading.acks.forget(node);
            leading.contacts.lost(node);
        }
    }

    /// A node says where its log ends, and has forgotten nothing: its directory is again as it was.
    pub fn came_back(&self, node: u64) {
        self.inner().gone_back.remove(&node);
    }

    /// Those that have forgotten something, and have not come back with another directory since.
    #[must_use]
    pub fn all_gone_back(&self) -> Vec<(u64, GoneBack)> {
        let inner = self.inner();
        let is_now = |node: &u64, back: &GoneBack| {
            inner.remembered.get(node).is_none_or(|known| known.incarnation == back.incarnation)
        };
        inner
            .gone_back
            .iter()
            .filter(|(node, back)| is_now(node, back))
            .map(|(node, back)| (*node, *back))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_acknowledged_in_a_term_and_voted_cannot_be_missing() {
        let mut known = Remembered::default();
        known.acknowledged(7, 3, 48);
        known.acknowledged(7, 3, 40);
        known.voted(7, 2);
        let end = |vote_term, last| LogEnd { vote_term, last };
        let rows = [
            ("as it was", end(3, 48), None),
            ("further", end(3, 50), None),
            ("an older copy", end(3, 28), Some("acknowledged entry 48")),
            ("a copy from before the term", end(2, 48), Some("followed the leader of term 3")),
            ("a copy from before its vote", end(1, 48), Some("voted in term 2")),
            ("a later leader may have replaced the end", end(4, 28), None),
        ];
        for (what, end, expected) in rows {
            let found = known.contradicted_by(end);
            assert!(
                match (&found, expected) {
                    (None, None) => true,
                    (Some(found), Some(part)) => found.contains(part),
                    _ => false,
                },
                "{what}: {found:?}"
            );
        }
        known.acknowledged(7, 4, 30);
        assert_eq!((known.term, known.index), (4, 30), "a new term begins anew");
        known.acknowledged(8, 4, 2);
        assert_eq!(
            known,
            Remembered { incarnation: 8, term: 4, index: 2, vote_term: 0 },
            "another directory"
        );
    }
}
