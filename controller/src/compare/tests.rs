use std::sync::Arc;
use std::time::SystemTime;

use causeway_bgp::Route;

use super::choose::{At, Candidate, choose};
use super::*;
use crate::derive::fixture::{CONTEXT, World, plain_node};
use crate::keys::RecordKey;

const PEER: [u8; 4] = [10, 0, 0, 250];

/// Two switches that speak EVPN, a host VTEP, and a port behind each of the first and the last.
fn world() -> World {
    let mut world = World::default();
    world.network("default/web", 110);
    world.subnet("default/web", "10.8.0.0/24", Some("10.8.0.1"));
    for (switch, vtep) in [("leaf1", [10, 98, 0, 1]), ("leaf2", [10, 98, 0, 2])] {
        let node = crate::model::Node { vtep: Some(vtep.into()), ..plain_node(switch, NodeMode::TorEvpn) };
        world.put(&RecordKey::Node(node.name.clone()), &node);
    }
    world.node("h9", "10.98.0.9");
    world.port("default/web/a", &["10.8.0.5"]);
    world.bind("default/web/a", "leaf1");
    world.port("default/web/z", &["10.8.0.9"]);
    world.bind("default/web/z", "h9");
    world
}

fn mac(port: &str) -> Mac {
    Mac::from_ip(if port == "a" { [10, 8, 0, 5] } else { [10, 8, 0, 9] }.into(), 0)
}

/// A claim of a switch: its RD is its own.
fn says(mac: Mac, address: Option<&str>, vtep: u8, sequence: u32) -> ReceivedRoute {
    says_as([10, 98, 0, vtep], 2, mac, address, vtep, sequence)
}

fn says_as(
    id: [u8; 4],
    number: u16,
    mac: Mac,
    address: Option<&str>,
    vtep: u8,
    sequence: u32,
) -> ReceivedRoute {
    let attributes = Attributes {
        next_hop: [10, 98, 0, vtep].into(),
        vni: Some(110.try_into().unwrap()),
        l3_vni: None,
        route_targets: vec![RouteTarget::new(65000, 110).unwrap()],
        sequence,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    };
    let ip = address.map(|text| text.parse().unwrap());
    let key = RouteKey::MacIp { rd: RouteDistinguisher::new(id.into(), number), etag: 0, mac, ip };
    let route = Route { key, attributes: Arc::new(attributes) };
    ReceivedRoute { peer: PEER.into(), route, stale: false, received: SystemTime::UNIX_EPOCH }
}

fn sticky(mut route: ReceivedRoute) -> ReceivedRoute {
    route.route.attributes = Arc::new(Attributes { sticky: true, ..(*route.route.attributes).clone() });
    route
}

/// Findings in short: "MAC's port or last octet, address, presence, observed".
fn short(world: &World, routes: &[ReceivedRoute], all: bool, complete: bool) -> Vec<String> {
    let peers = [Asked { address: PEER.into(), complete }];
    let whole = View::new(&world.snapshot, CONTEXT, Heard::default(), all).all(&peers, routes);
    // Looking MAC by MAC says the same, once it is known who else speaks.
    let mut view = View::new(&world.snapshot, CONTEXT, Heard::default(), all);
    view.group(routes);
    let heard = view.heard.clone();
    let macs: BTreeSet<Mac> = whole.keys().map(|subject| subject.mac).chain([mac("a"), mac("z")]).collect();
    let mut parts = BTreeMap::new();
    for mac in macs {
        let about =
            |route: &&ReceivedRoute| matches!(route.route.key, RouteKey::MacIp { mac: m, .. } if m == mac);
        let said: Vec<ReceivedRoute> = routes.iter().filter(about).cloned().collect();
        let mut view = View::new(&world.snapshot, CONTEXT, heard.clone(), all);
        parts.extend(view.of_macs(&peers, &BTreeSet::from([mac]), &said));
    }
    assert_eq!(whole, parts);
    whole
        .iter()
        .map(|(subject, finding)| {
            let who = finding.port.as_ref().map_or("-".to_owned(), |port| port.name.to_string());
            let address = subject.address.map_or("mac".to_owned(), |address| address.to_string());
            let observed: Vec<String> = finding.observed.iter().map(ToString::to_string).collect();
            assert!(!finding.text.is_empty());
            format!("{who} {address} {} {}", finding.presence.name(), observed.join(",")).trim().to_owned()
        })
        .collect()
}

