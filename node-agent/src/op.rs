//! The steps a plan is made of. `Display` prints the equivalent `ip`, `bridge` or `sysctl` command, so that logs,
//! `--dry-run` and golden tests read the same.

mod text;

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use crate::dev::Dev;
use crate::fabric::Step;
use crate::guard::{Family, Guard};
use crate::lan::step::LanOp;
use crate::model::{IfAddr, Key, NetnsRef, Place};
use crate::rate::lead::Lead;
use crate::rate::{Direction, Led, Shape};

pub(crate) use text::{IpIn, netns_argument, on};

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
    /// Set down.
    pub down: bool,
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
    Rate { dev: Dev, direction: Direction, shape: Option<Shape>, led: Led },
    /// Limit frames of a macvlan or ipvlan in a direction: pass what leads there, and nothing else, through this device.
    Divert { dev: Dev, shape: Shape, leads: BTreeSet<Lead> },
    /// Take filters of ours from a link that lead to a device that is gone.
    DivertClean { link: Dev },
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
    /// Tell the workloads of a network that an address has another MAC now: as long as they use the old one they do not ask.
    NeighTell { vni: Vni, ip: IpAddr, mac: Mac },
    /// Change the workload's interface.
    PeerSet { at: At, mac: Option<Mac>, mtu: Option<u32>, up: bool },
    /// Set the workload's interface down.
    PeerDown { at: At },
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
            | Op::PeerDown { at }
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
            | Op::Divert { dev, .. }
            | Op::AcceptRaOff { dev } => match dev.role() {
                Some(crate::dev::Role::Bridge(vni) | crate::dev::Role::Vxlan(vni)) => Key::Network(vni),
                _ => Key::Port(dev.shaped().unwrap_or_else(|| dev.clone())),
            },
            Op::DivertClean { .. } => Key::Lan,
            Op::BridgeAdd { vni, .. } | Op::VxlanAdd { vni, .. } => Key::Network(*vni),
            Op::FdbSet { vni, mac, .. } | Op::FdbDel { vni, mac, .. } => Key::Mac(*vni, *mac),
            Op::FloodAdd { vni, vtep } | Op::FloodDel { vni, vtep } => Key::Flood(*vni, *vtep),
            Op::NeighSet { vni, ip, .. } | Op::NeighTell { vni, ip, .. } | Op::NeighDel { vni, ip } => {
                Key::Neigh(*vni, *ip)
            }
            Op::PortAdd { at, .. }
            | Op::PeerSet { at, .. }
            | Op::PeerDown { at }
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
