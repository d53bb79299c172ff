use causeway_proto::v1;
use proptest::prelude::*;

use super::*;

pub(crate) fn port(id: &str, vni: u32, mac: &str) -> v1::NodePort {
    v1::NodePort {
        id: id.into(),
        vni,
        mac: mac.into(),
        addresses: vec!["10.8.0.5/24".into(), "fd00:8::5/64".into()],
        gateways: vec!["10.8.0.1".into()],
        mtu: 1450,
        netns: "/run/netns/w1".into(),
        interface: "eth0".into(),
        generation: 1,
        kind: v1::WorkloadKind::Container.into(),
        attachment: v1::Attachment::VxlanBridge.into(),
        ..v1::NodePort::default()
    }
}

pub(crate) fn network(vni: u32) -> v1::NodeNetwork {
    let bridge_mac = "02:00:00:00:00:01".into();
    v1::NodeNetwork {
        vni,
        vrf: "default".into(),
        network: "web".into(),
        mtu: 1450,
        bridge_mac,
        ..v1::NodeNetwork::default()
    }
}

fn remote(vni: u32, mac: &str, vtep: &str, ips: &[&str]) -> v1::RemoteMac {
    let addresses = ips.iter().map(|s| s.to_string()).collect();
    v1::RemoteMac { vni, mac: mac.into(), vtep: vtep.into(), addresses }
}

fn state() -> v1::NodeState {
    v1::NodeState {
        revision: 7,
        node: "h1".into(),
        vtep: "192.0.2.1".into(),
        underlay_mtu: 1500,
        networks: vec![network(100)],
        ports: vec![port("default/web/a", 100, "02:ca:0a:08:00:05")],
        remotes: vec![remote(100, "02:ca:0a:08:00:06", "192.0.2.2", &["10.8.0.6"])],
        floods: vec![v1::FloodTarget { vni: 100, vtep: "192.0.2.2".into() }],
        ..v1::NodeState::default()
    }
}

fn load(state: &v1::NodeState) -> Desired {
    Desired::from_state(state, &Desired::default())
}

fn vni(n: u32) -> Vni {
    Vni::try_from(n).unwrap()
}

#[test]
fn good_state_is_taken_whole() {
    let desired = load(&state());
    assert_eq!(desired.rejected().len(), 0);
    assert_eq!(desired.ports().len(), 1);
    let mac = "02:ca:0a:08:00:06".parse().unwrap();
    assert_eq!(desired.place(vni(100), mac), Some(Place::Remote("192.0.2.2".parse().unwrap())));
    assert_eq!(desired.neighbour(vni(100), "10.8.0.6".parse().unwrap()), Some(mac));
    assert_eq!(desired.neighbour(vni(100), "10.8.0.7".parse().unwrap()), None);
}

#[test]
fn bad_items_are_named_with_field_and_reason() {
    type Change = fn(&mut v1::NodePort);
    let cases: [(Change, &str); 12] = [
        (
            |p| p.mac = "nonsense".into(),
            "mac: 'nonsense' is not a MAC address (six bytes, for example 02:ca:0a:08:00:05)",
        ),
        (
            |p| p.mac = "01:00:5e:00:00:01".into(),
            "mac: 01:00:5e:00:00:01 is not the MAC of one interface (it is a group address or zero)",
        ),
        (|p| p.vni = 1 << 24, "vni: VNI 16777216 is not in 1 to 16777215"),
        (|p| p.mtu = 67, "mtu: 67 is not in 1280 to 65535"),
        (|p| p.addresses = vec!["10.8.0.5".into()], "addresses: '10.8.0.5' is not ADDRESS/LENGTH"),
        (|p| p.addresses = vec!["10.8.0.5/33".into()], "addresses: '10.8.0.5/33' is not ADDRESS/LENGTH"),
        (|p| p.addresses = vec!["224.0.0.1/24".into()], "addresses: 224.0.0.1 cannot be used here"),
        (
            |p| p.gateways = vec!["10.8.0.1".into(), "10.8.0.2".into()],
            "gateways: 10.8.0.1 and 10.8.0.2 are of one family",
        ),
        (|p| p.netns = "w1".into(), "netns: 'w1' is neither an absolute path nor pid:NUMBER"),
        (|p| p.netns = "pid:0".into(), "netns: 'pid:0' is neither an absolute path nor pid:NUMBER"),
        (
            |p| p.interface = "sixteen-bytes-xx".into(),
            "interface: 'sixteen-bytes-xx' is not an interface name (1 to 15 bytes without '/', ':' and spaces, and not lo)",
        ),
        (
            |p| p.interface = "lo".into(),
            "interface: 'lo' is not an interface name (1 to 15 bytes without '/', ':' and spaces, and not lo)",
        ),
    ];
    for (change, reason) in cases {
        let mut state = state();
        change(&mut state.ports[0]);
        let desired = load(&state);
        let item = Item::Port("default/web/a".into());
        assert_eq!(desired.rejected().get(&item).map(|r| r.reason.as_str()), Some(reason));
        assert!(desired.ports().is_empty());
        assert_eq!(desired.remotes().len(), 1, "others go on");
    }
}

