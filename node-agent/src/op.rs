//! The steps a plan is made of. `Display` prints the equivalent `ip`, `bridge` or `sysctl` command, so that logs,
//! `--dry-run` and golden tests read the same.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::fabric::Step;
use crate::guard::{self, Family, Guard};
use crate::lan::step::LanOp;
use crate::model::{IfAddr, Key, NetnsRef, Place};
use crate::rate::{Direction, HANDLE, Shape};

/// A workload's interface: host side, namespace and name inside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// Host side.
    pub dev: Dev,
    /// The workload's namespace.
    pub netns: NetnsRef,
    /// Name inside.
    pub interface: Dev,
}

/// Which FDB an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The bridge's (`master`).
    Bridge,
    /// The VXLAN device's (`self`).
    Tunnel,
}

/// Attributes of a link to set; what is `None` or false stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkChange {
    /// Address.
    pub mac: Option<Mac>,
    /// Bytes.
    pub mtu: Option<u32>,
    /// Put into our link group.
    pub group: bool,
    /// Make no IPv6 link-local address.
    pub addrgen_none: bool,
    /// Bridge to become a port of.
    pub master: Option<Dev>,
    /// Alias.
    pub alias: Option<String>,
    /// Set up.
    pub up: bool,
}

/// Flags of a bridge port to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagChange {
    /// Learn source MACs.
    pub learning: bool,
    /// Answer ARP and ND for known neighbours.
    pub neigh_suppress: bool,
    /// Flood gratuitous announcements all the same; `None`: leave alone.
    pub forward_gratuitous: Option<bool>,
    /// Take only frames from MACs that the bridge has at this port; `None`: leave alone.
    pub locked: Option<bool>,
}

/// One step. Each is idempotent: exists-and-equal on add and missing on delete are success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Delete a link of ours; for a host side the workload's side goes too.
    LinkDel { dev: Dev },
    /// Make a network's bridge, down.
    BridgeAdd { vni: Vni, mac: Mac, mtu: u32 },
    /// Make a network's VXLAN device, down and in no bridge.
    VxlanAdd { vni: Vni, local: IpAddr, port: u16, mtu: u32 },
    /// Make a veth pair, down, its one end in the bridge, the other in the workload's namespace.
    PortAdd { at: At, vni: Vni, mac: Mac, mtu: u32 },
    /// Change a link of ours.
    LinkSet { dev: Dev, change: LinkChange },
    /// Change flags of a bridge port.
    PortFlags { dev: Dev, flags: FlagChange },
    /// Let a port send only what is its own. `stale` interfaces no longer lead to its chain.
    GuardSet { dev: Dev, guard: Guard, stale: BTreeSet<Dev> },
    /// Take the guard in one family from a port.
    GuardDel { family: Family, dev: Dev, interfaces: BTreeSet<Dev> },
    /// Set or take the guard inside the workload's namespace.
    GuardInside { at: At, guard: Option<Guard> },
    /// Limit how fast a port is in one direction, or lift the limit.
    Rate { dev: Dev, direction: Direction, shape: Option<Shape> },
    /// Do not listen to router advertisements on a bridge.
    AcceptRaOff { dev: Dev },
    /// Send frames to a MAC to a place.
    FdbSet { vni: Vni, mac: Mac, place: Place },
    /// Delete an FDB entry. `dev` is the port it points to.
    FdbDel { vni: Vni, mac: Mac, half: Half, dev: Dev },
    /// Add a VTEP to a flood list.
    FloodAdd { vni: Vni, vtep: IpAddr },
    /// Take a VTEP from a flood list.
    FloodDel { vni: Vni, vtep: IpAddr },
    /// Set a suppression neighbour.
    NeighSet { vni: Vni, ip: IpAddr, mac: Mac },
    /// Delete a suppression neighbour.
    NeighDel { vni: Vni, ip: IpAddr },
    /// Change the workload's interface.
    PeerSet { at: At, mac: Option<Mac>, mtu: Option<u32>, up: bool },
    /// Set the namespace's loopback up.
    LoopbackUp { at: At },
    /// Do not listen to router advertisements inside.
    PeerAcceptRaOff { at: At },
    /// Add an address inside.
    AddrAdd { at: At, address: IfAddr },
    /// Delete an address of ours inside.
    AddrDel { at: At, address: IfAddr },
    /// Add a default route inside.
    GatewayAdd { at: At, gateway: IpAddr },
    /// Delete a default route of ours inside.
    GatewayDel { at: At, gateway: IpAddr },
    /// Tell the neighbourhood where addresses live now.
    Announce { at: At, mac: Mac, addresses: BTreeSet<IpAddr> },
    /// A step of switching or routing.
    Fabric(Step),
    /// A step of a host behind switches.
    Lan(LanOp),
}

