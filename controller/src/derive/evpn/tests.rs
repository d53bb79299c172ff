use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{CONTEXT, World, port_key, steps, vni};
use crate::derive::imports::ImportTable;
use crate::model::VrfRoute;

fn plain(world: &World) -> View {
    world.view(&ImportTable::default())
}

fn texts(routes: &[Route]) -> Vec<String> {
    let text = |route: &Route| {
        let seq = route.attributes.sequence;
        match route.key {
            RouteKey::MacIp { rd, mac, ip, .. } => {
                format!("2 {rd} {mac} {ip:?} via {} seq {seq}", route.attributes.next_hop)
            }
            RouteKey::Imet { rd, originator, .. } => format!("3 {rd} {originator}"),
            other => format!("{other:?}"),
        }
    };
    routes.iter().map(text).collect()
}

#[test]
fn a_bound_port_has_a_route_for_each_address_and_floods_once() {
    let world = World::sample();
    let routes = all_routes(&plain(&world), &CONTEXT, &mut Interner::default());
    assert_eq!(
        texts(&routes),
        [
            "2 10.99.0.1:110 02:ca:0a:08:00:05 Some(10.8.0.5) via 10.0.0.1 seq 0",
            "2 10.99.0.1:110 02:ca:0a:08:00:05 Some(fd00:8::5) via 10.0.0.1 seq 0",
            "2 10.99.0.1:110 02:ca:0a:08:00:06 Some(10.8.0.6) via 10.0.0.2 seq 0",
            "3 10.99.0.1:110 10.0.0.1",
            "3 10.99.0.1:110 10.0.0.2",
        ]
    );
    for route in &routes {
        let attributes = &route.attributes;
        assert_eq!(attributes.vni, Some(vni(110)));
        assert_eq!(attributes.route_targets, ["65000:110".parse().unwrap()]);
        assert!(!attributes.sticky && attributes.l3_vni.is_none() && attributes.router_mac.is_none());
        let pmsi = attributes.pmsi.map(|pmsi| (pmsi.vni, pmsi.tunnel));
        let want = matches!(route.key, RouteKey::Imet { .. }).then_some((vni(110), attributes.next_hop));
        assert_eq!(pmsi, want);
    }
    assert!(Arc::ptr_eq(&routes[0].attributes, &routes[1].attributes), "equal attributes are shared");
}

#[test]
fn a_port_without_addresses_has_a_mac_only_route() {
    let mut world = World::sample();
    world.port("db/bare", &[]);
    world.bind("db/bare", "h3");
    let routes = port_routes(&plain(&world), &CONTEXT, &port_key("db/bare")).unwrap();
    assert_eq!(texts(&routes), ["2 10.99.0.1:120 02:00:00:00:00:01 None via 10.0.0.3 seq 0"]);
}

#[test]
fn a_move_is_one_replace_with_a_higher_sequence() {
    let mut world = World::sample();
    let old = plain(&world);
    world.unbind("web/b");
    world.bind("web/b", "h3");
    let changes = changes_between(&old, &plain(&world));
    let announced: Vec<Route> = changes
        .iter()
        .filter_map(|c| match c {
            RouteChange::Announce(route) => Some(route.clone()),
            RouteChange::Withdraw(_) => None,
        })
        .collect();
    assert_eq!(
        texts(&announced),
        ["2 10.99.0.1:110 02:ca:0a:08:00:06 Some(10.8.0.6) via 10.0.0.3 seq 1", "3 10.99.0.1:110 10.0.0.3",]
    );
    let rd = RouteDistinguisher::new(CONTEXT.router_id, 110);
    let gone = RouteKey::Imet { rd, etag: 0, originator: "10.0.0.2".parse().unwrap() };
    assert_eq!(changes.last(), Some(&RouteChange::Withdraw(gone)), "withdrawals come last");
    assert_eq!(changes.len(), 3);
}

#[test]
fn a_target_that_does_not_fit_skips_the_network_with_a_reason() {
    let mut world = World::sample();
    world.network("big", 70_000);
    world.port("big/x", &["10.9.0.1"]);
    world.bind("big/x", "h1");
    let context = Context { asn: 4_200_000_000, ..CONTEXT };
    let skip = port_routes(&plain(&world), &context, &port_key("big/x")).unwrap_err();
    assert!(skip.to_string().contains("declare export_targets"), "{skip}");
    let routes = all_routes(&plain(&world), &context, &mut Interner::default());
    assert_eq!(routes.len(), 5, "the other network is not touched");
    world.network_with("big", 70_000, |n| n.export_targets = vec!["65000:70000".parse().unwrap()]);
    assert_eq!(port_routes(&plain(&world), &context, &port_key("big/x")).unwrap().len(), 1);
}

