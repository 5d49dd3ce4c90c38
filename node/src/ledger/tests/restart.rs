//! Checkpoints: what they hold, what restoring refuses.

use std::sync::Arc;

use super::support::{MapIndex, Replica, payment};
use crate::ledger::{Command, Ledger, LedgerError};

#[test]
fn a_checkpoint_holds_only_what_changed() {
    let mut replica = Replica::with_journal();
    replica.append((0..100).map(|at| payment(&format!("k{at}"), &format!("A{at}"), 1)).collect());
    assert_eq!(replica.ledger.entries_since_checkpoint(), 100);
    let first = replica.ledger.begin_checkpoint().unwrap();
    assert_eq!(first.applied, (1, 1));
    let writes = first.to_writes();
    // meta, journal, 101 balances, 1 block of keys, 1 mark
    assert_eq!(writes.len(), 105);
    assert!(replica.ledger.begin_checkpoint().is_none(), "one at a time");
    replica.index.commit(writes);
    replica.ledger.finish_checkpoint();
    assert!(replica.ledger.begin_checkpoint().is_none(), "nothing changed");
    replica.append(vec![payment("k3", "A3", 1), payment("n", "A3", 5)]);
    // meta, journal, 2 balances, 1 block of keys, 1 mark
    assert_eq!(replica.ledger.begin_checkpoint().unwrap().to_writes().len(), 6);
}

#[test]
fn a_node_that_was_replaced_between_two_checkpoints_is_written_once() {
    let mut replica = Replica::of_group(0);
    let register = |incarnation| Command::RegisterNode { node_id: 4, incarnation, start: 0, nonce: 0 };
    for incarnation in [7, 0, 8] {
        replica.command(&register(incarnation));
    }
    let writes = replica.ledger.begin_checkpoint().unwrap().to_writes();
    assert!(writes.is_sorted_by(|one, other| one.0 < other.0), "the index takes no key twice");
    replica.index.commit(writes);
    replica.ledger.finish_checkpoint();
    replica.restart();
    assert_eq!(replica.ledger.registered_incarnation(4), Some(8));
}

#[test]
fn keys_and_marks_stay_findable_while_a_checkpoint_is_written() {
    let mut replica = Replica::with_journal();
    replica.append(vec![payment("a", "AB", 1)]);
    let digest = replica.ledger.digest().unwrap();
    let checkpoint = replica.ledger.begin_checkpoint().unwrap();
    assert_eq!(replica.ledger.digest().unwrap(), digest);
    assert_eq!(replica.ledger.locate_key("j", "a").unwrap(), Some(1));
    assert_eq!(replica.ledger.locate("j", 1).unwrap().unwrap().log_index, 1);
    replica.append(vec![payment("a", "AB", 1), payment("b", "AB", 1)]);
    let digest = replica.ledger.digest().unwrap();
    replica.index.commit(checkpoint.to_writes());
    assert_eq!(replica.ledger.digest().unwrap(), digest);
    replica.ledger.finish_checkpoint();
    assert_eq!(replica.ledger.digest().unwrap(), digest);
    assert_eq!(replica.ledger.locate_key("j", "a").unwrap(), Some(1));
    assert_eq!(replica.ledger.locate_key("j", "b").unwrap(), Some(2));
    replica.restart();
    assert_eq!(replica.ledger.digest().unwrap(), digest);
}

#[test]
fn groups_share_an_index_without_mixing() {
    let mut one = Replica::of_group(1);
    let mut two = Replica::of_group(2);
    two.index = one.index.clone();
    two.ledger = Ledger::new(2, two.index.clone());
    for (replica, key) in [(&mut one, "x"), (&mut two, "y")] {
        replica.command(&crate::ledger::Command::CreateJournal(super::support::settings("j")));
        replica.append(vec![payment(key, "AB", 1)]);
        replica.checkpoint();
    }
    for (replica, known, unknown) in [(&mut one, "x", "y"), (&mut two, "y", "x")] {
        let digest = replica.ledger.digest().unwrap();
        replica.restart();
        assert_eq!(replica.ledger.digest().unwrap(), digest);
        assert_eq!(replica.ledger.locate_key("j", known).unwrap(), Some(1));
        assert_eq!(replica.ledger.locate_key("j", unknown).unwrap(), None);
    }
}

#[test]
fn an_empty_index_is_an_empty_log() {
    let ledger = Ledger::restore(0, Arc::new(MapIndex::default())).unwrap();
    assert_eq!(ledger.applied(), None);
    assert_eq!(ledger.journal_count(), 0);
}

/// Every value cut short or lengthened, and a missing meta record: an error, never a panic, never a wrong state.
#[test]
fn a_damaged_checkpoint_is_refused() {
    let mut replica = Replica::with_journal();
    replica.append(vec![payment("a", "AB", 1)]);
    replica.append(vec![payment("a", "AB", 1), payment("b", "AB", 1)]);
    replica.command(&crate::ledger::Command::FormCluster { cluster_id: [1; 16], groups: 1 });
    replica.command(&crate::ledger::Command::MapJournal { name: "j".into() });
    replica.command(&crate::ledger::Command::RegisterNode { node_id: 1, incarnation: 1, start: 0, nonce: 0 });
    replica.checkpoint();
    let pairs = replica.index.pairs();
    let read_at_restart = pairs.iter().filter(|(key, _)| key[4] != b'P');
    for (key, value) in read_at_restart {
        let longer = [value.as_slice(), &[0]].concat();
        for damaged in [Some(value[..value.len() - 1].to_vec()), Some(longer), Some(Vec::new())] {
            replica.index.commit(vec![(key.clone(), damaged)]);
            let error = Ledger::restore(0, replica.index.clone()).err();
            assert!(matches!(error, Some(LedgerError::Corrupt(_))), "{key:?}: {error:?}");
        }
        replica.index.commit(vec![(key.clone(), Some(value.clone()))]);
    }
    for (key, value) in pairs.iter().filter(|(key, _)| key[4] == b'P') {
        replica.index.commit(vec![(key.clone(), Some(value[..value.len() - 1].to_vec()))]);
        let ledger = Ledger::restore(0, replica.index.clone()).unwrap();
        let found = [ledger.locate("j", 1).map(drop), ledger.locate("j", 2).map(drop)];
        let faults = found.iter().filter(|found| found.is_err()).count();
        assert_eq!(faults, 1, "{key:?}");
        replica.index.commit(vec![(key.clone(), Some(value.clone()))]);
    }
    let meta = pairs.keys().find(|key| key[4] == b'M').unwrap().clone();
    replica.index.commit(vec![(meta, None)]);
    assert!(matches!(Ledger::restore(0, replica.index.clone()), Err(LedgerError::Corrupt(_))));
}
