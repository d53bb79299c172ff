//! Which networks are where: a network is at a node if a port of it is on the node or behind it, if the node is a switch
//! that lists it, or if it is routed asymmetrically and another routed network of its VRF is there (RFC 9135 §4.1: a
//! VTEP then needs all networks of the VRF).

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Name, NetworkKey, PortKey, PortName};

use super::{bound, first_key, place, ports_on_node, routing, seat};
use crate::model::{Irb, Node, NodeMode};
use crate::snapshot::Snapshot;

/// True if a bound port of the network is on this very node.
fn has_ports(snapshot: &Snapshot, node: &Name, network: &NetworkKey) -> bool {
    ports_on_node(snapshot, node, network).any(|key| bound(snapshot, key).is_some())
        || waiting(snapshot, node).any(|key| key.network == *network)
}

/// Ports that a move keeps ready at a node: their networks must be there before they are.
fn waiting<'a>(snapshot: &'a Snapshot, node: &'a Name) -> impl Iterator<Item = &'a PortKey> {
    snapshot.moving_at(node).filter(move |key| seat(snapshot, node, key).is_some())
}

/// Networks of a VRF, or all, with a bound port on this very node, or one that a move keeps ready there; one step a
/// network and not one a port. One may come twice.
fn ported<'a>(
    snapshot: &'a Snapshot,
    node: &'a Name,
    vrf: Option<&'a Name>,
) -> impl Iterator<Item = NetworkKey> + 'a {
    let lowest = NetworkKey { vrf: vrf.cloned().unwrap_or_else(Name::lowest), network: Name::lowest() };
    let mut from = (node.clone(), first_key(&lowest));
    let waiting = waiting(snapshot, node).map(|key| &key.network);
    let waiting = waiting.filter(move |network| vrf.is_none_or(|vrf| network.vrf == *vrf)).cloned();
    let bound = std::iter::from_fn(move || {
        loop {
            let (n, key) = snapshot.by_node.range(from.clone()..).next()?;
            if n != node || vrf.is_some_and(|vrf| key.network.vrf != *vrf) {
                return None;
            }
            let network = key.network.clone();
            from = (node.clone(), PortKey { network: network.clone(), name: PortName::beyond() });
            if snapshot.networks.contains_key(&network) && has_ports(snapshot, node, &network) {
                return Some(network);
            }
        }
    });
    bound.chain(waiting)
}

/// The machines whose ports a node has to do with: itself, and the hosts behind a switch.
fn machines<'a>(snapshot: &'a Snapshot, node: &'a Node) -> impl Iterator<Item = &'a Name> {
    let hosts = node.mode.is_switch().then(|| snapshot.hosts_behind(&node.name));
    std::iter::once(&node.name).chain(hosts.into_iter().flatten().map(|record| &record.value.name))
}

/// True if a routed network of the VRF is at the node by itself.
fn has_vrf(snapshot: &Snapshot, node: &Node, vrf: &Name) -> bool {
    let routed = |key: &NetworkKey| routing::irb(snapshot, key) != Irb::None;
    node.networks.iter().any(|key| key.vrf == *vrf && routed(key))
        || machines(snapshot, node).any(|name| ported(snapshot, name, Some(vrf)).any(|key| routed(&key)))
}

/// True if the network is at the node because all asymmetric ones of its VRF are.
fn is_spread(snapshot: &Snapshot, node: &Node, network: &NetworkKey) -> bool {
    routing::irb(snapshot, network) == Irb::Asymmetric && has_vrf(snapshot, node, &network.vrf)
}

/// True if the node takes part in the network; never a switch that speaks EVPN itself, which we do not tell what it is.
pub fn is_present(snapshot: &Snapshot, node: &Name, network: &NetworkKey) -> bool {
    let Some(record) = snapshot.nodes.get(node) else { return false };
    let node = &record.value;
    if !snapshot.networks.contains_key(network) {
        return false;
    }
    match node.mode {
        NodeMode::TorEvpn => false,
        NodeMode::Host => has_ports(snapshot, &node.name, network),
        NodeMode::HostVtep | NodeMode::TorAgent | NodeMode::TorStatic => {
            node.networks.binary_search(network).is_ok()
                || machines(snapshot, node).any(|name| has_ports(snapshot, name, network))
                || is_spread(snapshot, node, network)
        }
    }
}

/// Networks in which the node takes part, ordered.
pub fn networks_of_node(snapshot: &Snapshot, node: &Name) -> BTreeSet<NetworkKey> {
    let mut found = BTreeSet::new();
    let Some(node) = snapshot.nodes.get(node).map(|record| &record.value) else { return found };
    match node.mode {
        NodeMode::TorEvpn => return found,
        NodeMode::Host => found.extend(ported(snapshot, &node.name, None)),
        NodeMode::HostVtep | NodeMode::TorAgent | NodeMode::TorStatic => {
            let listed = node.networks.iter().filter(|key| snapshot.networks.contains_key(*key));
            found.extend(listed.cloned());
            for name in machines(snapshot, node) {
                found.extend(ported(snapshot, name, None));
            }
            let routed = found.iter().filter(|key| routing::irb(snapshot, key) != Irb::None);
            let vrfs: BTreeSet<Name> = routed.map(|key| key.vrf.clone()).collect();
            for vrf in &vrfs {
                found.extend(routing::asymmetric_networks(snapshot, vrf));
            }
        }
    }
    found
}

/// True if frames of the network go to this VTEP on our word: it is one that we speak for, and the network is there. A
/// VTEP that two switches share has the networks of the hosts behind both.
pub fn is_bridged_at(snapshot: &Snapshot, vtep: IpAddr, network: &NetworkKey) -> bool {
    if !snapshot.networks.contains_key(network) {
        return false;
    }
    snapshot.nodes_at(vtep).map(|record| &record.value).filter(|node| node.mode.is_spoken_for()).any(|node| {
        let own = node.vtep == Some(vtep);
        let enters = |host: &Node| place::place(snapshot, host).is_some_and(|place| place.vtep == vtep);
        let mut hosts = snapshot.hosts_behind(&node.name).map(|record| &record.value);
        let itself =
            own && (node.networks.binary_search(network).is_ok() || has_ports(snapshot, &node.name, network));
        itself
            || hosts.any(|host| has_ports(snapshot, &host.name, network) && enters(host))
            || (own && is_spread(snapshot, node, network))
    })
}

/// VTEPs that we speak for at which the network is, lowest first.
pub fn vteps_of_network<'a>(
    snapshot: &'a Snapshot,
    network: &'a NetworkKey,
) -> impl Iterator<Item = IpAddr> + 'a {
    let mut last = None;
    let distinct = snapshot.by_vtep.iter().map(|(vtep, _)| *vtep).filter(move |vtep| {
        let new = last != Some(*vtep);
        last = Some(*vtep);
        new
    });
    distinct.filter(move |vtep| is_bridged_at(snapshot, *vtep, network))
}

/// Router MAC of a VTEP that we speak for; of a shared one what its switches agree on.
pub fn router_mac_at(snapshot: &Snapshot, vtep: IpAddr) -> Option<causeway_proto::Mac> {
    let mut macs = snapshot.nodes_at(vtep).map(|record| place::router_mac(&record.value));
    let first = macs.next()??;
    macs.all(|mac| mac == Some(first)).then_some(first)
}
