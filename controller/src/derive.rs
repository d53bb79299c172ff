//! What follows from the store's content: routes for the fabric and desired states for nodes. Pure functions of a
//! snapshot; nothing here does I/O, reads a clock or keeps state.
//!
//! Everything is derived in *units* (a port, a network's flooding at one node, a remote MAC). A change of the store is
//! turned into the set of units that may be different; each is derived from the old and from the new snapshot, and
//! only what differs goes out. The cost of a change is thus its own size and not that of the fabric, and the old
//! snapshot, which shares its content with the new one, is all the memory this needs.

pub mod best;
pub mod evpn;
pub mod imports;
pub mod node;
pub mod place;
pub mod presence;
pub mod routing;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, PortName, Prefix, Revision};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::{Attachment, Binding, MovePhase, Network, Node, NodeMode, Port};
use crate::moves;
use crate::moves::ledger::{self, Seen, Verdict};
use crate::snapshot::{Record, Snapshot};
use imports::Imports;
use place::Place;
pub use presence::{is_present, networks_of_node};

/// A port that lives somewhere, with the records that say so.
#[derive(Debug, Clone, Copy)]
pub struct Bound<'a> {
    /// The port; not released.
    pub port: &'a Port,
    /// Its binding; active.
    pub binding: &'a Binding,
    /// Its network.
    pub network: &'a Network,
    /// Its node.
    pub node: &'a Node,
    /// Where its frames enter the fabric.
    pub place: Place,
}

impl Bound<'_> {
    /// Source MAC of the port's frames on the wire: its own, of a routed port that of the node's bridge. `None` for an
    /// ipvlan, whose frames carry a MAC of the host that nobody here knows.
    pub fn wire_mac(&self) -> Option<Mac> {
        match self.binding.attachment {
            Some(Attachment::Ipvlan) => None,
            _ if self.is_apart() => None,
            Some(Attachment::Routed) => Some(node::bridge_mac(self.network.vni, self.node)),
            _ => Some(self.port.mac),
        }
    }

    /// True if its frames carry its own MAC.
    pub fn has_own_mac(&self) -> bool {
        !self.binding.attachment.is_some_and(Attachment::hides_mac) && !self.is_apart()
    }

    /// True for an adopted interface that hangs on something that does not lead into the network, as on every node with
    /// tunnels: nobody reaches it through the fabric, and nobody shall be told that he does.
    pub fn is_apart(&self) -> bool {
        self.binding.adopted && (self.binding.apart || self.node.mode == NodeMode::HostVtep)
    }
}

/// Where the fabric says that a port behind a switch with EVPN of its own is, if it says so with a higher sequence
/// than the port's: it has moved and nobody told us. What we said of it ends; the intent stays as it is.
pub fn drifted(view: &View, bound: &Bound<'_>) -> Option<IpAddr> {
    if bound.place.mode != NodeMode::TorEvpn {
        return None;
    }
    let seen = view.imports.macs.get(&(bound.port.key.network.clone(), bound.wire_mac()?))?;
    (seen.vtep != bound.place.vtep && mobility(view, bound).announce.is_none()).then_some(seen.vtep)
}

/// What follows from what the fabric says of a port's MAC.
pub fn mobility(view: &View, bound: &Bound<'_>) -> Verdict {
    let key = bound.wire_mac().map(|mac| (bound.port.key.network.clone(), mac));
    let said = key.as_ref().and_then(|key| view.imports.own.get(key)).copied().unwrap_or(0);
    let seen = key.and_then(|key| view.imports.macs.get(&key));
    let seen: Vec<Seen> = seen
        .into_iter()
        .flat_map(|seen| &seen.sequences)
        .map(|(vtep, sequence)| Seen { vtep: *vtep, sequence: *sequence })
        .collect();
    let learns = bound.place.mode == NodeMode::TorEvpn;
    ledger::judge(bound.place.vtep, evpn::sequence(bound.binding.generation).max(said), learns, &seen)
}

