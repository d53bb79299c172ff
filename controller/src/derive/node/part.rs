//! From units to the part of a node's state that they make.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix};

use super::{
    LocalMac, NextHop, NodeNetwork, NodePort, NodeState, NodeVrf, RemoteMac, SwitchPort, Unit, bridge_mac,
    workload_mtu,
};
use crate::derive::presence::{is_bridged_at, is_present, networks_of_node, router_mac_at, vteps_of_network};
use crate::derive::routing::{domain, irb, leaks, table};
use crate::derive::{
    Bound, Seat, Stage, View, bound, drifted, evpn, place, ports_of_node, ports_on_node, seat,
};
use crate::model::{
    ADDRESS_CHECK_MS, AddressCheck, Attachment, Guard, Irb, Network, Node, NodeMode, WorkloadKind,
};
use crate::moves;
use crate::snapshot::Snapshot;

/// Equal ways to a connected subnet at most.
const MOST_WAYS: usize = 16;

/// The part of a node's state that these units make.
pub(super) fn part(view: &View, node: &Name, units: &BTreeSet<Unit>) -> NodeState {
    let mut part = NodeState::default();
    let Some(me) = view.snapshot.nodes.get(node).map(|record| &record.value) else { return part };
    if me.mode == NodeMode::TorEvpn {
        return part;
    }
    let mut here = Here { view, me, networks: BTreeMap::new(), vrfs: None };
    for unit in units {
        here.add(&mut part, unit);
    }
    part
}

/// Routing domains of a node: those of its routed networks, those whose routes lead to it, and those that these take
/// something up from.
pub(super) fn vrfs_of(view: &View, me: &Node) -> BTreeSet<Name> {
    if !me.mode.is_spoken_for() {
        return BTreeSet::new();
    }
    let snapshot = &view.snapshot;
    let networks = networks_of_node(snapshot, &me.name).into_iter();
    let mut vrfs: BTreeSet<Name> =
        networks.filter(|network| irb(snapshot, network) != Irb::None).map(|network| network.vrf).collect();
    let led = snapshot.vrfs.values().map(|record| &record.value).filter(|vrf| {
        vrf.routes.iter().any(|route| route.node == me.name) && domain(snapshot, &vrf.name).is_some()
    });
    vrfs.extend(led.map(|vrf| vrf.name.clone()));
    let others: Vec<Name> = vrfs.iter().flat_map(|vrf| leaks(view, vrf)).map(|leak| leak.from).collect();
    vrfs.extend(others);
    vrfs.retain(|vrf| snapshot.vrfs.get(vrf).is_some_and(|record| table(&record.value).is_some()));
    vrfs
}

/// A node, and what is known of it already.
struct Here<'a> {
    view: &'a View,
    me: &'a Node,
    /// Networks looked at; `None`: the node takes no part.
    networks: BTreeMap<NetworkKey, Option<&'a Network>>,
    vrfs: Option<BTreeSet<Name>>,
}

impl<'a> Here<'a> {
    fn add(&mut self, part: &mut NodeState, unit: &Unit) {
        match unit {
            Unit::Port(key) => {
                part.ports.extend(self.port(key).map(|port| (key.clone(), port)));
            }
            Unit::Network(key) => {
                let network = self.network(key).map(|network| (network.vni, self.node_network(network)));
                part.networks.extend(network);
            }
            Unit::Mac(key, mac) => {
                if let Some(network) = self.network(key) {
                    self.mac(part, network, *mac);
                }
            }
            Unit::Routed(key, name) => {
                if let Some(network) = self.network(key) {
                    self.routed(part, network, name);
                }
            }
            Unit::Flood(key, vtep) => {
                if let Some(network) = self.network(key)
                    && self.floods_to(key, *vtep)
                {
                    part.floods.insert((network.vni, *vtep));
                }
            }
            Unit::Vrfs => {
                for vrf in self.vrfs().clone() {
                    part.vrfs.extend(self.node_vrf(&vrf).map(|domain| (vrf, domain)));
                }
            }
            Unit::Route(vrf, prefix) => {
                let ways = if self.vrfs().contains(vrf) { self.ways(vrf, *prefix) } else { BTreeSet::new() };
                if !ways.is_empty() {
                    part.routes.insert((vrf.clone(), *prefix), ways);
                }
            }
            Unit::SwitchPorts => part.switch_ports = self.switch_ports(),
        }
    }

