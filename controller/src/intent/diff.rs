//! Which fields of a record differ.

use std::collections::BTreeMap;

use super::FieldChange;
use super::message::Declared;
use causeway_proto::v1;

/// The fields that differ between an old record, if there is one, and a new one; in the order of the message.
pub(super) fn changes(old: Option<&Declared>, new: &Declared) -> Vec<FieldChange> {
    let old = old.map(fields).unwrap_or_default();
    let old = |name: &str| {
        old.iter().find(|(field, _)| *field == name).map_or_else(String::new, |(_, text)| text.clone())
    };
    let change = |(field, new): (&'static str, String)| {
        let old = old(field);
        (old != new).then_some(FieldChange { field, old, new })
    };
    fields(new).into_iter().filter_map(change).collect()
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn list(values: &[String]) -> String {
    values.join(",")
}

/// 0 means none and is shown as nothing.
fn number(n: impl Into<i64>) -> String {
    Some(n.into()).filter(|n| *n != 0).map_or_else(String::new, |n| n.to_string())
}

fn flag(set: bool) -> String {
    if set { "true".to_owned() } else { String::new() }
}

/// All fields as text.
fn fields(record: &Declared) -> Vec<(&'static str, String)> {
    use v1::resource::Spec;
    match record.to_resource().spec {
        None => Vec::new(),
        Some(Spec::Vrf(vrf)) => vec![
            ("name", vrf.name),
            ("l3_vni", number(vrf.l3_vni)),
            ("export_targets", list(&vrf.export_targets)),
            ("import_targets", list(&vrf.import_targets)),
        ],
        Some(Spec::Network(network)) => vec![
            ("vrf", network.vrf),
            ("name", network.name),
            ("vni", number(network.vni)),
            ("vlan", number(network.vlan)),
            ("mtu", number(network.mtu)),
            ("export_targets", list(&network.export_targets)),
            ("import_targets", list(&network.import_targets)),
            ("sticky_seconds", number(network.sticky_seconds)),
            ("labels", labels(&network.labels)),
        ],
        Some(Spec::Subnet(subnet)) => vec![
            ("vrf", subnet.vrf),
            ("network", subnet.network),
            ("prefix", subnet.prefix),
            ("gateway", subnet.gateway),
            ("ranges", list(&subnet.ranges)),
            ("exclusions", list(&subnet.exclusions)),
            ("reservations", list(&subnet.reservations)),
        ],
        Some(Spec::Node(node)) => vec![
            ("name", node.name),
            (
                "mode",
                match v1::NodeMode::try_from(node.mode) {
                    Ok(v1::NodeMode::HostVtep) => "host-vtep".to_owned(),
                    _ => String::new(),
                },
            ),
            ("vtep", node.vtep),
            ("underlay_mtu", number(node.underlay_mtu)),
            ("site", node.site),
            ("labels", labels(&node.labels)),
        ],
        Some(Spec::Peer(peer)) => vec![
            ("address", peer.address),
            ("asn", number(peer.asn)),
            ("port", number(peer.port)),
            ("local_address", peer.local_address),
            ("passive", flag(peer.passive)),
            ("md5_key_file", peer.md5_key_file),
            ("gtsm_hops", number(peer.gtsm_hops)),
            ("hold_seconds", number(peer.hold_seconds)),
            ("restart_seconds", number(peer.restart_seconds)),
            ("no_graceful_restart", flag(peer.no_graceful_restart)),
        ],
    }
}
