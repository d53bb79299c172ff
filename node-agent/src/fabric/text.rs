//! Steps as the equivalent `ip`, `bridge` and `sysctl` commands.

use std::fmt;

use super::{LinkKind, METRIC, Object, Seat, Step, Thing};
use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::observed::{FdbKind, TunnelEntry};
use crate::op::on;

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Thing::Link(dev) => write!(f, "interface {dev}"),
            Thing::Member(dev) => write!(f, "switch port {dev}"),
            Thing::Vlan(dev, vlan) => write!(f, "VLAN {vlan} of {dev}"),
            Thing::Router(dev) => write!(f, "routing of {dev}"),
            Thing::Barrier(table, v6) => {
                write!(f, "{} end of table {table}", if *v6 { "IPv6" } else { "IPv4" })
            }
            Thing::Address(dev, address) => write!(f, "address {address} of {dev}"),
            Thing::Flood(dev, vtep) => write!(f, "flood target {vtep} of {dev}"),
            Thing::Tunnel(dev, mac) => write!(f, "MAC {mac} of {dev}"),
            Thing::Fdb(dev, Some(vlan), mac) => write!(f, "MAC {mac} in VLAN {vlan} of {dev}"),
            Thing::Fdb(dev, None, mac) => write!(f, "MAC {mac} of {dev}"),
            Thing::Neighbour(dev, ip) => write!(f, "neighbour {ip} on {dev}"),
            Thing::Route(table, prefix) => write!(f, "route {prefix} in table {table}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Remove(dev) => write!(f, "ip link del dev {dev}"),
            Step::Make { dev, kind, mac, mtu } => {
                match kind {
                    LinkKind::Vlan(_) => write!(f, "ip link add link {} name {dev}", Dev::switch())?,
                    _ => write!(f, "ip link add name {dev}")?,
                }
                if let Some(mac) = mac {
                    write!(f, " address {mac}")?;
                }
                if let Some(mtu) = mtu {
                    write!(f, " mtu {mtu}")?;
                }
                write!(f, " group {LINK_GROUP} type {kind}")
            }
            Step::Change { dev, change } => write!(f, "ip link set dev {dev}{change}"),
            Step::Flags { dev, flags } => {
                write!(f, "ip link set dev {dev} type bridge_slave learning {}", on(flags.learning))?;
                write!(f, " neigh_suppress {}", on(flags.neigh_suppress))?;
                match flags.forward_gratuitous {
                    Some(forward) => write!(f, " neigh_forward_grat {}", on(forward)),
                    None => Ok(()),
                }
            }
            Step::QuietRa(dev) => write!(f, "sysctl -w net.ipv6.conf.{dev}.accept_ra=0"),
            Step::Join(dev) => write!(f, "ip link set dev {dev} master {}", Dev::switch()),
            Step::Raise(dev) => write!(f, "ip link set dev {dev} up"),
            Step::Leave(dev) => write!(f, "ip link set dev {dev} nomaster"),
            Step::Enslave { dev, vrf: Some(vrf) } => write!(f, "ip link set dev {dev} master {vrf}"),
            Step::Enslave { dev, vrf: None } => write!(f, "ip link set dev {dev} nomaster"),
            Step::Routing { dev, on } => {
                let [(_, forwarding), (_, filter), (_, ignore)] = routing_sysctls(*on);
                write!(f, "sysctl -w net.ipv4.conf.{dev}.forwarding={forwarding}")?;
                write!(f, " net.ipv4.conf.{dev}.rp_filter={filter} net.ipv4.conf.{dev}.arp_ignore={ignore}")
            }
            Step::Put(thing, object) => put(f, thing, object),
            Step::Take(thing, object) => take(f, thing, object),
        }
    }
}

/// What makes a device route: it forwards, it drops nothing because the way back is another one (that is so with
/// several equal ways), and it answers ARP only for the addresses of its own network.
pub(crate) fn routing_sysctls(on: bool) -> [(&'static str, &'static str); 3] {
    match on {
        true => [("forwarding", "1"), ("rp_filter", "0"), ("arp_ignore", "1")],
        false => [("forwarding", "0"), ("rp_filter", "0"), ("arp_ignore", "0")],
    }
}

impl fmt::Display for LinkKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without a querier snooping only delays or loses ND over the tunnel.
            LinkKind::Switch => {
                f.write_str("bridge vlan_filtering 1 vlan_default_pvid 0 stp_state 0 mcast_snooping 0")
            }
            LinkKind::Bridge => f.write_str("bridge mcast_snooping 0"),
            LinkKind::Vxlan { vni, local, port, learning } => {
                write!(f, "vxlan id {vni}")?;
                if let Some(local) = local {
                    write!(f, " local {local}")?;
                }
                write!(f, " dstport {port} {}", if *learning { "learning" } else { "nolearning" })
            }
            LinkKind::Vlan(vlan) => write!(f, "vlan id {vlan}"),
            LinkKind::Vrf(table) => write!(f, "vrf table {table}"),
            LinkKind::Other => f.write_str("unknown"),
        }
    }
}

