//! A hundred and fifty containers on two hosts, requested at once: how long until all are bound, programmed, advertised to
//! the route reflector, and proven by a probe from the other host; and how soon after that their processes start, which
//! waited at the readiness socket.
//!
//! ```text
//! namespace core: etcd ── controller ──BGP── namespace rr: FRR, route reflector
//!                            │ unix socket
//!             namespace host1: agent ──VXLAN── namespace host2: agent      75 containers each
//! ```

mod stage;

use std::collections::BTreeMap;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use causeway_proto::v1;
use causeway_proto::v1::create_ports_result::Result as Item;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::v1::ready_service_client::ReadyServiceClient;
use causeway_tests::process::program;
use causeway_tests::{Netns, wait_for};
use tokio::task::JoinSet;

use crate::report::{Aim, Report, percentile};
use stage::{HOSTS, NETWORK, Stage};

/// Containers, all at once.
const COUNT: usize = 150;
/// Longest wait for all of them.
const LIMIT: Duration = Duration::from_secs(120);
/// What its users lived with before: five minutes, of which nobody knew how many were the network's.
const BEFORE: (&str, f64) = ("as its users knew it", 300.0);
/// The network's share, in seconds.
const SHARE: f64 = 5.0;

/// How they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One call for all.
    Bulk,
    /// A call each, all under way at once.
    Each,
}

/// Measures both ways, and the processes that wait.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let core = Netns::new("core").await?;
    core.enter(async || {
        let stage = Stage::start(&core).await?;
        let containers = new_containers().await?;
        settle(&stage).await?;
        for (way, words) in [(Way::Bulk, "one call"), (Way::Each, "150 calls")] {
            let times = round(&stage, &containers, &format!("{way:?}").to_lowercase(), way).await?;
            tell(report, words, &times);
        }
        drop(containers);
        let mut times = waiters(&stage, &new_containers().await?).await?;
        for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
            let title = format!("150 wait for proven: from readiness to the process, {name}");
            report.add(&title, percentile(&mut times, share), "ms", Aim::Below(50.0));
        }
        Ok(())
    })
}

async fn new_containers() -> Result<Vec<Netns>> {
    let mut containers = Vec::new();
    for _ in 0..COUNT {
        containers.push(Netns::new("w").await?);
    }
    Ok(containers)
}

/// When the last of all had reached each stage, in seconds since the request.
#[derive(Debug, Default)]
struct Times {
    bound: f64,
    programmed: f64,
    advertised: f64,
    proven: f64,
}

fn tell(report: &mut Report, words: &str, times: &Times) {
    let title = |stage: &str| format!("150 containers, {words}: all {stage}");
    for (stage, seconds) in
        [("bound", times.bound), ("programmed", times.programmed), ("advertised", times.advertised)]
    {
        report.add(&title(stage), seconds, "s", Aim::None);
    }
    report.versus(&title("proven"), times.proven, "s", BEFORE, Aim::Below(SHARE));
}

fn key(run: &str, n: usize) -> v1::PortKey {
    v1::PortKey { vrf: String::new(), network: NETWORK.into(), name: format!("{run}-{n}") }
}

fn request(run: &str, n: usize, netns: &Netns) -> v1::CreatePortRequest {
    let binding = v1::Binding {
        node: HOSTS[n % HOSTS.len()].0.into(),
        netns: format!("/run/netns/{}", netns.name()),
        ..v1::Binding::default()
    };
    v1::CreatePortRequest { key: Some(key(run, n)), bind: Some(binding), ..v1::CreatePortRequest::default() }
}

/// Waits until both agents are connected and the reflector's session is up.
async fn settle(stage: &Stage) -> Result<()> {
    wait_for("both agents and the route reflector", LIMIT, async || {
        let mut fabric = FabricServiceClient::new(stage.controller.channel()?);
        let nodes = fabric.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
        ensure!(nodes.iter().filter(|node| node.connected).count() == HOSTS.len(), "{nodes:?}");
        let summary = stage.reflector.json("show bgp l2vpn evpn summary json").await?;
        let up =
            summary["peers"].as_object().into_iter().flatten().filter(|(_, p)| p["state"] == "Established");
        ensure!(up.count() == 1, "{summary}");
        Ok(())
    })
    .await
}

/// All are requested; ends when all are proven, and takes them away again.
async fn round(stage: &Stage, containers: &[Netns], run: &str, way: Way) -> Result<Times> {
    let waiting = follow(stage, run).await?;
    let begin = Instant::now();
    let watch = tokio::spawn(stages(waiting, begin));
    match way {
        Way::Bulk => bulk(stage, containers, run).await?,
        Way::Each => each(stage, containers, run).await?,
    }
    let bound = begin.elapsed().as_secs_f64();
    let times = Times { bound, ..watch.await?.with_context(|| format!("run {run}"))? };
    let routes = stage.reflector.json("show bgp l2vpn evpn route type macip json").await?;
    let known = routes.to_string().matches("\"pathFrom\"").count();
    println!("  {run}: {known} paths at the reflector");
    clear(stage, run).await?;
    Ok(times)
}

async fn bulk(stage: &Stage, containers: &[Netns], run: &str) -> Result<()> {
    let mut ports = PortServiceClient::new(stage.controller.channel()?);
    let wanted = containers.iter().enumerate().map(|(n, netns)| request(run, n, netns)).collect();
    let answer = ports
        .create_ports(v1::CreatePortsRequest { ports: wanted, ..Default::default() })
        .await?
        .into_inner();
    for item in answer.results {
        match item.result {
            Some(Item::Ok(_)) => {}
            other => bail!("a port was not created: {other:?}"),
        }
    }
    Ok(())
}

