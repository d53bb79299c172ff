//! Addresses: usable, unique, of the right prefix, not overlapping.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_proto::{Prefix, Vni};
use ipnetwork::IpNetwork;

use super::Check;
use crate::derive::{LINK_POOL, LOOPBACK_POOL};
use crate::diagnostic::Place;
use crate::lab::{Node, Role};
use crate::plan::InterfaceUse;
use crate::split::split_command;

/// The network in which containerlab manages its nodes.
const MANAGEMENT: &str = "172.20.20.0/24";

pub(super) fn check(check: &mut Check<'_>) {
    usable(check);
    links(check);
    loopbacks(check);
    servers(check);
    executed(check);
}

/// An address that an interface cannot have.
fn fault(address: IpNetwork) -> Option<&'static str> {
    let ip = address.ip();
    let host_bits = if address.is_ipv4() { 32 } else { 128 } - address.prefix();
    if ip.is_unspecified() {
        Some("the unspecified address")
    } else if ip.is_loopback() {
        Some("a loopback address of the machine itself")
    } else if ip.is_multicast() {
        Some("a multicast address")
    } else if matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
        Some("the broadcast address")
    } else if address.is_ipv4() && host_bits > 1 && ip == address.network() {
        Some("the address of the prefix itself")
    } else if address.is_ipv4() && host_bits > 1 && ip == address.broadcast() {
        Some("the broadcast address of its prefix")
    } else {
        None
    }
}

fn usable(check: &mut Check<'_>) {
    let lab = check.lab;
    let mut said: Vec<(Place, IpNetwork, String)> = Vec::new();
    for link in &lab.links {
        for end in [Some(&link.a), link.b.as_ref()].into_iter().flatten() {
            let both = [end.ipv4.map(IpNetwork::V4), end.ipv6.map(IpNetwork::V6)];
            let what = format!("interface '{}' of node '{}'", end.interface, end.node);
            said.extend(both.into_iter().flatten().map(|a| (end.place, a, what.clone())));
        }
    }
    for node in lab.nodes.values() {
        let labels = &node.causeway;
        let own =
            [("loopback", labels.loopback), ("VTEP", labels.vtep), ("anycast VTEP", labels.anycast_vtep)];
        let own = own.into_iter().filter_map(|(what, a)| Some((what, IpNetwork::from(a?))));
        let servers = node.causeway.addresses.iter().map(|a| ("address", *a));
        said.extend(
            own.chain(servers)
                .map(|(what, a)| (node.place, a, format!("the {what} of node '{}'", node.name))),
        );
    }
    for (place, address, what) in said {
        if let Some(fault) = fault(address) {
            check.error(
                "address-unusable",
                place,
                format!("{what} is {address}: that is {fault}"),
                "give it an address of a host",
            );
        }
    }
}

/// Underlay links by prefix; equal prefixes are one network only if it is one link.
fn links(check: &mut Check<'_>) {
    let lab = check.lab;
    let mut prefixes: BTreeMap<usize, IpNetwork> = BTreeMap::new();
    for plan in check.plan.nodes.values() {
        let underlay = plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay);
        prefixes.extend(underlay.filter_map(|i| Some((i.link, i.address?))));
    }
    let mut sorted: Vec<(IpAddr, IpAddr, usize, IpNetwork)> =
        prefixes.iter().map(|(link, p)| (p.network(), p.broadcast(), *link, *p)).collect();
    sorted.sort_unstable();
    // Prefixes either nest or are apart: an overlap shows against the one that reaches farthest so far.
    let mut farthest: Option<(IpAddr, usize, IpNetwork)> = None;
    for (first, last, link, prefix) in sorted {
        if let Some((end, other, outer)) = farthest
            && first <= end
            && first.is_ipv4() == end.is_ipv4()
        {
            let (Some(here), Some(there)) = (lab.links.get(link.max(other)), lab.links.get(link.min(other)))
            else {
                continue;
            };
            let (a, b) = (prefix.network(), outer.network());
            let message = format!(
                "prefix {a}/{} of this link overlaps {b}/{} of the link in line {}",
                prefix.prefix(),
                outer.prefix(),
                there.place.line
            );
            check.error(
                "subnet-overlap",
                here.place,
                message,
                "give each link a prefix of its own, or take 'ipv4:' away and let it come from the pool",
            );
        }
        if farthest.is_none_or(|(end, ..)| last > end || first.is_ipv4() != end.is_ipv4()) {
            farthest = Some((last, link, prefix));
        }
    }
    management(check, &prefixes);
}

fn management(check: &mut Check<'_>, prefixes: &BTreeMap<usize, IpNetwork>) {
    let Ok(management) = MANAGEMENT.parse::<IpNetwork>() else { return };
    let lab = check.lab;
    let inside = prefixes
        .iter()
        .find(|(_, p)| p.is_ipv4() && (management.contains(p.ip()) || p.contains(management.ip())));
    if let Some((place, prefix)) = inside.and_then(|(link, p)| Some((lab.links.get(*link)?.place, p))) {
        let message =
            format!("{prefix} of this link overlaps containerlab's management network {management}");
        check.warn("subnet-overlap", place, message, "take another prefix, or set mgmt.ipv4-subnet");
    }
}

