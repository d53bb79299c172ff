//! Switches, hosts behind them, VRFs and what hangs together.

use causeway_proto::{Name, NetworkKey};

use super::*;
use crate::store::{Txn, TxnOutcome, Write};

fn fabric() -> Vec<Spec> {
    use v1::NodeMode::{TorAgent, TorEvpn};
    let pair = |name, vtep| v1::Node { anycast_vtep: "192.0.2.40".into(), ..switch(name, TorAgent, vtep) };
    vec![
        vrf("red", 50),
        Spec::Network(v1::Network { vlan: 10, ..network("web", 100) }),
        Spec::Network(network("flat", 101)),
        Spec::Subnet(subnet("web", "10.0.0.0/24")),
        Spec::Subnet(subnet("flat", "10.0.1.0/24")),
        Spec::Node(switch("e1", TorEvpn, "192.0.2.21")),
        Spec::Node(switch("e2", TorEvpn, "192.0.2.22")),
        Spec::Node(pair("a1", "192.0.2.31")),
        Spec::Node(pair("a2", "192.0.2.32")),
        Spec::Node(host("h1", &[("eth0", "e1", "")])),
        Spec::Node(host("h2", &[("eth0", "a1", "swp1"), ("eth1", "a2", "swp1")])),
        Spec::Node(v1::Node {
            esi: "03:44:38:39:ff:ff:01:00:00:01".into(),
            ..host("h3", &[("eth0", "e1", ""), ("eth1", "e2", "")])
        }),
    ]
}

#[tokio::test]
async fn a_fabric_is_accepted_shown_and_found_unchanged() {
    let world = World::new(65_000).await;
    world.apply(fabric()).await.unwrap();
    let again = world.apply(fabric()).await.unwrap();
    assert!(again.outcomes.iter().all(|o| o.action == Action::Unchanged), "{:?}", again.outcomes);
    let route = v1::VrfRoute { prefix: "172.31.0.0/16".into(), node: "a1".into() };
    let routed = v1::Vrf { name: "red".into(), l3_vni: 50, routes: vec![route], ..Default::default() };
    let outcome = world.apply(vec![Spec::Vrf(routed)]).await.unwrap().outcomes.remove(0);
    assert_eq!(outcome.changes.len(), 1, "{outcome:?}");
    assert_eq!(outcome.changes[0].new, "172.31.0.0/16 via a1");
    let snapshot = world.state.snapshot();
    let numbers: std::collections::BTreeSet<u16> = snapshot
        .networks
        .values()
        .map(|n| n.value.rd_number)
        .chain(snapshot.vrfs.values().map(|v| v.value.rd_number).filter(|n| *n > 0))
        .collect();
    assert_eq!(numbers.len(), 3, "networks and VRFs share one row of distinguishers");
    for kind in [v1::Kind::Vrf, v1::Kind::Network, v1::Kind::Node] {
        for record in message::list(&snapshot, kind) {
            let outcome = world.intent.apply(&[record.to_resource()], true).await.unwrap().outcomes.remove(0);
            assert_eq!(outcome.action, Action::Unchanged, "{outcome:?}");
        }
    }
}

