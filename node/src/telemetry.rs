//! Prometheus metrics of one node, and the page that serves them.
//!
//! Invariants: every node has a registry of its own (`dev` runs five in a process); gauges are read when the page is, so the
//! hot path pays for counters only.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tercet_proto::v1::DurabilityClass;
use tokio::task::JoinSet;

use crate::doors::Doorway;
use crate::groups::Standing;
use crate::node::Node;
use crate::placement::Class;

/// Counters that the services raise.
pub struct Metrics {
    registry: Registry,
    /// Append requests by how they ended: `ok`, `refused`, `unknown`.
    pub appends: IntCounterVec,
    /// Entries acknowledged.
    pub entries: IntCounter,
    /// From a request's arrival to its answer, seconds.
    pub append_seconds: Histogram,
    group: IntGaugeVec,
    log: IntGaugeVec,
    process: IntGaugeVec,
    door: IntGaugeVec,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Errors
    /// A name is registered twice.
    pub fn new(node: &str) -> Result<Self, prometheus::Error> {
        let labels = std::collections::HashMap::from([("node".to_owned(), node.to_owned())]);
        let registry = Registry::new_custom(None, Some(labels))?;
        let appends = IntCounterVec::new(
            Opts::new("tercet_appends_total", "Append requests by outcome"),
            &["outcome"],
        )?;
        let entries = IntCounter::new("tercet_entries_total", "Entries acknowledged by this node")?;
        let buckets = prometheus::exponential_buckets(0.000_25, 2.0, 16)?;
        let append_seconds = Histogram::with_opts(
            HistogramOpts::new("tercet_append_seconds", "Arrival of an append to its answer")
                .buckets(buckets),
        )?;
        let group = IntGaugeVec::new(Opts::new("tercet_group", "Raft group state"), &["group", "what"])?;
        let log = IntGaugeVec::new(Opts::new("tercet_log", "Segment log, since start"), &["what"])?;
        let process = IntGaugeVec::new(Opts::new("tercet_process", "This process"), &["what"])?;
        registry.register(Box::new(appends.clone()))?;
        registry.register(Box::new(entries.clone()))?;
        registry.register(Box::new(append_seconds.clone()))?;
        registry.register(Box::new(group.clone()))?;
        registry.register(Box::new(log.clone()))?;
        registry.register(Box::new(process.clone()))?;
        let door = IntGaugeVec::new(
            Opts::new("tercet_door", "Callers at a port: now, and refused since start"),
            &["port", "what"],
        )?;
        registry.register(Box::new(door.clone()))?;
        Ok(Self { registry, appends, entries, append_seconds, group, log, process, door })
    }

