use std::net::Ipv4Addr;

use causeway_bgp::{Route, RouteDistinguisher};
use causeway_proto::Vni;
use proptest::prelude::*;

use super::*;
use crate::derive::fixture::{CONTEXT, World, imet, mac_ip, steps};

const RR1: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 101));
const RR2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 102));

fn mac() -> Mac {
    "00:11:22:33:44:55".parse().unwrap()
}

fn place() -> (NetworkKey, Mac) {
    ("web".parse().unwrap(), mac())
}

fn table() -> ImportTable {
    let mut table = ImportTable::default();
    table.set_policy(World::sample().policy());
    table
}

fn say(table: &mut ImportTable, peer: IpAddr, route: &Route) {
    table.apply(peer, vec![RouteChange::Announce(route.clone())]);
}

fn verdict(table: &ImportTable, peer: IpAddr, route: &Route) -> String {
    match table.verdict(&World::sample().snapshot, peer, &route.key, &route.attributes) {
        Ok(imported) => format!("used: {}", imported.network),
        Err(unused) => unused.to_string(),
    }
}

#[test]
fn the_winner_is_sticky_then_newest_then_lowest() {
    let mut table = table();
    let low = mac_ip(1, 110, mac(), None, "10.0.9.1", 0);
    let high = mac_ip(2, 110, mac(), None, "10.0.9.2", 0);
    say(&mut table, RR1, &high);
    say(&mut table, RR1, &low);
    assert_eq!(table.imports().macs[&place()].vtep, low.attributes.next_hop);
    assert_eq!(verdict(&table, RR1, &high), "a route with a lower next hop wins");
    let moved = mac_ip(2, 110, mac(), None, "10.0.9.2", 1);
    say(&mut table, RR1, &moved);
    assert_eq!(table.imports().macs[&place()].vtep, moved.attributes.next_hop);
    assert_eq!(verdict(&table, RR1, &low), "a route with a higher mobility sequence wins");
    let mut sticky = low.clone();
    Arc::make_mut(&mut sticky.attributes).sticky = true;
    say(&mut table, RR1, &sticky);
    assert_eq!(verdict(&table, RR1, &moved), "a sticky route for the MAC wins");
    table.apply(RR1, vec![RouteChange::Withdraw(sticky.key)]);
    assert_eq!(verdict(&table, RR1, &moved), "used: default/web");
    table.apply(RR1, vec![RouteChange::Withdraw(moved.key)]);
    assert!(table.imports().macs.is_empty() && table.is_empty());
}

#[test]
fn a_route_of_two_reflectors_lives_until_both_withdraw() {
    let mut table = table();
    let (route, flood) = (mac_ip(1, 110, mac(), Some("10.8.0.9"), "10.0.9.1", 0), imet(1, 110, "10.0.9.1"));
    for peer in [RR1, RR2] {
        say(&mut table, peer, &route);
        say(&mut table, peer, &flood);
    }
    assert_eq!(verdict(&table, RR2, &route), "the same as a route that is used");
    table.apply(RR1, vec![RouteChange::Withdraw(route.key), RouteChange::Withdraw(flood.key)]);
    assert_eq!((table.imports().macs.len(), table.imports().floods.len()), (1, 1));
    table.apply(RR2, vec![RouteChange::Withdraw(route.key), RouteChange::Withdraw(flood.key)]);
    assert_eq!((table.imports().macs.len(), table.imports().floods.len()), (0, 0));
    assert!(table.imports().by_address.is_empty());
}

#[test]
fn every_refusal_says_why() {
    let mut table = table();
    let own = RouteDistinguisher::new(CONTEXT.router_id, 110);
    let reflected = |route: Route| match route.key {
        RouteKey::MacIp { etag, mac, ip, .. } => {
            Route { key: RouteKey::MacIp { rd: own, etag, mac, ip }, ..route }
        }
        _ => route,
    };
    let mut other_label = mac_ip(1, 110, mac(), None, "10.0.9.1", 0);
    Arc::make_mut(&mut other_label.attributes).vni = Vni::try_from(999).ok();
    let mut no_tunnel = imet(1, 110, "10.0.9.1");
    Arc::make_mut(&mut no_tunnel.attributes).pmsi = None;
    let mut no_target = imet(1, 110, "10.0.9.1");
    Arc::make_mut(&mut no_target.attributes).route_targets.clear();
    for (route, why) in [
        (reflected(mac_ip(1, 110, mac(), None, "10.0.9.1", 0)), "our own route, reflected"),
        (mac_ip(1, 110, mac(), None, "10.0.0.2", 0), "its next hop is node h2, whose ports the store knows"),
        (mac_ip(1, 999, mac(), None, "10.0.9.1", 0), "no network imports 65000:999"),
        (other_label, "its label 999 is not VNI 110 of network default/web"),
        (no_tunnel, "type 3 without a PMSI tunnel"),
        (no_target, "it has no route target"),
        (
            mac_ip(1, 110, "02:ca:0a:08:00:06".parse().unwrap(), None, "10.0.9.1", 0),
            "its MAC belongs to port default/web/b",
        ),
    ] {
        say(&mut table, RR1, &route);
        assert_eq!(verdict(&table, RR1, &route), why);
    }
}

#[test]
fn an_address_goes_to_the_mac_that_ranks_first() {
    let mut table = table();
    let other: Mac = "00:11:22:33:44:66".parse().unwrap();
    say(&mut table, RR1, &mac_ip(1, 110, mac(), Some("10.8.0.9"), "10.0.9.1", 0));
    let newer = mac_ip(2, 110, other, Some("10.8.0.9"), "10.0.9.2", 1);
    say(&mut table, RR1, &newer);
    assert!(table.imports().macs[&place()].addresses.is_empty());
    assert_eq!(table.imports().macs[&(place().0, other)].addresses.len(), 1);
    table.apply(RR1, vec![RouteChange::Withdraw(newer.key)]);
    assert_eq!(table.imports().macs[&place()].addresses.len(), 1);
}

proptest! {
    /// Whatever the order in which things were said and policies changed, the result is that of the last words.
    #[test]
    fn the_table_is_what_was_said_last(steps in steps()) {
        let mut world = World::sample();
        let mut table = ImportTable::default();
        for step in &steps {
            world.take(&mut table, step);
        }
        let mut fresh = ImportTable { policy: world.policy(), ..ImportTable::default() };
        for ((key, peer), attributes) in table.received.clone() {
            fresh.announce(peer, key, attributes);
        }
        prop_assert_eq!(&table.imports().macs, &fresh.imports().macs);
        prop_assert_eq!(&table.imports().floods, &fresh.imports().floods);
        prop_assert_eq!(&table.imports().by_address, &fresh.imports().by_address);
        prop_assert_eq!(&table.candidates.len(), &fresh.candidates.len());
        prop_assert_eq!(&table.addresses, &fresh.addresses);
    }
}
