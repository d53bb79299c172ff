use std::collections::BTreeSet;

use causeway_proto::v1;
use proptest::prelude::*;

use super::*;
use crate::model::{Desired, Key};
use crate::observed::Observed;
use crate::op::Op;
use crate::plan::{Plan, Scope, plan};

fn network(vni: u32, vrf: &str, vlan: u32, gateways: &[&str]) -> v1::NodeNetwork {
    v1::NodeNetwork {
        vni,
        vrf: vrf.into(),
        network: format!("n{vni}"),
        mtu: 1450,
        bridge_mac: format!("02:00:00:00:01:{:02x}", vni & 0xff),
        vlan,
        gateways: gateways.iter().map(ToString::to_string).collect(),
        gateway_mac: if gateways.is_empty() { String::new() } else { "00:00:5e:00:01:01".into() },
    }
}

fn vrf(name: &str, l3_vni: u32, table: u32) -> v1::NodeVrf {
    v1::NodeVrf { name: name.into(), l3_vni, router_mac: "02:cc:00:00:00:01".into(), table }
}

fn route(vrf: &str, prefix: &str, vteps: &[u8]) -> v1::NodeRoute {
    let hop = |n: &u8| v1::NextHop {
        vtep: format!("192.0.2.{n}"),
        router_mac: format!("02:cc:00:00:00:{n:02x}"),
        ..Default::default()
    };
    v1::NodeRoute { vrf: vrf.into(), prefix: prefix.into(), next_hops: vteps.iter().map(hop).collect() }
}

/// A switch with two networks of one VRF, a host on a trunk and one on an access port, and another VTEP.
pub(crate) fn switch() -> v1::NodeState {
    v1::NodeState {
        revision: 1,
        node: "leaf1".into(),
        vtep: "192.0.2.1".into(),
        underlay_mtu: 1600,
        mode: v1::NodeMode::TorAgent.into(),
        networks: vec![
            network(10010, "red", 10, &["10.10.0.1/24", "fd00:10::1/64"]),
            network(10020, "red", 20, &["10.20.0.1/24"]),
        ],
        vrfs: vec![vrf("red", 4001, 1001)],
        routes: vec![
            route("red", "10.20.0.9/32", &[2]),
            route("red", "172.31.0.0/16", &[2, 3]),
            route("red", "fd00:31::/32", &[3]),
        ],
        switch_ports: vec![
            v1::SwitchPort { interface: "eth3".into(), untagged_vlan: 0, tagged_vlans: vec![10, 20] },
            v1::SwitchPort { interface: "eth4".into(), untagged_vlan: 10, tagged_vlans: vec![] },
        ],
        locals: vec![v1::LocalMac {
            vni: 10010,
            mac: "02:ca:0a:0a:00:05".into(),
            interface: "eth3".into(),
            addresses: vec!["10.10.0.5".into(), "fd00:10::5".into()],
        }],
        remotes: vec![v1::RemoteMac {
            vni: 10010,
            mac: "02:ca:0a:0a:00:06".into(),
            vtep: "192.0.2.2".into(),
            addresses: vec!["10.10.0.6".into()],
        }],
        floods: vec![v1::FloodTarget { vni: 10010, vtep: "192.0.2.2".into() }],
        ..v1::NodeState::default()
    }
}

fn load(state: &v1::NodeState) -> Desired {
    Desired::from_state(state, &Desired::default())
}

/// A kernel with nothing in it but the interfaces that become switch ports.
fn bare(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    for dev in desired.fabric().switch_ports().keys() {
        observed.fabric.interfaces.insert(dev.clone(), Interface::default());
    }
    observed
}

fn apply(observed: &mut Observed, ops: &[Op]) {
    ops.iter().for_each(|op| observed.apply(op));
}

fn settled(state: &v1::NodeState) -> (Desired, Observed) {
    let desired = load(state);
    let mut observed = bare(&desired);
    let first = plan(&desired, &observed, &Scope::All);
    apply(&mut observed, &first.ops);
    (desired, observed)
}

fn text(plan: &Plan) -> String {
    let ops = plan.ops.iter().map(|op| format!("{op}\n"));
    ops.chain(plan.problems.values().map(|why| format!("# {why}\n"))).collect()
}

fn nothing() -> v1::NodeState {
    v1::NodeState { vtep: "192.0.2.1".into(), ..v1::NodeState::default() }
}

#[test]
fn a_switch_as_commands() {
    let desired = load(&switch());
    assert!(desired.rejected().is_empty(), "{:?}", desired.rejected());
    insta::assert_snapshot!(text(&plan(&desired, &bare(&desired), &Scope::All)));
}

