//! Hosts behind switches: every attachment on the wire, no NAT, nothing lost.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, dev, mac, network, port};
use crate::netns::{Netns, run, wait_for};

/// A switch with two hosts on it, by uplinks named `eth1`.
pub(crate) struct Wire {
    pub(crate) switch: Netns,
    pub(crate) a: Host,
    pub(crate) b: Host,
}

impl Wire {
    pub(crate) fn new() -> Result<Self> {
        let switch = Netns::new("sw")?;
        switch.run("ip link add br0 type bridge mcast_snooping 0")?;
        switch.run("ip link set br0 up")?;
        let (a, b) = (Host::new("a", "192.0.2.1")?, Host::new("b", "192.0.2.2")?);
        for (n, host) in [(1, &a), (2, &b)] {
            let (host, switch_name) = (&host.netns.name, &switch.name);
            run(&format!("ip link add eth1 netns {host} type veth peer name h{n} netns {switch_name}"))?;
            switch.run(&format!("ip link set h{n} master br0 up"))?;
            run(&format!("ip -n {host} link set eth1 up"))?;
            // As most machines have one, and most workloads, too.
            run(&format!("ip -n {host} link add eth0 type veth peer name other"))?;
        }
        Ok(Wire { switch, a, b })
    }
}

/// An attachment of a workload.
pub(crate) fn attached(n: u8, netns: &Netns, attachment: v1::Attachment) -> v1::NodePort {
    let kind = match attachment {
        v1::Attachment::Tap => v1::WorkloadKind::Vm,
        _ => v1::WorkloadKind::Container,
    };
    v1::NodePort {
        attachment: attachment.into(),
        kind: kind.into(),
        gateways: vec![],
        mtu: 1500,
        ..port(n, 100, netns)
    }
}

pub(crate) fn host_state(host: u8, ports: Vec<v1::NodePort>) -> v1::NodeState {
    v1::NodeState {
        revision: 1,
        node: "h".into(),
        underlay_mtu: 1500,
        networks: vec![v1::NodeNetwork { mtu: 1500, ..network(100, host) }],
        ports,
        mode: v1::NodeMode::Host.into(),
        uplinks: vec![v1::NodeUplink { interface: "eth1".into() }],
        ..v1::NodeState::default()
    }
}

pub(crate) async fn settle(host: &mut Host, state: &v1::NodeState) -> Result<()> {
    host.set(state).await?;
    let mut open: BTreeSet<String> = state.ports.iter().map(|p| p.id.clone()).collect();
    let statuses = &mut host.plane()?.statuses;
    let reported = async {
        while !open.is_empty() {
            let Some(status) = statuses.recv().await else { break };
            for port in status.ports {
                if port.programmed {
                    open.remove(&port.port);
                } else {
                    eprintln!("{port:?}");
                }
            }
        }
    };
    let timely = tokio::time::timeout(PATIENCE, reported).await;
    if timely.is_err() || !open.is_empty() {
        let progress = host.plane()?.progress.borrow().clone();
        anyhow::bail!("not programmed: {open:?}; {progress:?}; {:#?}", host.look(state)?);
    }
    let settled = wait_for("settled", PATIENCE, || Ok(assert_settled(&host.look(state)?).is_ok())).await;
    assert_settled(&host.look(state)?)?;
    settled.map(|_| ())
}

/// True if a host has a link of ours.
fn has_ours(host: &Host) -> Result<bool> {
    let links = host.netns.run("ip -o link")?;
    Ok(["cwb", "cwp", "cws", "cwu", "cwx", "cwi", "cwj", "cwk", "cwtrunk"]
        .iter()
        .any(|name| links.contains(&format!(": {name}"))))
}

/// Waits until nothing of ours is left on a host.
pub(crate) async fn emptied(host: &Host) -> Result<()> {
    let empty = wait_for("empty", PATIENCE, || Ok(!has_ours(host)?)).await;
    let plan = host.look(&host_state(1, vec![]))?;
    empty
        .map(|_| ())
        .with_context(|| format!("{plan:#?} {}", host.netns.run("ip -d -o link").unwrap_or_default()))
}

/// Both families, each way.
pub(crate) async fn reach(from: &Netns, v4: &str, v6: &str) -> Result<()> {
    for to in [v4, v6] {
        wait_for(&format!("ping {to} from {}", from.name), PATIENCE, || Ok(from.pings(to))).await?;
    }
    Ok(())
}

