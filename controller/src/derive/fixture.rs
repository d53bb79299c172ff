//! Small worlds for tests: snapshots built record by record, as the store would.

mod steps;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_bgp::{Attributes, Esi, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Revision, Vni};
use serde::Serialize;
pub(crate) use steps::{NODES, steps};

use super::evpn::Context;
use super::imports::{ImportTable, Policy};
use super::node::View;
use crate::keys::RecordKey;
use crate::model::{
    Attachment, Binding, MacvlanMode, Move, MovePhase, Network, Node, NodeMode, Port, RateLimit, Subnet,
    Uplink, Vrf, WorkloadKind,
};
use crate::snapshot::Snapshot;

pub(crate) const CONTEXT: Context = Context { asn: 65000, router_id: Ipv4Addr::new(10, 99, 0, 1) };

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn port_key(text: &str) -> PortKey {
    text.parse().unwrap()
}

pub(crate) fn vni(n: u32) -> Vni {
    Vni::try_from(n).unwrap()
}

/// A move that was ordered a moment ago, with the limits of an order that says nothing.
pub(crate) fn begun_move(from: Binding, to: Binding) -> Move {
    Move {
        port: from.port.clone(),
        phase: MovePhase::Prepare,
        from,
        to,
        by: String::new(),
        steps: vec![(MovePhase::Prepare, 0)],
        prepare_ms: 10_000,
        window_ms: 60_000,
        max_loss_ms: 500,
        macs: None,
        reason: String::new(),
        cost: None,
        before: Vec::new(),
        changed_ms: 0,
        forced: false,
    }
}

/// A node with nothing but a mode.
pub(crate) fn plain_node(node: &str, mode: NodeMode) -> Node {
    Node {
        name: name(node),
        mode,
        vtep: None,
        underlay_mtu: 1500,
        site: String::new(),
        labels: BTreeMap::new(),
        uplinks: Vec::new(),
        anycast_vtep: None,
        router_mac: None,
        esi: None,
        networks: Vec::new(),
        host_bridge: crate::model::HostBridge::default(),
        move_addresses: false,
    }
}

/// A snapshot and the means to change it.
#[derive(Debug, Clone, Default)]
pub(crate) struct World {
    pub(crate) snapshot: Snapshot,
}

impl World {
    pub(crate) fn put(&mut self, key: &RecordKey, record: &impl Serialize) {
        self.snapshot.revision = Revision(self.snapshot.revision.0 + 1);
        let value = serde_json::to_vec(record).unwrap();
        self.snapshot.apply(&key.path(), Some((&value, self.snapshot.revision))).unwrap();
    }

    pub(crate) fn delete(&mut self, key: &RecordKey) {
        self.snapshot.revision = Revision(self.snapshot.revision.0 + 1);
        self.snapshot.apply(&key.path(), None).unwrap();
    }

    pub(crate) fn network(&mut self, key: &str, n: u32) {
        self.network_with(key, n, |_| {});
    }

    pub(crate) fn network_with(&mut self, key: &str, n: u32, change: impl FnOnce(&mut Network)) {
        let key: NetworkKey = key.parse().unwrap();
        let mut network = Network {
            key: key.clone(),
            vni: vni(n),
            vlan: None,
            mtu: 1450,
            export_targets: Vec::new(),
            import_targets: Vec::new(),
            sticky_seconds: 0,
            quarantine_seconds: None,
            labels: BTreeMap::new(),
            rd_number: (n & 0xffff) as u16,
            irb: None,
            gateway_mac: None,
            attachments: Vec::new(),
            no_guard: false,
            address_check_ms: None,
        };
        change(&mut network);
        self.put(&RecordKey::Network(key), &network);
    }

    pub(crate) fn subnet(&mut self, network: &str, prefix: &str, gateway: Option<&str>) {
        let network: NetworkKey = network.parse().unwrap();
        let subnet = Subnet {
            network: network.clone(),
            prefix: prefix.parse().unwrap(),
            gateway: gateway.map(|text| text.parse().unwrap()),
            ranges: Vec::new(),
            exclusions: Vec::new(),
            reservations: Vec::new(),
        };
        self.put(&RecordKey::Subnet(network, subnet.prefix), &subnet);
    }

    pub(crate) fn node(&mut self, node: &str, vtep: &str) {
        let vtep = vtep.parse().unwrap();
        let node = Node { vtep: Some(vtep), ..plain_node(node, NodeMode::HostVtep) };
        self.put(&RecordKey::Node(node.name.clone()), &node);
    }

