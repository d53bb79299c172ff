//! What a lab's fabric shall be: roles, underlay addresses, AS numbers, BGP sessions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Mac, Prefix, Vni};
use ipnetwork::IpNetwork;

use crate::derive;
use crate::diagnostic::Diagnostic;
use crate::lab::{Lab, Mode, Role};
use crate::multihoming::Multihoming;
use crate::networks::{Irb, Network, RouteTarget, Vrf};

/// What every node of a lab shall be in the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By node name; every node of the lab is here.
    pub nodes: BTreeMap<String, NodePlan>,
    /// Declared networks by name.
    pub networks: BTreeMap<String, Network>,
    /// Declared routing domains by name; `default` is not among them.
    pub vrfs: BTreeMap<String, Domain>,
}

/// A routing domain, and what follows from all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// As declared.
    pub vrf: Vrf,
    /// Number of the kernel's routing table, the same at every switch.
    pub table: u32,
    /// Other domains whose routes it imports, by name.
    pub leaks: Vec<String>,
    /// Route targets that it imports and that no other domain exports; empty: those that it exports.
    pub imports: Vec<RouteTarget>,
}

/// One node of the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// What it does.
    pub role: Role,
    /// AS number; only of nodes that speak BGP.
    pub asn: Option<u32>,
    /// BGP identifier; only of nodes that speak BGP.
    pub router_id: Option<Ipv4Addr>,
    /// True for a route reflector.
    pub route_reflector: bool,
    /// Address on `lo`, a /32 or /128.
    pub loopback: Option<IpAddr>,
    /// Address at which VXLAN tunnels end: of leaves, borders and hosts. It is on `lo` too, when it is not the loopback.
    pub vtep: Option<IpAddr>,
    /// Interfaces of the node's links, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// BGP sessions, in the order of the links.
    pub bgp: Vec<Neighbor>,
    /// Networks bridged by this switch into access ports, in the order of VNIs.
    pub access: Vec<Access>,
    /// Next hop of the default route into the fabric; of hosts, controllers and others behind a switch.
    pub gateway: Option<IpAddr>,
    /// Addresses behind this switch for which it has static routes and which it announces: destination, next hop.
    pub statics: Vec<(IpNetwork, IpAddr)>,
    /// Prefixes that this node announces in IPv4 or IPv6 unicast.
    pub networks: Vec<IpNetwork>,
    /// How it takes part in the overlay; of leaves, borders and hosts.
    pub mode: Option<Mode>,
    /// MAC as router of the L3 VNIs; of switches with a VTEP.
    pub router_mac: Option<Mac>,
    /// Routing domains on this switch, by name.
    pub vrfs: Vec<String>,
    /// Prefixes behind the routed ports of this switch.
    pub routed: Vec<Routed>,
    /// Links to switches that carry networks; of hosts and servers.
    pub uplinks: Vec<Uplink>,
    /// VTEP shared with another leaf; it is on `lo` too.
    pub anycast_vtep: Option<IpAddr>,
    /// What makes two links to two leaves one; of hosts and servers.
    pub multihoming: Option<Multihoming>,
}

/// A prefix behind a routed port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The routing domain.
    pub vrf: String,
    /// The prefix.
    pub prefix: Prefix,
    /// The machine behind the port.
    pub next_hop: IpAddr,
}

/// A link of a host or server to a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// Interface of the host.
    pub interface: String,
    /// The switch.
    pub switch: String,
    /// Its interface.
    pub switch_interface: String,
}

