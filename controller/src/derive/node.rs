//! What a node shall be: its networks and ports, and where everybody else lives.
//!
//! A node knows only the networks in which a port of its own takes part: two nodes without a common network do not
//! hear of each other. Where a workload lives is said by the store; the fabric is asked for those that the store does
//! not know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Vni};
use imbl::ordmap::DiffItem;

use super::imports::Imports;
use super::{Bound, Changed, bound, is_present, networks_of_node, ports_of_network, ports_on_node};
use crate::model;
use crate::snapshot::Snapshot;

/// Bytes that VXLAN adds to a frame's payload over IPv4: outer IP 20, UDP 8, VXLAN 8, inner Ethernet 14.
const OVERHEAD_IPV4: u32 = 50;
/// The same over IPv6, whose header has 40 bytes.
const OVERHEAD_IPV6: u32 = 70;

/// Everything that nodes' states are derived from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What the store says.
    pub snapshot: Arc<Snapshot>,
    /// What the fabric says.
    pub imports: Imports,
}

/// The desired state of a node, or a part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeState {
    /// Networks present.
    pub networks: BTreeMap<Vni, NodeNetwork>,
    /// Ports bound.
    pub ports: BTreeMap<PortKey, NodePort>,
    /// Workloads behind other VTEPs.
    pub remotes: BTreeMap<(Vni, Mac), RemoteMac>,
    /// Where to flood.
    pub floods: BTreeSet<(Vni, IpAddr)>,
}

/// The node itself, as far as its agent needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSelf {
    /// Its name.
    pub name: Name,
    /// Its tunnel end point, if it has one.
    pub vtep: Option<IpAddr>,
    /// MTU of the underlay in bytes.
    pub underlay_mtu: u32,
}

/// A network on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Its identity.
    pub key: NetworkKey,
    /// MTU of workloads in bytes: the network's, cut to what the underlay carries.
    pub mtu: u32,
    /// MAC of the bridge.
    pub bridge_mac: Mac,
}

/// A port on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePort {
    /// The network's VNI.
    pub vni: Vni,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses with the prefix length of their subnets.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Default gateways, at most one a family.
    pub gateways: Vec<IpAddr>,
    /// MTU in bytes.
    pub mtu: u32,
    /// The workload's namespace.
    pub netns: String,
    /// Interface name inside.
    pub interface: String,
    /// Generation of the binding.
    pub generation: u64,
}

/// A workload behind another VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteMac {
    /// The VTEP.
    pub vtep: IpAddr,
    /// Its addresses, ordered.
    pub addresses: Vec<IpAddr>,
}

/// What turns one state into another: deletions first, then insertions or replacements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeDelta {
    /// New and changed.
    pub set: NodeState,
    /// Networks that go.
    pub deleted_networks: BTreeSet<Vni>,
    /// Ports that go.
    pub deleted_ports: BTreeSet<PortKey>,
    /// Remote MACs that go.
    pub deleted_remotes: BTreeSet<(Vni, Mac)>,
    /// Flood targets that go.
    pub deleted_floods: BTreeSet<(Vni, IpAddr)>,
}

/// What a node has to be told after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This, which may be nothing.
    Delta(NodeDelta),
    /// The node itself is another: everything anew.
    Full,
    /// The node is gone.
    Gone,
}

/// A part of a node's state that is derived by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Network(NetworkKey),
    Port(PortKey),
    Remote(NetworkKey, Mac),
    /// Flooding to a node that takes part in the network.
    Member(NetworkKey, Name),
    /// Flooding to a VTEP of the fabric.
    Flood(NetworkKey, IpAddr),
}

impl NodeDelta {
    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == NodeDelta::default()
    }

    /// What turns `old` into `new`.
    pub fn between(old: &NodeState, new: NodeState) -> Self {
        let deleted_networks = missing(&old.networks, &new.networks);
        let deleted_ports = missing(&old.ports, &new.ports);
        let deleted_remotes = missing(&old.remotes, &new.remotes);
        let deleted_floods = old.floods.difference(&new.floods).copied().collect();
        let set = NodeState {
            networks: differing(&old.networks, new.networks),
            ports: differing(&old.ports, new.ports),
            remotes: differing(&old.remotes, new.remotes),
            floods: new.floods.difference(&old.floods).copied().collect(),
        };
        NodeDelta { set, deleted_networks, deleted_ports, deleted_remotes, deleted_floods }
    }
}