async fn each(stage: &Stage, containers: &[Netns], run: &str) -> Result<()> {
    let channel = stage.controller.channel()?;
    let mut calls = JoinSet::new();
    for (n, netns) in containers.iter().enumerate() {
        let (mut ports, wanted) = (PortServiceClient::new(channel.clone()), request(run, n, netns));
        calls.spawn(async move { ports.create_port(wanted).await.map(drop) });
    }
    while let Some(call) = calls.join_next().await {
        call??;
    }
    Ok(())
}

type Waiting = tonic::Streaming<v1::WaitPortsResponse>;

/// Ports that do not exist yet are waited for.
async fn follow(stage: &Stage, run: &str) -> Result<Waiting> {
    let mut ready = ReadyServiceClient::new(stage.controller.channel()?);
    let request = v1::WaitPortsRequest {
        keys: (0..COUNT).map(|n| key(run, n)).collect(),
        level: v1::ReadyLevel::Proven.into(),
        timeout_ms: u32::try_from(LIMIT.as_millis())?,
    };
    Ok(ready.wait_ports(request).await?.into_inner())
}

/// When the last port was programmed, advertised and proven.
async fn stages(mut waiting: Waiting, begin: Instant) -> Result<Times> {
    let mut times = Times::default();
    let mut done: [BTreeMap<String, ()>; 2] = Default::default();
    while let Some(said) = waiting.message().await? {
        let now = begin.elapsed().as_secs_f64();
        let name = said.key.map(|key| key.name).unwrap_or_default();
        let readiness = said.readiness.unwrap_or_default();
        let [host, routes] = [readiness.host, readiness.fabric].map(|leg| leg.is_some_and(|leg| leg.done));
        let legs = [host, host && routes];
        let last = [&mut times.programmed, &mut times.advertised];
        for ((there, done), last) in legs.into_iter().zip(&mut done).zip(last) {
            if there && done.insert(name.clone(), ()).is_none() {
                *last = now;
            }
        }
        if let Some(outcome) = said.outcome {
            ensure!(outcome.ready, "port {name}: {}", outcome.reason);
            times.proven = now;
        }
    }
    let missing = done.iter().map(BTreeMap::len).min().unwrap_or(0);
    ensure!(missing == COUNT, "only {missing} of {COUNT} were seen");
    Ok(times)
}

/// The ports go, and the hosts are as before.
async fn clear(stage: &Stage, run: &str) -> Result<()> {
    let mut ports = PortServiceClient::new(stage.controller.channel()?);
    for n in 0..COUNT {
        let release = v1::ReleasePortRequest {
            key: Some(key(run, n)),
            forget: true,
            skip_quarantine: true,
            ..v1::ReleasePortRequest::default()
        };
        ports.release_port(release).await?;
    }
    wait_for("the hosts are empty again", LIMIT, async || {
        for host in &stage.hosts {
            let links = host.netns.run(&["ip", "-o", "link"]).await?;
            ensure!(!links.contains(": cwp"), "{} ports are left", links.matches(": cwp").count());
        }
        Ok(())
    })
    .await
}

/// Processes wait at the socket in each container, then all ports are requested: milliseconds from when the controller says
/// that a port is proven until its process runs.
async fn waiters(stage: &Stage, containers: &[Netns]) -> Result<Vec<f64>> {
    let (run, wait) = ("wait", program("causeway-wait")?.to_string_lossy().into_owned());
    let (mut started, mut pids) = (JoinSet::new(), Vec::new());
    for (n, netns) in containers.iter().enumerate() {
        let host = stage.hosts.get(n % HOSTS.len()).context("no such host")?;
        let mut command = netns.command(&wait);
        command.args(["--level", "proven", "--timeout", "300s", "--quiet", "--socket"]);
        command.arg(host.socket()).args(["--", "sh", "-c", "echo"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        pids.push(child.id());
        started.spawn_blocking(move || -> Result<(String, Instant)> {
            let mut byte = [0_u8; 1];
            child.stdout.as_mut().context("a pipe")?.read_exact(&mut byte).context("it did not start")?;
            let at = Instant::now();
            ensure!(child.wait()?.success(), "it failed");
            Ok((key("wait", n).name, at))
        });
    }
    wait_for("all wait", LIMIT, async || {
        // The namespace is entered by another program, which becomes this one.
        let waits = |pid: &&u32| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "causeway-wait"
        };
        let there = pids.iter().filter(waits).count();
        ensure!(there == COUNT, "{there} of {COUNT}");
        Ok(())
    })
    .await?;
    let mut waiting = follow(stage, run).await?;
    bulk(stage, containers, run).await?;
    let mut ready = BTreeMap::new();
    while let Some(said) = waiting.message().await? {
        if let (Some(key), Some(outcome)) = (said.key, said.outcome) {
            ensure!(outcome.ready, "port {}: {}", key.name, outcome.reason);
            ready.insert(key.name, Instant::now());
        }
    }
    let mut times = Vec::new();
    while let Some(one) = started.join_next().await {
        let (name, at) = one??;
        let since = *ready.get(&name).with_context(|| format!("port {name} was never ready"))?;
        // The agent may have heard of it first.
        times.push(at.saturating_duration_since(since).as_secs_f64() * 1e3);
    }
    clear(stage, run).await?;
    Ok(times)
}
