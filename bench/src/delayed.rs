//! `tercet-bench cluster --link-delays`: what one client waits for when the zones are as far from each other as declared.
//!
//! Three floors and two cases, in one run: one durable write; a message to and fro between zones `a` and `b`, and between `a` and
//! `c`, over the same relays that the nodes' connections go through; then one client's appends of class `city` and of class
//! `geo`. An append of class `city` cannot be faster than one durable write (the other zone's, after the message's way) and one
//! a-b round trip, one of class `geo` not faster than one durable write and one a-c round trip.
//!
//! Invariants: floors and cases share the disk, the relays' kind and the process that they run in; the client dials the nodes
//! directly, so only the nodes' own round trips are delayed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use tercet_node::relay::Relay;
use tercet_proto::topology::Topology;
use tercet_proto::v1::DurabilityClass;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::failover::cluster::FaultyCluster;
use crate::floor::{self, nanos};
use crate::load::{Pace, new_histogram};
use crate::machine::Machine;
use crate::nodes::{find_tercet, topology};
use crate::report::{Latency, shown, table};
use crate::work::{WorkArgs, watched};

/// How long it may take until all nodes are in contact and caught up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Messages before the measured ones.
const WARM_UP: usize = 5;
/// Between two looks at the leader: the preferred zone's node takes over a while after a cold start.
const POLL: Duration = Duration::from_millis(100);

/// Where and how.
pub(crate) struct Settings<'a> {
    /// Where the nodes keep their data.
    pub(crate) dir: &'a Path,
    /// The `tercet` executable, if it was given.
    pub(crate) tercet: Option<&'a Path>,
    /// For each floor.
    pub(crate) floor: Duration,
    /// What the requests are like.
    pub(crate) work: &'a WorkArgs,
}

/// One class beside its floor.
#[derive(Debug, Serialize)]
struct ClassFigures {
    class: &'static str,
    /// The zones between which the round trip lies.
    between: [&'static str; 2],
    round_trip: Latency,
    append: Latency,
    failed: u64,
    /// One durable write and one round trip, medians.
    floor_p50_us: f64,
    p50_over_floor: f64,
    /// The mark.
    p50_over_floor_max: f64,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figures {
    machine: Machine,
    disk: String,
    leader: String,
    payload_bytes: usize,
    write: Latency,
    append_to_log: Latency,
    classes: Vec<ClassFigures>,
}

/// Measures all of it. Must be called on the main thread.
pub(crate) fn run(settings: &Settings<'_>) -> Result<Figures> {
    std::fs::create_dir_all(settings.dir).with_context(|| settings.dir.display().to_string())?;
    let scratch =
        tempfile::Builder::new().prefix("delayed-").tempdir_in(std::path::absolute(settings.dir)?)?;
    let tercet = find_tercet(settings.tercet)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            figures = measure(settings, scratch.path(), tercet) => figures,
            interrupted = tokio::signal::ctrl_c() => {
                interrupted?;
                bail!("interrupted")
            }
        }
    })
}

async fn measure(settings: &Settings<'_>, dir: &Path, tercet: PathBuf) -> Result<Figures> {
    let declared = topology(tercet_proto::topology::DiskSetting::Auto)?;
    let disk = floor::measure(dir, declared.storage.disk, settings.floor, settings.work.entry_bytes())?;
    let write = Latency::of(&disk.write);
    let mut cluster = FaultyCluster::start(tercet, dir).await?;
    let leader = led_from(&mut cluster, "a").await?;
    let client = cluster.observer()?;
    settings.work.make_journals(&client).await?;
    let mut classes = Vec::new();
    let cases =
        [(DurabilityClass::City, "city", ["a", "b"], 1.5), (DurabilityClass::Geo, "geo", ["a", "c"], 1.3)];
    for (number, (class, name, between, most)) in cases.into_iter().enumerate() {
        let round_trip = Latency::of(&round_trips(&declared, between, settings.floor).await?);
        let mut case = settings.work.case(number, Pace::Closed { clients: 1 }, 1);
        case.work.class = class;
        let outcome = watched(&case, std::slice::from_ref(&client)).await?;
        let append = Latency::of(&outcome.appends);
        let floor_p50_us = write.p50_us + round_trip.p50_us;
        classes.push(ClassFigures {
            class: name,
            between,
            round_trip,
            append,
            failed: outcome.failed,
            floor_p50_us,
            p50_over_floor: append.p50_us / floor_p50_us,
            p50_over_floor_max: most,
        });
    }
    Ok(Figures {
        machine: Machine::this(),
        disk: disk.disk,
        leader,
        payload_bytes: settings.work.payload,
        write,
        append_to_log: Latency::of(&disk.append),
        classes,
    })
}

