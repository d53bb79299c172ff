//! What is read: records of before, and messages of any kind.

use proptest::prelude::*;

use super::*;

#[test]
fn records_of_before_still_read() {
    let node = r#"{"name":"n","mode":"host-vtep","vtep":"192.0.2.1","underlay_mtu":1500}"#;
    let node: crate::model::Node = serde_json::from_str(node).unwrap();
    assert_eq!((node.vtep, node.uplinks.len()), (Some("192.0.2.1".parse().unwrap()), 0));
    let binding = r#"{"port":"default/web/a","node":"n","netns":"pid:1","interface":"eth0","generation":3,"active":true}"#;
    let binding: crate::model::Binding = serde_json::from_str(binding).unwrap();
    assert_eq!(binding.attachment, Some(crate::model::Attachment::VxlanBridge));
    assert_eq!(binding.kind, crate::model::WorkloadKind::Container);
    let bare =
        crate::model::Binding { attachment: None, kind: crate::model::WorkloadKind::BareMetal, ..binding };
    let again: crate::model::Binding = serde_json::from_slice(&serde_json::to_vec(&bare).unwrap()).unwrap();
    assert_eq!(again, bare);
    let vrf: crate::model::Vrf = serde_json::from_str(r#"{"name":"red","l3_vni":50}"#).unwrap();
    assert_eq!(vrf.rd_number, 0);
}

proptest! {
    #[test]
    fn any_message_is_answered(name in ".{0,8}", prefix in "[0-9a-f.:/]{0,20}", n: u32, texts in prop::collection::vec("[0-9.:/-]{0,20}", 0..3)) {
        let specs = vec![
            vrf(&name, n),
            Spec::Network(v1::Network { vlan: n, mtu: n, export_targets: texts.clone(), ..network(&name, n) }),
            Spec::Subnet(v1::Subnet { gateway: prefix.clone(), ranges: texts.clone(), exclusions: texts, ..subnet(&name, &prefix) }),
            Spec::Node(v1::Node { mode: n.cast_signed(), underlay_mtu: n, ..node(&name, &prefix) }),
            Spec::Node(v1::Node {
                host_bridge: (n % 4).cast_signed(),
                esi: prefix.clone(),
                networks: vec![name.clone()],
                ..host(&name, &[(&name, &name, &prefix), ("eth1", "b", "")])
            }),
            Spec::Vrf(v1::Vrf {
                name: name.clone(),
                l3_vni: n,
                routes: vec![v1::VrfRoute { prefix: prefix.clone(), node: name.clone() }],
                no_connected: n % 2 == 0,
                ..Default::default()
            }),
            Spec::Network(v1::Network {
                irb: (n % 5).cast_signed(),
                gateway_mac: prefix.clone(),
                attachments: vec![(n % 8).cast_signed()],
                no_guard: true,
                address_check_ms: Some(n),
                ..network(&name, n)
            }),
            Spec::Peer(v1::Peer { address: prefix.clone(), asn: n, port: n, hold_seconds: n, gtsm_hops: n, restart_seconds: n, ..Default::default() }),
        ];
        for resource in resources(specs) {
            if let Ok(declared) = message::parse(&resource, "x") {
                // What is accepted reads back as the same.
                let again = message::parse(&declared.to_resource(), "x");
                prop_assert_eq!(again, Ok(declared));
            }
        }
        for kind in [v1::Kind::Vrf, v1::Kind::Network, v1::Kind::Subnet, v1::Kind::Node, v1::Kind::Peer] {
            let _ = message::parse_name(kind, &prefix);
        }
    }
}
