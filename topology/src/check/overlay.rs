//! The overlay's cabling: circles of access links.

use std::collections::BTreeSet;

use causeway_proto::Vni;

use super::Check;
use super::net::Sets;
use crate::lab::{LinkKind, Node, Role};
use crate::plan::Interface;

/// What forwards frames from port to port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bridge {
    /// All leaves of a network: VXLAN makes them one bridge.
    Fabric(Vni),
    /// A bridge among the nodes, by its place in the file. Frames with the tag of one network never become those of
    /// another: it is a bridge for each.
    Node(usize, Option<Vni>),
}

/// What frames of a network go on through at a node: tagged ones or untagged ones.
fn bridge(node: &Node, vni: Option<Vni>, is_tagged: bool) -> Option<Bridge> {
    match (node.role, node.kind.as_str()) {
        (Role::Leaf | Role::Border, _) => vni.map(Bridge::Fabric),
        (_, "bridge" | "ovs-bridge") => Some(Bridge::Node(node.index, vni.filter(|_| is_tagged))),
        _ => None,
    }
}

/// The networks on a link, and whether they are tagged there. A link without labels carries what comes.
fn carried(port: Option<&Interface>, tags: &BTreeSet<Vni>) -> Vec<(Option<Vni>, bool)> {
    let said = |p: &&Interface| p.untagged.is_some() || !p.tagged.is_empty();
    match port.filter(said) {
        Some(port) => {
            let tagged = port.tagged.iter().map(|vni| (Some(*vni), true));
            port.untagged.iter().map(|vni| (Some(*vni), false)).chain(tagged).collect()
        }
        None => [(None, false)].into_iter().chain(tags.iter().map(|vni| (Some(*vni), true))).collect(),
    }
}

/// A link between two bridges that are one already closes a circle. VXLAN has no spanning tree, and a leaf sends none.
pub(super) fn check(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let tags =
        plan.nodes.values().flat_map(|p| &p.interfaces).flat_map(|i| i.tagged.iter().copied()).collect();
    let mut sets = Sets::new();
    for (index, link) in lab.links.iter().enumerate().filter(|(_, l)| l.kind == LinkKind::Veth) {
        let Some(other) = &link.b else { continue };
        let port = plan.nodes.get(&link.a.node).and_then(|p| p.interfaces.iter().find(|i| i.link == index));
        let bare = port.is_none_or(|p| p.untagged.is_none() && p.tagged.is_empty());
        let end = |name: &str, (vni, is_tagged)| {
            // A leaf bridges nothing at a port without networks.
            let node = lab.nodes.get(name).filter(|n| !bare || !matches!(n.role, Role::Leaf | Role::Border));
            node.and_then(|n| bridge(n, vni, is_tagged))
        };
        let mut circles = Vec::new();
        for frames in carried(port, &tags) {
            let (Some(a), Some(b)) = (end(&link.a.node, frames), end(&other.node, frames)) else { continue };
            if !sets.join(a, b) {
                circles.push(frames);
            }
        }
        let Some((vni, _)) = circles.first() else { continue };
        let (a, b) = (&link.a, other);
        let network = vni.map_or_else(String::new, |v| format!(" in network {v}"));
        let message = format!(
            "this link from {}:{} to {}:{} closes a circle{network}: its ends are joined already, and a broadcast goes round for ever",
            a.node, a.interface, b.node, b.interface
        );
        check.error(
            "l2-loop",
            link.place,
            message,
            "take the link away, or make it a routed one: no network on it",
        );
    }
}
