//! What follows from the store's content: routes for the fabric and desired states for nodes. Pure functions of a
//! snapshot; nothing here does I/O, reads a clock or keeps state.
//!
//! Everything is derived in *units* (a port, a network's flooding at one node, a remote MAC). A change of the store is
//! turned into the set of units that may be different; each is derived from the old and from the new snapshot, and
//! only what differs goes out. The cost of a change is thus its own size and not that of the fabric, and the old
//! snapshot, which shares its content with the new one, is all the memory this needs.

pub mod evpn;
pub mod imports;
pub mod node;
pub mod place;

use std::collections::BTreeSet;
use std::sync::Arc;

use causeway_proto::{Name, NetworkKey, PortKey, PortName};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::model::{Binding, Network, Node, Port};
use crate::snapshot::{Record, Snapshot};
use place::Place;

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

/// The port with its records; `None` if it does not exist, is released or lives nowhere.
pub fn bound<'a>(snapshot: &'a Snapshot, key: &PortKey) -> Option<Bound<'a>> {
    let binding = &snapshot.bindings.get(key)?.value;
    let port = &snapshot.ports.get(key)?.value;
    if !binding.active || port.released_ms.is_some() {
        return None;
    }
    let network = &snapshot.networks.get(&key.network)?.value;
    let node = &snapshot.nodes.get(&binding.node)?.value;
    let place = place::place(snapshot, node)?;
    Some(Bound { port, binding, network, node, place })
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

/// True if a port of the network lives on the node: the node takes part in the network.
pub fn is_present(snapshot: &Snapshot, node: &Name, network: &NetworkKey) -> bool {
    snapshot.networks.contains_key(network)
        && snapshot.nodes.contains_key(node)
        && ports_on_node(snapshot, node, network).any(|key| bound(snapshot, key).is_some())
}

/// Networks in which the node takes part, ordered.
pub fn networks_of_node(snapshot: &Snapshot, node: &Name) -> BTreeSet<NetworkKey> {
    let mut found = BTreeSet::new();
    let mut from = lowest_of_node(node);
    // One step a network and not one a port: after each network the search goes on behind its last port.
    while let Some((n, key)) = snapshot.by_node.range(from..).next() {
        if n != node {
            break;
        }
        if is_present(snapshot, node, &key.network) {
            found.insert(key.network.clone());
        }
        from = (node.clone(), PortKey { network: key.network.clone(), name: PortName::beyond() });
    }
    found
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

/// What differs between two snapshots, by kind of record. Found by comparing the shared structure of the maps: the
/// cost is that of the change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Networks.
    pub networks: BTreeSet<NetworkKey>,
    /// Networks with a changed subnet.
    pub subnets: BTreeSet<NetworkKey>,
    /// Nodes.
    pub nodes: BTreeSet<Name>,
    /// Ports, by themselves or by their binding.
    pub ports: BTreeSet<PortKey>,
}

impl Changed {
    /// The difference.
    pub fn between(old: &Snapshot, new: &Snapshot) -> Self {
        let mut ports = changed_keys(&old.ports, &new.ports);
        ports.extend(changed_keys(&old.bindings, &new.bindings));
        let mut subnets = BTreeSet::new();
        for key in changed_keys(&old.subnets, &new.subnets) {
            for snapshot in [old, new] {
                subnets.extend(snapshot.subnets.get(&key).map(|record| record.value.network.clone()));
            }
        }
        Changed {
            networks: changed_keys(&old.networks, &new.networks),
            subnets,
            nodes: changed_keys(&old.nodes, &new.nodes),
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
