//! Holds commit-only requests back, so that they ride with the entries that follow.
//!
//! When a leader's commit advances and no entries wait, openraft sends a request without entries that only carries the
//! commit: under one writer that doubles the messages. Such a request is kept for a moment; if another one comes, it is
//! dropped, because the later one carries a commit at least as high, and openraft counts an acknowledgement for every earlier
//! request of the stream. It is never answered in place of the follower: answers feed the lease and ReadIndex.
//!
//! Invariants: a request with entries is never held, dropped or overtaken; the last request of a stream (a heartbeat is a
//! stream of one) is sent at once; what is held is sent before [`COMMIT_HOLD`] is over if nothing follows.

use std::time::Duration;

use futures::stream::{Stream, StreamExt, unfold};
use openraft::raft::AppendEntriesRequest;

use crate::raft::types::TypeConfig;

/// How long a follower may hear later of a commit. A writer that waits for each answer has sent its next request by then.
const COMMIT_HOLD: Duration = Duration::from_millis(4);

type Request = AppendEntriesRequest<TypeConfig>;

/// The requests of `input` but for those without entries that another one follows soon.
pub(super) fn hold_commits<S>(input: S) -> impl Stream<Item = Request> + Send
where
    S: Stream<Item = Request> + Send + Unpin,
{
    unfold(input.fuse(), |mut input| async move {
        let mut request = input.next().await?;
        while request.entries.is_empty() {
            match tokio::time::timeout(COMMIT_HOLD, input.next()).await {
                Ok(Some(next)) => request = next,
                Ok(None) | Err(_) => break,
            }
        }
        Some((request, input))
    })
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use openraft::EntryPayload;

    use super::*;
    use crate::raft::types::{Entry, Vote, log_id};

    fn request(commit: u64, entries: &[u64]) -> Request {
        let entry = |index: &u64| Entry { log_id: log_id(1, *index), payload: EntryPayload::Blank };
        Request {
            vote: Vote::new(1, 1),
            prev_log_id: None,
            entries: entries.iter().map(entry).collect(),
            leader_commit: Some(log_id(1, commit)),
        }
    }

    /// What is sent: the commit, and the indexes of the entries.
    async fn sent(input: impl Stream<Item = Request> + Send + Unpin) -> Vec<(u64, Vec<u64>)> {
        let told = |request: Request| {
            let indexes = request.entries.iter().map(|entry| entry.log_id.index).collect();
            (request.leader_commit.map_or(0, |id| id.index), indexes)
        };
        hold_commits(input).map(told).collect().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_rides_with_the_entries_that_follow() {
        let input =
            [request(0, &[1]), request(1, &[]), request(1, &[2]), request(2, &[]), request(3, &[4, 5])];
        assert_eq!(sent(stream::iter(input)).await, [(0, vec![1]), (1, vec![2]), (3, vec![4, 5])]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_is_sent_at_once_and_so_is_a_heartbeat() {
        let start = tokio::time::Instant::now();
        assert_eq!(sent(stream::iter([request(7, &[])])).await, [(7, vec![])]);
        assert_eq!(
            sent(stream::iter([request(7, &[8]), request(8, &[])])).await,
            [(7, vec![8]), (8, vec![])]
        );
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_nothing_follows_is_sent_after_a_moment() {
        let input = stream::iter([request(7, &[])]).chain(stream::pending());
        let start = tokio::time::Instant::now();
        let first = hold_commits(input.boxed()).boxed().next().await.expect("a request");
        assert_eq!(first.leader_commit, Some(log_id(1, 7)));
        assert!(start.elapsed() >= COMMIT_HOLD && start.elapsed() < COMMIT_HOLD * 2);
    }
}