/// The port with its records; `None` if it does not exist, is released, lives nowhere, or on a node that is fenced, or
/// if somebody else was found with its address there.
pub fn bound<'a>(snapshot: &'a Snapshot, key: &PortKey) -> Option<Bound<'a>> {
    let binding = &snapshot.bindings.get(key)?.value;
    let port = &snapshot.ports.get(key)?.value;
    if !binding.active || port.released_ms.is_some() {
        return None;
    }
    if snapshot.fences.contains_key(&binding.node) {
        return None;
    }
    // Somebody else has its address: its node keeps it down until nobody has.
    if port.duplicate.as_ref().is_some_and(|found| found.generation == binding.generation) {
        return None;
    }
    let network = &snapshot.networks.get(&key.network)?.value;
    let node = &snapshot.nodes.get(&binding.node)?.value;
    let place = place::place(snapshot, node)?;
    Some(Bound { port, binding, network, node, place })
}

/// Whether a port takes part in its network where it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// It does.
    #[default]
    Active,
    /// It will: everything is programmed there, but down.
    Prepared,
    /// It did, and may again.
    Held,
}

/// A port's seat at a node: where it is bound, or where a move under way has a place ready for it.
#[derive(Debug, Clone, Copy)]
pub struct Seat<'a> {
    /// The port; not released.
    pub port: &'a Port,
    /// How it is, was or will be bound there.
    pub binding: &'a Binding,
    /// The MAC that it has there.
    pub mac: Mac,
    /// Its network.
    pub network: &'a Network,
    /// Whether it takes part.
    pub stage: Stage,
    /// Revision of the change that gave it this stage.
    pub revision: Revision,
}

/// The port's seat at a node; `None` if it has none there. At one node at most it is active: at that of the binding,
/// and not even there while one side of a move is told to stop.
pub fn seat<'a>(snapshot: &'a Snapshot, node: &Name, key: &PortKey) -> Option<Seat<'a>> {
    let bound_at = snapshot.bindings.get(key)?;
    let (port, binding) = (&snapshot.ports.get(key)?.value, &bound_at.value);
    if !binding.active || port.released_ms.is_some() || snapshot.fences.contains_key(node) {
        return None;
    }
    let network = &snapshot.networks.get(&key.network)?.value;
    // Behind a switch that does not exist it is nowhere.
    place::place(snapshot, &snapshot.nodes.get(node)?.value)?;
    // A move of another binding is void: somebody unbound the port, or bound it anew.
    let moving = snapshot.moving(key).filter(|record| moves::holds(&record.value, binding));
    let at_home = binding.node == *node;
    let Some(record) = moving else {
        let (stage, mac, revision) = (Stage::Active, port.mac, bound_at.revision);
        return at_home.then_some(Seat { port, binding, mac, network, stage, revision });
    };
    let (binding, stage) = match (at_home, record.value.phase) {
        (true, MovePhase::Stop | MovePhase::Return) => (binding, Stage::Held),
        (true, _) => (binding, Stage::Active),
        (false, MovePhase::Prepare | MovePhase::Stop) => (&record.value.to, Stage::Prepared),
        (false, _) => (&record.value.from, Stage::Held),
    };
    let revision = bound_at.revision.max(record.revision);
    let mac = if at_home { port.mac } else { port.spare_mac.unwrap_or(port.mac) };
    (binding.node == *node).then_some(Seat { port, binding, mac, network, stage, revision })
}

/// The nodes at which a port has a seat, or would have one but for a fence.
pub fn nodes_of<'a>(snapshot: &'a Snapshot, key: &PortKey) -> impl Iterator<Item = &'a Node> {
    let bound = snapshot.bindings.get(key).map(|record| &record.value.node);
    let moving = snapshot.moving(key).map(|record| [&record.value.from.node, &record.value.to.node]);
    let others = moving.into_iter().flatten().filter(move |node| Some(*node) != bound);
    bound.into_iter().chain(others).filter_map(|name| snapshot.nodes.get(name)).map(|record| &record.value)
}

