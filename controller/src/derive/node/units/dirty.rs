//! Which parts of a node's state a change may touch. More than needed is only slow; less is wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use causeway_proto::{Name, NetworkKey, PortKey, Prefix};
use imbl::ordmap::DiffItem;

use super::{Unit, add_hosts, add_network, add_port, add_routes};
use crate::derive::node::part::vrfs_of;
use crate::derive::presence::{is_bridged_at, is_present, networks_of_node};
use crate::derive::routing::{asymmetric_networks, domain, leaks};
use crate::derive::{Changed, View, nodes_of, place, ports_of_node};
use crate::model::{Node, NodeMode};
use crate::snapshot::Snapshot;

/// Units of a node that may differ between two views; the node and its kin are the same in both.
pub(in crate::derive::node) fn dirty(
    old: &View,
    new: &View,
    changed: &Changed,
    node: &Name,
) -> BTreeSet<Unit> {
    let Some(me) = new.snapshot.nodes.get(node).map(|record| &record.value) else { return BTreeSet::new() };
    if me.mode == NodeMode::TorEvpn {
        return BTreeSet::new();
    }
    let mut dirty = Dirty {
        views: [old, new],
        me,
        presence: BTreeMap::new(),
        routable: BTreeMap::new(),
        vrfs: None,
        units: BTreeSet::new(),
    };
    for vrf in &changed.vrfs {
        dirty.vrf(vrf);
    }
    for network in &changed.networks {
        dirty.changed_network(network);
    }
    for network in &changed.subnets {
        dirty.network(network);
    }
    for (vrf, prefix) in &changed.prefixes {
        dirty.route(vrf, *prefix);
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
    me: &'a Node,
    presence: BTreeMap<NetworkKey, [bool; 2]>,
    routable: BTreeMap<Name, bool>,
    vrfs: Option<Rc<[BTreeSet<Name>; 2]>>,
    units: BTreeSet<Unit>,
}

impl Dirty<'_> {
    /// Whether the node takes part in the network, before or after.
    fn is_present(&mut self, network: &NetworkKey) -> bool {
        if let Some(known) = self.presence.get(network) {
            return *known != [false, false];
        }
        let presence = self.views.map(|view| is_present(&view.snapshot, &self.me.name, network));
        self.presence.insert(network.clone(), presence);
        if presence[0] != presence[1] {
            self.network(network);
        }
        presence != [false, false]
    }

    /// Whether anything of the VRF is routed anywhere, before or after.
    fn is_routable(&mut self, vrf: &Name) -> bool {
        if let Some(known) = self.routable.get(vrf) {
            return *known;
        }
        let routable = self.me.mode.is_spoken_for()
            && self.views.iter().any(|view| {
                let snapshot = &view.snapshot;
                domain(snapshot, vrf).is_some() || asymmetric_networks(snapshot, vrf).next().is_some()
            });
        self.routable.insert(vrf.clone(), routable);
        routable
    }

    /// The node's VRFs before and after. What comes or goes is dirty as a whole.
    fn vrfs(&mut self) -> Rc<[BTreeSet<Name>; 2]> {
        if let Some(known) = &self.vrfs {
            return Rc::clone(known);
        }
        let both = Rc::new(self.views.map(|view| match view.snapshot.nodes.get(&self.me.name) {
            Some(me) => vrfs_of(view, &me.value),
            None => BTreeSet::new(),
        }));
        self.vrfs = Some(Rc::clone(&both));
        for vrf in both[0].symmetric_difference(&both[1]) {
            self.whole_vrf(vrf);
        }
        both
    }

    /// Whether the node has the VRF, before or after.
    fn has_vrf(&mut self, vrf: &Name) -> bool {
        self.is_routable(vrf) && self.vrfs().iter().any(|vrfs| vrfs.contains(vrf))
    }

    fn whole_vrf(&mut self, vrf: &Name) {
        self.units.insert(Unit::Vrfs);
        for view in self.views {
            add_routes(&mut self.units, view, vrf);
        }
    }

    /// A prefix of a VRF, there and in VRFs that take it up. Hosts stay in their VRF.
    fn route(&mut self, vrf: &Name, prefix: Prefix) {
        if !self.is_routable(vrf) {
            return;
        }
        let vrfs = self.vrfs();
        let host = if prefix.is_ipv4() { 32 } else { 128 };
        for own in vrfs[0].union(&vrfs[1]) {
            let takes = |view: &&View| leaks(view, own).iter().any(|leak| leak.from == *vrf);
            if own == vrf || (prefix.length() < host && self.views.iter().any(takes)) {
                self.units.insert(Unit::Route(own.clone(), prefix));
            }
        }
    }

    /// The whole network, if the node takes part in it.
    fn network(&mut self, network: &NetworkKey) {
        for view in self.views {
            if is_present(&view.snapshot, &self.me.name, network) {
                for view in self.views {
                    add_network(&mut self.units, view, self.me, network);
                }
                if self.me.mode.is_switch() {
                    self.units.insert(Unit::SwitchPorts);
                }
                break;
            }
        }
        self.network_routes(network);
    }

    /// What leads to a network from outside: its hosts and subnets.
    fn network_routes(&mut self, network: &NetworkKey) {
        if !self.has_vrf(&network.vrf) {
            return;
        }
        for view in self.views {
            add_hosts(&mut self.units, view, network);
            let prefixes: Vec<Prefix> =
                view.snapshot.subnets_of(network).map(|record| record.value.prefix).collect();
            for prefix in prefixes {
                self.route(&network.vrf, prefix);
            }
        }
    }

    /// Its subnets only: it came to a VTEP, or left it.
    fn subnet_routes(&mut self, network: &NetworkKey) {
        if !self.has_vrf(&network.vrf) {
            return;
        }
        for view in self.views {
            let prefixes: Vec<Prefix> =
                view.snapshot.subnets_of(network).map(|record| record.value.prefix).collect();
            for prefix in prefixes {
                self.route(&network.vrf, prefix);
            }
        }
    }

    /// A network is another: others of its VRF may come and go with it, and its targets may be what another VRF takes up.
    fn changed_network(&mut self, network: &NetworkKey) {
        self.network(network);
        self.whole_spread(&network.vrf);
        self.takers(&network.vrf);
    }

    /// Asymmetric networks of a VRF, which came to VTEPs or left them.
    fn whole_spread(&mut self, vrf: &Name) {
        for view in self.views {
            for network in asymmetric_networks(&view.snapshot, vrf) {
                self.network(&network);
            }
        }
    }

    /// Asymmetric networks come and go with their VRF.
    fn spread(&mut self, vrf: &Name) {
        for view in self.views {
            for network in asymmetric_networks(&view.snapshot, vrf) {
                self.is_present(&network);
            }
        }
    }

    /// VRFs of the node that take up what another one has.
    fn takers(&mut self, vrf: &Name) {
        if !self.is_routable(vrf) {
            return;
        }
        let vrfs = self.vrfs();
        for own in vrfs[0].union(&vrfs[1]) {
            let takes = |view: &&View| leaks(view, own).iter().any(|leak| leak.from == *vrf);
            if self.views.iter().any(takes) {
                self.whole_vrf(own);
            }
        }
    }

    fn vrf(&mut self, vrf: &Name) {
        for view in self.views {
            let networks: Vec<NetworkKey> =
                view.snapshot.networks_of(vrf).map(|record| record.value.key.clone()).collect();
            for network in networks {
                self.network(&network);
            }
        }
        self.whole_spread(vrf);
        if self.has_vrf(vrf) {
            self.whole_vrf(vrf);
        }
        self.takers(vrf);
    }

    fn port(&mut self, key: &PortKey) {
        let network = &key.network;
        let present = self.is_present(network);
        let routed = self.has_vrf(&network.vrf);
        if routed {
            self.spread(&network.vrf);
        }
        if !present && !routed {
            return;
        }
        for view in self.views {
            add_port(&mut self.units, view, self.me, key);
            let Some(port) = view.snapshot.ports.get(key).map(|record| &record.value) else { continue };
            for address in port.answers() {
                if let Some(mac) = view.imports.by_address.get(&(network.clone(), address)) {
                    self.units.insert(Unit::Mac(network.clone(), *mac));
                }
                self.route(&network.vrf, Prefix::host(address));
            }
            self.ways_in(view, key, routed);
        }
    }

    /// The VTEPs where a port is or was: the network and others with it may have come there or left.
    fn ways_in(&mut self, view: &View, key: &PortKey, routed: bool) {
        let snapshot = &view.snapshot;
        for node in nodes_of(snapshot, key) {
            self.way_in(snapshot, node, key, routed);
        }
    }

    fn way_in(&mut self, snapshot: &Snapshot, node: &Node, key: &PortKey, routed: bool) {
        let vteps: Vec<&Node> = place::vteps(snapshot, node).collect();
        if self.me.mode.is_switch() && vteps.iter().any(|switch| switch.name == self.me.name) {
            self.units.insert(Unit::SwitchPorts);
        }
        if !routed {
            return;
        }
        let mut places: BTreeSet<(NetworkKey, IpAddr)> =
            place::place(snapshot, node).map(|place| (key.network.clone(), place.vtep)).into_iter().collect();
        for network in asymmetric_networks(snapshot, &key.network.vrf) {
            places.extend(vteps.iter().filter_map(|node| Some((network.clone(), node.vtep?))));
        }
        for (network, vtep) in places {
            let [before, after] = self.views.map(|view| is_bridged_at(&view.snapshot, vtep, &network));
            if before != after {
                self.subnet_routes(&network);
                self.units.insert(Unit::Flood(network, vtep));
            }
        }
    }

    /// A node came, went or is another: what lives there and behind it, and what leads to it.
    fn other_node(&mut self, name: &Name) {
        for view in self.views {
            let snapshot = &view.snapshot;
            let hosts = snapshot.hosts_behind(name).map(|record| &record.value.name);
            let machines = std::iter::once(name).chain(hosts);
            let ports = |machine| ports_of_node(snapshot, machine).chain(snapshot.moving_at(machine));
            let keys: Vec<PortKey> = machines.flat_map(ports).cloned().collect();
            for key in &keys {
                self.port(key);
            }
            if let Some(node) = snapshot.nodes.get(name).map(|record| &record.value) {
                for network in networks_of_node(snapshot, name) {
                    if self.is_present(&network) {
                        let vteps = node.vtep.into_iter().chain(node.anycast_vtep);
                        self.units.extend(vteps.map(|vtep| Unit::Flood(network.clone(), vtep)));
                    }
                    self.subnet_routes(&network);
                }
            }
            for vrf in snapshot.vrfs.values().map(|record| &record.value) {
                for route in vrf.routes.iter().filter(|route| route.node == *name) {
                    self.route(&vrf.name, route.prefix);
                }
            }
        }
    }

    fn imports(&mut self) {
        let [old, new] = self.views;
        for item in old.imports.macs.diff(&new.imports.macs) {
            let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
                item;
            if self.is_present(&key.0) {
                self.units.insert(Unit::Mac(key.0.clone(), key.1));
            }
            // A port may have moved without a word.
            for view in self.views {
                let Some(owner) = view.snapshot.by_mac.get(key) else { continue };
                for address in owner.value.answers() {
                    self.route(&key.0.vrf, Prefix::host(address));
                }
            }
        }
        for item in old.imports.floods.diff(&new.imports.floods) {
            let (imbl::ordset::DiffItem::Add(key) | imbl::ordset::DiffItem::Remove(key)) = item;
            if self.is_present(&key.0) {
                self.units.insert(Unit::Flood(key.0.clone(), key.1));
            }
        }
        for item in old.imports.prefixes.diff(&new.imports.prefixes) {
            let (DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. }) =
                item;
            self.route(&key.0, key.1);
        }
    }
}
