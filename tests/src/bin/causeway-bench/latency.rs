//! From the request of a port (`CreatePort` with `bind`) to the FDB entry in the kernel of another host, and of a leaf.
//!
//! ```text
//! namespace core: etcd ── controller ──BGP── namespace leaf: FRR, VNI 100
//!                            │ unix socket
//!             namespace host1: agent      namespace host2: agent      (the kernels of both are watched)
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::frr::FrrVersion;
use causeway_tests::process::{Daemon, program};
use causeway_tests::slot::{Directory, Slot};
use causeway_tests::{Etcd, Frr, Netns, wait_for};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use crate::ports;
use crate::report::{Aim, Report, percentile};

/// Ports measured, one after the other.
const PORTS: u64 = 300;
/// Before these the caches are cold.
const WARM_UP: u64 = 10;
/// Longest wait for one entry.
const SOON: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(30);
const NETWORK: &str = "bench";
const HOSTS: [(&str, &str); 2] = [("host1", "192.0.2.1"), ("host2", "192.0.2.2")];

type Ports = PortServiceClient<tonic::transport::Channel>;

/// When a remote MAC first came into a kernel's FDB.
struct Watch {
    seen: Arc<Mutex<HashMap<String, Instant>>>,
    news: Arc<Notify>,
    _monitor: Child,
}

impl Watch {
    /// Starts to watch a namespace.
    fn start(netns: &Netns) -> Result<Watch> {
        let mut monitor = Command::from(netns.command("stdbuf"));
        monitor.args(["-oL", "bridge", "monitor", "fdb"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut monitor = monitor.kill_on_drop(true).spawn().context("bridge monitor")?;
        let out = monitor.stdout.take().context("no output")?;
        let watch = Watch { seen: Arc::default(), news: Arc::default(), _monitor: monitor };
        let (seen, news) = (watch.seen.clone(), watch.news.clone());
        // Ends with the monitor.
        tokio::spawn(async move {
            let mut lines = BufReader::new(out).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let now = Instant::now();
                // `MAC dev DEVICE dst VTEP …`; deletions begin with "Deleted".
                if let Some(mac) = line.split_whitespace().next().filter(|_| line.contains(" dst ")) {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.entry(mac.to_owned()).or_insert(now);
                    news.notify_waiters();
                }
            }
        });
        Ok(watch)
    }

    /// Waits for a MAC.
    async fn wait(&self, mac: &str) -> Result<Instant> {
        let look = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if let Some(at) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(mac) {
                    return *at;
                }
                news.await;
            }
        };
        tokio::time::timeout(SOON, look).await.with_context(|| format!("{mac} did not come within {SOON:?}"))
    }
}

/// A host with its agent.
struct Host {
    _agent: Daemon,
    netns: Netns,
    _directory: Directory,
}

impl Host {
    async fn start(name: &str, vtep: &str, socket: &Path) -> Result<Host> {
        let netns = Netns::new(name).await?;
        netns.ip(&[&format!("addr add {vtep}/32 dev lo")]).await?;
        for table in ["iptables", "ip6tables", "arptables"] {
            // Without the kernel module there is nothing to turn off.
            let _ = netns.run(&["sysctl", "-qw", &format!("net.bridge.bridge-nf-call-{table}=0")]).await;
        }
        let directory = Slot::get()?.directory(name)?;
        let mut command = netns.command(&program("causeway-agent")?.to_string_lossy());
        command
            .args(["--node", name, "--controllers", &format!("unix:{}", socket.display()), "--state-dir"])
            .arg(directory.path().join("state"));
        let agent = Daemon::spawn(name, command, &directory.path().join("log"))?;
        Ok(Host { _agent: agent, netns, _directory: directory })
    }
}

/// A switch that peers with the controller, with the network's VNI.
async fn leaf(core: &Netns, version: FrrVersion) -> Result<(Netns, Frr)> {
    let netns = Netns::new("leaf").await?;
    Netns::join((core, "wire0", &["10.9.0.2/24"]), (&netns, "wire0", &["10.9.0.1/24"])).await?;
    netns
        .ip(&[
            "addr add 192.0.2.9/32 dev lo",
            "link add br100 type bridge",
            "link add vx100 type vxlan id 100 local 192.0.2.9 dstport 4789 nolearning",
            "link set vx100 master br100",
            "link set br100 up",
            "link set vx100 up",
            // A next hop that cannot be resolved makes a route unusable.
            "route add 192.0.2.0/24 via 10.9.0.2",
        ])
        .await?;
    let config = "router bgp 65000\n bgp router-id 192.0.2.9\n no bgp default ipv4-unicast\n \
                  neighbor 10.9.0.2 remote-as 65000\n neighbor 10.9.0.2 timers connect 1\n neighbor 10.9.0.2 passive\n \
                  address-family l2vpn evpn\n  neighbor 10.9.0.2 activate\n  advertise-all-vni\n exit-address-family\n";
    let frr = Frr::start(&netns, version, config).await?;
    Ok((netns, frr))
}