/// First key that a port of this network can have.
fn first_key(network: &NetworkKey) -> PortKey {
    PortKey { network: network.clone(), name: PortName::lowest() }
}

/// Keys of a network's ports, ordered.
pub fn ports_of_network<'a>(
    snapshot: &'a Snapshot,
    network: &'a NetworkKey,
) -> impl Iterator<Item = &'a PortKey> {
    let from = first_key(network);
    snapshot.ports.range(from..).map(|(key, _)| key).take_while(move |key| key.network == *network)
}

/// Keys of a network's ports bound to a node, ordered.
pub fn ports_on_node<'a>(
    snapshot: &'a Snapshot,
    node: &'a Name,
    network: &'a NetworkKey,
) -> impl Iterator<Item = &'a PortKey> {
    let from = (node.clone(), first_key(network));
    let here = move |(n, key): &&(Name, PortKey)| *n == *node && key.network == *network;
    snapshot.by_node.range(from..).take_while(here).map(|(_, key)| key)
}

/// Keys of all ports bound to a node, ordered by network.
pub fn ports_of_node<'a>(snapshot: &'a Snapshot, node: &'a Name) -> impl Iterator<Item = &'a PortKey> {
    let from = lowest_of_node(node);
    snapshot.by_node.range(from..).take_while(move |(n, _)| *n == *node).map(|(_, key)| key)
}

fn lowest_of_node(node: &Name) -> (Name, PortKey) {
    let lowest = Name::lowest();
    (node.clone(), first_key(&NetworkKey { vrf: lowest.clone(), network: lowest }))
}

/// Keys whose records differ between two maps.
fn changed_keys<K, T>(old: &OrdMap<K, Arc<Record<T>>>, new: &OrdMap<K, Arc<Record<T>>>) -> BTreeSet<K>
where
    K: Ord + Clone,
    T: PartialEq,
{
    let key = |item: DiffItem<'_, '_, K, Arc<Record<T>>>| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key.clone(),
        DiffItem::Update { new: (key, _), .. } => key.clone(),
    };
    old.diff(new).map(key).collect()
}

/// Everything that is derived from. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// What the store says.
    pub snapshot: Arc<Snapshot>,
    /// What the fabric says.
    pub imports: Imports,
    /// The controllers' AS number, of which default route targets are made.
    pub asn: u32,
}

/// What differs between two snapshots, by kind of record. Found by comparing the shared structure of the maps: the
/// cost is that of the change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// VRFs.
    pub vrfs: BTreeSet<Name>,
    /// Networks.
    pub networks: BTreeSet<NetworkKey>,
    /// Networks with a changed subnet.
    pub subnets: BTreeSet<NetworkKey>,
    /// Those subnets, by VRF and prefix.
    pub prefixes: BTreeSet<(Name, Prefix)>,
    /// Nodes, by themselves or because they are fenced.
    pub nodes: BTreeSet<Name>,
    /// Ports, by themselves, by their binding or by a move.
    pub ports: BTreeSet<PortKey>,
}

impl Changed {
    /// The difference.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut ports = changed_keys(&old.ports, &new.ports);
        ports.extend(changed_keys(&old.bindings, &new.bindings));
        ports.extend(changed_keys(&old.moves, &new.moves));
        let mut nodes = changed_keys(&old.nodes, &new.nodes);
        nodes.extend(changed_keys(&old.fences, &new.fences));
        let mut subnets = BTreeSet::new();
        let prefixes = changed_keys(&old.subnets, &new.subnets);
        for key in &prefixes {
            for snapshot in [old, new] {
                subnets.extend(snapshot.subnets.get(key).map(|record| record.value.network.clone()));
            }
        }
        Changed {
            vrfs: changed_keys(&old.vrfs, &new.vrfs),
            networks: changed_keys(&old.networks, &new.networks),
            subnets,
            prefixes,
            nodes,
            ports,
        }
    }

    /// True if nothing differs.
    pub fn is_empty(&self) -> bool {
        *self == Changed::default()
    }
}

#[cfg(test)]
pub(crate) mod fixture;
