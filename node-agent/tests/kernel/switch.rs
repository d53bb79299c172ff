//! Two switches with VLANs, gateways and VRFs, and a border; hosts that send plain and tagged frames. Needs 802.1Q,
//! VLAN-aware bridges and VRFs, so it runs in a guest where this kernel lacks them. One boot for all checks.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use causeway_labs::guest::test::{TestGuest, in_guest_instead};
use causeway_proto::v1;

use crate::guard::frames::Wire;
use crate::host::{Host, PATIENCE, assert_settled};
use crate::netns::{Netns, run, wait_for};

const VTEPS: [&str; 3] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];

/// A machine behind a switch: label, switch, VLAN, tagged, VRF's network, last byte of its addresses.
struct Machine {
    label: &'static str,
    switch: usize,
    vlan: u32,
    tagged: bool,
    host: u8,
}

/// VLANs 10 and 20 are of VRF red, the others of blue, where 30 has the addresses of 10. Routing from and to VLANs 60 and 70
/// is asymmetric: they are at both switches.
const MACHINES: [Machine; 8] = [
    Machine { label: "h1", switch: 0, vlan: 10, tagged: true, host: 5 },
    Machine { label: "h2", switch: 1, vlan: 10, tagged: false, host: 6 },
    Machine { label: "h3", switch: 1, vlan: 20, tagged: false, host: 7 },
    Machine { label: "h4", switch: 0, vlan: 30, tagged: false, host: 5 },
    Machine { label: "h5", switch: 1, vlan: 30, tagged: false, host: 6 },
    Machine { label: "h6", switch: 0, vlan: 50, tagged: false, host: 8 },
    Machine { label: "h7", switch: 0, vlan: 60, tagged: false, host: 9 },
    Machine { label: "h8", switch: 1, vlan: 70, tagged: false, host: 10 },
];

impl Machine {
    fn vni(&self) -> u32 {
        10_000 + self.vlan
    }

    /// VLAN 30 has the addresses of VLAN 10.
    fn subnet(&self) -> u32 {
        if self.vlan == 30 { 10 } else { self.vlan }
    }

    fn v4(&self) -> String {
        format!("10.{}.0.{}", self.subnet(), self.host)
    }

    fn v6(&self) -> String {
        format!("fd00:{}::{}", self.subnet(), self.host)
    }

    fn mac(&self) -> String {
        format!("02:ca:00:00:{:02x}:{:02x}", self.vlan, self.host)
    }

    fn vrf(&self) -> &'static str {
        if self.vlan < 30 { "red" } else { "blue" }
    }

    fn is_asymmetric(&self) -> bool {
        self.vlan >= 60
    }

    fn port(&self) -> String {
        format!("p{}", self.label)
    }
}

fn network(vlan: u32, vrf: &str, node: usize) -> v1::NodeNetwork {
    let subnet = if vlan == 30 { 10 } else { vlan };
    v1::NodeNetwork {
        vni: 10_000 + vlan,
        vrf: vrf.into(),
        network: format!("n{vlan}"),
        mtu: 1450,
        bridge_mac: format!("02:bb:00:00:{node:02x}:{vlan:02x}"),
        vlan,
        gateways: vec![format!("10.{subnet}.0.1/24"), format!("fd00:{subnet}::1/64")],
        gateway_mac: "00:00:5e:00:01:01".into(),
    }
}

fn route(vrf: &str, prefix: String, node: usize) -> v1::NodeRoute {
    let hop =
        v1::NextHop { vtep: VTEPS[node].into(), router_mac: router_mac(node), ..v1::NextHop::default() };
    v1::NodeRoute { vrf: vrf.into(), prefix, next_hops: vec![hop] }
}

/// What one VRF takes up of the other: a way to look on there.
fn leak(vrf: &str, prefix: &str, from: &str) -> v1::NodeRoute {
    let hop = v1::NextHop { vrf: from.into(), ..v1::NextHop::default() };
    v1::NodeRoute { vrf: vrf.into(), prefix: prefix.into(), next_hops: vec![hop] }
}

