//! What needs a kernel with 802.1Q, VLAN-aware bridges and ipvlan: here where it can, else in a QEMU guest.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_labs::guest::test::{TestGuest, in_guest_instead};
use causeway_proto::v1;

use crate::host::{PATIENCE, assert_settled, network};
use crate::lan::{Wire, attached, emptied, host_state, reach, settle};
use crate::netns::{Netns, run, wait_for};

const SERVER_MAC: &str = "02:5e:00:00:00:09";

/// Port `n` in the network with this VNI.
fn in_network(n: u8, vni: u32, netns: &Netns, attachment: v1::Attachment) -> v1::NodePort {
    let port = attached(n, netns, attachment);
    v1::NodePort { id: format!("default/n{vni}/p{n}"), vni, ..port }
}

/// Networks 100, 101 and 102 in VLANs 10, 20 and 30.
fn tagged(host: u8, ports: Vec<v1::NodePort>) -> v1::NodeState {
    let networks = (0..3).map(|n| v1::NodeNetwork { mtu: 1500, vlan: 10 + 10 * n, ..network(100 + n, host) });
    v1::NodeState { networks: networks.collect(), ..host_state(host, ports) }
}

async fn all_meet(workloads: &[(u8, &Netns)]) -> Result<()> {
    for (_, from) in workloads {
        for (n, to) in workloads {
            if from.name != to.name {
                reach(from, &format!("10.8.0.{n}"), &format!("fd00:8::{n:x}")).await?;
            }
        }
    }
    Ok(())
}

/// A switch that knows VLANs: 10, 20 and 30 tagged on the hosts' ports, and a server on VLAN 10, untagged.
fn switch(wire: &Wire, server: &Netns) -> Result<()> {
    let sw = &wire.switch;
    sw.run("ip link set br0 type bridge vlan_filtering 1 vlan_default_pvid 0")?;
    for port in ["h1", "h2"] {
        for vlan in [10, 20, 30] {
            sw.run(&format!("bridge vlan add dev {port} vid {vlan}"))?;
        }
    }
    run(&format!("ip link add eth0 netns {} type veth peer name srv netns {}", server.name, sw.name))?;
    sw.run("ip link set srv master br0 up")?;
    sw.run("bridge vlan add dev srv vid 10 pvid untagged")?;
    server.run("ip address add 10.8.0.9/24 dev eth0")?;
    server.run("ip address add fd00:8::9/64 dev eth0 nodad")?;
    server.run(&format!("ip link set eth0 address {SERVER_MAC} up"))?;
    Ok(())
}

#[tokio::test]
async fn vlans_carry_every_attachment_and_keep_apart() -> Result<()> {
    use v1::Attachment::{Bridge, Ipvlan, Macvlan, Routed};
    let wishes = TestGuest { limit: Duration::from_secs(400), ..TestGuest::default() };
    let features = ["8021q", "vlan_filtering", "ipvlan", "macvlan"];
    if in_guest_instead(&features, "vlan::vlans_carry_every_attachment_and_keep_apart", &wishes)? {
        return Ok(());
    }
    let mut wire = Wire::new()?;
    let server = Netns::new("m")?;
    switch(&wire, &server)?;
    let names = ["w1", "w2", "w3", "w4", "w5", "w6", "w8"];
    let w: Vec<Netns> = names.iter().map(|n| Netns::new(n)).collect::<Result<_>>()?;
    let ports_a = vec![
        in_network(1, 100, &w[0], Bridge),
        in_network(2, 100, &w[1], Macvlan),
        in_network(3, 101, &w[2], Macvlan),
        in_network(4, 102, &w[3], Ipvlan),
        v1::NodePort {
            gateways: vec!["10.8.0.9".into(), "fd00:8::9".into()],
            gateway_mac: SERVER_MAC.into(),
            ..in_network(8, 100, &w[6], Routed)
        },
    ];
    for netns in [&server, &wire.a.netns] {
        netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
    }
    let ports_b = vec![in_network(5, 100, &w[4], Macvlan), in_network(6, 102, &w[5], Ipvlan)];
    let (mut state_a, state_b) = (tagged(1, ports_a), tagged(2, ports_b));
    settle(&mut wire.a, &state_a).await?;
    settle(&mut wire.b, &state_b).await?;
    let on_ten = [(1, &w[0]), (2, &w[1]), (5, &w[4]), (9, &server)];
    all_meet(&on_ten).await?;
    all_meet(&[(4, &w[3]), (6, &w[5])]).await?;
    // Routed, on a host without an address in VLAN 10, with the server as gateway.
    all_meet(&[(1, &w[0]), (5, &w[4]), (8, &w[6]), (9, &server)]).await?;
    ensure!(!w[2].pings("10.8.0.1"), "VLAN 20 reaches VLAN 10");
    // An ipvlan shows the uplink's MAC and no other.
    let seen = wire.switch.run("bridge fdb show dev h2 vlan 30")?;
    ensure!(!seen.contains("02:ca:0a:08:00:06"), "{seen}");

    // The VLAN device goes, and with it bridge port and macvlans; all comes back.
    wire.a.netns.run("ip link del cwu100")?;
    wire.b.netns.run("ip link del cwu100")?;
    for (host, state) in [(&wire.a, &state_a), (&wire.b, &state_b)] {
        wait_for("repaired", PATIENCE, || Ok(assert_settled(&host.look(state)?).is_ok())).await?;
    }
    all_meet(&on_ten).await?;

    // The same host with one VLAN-aware bridge, and untagged traffic beside; nothing routed, which has no place there.
    state_a.ports.pop();
    state_a.host_bridge = v1::HostBridge::VlanAware.into();
    state_a.revision = 2;
    wire.a.set(&state_a).await?;
    wait_for("rebuilt", PATIENCE, || Ok(assert_settled(&wire.a.look(&state_a)?).is_ok())).await?;
    let bridge = wire.a.netns.run("ip -d -o link show dev cwtrunk")?;
    ensure!(bridge.contains("vlan_filtering 1"), "{bridge}");
    ensure!(wire.a.netns.run("ip link show dev cwb100").is_err(), "the old bridge is left");
    all_meet(&on_ten).await?;
    all_meet(&[(4, &w[3]), (6, &w[5])]).await?;
    ensure!(!w[2].pings("10.8.0.1"), "VLAN 20 reaches VLAN 10");
    wire.a.stop();
    wire.a.start()?;
    settle(&mut wire.a, &state_a).await?;
    ensure!(wire.a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    wire.a.netns.run("bridge vlan del dev eth1 vid 10")?;
    wire.a.netns.run("ip link set cwtrunk down")?;
    wait_for("repaired", PATIENCE, || Ok(assert_settled(&wire.a.look(&state_a)?).is_ok())).await?;
    all_meet(&on_ten).await?;

    // A VLAN of others is in the way, and stays.
    wire.b.netns.run("ip link add link eth1 name theirs type vlan id 20")?;
    let w7 = Netns::new("w7")?;
    let mut more = state_b.clone();
    more.revision = 2;
    more.ports.push(in_network(7, 101, &w7, Macvlan));
    wire.b.set(&more).await?;
    wire.b.wait_port("default/n101/p7", 1, "VLAN 20 of eth1 is theirs, which is not Causeway's").await?;
    for (host, state) in [(&mut wire.a, &state_a), (&mut wire.b, &state_b)] {
        host.set(&v1::NodeState { ports: vec![], revision: 3, ..state.clone() }).await?;
        emptied(host).await?;
    }
    ensure!(wire.b.netns.run("ip -o link")?.contains("theirs"));
    Ok(())
}
