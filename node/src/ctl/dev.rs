//! `tercet dev`: a whole cluster in one process, with a sample of real payments.
//!
//! Invariants: the nodes are those that `serve` runs and the sample goes through the same client and the same gRPC as
//! everybody's; however the verb ends, every node is stopped cleanly first; a second start finds its data and appends
//! nothing twice.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tercet_proto::client::{Client, ClientOptions};
use tercet_proto::topology::{DiskSetting, Topology};
use tercet_storage::disk::uring_available;

use self::cluster::DevCluster;
use self::delay::LinkDelay;
use super::exit::{Exit, Failure};
use super::money::format_count;
use super::output::{notice, print_aside};
use super::serve::StopSignals;
use super::{status, verify};

mod cluster;
mod delay;
mod load;
mod sample;

/// The base port that gives the repository's `topology.toml`.
const DEFAULT_BASE_PORT: u16 = 7_000;
/// Time for a request, the first election included.
const DEADLINE: Duration = Duration::from_secs(60);
/// Time for the replicas to reach the head.
const VERIFY_WAIT: Duration = Duration::from_secs(30);

/// Arguments of `tercet dev`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tercet dev
  tercet dev --once --data-dir /tmp/tercet-dev
  tercet dev --base-port 8000 --link-delay west=15ms

Starts five nodes in three zones, appends 6,471 real payment orders to the journal `interbank`, shows a receipt, the
balances and the status, verifies the journal on all replicas, and serves until Ctrl-C.")]
pub(crate) struct DevArgs {
    /// Ends after the verification instead of serving
    #[arg(long)]
    once: bool,
    /// Where the nodes keep their data
    #[arg(long, value_name = "DIR", default_value = "./data/dev")]
    data_dir: PathBuf,
    /// Another topology than the default; all of its nodes run here
    #[arg(long, value_name = "FILE", conflicts_with = "base_port")]
    topology: Option<PathBuf>,
    /// Moves the default topology's ports: peers from N+101, clients from N+201, metrics from N+301
    #[arg(long, value_name = "N", default_value_t = DEFAULT_BASE_PORT)]
    base_port: u16,
    /// Holds back what crosses a site's links, one way; may be given once a site
    #[arg(long = "link-delay", value_name = "SITE=DELAY")]
    link_delays: Vec<LinkDelay>,
}

/// Runs the cluster, loads the sample, shows and verifies it; serves until a signal unless `--once`.
///
/// # Errors
/// What keeps a node from starting, what the cluster refused, exit code 5 if the verification fails, 70 if a node's storage
/// fails.
pub(crate) async fn dev(args: DevArgs) -> Result<(), Failure> {
    let mut stop = StopSignals::new()?;
    let (topology, port_hint) = match &args.topology {
        Some(file) => (Topology::load(file)?, "stop it, or change the address in the topology file"),
        None => (Topology::default_on(args.base_port)?, "stop it, or use other ports with --base-port"),
    };
    say_disk(&topology);
    let cluster = DevCluster::start(&topology, &args.data_dir, &args.link_delays, port_hint).await?;
    for line in cluster.describe() {
        notice(&format!("tercet: {line}"));
    }
    let shown = tokio::select! {
        shown = Box::pin(show(&cluster)) => shown,
        signal = stop.wait() => Err(Failure::failed(format!("{signal} before everything was shown and verified"))),
        failed = cluster.failed() => Err(storage_failed(failed)),
    };
    let result = match shown {
        Ok(()) if !args.once => {
            notice(&how_to_talk(&cluster.endpoints()));
            tokio::select! {
                signal = stop.wait() => {
                    notice(&format!("tercet: {signal}, stopping"));
                    Ok(())
                }
                failed = cluster.failed() => Err(storage_failed(failed)),
            }
        }
        shown => shown,
    };
    cluster.stop().await;
    notice("tercet: all nodes stopped");
    result
}

fn storage_failed((node, why): (String, String)) -> Failure {
    Failure::new(Exit::Storage, format!("node {node}: storage failed and the node stopped for good: {why}"))
}

fn say_disk(topology: &Topology) {
    if topology.storage.disk == DiskSetting::Portable {
        return;
    }
    if let Err(why) = uring_available() {
        notice(&format!(
            "tercet: no io_uring here ({why}): the portable disk is used, with pwrite and fdatasync"
        ));
    }
}

/// Loads and shows everything, through the endpoints of the cluster.
async fn show(cluster: &DevCluster) -> Result<(), Failure> {
    let options = ClientOptions { deadline: DEADLINE, ..ClientOptions::default() };
    let client = Client::connect(cluster.endpoints(), options)?;
    let orders = sample::orders().map_err(|error| Failure::failed(error.to_string()))?;
    let loaded = load::load(&client, &orders).await?;
    print_aside(format!(
        "journal {}: {} orders appended, {} known already\n\n{}\n",
        sample::JOURNAL,
        format_count(loaded.appended),
        format_count(loaded.known),
        load::describe_receipt(&loaded.receipt)
    ))
    .await?;
    let banks = load::banks(&client).await?;
    print_aside(format!("{}\n", load::banks_table(&banks))).await?;
    load::check_banks(&banks, &orders)?;
    print_aside(format!("{}\n", status::describe(&status::gather(&client).await?))).await?;
    let verdicts = verify::verify_all(&client, sample::JOURNAL, VERIFY_WAIT).await?;
    for verdict in &verdicts {
        print_aside(format!("verify {}", verify::describe(verdict))).await?;
    }
    verify::conclude(sample::JOURNAL, &verdicts, false)
}

fn how_to_talk(endpoints: &[String]) -> String {
    let first = endpoints.first().map(String::as_str).unwrap_or_default();
    let address = first.trim_start_matches("http://");
    let journal = sample::JOURNAL;
    format!(
        "\ntercet: serving until Ctrl-C on {}\n\
         \n  export TERCET_ENDPOINT={}\n  tercet balance --journal {journal}\n  tercet read --journal {journal} --to 3\n  \
         grpcurl -plaintext -d '{{\"journal\":\"{journal}\",\"to_seq\":\"3\"}}' {address} tercet.v1.Ledger/Read\n",
        endpoints.join(" "),
        endpoints.join(","),
    )
}

/// The first entries of the sample, for tests of other verbs.
#[cfg(test)]
pub(crate) fn sample_entries(count: usize) -> Vec<tercet_proto::v1::Entry> {
    let orders = sample::orders().expect("the built-in sample");
    orders.iter().take(count).map(sample::Order::to_entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_talk_to_it_names_every_endpoint() {
        let endpoints = ["http://127.0.0.1:7201".to_owned(), "http://127.0.0.1:7202".to_owned()];
        let text = how_to_talk(&endpoints);
        assert!(text.contains("TERCET_ENDPOINT=http://127.0.0.1:7201,http://127.0.0.1:7202\n"), "{text}");
        assert!(text.contains("127.0.0.1:7201 tercet.v1.Ledger/Read"), "{text}");
    }
}