#[test]
fn sequences_grow_with_generations_and_do_not_wrap() {
    assert_eq!(
        [0, 1, 2, 7, u64::MAX].map(sequence),
        [0, 0, 1, 6, u32::MAX],
        "the first place needs no mobility community"
    );
}

#[test]
fn attributes_nobody_uses_are_forgotten() {
    let mut interner = Interner::default();
    let world = World::sample();
    let base = attributes_of(&world);
    for sequence in 0..5000 {
        interner.share(Attributes { sequence, ..base.clone() });
    }
    assert!(interner.known.len() <= 2048, "{}", interner.known.len());
}

fn attributes_of(world: &World) -> Attributes {
    let network = &world.snapshot.networks.get(&"web".parse::<NetworkKey>().unwrap()).unwrap().value;
    let node = &world.snapshot.nodes.get(&"h1".parse::<Name>().unwrap()).unwrap().value;
    attributes(network, node.vtep.unwrap(), &CONTEXT).unwrap()
}

fn find<'a>(routes: &'a [Route], key: &str) -> Vec<&'a Attributes> {
    let ip = |route: &Route| match route.key {
        RouteKey::MacIp { ip, mac, .. } => ip.map_or(mac.to_string(), |ip| ip.to_string()),
        RouteKey::IpPrefix { prefix, .. } => prefix.to_string(),
        RouteKey::Imet { originator, .. } => format!("flood {originator}"),
        _ => String::new(),
    };
    routes.iter().filter(|route| ip(route) == key).map(|route| &*route.attributes).collect()
}

fn all(world: &World, table: &ImportTable) -> Vec<Route> {
    all_routes(&world.view(table), &CONTEXT, &mut Interner::default())
}

/// One port of one network behind each kind of node.
fn modes() -> World {
    let mut world = World::default();
    world.vrf("default", Some(4001), |_| {});
    world.network_with("web", 110, |network| network.vlan = Some(10u32.try_into().unwrap()));
    world.subnet("web", "10.8.0.0/24", Some("10.8.0.1"));
    world.node("vtep", "10.0.0.1");
    world.switch("evpn", NodeMode::TorEvpn, "10.0.0.2", None);
    world.switch("agent", NodeMode::TorAgent, "10.0.0.3", None);
    world.switch("static", NodeMode::TorStatic, "10.0.0.4", None);
    world.switch("left", NodeMode::TorAgent, "10.0.0.5", Some("10.0.0.56"));
    world.switch("right", NodeMode::TorAgent, "10.0.0.6", Some("10.0.0.56"));
    world.switch("evpn2", NodeMode::TorEvpn, "10.0.0.7", None);
    let esi = Some("03:44:38:39:ff:ff:01:00:00:01");
    let hosts: [(&str, &[&str], Option<&str>); 5] = [
        ("h-evpn", &["evpn"], None),
        ("h-agent", &["agent"], None),
        ("h-static", &["static"], None),
        ("h-pair", &["left", "right"], None),
        ("h-esi", &["evpn", "evpn2"], esi),
    ];
    for (host, switches, esi) in hosts {
        world.host(host, switches, esi);
    }
    for (n, node) in ["vtep", "h-evpn", "h-agent", "h-static", "h-pair", "h-esi"].into_iter().enumerate() {
        let port = format!("web/p{n}");
        world.port(&port, &[&format!("10.8.0.1{n}")]);
        world.bind_by(&port, node, Some(crate::model::Attachment::Bridge));
    }
    world
}

