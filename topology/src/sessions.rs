//! Default routes, announced prefixes and BGP sessions of a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::derive::{Builder, DEFAULT_AS};
use crate::lab::Role;
use crate::plan::{InterfaceUse, Neighbor, NodePlan, Peering};

/// One end of an underlay link, and what is at the other end.
struct Adjacency {
    interface: String,
    local: IpNetwork,
    remote: IpNetwork,
    peer: String,
}

/// The underlay links of a node, in the order of the file.
fn adjacencies(nodes: &BTreeMap<String, NodePlan>, plan: &NodePlan) -> Vec<Adjacency> {
    let underlay = plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay);
    underlay
        .filter_map(|i| {
            let (peer, port) = i.peer.as_ref()?;
            let other = nodes.get(peer)?.interfaces.iter().find(|o| o.name == *port && o.link == i.link)?;
            Some(Adjacency {
                interface: i.name.clone(),
                local: i.address?,
                remote: other.address?,
                peer: peer.clone(),
            })
        })
        .collect()
}

/// What is no switch sends everything to its first switch; without one a host's tunnels would have no path.
pub(crate) fn gateways(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    for node in lab.nodes_in_order().into_iter().filter(|n| !n.role.is_switch()) {
        let Some(plan) = builder.nodes.get(&node.name) else { continue };
        let to_switch = |a: &Adjacency| builder.nodes.get(&a.peer).is_some_and(|p| p.role.is_switch());
        let gateway = adjacencies(&builder.nodes, plan).into_iter().find(to_switch).map(|a| a.remote.ip());
        if gateway.is_none() && matches!(node.role, Role::Host | Role::Controller) {
            builder.error(
                node,
                format!(
                    "{} '{}' has no underlay link to a switch: nothing can reach it",
                    node.role, node.name
                ),
            );
        }
        if let Some(plan) = builder.nodes.get_mut(&node.name) {
            plan.gateway = gateway;
        }
    }
}

/// A switch announces its loopback and VTEP, the links to what is no switch, and the loopbacks behind these.
pub(crate) fn announcements(builder: &mut Builder<'_>) {
    let mut all = Vec::new();
    for (name, plan) in builder.nodes.iter().filter(|(_, p)| p.role.is_switch()) {
        let mut networks: Vec<IpNetwork> = own_addresses(plan).map(IpNetwork::from).collect();
        let mut statics = Vec::new();
        for adjacency in adjacencies(&builder.nodes, plan) {
            let Some(peer) = builder.nodes.get(&adjacency.peer).filter(|p| !p.role.is_switch()) else {
                continue;
            };
            networks.extend(IpNetwork::new(adjacency.local.network(), adjacency.local.prefix()));
            let next_hop = adjacency.remote.ip();
            let behind = own_addresses(peer).filter(|a| a.is_ipv4() == next_hop.is_ipv4());
            statics.extend(behind.map(|a| (IpNetwork::from(a), next_hop)));
        }
        networks.extend(statics.iter().map(|(destination, _)| *destination));
        networks.dedup();
        all.push((name.clone(), networks, statics));
    }
    for (name, networks, statics) in all {
        if let Some(plan) = builder.nodes.get_mut(&name) {
            plan.networks = networks;
            plan.statics = statics;
        }
    }
}

/// The addresses on a node's `lo`.
pub(crate) fn own_addresses(plan: &NodePlan) -> impl Iterator<Item = IpAddr> + use<> {
    let vtep = plan.vtep.filter(|v| Some(*v) != plan.loopback);
    plan.loopback.into_iter().chain(vtep).chain(plan.anycast_vtep)
}

/// A session over every underlay link between two that speak BGP. Switches use the link's addresses; a controller
/// speaks with a switch's loopback, so that all controllers know a switch by one address.
pub(crate) fn sessions(builder: &mut Builder<'_>) {
    let mut all = Vec::new();
    for (name, plan) in builder.nodes.iter().filter(|(_, p)| p.role.speaks_bgp()) {
        let neighbours = adjacencies(&builder.nodes, plan).into_iter().filter_map(|adjacency| {
            let peer = builder.nodes.get(&adjacency.peer).filter(|p| p.role.speaks_bgp())?;
            Some(neighbor(plan, peer, adjacency))
        });
        all.push((name.clone(), neighbours.collect::<Vec<_>>()));
    }
    for (name, neighbours) in all {
        if let Some(plan) = builder.nodes.get_mut(&name) {
            plan.bgp = neighbours;
        }
    }
    sessions_with_leaves(builder);
    check(builder);
}

