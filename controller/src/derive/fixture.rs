//! Small worlds for tests: snapshots built record by record, as the store would.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_bgp::{Attributes, Esi, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Revision, Vni};
use proptest::prelude::*;
use serde::Serialize;

use super::evpn::Context;
use super::imports::{ImportTable, Policy};
use super::node::View;
use crate::keys::RecordKey;
use crate::model::{
    Attachment, Binding, Fence, Irb, MacvlanMode, Move, MovePhase, Network, Node, NodeMode, Port, RateLimit,
    Subnet, Uplink, Vrf, VrfRoute, WorkloadKind,
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
            mac_collisions: 0,
            labels: BTreeMap::new(),
            created_ms: 0,
            changed_ms: 0,
            released_ms: None,
            quarantined_ms: None,
            rate: RateLimit::default(),
            guard: None,
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

/// One thing that may happen to a world.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Bind(u8, u8),
    Unbind(u8),
    Forget(u8),
    Readdress(u8, u8),
    Vtep(u8, bool),
    DropNode(u8),
    Vni(u8, bool),
    DropNetwork(u8),
    Subnet(bool),
    Announce {
        peer: u8,
        mac: u8,
        ip: Option<u8>,
        vtep: u8,
        sequence: u8,
        network: u8,
    },
    Withdraw {
        peer: u8,
        mac: u8,
        ip: Option<u8>,
    },
    Flood {
        vtep: u8,
        network: u8,
        there: bool,
    },
    /// A switch: mode, shared VTEP, networks it lists.
    Switch(u8, u8, bool, bool),
    /// A host behind switches: the first, the second or both; with an Ethernet segment.
    Host(u8, u8, bool),
    Attach(u8, u8, u8),
    /// A move of a port to a host, as far as this.
    Move(u8, u8, MovePhase),
    /// A host is kept out, or let in.
    Fence(u8, bool),
    Irb(u8, u8),
    Vrf {
        n: u8,
        l3: bool,
        leak: u8,
        no_connected: bool,
        route: Option<u8>,
    },
    Prefix {
        peer: u8,
        rd: u8,
        l3: u8,
        wide: bool,
        there: bool,
    },
    Routed {
        peer: u8,
        mac: u8,
        ip: u8,
        vtep: u8,
        sequence: u8,
    },
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let small = 0u8..6;
    let step = prop_oneof![
        6 => (0u8..8, 0u8..4).prop_map(|(p, n)| Step::Bind(p, n)),
        3 => (0u8..8).prop_map(Step::Unbind),
        1 => (0u8..8).prop_map(Step::Forget),
        2 => (0u8..8, 0u8..8).prop_map(|(p, a)| Step::Readdress(p, a)),
        1 => (0u8..4, any::<bool>()).prop_map(|(n, v)| Step::Vtep(n, v)),
        1 => (0u8..4).prop_map(Step::DropNode),
        1 => (0u8..2, any::<bool>()).prop_map(|(n, v)| Step::Vni(n, v)),
        1 => (0u8..2).prop_map(Step::DropNetwork),
        1 => any::<bool>().prop_map(Step::Subnet),
        5 => (0u8..2, small.clone(), proptest::option::of(small.clone()), 0u8..8, 0u8..3, 0u8..2).prop_map(
            |(peer, mac, ip, vtep, sequence, network)| Step::Announce { peer, mac, ip, vtep, sequence, network }
        ),
        3 => (0u8..2, small.clone(), proptest::option::of(small)).prop_map(
            |(peer, mac, ip)| Step::Withdraw { peer, mac, ip }
        ),
        2 => (0u8..6, 0u8..2, any::<bool>()).prop_map(
            |(vtep, network, there)| Step::Flood { vtep, network, there }
        ),
        2 => (0u8..2, 0u8..4, any::<bool>(), any::<bool>()).prop_map(|(n, m, a, l)| Step::Switch(n, m, a, l)),
        2 => (0u8..2, 0u8..3, any::<bool>()).prop_map(|(n, s, e)| Step::Host(n, s, e)),
        6 => (0u8..12, 0u8..5, 0u8..5).prop_map(|(p, n, a)| Step::Attach(p, n, a)),
        4 => (0u8..8, 0u8..4, phases()).prop_map(|(p, n, phase)| Step::Move(p, n, phase)),
        1 => (0u8..4, any::<bool>()).prop_map(|(n, there)| Step::Fence(n, there)),
        2 => (0u8..3, 0u8..4).prop_map(|(n, irb)| Step::Irb(n, irb)),
        2 => (0u8..2, any::<bool>(), 0u8..3, any::<bool>(), proptest::option::of(0u8..3)).prop_map(
            |(n, l3, leak, no_connected, route)| Step::Vrf { n, l3, leak, no_connected, route }
        ),
        2 => (0u8..2, 0u8..3, 0u8..2, any::<bool>(), any::<bool>()).prop_map(
            |(peer, rd, l3, wide, there)| Step::Prefix { peer, rd, l3, wide, there }
        ),
        2 => (0u8..2, 0u8..6, 0u8..6, 0u8..8, 0u8..3).prop_map(
            |(peer, mac, ip, vtep, sequence)| Step::Routed { peer, mac, ip, vtep, sequence }
        ),
    ];
    proptest::collection::vec(step, 1..40)
}

