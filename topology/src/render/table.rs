//! The address plan: as data for programs, as a table for people.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::lab::Lab;
use crate::plan::{InterfaceUse, NodePlan, Peering, Plan};

/// Every node of a lab with its addresses, and what is declared. Displayed as tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AddressPlan {
    /// Name of the lab.
    pub lab: String,
    /// Nodes in the order of the file.
    pub nodes: Vec<Node>,
    /// Declared networks by name.
    pub networks: Vec<Network>,
    /// Declared VRFs by name.
    pub vrfs: Vec<Vrf>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its role.
    pub role: &'static str,
    /// How it takes part in the overlay.
    pub mode: Option<&'static str>,
    /// AS number.
    pub asn: Option<u32>,
    /// BGP identifier.
    pub router_id: Option<String>,
    /// True for a route reflector.
    pub route_reflector: bool,
    /// Address on `lo`.
    pub loopback: Option<String>,
    /// Where its VXLAN tunnels end.
    pub vtep: Option<String>,
    /// Its MAC as router of the L3 VNIs.
    pub router_mac: Option<String>,
    /// Next hop of the default route.
    pub gateway: Option<String>,
    /// VRFs on it.
    pub vrfs: Vec<String>,
    /// Interfaces in the order of the links.
    pub interfaces: Vec<NodeInterface>,
    /// BGP sessions in the order of the links.
    pub sessions: Vec<Session>,
    /// Networks that it bridges, by VNI.
    pub networks: Vec<NodeNetwork>,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeInterface {
    /// Its name.
    pub name: String,
    /// `underlay`, `access`, `trunk`, `routed` or `other`.
    pub usage: &'static str,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// `NODE:INTERFACE` at the other end.
    pub peer: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// VNI of untagged frames.
    pub untagged: Option<u32>,
    /// VNIs of 802.1Q frames.
    pub tagged: Vec<u32>,
    /// VRF of a routed port.
    pub vrf: Option<String>,
}

/// A BGP session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The other node.
    pub node: String,
    /// Its address.
    pub address: String,
    /// The own address.
    pub local_address: String,
    /// Its AS.
    pub remote_as: u32,
    /// `client`, `internal` or `external`.
    pub peering: &'static str,
    /// `unicast`, `evpn`.
    pub families: Vec<&'static str>,
}

/// A network on a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NodeNetwork {
    /// VNI.
    pub vni: u32,
    /// Name, if it is declared.
    pub name: Option<String>,
    /// VLAN.
    pub vlan: Option<u16>,
    /// Ports with untagged frames of it.
    pub untagged_ports: Vec<String>,
    /// Ports with tagged frames of it.
    pub tagged_ports: Vec<String>,
}

/// A declared network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Network {
    /// Name.
    pub name: String,
    /// VRF.
    pub vrf: String,
    /// VNI.
    pub vni: u32,
    /// VLAN.
    pub vlan: Option<u16>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Prefixes.
    pub subnets: Vec<String>,
    /// Anycast gateway addresses.
    pub gateways: Vec<String>,
    /// How it is routed.
    pub irb: &'static str,
}

/// A declared VRF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vrf {
    /// Name.
    pub name: String,
    /// L3 VNI.
    pub l3_vni: Option<u32>,
    /// Number of the kernel's routing table at switches.
    pub table: u32,
    /// VRFs whose routes it imports.
    pub leaks: Vec<String>,
}

fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    items.into_iter().map(|i| i.to_string()).collect()
}