#[test]
fn a_switch_that_is_none_any_more_as_commands() {
    let (_, observed) = settled(&switch());
    insta::assert_snapshot!(text(&plan(&load(&nothing()), &observed, &Scope::All)));
}

#[test]
fn a_host_that_routes_as_commands() {
    let mut state = switch();
    state.mode = v1::NodeMode::HostVtep.into();
    state.switch_ports.clear();
    state.locals.clear();
    let desired = load(&state);
    insta::assert_snapshot!(text(&plan(&desired, &bare(&desired), &Scope::All)));
}

#[test]
fn the_default_vrf_is_the_main_table() {
    let mut state = nothing();
    state.networks = vec![network(100, "default", 0, &["10.8.0.1/24"])];
    state.vrfs = vec![vrf("default", 4000, 254)];
    state.routes = vec![route("default", "10.9.0.0/24", &[2]), route("default", "192.0.2.0/24", &[2])];
    let desired = load(&state);
    insta::assert_snapshot!(text(&plan(&desired, &bare(&desired), &Scope::All)));
}

#[test]
fn a_host_becomes_a_switch_and_back_in_one_plan_each() {
    let mut host = switch();
    host.mode = v1::NodeMode::HostVtep.into();
    for (first, second) in [(host.clone(), switch()), (switch(), host)] {
        let (_, mut observed) = settled(&first);
        let desired = load(&second);
        // The kernel is read anew when the mode changes; on a host the tunnels of networks are not things.
        if !desired.fabric().mode().is_switch() {
            observed.fabric.things.retain(|thing, _| {
                !matches!(thing.dev().and_then(Dev::role), Some(crate::dev::Role::Vxlan(_)))
            });
        }
        for dev in desired.fabric().switch_ports().keys() {
            observed.fabric.interfaces.entry(dev.clone()).or_default();
        }
        let planned = plan(&desired, &observed, &Scope::All);
        apply(&mut observed, &planned.ops);
        let again = plan(&desired, &observed, &Scope::All);
        assert_eq!(again.ops, vec![], "after {}", text(&planned));
    }
}

#[test]
fn a_switch_that_becomes_a_host_behind_one_leaves_nothing() {
    let (_, mut observed) = settled(&switch());
    let host = v1::NodeState { mode: v1::NodeMode::Host.into(), ..v1::NodeState::default() };
    let desired = load(&host);
    observed
        .fabric
        .things
        .retain(|thing, _| !matches!(thing.dev().and_then(Dev::role), Some(crate::dev::Role::Vxlan(_))));
    let planned = plan(&desired, &observed, &Scope::All);
    apply(&mut observed, &planned.ops);
    assert!(observed.fabric.things.is_empty(), "{:?} after {}", observed.fabric.things, text(&planned));
    assert_eq!(plan(&desired, &observed, &Scope::All).ops, vec![]);
}

#[test]
fn what_belongs_to_others_is_not_taken() {
    let desired = load(&switch());
    let mut observed = bare(&desired);
    let eth3 = Dev::new("eth3");
    let interface = observed.fabric.interfaces.get_mut(&eth3).unwrap();
    interface.master = Some(Dev::new("br-other"));
    let interface = observed.fabric.interfaces.get_mut(&Dev::new("eth4")).unwrap();
    interface.addresses.insert("10.0.0.1/24".into());
    observed.fabric.foreign.insert(Dev::svi(Vni::try_from(10020).unwrap()));
    observed.foreign_vxlans.insert((4001, 4789), "vx4001".into());
    let planned = plan(&desired, &observed, &Scope::All);
    let problems: Vec<&str> = planned.problems.values().map(String::as_str).collect();
    for part in [
        "switch port eth3 belongs to br-other: ip link set dev eth3 nomaster",
        "switch port eth4 has addresses (10.0.0.1/24)",
        "interface cwg10020 exists and is not Causeway's",
        "VNI 4001 is in use by vx4001",
    ] {
        assert!(problems.iter().any(|p| p.contains(part)), "{part}: {problems:#?}");
    }
    for op in &planned.ops {
        let text = op.to_string();
        assert!(!["eth3", "eth4", "cwg10020", "cwl4001"].iter().any(|d| text.contains(d)), "{text}");
    }
}

