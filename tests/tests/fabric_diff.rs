//! What two real leaves say of ports, compared by a real controller with where the ports are bound: learned at the right
//! leaf and at the wrong one, moved by the data plane, claimed twice, and nobody's. Each is seen and goes again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::{Controller, StoreAt, apply, network};
use causeway_tests::frr::{Frr, FrrVersion};
use causeway_tests::netns::Netns;
use causeway_tests::slot::Slot;
use causeway_tests::wait_for;
use tonic::transport::{Channel, Endpoint};

const SOON: Duration = Duration::from_secs(40);
/// The controller's address.
const CONTROLLER: &str = "10.99.0.100";

/// A leaf: bridge, VNI 110, a port `h1` of it, and FRR.
struct Leaf {
    netns: Netns,
    frr: Frr,
    /// The other leaf's address.
    other: String,
}

impl Leaf {
    async fn start(switch: &Netns, number: u8, which: FrrVersion) -> Result<Leaf> {
        let other = 3 - number;
        let netns = Netns::new(&format!("leaf{number}")).await?;
        let (port, address) = (format!("l{number}"), format!("10.99.0.{number}/24"));
        Netns::join((switch, &port, &[]), (&netns, "eth0", &[&address])).await?;
        switch.ip(&[&format!("link set {port} master br0")]).await?;
        let vtep = format!("10.98.0.{number}");
        netns.run(&["sysctl", "-qw", "net.ipv4.ip_forward=1"]).await?;
        let lines = [
            format!("addr add {vtep}/32 dev lo"),
            format!("route add 10.98.0.{other}/32 via 10.99.0.{other}"),
            format!("link add br110 address 02:98:00:00:00:0{number} type bridge"),
            format!("link add vx110 type vxlan id 110 local {vtep} dstport 4789 nolearning"),
            "link set vx110 master br110 addrgenmode none".to_owned(),
            "link set vx110 type bridge_slave neigh_suppress on learning off".to_owned(),
            "link add h1 type veth peer name h1x".to_owned(),
            "link set h1 master br110 addrgenmode none".to_owned(),
            "link set h1x addrgenmode none".to_owned(),
        ];
        netns.ip(&lines.each_ref().map(String::as_str)).await?;
        netns.ip(&["link set br110 up", "link set vx110 up", "link set h1 up", "link set h1x up"]).await?;
        let frr = Frr::start(&netns, which, &config(number, other)).await?;
        Ok(Leaf { netns, frr, other: format!("10.99.0.{other}") })
    }

    /// A frame with this source address has come in at its port.
    async fn learn(&self, mac: &str) -> Result<()> {
        self.netns.run(&["bridge", "fdb", "replace", mac, "dev", "h1", "master", "dynamic"]).await?;
        Ok(())
    }

    /// Waits until it knows that the MAC is behind the other leaf.
    async fn knows(&self, mac: &str) -> Result<()> {
        wait_for("the other leaf knows", SOON, async || {
            let shown = self.netns.run(&["bridge", "fdb", "show", "dev", "vx110"]).await?;
            ensure!(shown.contains(mac), "{shown}");
            Ok(())
        })
        .await
    }

    /// It has aged out, if the leaf has not given it up before.
    async fn forget(&self, mac: &str) -> Result<()> {
        let shown = self.netns.run(&["bridge", "fdb", "show", "dev", "h1"]).await?;
        if shown.contains(mac) {
            self.netns.run(&["bridge", "fdb", "del", mac, "dev", "h1", "master"]).await?;
        }
        Ok(())
    }

    /// Whether it talks to a neighbour.
    async fn talk(&self, neighbour: &str, talk: bool) -> Result<()> {
        let line = format!("{}neighbor {neighbour} shutdown", if talk { "no " } else { "" });
        self.frr.configure(&["router bgp 65000", &line]).await
    }
}

fn config(number: u8, other: u8) -> String {
    format!(
        "router bgp 65000\n bgp router-id 10.98.0.{number}\n no bgp default ipv4-unicast\n \
         neighbor 10.99.0.100 remote-as 65000\n neighbor 10.99.0.100 passive\n neighbor 10.99.0.100 timers 3 9\n \
         neighbor 10.99.0.{other} remote-as 65000\n neighbor 10.99.0.{other} timers 3 9\n \
         neighbor 10.99.0.{other} timers connect 1\n address-family l2vpn evpn\n  neighbor 10.99.0.100 activate\n  \
         neighbor 10.99.0.{other} activate\n  advertise-all-vni\n exit-address-family\nexit\n"
    )
}

