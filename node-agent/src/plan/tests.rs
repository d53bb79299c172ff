use causeway_proto::{Mac, v1};
use proptest::prelude::*;

use super::*;
use crate::model::Place;
use crate::observed::{FdbEntry, FdbKind, FdbPort, Inside, Neighbour, TunnelEntry};
use crate::op::Half;
use crate::rate::Found;

fn state() -> v1::NodeState {
    let mac = "02:ca:0a:08:00:05".into();
    let port = v1::NodePort {
        id: "default/web/a".into(),
        vni: 100,
        mac,
        addresses: vec!["10.8.0.5/24".into(), "fd00:8::5/64".into()],
        gateways: vec!["10.8.0.1".into(), "fd00:8::1".into()],
        mtu: 1450,
        netns: "/run/netns/w1".into(),
        interface: "eth0".into(),
        generation: 3,
        kind: v1::WorkloadKind::Container.into(),
        attachment: v1::Attachment::VxlanBridge.into(),
        ..v1::NodePort::default()
    };
    let network =
        v1::NodeNetwork { bridge_mac: "02:00:00:00:00:64".into(), ..crate::model::tests::network(100) };
    let remote = v1::RemoteMac {
        vni: 100,
        mac: "02:ca:0a:08:00:06".into(),
        vtep: "192.0.2.2".into(),
        addresses: vec!["10.8.0.6".into(), "fd00:8::6".into()],
    };
    v1::NodeState {
        revision: 7,
        node: "h1".into(),
        vtep: "192.0.2.1".into(),
        underlay_mtu: 1500,
        networks: vec![network],
        ports: vec![port],
        remotes: vec![remote],
        floods: vec![v1::FloodTarget { vni: 100, vtep: "192.0.2.2".into() }],
        ..v1::NodeState::default()
    }
}

fn load(state: &v1::NodeState) -> Desired {
    Desired::from_state(state, &Desired::default())
}

/// A kernel with nothing in it, and every workload's namespace there.
fn empty(desired: &Desired) -> Observed {
    let mut observed = Observed::default();
    for id in desired.ports().keys() {
        observed.insides.insert(Dev::port(id), Inside::Absent);
    }
    observed
}

fn apply(observed: &mut Observed, ops: &[Op]) {
    ops.iter().for_each(|op| observed.apply(op));
}

fn settled(state: &v1::NodeState) -> (Desired, Observed) {
    let desired = load(state);
    let mut observed = empty(&desired);
    let first = plan(&desired, &observed, &Scope::All);
    apply(&mut observed, &first.ops);
    (desired, observed)
}

fn text(plan: &Plan) -> String {
    plan.ops.iter().map(|op| format!("{op}\n")).collect()
}

fn vni() -> Vni {
    Vni::try_from(100).unwrap()
}

fn dev() -> Dev {
    Dev::port(&"default/web/a".parse().unwrap())
}

fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

#[test]
fn first_plan_as_commands() {
    let desired = load(&state());
    insta::assert_snapshot!(text(&plan(&desired, &empty(&desired), &Scope::All)));
}

#[test]
fn removal_of_everything_as_commands() {
    let (_, observed) = settled(&state());
    let nothing = load(&v1::NodeState { vtep: "192.0.2.1".into(), ..Default::default() });
    insta::assert_snapshot!(text(&plan(&nothing, &observed, &Scope::All)));
}

#[test]
fn workload_that_moves_here_as_commands() {
    let mut before = state();
    let port = before.ports.remove(0);
    before.remotes[0].mac.clone_from(&port.mac);
    before.remotes[0].addresses = vec!["10.8.0.5".into()];
    let (_, mut observed) = settled(&before);
    observed.insides.insert(dev(), Inside::Absent);
    let mut after = before;
    after.ports = vec![port];
    after.remotes.clear();
    insta::assert_snapshot!(text(&plan(&load(&after), &observed, &Scope::All)));
}

#[test]
fn workload_that_leaves_as_commands() {
    let (_, observed) = settled(&state());
    let mut after = state();
    let port = after.ports.remove(0);
    after.remotes[0].mac = port.mac;
    after.remotes[0].addresses = vec!["10.8.0.5".into()];
    insta::assert_snapshot!(text(&plan(&load(&after), &observed, &Scope::All)));
}

