//! Switching and routing: the devices, VLANs, addresses, entries and routes that make a node a switch or a router.
//!
//! ```text
//!  Desired ── wanted ──> {Thing: Object} ─┐
//!                                         ├─ diff ──> [Step] ──> kernel ──> read back ──> Seen
//!  Seen (the same types) ─────────────────┘
//! ```
//!
//! A switch has one VLAN-aware bridge (`cwbr0`); a network is a VLAN of it with a VXLAN device (`cwx…`, untagged) and a
//! VLAN device (`cwg…`), which holds the suppression neighbours and, if the node routes, the anycast gateway. A host
//! that encapsulates itself has a bridge a network, which is both. An L3 VNI is a VXLAN device (`cwl…`) in a bridge
//! (`cwr…`) whose MAC is the router MAC. A VRF is a device (`cwf…`); the VRF `default` is the main table.

pub(crate) mod diff;
pub(crate) mod plan;
mod seen;
mod text;
pub(crate) mod wanted;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::{Mac, Prefix, VlanId, Vni};

use crate::dev::Dev;
use crate::model::IfAddr;
use crate::observed::{FdbKind, Link, Neighbour, PortFlags, TunnelEntry};
use crate::op::{FlagChange, LinkChange};

pub use seen::{Interface, Seen};
pub(crate) use text::{BARRIER, routing_sysctls};

/// Metric of our routes: behind what the kernel makes for connected prefixes, and nobody else's by accident.
pub const METRIC: u32 = 1077;

/// One thing that is wanted, seen, compared and retried by itself. The order is that in which things are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A device of ours.
    Link(Dev),
    /// Somebody's interface as a port of the switch's bridge.
    Member(Dev),
    /// A VLAN of a bridge port or of the bridge itself.
    Vlan(Dev, VlanId),
    /// A device that routes.
    Router(Dev),
    /// The end of a VRF's table: what has no route there has none.
    Barrier(u32, bool),
    /// An address of a device of ours.
    Address(Dev, IfAddr),
    /// An entry of a VXLAN device's flood list.
    Flood(Dev, IpAddr),
    /// The VTEP of a MAC in a VXLAN device.
    Tunnel(Dev, Mac),
    /// The port of a MAC in a bridge, for one VLAN if the bridge knows VLANs.
    Fdb(Dev, Option<VlanId>, Mac),
    /// A neighbour.
    Neighbour(Dev, IpAddr),
    /// A route, by table.
    Route(u32, Prefix),
}

impl Thing {
    /// Stands for all devices, ports and VLANs at once: a change there is compared as a whole.
    pub(crate) fn structure() -> Thing {
        Thing::Link(Dev::switch())
    }

    /// True if other things depend on it.
    pub(crate) fn is_structure(&self) -> bool {
        matches!(self, Thing::Link(_) | Thing::Member(_) | Thing::Vlan(..) | Thing::Router(_))
    }

    /// True for what a switch's own EVPN daemon sets, where it has one.
    pub(crate) fn is_entry(&self) -> bool {
        matches!(
            self,
            Thing::Flood(..) | Thing::Tunnel(..) | Thing::Fdb(..) | Thing::Neighbour(..) | Thing::Route(..)
        )
    }

    /// The device that it is or is on.
    pub(crate) fn dev(&self) -> Option<&Dev> {
        match self {
            Thing::Link(dev)
            | Thing::Member(dev)
            | Thing::Vlan(dev, _)
            | Thing::Router(dev)
            | Thing::Address(dev, _)
            | Thing::Flood(dev, _)
            | Thing::Tunnel(dev, _)
            | Thing::Fdb(dev, ..)
            | Thing::Neighbour(dev, _) => Some(dev),
            Thing::Barrier(..) | Thing::Route(..) => None,
        }
    }

    /// What must be there first.
    pub(crate) fn base(&self) -> Option<Thing> {
        match self {
            Thing::Link(_) | Thing::Member(_) | Thing::Barrier(..) | Thing::Route(..) => None,
            Thing::Vlan(dev, _) if dev.role().is_none() && dev.fabric_role().is_none() => {
                Some(Thing::Member(dev.clone()))
            }
            other => other.dev().cloned().map(Thing::Link),
        }
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge that knows VLANs and puts nothing into one by itself.
    Switch,
    /// A bridge that knows none.
    Bridge,
    /// A VXLAN device that does not learn.
    Vxlan { vni: Vni, local: Option<IpAddr>, port: u16, learning: bool },
    /// A VLAN of the switch's bridge as a device.
    Vlan(VlanId),
    /// A VRF with its table.
    Vrf(u32),
    /// None of these.
    Other,
}

/// A device of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkObject {
    /// What it is; cannot be changed.
    pub kind: LinkKind,
    /// Common part.
    pub link: Link,
    /// Its address; `None`: whatever the kernel gives.
    pub mac: Option<Mac>,
    /// Listens to router advertisements.
    pub accept_ra: bool,
    /// Flags as bridge port, of a VXLAN device.
    pub flags: Option<PortFlags>,
}