fn phases() -> impl Strategy<Value = MovePhase> {
    use MovePhase::{Done, Hold, Prepare, Return, Stop, Undone, Verify};
    proptest::sample::select(vec![Prepare, Stop, Verify, Hold, Return, Done, Undone])
}

pub(crate) const NETWORKS: [&str; 3] = ["web", "db", "red/app"];
/// Every node that steps may make.
pub(crate) const NODES: [&str; 8] = ["h0", "h1", "h2", "h3", "s0", "s1", "b0", "b1"];

/// Ports 0 to 3 are in `web`, the others in `db`.
fn nth_port(p: u8) -> String {
    format!("{}/p{p}", NETWORKS[usize::from(p / 4)])
}

pub(crate) fn vtep(n: u8, other: bool) -> String {
    // 6 and 7 are the switches'.
    format!("10.0.{}.{}", u8::from(other), if n == 0 { 200 } else { n })
}

/// Number of a network in steps.
fn number(n: u8) -> u32 {
    110 + 10 * u32::from(n)
}

/// MACs and addresses that ports and the fabric fight for.
fn nth_address(network: u8, n: u8) -> String {
    format!("10.{}.0.{}", 8 + network, 10 + n)
}

impl World {
    pub(crate) fn take(&mut self, table: &mut ImportTable, step: &Step) {
        match step {
            Step::Bind(p, n) => {
                let (port, node) = (nth_port(*p), format!("h{n}"));
                if self.snapshot.ports.get(&port_key(&port)).is_none() {
                    self.readdress(*p, *p % 4);
                }
                if self.snapshot.nodes.get(&name(&node)).is_none() {
                    self.node(&node, &vtep(*n, false));
                }
                self.bind(&port, &node);
            }
            Step::Unbind(p) => self.unbind(&nth_port(*p)),
            Step::Forget(p) => {
                let key = port_key(&nth_port(*p));
                self.delete(&RecordKey::Binding(key.clone()));
                self.delete(&RecordKey::Port(key));
            }
            Step::Readdress(p, a) => self.readdress(*p, *a),
            Step::Vtep(n, other) => self.node(&format!("h{n}"), &vtep(*n, *other)),
            Step::DropNode(n) => self.delete(&RecordKey::Node(name(&format!("h{n}")))),
            Step::Vni(n, other) => {
                let number = 110 + 10 * u32::from(*n) + u32::from(*other);
                self.network(NETWORKS[usize::from(*n)], number);
            }
            Step::DropNetwork(n) => {
                self.delete(&RecordKey::Network(NETWORKS[usize::from(*n)].parse().unwrap()));
            }
            Step::Subnet(wide) => {
                self.delete(&RecordKey::Subnet("web".parse().unwrap(), "10.8.0.0/16".parse().unwrap()));
                self.delete(&RecordKey::Subnet("web".parse().unwrap(), "10.8.0.0/24".parse().unwrap()));
                self.subnet("web", if *wide { "10.8.0.0/16" } else { "10.8.0.0/24" }, Some("10.8.0.1"));
            }
            Step::Move(p, n, phase) => self.move_port(&nth_port(*p), &format!("h{n}"), *phase),
            Step::Fence(n, there) => {
                let node = name(&format!("h{n}"));
                let fence =
                    Fence { node: node.clone(), reason: "test".into(), by: String::new(), since_ms: 0 };
                match there {
                    true => self.put(&RecordKey::Fence(node), &fence),
                    false => self.delete(&RecordKey::Fence(node)),
                }
            }
            Step::Announce { .. } | Step::Withdraw { .. } | Step::Flood { .. } => self.hear(table, step),
            Step::Prefix { .. } | Step::Routed { .. } => self.hear_routed(table, step),
            _ => self.weave(step),
        }
        table.set_policy(self.policy());
    }

