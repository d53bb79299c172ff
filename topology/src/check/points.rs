//! Single points of failure: what is lost with one switch, one link, one controller.

use std::collections::BTreeSet;

use super::net::Net;
use super::{Check, list};
use crate::lab::{Node, Role};
use crate::plan::{InterfaceUse, Peering};

pub(super) fn check(check: &mut Check<'_>) {
    let said = switches(check);
    uplinks(check, &said);
    hosts(check);
    reflectors(check, &said);
    controllers(check);
}

/// Switches whose loss cuts other switches off from each other, those behind a single leaf left out.
fn switches(check: &mut Check<'_>) -> BTreeSet<String> {
    let net = Net::new(check.lab, |l| l.causeway.may_be_underlay());
    let before = net.parts(None).len();
    let spines = net.nodes.iter().filter(|n| n.role == Role::Spine).count();
    let mut said = BTreeSet::new();
    for (index, node) in net.nodes.iter().enumerate().filter(|(_, n)| n.role.is_switch()) {
        let parts = net.parts(Some(index));
        if parts.len() < before + 1 {
            continue;
        }
        let neighbours: BTreeSet<usize> = net.of(index).iter().copied().collect();
        let switches = |part: &[&Node]| part.iter().filter(|n| n.role.is_switch()).count();
        let mut torn: Vec<Vec<&Node>> = Vec::new();
        for part in parts.iter().filter(|p| p.iter().any(|n| neighbours.contains(n))) {
            let part: Vec<&Node> = part.iter().filter_map(|i| net.node(*i)).collect();
            // A leaf with one uplink among others with two is at fault itself, not its spine: see `uplinks`.
            if spines < 2 || switches(&part) != 1 {
                torn.push(part);
            }
        }
        let with_switch = torn.iter().filter(|p| switches(p) > 0).count();
        // With its one leaf a fabric has nobody to be cut off from, and hosts are spoken of below.
        if with_switch == 0 || (with_switch == 1 && node.role != Role::Spine) || torn.len() < 2 {
            continue;
        }
        let lost: Vec<&str> = torn
            .iter()
            .skip(1)
            .flatten()
            .filter(|n| n.role != Role::Other)
            .map(|n| n.name.as_str())
            .collect();
        if lost.is_empty() {
            continue;
        }
        let lose = if lost.len() == 1 { "loses" } else { "lose" };
        let message =
            format!("without {} '{}' {} {lose} the rest of the fabric", node.role, node.name, list(&lost));
        let help = if node.role == Role::Spine {
            "link them to a second spine"
        } else {
            "give what hangs behind it a second way"
        };
        check.warn("single-point", node.place, message, help);
        said.insert(node.name.clone());
    }
    said
}

/// Leaves with one link to the fabric, where the switch at its other end was not spoken of.
fn uplinks(check: &mut Check<'_>, said: &BTreeSet<String>) {
    let (lab, plan) = (check.lab, check.plan);
    let mut single = Vec::new();
    for node in lab.nodes_in_order().into_iter().filter(|n| matches!(n.role, Role::Leaf | Role::Border)) {
        let Some(own) = plan.nodes.get(&node.name) else { continue };
        let peers = own
            .interfaces
            .iter()
            .filter(|i| i.usage == InterfaceUse::Underlay)
            .filter_map(|i| i.peer.as_ref());
        let peers: Vec<&str> = peers
            .map(|(n, _)| n.as_str())
            .filter(|n| plan.nodes.get(*n).is_some_and(|p| p.role.is_switch()))
            .collect();
        if let [one] = peers.as_slice()
            && !said.contains(*one)
        {
            single.push((node, *one));
        }
    }
    let names: Vec<String> = single.iter().map(|(n, peer)| format!("{} (to {peer})", n.name)).collect();
    if let Some((node, _)) = single.first() {
        let message = match names.as_slice() {
            [one] => format!("{one} has one uplink: no path if it fails"),
            _ => format!("{} leaves have one uplink: {}", names.len(), list(&names)),
        };
        check.warn("single-uplink", node.place, message, "link every leaf to two spines");
    }
}

/// Hosts and servers on one switch: one note with a count.
fn hosts(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let ends: Vec<&Node> =
        lab.nodes_in_order().into_iter().filter(|n| matches!(n.role, Role::Host | Role::Server)).collect();
    let mut single = Vec::new();
    for node in &ends {
        let peers = plan
            .nodes
            .get(&node.name)
            .into_iter()
            .flat_map(|p| &p.interfaces)
            .filter_map(|i| i.peer.as_ref());
        let peers: BTreeSet<&str> = peers
            .map(|(n, _)| n.as_str())
            .filter(|n| lab.nodes.get(*n).is_some_and(|n| n.role.is_switch()))
            .collect();
        if let Some(leaf) = peers.first().filter(|_| peers.len() == 1) {
            single.push((*node, format!("{} ({leaf})", node.name)));
        }
    }
    let Some((first, _)) = single.first() else { return };
    let names: Vec<&String> = single.iter().map(|(_, n)| n).collect();
    let message =
        format!("{} of {} hosts and servers hang on one leaf: {}", single.len(), ends.len(), list(&names));
    check.note("single-homed", first.place, message, "a second link to another leaf keeps them reachable");
}

fn reflectors(check: &mut Check<'_>, said: &BTreeSet<String>) {
    let (lab, plan) = (check.lab, check.plan);
    let reflecting: Vec<&Node> = lab
        .nodes_in_order()
        .into_iter()
        .filter(|n| {
            plan.nodes
                .get(&n.name)
                .is_some_and(|p| p.bgp.iter().filter(|b| b.peering == Peering::Client).count() > 1)
        })
        .collect();
    if let [one] = reflecting.as_slice()
        && !said.contains(&one.name)
    {
        let message = format!("'{}' is the only route reflector: no routes pass while it is away", one.name);
        check.warn("single-reflector", one.place, message, "make it two");
    }
}

fn controllers(check: &mut Check<'_>) {
    let all: Vec<&Node> =
        check.lab.nodes_in_order().into_iter().filter(|n| n.role == Role::Controller).collect();
    if let [one] = all.as_slice() {
        let message = format!("'{}' is the only controller", one.name);
        check.note(
            "single-controller",
            one.place,
            message,
            "a second one with its own route distinguishers keeps all routes when one is lost",
        );
    }
}
