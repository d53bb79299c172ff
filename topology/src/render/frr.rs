//! `frr.conf` of a switch.

use std::fmt::Write;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::vrf;
use crate::lab::{Lab, Role};
use crate::multihoming::{SegmentPort, segment_ports};
use crate::networks::Network;
use crate::plan::{InterfaceUse, Neighbor, NodePlan, Peering, Plan};
use crate::sessions::own_addresses;

/// Seconds between KEEPALIVEs, and without one until a neighbour counts as lost. Small: a lab shall notice soon.
const TIMERS: &str = "3 9";

/// `frr.conf` of a switch, addresses of its interfaces included. `None`: the node is no switch of the plan.
pub(super) fn text(lab: &Lab, plan: &Plan, node: &str) -> Option<String> {
    let own = plan.nodes.get(node).filter(|p| p.role.is_switch())?;
    let mut out = String::new();
    write_frr(&mut out, lab, plan, own, node).ok()?;
    Some(out)
}

fn write_frr(out: &mut String, lab: &Lab, fabric: &Plan, plan: &NodePlan, node: &str) -> std::fmt::Result {
    let hostname = lab.nodes.get(node).map_or(node, |n| n.hostname.as_str());
    writeln!(
        out,
        "frr defaults traditional\nhostname {hostname}\nlog syslog informational\nservice integrated-vtysh-config\n!"
    )?;
    writeln!(out, "interface lo")?;
    for address in own_addresses(plan) {
        writeln!(out, " {} address {}", family(address), IpNetwork::from(address))?;
    }
    writeln!(out, "exit\n!")?;
    for interface in plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay) {
        let Some(address) = interface.address else { continue };
        writeln!(out, "interface {}", interface.name)?;
        if let Some((peer, port)) = &interface.peer {
            writeln!(out, " description {peer}:{port}")?;
        }
        writeln!(out, " {} address {address}\nexit\n!", family(address.ip()))?;
    }
    write_segments(out, fabric, plan)?;
    for (destination, next_hop) in &plan.statics {
        writeln!(out, "{} route {destination} {next_hop}", family(*next_hop))?;
    }
    if !plan.statics.is_empty() {
        writeln!(out, "!")?;
    }
    vrf::write_domains(out, fabric, plan, node)?;
    write_bgp(out, fabric, plan)?;
    vrf::write_bgp(out, fabric, plan, node)?;
    writeln!(out, "end")
}

/// Ethernet segments (EVPN multihoming, RFC 7432 section 8).
fn write_segments(out: &mut String, fabric: &Plan, plan: &NodePlan) -> std::fmt::Result {
    let ports = segment_ports(fabric, plan);
    if !ports.is_empty() {
        // FRR's own 180 seconds are for racks that boot: as long the ports would stay down.
        writeln!(out, "evpn mh startup-delay 0\n!")?;
    }
    for SegmentPort { port, bond, frr } in ports {
        writeln!(out, "interface {bond}")?;
        if let Some((peer, interface)) = &port.peer {
            writeln!(out, " description {peer}:{interface}")?;
        }
        writeln!(out, "{frr}exit\n!")?;
    }
    Ok(())
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ipv6" }
}

fn write_bgp(out: &mut String, fabric: &Plan, plan: &NodePlan) -> std::fmt::Result {
    let (Some(asn), Some(id)) = (plan.asn, plan.router_id) else { return Ok(()) };
    writeln!(out, "router bgp {asn}\n bgp router-id {id}")?;
    // Private AS numbers of a lab have no policy; without this line FRR neither sends nor takes a route over eBGP.
    writeln!(out, " no bgp ebgp-requires-policy\n no bgp default ipv4-unicast")?;
    if plan.bgp.iter().any(|n| n.peering == Peering::Client) {
        writeln!(out, " bgp cluster-id {id}")?;
    }
    for neighbor in &plan.bgp {
        let address = neighbor.address;
        writeln!(out, " neighbor {address} remote-as {}", neighbor.remote_as)?;
        writeln!(out, " neighbor {address} description {}", neighbor.node)?;
        if Some(neighbor.local_address) == plan.loopback {
            writeln!(out, " neighbor {address} update-source {}", neighbor.local_address)?;
            if neighbor.peering == Peering::External {
                // The loopback is a hop behind the link.
                writeln!(out, " neighbor {address} ebgp-multihop 2")?;
            }
        }
        writeln!(out, " neighbor {address} timers {TIMERS}")?;
        writeln!(out, " neighbor {address} timers connect 1")?;
        writeln!(out, " neighbor {address} advertisement-interval 0")?;
    }
    for (name, v4) in [("ipv4", true), ("ipv6", false)] {
        let networks: Vec<_> = plan.networks.iter().filter(|n| n.is_ipv4() == v4).collect();
        let neighbors: Vec<_> = plan.bgp.iter().filter(|n| n.unicast && n.address.is_ipv4() == v4).collect();
        if networks.is_empty() && neighbors.is_empty() {
            continue;
        }
        writeln!(out, " !\n address-family {name} unicast")?;
        for network in networks {
            writeln!(out, "  network {network}")?;
        }
        for neighbor in neighbors {
            write_unicast(out, neighbor)?;
        }
        writeln!(out, " exit-address-family")?;
    }
    if plan.bgp.iter().any(|n| n.evpn) {
        write_evpn(out, fabric, plan)?;
    }
    writeln!(out, "exit\n!")
}

fn write_evpn(out: &mut String, fabric: &Plan, plan: &NodePlan) -> std::fmt::Result {
    writeln!(out, " !\n address-family l2vpn evpn")?;
    for neighbor in plan.bgp.iter().filter(|n| n.evpn) {
        writeln!(out, "  neighbor {} activate", neighbor.address)?;
        if neighbor.peering == Peering::Client {
            writeln!(out, "  neighbor {} route-reflector-client", neighbor.address)?;
        }
    }
    if matches!(plan.role, Role::Leaf | Role::Border) {
        writeln!(out, "  advertise-all-vni")?;
        for network in plan.access.iter().filter_map(|a| fabric.network(a.vni)) {
            write_targets(out, network)?;
        }
    }
    writeln!(out, " exit-address-family")
}

/// Only what the label says: FRR derives the others, and takes those of any AS with the right VNI.
fn write_targets(out: &mut String, network: &Network) -> std::fmt::Result {
    if network.imports.is_empty() && network.exports.is_empty() {
        return Ok(());
    }
    writeln!(out, "  vni {}", network.vni)?;
    let imports = if network.imports.is_empty() { &network.exports } else { &network.imports };
    for target in imports {
        writeln!(out, "   route-target import {target}")?;
    }
    for target in &network.exports {
        writeln!(out, "   route-target export {target}")?;
    }
    writeln!(out, "  exit-vni")
}

/// Underlay routes get the sender as next hop, hop by hop; `force` does it for reflected routes too. EVPN routes keep
/// theirs: it is the tunnel's end.
fn write_unicast(out: &mut String, neighbor: &Neighbor) -> std::fmt::Result {
    writeln!(out, "  neighbor {} activate", neighbor.address)?;
    match neighbor.peering {
        Peering::Client => {
            writeln!(out, "  neighbor {} route-reflector-client", neighbor.address)?;
            writeln!(out, "  neighbor {} next-hop-self force", neighbor.address)
        }
        Peering::Internal => writeln!(out, "  neighbor {} next-hop-self", neighbor.address),
        Peering::External => Ok(()),
    }
}