impl NodeState {
    /// Carries out a delta, as an agent does.
    pub fn apply(&mut self, delta: NodeDelta) {
        self.networks.retain(|key, _| !delta.deleted_networks.contains(key));
        self.ports.retain(|key, _| !delta.deleted_ports.contains(key));
        self.remotes.retain(|key, _| !delta.deleted_remotes.contains(key));
        self.floods.retain(|key| !delta.deleted_floods.contains(key));
        self.networks.extend(delta.set.networks);
        self.ports.extend(delta.set.ports);
        self.remotes.extend(delta.set.remotes);
        self.floods.extend(delta.set.floods);
    }
}

fn missing<K: Ord + Clone, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
    old.keys().filter(|key| !new.contains_key(key)).cloned().collect()
}

fn differing<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: BTreeMap<K, V>) -> BTreeMap<K, V> {
    new.into_iter().filter(|(key, value)| old.get(key) != Some(value)).collect()
}

/// The node's own record; `None` if there is no such node.
pub fn node_self(view: &View, node: &Name) -> Option<NodeSelf> {
    let record = &view.snapshot.nodes.get(node)?.value;
    Some(NodeSelf { name: node.clone(), vtep: record.vtep, underlay_mtu: record.underlay_mtu })
}

/// The complete desired state of a node. Empty for an unknown one.
pub fn state(view: &View, node: &Name) -> NodeState {
    let mut units = BTreeSet::new();
    for network in networks_of_node(&view.snapshot, node) {
        add_network(&mut units, view, &network);
    }
    part(view, node, &units)
}

/// What `node` has to be told when the view changes. `changed` is the difference of the two snapshots; it is the same
/// for all nodes.
pub fn next(old: &View, new: &View, changed: &Changed, node: &Name) -> Next {
    match (node_self(old, node), node_self(new, node)) {
        (_, None) => return Next::Gone,
        (before, after) if before != after => return Next::Full,
        _ => {}
    }
    let units = dirty_units(old, new, changed, node);
    Next::Delta(NodeDelta::between(&part(old, node, &units), part(new, node, &units)))
}

fn dirty_units(old: &View, new: &View, changed: &Changed, node: &Name) -> BTreeSet<Unit> {
    let mut dirty = Dirty { views: [old, new], node, presence: BTreeMap::new(), units: BTreeSet::new() };
    for network in changed.networks.iter().chain(&changed.subnets) {
        dirty.network(network);
    }
    for key in &changed.ports {
        dirty.port(key);
    }
    for name in &changed.nodes {
        dirty.other_node(name);
    }
    dirty.imports();
    dirty.units
}

/// Collects the units of one node that a change may touch.
struct Dirty<'a> {
    views: [&'a View; 2],
    node: &'a Name,
    presence: BTreeMap<NetworkKey, [bool; 2]>,
    units: BTreeSet<Unit>,
}

