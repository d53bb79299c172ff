//! Which routes a change may touch.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Name, NetworkKey, PortKey};
use imbl::ordmap::DiffItem;

use super::{
    Changed, NodeMode, Unit, View, asymmetric_networks, bound, is_bridged_at, networks_of_node, nodes_of,
    place, ports_of_network, ports_of_node, vteps_of_network,
};
use crate::snapshot::Snapshot;

/// Units whose routes may differ between two views because of the store.
pub fn dirty_units(old: &View, new: &View, changed: &Changed) -> BTreeSet<Unit> {
    let mut dirty =
        Dirty { snapshots: [&old.snapshot, &new.snapshot], units: BTreeSet::new(), places: BTreeSet::new() };
    for key in &changed.ports {
        dirty.port(key);
    }
    for key in &changed.networks {
        dirty.network(key);
    }
    for (vrf, prefix) in &changed.prefixes {
        dirty.units.insert(Unit::Prefix(vrf.clone(), *prefix));
    }
    for vrf in &changed.vrfs {
        dirty.vrf(vrf);
    }
    for node in &changed.nodes {
        dirty.node(node);
    }
    dirty.settle_places();
    dirty.units
}

/// Units whose routes may differ because the fabric says something else: ports behind switches with EVPN of their own,
/// whose sequence and place it tells.
pub fn dirty_imports(old: &View, new: &View) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    for item in old.imports.macs.diff(&new.imports.macs) {
        let (DiffItem::Add(place, _) | DiffItem::Remove(place, _) | DiffItem::Update { new: (place, _), .. }) =
            item;
        for view in [old, new] {
            let Some(owner) = view.snapshot.by_mac.get(place) else { continue };
            let key = &owner.value.key;
            if bound(&view.snapshot, key).is_some_and(|bound| bound.place.mode == NodeMode::TorEvpn) {
                units.insert(Unit::Port(key.clone()));
            }
        }
    }
    units
}

/// Collects units.
struct Dirty<'a> {
    snapshots: [&'a Snapshot; 2],
    units: BTreeSet<Unit>,
    /// Networks that may have come to a VTEP or left it.
    places: BTreeSet<(NetworkKey, IpAddr)>,
}

impl Dirty<'_> {
    fn port(&mut self, key: &PortKey) {
        self.units.insert(Unit::Port(key.clone()));
        for snapshot in self.snapshots {
            for node in nodes_of(snapshot, key) {
                if let Some(place) = place::place(snapshot, node) {
                    self.places.insert((key.network.clone(), place.vtep));
                }
                // With a VRF its asymmetric networks come to the VTEP itself, be it shared or not.
                for vtep in place::vteps(snapshot, node).filter_map(|node| node.vtep) {
                    let networks = asymmetric_networks(snapshot, &key.network.vrf);
                    self.places.extend(networks.map(|network| (network, vtep)));
                }
            }
        }
    }

    /// Everything of a network, and its VRF's asymmetric ones, which may come and go with it.
    fn network(&mut self, key: &NetworkKey) {
        for snapshot in self.snapshots {
            self.units.extend(ports_of_network(snapshot, key).cloned().map(Unit::Port));
            self.units.extend(vteps_of_network(snapshot, key).map(|vtep| Unit::Flood(key.clone(), vtep)));
            for network in asymmetric_networks(snapshot, &key.vrf) {
                let vteps = snapshot.by_vtep.iter().map(|(vtep, _)| (network.clone(), *vtep));
                self.places.extend(vteps);
            }
        }
        self.prefixes(key);
    }

    fn vrf(&mut self, vrf: &Name) {
        for snapshot in self.snapshots {
            let networks: Vec<NetworkKey> =
                snapshot.networks_of(vrf).map(|record| record.value.key.clone()).collect();
            for network in &networks {
                self.network(network);
            }
            let record = snapshot.vrfs.get(vrf);
            let routes = record.into_iter().flat_map(|record| &record.value.routes);
            self.units.extend(routes.map(|route| Unit::Prefix(vrf.clone(), route.prefix)));
        }
    }

    /// What is on a node and on the hosts behind it, the networks it lists, and the routes that lead to it.
    fn node(&mut self, name: &Name) {
        for snapshot in self.snapshots {
            let hosts = snapshot.hosts_behind(name).map(|record| &record.value.name);
            let keys: Vec<PortKey> = std::iter::once(name)
                .chain(hosts)
                .flat_map(|machine| ports_of_node(snapshot, machine).chain(snapshot.moving_at(machine)))
                .cloned()
                .collect();
            for key in &keys {
                self.port(key);
            }
            if let Some(node) = snapshot.nodes.get(name).map(|record| &record.value) {
                let networks = networks_of_node(snapshot, name);
                for vtep in node.vtep.into_iter().chain(node.anycast_vtep) {
                    let floods = networks.iter().map(|network| Unit::Flood(network.clone(), vtep));
                    self.units.extend(floods);
                }
                for network in &networks {
                    self.prefixes(network);
                }
            }
            for vrf in snapshot.vrfs.values().map(|record| &record.value) {
                let routes = vrf.routes.iter().filter(|route| route.node == *name);
                self.units.extend(routes.map(|route| Unit::Prefix(vrf.name.clone(), route.prefix)));
            }
        }
    }

    /// The subnets of a network.
    fn prefixes(&mut self, network: &NetworkKey) {
        for snapshot in self.snapshots {
            if snapshot.vrfs.get(&network.vrf).is_some_and(|vrf| vrf.value.l3_vni.is_some()) {
                let prefixes = snapshot.subnets_of(network).map(|record| record.value.prefix);
                self.units.extend(prefixes.map(|prefix| Unit::Prefix(network.vrf.clone(), prefix)));
            }
        }
    }

    /// Flooding and prefixes change only where a network came or went.
    fn settle_places(&mut self) {
        for (network, vtep) in std::mem::take(&mut self.places) {
            let [before, after] = self.snapshots.map(|snapshot| is_bridged_at(snapshot, vtep, &network));
            if before != after {
                self.prefixes(&network);
                self.units.insert(Unit::Flood(network, vtep));
            }
        }
    }
}