/// The address plan of a lab.
pub(super) fn of(lab: &Lab, plan: &Plan) -> AddressPlan {
    let nodes = lab.nodes_in_order().into_iter();
    let nodes = nodes.filter_map(|n| Some(node(&n.name, plan, plan.nodes.get(&n.name)?))).collect();
    let networks = plan.networks.values().map(|n| Network {
        name: n.name.clone(),
        vrf: n.vrf.clone(),
        vni: n.vni.get(),
        vlan: n.vlan.map(|v| v.get()),
        mtu: n.mtu,
        subnets: texts(&n.subnets),
        gateways: texts(&n.gateways),
        irb: n.irb.word(),
    });
    let vrfs = plan.vrfs.values().map(|d| Vrf {
        name: d.vrf.name.clone(),
        l3_vni: d.vrf.l3_vni.map(|v| v.get()),
        table: d.table,
        leaks: d.leaks.clone(),
    });
    AddressPlan { lab: lab.name.clone(), nodes, networks: networks.collect(), vrfs: vrfs.collect() }
}

fn node(name: &str, plan: &Plan, own: &NodePlan) -> Node {
    let interfaces = own.interfaces.iter().map(|i| NodeInterface {
        name: i.name.clone(),
        usage: match i.usage {
            InterfaceUse::Underlay => "underlay",
            InterfaceUse::Access(_) => "access",
            InterfaceUse::Trunk => "trunk",
            InterfaceUse::Routed => "routed",
            InterfaceUse::Other => "other",
        },
        addresses: texts([i.address, i.second].into_iter().flatten()),
        peer: i.peer.as_ref().map(|(node, port)| format!("{node}:{port}")),
        mtu: i.mtu,
        untagged: i.untagged.map(|v| v.get()),
        tagged: i.tagged.iter().map(|v| v.get()).collect(),
        vrf: i.vrf.clone(),
    });
    let sessions = own.bgp.iter().map(|s| Session {
        node: s.node.clone(),
        address: s.address.to_string(),
        local_address: s.local_address.to_string(),
        remote_as: s.remote_as,
        peering: match s.peering {
            Peering::Client => "client",
            Peering::Internal => "internal",
            Peering::External => "external",
        },
        families: [s.unicast.then_some("unicast"), s.evpn.then_some("evpn")].into_iter().flatten().collect(),
    });
    let networks = own.access.iter().map(|a| NodeNetwork {
        vni: a.vni.get(),
        name: plan.network(a.vni).map(|n| n.name.clone()),
        vlan: plan.network(a.vni).and_then(|n| n.vlan).map(|v| v.get()),
        untagged_ports: a.ports.clone(),
        tagged_ports: a.tagged.clone(),
    });
    Node {
        name: name.to_owned(),
        role: own.role.word(),
        mode: own.mode.map(crate::lab::Mode::word),
        asn: own.asn,
        router_id: own.router_id.map(|v| v.to_string()),
        route_reflector: own.route_reflector,
        loopback: own.loopback.map(|v| v.to_string()),
        vtep: own.vtep.map(|v| v.to_string()),
        router_mac: own.router_mac.map(|v| v.to_string()),
        gateway: own.gateway.map(|v| v.to_string()),
        vrfs: own.vrfs.clone(),
        interfaces: interfaces.collect(),
        sessions: sessions.collect(),
        networks: networks.collect(),
    }
}

impl fmt::Display for AddressPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_table(f, &["NODE", "ROLE", "MODE", "AS", "LOOPBACK", "VTEP", "ROUTER MAC"], &self.node_rows())?;
        f.write_str("\n")?;
        write_table(f, &["INTERFACE", "USE", "ADDRESS", "PEER", "MTU", "CARRIES"], &self.interface_rows())?;
        let sessions = self.session_rows();
        if !sessions.is_empty() {
            f.write_str("\n")?;
            write_table(f, &["SPEAKER", "NEIGHBOUR", "ADDRESS", "AS", "PEERING", "FAMILIES"], &sessions)?;
        }
        if !self.networks.is_empty() {
            f.write_str("\n")?;
            let head = ["NETWORK", "VRF", "VNI", "VLAN", "MTU", "SUBNETS", "GATEWAYS", "SWITCHES"];
            write_table(f, &head, &self.network_rows())?;
        }
        if !self.vrfs.is_empty() {
            f.write_str("\n")?;
            write_table(f, &["VRF", "L3 VNI", "TABLE", "IMPORTS", "SWITCHES"], &self.vrf_rows())?;
        }
        Ok(())
    }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |v| v.to_string())
}

