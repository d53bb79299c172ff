//! What a node shall be: its networks and ports, and where everybody else lives.
//!
//! | mode | is told |
//! |---|---|
//! | `host-vtep` | its networks and ports, remote MACs, flood lists; gateways, VRFs and routes where it routes |
//! | `host` | its networks and ports, its uplinks; what is elsewhere is the switch's business |
//! | `tor-agent`, `tor-static` | the networks of all ports behind it and those it lists, switch ports with VLANs, local and remote MACs, flood lists, gateways, VRFs, routes |
//! | `tor-evpn` | nothing: it learns and routes by itself |
//!
//! A node knows only the networks in which it takes part: two nodes without a common network or VRF do not hear of each
//! other. Where a workload lives is said by the store; the fabric is asked for those that the store does not know, and
//! for ports behind switches with EVPN of their own that have moved without anybody saying so.

mod part;
mod units;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, VlanId, Vni};

pub use super::View;
use super::{Changed, Stage, place};
use crate::model::{self, Attachment, HostBridge, MacvlanMode, NodeMode, RateLimit, WorkloadKind};
use crate::snapshot::Snapshot;
use part::part;
use units::Unit;

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
    /// Routing domains.
    pub vrfs: BTreeMap<Name, NodeVrf>,
    /// Ways to prefixes and hosts, by routing domain; each at least one.
    pub routes: BTreeMap<(Name, Prefix), BTreeSet<NextHop>>,
    /// Ports of a switch towards its hosts, by interface.
    pub switch_ports: BTreeMap<String, SwitchPort>,
    /// Workloads behind the ports of a switch.
    pub locals: BTreeMap<(Vni, Mac), LocalMac>,
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
    /// What it does.
    pub mode: NodeMode,
    /// Its links to switches.
    pub uplinks: Vec<String>,
    /// How its bridges are built.
    pub host_bridge: HostBridge,
    /// Its own addresses may move to a bridge.
    pub move_addresses: bool,
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
    /// 802.1Q id on links between hosts and switches.
    pub vlan: Option<VlanId>,
    /// Anycast gateway addresses with the prefix length of their subnets; none where the node does not route.
    pub gateways: Vec<(IpAddr, u8)>,
    /// MAC of the anycast gateway; with gateways only.
    pub gateway_mac: Option<Mac>,
}

/// A routing domain on a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeVrf {
    /// VNI of routed traffic.
    pub l3_vni: Option<Vni>,
    /// The node's MAC in it.
    pub router_mac: Mac,
    /// Number of the kernel's table.
    pub table: u32,
}

/// A way to a prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// Through the L3 VNI.
    Vtep {
        /// The VTEP.
        vtep: IpAddr,
        /// Its router MAC.
        router_mac: Mac,
    },
    /// To be looked up in another routing domain of the node.
    Vrf(Name),
}

/// A port of a switch towards a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchPort {
    /// VLAN of untagged frames; `None`: they are dropped.
    pub untagged: Option<VlanId>,
    /// VLANs of tagged frames.
    pub tagged: BTreeSet<VlanId>,
}

/// A workload behind a port of a switch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalMac {
    /// The switch port.
    pub interface: String,
    /// Its addresses, ordered.
    pub addresses: Vec<IpAddr>,
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
    /// Their MAC, of a routed port behind switches that hold them.
    pub gateway_mac: Option<Mac>,
    /// MTU in bytes.
    pub mtu: u32,
    /// What kind of workload.
    pub kind: WorkloadKind,
    /// How it is attached.
    pub attachment: Attachment,
    /// For macvlan.
    pub macvlan_mode: MacvlanMode,
    /// How fast it may be.
    pub rate: RateLimit,
    /// It may send only what is its own.
    pub guarded: bool,
    /// The workload's namespace.
    pub netns: String,
    /// Interface name inside.
    pub interface: String,
    /// Generation of the binding.
    pub generation: u64,
    /// Whether it takes part.
    pub stage: Stage,
    /// Milliseconds for which its addresses are asked for before their first use here; 0: not at all.
    pub address_check_ms: u32,
    /// The interface is others'.
    pub adopted: bool,
    /// Pairs of queues of a tap; 0: one.
    pub queues: u32,
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
    /// Routing domains that go.
    pub deleted_vrfs: BTreeSet<Name>,
    /// Routes that go.
    pub deleted_routes: BTreeSet<(Name, Prefix)>,
    /// Switch ports that go.
    pub deleted_switch_ports: BTreeSet<String>,
    /// Local MACs that go.
    pub deleted_locals: BTreeSet<(Vni, Mac)>,
}

/// What a node has to be told after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// This, which may be nothing.
    Delta(Box<NodeDelta>),
    /// The node itself is another: everything anew.
    Full,
    /// The node is gone.
    Gone,
}

impl NodeDelta {
    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == NodeDelta::default()
    }

    /// What turns `old` into `new`.
    pub fn between(old: &NodeState, new: NodeState) -> Self {
        NodeDelta {
            deleted_networks: missing(&old.networks, &new.networks),
            deleted_ports: missing(&old.ports, &new.ports),
            deleted_remotes: missing(&old.remotes, &new.remotes),
            deleted_floods: old.floods.difference(&new.floods).copied().collect(),
            deleted_vrfs: missing(&old.vrfs, &new.vrfs),
            deleted_routes: missing(&old.routes, &new.routes),
            deleted_switch_ports: missing(&old.switch_ports, &new.switch_ports),
            deleted_locals: missing(&old.locals, &new.locals),
            set: NodeState {
                networks: differing(&old.networks, new.networks),
                ports: differing(&old.ports, new.ports),
                remotes: differing(&old.remotes, new.remotes),
                floods: new.floods.difference(&old.floods).copied().collect(),
                vrfs: differing(&old.vrfs, new.vrfs),
                routes: differing(&old.routes, new.routes),
                switch_ports: differing(&old.switch_ports, new.switch_ports),
                locals: differing(&old.locals, new.locals),
            },
        }
    }
}