/// An interface of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub usage: InterfaceUse,
    /// Address with prefix length; host bits are set.
    pub address: Option<IpNetwork>,
    /// Node and interface at the other end, when the other end is in a node.
    pub peer: Option<(String, String)>,
    /// Position of the link in [`Lab::links`].
    pub link: usize,
    /// MTU in bytes.
    pub mtu: u32,
    /// Second address, of the other family.
    pub second: Option<IpNetwork>,
    /// Network of untagged frames.
    pub untagged: Option<Vni>,
    /// Networks of 802.1Q frames, by VNI.
    pub tagged: Vec<Vni>,
    /// Routing domain of a routed port.
    pub vrf: Option<String>,
}

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceUse {
    /// It carries the fabric's own traffic and has an address of the underlay.
    Underlay,
    /// It is (or is plugged into) an access port of this network.
    Access(Vni),
    /// It is (or is plugged into) a port with 802.1Q frames of several networks.
    Trunk,
    /// It is (or is plugged into) a routed port of a VRF.
    Routed,
    /// The fabric has no part in it.
    Other,
}

/// A BGP session, seen from the node that it is listed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// The other node.
    pub node: String,
    /// Its address.
    pub address: IpAddr,
    /// Our address.
    pub local_address: IpAddr,
    /// Its address on the link between us; not [`Neighbor::address`] where that is a loopback.
    pub peer_link: IpAddr,
    /// Our interface.
    pub interface: String,
    /// Its AS number.
    pub remote_as: u32,
    /// What it is to us.
    pub peering: Peering,
    /// True when IPv4 (or IPv6) unicast is exchanged: between switches. A controller gets EVPN only.
    pub unicast: bool,
    /// True when EVPN is exchanged: not with a switch that is no EVPN speaker.
    pub evpn: bool,
}

/// What a BGP neighbour is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peering {
    /// Same AS, and it is our route-reflector client.
    Client,
    /// Same AS, nothing special.
    Internal,
    /// Another AS.
    External,
}

/// A network bridged by a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// VXLAN network identifier.
    pub vni: Vni,
    /// Interfaces whose untagged frames are its, in the order of the file.
    pub ports: Vec<String>,
    /// Interfaces with 802.1Q frames of it, in the order of the file.
    pub tagged: Vec<String>,
}

impl Plan {
    /// The declared network of a VNI.
    pub fn network(&self, vni: Vni) -> Option<&Network> {
        self.networks.values().find(|n| n.vni == vni)
    }

    /// What a node needs whose agent routes between networks, one command a line: IPv6 has one switch for all interfaces,
    /// which agents leave to the machine's owner. Nothing if no network has an IPv6 gateway.
    pub(crate) fn forwarding(&self) -> &'static str {
        let is_routed = |n: &Network| n.irb != Irb::None && n.gateways.iter().any(|g| g.is_ipv6());
        if self.networks.values().any(is_routed) { "sysctl -qw net.ipv6.conf.all.forwarding=1\n" } else { "" }
    }
}

impl NodePlan {
    /// True for a switch that exchanges EVPN routes.
    pub fn speaks_evpn(&self) -> bool {
        self.role.speaks_bgp() && !matches!(self.mode, Some(Mode::TorAgent | Mode::TorStatic))
    }

    /// The first address of an interface to the fabric, or the loopback: where the node is reached.
    pub fn address(&self) -> Option<IpAddr> {
        self.loopback.or_else(|| {
            self.interfaces
                .iter()
                .filter(|i| i.usage == InterfaceUse::Underlay)
                .find_map(|i| Some(i.address?.ip()))
        })
    }
}

/// Derives the fabric from a lab. The same lab gives the same plan; labels override what is derived.
///
/// - Underlay links join nodes of the roles spine, leaf, border, host, controller and other; each gets a /31 of
///   `causeway.link-pool` by its place in the file, or what its `ipv4:` says.
/// - Switches and hosts get a /32 of `causeway.loopback-pool` by their place in the file.
/// - All BGP speakers are in AS 65000; spines are route reflectors.
///
/// # Errors
/// What contradicts itself: an address or router id given twice, a controller whose AS does not fit, a pool that is
/// too small, a host without a link to a switch.
pub fn plan(lab: &Lab) -> Result<Plan, Vec<Diagnostic>> {
    derive::derive(lab)
}
