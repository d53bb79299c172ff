use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{CONTEXT, World, port_key, steps, vni};
use crate::derive::imports::ImportTable;

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
    let routes = all_routes(&world.snapshot, &CONTEXT, &mut Interner::default());
    assert_eq!(
        texts(&routes),
        [
            "3 10.99.0.1:110 10.0.0.1",
            "2 10.99.0.1:110 02:ca:0a:08:00:05 Some(10.8.0.5) via 10.0.0.1 seq 0",
            "2 10.99.0.1:110 02:ca:0a:08:00:05 Some(fd00:8::5) via 10.0.0.1 seq 0",
            "3 10.99.0.1:110 10.0.0.2",
            "2 10.99.0.1:110 02:ca:0a:08:00:06 Some(10.8.0.6) via 10.0.0.2 seq 0",
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
    assert!(Arc::ptr_eq(&routes[1].attributes, &routes[2].attributes), "equal attributes are shared");
}

#[test]
fn a_port_without_addresses_has_a_mac_only_route() {
    let mut world = World::sample();
    world.port("db/bare", &[]);
    world.bind("db/bare", "h3");
    let routes = port_routes(&world.snapshot, &CONTEXT, &port_key("db/bare")).unwrap();
    assert_eq!(texts(&routes), ["2 10.99.0.1:120 02:00:00:00:00:01 None via 10.0.0.3 seq 0"]);
}

#[test]
fn a_move_is_one_replace_with_a_higher_sequence() {
    let mut world = World::sample();
    let old = world.snapshot.clone();
    world.unbind("web/b");
    world.bind("web/b", "h3");
    let changes = changes_between(&old, &world.snapshot);
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
    let skip = port_routes(&world.snapshot, &context, &port_key("big/x")).unwrap_err();
    assert!(skip.to_string().contains("declare export_targets"), "{skip}");
    let routes = all_routes(&world.snapshot, &context, &mut Interner::default());
    assert_eq!(routes.len(), 5, "the other network is not touched");
    world.network_with("big", 70_000, |n| n.export_targets = vec!["65000:70000".parse().unwrap()]);
    assert_eq!(port_routes(&world.snapshot, &context, &port_key("big/x")).unwrap().len(), 1);
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

fn changes_between(old: &Snapshot, new: &Snapshot) -> Vec<RouteChange> {
    let units = dirty_units(old, new, &Changed::between(old, new));
    route_changes(old, new, &CONTEXT, &units, &mut Interner::default())
}

fn rib(snapshot: &Snapshot) -> BTreeMap<RouteKey, Arc<Attributes>> {
    let routes = all_routes(snapshot, &CONTEXT, &mut Interner::default());
    routes.into_iter().map(|route| (route.key, route.attributes)).collect()
}

proptest! {
    #[test]
    fn changes_add_up_to_the_whole(steps in steps(), every in 1usize..4) {
        let mut world = World::sample();
        let mut table = ImportTable::default();
        let mut old = world.snapshot.clone();
        let mut told = rib(&old);
        for (n, step) in steps.iter().enumerate() {
            world.take(&mut table, step);
            if n % every > 0 {
                continue;
            }
            for change in changes_between(&old, &world.snapshot) {
                match change {
                    RouteChange::Announce(route) => {
                        let before = told.insert(route.key, route.attributes.clone());
                        prop_assert_ne!(before, Some(route.attributes), "said twice");
                    }
                    RouteChange::Withdraw(key) => prop_assert!(told.remove(&key).is_some(), "never said"),
                }
            }
            prop_assert_eq!(&told, &rib(&world.snapshot));
            old = world.snapshot.clone();
        }
    }
}
