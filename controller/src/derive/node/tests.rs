use std::time::Instant;

use causeway_bgp::RouteChange;
use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{
    NODES, World, imet, ip_prefix, mac_ip, name, plain_node, port_key, routed, steps, vni,
};
use crate::derive::imports::ImportTable;
use crate::model::{Irb, VrfRoute};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 99, 0, 100));

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn imported(world: &World, routes: Vec<causeway_bgp::Route>) -> ImportTable {
    let mut table = ImportTable::default();
    table.set_policy(world.policy());
    table.apply(PEER, routes.into_iter().map(RouteChange::Announce).collect());
    table
}

#[test]
fn a_node_knows_its_own_networks_only() {
    let world = World::sample();
    let view = world.view(&ImportTable::default());
    let h1 = state(&view, &name("h1"));
    assert_eq!(h1.networks.keys().copied().collect::<Vec<_>>(), [vni(110)]);
    assert_eq!(h1.ports.keys().cloned().collect::<Vec<_>>(), [port_key("web/a")]);
    let port = &h1.ports[&port_key("web/a")];
    assert_eq!(port.addresses, [(ip("10.8.0.5"), 20), (ip("fd00:8::5"), 64)]);
    assert_eq!(port.gateways, [ip("10.8.0.1")], "the IPv6 subnet has no gateway");
    let b = h1.remotes.get(&(vni(110), "02:ca:0a:08:00:06".parse().unwrap())).unwrap();
    assert_eq!((b.vtep, b.addresses.as_slice()), (ip("10.0.0.2"), [ip("10.8.0.6")].as_slice()));
    assert_eq!(h1.remotes.len(), 1);
    assert_eq!(h1.floods.iter().copied().collect::<Vec<_>>(), [(vni(110), ip("10.0.0.2"))]);
    assert_eq!(state(&view, &name("h3")), NodeState::default());
    assert_eq!(state(&view, &name("nobody")), NodeState::default());
}

#[test]
fn the_fabric_adds_what_the_store_does_not_know() {
    let world = World::sample();
    let server = "00:11:22:33:44:55".parse().unwrap();
    let taken = "02:ca:0a:08:00:06".parse().unwrap();
    let table = imported(
        &world,
        vec![
            mac_ip(1, 110, server, Some("10.8.0.99"), "10.0.9.1", 0),
            mac_ip(1, 110, taken, Some("10.8.0.6"), "10.0.9.1", 9),
            imet(1, 110, "10.0.9.1"),
            // A node's own VTEP, as another controller says it.
            mac_ip(2, 110, "02:ca:0a:08:00:05".parse().unwrap(), Some("10.8.0.5"), "10.0.0.1", 0),
            imet(2, 110, "10.0.0.3"),
        ],
    );
    let h1 = state(&world.view(&table), &name("h1"));
    assert_eq!(h1.remotes[&(vni(110), server)].vtep, ip("10.0.9.1"));
    assert_eq!(h1.remotes[&(vni(110), taken)].vtep, ip("10.0.0.2"), "the store's word counts");
    assert_eq!(h1.remotes.len(), 2);
    assert_eq!(h1.floods.len(), 2, "{:?}", h1.floods);
}

#[test]
fn an_address_of_a_port_is_not_given_to_a_foreign_mac() {
    let world = World::sample();
    let thief = "00:11:22:33:44:55".parse().unwrap();
    let table = imported(
        &world,
        vec![
            mac_ip(1, 110, thief, Some("10.8.0.6"), "10.0.9.1", 0),
            mac_ip(1, 110, thief, Some("10.8.0.77"), "10.0.9.1", 0),
        ],
    );
    let h1 = state(&world.view(&table), &name("h1"));
    assert_eq!(h1.remotes[&(vni(110), thief)].addresses, [ip("10.8.0.77")]);
}

#[test]
fn a_workload_mtu_fits_the_underlay() {
    let mut world = World::sample();
    world.network_with("web", 110, |network| network.mtu = 9000);
    world.node("h2", "fd00::2");
    let view = world.view(&ImportTable::default());
    let mtu = |node: &str| state(&view, &name(node)).networks[&vni(110)].mtu;
    assert_eq!((mtu("h1"), mtu("h2")), (1450, 1430));
}

