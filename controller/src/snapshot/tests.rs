use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::alloc::number;
use crate::keys::RecordKey;

/// A record's key and JSON, made of few names so that they meet.
fn record() -> impl Strategy<Value = (RecordKey, String)> {
    let vrf = prop_oneof![Just("default"), Just("red")];
    let net = prop_oneof![Just("web"), Just("db")];
    let port = (vrf.clone(), net.clone(), 0..6u8);
    prop_oneof![
        1 => vrf.clone().prop_map(|vrf| (RecordKey::Vrf(vrf.parse().unwrap()), format!(r#"{{"name":"{vrf}"}}"#))),
        2 => (vrf.clone(), net.clone(), 1..9u32).prop_map(|(vrf, net, vni)| {
            let json = format!(r#"{{"key":"{vrf}/{net}","vni":{vni},"mtu":1450,"rd_number":1}}"#);
            (RecordKey::Network(format!("{vrf}/{net}").parse().unwrap()), json)
        }),
        2 => (vrf, net, 0..3u8, any::<bool>()).prop_map(|(vrf, net, n, gateway)| {
            let prefix = format!("10.0.0.{}/29", n * 8);
            let gateway = if gateway { format!(r#","gateway":"10.0.0.{}""#, n * 8 + 1) } else { String::new() };
            let json = format!(r#"{{"network":"{vrf}/{net}","prefix":"{prefix}"{gateway}}}"#);
            (RecordKey::Subnet(format!("{vrf}/{net}").parse().unwrap(), prefix.parse().unwrap()), json)
        }),
        1 => (0..3u8).prop_map(|n| {
            let json = format!(r#"{{"name":"n{n}","mode":"host-vtep","vtep":"192.0.2.{n}","underlay_mtu":1500}}"#);
            (RecordKey::Node(format!("n{n}").parse().unwrap()), json)
        }),
        6 => (port.clone(), 0..24u8, any::<bool>()).prop_map(|((vrf, net, p), ip, released)| {
            let released = if released { r#","released_ms":5"# } else { "" };
            let json = format!(
                r#"{{"key":"{vrf}/{net}/p{p}","addresses":["10.0.0.{ip}"],"mac":"02:ca:0a:00:00:{ip:02x}","created_ms":1{released}}}"#
            );
            (RecordKey::Port(format!("{vrf}/{net}/p{p}").parse().unwrap()), json)
        }),
        3 => (port, 0..3u8, any::<bool>()).prop_map(|((vrf, net, p), node, active)| {
            let json = format!(
                r#"{{"port":"{vrf}/{net}/p{p}","node":"n{node}","netns":"/n","interface":"eth0","generation":1,"active":{active}}}"#
            );
            (RecordKey::Binding(format!("{vrf}/{net}/p{p}").parse().unwrap()), json)
        }),
    ]
}

/// True if the store could hold it: transactions compare that nothing unique is there twice.
fn allowed(content: &BTreeMap<String, (RecordKey, String)>, key: &RecordKey, json: &str) -> bool {
    let others = content.values().filter(|(other, _)| other != key);
    match key {
        RecordKey::Port(port) => {
            let address =
                json.split("addresses").nth(1).and_then(|rest| rest.split('"').nth(2)).map(str::to_owned);
            !others.into_iter().any(|(other, text)| match other {
                RecordKey::Port(o) => {
                    o.network.vrf == port.network.vrf
                        && text.contains(&format!("\"{}\"", address.as_deref().unwrap_or("-")))
                }
                _ => false,
            })
        }
        RecordKey::Subnet(network, prefix) => !others.into_iter().any(
            |(other, _)| matches!(other, RecordKey::Subnet(n, p) if n.vrf == network.vrf && p == prefix),
        ),
        _ => true,
    }
}

fn rebuilt(content: &BTreeMap<String, (RecordKey, String)>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for (path, (_, json)) in content {
        snapshot.apply(path, Some((json.as_bytes(), Revision(1)))).unwrap();
    }
    snapshot
}

fn assert_same(a: &Snapshot, b: &Snapshot) {
    assert_eq!(a.vrfs, b.vrfs);
    assert_eq!(a.networks, b.networks);
    assert_eq!(a.subnets, b.subnets);
    assert_eq!(a.nodes, b.nodes);
    assert_eq!(a.ports, b.ports);
    assert_eq!(a.bindings, b.bindings);
    assert_eq!(a.by_address, b.by_address);
    assert_eq!(a.by_mac, b.by_mac);
    assert_eq!(a.spare_macs, b.spare_macs);
    assert_eq!(a.by_node, b.by_node);
    assert_eq!(a.taken, b.taken);
}

proptest! {
    /// However the content came about, step by step or from one listing, the snapshot is the same, indexes included.
    #[test]
    fn changes_lead_to_what_a_listing_shows(ops in prop::collection::vec((record(), any::<bool>()), 0..120)) {
        let mut content = BTreeMap::new();
        let mut snapshot = Snapshot::default();
        for ((key, json), keep) in ops {
            let path = key.path();
            if keep && allowed(&content, &key, &json) {
                snapshot.apply(&path, Some((json.as_bytes(), Revision(1)))).unwrap();
                content.insert(path, (key, json));
            } else if !keep {
                snapshot.apply(&path, None).unwrap();
                content.remove(&path);
            }
        }
        assert_same(&snapshot, &rebuilt(&content));
        for ((vrf, address), port) in &snapshot.by_address {
            if let Some(subnet) = snapshot.subnet_at(vrf, *address) {
                let taken = &snapshot.taken[&(vrf.clone(), subnet.value.prefix)];
                prop_assert!(taken.runs().contains(number(*address)));
                prop_assert!(subnet.value.prefix.contains(*address));
            }
            prop_assert!(port.value.addresses.contains(address));
        }
    }

    #[test]
    fn any_value_is_answered(path in "intent/(vrf|network|subnet|node|peer|port|binding|ledger)/.{0,30}", value in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut snapshot = Snapshot::default();
        let _ = snapshot.apply(&path, Some((&value, Revision(1))));
        prop_assert!(snapshot.vrfs.contains_key(&Name::default_vrf()));
    }
}

#[test]
fn the_default_vrf_outlives_its_record() {
    let mut snapshot = Snapshot::default();
    let default = Name::default_vrf();
    snapshot.apply("intent/vrf/default", Some((br#"{"name":"default","l3_vni":7}"#, Revision(4)))).unwrap();
    assert_eq!(snapshot.vrfs[&default].value.l3_vni.map(|vni| vni.get()), Some(7));
    snapshot.apply("intent/vrf/default", None).unwrap();
    assert_eq!((snapshot.vrfs[&default].value.l3_vni, snapshot.vrfs[&default].revision), (None, Revision(0)));
}

#[test]
fn ranges_of_the_maps_end_where_they_should() {
    let mut content = BTreeMap::new();
    for (vrf, net, p) in [
        ("default", "web", "a"),
        ("default", "web2", "a"),
        ("default", "we", "Z/x"),
        ("red", "web", "a"),
        ("default", "web", "0"),
    ] {
        let key: PortKey = format!("{vrf}/{net}/{p}").parse().unwrap();
        let json = format!(r#"{{"key":"{key}","addresses":[],"mac":"02:00:00:00:00:01","created_ms":1}}"#);
        content.insert(RecordKey::Port(key.clone()).path(), (RecordKey::Port(key), json));
    }
    let snapshot = rebuilt(&content);
    let of = |network: &str| -> Vec<String> {
        let network = network.parse().unwrap();
        snapshot.ports_of(&network).map(|port| port.value.key.to_string()).collect()
    };
    assert_eq!(of("default/web"), ["default/web/0", "default/web/a"]);
    assert_eq!(of("default/we"), ["default/we/Z/x"]);
    assert_eq!(of("red/web"), ["red/web/a"]);
    assert!(of("red/web2").is_empty());
}