/// Two leaves, a host behind each, and a controller that peers with both.
struct Fabric {
    leaves: [Leaf; 2],
    channel: Channel,
    // Dropped last.
    _controller: Controller,
    _netns: [Netns; 2],
}

impl Fabric {
    async fn start(which: FrrVersion) -> Result<Fabric> {
        let (switch, home) = (Netns::new("fab").await?, Netns::new("ctl").await?);
        switch.ip(&["link add br0 type bridge", "link set br0 up"]).await?;
        Netns::join((&switch, "c1", &[]), (&home, "eth0", &["10.99.0.100/24"])).await?;
        switch.ip(&["link set c1 master br0"]).await?;
        let leaves = [Leaf::start(&switch, 1, which).await?, Leaf::start(&switch, 2, which).await?];
        let prefix = ["ip", "netns", "exec", home.name()];
        let address = "10.99.0.100".parse()?;
        let controller = Controller::start_in(&prefix, address, address, &StoreAt::File).await?;
        let channel =
            Endpoint::from_shared(format!("unix://{}", controller.socket().display()))?.connect_lazy();
        let mut records = network("web", 110, "10.8.0.0/24");
        for number in [1, 2] {
            let leaf = format!("leaf{number}");
            records.push(v1::resource::Spec::Node(v1::Node {
                name: leaf.clone(),
                mode: v1::NodeMode::TorEvpn.into(),
                vtep: format!("10.98.0.{number}"),
                ..Default::default()
            }));
            let uplink = v1::Uplink { interface: "eth1".into(), switch: leaf, ..Default::default() };
            records.push(v1::resource::Spec::Node(v1::Node {
                name: format!("s{number}"),
                mode: v1::NodeMode::Host.into(),
                uplinks: vec![uplink],
                ..Default::default()
            }));
            records.push(v1::resource::Spec::Peer(v1::Peer {
                address: format!("10.99.0.{number}"),
                asn: 65000,
                local_address: "10.99.0.100".into(),
                hold_seconds: 9,
                ..Default::default()
            }));
        }
        wait_for("the controller takes records", SOON, async || apply(&channel, records.clone()).await)
            .await?;
        let fabric = Fabric { leaves, channel, _controller: controller, _netns: [switch, home] };
        fabric.established(2).await?;
        Ok(fabric)
    }

    fn client(&self) -> FabricServiceClient<Channel> {
        FabricServiceClient::new(self.channel.clone())
    }

    /// Waits until so many peers are up and have sent something.
    async fn established(&self, wanted: usize) -> Result<()> {
        wait_for(&format!("{wanted} peers"), SOON, async || {
            let peers = self.client().list_peers(v1::ListPeersRequest {}).await?.into_inner().peers;
            let is_up = |peer: &&v1::PeerStatus| peer.state == "Established" && peer.routes_received > 0;
            ensure!(peers.iter().filter(is_up).count() == wanted, "{peers:?}");
            Ok(())
        })
        .await
    }

    /// Binds a port with this address; its MAC.
    async fn create(&self, name: &str, address: &str, node: &str) -> Result<String> {
        let key = v1::PortKey { network: "web".into(), name: name.into(), ..Default::default() };
        let bind = v1::Binding { node: node.into(), netns: "/run/netns/w".into(), ..Default::default() };
        let request = v1::CreatePortRequest {
            key: Some(key),
            addresses: vec![address.into()],
            bind: Some(bind),
            ..Default::default()
        };
        let answer = PortServiceClient::new(self.channel.clone()).create_port(request).await?.into_inner();
        Ok(answer.port.context("a port")?.mac)
    }

    async fn move_port(&self, name: &str, node: &str) -> Result<()> {
        let key = v1::PortKey { network: "web".into(), name: name.into(), ..Default::default() };
        let binding = v1::Binding { node: node.into(), netns: "/run/netns/w".into(), ..Default::default() };
        let unbind = v1::UnbindPortRequest { key: Some(key.clone()) };
        let bind = v1::BindPortRequest { key: Some(key), binding: Some(binding), force: false };
        let mut ports = PortServiceClient::new(self.channel.clone());
        ports.unbind_port(unbind).await?;
        ports.bind_port(bind).await?;
        Ok(())
    }