#[test]
fn bridge_macs_are_local_and_differ_between_nodes() {
    let vteps = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2", "", ""];
    let node = |(n, vtep): (usize, &str)| crate::model::Node {
        vtep: vtep.parse().ok(),
        ..plain_node(&format!("n{n}"), NodeMode::Host)
    };
    let macs: Vec<Mac> = vteps.into_iter().enumerate().map(|at| bridge_mac(vni(110), &node(at))).collect();
    assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), 6);
    assert!(macs.iter().all(|mac| mac.is_unicast() && mac.octets()[0] & 2 == 2));
    assert_eq!(macs[0].to_string(), "0a:6e:0a:00:00:01");
}

#[test]
fn the_first_and_last_port_of_a_network_bring_and_take_all_of_it() {
    let mut world = World::sample();
    let table = ImportTable::default();
    let old = world.view(&table);
    world.port("web/c", &["10.8.0.7"]);
    world.bind("web/c", "h3");
    let new = world.view(&table);
    let Next::Delta(delta) = step(&old, &new, "h3") else { panic!("a delta") };
    assert_eq!(delta.set, state(&new, &name("h3")));
    assert_eq!(delta.set.remotes.len(), 2);
    world.unbind("web/c");
    let Next::Delta(delta) = step(&new, &world.view(&table), "h3") else { panic!("a delta") };
    assert_eq!(delta.deleted_networks.len(), 1);
    assert_eq!((delta.deleted_remotes.len(), delta.deleted_floods.len()), (2, 2));
}

#[test]
fn another_vtep_of_the_node_itself_needs_everything_anew() {
    let mut world = World::sample();
    let table = ImportTable::default();
    let old = world.view(&table);
    world.node("h1", "10.0.1.1");
    let new = world.view(&table);
    assert_eq!(step(&old, &new, "h1"), Next::Full);
    let Next::Delta(delta) = step(&old, &new, "h2") else { panic!("a delta") };
    assert_eq!((delta.set.remotes.len(), delta.set.floods.len(), delta.deleted_floods.len()), (1, 1, 1));
    world.delete(&crate::keys::RecordKey::Node(name("h1")));
    assert_eq!(step(&new, &world.view(&table), "h1"), Next::Gone);
}

fn step(old: &View, new: &View, node: &str) -> Next {
    next(old, new, &Changed::between(&old.snapshot, &new.snapshot), &name(node))
}

/// The cost of a change is that of the change: with 20,000 remote ports one more takes far less than a full state.
#[test]
fn one_change_does_not_cost_the_whole() {
    let mut world = World::sample();
    world.subnet("db", "10.16.0.0/12", None);
    world.port("db/own", &["10.16.255.255"]);
    world.bind("db/own", "h3");
    for n in 0..20_000u32 {
        let port = format!("db/p{n}");
        world.port(&port, &[&std::net::Ipv4Addr::from(0x0a10_0000 + n).to_string()]);
        world.bind(&port, "h1");
    }
    let table = ImportTable::default();
    let old = world.view(&table);
    let started = Instant::now();
    assert_eq!(state(&old, &name("h3")).remotes.len(), 20_000);
    let full = started.elapsed();
    world.unbind("db/p77");
    let new = world.view(&table);
    let started = Instant::now();
    let Next::Delta(delta) = step(&old, &new, "h3") else { panic!("a delta") };
    let one = started.elapsed();
    assert_eq!(delta.deleted_remotes.len(), 1);
    assert!(one * 20 < full, "one change took {one:?}, everything {full:?}");
}