    pub(crate) fn port(&mut self, key: &str, addresses: &[&str]) {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let mac = addresses.first().map_or(Mac::new([2, 0, 0, 0, 0, 1]), |first| Mac::from_ip(*first, 0));
        self.port_with(key, addresses, mac);
    }

    pub(crate) fn port_with(&mut self, key: &str, addresses: Vec<IpAddr>, mac: Mac) {
        let port = Port {
            key: port_key(key),
            addresses,
            mac,
            spare_mac: None,
            mac_collisions: 0,
            labels: BTreeMap::new(),
            created_ms: 0,
            changed_ms: 0,
            released_ms: None,
            quarantined_ms: None,
            rate: RateLimit::default(),
            guard: None,
            address_check: None,
            duplicate: None,
            select: BTreeMap::new(),
            vip: None,
            held: Vec::new(),
        };
        self.put(&RecordKey::Port(port.key.clone()), &port);
    }

    pub(crate) fn vrf(&mut self, vrf: &str, l3_vni: Option<u32>, change: impl FnOnce(&mut Vrf)) {
        let mut record = Vrf {
            name: name(vrf),
            l3_vni: l3_vni.map(vni),
            export_targets: Vec::new(),
            import_targets: Vec::new(),
            routes: Vec::new(),
            no_connected: false,
            rd_number: if vrf == "default" { 60_001 } else { 60_002 },
            connected_rds: if vrf == "default" { vec![60_011, 60_012] } else { Vec::new() },
        };
        change(&mut record);
        self.put(&RecordKey::Vrf(name(vrf)), &record);
    }

    pub(crate) fn node_with(&mut self, node: Node) {
        self.put(&RecordKey::Node(node.name.clone()), &node);
    }

    pub(crate) fn switch(&mut self, node: &str, mode: NodeMode, vtep: &str, anycast: Option<&str>) {
        self.node_with(Node {
            vtep: Some(vtep.parse().unwrap()),
            anycast_vtep: anycast.map(|vtep| vtep.parse().unwrap()),
            ..plain_node(node, mode)
        });
    }

    /// A host with uplinks to interfaces `to-HOST` of these switches.
    pub(crate) fn host(&mut self, host: &str, switches: &[&str], esi: Option<&str>) {
        let uplink = |(n, switch): (usize, &&str)| Uplink {
            interface: format!("eth{n}"),
            switch: name(switch),
            switch_interface: format!("to-{host}"),
        };
        self.node_with(Node {
            uplinks: switches.iter().enumerate().map(uplink).collect(),
            esi: esi.map(|esi| crate::model::parse_esi(esi).unwrap()),
            ..plain_node(host, NodeMode::Host)
        });
    }

    pub(crate) fn bind(&mut self, port: &str, node: &str) {
        self.binding(port, node, true);
    }

    pub(crate) fn bind_by(&mut self, port: &str, node: &str, attachment: Option<Attachment>) {
        self.binding(port, node, true);
        let key = port_key(port);
        let mut binding = self.snapshot.bindings.get(&key).unwrap().value.clone();
        binding.attachment = attachment;
        if attachment.is_none() {
            binding.kind = WorkloadKind::BareMetal;
            binding.interface = "swp9".into();
        }
        self.put(&RecordKey::Binding(key), &binding);
    }

    pub(crate) fn unbind(&mut self, port: &str) {
        let node = self.snapshot.bindings.get(&port_key(port)).map(|b| b.value.node.clone());
        if let Some(node) = node {
            self.binding(port, node.as_str(), false);
        }
    }

    fn binding(&mut self, port: &str, node: &str, active: bool) {
        let port = port_key(port);
        let before = self.snapshot.bindings.get(&port).map_or(0, |b| b.value.generation);
        let binding = Binding {
            port: port.clone(),
            node: name(node),
            kind: WorkloadKind::Container,
            attachment: Some(Attachment::VxlanBridge),
            macvlan_mode: MacvlanMode::Bridge,
            netns: "/run/netns/w".into(),
            interface: "eth0".into(),
            generation: before + u64::from(active),
            active,
            changed_ms: 0,
            forced: String::new(),
            adopted: false,
            apart: false,
            queues: 0,
            mtu: 0,
        };
        self.put(&RecordKey::Binding(port), &binding);
    }