    fn readdress(&mut self, p: u8, a: u8) {
        let address: IpAddr = nth_address(p / 4, a).parse().unwrap();
        let (port, mac) = (nth_port(p), Mac::from_ip(address, 0));
        let key = port_key(&port);
        let mac_owner = self.snapshot.by_mac.get(&(key.network.clone(), mac));
        if mac_owner.is_none_or(|owner| owner.value.key == key) {
            self.port_with(&port, vec![address], mac);
        }
    }

    /// Steps of the fabric's records.
    fn weave(&mut self, step: &Step) {
        match step {
            Step::Switch(n, mode, anycast, lists) => {
                let mode = [NodeMode::TorEvpn, NodeMode::TorAgent, NodeMode::TorStatic, NodeMode::TorAgent]
                    [usize::from(*mode)];
                let networks = if *lists { vec!["db".parse().unwrap()] } else { vec![] };
                self.node_with(Node {
                    vtep: Some(vtep(6 + n, false).parse().unwrap()),
                    anycast_vtep: anycast.then(|| "10.0.0.99".parse().unwrap()),
                    router_mac: (mode == NodeMode::TorEvpn).then(|| Mac::new([2, 9, 9, 9, 9, *n])),
                    networks,
                    ..plain_node(&format!("s{n}"), mode)
                });
            }
            Step::Host(n, switches, esi) => {
                let switches = [&["s0"][..], &["s1"], &["s0", "s1"]][usize::from(*switches)];
                self.host(&format!("b{n}"), switches, esi.then_some("03:44:38:39:ff:ff:01:00:00:01"));
            }
            Step::Attach(p, n, how) => {
                let (port, node) = (nth_port(*p), ["b0", "b1", "s0", "s1", "h1"][usize::from(*n)]);
                if self.snapshot.ports.get(&port_key(&port)).is_none() {
                    self.readdress(*p, *p % 4);
                }
                if self.snapshot.ports.get(&port_key(&port)).is_some() {
                    let ways =
                        [Attachment::Bridge, Attachment::Routed, Attachment::Ipvlan, Attachment::Macvlan];
                    let attachment =
                        if node.starts_with('s') { None } else { ways.get(usize::from(*how)).copied() };
                    self.bind_by(&port, node, attachment);
                }
            }
            Step::Irb(n, irb) => {
                let irb =
                    [None, Some(Irb::None), Some(Irb::Symmetric), Some(Irb::Asymmetric)][usize::from(*irb)];
                self.network_with(NETWORKS[usize::from(*n)], number(*n), |network| network.irb = irb);
            }
            Step::Vrf { n, l3, leak, no_connected, route } => {
                let (vrf, l3_vni) = [("default", 4001), ("red", 4002)][usize::from(*n)];
                let targets = |numbers: &[u32]| -> Vec<RouteTarget> {
                    numbers.iter().map(|n| RouteTarget::new(65000, *n).unwrap()).collect()
                };
                self.vrf(vrf, l3.then_some(l3_vni), |vrf| {
                    vrf.import_targets = match leak {
                        0 => Vec::new(),
                        1 => targets(&[4001, 4002]),
                        _ => targets(&[l3_vni, 110]),
                    };
                    vrf.no_connected = *no_connected;
                    let node = route.map(|n| name(["h1", "s0", "h3"][usize::from(n)]));
                    vrf.routes = node
                        .map(|node| VrfRoute { prefix: "172.31.0.0/16".parse().unwrap(), node })
                        .into_iter()
                        .collect();
                });
                self.subnet("red/app", "10.10.0.0/24", Some("10.10.0.1"));
            }
            _ => {}
        }
    }