proptest! {
    #[test]
    fn deltas_add_up_to_the_whole(steps in steps(), every in 1usize..4) {
        let mut world = World::sample();
        let mut table = ImportTable::default();
        table.set_policy(world.policy());
        let nodes = NODES.map(name);
        let mut old = world.view(&table);
        let mut held: Vec<NodeState> = nodes.iter().map(|node| state(&old, node)).collect();
        for (n, step) in steps.iter().enumerate() {
            world.take(&mut table, step);
            if n % every > 0 {
                continue;
            }
            let new = world.view(&table);
            let changed = Changed::between(&old.snapshot, &new.snapshot);
            let mut answering = std::collections::BTreeSet::new();
            for (node, held) in nodes.iter().zip(&mut held) {
                match next(&old, &new, &changed, node) {
                    Next::Delta(delta) => held.apply(*delta),
                    Next::Full => *held = state(&new, node),
                    Next::Gone => *held = NodeState::default(),
                }
                let want = state(&new, node);
                prop_assert_eq!(&*held, &want, "{}", node);
                for (key, port) in &want.ports {
                    let alone = port.stage != Stage::Active || answering.insert(key.clone());
                    prop_assert!(alone, "{} answers at two nodes", key);
                }
                let me = new.snapshot.nodes.get(node).and_then(|record| record.value.vtep);
                prop_assert!(want.remotes.values().all(|remote| Some(remote.vtep) != me), "a tunnel to itself");
                prop_assert!(want.floods.iter().all(|(_, vtep)| Some(*vtep) != me), "flooding to itself");
                prop_assert!(want.routes.values().all(|ways| !ways.is_empty()), "a route to nowhere");
                prop_assert!(want.routes.keys().all(|(vrf, _)| want.vrfs.contains_key(vrf)), "a route without VRF");
                prop_assert!(want.locals.keys().all(|key| !want.remotes.contains_key(key)), "here and elsewhere");
                for way in want.routes.values().flatten() {
                    match way {
                        NextHop::Vtep { vtep, .. } => prop_assert!(Some(*vtep) != me, "a way to itself"),
                        NextHop::Vrf(vrf) => prop_assert!(want.vrfs.contains_key(vrf), "a leak from nowhere"),
                    }
                }
            }
            old = new;
        }
    }
}

/// A pair of agent switches with a shared VTEP, one with EVPN of its own, hosts behind them, and two VRFs.
fn woven() -> World {
    let mut world = World::default();
    world.vrf("default", Some(4001), |_| {});
    world.vrf("red", Some(4002), |vrf| {
        vrf.import_targets = vec!["65000:4001".parse().unwrap(), "65000:4002".parse().unwrap()];
        vrf.routes = vec![VrfRoute { prefix: "172.31.0.0/16".parse().unwrap(), node: name("border") }];
    });
    world.network_with("web", 110, |network| network.vlan = Some(10u32.try_into().unwrap()));
    world.network_with("db", 120, |network| network.vlan = Some(20u32.try_into().unwrap()));
    world.network_with("red/app", 130, |network| network.vlan = Some(30u32.try_into().unwrap()));
    world.subnet("web", "10.8.0.0/24", Some("10.8.0.1"));
    world.subnet("db", "10.9.0.0/24", Some("10.9.0.1"));
    world.subnet("red/app", "10.10.0.0/24", Some("10.10.0.1"));
    world.switch("a1", NodeMode::TorAgent, "10.0.0.1", Some("10.0.0.100"));
    world.switch("a2", NodeMode::TorAgent, "10.0.0.2", Some("10.0.0.100"));
    world.switch("e1", NodeMode::TorEvpn, "10.0.0.3", None);
    world.node("border", "10.0.0.9");
    world.host("one", &["a1"], None);
    world.host("two", &["a1", "a2"], None);
    world.host("three", &["e1"], None);
    for (port, address) in [
        ("web/one", "10.8.0.11"),
        ("web/two", "10.8.0.12"),
        ("db/three", "10.9.0.13"),
        ("red/app/two", "10.10.0.14"),
    ] {
        world.port(port, &[address]);
        let node = port.rsplit('/').next().unwrap();
        world.bind_by(port, node, Some(Attachment::Bridge));
    }
    world
}