impl Op {
    /// The workload's interface, for a step inside a namespace.
    pub fn inside(&self) -> Option<&At> {
        match self {
            Op::PeerSet { at, .. }
            | Op::LoopbackUp { at }
            | Op::PeerAcceptRaOff { at }
            | Op::AddrAdd { at, .. }
            | Op::AddrDel { at, .. }
            | Op::GatewayAdd { at, .. }
            | Op::GatewayDel { at, .. }
            | Op::GuardInside { at, .. }
            | Op::Announce { at, .. } => Some(at),
            Op::Lan(op) => op.inside(),
            _ => None,
        }
    }

    /// True for a step on the host's guard tables: such steps go into one transaction.
    pub fn is_guard(&self) -> bool {
        self.guard_family().is_some()
    }

    /// Which of the host's guard tables it is on.
    pub fn guard_family(&self) -> Option<Family> {
        match self {
            Op::GuardSet { guard, .. } => Some(guard.hook.family()),
            Op::GuardDel { family, .. } => Some(*family),
            _ => None,
        }
    }

    /// The command, or for one of many lines what it does: for problems, which are read by people.
    pub fn brief(&self) -> String {
        match self {
            Op::GuardSet { dev, .. } => format!("nft: set the guard of {dev}"),
            Op::GuardDel { dev, .. } | Op::GuardInside { at: At { dev, .. }, guard: None } => {
                format!("nft: delete the guard of {dev}")
            }
            Op::GuardInside { at, .. } => format!("nft in netns {}: set the guard of {}", at.netns, at.dev),
            op => op.to_string(),
        }
    }

    /// If this failed, the step is pointless.
    pub fn after(&self) -> Option<&Key> {
        if let Op::Lan(op) = self { op.after.as_ref() } else { None }
    }

    /// What it was planned for.
    pub fn key(&self) -> Key {
        match self {
            Op::LinkDel { dev }
            | Op::LinkSet { dev, .. }
            | Op::PortFlags { dev, .. }
            | Op::GuardSet { dev, .. }
            | Op::GuardDel { dev, .. }
            | Op::Rate { dev, .. }
            | Op::AcceptRaOff { dev } => match dev.role() {
                Some(crate::dev::Role::Bridge(vni) | crate::dev::Role::Vxlan(vni)) => Key::Network(vni),
                _ => Key::Port(dev.clone()),
            },
            Op::BridgeAdd { vni, .. } | Op::VxlanAdd { vni, .. } => Key::Network(*vni),
            Op::FdbSet { vni, mac, .. } | Op::FdbDel { vni, mac, .. } => Key::Mac(*vni, *mac),
            Op::FloodAdd { vni, vtep } | Op::FloodDel { vni, vtep } => Key::Flood(*vni, *vtep),
            Op::NeighSet { vni, ip, .. } | Op::NeighDel { vni, ip } => Key::Neigh(*vni, *ip),
            Op::PortAdd { at, .. }
            | Op::PeerSet { at, .. }
            | Op::LoopbackUp { at }
            | Op::PeerAcceptRaOff { at }
            | Op::AddrAdd { at, .. }
            | Op::AddrDel { at, .. }
            | Op::GatewayAdd { at, .. }
            | Op::GatewayDel { at, .. }
            | Op::GuardInside { at, .. }
            | Op::Announce { at, .. } => Key::Port(at.dev.clone()),
            Op::Fabric(step) => Key::Fabric(step.thing()),
            Op::Lan(op) => op.key.clone(),
        }
    }
}

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
        Ok(())
    }
}

fn fmt_rate(
    f: &mut fmt::Formatter<'_>,
    dev: &Dev,
    direction: Direction,
    shape: Option<&Shape>,
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
            write!(f, " ; ip link set dev {shaper} addrgenmode none up ; tc qdisc add dev {dev} ingress")?;
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
            Op::Rate { dev, direction, shape } => fmt_rate(f, dev, *direction, shape.as_ref()),
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
                | Op::NeighDel { .. },
                None,
            ) => self.fmt_entry(f),
            (Op::Fabric(step), None) => step.fmt(f),
            _ => self.fmt_link(f),
        }
    }
}