    /// A move of a bound port that is in this phase, or goes on to it.
    pub(crate) fn move_port(&mut self, port: &str, node: &str, phase: MovePhase) {
        let key = port_key(port);
        let Some(now) = self.snapshot.bindings.get(&key).map(|record| record.value.clone()) else { return };
        let known = self.snapshot.moving(&key).map(|record| record.value.clone());
        let known = known.filter(|moving| crate::moves::holds(moving, &now));
        let to = Binding { node: name(node), generation: now.generation + 1, ..now.clone() };
        let mut moving = known.unwrap_or_else(|| begun_move(now.clone(), to));
        moving.phase = phase;
        let place = match phase {
            MovePhase::Prepare | MovePhase::Stop | MovePhase::Undone => &mut moving.from,
            _ => &mut moving.to,
        };
        if now.node != place.node {
            place.generation = now.generation + 1;
            let binding = Binding { active: true, ..place.clone() };
            self.put(&RecordKey::Binding(key.clone()), &binding);
        }
        self.put(&RecordKey::Move(key), &moving);
    }

    /// Two networks, three nodes, a port of `web` on the first two.
    pub(crate) fn sample() -> Self {
        let mut world = World::default();
        world.network("web", 110);
        world.network("db", 120);
        world.subnet("web", "10.8.0.0/20", Some("10.8.0.1"));
        world.subnet("web", "fd00:8::/64", None);
        for (n, node) in ["h1", "h2", "h3"].into_iter().enumerate() {
            world.node(node, &format!("10.0.0.{}", n + 1));
        }
        world.port("web/a", &["10.8.0.5", "fd00:8::5"]);
        world.port("web/b", &["10.8.0.6"]);
        world.bind("web/a", "h1");
        world.bind("web/b", "h2");
        world
    }

    pub(crate) fn view(&self, table: &ImportTable) -> View {
        View { snapshot: Arc::new(self.snapshot.clone()), imports: table.imports().clone(), asn: CONTEXT.asn }
    }

    pub(crate) fn policy(&self) -> Policy {
        Policy::new(&self.snapshot, &CONTEXT)
    }
}

/// A type 2 route as a switch would send it.
pub(crate) fn mac_ip(rd: u8, n: u32, mac: Mac, ip: Option<&str>, vtep: &str, sequence: u32) -> Route {
    let rd = RouteDistinguisher::new(Ipv4Addr::new(10, 98, 0, rd), 2);
    let ip = ip.map(|text| text.parse().unwrap());
    let attributes = Attributes { sequence, ..foreign(n, vtep) };
    Route { key: RouteKey::MacIp { rd, etag: 0, mac, ip }, attributes: Arc::new(attributes) }
}

/// A type 3 route as a switch would send it.
pub(crate) fn imet(rd: u8, n: u32, vtep: &str) -> Route {
    let rd = RouteDistinguisher::new(Ipv4Addr::new(10, 98, 0, rd), 2);
    let tunnel: IpAddr = vtep.parse().unwrap();
    let attributes = Attributes { pmsi: Some(Pmsi { vni: vni(n), tunnel }), ..foreign(n, vtep) };
    Route { key: RouteKey::Imet { rd, etag: 0, originator: tunnel }, attributes: Arc::new(attributes) }
}

/// The L3 part of a symmetric network, on a route as a switch would send it.
pub(crate) fn routed(route: Route, l3_vni: u32, router_mac: Mac) -> Route {
    let mut attributes = (*route.attributes).clone();
    attributes.route_targets.push(RouteTarget::new(65000, l3_vni).unwrap());
    attributes.l3_vni = Some(vni(l3_vni));
    attributes.router_mac = Some(router_mac);
    Route { key: route.key, attributes: Arc::new(attributes) }
}

/// A type 5 route as a switch would send it.
pub(crate) fn ip_prefix(rd: u8, l3_vni: u32, prefix: &str, vtep: &str, router_mac: Mac) -> Route {
    let rd = RouteDistinguisher::new(Ipv4Addr::new(10, 98, 0, rd), 3);
    let attributes = Attributes { router_mac: Some(router_mac), ..foreign(l3_vni, vtep) };
    let key = RouteKey::IpPrefix { rd, etag: 0, prefix: prefix.parse().unwrap() };
    Route { key, attributes: Arc::new(attributes) }
}

fn foreign(n: u32, vtep: &str) -> Attributes {
    Attributes {
        next_hop: vtep.parse().unwrap(),
        vni: Some(vni(n)),
        l3_vni: None,
        route_targets: vec![RouteTarget::new(65000, n).unwrap()],
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}
