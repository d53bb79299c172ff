use super::*;
use crate::manifest::Manifest;
use crate::manifest::source::Source;
use crate::output::to_yaml_documents;
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use v1::resource::Spec;

/// Words that YAML could mistake for something else, and any text.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9][a-z0-9._-]{0,12}",
        Just("true".to_owned()),
        Just("null".to_owned()),
        Just("~".to_owned()),
        Just("0x10".to_owned()),
        Just("1e3".to_owned()),
        Just("65000:10110".to_owned()),
        Just("- a".to_owned()),
        Just("a: b #c".to_owned()),
        "\\PC{1,120}",
        Just("two\nlines\n".to_owned()),
    ]
}

fn record() -> impl Strategy<Value = v1::Resource> {
    let vrf = (word(), any::<u32>(), vec(word(), 0..3), vec(word(), 0..3)).prop_map(
        |(name, l3_vni, export_targets, import_targets)| {
            let routes =
                import_targets.iter().map(|t| v1::VrfRoute { prefix: t.clone(), node: name.clone() });
            Spec::Vrf(v1::Vrf {
                routes: routes.collect(),
                no_connected: l3_vni % 2 == 0,
                name,
                l3_vni,
                export_targets,
                import_targets,
            })
        },
    );
    let labels = || btree_map(word(), prop_oneof![word(), Just(String::new())], 0..3);
    let network = (word(), word(), any::<[u32; 3]>(), vec(word(), 0..3), any::<i64>(), labels()).prop_map(
        |(vrf, name, [vni, vlan, mtu], targets, sticky_seconds, labels)| {
            Spec::Network(v1::Network {
                vrf,
                name,
                vni,
                vlan,
                mtu,
                export_targets: targets,
                import_targets: vec![],
                sticky_seconds,
                quarantine_seconds: (vni % 2 == 0).then_some(sticky_seconds),
                labels,
                irb: i32::try_from(vni % 4).unwrap(),
                gateway_mac: String::new(),
                attachments: vec![1, 3],
                no_guard: vlan % 2 == 0,
                address_check_ms: (vni % 2 == 1).then_some(vni),
            })
        },
    );
    let subnet = (word(), word(), word(), vec(word(), 0..4)).prop_map(|(vrf, network, prefix, list)| {
        Spec::Subnet(v1::Subnet {
            vrf,
            network,
            prefix,
            gateway: String::new(),
            ranges: list.clone(),
            exclusions: vec![],
            reservations: list,
        })
    });
    let node = (word(), 0..=5, word(), any::<u32>(), labels()).prop_map(
        |(name, mode, vtep, underlay_mtu, labels)| {
            Spec::Node(v1::Node {
                name,
                mode,
                vtep,
                underlay_mtu,
                site: String::new(),
                labels,
                uplinks: vec![v1::Uplink {
                    interface: "eth1".into(),
                    switch: "leaf1".into(),
                    switch_interface: String::new(),
                }],
                anycast_vtep: String::new(),
                router_mac: String::new(),
                esi: String::new(),
                networks: vec!["default/web".into()],
                host_bridge: mode % 3,
                move_addresses: mode == 5,
            })
        },
    );
    let peer = (word(), any::<[u32; 5]>(), any::<[bool; 2]>(), word()).prop_map(
        |(
            address,
            [asn, port, gtsm_hops, hold_seconds, restart_seconds],
            [passive, no_graceful_restart],
            file,
        )| {
            Spec::Peer(v1::Peer {
                address,
                asn,
                port,
                local_address: String::new(),
                passive,
                md5_key_file: file,
                gtsm_hops,
                hold_seconds,
                restart_seconds,
                no_graceful_restart,
            })
        },
    );
    prop_oneof![vrf, network, subnet, node, peer].prop_map(|spec| v1::Resource { spec: Some(spec) })
}

fn read(text: String) -> Vec<v1::Resource> {
    let sources = vec![Source { name: "printed".into(), text: text.clone() }];
    Manifest::read(sources).map(|m| m.resources()).unwrap_or_else(|e| panic!("{}\n{text}", e.0.join("\n")))
}

proptest! {
    #[test]
    fn printed_yaml_is_the_same_record_when_applied(record in record()) {
        let view = RecordView::new(&record).unwrap();
        prop_assert_eq!(read(to_yaml_documents(&[view]).unwrap()), vec![record]);
    }

    #[test]
    fn printed_json_is_the_same_record_when_applied(record in record()) {
        let view = RecordView::new(&record).unwrap();
        prop_assert_eq!(read(serde_json::to_string_pretty(&[view]).unwrap()), vec![record]);
    }
}

#[test]
fn documents_are_readable() {
    let network = v1::Network {
        vrf: "default".into(),
        name: "web".into(),
        vni: 10110,
        mtu: 1450,
        export_targets: vec!["65000:10110".into()],
        ..Default::default()
    };
    let node = v1::Node { name: "host1".into(), mode: 1, vtep: "10.0.0.21".into(), ..Default::default() };
    let records = [Spec::Network(network), Spec::Node(node)].map(|s| v1::Resource { spec: Some(s) });
    let views: Vec<_> = records.iter().filter_map(RecordView::new).collect();
    insta::assert_snapshot!(to_yaml_documents(&views).unwrap());
}