    fn hear_routed(&mut self, table: &mut ImportTable, step: &Step) {
        let peer = |n: u8| IpAddr::from([10, 99, 0, 100 + n]);
        let router_mac = |vtep: u8| Mac::new([2, 8, 8, 8, 8, vtep]);
        match step {
            Step::Prefix { peer: p, rd, l3, wide, there } => {
                let prefix = if *wide { "172.31.0.0/16" } else { "10.10.0.0/24" };
                let route =
                    ip_prefix(*rd, 4001 + u32::from(*l3), prefix, &vtep(*rd + 4, false), router_mac(*rd));
                let change = match there {
                    true => causeway_bgp::RouteChange::Announce(route),
                    false => causeway_bgp::RouteChange::Withdraw(route.key),
                };
                table.apply(peer(*p), vec![change]);
            }
            Step::Routed { peer: p, mac, ip, vtep: v, sequence } => {
                let mac = Mac::from_ipv4(Ipv4Addr::new(10, 8, 0, 10 + mac));
                let ip = nth_address(0, *ip);
                let route = mac_ip(7, 110, mac, Some(&ip), &vtep(*v, false), u32::from(*sequence));
                let route = routed(route, 4001, router_mac(*v));
                table.apply(peer(*p), vec![causeway_bgp::RouteChange::Announce(route)]);
            }
            _ => {}
        }
    }

    fn hear(&mut self, table: &mut ImportTable, step: &Step) {
        let peer = |n: u8| IpAddr::from([10, 99, 0, 100 + n]);
        let mac = |n: u8| Mac::from_ipv4(Ipv4Addr::new(10, 8, 0, 10 + n));
        let ip = |n: &u8| nth_address(0, *n);
        // VTEPs 0 to 3 are nodes' own (or were), the others the fabric's.
        match step {
            Step::Announce { peer: p, mac: m, ip: i, vtep: v, sequence, network } => {
                let number = 110 + 10 * u32::from(*network);
                let ip = i.as_ref().map(ip);
                let route = mac_ip(7, number, mac(*m), ip.as_deref(), &vtep(*v, false), u32::from(*sequence));
                table.apply(peer(*p), vec![causeway_bgp::RouteChange::Announce(route)]);
            }
            Step::Withdraw { peer: p, mac: m, ip: i } => {
                let ip = i.as_ref().map(ip);
                let route = mac_ip(7, 110, mac(*m), ip.as_deref(), "10.0.0.9", 0);
                table.apply(peer(*p), vec![causeway_bgp::RouteChange::Withdraw(route.key)]);
            }
            Step::Flood { vtep: v, network, there } => {
                let route = imet(*v, 110 + 10 * u32::from(*network), &vtep(*v, false));
                let change = match there {
                    true => causeway_bgp::RouteChange::Announce(route),
                    false => causeway_bgp::RouteChange::Withdraw(route.key),
                };
                table.apply(peer(0), vec![change]);
            }
            _ => {}
        }
    }
}