#[test]
fn impossible_states_are_problems() {
    let mut state = switch();
    state.networks.push(network(10030, "red", 10, &[]));
    state.networks.push(network(10040, "red", 0, &[]));
    state.networks.push(network(10050, "green", 50, &["10.50.0.1/24"]));
    state.vrfs.push(vrf("blue", 4001, 1002));
    state.locals[0].interface = "eth9".into();
    state.routes.push(route("blue", "10.0.0.0/8", &[2]));
    let desired = load(&state);
    let mut observed = bare(&desired);
    let planned = plan(&desired, &observed, &Scope::All);
    insta::assert_snapshot!(planned.problems.values().map(|p| format!("{p}\n")).collect::<String>());
    apply(&mut observed, &planned.ops);
    assert_eq!(plan(&desired, &observed, &Scope::All).ops, vec![]);
}

#[test]
fn entries_of_a_switch_that_speaks_evpn_are_left_to_it() {
    let mut state = switch();
    state.mode = v1::NodeMode::TorEvpn.into();
    let (desired, mut observed) = settled(&state);
    let vxlan = Dev::vxlan(Vni::try_from(10010).unwrap());
    assert!(observed.fabric.link(&vxlan).is_some());
    assert!(observed.fabric.things.keys().all(|t| !matches!(t, Thing::Flood(..) | Thing::Route(..))));
    let mac: Mac = "02:ca:0a:0a:00:06".parse().unwrap();
    let entry = TunnelEntry { vtep: Some("192.0.2.2".parse().unwrap()), lasting: true };
    observed.fabric.things.insert(Thing::Tunnel(vxlan.clone(), mac), Object::Tunnel(entry));
    observed.fabric.things.insert(Thing::Flood(vxlan, "192.0.2.2".parse().unwrap()), Object::Flood);
    assert_eq!(plan(&desired, &observed, &Scope::All).ops, vec![]);
}

fn any_switch() -> impl Strategy<Value = v1::NodeState> {
    let networks = prop::collection::vec((0u32..3, 0u32..4, prop::bool::ANY, 0u8..3), 0..4);
    let vrfs = prop::collection::vec((0u32..2, 0u32..3), 0..3);
    let routes = prop::collection::vec((0u32..2, 0u8..4, prop::collection::vec(2u8..5, 1..3)), 0..5);
    let ports = prop::collection::vec((0u8..3, 0u32..4, prop::collection::vec(1u32..4, 0..3)), 0..3);
    let entries = prop::collection::vec((0u32..3, 0u8..4, 0u8..4, prop::bool::ANY), 0..8);
    let mode = prop::sample::select(vec![v1::NodeMode::TorAgent, v1::NodeMode::TorStatic]);
    (mode, networks, vrfs, routes, ports, entries).prop_map(
        |(mode, networks, vrfs, routes, ports, entries)| {
            let name = |n: u32| if n == 0 { "default".to_owned() } else { format!("v{n}") };
            let mut state = nothing();
            state.mode = mode.into();
            for (n, vlan, gateway, vrf) in networks {
                let gateways: &[&str] = if gateway { &["10.0.0.1/24", "fd00::1/64"] } else { &[] };
                state.networks.push(network(100 + n, &name(u32::from(vrf)), vlan, gateways));
            }
            for (n, l3) in vrfs {
                let l3_vni = if l3 == 0 { 0 } else { 4000 + l3 };
                state.vrfs.push(vrf(&name(n), l3_vni, if n == 0 { 254 } else { 1000 + n }));
            }
            for (n, prefix, vteps) in routes {
                let prefix =
                    if prefix == 3 { "fd00:9::/64".to_owned() } else { format!("10.{prefix}.0.0/16") };
                state.routes.push(route(&name(n), &prefix, &vteps));
            }
            for (n, untagged_vlan, tagged_vlans) in ports {
                state.switch_ports.push(v1::SwitchPort {
                    interface: format!("eth{n}"),
                    untagged_vlan,
                    tagged_vlans,
                });
            }
            for (n, mac, ip, local) in entries {
                let (vni, mac) = (100 + n, format!("02:00:00:00:00:{mac:02x}"));
                let addresses = vec![format!("10.0.0.{}", ip + 2)];
                if local {
                    let interface = format!("eth{}", ip % 3);
                    state.locals.push(v1::LocalMac { vni, mac, interface, addresses });
                } else {
                    let vtep = format!("192.0.2.{}", ip + 2);
                    state.floods.push(v1::FloodTarget { vni, vtep: vtep.clone() });
                    state.remotes.push(v1::RemoteMac { vni, mac, vtep, addresses });
                }
            }
            state
        },
    )
}

