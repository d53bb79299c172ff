//! What may be attached where.
//!
//! | node | container | VM | bare metal |
//! |---|---|---|---|
//! | host-vtep | vxlan-bridge, routed | tap | |
//! | host | bridge, macvlan, ipvlan, routed | tap | yes |
//! | tor-evpn, tor-agent, tor-static | | | yes, on an interface of the switch |

use causeway_proto::PortKey;

use crate::derive::place::{self, place};
use crate::model::{Attachment, MacvlanMode, Network, Node, NodeMode, WorkloadKind};
use crate::snapshot::Snapshot;

/// Why something cannot be attached somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Why, with the node as subject.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

fn unfit_with(reason: String, hint: &str) -> Option<Unfit> {
    Some(Unfit { reason, hint: hint.to_owned() })
}

/// Why a workload of a network cannot be attached so to a node; `None`: it can.
pub fn unfit(
    snapshot: &Snapshot,
    network: &Network,
    node: &Node,
    kind: WorkloadKind,
    attachment: Option<Attachment>,
) -> Option<Unfit> {
    use Attachment::{Bridge, Ipvlan, Macvlan, Routed, Tap, VxlanBridge};
    let allowed: &[Attachment] = match (kind, node.mode) {
        (WorkloadKind::Container, NodeMode::HostVtep) => &[VxlanBridge, Routed],
        (WorkloadKind::Container, NodeMode::Host) => &[Bridge, Macvlan, Ipvlan, Routed],
        (WorkloadKind::Vm, NodeMode::HostVtep | NodeMode::Host) => &[Tap],
        _ => &[],
    };
    match attachment {
        None if node.mode == NodeMode::HostVtep => {
            return unfit_with(
                format!("is a {} and has no wire for bare metal", node.mode),
                "bind it to a switch, or to a node of mode host",
            );
        }
        None => {}
        Some(attachment) if !allowed.contains(&attachment) => {
            let words: Vec<String> = allowed.iter().map(ToString::to_string).collect();
            let can = if words.is_empty() { "nothing of this kind".to_owned() } else { words.join(", ") };
            return unfit_with(
                format!(
                    "is a {}: a {kind} there cannot be attached by {attachment}, but by {can}",
                    node.mode
                ),
                "choose another attachment or node",
            );
        }
        Some(attachment) if !network.attachments.is_empty() && !network.attachments.contains(&attachment) => {
            let words: Vec<String> = network.attachments.iter().map(ToString::to_string).collect();
            return unfit_with(
                format!("would attach by {attachment}, network {} allows {}", network.key, words.join(", ")),
                "choose an attachment that the network allows, or change the network's attachments",
            );
        }
        Some(_) => {}
    }
    let Some(place) = place(snapshot, node) else {
        return unfit_with("is behind a switch that does not exist".to_owned(), "declare the switch");
    };
    if place.mode.needs_vlan() && network.vlan.is_none() {
        return unfit_with(
            format!(
                "is at a {}, which tells networks apart by VLAN, and {} has none",
                place.mode, network.key
            ),
            "give the network a vlan",
        );
    }
    if attachment == Some(Ipvlan) && place.mode != NodeMode::TorEvpn {
        return unfit_with(
            format!(
                "is at a {}: frames of an ipvlan carry the host's own MAC, which only a switch that learns can tell \
                 the fabric",
                place.mode
            ),
            "attach by bridge, macvlan or routed",
        );
    }
    too_large(snapshot, network, node)
}

/// Why the network's frames do not pass between the node and the fabric.
fn too_large(snapshot: &Snapshot, network: &Network, node: &Node) -> Option<Unfit> {
    for vtep in place::vteps(snapshot, node) {
        let (Some(ip), mtu) = (vtep.vtep, vtep.underlay_mtu) else { continue };
        let overhead = place::vxlan_overhead(ip);
        if network.mtu.saturating_add(overhead) > mtu {
            let at = if vtep.name == node.name {
                String::new()
            } else {
                format!("is behind {}, which ", vtep.name)
            };
            return unfit_with(
                format!(
                    "{at}has an underlay of {mtu} bytes, network {} needs {} and {overhead} of VXLAN",
                    network.key, network.mtu
                ),
                "lower the network's mtu, or raise the node's underlay and its underlay_mtu",
            );
        }
    }
    if node.mode == NodeMode::Host && network.mtu > node.underlay_mtu {
        return unfit_with(
            format!(
                "has uplinks of {} bytes, network {} needs {}",
                node.underlay_mtu, network.key, network.mtu
            ),
            "lower the network's mtu, or raise that of the node's links and its underlay_mtu",
        );
    }
    None
}

/// A port that is in the way on a node, and why; as far as the snapshot shows.
pub(super) fn crowded(
    snapshot: &Snapshot,
    key: &PortKey,
    network: &Network,
    node: &Node,
    attachment: Option<Attachment>,
    interface: &str,
    macvlan_mode: MacvlanMode,
) -> Option<(PortKey, String)> {
    let bound = || snapshot.bindings_at(&node.name).map(|b| &b.value);
    // What a move has ready there, or keeps for a way back, is in the way as well.
    let moving = || snapshot.moving_at(&node.name).filter_map(|key| snapshot.moving(key));
    let kept = || moving().flat_map(|m| [&m.value.from, &m.value.to]).filter(|b| b.node == node.name);
    let others = || bound().chain(kept()).filter(|b| b.port != *key);
    if attachment == Some(Attachment::Macvlan) {
        let here = others().filter(|b| b.port.network == *network_key(network));
        let mut macvlans = here.filter(|b| b.attachment == Some(Attachment::Macvlan));
        let alone = |mode| mode == MacvlanMode::Passthru;
        if let Some(other) = macvlans.find(|b| alone(macvlan_mode) || alone(b.macvlan_mode)) {
            let reason = "would have two macvlans on one parent, of which one is passthru".to_owned();
            return Some((other.port.clone(), reason));
        }
    }
    if node.mode.is_switch() {
        let other = others().find(|b| b.interface == interface && b.port.network != network.key)?;
        let reason =
            format!("has network {} on interface {interface}, which is one access port", other.port.network);
        return Some((other.port.clone(), reason));
    }
    if node.mode == NodeMode::Host && network.vlan.is_none() {
        let untagged = |key: &PortKey| {
            key.network != network.key
                && snapshot.networks.get(&key.network).is_some_and(|n| n.value.vlan.is_none())
        };
        let other = crate::derive::networks_of_node(snapshot, &node.name)
            .into_iter()
            .filter_map(|network| {
                let apart = |key: &PortKey| snapshot.bindings.get(key).is_some_and(|b| b.value.apart);
                crate::derive::ports_on_node(snapshot, &node.name, &network).find(|key| !apart(key)).cloned()
            })
            .find(untagged)?;
        let reason = format!("has untagged frames of network {} on its uplinks already", other.network);
        return Some((other, reason));
    }
    None
}

fn network_key(network: &Network) -> &causeway_proto::NetworkKey {
    &network.key
}