#[test]
fn every_mode_says_where_its_ports_are_and_only_vteps_without_evpn_flood() {
    let routes = all(&modes(), &ImportTable::default());
    let table = [
        ("10.8.0.10", "10.0.0.1", Some("12:00:0a:00:00:01")),
        ("10.8.0.11", "10.0.0.2", None),
        ("10.8.0.12", "10.0.0.3", Some("12:00:0a:00:00:03")),
        ("10.8.0.13", "10.0.0.4", Some("12:00:0a:00:00:04")),
        ("10.8.0.14", "10.0.0.56", Some("12:00:0a:00:00:38")),
        ("10.8.0.15", "10.0.0.2", None),
    ];
    for (address, vtep, router_mac) in table {
        let found = find(&routes, address);
        assert_eq!(found.len(), 1, "{address}");
        let attributes = found[0];
        assert_eq!(attributes.next_hop.to_string(), vtep, "{address}");
        assert_eq!(attributes.router_mac.map(|mac| mac.to_string()).as_deref(), router_mac, "{address}");
        // RFC 9135 §5.1: with a router MAC come the second label and the VRF's target.
        let l3 = router_mac.map(|_| vni(4001));
        assert_eq!(attributes.l3_vni, l3);
        let targets: Vec<String> = attributes.route_targets.iter().map(ToString::to_string).collect();
        let want: &[&str] = if l3.is_some() { &["65000:110", "65000:4001"] } else { &["65000:110"] };
        assert_eq!(targets, want, "{address}");
    }
    assert_eq!(find(&routes, "10.8.0.15")[0].esi.to_string(), "03:44:38:39:ff:ff:01:00:00:01");
    for (vtep, floods) in [("1", 1), ("2", 0), ("3", 1), ("4", 1), ("5", 0), ("6", 0), ("56", 1), ("7", 0)] {
        assert_eq!(find(&routes, &format!("flood 10.0.0.{vtep}")).len(), floods, "{vtep}");
    }
    let connected = find(&routes, "10.8.0.0/24");
    // One at each VTEP that we speak for, the lowest first, as far as the VRF has distinguishers.
    let mut keys: Vec<RouteKey> = routes.iter().map(|route| route.key).collect();
    let hops: Vec<String> = connected.iter().map(|attributes| attributes.next_hop.to_string()).collect();
    assert_eq!(hops, ["10.0.0.1", "10.0.0.3", "10.0.0.4"]);
    keys.sort_unstable();
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "each with an identity of its own");
    assert_eq!((connected[0].vni, connected[0].l3_vni), (Some(vni(4001)), None));
}

#[test]
fn a_switch_floods_for_the_networks_it_lists() {
    let mut world = modes();
    world.network("db", 120);
    let mut node = world.snapshot.nodes.get(&"static".parse::<Name>().unwrap()).unwrap().value.clone();
    node.networks = vec!["db".parse().unwrap()];
    world.node_with(node);
    let routes = all(&world, &ImportTable::default());
    let floods = find(&routes, "flood 10.0.0.4");
    assert_eq!(floods.iter().filter(|a| a.pmsi.is_some_and(|pmsi| pmsi.vni == vni(120))).count(), 1);
}

#[test]
fn other_ways_of_routing_leave_out_what_is_not_theirs() {
    let mut world = modes();
    for (irb, prefixes) in [(Irb::None, 0), (Irb::Asymmetric, 3)] {
        world.network_with("web", 110, |network| network.irb = Some(irb));
        let routes = all(&world, &ImportTable::default());
        let host = find(&routes, "10.8.0.12")[0];
        assert_eq!((host.l3_vni, host.router_mac, host.route_targets.len()), (None, None, 1));
        assert_eq!(find(&routes, "10.8.0.0/24").len(), prefixes, "{irb:?}");
    }
    world.vrf("default", Some(4001), |vrf| {
        vrf.no_connected = true;
        vrf.routes = vec![
            VrfRoute { prefix: "172.31.0.0/16".parse().unwrap(), node: "agent".parse().unwrap() },
            VrfRoute { prefix: "2001:db8::/32".parse().unwrap(), node: "agent".parse().unwrap() },
            VrfRoute { prefix: "192.0.2.0/24".parse().unwrap(), node: "evpn".parse().unwrap() },
        ];
    });
    let routes = all(&world, &ImportTable::default());
    assert!(find(&routes, "10.8.0.0/24").is_empty());
    for prefix in ["172.31.0.0/16", "2001:db8::/32"] {
        let route = find(&routes, prefix)[0];
        assert_eq!(route.next_hop.to_string(), "10.0.0.3");
        assert_eq!(route.router_mac.unwrap().to_string(), "12:00:0a:00:00:03");
    }
    assert!(find(&routes, "192.0.2.0/24").is_empty(), "its router MAC is not known");
}