#[tokio::test]
async fn what_does_not_hang_together_is_refused() {
    use v1::NodeMode::{HostVtep, TorAgent, TorEvpn, TorStatic};
    let world = World::new(65_000).await;
    world.apply(fabric()).await.unwrap();
    let esi = "03:44:38:39:ff:ff:01:00:00:02".to_owned();
    let symmetric = v1::Irb::Symmetric.into();
    for (spec, want) in [
        (Spec::Node(host("x", &[])), "node.uplinks: are required"),
        (
            Spec::Node(v1::Node { vtep: "192.0.2.9".into(), ..host("x", &[("eth0", "e1", "")]) }),
            "node.vtep: makes no sense",
        ),
        (
            Spec::Node(host("x", &[("eth0", "nobody", "")])),
            "node.uplinks[0].switch: node nobody does not exist",
        ),
        (
            Spec::Node(host("x", &[("eth0", "h1", "")])),
            "node.uplinks[0].switch: node h1 is a host and no switch",
        ),
        (Spec::Node(host("x", &[("eth0", "a1", "")])), "node.uplinks[0].switch_interface: is required"),
        (
            Spec::Node(host("x", &[("eth0", "a1", "swp1")])),
            "node.uplinks[0].switch_interface: interface swp1 of a1 <- node h2",
        ),
        (
            Spec::Node(host("x", &[("eth0", "e1", ""), ("eth1", "e1", "")])),
            "node.uplinks[1].switch: e1 is there twice",
        ),
        (
            Spec::Node(host("x", &[("eth0", "e1", ""), ("eth0", "e2", "")])),
            "node.uplinks[1].interface: eth0 is there twice",
        ),
        (
            Spec::Node(host("x", &[("eth0", "e1", ""), ("eth1", "e2", "")])),
            "node.uplinks: to e1 and e2 need an esi",
        ),
        (
            Spec::Node(host("x", &[("eth0", "e1", ""), ("eth1", "a1", "swp9")])),
            "node.uplinks: go to a tor-evpn and a tor-agent",
        ),
        (
            Spec::Node(v1::Node {
                esi: esi.clone(),
                ..host("x", &[("eth0", "a1", "swp8"), ("eth1", "a2", "swp8")])
            }),
            "node.esi: makes no sense",
        ),
        (
            Spec::Node(v1::Node { esi: esi.clone(), ..host("x", &[("eth0", "e1", "")]) }),
            "node.esi: needs two uplinks",
        ),
        (
            Spec::Node(v1::Node {
                esi: "03:44".into(),
                ..host("x", &[("eth0", "e1", ""), ("eth1", "e2", "")])
            }),
            "node.esi: '03:44'",
        ),
        (Spec::Node(v1::Node { esi, ..switch("x", TorEvpn, "192.0.2.77") }), "node.esi: is for hosts only"),
        (Spec::Node(switch("x", HostVtep, "192.0.2.40")), "node.vtep: vtep 192.0.2.40 <- node a1"),
        (
            Spec::Node(v1::Node { anycast_vtep: "192.0.2.40".into(), ..switch("x", TorAgent, "192.0.2.77") }),
            "node.anycast_vtep: vtep 192.0.2.40 <- nodes a1 and a2",
        ),
        (
            Spec::Node(v1::Node { anycast_vtep: "192.0.2.21".into(), ..switch("x", TorAgent, "192.0.2.77") }),
            "node.anycast_vtep: vtep 192.0.2.21 <- node e1",
        ),
        (
            Spec::Node(v1::Node {
                anycast_vtep: "2001:db8::1".into(),
                ..switch("x", TorAgent, "192.0.2.77")
            }),
            "node.anycast_vtep: 2001:db8::1 must be of the family",
        ),
        (
            Spec::Node(v1::Node { anycast_vtep: "192.0.2.78".into(), ..switch("x", HostVtep, "192.0.2.77") }),
            "node.anycast_vtep: is for switches only",
        ),
        (
            Spec::Node(v1::Node {
                router_mac: "01:00:5e:00:00:01".into(),
                ..switch("x", TorEvpn, "192.0.2.77")
            }),
            "node.router_mac: 01:00:5e:00:00:01 is not a unicast",
        ),
        (
            Spec::Node(v1::Node { networks: vec!["none".into()], ..switch("x", TorEvpn, "192.0.2.77") }),
            "node.networks[0]: network default/none does not exist",
        ),
        (
            Spec::Node(v1::Node { networks: vec!["flat".into()], ..switch("x", TorStatic, "192.0.2.77") }),
            "node.networks[0]: network default/flat has no vlan",
        ),
        (
            Spec::Node(switch("e1", HostVtep, "192.0.2.21")),
            "node e1 cannot become something else than a switch",
        ),
        (Spec::Node(switch("a1", TorAgent, "192.0.2.31")), "node a1 must agree in mode and anycast_vtep"),
        (
            Spec::Network(v1::Network { irb: symmetric, ..network("new", 102) }),
            "network.irb: symmetric needs an l3_vni in vrf default",
        ),
        (Spec::Network(v1::Network { irb: 99, ..network("new", 102) }), "network.irb: 99 is not known"),
        (
            Spec::Network(v1::Network { gateway_mac: "03:00:00:00:00:01".into(), ..network("new", 102) }),
            "network.gateway_mac: 03:00:00:00:00:01 is not a unicast",
        ),
        (
            Spec::Network(v1::Network { attachments: vec![2, 2], ..network("new", 102) }),
            "network.attachments[1]: bridge is there twice",
        ),
        (
            Spec::Network(v1::Network { attachments: vec![0], ..network("new", 102) }),
            "network.attachments[0]: 0 is not known",
        ),
        (Spec::Network(network("new", 50)), "network.vni: vni 50 <- vrf red"),
        (routes("red", 50, &[("172.31.0.1/16", "a1")]), "vrf.routes[0].prefix"),
        (
            routes("red", 50, &[("172.31.0.0/16", "a1"), ("172.31.0.0/16", "a2")]),
            "vrf.routes[1].prefix: 172.31.0.0/16 is there twice",
        ),
        (routes("red", 50, &[("172.31.0.0/16", "h1")]), "vrf.routes[0].node: node h1 has no VTEP"),
        (routes("red", 50, &[("172.31.0.0/16", "e1")]), "vrf.routes[0].node: node e1 needs its router_mac"),
        (routes("red", 50, &[("172.31.0.0/16", "none")]), "vrf.routes[0].node: node none does not exist"),
        (routes("blue", 0, &[("172.31.0.0/16", "a1")]), "vrf.routes: need an l3_vni"),
    ] {
        let error = world.apply(vec![spec]).await.unwrap_err();
        assert!(
            told(&error).trim_start_matches("resources[0].").starts_with(want),
            "{} for {want}",
            told(&error)
        );
    }
}

