//! What a lab's fabric shall be: roles, underlay addresses, AS numbers, BGP sessions.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::Vni;
use ipnetwork::IpNetwork;

use crate::derive;
use crate::diagnostic::Diagnostic;
use crate::lab::{Lab, Role};

/// What every node of a lab shall be in the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// By node name; every node of the lab is here.
    pub nodes: BTreeMap<String, NodePlan>,
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
}

/// What an interface is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceUse {
    /// It carries the fabric's own traffic and has an address of the underlay.
    Underlay,
    /// It is (or is plugged into) an access port of this network.
    Access(Vni),
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
    /// Our interface.
    pub interface: String,
    /// Its AS number.
    pub remote_as: u32,
    /// What it is to us.
    pub peering: Peering,
    /// True when IPv4 (or IPv6) unicast is exchanged: between switches. A controller gets EVPN only.
    pub unicast: bool,
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
    /// Interfaces that are its access ports, in the order of the file.
    pub ports: Vec<String>,
}

impl NodePlan {
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