/// Loopbacks and VTEPs inside a link's prefix; pools that overlap.
fn loopbacks(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let mut prefixes: Vec<(IpNetwork, Place)> = Vec::new();
    for node in plan.nodes.values() {
        let underlay = node.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay);
        prefixes.extend(underlay.filter_map(|i| Some((i.address?, lab.links.get(i.link)?.place))));
    }
    prefixes.sort_by_key(|(p, _)| (p.network(), p.prefix()));
    prefixes.dedup_by_key(|(p, _)| (p.network(), p.prefix()));
    for node in lab.nodes_in_order() {
        let Some(own) = plan.nodes.get(&node.name) else { continue };
        let vtep = own.vtep.filter(|v| Some(*v) != own.loopback);
        for (what, address) in
            [("loopback", own.loopback), ("VTEP", vtep), ("anycast VTEP", own.anycast_vtep)]
        {
            let Some(address) = address else { continue };
            if let Some((prefix, place)) = prefixes.iter().find(|(p, _)| p.contains(address)) {
                let message = format!(
                    "the {what} {address} of node '{}' is inside of {prefix}, the prefix of the link in line {}",
                    node.name, place.line
                );
                check.error(
                    "subnet-overlap",
                    node.place,
                    message,
                    "loopbacks are /32 or /128 outside of all link prefixes",
                );
            }
        }
    }
    let find =
        |of: fn(&Node) -> Option<Prefix>| lab.nodes_in_order().into_iter().find_map(|n| Some((n, of(n)?)));
    // Where the file says none the default is at work: see `derive`.
    let default = |a| Prefix::containing(a, 16);
    let (links, loopbacks) = (find(|n| n.causeway.link_pool), find(|n| n.causeway.loopback_pool));
    let Some(node) = links.or(loopbacks).map(|(n, _)| n) else { return };
    let a = links.map(|(_, p)| p).or_else(|| default(LINK_POOL.into()));
    let b = loopbacks.map(|(_, p)| p).or_else(|| default(LOOPBACK_POOL.into()));
    if let (Some(a), Some(b)) = (a, b)
        && (a.contains(b.network()) || b.contains(a.network()))
    {
        let message = format!("causeway.link-pool {a} and causeway.loopback-pool {b} overlap");
        check.error("pool-overlap", node.place, message, "take two prefixes that are apart");
    }
}

/// The addresses of servers: no two the same in a network, one subnet a family.
fn servers(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let mut owners: BTreeMap<(Vni, IpAddr), &Node> = BTreeMap::new();
    let mut subnets: BTreeMap<(Vni, bool), (IpNetwork, &Node)> = BTreeMap::new();
    for node in lab.nodes_in_order().into_iter().filter(|n| n.role == Role::Server) {
        let networks = plan.nodes.get(&node.name).into_iter().flat_map(|p| &p.interfaces);
        let mut networks: Vec<Vni> = networks
            .filter_map(|i| if let InterfaceUse::Access(v) = i.usage { Some(v) } else { None })
            .collect();
        networks.dedup();
        for (vni, address) in
            networks.iter().flat_map(|v| node.causeway.addresses.iter().map(move |a| (*v, *a)))
        {
            if let Some(other) = owners.insert((vni, address.ip()), node).filter(|o| o.name != node.name) {
                let message = format!(
                    "address {} of network {vni} is given twice: to '{}' and to '{}'",
                    address.ip(),
                    other.name,
                    node.name
                );
                check.error(
                    "address-duplicate",
                    node.place,
                    message,
                    "give one of them another causeway.address",
                );
            }
            let (first, other) = *subnets.entry((vni, address.is_ipv4())).or_insert((address, node));
            if (first.network(), first.prefix()) != (address.network(), address.prefix())
                && !is_local(address.ip())
            {
                let message = format!(
                    "'{}' has {address} and '{}' has {first} in network {vni}: they are of different subnets",
                    node.name, other.name
                );
                check.warn(
                    "subnet-differs",
                    node.place,
                    message,
                    "the hosts of one network take their addresses from one subnet a family",
                );
            }
        }
    }
}

fn is_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80))
}

/// What `ip address add` in a node's exec says, against the plan. A lab that leaves the addresses to the file gives none.
fn executed(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    for node in lab.nodes_in_order() {
        let Some(own) = plan.nodes.get(&node.name) else { continue };
        for (address, device) in node.exec.iter().filter_map(|line| assignment(line)) {
            let Some(interface) =
                own.interfaces.iter().find(|i| i.name == device && i.usage == InterfaceUse::Underlay)
            else {
                continue;
            };
            if let Some(planned) =
                interface.address.filter(|p| p.is_ipv4() == address.is_ipv4() && *p != address)
            {
                let message = format!(
                    "node '{}' sets {address} on {device}, and the fabric has {planned} there",
                    node.name
                );
                check.warn(
                    "address-differs",
                    node.place,
                    message,
                    format!("change exec to {planned}, or say ipv4: at the link"),
                );
            }
        }
    }
}

/// Address and device of an `ip address add` command.
fn assignment(line: &str) -> Option<(IpNetwork, String)> {
    let words = split_command(line).ok()?;
    let mut words = words.iter().map(String::as_str).filter(|w| !w.starts_with('-'));
    if words.next()?.rsplit('/').next() != Some("ip")
        || !"address".starts_with(words.next().filter(|w| w.starts_with('a'))?)
    {
        return None;
    }
    if !matches!(words.next()?, "add" | "replace") {
        return None;
    }
    let address = words.next()?.parse().ok()?;
    let device = words.skip_while(|w| *w != "dev").nth(1)?;
    Some((address, device.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_commands_are_found() {
        let want = Some(("192.0.2.1/24".parse().unwrap(), "eth1".to_owned()));
        for line in
            ["ip addr add 192.0.2.1/24 dev eth1", "/sbin/ip -4 a replace 192.0.2.1/24 brd + dev eth1 nodad"]
        {
            assert_eq!(assignment(line), want, "{line}");
        }
        for line in [
            "ip route add 192.0.2.0/24 dev eth1",
            "ip addr add x dev eth1",
            "ip a",
            "",
            "ip addr add 192.0.2.1/24",
        ] {
            assert_eq!(assignment(line), None, "{line}");
        }
    }
}