#[test]
fn new_generation_is_announced_and_nothing_else() {
    let (_, observed) = settled(&state());
    let mut after = state();
    after.ports[0].generation = 4;
    insta::assert_snapshot!(text(&plan(&load(&after), &observed, &Scope::All)));
}

#[test]
fn new_namespace_means_a_new_pair() {
    let (_, mut observed) = settled(&state());
    let mut after = state();
    after.ports[0].netns = "pid:42".into();
    after.ports[0].generation = 4;
    observed.insides.insert(dev(), Inside::Absent);
    insta::assert_snapshot!(text(&plan(&load(&after), &observed, &Scope::All)));
}

#[test]
fn ipv6_vtep_and_other_paths_as_commands() {
    let mut state = state();
    state.vtep = "2001:db8::1".into();
    state.remotes[0].vtep = "2001:db8::2".into();
    state.floods[0].vtep = "2001:db8::2".into();
    state.ports[0].netns = "/var/lib/pods/x/net".into();
    let desired = load(&state);
    insta::assert_snapshot!(text(&plan(&desired, &empty(&desired), &Scope::All)));
}

#[test]
fn wrong_kinds_of_entries_are_deleted_before_they_are_set() {
    let remote = mac("02:ca:0a:08:00:06");
    for (kind, sticky, port) in [
        (FdbKind::Local, false, FdbPort::Vxlan),
        (FdbKind::Extern, true, FdbPort::Vxlan),
        (FdbKind::Static, true, FdbPort::Port(dev())),
    ] {
        let (desired, mut observed) = settled(&state());
        let other = match &port {
            FdbPort::Port(dev) => dev.clone(),
            _ => Dev::vxlan(vni()),
        };
        observed.fdb.insert((vni(), remote), FdbEntry { port, kind, sticky });
        let ops = plan(&desired, &observed, &Scope::All).ops;
        let place = Place::Remote("192.0.2.2".parse().unwrap());
        let del = Op::FdbDel { vni: vni(), mac: remote, half: Half::Bridge, dev: other };
        assert_eq!(ops, [del, Op::FdbSet { vni: vni(), mac: remote, place }]);
    }
}

#[test]
fn what_is_not_ours_is_left_alone_and_reported() {
    let (desired, mut observed) = settled(&state());
    let stranger = mac("02:ff:00:00:00:01");
    let other = FdbEntry { port: FdbPort::Other, kind: FdbKind::Static, sticky: false };
    observed.fdb.insert((vni(), stranger), other);
    let local = FdbEntry { port: FdbPort::Vxlan, kind: FdbKind::Local, sticky: false };
    observed.fdb.insert((vni(), mac("02:ff:00:00:00:02")), local);
    let zebra = Neighbour { mac: Some(stranger), lasting: true, protocol: 11 };
    observed.neighbours.insert((vni(), "10.8.0.99".parse().unwrap()), zebra.clone());
    if let Some(Inside::Present(peer)) = observed.insides.get_mut(&dev()) {
        peer.addresses.insert(crate::model::IfAddr { ip: "10.9.9.9".parse().unwrap(), length: 24 }, false);
        peer.gateways.insert("10.9.9.1".parse().unwrap(), false);
    }
    assert_eq!(plan(&desired, &observed, &Scope::All), Plan::default());
    // In the way of something that shall be: a problem, and not touched either.
    observed.neighbours.insert((vni(), "10.8.0.6".parse().unwrap()), zebra);
    let planned = plan(&desired, &observed, &Scope::All);
    assert!(planned.ops.is_empty());
    let problem = planned.problems.values().next().unwrap();
    assert_eq!(
        problem,
        "neighbour 10.8.0.6 on cwb100 was set by protocol 11, not by Causeway; stop what sets it"
    );
}

#[test]
fn workloads_are_told_when_an_address_has_another_mac() {
    let (desired, mut observed) = settled(&state());
    let (ip, own) =
        ("10.8.0.6".parse().unwrap(), desired.neighbour(vni(), "10.8.0.6".parse().unwrap()).unwrap());
    let set = Op::NeighSet { vni: vni(), ip, mac: own };
    let ours = |mac| Neighbour { mac: Some(mac), lasting: true, protocol: crate::dev::PROTOCOL };
    observed.neighbours.insert((vni(), ip), ours(mac("02:ff:00:00:00:01")));
    let ops = plan(&desired, &observed, &Scope::All).ops;
    assert_eq!(ops, [set.clone(), Op::NeighTell { vni: vni(), ip, mac: own }]);
    // One that is new nobody knows otherwise.
    observed.neighbours.remove(&(vni(), ip));
    assert_eq!(plan(&desired, &observed, &Scope::All).ops, [set]);
}