fn router_mac(node: usize) -> String {
    format!("02:cc:00:00:00:{:02x}", node + 1)
}

fn vrf(name: &str, table: u32, node: usize) -> v1::NodeVrf {
    v1::NodeVrf { name: name.into(), l3_vni: 3000 + table, router_mac: router_mac(node), table }
}

/// What switch `n` (0, 1) or the border (2) shall be. VLAN 20 is on the second switch alone, VLAN 50 on the
/// first; what is in these the VRFs leak to each other.
fn state(n: usize) -> v1::NodeState {
    let mut state = v1::NodeState {
        revision: 1,
        node: format!("leaf{n}"),
        vtep: VTEPS[n].into(),
        underlay_mtu: 1600,
        mode: v1::NodeMode::TorAgent.into(),
        networks: vec![network(10, "red", n), network(30, "blue", n)],
        vrfs: vec![vrf("red", 1001, n), vrf("blue", 1002, n)],
        routes: vec![route("red", "10.31.0.0/16".into(), 2), route("red", "fd00:31::/32".into(), 2)],
        ..v1::NodeState::default()
    };
    match n {
        0 => state.networks.push(network(50, "blue", n)),
        1 => state.networks.push(network(20, "red", n)),
        _ => {}
    }
    if n < 2 {
        state.networks.extend([60, 70].map(|vlan| network(vlan, "blue", n)));
        for (subnet, vrf, from) in [(50, "red", "blue"), (20, "blue", "red")] {
            state.routes.push(leak(vrf, &format!("10.{subnet}.0.0/24"), from));
            state.routes.push(leak(vrf, &format!("fd00:{subnet}::/64"), from));
        }
    }
    for machine in &MACHINES {
        let addresses = vec![machine.v4(), machine.v6()];
        let (vni, mac) = (machine.vni(), machine.mac());
        if machine.switch == n {
            state.switch_ports.push(v1::SwitchPort {
                interface: machine.port(),
                untagged_vlan: if machine.tagged { 0 } else { machine.vlan },
                tagged_vlans: if machine.tagged { vec![machine.vlan] } else { vec![] },
            });
            state.locals.push(v1::LocalMac { vni, mac, interface: machine.port(), addresses });
            continue;
        }
        let vtep = VTEPS[machine.switch].to_owned();
        if state.networks.iter().any(|network| network.vni == vni) {
            let flood = v1::FloodTarget { vni, vtep: vtep.clone() };
            if !state.floods.contains(&flood) {
                state.floods.push(flood);
            }
            state.remotes.push(v1::RemoteMac { vni, mac, vtep, addresses });
        }
        if !machine.is_asymmetric() {
            state.routes.push(route(machine.vrf(), format!("{}/32", machine.v4()), machine.switch));
            state.routes.push(route(machine.vrf(), format!("{}/128", machine.v6()), machine.switch));
        }
    }
    state
}

/// The border: VRF red without any VLAN, with a workload behind its own bridge.
fn border(workload: &Netns) -> v1::NodeState {
    let mut state = state(2);
    state.mode = v1::NodeMode::HostVtep.into();
    let mut network = network(31, "red", 2);
    network.gateways = vec!["10.31.0.1/24".into(), "fd00:31::1/64".into()];
    network.vlan = 0;
    state.networks = vec![network];
    state.vrfs.truncate(1);
    state.routes.retain(|route| route.vrf == "red" && !route.prefix.contains("31"));
    state.remotes.clear();
    state.floods.clear();
    state.ports = vec![v1::NodePort {
        id: "red/n31/p".into(),
        vni: 10_031,
        mac: "02:ca:00:00:31:09".into(),
        addresses: vec!["10.31.0.9/24".into(), "fd00:31::9/64".into()],
        gateways: vec!["10.31.0.1".into(), "fd00:31::1".into()],
        mtu: 1450,
        netns: workload.path().display().to_string(),
        interface: "eth0".into(),
        generation: 1,
        kind: v1::WorkloadKind::Container.into(),
        attachment: v1::Attachment::VxlanBridge.into(),
        ..v1::NodePort::default()
    }];
    state
}