fn records(with_peer: bool) -> Vec<v1::resource::Spec> {
    let mut specs = network(NETWORK, 100, "10.100.0.0/16");
    for (name, vtep) in HOSTS {
        specs.push(v1::resource::Spec::Node(v1::Node {
            name: name.into(),
            mode: v1::NodeMode::HostVtep.into(),
            vtep: vtep.into(),
            ..Default::default()
        }));
    }
    if with_peer {
        let peer = v1::Peer { address: "10.9.0.1".into(), asn: 65000, ..Default::default() };
        specs.push(v1::resource::Spec::Peer(peer));
    }
    specs
}

async fn create(ports: &mut Ports, node: &str, netns: &Netns, n: u64) -> Result<v1::Port> {
    let binding = v1::Binding {
        node: node.into(),
        netns: format!("/run/netns/{}", netns.name()),
        interface: "eth0".into(),
        ..Default::default()
    };
    let request = v1::CreatePortRequest { bind: Some(binding), ..ports::request(NETWORK, node, n) };
    let answer = ports.create_port(request).await?.into_inner();
    answer.port.context("no port in the answer")
}

/// Waits until both agents are connected, one workload of each host is known to the other, and the leaf has both.
async fn settle(
    controller: &Controller,
    ports: &mut Ports,
    watches: &[Watch],
    workloads: &[Netns],
) -> Result<()> {
    wait_for("both agents are connected", START, async || {
        let mut fabric = FabricServiceClient::new(controller.channel()?);
        let nodes = fabric.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
        ensure!(nodes.iter().filter(|node| node.connected).count() == HOSTS.len(), "{nodes:?}");
        Ok(())
    })
    .await?;
    // A host shows remote MACs only of networks that it has a port on.
    create(ports, "host2", &workloads[0], 0).await?;
    let first = create(ports, "host1", &workloads[1], 0).await?;
    for watch in watches {
        watch.wait(&first.mac).await?;
    }
    Ok(())
}

/// What one series gave, milliseconds.
#[derive(Default)]
struct Times {
    /// Until the request was answered.
    answer: Vec<f64>,
    /// Until the entry was in the other host's kernel.
    host: Vec<f64>,
    /// Until it was in the leaf's.
    leaf: Vec<f64>,
}

/// One series of ports; runs inside the namespace `core`.
async fn series(core: &Netns, with: Option<FrrVersion>) -> Result<(Times, String)> {
    let etcd = Etcd::start(EtcdVersion::Debian).await?;
    let controller = Controller::start(&StoreAt::Etcd(etcd.endpoint())).await?;
    let leaf = match with {
        Some(version) => Some(leaf(core, version).await?),
        None => None,
    };
    controller.apply(records(leaf.is_some())).await?;
    let mut hosts = Vec::new();
    for (name, vtep) in HOSTS {
        hosts.push(Host::start(name, vtep, &controller.socket()).await?);
    }
    let mut watches = vec![Watch::start(&hosts[1].netns)?];
    if let Some((netns, _)) = &leaf {
        watches.push(Watch::start(netns)?);
    }
    let mut workloads = Vec::new();
    for _ in 0..PORTS + WARM_UP + 2 {
        workloads.push(Netns::new("w").await?);
    }
    let mut ports = Ports::new(controller.channel()?);
    settle(&controller, &mut ports, &watches, &workloads).await?;
    let mut times = Times::default();
    for (n, workload) in (1..).zip(&workloads[2..]) {
        let start = Instant::now();
        let since = |at: Instant| at.duration_since(start).as_secs_f64() * 1e3;
        let port = create(&mut ports, "host1", workload, n).await?;
        let answered = since(Instant::now());
        let host = since(watches[0].wait(&port.mac).await?);
        let leaf = match watches.get(1) {
            Some(watch) => Some(since(watch.wait(&port.mac).await?)),
            None => None,
        };
        if n > WARM_UP {
            times.answer.push(answered);
            times.host.push(host);
            times.leaf.extend(leaf);
        }
    }
    Ok((times, leaf.map(|(_, frr)| frr.version().to_owned()).unwrap_or_default()))
}

/// Measures with no switch, then with each FRR.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    for with in [None, Some(FrrVersion::Debian), Some(FrrVersion::Newest)] {
        let core = Netns::new("core").await?;
        let (mut times, version) = core.enter(async || series(&core, with).await)?;
        if with.is_some() {
            for (share, name) in [(0.5, "p50"), (0.99, "p99")] {
                let title = format!("port request to FDB entry of a leaf, FRR {version}, {name}");
                report.add(&title, percentile(&mut times.leaf, share), "ms", Aim::None);
                let title = format!("the same run, to the other host's, {name}");
                report.add(&title, percentile(&mut times.host, share), "ms", Aim::None);
            }
            continue;
        }
        let title = "port request to FDB entry in the other host";
        report.add(
            "port request to its answer, etcd, p50",
            percentile(&mut times.answer, 0.5),
            "ms",
            Aim::None,
        );
        report.add(&format!("{title}, p50"), percentile(&mut times.host, 0.5), "ms", Aim::Below(10.0));
        report.add(&format!("{title}, p99"), percentile(&mut times.host, 0.99), "ms", Aim::None);
    }
    Ok(())
}
