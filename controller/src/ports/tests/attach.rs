//! Where ports may be bound, and how.

use super::*;

/// A switch of each mode, a host behind each, and two networks of which one has no VLAN.
fn fabric() -> World {
    let mut world = World::with_network();
    world.put(
        "intent/network/default/vlan",
        r#"{"key":"default/vlan","vni":101,"vlan":10,"mtu":1450,"rd_number":2}"#,
    );
    world.put(
        "intent/subnet/default/vlan/10.0.2.0/24",
        r#"{"network":"default/vlan","prefix":"10.0.2.0/24"}"#,
    );
    for (n, mode) in ["tor-evpn", "tor-agent", "tor-static"].into_iter().enumerate() {
        world.put(
            &format!("intent/node/{mode}"),
            &format!(r#"{{"name":"{mode}","mode":"{mode}","vtep":"192.0.2.10{n}","underlay_mtu":1500}}"#),
        );
        world.put(
            &format!("intent/node/behind-{mode}"),
            &format!(
                r#"{{"name":"behind-{mode}","mode":"host","underlay_mtu":1500,"uplinks":[{{"interface":"eth0","switch":"{mode}","switch_interface":"swp1"}}]}}"#
            ),
        );
    }
    world
}

#[test]
fn a_workload_too_large_for_the_underlay_is_refused() {
    let mut world = World::with_network();
    world.put("intent/network/default/web", r#"{"key":"default/web","vni":100,"mtu":1451,"rd_number":1}"#);
    world.create("a").unwrap();
    let error = world.run(&Request::Bind(key("a"), place(1), None), 1).unwrap_err();
    assert!(matches!(&error, PortError::Precondition { reason, .. } if reason.contains("1500")), "{error:?}");
}

#[test]
fn what_may_be_attached_where() {
    use Attachment::{Bridge, Ipvlan, Macvlan, Routed, Tap, VxlanBridge};
    use WorkloadKind::{BareMetal, Container, Vm};
    let nodes = [
        "n1",
        "behind-tor-evpn",
        "behind-tor-agent",
        "behind-tor-static",
        "tor-evpn",
        "tor-agent",
        "tor-static",
    ];
    // One letter a node: may or not.
    let table = [
        (Container, None, "yyyynnn"),
        (Container, Some(VxlanBridge), "ynnnnnn"),
        (Container, Some(Bridge), "nyyynnn"),
        (Container, Some(Macvlan), "nyyynnn"),
        (Container, Some(Ipvlan), "nynnnnn"),
        (Container, Some(Routed), "yyyynnn"),
        (Container, Some(Tap), "nnnnnnn"),
        (Vm, None, "yyyynnn"),
        (Vm, Some(Tap), "yyyynnn"),
        (Vm, Some(Bridge), "nnnnnnn"),
        (BareMetal, None, "nyyyyyy"),
    ];
    for (kind, attachment, want) in table {
        for network in ["vlan", "web"] {
            let got: String = nodes
                .iter()
                .map(|node| {
                    let mut world = fabric();
                    let place = Place {
                        kind,
                        attachment,
                        netns: if kind == Container { "pid:1".into() } else { String::new() },
                        interface: if kind == BareMetal && node.starts_with("tor") {
                            "swp9".into()
                        } else {
                            String::new()
                        },
                        ..Place::container(node.parse().unwrap(), "", "")
                    };
                    let key: PortKey = format!("{network}/a").parse().unwrap();
                    let create = CreatePort { bind: Some(place), ..CreatePort::new(key) };
                    if world.run(&Request::Create(create), 1).is_ok() { 'y' } else { 'n' }
                })
                .collect();
            // Where we tell networks apart by VLAN, one without is nowhere.
            let want: String = if network == "vlan" {
                want.to_owned()
            } else {
                want.char_indices().map(|(n, c)| if matches!(n, 2 | 3 | 5 | 6) { 'n' } else { c }).collect()
            };
            assert_eq!(got, want, "{kind} {attachment:?} in {network}");
        }
    }
}

#[test]
fn defaults_are_by_node_and_kind_and_the_same_place_again_is_no_change() {
    let mut world = fabric();
    let container = |node: &str| Place::container(node.parse().unwrap(), "pid:1", "");
    let tap = Place { kind: WorkloadKind::Vm, netns: String::new(), ..container("behind-tor-evpn") };
    let mut bind = |name: &str, place: &Place| {
        let key: PortKey = format!("vlan/{name}").parse().unwrap();
        let create = CreatePort { bind: Some(place.clone()), ..CreatePort::new(key.clone()) };
        let first = world.run(&Request::Create(create), 1).unwrap().unwrap();
        let again = world.run(&Request::Bind(key, place.clone(), None), 2).unwrap().unwrap();
        assert_eq!(first.binding, again.binding);
        let binding = again.binding.unwrap();
        (binding.attachment, binding.interface)
    };
    assert_eq!(bind("a", &container("n1")), (Some(Attachment::VxlanBridge), "eth0".to_owned()));
    assert_eq!(bind("b", &container("behind-tor-agent")), (Some(Attachment::Bridge), "eth0".to_owned()));
    let (attachment, interface) = bind("c", &tap);
    assert_eq!((attachment, interface.len()), (Some(Attachment::Tap), 15));
    assert!(interface.starts_with("cwp"), "{interface}");
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut world = fabric();
    let passthru = Place {
        attachment: Some(Attachment::Macvlan),
        macvlan_mode: Some(MacvlanMode::Passthru),
        ..Place::container("behind-tor-evpn".parse().unwrap(), "pid:1", "")
    };
    let second = Place { macvlan_mode: None, ..passthru.clone() };
    let metal = Place {
        kind: WorkloadKind::BareMetal,
        interface: "swp9".into(),
        ..Place::container("tor-evpn".parse().unwrap(), "", "")
    };
    for (key, place, refused) in [
        ("vlan/a", &passthru, None),
        ("vlan/b", &second, Some("two macvlans on one parent")),
        ("vlan/m", &metal, None),
        ("vlan/n", &metal, None),
        ("web/m", &metal, Some("has network default/vlan on interface swp9")),
    ] {
        let create = CreatePort { bind: Some(place.clone()), ..CreatePort::new(key.parse().unwrap()) };
        let answer = world.run(&Request::Create(create), 1);
        match refused {
            None => assert!(answer.is_ok(), "{key}: {answer:?}"),
            Some(why) => assert!(answer.unwrap_err().to_string().contains(why), "{key}"),
        }
    }
}
