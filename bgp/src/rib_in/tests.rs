use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::testing::{attributes, imet, key, vni};

fn peer(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

fn announced(host: u32, sequence: u32) -> Route {
    Route { key: key(host), attributes: Arc::new(Attributes { sequence, ..attributes() }) }
}

fn say(rib: &mut RibIn, from: u8, withdrawn: &[u32], routes: Vec<Route>) -> Vec<RouteChange> {
    let update = Update {
        withdrawn: withdrawn.iter().map(|&host| key(host)).collect(),
        announced: routes,
        ..Update::default()
    };
    rib.apply(peer(from), update, SystemTime::UNIX_EPOCH)
}

fn empty(rib: &RibIn) -> bool {
    rib.entries.is_empty() && rib.by_mac.is_empty() && rib.by_ip.is_empty() && rib.by_vni.is_empty()
}

#[test]
fn repetitions_are_no_changes() {
    let mut rib = RibIn::default();
    assert_eq!(say(&mut rib, 1, &[], vec![announced(1, 0)]).len(), 1);
    assert_eq!(say(&mut rib, 1, &[], vec![announced(1, 0)]), []);
    assert_eq!(say(&mut rib, 1, &[7], vec![announced(1, 1)]).len(), 1);
    assert_eq!(say(&mut rib, 1, &[1], vec![]).len(), 1);
    assert_eq!(say(&mut rib, 1, &[1], vec![]), []);
    assert!(empty(&rib));
}

#[test]
fn withdrawal_and_announcement_in_one_update_leave_it_announced() {
    let mut rib = RibIn::default();
    let changes = say(&mut rib, 1, &[1], vec![announced(1, 0)]);
    assert_eq!(changes, [RouteChange::Announce(announced(1, 0))]);
}

#[test]
fn equal_attributes_are_kept_once_and_unused_ones_dropped() {
    let mut rib = RibIn::default();
    for host in 0..100 {
        say(&mut rib, 1, &[], vec![announced(host, 0)]);
    }
    assert_eq!(rib.sets.len(), 1);
    for sequence in 1..5000 {
        say(&mut rib, 1, &[], vec![announced(1, sequence)]);
    }
    assert!(rib.sets.len() <= 1100, "{}", rib.sets.len());
}

#[test]
fn stale_routes_are_confirmed_or_swept() {
    let mut rib = RibIn::default();
    say(&mut rib, 1, &[], (0..4).map(|host| announced(host, 0)).collect());
    say(&mut rib, 2, &[], vec![announced(0, 0)]);
    rib.mark_stale(peer(1));
    assert_eq!(rib.count(peer(1)), (4, 4));
    // Confirmed without a change, confirmed with one, withdrawn.
    assert_eq!(say(&mut rib, 1, &[2], vec![announced(0, 0), announced(1, 9)]).len(), 2);
    assert_eq!(rib.count(peer(1)), (3, 1));
    assert_eq!(rib.sweep(peer(1)), [key(3)]);
    assert_eq!(rib.sweep(peer(1)), []);
    assert_eq!((rib.count(peer(1)), rib.count(peer(2))), ((2, 0), (1, 0)));
    assert_eq!(rib.clear(peer(1)), [key(0), key(1)]);
    rib.clear(peer(2));
    assert!(empty(&rib));
}

#[test]
fn filters_narrow() {
    let mut rib = RibIn::default();
    say(&mut rib, 1, &[], (0..50).map(|host| announced(host, 0)).collect());
    let flood = imet([10, 98, 0, 1].into());
    say(&mut rib, 2, &[], vec![announced(7, 1), flood.clone()]);
    let find = |filter: RouteFilter| rib.find(&filter).len();
    let none = RouteFilter::default;
    let RouteKey::MacIp { mac, ip, .. } = key(7) else { panic!("made above") };
    assert_eq!(find(none()), 52);
    assert_eq!(find(RouteFilter { limit: 10, ..none() }), 10);
    assert_eq!(find(RouteFilter { mac: Some(mac), ..none() }), 2);
    assert_eq!(find(RouteFilter { mac: Some(mac), peer: Some(peer(2)), ..none() }), 1);
    assert_eq!(find(RouteFilter { ip, ..none() }), 2);
    assert_eq!(find(RouteFilter { ip, route_type: Some(2), ..none() }), 2);
    assert_eq!(find(RouteFilter { ip, route_type: Some(5), ..none() }), 0);
    assert_eq!(find(RouteFilter { vni: Some(vni(110)), ..none() }), 52);
    assert_eq!(find(RouteFilter { vni: Some(vni(110)), route_type: Some(3), ..none() }), 1);
    assert_eq!(find(RouteFilter { vni: Some(vni(111)), ..none() }), 0);
    let found = rib.find(&RouteFilter { mac: Some(mac), ..none() });
    assert_eq!((found[0].peer, found[1].peer), (peer(1), peer(2)), "in order");
}

proptest! {
    /// The indexes say the same as looking at everything, whatever was announced and withdrawn.
    #[test]
    fn indexes_agree_with_a_plain_map(steps in proptest::collection::vec((1..3_u8, 0..6_u32, proptest::option::of(0..4_u32)), 0..60)) {
        let mut rib = RibIn::default();
        let mut plain: BTreeMap<(IpAddr, RouteKey), Route> = BTreeMap::new();
        for (from, host, number) in steps {
            match number {
                Some(number) => {
                    let set = Attributes { vni: Some(vni(number + 1)), ..attributes() };
                    let route = Route { key: key(host), attributes: Arc::new(set) };
                    plain.insert((peer(from), route.key), route.clone());
                    say(&mut rib, from, &[], vec![route]);
                }
                None => {
                    plain.remove(&(peer(from), key(host)));
                    say(&mut rib, from, &[host], vec![]);
                }
            }
        }
        for number in 1..5 {
            let filter = RouteFilter { vni: Some(vni(number)), ..RouteFilter::default() };
            let found: Vec<Route> = rib.find(&filter).into_iter().map(|found| found.route).collect();
            let wanted: Vec<Route> =
                plain.values().filter(|route| route.attributes.vni == Some(vni(number))).cloned().collect();
            prop_assert_eq!(found, wanted);
        }
        for host in 0..6 {
            let RouteKey::MacIp { mac, .. } = key(host) else { continue };
            let filter = RouteFilter { mac: Some(mac), ..RouteFilter::default() };
            prop_assert_eq!(rib.find(&filter).len(), plain.keys().filter(|(_, k)| *k == key(host)).count());
        }
        for from in 1..3 {
            rib.clear(peer(from));
        }
        prop_assert!(empty(&rib));
    }
}