#[test]
fn situations_and_what_they_are() {
    let a = mac("a");
    let bad = Mac::new([2, 9, 9, 9, 9, 9]);
    let stale = ReceivedRoute { stale: true, ..says(a, None, 1, 0) };
    let gateway = {
        let mut route = says(bad, Some("10.8.0.1"), 1, 0);
        route.route.attributes =
            Arc::new(Attributes { default_gateway: true, ..(*route.route.attributes).clone() });
        route
    };
    let other_network = {
        let mut route = says(bad, None, 1, 0);
        let targets = vec![RouteTarget::new(65000, 999).unwrap()];
        route.route.attributes =
            Arc::new(Attributes { route_targets: targets, ..(*route.route.attributes).clone() });
        route
    };
    let cases: Vec<(&str, Vec<ReceivedRoute>, Vec<&str>)> = vec![
        ("silent behind a switch that speaks", vec![], vec!["a mac missing"]),
        ("learned at the right switch", vec![says(a, None, 1, 0)], vec![]),
        ("with its address too", vec![says(a, None, 1, 0), says(a, Some("10.8.0.5"), 1, 0)], vec![]),
        ("moved by the data plane", vec![says(a, None, 2, 1)], vec!["a mac elsewhere 10.98.0.2"]),
        (
            "moved, and the old one still there",
            vec![says(a, None, 1, 0), says(a, None, 2, 1)],
            vec!["a mac elsewhere 10.98.0.2,10.98.0.1"],
        ),
        (
            "claimed by two",
            vec![says(a, None, 1, 0), says(a, None, 2, 0)],
            vec!["a mac duplicate 10.98.0.1,10.98.0.2"],
        ),
        (
            "claimed by another alone, as high as ours",
            vec![says(a, None, 2, 0)],
            vec!["a mac duplicate 10.98.0.2"],
        ),
        ("a lower next hop takes a tie", vec![says(a, None, 0, 0)], vec!["a mac duplicate 10.98.0.0"]),
        (
            "sticky elsewhere",
            vec![says(a, None, 1, 7), sticky(says(a, None, 2, 0))],
            vec!["a mac elsewhere 10.98.0.2,10.98.0.1"],
        ),
        ("kept over the peer's restart", vec![stale.clone()], vec!["a mac stale 10.98.0.1"]),
        ("kept and confirmed by another", vec![stale, says(a, Some("10.8.0.5"), 1, 0)], vec![]),
        (
            "an address of nobody",
            vec![says(a, None, 1, 0), says(a, Some("10.8.0.77"), 1, 0)],
            vec!["a 10.8.0.77 foreign 10.98.0.1"],
        ),
        (
            "another port's address",
            vec![says(a, None, 1, 0), says(a, Some("10.8.0.9"), 1, 0)],
            vec!["a 10.8.0.9 foreign 10.98.0.1"],
        ),
        (
            "the link-local address that a machine makes itself",
            vec![says(a, None, 1, 0), says(a, Some("fe80::ca:aff:fe08:5"), 1, 0)],
            vec![],
        ),
        (
            "a link-local address alone, elsewhere",
            vec![says(a, Some("fe80::7"), 2, 3)],
            vec!["a mac elsewhere 10.98.0.2"],
        ),
        (
            "a MAC of nobody with a link-local address",
            vec![says(a, None, 1, 0), says(bad, Some("fe80::9"), 2, 0)],
            vec!["- fe80::9 foreign 10.98.0.2"],
        ),
        (
            "a MAC of nobody",
            vec![says(a, None, 1, 0), says(bad, None, 2, 0)],
            vec!["- mac foreign 10.98.0.2"],
        ),
        ("a gateway", vec![says(a, None, 1, 0), gateway], vec![]),
        ("another fabric's network", vec![says(a, None, 1, 0), other_network], vec![]),
        (
            "another controller says one of two",
            vec![says(a, None, 1, 0), says_as([10, 99, 0, 2], 110, a, Some("10.8.0.5"), 1, 0)],
            vec!["z mac missing", "z 10.8.0.9 missing"],
        ),
        (
            "a switch numbers its distinguishers as controllers do",
            vec![says_as([10, 98, 0, 1], 110, a, Some("10.8.0.5"), 1, 0)],
            vec![],
        ),
        (
            "another controller says both",
            vec![
                says_as([10, 99, 0, 2], 110, a, Some("10.8.0.5"), 1, 0),
                says_as([10, 99, 0, 2], 110, mac("z"), Some("10.8.0.9"), 9, 0),
            ],
            vec![],
        ),
        (
            "the address moved, the MAC did not",
            vec![says(a, None, 1, 0), says(a, Some("10.8.0.5"), 2, 3)],
            vec!["a mac elsewhere 10.98.0.2,10.98.0.1", "a 10.8.0.5 elsewhere 10.98.0.2"],
        ),
    ];
    for (what, routes, expected) in cases {
        assert_eq!(short(&world(), &routes, false, true), expected, "{what}");
    }
}