#[test]
fn taken_names_and_vnis_are_problems_not_steps() {
    let desired = load(&state());
    let mut observed = empty(&desired);
    observed.foreign_vxlans.insert((100, VXLAN_PORT), "vx0".into());
    let planned = plan(&desired, &observed, &Scope::All);
    assert!(planned.ops.is_empty(), "{:?}", planned.ops);
    let problem = &planned.problems[&Key::Network(vni())];
    assert_eq!(problem, "VNI 100 is in use by vx0, which is not Causeway's; delete it or change its VNI");
    assert_eq!(&planned.problems[&Key::Port(dev())], problem);

    let mut observed = empty(&desired);
    observed.foreign.insert(Dev::bridge(vni()));
    assert!(plan(&desired, &observed, &Scope::All).ops.is_empty());

    let mut observed = empty(&desired);
    observed.insides.insert(dev(), Inside::Foreign);
    let planned = plan(&desired, &observed, &Scope::All);
    let problem = &planned.problems[&Key::Port(dev())];
    assert_eq!(problem, "interface eth0 exists in netns /run/netns/w1 and is not Causeway's");
    assert!(planned.ops.iter().all(|op| op.key() != Key::Port(dev())));
}

#[test]
fn without_a_vtep_nothing_is_planned() {
    let (_, observed) = settled(&state());
    let mut broken = state();
    broken.vtep = "nonsense".into();
    let planned = plan(&load(&broken), &observed, &Scope::All);
    assert_eq!(planned.ops, vec![]);
    assert_eq!(planned.problems.len(), 2);
}

#[test]
fn a_single_key_is_planned_without_the_rest() {
    let (_, observed) = settled(&state());
    let mut after = state();
    after.remotes[0].vtep = "192.0.2.3".into();
    after.floods.clear();
    let key = Key::Mac(vni(), mac("02:ca:0a:08:00:06"));
    let ops = plan(&load(&after), &observed, &Scope::Keys([key].into())).ops;
    assert_eq!(
        ops.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["bridge fdb replace 02:ca:0a:08:00:06 dev cwx100 self master dynamic extern_learn dst 192.0.2.3"]
    );
}

fn guarded() -> v1::NodeState {
    let mut state = state();
    state.ports[0].guarded = true;
    state
}

#[test]
fn guard_is_switched_on_and_off_as_commands() {
    let (_, mut observed) = settled(&state());
    let on = plan(&load(&guarded()), &observed, &Scope::All);
    apply(&mut observed, &on.ops);
    let off = plan(&load(&state()), &observed, &Scope::All);
    insta::assert_snapshot!(format!("{}\n{}", text(&on), text(&off)));
}

#[test]
fn guard_is_there_before_its_port() {
    let desired = load(&guarded());
    let ops = plan(&desired, &empty(&desired), &Scope::All).ops;
    let guard = ops.iter().position(|op| matches!(op, Op::GuardSet { .. })).unwrap();
    let port = ops.iter().position(|op| matches!(op, Op::PortAdd { .. })).unwrap();
    assert!(guard < port, "{ops:?}");
}

#[test]
fn port_that_cannot_be_guarded_is_not_made() {
    let desired = load(&guarded());
    let mut observed = empty(&desired);
    observed.guards.unusable = Some("nft is not installed".into());
    let planned = plan(&desired, &observed, &Scope::All);
    assert_eq!(planned.problems[&Key::Port(dev())], "it cannot be guarded: nft is not installed");
    assert!(planned.ops.iter().all(|op| op.key() != Key::Port(dev())), "{:?}", planned.ops);
}

fn limited(in_kbit: u64, out_kbit: u64) -> v1::NodeState {
    let mut state = state();
    state.ports[0].rate = Some(v1::RateLimit { in_kbit, out_kbit });
    state
}

