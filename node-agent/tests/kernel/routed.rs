//! Routed workloads on a host behind a switch that has no address in their network: a gateway at the switch, another
//! subnet behind it, and a link of the host's own that everything else leaves by.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::{Host, PATIENCE, assert_settled, dev};
use crate::lan::{Wire, attached, emptied, host_state, settle};
use crate::netns::{Netns, run, wait_for};

const GATEWAY_MAC: &str = "00:00:5e:00:01:01";
/// Of the network with VNI 100.
const TABLE: &str = "1291845732";

/// A wire with a gateway, a machine in another subnet, and what is behind the host's management link.
struct Site {
    wire: Wire,
    gateway: Netns,
    far: Netns,
    management: Netns,
}

/// Connects `name` in a namespace, with addresses, to `peer` in another.
fn plug(netns: &Netns, name: &str, addresses: [&str; 2], to: &Netns, peer: &str) -> Result<()> {
    run(&format!("ip link add {name} netns {} type veth peer name {peer} netns {}", netns.name, to.name))?;
    netns.run(&format!("ip address add {} dev {name}", addresses[0]))?;
    netns.run(&format!("ip address add {} dev {name} nodad", addresses[1]))?;
    to.run(&format!("ip link set {peer} up"))?;
    netns.run(&format!("ip link set {name} up")).map(drop)
}

/// Counts what comes in with a source of the network, or, by ARP, with one of the host's other links.
fn spy(netns: &Netns) -> Result<()> {
    for command in [
        "add table inet spy",
        "add chain inet spy in { type filter hook prerouting priority -300 ; }",
        "add rule inet spy in ip saddr 10.8.0.0/24 counter",
        "add rule inet spy in ip6 saddr fd00:8::/64 counter",
        "add table arp spy",
        "add chain arp spy in { type filter hook input priority 0 ; }",
        "add rule arp spy in arp saddr ip 192.0.2.0/24 counter",
    ] {
        netns.run(&format!("nft {command}"))?;
    }
    Ok(())
}