#[test]
fn a_switch_with_an_agent_is_told_all_behind_it() {
    let mut world = woven();
    world.port("db/metal", &["10.9.0.20"]);
    world.bind_by("db/metal", "a1", None);
    let view = world.view(&ImportTable::default());
    let a1 = state(&view, &name("a1"));
    let networks: Vec<_> = a1.networks.values().map(|n| (n.key.to_string(), n.vlan.map(u32::from))).collect();
    assert_eq!(
        networks,
        [("default/web".into(), Some(10)), ("default/db".into(), Some(20)), ("red/app".into(), Some(30))]
    );
    assert_eq!(a1.networks[&vni(110)].gateways, [(ip("10.8.0.1"), 24)]);
    let ports: Vec<String> = a1
        .switch_ports
        .iter()
        .map(|(interface, port)| {
            format!("{interface} {:?} {}", port.untagged.map(u32::from), port.tagged.len())
        })
        .collect();
    assert_eq!(ports, ["swp9 Some(20) 0", "to-one None 1", "to-two None 2"]);
    let locals: Vec<&str> = a1.locals.values().map(|local| local.interface.as_str()).collect();
    assert_eq!(locals, ["to-one", "to-two", "swp9", "to-two"]);
    assert!(a1.ports.is_empty(), "nothing is attached on the switch itself");
    let vrfs: Vec<String> =
        a1.vrfs.iter().map(|(name, vrf)| format!("{name} {} {}", vrf.table, vrf.router_mac)).collect();
    assert_eq!(vrfs, ["default 254 12:00:0a:00:00:64", "red 61002 12:00:0a:00:00:64"]);
    let ways: Vec<String> =
        a1.routes.iter().map(|((vrf, prefix), ways)| format!("{vrf} {prefix} {ways:?}")).collect();
    // To web/three by its switch there is none: it routes by itself and its router MAC is not known.
    assert_eq!(
        ways,
        [
            "red 10.8.0.0/24 {Vrf(default)}",
            "red 10.9.0.0/24 {Vrf(default)}",
            "red 172.31.0.0/16 {Vtep { vtep: 10.0.0.9, router_mac: 12:00:0a:00:00:09 }}",
        ]
        .map(str::to_owned)
    );
    // The partner has what is behind both here, and what is behind the other there.
    let a2 = state(&view, &name("a2"));
    let local: Vec<String> = a2.locals.keys().map(|(_, mac)| mac.to_string()).collect();
    assert_eq!(local, ["02:ca:0a:08:00:0c", "02:ca:0a:0a:00:0e"]);
    let one = &a2.remotes[&(vni(110), "02:ca:0a:08:00:0b".parse().unwrap())];
    assert_eq!(one.vtep, ip("10.0.0.1"));
}

#[test]
fn a_host_behind_switches_is_told_its_own_only() {
    let world = woven();
    let view = world.view(&ImportTable::default());
    let two = state(&view, &name("two"));
    assert_eq!(two.networks.len(), 2);
    assert_eq!(two.networks[&vni(110)].vlan.map(u32::from), Some(10));
    assert_eq!(two.networks[&vni(110)].mtu, 1450, "the switches' underlay less VXLAN");
    assert!(two.networks.values().all(|network| network.gateways.is_empty()));
    assert_eq!(two.ports.values().map(|port| port.attachment).collect::<Vec<_>>(), [Attachment::Bridge; 2]);
    let empty =
        NodeState { networks: two.networks.clone(), ports: two.ports.clone(), ..NodeState::default() };
    assert_eq!(two, empty);
    let me = node_self(&view, &name("two")).unwrap();
    assert_eq!((me.vtep, me.uplinks), (None, vec!["eth0".to_owned(), "eth1".to_owned()]));
    assert_eq!(state(&view, &name("e1")), NodeState::default(), "a switch with EVPN needs nothing from us");
}

#[test]
fn a_routed_port_is_told_the_mac_of_its_gateways_where_switches_hold_them() {
    let mut world = woven();
    world.port("web/r", &["10.8.0.15"]);
    world.bind_by("web/r", "one", Some(Attachment::Routed));
    let told = |world: &World, port: &str| {
        let one = state(&world.view(&ImportTable::default()), &name("one"));
        one.ports[&port_key(port)].gateway_mac.map(|mac| mac.to_string())
    };
    assert_eq!(told(&world, "web/r").as_deref(), Some("00:00:5e:00:01:01"));
    assert_eq!(told(&world, "web/one"), None, "a bridged workload asks for it itself");
    let old = world.view(&ImportTable::default());
    world.network_with("web", 110, |network| network.irb = Some(Irb::None));
    assert_eq!(told(&world, "web/r"), None, "no switch holds the gateway");
    let Next::Delta(delta) = step(&old, &world.view(&ImportTable::default()), "one") else { panic!() };
    assert_eq!(delta.set.ports[&port_key("web/r")].gateway_mac, None, "and the agent is told so");
    world
        .network_with("web", 110, |network| network.gateway_mac = Some("02:00:00:00:00:99".parse().unwrap()));
    assert_eq!(told(&world, "web/r").as_deref(), Some("02:00:00:00:00:99"));
}