fn joined(items: &[String]) -> String {
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}

impl AddressPlan {
    fn node_rows(&self) -> Vec<Vec<String>> {
        let row = |n: &Node| {
            let role = if n.route_reflector { format!("{} (reflector)", n.role) } else { n.role.to_owned() };
            vec![
                n.name.clone(),
                role,
                or_dash(n.mode),
                or_dash(n.asn),
                or_dash(n.loopback.as_ref()),
                or_dash(n.vtep.as_ref()),
                or_dash(n.router_mac.as_ref().filter(|_| n.mode.is_some())),
            ]
        };
        self.nodes.iter().map(row).collect()
    }

    fn interface_rows(&self) -> Vec<Vec<String>> {
        let name = |vni: &u32| {
            let network = self.networks.iter().find(|n| n.vni == *vni);
            network.map_or_else(|| format!("VNI {vni}"), |n| n.name.clone())
        };
        let mut rows = Vec::new();
        for node in &self.nodes {
            for i in &node.interfaces {
                let mut carries: Vec<String> = i.untagged.iter().map(name).collect();
                carries.extend(i.tagged.iter().map(|v| format!("{} (tagged)", name(v))));
                carries.extend(i.vrf.iter().map(|v| format!("VRF {v}")));
                rows.push(vec![
                    format!("{}:{}", node.name, i.name),
                    i.usage.to_owned(),
                    joined(&i.addresses),
                    or_dash(i.peer.as_ref()),
                    i.mtu.to_string(),
                    joined(&carries),
                ]);
            }
        }
        rows
    }

    fn session_rows(&self) -> Vec<Vec<String>> {
        let all = self.nodes.iter().flat_map(|n| n.sessions.iter().map(move |s| (n, s)));
        let row = |(n, s): (&Node, &Session)| {
            vec![
                n.name.clone(),
                s.node.clone(),
                s.address.clone(),
                s.remote_as.to_string(),
                s.peering.to_owned(),
                s.families.join(", "),
            ]
        };
        all.map(row).collect()
    }

    fn network_rows(&self) -> Vec<Vec<String>> {
        let row = |n: &Network| {
            let has = |node: &&Node| node.networks.iter().any(|o| o.vni == n.vni);
            let switches: Vec<String> = self.nodes.iter().filter(has).map(|n| n.name.clone()).collect();
            vec![
                n.name.clone(),
                n.vrf.clone(),
                n.vni.to_string(),
                or_dash(n.vlan),
                n.mtu.to_string(),
                joined(&n.subnets),
                joined(&n.gateways),
                joined(&switches),
            ]
        };
        self.networks.iter().map(row).collect()
    }

    fn vrf_rows(&self) -> Vec<Vec<String>> {
        let row = |v: &Vrf| {
            let has = self.nodes.iter().filter(|n| n.vrfs.contains(&v.name));
            let switches: Vec<String> = has.map(|n| n.name.clone()).collect();
            vec![v.name.clone(), or_dash(v.l3_vni), v.table.to_string(), joined(&v.leaks), joined(&switches)]
        };
        self.vrfs.iter().map(row).collect()
    }
}

/// Columns as wide as their widest cell, two blanks between them.
fn write_table(f: &mut fmt::Formatter<'_>, head: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    let head: Vec<String> = head.iter().map(|h| (*h).to_owned()).collect();
    for row in std::iter::once(&head).chain(rows) {
        for (column, cell) in row.iter().enumerate() {
            let width = widths.entry(column).or_default();
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = widths.get(&column).copied().unwrap_or_default();
            format!("{cell:width$}")
        });
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