#[test]
fn unreadable_successor_does_not_tear_down_what_works() {
    let before = load(&state());
    let mut next = state();
    next.ports[0].mtu = 0;
    next.remotes[0].vtep = "::1".into();
    let after = Desired::from_state(&next, &before);
    assert_eq!(after.ports(), before.ports());
    assert_eq!(after.remotes(), before.remotes());
    assert_eq!(after.rejected().len(), 2);
    // Without a known good one it is at least not pruned from the kernel.
    let unknown = load(&next);
    assert!(unknown.ports().is_empty());
    assert!(unknown.protects_port(&Dev::port(&"default/web/a".parse().unwrap())));
}

#[test]
fn own_vtep_and_other_family_are_refused() {
    let mut state = state();
    state.remotes.push(remote(100, "02:00:00:00:00:09", "192.0.2.1", &[]));
    state.floods.push(v1::FloodTarget { vni: 100, vtep: "2001:db8::1".into() });
    let reasons: Vec<String> = load(&state).rejected().values().map(|r| r.reason.clone()).collect();
    let expected = [
        "vtep: 192.0.2.1 is this node's own",
        "vtep: 2001:db8::1 and this node's own 192.0.2.1 are not of one family",
    ];
    assert_eq!(reasons, expected);
}

#[test]
fn a_mac_here_beats_one_elsewhere_and_the_loser_is_told() {
    let mut state = state();
    state.remotes[0].mac = "02:ca:0a:08:00:05".into();
    state.ports.push(port("default/web/b", 100, "02:ca:0a:08:00:05"));
    let desired = load(&state);
    let a: PortKey = "default/web/a".parse().unwrap();
    let mac = "02:ca:0a:08:00:05".parse().unwrap();
    assert_eq!(desired.place(vni(100), mac), Some(Place::Local(Dev::port(&a))));
    assert_eq!(desired.conflict(&desired.ports()[&a]), None);
    let b: PortKey = "default/web/b".parse().unwrap();
    assert_eq!(desired.conflict(&desired.ports()[&b]), Some(("MAC", &a)));
}

#[test]
fn delta_equals_the_snapshot_after_it() {
    let mut desired = load(&state());
    let mut end = state();
    end.revision = 8;
    end.networks.push(network(200));
    end.ports = vec![port("default/web/b", 200, "02:ca:0a:08:00:07")];
    end.remotes = vec![remote(100, "02:ca:0a:08:00:08", "192.0.2.3", &["10.8.0.8", "10.8.0.6"])];
    end.floods = vec![v1::FloodTarget { vni: 200, vtep: "192.0.2.3".into() }];
    let delta = v1::NodeDelta {
        revision: 8,
        networks: vec![network(200)],
        ports: end.ports.clone(),
        remotes: end.remotes.clone(),
        floods: end.floods.clone(),
        deleted_networks: vec![],
        deleted_ports: vec!["default/web/a".into()],
        deleted_remotes: vec![remote(100, "02:ca:0a:08:00:06", "", &[])],
        deleted_floods: vec![v1::FloodTarget { vni: 100, vtep: "192.0.2.2".into() }],
        ..v1::NodeDelta::default()
    };
    let dirty = desired.apply_delta(&delta);
    assert_eq!(desired, load(&end));
    for key in [Key::Network(vni(200)), Key::Neigh(vni(100), "10.8.0.6".parse().unwrap())] {
        assert!(dirty.contains(&key), "{key:?}");
    }
}

proptest! {
    #[test]
    fn any_item_is_survived(
        id in ".{0,30}", n in any::<u32>(), mac in ".{0,20}", text in ".{0,40}", mtu in any::<u32>(),
    ) {
        let mut state = state();
        state.vtep = text.clone();
        state.ports.push(v1::NodePort {
            id, vni: n, mac: mac.clone(), addresses: vec![text.clone()], gateways: vec![text.clone()],
            mtu, netns: text.clone(), interface: text.clone(), generation: 0, kind: v1::WorkloadKind::Container.into(), attachment: v1::Attachment::VxlanBridge.into(), ..v1::NodePort::default() });
        state.remotes.push(remote(n, &mac, &text, &[&text]));
        state.floods.push(v1::FloodTarget { vni: n, vtep: text.clone() });
        let desired = load(&state);
        let _ = desired.keys();
        let delta = v1::NodeDelta { ports: state.ports, remotes: state.remotes, ..Default::default() };
        let _ = load(&super::tests::state()).apply_delta(&delta);
    }
}