    /// The network, if the node takes part.
    fn network(&mut self, key: &NetworkKey) -> Option<&'a Network> {
        if let Some(known) = self.networks.get(key) {
            return *known;
        }
        let snapshot = &self.view.snapshot;
        let present = is_present(snapshot, &self.me.name, key);
        let network = snapshot.networks.get(key).filter(|_| present).map(|record| &record.value);
        self.networks.insert(key.clone(), network);
        network
    }

    fn vrfs(&mut self) -> &BTreeSet<Name> {
        let (view, me) = (self.view, self.me);
        self.vrfs.get_or_insert_with(|| vrfs_of(view, me))
    }

    fn is_mine(&self, vtep: IpAddr) -> bool {
        self.me.vtep == Some(vtep) || self.me.anycast_vtep == Some(vtep)
    }

    fn floods_to(&self, network: &NetworkKey, vtep: IpAddr) -> bool {
        self.me.mode != NodeMode::Host
            && !self.is_mine(vtep)
            && (is_bridged_at(&self.view.snapshot, vtep, network)
                || self.view.imports.floods.contains(&(network.clone(), vtep)))
    }

    fn node_network(&self, network: &Network) -> NodeNetwork {
        let gateways = self.gateways(network);
        NodeNetwork {
            key: network.key.clone(),
            mtu: workload_mtu(&self.view.snapshot, network, self.me),
            bridge_mac: bridge_mac(network.vni, self.me),
            vlan: network.vlan,
            gateway_mac: (!gateways.is_empty()).then(|| network.gateway_mac()),
            gateways,
        }
    }

    /// Gateway addresses for which the node answers.
    fn gateways(&self, network: &Network) -> Vec<(IpAddr, u8)> {
        let snapshot = &self.view.snapshot;
        if !self.me.mode.is_spoken_for() || irb(snapshot, &network.key) == Irb::None {
            return Vec::new();
        }
        let subnets = snapshot.subnets_of(&network.key).map(|record| &record.value);
        subnets.filter_map(|subnet| Some((subnet.gateway?, subnet.prefix.length()))).collect()
    }

    fn port(&self, key: &PortKey) -> Option<NodePort> {
        let snapshot = &self.view.snapshot;
        let seat = seat(snapshot, &self.me.name, key)?;
        let Seat { port, binding, mac, network, stage, .. } = seat;
        // Bare metal needs nothing on its node.
        let attachment = binding.attachment?;
        let mut gateways: Vec<IpAddr> = Vec::new();
        let mut addresses = Vec::new();
        for address in port.answers() {
            let subnet = snapshot.subnet_at(&key.network.vrf, address).map(|record| &record.value);
            let subnet = subnet.filter(|subnet| subnet.network == key.network);
            let host = if address.is_ipv4() { 32 } else { 128 };
            addresses.push((address, subnet.map_or(host, |subnet| subnet.prefix.length())));
            if let Some(gateway) = subnet.and_then(|subnet| subnet.gateway)
                && gateways.iter().all(|known| known.is_ipv4() != gateway.is_ipv4())
            {
                gateways.push(gateway);
            }
        }
        let held = self.me.mode == NodeMode::Host
            && attachment == Attachment::Routed
            && !gateways.is_empty()
            && irb(snapshot, &network.key) != Irb::None;
        Some(NodePort {
            vni: network.vni,
            mac,
            addresses,
            gateways,
            gateway_mac: held.then(|| network.gateway_mac()),
            mtu: match workload_mtu(snapshot, network, self.me) {
                most if binding.mtu > 0 => most.min(binding.mtu),
                most => most,
            },
            kind: binding.kind,
            attachment,
            macvlan_mode: binding.macvlan_mode,
            rate: port.rate,
            guarded: port.guard.map_or(!network.no_guard, |guard| guard == Guard::On),
            netns: binding.netns.clone(),
            interface: binding.interface.clone(),
            generation: binding.generation,
            stage,
            address_check_ms: address_check_ms(snapshot, key, &seat),
            adopted: binding.adopted,
            queues: binding.queues,
        })
    }

    /// Where a MAC lives: the store's word first, then the fabric's.
    fn mac(&self, part: &mut NodeState, network: &Network, mac: Mac) {
        if self.me.mode == NodeMode::Host {
            return;
        }
        let place = (network.key.clone(), mac);
        if let Some(owner) = self.view.snapshot.by_mac.get(&place) {
            let bound = bound(&self.view.snapshot, &owner.value.key).filter(Bound::has_own_mac);
            if let Some(bound) = bound {
                self.put(part, &bound, mac, bound.port.answers().collect());
            }
            return;
        }
        let Some(imported) = self.view.imports.macs.get(&place) else { return };
        let gateways = self.gateways(network);
        // Each VTEP is the gateway for its own hosts.
        if self.is_mine(imported.vtep) || (!gateways.is_empty() && mac == network.gateway_mac()) {
            return;
        }
        let ours = |ip: &IpAddr| {
            let owner = self.view.snapshot.by_address.get(&(network.key.vrf.clone(), *ip));
            owner.is_some_and(|port| port.value.key.network == network.key)
                || gateways.iter().any(|(gateway, _)| gateway == ip)
        };
        let addresses = imported.addresses.iter().copied().filter(|ip| !ours(ip)).collect();
        part.remotes.insert((network.vni, mac), RemoteMac { vtep: imported.vtep, addresses });
    }

    /// The routed ports of a network on a node: one MAC, that of the node's bridge, with the addresses of all.
    fn routed(&self, part: &mut NodeState, network: &Network, name: &Name) {
        if self.me.mode == NodeMode::Host {
            return;
        }
        let snapshot = &self.view.snapshot;
        let ports: Vec<Bound<'_>> = ports_on_node(snapshot, name, &network.key)
            .filter_map(|key| bound(snapshot, key))
            .filter(|bound| bound.binding.attachment == Some(Attachment::Routed))
            .collect();
        if let Some(first) = ports.first() {
            let addresses = ports.iter().flat_map(|bound| bound.port.answers()).collect();
            self.put(part, first, bridge_mac(network.vni, first.node), addresses);
        }
    }

    /// Enters a port's MAC as local or as remote; the node's own ports are neither.
    fn put(&self, part: &mut NodeState, bound: &Bound<'_>, mac: Mac, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        let key = (bound.network.vni, mac);
        if let Some(interface) = self.switch_interface(bound) {
            part.locals.insert(key, LocalMac { interface, addresses });
            return;
        }
        let vtep = drifted(self.view, bound).unwrap_or(bound.place.vtep);
        if bound.node.name != self.me.name && !self.is_mine(vtep) {
            part.remotes.insert(key, RemoteMac { vtep, addresses });
        }
    }

    /// The interface of this switch behind which a port is.
    fn switch_interface(&self, bound: &Bound<'_>) -> Option<String> {
        if !self.me.mode.is_switch() {
            return None;
        }
        if bound.node.name == self.me.name {
            return Some(bound.binding.interface.clone());
        }
        let uplink = bound.node.uplinks.iter().find(|uplink| uplink.switch == self.me.name)?;
        Some(uplink.switch_interface.clone())
    }

    fn node_vrf(&self, vrf: &Name) -> Option<NodeVrf> {
        let record = &self.view.snapshot.vrfs.get(vrf)?.value;
        Some(NodeVrf {
            l3_vni: domain(&self.view.snapshot, vrf).map(|domain| domain.vni),
            router_mac: place::router_mac(self.me)?,
            table: table(record)?,
        })
    }

    /// The ways to a prefix: of a port, as declared, to a connected subnet, as the fabric says, from another VRF.
    fn ways(&mut self, vrf: &Name, prefix: Prefix) -> BTreeSet<NextHop> {
        let snapshot = &self.view.snapshot;
        let host = prefix.length() == if prefix.is_ipv4() { 32 } else { 128 };
        if host && let Some(owner) = snapshot.by_address.get(&(vrf.clone(), prefix.network())) {
            let bound = owner.value.answerer().and_then(|key| bound(snapshot, key));
            // One that has moved without a word is where the fabric says.
            if let Some(bound) = bound.filter(|bound| drifted(self.view, bound).is_none()) {
                let way = self.way_to_port(&bound);
                // A switch with EVPN of its own says its router MAC itself, if we do not know it.
                if way.is_some() || bound.place.mode != NodeMode::TorEvpn {
                    return way.into_iter().collect();
                }
            }
        }
        let Some(domain) = domain(snapshot, vrf) else { return BTreeSet::new() };
        if let Some(route) = domain.vrf.routes.iter().find(|route| route.prefix == prefix) {
            let node = snapshot.nodes.get(&route.node).map(|record| &record.value);
            let way = node.and_then(|node| self.way(node.vtep?, place::router_mac(node)?));
            return way.into_iter().collect();
        }
        let mut ways = BTreeSet::new();
        let subnet = snapshot.subnets.get(&(vrf.clone(), prefix)).map(|record| &record.value.network);
        if let Some(network) = subnet {
            let here = self.network(network).is_some();
            if here && irb(snapshot, network) != Irb::None {
                return ways;
            }
            if evpn::connected(snapshot, vrf, prefix).is_some() {
                let vteps = vteps_of_network(snapshot, network);
                let known = vteps.filter_map(|vtep| self.way(vtep, router_mac_at(snapshot, vtep)?));
                ways.extend(known.take(MOST_WAYS));
            }
        }
        if let Some(heard) = self.view.imports.prefixes.get(&(vrf.clone(), prefix)) {
            ways.extend(heard.iter().filter_map(|(vtep, mac)| self.way(*vtep, *mac)));
        }
        if ways.is_empty() && subnet.is_none() {
            let from = leaks(self.view, vrf).into_iter().find(|leak| leak.takes(self.view, prefix));
            ways.extend(from.map(|leak| NextHop::Vrf(leak.from)));
        }
        ways
    }

    fn way(&self, vtep: IpAddr, router_mac: Mac) -> Option<NextHop> {
        (!self.is_mine(vtep)).then_some(NextHop::Vtep { vtep, router_mac })
    }

    /// The way to a port of a symmetric network that is elsewhere.
    fn way_to_port(&self, bound: &Bound<'_>) -> Option<NextHop> {
        let symmetric = irb(&self.view.snapshot, &bound.network.key) == Irb::Symmetric;
        let here = bound.node.name == self.me.name || self.switch_interface(bound).is_some();
        // Frames of an ipvlan carry a MAC that only its switch knows, which routes to it by itself.
        let known = bound.wire_mac().is_some();
        if !symmetric || here || !known {
            return None;
        }
        self.way(bound.place.vtep, bound.place.router_mac?)
    }

    /// Ports towards hosts: tagged what hosts with uplinks have, untagged what bare metal has.
    fn switch_ports(&self) -> BTreeMap<String, SwitchPort> {
        let mut ports: BTreeMap<String, SwitchPort> = BTreeMap::new();
        if !self.me.mode.is_switch() {
            return ports;
        }
        let snapshot = &self.view.snapshot;
        let vlan = |network: &NetworkKey| snapshot.networks.get(network).and_then(|n| n.value.vlan);
        for host in snapshot.hosts_behind(&self.me.name).map(|record| &record.value) {
            let uplink = host.uplinks.iter().find(|uplink| uplink.switch == self.me.name);
            let Some(interface) = uplink.map(|u| &u.switch_interface).filter(|i| !i.is_empty()) else {
                continue;
            };
            let networks = networks_of_node(snapshot, &host.name);
            let port = ports.entry(interface.clone()).or_default();
            port.tagged.extend(networks.iter().filter_map(vlan));
        }
        let trunks: BTreeSet<String> = ports.keys().cloned().collect();
        for bound in ports_of_node(snapshot, &self.me.name).filter_map(|key| bound(snapshot, key)) {
            if bound.binding.kind != WorkloadKind::BareMetal {
                continue;
            }
            let (Some(vlan), interface) = (bound.network.vlan, &bound.binding.interface) else { continue };
            let port = ports.entry(interface.clone()).or_default();
            // One access port has one network; what else is bound there comes tagged.
            let access = !trunks.contains(interface) && port.untagged.is_none_or(|known| known == vlan);
            if access {
                port.untagged = Some(vlan);
            } else {
                port.tagged.insert(vlan);
            }
        }
        ports
    }
}

/// Milliseconds for which a port's addresses are asked for before their first use at a node; 0: not at all. What comes by
/// a move is still answered for by its old place, or was a moment ago; what was bound by force may be, and somebody has
/// decided so; what is adopted answers for itself.
fn address_check_ms(snapshot: &Snapshot, key: &PortKey, seat: &Seat<'_>) -> u32 {
    let Seat { port, binding, network, .. } = seat;
    let moved = snapshot.moves.get(key).is_some_and(|record| moves::holds(&record.value, binding));
    if seat.stage != Stage::Active || moved || binding.adopted || !binding.forced.is_empty() {
        return 0;
    }
    match (port.address_check, network.address_check_ms()) {
        (Some(AddressCheck::Off), _) => 0,
        (Some(AddressCheck::On), 0) => ADDRESS_CHECK_MS,
        (_, ms) => ms,
    }
}
