//! Derivation of a [`Plan`] from a [`Lab`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use causeway_proto::{Mac, Prefix};
use ipnetwork::IpNetwork;

use crate::diagnostic::Diagnostic;
use crate::lab::{Endpoint, Lab, Link, LinkKind, Mode, Node, Role};
use crate::multihoming;
use crate::networks::Network;
use crate::overlay;
use crate::plan::{Access, Domain, Interface, InterfaceUse, NodePlan, Plan};
use crate::sessions;

/// AS of every BGP speaker that has no label.
pub(crate) const DEFAULT_AS: u32 = 65_000;
/// Underlay links get their /31 from here.
pub(crate) const LINK_POOL: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 0);
/// Loopbacks come from here.
pub(crate) const LOOPBACK_POOL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 0);

/// A plan in the making.
pub(crate) struct Builder<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) nodes: BTreeMap<String, NodePlan>,
    pub(crate) networks: BTreeMap<String, Network>,
    pub(crate) vrfs: BTreeMap<String, Domain>,
    pub(crate) errors: Vec<Diagnostic>,
}

pub(crate) fn derive(lab: &Lab) -> Result<Plan, Vec<Diagnostic>> {
    let mut builder = Builder {
        lab,
        nodes: BTreeMap::new(),
        networks: BTreeMap::new(),
        vrfs: BTreeMap::new(),
        errors: Vec::new(),
    };
    overlay::declarations(&mut builder);
    builder.nodes();
    builder.links();
    overlay::networks_of_switches(&mut builder);
    multihoming::derive(&mut builder);
    builder.unique_addresses();
    sessions::gateways(&mut builder);
    sessions::announcements(&mut builder);
    builder.bgp_ids();
    sessions::sessions(&mut builder);
    let Builder { nodes, networks, vrfs, errors, .. } = builder;
    if errors.is_empty() { Ok(Plan { nodes, networks, vrfs }) } else { Err(errors) }
}

impl<'a> Builder<'a> {
    pub(crate) fn error(&mut self, node: &Node, message: String) {
        self.errors.push(self.lab.source.error(node.place, message));
    }

    /// The pool that the nodes' labels say, which must be one for the whole lab.
    fn pool(&mut self, what: &str, of: impl Fn(&Node) -> Option<Prefix>, default: Ipv4Addr) -> Prefix {
        let lab = self.lab;
        let mut said: Option<(&Node, Prefix)> = None;
        for node in lab.nodes.values() {
            match (of(node), said) {
                (Some(pool), None) => said = Some((node, pool)),
                (Some(pool), Some((first, other))) if pool != other => {
                    let message = format!(
                        "{what} is {pool} at node '{}' and {other} at node '{}': a lab has one; put it into the defaults",
                        node.name, first.name
                    );
                    self.error(node, message);
                }
                _ => {}
            }
        }
        said.map(|(_, pool)| pool)
            .or_else(|| Prefix::containing(IpAddr::V4(default), 16))
            .unwrap_or(Prefix::host(IpAddr::V4(default)))
    }

    fn nodes(&mut self) {
        let lab = self.lab;
        let pool = self.pool("causeway.loopback-pool", |n| n.causeway.loopback_pool, LOOPBACK_POOL);
        for node in lab.nodes_in_order() {
            let labels = &node.causeway;
            let mode = overlay::mode(self, node);
            let derived = node.role.is_switch() || mode == Some(Mode::HostVtep);
            // A host has one address: naming its VTEP names it.
            let host_vtep = labels.vtep.filter(|_| node.role == Role::Host);
            let loopback = match labels.loopback.or(host_vtep) {
                Some(address) => Some(address),
                None if derived => self.nth(node, "causeway.loopback-pool", pool, 1 + to_u32(node.index)),
                None => None,
            };
            let vtep = match node.role {
                Role::Host if mode == Some(Mode::Host) => None,
                Role::Leaf | Role::Border | Role::Host => labels.vtep.or(loopback),
                _ => labels.vtep,
            };
            let router_mac = labels.router_mac.or_else(|| vtep.map(router_mac));
            let access = |vni: &_| Access { vni: *vni, ports: Vec::new(), tagged: Vec::new() };
            let plan = NodePlan {
                role: node.role,
                asn: node.role.speaks_bgp().then(|| labels.asn.unwrap_or(DEFAULT_AS)),
                router_id: None,
                route_reflector: labels.route_reflector.unwrap_or(node.role == Role::Spine)
                    && node.role.is_switch(),
                loopback,
                vtep,
                interfaces: Vec::new(),
                bgp: Vec::new(),
                access: labels.vnis.iter().map(access).collect(),
                gateway: None,
                statics: Vec::new(),
                networks: Vec::new(),
                mode,
                router_mac: router_mac.filter(|_| node.role.is_switch()),
                vrfs: Vec::new(),
                routed: Vec::new(),
                uplinks: Vec::new(),
                anycast_vtep: labels.anycast_vtep.filter(|_| matches!(node.role, Role::Leaf | Role::Border)),
                multihoming: None,
            };
            self.nodes.insert(node.name.clone(), plan);
        }
    }

