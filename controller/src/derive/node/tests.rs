use std::time::Instant;

use causeway_bgp::RouteChange;
use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{World, imet, mac_ip, name, port_key, steps, vni};
use crate::derive::imports::ImportTable;

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
    let macs = ["10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"].map(|vtep| bridge_mac(vni(110), ip(vtep)));
    assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), 4);
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
        let nodes = ["h0", "h1", "h2", "h3"].map(name);
        let mut old = world.view(&table);
        let mut held: Vec<NodeState> = nodes.iter().map(|node| state(&old, node)).collect();
        for (n, step) in steps.iter().enumerate() {
            world.take(&mut table, step);
            if n % every > 0 {
                continue;
            }
            let new = world.view(&table);
            let changed = Changed::between(&old.snapshot, &new.snapshot);
            for (node, held) in nodes.iter().zip(&mut held) {
                match next(&old, &new, &changed, node) {
                    Next::Delta(delta) => held.apply(delta),
                    Next::Full => *held = state(&new, node),
                    Next::Gone => *held = NodeState::default(),
                }
                let want = state(&new, node);
                prop_assert_eq!(&*held, &want, "{}", node);
                let me = new.snapshot.nodes.get(node).and_then(|record| record.value.vtep);
                prop_assert!(want.remotes.values().all(|remote| Some(remote.vtep) != me), "a tunnel to itself");
            }
            old = new;
        }
    }
}