/// What strangers and accidents do to a kernel.
fn drift(observed: &mut Observed, changes: &[(u8, usize)]) {
    for &(what, n) in changes {
        let things: Vec<Thing> = observed.fabric.things.keys().cloned().collect();
        let Some(thing) = things.get(n % things.len().max(1)).cloned() else { return };
        match (what, &thing) {
            (0, Thing::Link(dev)) => observed.fabric.forget(dev),
            (1, Thing::Member(dev)) => observed.fabric.forget_membership(dev),
            (2, Thing::Link(_)) => {
                if let Some(Object::Link(link)) = observed.fabric.things.get_mut(&thing) {
                    link.link = Link { grouped: true, ..Link::default() };
                }
            }
            (3, Thing::Fdb(..)) => {
                if let Some(Object::Fdb(seat)) = observed.fabric.things.get_mut(&thing) {
                    seat.sticky = !seat.sticky;
                }
            }
            (4, Thing::Router(_)) => {
                if let Some(Object::Router(router)) = observed.fabric.things.get_mut(&thing) {
                    router.vrf = None;
                }
            }
            (_, Thing::Link(_) | Thing::Member(_) | Thing::Router(_)) => {}
            _ => _ = observed.fabric.things.remove(&thing),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_round_is_enough(
        first in any_switch(),
        second in any_switch(),
        changes in prop::collection::vec((0u8..8, 0usize..64), 0..8),
    ) {
        let (_, mut observed) = settled(&first);
        let desired = load(&second);
        for dev in desired.fabric().switch_ports().keys() {
            observed.fabric.interfaces.entry(dev.clone()).or_default();
        }
        drift(&mut observed, &changes);
        let planned = plan(&desired, &observed, &Scope::All);
        apply(&mut observed, &planned.ops);
        let again = plan(&desired, &observed, &Scope::All);
        prop_assert_eq!(again.ops, vec![], "after {}", text(&planned));
        prop_assert_eq!(again.problems, planned.problems);
    }

    #[test]
    fn deltas_by_key_reach_what_a_full_plan_reaches(first in any_switch(), second in any_switch()) {
        let (mut desired, mut observed) = settled(&first);
        let delta = v1::NodeDelta {
            revision: 2,
            deleted_remotes: first.remotes.clone(),
            deleted_floods: first.floods.clone(),
            deleted_locals: first.locals.clone(),
            deleted_routes: first.routes.clone(),
            remotes: second.remotes,
            floods: second.floods,
            locals: second.locals,
            routes: second.routes,
            ..v1::NodeDelta::default()
        };
        let keys = desired.apply_delta(&delta);
        prop_assert!(keys.iter().all(|key| !key.is_structure()));
        let planned = plan(&desired, &observed, &Scope::Keys(keys));
        apply(&mut observed, &planned.ops);
        let rest = plan(&desired, &observed, &Scope::All).ops;
        prop_assert_eq!(rest, vec![], "after {}", text(&planned));
    }

    #[test]
    fn structure_by_delta_too(first in any_switch(), second in any_switch()) {
        let (mut desired, mut observed) = settled(&first);
        let delta = v1::NodeDelta {
            revision: 2,
            deleted_networks: first.networks.iter().map(|n| n.vni).collect(),
            deleted_vrfs: first.vrfs.iter().map(|v| v.name.clone()).collect(),
            deleted_switch_ports: first.switch_ports.iter().map(|p| p.interface.clone()).collect(),
            networks: second.networks,
            vrfs: second.vrfs,
            switch_ports: second.switch_ports,
            ..v1::NodeDelta::default()
        };
        let keys = desired.apply_delta(&delta);
        for dev in desired.fabric().switch_ports().keys() {
            observed.fabric.interfaces.entry(dev.clone()).or_default();
        }
        let planned = plan(&desired, &observed, &Scope::Keys(keys));
        apply(&mut observed, &planned.ops);
        let rest = plan(&desired, &observed, &Scope::All).ops;
        prop_assert_eq!(rest, vec![], "after {}", text(&planned));
    }
}

#[test]
fn every_step_is_planned_for_its_thing_and_every_thing_has_a_ground() {
    let desired = load(&switch());
    let planned = plan(&desired, &bare(&desired), &Scope::All);
    let mut made: BTreeSet<Key> = BTreeSet::new();
    for op in &planned.ops {
        let key = op.key();
        let base = key.base();
        assert!(base.is_none_or(|base| made.contains(&base)), "{op} comes before what it needs");
        made.insert(key);
    }
}
