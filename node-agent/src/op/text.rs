//! Steps as the commands that do the same.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::{At, Half, LinkChange, Op};
use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::guard::{self, Family};
use crate::model::{NetnsRef, Place};
use crate::rate::{Direction, HANDLE, Led, Shape};

/// `ip netns` name of a namespace that has one.
fn netns_name(netns: &NetnsRef) -> Option<&str> {
    let NetnsRef::Path(path) = netns else { return None };
    let path = path.to_str()?;
    let name = path.strip_prefix("/run/netns/").or_else(|| path.strip_prefix("/var/run/netns/"))?;
    (!name.contains('/')).then_some(name)
}

/// What `ip link` calls a namespace.
pub(crate) fn netns_argument(netns: &NetnsRef) -> String {
    match (netns, netns_name(netns)) {
        (_, Some(name)) => name.to_owned(),
        (NetnsRef::Pid(pid), _) => pid.to_string(),
        (NetnsRef::Path(path), None) => path.display().to_string(),
        (NetnsRef::Node, None) => "1".to_owned(),
    }
}

/// Runs what follows inside a namespace.
pub(crate) struct InNetns<'a>(&'a NetnsRef);

impl fmt::Display for InNetns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, netns_name(self.0)) {
            (_, Some(name)) => write!(f, "ip netns exec {name} "),
            (NetnsRef::Path(path), None) => write!(f, "nsenter --net={} ", path.display()),
            (NetnsRef::Pid(pid), None) => write!(f, "nsenter -t {pid} -n "),
            (NetnsRef::Node, None) => Ok(()),
        }
    }
}

/// `ip` inside a namespace.
pub(crate) struct IpIn<'a>(pub(crate) &'a NetnsRef);

impl fmt::Display for IpIn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match netns_name(self.0) {
            Some(name) => write!(f, "ip -n {name}"),
            None => write!(f, "{}ip", InNetns(self.0)),
        }
    }
}

pub(crate) fn on(flag: bool) -> &'static str {
    if flag { "on" } else { "off" }
}

impl fmt::Display for LinkChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(mac) = self.mac {
            write!(f, " address {mac}")?;
        }
        if let Some(mtu) = self.mtu {
            write!(f, " mtu {mtu}")?;
        }
        if self.group {
            write!(f, " group {LINK_GROUP}")?;
        }
        if self.addrgen_none {
            f.write_str(" addrgenmode none")?;
        }
        if let Some(master) = &self.master {
            write!(f, " master {master}")?;
        }
        if let Some(alias) = &self.alias {
            write!(f, " alias '{alias}'")?;
        }
        if self.up {
            f.write_str(" up")?;
        }
        if self.down {
            f.write_str(" down")?;
        }
        Ok(())
    }
}

fn fmt_rate(
    f: &mut fmt::Formatter<'_>,
    dev: &Dev,
    direction: Direction,
    shape: Option<&Shape>,
    led: Led,
) -> fmt::Result {
    let shaper = dev.shaper();
    match (direction, shape) {
        (Direction::In, None) => write!(f, "tc qdisc del dev {dev} root handle {HANDLE:x}:"),
        (Direction::In, Some(shape)) => fmt_bucket(f, dev, shape),
        (Direction::Out, None) => {
            write!(f, "tc filter del dev {dev} ingress prio {HANDLE} ; tc qdisc del dev {dev} ingress")?;
            write!(f, " ; ip link del dev {shaper}")
        }
        (Direction::Out, Some(shape)) => {
            write!(f, "ip link add name {shaper} group {LINK_GROUP} type ifb ; ")?;
            fmt_bucket(f, &shaper, shape)?;
            write!(f, " ; ip link set dev {shaper} addrgenmode none up")?;
            if led == Led::ByGuard {
                return Ok(());
            }
            write!(f, " ; tc qdisc add dev {dev} ingress")?;
            write!(f, " ; tc filter add dev {dev} ingress prio {HANDLE} protocol all u32 match u32 0 0")?;
            write!(f, " action mirred egress redirect dev {shaper}")
        }
    }
}

