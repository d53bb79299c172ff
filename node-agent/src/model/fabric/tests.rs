use super::*;
use crate::fabric::tests::switch;

fn rejected(state: &v1::NodeState) -> Vec<String> {
    let desired = Desired::from_state(state, &Desired::default());
    desired.rejected().iter().map(|(item, why)| format!("{item}: {}", why.reason)).collect()
}

#[test]
fn bad_items_say_what_is_wrong() {
    type Spoil = fn(&mut v1::NodeState);
    let cases: [(Spoil, &str); 13] = [
        (|s| s.mode = 99, "state: mode: 99 is not known to this agent; it may be older than the controller"),
        (|s| s.networks[0].vlan = 4095, "network with VNI 10010: vlan: VLAN id 4095 is not in 1 to 4094"),
        (|s| s.networks[0].gateways[0] = "10.10.0.1".into(), "'10.10.0.1' is not ADDRESS/LENGTH"),
        (|s| s.networks[0].gateway_mac = "01:00:5e:00:00:01".into(), "gateway_mac: 01:00:5e:00:00:01 is not"),
        (|s| s.vrfs[0].table = 253, "VRF red: table: 253 cannot be used"),
        (|s| s.vrfs[0].router_mac = String::new(), "VRF red: router_mac: "),
        (|s| s.vrfs[0].l3_vni = 1 << 24, "VRF red: l3_vni: VNI 16777216 is not in 1 to 16777215"),
        (|s| s.routes[0].prefix = "10.0.0.1/8".into(), "route 10.0.0.1/8 of VRF red: prefix: "),
        (|s| s.routes[0].next_hops.clear(), "route 10.20.0.9/32 of VRF red: next_hops: a route needs"),
        (|s| s.routes[0].next_hops[0].vtep = s.vtep.clone(), "vtep: 192.0.2.1 is this node's own"),
        (|s| s.switch_ports[0].interface = "cwx7".into(), "cwx7 is a name of Causeway's own devices"),
        (
            |s| s.switch_ports[0].tagged_vlans[0] = 0,
            "switch port eth3: tagged_vlans: VLAN id 0 is not in 1 to 4094",
        ),
        (|s| s.locals[0].addresses[0] = "224.0.0.1".into(), "behind a switch port: addresses: 224.0.0.1"),
    ];
    assert!(rejected(&switch()).is_empty());
    for (spoil, text) in cases {
        let mut state = switch();
        spoil(&mut state);
        let rejected = rejected(&state);
        assert!(rejected.len() == 1 && rejected[0].contains(text), "{text}: {rejected:?}");
    }
}

#[test]
fn what_cannot_be_read_keeps_its_last_good_form() {
    let good = Desired::from_state(&switch(), &Desired::default());
    let mut bad = switch();
    bad.mode = 99;
    bad.vrfs[0].table = 1;
    bad.routes[0].next_hops.clear();
    bad.switch_ports[1].untagged_vlan = 5000;
    bad.locals[0].addresses = vec!["x".into()];
    let kept = Desired::from_state(&bad, &good);
    assert_eq!(kept.rejected().len(), 5);
    assert_eq!(kept.fabric(), good.fabric());
}

#[test]
fn hops_are_counted_over_routes() {
    let mut desired = Desired::from_state(&switch(), &Desired::default());
    let red: Name = "red".parse().unwrap();
    let vtep: IpAddr = "192.0.2.2".parse().unwrap();
    let gone = |prefix: &str| v1::NodeDelta {
        deleted_routes: vec![v1::NodeRoute {
            vrf: "red".into(),
            prefix: prefix.into(),
            ..v1::NodeRoute::default()
        }],
        ..v1::NodeDelta::default()
    };
    assert!(desired.fabric().router_mac(&red, vtep).is_some());
    desired.apply_delta(&gone("10.20.0.9/32"));
    assert!(desired.fabric().router_mac(&red, vtep).is_some(), "another route leads there");
    desired.apply_delta(&gone("172.31.0.0/16"));
    assert_eq!(desired.fabric().router_mac(&red, vtep), None);
}
