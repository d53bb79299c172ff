//! The controller's records, as a manifest.

use std::fmt::{Display, Write};

use crate::lab::{Lab, Mode, Node, Role};
use crate::multihoming::Multihoming;
use crate::networks::{GATEWAY_MAC, Irb, Network};
use crate::plan::{Domain, NodePlan, Plan};

/// All records. Writing to text does not fail.
pub(super) fn text(lab: &Lab, plan: &Plan) -> String {
    let mut out =
        format!("# What the controller has to know of the lab {}: `causeway apply -f FILE`.\n", lab.name);
    let mut records = Vec::new();
    records.extend(plan.vrfs.values().map(vrf));
    for network in plan.networks.values() {
        records.push(self::network(network));
        records.extend(network.subnets.iter().map(|prefix| subnet(lab, plan, network, *prefix)));
    }
    let nodes = lab.nodes_in_order().into_iter();
    records.extend(nodes.filter_map(|n| node(plan, n, plan.nodes.get(&n.name)?)));
    records.extend(peers(plan));
    out += &records.join("---\n");
    out
}

/// One record: fields in the order in which they are written.
struct Record(String);

impl Record {
    fn new(kind: &str) -> Self {
        Record(format!("kind: {kind}\n"))
    }

    fn field(mut self, name: &str, value: impl Display) -> Self {
        let _ = writeln!(self.0, "{name}: {value}");
        self
    }

    fn some(self, name: &str, value: Option<impl Display>) -> Self {
        match value {
            Some(value) => self.field(name, value),
            None => self,
        }
    }

    /// Every item quoted: a route target or an IPv6 address is no plain scalar.
    fn list(self, name: &str, items: impl Iterator<Item = impl Display>) -> Self {
        let items: Vec<String> = items.map(|i| format!("\"{i}\"")).collect();
        if items.is_empty() { self } else { self.field(name, format!("[{}]", items.join(", "))) }
    }
}

fn vrf(domain: &Domain) -> String {
    let vrf = &domain.vrf;
    let mut record = Record::new("Vrf")
        .field("name", &vrf.name)
        .some("l3_vni", vrf.l3_vni)
        .list("export_targets", vrf.exports.iter())
        .list("import_targets", vrf.imports.iter());
    if !vrf.routes.is_empty() {
        let routes =
            vrf.routes.iter().map(|(prefix, node)| format!("{{prefix: \"{prefix}\", node: {node}}}"));
        record = record.field("routes", format!("[{}]", routes.collect::<Vec<_>>().join(", ")));
    }
    record.0
}

fn vrf_name(network: &Network) -> Option<&str> {
    (network.vrf != "default").then_some(network.vrf.as_str())
}

fn network(network: &Network) -> String {
    // What is the controller's own default is left to it.
    let irb = (network.irb != Irb::Symmetric).then_some(network.irb.word());
    let mac = (network.gateway_mac != GATEWAY_MAC).then(|| format!("\"{}\"", network.gateway_mac));
    Record::new("Network")
        .some("vrf", vrf_name(network))
        .field("name", &network.name)
        .field("vni", network.vni)
        .some("vlan", network.vlan)
        .field("mtu", network.mtu)
        .list("export_targets", network.exports.iter())
        .list("import_targets", network.imports.iter())
        .some("irb", irb)
        .some("gateway_mac", mac)
        .0
}

/// A server behind a switch that learns nothing: it becomes a port of ours with the addresses that it has.
fn is_told(plan: &Plan, server: &Node) -> bool {
    let leaf = |name: &String| plan.nodes.get(name).and_then(|leaf| leaf.mode);
    let mut links = plan.nodes.get(&server.name).into_iter().flat_map(|own| &own.interfaces);
    links.any(|link| {
        let leaf = link.peer.as_ref().and_then(|(name, _)| leaf(name));
        matches!(leaf, Some(Mode::TorAgent | Mode::TorStatic))
    })
}