/// Many `ip` commands for one namespace, at the price of one.
fn batch(netns: &Netns, commands: &[String]) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), commands.join("\n"))?;
    netns.run(&format!("ip -batch {}", file.path().display())).map(drop)
}

struct Lab {
    nodes: Vec<Host>,
    machines: Vec<Netns>,
    workload: Netns,
    _core: Netns,
}

fn underlay(nodes: &[Host]) -> Result<Netns> {
    let core = Netns::new("core")?;
    let mut commands = vec!["link add core type bridge".to_owned(), "link set core up".to_owned()];
    for (n, node) in nodes.iter().enumerate() {
        run(&format!(
            "ip link add u{n} netns {} mtu 1600 type veth peer name u0 netns {} mtu 1600",
            core.name, node.netns.name
        ))?;
        commands.push(format!("link set u{n} master core up"));
        let mut own = vec![format!("address add 198.51.100.{n}1/24 dev u0"), "link set u0 up".to_owned()];
        let others = VTEPS.iter().enumerate().filter(|(other, _)| *other != n);
        own.extend(others.map(|(other, vtep)| format!("route add {vtep} via 198.51.100.{other}1")));
        batch(&node.netns, &own)?;
        // IPv6 has one switch for all interfaces, which is the host's own.
        node.netns.run("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    }
    batch(&core, &commands)?;
    Ok(core)
}

fn machine(machine: &Machine, node: &Host) -> Result<Netns> {
    let netns = Netns::new(machine.label)?;
    run(&format!(
        "ip link add {} netns {} type veth peer name eth0 netns {} address {}",
        machine.port(),
        node.netns.name,
        netns.name,
        machine.mac()
    ))?;
    // Silent: it says nothing before it is asked.
    let mut commands = vec!["link set eth0 addrgenmode none up".to_owned()];
    let mut dev = "eth0".to_owned();
    if machine.tagged {
        dev = format!("eth0.{}", machine.vlan);
        commands.push(format!("link add link eth0 name {dev} type vlan id {}", machine.vlan));
        commands.push(format!("link set {dev} addrgenmode none up"));
    }
    commands.push(format!("address add {}/24 dev {dev}", machine.v4()));
    commands.push(format!("address add {}/64 dev {dev} nodad", machine.v6()));
    commands.push(format!("route add default via 10.{}.0.1", machine.subnet()));
    commands.push(format!("-6 route add default via fd00:{}::1", machine.subnet()));
    let (v6, v4): (Vec<String>, Vec<String>) = commands.into_iter().partition(|c| c.starts_with("-6 "));
    batch(&netns, &v4)?;
    netns.run(&format!("ip {}", v6.concat()))?;
    netns.run(&format!("ip link set dev {dev} mtu 1450"))?;
    Ok(netns)
}

async fn lab() -> Result<Lab> {
    let mut nodes = Vec::new();
    for (n, vtep) in VTEPS.iter().enumerate() {
        nodes.push(Host::new(&format!("leaf{n}"), vtep)?);
    }
    let core = underlay(&nodes)?;
    let mut machines = Vec::new();
    for m in &MACHINES {
        machines.push(machine(m, &nodes[m.switch])?);
    }
    let workload = Netns::new("w")?;
    for n in [0, 1, 2] {
        let wanted = if n == 2 { border(&workload) } else { state(n) };
        nodes[n].set(&wanted).await?;
        nodes[n].wait_settled(&wanted).await.with_context(|| format!("node {n}"))?;
    }
    nodes[2].wait_port("red/n31/p", 1, "").await?;
    Ok(Lab { nodes, machines, workload, _core: core })
}

fn is_arp_request_for(frame: &[u8], ip: Ipv4Addr) -> bool {
    frame.get(12..14) == Some(&[8, 6])
        && frame.get(20..22) == Some(&[0, 1])
        && frame.get(38..42) == Some(&ip.octets())
}

fn is_icmp(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&1)
}

/// The first packet arrives, and no ARP request at the owner before it.
fn first_packet(from: &Netns, owner: &Netns, ip: &str) -> Result<()> {
    let mut wire = Wire::open(owner)?;
    ensure!(from.pings(ip), "the first packet to {ip} is lost");
    loop {
        let frame = wire.next().with_context(|| format!("nothing arrives at {ip}"))?;
        ensure!(!is_arp_request_for(&frame, ip.parse()?), "{ip} was asked for by ARP");
        if is_icmp(&frame) {
            return Ok(());
        }
    }
}

fn check_traffic(lab: &Lab) -> Result<()> {
    let [h1, h2, h3, h4, h5, h6, h7, h8] = &lab.machines[..] else { anyhow::bail!("eight machines") };
    // Bridged in VLAN 10, tagged to untagged, to a silent host; routed into VLAN 20; bridged in the other VRF.
    first_packet(h1, h2, "10.10.0.6").context("bridged")?;
    first_packet(h1, h3, "10.20.0.7").context("routed between VLANs")?;
    first_packet(h4, h5, "10.10.0.6").context("in the other VRF")?;
    first_packet(h6, h3, "10.20.0.7").context("leaked from red to blue")?;
    first_packet(h7, h8, "10.70.0.10").context("asymmetric")?;
    for (from, to) in [
        (h3, "10.50.0.8"),
        (h3, "fd00:50::8"),
        (h6, "fd00:20::7"),
        (h7, "fd00:70::10"),
        (h8, "10.60.0.9"),
        (h8, "fd00:60::9"),
        (h1, "10.10.0.1"),
        (h1, "fd00:10::1"),
        (h1, "fd00:10::6"),
        (h1, "fd00:20::7"),
        (h3, "10.10.0.5"),
        (h3, "10.10.0.6"),
        (h3, "fd00:10::5"),
        // Behind the border, as type 5 says, and back.
        (h1, "10.31.0.9"),
        (h1, "fd00:31::9"),
        (&lab.workload, "10.20.0.7"),
        (&lab.workload, "fd00:10::5"),
        (h4, "fd00:10::6"),
    ] {
        ensure!(from.pings(to), "{} does not reach {to}", from.name);
    }
    // The same address is another machine in the other VRF, which has no way out of it.
    for (from, mac) in [(h1, MACHINES[1].mac()), (h4, MACHINES[4].mac())] {
        let neighbours = from.run("ip neigh")?;
        let found = neighbours.lines().any(|l| l.starts_with("10.10.0.6 ") && l.contains(&mac));
        ensure!(found, "{neighbours}");
    }
    ensure!(!h4.pings("10.31.0.9") && !h4.pings("10.20.0.7"), "blue reaches into red");
    ensure!(!h6.pings("10.31.0.9") && !h8.pings("10.31.0.9"), "blue reaches what red does not leak");
    // By the destination's own network, not through the L3 VNI.
    for (node, subnet) in [(0, "10.70."), (1, "10.60.")] {
        let routes = lab.nodes[node].netns.run("ip route show table 1002")?;
        let ways: Vec<&str> = routes.lines().filter(|line| line.starts_with(subnet)).collect();
        ensure!(ways.len() == 1 && ways[0].contains("dev cwg"), "{ways:#?}");
    }
    Ok(())
}

/// How many steps each node has taken.
fn steps(lab: &mut Lab) -> Result<Vec<u64>> {
    lab.nodes.iter_mut().map(|node| Ok(node.plane()?.progress.borrow().steps)).collect()
}

/// Everything that a switch's agent does, on a real kernel.
#[tokio::test]
async fn two_switches_bridge_route_and_suppress() -> Result<()> {
    let name = "switch::two_switches_bridge_route_and_suppress";
    if in_guest_instead(&["8021q", "vlan_filtering", "vrf"], name, &TestGuest::default())? {
        return Ok(());
    }
    let mut lab = lab().await?;
    // A kernel tells of everything that is written: what it says of the agent's own steps is no reason for more.
    let before = steps(&mut lab)?;
    check_traffic(&lab)?;
    let after = steps(&mut lab)?;
    ensure!(before == after, "steps of each node at rest: {before:?}, and later {after:?}");

    // A restart takes no step.
    let wanted = state(0);
    let leaf = &mut lab.nodes[0];
    leaf.stop();
    leaf.start()?;
    leaf.set(&wanted).await?;
    leaf.wait_revision(1).await?;
    leaf.wait_settled(&wanted).await?;
    let steps = leaf.plane()?.progress.borrow().steps;
    ensure!(steps == 0, "{steps} steps after a restart");

    // A port of which it is told while it runs is found like one that was there from the beginning.
    let (one, rest) = wanted.switch_ports.iter().cloned().partition(|port| port.interface == "ph1");
    let without = v1::NodeState { switch_ports: rest, ..wanted.clone() };
    let gone = vec!["ph1".to_owned()];
    leaf.change(v1::NodeDelta { revision: 2, deleted_switch_ports: gone, ..Default::default() }).await?;
    leaf.wait_revision(2).await?;
    // What is known behind it is a problem meanwhile, and no step.
    wait_for("the port is let go", PATIENCE, || Ok(leaf.look(&without)?.ops.is_empty())).await?;
    leaf.change(v1::NodeDelta { revision: 3, switch_ports: one, ..Default::default() }).await?;
    leaf.wait_revision(3).await?;
    leaf.wait_settled(&wanted).await.context("with the port again")?;

    // What is taken away comes back.
    for damage in [
        "bridge vlan del dev cwx10010 vid 10",
        "bridge vlan add dev cwbr0 vid 99 self",
        "bridge fdb del 02:ca:00:00:0a:05 dev ph1 vlan 10 master",
        "ip link set ph1 nomaster",
        "ip link set cwg10010 nomaster",
        "ip route del 10.31.0.0/16 table 1001 proto 77",
        "ip link del cwf1001",
        "ip link del cwbr0",
    ] {
        leaf.netns.run(damage).with_context(|| damage.to_owned())?;
        wait_for(damage, PATIENCE, || Ok(assert_settled(&leaf.look(&wanted)?).is_ok()))
            .await
            .with_context(|| format!("{:?}", leaf.look(&wanted)))?;
    }
    check_traffic(&lab).context("after repairs")?;

    // What goes gives the ports back, and strangers stay.
    let leaf = &mut lab.nodes[0];
    leaf.netns.run("ip link add stranger type bridge")?;
    let nothing = v1::NodeState { networks: vec![], vrfs: vec![], routes: vec![], ..wanted };
    let nothing = v1::NodeState {
        revision: 4,
        mode: v1::NodeMode::HostVtep.into(),
        switch_ports: vec![],
        locals: vec![],
        remotes: vec![],
        floods: vec![],
        ..nothing
    };
    leaf.set(&nothing).await?;
    leaf.wait_revision(4).await?;
    leaf.wait_settled(&nothing).await?;
    let links = leaf.netns.run("ip -o link")?;
    let ours = links.lines().find(|l| l.split_whitespace().nth(1).is_some_and(|n| n.starts_with("cw")));
    ensure!(ours.is_none() && links.contains("stranger") && links.contains("ph1"), "{links}");
    ensure!(!links.contains("master cw"), "{links}");
    Ok(())
}
