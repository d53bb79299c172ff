use std::collections::BTreeMap;

use causeway_proto::v1;
use proptest::prelude::*;

use super::plan::plan;
use super::seen::{HostAddr, Kind, SeenLink, Trial};
use crate::dev::Dev;
use crate::model::{Attach, Desired, IfAddr, Key};
use crate::observed::{Inside, Link, Observed};
use crate::op::Op;
use crate::plan::Plan;

mod routed;

pub(crate) fn port(n: u8, vni: u32, attachment: v1::Attachment) -> v1::NodePort {
    let kind = match attachment {
        v1::Attachment::Tap => v1::WorkloadKind::Vm,
        _ => v1::WorkloadKind::Container,
    };
    let interface = if attachment == v1::Attachment::Tap { format!("tap{n}") } else { "eth0".into() };
    v1::NodePort {
        id: format!("default/n{vni}/p{n}"),
        vni,
        mac: format!("02:ca:0a:08:00:{n:02x}"),
        addresses: vec![format!("10.8.0.{n}/24"), format!("fd00:8::{n:x}/64")],
        gateways: vec!["10.8.0.1".into()],
        mtu: 1500,
        netns: format!("/run/netns/w{n}"),
        interface,
        generation: 1,
        kind: kind.into(),
        attachment: attachment.into(),
        ..v1::NodePort::default()
    }
}

const GATEWAY_MAC: &str = "00:00:5e:00:01:01";

pub(crate) fn network(vni: u32, vlan: u32) -> v1::NodeNetwork {
    v1::NodeNetwork {
        vni,
        vrf: "default".into(),
        network: format!("n{vni}"),
        mtu: 1500,
        bridge_mac: format!("02:00:00:00:00:{vni:02x}"),
        vlan,
        ..v1::NodeNetwork::default()
    }
}

pub(crate) fn state(networks: Vec<v1::NodeNetwork>, ports: Vec<v1::NodePort>) -> v1::NodeState {
    v1::NodeState {
        revision: 7,
        node: "h1".into(),
        underlay_mtu: 1500,
        networks,
        ports,
        mode: v1::NodeMode::Host.into(),
        uplinks: vec![v1::NodeUplink { interface: "eth1".into() }],
        ..v1::NodeState::default()
    }
}

fn load(state: &v1::NodeState) -> Desired {
    Desired::from_state(state, &Desired::default())
}

fn look_inside(desired: &Desired, observed: &mut Observed) {
    for port in desired.ports().values().filter(|p| p.attach.has_inside()) {
        observed.insides.entry(Dev::port(&port.id)).or_insert(Inside::Absent);
    }
}

pub(crate) fn uplink() -> SeenLink {
    let link = Link { mtu: 1500, up: true, ..Link::default() };
    SeenLink { link, accept_ra: true, ..SeenLink::made(Kind::Other, 1500) }
}

fn empty(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    observed.lan.links.insert(Dev::new("eth1"), uplink());
    observed.lan.forwards = (true, true);
    look_inside(desired, &mut observed);
    observed
}

fn address(text: &str) -> IfAddr {
    let (ip, length) = text.split_once('/').unwrap();
    IfAddr { ip: ip.parse().unwrap(), length: length.parse().unwrap() }
}

/// The host has addresses of its own on the uplink.
fn with_addresses(mut observed: Observed) -> Observed {
    let facts = HostAddr { ours: false, leased: false };
    let own = ["10.8.0.101/24", "fd00:8::101/64"].map(|a| (address(a), facts));
    observed.lan.addresses.insert(Dev::new("eth1"), BTreeMap::from(own));
    observed
}

fn steps(desired: &Desired, observed: &Observed) -> Plan {
    plan(desired, observed, desired.lan().unwrap())
}

fn text(plan: &Plan) -> String {
    let problems = plan.problems.iter().map(|(key, why)| format!("# {key:?}: {why}\n"));
    plan.ops.iter().map(|op| format!("{op}\n")).chain(problems).collect()
}

fn first(state: &v1::NodeState) -> String {
    let desired = load(state);
    text(&steps(&desired, &empty(&desired)))
}

fn settle(state: &v1::NodeState, observed: &mut Observed) -> Plan {
    let desired = load(state);
    look_inside(&desired, observed);
    let planned = steps(&desired, observed);
    planned.ops.iter().for_each(|op| observed.apply(op));
    planned
}

fn problem(state: &v1::NodeState, observed: &Observed) -> String {
    let desired = load(state);
    let planned = steps(&desired, observed);
    let dev = Dev::port(&"default/n100/p5".parse().unwrap());
    planned.problems.get(&Key::Port(dev)).cloned().unwrap_or_else(|| format!("no problem: {planned:#?}"))
}