impl NodeState {
    /// Carries out a delta, as an agent does.
    pub fn apply(&mut self, delta: NodeDelta) {
        self.networks.retain(|key, _| !delta.deleted_networks.contains(key));
        self.ports.retain(|key, _| !delta.deleted_ports.contains(key));
        self.remotes.retain(|key, _| !delta.deleted_remotes.contains(key));
        self.floods.retain(|key| !delta.deleted_floods.contains(key));
        self.vrfs.retain(|key, _| !delta.deleted_vrfs.contains(key));
        self.routes.retain(|key, _| !delta.deleted_routes.contains(key));
        self.switch_ports.retain(|key, _| !delta.deleted_switch_ports.contains(key));
        self.locals.retain(|key, _| !delta.deleted_locals.contains(key));
        self.networks.extend(delta.set.networks);
        self.ports.extend(delta.set.ports);
        self.remotes.extend(delta.set.remotes);
        self.floods.extend(delta.set.floods);
        self.vrfs.extend(delta.set.vrfs);
        self.routes.extend(delta.set.routes);
        self.switch_ports.extend(delta.set.switch_ports);
        self.locals.extend(delta.set.locals);
    }
}

fn missing<K: Ord + Clone, V>(old: &BTreeMap<K, V>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
    old.keys().filter(|key| !new.contains_key(key)).cloned().collect()
}

fn differing<K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: BTreeMap<K, V>) -> BTreeMap<K, V> {
    new.into_iter().filter(|(key, value)| old.get(key) != Some(value)).collect()
}

/// The node itself; `None` if there is no such node.
pub fn node_self(view: &View, node: &Name) -> Option<NodeSelf> {
    let record = &view.snapshot.nodes.get(node)?.value;
    Some(NodeSelf {
        name: node.clone(),
        vtep: record.vtep,
        underlay_mtu: record.underlay_mtu,
        mode: record.mode,
        uplinks: record.uplinks.iter().map(|uplink| uplink.interface.clone()).collect(),
        host_bridge: record.host_bridge,
        move_addresses: record.move_addresses,
    })
}

/// The complete desired state of a node. Empty for an unknown one.
pub fn state(view: &View, node: &Name) -> NodeState {
    part(view, node, &units::all(view, node))
}

/// What `node` has to be told when the view changes. `changed` is the difference of the two snapshots; it is the same
/// for all nodes.
pub fn next(old: &View, new: &View, changed: &Changed, node: &Name) -> Next {
    if new.snapshot.nodes.get(node).is_none() {
        return Next::Gone;
    }
    if kin(&old.snapshot, node) != kin(&new.snapshot, node) {
        return Next::Full;
    }
    let units = units::dirty(old, new, changed, node);
    Next::Delta(Box::new(NodeDelta::between(&part(old, node, &units), part(new, node, &units))))
}

/// The records of the node itself, of its switches, and of hosts behind it and their other switches: if one of them is
/// another, so may be everything.
fn kin<'a>(snapshot: &'a Snapshot, node: &Name) -> Vec<&'a model::Node> {
    let Some(me) = snapshot.nodes.get(node).map(|record| &record.value) else { return Vec::new() };
    let hosts = snapshot.hosts_behind(&me.name).map(|record| &record.value);
    let family = std::iter::once(me).chain(hosts);
    family.flat_map(|node| std::iter::once(node).chain(place::vteps(snapshot, node))).collect()
}

/// MTU of workloads on a node: the network's, cut to what the underlay of its VTEP carries, and a host's own links.
fn workload_mtu(snapshot: &Snapshot, network: &model::Network, node: &model::Node) -> u32 {
    let carried = place::vteps(snapshot, node).map(|vtep| {
        let overhead = vtep.vtep.map_or(0, place::vxlan_overhead);
        vtep.underlay_mtu.saturating_sub(overhead)
    });
    let own = (node.mode == NodeMode::Host).then_some(node.underlay_mtu);
    carried.chain(own).fold(network.mtu, u32::min)
}

/// MAC of a network's bridge on a node: locally administered, another first byte than any derived port's, and unique in
/// the network because VTEPs and names are: `0a`, the VNI's low byte and an IPv4 VTEP; `0e` and 40 bits of a hash of an
/// IPv6 VTEP; of a host without a VTEP `1a` and 40 bits of a hash of its name. All with the VNI.
pub fn bridge_mac(vni: Vni, node: &model::Node) -> Mac {
    let [.., low] = vni.get().to_be_bytes();
    match node.vtep {
        Some(IpAddr::V4(v4)) => {
            let [a, b, c, d] = v4.octets();
            Mac::new([0x0a, low, a, b, c, d])
        }
        Some(IpAddr::V6(v6)) => {
            let [_, a, b, c, d, e] = Mac::from_ipv6(v6, vni.get()).octets();
            Mac::new([0x0e, a, b, c, d, e])
        }
        None => {
            let text = format!("{vni}/{}", node.name);
            // FNV-1a, 64 bits.
            let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
            let [.., a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
            Mac::new([0x1a, a, b, c, d, e])
        }
    }
}

#[cfg(test)]
mod tests;
