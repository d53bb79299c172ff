//! Resident memory of a controller with many ports.

use std::time::Duration;

use anyhow::{Context, Result};
use causeway_proto::v1;
use causeway_tests::controller::{Controller, StoreAt, network};

use crate::alloc::create_ms;
use crate::ports;
use crate::report::{Aim, Report, resident};

/// How many ports.
const SIZES: [u64; 2] = [100_000, 1_000_000];
/// Ports of one request: the API's limit.
const PER_REQUEST: u64 = 1000;
/// Below this many bytes a port.
const AIM: f64 = 1024.0;
/// Requests timed to compare a full store with an empty one.
const TIMED: u64 = 200;
const NODES: u64 = 100;

/// The memory of a process once it has not changed for a while: what was only needed on the way has been given back.
async fn settled(controller: &Controller) -> Result<f64> {
    let pid = controller.daemon()?.pid();
    let mut last = resident(pid)?;
    let mut calm = 0;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = resident(pid)?;
        calm = if (now - last).abs() < 65_536.0 { calm + 1 } else { 0 };
        last = now;
        if calm == 8 {
            break;
        }
    }
    Ok(last)
}

/// A /8 of 100 nodes, the network declared.
async fn prepare() -> Result<Controller> {
    let controller = Controller::start(&StoreAt::File).await?;
    controller.apply(network("bench", 100, "10.0.0.0/8")).await?;
    let node = |n: u64| {
        v1::resource::Spec::Node(v1::Node {
            name: format!("node{n}"),
            mode: v1::NodeMode::HostVtep.into(),
            vtep: format!("192.0.2.{}", n + 1),
            ..Default::default()
        })
    };
    controller.apply((0..NODES).map(node).collect()).await?;
    Ok(controller)
}

fn bound(n: u64) -> v1::CreatePortRequest {
    let binding = v1::Binding {
        node: format!("node{}", n % NODES),
        netns: format!("/run/netns/workload-{n}"),
        interface: "eth0".into(),
        ..Default::default()
    };
    v1::CreatePortRequest { bind: Some(binding), ..ports::request("bench", "port", n) }
}

async fn one_size(report: &mut Report, total: u64) -> Result<()> {
    let mut controller = prepare().await?;
    let empty_ms = create_ms(&controller, "bench", "before", TIMED).await?;
    let empty = settled(&controller).await?;
    let make = |n| ports::request("bench", "port", n);
    let rate = ports::grpc(&controller.channel()?, make, (total, PER_REQUEST, 2)).await?;
    let per_port = |bytes: f64| (bytes - empty) / total as f64;
    report.add(&format!("{total} ports created, file store"), rate, "ports/s", Aim::None);
    let after = settled(&controller).await?;
    let title = format!("controller's memory a port, {total} ports");
    report.add(&format!("{title}, as created"), per_port(after), "bytes", Aim::Below(AIM));
    let full_ms = create_ms(&controller, "bench", "after", TIMED).await?;
    let name = format!("CreatePort in a /8 with {total} ports, p50");
    report.versus(&name, full_ms, "ms", ("empty /8", empty_ms), Aim::RatioAtMost(2.0));
    controller.restart().await?;
    let again = settled(&controller).await?;
    report.add(&format!("{title}, after a restart"), per_port(again), "bytes", Aim::Below(AIM));
    report.add(&format!("controller's memory, {total} ports"), again / 1e6, "MB", Aim::None);
    Ok(())
}

async fn with_bindings(report: &mut Report, total: u64) -> Result<()> {
    let controller = prepare().await?;
    let empty = settled(&controller).await?;
    ports::grpc(&controller.channel()?, bound, (total, PER_REQUEST, 2)).await?;
    let each = (settled(&controller).await? - empty) / total as f64;
    let name = format!("the same, {total} bound ports with their routes");
    report.add(&name, each, "bytes", Aim::None);
    Ok(())
}

/// Measures all sizes.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    for total in SIZES {
        one_size(report, total).await.with_context(|| format!("{total} ports"))?;
    }
    with_bindings(report, SIZES[0]).await
}
