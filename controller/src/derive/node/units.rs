//! The parts of a node's state that are derived by themselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix};

use super::part::vrfs_of;
use crate::derive::presence::{networks_of_node, vteps_of_network};
use crate::derive::routing::{irb, leaks, prefixes_of};
use crate::derive::{View, bound, nodes_of, place, ports_of_network, ports_on_node};
use crate::model::{Attachment, Irb, Node, NodeMode};

pub(super) use dirty::dirty;

mod dirty;

/// A part of a node's state that is derived by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    Network(NetworkKey),
    Port(PortKey),
    /// Where a MAC of a network is: here behind a switch port, or behind another VTEP.
    Mac(NetworkKey, Mac),
    /// Where a node's routed ports of a network are, whose frames carry the MAC of its bridge.
    Routed(NetworkKey, Name),
    /// Flooding to a VTEP.
    Flood(NetworkKey, IpAddr),
    /// All routing domains.
    Vrfs,
    /// The way to a prefix.
    Route(Name, Prefix),
    /// All ports of a switch.
    SwitchPorts,
}

/// All units of a node.
pub(super) fn all(view: &View, node: &Name) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let Some(me) = view.snapshot.nodes.get(node).map(|record| &record.value) else { return units };
    for network in networks_of_node(&view.snapshot, node) {
        add_network(&mut units, view, me, &network);
    }
    let vrfs = vrfs_of(view, me);
    if !vrfs.is_empty() {
        units.insert(Unit::Vrfs);
    }
    for vrf in &vrfs {
        add_routes(&mut units, view, vrf);
    }
    if me.mode.is_switch() {
        units.insert(Unit::SwitchPorts);
    }
    units
}

/// All units of a network.
fn add_network(units: &mut BTreeSet<Unit>, view: &View, me: &Node, network: &NetworkKey) {
    let snapshot = &view.snapshot;
    units.insert(Unit::Network(network.clone()));
    if me.mode == NodeMode::Host {
        units.extend(ports_on_node(snapshot, &me.name, network).cloned().map(Unit::Port));
        let waiting = snapshot.moving_at(&me.name).filter(|key| key.network == *network);
        units.extend(waiting.cloned().map(Unit::Port));
        return;
    }
    for key in ports_of_network(snapshot, network) {
        add_port(units, view, me, key);
    }
    let imported = view.imports.macs.range((network.clone(), Mac::new([0; 6]))..);
    for ((_, mac), _) in imported.take_while(|((key, _), _)| key == network) {
        units.insert(Unit::Mac(network.clone(), *mac));
    }
    let lowest = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let heard = view.imports.floods.range((network.clone(), lowest)..);
    let heard = heard.take_while(|(key, _)| key == network).map(|(_, vtep)| *vtep);
    let vteps = heard.chain(vteps_of_network(snapshot, network));
    units.extend(vteps.map(|vtep| Unit::Flood(network.clone(), vtep)));
}

/// The units of a port, as its node and others see it.
fn add_port(units: &mut BTreeSet<Unit>, view: &View, me: &Node, key: &PortKey) {
    if let Some(port) = view.snapshot.ports.get(key) {
        units.insert(Unit::Mac(key.network.clone(), port.value.mac));
    }
    for node in nodes_of(&view.snapshot, key) {
        if node.name == me.name {
            units.insert(Unit::Port(key.clone()));
        }
        // The network comes there with the port, and goes with it.
        if let Some(place) = place::place(&view.snapshot, node) {
            units.insert(Unit::Flood(key.network.clone(), place.vtep));
        }
    }
    let Some(bound) = bound(&view.snapshot, key) else { return };
    if bound.binding.attachment == Some(Attachment::Routed) {
        units.insert(Unit::Routed(key.network.clone(), bound.node.name.clone()));
    }
    units.insert(Unit::Flood(key.network.clone(), bound.place.vtep));
}

/// All routes of a VRF.
fn add_routes(units: &mut BTreeSet<Unit>, view: &View, vrf: &Name) {
    let route = |prefix| Unit::Route(vrf.clone(), prefix);
    units.extend(prefixes_of(view, vrf).map(route));
    for leak in leaks(view, vrf) {
        units.extend(leak.prefixes(view).map(route));
    }
    for network in view.snapshot.networks_of(vrf) {
        add_hosts(units, view, &network.value.key);
    }
}

/// Routes to the hosts of a network: all if it is symmetric, else those that the fabric says too, as a port of ours
/// stands in their way.
fn add_hosts(units: &mut BTreeSet<Unit>, view: &View, network: &NetworkKey) {
    let symmetric = irb(&view.snapshot, network) == Irb::Symmetric;
    if !symmetric && view.imports.prefixes.is_empty() {
        return;
    }
    let vrf = &network.vrf;
    for key in ports_of_network(&view.snapshot, network) {
        let port = view.snapshot.ports.get(key);
        let hosts = port.into_iter().flat_map(|record| record.value.answers()).map(Prefix::host);
        let wanted =
            hosts.filter(|host| symmetric || view.imports.prefixes.contains_key(&(vrf.clone(), *host)));
        units.extend(wanted.map(|host| Unit::Route(vrf.clone(), host)));
    }
}