async fn meet(workloads: &[(u8, &Netns)]) -> Result<()> {
    for (_, from) in workloads {
        for (n, to) in workloads {
            if from.name != to.name {
                reach(from, &format!("10.8.0.{n}"), &format!("fd00:8::{n:x}")).await?;
            }
        }
    }
    Ok(())
}

/// A bridge takes the lowest MTU of its ports: with the uplink's own it must be programmed at the first attempt, or a move
/// to this host would be undone.
#[tokio::test]
async fn a_network_smaller_than_its_uplink_is_programmed_at_once() -> Result<()> {
    let mut wire = Wire::new()?;
    let w5 = Netns::new("w5")?;
    let mut state =
        host_state(1, vec![v1::NodePort { mtu: 1450, ..attached(5, &w5, v1::Attachment::Bridge) }]);
    state.networks[0].mtu = 1450;
    wire.a.set(&state).await?;
    let statuses = &mut wire.a.plane()?.statuses;
    let first = tokio::time::timeout(PATIENCE, statuses.recv()).await?.context("no status")?;
    ensure!(first.ports.iter().all(|p| p.programmed && p.problem.is_empty()), "{first:?}");
    let mtu = |dev: &str| wire.a.netns.run(&format!("cat /sys/class/net/{dev}/mtu"));
    ensure!(mtu("cwb100")?.trim() == "1500" && mtu("eth1")?.trim() == "1500");
    ensure!(mtu(&dev(5, 100)?)?.trim() == "1450");
    Ok(())
}

