//! What the containers run on.

use std::path::PathBuf;

use anyhow::Result;
use causeway_proto::v1;
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::frr::FrrVersion;
use causeway_tests::process::{Daemon, program};
use causeway_tests::slot::{Directory, Slot};
use causeway_tests::{Etcd, Frr, Netns};

pub(super) const NETWORK: &str = "bench";
pub(super) const HOSTS: [(&str, &str); 2] = [("host1", "10.91.0.1"), ("host2", "10.91.0.2")];
/// The controller's address towards the reflector, and the reflector's.
const OURS: &str = "10.9.0.2";
const REFLECTOR: &str = "10.9.0.1";

/// A host with its agent.
pub(super) struct Host {
    _agent: Daemon,
    pub(super) netns: Netns,
    directory: Directory,
}

impl Host {
    async fn start(core: &Netns, name: &str, vtep: &str, controller: &Controller) -> Result<Host> {
        let netns = Netns::new(name).await?;
        Netns::join((core, name, &[]), (&netns, "wire", &[&format!("{vtep}/24")])).await?;
        core.ip(&[&format!("link set {name} master wire")]).await?;
        for table in ["iptables", "ip6tables", "arptables"] {
            // Without the kernel module there is nothing to turn off.
            let _ = netns.run(&["sysctl", "-qw", &format!("net.bridge.bridge-nf-call-{table}=0")]).await;
        }
        let directory = Slot::get()?.directory(name)?;
        let at = |file: &str| directory.path().join(file).display().to_string();
        let config = format!(
            "node: {name}\ncontrollers: ['unix:{}']\nstate_dir: {}\nwait_socket: {}\n",
            controller.socket().display(),
            at("state"),
            at("wait/wait.sock"),
        );
        std::fs::write(directory.path().join("agent.yaml"), config)?;
        let mut command = netns.command(&program("causeway-agent")?.to_string_lossy());
        command.arg("--config").arg(directory.path().join("agent.yaml"));
        let agent = Daemon::spawn(name, command, &directory.path().join("log"))?;
        Ok(Host { _agent: agent, netns, directory })
    }

    /// Its readiness socket.
    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("wait/wait.sock")
    }
}

/// Everything but the containers.
pub(super) struct Stage {
    pub(super) hosts: Vec<Host>,
    pub(super) reflector: Frr,
    pub(super) controller: Controller,
    _wire: Netns,
    _etcd: Etcd,
}

impl Stage {
    /// Brings it up; runs inside the namespace `core`.
    pub(super) async fn start(core: &Netns) -> Result<Stage> {
        core.ip(&["link add wire type bridge", "link set wire up"]).await?;
        let etcd = Etcd::start(EtcdVersion::Debian).await?;
        let controller = Controller::start(&StoreAt::Etcd(etcd.endpoint())).await?;
        let netns = Netns::new("rr").await?;
        let ours = format!("{OURS}/24");
        Netns::join((core, "rr", &[&ours]), (&netns, "core", &[&format!("{REFLECTOR}/24")])).await?;
        // A next hop that cannot be resolved makes a route unusable.
        netns.ip(&[&format!("route add 10.91.0.0/24 via {OURS}")]).await?;
        let config = format!(
            "router bgp 65000\n bgp router-id {REFLECTOR}\n no bgp default ipv4-unicast\n neighbor {OURS} remote-as 65000\n \
             neighbor {OURS} timers connect 1\n neighbor {OURS} passive\n address-family l2vpn evpn\n  \
             neighbor {OURS} activate\n  neighbor {OURS} route-reflector-client\n exit-address-family\n"
        );
        let reflector = Frr::start(&netns, FrrVersion::Newest, &config).await?;
        controller.apply(records()).await?;
        let mut hosts = Vec::new();
        for (name, vtep) in HOSTS {
            hosts.push(Host::start(core, name, vtep, &controller).await?);
        }
        Ok(Stage { hosts, reflector, controller, _wire: netns, _etcd: etcd })
    }
}

fn records() -> Vec<v1::resource::Spec> {
    use v1::resource::Spec;
    let mut specs = network(NETWORK, 100, "10.100.0.0/16");
    for (name, vtep) in HOSTS {
        specs.push(Spec::Node(v1::Node {
            name: name.into(),
            mode: v1::NodeMode::HostVtep.into(),
            vtep: vtep.into(),
            ..v1::Node::default()
        }));
    }
    specs.push(Spec::Peer(v1::Peer { address: REFLECTOR.into(), asn: 65000, ..v1::Peer::default() }));
    specs
}
