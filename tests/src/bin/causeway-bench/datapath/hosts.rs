//! What is measured: pairs of hosts, each pair on a cable of its own, with a workload attached on both by our agents.
//!
//! ```text
//! workload ── attachment ── host a: eth0 ═══ cable ═══ eth0: host b ── attachment ── workload
//! bare:                     host a: eth0 ═══ cable ═══ eth0: host b
//! Docker: container ── docker0 ── NAT ── eth0 ═══ cable ═══ eth0: host b
//! ```

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::Controller;
use causeway_tests::process::{Daemon, program, run};
use causeway_tests::slot::{Directory, Slot};
use causeway_tests::{Netns, wait_for};

use super::ways::{Way, host_address, network_name, node_name, workload_address};

const SOON: Duration = Duration::from_secs(60);
const IMAGE: &str = "causeway-bench";

/// A pair of hosts, and who talks to whom across it. Dropping it removes all.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) name: &'static str,
    /// The way, if our agents attached its workloads.
    pub(crate) way: Option<&'static Way>,
    /// What to put in front of a command of the client.
    pub(crate) client: Vec<String>,
    pub(crate) server: Ipv4Addr,
    /// Namespaces whose `eth0` is an end of the cable.
    pub(crate) ends: [String; 2],
    // In the order in which they go.
    _container: Option<Container>,
    _daemons: Vec<Daemon>,
    _namespaces: Vec<Netns>,
    _directories: Vec<Directory>,
}

fn enter(netns: &Netns) -> Vec<String> {
    ["ip", "netns", "exec", netns.name()].map(String::from).to_vec()
}

/// A host; its end of the cable comes later.
async fn host() -> Result<Netns> {
    let netns = Netns::new("host").await?;
    for table in ["iptables", "ip6tables", "arptables"] {
        // Without the kernel's br_netfilter there is nothing to turn off.
        let _ = netns.run(&["sysctl", "-qw", &format!("net.bridge.bridge-nf-call-{table}=0")]).await;
    }
    Ok(netns)
}

async fn serve(netns: &Netns) -> Result<(Daemon, Directory)> {
    let directory = Slot::get()?.directory("serve")?;
    let mut command = netns.command(&std::env::current_exe()?.to_string_lossy());
    command.args(["flow", "serve"]);
    Ok((Daemon::spawn("server", command, &directory.path().join("log"))?, directory))
}

fn agent(netns: &Netns, node: &str, socket: &Path) -> Result<(Daemon, Directory)> {
    let directory = Slot::get()?.directory(node)?;
    let mut command = netns.command(&program("causeway-agent")?.to_string_lossy());
    command
        .args(["--node", node, "--controllers", &format!("unix:{}", socket.display()), "--state-dir"])
        .arg(directory.path().join("state"));
    Ok((Daemon::spawn(node, command, &directory.path().join("log"))?, directory))
}

/// The server sees the client at `expected`: what is measured is what was meant.
async fn check(client: &[String], server: Ipv4Addr, expected: Ipv4Addr) -> Result<()> {
    let seen = command(client, &["who", &server.to_string()])?;
    let words: Vec<&str> = seen.iter().map(String::as_str).collect();
    wait_for(&format!("{server} is reached from {expected}"), SOON, async || {
        let seen = run(&words).await?;
        ensure!(seen.trim() == expected.to_string(), "the server sees the client at {}", seen.trim());
        Ok(())
    })
    .await
}

/// One of the client's commands in full.
pub(crate) fn command(client: &[String], arguments: &[&str]) -> Result<Vec<String>> {
    let own = std::env::current_exe()?.to_string_lossy().into_owned();
    let rest = ["flow"].into_iter().chain(arguments.iter().copied()).map(String::from);
    Ok(client.iter().cloned().chain([own]).chain(rest).collect())
}

impl Pair {
    /// The two hosts themselves.
    pub(crate) async fn bare(n: u8) -> Result<Pair> {
        let (a, b) = (host().await?, host().await?);
        let addresses = [1, 2].map(|side| format!("{}/24", host_address(n, side)));
        Netns::join((&a, "eth0", &[&addresses[0]]), (&b, "eth0", &[&addresses[1]])).await?;
        let (server, directory) = serve(&b).await?;
        let pair = Pair {
            name: "bare",
            way: None,
            client: enter(&a),
            server: host_address(n, 2),
            ends: [a.name().to_owned(), b.name().to_owned()],
            _container: None,
            _daemons: vec![server],
            _namespaces: vec![a, b],
            _directories: vec![directory],
        };
        check(&pair.client, pair.server, host_address(n, 1)).await?;
        Ok(pair)
    }