/// How a device routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouterObject {
    /// Its VRF device; `None`: the main table.
    pub vrf: Option<Dev>,
    /// Forwards, answers ARP only for its own addresses, and drops nothing for the way it came.
    pub routes: bool,
}

/// What a thing is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// Of [`Thing::Link`].
    Link(LinkObject),
    /// Of [`Thing::Member`]: its flags, and whether it is up.
    Member { flags: PortFlags, up: bool },
    /// Of [`Thing::Vlan`]: untagged frames that come in are of it, and its frames go out untagged.
    Vlan { pvid: bool, untagged: bool },
    /// Of [`Thing::Router`].
    Router(RouterObject),
    /// Of [`Thing::Barrier`].
    Barrier,
    /// Of [`Thing::Address`]: set by us.
    Address { ours: bool },
    /// Of [`Thing::Flood`].
    Flood,
    /// Of [`Thing::Tunnel`].
    Tunnel(TunnelEntry),
    /// Of [`Thing::Fdb`].
    Fdb(Seat),
    /// Of [`Thing::Neighbour`].
    Neighbour(Neighbour),
    /// Of [`Thing::Route`]: equal ways, each a device and a gateway.
    Route(BTreeSet<Way>),
}

/// A way of a route: a device and a gateway, or the VRF device of the domain in which to look on.
pub type Way = (Dev, Option<IpAddr>);

/// Where a bridge sends a MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The port; the bridge itself for a MAC of its own.
    pub port: Dev,
    /// How the entry behaves.
    pub kind: FdbKind,
    /// Cannot be moved by a frame.
    pub sticky: bool,
}

/// One step. Each is idempotent: exists-and-equal on add and missing on delete are success.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Delete a device of ours.
    Remove(Dev),
    /// Make a device, down.
    Make { dev: Dev, kind: LinkKind, mac: Option<Mac>, mtu: Option<u32> },
    /// Change a device of ours.
    Change { dev: Dev, change: LinkChange },
    /// Change flags of a bridge port.
    Flags { dev: Dev, flags: FlagChange },
    /// Do not listen to router advertisements.
    QuietRa(Dev),
    /// Take an interface as a port of the switch's bridge.
    Join(Dev),
    /// Set an interface up.
    Raise(Dev),
    /// Give an interface back.
    Leave(Dev),
    /// Put a device into a VRF, or back into the main table.
    Enslave { dev: Dev, vrf: Option<Dev> },
    /// Let a device route, or not.
    Routing { dev: Dev, on: bool },
    /// Set a thing that is no device.
    Put(Thing, Object),
    /// Delete a thing that is no device.
    Take(Thing, Object),
}

impl Step {
    /// What it is a step of.
    pub fn thing(&self) -> Thing {
        match self {
            Step::Remove(dev) | Step::Make { dev, .. } | Step::Change { dev, .. } | Step::QuietRa(dev) => {
                Thing::Link(dev.clone())
            }
            Step::Flags { dev, .. } if dev.role().is_some() || dev.fabric_role().is_some() => {
                Thing::Link(dev.clone())
            }
            Step::Flags { dev, .. } | Step::Join(dev) | Step::Raise(dev) | Step::Leave(dev) => {
                Thing::Member(dev.clone())
            }
            Step::Enslave { dev, .. } | Step::Routing { dev, .. } => Thing::Router(dev.clone()),
            Step::Put(thing, _) | Step::Take(thing, _) => thing.clone(),
        }
    }
}

/// An IPv4 address as IPv6 sees it (RFC 4291 §2.5.5.2): how the kernel spells an IPv4 gateway of an IPv6 route.
pub(crate) fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The neighbours that a VTEP is as next hop: itself, and for IPv6 routes its mapped form.
pub(crate) fn hop_addresses(vtep: IpAddr) -> impl Iterator<Item = IpAddr> {
    BTreeSet::from([vtep, IpAddr::V6(mapped(vtep))]).into_iter()
}

#[cfg(test)]
pub(crate) mod tests;
