//! What the labels say of networks, routing domains and ports, checked against each other.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::{Prefix, Vni};

use crate::context::shorten;
use crate::derive::{Builder, DEFAULT_AS};
use crate::diagnostic::Place;
use crate::lab::{Endpoint, Link, Mode, Node, Role};
use crate::labels::Reference;
use crate::networks::{Irb, Network, RouteTarget, Vrf};
use crate::plan::{Access, Domain, Interface, InterfaceUse, Routed, Uplink};
use crate::suggest::did_you_mean;

/// Tables of VRFs begin here; the numbers below are the kernel's and the user's.
const FIRST_TABLE: u32 = 1001;

/// What a link carries.
pub(crate) struct Carried {
    pub(crate) untagged: Option<Vni>,
    pub(crate) tagged: Vec<Vni>,
    pub(crate) vrf: Option<String>,
}

impl Builder<'_> {
    fn error_at(&mut self, place: Place, message: String) {
        self.errors.push(self.lab.source.error(place, message));
    }
}

/// Networks and VRFs of all nodes, which must agree.
pub(crate) fn declarations(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    let mut vrfs: BTreeMap<String, Vrf> = BTreeMap::new();
    for node in lab.nodes_in_order() {
        for (name, network) in &node.causeway.networks {
            let known = builder.networks.entry(name.clone()).or_insert_with(|| network.clone());
            let same = Network { place: known.place, ..network.clone() };
            if *known != same {
                let message = format!(
                    "network '{name}' is declared differently elsewhere: put it into the defaults, once"
                );
                builder.error_at(network.place, message);
            }
        }
        for (name, vrf) in &node.causeway.vrfs {
            let known = vrfs.entry(name.clone()).or_insert_with(|| vrf.clone());
            let same = Vrf { place: known.place, ..vrf.clone() };
            if *known != same {
                let message =
                    format!("VRF '{name}' is declared differently elsewhere: put it into the defaults, once");
                builder.error_at(vrf.place, message);
            }
        }
    }
    let asn = lab.nodes_in_order().into_iter().find(|n| n.role == Role::Controller);
    let asn = asn.and_then(|n| n.causeway.asn).unwrap_or(DEFAULT_AS);
    builder.vrfs = domains(vrfs, asn);
    check_networks(builder);
    check_vrfs(builder);
}

/// Tables in the order of names; an imported route target that another VRF exports is a leak of its routes.
fn domains(vrfs: BTreeMap<String, Vrf>, asn: u32) -> BTreeMap<String, Domain> {
    let exports = |vrf: &Vrf| -> BTreeSet<RouteTarget> {
        let automatic =
            vrf.l3_vni.filter(|_| vrf.exports.is_empty()).map(|vni| RouteTarget::automatic(asn, vni));
        vrf.exports.iter().copied().chain(automatic).collect()
    };
    let all: BTreeMap<&str, BTreeSet<RouteTarget>> =
        vrfs.iter().map(|(name, vrf)| (name.as_str(), exports(vrf))).collect();
    let domain = |(vrf, table): (&Vrf, u32)| {
        let others = || all.iter().filter(|(name, _)| **name != vrf.name);
        let leaked = |target: &RouteTarget| others().any(|(_, exports)| exports.contains(target));
        let leaks = others().filter(|(_, exports)| vrf.imports.iter().any(|t| exports.contains(t)));
        let own = exports(vrf);
        let imports: Vec<RouteTarget> = vrf.imports.iter().copied().filter(|t| !leaked(t)).collect();
        let same = imports.iter().all(|t| own.contains(t)) && imports.len() >= own.len();
        Domain {
            vrf: vrf.clone(),
            table,
            leaks: leaks.map(|(name, _)| (*name).to_owned()).collect(),
            imports: if same { Vec::new() } else { imports },
        }
    };
    vrfs.values().zip(FIRST_TABLE..).map(domain).map(|d| (d.vrf.name.clone(), d)).collect()
}