    /// The address `n` behind the start of a pool.
    fn nth(&mut self, node: &Node, what: &str, pool: Prefix, n: u32) -> Option<IpAddr> {
        let IpAddr::V4(first) = pool.network() else { return None };
        let address =
            u32::from(first).checked_add(n).map(|n| IpAddr::V4(n.into())).filter(|a| pool.contains(*a));
        if address.is_none() {
            self.error(
                node,
                format!("{what} {pool} is too small: node '{}' would need its address {n}", node.name),
            );
        }
        address
    }

    fn links(&mut self) {
        let lab = self.lab;
        let pool = self.pool("causeway.link-pool", |n| n.causeway.link_pool, LINK_POOL);
        let mut counter = 0;
        for (index, link) in lab.links.iter().enumerate() {
            let usage = self.usage(link);
            let addresses = match (usage, &link.b) {
                (InterfaceUse::Underlay, Some(b)) => {
                    let addresses = self.link_addresses(&link.a, b, pool, counter);
                    counter += 2;
                    addresses
                }
                _ => [None, None],
            };
            let carried = overlay::carried(self, link);
            let ends = [Some(&link.a), link.b.as_ref()].into_iter().flatten();
            for (end, address) in ends.zip(addresses) {
                let address = address.or_else(|| given(end));
                let interface = Interface {
                    name: end.interface.clone(),
                    usage,
                    address,
                    second: end.ipv6.map(IpNetwork::V6).filter(|second| Some(*second) != address),
                    peer: link.other(end).map(|o| (o.node.clone(), o.interface.clone())),
                    link: index,
                    mtu: link.mtu,
                    untagged: carried.untagged,
                    tagged: carried.tagged.clone(),
                    vrf: carried.vrf.clone(),
                };
                overlay::plug(self, end, interface);
            }
        }
    }

    /// Underlay: both ends of the fabric. Access, trunk and routed: said by labels, with a leaf at one end.
    fn usage(&mut self, link: &Link) -> InterfaceUse {
        let role = |end: &Endpoint| self.lab.nodes.get(&end.node).filter(|n| is_machine(n)).map(|n| n.role);
        let roles = [role(&link.a), link.b.as_ref().and_then(role)];
        if let Some(usage) = overlay::usage(self, link, &roles) {
            return usage;
        }
        let both = link.kind == LinkKind::Veth && link.causeway.may_be_underlay();
        let fabric = |r: &Option<Role>| r.is_some_and(|r| r != Role::Server);
        // Between two that are no switches there is no fabric: such a link is their own affair.
        let switch = roles.iter().flatten().any(|r| r.is_switch());
        if both && switch && roles.iter().all(fabric) { InterfaceUse::Underlay } else { InterfaceUse::Other }
    }

