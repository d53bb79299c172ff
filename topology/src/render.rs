//! Configuration of a plan's nodes as text.

use std::fmt::Write;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::lab::{Lab, Role};
use crate::plan::{InterfaceUse, Neighbor, NodePlan, Peering, Plan};
use crate::sessions::own_addresses;

/// Seconds between KEEPALIVEs, and without one until a neighbour counts as lost. Small: a lab shall notice soon.
const TIMERS: &str = "3 9";

/// `frr.conf` of a switch, addresses of its interfaces included. `None`: the node is no switch of the plan.
///
/// It takes no 802.1Q or VRF support of the kernel, and works with FRR 8.4 and 10.
pub fn frr(lab: &Lab, plan: &Plan, node: &str) -> Option<String> {
    let plan = plan.nodes.get(node).filter(|p| p.role.is_switch())?;
    let mut out = String::new();
    write_frr(&mut out, lab, plan, node).ok()?;
    Some(out)
}

fn write_frr(out: &mut String, lab: &Lab, plan: &NodePlan, node: &str) -> std::fmt::Result {
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
    for (destination, next_hop) in &plan.statics {
        writeln!(out, "{} route {destination} {next_hop}", family(*next_hop))?;
    }
    if !plan.statics.is_empty() {
        writeln!(out, "!")?;
    }
    write_bgp(out, plan)?;
    writeln!(out, "end")
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ipv6" }
}

fn write_bgp(out: &mut String, plan: &NodePlan) -> std::fmt::Result {
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
    writeln!(out, " !\n address-family l2vpn evpn")?;
    for neighbor in &plan.bgp {
        writeln!(out, "  neighbor {} activate", neighbor.address)?;
        if neighbor.peering == Peering::Client {
            writeln!(out, "  neighbor {} route-reflector-client", neighbor.address)?;
        }
    }
    if matches!(plan.role, Role::Leaf | Role::Border) {
        writeln!(out, "  advertise-all-vni")?;
    }
    writeln!(out, " exit-address-family\nexit\n!")
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

/// `daemons` of a switch: which of FRR's daemons run. `staticd` has the routes to hosts; FRR starts zebra always.
pub fn daemons() -> String {
    "bgpd=yes\nstaticd=yes\nvtysh_enable=yes\n\
     zebra_options=\"  -A 127.0.0.1 -s 90000000\"\nbgpd_options=\"   -A 127.0.0.1\"\nstaticd_options=\"-A 127.0.0.1\"\n"
        .to_owned()
}

/// Commands, one a line for a shell, that give a node what its configuration does not: a switch its bridges and VXLAN
/// devices, anything else its addresses and default route. Empty for what needs nothing. `None`: no such node.
pub fn setup(lab: &Lab, plan: &Plan, node: &str) -> Option<String> {
    let (own, spec) = (plan.nodes.get(node)?, lab.nodes.get(node)?);
    let mut out = String::new();
    let done = if own.role.is_switch() {
        write_bridges(&mut out, own, spec.index)
    } else if own.role == Role::Server {
        write_server(&mut out, own, spec)
    } else {
        write_addresses(&mut out, own)
    };
    done.ok()?;
    Some(out)
}

/// MACs are fixed before a device is up, and no device makes itself an IPv6 address: otherwise an interim MAC leaks
/// into EVPN by neighbour discovery.
fn write_bridges(out: &mut String, plan: &NodePlan, index: usize) -> std::fmt::Result {
    let Some(vtep) = plan.vtep else { return Ok(()) };
    for access in &plan.access {
        let (vni, [_, a, b, c]) = (access.vni, access.vni.get().to_be_bytes());
        let node = index & 0xff;
        writeln!(
            out,
            "ip link add br{vni} address 02:00:{node:02x}:{a:02x}:{b:02x}:{c:02x} type bridge stp_state 0"
        )?;
        writeln!(out, "ip link set br{vni} addrgenmode none")?;
        writeln!(
            out,
            "ip link add vx{vni} address 02:01:{node:02x}:{a:02x}:{b:02x}:{c:02x} type vxlan id {vni} local {vtep} dstport 4789 nolearning"
        )?;
        writeln!(out, "ip link set vx{vni} master br{vni} addrgenmode none")?;
        writeln!(out, "ip link set vx{vni} type bridge_slave neigh_suppress on learning off")?;
        for port in &access.ports {
            writeln!(out, "ip link set {port} master br{vni} addrgenmode none")?;
        }
        for device in [format!("br{vni}"), format!("vx{vni}")].iter().chain(&access.ports) {
            writeln!(out, "ip link set {device} up")?;
        }
    }
    Ok(())
}

fn write_server(out: &mut String, plan: &NodePlan, node: &crate::lab::Node) -> std::fmt::Result {
    let Some(interface) = plan.interfaces.iter().find(|i| matches!(i.usage, InterfaceUse::Access(_))) else {
        return Ok(());
    };
    let name = &interface.name;
    for address in &node.causeway.addresses {
        let nodad = if address.is_ipv4() { "" } else { " nodad" };
        writeln!(out, "ip address add {address} dev {name}{nodad}")?;
    }
    writeln!(out, "ip link set {name} up")
}

fn write_addresses(out: &mut String, plan: &NodePlan) -> std::fmt::Result {
    for address in own_addresses(plan) {
        writeln!(out, "ip address add {} dev lo", IpNetwork::from(address))?;
    }
    for interface in plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay) {
        if let Some(address) = interface.address {
            writeln!(out, "ip address add {address} dev {}", interface.name)?;
        }
    }
    if let Some(gateway) = plan.gateway {
        // `replace`: under containerlab the management network has a default route already.
        let source = plan.vtep.filter(|v| v.is_ipv4() == gateway.is_ipv4());
        let source = source.map_or_else(String::new, |s| format!(" src {s}"));
        writeln!(out, "ip route replace default via {gateway}{source}")?;
    }
    Ok(())
}
