//! openraft's own conformance suite over the real segment log and the real state machine.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tercet_node::raft::log_store::LogStore;
use tercet_node::raft::state_machine::{GroupState, StateMachine};
use tercet_node::raft::types::TypeConfig;
use tercet_storage::disk::{DiskChoice, open_directory};
use tercet_storage::index::Index;
use tercet_storage::{LogOptions, SegmentLog};
use tokio::sync::watch;

struct Builder;

/// Keeps the directory and closes the log when a test of the suite is over.
struct Guard {
    log: SegmentLog,
    _dir: TempDir,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.log.close();
    }
}

impl StoreBuilder<TypeConfig, LogStore, StateMachine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let disk = open_directory(&dir.path().join("log"), DiskChoice::UringOrPortable).expect("a disk");
        let options = LogOptions { segment_bytes: 8 << 20, ..LogOptions::default() };
        let (log, report) = SegmentLog::open(disk, options).expect("a log");
        assert!(report.quarantined.is_empty());
        let (flushed_tx, flushed) = watch::channel(0);
        let store = LogStore::new(
            log.clone(),
            0,
            Arc::new(move |index| {
                flushed_tx.send_replace(index);
            }),
        );
        let state =
            GroupState::restore(0, Arc::new(Index::in_memory()), log.clone(), flushed).expect("a state");
        Ok((Guard { log, _dir: dir }, store, StateMachine::new(state)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_and_the_state_machine_conform() {
    Suite::test_all(Builder).await.expect("conformance");
}