/// A connected subnet is announced at several VTEPs, each with a distinguisher of its own.
#[tokio::test]
async fn a_vrf_has_numbers_for_its_ways_and_one_of_before_gets_them() {
    let world = World::new(65_000).await;
    world.apply(vec![vrf("red", 50), vrf("flat", 0), Spec::Network(network("web", 100))]).await.unwrap();
    let numbers = |name: &str| {
        let snapshot = world.state.snapshot();
        let vrf = snapshot.vrfs[&name.parse::<Name>().unwrap()].value.clone();
        std::iter::once(vrf.rd_number).chain(vrf.connected_rds).collect::<Vec<u16>>()
    };
    let red = numbers("red");
    assert_eq!((red.len(), numbers("flat").len()), (crate::model::CONNECTED_WAYS, 1));
    let web = world.state.snapshot().networks[&"web".parse::<NetworkKey>().unwrap()].value.rd_number;
    let all: std::collections::BTreeSet<u16> =
        red.iter().copied().chain(numbers("flat")).chain([web]).collect();
    assert_eq!(all.len(), red.len() + 2, "each is one's own");
    // As it was stored before there were any.
    let key = "intent/vrf/red";
    let entry = world.store.get(key).await.unwrap().unwrap();
    let mut record: crate::model::Vrf = serde_json::from_slice(&entry.value).unwrap();
    record.connected_rds.clear();
    let old = serde_json::to_vec(&record).unwrap();
    assert!(!String::from_utf8_lossy(&old).contains("connected_rds"));
    let deletes = red[1..].iter().map(|number| Write::Delete(crate::keys::rd(*number)));
    let put = Write::Put { key: key.to_owned(), value: old, lease: None };
    let txn = Txn { compares: Vec::new(), writes: deletes.chain([put]).collect() };
    let TxnOutcome::Committed(at) = world.store.txn(txn).await.unwrap() else { panic!("committed") };
    world.state.wait_for(at).await.unwrap();
    assert_eq!(numbers("red"), red[..1]);
    let applied = world.apply(vec![vrf("red", 50)]).await.unwrap();
    assert_eq!(applied.outcomes[0].action, Action::Unchanged, "nothing that is declared differs");
    world.state.wait_for(applied.revision).await.unwrap();
    assert_eq!(numbers("red"), red);
}