#[test]
fn after_a_planned_move_the_old_place_is_stale() {
    let mut world = world();
    world.bind("default/web/a", "leaf2");
    let a = mac("a");
    assert_eq!(short(&world, &[says(a, None, 1, 0)], false, true), ["a mac stale 10.98.0.1"]);
    assert_eq!(short(&world, &[says(a, None, 2, 0)], false, true), [""; 0], "the new switch begins at 0");
    world.unbind("default/web/a");
    assert_eq!(short(&world, &[says(a, None, 2, 0)], false, true), ["a mac stale 10.98.0.2"]);
    assert_eq!(short(&world, &[], false, true), [""; 0]);
}

#[test]
fn ports_that_hide_their_mac_are_neither_missing_nor_foreign() {
    let mut world = world();
    let (a, other) = (mac("a"), Mac::new([2, 9, 9, 9, 9, 9]));
    for attachment in [crate::model::Attachment::Ipvlan, crate::model::Attachment::Routed] {
        let mut binding = world.snapshot.bindings[&"default/web/a".parse::<PortKey>().unwrap()].value.clone();
        binding.attachment = Some(attachment);
        world.put(&RecordKey::Binding(binding.port.clone()), &binding);
        assert_eq!(short(&world, &[], false, true), [""; 0], "{attachment:?}");
        let there = [
            says(other, None, 1, 0),
            says(other, Some("10.8.0.5"), 1, 0),
            says(other, Some("fe80::9"), 1, 0),
        ];
        assert_eq!(short(&world, &there, false, true), [""; 0], "{attachment:?}");
        let elsewhere = [says(other, None, 2, 0), says(other, Some("10.8.0.5"), 2, 0)];
        let strange = [says(a, None, 1, 0), says(other, Some("10.8.0.77"), 1, 0)];
        assert_eq!(short(&world, &strange, false, true), ["- 10.8.0.77 foreign 10.98.0.1"], "{attachment:?}");
        let expected = ["- mac foreign 10.98.0.2", "- 10.8.0.5 foreign 10.98.0.2"];
        assert_eq!(short(&world, &elsewhere, false, true), expected, "{attachment:?}");
    }
}

#[test]
fn a_bridge_behind_its_own_switch_is_not_foreign() {
    let mut world = world();
    world.host("host9", &["leaf1"], None);
    let node = &world.snapshot.nodes[&"host9".parse::<causeway_proto::Name>().unwrap()].value;
    let bridge = bridge_mac(110.try_into().unwrap(), node);
    let a = says(mac("a"), None, 1, 0);
    let at = |leaf, address| short(&world, &[a.clone(), says(bridge, address, leaf, 0)], false, true);
    assert_eq!(at(1, None), [""; 0]);
    assert_eq!(at(1, Some("fe80::1")), [""; 0]);
    assert_eq!(at(1, Some("10.8.0.77")), ["- 10.8.0.77 foreign 10.98.0.1"]);
    assert_eq!(at(2, None), ["- mac foreign 10.98.0.2"]);
}

#[test]
fn nothing_is_missing_before_the_peer_has_told_all() {
    assert_eq!(short(&world(), &[], false, false), [""; 0]);
}

#[test]
fn a_switch_is_not_asked_for_what_others_have_learned() {
    let world = world();
    let flood = |vtep| says(Mac::new([2, 9, 9, 9, 9, vtep]), Some("10.8.0.1"), vtep, 0);
    let missing = |routes: &[ReceivedRoute]| short(&world, routes, false, true).len();
    assert_eq!(missing(&[flood(2)]), 0, "the peer is leaf2");
    assert_eq!(missing(&[flood(1)]), 1, "the peer is leaf1");
    assert_eq!(missing(&[flood(1), flood(2)]), 1, "the peer is a reflector");
}