/// Addresses that servers have by themselves are kept out of the pool, but for those that ports will ask for.
fn subnet(lab: &Lab, plan: &Plan, network: &Network, prefix: causeway_proto::Prefix) -> String {
    let gateway =
        network.gateways.iter().find(|g| prefix.contains(g.ip())).map(|g| format!("\"{}\"", g.ip()));
    let inside = |text: &&String| {
        let first = text.split(['-', '/']).next().and_then(|a| a.parse().ok());
        first.is_some_and(|a| prefix.contains(a))
    };
    let said: Vec<String> = network.exclusions.iter().filter(inside).cloned().collect();
    let servers = lab.nodes_in_order().into_iter().filter(|n| !is_told(plan, n));
    let servers = servers.flat_map(|n| &n.causeway.addresses);
    let own_vrf = |a: &&ipnetwork::IpNetwork| prefix.contains(a.ip());
    let taken = servers.filter(own_vrf).map(|a| a.ip().to_string());
    let covered = |a: &String| {
        said.iter().any(|s| {
            let range = s.parse::<causeway_proto::AddressRange>();
            let address = a.parse();
            range.is_ok_and(|r| address.is_ok_and(|a| r.contains(a)))
        })
    };
    let mut all = said.clone();
    for address in taken.filter(|a| !covered(a)) {
        if !all.contains(&address) {
            all.push(address);
        }
    }
    Record::new("Subnet")
        .some("vrf", vrf_name(network))
        .field("network", &network.name)
        .field("prefix", format!("\"{prefix}\""))
        .some("gateway", gateway)
        .list("exclusions", all.iter())
        .0
}

/// Leaves, hosts, and servers that the controller is to know.
fn node(plan: &Plan, node: &Node, own: &NodePlan) -> Option<String> {
    let mode = own.mode?;
    let mtu = own.interfaces.iter().map(|i| i.mtu).min();
    let behind = |uplinks: &[crate::plan::Uplink]| {
        let uplinks = uplinks.iter().map(|u| {
            format!(
                "{{interface: \"{}\", switch: {}, switch_interface: \"{}\"}}",
                u.interface, u.switch, u.switch_interface
            )
        });
        format!("[{}]", uplinks.collect::<Vec<_>>().join(", "))
    };
    let underlay = own.interfaces.iter().filter(|i| i.usage == crate::plan::InterfaceUse::Underlay);
    let mtu = if mode == Mode::Host { mtu } else { underlay.map(|i| i.mtu).min() };
    let mut record = Record::new("Node")
        .field("name", &node.name)
        .field("mode", mode)
        .some("vtep", own.vtep.map(|v| format!("\"{v}\"")))
        .some("underlay_mtu", mtu)
        .some("site", site(plan, own))
        .some("anycast_vtep", own.anycast_vtep.map(|v| format!("\"{v}\"")))
        .some("router_mac", own.router_mac.filter(|_| mode.is_switch()).map(|m| format!("\"{m}\"")));
    if mode == Mode::Host {
        record = record.field("uplinks", behind(&own.uplinks));
        if let Some(Multihoming::Segment(esi)) = own.multihoming {
            record = record.field("esi", format!("\"{esi}\""));
        }
        if node.causeway.vlan_aware {
            record = record.field("host_bridge", "vlan-aware");
        }
        if node.causeway.move_addresses {
            record = record.field("move_addresses", true);
        }
    }
    let networks = own.access.iter().filter_map(|a| plan.network(a.vni));
    Some(record.list("networks", networks.map(|n| format!("{}/{}", n.vrf, n.name))).0)
}

/// The switch that a host is linked to.
fn site<'a>(plan: &'a Plan, own: &'a NodePlan) -> Option<&'a str> {
    let switch = |peer: &(String, String)| plan.nodes.get(&peer.0).is_some_and(|n| n.role.is_switch());
    let peers = own.interfaces.iter().filter_map(|i| i.peer.as_ref()).filter(|p| switch(p));
    let mut peers = peers.filter(|_| own.role == Role::Host || own.role == Role::Server);
    peers.next().map(|(node, _)| node.as_str())
}

/// The switches that controllers speak with, each once.
fn peers(plan: &Plan) -> Vec<String> {
    let controllers = plan.nodes.values().filter(|n| n.role == Role::Controller);
    let mut seen = std::collections::BTreeSet::new();
    let sessions = controllers.flat_map(|c| &c.bgp).filter(|s| seen.insert(s.address));
    let peer = |s: &crate::plan::Neighbor| {
        let record = Record::new("Peer").field("address", format!("\"{}\"", s.address));
        record.field("asn", s.remote_as).field("hold_seconds", 9).0
    };
    sessions.map(peer).collect()
}
