//! What is wrong with the node as a whole: things that the agent does not change, because other software may depend on
//! them, but that break or slow the network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;

use crate::dev::Dev;
use crate::model::Desired;
use crate::netlink::message::{get_addresses, get_link};
use crate::netlink::parse;
use crate::netlink::socket::Connection;

/// Bytes that VXLAN adds to a frame's payload: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.
fn overhead(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// Looks at the node in this thread's network namespace. One sentence a problem, with what to do.
pub fn look(desired: &Desired) -> Vec<String> {
    let mut problems = capabilities();
    problems.extend(bridge_filters());
    problems.extend(guards(desired));
    problems.extend(forwarding(desired));
    problems.extend(neighbour_limit(desired.ports().len()));
    if let Some(vtep) = desired.vtep() {
        problems.extend(underlay(desired, vtep));
    }
    problems
}

/// Bits of `capabilities(7)` that the agent needs.
const NEEDED: [(u32, &str, &str); 3] = [
    (12, "CAP_NET_ADMIN", "nothing can be programmed"),
    (13, "CAP_NET_RAW", "addresses are not announced"),
    (21, "CAP_SYS_ADMIN", "workloads' namespaces cannot be entered"),
];

fn capabilities() -> Vec<String> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let Some(bits) = status.lines().find_map(|l| l.strip_prefix("CapEff:")) else { return Vec::new() };
    let Ok(bits) = u64::from_str_radix(bits.trim(), 16) else { return Vec::new() };
    let missing = NEEDED.iter().filter(|(bit, ..)| bits >> bit & 1 == 0);
    missing.map(|(_, name, what)| format!("capability {name} is missing: {what}")).collect()
}

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// With these on, bridged traffic passes the host's firewall: a forward policy of drop, as Docker sets it, cuts it off.
fn bridge_filters() -> Vec<String> {
    let names = ["iptables", "ip6tables", "arptables"].map(|table| format!("bridge-nf-call-{table}"));
    let on = names.iter().filter(|name| number(&format!("/proc/sys/net/bridge/{name}")) == Some(1));
    on.map(|name| {
        format!(
            "{name} is 1: the host's firewall sees bridged traffic and may drop it; \
             if nothing else needs it, sysctl -w net.bridge.{name}=0"
        )
    })
    .collect()
}

/// The limit is one for all namespaces; entries of workloads' own neighbours count, ours on the bridges do not.
fn neighbour_limit(ports: usize) -> Vec<String> {
    let need = (8 * ports as u64).max(1024);
    let families = ["ipv4", "ipv6"].iter().filter_map(|family| {
        let limit = number(&format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?;
        (limit < need).then(|| {
            format!(
                "net.{family}.neigh.default.gc_thresh3 is {limit}, too low for {ports} ports: \
                 set it to {need} or more"
            )
        })
    });
    families.collect()
}

/// Without it guarded ports are not programmed: an open one would be worse.
fn guards(desired: &Desired) -> Option<String> {
    let count = desired.ports().values().filter(|port| port.guarded).count();
    (count > 0 && !crate::guard::nft::is_installed()).then(|| {
        format!(
            "nft is not installed, so {count} guarded ports are not programmed: install the package nftables"
        )
    })
}

/// IPv6 has one switch for all interfaces, and it is the host's own. (A host behind a switch routes nothing.)
fn forwarding(desired: &Desired) -> Option<String> {
    let routed = desired.networks().values().filter(|n| n.gateways.iter().any(|g| g.ip.is_ipv6())).count();
    let off = number("/proc/sys/net/ipv6/conf/all/forwarding") == Some(0);
    (routed > 0 && off && desired.lan().is_none()).then(|| {
        format!(
            "net.ipv6.conf.all.forwarding is 0: IPv6 of {routed} networks is not routed; \
             sysctl -w net.ipv6.conf.all.forwarding=1"
        )
    })
}

fn underlay(desired: &Desired, vtep: IpAddr) -> Vec<String> {
    let largest = desired.networks().iter().max_by_key(|(_, n)| n.mtu);
    let need = largest.map_or(0, |(_, n)| n.mtu + overhead(vtep));
    let name = largest.map(|(_, n)| n.name.to_string()).unwrap_or_default();
    let mut problems = Vec::new();
    let said = desired.underlay_mtu();
    if said != 0 && said < need {
        problems.push(format!("underlay MTU {said} is too small: network {name} needs {need}"));
    }
    match carrier_of(vtep) {
        Ok(None) => problems.push(format!(
            "VTEP address {vtep} is on no interface of this host: add it, or correct the node's VTEP"
        )),
        Ok(Some((dev, mtu))) if mtu < need => problems
            .push(format!("interface {dev} with VTEP {vtep} has MTU {mtu}: network {name} needs {need}")),
        Ok(Some(_)) => {}
        Err(error) => problems.push(format!("addresses of this host cannot be read: {error}")),
    }
    problems
}

/// The interface that has an address, and its MTU.
fn carrier_of(ip: IpAddr) -> Result<Option<(Dev, u32)>, crate::netlink::NetlinkError> {
    let mut connection = Connection::open()?;
    let addresses = connection.dump(get_addresses())?;
    let index = addresses.iter().find_map(|m| match m {
        RouteNetlinkMessage::NewAddress(message) => {
            parse::address(message).filter(|(_, a, _)| a.ip == ip).map(|(index, ..)| index)
        }
        _ => None,
    });
    let Some(index) = index else { return Ok(None) };
    let links: BTreeMap<u32, (Dev, u32)> = connection
        .dump(get_link(None))?
        .iter()
        .filter_map(|m| if let RouteNetlinkMessage::NewLink(l) = m { parse::link(l) } else { None })
        .map(|l| (l.index, (l.name, l.link.mtu)))
        .collect();
    Ok(links.get(&index).cloned())
}
