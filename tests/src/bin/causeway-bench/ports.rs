//! Ports created per second by one controller, beside transactions of the same keys sent straight to the same etcd.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use causeway_controller::keys::{self, RecordKey};
use causeway_controller::model::Port;
use causeway_proto::v1;
use causeway_proto::v1::create_ports_result::Result as Item;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::{Mac, NetworkKey, PortKey, Prefix};
use causeway_tests::Etcd;
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use etcd_client::{Client, Compare, CompareOp, KvClient, Txn, TxnOp};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::report::{Aim, Report, middle, usage};

/// Requests under way at once, on both sides.
pub(crate) const CLIENTS: u64 = 64;
/// Rounds; both sides take turns in each, and the median counts.
const ROUNDS: usize = 3;
/// Ports a round, one a request and in bulk.
const SINGLE: u64 = 10_000;
const BULK: u64 = 60_000;
/// Ports of one request in bulk: what fits etcd's default limit of 128 operations beside the shared compares.
const PER_REQUEST: u64 = 30;
const NETWORK: &str = "bench";

/// What all transactions of one measurement share.
struct Raw {
    prefix: String,
    network: NetworkKey,
    subnet: Prefix,
    /// The keys of network and subnet with the revision at which they were written: compared by every transaction, as
    /// a controller does lest they change under it.
    seen: [(String, i64); 2],
}

impl Raw {
    async fn new(etcd: &Client, run: &str) -> Result<Raw> {
        let network: NetworkKey = format!("default/{NETWORK}").parse()?;
        let subnet: Prefix = "10.0.0.0/8".parse()?;
        let prefix = format!("/raw/{run}/");
        let records = [RecordKey::Network(network.clone()), RecordKey::Subnet(network.clone(), subnet)];
        let mut seen = Vec::new();
        for record in records {
            let key = prefix.clone() + &record.path();
            let put = etcd.kv_client().put(key.as_str(), "{}", None).await?;
            seen.push((key, put.header().context("etcd sent no revision")?.revision()));
        }
        let seen = seen.try_into().ok().context("two records")?;
        Ok(Raw { prefix, network, subnet, seen })
    }

    /// Port `n`: the compares and writes that a controller makes of it.
    fn port(&self, n: u64, compares: &mut Vec<Compare>, writes: &mut Vec<TxnOp>) -> Result<()> {
        let ip = Ipv4Addr::from(0x0a00_0001 + u32::try_from(n)?);
        let address = IpAddr::V4(ip);
        let key = PortKey { network: self.network.clone(), name: format!("port-{n}").parse()? };
        let mac = Mac::from_ipv4(ip);
        let owner = key.to_string();
        let record = Port {
            key: key.clone(),
            addresses: vec![address],
            mac,
            spare_mac: None,
            mac_collisions: 0,
            labels: Default::default(),
            created_ms: 1_790_000_000_000,
            changed_ms: 0,
            released_ms: None,
            quarantined_ms: None,
            rate: Default::default(),
            guard: None,
            address_check: None,
            duplicate: None,
            select: Default::default(),
            vip: None,
            held: Vec::new(),
        };
        let puts = [
            (keys::address(&self.network.vrf, self.subnet, address), owner.clone().into_bytes()),
            (keys::mac(&self.network, mac), owner.into_bytes()),
            (RecordKey::Port(key).path(), serde_json::to_vec(&record)?),
        ];
        for (path, value) in puts {
            let path = self.prefix.clone() + &path;
            compares.push(Compare::create_revision(path.as_str(), CompareOp::Equal, 0));
            writes.push(TxnOp::put(path, value, None));
        }
        Ok(())
    }

    fn transaction(&self, ports: std::ops::Range<u64>) -> Result<Txn> {
        let same = |(key, at): &(String, i64)| Compare::mod_revision(key.as_str(), CompareOp::Equal, *at);
        let mut compares: Vec<_> = self.seen.iter().map(same).collect();
        let mut writes = Vec::new();
        for n in ports {
            self.port(n, &mut compares, &mut writes)?;
        }
        Ok(Txn::new().when(compares).and_then(writes))
    }
}

async fn raw_client(mut kv: KvClient, waiting: Arc<Vec<Txn>>, next: Arc<AtomicU64>) -> Result<()> {
    loop {
        let at = usize::try_from(next.fetch_add(1, Ordering::Relaxed))?;
        let Some(txn) = waiting.get(at) else { return Ok(()) };
        ensure!(kv.txn(txn.clone()).await?.succeeded(), "a raw transaction failed");
    }
}