#[test]
fn behind_a_switch_with_evpn_the_sequence_is_the_higher_one_and_a_move_is_not_fought() {
    let world = modes();
    let mac: causeway_proto::Mac = "02:ca:0a:08:00:0b".parse().unwrap();
    let peer: IpAddr = "10.99.0.100".parse().unwrap();
    let mut table = ImportTable::default();
    table.set_policy(world.policy());
    let mut told = |rd, vtep: &str, sequence| {
        let route = crate::derive::fixture::mac_ip(rd, 110, mac, None, vtep, sequence);
        table.apply(peer, vec![RouteChange::Announce(route)]);
        find(&all(&world, &table), "10.8.0.11").first().map(|a| (a.next_hop.to_string(), a.sequence))
    };
    assert_eq!(told(1, "10.0.0.2", 3), Some(("10.0.0.2".into(), 3)), "as the switch says");
    assert_eq!(told(2, "10.0.0.77", 3), Some(("10.0.0.2".into(), 3)), "no bump against an equal one");
    assert_eq!(told(2, "10.0.0.77", 4), None, "it has moved: our word ends");
    assert_eq!(told(1, "10.0.0.2", 5), Some(("10.0.0.2".into(), 5)), "it is back");
}

#[test]
fn hidden_macs_are_told_by_what_frames_carry() {
    let mut world = modes();
    world.bind_by("web/p2", "h-agent", Some(crate::model::Attachment::Routed));
    world.bind_by("web/p1", "h-evpn", Some(crate::model::Attachment::Ipvlan));
    let routes = all(&world, &ImportTable::default());
    let routed = routes.iter().find_map(|route| match route.key {
        RouteKey::MacIp { mac, ip: Some(ip), .. } if ip.to_string() == "10.8.0.12" => Some(mac),
        _ => None,
    });
    let host = &world.snapshot.nodes.get(&"h-agent".parse::<Name>().unwrap()).unwrap().value;
    assert_eq!(routed, Some(crate::derive::node::bridge_mac(vni(110), host)));
    assert!(find(&routes, "10.8.0.11").is_empty(), "the switch alone knows the host's MAC");
}

/// As the fabric's task does: first the store's changes, then what the fabric says.
fn changes_between(old: &View, new: &View) -> Vec<RouteChange> {
    let middle = View { imports: old.imports.clone(), ..new.clone() };
    let units = dirty_units(old, &middle, &Changed::between(&old.snapshot, &new.snapshot));
    let mut changes = route_changes(old, &middle, &CONTEXT, &units, &mut Interner::default());
    let units = dirty_imports(&middle, new);
    changes.extend(route_changes(&middle, new, &CONTEXT, &units, &mut Interner::default()));
    changes
}

fn rib(view: &View) -> BTreeMap<RouteKey, Arc<Attributes>> {
    let routes = all_routes(view, &CONTEXT, &mut Interner::default());
    routes.into_iter().map(|route| (route.key, route.attributes)).collect()
}

proptest! {
    #[test]
    fn changes_add_up_to_the_whole(steps in steps(), every in 1usize..4) {
        let mut world = World::sample();
        let mut table = ImportTable::default();
        let mut old = world.view(&table);
        let mut told = rib(&old);
        for (n, step) in steps.iter().enumerate() {
            world.take(&mut table, step);
            if n % every > 0 {
                continue;
            }
            let new = world.view(&table);
            for change in changes_between(&old, &new) {
                match change {
                    RouteChange::Announce(route) => {
                        let before = told.insert(route.key, route.attributes.clone());
                        prop_assert_ne!(before, Some(route.attributes), "said twice");
                    }
                    RouteChange::Withdraw(key) => prop_assert!(told.remove(&key).is_some(), "never said"),
                }
            }
            prop_assert_eq!(&told, &rib(&new));
            for (key, attributes) in &told {
                let alone = matches!(key, RouteKey::MacIp { ip: None, .. } | RouteKey::Imet { .. });
                let plain = attributes.l3_vni.is_none() && attributes.router_mac.is_none();
                prop_assert!(!alone || plain, "the L3 part is for addresses");
                prop_assert_eq!(attributes.router_mac.is_some(), matches!(key, RouteKey::IpPrefix { .. }) || attributes.l3_vni.is_some());
            }
            old = new;
        }
    }
}