/// Waits until a node of this zone leads and everybody is in contact; returns its name.
async fn led_from(cluster: &mut FaultyCluster, zone: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let leader = cluster.settled(deadline.saturating_duration_since(Instant::now())).await?;
        if cluster.zone_of(&leader) == zone {
            return Ok(leader);
        }
        if Instant::now() >= deadline {
            bail!("{leader} still leads, and nobody in zone {zone}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A message of an entry's size to and fro over a relay as it lies between these zones, one at a time.
async fn round_trips(
    topology: &Topology,
    [here, there]: [&str; 2],
    time: Duration,
) -> Result<Histogram<u64>> {
    let round_trip_ms = topology.rtt_ms(here, there).context("a round trip")?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let (_cut, whole) = watch::channel(false);
    let one_way = Duration::from_secs_f64(round_trip_ms / 2e3);
    let relay = Relay::start(listener.local_addr()?.to_string(), one_way, whole).await?;
    let echo = async {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let mut message = [0; MESSAGE_BYTES];
        loop {
            stream.read_exact(&mut message).await?;
            stream.write_all(&message).await?;
        }
    };
    let asking = async {
        let mut histogram = new_histogram()?;
        let mut stream = TcpStream::connect(relay.address()).await?;
        stream.set_nodelay(true)?;
        let mut message = [0x5a; MESSAGE_BYTES];
        let begin = Instant::now();
        for number in 0_usize.. {
            let sent = Instant::now();
            if number > WARM_UP && sent - begin >= time {
                break;
            }
            stream.write_all(&message).await?;
            stream.read_exact(&mut message).await?;
            if number >= WARM_UP {
                histogram.saturating_record(nanos(sent.elapsed()));
            }
        }
        anyhow::Ok(histogram)
    };
    tokio::select! {
        histogram = asking => histogram,
        ended = echo => {
            let ended: std::io::Result<std::convert::Infallible> = ended;
            match ended {
                Ok(never) => match never {},
                Err(error) => Err(error).context("the far end of a relay"),
            }
        }
    }
}

/// About what an append request takes on the wire.
const MESSAGE_BYTES: usize = 512;

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "five nodes, links delayed as declared, leader {}, disk {}, payload {} bytes, one client",
            self.leader, self.disk, self.payload_bytes
        )?;
        let mut rows = table(&["work", "count", "p50", "p99", "max", "floor p50", "p50 / floor", "mark"]);
        let row = |name: &str, latency: &Latency, rest: [String; 3]| {
            let [floor, ratio, mark] = rest;
            let count = latency.count.to_string();
            let [p50, p99, max] = [latency.p50_us, latency.p99_us, latency.max_us].map(shown);
            vec![name.to_owned(), count, p50, p99, max, floor, ratio, mark]
        };
        let none = || [const { String::new() }; 3];
        rows.add_row(row("floor: one durable 4 KiB write", &self.write, none()));
        rows.add_row(row("floor: segment log, one entry", &self.append_to_log, none()));
        for class in &self.classes {
            let [here, there] = class.between;
            rows.add_row(row(&format!("floor: round trip {here}-{there}"), &class.round_trip, none()));
        }
        for class in &self.classes {
            let rest = [
                shown(class.floor_p50_us),
                format!("{:.2}", class.p50_over_floor),
                format!("{:.1}", class.p50_over_floor_max),
            ];
            rows.add_row(row(&format!("class {}", class.class), &class.append, rest));
        }
        write!(f, "{rows}")?;
        for class in self.classes.iter().filter(|class| class.failed > 0) {
            write!(f, "\nclass {}: {} requests failed", class.class, class.failed)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_trip_takes_what_is_declared() {
        let declared = topology(tercet_proto::topology::DiskSetting::Portable).unwrap();
        let measured = round_trips(&declared, ["a", "c"], Duration::from_millis(200)).await.unwrap();
        assert!(!measured.is_empty());
        assert!(measured.min() >= 29_900_000, "{} ns for a declared round trip of 30 ms", measured.min());
    }
}