    fn read_gauges(&self, node: &Node) {
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for (id, standing) in node.groups.standings() {
            let id = id.to_string();
            let quarantined = i64::from(matches!(standing, Standing::Quarantined(_)));
            self.group.with_label_values(&[id.as_str(), "quarantined"]).set(quarantined);
            let Standing::Running(group) = standing else { continue };
            let status = group.status();
            let set = |what: &str, value: u64| {
                self.group.with_label_values(&[id.as_str(), what]).set(signed(value))
            };
            set("term", status.term);
            set("leader_id", status.leader_id);
            set("is_leader", u64::from(status.role == "leader"));
            set("last_index", status.last_index);
            set("flushed_index", status.flushed_index);
            set("committed_index", status.committed_index);
            set("applied_index", status.applied_index);
            set("city_watermark", status.city_watermark);
            set("entries", status.entries);
            set("failed_checkpoints", u64::from(group.state().failed_checkpoints()));
            set("geo_watermark", status.geo_watermark);
            let geo = status.classes.iter().find(|class| class.durability_class() == DurabilityClass::Geo);
            if let Some(geo) = geo {
                set("geo_degraded", u64::from(geo.degraded));
                set("geo_degraded_since", geo.degraded_since);
                set("geo_budget_spent_entries", geo.spent_entries);
                set("geo_budget_exhausted", u64::from(!geo.exhausted.is_empty()));
                set("geo_behind_ms", geo.behind_ms);
            }
            set("without_quorum_ms", status.without_quorum_ms);
            for replica in &status.replicas {
                if let Some(clock) = &replica.clock {
                    let what = format!("clock_ahead_us_{}", node.name_of(replica.node_id));
                    self.group.with_label_values(&[id.as_str(), what.as_str()]).set(clock.ahead_us);
                }
            }
            let held = |class| u64::try_from(group.gate().held(class)).unwrap_or(u64::MAX);
            set("replies_held", held(Class::City).saturating_add(held(Class::Geo)));
            set("replies_held_geo", held(Class::Geo));
        }
        let stats = node.log.stats();
        let set = |what: &str, value: u64| self.log.with_label_values(&[what]).set(signed(value));
        set("batches", stats.batches);
        set("records", stats.records);
        set("payload_bytes", stats.payload_bytes);
        set("written_bytes", stats.written_bytes);
        set("fsyncs", stats.fsyncs);
        set("segments", stats.segments);
        let disk = node.room.state();
        set("disk_full", u64::from(disk.tight.is_some()));
        set("stalled_ms", disk.still.map_or(0, |still| u64::try_from(still.as_millis()).unwrap_or(u64::MAX)));
        set("unflushed_bytes", stats.unfinished_bytes);
        let scrubbed = node.scrubbed.borrow().clone();
        set("scrubbed_bytes", scrubbed.bytes);
        set("scrub_rounds", scrubbed.rounds);
        set("scrub_findings", scrubbed.findings);
        set("failed", u64::from(node.log.failure().is_some()));
        for door in node.doors.all() {
            let set = |what: &str, value: u64| {
                self.door.with_label_values(&[door.port, what]).set(signed(value));
            };
            let since_start = |count: &AtomicU64| count.load(Ordering::Relaxed);
            set("connections", door.connections() as u64);
            set("held_bytes", door.held_bytes() as u64);
            set("accepted", since_start(&door.counts.accepted));
            set("refused_by_address", since_start(&door.counts.refused_address));
            set("refused_by_total", since_start(&door.counts.refused_total));
            set("accept_errors", since_start(&door.counts.accept_errors));
            set("refused_calls", since_start(&door.counts.refused_calls));
        }
        self.process.with_label_values(&["resident_bytes"]).set(signed(resident_bytes()));
        self.process.with_label_values(&["log_messages_dropped"]).set(signed(crate::stderr::dropped()));
        self.process.with_label_values(&["uptime_seconds"]).set(signed(node.started.elapsed().as_secs()));
    }

    fn page(&self, node: &Node) -> String {
        self.read_gauges(node);
        let mut out = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            Err(error) => format!("# metrics could not be encoded: {error}\n"),
        }
    }
}

/// A scraper has sent its request by then,
const HEADER_PATIENCE: Duration = Duration::from_secs(5);
/// and has taken the page and gone by then.
const PAGE_PATIENCE: Duration = Duration::from_secs(20);
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Serves `/metrics`, one request a connection, until `stop` completes.
pub async fn serve(mut doorway: Doorway, node: Arc<Node>, stop: impl Future<Output = ()> + Send + 'static) {
    let page = move || {
        let node = node.clone();
        async move { node.metrics.page(&node) }
    };
    let app = TowerToHyperService::new(Router::new().route("/metrics", get(page)));
    let mut http = auto::Builder::new(TokioExecutor::new()).http1_only();
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_PATIENCE)
        .max_buf_size(REQUEST_BYTES_MAX)
        .keep_alive(false);
    let mut scrapes = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => return,
            Some(_) = scrapes.join_next() => {}
            guest = doorway.next() => {
                let serving = http.serve_connection(TokioIo::new(guest), app.clone()).into_owned();
                scrapes.spawn(async move {
                    match tokio::time::timeout(PAGE_PATIENCE, serving).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::debug!(error, "a scrape has failed"),
                        Err(_) => tracing::debug!("a scraper takes too long"),
                    }
                });
            }
        }
    }
}

/// Memory of this process, bytes; 0 where /proc does not tell.
#[must_use]
pub fn resident_bytes() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return 0 };
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages.saturating_mul(u64::try_from(rustix::param::page_size()).unwrap_or(4096))
}