fn check_networks(builder: &mut Builder<'_>) {
    let networks: Vec<Network> = builder.networks.values().cloned().collect();
    let (mut vnis, mut vlans) = (BTreeMap::new(), BTreeMap::new());
    for network in &networks {
        let Network { name, vni, vrf, place, .. } = network;
        if vrf != "default" && !builder.vrfs.contains_key(vrf) {
            let hint = did_you_mean(vrf, builder.vrfs.keys().map(String::as_str));
            let message =
                format!("network '{name}' is of VRF '{vrf}', which no causeway.vrf.{vrf} declares{hint}");
            builder.error_at(*place, message);
        }
        if let Some(other) = vnis.insert(*vni, name) {
            builder.error_at(
                *place,
                format!("VNI {vni} is given twice: to network '{other}' and to network '{name}'"),
            );
        }
        if let Some(vlan) = network.vlan
            && let Some(other) = vlans.insert(vlan, name)
        {
            let message = format!("VLAN {vlan} is given twice: to network '{other}' and to network '{name}'");
            builder.error_at(*place, message);
        }
    }
    for (position, network) in networks.iter().enumerate() {
        for other in networks.iter().take(position).filter(|o| o.vrf == network.vrf) {
            let overlap = |p: &Prefix| other.subnets.iter().find(|o| o.overlaps(*p)).map(|o| (*p, *o));
            if let Some((own, theirs)) = network.subnets.iter().find_map(overlap) {
                let message = format!(
                    "{own} of network '{}' overlaps {theirs} of network '{}' in the same VRF '{}'",
                    network.name, other.name, network.vrf
                );
                builder.error_at(network.place, message);
            }
        }
    }
}

fn check_vrfs(builder: &mut Builder<'_>) {
    let vrfs: Vec<Vrf> = builder.vrfs.values().map(|d| d.vrf.clone()).collect();
    let mut owners: BTreeMap<Vni, String> =
        builder.networks.values().map(|n| (n.vni, format!("network '{}'", n.name))).collect();
    let interfaces: BTreeSet<&str> = builder
        .lab
        .links
        .iter()
        .flat_map(|l| [Some(&l.a), l.b.as_ref()])
        .flatten()
        .map(|e| e.interface.as_str())
        .collect();
    for vrf in &vrfs {
        let name = &vrf.name;
        if interfaces.contains(name.as_str()) || matches!(name.as_str(), "lo" | "br0" | "all") {
            builder.error_at(vrf.place, format!("VRF '{name}' cannot have this name: an interface has it"));
        }
        if let Some(vni) = vrf.l3_vni
            && let Some(other) = owners.insert(vni, format!("VRF '{name}'"))
        {
            builder.error_at(vrf.place, format!("VNI {vni} is given twice: to {other} and to VRF '{name}'"));
        }
        for (prefix, node) in &vrf.routes {
            if !builder.lab.nodes.contains_key(node) {
                let hint = did_you_mean(node, builder.lab.nodes.keys().map(String::as_str));
                let message = format!(
                    "{prefix} of VRF '{name}' lies behind '{}', which is no node{hint}",
                    shorten(node)
                );
                builder.error_at(vrf.place, message);
            }
        }
    }
}

/// What the label says, else: a leaf speaks EVPN; a host is a VTEP, unless a link of it carries networks.
pub(crate) fn mode(builder: &mut Builder<'_>, node: &Node) -> Option<Mode> {
    let said = node.causeway.mode;
    let (default, fits) = match node.role {
        Role::Leaf | Role::Border => (Some(Mode::TorEvpn), said.is_none_or(Mode::is_switch)),
        Role::Host => {
            let plugged =
                builder.lab.endpoints_of(&node.name).any(|(link, _)| link.causeway.carries_networks());
            (Some(if plugged { Mode::Host } else { Mode::HostVtep }), said.is_none_or(|m| !m.is_switch()))
        }
        // A server is known to the controller as a machine behind a switch, if it is said.
        Role::Server => (None, said.is_none_or(|m| m == Mode::Host)),
        _ => (None, true),
    };
    if let Some(said) = said.filter(|_| !fits) {
        builder
            .error(node, format!("causeway.mode {said} does not fit node '{}', a {}", node.name, node.role));
    }
    match node.role {
        Role::Leaf | Role::Border | Role::Host | Role::Server => said.or(default),
        // Inherited from defaults, where it is meant for others.
        _ => None,
    }
}

/// The network of a name or VLAN.
fn resolve(builder: &mut Builder<'_>, reference: &Reference) -> Option<Network> {
    let name = reference.name.as_str();
    let number: Option<u16> = name.parse().ok();
    let is = |n: &&Network| n.name == name || number.is_some_and(|id| n.vlan.is_some_and(|v| v.get() == id));
    let found = builder.networks.values().find(is).cloned();
    if found.is_none() {
        let hint = did_you_mean(name, builder.networks.keys().map(String::as_str));
        let message = match number {
            Some(0 | 4095..) => format!("VLAN {name} is not in 1 to 4094"),
            Some(_) => format!("no network has VLAN {name}"),
            None => {
                format!("there is no network '{}'{hint}: declare it by causeway.network.NAME", shorten(name))
            }
        };
        builder.error_at(reference.place, message);
    }
    found
}

