//! The overlay's cabling: circles of access links.

use causeway_proto::Vni;

use super::Check;
use super::net::Sets;
use crate::lab::{LinkKind, Node, Role};

/// What forwards frames from port to port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bridge {
    /// All leaves of a network: VXLAN makes them one bridge.
    Fabric(Vni),
    /// A bridge among the nodes, by its place in the file.
    Node(usize),
}

fn bridge(node: &Node, vni: Option<Vni>) -> Option<Bridge> {
    match (node.role, node.kind.as_str()) {
        (Role::Leaf | Role::Border, _) => vni.map(Bridge::Fabric),
        (_, "bridge" | "ovs-bridge") => Some(Bridge::Node(node.index)),
        _ => None,
    }
}

/// A link between two bridges that are one already closes a circle. VXLAN has no spanning tree, and a leaf sends none.
pub(super) fn check(check: &mut Check<'_>) {
    let lab = check.lab;
    let mut sets = Sets::new();
    for link in lab.links.iter().filter(|l| l.kind == LinkKind::Veth) {
        let end = |name: &str| lab.nodes.get(name).and_then(|n| bridge(n, link.causeway.vni));
        let Some(other) = &link.b else { continue };
        let (Some(a), Some(b)) = (end(&link.a.node), end(&other.node)) else { continue };
        if sets.join(a, b) {
            continue;
        }
        let (a, b) = (&link.a, other);
        let network = link.causeway.vni.map_or_else(String::new, |v| format!(" in network {v}"));
        let message = format!(
            "this link from {}:{} to {}:{} closes a circle{network}: its ends are joined already, and a broadcast goes round for ever",
            a.node, a.interface, b.node, b.interface
        );
        check.error(
            "l2-loop",
            link.place,
            message,
            "take the link away, or make it a routed one: no causeway.vni",
        );
    }
}
