//! Ports created per second by one controller, beside transactions of the same keys sent straight to the same etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use causeway_proto::v1;
use causeway_proto::v1::create_ports_result::Result as Item;
use causeway_proto::v1::port_service_client::PortServiceClient;
use etcd_client::{Client, Compare, CompareOp, KvClient, Txn, TxnOp};
use tokio::task::JoinSet;
use tonic::transport::Channel;

/// Requests under way at once, on both sides.
const CLIENTS: u64 = 64;

/// One port as an intent record, its address and MAC index: what a controller writes for it.
fn operations(run: &str, n: u64) -> (Vec<Compare>, Vec<TxnOp>) {
    let keys = [
        format!("/raw/{run}/intent/port/default/bench/port-{n}"),
        format!("/raw/{run}/index/address/default/10.{}.{}.{}", n >> 16 & 255, n >> 8 & 255, n & 255),
        format!(
            "/raw/{run}/index/mac/default/bench/02:ca:0a:{:02x}:{:02x}:{:02x}",
            n >> 16 & 255,
            n >> 8 & 255,
            n & 255
        ),
    ];
    let owner = format!("default/bench/port-{n}");
    let record = format!(
        r#"{{"key":"{owner}","addresses":["10.{}.{}.{}"],"mac":"02:ca:0a:00:00:01","created_ms":1790000000000}}"#,
        n >> 16 & 255,
        n >> 8 & 255,
        n & 255
    );
    let compares = keys.iter().map(|k| Compare::create_revision(k.as_str(), CompareOp::Equal, 0)).collect();
    let values = [record.as_str(), &owner, &owner];
    let writes = keys.iter().zip(values).map(|(k, v)| TxnOp::put(k.as_str(), v, None)).collect();
    (compares, writes)
}

async fn raw_client(
    mut kv: KvClient,
    run: String,
    next: Arc<AtomicU64>,
    total: u64,
    bulk: u64,
) -> Result<()> {
    loop {
        let first = next.fetch_add(bulk, Ordering::Relaxed);
        if first >= total {
            return Ok(());
        }
        let (mut compares, mut writes) = (Vec::new(), Vec::new());
        for n in first..(first + bulk).min(total) {
            let (c, w) = operations(&run, n);
            compares.extend(c);
            writes.extend(w);
        }
        ensure!(
            kv.txn(Txn::new().when(compares).and_then(writes)).await?.succeeded(),
            "a raw transaction failed"
        );
    }
}

/// Ports per second as raw transactions of `bulk` ports each. `run` keeps the keys of several measurements apart.
pub(crate) async fn raw(etcd: &Client, run: &str, total: u64, bulk: u64) -> Result<f64> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(raw_client(etcd.kv_client(), run.to_string(), next.clone(), total, bulk));
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
    network: String,
    run: String,
    next: Arc<AtomicU64>,
    (total, bulk): (u64, u64),
) -> Result<()> {
    loop {
        let first = next.fetch_add(bulk, Ordering::Relaxed);
        if first >= total {
            return Ok(());
        }
        if bulk == 1 {
            ports.create_port(request(&network, &run, first)).await?;
            continue;
        }
        let wanted: Vec<_> = (first..(first + bulk).min(total)).map(|n| request(&network, &run, n)).collect();
        let answer = ports.create_ports(v1::CreatePortsRequest { ports: wanted }).await?.into_inner();
        for item in answer.results {
            match item.result {
                Some(Item::Ok(_)) => {}
                other => bail!("a port was not created: {other:?}"),
            }
        }
    }
}

/// Ports per second through the controller's gRPC API, `bulk` a request.
pub(crate) async fn grpc(channel: &Channel, network: &str, run: &str, total: u64, bulk: u64) -> Result<f64> {
    let next = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let ports = PortServiceClient::new(channel.clone());
        clients.spawn(grpc_client(ports, network.to_string(), run.to_string(), next.clone(), (total, bulk)));
    }
    while let Some(done) = clients.join_next().await {
        done??;
    }
    Ok(total as f64 / start.elapsed().as_secs_f64())
}
