use super::*;
use v1::resource::Spec;

pub(crate) fn port(name: &str, state: v1::PortState) -> v1::Port {
    v1::Port {
        key: Some(v1::PortKey { vrf: "default".into(), network: "web".into(), name: name.into() }),
        addresses: vec!["10.8.0.5".into(), "fd00:8::5".into()],
        mac: "02:ca:0a:08:00:05".into(),
        state: state.into(),
        ..Default::default()
    }
}

#[test]
fn ports_table() {
    let mut bound = port("db-1", v1::PortState::Failed);
    bound.binding = Some(v1::Binding {
        node: "host1".into(),
        interface: "eth0".into(),
        netns: "/run/netns/a".into(),
        ..Default::default()
    });
    bound.problem = "no such namespace".into();
    insta::assert_snapshot!(ports(&[port("a", v1::PortState::Reserved), bound]).render(false));
}

#[test]
fn records_tables() {
    let network = v1::Network {
        vrf: "default".into(),
        name: "web".into(),
        vni: 10110,
        vlan: 110,
        mtu: 1450,
        ..Default::default()
    };
    let subnet = v1::Subnet {
        vrf: "default".into(),
        network: "web".into(),
        prefix: "10.8.0.0/20".into(),
        gateway: "10.8.0.1".into(),
        ranges: vec!["10.8.1.0-10.8.1.9".into(), "10.8.2.0-10.8.2.9".into()],
        ..Default::default()
    };
    let peer = v1::Peer {
        address: "10.0.0.1".into(),
        asn: 65000,
        port: 179,
        hold_seconds: 90,
        restart_seconds: 120,
        ..Default::default()
    };
    let vrf = v1::Vrf { name: "red".into(), l3_vni: 50001, ..Default::default() };
    let node = v1::Node {
        name: "host1".into(),
        mode: 1,
        vtep: "10.0.0.21".into(),
        underlay_mtu: 1500,
        ..Default::default()
    };
    let all = [
        (v1::Kind::Vrf, Spec::Vrf(vrf)),
        (v1::Kind::Network, Spec::Network(network)),
        (v1::Kind::Subnet, Spec::Subnet(subnet)),
        (v1::Kind::Node, Spec::Node(node)),
        (v1::Kind::Peer, Spec::Peer(peer)),
    ];
    let text: Vec<String> = all
        .into_iter()
        .map(|(kind, spec)| records(kind, &[v1::Resource { spec: Some(spec) }]).render(false))
        .collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn fabric_tables() {
    let status = v1::PeerStatus {
        peer: Some(v1::Peer { address: "10.0.0.1".into(), asn: 65000, ..Default::default() }),
        state: "Established".into(),
        state_seconds: 4000,
        routes_received: 12,
        routes_sent: 7,
        router_id: "10.0.0.1".into(),
        established_count: 2,
        last_error: "hold timer expired".into(),
        ..Default::default()
    };
    let route = v1::Route {
        direction: v1::RouteDirection::In.into(),
        peer: "10.0.0.1".into(),
        route_type: 2,
        rd: "10.0.0.11:110".into(),
        mac: "02:00:00:00:00:07".into(),
        ip: "10.8.0.7".into(),
        next_hop: "10.0.0.11".into(),
        vnis: vec![10110, 50001],
        route_targets: vec!["65000:10110".into()],
        sequence: 3,
        verdict: "used: default/web".into(),
        stale: true,
        ..Default::default()
    };
    let node = v1::NodeStatus {
        node: Some(v1::Node { name: "host1".into(), vtep: "10.0.0.21".into(), ..Default::default() }),
        connected: true,
        applied_revision: 40,
        agent_version: "0.1.0".into(),
        problems: vec!["bridge-nf-call-iptables is 1".into()],
        ports: 3,
    };
    let text = [peers(&[status]), routes(&[route]), node_status(&[node], 42)].map(|t| t.render(false));
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn durations_have_two_units() {
    for (seconds, want) in [(0, "0s"), (61, "1m1s"), (3600, "1h0m"), (90_000, "1d1h")] {
        assert_eq!(duration(seconds), want);
    }
}
