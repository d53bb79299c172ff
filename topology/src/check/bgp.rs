//! Who learns what: routes follow the sessions of the plan by the rules of iBGP, route reflection (RFC 4456) and AS paths.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use super::{Check, list};
use crate::lab::Role;
use crate::plan::{Neighbor, NodePlan, Peering, Plan};

/// How a node came to a route: it decides to whom the route goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Via {
    Own,
    External,
    Client,
    Internal,
}

/// The nodes that a route of `origin` reaches, itself included, over the sessions that `carries` accepts.
fn reached<'a>(plan: &'a Plan, origin: &'a str, carries: &dyn Fn(&Neighbor) -> bool) -> BTreeSet<&'a str> {
    let mut seen: BTreeSet<(&str, Via)> = BTreeSet::new();
    let mut open: VecDeque<(&str, Via, Vec<u32>)> = VecDeque::from([(origin, Via::Own, Vec::new())]);
    while let Some((name, via, path)) = open.pop_front() {
        let Some(own) = plan.nodes.get(name) else { continue };
        if !seen.insert((name, via)) {
            continue;
        }
        for neighbor in own.bgp.iter().filter(|n| carries(n) && passes(via, n.peering)) {
            let Some((peer, node)) = plan.nodes.get_key_value(&neighbor.node) else { continue };
            // The session as the peer sees it; without it there is none.
            let Some(back) = node.bgp.iter().find(|n| n.node == name && carries(n)) else { continue };
            match back.peering {
                Peering::Client => open.push_back((peer, Via::Client, path.clone())),
                Peering::Internal => open.push_back((peer, Via::Internal, path.clone())),
                Peering::External => {
                    let mut path = path.clone();
                    path.extend(own.asn);
                    // RFC 4271, section 9.1.2: an own AS number in the path is a loop.
                    if node.asn.is_none_or(|asn| !path.contains(&asn)) {
                        open.push_back((peer, Via::External, path));
                    }
                }
            }
        }
    }
    seen.into_iter().map(|(name, _)| name).collect()
}

/// RFC 4456, section 6: from a non-client to clients and other ASes only.
fn passes(via: Via, to: Peering) -> bool {
    via != Via::Internal || to != Peering::Internal
}

pub(super) fn check(check: &mut Check<'_>) {
    evpn(check);
    next_hops(check);
}

fn uses_routes(plan: &NodePlan) -> bool {
    matches!(plan.role, Role::Leaf | Role::Border | Role::Controller)
}

/// EVPN routes of every leaf, border and controller must reach all others, whichever way sessions go.
fn evpn(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let speakers: Vec<&str> = plan
        .nodes
        .iter()
        .filter(|(_, p)| uses_routes(p) && p.speaks_evpn() && !p.bgp.is_empty())
        .map(|(n, _)| n.as_str())
        .collect();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for origin in &speakers {
        let reached = reached(plan, origin, &|n| n.evpn);
        let is_controller = |n: &str| plan.nodes.get(n).is_some_and(|p| p.role == Role::Controller);
        // Two controllers have nothing to learn from each other.
        let apart = |s: &str| is_controller(s) && is_controller(origin);
        let lost = speakers.iter().filter(|s| !reached.contains(*s) && !apart(s));
        for receiver in lost {
            missing.entry(receiver).or_default().push(origin);
        }
    }
    for node in lab.nodes_in_order() {
        let Some(origins) = missing.get(node.name.as_str()) else { continue };
        let asn = |n: &str| plan.nodes.get(n).and_then(|p| p.asn);
        let same = origins.iter().all(|o| asn(o) == asn(&node.name));
        let external =
            plan.nodes.get(&node.name).is_some_and(|p| p.bgp.iter().any(|n| n.peering == Peering::External));
        let help = if same && external {
            "they are in one AS with another AS between, and drop each other's routes as a loop: give each causeway.asn of its own"
        } else if external {
            "a switch drops a route whose path holds its own AS number: link both to one spine, or give the spines different AS numbers"
        } else {
            "inside an AS only a route reflector passes routes on: link both to a spine with causeway.rr: true"
        };
        let message =
            format!("{} '{}' never gets the EVPN routes of {}", node.role, node.name, list(origins));
        check.error("routes-lost", node.place, message, help);
    }
}

/// Every tunnel end needs a route at every switch that forwards to it, and at reflectors: an unresolved next hop makes
/// a route invalid there, and it is not passed on.
fn next_hops(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let switches: Vec<(&str, &NodePlan)> =
        plan.nodes.iter().filter(|(_, p)| p.role.is_switch()).map(|(n, p)| (n.as_str(), p)).collect();
    let reach: BTreeMap<&str, BTreeSet<&str>> = switches
        .iter()
        .filter(|(_, p)| !p.networks.is_empty())
        .map(|(n, _)| (*n, reached(plan, n, &|s| s.unicast)))
        .collect();
    let whose: BTreeMap<&str, BTreeSet<&str>> = plan
        .nodes
        .iter()
        .filter(|(_, p)| uses_routes(p))
        .map(|(n, _)| (n.as_str(), reached(plan, n, &|s| s.evpn)))
        .collect();
    let speaks_evpn = |name: &str| plan.nodes.get(name).is_some_and(NodePlan::speaks_evpn);
    // Told of tunnel ends by an agent or by its configuration, and not by BGP.
    let told = |name: &str| plan.nodes.get(name).is_some_and(|p| p.vtep.is_some() && !p.speaks_evpn());
    for node in lab.nodes_in_order() {
        let Some(vtep) = plan.nodes.get(&node.name).and_then(|p| p.vtep) else { continue };
        let announces =
            |p: &NodePlan| p.networks.iter().any(|n| n.ip() == vtep && is_host_route(vtep, n.prefix()));
        let sources: Vec<&str> = switches.iter().filter(|(_, p)| announces(p)).map(|(n, _)| *n).collect();
        let learned = |name: &str| sources.iter().any(|s| reach.get(s).is_some_and(|r| r.contains(name)));
        // A switch that gets no EVPN routes with this next hop needs no route to it. Those of a host, and of a switch that
        // speaks no EVPN itself, come from controllers.
        let by_controller = node.role == Role::Host || !speaks_evpn(&node.name);
        let speaks = |n: &str| {
            n == node.name || (by_controller && plan.nodes.get(n).is_some_and(|p| p.role == Role::Controller))
        };
        let concerned = |name: &str| told(name) || whose.iter().any(|(n, r)| speaks(n) && r.contains(name));
        let names = switches.iter().filter(|(_, p)| !p.bgp.is_empty()).map(|(n, _)| *n);
        let blind: Vec<&str> = names.filter(|n| *n != node.name && concerned(n) && !learned(n)).collect();
        if blind.is_empty()
            || plan.nodes.get(&node.name).is_none_or(|p| p.bgp.is_empty() && p.gateway.is_none())
        {
            continue;
        }
        let message = format!("the tunnel end {vtep} of '{}' has no route at {}", node.name, list(&blind));
        check.error("next-hop", node.place, message, "every switch needs a path of BGP sessions for IPv4/IPv6 unicast to it: link both to the same spines");
    }
}

fn is_host_route(address: IpAddr, prefix: u8) -> bool {
    prefix == if address.is_ipv4() { 32 } else { 128 }
}