    /// What the file says, else a /31 of the pool. One end said and the other not is an error: the rest would be a guess.
    fn link_addresses(&mut self, a: &Endpoint, b: &Endpoint, pool: Prefix, n: u32) -> [Option<IpNetwork>; 2] {
        let lab = self.lab;
        let Some(node) = lab.nodes.get(&a.node) else { return [None, None] };
        match (given(a), given(b)) {
            (Some(x), Some(y)) => {
                if x.network() != y.network() || x.prefix() != y.prefix() || x.ip() == y.ip() {
                    let message = format!(
                        "the two ends of this link have {x} and {y}: they need different addresses of one prefix"
                    );
                    self.errors.push(lab.source.error(a.place, message));
                }
                [Some(x), Some(y)]
            }
            (None, None) => {
                let mut address = |n| {
                    let ip = self.nth(node, "causeway.link-pool", pool, n)?;
                    IpNetwork::new(ip, 31).ok()
                };
                let first = address(n);
                // One error is enough.
                [first, first.and_then(|_| address(n + 1))]
            }
            _ => {
                self.errors.push(
                    lab.source.error(a.place, "one end of this link has an address and the other has none"),
                );
                [None, None]
            }
        }
    }

    /// No address twice: on links, loopbacks and VTEPs; but for the one that two leaves share.
    fn unique_addresses(&mut self) {
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        let lab = self.lab;
        let mut errors = Vec::new();
        let mut pairs = BTreeSet::new();
        for node in lab.nodes_in_order() {
            let Some(plan) = self.nodes.get(&node.name) else { continue };
            let underlay = plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay);
            let own = plan.vtep.filter(|v| Some(*v) != plan.loopback);
            let all = underlay
                .filter_map(|i| {
                    Some((i.address?.ip(), format!("interface '{}' of node '{}'", i.name, node.name)))
                })
                .chain(plan.loopback.map(|a| (a, format!("the loopback of node '{}'", node.name))))
                .chain(own.map(|a| (a, format!("the VTEP of node '{}'", node.name))));
            let anycast = plan.anycast_vtep.filter(|a| pairs.insert(*a));
            let all = all.chain(anycast.map(|a| (a, format!("the anycast VTEP of node '{}'", node.name))));
            for (address, owner) in all {
                if let Some(other) = owners.insert(address, owner.clone()) {
                    errors.push(lab.source.error(
                        node.place,
                        format!("address {address} is given twice: to {other} and to {owner}"),
                    ));
                }
            }
        }
        self.errors.append(&mut errors);
    }

    /// BGP identifiers: the label, else the loopback, else the first IPv4 address; no two the same.
    fn bgp_ids(&mut self) {
        let lab = self.lab;
        let mut owners: BTreeMap<Ipv4Addr, &str> = BTreeMap::new();
        for node in lab.nodes_in_order().into_iter().filter(|n| n.role.speaks_bgp()) {
            let Some(plan) = self.nodes.get_mut(&node.name) else { continue };
            let first = plan.interfaces.iter().filter_map(|i| Some(i.address?.ip()));
            let v4 = |a: IpAddr| match a {
                IpAddr::V4(v4) => Some(v4),
                IpAddr::V6(_) => None,
            };
            let id = node.causeway.router_id.or_else(|| plan.loopback.into_iter().chain(first).find_map(v4));
            plan.router_id = id;
            let message = match id {
                None => {
                    format!("node '{}' speaks BGP and has no IPv4 address: set causeway.router-id", node.name)
                }
                Some(id) if id.is_unspecified() => {
                    format!("the router id of node '{}' is 0.0.0.0", node.name)
                }
                Some(id) => match owners.insert(id, &node.name) {
                    Some(other) => format!(
                        "router id {id} is given twice: to node '{other}' and to node '{}'",
                        node.name
                    ),
                    None => continue,
                },
            };
            self.error(node, message);
        }
    }
}

/// True for nodes that have a network namespace of their own.
fn is_machine(node: &Node) -> bool {
    !matches!(node.kind.as_str(), "bridge" | "ovs-bridge" | "host")
}

/// The address that the file gives to a link's end.
fn given(end: &Endpoint) -> Option<IpNetwork> {
    end.ipv4.map(IpNetwork::V4).or(end.ipv6.map(IpNetwork::V6))
}

/// Locally administered, and as unique as the VTEP.
fn router_mac(vtep: IpAddr) -> Mac {
    let [a, b, c, d] = match vtep {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [a, b, c, d]
        }
    };
    Mac::new([0x02, 0x02, a, b, c, d])
}

fn to_u32(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX - 1)
}