#[tokio::test]
async fn bridge_and_macvlan_meet_on_and_across_hosts() -> Result<()> {
    use v1::Attachment::{Bridge, Macvlan};
    let mut wire = Wire::new()?;
    let (w5, w6, w7, w8, w9) =
        (Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?, Netns::new("w8")?, Netns::new("w9")?);
    // On one host both, so that macvlans hang on the bridge; on the other only macvlans, on the uplink.
    let ports = vec![attached(5, &w5, Bridge), attached(6, &w6, Bridge), attached(7, &w7, Macvlan)];
    let state_a = host_state(1, ports);
    let state_b = host_state(2, vec![attached(8, &w8, Macvlan), attached(9, &w9, Macvlan)]);
    settle(&mut wire.a, &state_a).await?;
    settle(&mut wire.b, &state_b).await?;
    meet(&[(5, &w5), (6, &w6), (7, &w7), (8, &w8), (9, &w9)]).await?;
    w5.run("ping -n -c 1 -W 2 -M do -s 1472 10.8.0.8")?;
    let links = wire.b.netns.run("ip -d -o link")?;
    ensure!(!links.contains("cwb") && !links.contains("cwp"), "a macvlan needs nothing in the host: {links}");

    // A restart takes no step and loses no packet.
    let before = wire.a.netns.run("ip -o link")?;
    let ping = w8.spawn("ping -n -i 0.01 -c 150 10.8.0.5")?;
    let other = w9.spawn("ping -n -i 0.01 -c 150 10.8.0.7")?;
    for _ in 0..2 {
        wire.a.stop();
        wire.a.start()?;
        settle(&mut wire.a, &state_a).await?;
        ensure!(
            wire.a.plane()?.progress.borrow().steps == 0,
            "took steps: {:?}",
            wire.a.plane()?.progress.borrow()
        );
    }
    for ping in [ping, other] {
        let pinged = String::from_utf8(ping.wait_with_output()?.stdout)?;
        ensure!(pinged.contains(" 0% packet loss"), "{pinged}");
    }
    ensure!(wire.a.netns.run("ip -o link")? == before, "links changed");

    // Drift is repaired: the uplink out of the bridge, a macvlan and a pair deleted, the bridge deleted.
    for damage in [
        "ip link set eth1 nomaster".to_owned(),
        format!("ip link del {}", dev(5, 100)?),
        "ip link del cwb100".into(),
    ] {
        wire.a.netns.run(&damage)?;
        wait_for(&damage, PATIENCE, || Ok(assert_settled(&wire.a.look(&state_a)?).is_ok())).await?;
        meet(&[(5, &w5), (7, &w7), (8, &w8)]).await?;
    }
    w8.run("ip link del eth0")?;
    wait_for("macvlan back", PATIENCE, || Ok(assert_settled(&wire.b.look(&state_b)?).is_ok())).await?;
    meet(&[(7, &w7), (8, &w8), (9, &w9)]).await?;

    // The last port gone, nothing of ours is left, and the uplink is as it was.
    let empty = v1::NodeState { revision: 2, ports: vec![], ..state_a.clone() };
    wire.a.set(&empty).await?;
    wire.b.set(&empty).await?;
    for (host, workloads) in [(&wire.a, [&w5, &w7]), (&wire.b, [&w8, &w9])] {
        emptied(host).await?;
        for workload in workloads {
            wait_for("no interface", PATIENCE, || Ok(workload.run("ip link show dev eth0").is_err())).await?;
        }
        let uplink = host.netns.run("ip -o link show dev eth1")?;
        ensure!(!uplink.contains("master") && uplink.contains("UP"), "{uplink}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_and_its_macvlans_meet_through_the_shim() -> Result<()> {
    let mut wire = Wire::new()?;
    wire.a.netns.run("ip address add 10.8.0.101/24 dev eth1")?;
    wire.a.netns.run("ip address add fd00:8::101/64 dev eth1 nodad")?;
    wire.b.netns.run("ip address add 10.8.0.102/24 dev eth1")?;
    wire.b.netns.run("ip address add fd00:8::102/64 dev eth1 nodad")?;
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let private = v1::NodePort {
        macvlan_mode: v1::MacvlanMode::Private.into(),
        ..attached(6, &w6, v1::Attachment::Macvlan)
    };
    let state = host_state(1, vec![attached(5, &w5, v1::Attachment::Macvlan), private]);
    settle(&mut wire.a, &state).await?;
    let a = &wire.a.netns;
    reach(a, "10.8.0.5", "fd00:8::5").await?;
    reach(&w5, "10.8.0.101", "fd00:8::101").await?;
    reach(&wire.b.netns, "10.8.0.5", "fd00:8::5").await?;
    reach(&w5, "10.8.0.102", "fd00:8::102").await?;
    reach(&wire.b.netns, "10.8.0.6", "fd00:8::6").await?;
    ensure!(!w5.pings("10.8.0.6"), "private macvlans reach nobody on their host");
    // Neither the switch nor the other host ever sees the shim.
    let shim = a.run("ip -o link show dev cws100")?;
    let shim_mac =
        shim.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).unwrap_or("none").to_owned();
    ensure!(!wire.switch.run("bridge fdb show")?.contains(&shim_mac), "the switch has learned {shim_mac}");
    let seen = wire.b.netns.run("ip neigh")?;
    ensure!(!seen.contains(&shim_mac), "{seen}");
    // The host's address goes: so does the shim, and what depended on it.
    a.run("ip address del 10.8.0.101/24 dev eth1")?;
    a.run("ip address del fd00:8::101/64 dev eth1")?;
    wait_for("shim gone", PATIENCE, || Ok(a.run("ip link show dev cws100").is_err())).await?;
    reach(&wire.b.netns, "10.8.0.5", "fd00:8::5").await
}

#[tokio::test]
async fn routed_workloads_are_reached_by_the_hosts_own_mac() -> Result<()> {
    let mut wire = Wire::new()?;
    for (n, host) in [(101, &wire.a.netns), (102, &wire.b.netns)] {
        host.run(&format!("ip address add 10.8.0.{n}/24 dev eth1"))?;
        host.run(&format!("ip address add fd00:8::{n}/64 dev eth1 nodad"))?;
    }
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let state = host_state(
        1,
        vec![attached(5, &w5, v1::Attachment::Routed), attached(6, &w6, v1::Attachment::Routed)],
    );
    wire.a.set(&state).await?;
    wire.a.wait_port("default/n100/p5", 1, "ip_forward=1").await?;
    wire.a.netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
    wire.a.wait_port("default/n100/p5", 1, "").await?;
    meet(&[(5, &w5), (6, &w6)]).await?;
    reach(&wire.a.netns, "10.8.0.5", "fd00:8::5").await?;
    reach(&w5, "10.8.0.101", "fd00:8::101").await?;
    reach(&wire.b.netns, "10.8.0.5", "fd00:8::5").await?;
    reach(&w5, "10.8.0.102", "fd00:8::102").await?;
    let uplink = wire.a.netns.run("ip -o link show dev eth1")?;
    let uplink_mac =
        uplink.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).unwrap_or("none").to_owned();
    for ip in ["10.8.0.5", "fd00:8::5"] {
        let found = wire.b.netns.run(&format!("ip neigh show {ip}"))?;
        ensure!(found.contains(&uplink_mac), "{ip}: {found}");
    }
    let own = w5.run("ip -o address show dev eth0")?;
    ensure!(own.contains("10.8.0.5/32") && own.contains("fd00:8::5/128"), "{own}");
    // A deleted route and a deleted answer come back; all go with the port.
    wire.a.netns.run("ip route del 10.8.0.5")?;
    wait_for("route back", PATIENCE, || Ok(wire.a.netns.run("ip route")?.contains("10.8.0.5 dev"))).await?;
    wire.a.set(&v1::NodeState { revision: 2, ports: vec![], ..state }).await?;
    emptied(&wire.a).await?;
    wait_for("no answers", PATIENCE, || Ok(!wire.a.netns.run("ip neigh show proxy")?.contains("10.8")))
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_belongs_to_others_is_a_problem_and_stays() -> Result<()> {
    let mut wire = Wire::new()?;
    let w5 = Netns::new("w5")?;
    let state = host_state(1, vec![attached(5, &w5, v1::Attachment::Bridge)]);
    wire.a.netns.run("ip link add theirs type bridge")?;
    wire.a.netns.run("ip link set eth1 master theirs")?;
    wire.a.set(&state).await?;
    wire.a
        .wait_port("default/n100/p5", 1, "uplink eth1 is a port of theirs, which is not Causeway's")
        .await?;
    wire.a.netns.run("ip link set eth1 nomaster")?;
    wire.a.wait_port("default/n100/p5", 1, "").await?;
    wire.a.set(&v1::NodeState { revision: 2, ports: vec![], ..state.clone() }).await?;
    emptied(&wire.a).await?;
    ensure!(wire.a.netns.run("ip -o link")?.contains("theirs"));
    wire.a.netns.run("ip address add 10.8.0.101/24 dev eth1")?;
    wire.a.set(&v1::NodeState { revision: 3, ..state.clone() }).await?;
    wire.a.wait_port("default/n100/p5", 1, "has the host's own address 10.8.0.101/24").await?;
    wire.a.netns.run("ip address del 10.8.0.101/24 dev eth1")?;
    wire.a.netns.run("ip link set eth1 mtu 1400")?;
    wire.a.wait_port("default/n100/p5", 1, "uplink eth1 has MTU 1400, network default/n100 needs 1500").await
}

#[tokio::test]
async fn taps_are_made_or_taken_and_only_ours_deleted() -> Result<()> {
    let mut wire = Wire::new()?;
    let (w7, none) = (Netns::new("w7")?, Netns::new("none")?);
    wire.a.netns.run("ip tuntap add dev tapvm6 mode tap")?;
    let ours = v1::NodePort {
        interface: "tapvm5".into(),
        netns: String::new(),
        ..attached(5, &none, v1::Attachment::Tap)
    };
    let theirs = v1::NodePort {
        interface: "tapvm6".into(),
        netns: String::new(),
        ..attached(6, &none, v1::Attachment::Tap)
    };
    let state_a = host_state(1, vec![ours, theirs]);
    let state_b = host_state(2, vec![attached(7, &w7, v1::Attachment::Bridge)]);
    settle(&mut wire.a, &state_a).await?;
    settle(&mut wire.b, &state_b).await?;
    for tap in ["tapvm5", "tapvm6"] {
        let link = wire.a.netns.run(&format!("ip -o -d link show dev {tap}"))?;
        ensure!(link.contains("master cwb100") && link.contains("mtu 1500"), "{link}");
        ensure!(link.contains("learning off"), "{link}");
    }
    let fdb = wire.a.netns.run("bridge fdb show dev tapvm5")?;
    ensure!(fdb.contains(&mac(5)), "{fdb}");
    // A VM at the tap: what it sends arrives at the other host's workload.
    let mut vm = crate::tap::Tap::open(&wire.a.netns, "tapvm5")?;
    let found = vm.resolve(&mac(5), [10, 8, 0, 5], [10, 8, 0, 7], Duration::from_secs(10))?;
    ensure!(found == mac(7), "{found}");
    drop(vm);
    wire.a.set(&v1::NodeState { revision: 2, ports: vec![], ..state_a }).await?;
    emptied(&wire.a).await?;
    let links = wire.a.netns.run("ip -o link")?;
    ensure!(!links.contains("tapvm5") && links.contains("tapvm6"), "{links}");
    let left = wire.a.netns.run("ip -o link show dev tapvm6")?;
    ensure!(!left.contains("master") && !left.contains("causeway"), "{left}");
    Ok(())
}
