//! Which networks and VRFs of ours a received route belongs to, and why not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use causeway_bgp::{Attributes, RouteKey, RouteTarget};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, Vni};

use crate::derive::best::Rule;
use crate::derive::evpn::{Context, import_targets};
use crate::derive::routing::{domain, vrf_imports};
use crate::snapshot::Snapshot;

/// Which networks import what, and whose word does not count: what a verdict needs to know of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    networks: BTreeMap<RouteTarget, Vec<(NetworkKey, Vni)>>,
    vrfs: BTreeMap<RouteTarget, Vec<(Name, Vni)>>,
    /// VTEPs for which the controllers speak.
    nodes: BTreeMap<IpAddr, Name>,
    router_id: Option<[u8; 4]>,
}

impl Policy {
    /// The policy that follows from the snapshot's networks and nodes.
    pub fn new(snapshot: &Snapshot, context: &Context) -> Self {
        let mut networks: BTreeMap<RouteTarget, Vec<(NetworkKey, Vni)>> = BTreeMap::new();
        for (key, record) in &snapshot.networks {
            for target in import_targets(&record.value, context.asn) {
                networks.entry(target).or_default().push((key.clone(), record.value.vni));
            }
        }
        let mut vrfs: BTreeMap<RouteTarget, Vec<(Name, Vni)>> = BTreeMap::new();
        for domain in snapshot.vrfs.keys().filter_map(|name| domain(snapshot, name)) {
            for target in vrf_imports(&domain, context.asn) {
                vrfs.entry(target).or_default().push((domain.vrf.name.clone(), domain.vni));
            }
        }
        let nodes = snapshot.by_vtep.iter().filter(|(_, name)| {
            snapshot.nodes.get(name).is_some_and(|record| record.value.mode.is_spoken_for())
        });
        Policy {
            networks,
            vrfs,
            nodes: nodes.cloned().collect(),
            router_id: Some(context.router_id.octets()),
        }
    }

    fn is_ours(&self, key: &RouteKey) -> bool {
        self.router_id.is_some_and(|id| key.rd().0[..2] == [0, 1] && key.rd().0[2..6] == id)
    }

    /// What a received route means to routing: a prefix for VRFs, or a host by the L3 part of a type 2.
    pub fn judge_prefix(&self, key: &RouteKey, attributes: &Attributes) -> Result<Prefixed, Unused> {
        if self.is_ours(key) {
            return Err(Unused::Ours);
        }
        let (prefix, label) = match *key {
            RouteKey::IpPrefix { prefix, .. } => (prefix, attributes.vni),
            RouteKey::MacIp { ip: Some(ip), .. } => (Prefix::host(ip), attributes.l3_vni),
            _ => return Err(Unused::Type(key.route_type())),
        };
        if attributes.gateway.is_some() {
            return Err(Unused::Gateway);
        }
        let vtep = attributes.next_hop;
        if let Some(node) = self.nodes.get(&vtep) {
            return Err(Unused::Node(node.clone()));
        }
        let Some(router_mac) = attributes.router_mac.filter(|mac| mac.is_unicast()) else {
            return Err(Unused::NoRouterMac);
        };
        let matching = attributes.route_targets.iter().filter_map(|target| self.vrfs.get(target)).flatten();
        // Frames leave with the VRF's own VNI: a VTEP that asks for another one would not find its table. What is
        // imported from another VRF of ours is looked up there, and thus leaves with that one's.
        let (fitting, other): (Vec<_>, Vec<_>) = matching.partition(|(_, vni)| label == Some(*vni));
        match (fitting.is_empty(), other.first(), label) {
            (false, _, _) => {
                let vrfs: BTreeSet<Name> = fitting.into_iter().map(|(vrf, _)| vrf.clone()).collect();
                Ok(Prefixed { vrfs, prefix, vtep, router_mac })
            }
            (true, Some((vrf, vni)), Some(label)) => {
                Err(Unused::OtherL3Vni { vrf: vrf.clone(), vni: *vni, label })
            }
            (true, Some(_), None) => Err(Unused::NoL3Vni),
            (true, None, _) => Err(Unused::NoVrf(attributes.route_targets.clone())),
        }
    }

    /// For a type 2 route that a controller announced for a node of ours, this one before a restart or another one: its
    /// network. Nodes have nothing to learn from it, but its sequence number is one that the fabric remembers.
    pub fn echo(&self, key: &RouteKey, attributes: &Attributes) -> Option<NetworkKey> {
        let ours = self.is_ours(key) || self.nodes.contains_key(&attributes.next_hop);
        if !ours || !matches!(key, RouteKey::MacIp { .. }) {
            return None;
        }
        let mut matching =
            attributes.route_targets.iter().filter_map(|target| self.networks.get(target)).flatten();
        let fits = matching.find(|(_, vni)| attributes.vni.is_none_or(|label| label == *vni));
        fits.map(|(network, _)| network.clone())
    }

