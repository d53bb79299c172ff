//! Three controllers, an etcd and six hosts, each in a namespace of its own, and what can fail of them.
//!
//! ```text
//! namespace core: etcd ─ bridge "store" ─ c1 c2 c3 ─ bridge "ctl" ─ h1 … h6 ─ bridge "wire" (VXLAN)
//! ```

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_tests::controller::{Controller, StoreAt, apply};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::process::{Daemon, program};
use causeway_tests::slot::{Directory, Slot};
use causeway_tests::{Etcd, Netns, wait_for};
use tonic::transport::{Channel, Endpoint};

use crate::script::{CONTROLLERS, Failure, HOSTS, PORTS};

/// Longest wait for everything to be up.
const START: Duration = Duration::from_secs(60);
/// A call that takes longer is given up; what became of it nobody knows.
const CALL: Duration = Duration::from_secs(8);
pub(crate) const VNI: u32 = 110;
/// Fewer addresses than ports: the pool runs dry, and addresses go around.
const RANGE: std::ops::RangeInclusive<u8> = 10..=20;

/// A host with its agent.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) netns: Netns,
    pub(crate) vtep: Ipv4Addr,
    agent: Option<Daemon>,
    directory: Directory,
}

impl Host {
    /// Starts its agent, for the first time or again with what it has on disk.
    fn start_agent(&mut self) -> Result<()> {
        let program = program("causeway-agent")?;
        let mut command = self.netns.command(&program.to_string_lossy());
        command.arg("--config").arg(self.directory.path().join("agent.yaml"));
        self.agent = Some(Daemon::spawn(&self.name, command, &self.directory.path().join("log"))?);
        Ok(())
    }

    /// What its agent has written.
    pub(crate) fn log(&self) -> String {
        self.agent.as_ref().map(Daemon::log).unwrap_or_default()
    }
}

/// Everything.
pub(crate) struct Fabric<'c> {
    pub(crate) hosts: Vec<Host>,
    /// A namespace for each port on each host.
    pub(crate) workloads: BTreeMap<(usize, usize), Netns>,
    controllers: Vec<(Controller, Netns)>,
    pub(crate) etcd: Etcd,
    core: &'c Netns,
}

fn control(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, n as u8)
}

/// Where a host reaches controllers from.
fn host_control(n: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 90, 0, 100 + n as u8)
}

/// Where nothing of the fabric is, but all its tunnels can be reached from.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 90, 2, 254);

/// The end of a wire in the core.
fn end(kind: char, n: usize) -> String {
    format!("{kind}{n}")
}

