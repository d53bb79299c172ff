use proptest::prelude::*;
use serde_json::json;

use super::*;

fn guard(addresses: &[&str]) -> Guard {
    let mac = "02:ca:0a:08:00:05".parse().unwrap();
    Guard { mac, addresses: addresses.iter().map(|a| a.parse().unwrap()).collect() }
}

#[test]
fn the_chain_of_a_port_reads_as_nft_text() {
    let dev = Dev::new("cwp0123456789ab");
    let text = guard(&["10.8.0.5", "10.8.0.7", "fd00:8::5"]).commands(&dev).join("\n");
    insta::assert_snapshot!(text);
}

#[test]
fn a_port_without_addresses_sends_link_local_only() {
    insta::assert_snapshot!(guard(&[]).rules().join("\n"));
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

fn digest_of(json: &serde_json::Value) -> Option<u64> {
    parse(json).chains.get(&Dev::new("cwp0123456789ab")).copied()
}

#[test]
fn a_chain_is_whole_only_with_all_of_its_rules_and_a_way_to_it() {
    let whole = listed(7, 4);
    assert_eq!(digest_of(&whole), Some(7));
    let objects = whole["nftables"].as_array().unwrap().len();
    for missing in 1..objects {
        let mut damaged = whole.clone();
        damaged["nftables"].as_array_mut().unwrap().remove(missing);
        let found = digest_of(&damaged);
        // Without its own chain object the rules alone still name the chain.
        let expected = if missing == 4 { Some(7) } else { Some(0) };
        assert_eq!(found, expected, "without {}", whole["nftables"][missing]);
    }
    let mut foreign = whole.clone();
    let rule = json!({"rule": {"chain": "cwp0123456789ab", "expr": [{"accept": null}]}});
    foreign["nftables"].as_array_mut().unwrap().insert(5, rule);
    assert_eq!(digest_of(&foreign), Some(0), "a rule of somebody else");
}

proptest! {
    #[test]
    fn any_json_is_survived(text in "[\\[\\]{}\":,a-z0-9]{0,80}") {
        if let Ok(json) = serde_json::from_str(&text) {
            parse(&json);
        }
    }

    #[test]
    fn other_addresses_have_another_digest(a: u32, b: u32) {
        let dev = Dev::new("cwp0123456789ab");
        let of = |ip: u32| {
            let ip = IpAddr::from(std::net::Ipv4Addr::from(ip));
            Guard { mac: "02:ca:0a:08:00:05".parse().unwrap(), addresses: [ip].into() }.digest(&dev)
        };
        prop_assert_eq!(a == b, of(a) == of(b));
    }
}
