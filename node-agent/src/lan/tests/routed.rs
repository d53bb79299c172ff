//! Routed workloads whose host has no address in their network.

use super::*;
use crate::lan::step::Step;

fn routed(n: u8) -> v1::NodePort {
    v1::NodePort {
        gateways: vec!["10.8.0.1".into(), "fd00:8::1".into()],
        gateway_mac: GATEWAY_MAC.into(),
        ..port(n, 100, v1::Attachment::Routed)
    }
}

fn set_address(observed: &mut Observed, dev: &str, text: &str) {
    let facts = HostAddr { ours: false, leased: false };
    observed.lan.addresses.entry(Dev::new(dev)).or_default().insert(address(text), facts);
}

fn ways(observed: &Observed) -> Vec<String> {
    struct Text<'a>(&'a crate::lan::table::Way);
    impl std::fmt::Display for Text<'_> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            self.0.write("", f)
        }
    }
    let text = |way| Text(way).to_string().split(" table").next().unwrap().to_owned();
    observed.lan.ways.iter().map(text).collect()
}

#[test]
fn routed_on_a_vlan_without_an_address_as_commands() {
    let mut state = state(vec![network(100, 10)], vec![routed(5), routed(6)]);
    let mut observed = empty(&load(&state));
    let there = settle(&state, &mut observed);
    state.ports.remove(0);
    let fewer = settle(&state, &mut observed);
    state.ports.clear();
    let gone = settle(&state, &mut observed);
    insta::assert_snapshot!(format!("{}--\n{}--\n{}", text(&there), text(&fewer), text(&gone)));
    let left = &observed.lan;
    assert!(
        left.rules.is_empty()
            && left.ways.is_empty()
            && left.neighbours.is_empty()
            && left.proxies.is_empty()
    );
}

/// From the moment a link is up, what comes from it is looked up in its network's table, which ends.
#[test]
fn the_rule_is_there_before_the_link() {
    let state = state(vec![network(100, 10)], vec![routed(5)]);
    let desired = load(&state);
    let planned = steps(&desired, &empty(&desired));
    let place = |what: &str| planned.ops.iter().position(|op| op.to_string().contains(what)).unwrap();
    let made = place("type veth");
    assert!(place("ip rule add iif") < made && place("ip -6 rule add iif") < made);
    assert!(place("ip route replace unreachable") < made && place("ip -6 route replace unreachable") < made);
}

#[test]
fn without_any_way_to_the_gateway_it_is_a_problem() {
    let unknown = v1::NodePort { gateway_mac: String::new(), ..routed(5) };
    let none = v1::NodePort { gateways: vec![], ..routed(5) };
    for (port, expected) in
        [(unknown, "cannot ask for gateway 10.8.0.1"), (none, "its subnet has no gateway")]
    {
        let state = state(vec![network(100, 10)], vec![port]);
        let mut observed = empty(&load(&state));
        settle(&state, &mut observed);
        let why = problem(&state, &observed);
        assert!(why.contains(expected) && why.contains("on cwb100"), "{why}");
        assert!(!ways(&observed).iter().any(|way| way.contains("default via")), "{:?}", ways(&observed));
        assert_eq!(observed.lan.rules.len(), 2, "and nothing leaks meanwhile");
        // The host has an address now, and asks with it.
        set_address(&mut observed, "cwb100", "10.8.0.101/24");
        set_address(&mut observed, "cwb100", "fd00:8::101/64");
        let planned = settle(&state, &mut observed);
        assert!(planned.problems.is_empty(), "{}", text(&planned));
        assert!(text(&planned).contains("# announce"), "{}", text(&planned));
        assert!(observed.lan.neighbours.is_empty());
        assert!(
            ways(&observed).contains(&"ip route  10.8.0.0/24 dev cwb100".to_owned()),
            "{:?}",
            ways(&observed)
        );
    }
}

/// An address of the host on its own wire, or on the uplink: it answers there, and no bridge is built.
#[test]
fn a_host_with_an_address_needs_no_bridge() {
    for (dev, vlan) in [("eth1", 0), ("eth1.10", 10)] {
        let state = state(vec![network(100, vlan)], vec![routed(5)]);
        let mut observed = empty(&load(&state));
        let kind = Kind::Vlan { id: 10, parent: Some(Dev::new("eth1")) };
        observed.lan.links.insert(Dev::new("eth1.10"), SeenLink { kind, ..uplink() });
        set_address(&mut observed, dev, "10.8.0.101/24");
        set_address(&mut observed, dev, "fd00:8::101/64");
        let planned = settle(&state, &mut observed);
        assert!(planned.problems.is_empty(), "{}", text(&planned));
        assert!(!observed.lan.links.contains_key(&Dev::new("cwb100")), "{}", text(&planned));
        let via = format!("ip route  default via 10.8.0.1 dev {dev} onlink");
        assert!(ways(&observed).contains(&via), "{:?}", ways(&observed));
    }
    // An address of the same subnet elsewhere says nothing about the wire.
    let state = state(vec![network(100, 10)], vec![routed(5)]);
    let mut observed = empty(&load(&state));
    observed.lan.links.insert(Dev::new("docker0"), uplink());
    set_address(&mut observed, "docker0", "10.8.0.1/16");
    settle(&state, &mut observed);
    assert!(ways(&observed).contains(&"ip route  default via 10.8.0.1 dev cwb100 onlink".to_owned()));
}

#[test]
fn others_are_not_hindered_by_a_routed_port() {
    // The uplink has the host's own address, of another subnet: macvlans live with that, a bridge does not.
    let ports = vec![routed(5), port(6, 100, v1::Attachment::Macvlan)];
    let state = state(vec![network(100, 0)], ports);
    let mut observed = empty(&load(&state));
    set_address(&mut observed, "eth1", "192.0.2.7/24");
    let planned = settle(&state, &mut observed);
    let why: Vec<&String> = planned.problems.values().collect();
    assert!(matches!(why[..], [why] if why.contains("uplink eth1 has the host's own address")), "{why:?}");
    assert!(text(&planned).contains("type macvlan"), "{}", text(&planned));
    assert!(observed.lan.rules.is_empty());
}

#[test]
fn what_a_blocked_network_has_stays() {
    let mut state = state(vec![network(100, 10)], vec![routed(5)]);
    let mut observed = empty(&load(&state));
    settle(&state, &mut observed);
    observed.lan.links.get_mut(&Dev::new("eth1")).unwrap().link.mtu = 1400;
    let planned = settle(&state, &mut observed);
    assert_eq!(planned.ops, vec![], "{}", text(&planned));
    assert!(problem(&state, &observed).contains("uplink eth1 has MTU 1400"));
    // Nor is anything taken from a port that cannot be read.
    observed.lan.links.get_mut(&Dev::new("eth1")).unwrap().link.mtu = 1500;
    state.ports[0].mac = "nonsense".into();
    let planned = settle(&state, &mut observed);
    let deletes =
        |op: &Op| matches!(op, Op::Lan(op) if matches!(op.step, Step::RuleDel { .. } | Step::WayDel { .. }));
    assert!(!planned.ops.iter().any(deletes), "{}", text(&planned));
}

#[test]
fn a_vlan_aware_bridge_has_no_place_for_it() {
    let mut state = state(vec![network(100, 10)], vec![routed(5)]);
    state.host_bridge = v1::HostBridge::VlanAware.into();
    assert!(problem(&state, &empty(&load(&state))).contains("build a bridge per network"));
}