/// The networks and VRF that a link's labels name.
pub(crate) fn carried(builder: &mut Builder<'_>, link: &Link) -> Carried {
    let labels = &link.causeway;
    let untagged = labels.untagged.as_ref().and_then(|r| resolve(builder, r)).map(|n| n.vni).or(labels.vni);
    let mut tagged = Vec::new();
    for reference in &labels.tagged {
        if reference.name == "all" {
            tagged.extend(builder.networks.values().filter(|n| n.vlan.is_some()).map(|n| n.vni));
            continue;
        }
        let Some(network) = resolve(builder, reference) else { continue };
        if network.vlan.is_none() {
            let message = format!("network '{}' has no VLAN: it cannot be tagged", network.name);
            builder.error_at(reference.place, message);
        }
        tagged.push(network.vni);
    }
    tagged.sort_unstable();
    tagged.dedup();
    if let Some(vni) = labels.vni {
        l3_vni_as_network(builder, vni, "this link", link.place);
    }
    if let Some(vni) = untagged.filter(|vni| tagged.contains(vni)) {
        let message = format!("VNI {vni} is both tagged and untagged on this link: choose one");
        builder.error_at(link.place, message);
    }
    if let Some(vni) = untagged.filter(|_| !tagged.is_empty()) {
        let network = builder.networks.values().find(|n| n.vni == vni);
        if network.is_none_or(|n| n.vlan.is_none()) {
            let name = network.map_or_else(|| vni.to_string(), |n| format!("'{}'", n.name));
            let message =
                format!("network {name} has no VLAN: a link that carries it untagged can carry no other");
            builder.error_at(link.place, message);
        }
    }
    let vrf = labels.vrf.as_ref().filter(|r| {
        let known = builder.vrfs.contains_key(&r.name);
        if !known {
            let hint = did_you_mean(&r.name, builder.vrfs.keys().map(String::as_str));
            let message =
                format!("there is no VRF '{}'{hint}: declare it by causeway.vrf.NAME", shorten(&r.name));
            builder.error_at(r.place, message);
        }
        known
    });
    Carried { untagged, tagged, vrf: vrf.map(|r| r.name.clone()) }
}

/// A VNI is of a network or of a VRF's routed traffic: a switch has one device for each.
fn l3_vni_as_network(builder: &mut Builder<'_>, vni: Vni, what: &str, place: Place) {
    let vrf = builder.vrfs.values().find(|d| d.vrf.l3_vni == Some(vni)).map(|d| d.vrf.name.clone());
    if let Some(vrf) = vrf {
        let message = format!(
            "VNI {vni} is given twice: to a network of {what} and to the routed traffic of VRF '{vrf}'"
        );
        builder.error_at(place, message);
    }
}

/// What a link is for that carries networks or is routed; `None` for any other.
pub(crate) fn usage(
    builder: &mut Builder<'_>,
    link: &Link,
    roles: &[Option<Role>; 2],
) -> Option<InterfaceUse> {
    let labels = &link.causeway;
    let leaf = roles.iter().flatten().any(|r| matches!(r, Role::Leaf | Role::Border));
    if labels.vrf.is_some() {
        let addressed = |e: &Endpoint| e.ipv4.is_some() || e.ipv6.is_some();
        if !leaf {
            builder.error_at(link.place, "causeway.vrf needs a leaf at one end of this link".to_owned());
        } else if !addressed(&link.a) || !link.b.as_ref().is_some_and(addressed) {
            let message =
                "a routed port (causeway.vrf) needs ipv4 or ipv6 addresses at both ends of its link";
            builder.error_at(link.place, message.to_owned());
        }
        return Some(InterfaceUse::Routed);
    }
    if !labels.carries_networks() {
        return None;
    }
    if !leaf {
        let what = match labels.vni {
            Some(vni) => format!("causeway.vni {vni}"),
            None => "a link that carries networks".to_owned(),
        };
        let message = format!("{what} needs a leaf at one end of this link, to bridge it into VXLAN");
        builder.error_at(link.place, message);
    }
    let untagged = labels.vni.or_else(|| {
        let reference = labels.untagged.as_ref()?;
        let is = |n: &&Network| {
            n.name == reference.name || n.vlan.is_some_and(|v| v.to_string() == reference.name)
        };
        builder.networks.values().find(is).map(|n| n.vni)
    });
    Some(match untagged.filter(|_| labels.tagged.is_empty()) {
        Some(vni) => InterfaceUse::Access(vni),
        None => InterfaceUse::Trunk,
    })
}