    /// What a received route means to us.
    pub fn judge(&self, key: &RouteKey, attributes: &Attributes) -> Result<Imported, Unused> {
        if self.is_ours(key) {
            return Err(Unused::Ours);
        }
        if !matches!(key, RouteKey::MacIp { .. } | RouteKey::Imet { .. }) {
            return Err(Unused::Type(key.route_type()));
        }
        let vtep = match (key, attributes.pmsi) {
            (RouteKey::Imet { .. }, Some(pmsi)) => pmsi.tunnel,
            (RouteKey::Imet { .. }, None) => return Err(Unused::NoTunnel),
            _ => attributes.next_hop,
        };
        if let Some(node) = self.nodes.get(&vtep) {
            return Err(Unused::Node(node.clone()));
        }
        let label = match key {
            RouteKey::Imet { .. } => attributes.pmsi.map(|pmsi| pmsi.vni),
            _ => attributes.vni,
        };
        let mut matching =
            attributes.route_targets.iter().filter_map(|target| self.networks.get(target)).flatten();
        let Some(first) = matching.next() else {
            return Err(Unused::NoNetwork(attributes.route_targets.clone()));
        };
        // Hosts encapsulate with the network's own VNI; a VTEP that asks for another one would not find its segment.
        let fits = std::iter::once(first).chain(matching).find(|(_, vni)| label.is_none_or(|l| l == *vni));
        match (fits, label) {
            (Some((network, _)), _) => Ok(Imported { network: network.clone(), vtep }),
            (None, Some(label)) => Err(Unused::OtherVni { network: first.0.clone(), vni: first.1, label }),
            (None, None) => Err(Unused::NoNetwork(attributes.route_targets.clone())),
        }
    }
}

/// A received route that belongs to a network of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The network.
    pub network: NetworkKey,
    /// Where its frames go.
    pub vtep: IpAddr,
}

/// A received route that leads to a prefix of VRFs of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixed {
    /// The VRFs whose L3 VNI and targets it has.
    pub vrfs: BTreeSet<Name>,
    /// The prefix; a host's for a type 2.
    pub prefix: Prefix,
    /// Where its packets go.
    pub vtep: IpAddr,
    /// That VTEP's router MAC.
    pub router_mac: Mac,
}

/// Why a received route is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unused {
    /// Our own, reflected.
    Ours,
    /// Hosts do nothing with this route type.
    Type(u8),
    /// A type 3 without PMSI tunnel.
    NoTunnel,
    /// It points at a node whose workloads the store knows.
    Node(Name),
    /// No network imports its targets.
    NoNetwork(Vec<RouteTarget>),
    /// The target is a network's, the label is not.
    OtherVni {
        /// The network.
        network: NetworkKey,
        /// Its VNI.
        vni: Vni,
        /// The route's.
        label: Vni,
    },
    /// A type 5 with a gateway address: the interface-ful models (RFC 9136 §4.4.2) are not ours.
    Gateway,
    /// Routed without a router MAC: nobody knows whom to send frames to.
    NoRouterMac,
    /// No VRF imports its targets.
    NoVrf(Vec<RouteTarget>),
    /// A VRF imports it, but it has no L3 VNI.
    NoL3Vni,
    /// The target is a VRF's, the label is not.
    OtherL3Vni {
        /// The VRF.
        vrf: Name,
        /// Its L3 VNI.
        vni: Vni,
        /// The route's.
        label: Vni,
    },
    /// The MAC is a port's: what the store says counts.
    Port(PortKey),
    /// Another route for the same MAC is better.
    Beaten(Rule),
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unused::Ours => f.write_str("our own route, reflected"),
            Unused::Type(n) => write!(f, "hosts do nothing with type {n}"),
            Unused::Gateway => f.write_str("it has a gateway address, which is not followed"),
            Unused::NoRouterMac => f.write_str("it has no router MAC"),
            Unused::NoVrf(targets) if targets.is_empty() => f.write_str("it has no route target"),
            Unused::NoVrf(targets) => {
                f.write_str("no VRF imports ")?;
                list(f, targets)
            }
            Unused::NoL3Vni => f.write_str("a VRF imports it, but it names no L3 VNI"),
            Unused::OtherL3Vni { vrf, vni, label } => {
                write!(f, "its label {label} is not L3 VNI {vni} of VRF {vrf}")
            }
            Unused::NoTunnel => f.write_str("type 3 without a PMSI tunnel"),
            Unused::Node(node) => write!(f, "its next hop is node {node}, whose ports the store knows"),
            Unused::NoNetwork(targets) if targets.is_empty() => f.write_str("it has no route target"),
            Unused::NoNetwork(targets) => {
                f.write_str("no network imports ")?;
                list(f, targets)
            }
            Unused::OtherVni { network, vni, label } => {
                write!(f, "its label {label} is not VNI {vni} of network {network}")
            }
            Unused::Port(owner) => write!(f, "its MAC belongs to port {owner}"),
            Unused::Beaten(Rule::Sticky) => f.write_str("a sticky route for the MAC wins"),
            Unused::Beaten(Rule::Sequence) => f.write_str("a route with a higher mobility sequence wins"),
            Unused::Beaten(Rule::NextHop) => f.write_str("a route with a lower next hop wins"),
            Unused::Beaten(Rule::Same) => f.write_str("the same as a route that is used"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, targets: &[RouteTarget]) -> fmt::Result {
    for (i, target) in targets.iter().enumerate() {
        write!(f, "{}{target}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}
