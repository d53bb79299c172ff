use proptest::prelude::*;
use serde_json::json;

use super::*;

fn guard(addresses: &[&str]) -> Guard {
    let mac = "02:ca:0a:08:00:05".parse().unwrap();
    let interface = Dev::new("cwp0123456789ab");
    Guard {
        hook: Hook::Bridge,
        interface,
        mac,
        through: None,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
    }
}

#[test]
fn the_chain_of_a_port_reads_as_nft_text() {
    let dev = Dev::new("cwp0123456789ab");
    let text =
        guard(&["10.8.0.5", "10.8.0.7", "fd00:8::5"]).commands(&dev, &[Dev::new("tap9")].into()).join("\n");
    insta::assert_snapshot!(text);
}

#[test]
fn a_port_without_addresses_sends_link_local_only() {
    insta::assert_snapshot!(guard(&[]).rules(&Dev::new("cwp0123456789ab")).join("\n"));
}

/// What nft prints for a chain of `count` rules of `digest`.
fn listed(digest: u64, count: usize) -> serde_json::Value {
    let mut objects = vec![
        json!({"metainfo": {"version": "1.0.6"}}),
        json!({"map": {"name": "ports", "elem": [["cwp0123456789ab", {"jump": {"target": "cwp0123456789ab"}}]]}}),
        json!({"chain": {"name": "input", "hook": "prerouting", "prio": -300, "policy": "accept"}}),
        json!({"rule": {"chain": "input", "comment": "causeway"}}),
        json!({"chain": {"name": "cwp0123456789ab"}}),
    ];
    objects.extend(
        (1..=count)
            .map(|n| json!({"rule": {"chain": "cwp0123456789ab", "comment": comment(digest, n, count)}})),
    );
    json!({ "nftables": objects })
}

fn chain_of(json: &serde_json::Value) -> Chain {
    parse(Family::Bridge, json).remove(&(Family::Bridge, Dev::new("cwp0123456789ab"))).unwrap_or_default()
}

fn whole_chain_of(digest: u64) -> Chain {
    Chain { digest, interfaces: [Dev::new("cwp0123456789ab")].into() }
}

#[test]
fn a_chain_is_whole_only_with_all_of_its_rules_and_a_way_to_it() {
    let whole = listed(7, 4);
    assert_eq!(chain_of(&whole), whole_chain_of(7));
    let objects = whole["nftables"].as_array().unwrap().len();
    for missing in 1..objects {
        let mut damaged = whole.clone();
        damaged["nftables"].as_array_mut().unwrap().remove(missing);
        // Without its own chain object the rules alone still name the chain.
        assert_eq!(
            chain_of(&damaged) == whole_chain_of(7),
            missing == 4,
            "without {}",
            whole["nftables"][missing]
        );
    }
    let mut foreign = whole.clone();
    let rule = json!({"rule": {"chain": "cwp0123456789ab", "expr": [{"accept": null}]}});
    foreign["nftables"].as_array_mut().unwrap().insert(5, rule);
    assert_eq!(chain_of(&foreign), whole_chain_of(0), "a rule of somebody else");
}

#[test]
fn interface_that_nft_would_misread_is_refused() {
    let mut state = causeway_proto::v1::NodeState::default();
    state.ports.push(crate::model::tests::port("default/web/a", 100, "02:ca:0a:08:00:05"));
    let desired = crate::model::Desired::from_state(&state, &crate::model::Desired::default());
    let port = desired.ports().values().next().unwrap();
    for name in ["tap*", "tap\"", "t\\ap"] {
        Guard::of(port, Hook::Bridge, &Dev::new(name)).unwrap_err();
    }
    assert_eq!(Guard::of(port, Hook::Bridge, &Dev::new("tap.1-a")).unwrap().interface.as_str(), "tap.1-a");
}

proptest! {
    #[test]
    fn any_json_is_survived(text in "[\\[\\]{}\":,a-z0-9]{0,80}") {
        if let Ok(json) = serde_json::from_str(&text) {
            Family::ALL.iter().for_each(|family| _ = parse(*family, &json));
        }
    }

    #[test]
    fn other_addresses_have_another_digest(a: u32, b: u32) {
        let dev = Dev::new("cwp0123456789ab");
        let of = |ip: u32| {
            let ip = IpAddr::from(std::net::Ipv4Addr::from(ip));
            Guard { hook: Hook::Bridge, interface: dev.clone(), mac: "02:ca:0a:08:00:05".parse().unwrap(), addresses: [ip].into(), through: None }.digest(&dev)
        };
        prop_assert_eq!(a == b, of(a) == of(b));
    }
}