#[test]
fn bridge_on_the_uplink_as_commands() {
    insta::assert_snapshot!(first(&state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Bridge)])));
}

#[test]
fn bridge_and_macvlan_on_a_vlan_as_commands() {
    let ports = vec![port(5, 100, v1::Attachment::Bridge), port(6, 100, v1::Attachment::Macvlan)];
    insta::assert_snapshot!(first(&state(vec![network(100, 10)], ports)));
}

#[test]
fn vlan_aware_bridge_as_commands() {
    let ports = vec![
        port(5, 100, v1::Attachment::Bridge),
        port(6, 101, v1::Attachment::Tap),
        port(7, 100, v1::Attachment::Macvlan),
    ];
    let mut state = state(vec![network(100, 10), network(101, 20)], ports);
    state.host_bridge = v1::HostBridge::VlanAware.into();
    insta::assert_snapshot!(first(&state));
}

#[test]
fn macvlan_with_the_host_beside_it_as_commands() {
    let state = state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Macvlan)]);
    let desired = load(&state);
    insta::assert_snapshot!(text(&steps(&desired, &with_addresses(empty(&desired)))));
}

#[test]
fn ipvlan_as_commands() {
    insta::assert_snapshot!(first(&state(
        vec![network(100, 10)],
        vec![port(5, 100, v1::Attachment::Ipvlan)]
    )));
}

#[test]
fn routed_as_commands() {
    let state = state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Routed)]);
    let desired = load(&state);
    insta::assert_snapshot!(text(&steps(&desired, &with_addresses(empty(&desired)))));
}

#[test]
fn tap_as_commands() {
    insta::assert_snapshot!(first(&state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Tap)])));
}

#[test]
fn move_of_the_hosts_addresses_as_commands() {
    let mut state = state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Bridge)]);
    state.move_addresses = true;
    let mut observed = with_addresses(empty(&load(&state)));
    let there = settle(&state, &mut observed);
    state.ports.clear();
    let back = settle(&state, &mut observed);
    insta::assert_snapshot!(format!("{}--\n{}", text(&there), text(&back)));
}

#[test]
fn what_is_in_the_way_is_said_and_not_touched() {
    let bridged = state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Bridge)]);
    let tagged = state(vec![network(100, 10)], vec![port(5, 100, v1::Attachment::Bridge)]);
    let clear = empty(&load(&bridged));

    let mut foreign_bridge = clear.clone();
    foreign_bridge.lan.links.get_mut(&Dev::new("eth1")).unwrap().link.master = Some(Dev::new("br-ex"));
    let mut foreign_vlan = clear.clone();
    let kind = Kind::Vlan { id: 10, parent: Some(Dev::new("eth1")) };
    foreign_vlan.lan.links.insert(Dev::new("eth1.10"), SeenLink { kind, ..uplink() });
    let mut small = clear.clone();
    small.lan.links.get_mut(&Dev::new("eth1")).unwrap().link.mtu = 1400;
    let mut leased = with_addresses(clear.clone());
    leased.lan.addresses.get_mut(&Dev::new("eth1")).unwrap().values_mut().for_each(|a| a.leased = true);
    let mut failed = with_addresses(clear.clone());
    failed.lan.trial = Some(Trial::Failed { uplink: Dev::new("eth1"), why: "moved back".into() });
    let moving = v1::NodeState { move_addresses: true, ..bridged.clone() };
    let other =
        v1::NodeState { uplinks: vec![v1::NodeUplink { interface: "eth9".into() }], ..bridged.clone() };
    let twice = v1::NodeState {
        networks: vec![network(99, 0), network(100, 0)],
        ports: vec![port(5, 100, v1::Attachment::Bridge), port(6, 99, v1::Attachment::Macvlan)],
        ..bridged.clone()
    };
    for (state, observed, expected) in [
        (&bridged, &foreign_bridge, "uplink eth1 is a port of br-ex, which is not Causeway's"),
        (&tagged, &foreign_vlan, "VLAN 10 of eth1 is eth1.10, which is not Causeway's"),
        (&bridged, &small, "uplink eth1 has MTU 1400, network default/n100 needs 1500"),
        (&bridged, &with_addresses(clear.clone()), "set move_addresses on the node"),
        (&moving, &leased, "was given for a time"),
        (&moving, &failed, "moved back"),
        (&other, &clear, "uplink eth9 does not exist on this host"),
        (&twice, &clear, "untagged traffic of eth1 belongs to network default/n99 already"),
    ] {
        let why = problem(state, observed);
        assert!(why.contains(expected), "{expected}: {why}");
        let desired = load(state);
        let ours = steps(&desired, observed).ops.iter().filter(|op| op.to_string().contains("100")).count();
        assert_eq!(ours, 0, "{expected}");
    }
}

