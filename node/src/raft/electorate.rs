//! Whose majorities count, read from openraft's memberships and from the index, and as peers say it.
//!
//! Invariant: a membership that cannot be read is one that is not known, never an empty one that everybody is a majority of.

use tercet_proto::v1;
use tercet_storage::index::Index;

use super::snapshot::decode_stored_membership;
use super::state_machine::membership_key;
use super::types::{StoredMembership, term_of};
use crate::placement::Electorate;

/// The voters of a membership.
#[must_use]
pub fn of_membership(stored: &StoredMembership) -> Electorate {
    Electorate {
        at: stored.log_id().as_ref().map_or((0, 0), |id| (term_of(id), id.index)),
        halves: stored.membership().get_joint_config().clone(),
    }
}

/// The voters that a group's checkpoint knows, whether the group runs or not; none before its first one.
#[must_use]
pub fn checkpointed(index: &Index, group: u32) -> Electorate {
    let stored = index.get(&membership_key(group)).ok().flatten();
    let stored = stored.and_then(|bytes| decode_stored_membership(&bytes).ok());
    stored.as_ref().map(of_membership).unwrap_or_default()
}

/// As peers say it; none is said of a membership that is not known.
#[must_use]
pub fn to_wire(electorate: &Electorate) -> Option<v1::PeerMembers> {
    let voters =
        |half: &std::collections::BTreeSet<u64>| v1::PeerVoters { node_ids: half.iter().copied().collect() };
    let (term, index) = electorate.at;
    (!electorate.halves.is_empty()).then(|| v1::PeerMembers {
        at: Some(v1::PeerLogId { term, index }),
        halves: electorate.halves.iter().map(voters).collect(),
    })
}

/// What a peer says; an empty half is none.
#[must_use]
pub fn from_wire(said: Option<&v1::PeerMembers>) -> Electorate {
    let Some(said) = said.filter(|said| said.halves.iter().all(|half| !half.node_ids.is_empty())) else {
        return Electorate::default();
    };
    Electorate {
        at: said.at.as_ref().map_or((0, 0), |at| (at.term, at.index)),
        halves: said.halves.iter().map(|half| half.node_ids.iter().copied().collect()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_told_what_is_known_and_nothing_else() {
        let joint = Electorate { at: (3, 9), halves: vec![[1, 2, 3].into(), [1, 2, 4].into()] };
        assert_eq!(from_wire(to_wire(&joint).as_ref()), joint);
        assert_eq!(to_wire(&Electorate::default()), None);
        assert_eq!(from_wire(None), Electorate::default());
        let empty_half = v1::PeerMembers { at: None, halves: vec![v1::PeerVoters::default()] };
        assert_eq!(from_wire(Some(&empty_half)), Electorate::default());
        assert_eq!(from_wire(Some(&v1::PeerMembers::default())).halves.len(), 0);
    }
}
