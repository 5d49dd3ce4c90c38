//! Looks for rot while the node runs: reads sealed segments slowly, again and again.
//!
//! Invariant: it takes little of the disk's time; what it finds is mended from memory where that can be, and otherwise counts
//! as lost, which takes the group out of service until the peers have given it back (`repair`).

use std::sync::Arc;
use std::time::Duration;

use tercet_storage::Scrubber;

use crate::raft::runtime;
use crate::repair::Host;

/// Read at a time.
const STEP_BYTES: u64 = 512 << 10;
/// Between two rounds.
const ROUND_PAUSE: Duration = Duration::from_secs(10);

/// What the scrubber has done since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// Rounds through all sealed segments.
    pub rounds: u64,
    /// Damaged places found.
    pub findings: u64,
    /// The last of them, in words.
    pub last_finding: Option<String>,
}

/// The pause after each step that makes so many MiB a second. None: the scrubber is off.
fn step_pause(mib_per_second: u32) -> Option<Duration> {
    let bytes_per_second = u64::from(mib_per_second) << 20;
    (bytes_per_second > 0).then(|| Duration::from_micros(STEP_BYTES * 1_000_000 / bytes_per_second))
}

/// Scrubs until dropped, and keeps the account of it.
pub async fn scrub<H: Host>(node: Arc<H>, mib_per_second: u32) {
    let Some(pause) = step_pause(mib_per_second) else { return };
    let mut scrubber: Scrubber = node.params().log.scrubber();
    loop {
        let stepped = runtime::run_blocking(move || {
            let progress = scrubber.step(STEP_BYTES);
            (scrubber, progress)
        });
        let Ok((back, progress)) = stepped.await else { return };
        scrubber = back;
        let progress = match progress {
            Ok(progress) => progress,
            Err(error) => {
                tracing::warn!(%error, "the scrubber cannot read the log");
                tokio::time::sleep(ROUND_PAUSE).await;
                continue;
            }
        };
        for found in &progress.findings {
            let finding = &found.finding;
            let what = format!(
                "node {}: segment {} block {}: {}: {}; {} entries lost, {} written anew",
                node.name(),
                finding.segment,
                finding.block,
                finding.verdict,
                finding.detail,
                found.lost.len(),
                found.rewritten.len()
            );
            node.scrubbed().send_modify(|scrubbed| {
                scrubbed.findings += 1;
                scrubbed.last_finding = Some(what.clone());
            });
            node.event(0, "scrub_finding", what);
        }
        node.scrubbed().send_modify(|scrubbed| {
            scrubbed.bytes += progress.bytes;
            scrubbed.rounds += u64::from(progress.is_round_over);
        });
        tokio::time::sleep(if progress.is_round_over { ROUND_PAUSE } else { pause }).await;
    }
}