impl<'c> Fabric<'c> {
    /// Brings everything up; runs inside the namespace `core`.
    pub(crate) async fn start(core: &'c Netns, version: EtcdVersion) -> Result<Fabric<'c>> {
        for (n, bridge, address) in
            [(1, "ctl", "10.90.0.254/24"), (2, "store", "10.90.1.254/24"), (3, "wire", "10.90.2.254/24")]
        {
            // A bridge without a MAC of its own takes the lowest of its ports', and who knew the one before waits for seconds.
            let add = format!("link add {bridge} address 02:00:00:00:00:0{n} type bridge");
            let address = format!("addr add {address} dev {bridge}");
            core.ip(&[&add, &address, &format!("link set {bridge} up")]).await?;
        }
        let etcd = Etcd::start_at(version, Ipv4Addr::new(10, 90, 1, 254), &[]).await?;
        let mut fabric =
            Fabric { hosts: Vec::new(), workloads: BTreeMap::new(), controllers: Vec::new(), etcd, core };
        for n in 1..=CONTROLLERS {
            let controller = fabric.controller(n).await?;
            fabric.controllers.push(controller);
        }
        for n in 0..CONTROLLERS {
            fabric.answers(n).await?;
        }
        apply(&fabric.channel(0)?, records()).await?;
        for n in 1..=HOSTS {
            let host = fabric.host(n).await?;
            fabric.hosts.push(host);
        }
        for host in 0..HOSTS {
            for port in 0..PORTS {
                fabric.workloads.insert((host, port), Netns::new("w").await?);
            }
        }
        fabric.all_connected().await?;
        Ok(fabric)
    }

    /// A wire from a bridge of the core.
    async fn wire(&self, netns: &Netns, bridge: &str, end: &str, address: &str) -> Result<()> {
        Netns::join((self.core, end, &[]), (netns, bridge, &[address])).await?;
        self.core.ip(&[&format!("link set {end} master {bridge}")]).await
    }

    async fn controller(&self, n: usize) -> Result<(Controller, Netns)> {
        let netns = Netns::new("ctl").await?;
        self.wire(&netns, "ctl", &end('c', n), &format!("{}/24", control(n))).await?;
        self.wire(&netns, "store", &end('s', n), &format!("10.90.1.{n}/24")).await?;
        let prefix = ["ip", "netns", "exec", netns.name()];
        let store = StoreAt::Etcd(self.etcd.endpoint());
        let controller = Controller::start_in(&prefix, control(n), control(n), &store).await?;
        Ok((controller, netns))
    }

    async fn host(&self, n: usize) -> Result<Host> {
        let name = format!("h{n}");
        let netns = Netns::new(&name).await?;
        let vtep = Ipv4Addr::new(10, 90, 2, n as u8);
        self.wire(&netns, "ctl", &end('a', n), &format!("{}/24", host_control(n))).await?;
        self.wire(&netns, "wire", &end('w', n), &format!("{vtep}/24")).await?;
        for table in ["iptables", "ip6tables", "arptables"] {
            // Without the kernel module there is nothing to turn off.
            let _ = netns.run(&["sysctl", "-qw", &format!("net.bridge.bridge-nf-call-{table}=0")]).await;
        }
        let directory = Slot::get()?.directory(&name)?;
        let controllers: Vec<_> =
            (1..=CONTROLLERS).map(|n| format!("'http://{}:7480'", control(n))).collect();
        let config = format!(
            "node: {name}\ncontrollers: [{}]\nstate_dir: {}\nwait_socket: ''\n",
            controllers.join(", "),
            directory.path().join("state").display()
        );
        std::fs::write(directory.path().join("agent.yaml"), config)?;
        let mut host = Host { name, netns, vtep, agent: None, directory };
        host.start_agent()?;
        Ok(host)
    }

    /// A channel to a controller that connects when used, from the core: no failure is in its way.
    pub(crate) fn channel(&self, n: usize) -> Result<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}:7480", control(n + 1)))?;
        Ok(endpoint.connect_timeout(Duration::from_secs(1)).timeout(CALL).connect_lazy())
    }

    async fn answers(&self, n: usize) -> Result<()> {
        wait_for(&format!("controller {} answers", n + 1), START, async || {
            let mut fabric = FabricServiceClient::new(self.channel(n)?);
            fabric.list_nodes(v1::ListNodesRequest {}).await?;
            Ok(())
        })
        .await
    }

    /// Waits until every agent is connected, as every controller says.
    pub(crate) async fn all_connected(&self) -> Result<()> {
        for n in 0..CONTROLLERS {
            self.answers(n).await?;
            wait_for(&format!("all agents are connected, says controller {}", n + 1), START, async || {
                let mut fabric = FabricServiceClient::new(self.channel(n)?);
                let nodes = fabric.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
                let there = nodes.iter().filter(|node| node.connected).count();
                ensure!(there == HOSTS, "{there} of {HOSTS}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Where a port lives on a host.
    pub(crate) fn binding(&self, host: usize, port: usize) -> Result<v1::Binding> {
        let netns = self.workloads.get(&(host, port)).context("no such workload")?;
        Ok(v1::Binding {
            node: self.hosts.get(host).context("no such host")?.name.clone(),
            netns: format!("/run/netns/{}", netns.name()),
            ..v1::Binding::default()
        })
    }

    /// Something fails.
    pub(crate) async fn fail(&mut self, failure: Failure) -> Result<()> {
        let lost = |to: Ipv4Addr| format!("route add blackhole {to}/32");
        match failure {
            Failure::ControllerDies(n) => self.controllers[n].0.kill(),
            Failure::AgentDies(n) => self.hosts[n].agent.take().context("it is dead already")?.kill(),
            Failure::HostIsCut(n) => self.core.ip(&[&format!("link set {} down", end('a', n + 1))]).await,
            Failure::HostIsMute(n, c) => self.hosts[n].netns.ip(&[&lost(control(c + 1))]).await,
            Failure::HostIsDeaf(n, c) => self.controllers[c].1.ip(&[&lost(host_control(n + 1))]).await,
            Failure::HostIsFenced(n) => {
                self.core.ip(&[&format!("link set {} down", end('a', n + 1))]).await?;
                self.fence(n, true).await
            }
            Failure::ControllerIsCut(n) => {
                self.core.ip(&[&format!("link set {} down", end('s', n + 1))]).await
            }
            Failure::StoreDies => self.etcd.kill(),
            Failure::StoreHangs => self.etcd.pause(),
        }
    }

    /// It is well again.
    pub(crate) async fn heal(&mut self, failure: Failure) -> Result<()> {
        let lost = |to: Ipv4Addr| format!("route del blackhole {to}/32");
        match failure {
            Failure::ControllerDies(n) => self.controllers[n].0.restart().await,
            Failure::AgentDies(n) => self.hosts[n].start_agent(),
            Failure::HostIsCut(n) => self.core.ip(&[&format!("link set {} up", end('a', n + 1))]).await,
            Failure::HostIsMute(n, c) => self.hosts[n].netns.ip(&[&lost(control(c + 1))]).await,
            Failure::HostIsDeaf(n, c) => self.controllers[c].1.ip(&[&lost(host_control(n + 1))]).await,
            Failure::HostIsFenced(n) => {
                self.core.ip(&[&format!("link set {} up", end('a', n + 1))]).await?;
                self.fence(n, false).await
            }
            Failure::ControllerIsCut(n) => self.core.ip(&[&format!("link set {} up", end('s', n + 1))]).await,
            Failure::StoreDies => self.etcd.restart().await,
            Failure::StoreHangs => self.etcd.resume(),
        }
    }

    /// Keeps a host out, or lets it in; asks until a controller has done it.
    async fn fence(&self, host: usize, out: bool) -> Result<()> {
        let node = self.hosts[host].name.clone();
        let mut asked = 0;
        wait_for(&format!("fence of {node} is {out}"), START, async || {
            asked += 1;
            let mut moves = MoveServiceClient::new(self.channel(asked % CONTROLLERS)?);
            let node = node.clone();
            if out {
                let request = v1::FenceNodeRequest { node, reason: "nobody hears from it".into() };
                moves.fence_node(request).await?;
            } else {
                moves.unfence_node(v1::UnfenceNodeRequest { node }).await?;
            }
            Ok(())
        })
        .await
    }

    /// What all daemons have written that a human would have to look at.
    pub(crate) fn errors(&self) -> Vec<String> {
        let controllers = self.controllers.iter().filter_map(|(c, _)| c.daemon().ok()).map(Daemon::log);
        let logs = controllers.chain(self.hosts.iter().map(Host::log));
        logs.flat_map(|log| {
            log.lines().filter(|l| l.contains("ERROR")).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
    }
}

/// All addresses that ports can have.
pub(crate) fn addresses() -> Vec<Ipv4Addr> {
    RANGE.map(|last| Ipv4Addr::new(10, 8, 0, last)).collect()
}

fn records() -> Vec<v1::resource::Spec> {
    use v1::resource::Spec;
    let network = v1::Network {
        name: "web".into(),
        vni: VNI,
        sticky_seconds: 10,
        quarantine_seconds: Some(3),
        ..v1::Network::default()
    };
    let subnet = v1::Subnet {
        network: "web".into(),
        prefix: "10.8.0.0/24".into(),
        ranges: vec![format!("10.8.0.{}-10.8.0.{}", RANGE.start(), RANGE.end())],
        ..v1::Subnet::default()
    };
    let node = |n| v1::Node {
        name: format!("h{n}"),
        mode: v1::NodeMode::HostVtep.into(),
        vtep: format!("10.90.2.{n}"),
        ..v1::Node::default()
    };
    let nodes = (1..=HOSTS).map(|n| Spec::Node(node(n)));
    [Spec::Network(network), Spec::Subnet(subnet)].into_iter().chain(nodes).collect()
}
