//! Addresses and routes of what is no switch, one command a line: such lines can be a node's `exec`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use causeway_proto::Vni;
use ipnetwork::IpNetwork;

use crate::lab::{Mode, Node, Role};
use crate::plan::{Interface, InterfaceUse, NodePlan, Plan};
use crate::sessions::own_addresses;

/// The one link that two links to two leaves are.
const BOND: &str = "bond0";

/// The commands.
pub(super) fn text(plan: &Plan, own: &NodePlan, node: &Node) -> Option<String> {
    let mut out = String::new();
    write_addresses(&mut out, own).ok()?;
    if own.mode == Some(Mode::HostVtep) {
        out += plan.forwarding();
    }
    if own.role == Role::Server {
        write_server(&mut out, plan, own, node).ok()?;
    }
    for port in own.interfaces.iter().filter(|i| i.usage == InterfaceUse::Routed) {
        write_routed(&mut out, plan, port, node).ok()?;
    }
    Some(out)
}

fn nodad(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "" } else { " nodad" }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip -6" }
}

/// A server's addresses stand where their network is: on the interface itself, or on a VLAN device of it. Its default
/// route leads to the gateway of the first network that has one.
fn write_server(out: &mut String, plan: &Plan, own: &NodePlan, node: &Node) -> std::fmt::Result {
    let ports =
        own.interfaces.iter().filter(|i| matches!(i.usage, InterfaceUse::Access(_) | InterfaceUse::Trunk));
    let mut ports: Vec<(&str, &Interface)> = ports.map(|i| (i.name.as_str(), i)).collect();
    if let Some((_, first)) = ports.first().filter(|_| own.multihoming.is_some()) {
        write_bond(out, &ports)?;
        ports = vec![(BOND, first)];
    }
    let mut devices: Vec<(String, Option<Vni>)> = Vec::new();
    for (name, port) in ports {
        if port.untagged.is_some() {
            devices.push((name.to_owned(), port.untagged));
        }
        if !port.tagged.is_empty() {
            // A VLAN device is only up while the one below it is.
            writeln!(out, "ip link set {name} up")?;
        }
        for network in port.tagged.iter().filter_map(|vni| plan.network(*vni)) {
            let (Some(vlan), mtu) = (network.vlan, network.mtu) else { continue };
            writeln!(out, "ip link add link {name} name {name}.{vlan} mtu {mtu} type vlan id {vlan}")?;
            writeln!(out, "ip link set {name}.{vlan} addrgenmode none")?;
            devices.push((format!("{name}.{vlan}"), Some(network.vni)));
        }
    }
    let of = |address: &IpNetwork| {
        let inside = |vni: &Option<Vni>| {
            let network = vni.and_then(|vni| plan.network(vni));
            network.is_some_and(|n| n.subnets.iter().any(|p| p.contains(address.ip())))
        };
        devices.iter().find(|(_, vni)| inside(vni)).or(devices.first()).map(|(name, _)| name)
    };
    for address in &node.causeway.addresses {
        if let Some(device) = of(address) {
            writeln!(out, "ip address add {address} dev {device}{}", nodad(address.ip()))?;
        }
    }
    for (device, _) in &devices {
        writeln!(out, "ip link set {device} up")?;
    }
    let gateways = devices.iter().filter_map(|(_, vni)| plan.network((*vni)?)).flat_map(|n| &n.gateways);
    let mut first: BTreeMap<bool, IpAddr> = BTreeMap::new();
    for gateway in gateways.filter(|g| node.causeway.addresses.iter().any(|a| g.contains(a.ip()))) {
        first.entry(gateway.is_ipv6()).or_insert(gateway.ip());
    }
    for gateway in first.into_values() {
        writeln!(out, "{} route replace default via {gateway}", family(gateway))?;
    }
    Ok(())
}

/// Both links as one: a static LAG, where both receive. The leaves speak no LACP with it; with one standby link frames that
/// reach the leaf behind it would be lost.
fn write_bond(out: &mut String, ports: &[(&str, &Interface)]) -> std::fmt::Result {
    let mtu = ports.iter().map(|(_, port)| port.mtu).min().unwrap_or_default();
    writeln!(
        out,
        "ip link add {BOND} mtu {mtu} type bond mode balance-xor xmit_hash_policy layer3+4 miimon 100"
    )?;
    for (name, _) in ports {
        // The kernel takes no link into a bond that is up.
        writeln!(out, "ip link set {name} down\nip link set {name} master {BOND}")?;
    }
    Ok(())
}

/// A machine on a routed port: its end of the link, something to reach in every prefix behind it, and the way back.
fn write_routed(out: &mut String, plan: &Plan, port: &Interface, node: &Node) -> std::fmt::Result {
    let own = [port.address, port.second].into_iter().flatten();
    for address in own {
        writeln!(out, "ip address add {address} dev {}{}", port.name, nodad(address.ip()))?;
    }
    writeln!(out, "ip link set {} up", port.name)?;
    for prefix in &node.causeway.prefixes {
        let point = if prefix.is_ipv4() { 31 } else { 127 };
        let first = if prefix.length() < point { next(prefix.network()) } else { prefix.network() };
        writeln!(out, "ip address add {} dev lo", IpNetwork::from(first))?;
    }
    let Some((peer, name)) = &port.peer else { return Ok(()) };
    let leaf = plan.nodes.get(peer).and_then(|n| n.interfaces.iter().find(|i| i.name == *name));
    for gateway in leaf.into_iter().flat_map(|i| [i.address, i.second]).flatten() {
        writeln!(out, "{} route replace default via {}", family(gateway.ip()), gateway.ip())?;
    }
    Ok(())
}

fn next(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(a) => IpAddr::V4(u32::from(a).wrapping_add(1).into()),
        IpAddr::V6(a) => IpAddr::V6(u128::from(a).wrapping_add(1).into()),
    }
}

/// Addresses of the underlay, and the way into it.
fn write_addresses(out: &mut String, plan: &NodePlan) -> std::fmt::Result {
    for address in own_addresses(plan) {
        writeln!(out, "ip address add {} dev lo", IpNetwork::from(address))?;
    }
    for interface in plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay) {
        if let Some(address) = interface.address {
            writeln!(out, "ip address add {address} dev {}", interface.name)?;
        }
    }
    if let Some(gateway) = plan.gateway {
        // `replace`: under containerlab the management network has a default route already.
        let source = plan.vtep.filter(|v| v.is_ipv4() == gateway.is_ipv4());
        let source = source.map_or_else(String::new, |s| format!(" src {s}"));
        writeln!(out, "ip route replace default via {gateway}{source}")?;
    }
    // A switch's loopback is reached over the own link to it, also when the default route leads to another switch.
    let sessions = plan.bgp.iter().filter(|s| Some(s.peer_link) != plan.gateway && s.address != s.peer_link);
    for session in sessions {
        writeln!(out, "ip route replace {} via {}", session.address, session.peer_link)?;
    }
    Ok(())
}