#[test]
fn passthru_and_kinds_exclude_each_other() {
    let passthru = |n| v1::NodePort {
        macvlan_mode: v1::MacvlanMode::Passthru.into(),
        ..port(n, 100, v1::Attachment::Macvlan)
    };
    let alone = state(vec![network(100, 10)], vec![passthru(5)]);
    let mut observed = empty(&load(&alone));
    assert!(settle(&alone, &mut observed).problems.is_empty());
    // Who comes later does not get it, even by the lower name.
    let both = state(vec![network(100, 10)], vec![passthru(5), port(4, 100, v1::Attachment::Macvlan)]);
    let planned = settle(&both, &mut observed);
    let why: Vec<&String> = planned.problems.values().collect();
    assert!(
        matches!(why.as_slice(), [w] if w.contains("port default/n100/p5 has cwu100 for itself")),
        "{why:?}"
    );
    let mixed = state(
        vec![network(100, 10)],
        vec![port(4, 100, v1::Attachment::Macvlan), port(5, 100, v1::Attachment::Ipvlan)],
    );
    let why = problem(&mixed, &empty(&load(&mixed)));
    assert_eq!(why, "cwu100 has macvlans of other ports, and carries only one kind");
    let host = with_addresses(empty(&load(&alone)));
    let untagged = state(vec![network(100, 0)], vec![passthru(5)]);
    assert!(problem(&untagged, &host).contains("takes over eth1 with its MAC"));
}

#[test]
fn the_uplink_with_a_wire_is_used_and_kept() {
    let mut state = state(vec![network(100, 10)], vec![port(5, 100, v1::Attachment::Bridge)]);
    state.uplinks.push(v1::NodeUplink { interface: "eth2".into() });
    let mut observed = empty(&load(&state));
    observed.lan.links.insert(Dev::new("eth2"), uplink());
    observed.lan.links.get_mut(&Dev::new("eth1")).unwrap().carrier = false;
    settle(&state, &mut observed);
    let vlan = |o: &Observed| o.lan.links[&Dev::new("cwu100")].parent().unwrap().to_string();
    assert_eq!(vlan(&observed), "eth2");
    // The first one is back: nothing moves without need.
    observed.lan.links.get_mut(&Dev::new("eth1")).unwrap().carrier = true;
    assert_eq!(settle(&state, &mut observed).ops, vec![]);
    observed.lan.links.get_mut(&Dev::new("eth2")).unwrap().carrier = false;
    settle(&state, &mut observed);
    assert_eq!(vlan(&observed), "eth1");
}

#[test]
fn a_tap_of_others_is_taken_and_left_but_never_deleted() {
    let mut state = state(vec![network(100, 0)], vec![port(5, 100, v1::Attachment::Tap)]);
    let mut observed = empty(&load(&state));
    let theirs = SeenLink { kind: Kind::Tap, ..uplink() };
    observed.lan.links.insert(Dev::new("tap5"), theirs.clone());
    settle(&state, &mut observed);
    let tap = observed.lan.links[&Dev::new("tap5")].clone();
    assert_eq!((tap.link.master.as_ref().map(Dev::as_str), tap.link.grouped), (Some("cwb100"), false));
    state.ports.clear();
    let planned = settle(&state, &mut observed);
    assert!(planned.ops.iter().all(|op| op.to_string() != "ip link del dev tap5"), "{}", text(&planned));
    assert_eq!(observed.lan.links[&Dev::new("tap5")].link.master, None);
    assert!(!observed.lan.links.contains_key(&Dev::new("cwb100")));
}

#[test]
fn a_port_that_cannot_be_read_keeps_what_it_has() {
    let good = state(
        vec![network(100, 0)],
        vec![port(5, 100, v1::Attachment::Bridge), port(6, 100, v1::Attachment::Bridge)],
    );
    let mut observed = empty(&load(&good));
    settle(&good, &mut observed);
    let mut bad = good;
    bad.ports[0].mac = "nonsense".into();
    assert_eq!(text(&settle(&bad, &mut observed)), "");
}