fn routes(name: &str, l3_vni: u32, routes: &[(&str, &str)]) -> Spec {
    let route =
        |(prefix, node): &(&str, &str)| v1::VrfRoute { prefix: (*prefix).into(), node: (*node).into() };
    let routes = routes.iter().map(route).collect();
    Spec::Vrf(v1::Vrf { name: name.into(), l3_vni, routes, ..Default::default() })
}

#[tokio::test]
async fn what_others_hang_on_does_not_go() {
    let world = World::new(65_000).await;
    world.apply(fabric()).await.unwrap();
    let mac = "02:00:00:00:00:01".to_owned();
    let e1 = v1::Node { router_mac: mac.clone(), ..switch("e1", v1::NodeMode::TorEvpn, "192.0.2.21") };
    let lister =
        v1::Node { networks: vec!["web".into()], ..switch("e2", v1::NodeMode::TorEvpn, "192.0.2.22") };
    world.apply(vec![Spec::Node(e1), Spec::Node(lister)]).await.unwrap();
    world.apply(vec![routes("red", 50, &[("172.31.0.0/16", "e1")])]).await.unwrap();
    let other = v1::Node { router_mac: mac, ..switch("x", v1::NodeMode::TorEvpn, "192.0.2.77") };
    let error = world.apply(vec![Spec::Node(other)]).await.unwrap_err();
    assert_eq!(told(&error), "resources[0].node.router_mac: router MAC 02:00:00:00:00:01 <- node e1");
    let plain = switch("e1", v1::NodeMode::TorEvpn, "192.0.2.21");
    let error = world.apply(vec![Spec::Node(plain)]).await.unwrap_err();
    assert_eq!(error.to_string(), "node e1 needs a VTEP and a router MAC while routes lead to it: vrf red");
    for (kind, name, want) in [
        (v1::Kind::Node, "e1", "node e1 cannot be deleted while hosts are behind it: node h1"),
        (v1::Kind::Network, "flat", "network default/flat cannot be deleted while it has subnets"),
    ] {
        let error = world.intent.delete(kind, name).await.unwrap_err();
        assert!(error.to_string().starts_with(want), "{error}");
    }
    world.intent.delete(v1::Kind::Node, "h1").await.unwrap();
    world.intent.delete(v1::Kind::Node, "h3").await.unwrap();
    let error = world.intent.delete(v1::Kind::Node, "e1").await.unwrap_err();
    assert_eq!(error.to_string(), "node e1 cannot be deleted while routes lead to it: vrf red");
    world.intent.delete(v1::Kind::Subnet, "10.0.0.0/24").await.unwrap();
    let error = world.intent.delete(v1::Kind::Network, "web").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "network default/web cannot be deleted while a switch is to bridge it: node e2"
    );
}

#[tokio::test]
async fn a_symmetric_network_keeps_its_l3_vni_and_a_bound_one_its_vlan() {
    let world = World::new(65_000).await;
    world.apply(fabric()).await.unwrap();
    let new = v1::Network { vrf: "red".into(), irb: v1::Irb::Symmetric.into(), ..network("new", 102) };
    world.apply(vec![Spec::Network(new)]).await.unwrap();
    let error = world.apply(vec![vrf("red", 0)]).await.unwrap_err();
    assert!(told(&error).starts_with("resources[0].vrf.l3_vni: is required by network red/new"), "{error}");
    world.create("a", "10.0.0.7", Some("h2")).await;
    let error = world.apply(vec![Spec::Network(network("web", 100))]).await.unwrap_err();
    assert!(error.to_string().contains("tells networks apart by VLAN"), "{error}");
    let only =
        v1::Network { vlan: 10, attachments: vec![v1::Attachment::Macvlan.into()], ..network("web", 100) };
    let error = world.apply(vec![Spec::Network(only)]).await.unwrap_err();
    assert!(
        error.to_string().contains("would attach by bridge, network default/web allows macvlan"),
        "{error}"
    );
}