impl Dirty<'_> {
    /// Whether the node takes part in the network, before and after.
    fn presence(&mut self, network: &NetworkKey) -> [bool; 2] {
        if let Some(known) = self.presence.get(network) {
            return *known;
        }
        let presence = self.views.map(|view| is_present(&view.snapshot, self.node, network));
        self.presence.insert(network.clone(), presence);
        if presence[0] != presence[1] {
            self.network(network);
        }
        presence
    }

    /// The whole network.
    fn network(&mut self, network: &NetworkKey) {
        for view in self.views {
            if is_present(&view.snapshot, self.node, network) {
                for view in self.views {
                    add_network(&mut self.units, view, network);
                }
                return;
            }
        }
    }

    fn port(&mut self, key: &PortKey) {
        // Another node's binding does not change whether this one takes part.
        if self.presence(&key.network) == [false, false] {
            return;
        }
        for view in self.views {
            if add_port(&mut self.units, view, key) {
                self.units.insert(Unit::Port(key.clone()));
            }
            let Some(port) = view.snapshot.ports.get(key) else { continue };
            for address in &port.value.addresses {
                if let Some(mac) = view.imports.by_address.get(&(key.network.clone(), *address)) {
                    self.units.insert(Unit::Remote(key.network.clone(), *mac));
                }
            }
        }
    }

    /// A node came, went or moved its VTEP: what lives there.
    fn other_node(&mut self, name: &Name) {
        for view in self.views {
            for network in networks_of_node(&view.snapshot, name) {
                if self.presence(&network) == [false, false] {
                    continue;
                }
                for key in ports_on_node(&view.snapshot, name, &network) {
                    for view in self.views {
                        add_port(&mut self.units, view, key);
                    }
                }
            }
        }
    }

    fn imports(&mut self) {
        let [old, new] = self.views;
        for item in old.imports.macs.diff(&new.imports.macs) {
            let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
                item;
            if self.presence(&key.0) != [false, false] {
                self.units.insert(Unit::Remote(key.0.clone(), key.1));
            }
        }
        let mut floods = BTreeSet::new();
        for item in old.imports.floods.diff(&new.imports.floods) {
            let (imbl::ordset::DiffItem::Add(key) | imbl::ordset::DiffItem::Remove(key)) = item;
            if self.presence(&key.0) != [false, false] {
                floods.insert(key.clone());
            }
        }
        // A VTEP may for a moment be known as the fabric's and as a node's: both units make the same entry, so
        // neither may go out without the other.
        for view in self.views {
            for (name, record) in view.snapshot.nodes.iter().filter(|_| !floods.is_empty()) {
                let here = floods.iter().filter(|(_, vtep)| Some(*vtep) == record.value.vtep);
                self.units.extend(here.map(|(network, _)| Unit::Member(network.clone(), name.clone())));
            }
        }
        self.units.extend(floods.into_iter().map(|(network, vtep)| Unit::Flood(network, vtep)));
    }
}

/// All units of a network.
fn add_network(units: &mut BTreeSet<Unit>, view: &View, network: &NetworkKey) {
    units.insert(Unit::Network(network.clone()));
    for key in ports_of_network(&view.snapshot, network) {
        if add_port(units, view, key) {
            units.insert(Unit::Port(key.clone()));
        }
    }
    let imported = view.imports.macs.range((network.clone(), Mac::new([0; 6]))..);
    for ((_, mac), _) in imported.take_while(|((key, _), _)| key == network) {
        units.insert(Unit::Remote(network.clone(), *mac));
    }
    let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let floods = view.imports.floods.range((network.clone(), lowest)..);
    for (_, vtep) in floods.take_while(|(key, _)| key == network) {
        units.insert(Unit::Flood(network.clone(), *vtep));
    }
}

/// The units of a port as others see it; true if it is bound.
fn add_port(units: &mut BTreeSet<Unit>, view: &View, key: &PortKey) -> bool {
    if let Some(port) = view.snapshot.ports.get(key) {
        units.insert(Unit::Remote(key.network.clone(), port.value.mac));
    }
    let Some(Bound { node, place, .. }) = bound(&view.snapshot, key) else { return false };
    units.insert(Unit::Member(key.network.clone(), node.name.clone()));
    units.insert(Unit::Flood(key.network.clone(), place.vtep));
    true
}

/// The part of a node's state that these units make.
fn part(view: &View, node: &Name, units: &BTreeSet<Unit>) -> NodeState {
    let mut part = NodeState::default();
    let Some(me) = view.snapshot.nodes.get(node).map(|record| &record.value) else { return part };
    let mut networks: BTreeMap<&NetworkKey, Option<&model::Network>> = BTreeMap::new();
    for unit in units {
        let key = match unit {
            Unit::Port(key) => {
                part.ports.extend(node_port(view, me, key).map(|port| (key.clone(), port)));
                continue;
            }
            Unit::Network(key) | Unit::Remote(key, _) | Unit::Member(key, _) | Unit::Flood(key, _) => key,
        };
        let network = *networks.entry(key).or_insert_with(|| {
            let present = is_present(&view.snapshot, node, key);
            view.snapshot.networks.get(key).filter(|_| present).map(|record| &record.value)
        });
        let Some(network) = network else { continue };
        match unit {
            Unit::Remote(_, mac) => {
                let remote = remote_mac(view, me, network, *mac);
                part.remotes.extend(remote.map(|remote| ((network.vni, *mac), remote)));
            }
            Unit::Member(_, name) => {
                let vtep = member_vtep(view, me, network, name);
                part.floods.extend(vtep.map(|vtep| (network.vni, vtep)));
            }
            Unit::Flood(_, vtep) => {
                if Some(*vtep) != me.vtep && view.imports.floods.contains(&(network.key.clone(), *vtep)) {
                    part.floods.insert((network.vni, *vtep));
                }
            }
            Unit::Port(_) | Unit::Network(_) => {
                let (mtu, bridge_mac) = (
                    workload_mtu(network, me),
                    me.vtep.map_or(Mac::new([0; 6]), |vtep| bridge_mac(network.vni, vtep)),
                );
                part.networks.insert(network.vni, NodeNetwork { key: key.clone(), mtu, bridge_mac });
            }
        }
    }
    part
}