/// Ports per second as raw transactions of `bulk` ports each, made before the time starts. `run` keeps the keys of
/// several measurements apart.
async fn raw(etcd: &Client, run: &str, total: u64, bulk: u64) -> Result<f64> {
    let raw = Raw::new(etcd, run).await?;
    let starts = (0..total).step_by(usize::try_from(bulk)?);
    let waiting: Result<Vec<_>> = starts.map(|n| raw.transaction(n..(n + bulk).min(total))).collect();
    let (waiting, next) = (Arc::new(waiting?), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(raw_client(etcd.kv_client(), waiting.clone(), next.clone()));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// A request for port `n`.
pub(crate) fn request(network: &str, run: &str, n: u64) -> v1::CreatePortRequest {
    let key = v1::PortKey { vrf: "default".into(), network: network.into(), name: format!("{run}-{n}") };
    v1::CreatePortRequest { key: Some(key), ..Default::default() }
}

async fn grpc_client(
    mut ports: PortServiceClient<Channel>,
    make: Arc<dyn Fn(u64) -> v1::CreatePortRequest + Send + Sync>,
    next: Arc<AtomicU64>,
    (total, bulk): (u64, u64),
) -> Result<()> {
    loop {
        let first = next.fetch_add(bulk, Ordering::Relaxed);
        if first >= total {
            return Ok(());
        }
        if bulk == 1 {
            ports.create_port(make(first)).await?;
            continue;
        }
        let wanted: Vec<_> = (first..(first + bulk).min(total)).map(|n| make(n)).collect();
        let answer =
            ports.create_ports(v1::CreatePortsRequest { ports: wanted, dry_run: false }).await?.into_inner();
        for item in answer.results {
            match item.result {
                Some(Item::Ok(_)) => {}
                other => bail!("a port was not created: {other:?}"),
            }
        }
    }
}

/// Ports per second through the controller's gRPC API, `bulk` a request, `clients` requests under way.
pub(crate) async fn grpc(
    channel: &Channel,
    make: impl Fn(u64) -> v1::CreatePortRequest + Send + Sync + 'static,
    (total, bulk, clients): (u64, u64, u64),
) -> Result<f64> {
    let next = Arc::new(AtomicU64::new(0));
    let make: Arc<dyn Fn(u64) -> v1::CreatePortRequest + Send + Sync> = Arc::new(make);
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let ports = PortServiceClient::new(channel.clone());
        tasks.spawn(grpc_client(ports, make.clone(), next.clone(), (total, bulk)));
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

/// CPU seconds of the processes that take part: etcd, the controller, and this one.
fn cpu(etcd: &Etcd, controller: &Controller) -> Result<[f64; 3]> {
    let pids = [etcd.pid()?, controller.daemon()?.pid(), std::process::id()];
    let [etcd, controller, own] = pids.map(|pid| usage(pid).map(|(cpu, _)| cpu));
    Ok([etcd?, controller?, own?])
}

/// CPU microseconds a port that each process needed since `before`, in words.
fn cost(before: [f64; 3], now: [f64; 3], total: u64) -> String {
    let each = |i: usize| (now[i] - before[i]) * 1e6 / total as f64;
    format!("etcd {:.0}, controller {:.0}, client {:.0}", each(0), each(1), each(2))
}

async fn one_etcd(report: &mut Report, version: EtcdVersion) -> Result<()> {
    let etcd = Etcd::start(version).await?;
    let controller = Controller::start(&StoreAt::Etcd(etcd.endpoint())).await?;
    controller.apply(network(NETWORK, 100, "10.0.0.0/8")).await?;
    let (client, channel) = (etcd.client().await?, controller.channel()?);
    for (total, bulk) in [(SINGLE, 1), (BULK, PER_REQUEST)] {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let run = format!("{bulk}-{round}");
            let before = cpu(&etcd, &controller)?;
            theirs.push(raw(&client, &run, total, bulk).await?);
            let between = cpu(&etcd, &controller)?;
            let make = move |n| request(NETWORK, &run, n);
            ours.push(grpc(&channel, make, (total, bulk, CLIENTS)).await?);
            let after = cpu(&etcd, &controller)?;
            let (raw, grpc) = (cost(before, between, total), cost(between, after, total));
            println!("  CPU us a port, {bulk} a request: raw: {raw}; ours: {grpc}");
        }
        let name = format!("ports created a second, {bulk} a request, etcd {}", etcd.version());
        let peer = ("raw transactions", middle(theirs));
        report.versus(&name, middle(ours), "ports/s", peer, Aim::RatioAtLeast(0.8));
    }
    Ok(())
}

/// Measures on both etcds.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    for version in EtcdVersion::ALL {
        one_etcd(report, version).await?;
    }
    Ok(())
}