/// Gives a node its interface, and a leaf the networks on it.
pub(crate) fn plug(builder: &mut Builder<'_>, end: &Endpoint, interface: Interface) {
    let peer = interface.peer.clone();
    let is_leaf = |role| matches!(role, Role::Leaf | Role::Border);
    let to_leaf = peer.filter(|(node, _)| builder.lab.nodes.get(node).is_some_and(|n| is_leaf(n.role)));
    let Some(plan) = builder.nodes.get_mut(&end.node) else { return };
    let carries = interface.untagged.is_some() || !interface.tagged.is_empty();
    if is_leaf(plan.role) {
        if let Some(vni) = interface.untagged {
            access(&mut plan.access, vni).ports.push(interface.name.clone());
        }
        for vni in &interface.tagged {
            access(&mut plan.access, *vni).tagged.push(interface.name.clone());
        }
    } else if let Some((switch, switch_interface)) = to_leaf.filter(|_| carries) {
        plan.uplinks.push(Uplink { interface: interface.name.clone(), switch, switch_interface });
    }
    plan.interfaces.push(interface);
}

/// The entry of a VNI, made in its place if it is not there.
fn access(all: &mut Vec<Access>, vni: Vni) -> &mut Access {
    let position = match all.binary_search_by_key(&vni, |a| a.vni) {
        Ok(position) => position,
        Err(position) => {
            all.insert(position, Access { vni, ports: Vec::new(), tagged: Vec::new() });
            position
        }
    };
    &mut all[position]
}

/// All networks and VRFs of every leaf: those of its ports, those it is told, those its routing needs.
pub(crate) fn networks_of_switches(builder: &mut Builder<'_>) {
    let lab = builder.lab;
    for node in lab.nodes_in_order() {
        if !matches!(node.role, Role::Leaf | Role::Border) {
            if !node.causeway.bridged.is_empty() && node.role != Role::Spine {
                builder.error(
                    node,
                    format!("causeway.networks belongs to a leaf, not to the {} '{}'", node.role, node.name),
                );
            }
            continue;
        }
        for vni in &node.causeway.vnis {
            l3_vni_as_network(builder, *vni, &format!("node '{}'", node.name), node.place);
        }
        let told: Vec<Vni> =
            node.causeway.bridged.iter().filter_map(|r| resolve(builder, r)).map(|n| n.vni).collect();
        let routed = routed(builder, node);
        let Some(plan) = builder.nodes.get_mut(&node.name) else { continue };
        for vni in told {
            access(&mut plan.access, vni);
        }
        let mut vrfs: BTreeSet<String> = plan.interfaces.iter().filter_map(|i| i.vrf.clone()).collect();
        let present = |vni: Vni, access: &[Access]| access.iter().any(|a| a.vni == vni);
        let routes = |n: &&Network| n.irb != Irb::None && !n.gateways.is_empty();
        for network in builder.networks.values().filter(routes).filter(|n| present(n.vni, &plan.access)) {
            vrfs.insert(network.vrf.clone());
        }
        // Asymmetric routing ends in the destination's network, so it must be here. A static switch has no other way.
        let asymmetric = |n: &&Network| n.irb == Irb::Asymmetric || plan.mode == Some(Mode::TorStatic);
        for network in builder.networks.values().filter(routes).filter(asymmetric) {
            if vrfs.contains(&network.vrf) {
                access(&mut plan.access, network.vni);
            }
        }
        loop {
            let leaked =
                vrfs.iter().filter_map(|v| builder.vrfs.get(v)).flat_map(|d| d.leaks.iter().cloned());
            let more: Vec<String> = leaked.filter(|v| !vrfs.contains(v)).collect();
            if more.is_empty() {
                break;
            }
            vrfs.extend(more);
        }
        vrfs.remove("default");
        plan.vrfs = vrfs.into_iter().collect();
        plan.routed = routed;
    }
}

/// Prefixes behind the routed ports of a leaf.
fn routed(builder: &Builder<'_>, node: &Node) -> Vec<Routed> {
    let Some(plan) = builder.nodes.get(&node.name) else { return Vec::new() };
    let mut all = Vec::new();
    for interface in &plan.interfaces {
        let (Some(vrf), Some((peer, port))) = (&interface.vrf, &interface.peer) else { continue };
        let Some(machine) = builder.lab.nodes.get(peer) else { continue };
        let ends = builder.lab.endpoints_of(peer).filter(|(_, end)| end.interface == *port);
        for (_, end) in ends {
            for prefix in &machine.causeway.prefixes {
                let next_hop = if prefix.is_ipv4() {
                    end.ipv4.map(|a| a.ip().into())
                } else {
                    end.ipv6.map(|a| a.ip().into())
                };
                all.extend(next_hop.map(|next_hop| Routed { vrf: vrf.clone(), prefix: *prefix, next_hop }));
            }
        }
    }
    all
}