fn counted(netns: &Netns, family: &str) -> Result<u64> {
    let rules = netns.run(&format!("nft list chain {family} spy in"))?;
    let counts =
        rules.split("packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    Ok(counts.sum())
}

impl Site {
    fn new() -> Result<Self> {
        let wire = Wire::new()?;
        let (gateway, far, management) = (Netns::new("gw")?, Netns::new("far")?, Netns::new("mg")?);
        plug(&gateway, "eth0", ["10.8.0.1/24", "fd00:8::1/64"], &wire.switch, "g0")?;
        gateway.run(&format!("ip link set eth0 address {GATEWAY_MAC}"))?;
        wire.switch.run("ip link set g0 master br0")?;
        plug(&far, "eth0", ["10.20.0.7/24", "fd00:20::7/64"], &gateway, "eth1")?;
        gateway.run("ip address add 10.20.0.1/24 dev eth1")?;
        gateway.run("ip address add fd00:20::1/64 dev eth1 nodad")?;
        far.run("ip route add default via 10.20.0.1")?;
        far.run("ip route add default via fd00:20::1")?;
        // The host's own way out, which leads to everything.
        let a = &wire.a.netns;
        plug(&management, "eth0", ["192.0.2.254/24", "fd00:99::fe/64"], a, "eth2")?;
        a.run("ip address add 192.0.2.101/24 dev eth2")?;
        a.run("ip address add fd00:99::101/64 dev eth2 nodad")?;
        a.run("ip route add default via 192.0.2.254")?;
        a.run("ip route add default via fd00:99::fe")?;
        for netns in [&gateway, a] {
            netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        }
        // As strict as it gets.
        a.run("sysctl -qw net.ipv4.conf.all.rp_filter=1")?;
        spy(&management)?;
        spy(&gateway)?;
        Ok(Site { wire, gateway, far, management })
    }

    /// Nothing of the network has left by the host's own link, and nobody was asked with an address of another one.
    fn is_clean(&self) -> Result<()> {
        ensure!(
            counted(&self.management, "inet")? == 0,
            "leaked: {}",
            self.management.run("nft list ruleset")?
        );
        ensure!(counted(&self.gateway, "arp")? == 0, "asked: {}", self.gateway.run("nft list ruleset")?);
        let known = self.gateway.run("ip neigh")?;
        ensure!(!known.contains("192.0.2.") && !known.contains("fd00:99:"), "{known}");
        Ok(())
    }
}

fn routed(n: u8, netns: &Netns) -> v1::NodePort {
    v1::NodePort {
        gateways: vec!["10.8.0.1".into(), "fd00:8::1".into()],
        gateway_mac: GATEWAY_MAC.into(),
        ..attached(n, netns, v1::Attachment::Routed)
    }
}

/// One packet each way suffices, of each family.
fn first_packets(pairs: &[(&Netns, u8)], far: &Netns) -> Result<()> {
    for (from, to) in pairs {
        for to in [format!("10.8.0.{to}"), format!("fd00:8::{to:x}")] {
            ensure!(from.pings(&to), "{} does not reach {to}: {}", from.name, from.run("ip neigh")?);
        }
    }
    for to in ["10.8.0.5", "fd00:8::5"] {
        ensure!(far.pings(to), "{} does not reach {to}", far.name);
    }
    Ok(())
}

/// What a routed workload reaches at once.
fn reaches(workload: &Netns) -> Result<()> {
    for to in
        ["10.8.0.1", "fd00:8::1", "10.20.0.7", "fd00:20::7", "10.8.0.7", "fd00:8::7", "10.8.0.6", "fd00:8::6"]
    {
        ensure!(workload.pings(to), "{} does not reach {to}", workload.name);
    }
    Ok(())
}

async fn repaired(host: &Host, state: &v1::NodeState, damage: &str) -> Result<()> {
    let mended = wait_for(damage, PATIENCE, || Ok(assert_settled(&host.look(state)?).is_ok())).await;
    assert_settled(&host.look(state)?).with_context(|| damage.to_owned())?;
    let took = mended?;
    ensure!(took < Duration::from_secs(5), "{damage}: only after {took:?}");
    Ok(())
}

#[tokio::test]
async fn a_host_without_an_address_routes_by_the_networks_gateway() -> Result<()> {
    let mut site = Site::new()?;
    let (w5, w6, w7, w8) = (Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?, Netns::new("w8")?);
    settle(&mut site.wire.b, &host_state(2, vec![attached(7, &w7, v1::Attachment::Bridge)])).await?;
    let only = host_state(1, vec![routed(5, &w5), routed(8, &w8)]);
    settle(&mut site.wire.a, &only).await?;
    // Both ways on the wire, before anybody has spoken; then with a bridged neighbour on the same host.
    first_packets(&[(&w7, 5), (&w5, 8), (&w8, 5), (&w5, 7)], &site.far)?;
    let ports = vec![routed(5, &w5), routed(8, &w8), attached(6, &w6, v1::Attachment::Bridge)];
    let state = v1::NodeState { revision: 2, ports, ..only };
    site.wire.a.set(&state).await?;
    site.wire.a.wait_port("default/n100/p6", 1, "").await?;
    site.wire.a.wait_settled(&state).await?;
    first_packets(&[(&w6, 5), (&w6, 8)], &site.far)?;
    reaches(&w5)?;
    let bridge = site.wire.a.netns.run("ip -o link show dev cwb100")?;
    ensure!(bridge.contains("02:bb:00:01:00:64"), "{bridge}");
    let known = w7.run("ip neigh")?;
    for ip in ["10.8.0.5", "fd00:8::5"] {
        let found =
            known.lines().any(|l| l.starts_with(&format!("{ip} ")) && l.contains("02:bb:00:01:00:64"));
        ensure!(found, "{ip} is not at the announced MAC: {known}");
    }
    // What nobody has goes to the gateway, and from there nowhere.
    ensure!(!w5.pings("203.0.113.9") && !w5.pings("2001:db8::9"));
    site.is_clean()?;

    // A restart takes no step.
    let a = &mut site.wire.a;
    a.stop();
    // Without the rule what it sends does leave by the host's own link: the counters count.
    a.netns.run(&format!("ip rule del pref 770 iif {}", dev(5, 100)?))?;
    ensure!(!w5.pings("203.0.113.9") && counted(&site.management, "inet")? > 0, "the spy sees nothing");
    a.netns.run(&format!("ip rule add pref 770 iif {} lookup {TABLE} protocol 77", dev(5, 100)?))?;
    site.management.run("nft delete table inet spy")?;
    site.management.run("nft delete table arp spy")?;
    spy(&site.management)?;
    a.start()?;
    settle(a, &state).await?;
    ensure!(a.plane()?.progress.borrow().steps == 0, "took steps: {:?}", a.plane()?.progress.borrow());
    damages(&mut site, &state, &w5).await?;
    cleanup(&mut site, state).await
}

/// What is taken away comes back by itself, and at once.
async fn damages(site: &mut Site, state: &v1::NodeState, w5: &Netns) -> Result<()> {
    let (a, own) = (&site.wire.a, dev(5, 100)?);
    for damage in [
        format!("ip rule del pref 770 iif {own}"),
        format!("ip -6 rule del pref 770 iif {own}"),
        format!("ip route flush table {TABLE}"),
        format!("ip -6 route flush table {TABLE}"),
        "ip neigh del 10.8.0.1 dev cwb100".into(),
        "ip neigh replace fd00:8::1 lladdr 02:00:00:00:00:99 dev cwb100 nud permanent protocol 77".into(),
        "ip address flush dev cwb100 scope link".into(),
        "ip link set eth1 nomaster".into(),
        format!("ip link del {own}"),
        "ip link del cwb100".into(),
    ] {
        a.netns.run(&damage)?;
        repaired(a, state, &damage).await?;
        reaches(w5).with_context(|| damage)?;
    }
    // Of this the kernel tells nobody: at the next look, whatever it is for.
    a.netns.run("ip neigh del proxy 10.8.0.5 dev cwb100")?;
    a.netns.run("ip address add 192.0.2.201/32 dev eth2")?;
    repaired(a, state, "proxy entry").await?;
    site.is_clean()
}

/// With the ports goes what is ours, and nothing else.
async fn cleanup(site: &mut Site, state: v1::NodeState) -> Result<()> {
    let own = dev(5, 100)?;
    let a = &mut site.wire.a;
    for theirs in [
        format!("ip rule add pref 770 iif {own} lookup 77"),
        format!("ip rule add pref 769 iif {own} lookup {TABLE} protocol 77"),
        format!("ip route add 198.51.100.0/24 dev eth2 table {TABLE} proto static"),
    ] {
        a.netns.run(&theirs)?;
    }
    let mut fewer = v1::NodeState { revision: 3, ..state.clone() };
    fewer.ports.remove(0);
    a.set(&fewer).await?;
    let rules = || a.netns.run("ip rule show pref 770");
    wait_for("no rule", PATIENCE, || Ok(!rules()?.lines().any(|l| l.contains(&own) && l.contains(TABLE))))
        .await?;
    let left = a.netns.run("ip neigh show proxy")?;
    ensure!(!left.contains("10.8.0.5") && left.contains("10.8.0.8"), "{left}");
    a.set(&v1::NodeState { revision: 4, ports: vec![], ..state }).await?;
    emptied(a).await?;
    let none = || Ok(a.netns.run(&format!("ip -6 rule show table {TABLE}"))?.trim().is_empty());
    wait_for("no rules", PATIENCE, none).await?;
    let rules = a.netns.run("ip rule")?;
    let ours = rules.lines().filter(|l| l.contains("cwp")).count();
    ensure!(ours == 2 && rules.contains("lookup 77") && rules.contains("769:"), "{rules}");
    let routes = a.netns.run(&format!("ip route show table {TABLE}"))?;
    ensure!(routes.trim() == "198.51.100.0/24 dev eth2 proto static scope link", "{routes}");
    let six = a.netns.run(&format!("ip -6 route show table {TABLE}")).unwrap_or_default();
    ensure!(six.trim().is_empty(), "{six}");
    Ok(())
}

#[tokio::test]
async fn a_gateway_that_nobody_can_ask_for_is_a_problem_until_the_host_can() -> Result<()> {
    let mut site = Site::new()?;
    let (w5, w7) = (Netns::new("w5")?, Netns::new("w7")?);
    settle(&mut site.wire.b, &host_state(2, vec![attached(7, &w7, v1::Attachment::Bridge)])).await?;
    let port = v1::NodePort { gateway_mac: String::new(), ..routed(5, &w5) };
    let state = host_state(1, vec![port]);
    site.wire.a.set(&state).await?;
    site.wire
        .a
        .wait_port("default/n100/p5", 1, "cannot ask for gateway 10.8.0.1 of network default/n100")
        .await?;
    ensure!(!w5.pings("10.8.0.7") && !w5.pings("203.0.113.9") && !w5.pings("2001:db8::9"));
    site.is_clean()?;
    // As the problem says.
    site.wire.a.netns.run("ip address add 10.8.0.101/24 dev cwb100")?;
    site.wire.a.netns.run("ip address add fd00:8::101/64 dev cwb100 nodad")?;
    site.wire.a.wait_port("default/n100/p5", 1, "").await?;
    site.wire.a.wait_settled(&state).await?;
    first_packets(&[(&w7, 5), (&w5, 7)], &site.far)?;
    for to in ["10.20.0.7", "fd00:20::7", "10.8.0.101", "fd00:8::101"] {
        ensure!(w5.pings(to), "{to}");
    }
    site.is_clean()
}