    /// Waits until the comparison of MACs says exactly this, each "PORT PRESENCE at PEER OBSERVED-VTEPS SEQUENCE".
    async fn says(&self, what: &str, wanted: &[&str]) -> Result<()> {
        wait_for(what, SOON, async || {
            let answer = self.client().diff_fabric(v1::DiffFabricRequest::default()).await?.into_inner();
            ensure!(answer.peers.len() == 2, "{:?}", answer.peers);
            let macs = answer.findings.iter().filter(|finding| finding.address.is_empty());
            let mut shown: Vec<String> = macs.map(short).collect();
            shown.sort_unstable();
            ensure!(shown == wanted, "{shown:#?}");
            Ok(())
        })
        .await
    }
}

fn short(finding: &v1::FabricFinding) -> String {
    let port = finding.port.as_ref().map_or("-", |port| &port.name);
    let presence = finding.presence().as_str_name().trim_start_matches("PRESENCE_").to_lowercase();
    let (vteps, sequence) = (finding.observed_vteps.join(","), finding.observed_sequence);
    let last = finding.peer.rsplit('.').next().unwrap_or_default();
    format!("{port} {presence} at leaf{last} {vteps} {sequence}")
}

#[test]
fn frr_8() -> Result<()> {
    run(FrrVersion::Debian)
}

#[test]
fn frr_10() -> Result<()> {
    run(FrrVersion::Newest)
}

fn run(which: FrrVersion) -> Result<()> {
    Slot::get()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(scenario(which))
}

async fn scenario(which: FrrVersion) -> Result<()> {
    let fabric = Fabric::start(which).await?;
    let [leaf1, leaf2] = &fabric.leaves;
    fabric.says("nothing is bound", &[]).await?;

    let a = fabric.create("a", "10.8.0.11", "s1").await?;
    fabric.says("a silent host", &["a missing at leaf1  0"]).await?;
    leaf1.learn(&a).await?;
    fabric.says("learned at the right leaf", &[]).await?;

    // The data plane moves it: leaf2 knows a remote one with sequence 0.
    leaf2.knows(&a).await?;
    leaf2.learn(&a).await?;
    fabric.says("moved", &["a elsewhere at leaf2 10.98.0.2 1", "a missing at leaf1  0"]).await?;
    fabric.move_port("a", "s2").await?;
    fabric.says("the intent follows", &[]).await?;

    let b = fabric.create("b", "10.8.0.12", "s1").await?;
    // At equal sequences a leaf takes a route that comes later than the frame for a move away.
    leaf2.knows(&b).await?;
    leaf2.learn(&b).await?;
    let wrong = ["b elsewhere at leaf2 10.98.0.2 1", "b missing at leaf1  0"];
    fabric.says("learned at the wrong leaf", &wrong).await?;
    leaf2.forget(&b).await?;
    fabric.says("gone there", &["b missing at leaf1  0"]).await?;
    leaf1.learn(&b).await?;
    fabric.says("learned where it is bound", &[]).await?;

    // Whoever hears of a claim in time goes above it: two claims with one sequence take a leaf that was cut off.
    leaf1.talk(&leaf1.other, false).await?;
    leaf1.talk(CONTROLLER, false).await?;
    fabric.established(1).await?;
    let c = fabric.create("c", "10.8.0.13", "s2").await?;
    leaf2.learn(&c).await?;
    leaf1.learn(&c).await?;
    leaf1.talk(CONTROLLER, true).await?;
    fabric.established(2).await?;
    match which {
        FrrVersion::Newest => fabric.says("claimed twice", &["c duplicate at leaf1 10.98.0.1 0"]).await?,
        // It takes our MAC+IP for a move at once, as nothing competes with that route, and comes back with the next
        // frame and a higher sequence.
        FrrVersion::Debian => {
            fabric.says("given up", &[]).await?;
            leaf1.knows(&c).await?;
            leaf1.learn(&c).await?;
            fabric.says("claimed again", &["c elsewhere at leaf1 10.98.0.1 1"]).await?;
        }
    }
    leaf1.forget(&c).await?;
    fabric.says("claimed once", &[]).await?;
    leaf1.talk(&leaf1.other, true).await?;

    let nobody = "02:bb:00:00:00:01";
    leaf2.learn(nobody).await?;
    fabric.says("a MAC of nobody", &["- foreign at leaf2 10.98.0.2 0"]).await?;
    leaf2.forget(nobody).await?;
    fabric.says("gone", &[]).await
}
