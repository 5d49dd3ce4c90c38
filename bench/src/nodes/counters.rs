//! What the nodes' logs have written, from their metrics pages.

use std::ops::Sub;
use std::time::Duration;

use anyhow::{Context, Result};
use tercet_proto::topology::Topology;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a page may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sums over all nodes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LogCounters {
    /// fdatasyncs of batches.
    pub(crate) fsyncs: u64,
    /// Bytes written to segments, padding included; their zeroing ahead of need is not.
    pub(crate) written_bytes: u64,
}

impl Sub for LogCounters {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            fsyncs: self.fsyncs.saturating_sub(before.fsyncs),
            written_bytes: self.written_bytes.saturating_sub(before.written_bytes),
        }
    }
}

/// Of all nodes together.
pub(super) async fn read(topology: &Topology) -> Result<LogCounters> {
    let mut sum = LogCounters::default();
    for node in &topology.nodes {
        let address = node.metrics.as_deref().context("a node without a metrics page")?;
        let page = tokio::time::timeout(PATIENCE, get(address)).await.context(address.to_owned())??;
        sum.fsyncs += value(&page, "fsyncs").context("no fsyncs on the metrics page")?;
        sum.written_bytes += value(&page, "written_bytes").context("no written_bytes on the metrics page")?;
    }
    Ok(sum)
}

async fn get(address: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await.with_context(|| address.to_owned())?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut page = String::new();
    stream.read_to_string(&mut page).await?;
    Ok(page)
}

/// The log's gauge `what`: the line with that label.
fn value(page: &str, what: &str) -> Option<u64> {
    let label = format!("what=\"{what}\"");
    let line = page.lines().find(|line| line.starts_with("tercet_log{") && line.contains(&label))?;
    line.rsplit_once(' ')?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_s_lines_are_found() {
        let page = "# HELP x\ntercet_group{group=\"0\",what=\"fsyncs\"} 7\ntercet_log{what=\"fsyncs\"} 42\n";
        assert_eq!(value(page, "fsyncs"), Some(42));
        assert_eq!(value(page, "written_bytes"), None);
    }
}