#[test]
fn limits_are_set_changed_and_lifted_as_commands() {
    let (_, mut observed) = settled(&state());
    let mut shown = String::new();
    for state in [limited(100_000, 50_000), limited(100_000, 80_000), limited(0, 80_000), state()] {
        let planned = plan(&load(&state), &observed, &Scope::All);
        apply(&mut observed, &planned.ops);
        shown += &format!("{}\n", text(&planned));
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn limits_go_with_the_port_and_come_with_its_successor() {
    let (_, observed) = settled(&limited(1000, 1000));
    let nothing = load(&v1::NodeState { vtep: "192.0.2.1".into(), ..Default::default() });
    let gone = text(&plan(&nothing, &observed, &Scope::All));
    assert!(gone.contains("ip link del dev cwi89a440152655"), "{gone}");
    let mut moved = limited(1000, 1000);
    moved.ports[0].netns = "/run/netns/w2".into();
    let mut absent = observed;
    absent.insides.insert(dev(), Inside::Absent);
    let again = plan(&load(&moved), &absent, &Scope::All).ops;
    assert_eq!(again.iter().filter(|op| matches!(op, Op::Rate { shape: Some(_), .. })).count(), 2);
}

#[test]
fn qdisc_of_somebody_else_stays_and_is_said() {
    let (_, mut observed) = settled(&state());
    let foreign = crate::rate::Shaping { inwards: Found::Foreign, outwards: Found::None };
    observed.rates.insert(dev(), foreign);
    assert_eq!(plan(&load(&state()), &observed, &Scope::All), Plan::default());
    let planned = plan(&load(&limited(1000, 0)), &observed, &Scope::All);
    assert_eq!(planned.ops, vec![]);
    assert_eq!(
        planned.problems[&Key::Port(dev())],
        "its rate cannot be limited: a qdisc on cwp89a440152655 is not Causeway's; delete it"
    );
}

/// Small ranges, so that keys meet.
fn any_state() -> impl Strategy<Value = v1::NodeState> {
    let network = (1u32..4, 1300u32..1303).prop_map(|(vni, mtu)| v1::NodeNetwork {
        vni,
        vrf: "default".into(),
        network: format!("n{vni}"),
        mtu,
        bridge_mac: format!("02:00:00:00:01:{vni:02x}"),
        ..v1::NodeNetwork::default()
    });
    let rate = (0u64..3, 0u64..3).prop_map(|(i, o)| v1::RateLimit { in_kbit: i * 1000, out_kbit: o * 1000 });
    let special = (prop::bool::ANY, prop::option::of(rate));
    let port = (0u8..4, 1u32..4, 0u8..6, 0u8..3, 1u64..3, prop::bool::ANY, special).prop_map(
        |(name, vni, mac, netns, generation, gateway, (guarded, rate))| v1::NodePort {
            guarded,
            rate,
            id: format!("default/n/{name}"),
            vni,
            mac: format!("02:00:00:00:00:{mac:02x}"),
            addresses: vec![format!("10.0.0.{}/24", mac + 1)],
            gateways: if gateway { vec!["10.0.0.254".into()] } else { vec![] },
            mtu: 1300,
            netns: format!("/run/netns/w{netns}"),
            interface: format!("eth{name}"),
            generation,
            kind: v1::WorkloadKind::Container.into(),
            attachment: v1::Attachment::VxlanBridge.into(),
            ..v1::NodePort::default()
        },
    );
    let remote =
        (1u32..4, 0u8..6, 2u8..5, prop::collection::vec(1u8..9, 0..3)).prop_map(|(vni, mac, vtep, ips)| {
            v1::RemoteMac {
                vni,
                mac: format!("02:00:00:00:00:{mac:02x}"),
                vtep: format!("192.0.2.{vtep}"),
                addresses: ips.iter().map(|ip| format!("10.0.0.{ip}")).collect(),
            }
        });
    let flood =
        (1u32..4, 2u8..5).prop_map(|(vni, vtep)| v1::FloodTarget { vni, vtep: format!("192.0.2.{vtep}") });
    (
        1u8..3,
        prop::collection::vec(network, 0..4),
        prop::collection::vec(port, 0..5),
        prop::collection::vec(remote, 0..8),
        prop::collection::vec(flood, 0..6),
    )
        .prop_map(|(vtep, networks, ports, remotes, floods)| v1::NodeState {
            revision: 1,
            node: "h1".into(),
            // .1 is nobody's remote VTEP; .9 changes the tunnels.
            vtep: format!("192.0.2.{}", if vtep == 1 { 1 } else { 9 }),
            underlay_mtu: 0,
            networks,
            ports,
            remotes,
            floods,
            ..v1::NodeState::default()
        })
}

/// What strangers and accidents do to a kernel.
fn any_drift() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((0u8..18, 0usize..8), 0..8)
}

fn drift(observed: &mut Observed, changes: &[(u8, usize)]) {
    fn nth<K: Clone, V>(map: &BTreeMap<K, V>, n: usize) -> Option<K> {
        map.keys().nth(n % map.len().max(1)).cloned()
    }
    for &(what, n) in changes {
        match what {
            0 => _ = nth(&observed.bridges, n).map(|v| observed.forget_bridge(v)),
            1 => _ = nth(&observed.vxlans, n).map(|v| observed.forget_vxlan(v)),
            2 => _ = nth(&observed.ports, n).map(|d| observed.forget_port(&d)),
            3 => _ = nth(&observed.fdb, n).map(|k| observed.fdb.remove(&k)),
            4 => _ = nth(&observed.tunnels, n).map(|k| observed.tunnels.remove(&k)),
            5 => _ = nth(&observed.neighbours, n).map(|k| observed.neighbours.remove(&k)),
            6 => _ = observed.floods.pop_first(),
            7 => observed.fdb.values_mut().skip(n).for_each(|e| e.sticky = !e.sticky),
            8 => observed.fdb.values_mut().skip(n).for_each(|e| e.port = FdbPort::Other),
            9 => observed.ports.values_mut().skip(n).for_each(|p| p.link = Link::default()),
            10 => observed.tunnels.values_mut().skip(n).for_each(|t| {
                *t = TunnelEntry { vtep: Some("192.0.2.77".parse().unwrap()), lasting: false };
            }),
            11 => observed.guards.chains.values_mut().skip(n).for_each(|chain| chain.digest = 0),
            12 => _ = nth(&observed.guards.chains, n).map(|key| observed.guards.chains.remove(&key)),
            13 => observed.ports.values_mut().skip(n).for_each(|p| p.flags.locked = !p.flags.locked),
            14 => observed.rates.values_mut().skip(n).for_each(|r| *r = r.orphaned()),
            15 => observed.rates.values_mut().skip(n).for_each(|r| r.inwards = Found::Foreign),
            16 => _ = nth(&observed.rates, n).map(|d| observed.rates.remove(&d)),
            _ => observed.insides.values_mut().skip(n).for_each(|inside| {
                if let Inside::Present(peer) = inside {
                    peer.addresses.clear();
                    peer.gateways.clear();
                    peer.up = false;
                }
            }),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn one_round_is_enough(first in any_state(), second in any_state(), changes in any_drift()) {
        let (_, mut observed) = settled(&first);
        let desired = load(&second);
        drift(&mut observed, &changes);
        for id in desired.ports().keys() {
            observed.insides.entry(Dev::port(id)).or_insert(Inside::Absent);
        }
        let planned = plan(&desired, &observed, &Scope::All);
        apply(&mut observed, &planned.ops);
        let again = plan(&desired, &observed, &Scope::All);
        prop_assert_eq!(again.ops, vec![], "after {}", text(&planned));
        prop_assert_eq!(again.problems, planned.problems);
    }

    #[test]
    fn deltas_by_key_reach_what_a_full_plan_reaches(first in any_state(), second in any_state()) {
        // The same networks and VTEP; ports, remotes and floods differ by a delta.
        let second = v1::NodeState { vtep: first.vtep.clone(), networks: first.networks.clone(), ..second };
        let (mut desired, mut observed) = settled(&first);
        let delta = v1::NodeDelta {
            revision: 2,
            deleted_ports: first.ports.iter().map(|p| p.id.clone()).collect(),
            deleted_remotes: first.remotes.clone(),
            deleted_floods: first.floods.clone(),
            ports: second.ports,
            remotes: second.remotes,
            floods: second.floods,
            ..Default::default()
        };
        let keys = desired.apply_delta(&delta);
        for id in desired.ports().keys() {
            observed.insides.entry(Dev::port(id)).or_insert(Inside::Absent);
        }
        let planned = plan(&desired, &observed, &Scope::Keys(keys));
        apply(&mut observed, &planned.ops);
        let rest = plan(&desired, &observed, &Scope::All).ops;
        prop_assert_eq!(rest, vec![], "after {}", text(&planned));
    }
}
