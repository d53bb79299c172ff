//! Cabling: leaves and servers that hang on nothing, parts without a link between them.

use super::net::Net;
use super::{Check, list};
use crate::diagnostic::Severity;
use crate::lab::{LinkKind, Node, Role};
use crate::plan::InterfaceUse;

pub(super) fn check(check: &mut Check<'_>) {
    uplinks(check);
    servers(check);
    parts(check);
}

/// A leaf needs an underlay link to another switch, and where there are spines to a spine.
fn uplinks(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let spines = lab.nodes.values().any(|n| n.role == Role::Spine);
    for node in lab.nodes_in_order().into_iter().filter(|n| matches!(n.role, Role::Leaf | Role::Border)) {
        let Some(own) = plan.nodes.get(&node.name) else { continue };
        let underlay = own.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay);
        let peers = underlay.filter_map(|i| plan.nodes.get(&i.peer.as_ref()?.0));
        let peers: Vec<Role> = peers.map(|p| p.role).filter(|r| r.is_switch()).collect();
        if peers.contains(&Role::Spine) {
            continue;
        }
        if peers.is_empty() {
            let message = format!(
                "{} '{}' has no link to a spine: nothing joins it to the fabric",
                node.role, node.name
            );
            let help = if spines {
                "link it to every spine"
            } else {
                "give a switch causeway.role: spine and link the leaf to it"
            };
            check.error("leaf-no-spine", node.place, message, help);
        } else if spines {
            let message =
                format!("{} '{}' has no link to a spine, only to other leaves", node.role, node.name);
            check.warn("leaf-no-spine", node.place, message, "link it to every spine");
        }
    }
}

fn servers(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    for node in lab.nodes_in_order().into_iter().filter(|n| n.role == Role::Server) {
        let Some(own) = plan.nodes.get(&node.name).filter(|p| !p.interfaces.is_empty()) else { continue };
        let peer = |i: &crate::plan::Interface| i.peer.as_ref().and_then(|(n, _)| lab.nodes.get(n));
        let on_switch =
            |n: &Node| n.role.is_switch() || matches!(n.kind.as_str(), "bridge" | "ovs-bridge" | "host");
        if !own.interfaces.iter().any(|i| peer(i).is_some_and(on_switch)) {
            let message = format!("server '{}' is in no port of a switch", node.name);
            check.warn(
                "server-no-switch",
                node.place,
                message,
                "link it to a leaf, or give its neighbour causeway.role: leaf",
            );
        } else if !own
            .interfaces
            .iter()
            .any(|i| matches!(i.usage, InterfaceUse::Access(_) | InterfaceUse::Trunk | InterfaceUse::Routed))
        {
            let message =
                format!("server '{}' is in no network: none of its links is an access port", node.name);
            check.warn(
                "server-no-switch",
                node.place,
                message,
                "put labels: {causeway.untagged: NETWORK} at its link to the leaf",
            );
        }
    }
}

fn parts(check: &mut Check<'_>) {
    let net = Net::new(check.lab, |_| true);
    // What has a link to the machine, to another lab or into the management network is not alone.
    let outward = |n: &Node| {
        check.lab.endpoints_of(&n.name).any(|(l, _)| !matches!(l.kind, LinkKind::Veth | LinkKind::Dummy))
    };
    let standing = |n: &Node| {
        matches!(n.kind.as_str(), "bridge" | "ovs-bridge" | "host")
            || n.network_mode.as_deref().is_some_and(|m| m != "none")
    };
    let mut parts: Vec<Vec<&Node>> = Vec::new();
    let mut alone = Vec::new();
    for part in net.parts(None) {
        let nodes: Vec<&Node> = part.into_iter().filter_map(|i| net.node(i)).collect();
        match nodes.as_slice() {
            [one] if outward(one) || standing(one) => {}
            [one] => alone.push(*one),
            _ => parts.push(nodes),
        }
    }
    let lonely = alone.len() + parts.len() > 1;
    for node in alone.into_iter().filter(|_| lonely) {
        // Leaves, hosts and controllers were spoken of already.
        let severity = match node.role {
            Role::Other => Severity::Note,
            Role::Spine | Role::Server => Severity::Warning,
            _ => continue,
        };
        check.say(
            severity,
            "node-alone",
            node.place,
            format!("no link joins {} '{}' to anything", node.role, node.name),
            "link it, or take it away",
        );
    }
    for part in parts.iter().skip(1) {
        let names: Vec<&str> = part.iter().map(|n| n.name.as_str()).collect();
        if let Some(place) = part.first().map(|n| n.place) {
            let message =
                format!("{} are linked to each other, but not to the rest of the lab", list(&names));
            check.warn("parts", place, message, "link them to the rest, or make it a lab of its own");
        }
    }
}