fn vlan_of(bridge: &Dev) -> &'static str {
    if *bridge == Dev::switch() { " self" } else { "" }
}

fn put(f: &mut fmt::Formatter<'_>, thing: &Thing, object: &Object) -> fmt::Result {
    match (thing, object) {
        (Thing::Vlan(dev, vlan), Object::Vlan { pvid, untagged }) => {
            write!(f, "bridge vlan add dev {dev} vid {vlan}")?;
            f.write_str(if *pvid { " pvid" } else { "" })?;
            f.write_str(if *untagged { " untagged" } else { "" })?;
            f.write_str(vlan_of(dev))
        }
        (Thing::Barrier(table, v6), _) => {
            let family = if *v6 { "ip -6" } else { "ip" };
            write!(
                f,
                "{family} route replace unreachable default table {table} metric {BARRIER} proto {PROTOCOL}"
            )
        }
        (Thing::Address(dev, address), _) => {
            let nodad = if address.ip.is_ipv6() { " nodad" } else { "" };
            write!(f, "ip address replace {address} dev {dev} proto {PROTOCOL}{nodad}")
        }
        (Thing::Flood(dev, vtep), _) => {
            write!(f, "bridge fdb append 00:00:00:00:00:00 dev {dev} self permanent dst {vtep}")
        }
        (Thing::Tunnel(dev, mac), Object::Tunnel(TunnelEntry { vtep: Some(vtep), .. })) => {
            write!(f, "bridge fdb replace {mac} dev {dev} self dynamic extern_learn dst {vtep}")
        }
        (Thing::Fdb(bridge, vlan, mac), Object::Fdb(Seat { port, kind, sticky })) => {
            write!(f, "bridge fdb replace {mac} dev {port}")?;
            if let Some(vlan) = vlan {
                write!(f, " vlan {vlan}")?;
            }
            let half = if port == bridge { "self" } else { "master" };
            let state = match kind {
                FdbKind::Local => "permanent",
                FdbKind::Static => "static",
                FdbKind::Extern => "dynamic extern_learn",
                FdbKind::Dynamic => "dynamic",
            };
            write!(f, " {half} {state}{}", if *sticky { " sticky" } else { "" })
        }
        (Thing::Neighbour(dev, ip), Object::Neighbour(neighbour)) => {
            write!(f, "ip neigh replace {ip}")?;
            if let Some(mac) = neighbour.mac {
                write!(f, " lladdr {mac}")?;
            }
            write!(f, " dev {dev} nud noarp extern_learn protocol {PROTOCOL}")
        }
        (Thing::Route(table, prefix), Object::Route(ways)) => {
            let family = if prefix.is_ipv4() { "ip" } else { "ip -6" };
            write!(f, "{family} route replace {prefix} table {table} proto {PROTOCOL} metric {METRIC}")?;
            for (dev, gateway) in ways {
                f.write_str(if ways.len() > 1 { " nexthop" } else { "" })?;
                match gateway {
                    Some(gateway) if prefix.is_ipv4() && gateway.is_ipv6() => {
                        write!(f, " via inet6 {gateway} dev {dev} onlink")?;
                    }
                    Some(gateway) => write!(f, " via {gateway} dev {dev} onlink")?,
                    None => write!(f, " dev {dev}")?,
                }
            }
            Ok(())
        }
        (thing, _) => write!(f, "# {thing}"),
    }
}

fn take(f: &mut fmt::Formatter<'_>, thing: &Thing, object: &Object) -> fmt::Result {
    match (thing, object) {
        (Thing::Vlan(dev, vlan), _) => write!(f, "bridge vlan del dev {dev} vid {vlan}{}", vlan_of(dev)),
        (Thing::Barrier(table, v6), _) => {
            let family = if *v6 { "ip -6" } else { "ip" };
            write!(f, "{family} route del unreachable default table {table} metric {BARRIER}")
        }
        (Thing::Address(dev, address), _) => write!(f, "ip address del {address} dev {dev}"),
        (Thing::Flood(dev, vtep), _) => {
            write!(f, "bridge fdb del 00:00:00:00:00:00 dev {dev} self dst {vtep}")
        }
        (Thing::Tunnel(dev, mac), _) => write!(f, "bridge fdb del {mac} dev {dev} self"),
        (Thing::Fdb(bridge, vlan, mac), Object::Fdb(Seat { port, .. })) => {
            write!(f, "bridge fdb del {mac} dev {port}")?;
            if let Some(vlan) = vlan {
                write!(f, " vlan {vlan}")?;
            }
            f.write_str(if port == bridge { " self" } else { " master" })
        }
        (Thing::Neighbour(dev, ip), _) => write!(f, "ip neigh del {ip} dev {dev}"),
        (Thing::Route(table, prefix), _) => {
            let family = if prefix.is_ipv4() { "ip" } else { "ip -6" };
            write!(f, "{family} route del {prefix} table {table} proto {PROTOCOL} metric {METRIC}")
        }
        (thing, _) => write!(f, "# no {thing}"),
    }
}

/// Metric of the end of a table: the worst there is but the kernel's own (as its VRF documentation has it).
pub(crate) const BARRIER: u32 = 4_278_198_272;