/// A session between a controller that asks for it and every leaf of its AS that it has none with yet.
fn sessions_with_leaves(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    let mut all: Vec<(String, Neighbor)> = Vec::new();
    for node in lab.nodes_in_order().into_iter().filter(|n| n.causeway.peers_with_leaves) {
        if node.role != Role::Controller {
            builder.error(
                node,
                format!("causeway.peers is for controllers, and '{}' is a {}", node.name, node.role),
            );
            continue;
        }
        let Some(own) = builder.nodes.get(&node.name) else { continue };
        let to_fabric =
            adjacencies(&builder.nodes, own).into_iter().find(|a| Some(a.remote.ip()) == own.gateway);
        let Some(link) = to_fabric else { continue };
        let leaves = builder.nodes.iter().filter(|(name, leaf)| {
            let known = own.bgp.iter().any(|n| n.node == **name);
            matches!(leaf.role, Role::Leaf | Role::Border)
                && leaf.speaks_evpn()
                && leaf.asn == own.asn
                && !known
        });
        for (name, leaf) in leaves {
            let Some(loopback) = leaf.loopback else { continue };
            let session = Neighbor {
                node: name.clone(),
                address: loopback,
                local_address: link.local.ip(),
                // By way of the first switch.
                peer_link: link.remote.ip(),
                interface: link.interface.clone(),
                remote_as: leaf.asn.unwrap_or(DEFAULT_AS),
                peering: Peering::Internal,
                unicast: false,
                evpn: true,
            };
            let back = Neighbor {
                node: node.name.clone(),
                address: link.local.ip(),
                local_address: loopback,
                peer_link: link.local.ip(),
                interface: "lo".to_owned(),
                ..session.clone()
            };
            all.extend([(node.name.clone(), session), (name.clone(), back)]);
        }
    }
    for (name, session) in all {
        if let Some(plan) = builder.nodes.get_mut(&name) {
            plan.bgp.push(session);
        }
    }
}

fn neighbor(own: &NodePlan, peer: &NodePlan, adjacency: Adjacency) -> Neighbor {
    let asn = |plan: &NodePlan| plan.asn.unwrap_or(DEFAULT_AS);
    let peering = match (asn(own) == asn(peer), own.route_reflector && !peer.route_reflector) {
        (false, _) => Peering::External,
        (true, true) => Peering::Client,
        (true, false) => Peering::Internal,
    };
    let loopback_of = |switch: &NodePlan, other: &NodePlan| {
        (other.role == Role::Controller && switch.role.is_switch()).then_some(switch.loopback).flatten()
    };
    Neighbor {
        node: adjacency.peer,
        peer_link: adjacency.remote.ip(),
        address: loopback_of(peer, own).unwrap_or(adjacency.remote.ip()),
        local_address: loopback_of(own, peer).unwrap_or(adjacency.local.ip()),
        interface: adjacency.interface,
        remote_as: asn(peer),
        peering,
        unicast: own.role.is_switch() && peer.role.is_switch(),
        evpn: own.speaks_evpn() && peer.speaks_evpn(),
    }
}

/// Inside an AS routes pass between two neighbours of a node only if it reflects them.
fn check(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    for node in lab.nodes_in_order().into_iter().filter(|n| n.role.speaks_bgp()) {
        let Some(plan) = builder.nodes.get(&node.name) else { continue };
        let internal = plan.bgp.iter().filter(|n| n.peering == Peering::Internal).count();
        let reflected = plan.bgp.iter().any(|n| n.peering == Peering::Client);
        let message = if plan.bgp.is_empty() && node.role != Role::Controller {
            continue;
        } else if plan.bgp.is_empty() {
            format!("controller '{}' has no BGP neighbour: link it to a spine or leaf", node.name)
        } else if internal > 1 && !reflected && node.role == Role::Spine {
            format!(
                "spine '{}' has {internal} neighbours in its AS and reflects no routes between them: causeway.rr must not be false",
                node.name
            )
        } else {
            continue;
        };
        builder.error(node, message);
    }
}