#[test]
fn what_is_as_intended_is_told_when_asked_for() {
    let rows = short(&world(), &[says(mac("a"), None, 1, 0)], true, true);
    assert_eq!(
        rows,
        ["a mac present 10.98.0.1", "a 10.8.0.5 present", "z mac present", "z 10.8.0.9 present"]
    );
}

#[test]
fn many_ports_are_compared_at_once() {
    let mut world = world();
    let mut routes = Vec::new();
    for n in 0..2000_u32 {
        let [_, _, c, d] = n.to_be_bytes();
        let address = std::net::Ipv4Addr::new(10, 9, c, d);
        let name = format!("default/web/p{n}");
        world.port(&name, &[&address.to_string()]);
        world.bind(&name, "leaf1");
        routes.push(says(Mac::from_ip(address.into(), 0), None, if n % 100 == 0 { 2 } else { 1 }, 1));
    }
    let peers = [Asked { address: PEER.into(), complete: true }];
    let found = View::new(&world.snapshot, CONTEXT, Heard::default(), false).all(&peers, &routes);
    assert_eq!(found.values().filter(|f| f.presence == Presence::Elsewhere).count(), 20);
}

fn candidate(received: ReceivedRoute, by_controller: bool) -> Candidate {
    let peer = (!by_controller).then_some(received.peer);
    Candidate { key: received.route.key, attributes: received.route.attributes, peer, by_controller }
}

#[test]
fn a_switch_drops_routes_to_itself_and_the_others_take_the_best() {
    let world = world();
    let names = Names::new(&world.snapshot);
    let a = mac("a");
    let ours = candidate(says_as([10, 99, 0, 1], 110, a, Some("10.8.0.5"), 1, 0), true);
    let learned = candidate(says(a, None, 1, 0), false);
    let moved = candidate(says(a, None, 2, 3), false);
    let leaf1 = At { name: "leaf1".into(), vteps: vec![[10, 98, 0, 1].into()], router_mac: None };
    let told = |candidates: &[&Candidate], at: Option<&At>| {
        let candidates: Vec<Candidate> = candidates.iter().map(|c| (*c).clone()).collect();
        choose(&names, &candidates, at).join("\n")
    };
    let alone = told(&[&ours], Some(&leaf1));
    assert!(alone.contains("dropped at leaf1, martian or self next-hop"), "{alone}");
    assert!(alone.contains("nothing remains"), "{alone}");
    let there = told(&[&ours, &learned], Some(&leaf1));
    assert!(there.contains("leaf1's own, learned there") && !there.contains("nothing remains"), "{there}");
    let gone = told(&[&ours, &learned, &moved], Some(&leaf1));
    assert!(gone.contains("leaf2 (10.98.0.2), sequence 3") && gone.contains("over the local one"), "{gone}");
    let third = told(&[&ours, &moved, &moved], None);
    assert_eq!(
        third,
        "as another VTEP decides, VNI 110:\n  leaf2 (10.98.0.2), sequence 3, RD 10.98.0.2:2 from 10.0.0.250: wins, by \
         higher mobility sequence\n  leaf1 (10.98.0.1) with 10.8.0.5, sequence 0, RD 10.99.0.1:110 from us: loses, \
         higher mobility sequence wins"
    );
}

#[test]
fn the_longest_prefix_is_looked_at_first() {
    let world = world();
    let names = Names::new(&world.snapshot);
    let prefix = |text: &str, vtep: u8| {
        let rd = RouteDistinguisher::new([10, 98, 0, vtep].into(), 5);
        let key = RouteKey::IpPrefix { rd, etag: 0, prefix: text.parse().unwrap() };
        candidate(
            ReceivedRoute {
                route: Route { key, ..says(mac("a"), None, vtep, 0).route },
                ..says(mac("a"), None, vtep, 0)
            },
            false,
        )
    };
    let told = choose(&names, &[prefix("10.0.0.0/8", 1), prefix("10.8.0.0/16", 2)], None).join("\n");
    let (long, short) =
        (told.find("prefix 10.8.0.0/16:").unwrap(), told.find("10.0.0.0/8: not looked at").unwrap());
    assert!(long < short && told.contains("leaf2 (10.98.0.2), sequence 0"), "{told}");
}
