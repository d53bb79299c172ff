//! Where ports enter the fabric: at their node's own VTEP, or at that of the switch behind which the node is.

use std::net::IpAddr;

use causeway_bgp::Esi;
use causeway_proto::Mac;

use crate::model::{Node, NodeMode};
use crate::snapshot::Snapshot;

/// Where the frames of a node's ports enter the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The VTEP: the node's own, that of its only switch, the one that its two switches share, or with an Ethernet
    /// segment that of its first uplink's switch.
    pub vtep: IpAddr,
    /// Mode of the node that has the VTEP; never [`NodeMode::Host`].
    pub mode: NodeMode,
    /// Ethernet segment of a host with two uplinks to switches that do multihoming themselves.
    pub esi: Esi,
    /// Router MAC of the VTEP; `None` if it is a switch's own and not declared.
    pub router_mac: Option<Mac>,
}

/// What VXLAN adds to a workload's frame on the underlay in bytes: outer IP, UDP, VXLAN and the inner Ethernet header.
pub fn vxlan_overhead(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// Where a node's ports enter the fabric; `None` if its switches do not exist or are none.
pub fn place(snapshot: &Snapshot, node: &Node) -> Option<Place> {
    if node.mode != NodeMode::Host {
        let vtep = node.vtep?;
        return Some(Place { vtep, mode: node.mode, esi: Esi::default(), router_mac: router_mac(node) });
    }
    let mut switches = vteps(snapshot, node);
    let first = switches.next()?;
    let mut place =
        Place { vtep: first.vtep?, mode: first.mode, esi: Esi::default(), router_mac: router_mac(first) };
    if let Some(second) = switches.next() {
        match first.anycast_vtep.filter(|shared| second.anycast_vtep == Some(*shared)) {
            Some(shared) => {
                place.vtep = shared;
                place.router_mac = place.router_mac.filter(|mac| router_mac(second) == Some(*mac));
            }
            None => place.esi = node.esi.unwrap_or_default(),
        }
    }
    Some(place)
}

/// The nodes at whose VTEPs a node's ports enter the fabric: itself, or its switches in the order of its uplinks.
pub fn vteps<'a>(snapshot: &'a Snapshot, node: &'a Node) -> impl Iterator<Item = &'a Node> {
    let itself = (node.mode != NodeMode::Host).then_some(node);
    let switches = node.uplinks.iter().filter_map(|uplink| snapshot.nodes.get(&uplink.switch));
    let switches = switches.map(|record| &record.value).filter(|switch| switch.mode.is_switch());
    itself.into_iter().chain(switches)
}

/// Router MAC of a node with a VTEP: as declared; else, where the switch is not its own master, derived from the VTEP,
/// of switches that share one from that, so that both answer. Locally administered, and of another first byte than any
/// port's or bridge's: `12:00` and an IPv4 address, or `16` and 40 bits of a hash of an IPv6 address.
pub fn router_mac(node: &Node) -> Option<Mac> {
    if node.router_mac.is_some() || !node.mode.is_spoken_for() {
        return node.router_mac;
    }
    Some(match node.anycast_vtep.or(node.vtep)? {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Mac::new([0x12, 0, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let [_, a, b, c, d, e] = Mac::from_ipv6(v6, 0).octets();
            Mac::new([0x16, a, b, c, d, e])
        }
    })
}