fn any_state() -> impl Strategy<Value = v1::NodeState> {
    use v1::Attachment::{Bridge, Ipvlan, Macvlan, Routed, Tap};
    let attachment = prop::sample::select(vec![Bridge, Ipvlan, Macvlan, Routed, Tap]);
    let limits = (prop::bool::ANY, 0u64..2, 0u64..3, prop::bool::ANY);
    let port = (1u8..6, 100u32..103, attachment, 0i32..5, 1u64..3, 0u8..2, limits).prop_map(
        |(n, vni, attachment, mode, generation, netns, (guarded, i, o, held))| v1::NodePort {
            gateway_mac: if held { GATEWAY_MAC.into() } else { String::new() },
            macvlan_mode: mode,
            guarded,
            rate: Some(v1::RateLimit { in_kbit: i * 1000, out_kbit: o * 2000 }),
            generation,
            netns: format!("/run/netns/w{n}{netns}"),
            ..port(n, vni, attachment)
        },
    );
    let network =
        (100u32..103, prop::sample::select(vec![0u32, 10, 20])).prop_map(|(vni, vlan)| network(vni, vlan));
    let flags = (prop::bool::ANY, prop::bool::ANY, 0usize..3);
    (prop::collection::vec(network, 0..4), prop::collection::vec(port, 0..6), flags).prop_map(
        |(networks, ports, (aware, moves, uplinks))| {
            let bridge = if aware { v1::HostBridge::VlanAware } else { v1::HostBridge::PerNetwork };
            let names = ["eth1", "eth2"].iter().take(uplinks);
            v1::NodeState {
                host_bridge: bridge.into(),
                move_addresses: moves,
                uplinks: names.map(|n| v1::NodeUplink { interface: (*n).into() }).collect(),
                ..state(networks, ports)
            }
        },
    )
}

/// What strangers and accidents do to a host.
fn drift(observed: &mut Observed, changes: &[(u8, usize)]) {
    for &(what, n) in changes {
        let devs: Vec<Dev> = observed.lan.links.keys().cloned().collect();
        let Some(dev) = devs.get(n % devs.len().max(1)).cloned() else { return };
        match what {
            0 => observed.forget_lan_link(&dev),
            1 => observed.lan.links.get_mut(&dev).unwrap().link.master = None,
            2 => observed.lan.links.get_mut(&dev).unwrap().link.up = false,
            3 => observed.lan.routes.clear(),
            12 => observed.lan.rules.clear(),
            13 => _ = observed.lan.ways.pop_first(),
            14 => observed.lan.addresses.values_mut().for_each(|a| a.retain(|_, facts| !facts.ours)),
            4 => observed.lan.neighbours.clear(),
            5 => observed.lan.own_macs.clear(),
            6 => observed.lan.proxies.clear(),
            7 => _ = (observed.fdb.pop_first(), observed.lan.seats.pop_first()),
            8 => observed.lan.vlans.clear(),
            9 => observed.lan.links.get_mut(&dev).unwrap().carrier ^= true,
            10 => {
                let shapers: Vec<Dev> = observed.diverted.keys().cloned().collect();
                shapers.into_iter().skip(n % 2).for_each(|shaper| observed.forget_lan_link(&shaper));
            }
            _ => observed.insides.values_mut().skip(n).for_each(|inside| {
                if let Inside::Present(peer) = inside {
                    peer.addresses.clear();
                    peer.neighbours.clear();
                    peer.up = false;
                }
            }),
        }
    }
}

/// The places of ports that move: the old one is not looked at any more.
fn forget_moved(before: &Desired, after: &Desired, observed: &mut Observed) {
    for port in after.ports().values() {
        let moved = before.ports().get(&port.id).is_none_or(|old| old.netns != port.netns);
        if moved && port.attach.has_inside() {
            observed.insides.insert(Dev::port(&port.id), Inside::Absent);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_round_is_enough(
        first in any_state(),
        second in any_state(),
        addresses in prop::bool::ANY,
        changes in prop::collection::vec((0u8..15, 0usize..12), 0..6),
    ) {
        let mut observed = empty(&load(&first));
        observed.lan.links.insert(Dev::new("eth2"), uplink());
        if addresses {
            observed = with_addresses(observed);
        }
        settle(&first, &mut observed);
        drift(&mut observed, &changes);
        let desired = load(&second);
        forget_moved(&load(&first), &desired, &mut observed);
        let planned = settle(&second, &mut observed);
        let again = steps(&desired, &observed);
        prop_assert_eq!(again.ops, vec![], "after {}", text(&planned));
    }

    #[test]
    fn nothing_of_others_is_touched(state in any_state()) {
        let mut observed = empty(&load(&state));
        observed.lan.links.insert(Dev::new("eth2"), uplink());
        for name in ["br0", "eth0", "docker0"] {
            observed.lan.links.insert(Dev::new(name), uplink());
        }
        let planned = settle(&state, &mut observed);
        for op in &planned.ops {
            let command = op.to_string();
            for name in ["br0", "dev eth0 master", "docker0"] {
                prop_assert!(!command.contains(&format!("dev {name}")), "{}", command);
            }
            let deletes = matches!(op, Op::Lan(op) if matches!(op.step, super::step::Step::LinkDel { .. }));
            prop_assert!(!deletes, "{}", command);
        }
        let bare = load(&state).ports().values().filter(|p| p.attach == Attach::BareMetal).count();
        prop_assert_eq!(bare, 0);
    }
}