fn node_port(view: &View, me: &model::Node, key: &PortKey) -> Option<NodePort> {
    let Bound { port, binding, network, node, .. } = bound(&view.snapshot, key)?;
    if node.name != me.name {
        return None;
    }
    let mut gateways: Vec<IpAddr> = Vec::new();
    let mut addresses = Vec::new();
    for address in &port.addresses {
        let subnet = view.snapshot.subnet_at(&key.network.vrf, *address).map(|record| &record.value);
        let subnet = subnet.filter(|subnet| subnet.network == key.network);
        let host = if address.is_ipv4() { 32 } else { 128 };
        addresses.push((*address, subnet.map_or(host, |subnet| subnet.prefix.length())));
        if let Some(gateway) = subnet.and_then(|subnet| subnet.gateway)
            && gateways.iter().all(|known| known.is_ipv4() != gateway.is_ipv4())
        {
            gateways.push(gateway);
        }
    }
    Some(NodePort {
        vni: network.vni,
        mac: port.mac,
        addresses,
        gateways,
        mtu: workload_mtu(network, me),
        netns: binding.netns.clone(),
        interface: binding.interface.clone(),
        generation: binding.generation,
    })
}

/// Where a MAC lives, if not here: the store's word first, then the fabric's.
fn remote_mac(view: &View, me: &model::Node, network: &model::Network, mac: Mac) -> Option<RemoteMac> {
    let place = (network.key.clone(), mac);
    if let Some(owner) = view.snapshot.by_mac.get(&place) {
        let Bound { port, node, place, .. } = bound(&view.snapshot, &owner.value.key)?;
        let mut addresses = port.addresses.clone();
        addresses.sort_unstable();
        return (node.name != me.name).then_some(RemoteMac { vtep: place.vtep, addresses });
    }
    let imported = view.imports.macs.get(&place).filter(|imported| Some(imported.vtep) != me.vtep)?;
    let ours = |ip: &IpAddr| {
        let owner = view.snapshot.by_address.get(&(network.key.vrf.clone(), *ip));
        owner.is_some_and(|port| port.value.key.network == network.key)
    };
    let addresses = imported.addresses.iter().copied().filter(|ip| !ours(ip)).collect();
    Some(RemoteMac { vtep: imported.vtep, addresses })
}

/// VTEP of another node that takes part in the network.
fn member_vtep(view: &View, me: &model::Node, network: &model::Network, name: &Name) -> Option<IpAddr> {
    let vtep = view.snapshot.nodes.get(name)?.value.vtep?;
    (Some(vtep) != me.vtep && is_present(&view.snapshot, name, &network.key)).then_some(vtep)
}

/// MTU of workloads on a node.
fn workload_mtu(network: &model::Network, node: &model::Node) -> u32 {
    let overhead = if node.vtep.is_none_or(|vtep| vtep.is_ipv4()) { OVERHEAD_IPV4 } else { OVERHEAD_IPV6 };
    network.mtu.min(node.underlay_mtu.saturating_sub(overhead))
}

/// MAC of a network's bridge on a node: locally administered, another first byte than any derived port's, and unique in
/// the network because VTEPs are (IPv4: the address itself; IPv6: 40 bits of a hash).
pub fn bridge_mac(vni: Vni, vtep: IpAddr) -> Mac {
    let [.., low] = vni.get().to_be_bytes();
    match vtep {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            Mac::new([0x0a, low, a, b, c, d])
        }
        IpAddr::V6(v6) => {
            let [_, a, b, c, d, e] = Mac::from_ipv6(v6, vni.get()).octets();
            Mac::new([0x0e, a, b, c, d, e])
        }
    }
}

#[cfg(test)]
mod tests;