    /// Workloads attached by our agents.
    pub(crate) async fn ours(n: u8, way: &'static Way, controller: &Controller) -> Result<Pair> {
        controller.apply(way.records(n)).await?;
        let hosts = [host().await?, host().await?];
        let workloads = [Netns::new("load").await?, Netns::new("load").await?];
        // A bridge takes an uplink without addresses; a VTEP, and a host that routes, have one.
        let addresses = match way.attachment {
            v1::Attachment::VxlanBridge => [1, 2].map(|side| vec![format!("{}/24", host_address(n, side))]),
            v1::Attachment::Routed => {
                [1, 2].map(|side| vec![format!("{}/24", workload_address(n, 100 + side))])
            }
            _ => [Vec::new(), Vec::new()],
        };
        let [of_a, of_b] =
            [&addresses[0], &addresses[1]].map(|list| list.iter().map(String::as_str).collect::<Vec<_>>());
        Netns::join((&hosts[0], "eth0", &of_a), (&hosts[1], "eth0", &of_b)).await?;
        let (mut daemons, mut directories) = (Vec::new(), Vec::new());
        for ((side, host), workload) in (1..).zip(&hosts).zip(&workloads) {
            if way.attachment == v1::Attachment::Routed {
                host.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"])
                    .await?;
            }
            let (daemon, directory) = agent(host, &node_name(n, side), &controller.socket())?;
            daemons.push(daemon);
            directories.push(directory);
            create(controller, way, n, side, workload).await?;
        }
        for side in [1, 2] {
            programmed(controller, n, side).await?;
        }
        let (server, directory) = serve(&workloads[1]).await?;
        daemons.push(server);
        directories.push(directory);
        let client = enter(&workloads[0]);
        check(&client, workload_address(n, 2), workload_address(n, 1)).await?;
        let ends = [hosts[0].name().to_owned(), hosts[1].name().to_owned()];
        Ok(Pair {
            name: way.name,
            way: Some(way),
            client,
            server: workload_address(n, 2),
            ends,
            _container: None,
            _daemons: daemons,
            _namespaces: workloads.into_iter().chain(hosts).collect(),
            _directories: directories,
        })
    }

    /// A container of Docker's behind its bridge and its NAT, on a host that is the namespace in which dockerd works.
    pub(crate) async fn docker(n: u8, docker: &str) -> Result<Pair> {
        let b = host().await?;
        let cable = format!("ip -n {docker} link add eth0 type veth peer name eth0 netns {}", b.name());
        let [address_a, address_b] = [1, 2].map(|side| format!("{}/24", host_address(n, side)));
        for line in [
            cable,
            format!("ip -n {docker} address add {address_a} dev eth0"),
            format!("ip -n {docker} link set eth0 up"),
            format!("ip -n {} address add {address_b} dev eth0", b.name()),
            format!("ip -n {} link set eth0 up", b.name()),
        ] {
            run(&line.split_whitespace().collect::<Vec<_>>()).await?;
        }
        let (server, directory) = serve(&b).await?;
        let container = Container::start().await?;
        let client = vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", container.pid)];
        // Seen at its host's address: NAT is in the path.
        check(&client, host_address(n, 2), host_address(n, 1)).await?;
        Ok(Pair {
            name: "Docker's NAT",
            way: None,
            client,
            server: host_address(n, 2),
            ends: [docker.to_owned(), b.name().to_owned()],
            _container: Some(container),
            _daemons: vec![server],
            _namespaces: vec![b],
            _directories: vec![directory],
        })
    }
}

async fn create(controller: &Controller, way: &Way, n: u8, side: u8, workload: &Netns) -> Result<()> {
    let binding = v1::Binding {
        node: node_name(n, side),
        attachment: way.attachment.into(),
        netns: format!("/run/netns/{}", workload.name()),
        interface: "eth0".into(),
        ..Default::default()
    };
    let request = v1::CreatePortRequest {
        key: Some(key(n, side)),
        addresses: vec![workload_address(n, side).to_string()],
        bind: Some(binding),
        guard: way.guard.into(),
        ..Default::default()
    };
    PortServiceClient::new(controller.channel()?).create_port(request).await?;
    Ok(())
}

fn key(n: u8, side: u8) -> v1::PortKey {
    v1::PortKey { vrf: "default".into(), network: network_name(n), name: format!("w{side}") }
}

async fn programmed(controller: &Controller, n: u8, side: u8) -> Result<()> {
    let mut ports = PortServiceClient::new(controller.channel()?);
    wait_for(&format!("the port on {} is programmed", node_name(n, side)), SOON, async || {
        let port = ports.get_port(v1::GetPortRequest { key: Some(key(n, side)) }).await?.into_inner().port;
        let port = port.context("no port")?;
        let state = port.state();
        let is_there =
            matches!(state, v1::PortState::Programmed | v1::PortState::Advertised | v1::PortState::Ready);
        ensure!(is_there, "{} {}", state.as_str_name(), port.problem);
        Ok(())
    })
    .await
}

/// A container that does nothing, on Docker's default network.
#[derive(Debug)]
struct Container {
    id: String,
    pid: u32,
}

impl Container {
    async fn start() -> Result<Container> {
        let id = run(&["docker", "run", "--detach", "--network", "bridge", IMAGE]).await?.trim().to_owned();
        let mut container = Container { id, pid: 0 };
        let pid = run(&["docker", "inspect", "--format", "{{.State.Pid}}", &container.id]).await?;
        container.pid = pid.trim().parse().with_context(|| format!("odd process number {pid}"))?;
        ensure!(container.pid != 0, "the container ended at once");
        Ok(container)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What is left of it ends with its dockerd.
        let _ = Command::new("docker").args(["rm", "--force", &self.id]).output();
    }
}
