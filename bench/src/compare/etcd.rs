//! etcd as the other store: five members on loopback, one put of a new key a request, through etcd's own gRPC API.
//!
//! The two messages that a put needs are written out here (etcd's `rpc.proto`, package `etcdserverpb`): a client library would
//! need protoc to build. Members are this program's children and die with it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::uri::PathAndQuery;
use tercet_node::loopback::free_address;
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::{Loop, Turn};
use crate::floor::nanos;
use crate::load::new_histogram;
use crate::report::Latency;

const MEMBERS: usize = 5;
const CHANNELS: usize = 4;
const START_PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: bytes::Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: bytes::Bytes,
}

/// What it holds is not needed.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// The version of the `etcd` on the PATH.
pub(super) fn version() -> Result<String> {
    let output = Command::new("etcd")
        .arg("--version")
        .output()
        .context("no `etcd` on the PATH (Debian has it in the package etcd-server)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.lines().next().unwrap_or_default().trim_start_matches("etcd Version:").trim().to_owned())
}

/// Five members; dropping kills them.
struct Members(Vec<Child>);

impl Drop for Members {
    fn drop(&mut self) {
        for member in &mut self.0 {
            // Both fail only for a process that is gone already.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Starts five members, runs the loop, and stops them.
pub(super) fn turn(dir: &Path, load: Loop) -> Result<Turn> {
    let scratch = tempfile::Builder::new().prefix("etcd-").tempdir_in(std::path::absolute(dir)?)?;
    let (members, endpoints) = start(scratch.path())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let turn = runtime.block_on(run(&endpoints, load));
    drop(members);
    turn
}

fn start(dir: &Path) -> Result<(Members, Vec<String>)> {
    let free = || anyhow::Ok(free_address().context("finding free addresses")?.to_string());
    let mut addresses = Vec::new();
    for number in 1..=MEMBERS {
        addresses.push((format!("m{number}"), free()?, free()?));
    }
    let cluster: Vec<String> =
        addresses.iter().map(|(name, peer, _)| format!("{name}=http://{peer}")).collect();
    let launcher = std::env::current_exe().context("finding this executable")?;
    let etcd = which("etcd")?;
    let mut members = Members(Vec::new());
    for (name, peer, client) in &addresses {
        let log = dir.join(format!("{name}.log"));
        let output = std::fs::File::create(&log).with_context(|| log.display().to_string())?;
        let child = Command::new(&launcher)
            .args(["child", "--parent", &std::process::id().to_string(), "--"])
            .arg(&etcd)
            .args(["--name", name, "--initial-cluster", &cluster.join(",")])
            .arg("--data-dir")
            .arg(dir.join(name))
            .args(["--listen-peer-urls", &format!("http://{peer}")])
            .args(["--initial-advertise-peer-urls", &format!("http://{peer}")])
            .args(["--listen-client-urls", &format!("http://{client}")])
            .args(["--advertise-client-urls", &format!("http://{client}")])
            .args(["--snapshot-count", "1000000"])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("starting etcd member {name}"))?;
        members.0.push(child);
    }
    Ok((members, addresses.into_iter().map(|(_, _, client)| client).collect()))
}

fn which(program: &str) -> Result<PathBuf> {
    let paths = std::env::var_os("PATH").context("no PATH")?;
    std::env::split_paths(&paths)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("no `{program}` on the PATH"))
}

async fn put(channel: &Channel, request: PutRequest) -> Result<()> {
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    client.unary(tonic::Request::new(request), path, codec).await?;
    Ok(())
}

async fn run(endpoints: &[String], load: Loop) -> Result<Turn> {
    let first = endpoints.first().context("no member")?;
    let channels: Vec<Channel> = (0..CHANNELS)
        .map(|_| Ok(Endpoint::from_shared(format!("http://{first}"))?.tcp_nodelay(true).connect_lazy()))
        .collect::<Result<_>>()?;
    let value = bytes::Bytes::from(vec![0xa5; load.payload_bytes]);
    ready(&channels[0], &value).await?;
    let begin = Instant::now();
    let (from, to) = (begin + load.warm_up, begin + load.warm_up + load.measured);
    let mut clients = JoinSet::new();
    for number in 0..load.clients {
        let (channel, value) = (channels[number % CHANNELS].clone(), value.clone());
        clients.spawn(async move {
            let mut latency = new_histogram()?;
            for sent in 0_u64.. {
                let begin = Instant::now();
                if begin >= to {
                    break;
                }
                let key = format!("{number}-{sent}").into_bytes().into();
                put(&channel, PutRequest { key, value: value.clone() }).await?;
                let end = Instant::now();
                if begin >= from && end <= to {
                    latency.saturating_record(nanos(end - begin));
                }
            }
            anyhow::Ok(latency)
        });
    }
    let mut all = new_histogram()?;
    while let Some(latency) = clients.join_next().await {
        all.add(latency.context("a client of the load")??).context("adding histograms")?;
    }
    let latency = Latency::of(&all);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let per_second = latency.count as f64 / load.measured.as_secs_f64();
    Ok(Turn { per_second, latency })
}

/// Waits until a put succeeds.
async fn ready(channel: &Channel, value: &bytes::Bytes) -> Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        let request = PutRequest { key: "ready".into(), value: value.clone() };
        match tokio::time::timeout(Duration::from_secs(2), put(channel, request)).await {
            Ok(Ok(())) => return Ok(()),
            _ if Instant::now() >= deadline => bail!("etcd takes no puts after {START_PATIENCE:?}"),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}