fn fmt_bucket(f: &mut fmt::Formatter<'_>, dev: &Dev, shape: &Shape) -> fmt::Result {
    let Shape { rate, burst, limit } = shape;
    let kbit = rate / 125;
    write!(
        f,
        "tc qdisc replace dev {dev} root handle {HANDLE:x}: tbf rate {kbit}kbit burst {burst} limit {limit}"
    )
}

impl Op {
    fn fmt_link(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::LinkDel { dev } => write!(f, "ip link del dev {dev}"),
            Op::BridgeAdd { vni, mac, mtu } => {
                let dev = Dev::bridge(*vni);
                write!(
                    f,
                    "ip link add name {dev} address {mac} mtu {mtu} group {LINK_GROUP} type bridge mcast_snooping 0"
                )
            }
            Op::VxlanAdd { vni, local, port, mtu } => write!(
                f,
                "ip link add name {} mtu {mtu} group {LINK_GROUP} type vxlan id {vni} local {local} dstport {port} nolearning",
                Dev::vxlan(*vni)
            ),
            Op::PortAdd { at, vni, mac, mtu } => {
                let At { dev, netns, interface } = at;
                let bridge = Dev::bridge(*vni);
                write!(
                    f,
                    "ip link add name {dev} mtu {mtu} group {LINK_GROUP} master {bridge} type veth peer "
                )?;
                write!(f, "name {interface} address {mac} mtu {mtu} group {LINK_GROUP} netns ")?;
                f.write_str(&netns_argument(netns))
            }
            Op::LinkSet { dev, change } => write!(f, "ip link set dev {dev}{change}"),
            Op::PortFlags { dev, flags } => {
                write!(f, "ip link set dev {dev} type bridge_slave learning {}", on(flags.learning))?;
                write!(f, " neigh_suppress {}", on(flags.neigh_suppress))?;
                if let Some(forward) = flags.forward_gratuitous {
                    write!(f, " neigh_forward_grat {}", on(forward))?;
                }
                match flags.locked {
                    Some(locked) => write!(f, " locked {}", on(locked)),
                    None => Ok(()),
                }
            }
            Op::Divert { dev, shape, leads } => {
                write!(f, "ip link add name {dev} group {LINK_GROUP} type ifb ; ")?;
                fmt_bucket(f, dev, shape)?;
                write!(f, " ; ip link set dev {dev} addrgenmode none up")?;
                leads.iter().try_for_each(|l| write!(f, " ; {l} action mirred egress redirect dev {dev}"))
            }
            Op::DivertClean { link } => {
                write!(f, "# tc filter del dev {link}: those that lead to devices that are gone")
            }
            Op::Rate { dev, direction, shape, led } => fmt_rate(f, dev, *direction, shape.as_ref(), *led),
            Op::GuardSet { dev, guard, stale } => {
                write!(f, "nft '{}'", guard::one_line(guard.hook.family(), &guard.commands(dev, stale)))
            }
            Op::GuardDel { family, dev, interfaces } => {
                write!(f, "nft '{}'", guard::one_line(*family, &guard::removal(*family, dev, interfaces)))
            }
            Op::AcceptRaOff { dev } => write!(f, "sysctl -w net.ipv6.conf.{dev}.accept_ra=0"),
            _ => Ok(()),
        }
    }

    fn fmt_entry(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::FdbSet { vni, mac, place: Place::Remote(vtep) } => {
                let dev = Dev::vxlan(*vni);
                write!(f, "bridge fdb replace {mac} dev {dev} self master dynamic extern_learn dst {vtep}")
            }
            Op::FdbSet { mac, place: Place::Local(dev), .. } => {
                write!(f, "bridge fdb replace {mac} dev {dev} master static sticky")
            }
            Op::FdbDel { mac, half: Half::Bridge, dev, .. } => {
                write!(f, "bridge fdb del {mac} dev {dev} master")
            }
            Op::NeighTell { vni, ip, mac } => {
                let tool = if ip.is_ipv4() { "arping -U" } else { "ndsend" };
                write!(f, "{tool} {ip} as {mac} on {}", Dev::bridge(*vni))
            }
            Op::FdbDel { mac, half: Half::Tunnel, dev, .. } => {
                write!(f, "bridge fdb del {mac} dev {dev} self")
            }
            Op::FloodAdd { vni, vtep } => {
                let dev = Dev::vxlan(*vni);
                write!(f, "bridge fdb append 00:00:00:00:00:00 dev {dev} self permanent dst {vtep}")
            }
            Op::FloodDel { vni, vtep } => {
                write!(f, "bridge fdb del 00:00:00:00:00:00 dev {} self dst {vtep}", Dev::vxlan(*vni))
            }
            Op::NeighSet { vni, ip, mac } => {
                let dev = Dev::bridge(*vni);
                write!(
                    f,
                    "ip neigh replace {ip} lladdr {mac} dev {dev} nud noarp extern_learn protocol {PROTOCOL}"
                )
            }
            Op::NeighDel { vni, ip } => write!(f, "ip neigh del {ip} dev {}", Dev::bridge(*vni)),
            _ => Ok(()),
        }
    }

    fn fmt_inside(&self, at: &At, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let At { netns, interface, .. } = at;
        let ip = IpIn(netns);
        match self {
            Op::PeerSet { mac, mtu, up, .. } => {
                let change = LinkChange { mac: *mac, mtu: *mtu, up: *up, ..LinkChange::default() };
                write!(f, "{ip} link set dev {interface}{change}")
            }
            Op::PeerDown { .. } => write!(f, "{ip} link set dev {interface} down"),
            Op::LoopbackUp { .. } => write!(f, "{ip} link set dev lo up"),
            Op::PeerAcceptRaOff { .. } => {
                write!(f, "{}sysctl -w net.ipv6.conf.{interface}.accept_ra=0", InNetns(netns))
            }
            Op::AddrAdd { address, .. } => {
                let nodad = if address.ip.is_ipv6() { " nodad" } else { "" };
                write!(f, "{ip} address add {address} dev {interface} proto {PROTOCOL}{nodad}")
            }
            Op::AddrDel { address, .. } => write!(f, "{ip} address del {address} dev {interface}"),
            Op::GatewayAdd { gateway, .. } => {
                write!(f, "{ip} route add default via {gateway} dev {interface} onlink proto {PROTOCOL}")
            }
            Op::GatewayDel { gateway, .. } => {
                write!(f, "{ip} route del default via {gateway} dev {interface} proto {PROTOCOL}")
            }
            Op::GuardInside { guard, .. } => {
                let none = BTreeSet::new();
                let commands = guard.as_ref().map_or_else(
                    || guard::removal(Family::Netdev, &at.dev, &none),
                    |guard| guard.commands(&at.dev, &none),
                );
                write!(f, "{}nft '{}'", InNetns(netns), guard::one_line(Family::Netdev, &commands))
            }
            Op::Announce { addresses, .. } => {
                for (n, address) in addresses.iter().enumerate() {
                    let between = if n > 0 { " ; " } else { "" };
                    let tool = if address.is_ipv4() { "arping -U" } else { "ndsend" };
                    match address {
                        IpAddr::V4(v4) => write!(f, "{between}{}{tool} -I {interface} {v4}", InNetns(netns))?,
                        IpAddr::V6(v6) => write!(f, "{between}{}{tool} {v6} {interface}", InNetns(netns))?,
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.inside()) {
            (Op::Lan(op), _) => op.fmt(f),
            (_, Some(at)) => self.fmt_inside(at, f),
            (
                Op::FdbSet { .. }
                | Op::FdbDel { .. }
                | Op::FloodAdd { .. }
                | Op::FloodDel { .. }
                | Op::NeighSet { .. }
                | Op::NeighTell { .. }
                | Op::NeighDel { .. },
                None,
            ) => self.fmt_entry(f),
            (Op::Fabric(step), None) => step.fmt(f),
            _ => self.fmt_link(f),
        }
    }
}