#[test]
fn a_port_that_moved_without_a_word_is_where_the_fabric_says() {
    let mut world = woven();
    world.port("db/near", &["10.9.0.21"]);
    world.bind_by("db/near", "one", Some(Attachment::Bridge));
    let mac: Mac = "02:ca:0a:09:00:0d".parse().unwrap();
    let mut table = imported(&world, vec![mac_ip(3, 120, mac, Some("10.9.0.13"), "10.0.0.3", 4)]);
    let vtep = |world: &World, table: &ImportTable| {
        state(&world.view(table), &name("a1")).remotes[&(vni(120), mac)].vtep
    };
    assert_eq!(vtep(&world, &table), ip("10.0.0.3"));
    let elsewhere = mac_ip(4, 120, mac, None, "10.0.0.77", 5);
    table.apply(PEER, vec![RouteChange::Announce(elsewhere.clone())]);
    assert_eq!(vtep(&world, &table), ip("10.0.0.77"));
    table.apply(PEER, vec![RouteChange::Withdraw(elsewhere.key)]);
    assert_eq!(vtep(&world, &table), ip("10.0.0.3"));
}

#[test]
fn asymmetric_networks_are_wherever_their_vrf_is() {
    let mut world = woven();
    world.network_with("db", 120, |network| {
        network.irb = Some(Irb::Asymmetric);
        network.vlan = Some(20u32.try_into().unwrap());
    });
    let view = world.view(&ImportTable::default());
    let a2 = state(&view, &name("a2"));
    assert!(a2.networks.contains_key(&vni(120)), "though no port of it is behind this switch");
    assert!(a2.remotes.contains_key(&(vni(120), "02:ca:0a:09:00:0d".parse().unwrap())));
    assert!(a2.floods.contains(&(vni(120), ip("10.0.0.1"))));
    assert!(!a2.routes.keys().any(|(_, prefix)| prefix.to_string() == "10.9.0.13/32"));
}

#[test]
fn what_the_fabric_routes_is_used_by_all_equal_ways() {
    let world = woven();
    let mac = |n| Mac::new([2, 0, 0, 0, 0, n]);
    let table = imported(
        &world,
        vec![
            ip_prefix(5, 4001, "192.168.0.0/16", "10.0.0.51", mac(1)),
            ip_prefix(6, 4001, "192.168.0.0/16", "10.0.0.52", mac(2)),
            ip_prefix(7, 4001, "192.168.0.0/16", "10.0.0.9", mac(3)),
            ip_prefix(8, 4999, "192.169.0.0/16", "10.0.0.53", mac(4)),
            routed(mac_ip(5, 120, mac(9), Some("10.9.0.99"), "10.0.0.51", 0), 4001, mac(1)),
        ],
    );
    let a1 = state(&world.view(&table), &name("a1"));
    let ways = |vrf: &str, prefix: &str| {
        a1.routes.get(&(name(vrf), prefix.parse().unwrap())).map(|ways| format!("{ways:?}"))
    };
    let via = |n: u8| format!("Vtep {{ vtep: 10.0.0.5{n}, router_mac: 02:00:00:00:00:0{n} }}");
    assert_eq!(ways("default", "192.168.0.0/16"), Some(format!("{{{}, {}}}", via(1), via(2))));
    assert_eq!(ways("red", "192.168.0.0/16"), Some("{Vrf(default)}".to_owned()), "taken up");
    assert_eq!(ways("default", "192.169.0.0/16"), None, "nobody's target");
    assert_eq!(ways("default", "10.9.0.99/32"), Some(format!("{{{}}}", via(1))));
    assert_eq!(ways("red", "10.9.0.99/32"), None, "hosts are found in their own VRF");
}
