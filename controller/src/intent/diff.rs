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

/// A value of an enumeration as users write it: `NODE_MODE_HOST_VTEP` is `host-vtep`; nothing for UNSPECIFIED.
fn word(name: &str, prefix: &str) -> String {
    match name.trim_start_matches(prefix) {
        "UNSPECIFIED" => String::new(),
        word => word.to_ascii_lowercase().replace('_', "-"),
    }
}

fn uplink(uplink: &v1::Uplink) -> String {
    let place = if uplink.switch_interface.is_empty() { "" } else { ":" };
    format!("{}={}{place}{}", uplink.interface, uplink.switch, uplink.switch_interface)
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
            (
                "routes",
                list(&vrf.routes.iter().map(|r| format!("{} via {}", r.prefix, r.node)).collect::<Vec<_>>()),
            ),
            ("no_connected", flag(vrf.no_connected)),
        ],
        Some(Spec::Network(network)) => vec![
            ("vrf", network.vrf.clone()),
            ("name", network.name.clone()),
            ("vni", number(network.vni)),
            ("vlan", number(network.vlan)),
            ("mtu", number(network.mtu)),
            ("export_targets", list(&network.export_targets)),
            ("import_targets", list(&network.import_targets)),
            ("sticky_seconds", number(network.sticky_seconds)),
            ("quarantine_seconds", network.quarantine_seconds().to_string()),
            ("labels", labels(&network.labels)),
            ("irb", word(network.irb().as_str_name(), "IRB_")),
            ("gateway_mac", network.gateway_mac.clone()),
            (
                "attachments",
                list(
                    &network.attachments().map(|a| word(a.as_str_name(), "ATTACHMENT_")).collect::<Vec<_>>(),
                ),
            ),
            ("no_guard", flag(network.no_guard)),
            ("address_check_ms", number(network.address_check_ms())),
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
            ("name", node.name.clone()),
            ("mode", word(node.mode().as_str_name(), "NODE_MODE_")),
            ("vtep", node.vtep.clone()),
            ("underlay_mtu", number(node.underlay_mtu)),
            ("site", node.site.clone()),
            ("labels", labels(&node.labels)),
            ("uplinks", list(&node.uplinks.iter().map(uplink).collect::<Vec<_>>())),
            ("anycast_vtep", node.anycast_vtep.clone()),
            ("router_mac", node.router_mac.clone()),
            ("esi", node.esi.clone()),
            ("networks", list(&node.networks)),
            ("host_bridge", word(node.host_bridge().as_str_name(), "HOST_BRIDGE_")),
            ("move_addresses", flag(node.move_addresses)),
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
